"""What a search for the mistake found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mistake:
    """A difference between the original and the export, and how near the artefact comes without it."""

    kinds: tuple[str, ...]
    """In short: of ``color order``, ``/255``, ``mean``, ``std``, ``skip scales``, ``ceil_mode``,
    ``align_corners``, ``upsampling``, ``variant`` and ``class order``."""
    words: str
    """What the original does and the artefact does not."""
    repair: str
    """The options to export it with."""
    agreement: float
    """Share of equal labels of the worst frame tried, 0 to 1."""
    logit_error: float | None
    """The largest of the frames tried."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "kinds": list(self.kinds),
            "original": self.words,
            "repair": self.repair,
            "agreement": self.agreement,
            "logit_error": self.logit_error,
        }


@dataclass(frozen=True)
class Explanation:
    """What the search found."""

    mistakes: tuple[Mistake, ...]
    """Those that explain it, all equally well; empty where none does."""
    closest: Mistake | None
    """Where none does: the one that came nearest, if any came nearer than the artefact as it is."""
    tried: int
    """How many mistakes and pairs were tried."""
