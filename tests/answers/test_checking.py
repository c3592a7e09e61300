"""check_answers on artefacts of each kind, and the gate of quantize and build-engine."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest

import fcn_deploy
from fcn_deploy.answers.checking import require_answers
from fcn_deploy.describe import describe
from fcn_deploy.errors import ParityError, SourceError
from fcn_deploy.export.graph.files import read_model, write_model
from fcn_deploy.runtimes.artefact import read_spec


@pytest.fixture
def swapped_file(bundled_file: Path, tmp_path: Path) -> Path:
    """The bundled model, exported as if it had been trained on R, G, B."""
    graph, spec = read_model(bundled_file)
    (weight,) = (tensor for tensor in graph.graph.initializer if list(tensor.dims)[1:] == [3, 3, 3])
    values = onnx.numpy_helper.to_array(weight)[:, ::-1]
    weight.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), weight.name))
    path = tmp_path / "swapped.onnx"
    write_model(graph, spec, path)
    return path


def test_what_was_found_is_told_and_drawn(bundled_file: Path, write_answers) -> None:
    originals = write_answers()
    found = fcn_deploy.check_answers(bundled_file, originals.path)
    assert found.passed and found.lowest == 1 and found.logit_error < 1e-5
    assert "100.0000% agree" in repr(found) and "answers as the original of answers.npz does" in repr(found)
    told = json.loads(json.dumps(found.to_dict()))
    assert told["passed"] and told["frames"] == 2 and told["mistakes"] == [] and len(told["by_frame"]) == 2
    assert np.array(told["confusion"]).sum() == sum(height * width for height, width in told["sizes"])
    picture = found.draw_worst()
    _, width = found.comparison.worst.image.shape[:2]
    assert picture.dtype == np.uint8 and picture.shape[1] == 4 * width


def test_a_wrong_export_is_named_and_where_it_differs_is_red(swapped_file: Path, write_answers) -> None:
    originals = write_answers()
    found = fcn_deploy.check_answers(swapped_file, originals.path)
    (mistake,) = found.mistakes
    assert mistake.kinds == ("color order",) and "export again with --trained-on rgb" in found.finding
    height, width = found.comparison.worst.image.shape[:2]
    red = (found.draw_worst()[-height:, -width:] == (230, 30, 30)).all(2)
    assert (red == (found.comparison.worst.original != found.comparison.worst.found)).all() and red.any()


def test_a_backend_that_is_named_runs_it_and_the_graph_explains_it(swapped_file: Path, write_answers) -> None:
    found = fcn_deploy.check_answers(swapped_file, write_answers().path, backend="onnxruntime")
    assert found.backend.startswith("onnxruntime on cpu") and found.logit_error is None
    assert [mistake.kinds for mistake in found.mistakes] == [("color order",)]


def test_a_safetensors_artefact_is_compared_and_says_where_mistakes_are_found(
    tmp_path: Path, write_answers
) -> None:
    path = tmp_path / "model.safetensors"
    fcn_deploy.export_model("bundled", path)
    right = fcn_deploy.check_answers(path, write_answers().path)
    assert right.passed and right.backend.startswith("pytorch")
    wrong = fcn_deploy.check_answers(path, write_answers(preparation={"rgb": True}).path)
    assert not wrong.passed and wrong.explanation is None
    assert "found on the fp32 or fp16 .onnx file" in wrong.finding


def test_other_names_of_classes_are_a_warning(bundled_file: Path, write_answers) -> None:
    originals = write_answers()
    names = list(read_spec(bundled_file).classes)
    names[3] = "street"
    arrays = dict(np.load(originals.path))
    np.savez(originals.path, **arrays, classes=names)
    found = fcn_deploy.check_answers(bundled_file, originals.path)
    assert found.warnings == ("class 3 is 'street' in answers.npz and 'road' in this artefact",)
    assert found.passed


def test_the_snippet_of_the_docs_names_the_mistake(
    swapped_file: Path,
    write_answers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_answers()
    swapped_file.rename(tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(Path(__file__).parents[2] / "docs" / "snippets" / "check_answers.py"))
    assert "exchanges red and blue -> --trained-on rgb" in capsys.readouterr().out


def test_limits_can_be_given(swapped_file: Path, write_answers) -> None:
    found = fcn_deploy.check_answers(swapped_file, write_answers().path, min_agreement=0, max_logit_error=9)
    assert found.passed and found.agreement < 0.99


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
def test_the_gate_gives_evidence_or_refuses(wrong: bool, bundled, write_answers) -> None:
    graph, spec = bundled
    originals = write_answers(preparation={"rgb": True} if wrong else {})
    if wrong:
        with pytest.raises(
            ParityError, match=r"m\.onnx does not answer .* --trained-on rgb .*; nothing was written"
        ):
            require_answers(graph, spec, originals.path, "m.onnx")
        return
    record = require_answers(graph, spec, originals.path, "m.onnx")
    assert record["sha256"] == originals.sha256 and record["agreement"] == 1
    rows = dict(describe(spec.with_evidence("answers", record)))
    assert rows["original"].startswith("2 frames of answers.npz: 100.0000% of labels agree")
    child = spec.replace(evidence=spec.with_evidence("answers", record).evidence_for_child())
    assert "this file was not" in dict(describe(child))["original"]


@pytest.fixture
def frames(tmp_path: Path, street: list[np.ndarray]) -> Path:
    """A folder of frames to calibrate on."""
    from PIL import Image

    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(street):
        Image.fromarray(np.ascontiguousarray(frame[..., ::-1])).save(tmp_path / "frames" / f"{number}.png")
    return tmp_path / "frames"


@pytest.mark.filterwarnings("ignore")
def test_quantize_keeps_the_evidence(bundled_file: Path, frames: Path, tmp_path: Path, write_answers) -> None:
    done = fcn_deploy.quantize(
        *(bundled_file, tmp_path / "int8.onnx"),
        calib=frames,
        target="cpu",
        method="minmax",
        check_against=write_answers().path,
    )
    record = read_spec(done.path).evidence["answers"]
    assert record["frames"] == 2 and 0.95 <= record["lowest"] < 1 and record["min_agreement"] == 0.95


def test_quantize_refuses_before_it_calibrates(
    swapped_file: Path, frames: Path, tmp_path: Path, write_answers
) -> None:
    steps: list[str] = []
    with pytest.raises(ParityError, match=r"swapped\.onnx .* --trained-on rgb.*nothing was written"):
        fcn_deploy.quantize(
            *(swapped_file, tmp_path / "int8.onnx"),
            calib=frames,
            target="cpu",
            check_against=write_answers().path,
            progress=steps.append,
        )
    assert not (tmp_path / "int8.onnx").exists()
    assert not any("calibrating" in step for step in steps)


def test_an_int8_graph_that_differs_is_not_written(
    bundled_file: Path, frames: Path, tmp_path: Path, write_answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fp32 graph passes; the INT8 one is made to be another network."""
    from fcn_deploy.calibration import quantization

    made = quantization.quantized_graph

    def damaged(*arguments: object) -> onnx.ModelProto:
        graph = made(*arguments)
        for tensor in graph.graph.initializer:
            if tensor.name.startswith("score_fr.bias"):
                bias = np.linspace(-50, 50, 11, dtype=np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(bias, tensor.name))
        return graph

    monkeypatch.setattr(quantization, "quantized_graph", damaged)
    with pytest.raises(ParityError, match=r"the INT8 graph of .* found on the fp32 or fp16 \.onnx file"):
        fcn_deploy.quantize(
            *(bundled_file, tmp_path / "int8.onnx"),
            calib=frames,
            target="tensorrt",
            float_precision="fp32",
            check_against=write_answers().path,
        )
    assert not (tmp_path / "int8.onnx").exists()


