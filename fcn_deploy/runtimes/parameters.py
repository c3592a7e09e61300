"""How many numbers a model's weights are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable


def count_parameters(weights: Iterable[tuple[str, Iterable[int]]]) -> dict[str, int]:
    """Element types and shapes of tensors -> number of elements by type, most first."""
    counted: Counter[str] = Counter()
    for kind, shape in weights:
        counted[kind.lower()] += math.prod(shape)
    return dict(counted.most_common())


def count_in_words(parameters: dict[str, int]) -> str:
    """What :func:`count_parameters` returns, for a terminal."""
    return ", ".join(f"{n:,} {kind}" for kind, n in parameters.items())
