"""What made an artefact, and when."""

from __future__ import annotations

import time
from typing import Any

from fcn_deploy import __version__


def made_now(**versions: Any) -> dict[str, Any]:
    """The record ``made`` of a spec's evidence: this version, the time, and what else is given."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"tool": f"fcn-deploy {__version__}", **versions, "at": at}
