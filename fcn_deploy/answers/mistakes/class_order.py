"""Whether another order of the classes explains what differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.answers.running import Answered

_SAMPLED = 4096
"""Pixels of each frame at which logits are compared, spread evenly."""


def class_order(
    expected: Sequence[NDArray[np.uint8]],
    logits: Sequence[NDArray[np.float32] | None],
    found: Sequence[Answered],
    classes: int,
) -> NDArray[np.int64]:
    """The permutation of the artefact's classes that comes nearest to the original.

    Args:
        expected: the original's labels of some frames, uint8 ``[H, W]``.
        logits: its logits, float32 ``[classes, H, W]``, or None for each frame.
        found: what the artefact answered.
        classes: how many there are.

    Returns:
        int64 ``[classes]``: the original's class for each of the artefact's. Classes that neither labels nor
        logits tell apart keep their own number where it is free.
    """
    likeness = np.zeros((classes, classes))
    for labels, own, answered in zip(expected, logits, found, strict=True):
        if own is not None and answered.logits is not None and len(own) == classes:
            likeness -= _distances(answered.logits, own)
        else:
            seen = labels < classes
            pairs = answered.labels[seen].astype(np.int64) * classes + labels[seen]
            likeness += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    # A class that occurs nowhere is alike to all: its own number comes first then.
    scale = float(np.abs(likeness).max()) or 1.0
    return assign(likeness / scale + 1e-9 * np.eye(classes))


def reordered(found: Answered, order: NDArray[np.int64]) -> Answered:
    """What the artefact would have answered with its classes in the original's order."""
    logits = None if found.logits is None else found.logits[np.argsort(order)]
    return Answered(order[found.labels].astype(np.uint8), logits)


def _distances(found: NDArray[np.floating[Any]], original: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean difference of each of the artefact's logits from each of the original's, ``[n, n]``."""
    flat = [values.reshape(len(values), -1).astype(np.float64) for values in (found, original)]
    step = max(1, flat[0].shape[1] // _SAMPLED)
    own, other = (values[:, ::step] for values in flat)
    return np.stack([np.abs(other - row).mean(1) for row in own])


def assign(likeness: NDArray[np.float64]) -> NDArray[np.int64]:
    """One column for each row, all different, with the largest sum.

    The Hungarian method with potentials (Kuhn 1955, Munkres 1957), in the form that grows a shortest
    augmenting path from each row in turn: O(n^3).

    Args:
        likeness: float64 ``[n, n]``.

    Returns:
        int64 ``[n]``: the column of each row.
    """
    cost, n = -likeness, len(likeness)
    row_potential, column_potential = np.zeros(n), np.zeros(n + 1)
    row_of = np.full(n + 1, -1)  # the last column is where a path begins
    for row in range(n):
        row_of[n], column = row, n
        shortest, previous = np.full(n, np.inf), np.full(n, n)
        used = np.zeros(n + 1, bool)
        while row_of[column] != -1:
            used[column] = True
            at = row_of[column]
            reduced = cost[at] - row_potential[at] - column_potential[:n]
            better = ~used[:n] & (reduced < shortest)
            shortest[better], previous[better] = reduced[better], column
            free = np.where(used[:n], np.inf, shortest)
            nearest = int(free.argmin())
            step = free[nearest]
            row_potential[row_of[used]] += step
            column_potential[used] -= step
            shortest[~used[:n]] -= step
            column = nearest
        while column != n:
            row_of[column] = row_of[previous[column]]
            column = previous[column]
    columns = np.empty(n, np.int64)
    columns[row_of[:n]] = np.arange(n)
    return columns
