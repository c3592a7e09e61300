from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from fcn_deploy.errors import ModelError
from fcn_deploy.safetensors_content import content_of_file

WEIGHTS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(4, np.float16)}


def saved(path: Path, weights: dict[str, np.ndarray], **metadata: str) -> Path:
    safetensors.numpy.save_file(weights, path, metadata=metadata or None)
    return path


def test_metadata_does_not_count(tmp_path: Path) -> None:
    plain = saved(tmp_path / "a.safetensors", WEIGHTS)
    described = saved(tmp_path / "b.safetensors", WEIGHTS, note="x" * 100)
    assert content_of_file(plain) == content_of_file(described)


@pytest.mark.parametrize(
    "other",
    [
        {**WEIGHTS, "b": WEIGHTS["b"] + 1},
        {**WEIGHTS, "b": WEIGHTS["b"].reshape(3, 2)},
        {"c": WEIGHTS["b"], "a": WEIGHTS["a"]},
    ],
    ids=["a value", "a shape", "a name"],
)
def test_each_part_of_the_weights_counts(tmp_path: Path, other: dict[str, np.ndarray]) -> None:
    first = content_of_file(saved(tmp_path / "a.safetensors", WEIGHTS))
    assert first != content_of_file(saved(tmp_path / "b.safetensors", other))


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0hello")
    with pytest.raises(ModelError, match=r"x\.safetensors is not a complete safetensors file"):
        content_of_file(tmp_path / "x.safetensors")
