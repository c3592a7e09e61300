"""``.pt2``: the deploy graph as a program of PyTorch, proven before it is written."""

from __future__ import annotations

import json
import os
import site
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fcn_deploy import export_model
from fcn_deploy.errors import ExportError, ParityError, UsageError
from fcn_deploy.export import program as module_under_test
from fcn_deploy.export.graph.files import read_model
from fcn_deploy.export.program import trace_program
from fcn_deploy.model.deploy import DeployModel, crop_by_index, reference_logits
from fcn_deploy.model.network import Network, Rewrites
from fcn_deploy.model.user import ModuleOptions, UserNetwork
from fcn_deploy.runtimes.artefact import read_spec
from fcn_deploy.runtimes.pt2 import content_of_program, manifest_path
from fcn_deploy.spec import Architecture, ModelSpec

pytestmark = pytest.mark.usefixtures("few_sizes")


def deploy_of(module: torch.nn.Module, **fields: Any) -> DeployModel:
    network = UserNetwork(module, ModuleOptions())
    names = tuple(f"class {i}" for i in range(network.num_classes))
    return DeployModel(network, ModelSpec(names, network.architecture, **fields), crop=crop_by_index).eval()


def test_what_is_written_describes_itself(program) -> None:
    path, _, spec = program
    assert read_spec(path) == spec
    assert spec.describes(content_of_program(path)) is True
    assert spec.replace(mean=(0, 0, 0)).describes(content_of_program(path)) is None
    assert (spec.precision, spec.size_multiple, spec.classes) == ("fp32", 8, ("road", "sky", "car"))
    parity = spec.evidence["parity"]
    assert parity["network"] == "UNet" and parity["differences_beyond_ties"] == 0
    assert parity["max_relative_error"] < 1e-5
    assert [(r["batch"], r["height"], r["width"]) for r in parity["sizes"]][:2] == [(1, 1, 1), (1, 31, 33)]
    assert spec.evidence["made"]["torch"] == torch.__version__


def test_the_manifest_has_the_hash_of_the_file(program) -> None:
    import hashlib

    path = program[0]
    manifest = json.loads(manifest_path(path).read_text())
    assert manifest["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert manifest["torch"] == torch.__version__


def test_nothing_inside_names_this_machine(program, nets) -> None:
    path = program[0]
    with zipfile.ZipFile(path) as archive:
        inside = {name: archive.read(name) for name in archive.namelist()}
    folders = (os.getcwd(), sys.prefix, *site.getsitepackages(), str(Path.home()), str(path.parent))
    places = {*folders, str(Path(module_under_test.__file__).parent), str(Path(nets.__file__).parent)}
    named = [
        (name, place)
        for name, data in inside.items()
        for place in places
        if place.encode() in data or place in name
    ]
    assert named == []
    assert {name.partition("/")[0] for name in inside} == {"archive"}, "nor the temporary file"


def test_an_exporter_that_errs_writes_nothing(nets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "plain.pt2"
    target.write_bytes(b"the old one")

    def wrongly(deploy: DeployModel) -> Any:
        with torch.no_grad():
            deploy.model.module.score.bias[0] += 0.01
        return trace_program(deploy)

    monkeypatch.setattr(module_under_test, "trace_program", wrongly)
    with pytest.raises(ParityError, match=r"logits differ from those of Plain by .*nothing was written"):
        export_model(nets.Plain(), target)
    assert target.read_bytes() == b"the old one"
    assert [path.name for path in tmp_path.iterdir()] == ["plain.pt2"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ChoosesByNumbers", r"chooses by the numbers in a frame, as `if x\.max\(\) > 0` does"),
        ("ChoosesBySize", "its code chooses by the frame's height, or fixes it"),
    ],
)
def test_code_that_no_graph_can_follow(nets, tmp_path: Path, capfd, name: str, told: str) -> None:
    with pytest.raises(ExportError, match=told) as caught:
        export_model(getattr(nets, name)(), tmp_path / "m.pt2")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == "", "the exporter does not talk"


def test_what_was_assumed_of_sizes_while_tracing_is_gone(nets) -> None:
    program = trace_program(deploy_of(nets.Plain()))
    assert not [n for n in program.graph.nodes if n.target == torch.ops.aten._assert_scalar.default]
    assert not [n for n in program.graph.nodes if "stack_trace" in n.meta]
    assert {int(bounds.lower) for bounds in program.range_constraints.values()} == {1}
    module = program.module(check_guards=False)
    for shape in ((1, 1, 1), (1, 64, 32), (5, 3, 200)):
        assert module(torch.zeros(*shape, 3, dtype=torch.uint8))[0].shape == shape


class Bordered(Network):
    """As FCN-8s: its logits cover more than the frame, which begins at row and column 5."""

    num_classes = 4

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module.eval()

    @property
    def architecture(self) -> Architecture:
        return Architecture("bordered")

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.module(frames)

    def logits_to_crop(self, frames: torch.Tensor, rewrites: Rewrites) -> tuple[torch.Tensor, int]:
        return torch.nn.functional.pad(self(frames), (5, 5, 5, 5)), 5


@pytest.mark.parametrize("outputs", [("labels",), ("labels", "logits")], ids=len)
def test_a_network_whose_logits_begin_before_the_frame(nets, tmp_path: Path, outputs: Any) -> None:
    network = Bordered(nets.Plain())
    spec = ModelSpec(tuple("abcd"), network.architecture, outputs=outputs)
    written = module_under_test.export_program(network, spec, tmp_path / "bordered.pt2")
    assert written.evidence["parity"]["max_relative_error"] < 1e-5


def test_a_module_without_weights(nets, tmp_path: Path) -> None:
    result = export_model(nets.Weightless(), tmp_path / "w.pt2", outputs="logits")
    assert result.spec.num_classes == 4
    frames = np.random.default_rng(0).integers(0, 256, (1, 9, 7, 3), dtype=np.uint8)
    network = UserNetwork(nets.Weightless(), ModuleOptions())
    program = torch.export.load(result.path).module(check_guards=False)
    _, logits = program(torch.from_numpy(frames))
    np.testing.assert_allclose(logits.numpy(), reference_logits(network, result.spec, frames), atol=1e-5)


def test_what_needs_an_onnx_file_says_so(program) -> None:
    with pytest.raises(
        UsageError, match=r"unet\.pt2 is a program of PyTorch; export the same module to an \.onnx"
    ):
        read_model(program[0])
