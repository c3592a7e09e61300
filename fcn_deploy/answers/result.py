"""What :func:`fcn_deploy.check_answers` returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcn_deploy.answers.comparison import AnswerComparison, AnswerLimits
from fcn_deploy.answers.mistakes.explanation import Explanation, Mistake
from fcn_deploy.answers.picture import draw_worst
from fcn_deploy.draw import Picture
from fcn_deploy.results import Result, Rows
from fcn_deploy.spec import ModelSpec

_SHOWN_CONFUSIONS = 3


@dataclass(frozen=True, repr=False)
class AnswerCheck(Result):
    """How an artefact's answers compare with those of the original network. Fractions are from 0 to 1."""

    artefact: str
    """Its path as it was given, or its URL without user, password and query."""
    answers: Path
    """The answers file."""
    sha256: str
    """Of the answers file."""
    original: str
    """The note in the answers file."""
    backend: str
    """What ran the artefact."""
    spec: ModelSpec
    """The artefact's description."""
    comparison: AnswerComparison
    """Each frame's figures, the confusion of classes, and the worst frame."""
    limits: AnswerLimits
    """What each frame must keep."""
    explanation: Explanation | None
    """Which of the usual mistakes explain it; None where it passed, or none was looked for."""
    not_explained: str = ""
    """Why no mistake was looked for although it failed, in words."""
    warnings: tuple[str, ...] = ()
    """Where names of classes differ from those in the answers file, in sentences."""

    @property
    def passed(self) -> bool:
        """Whether every frame is within the limits."""
        return all(self.limits.hold(one.agreement, one.logit_error) for one in self.comparison.frames)

    @property
    def agreement(self) -> float:
        """Share of equal labels over all frames."""
        return self.comparison.agreement

    @property
    def lowest(self) -> float:
        """Share of equal labels of the worst frame."""
        return self.comparison.lowest

    @property
    def logit_error(self) -> float | None:
        """The largest difference of a logit over the frame's largest one; None without logits to compare."""
        return self.comparison.logit_error

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """Those that explain a failure; several where the answers do not tell them apart."""
        return () if self.explanation is None else self.explanation.mistakes

    @property
    def finding(self) -> str:
        """One sentence: that it passed, or what is wrong, why, and how to repair it."""
        if self.passed:
            return f"{self.artefact} answers as the original of {self.answers.name} does"
        return (
            f"{self.artefact} does not answer as the original of {self.answers.name}: {self._by_how_much()}"
            + (
                f"; {self.not_explained}"
                if self.explanation is None
                else f"; {_in_words(self.explanation, self)}"
            )
        )

    def _by_how_much(self) -> str:
        worst = self.comparison.worst.comparison
        needed = f"at least {self.limits.agreement:.2%} needed"
        words = f"{worst.name} has {worst.agreement:.2%} of its labels ({needed})"
        error, allowed = self.logit_error, self.limits.logit_error
        if error is not None and allowed is not None:
            words += f", and logits differ by {error:.2g} of the largest (at most {allowed:g} allowed)"
        return words

    def draw_worst(self) -> Picture:
        """The worst frame, both label maps and where they differ, uint8 ``[H, W, 3]`` R, G, B."""
        return draw_worst(self.comparison.worst, self.spec)

    def evidence(self) -> dict[str, Any]:
        """What is kept in a description's ``evidence["answers"]``."""
        sizes = dict.fromkeys((one.height, one.width) for one in self.comparison.frames)
        return {
            "file": self.answers.name,
            "sha256": self.sha256,
            "original": self.original,
            "frames": len(self.comparison.frames),
            "sizes": [list(size) for size in sizes],
            "agreement": self.agreement,
            "lowest": self.lowest,
            "logit_error": self.logit_error,
            "min_agreement": self.limits.agreement,
            "max_logit_error": self.limits.logit_error,
            "against": self.backend,
        }

    def to_dict(self) -> dict[str, Any]:
        """As ``check --json`` prints it."""
        explained = self.explanation
        return {
            "artefact": self.artefact,
            "passed": self.passed,
            "finding": self.finding,
            **self.evidence(),
            "mistakes": [one.to_dict() for one in self.mistakes],
            "closest": explained.closest.to_dict() if explained and explained.closest else None,
            "tried": explained.tried if explained else 0,
            "by_frame": [
                {"frame": one.name, "agreement": one.agreement, "logit_error": one.logit_error}
                for one in self.comparison.frames
            ],
            "confusion": self.comparison.confusion.counts.tolist(),
            "warnings": list(self.warnings),
        }

    def summary(self) -> Rows:
        record = self.evidence()
        logits = "not compared: one side has none"
        if self.logit_error is not None:
            allowed = self.limits.logit_error
            judged = "not judged" if allowed is None else f"at most {allowed:g} allowed"
            logits = f"relative error at most {self.logit_error:.2g} ({judged})"
        return [
            ("artefact", f"{self.artefact} ({self.spec.precision}) on {self.backend}"),
            ("original", f"{record['frames']} frames of {self.answers}" + _noted(self.original)),
            (
                "labels",
                f"{self.agreement:.4%} agree, lowest {self.lowest:.4%} in "
                f"{self.comparison.worst.comparison.name} (at least {self.limits.agreement:.2%} needed)",
            ),
            ("logits", logits),
            ("confused", ", ".join(self._confused())),
            ("result", self.finding),
            *(("warning", sentence) for sentence in self.warnings),
        ]

    def _confused(self) -> Iterator[str]:
        """The most frequent pairs of unequal labels, with their share of all unequal labels."""
        counts = self.comparison.confusion.counts.copy()
        np.fill_diagonal(counts, 0)
        for place in np.argsort(counts, axis=None)[::-1][:_SHOWN_CONFUSIONS]:
            original, found = divmod(int(place), len(counts))
            if share := counts[original, found] / max(counts.sum(), 1):
                yield f"{self.spec.classes[found]} for {self.spec.classes[original]} {share:.0%}"


def _noted(note: str) -> str:
    return f" ({note})" if note else ""


def _in_words(explanation: Explanation, check: AnswerCheck) -> str:
    found, closest = explanation.mistakes, explanation.closest
    if len(found) == 1:
        (one,) = found
        return f"the original {one.words}, which explains it: export again with {one.repair}"
    if found:
        listed = "; or ".join(f"it {one.words} (export with {one.repair})" for one in found)
        more = "" if check.logit_error is not None else "; logits in the answers file would tell them apart"
        return f"each of these about the original explains it, the nearest first: {listed}{more}"
    nothing = "none of the usual mistakes explains it"
    if closest is None:
        return nothing
    agree = f"{closest.agreement:.2%} agree"
    return f"{nothing}; the nearest is that the original {closest.words}, with which {agree}"
