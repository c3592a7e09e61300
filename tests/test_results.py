from __future__ import annotations

from typing import Any

from fcn_deploy.results import Result, Rows


class Made(Result):
    def summary(self) -> Rows:
        return [("file", "model.onnx"), ("precision", "fp32"), ("note", "")]

    def to_dict(self) -> dict[str, Any]:
        return {}


def test_a_result_shows_itself_in_aligned_lines_without_empty_ones() -> None:
    assert repr(Made()) == "Made\n  file       model.onnx\n  precision  fp32"
