"""The paper's four metrics, from one confusion matrix.

Source: Long, Shelhamer, Darrell 2015, section 5, "Metrics". With ``n[i, j]`` the number of pixels of
class ``i`` that were labelled ``j`` and ``t[i]`` all pixels of class ``i``::

    pixel accuracy          sum_i n[i, i] / sum_i t[i]
    mean accuracy           mean_i n[i, i] / t[i]
    mean IU                 mean_i n[i, i] / (t[i] + sum_j n[j, i] - n[i, i])
    frequency-weighted IU   sum_i t[i] IU[i] / sum_i t[i]
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import SourceError
from fcn_deploy.spec import UNLABELLED

Labels = NDArray[np.uint8]


class ConfusionMatrix:
    """Counts pixels by true and predicted class; frames are added one after another.

    Args:
        num_classes: 2 to 255.
        ignore_label: truth of pixels that are not scored. 255 never is either.
    """

    def __init__(self, num_classes: int, ignore_label: int = UNLABELLED) -> None:
        self.ignore_label = ignore_label
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)
        """int64 ``[classes, classes]``: rows are the truth, columns the prediction."""

    @property
    def num_classes(self) -> int:
        return len(self.counts)

    def update(self, labels_true: Labels, labels_pred: Labels) -> None:
        """Add pixels.

        Args:
            labels_true: uint8, any shape.
            labels_pred: uint8, the same shape.

        Raises:
            SourceError: the shapes differ, or a class id is out of range; nothing was added.
        """
        if labels_true.shape != labels_pred.shape:
            raise SourceError(
                f"labels are {_size(labels_true)} and the prediction is {_size(labels_pred)}; "
                "labels must have the frame's size"
            )
        scored = (labels_true != self.ignore_label) & (labels_true != UNLABELLED)
        truth, predicted = labels_true[scored], labels_pred[scored]
        for what, values in (("label", truth), ("predicted label", predicted)):
            strange = values[(values < 0) | (values >= self.num_classes)]
            if strange.size:
                raise SourceError(
                    f"{what} {strange[0]} is out of range: there are {self.num_classes} classes "
                    f"(0 to {self.num_classes - 1}) and label {self.ignore_label} is not scored"
                )
        pairs = truth.astype(np.int64) * self.num_classes + predicted
        self.counts += np.bincount(pairs, minlength=self.counts.size).reshape(self.counts.shape)

    @property
    def pixel_accuracy(self) -> float:
        """Share of pixels that are right, 0 to 1; NaN before the first pixel."""
        return _ratio(np.trace(self.counts), self.counts.sum())

    @property
    def mean_accuracy(self) -> float:
        """Mean over the classes that occur in the truth, 0 to 1."""
        total = self.counts.sum(1)
        return _mean(np.diag(self.counts)[total > 0] / total[total > 0])

    @property
    def iu_by_class(self) -> NDArray[np.float64]:
        """float64 ``[classes]``, 0 to 1; NaN for a class in neither truth nor prediction."""
        hits = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - hits
        by_class: NDArray[np.float64] = np.divide(
            hits, union, out=np.full_like(hits, np.nan), where=union > 0
        )
        return by_class

    @property
    def mean_iu(self) -> float:
        """Mean over the classes that occur in truth or prediction, 0 to 1."""
        by_class = self.iu_by_class
        return _mean(by_class[~np.isnan(by_class)])

    @property
    def fw_iu(self) -> float:
        """IU weighted by how often each class occurs in the truth, 0 to 1."""
        total = self.counts.sum(1)
        return _ratio(np.nansum(total * self.iu_by_class), total.sum())


def label_agreement(a: Labels, b: Labels) -> float:
    """Share of equal labels, 0 to 1.

    Raises:
        SourceError: the shapes differ or are empty.
    """
    if a.shape != b.shape or a.size == 0:
        raise SourceError(f"labels to compare must have one shape and a pixel: {_size(a)} and {_size(b)}")
    return float(np.mean(a == b))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")


def _size(labels: Labels) -> str:
    return "x".join(map(str, labels.shape))
