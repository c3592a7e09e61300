"""The calibration table: what it keeps, and what is refused when it is read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.calibration.pairs import layer_inputs
from fcn_deploy.calibration.recipe import Fp32Model, open_fp32
from fcn_deploy.calibration.table import CalibrationTable, calibrate
from fcn_deploy.data.calibration import CalibrationFrames
from fcn_deploy.errors import CalibrationError, SourceError, UsageError
from fcn_deploy.export.graph.files import identity
from fcn_deploy.export.graph.session import open_session

KEYS = ("minmax", "percentile", "entropy-tensorrt", "entropy-cpu")


@pytest.fixture(scope="module")
def own(narrow) -> Fp32Model:
    return open_fp32(narrow())


@pytest.fixture(scope="module")
def table(own, street) -> CalibrationTable:
    return calibrate(own.model, own.spec, CalibrationFrames(street, own.spec))


def test_a_table_is_read_back_as_it_was_saved(own, table, tmp_path: Path) -> None:
    table.save(tmp_path / "t.json")
    read = CalibrationTable.load(tmp_path / "t.json", own.model)
    assert read == table
    assert (read.frames, read.sizes, len(read.frames_sha256)) == (8, ((120, 160),), 64)


def test_a_table_of_version_0_1_is_read(own, tmp_path: Path) -> None:
    """Its warnings were called doubts."""
    saved = json.loads(Path(__file__).with_name("version_0_1").joinpath("table.json").read_text())
    (tmp_path / "t.json").write_text(json.dumps({**saved, "model": identity(own.model)}))
    read = CalibrationTable.load(tmp_path / "t.json", own.model)
    assert read.warnings == tuple(saved["doubts"]) and read.warnings[0].startswith("2 frames to calibrate on")
    reads = layer_inputs(own.model)
    assert read.measured == {
        reads[layer]: {key: (0.0, limit) for key, limit in limits.items()}
        for layer, limits in saved["limits"].items()
    }
    assert read.known == {reads["conv1_1"]: tuple(saved["image"])} and read.sizes == ((48, 64),)
    read.save(tmp_path / "again.json")
    assert CalibrationTable.load(tmp_path / "again.json", own.model) == read


def test_minmax_is_the_largest_value_of_all_frames(own, table, street) -> None:
    inputs = {tensor for name, tensor in layer_inputs(own.model).items() if name != "conv1_1"}
    assert set(table.measured) == inputs
    largest = dict.fromkeys(sorted(inputs), 0.0)
    with open_session(own.model, largest) as session:
        for frame in CalibrationFrames(street, own.spec):
            for name, value in zip(largest, session.run(list(largest), {"image": frame}), strict=True):
                largest[name] = max(largest[name], float(value.max()))
    assert {name: limits["minmax"] for name, limits in table.measured.items()} == {
        name: (0.0, value) for name, value in largest.items()
    }
    for limits in table.measured.values():
        assert set(limits) == set(KEYS) and max(limits.values()) == limits["minmax"]


def test_the_first_range_is_what_any_frame_can_hold(own, table) -> None:
    low, high = table.ranges("minmax", "cpu")[layer_inputs(own.model)["conv1_1"]]
    assert low == pytest.approx(-max(own.spec.mean)) and high == pytest.approx(255 - min(own.spec.mean))


def test_entropy_counts_each_target_s_levels(table) -> None:
    assert table.ranges("entropy", "cpu") != table.ranges("entropy", "tensorrt")
    assert table.ranges("minmax", "cpu") == table.ranges("minmax", "tensorrt")


@pytest.mark.parametrize(("method", "target"), [("mean", "cpu"), ("entropy", "tpu")])
def test_an_unknown_choice_is_refused(table, method: str, target: str) -> None:
    with pytest.raises(UsageError, match=r"unknown .*choose one of"):
        table.ranges(method, target)


@pytest.mark.parametrize("percentile", [50, 100.1, float("nan")])
def test_a_percentile_out_of_range_is_refused(own, street, percentile: float) -> None:
    with pytest.raises(UsageError, match="above 50 and at most 100"):
        calibrate(own.model, own.spec, CalibrationFrames(street, own.spec), percentile=percentile)


def test_a_frame_beyond_the_model_s_limit_is_refused(own, street) -> None:
    with pytest.raises(SourceError, match="limit of 100x4096"):
        calibrate(own.model, own.spec.replace(max_height=100), CalibrationFrames(street, own.spec))


def test_a_table_of_other_weights_is_stale(own, table, tmp_path: Path) -> None:
    replace(table, model="0" * 64).save(tmp_path / "t.json")
    with pytest.raises(CalibrationError, match=r"t\.json is stale: .* 000000000000\.\.\. .*--calib"):
        CalibrationTable.load(tmp_path / "t.json", own.model)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.pop("measured"),
        lambda data: data.update(unknown=1),
        lambda data: data.update(schema=4),
        lambda data: data["measured"]["fc6.relu"].pop("entropy-cpu"),
        lambda data: data["measured"]["fc6.relu"].update(minmax=[0.5, 1.0]),
        lambda data: data["measured"]["fc6.relu"].update(minmax=[-1.0, -0.5]),
        lambda data: data["measured"]["fc6.relu"].update(percentile=[0.0, float("nan")]),
        lambda data: data["measured"]["fc6.relu"].update(percentile="much"),
        lambda data: data["measured"]["fc6.relu"].update(percentile=3.0),
    ],
    ids=["no ranges", "unknown key", "newer", "no method", "above 0", "below 0", "NaN", "text", "a number"],
)
def test_a_damaged_table_is_refused(own, table, tmp_path: Path, damage) -> None:
    path = tmp_path / "t.json"
    table.save(path)
    data = json.loads(path.read_text())
    damage(data)
    path.write_text(json.dumps(data))
    with pytest.raises(CalibrationError, match=r"t\.json is no calibration table"):
        CalibrationTable.load(path, own.model)


@pytest.mark.parametrize("content", [b"[]", b"\xff\xfe\x00", b"{", b"7"])
def test_another_file_is_no_table(own, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(CalibrationError, match=r"t\.json is no calibration table"):
        CalibrationTable.load(tmp_path / "t.json", own.model)


def test_a_missing_table_is_wrong_use(own, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json does not exist"):
        CalibrationTable.load(tmp_path / "none.json", own.model)


def test_more_frames_do_not_need_more_memory(own, tmp_path: Path, monkeypatch) -> None:
    """What a histogram holds and how many there are is all that stays between frames."""
    from fcn_deploy.calibration import table as module

    made: list[module.Histogram] = []

    class Watched(module.Histogram):
        def __init__(self, name: str) -> None:
            super().__init__(name)
            made.append(self)

    monkeypatch.setattr(module, "Histogram", Watched)
    rng = np.random.default_rng(0)
    kept = []
    for count in (1, 5):
        folder = tmp_path / str(count)
        folder.mkdir()
        for i in range(count):
            picture = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((48, 36))
            picture.save(folder / f"{i}.png")
        made.clear()
        calibrate(own.model, own.spec, CalibrationFrames(folder, own.spec))
        kept.append(sum(histogram.counts.nbytes for histogram in made))
    assert kept[0] == kept[1] > 0