def test_an_engine_carries_the_evidence_of_its_graph(
    bundled_file: Path, tmp_path: Path, write_answers
) -> None:
    pytest.importorskip("tensorrt_rtx")
    originals = write_answers()
    done = fcn_deploy.build_engine(
        *(bundled_file, tmp_path / "model.engine"),
        flavor="rtx",
        compute_capabilities="8.6",
        profiles="1x64x64",
        check_against=originals.path,
    )
    assert done.sidecar.spec.evidence["parent_answers"]["sha256"] == originals.sha256
    assert re.search(r"original +2 frames .* this file was not", repr(done))


def test_an_engine_of_a_wrong_graph_is_not_built(
    swapped_file: Path, tmp_path: Path, write_answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcn_deploy.export.tensorrt.engine.installed", lambda _: True)
    with pytest.raises(ParityError, match=r"--trained-on rgb .*; nothing was written"):
        fcn_deploy.build_engine(
            swapped_file, tmp_path / "model.engine", flavor="rtx", check_against=write_answers().path
        )
    assert not (tmp_path / "model.engine").exists()


def test_answers_that_cannot_be_read_end_a_verb_before_it_works(bundled_file: Path, tmp_path: Path) -> None:
    (tmp_path / "answers.npz").write_text("nothing")
    steps: list[str] = []
    with pytest.raises(SourceError, match="is no answers file"):
        fcn_deploy.quantize(
            *(bundled_file, tmp_path / "int8.onnx"),
            calib=tmp_path,
            check_against=tmp_path / "answers.npz",
            progress=steps.append,
        )
    assert steps == []
