"""Which frames a network takes, found by trying."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from fcn_deploy.export.parity import SizeRefused, parity_frames
from fcn_deploy.spec import ModelSpec


class Limits:
    """The limits of a network.

    Args:
        parity: the record of a comparison with it.
        expected: the reference; raises SizeRefused for frames that it does not take.
        spec: its description.
    """

    def __init__(self, parity: dict[str, Any], expected: Callable[[Any], Any], spec: ModelSpec) -> None:
        self.spec, self.expected = spec, expected
        self.taken = [(r["height"], r["width"]) for r in parity["sizes"]]
        refused = [(r["batch"], r["height"], r["width"]) for r in parity.get("refused", [])]
        self.single = any(batch > 1 and self._takes(1, *size) for batch, *size in refused)
        self.refused = [(height, width) for batch, height, width in refused if batch == 1 or not self.single]
        self.smallest = self._smallest()

    def _takes(self, batch: int, height: int, width: int) -> bool:
        try:
            self.expected(parity_frames(batch, height, width, self.spec))
        except SizeRefused:
            return False
        return True

    def _smallest(self) -> int:
        """Rows and columns of the smallest square that it takes; 1 where that is not why it refuses sizes."""
        beside = any(h <= rows and w <= columns for rows, columns in self.refused for h, w in self.taken)
        if not self.refused or beside:
            return 1
        low, high = max(min(size) for size in self.refused), min(max(size) for size in self.taken)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._takes(1, middle, middle) else (middle, high)
        return int(high)

    def apply(self) -> ModelSpec:
        """The description with these limits."""
        _, height, width = self.spec.fixed_shape
        spec = self.spec.replace(min_height=self.smallest, min_width=self.smallest)
        return spec.replace(fixed_shape=(1, height, width)) if self.single else spec

    def sentences(self, name: str, multiple: int) -> Iterator[str]:
        """What the user should know about them."""
        if self.single:
            yield f"one frame at a time: {name} fails on more, although it says that their number varies"
        if self.smallest > 1:
            yield f"frames from {self.smallest}x{self.smallest} on: {name} fails on smaller ones"
        elif self.refused:
            sizes = ", ".join(f"{height}x{width}" for height, width in self.refused)
            yield f"{name} fails on {sizes}, and so does the artefact{self._advice(multiple)}"

    def _advice(self, multiple: int) -> str:
        """That frames could be padded, where that would help."""
        common = math.gcd(*(length for size in self.taken for length in size))
        divides = any(height % common == 0 and width % common == 0 for height, width in self.refused)
        if multiple > 1 or common == 1 or divides:
            return ""
        return f"; with --size-multiple {math.gcd(common, 64)} it pads frames and takes every size"
