"""What every test shares: bounded threads, exported networks, real frames, and what is skipped where."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    import torch
    from onnx import ModelProto

    from fcn_deploy.calibration.recipe import Fp32Model
    from fcn_deploy.calibration.table import CalibrationTable
    from fcn_deploy.model.deploy import DeployModel
    from fcn_deploy.model.fcn8s import FCN8s
    from fcn_deploy.spec import ModelSpec

Exported = tuple[Path, "FCN8s", "ModelSpec"]
Program = tuple[Path, "torch.nn.Module", "ModelSpec"]
Exporter = Callable[..., Exported]
TracedOnce = Callable[[], AbstractContextManager[None]]

# Two are enough for the tiny models here, and numeric libraries read this only once, on import.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "2")

# Where the tests run in the background of a script, Ctrl-C is ignored and every child inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)

CAMVID = Path(__file__).resolve().parents[2] / "shared" / "data" / "camvid"

# The first example of a test often pays for a lazy import, so time says nothing about the code.
hypothesis.settings.register_profile("default", deadline=None, max_examples=40)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session")
def camvid() -> Path:
    """The folder with ``train/``, ``trainannot/``, ``val/`` and ``valannot/`` of CamVid."""
    if not CAMVID.is_dir():
        pytest.skip("the CamVid frames are not beside the repository (shared/data/camvid)")
    return CAMVID


@pytest.fixture(scope="session")
def nets() -> ModuleType:
    """tests/fixtures/user_modules.py: networks as users bring them; the tests are no package."""
    path = Path(__file__).with_name("fixtures") / "user_modules.py"
    spec = importlib.util.spec_from_file_location("user_modules", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def program(nets: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A ``.pt2`` artefact of a user's module, which is padded to multiples of 8, and what it was made of."""
    from fcn_deploy.export.checkpoint import export_model

    module = nets.UNet(3)
    path = tmp_path_factory.mktemp("program") / "unet.pt2"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "fcn_deploy.export.parity.PARITY_SIZES", ((1, 1, 1), (1, 31, 33), (3, 20, 24), (1, 64, 96))
        )
        outputs = ("labels", "confidence", "logits")
        result = export_model(module, path, size_multiple=8, outputs=outputs, classes=("road", "sky", "car"))
    return path, module, result.spec


@pytest.fixture(scope="session")
def traced_once() -> TracedOnce:
    """``with traced_once(): export_onnx(...)``: each form of the network meets PyTorch's exporter once.

    The exporter takes eight seconds, whatever the width. Networks of one form differ only in their weights,
    which are put into the graph that the first of them gave; that it answers as the plain module does
    is proven by ``export_onnx`` each time, as ever.
    """
    known: dict[object, ModelProto] = {}

    def trace(deploy: DeployModel, exporter: Callable[[DeployModel], ModelProto]) -> ModelProto:
        import onnx

        network = deploy.model
        variant = dataclasses.replace(network.variant, name="", width=0, fc_channels=0)
        kernels = network.learned_upscore or not variant.resize
        form = (
            *(variant, network.learned_upscore, deploy.outputs, deploy.swap, deploy.rewrites),
            network.upscore2.weight.shape if kernels else None,  # small ones that are equal share a tensor
        )
        if form not in known:
            known[form] = exporter(deploy)
        graph = onnx.ModelProto()
        graph.CopyFrom(known[form])
        weights = {name.removeprefix("model."): value for name, value in deploy.state_dict().items()}
        for tensor in graph.graph.initializer:
            if tensor.name in weights:
                tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name].numpy(), tensor.name))
        for output in graph.graph.output:
            if output.name == "logits":
                output.type.tensor_type.shape.dim[1].dim_value = len(weights["score_fr.bias"])
        return graph

    @contextlib.contextmanager
    def patched() -> Iterator[None]:
        from fcn_deploy.export import onnx as module

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "trace", partial(trace, exporter=module.trace))
            yield

    return patched


