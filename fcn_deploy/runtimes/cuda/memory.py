"""Memory on the device, and page-locked memory on the host that the device copies from and to."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.runtimes.cuda.driver import Driver
from fcn_deploy.runtimes.cuda.resource import Owner, Resource


@final
class DeviceMemory(Resource):
    """Device memory."""

    def __init__(self, owner: Owner, native: Any, address: int, nbytes: int) -> None:
        super().__init__(owner, native)
        self.address = address
        self.nbytes = nbytes

    def destroy(self, driver: Driver) -> None:
        driver.free(self.native)


@final
class PinnedMemory(Resource):
    """Page-locked host memory."""

    def __init__(self, owner: Owner, native: Any, array: NDArray[np.uint8]) -> None:
        super().__init__(owner, native)
        self.array = array
        """uint8 ``[nbytes]``; must not be used after it is freed."""

    def destroy(self, driver: Driver) -> None:
        driver.free_pinned(self.native)
