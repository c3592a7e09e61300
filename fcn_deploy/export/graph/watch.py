"""The values of tensors inside a graph, frame by frame, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.contract import INPUT
from fcn_deploy.spec import ModelSpec

_BYTES_AT_ONCE = 1 << 29
"""Memory for the tensors of one pass over a frame; where they need more, the frame passes again."""
_PROBE = 64
"""Rows and columns of the frame on which the sizes of tensors are seen first."""


class Watch:
    """Inner tensors of a session that :func:`~fcn_deploy.export.graph.session.open_session` opened with them.

    Args:
        session: it returns the tensors.
        tensors: their names.
        spec: the description of the graph: which frames it takes.
    """

    def __init__(self, session: Any, tensors: Sequence[str], spec: ModelSpec) -> None:
        self._session, self._tensors, self._spec = session, tensors, spec
        self._bytes_a_pixel: dict[str, float] = {}

    def values(self, batch: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Each tensor and its values on a batch of frames, uint8 ``[N, H, W, 3]``."""
        if not self._bytes_a_pixel:
            self._see_sizes(batch)
        group: list[str] = []
        space = 0.0
        for tensor in self._tensors:
            needed = self._bytes_a_pixel[tensor] * batch[..., 0].size
            if group and space + needed > _BYTES_AT_ONCE:
                yield from self._run(group, batch)
                group, space = [], 0.0
            group.append(tensor)
            space += needed
        if group:
            yield from self._run(group, batch)

    def _run(self, group: list[str], batch: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        values = self._session.run(group, {INPUT: batch})[::-1]
        for tensor in group:
            yield tensor, values.pop()

    def _see_sizes(self, batch: NDArray[np.uint8]) -> None:
        """From a corner of the frame, where the graph takes one; maps grow with the frame's area."""
        rows, columns = (max(_PROBE, least) for least in (self._spec.min_height, self._spec.min_width))
        fixed = any(length is not None for length in self._spec.fixed_shape)
        corner = batch if fixed else np.ascontiguousarray(batch[:, :rows, :columns])
        found = self._session.run(list(self._tensors), {INPUT: corner})
        for tensor, value in zip(self._tensors, found, strict=True):
            self._bytes_a_pixel[tensor] = value.nbytes / corner[..., 0].size