@pytest.fixture(scope="session")
def bundled_onnx(traced_once: TracedOnce, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled, trained model as fp32 ONNX."""
    from fcn_deploy.export.onnx import export_onnx
    from fcn_deploy.model.checkpoints import load_checkpoint
    from fcn_deploy.model.checkpoints.describe import describe

    model, info = load_checkpoint("bundled")
    path = tmp_path_factory.mktemp("bundled") / "model.onnx"
    with traced_once():
        export_onnx(model, describe(model, info), path)
    return path


@pytest.fixture(scope="session")
def exported(traced_once: TracedOnce, tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    """``exported(variant, learned=False, outputs=...)``: a narrow model, its fp32 ONNX file and its spec."""
    folder = tmp_path_factory.mktemp("exported")

    @cache
    def export(
        variant: str, learned: bool, outputs: tuple[str, ...], classes: int, color_order: str
    ) -> Exported:
        from fcn_deploy.classes import CAMVID_CLASSES
        from fcn_deploy.export.onnx import export_onnx
        from fcn_deploy.model.checkpoints.describe import describe
        from fcn_deploy.model.checkpoints.random import random_model

        model, info = random_model(classes, variant, width=4, fc_channels=8, learned_upscore=learned)
        names = CAMVID_CLASSES if classes == 11 else None  # what the labelled street clip has
        spec = describe(model, info, classes=names, outputs=outputs, color_order=color_order)
        path = folder / f"{variant}-{learned}-{len(outputs)}-{classes}-{color_order}.onnx"
        with traced_once():
            return path, model, export_onnx(model, spec, path)

    # A cache tells a default from the same value given by name, so it is asked in one way only.
    def ask(
        variant: str = "fcn8s-lite",
        learned: bool = False,
        outputs: tuple[str, ...] = ("labels",),
        classes: int = 5,
        color_order: str = "bgr",
    ) -> Exported:
        return export(variant, learned, outputs, classes, color_order)

    return ask


@pytest.fixture(scope="session")
def made_up_table() -> Callable[..., CalibrationTable]:
    """``made_up_table(fp32, limit=20.0)``: ranges without frames, from 0 to ``limit`` for every tensor."""

    def make(fp32: Fp32Model, limit: float = 20.0) -> CalibrationTable:
        from fcn_deploy.calibration.pairs import measured_tensors
        from fcn_deploy.calibration.table import CalibrationTable, known_ranges
        from fcn_deploy.export.graph.files import identity

        keys = ("minmax", "percentile", "entropy-tensorrt", "entropy-cpu")
        known = known_ranges(fp32.model)
        return CalibrationTable(
            model=identity(fp32.model),
            frames=1,
            frames_sha256="0" * 64,
            source="made up",
            sizes=((36, 48),),
            percentile=99.99,
            measured={
                name: dict.fromkeys(keys, (0.0, limit))
                for name in measured_tensors(fp32.model)
                if name not in known
            },
            known=known,
        )

    return make


@pytest.fixture(scope="session")
def gone() -> Callable[[int], bool]:
    """``gone(pid)``: whether a process has ended, or ends within ten seconds."""

    def ended(pid: int) -> bool:
        status = Path(f"/proc/{pid}/stat")
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return True
            # One that only waits to be collected has ended.
            if status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
            time.sleep(0.05)
        return False

    return ended


@pytest.fixture(scope="session")
def python310() -> str:
    """A Python 3.10: ``python3.10`` on PATH, or what PYTHON310 names."""
    found = shutil.which(os.environ.get("PYTHON310", "python3.10"))
    if not found or subprocess.run([found, "-c", ""], capture_output=True).returncode:
        pytest.skip("no python3.10 on PATH (set PYTHON310 to one)")
    return found


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("camvid") and not CAMVID.is_dir():
        pytest.skip("the CamVid frames are not beside the repository (shared/data/camvid)")
    if item.get_closest_marker("gpu") and not _has_gpu():
        pytest.skip("no NVIDIA GPU here")


def _has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()
