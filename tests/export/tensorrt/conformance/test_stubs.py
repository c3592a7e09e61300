"""mypy on our calls of TensorRT, against the published type stubs of 10.13.

The package imports TensorRT where it is used and as Any, so mypy says nothing of it there. Here the same
sources are checked with the module imported in plain sight.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fcn_deploy

PACKAGE = Path(fcn_deploy.__file__).parent
BINDINGS = os.environ.get("FCN_DEPLOY_TENSORRT_BINDINGS")

EXPECTED = (
    # TensorRT-RTX's own, used with that flavor alone.
    r'has no attribute "(ComputeCapability|num_compute_capabilities|set_compute_capability)"',
    r'has no attribute "(get_engine_validity|EngineValidity|create_runtime_config)"',
    r'has no attribute "(CudaGraphStrategy)"',
    # The bindings make Dims of a tuple.
    r'Argument \d to "set_shape" .* expected "Dims"',
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, because mypy reads the stubs for the first of them alone."""
    return tmp_path_factory.mktemp("stubs")


def in_plain_sight(source: str) -> str:
    """``trt`` and ``self._trt`` as the module itself."""
    seen = source.replace("from typing import Any\n", "from typing import Any\n\nimport tensorrt\n")
    seen = re.sub(r"\bself\._trt\.|(?<![\w.])trt\.", "tensorrt.", seen)
    seen = seen.replace("= self._trt", "= tensorrt").replace("(self._trt)", "(tensorrt)")
    return seen.replace("  # type: ignore[misc]", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["export/tensorrt/builder.py", "runtimes/tensorrt/loading.py"])
def test_mypy_finds_nothing_that_is_not_expected(folder: Path, name: str) -> None:
    if not BINDINGS or not Path(BINDINGS, "stubs", "complete").exists():
        pytest.skip("no type stubs of TensorRT (FCN_DEPLOY_TENSORRT_BINDINGS, fetch_bindings.sh)")
    pytest.importorskip("mypy")
    source = in_plain_sight((PACKAGE / name).read_text())
    assert source.count("tensorrt.") > 5
    assert complaints(folder, source) == []


@pytest.mark.slow
def test_mypy_would_find_a_name_that_is_not_there(folder: Path) -> None:
    if not BINDINGS or not Path(BINDINGS, "stubs", "complete").exists():
        pytest.skip("no type stubs of TensorRT (FCN_DEPLOY_TENSORRT_BINDINGS, fetch_bindings.sh)")
    pytest.importorskip("mypy")
    wrong = "import tensorrt\ntensorrt.Builder(tensorrt.Logger()).build_cuda_engine(None)\n"
    assert len(complaints(folder, wrong)) == 1


def complaints(folder: Path, source: str) -> list[str]:
    """What mypy says of a source, but for what is expected."""
    checked = folder / "checked.py"
    checked.write_text(source)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--cache-dir", str(folder), str(checked)],
        capture_output=True,
        text=True,
        env={**os.environ, "MYPYPATH": f"{BINDINGS}/stubs:{PACKAGE.parent}"},
        timeout=300,
    )
    assert "syntax" not in done.stdout, done.stdout[:2000]
    errors = [line for line in done.stdout.splitlines() if "checked.py" in line and " error: " in line]
    return [line for line in errors if not any(re.search(pattern, line) for pattern in EXPECTED)]
