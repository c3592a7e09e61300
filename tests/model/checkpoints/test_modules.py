"""Whole pickled modules: their tensors are taken, none of their code is."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hostile_pickles import CONTAINERS, called, module_with, named, number, program, tensor, text
from torch import nn

from fcn_deploy.errors import ModelError
from fcn_deploy.model.checkpoints.read import StoredWeights, read

FOUR = {"0": struct.pack("<4f", 1, 2, 3, 4)}
NUMBER, AT, SIZE, STEP = b"K\x04", b"K\x00", b"K\x02K\x02\x86", b"K\x02K\x01\x86"

Save = Callable[..., Path]


class Settings:
    """What people hang on their networks."""

    def __init__(self) -> None:
        self.rates = {0.1: "fast"}


class Head(nn.Module):
    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.shared = shared
        self.score = nn.Conv2d(2, 3, 1)
        self.register_buffer("grid", torch.arange(6.0).reshape(2, 3)[:, 1:], persistent=True)
        self.register_buffer("cache", torch.ones(2), persistent=False)
        self.register_buffer("nothing", None)
        self.dropped = None


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Conv2d(3, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU())
        self.heads = nn.ModuleList([Head(self.trunk[0]), Head(self.trunk[0])])
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.tied = self.scale
        self.per_level = nn.ParameterList([nn.Parameter(torch.ones(2).half())])
        self.settings = Settings()
        self.trained_on = Path("data")


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Save:
    """Saves an object with its classes in a module that is gone when the file is read."""
    package = ModuleType("models")
    for kind in (Net, Head, Settings):
        monkeypatch.setattr(kind, "__module__", "models")
        setattr(package, kind.__name__, kind)

    def saved(content: Any, name: str = "whole.pt", **options: Any) -> Path:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "models", package)
            torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return saved


def assert_same(found: StoredWeights, module: nn.Module) -> None:
    expected = {k: v for k, v in module.state_dict().items() if "num_batches_tracked" not in k}
    assert list(found.state) == list(expected)
    for key, value in expected.items():
        assert torch.equal(found.state[key], value.float()), key


TOLD = "a whole `models.Net` was saved; its tensors were taken, none of its code"


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize(
    "options",
    [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}, {"pickle_protocol": 5}],
    ids=["zip", "legacy", "protocol 4", "protocol 5"],
)
def test_a_whole_module_gives_its_state_dict(options: dict[str, Any], save: Save) -> None:
    found = read(save(Net(), **options))
    assert_same(found, Net())
    assert found.assumptions[0] == TOLD
    assert found.container == "checkpoint"


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("zipped", [True, False])
def test_dataparallel_is_looked_through(zipped: bool, save: Save) -> None:
    found = read(save(nn.DataParallel(Net()), _use_new_zipfile_serialization=zipped))
    assert_same(found, Net())
    assert found.assumptions[0] == TOLD and found.prefix == "module."


def test_modules_in_a_checkpoint_are_sets_of_weights_like_others(save: Save) -> None:
    other = Net()
    nn.init.constant_(other.scale, 7.0)
    path = save({"epoch": 3, "model": Net(), "ema": {"module": other}, "optimizer": {"state": {}}})
    found = read(path)
    assert_same(found, Net())
    assert found.assumptions[0].startswith("took the weights under 'model'; 'ema.module' holds another")
    assert found.assumptions[1] == TOLD
    assert read(path, "ema.module").state["scale"] == 7


def test_a_state_dict_beside_a_module_is_not_a_module(save: Save) -> None:
    found = read(save({"state_dict": nn.Linear(2, 3).state_dict(), "criterion": Settings(), "net": Net()}))
    assert list(found.state) == ["weight", "bias"]
    assert not any("whole" in said for said in found.assumptions)


def test_half_precision_modules_are_float32(save: Save) -> None:
    found = read(save(Net().half()))
    assert {tensor.dtype for tensor in found.state.values()} == {torch.float32}
    assert any("stored as float16" in said for said in found.assumptions)


def test_parameters_with_attributes_of_their_own(save: Save) -> None:
    module = Net()
    module.scale.no_decay = True
    assert_same(read(save(module)), Net())


def test_modules_of_torch_alone_are_taken_too(save: Save) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 2, 4, stride=2))
    found = read(save(module))
    assert_same(found, module)
    assert found.assumptions == (
        "a whole `torch.nn.modules.container.Sequential` was saved; its tensors were taken, none of its code",
    )


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_modules_are_refused_in_words(save: Save) -> None:
    module = Net()
    quantised = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    module.trunk.register_buffer("packed", quantised)
    with pytest.raises(ModelError, match=r"whole `models.Net` whose trunk.packed is no plain tensor"):
        read(save(module))


# Put together by hand


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_module_by_hand_is_taken(container: str, tmp_path: Path) -> None:
    """Otherwise the refusals below would show nothing."""
    body = program(module_with(tensor(NUMBER, AT, SIZE, STEP)))
    found = read(CONTAINERS[container](tmp_path / "a.pth", body, FOUR))
    assert found.state["weight"].tolist() == [[1, 2], [3, 4]]


def test_ordered_dictionaries_of_python_2_are_lists_of_pairs(tmp_path: Path) -> None:
    pairs = b"](](" + text("score") + module_with(tensor(NUMBER, AT, SIZE, STEP)) + b"eee"[:1] + b"e"
    modules = called(named("collections.OrderedDict"), pairs)
    body = program(module_with(tensor(NUMBER, AT, SIZE, STEP), modules=modules))
    assert list(read(CONTAINERS["zip"](tmp_path / "a.pth", body, FOUR)).state) == ["weight", "score.weight"]


def test_parts_of_storages_of_old_files_are_read(tmp_path: Path) -> None:
    """Files of torch before 0.4 may refer to a part: its key, first element and number of elements."""

    def part(start: int, count: int) -> bytes:
        view = b"(" + text("view") + number(start) + number(count) + b"t"
        storage = b"(" + text("storage") + named("torch.FloatStorage") + text("0") + text("cpu") + NUMBER
        weight = called(
            named("torch._utils._rebuild_tensor"), storage + view + b"tQ", AT, b"K\x02\x85", b"K\x01\x85"
        )
        return program(module_with(weight))

    path = tmp_path / "a.pth"
    assert read(CONTAINERS["legacy"](path, part(1, 2), FOUR)).state["weight"].tolist() == [2, 3]
    for start, count in ((3, 2), (0, 5), (2, 1)):
        with pytest.raises(ModelError, match="reaches"):
            read(CONTAINERS["legacy"](path, part(start, count), FOUR))


OUTSIDE = {
    "a storage larger than its bytes": tensor(b"K\x05", AT, SIZE, STEP),
    "a storage smaller than its bytes": tensor(b"K\x03", AT, b"K\x03\x85", b"K\x01\x85"),
    "an enormous storage": tensor(number(1 << 62), AT, SIZE, STEP),
    "a storage of less than nothing": tensor(number(-1), AT, SIZE, STEP),
    "a storage that is not there": tensor(NUMBER, AT, SIZE, STEP, key="1"),
    "a storage by a path": tensor(NUMBER, AT, SIZE, STEP, key="../../../../etc/passwd"),
    "a storage of another type": tensor(NUMBER, AT, SIZE, STEP, kind="DoubleStorage"),
    "a storage of no type": tensor(NUMBER, AT, SIZE, STEP, kind="ModuleStorage"),
    "a number that is no number": tensor(text("4"), AT, SIZE, STEP),
    "an offset outside": tensor(NUMBER, b"K\x01", SIZE, STEP),
    "an offset far outside": tensor(NUMBER, number(1 << 62), SIZE, STEP),
    "an offset before the start": tensor(NUMBER, number(-1), SIZE, STEP),
    "a size outside": tensor(NUMBER, AT, b"K\x05\x85", b"K\x01\x85"),
    "an enormous size": tensor(NUMBER, AT, number(1 << 62) + b"\x85", b"K\x01\x85"),
    "a size of less than nothing": tensor(NUMBER, AT, number(-2) + b"\x85", b"K\x01\x85"),
    "a stride outside": tensor(NUMBER, AT, SIZE, b"K\x03K\x01\x86"),
    "a stride that goes back": tensor(NUMBER, b"K\x03", b"K\x04\x85", number(-1) + b"\x85"),
    "a stride of nothing that repeats": tensor(NUMBER, AT, number(1 << 40) + b"\x85", b"K\x00\x85"),
    "more sizes than strides": tensor(NUMBER, AT, SIZE, b"K\x01\x85"),
    "sizes that are no numbers": tensor(NUMBER, AT, text("4") + b"\x85", b"K\x01\x85"),
    "sizes that are a number": tensor(NUMBER, AT, b"K\x04", b"K\x01"),
    "no storage": called(named("torch._utils._rebuild_tensor_v2"), b"N", AT, SIZE, STEP, b"\x89", b"N"),
    "nothing": called(named("torch._utils._rebuild_tensor_v2")),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", OUTSIDE)
@pytest.mark.parametrize("whole", [True, False], ids=["module", "state_dict"])
def test_tensors_outside_of_their_storages_are_refused(kind, container, whole, tmp_path: Path) -> None:
    content = module_with(OUTSIDE[kind]) if whole else b"}" + text("weight") + OUTSIDE[kind] + b"s"
    path = CONTAINERS[container](tmp_path / "bent.pth", program(content), FOUR)
    with pytest.raises(ModelError, match=r"bent\.pth (is not a complete PyTorch|holds more weights)"):
        read(path)


def test_one_module_in_very_many_places_is_refused(tmp_path: Path) -> None:
    """Sixty modules, each twice in the next: 2 to the 60 names."""
    weight = tensor(NUMBER, AT, SIZE, STEP) + b"q\x00"
    body = module_with(weight) + b"q\x01"
    for _ in range(60):
        twice = b"}(" + text("a") + b"h\x01" + text("b") + b"h\x01" + b"u"
        body += b"0" + module_with(b"h\x00", modules=twice) + b"q\x01"
    with pytest.raises(ModelError, match="more than 100000 parts"):
        read(CONTAINERS["zip"](tmp_path / "a.pth", program(body), FOUR))


def test_a_module_inside_itself_is_refused(tmp_path: Path) -> None:
    body = (
        module_with(tensor(NUMBER, AT, SIZE, STEP), modules=b"}q\x05")
        + b"q\x01h\x05"
        + text("me")
        + b"h\x01s0"
    )
    with pytest.raises(ModelError, match="holds what is no module"):
        read(CONTAINERS["zip"](tmp_path / "a.pth", program(body), FOUR))


def test_what_is_no_module_among_modules_is_refused(tmp_path: Path) -> None:
    modules = b"}" + text("child") + called(named("os.getcwd")) + b"s"
    body = program(module_with(tensor(NUMBER, AT, SIZE, STEP), modules=modules))
    with pytest.raises(ModelError, match="holds what is no module"):
        read(CONTAINERS["zip"](tmp_path / "a.pth", body, FOUR))


def test_what_is_no_tensor_among_parameters_is_refused(tmp_path: Path) -> None:
    body = program(module_with(called(named("os.getcwd"))))
    with pytest.raises(ModelError, match=r"whole `train.Net` whose weight is no plain tensor"):
        read(CONTAINERS["zip"](tmp_path / "a.pth", body, FOUR))
