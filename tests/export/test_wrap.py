"""ONNX files of other exporters become artefacts that give what the files give, or are refused in words."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import foreign_files as exporters
import numpy as np
import onnx
import pytest
from foreign_files import CLASSES, IMAGENET, answers, weights
from onnx import TensorProto, helper, numpy_helper

import fcn_deploy
from fcn_deploy.errors import ExportError, FcnDeployError, ModelError, ParityError, SourceError, UsageError
from fcn_deploy.export.graph import surround
from fcn_deploy.export.graph.files import read_model
from fcn_deploy.export.wrap import wrap_model
from fcn_deploy.files import sha256_of
from fcn_deploy.runtimes import artefact
from fcn_deploy.testing import onnxruntime_session

pytestmark = pytest.mark.usefixtures("few_sizes")


def frames(batch: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def padded(images: np.ndarray, multiple: int) -> np.ndarray:
    """With the colour below and to the right that is 0 when it is prepared: ImageNet's mean, as near as bytes
    come to it."""
    below, right = (-length % multiple for length in images.shape[1:3])
    return np.pad(images, ((0, 0), (0, below), (0, right), (0, 0)))


@pytest.mark.parametrize("export", ["torchvision", "mmdeploy", "paddleseg"])
def test_labels_are_those_of_the_file(tmp_path: Path, export: str) -> None:
    original = getattr(exporters, export)(tmp_path / "original.onnx")
    result = wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET, outputs=["confidence", "logits"])
    images = frames(2, 41, 58)
    name = "out" if export == "torchvision" else None
    found = answers(original, images, name, **IMAGENET)
    expected = found.argmax(1) if export == "torchvision" else found.reshape(2, 41, 58)
    with fcn_deploy.load(result.path, backend="onnxruntime", device="cpu") as segmenter:
        answer = segmenter.infer(images)
    assert (answer.labels == expected).mean() > 0.999
    assert (answer.logits.argmax(1) == answer.labels).all()
    shares = np.exp(answer.logits - answer.logits.max(1, keepdims=True))
    np.testing.assert_allclose(answer.confidence, (shares / shares.sum(1, keepdims=True)).max(1), atol=1e-5)
    parity = result.spec.evidence["parity"]
    assert parity["max_relative_error"] < 1e-5
    assert parity["differences_beyond_ties"] == 0
    assert len(parity["sizes"]) == 4


def test_the_description_names_the_file_and_holds_the_numbers_of_bytes(tmp_path: Path) -> None:
    original = exporters.torchvision(tmp_path / "original.onnx")
    result = wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET, note="a try")
    spec, digest = result.spec, sha256_of(original)
    np.testing.assert_allclose(spec.mean, (103.53, 116.28, 123.675), rtol=1e-6)
    np.testing.assert_allclose(spec.std, (57.375, 57.12, 58.395), rtol=1e-6)
    assert spec.architecture.name == "onnx"
    options = {"file": "original.onnx", "channel_order": "rgb", "output": "out"}
    assert spec.architecture.options == options
    assert (spec.reference.name, spec.reference.known_by, spec.reference.sha256) == (
        *("original.onnx", "file"),
        digest,
    )
    assert spec.provenance == ({"kind": "original", "name": "original.onnx", "sha256": digest},)
    assert (spec.precision, spec.note, spec.fixed_shape) == ("fp32", "a try", (None, None, None))
    assert spec.evidence["made"]["opset"] == 17
    assert artefact.check_digest(result.path) is True
    assert any("out of 2 outputs" in sentence for sentence in result.assumptions)


@pytest.mark.parametrize("trained_on", ["rgb", "bgr"])
@pytest.mark.parametrize("color_order", ["rgb", "bgr"])
def test_colours_are_swapped_where_orders_differ(tmp_path: Path, trained_on: str, color_order: str) -> None:
    original = exporters.torchvision(tmp_path / "original.onnx")
    stats: dict[str, Any] = {"mean": (90.0, 110.0, 130.0), "std": (50.0, 60.0, 70.0)}
    result = wrap_model(
        original, tmp_path / "deploy.onnx", **stats, trained_on=trained_on, color_order=color_order
    )
    images = frames(1, 33, 47)
    expected = answers(original, images, "out", **stats, trained_on=trained_on).argmax(1)
    handed = images if color_order == "bgr" else np.ascontiguousarray(images[..., ::-1])
    (labels,) = onnxruntime_session(result.path).run(None, {"image": handed})
    assert (labels == expected).mean() > 0.999
    assert "Div" not in operators(result.path)
    assert "Gather" not in operators(result.path)


def test_answers_of_the_original_are_compared_before_it_is_written(tmp_path: Path) -> None:
    original = exporters.torchvision(tmp_path / "original.onnx")
    images = frames(2, 33, 47)
    logits = answers(original, images, "out", **IMAGENET, trained_on="rgb")
    np.savez(tmp_path / "answers.npz", frames=images, logits=logits, color_order="bgr")
    wrapped = tmp_path / "deploy.onnx"
    with pytest.raises(ParityError, match=r"exchanges red and blue .* --trained-on rgb --mean 123\.675,"):
        wrap_model(original, wrapped, **IMAGENET, trained_on="bgr", check_against=tmp_path / "answers.npz")
    assert not wrapped.exists()
    done = wrap_model(original, wrapped, **IMAGENET, check_against=tmp_path / "answers.npz")
    assert done.spec.evidence["answers"]["frames"] == 2
    assert done.spec.evidence["answers"]["logit_error"] < 1e-4


def test_raw_frames_need_no_operator_but_cast_and_transpose(tmp_path: Path) -> None:
    original = exporters.keras(tmp_path / "original.onnx")
    nothing = {"mean": (0, 0, 0), "std": (1, 1, 1), "trained_on": "bgr"}
    result = wrap_model(original, tmp_path / "deploy.onnx", **nothing)
    assert operators(result.path)[:3] == ["Cast", "Transpose", "Conv"]


def test_a_uint8_map_of_a_fixed_size_stays_fixed(tmp_path: Path) -> None:
    original = exporters.ultralytics(tmp_path / "original.onnx")
    stats: dict[str, Any] = {"mean": (0, 0, 0), "std": (1, 1, 1), "scale": 1 / 255}
    result = wrap_model(original, tmp_path / "deploy.onnx", **stats)
    assert result.spec.fixed_shape == (1, 64, 96)
    assert any("64x96 only, one at a time" in sentence for sentence in result.assumptions)
    model = onnx.load(result.path)
    shapes = [
        [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [[1, 64, 96, 3], [1, 64, 96]]
    images = frames(1, 64, 96)
    with fcn_deploy.load(result.path, backend="onnxruntime", device="cpu") as segmenter:
        assert segmenter.max_batch == 1
        assert (segmenter.infer(images).labels == answers(original, images, **stats)).mean() > 0.999
        with pytest.raises(SourceError, match="frames of 64x96 only"):
            segmenter.infer(frames(1, 64, 64))


def test_one_channel_is_two_classes_at_a_threshold(tmp_path: Path) -> None:
    original = exporters.smp(tmp_path / "original.onnx")
    result = wrap_model(
        original,
        tmp_path / "deploy.onnx",
        **IMAGENET,
        size_multiple=4,
        threshold=0.6,
        outputs=["logits", "confidence"],
    )
    assert result.spec.threshold == 0.6
    assert result.spec.classes == ("background", "foreground")
    images = frames(2, 40, 24)
    probability = 1 / (1 + np.exp(-answers(original, images, **IMAGENET)[:, 0]))
    with fcn_deploy.load(result.path, backend="onnxruntime", device="cpu") as segmenter:
        answer = segmenter.infer(images)
    assert (answer.labels == (probability > 0.6)).mean() > 0.999
    assert 0.05 < answer.labels.mean() < 0.95, "both classes are there"
    assert (answer.logits.argmax(1) == answer.labels).all()
    expected = np.where(answer.labels == 1, probability, 1 - probability)
    np.testing.assert_allclose(answer.confidence, expected, atol=1e-5)


def test_a_network_of_multiples_takes_every_size_when_padded(tmp_path: Path) -> None:
    original = exporters.smp(tmp_path / "original.onnx", 3)
    plain = wrap_model(original, tmp_path / "plain.onnx", **IMAGENET)
    assert {(r["height"], r["width"]) for r in plain.spec.evidence["parity"]["refused"]} == {(1, 1), (31, 33)}
    (sentence,) = (s for s in plain.assumptions if "fails on 1x1, 31x33" in s)
    assert "--size-multiple 4" in sentence
    result = wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET, size_multiple=4)
    assert "refused" not in result.spec.evidence["parity"]
    assert result.spec.size_multiple == 4
    assert "Div" in operators(result.path), "of the frame's size"
    session = onnxruntime_session(result.path)
    images = frames(1, 13, 22)
    (labels,) = session.run(None, {"image": images})
    # The pixels that are added are zeros for the network, which no byte is; far from them nothing changes.
    expected = answers(original, padded(images, 4), **IMAGENET).argmax(1)
    assert labels.shape == (1, 13, 22)
    assert (labels[:, :4, :10] == expected[:, :4, :10]).all()


@pytest.mark.parametrize("options", [{}, {"align_corners": True}, {"size_multiple": 8}])
def test_small_logits_are_resized_as_pytorch_does(tmp_path: Path, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    original = exporters.small_logits(tmp_path / "original.onnx")
    result = wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET, **options, logits_stride=4)
    images = frames(1, 40, 64)  # needs no padding
    logits = torch.from_numpy(answers(original, images, **IMAGENET))
    aligned = options.get("align_corners", False)
    large = torch.nn.functional.interpolate(logits, (40, 64), mode="bilinear", align_corners=aligned)
    (labels,) = onnxruntime_session(result.path).run(None, {"image": images})
    assert (labels == large.argmax(1).numpy()).mean() > 0.998
    assert result.spec.architecture.options["logits_stride"] == 4


def test_small_labels_are_repeated(tmp_path: Path) -> None:
    original = exporters.small_labels(tmp_path / "original.onnx")
    result = wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET, logits_stride=4)
    assert result.spec.num_classes == CLASSES
    parity = result.spec.evidence["parity"]
    assert parity["max_relative_error"] is None
    images = frames(1, 32, 48)
    expected = answers(original, images, **IMAGENET).repeat(4, 1).repeat(4, 2)
    (labels,) = onnxruntime_session(result.path).run(None, {"image": images})
    assert (labels == expected).mean() > 0.999


def test_a_map_of_zeros_and_ones_is_two_classes(tmp_path: Path) -> None:
    original = exporters.mmdeploy_binary(tmp_path / "original.onnx")
    result = wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET)
    assert result.spec.classes == ("background", "foreground")
    assert result.spec.threshold is None
    images = frames(2, 30, 30)
    (labels,) = onnxruntime_session(result.path).run(None, {"image": images})
    assert (labels == answers(original, images, **IMAGENET)[:, 0]).mean() > 0.999
    with pytest.raises(UsageError, match="gives labels only, so there is no confidence"):
        wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET, outputs="confidence")


@pytest.mark.parametrize("multiple", [1, 16])
def test_channels_last_in_and_out(tmp_path: Path, multiple: int) -> None:
    original = exporters.keras(tmp_path / "original.onnx")
    result = wrap_model(
        original, tmp_path / "deploy.onnx", **IMAGENET, outputs="confidence", size_multiple=multiple
    )
    images = frames(2, 32, 48)
    shares = answers(original, images, **IMAGENET)
    labels, confidence = onnxruntime_session(result.path).run(None, {"image": images})
    assert (labels == shares.argmax(-1)).mean() > 0.999
    np.testing.assert_allclose(confidence, shares.max(-1), atol=1e-5)
    assert operators(result.path).count("Transpose") == 3, "one in front, the file's last, and one back"


@pytest.mark.parametrize("export", ["torchvision", "keras"])
def test_an_fp16_file_is_its_own_reference(tmp_path: Path, export: str) -> None:
    source = getattr(exporters, export)(tmp_path / "fp32.onnx")
    original = exporters.as_fp16(source, tmp_path / "original.onnx")
    result = wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET, outputs="logits")
    assert result.spec.precision == "fp16"
    images = frames(1, 40, 40)
    labels, logits = onnxruntime_session(result.path).run(["labels", "logits"], {"image": images})
    assert logits.dtype == np.float32
    found = answers(original, images, "out" if export == "torchvision" else None, **IMAGENET)
    found = found.astype(np.float32) if export == "torchvision" else found.transpose(0, 3, 1, 2)
    assert (labels == found.argmax(1)).mean() > 0.99


def test_a_quantised_file_stays_quantised(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime.quantization")
    source = exporters.keras(tmp_path / "fp32.onnx")
    original = _with_qdq(source, tmp_path / "original.onnx")
    result = wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET)
    assert result.spec.precision == "int8"
    assert result.spec.evidence["parity"]["min_agreement"] > 0.99
    assert "QuantizeLinear" in operators(result.path)


def _with_qdq(source: Path, path: Path) -> Path:
    """Q/DQ at the input and the weights of the first convolution, as another tool's quantisation has it."""
    model = onnx.load(source)
    (conv,) = [node for node in model.graph.node if node.name == "" and "model/conv" in node.output]
    kernel = next(t for t in model.graph.initializer if t.name == conv.input[1])
    values = numpy_helper.to_array(kernel)
    scale = float(np.abs(values).max() / 127)
    kernel.CopyFrom(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), kernel.name))
    constants = {"w.scale": np.float32(scale), "x.scale": np.float32(2.7 / 127), "zero": np.int8(0)}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value), name) for name, value in constants.items()
    )
    nodes = list(model.graph.node)
    place = nodes.index(conv)
    added = [
        helper.make_node("QuantizeLinear", [conv.input[0], "x.scale", "zero"], ["x.q"]),
        helper.make_node("DequantizeLinear", ["x.q", "x.scale", "zero"], ["x.dq"]),
        helper.make_node("DequantizeLinear", [kernel.name, "w.scale", "zero"], ["w.dq"]),
    ]
    conv.input[0], conv.input[1] = "x.dq", "w.dq"
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], *added, *nodes[place:]])
    onnx.save(model, str(path))
    return path


def test_an_output_can_be_named(tmp_path: Path) -> None:
    original = exporters.torchvision(tmp_path / "original.onnx")
    result = wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET, output_name="aux", logits_stride=4)
    images = frames(1, 32, 32)
    assert result.spec.architecture.options["output"] == "aux"
    kinds = operators(result.path)
    assert kinds.count("Conv") == 4, "the other output's layers are gone"
    (labels,) = onnxruntime_session(result.path).run(None, {"image": images})
    small = answers(original, images, "aux", **IMAGENET).argmax(1)
    inner = labels[:, 1::4, 1::4]
    assert (inner == small).mean() > 0.5


def test_names_of_the_contract_may_be_taken_in_the_file(tmp_path: Path) -> None:
    graph = exporters.Graph()
    x = graph.conv("image", "labels", (CLASSES, 3, 1, 1))
    x = graph.add("Relu", [x], "confidence")
    graph.add("Identity", [x], "logits")
    for node, name in zip(graph.nodes, ("prepare.float", "labels", ""), strict=True):
        node.name = name
    frame, logits = exporters.FRAMES, (TensorProto.FLOAT, ["n", CLASSES, "h", "w"])
    original = graph.save(
        tmp_path / "original.onnx", {"image": frame}, {"logits": logits}, opset=17, ir=8, producer="x"
    )
    result = wrap_model(
        original, tmp_path / "deploy.onnx", **IMAGENET, outputs=["labels", "confidence", "logits"]
    )
    images = frames(1, 20, 30)
    _, _, found = onnxruntime_session(result.path).run(["labels", "confidence", "logits"], {"image": images})
    np.testing.assert_allclose(found, answers(original, images, **IMAGENET), atol=1e-4)


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    model = onnx.load(exporters.torchvision(tmp_path / "one.onnx"))
    original = tmp_path / "original.onnx"
    onnx.save(model, str(original), save_as_external_data=True, location="original.bin", size_threshold=0)
    result = wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET)
    (tmp_path / "original.bin").unlink()
    onnxruntime_session(result.path).run(None, {"image": frames(1, 8, 8)})


def test_beyond_two_gigabytes_the_weights_stay_beside_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("graph.files", "graph.session", "graph.opset", "wrap"):
        monkeypatch.setattr(f"fcn_deploy.export.{module}.SINGLE_FILE_LIMIT", 1000)
    original = exporters.torchvision(tmp_path / "original.onnx")
    result = wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET)
    assert len(list(tmp_path.glob("deploy.*.data"))) == 1
    images = frames(1, 20, 20)
    (labels,) = onnxruntime_session(result.path).run(None, {"image": images})
    assert (labels == answers(original, images, "out", **IMAGENET).argmax(1)).mean() > 0.999
    newer = exporters.smp(tmp_path / "newer.onnx", 3, opset=22)
    told = wrap_model(newer, tmp_path / "deploy.onnx", **IMAGENET, size_multiple=4).assumptions
    assert any("onnx converts graphs up to 2 GB only" in sentence for sentence in told)


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    function = helper.make_function(
        "pkg.local",
        "Layer",
        ["x", "w"],
        ["y"],
        [
            helper.make_node("Conv", ["x", "w"], ["inner"]),
            helper.make_node("Relu", ["inner"], ["y"]),
        ],
        [helper.make_opsetid("", 18)],
    )
    graph = exporters.Graph()
    kernel = graph.constant(weights(CLASSES, 3, 1, 1), "w")
    graph.add("Layer", ["input", kernel], "output", domain="pkg.local")
    original = graph.save(
        tmp_path / "original.onnx",
        {"input": exporters.FRAMES},
        {"output": (TensorProto.FLOAT, ["n", CLASSES, "h", "w"])},
        opset=18,
        ir=9,
        producer="pytorch",
        functions=[function],
        domains=["pkg.local"],
    )
    result = wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET)
    assert "Layer" not in operators(result.path)
    assert "Div" not in operators(result.path), "folded into the function's convolution"


def test_a_smallest_frame_is_found(tmp_path: Path) -> None:
    graph = exporters.Graph()
    x = graph.conv("input", "wide", (CLASSES, 3, 7, 7), pads=[0, 0, 0, 0])
    pads = graph.integers("pads", 0, 0, 3, 3, 0, 0, 3, 3)
    graph.add("Pad", [x, pads], "output")
    original = graph.save(
        tmp_path / "original.onnx",
        {"input": exporters.FRAMES},
        {"output": (TensorProto.FLOAT, ["n", CLASSES, "h", "w"])},
        opset=17,
        ir=8,
        producer="x",
    )
    result = wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET)
    assert (result.spec.min_height, result.spec.min_width) == (7, 7)
    assert any("frames from 7x7 on" in sentence for sentence in result.assumptions)


def test_a_batch_that_is_fixed_inside_is_one(tmp_path: Path) -> None:
    graph = exporters.Graph()
    x = graph.conv("input", "score", (CLASSES, 3, 1, 1))
    shape = graph.integers("shape", 1, CLASSES, -1)
    graph.add("Reshape", [x, shape], "flat")
    graph.add("Shape", [x], "full")
    graph.add("Reshape", ["flat", "full"], "output")
    logits = (TensorProto.FLOAT, ["n", CLASSES, "h", "w"])
    original = graph.save(
        tmp_path / "original.onnx",
        {"input": exporters.FRAMES},
        {"output": logits},
        opset=17,
        ir=8,
        producer="x",
    )
    model = onnx.load(original)
    model.graph.node[1].CopyFrom(helper.make_node("Slice", ["score", "zero", "one", "zero"], ["flat"]))
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array([value], np.int64), name)
        for name, value in (("zero", 0), ("one", 1))
    )
    onnx.save(model, str(original))
    result = wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET)
    assert result.spec.fixed_shape == (1, None, None)
    assert any("one frame at a time" in sentence for sentence in result.assumptions)
    assert onnx.load(result.path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


@pytest.mark.parametrize(("opset", "kept"), [(9, 20), (11, 20), (13, 13), (20, 20), (22, 20)])
def test_the_opset_becomes_one_that_devices_know(tmp_path: Path, opset: int, kept: int) -> None:
    graph = exporters.Graph()
    x = graph.conv("input", "stem", (8, 3, 3, 3))
    x = graph.add("Relu", [x], "relu")
    graph.conv(x, "score", (CLASSES, 8, 1, 1))
    original = graph.save(
        tmp_path / "original.onnx",
        {"input": exporters.FRAMES},
        {"score": (TensorProto.FLOAT, ["n", CLASSES, "h", "w"])},
        opset=opset,
        ir=4 if opset == 9 else 10,
        producer="x",
    )
    result = wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET)
    model = onnx.load(result.path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", kept)]
    assert model.ir_version <= 10
    assert result.spec.evidence["made"]["onnxruntime"] in (">= 1.17", ">= 1.18")


def test_an_opset_that_cannot_be_converted_stays_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = exporters.smp(tmp_path / "original.onnx", 3, opset=22)

    def refuse(*_: object) -> None:
        raise RuntimeError("No Adapter From Version $22 for Resize")

    monkeypatch.setattr(onnx.version_converter, "convert_version", refuse)
    result = wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET, size_multiple=4)
    assert result.spec.evidence["made"]["opset"] == 22
    assert result.spec.evidence["made"]["onnxruntime"] == ">= 1.21"
    (sentence,) = (s for s in result.assumptions if "opset 22 stays" in s)
    assert "No Adapter" in sentence
    assert "ONNX Runtime 1.21 or later" in sentence


def test_a_graph_that_answers_otherwise_is_refused_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = exporters.torchvision(tmp_path / "original.onnx")
    target = tmp_path / "deploy.onnx"
    target.write_bytes(b"the old one")
    fold = surround.fold_preparation

    def wrongly(model: onnx.ModelProto) -> bool:
        done = fold(model)
        kernel = next(t for t in model.graph.initializer if t.name == "stem.weight")
        kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel)[:, ::-1], kernel.name))
        return done

    monkeypatch.setattr(surround, "fold_preparation", wrongly)
    with pytest.raises(ParityError, match=r"differ from those of original\.onnx by"):
        wrap_model(original, target, **IMAGENET)
    assert target.read_bytes() == b"the old one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deploy.onnx", "original.onnx"]


BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"scale": None}, r"mean 0\.485, 0\.456, 0\.406 is of frames of 0 to 1.*--scale 1/255"),
    ({"mean": (123.675, 116.28, 103.53)}, "is of frames of 0 to 255, and --scale 0.003922 makes 0 to 1"),
    ({"mean": (1, 2)}, "mean is three numbers"),
    ({"mean": (float("nan"), 0, 0)}, "mean is three numbers"),
    ({"std": (1, 0, 1)}, "std is three numbers above 0"),
    ({"scale": 0}, "scale must be a number above 0"),
    ({"trained_on": "gbr"}, "trained_on must be bgr or rgb"),
    ({"color_order": "gray"}, "color_order must be bgr or rgb"),
    ({"align_corners": True}, "give --logits-stride too"),
    ({"threshold": 1.5}, "between 0 and 1"),
    ({"threshold": 0.4}, "--threshold is for a network of one channel, and original.onnx gives 5 channels"),
    ({"ignore_label": 256}, "from 0 to 255"),
    ({"num_classes": 300}, "num_classes is from 2 to 255"),
    ({"num_classes": 4}, "gives 5 classes and 4 are stated"),
    ({"classes": ("road", "sky")}, "gives 5 classes and 2 are stated"),
    ({"size_multiple": 0}, "size_multiple must be a whole number of at least 1"),
    ({"logits_stride": 1}, "logits_stride must be a whole number of at least 2"),
    ({"logits_stride": 4}, "a logits stride of 4 means 64 rows; leave --logits-stride out"),
    (
        {"output_name": "aux"},
        "gives 64x80 for a frame of 256x320, and no factor is stated.*--logits-stride 4",
    ),
    ({"output_name": "aux", "logits_stride": 8}, "stride of 8 means 32 rows; give --logits-stride 4"),
    ({"output_name": "logits"}, "has no output 'logits'; choose from aux, out"),
    ({"outputs": ["masks"]}, "choose from labels, confidence, logits"),
    ({"max_size": (0, 10)}, "max_size must be a whole number of at least 1"),
]


@pytest.mark.parametrize(("changed", "message"), BAD_ARGUMENTS, ids=lambda value: str(value)[:40])
def test_arguments_that_do_not_fit(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    original = exporters.torchvision(tmp_path / "original.onnx")
    with pytest.raises(UsageError, match=message):
        wrap_model(original, tmp_path / "deploy.onnx", **{**IMAGENET, **changed})
    assert [p.name for p in tmp_path.iterdir()] == ["original.onnx"]


def test_imagenet_s_mean_in_the_other_order_is_told(tmp_path: Path) -> None:
    swapped = {**IMAGENET, "mean": IMAGENET["mean"][::-1]}
    result = wrap_model(_tiny(tmp_path / "original.onnx"), tmp_path / "deploy.onnx", **swapped)
    assert any("it is ImageNet's in the order bgr" in sentence for sentence in result.assumptions)


def _tiny(path: Path, frame: Any = exporters.FRAMES, **changed: Any) -> Path:
    """One convolution of 3 channels, with a part of it changed."""
    graph = exporters.Graph()
    graph.conv("input", "score", (CLASSES, 3, 1, 1))
    for node in changed.get("nodes", ()):
        graph.nodes.append(node)
    if "weights" in changed:
        graph.tensors[0].CopyFrom(numpy_helper.from_array(changed["weights"], "score.weight"))
    outputs = changed.get("outputs") or {"score": (TensorProto.FLOAT, ["n", CLASSES, "h", "w"])}
    inputs = {"input": frame, **changed.get("inputs", {})}
    domains = changed.get("domains", ())
    return graph.save(path, inputs, outputs, opset=17, ir=8, producer="x", domains=domains)


NAN = np.full((CLASSES, 3, 1, 1), np.nan, np.float32)
FLOAT = TensorProto.FLOAT
BAD_FILES: dict[str, tuple[dict[str, Any], str]] = {
    "two inputs": (
        {
            "inputs": {"size": (TensorProto.INT64, [2])},
            "nodes": [helper.make_node("Identity", ["size"], ["copy"])],
        },
        r"has 2 inputs \(input, size\)",
    ),
    "int64 input": ({"frame": (TensorProto.INT64, [1, 3, 8, 8])}, "is int64 and must be float32 or float16"),
    "uint8 input": ({"frame": (TensorProto.UINT8, [1, 3, 8, 8])}, "without its preprocessing"),
    "rank 3": ({"frame": (FLOAT, [3, "h", "w"])}, "is of rank 3; expected"),
    "gray": ({"frame": (FLOAT, ["n", 1, "h", "w"])}, r"is \[\?, 1, \?, \?\], frames of 1 channels"),
    "four channels": ({"frame": (FLOAT, [1, 4, 8, 8])}, "frames of 4 channels"),
    "batches": ({"frame": (FLOAT, [4, 3, 8, 8])}, "takes batches of 4 only"),
    "NaN": ({"weights": NAN}, "score.weight of original.onnx holds NaN"),
    "5-D output": (
        {
            "nodes": [helper.make_node("Unsqueeze", ["score", "axis"], ["deep"])],
            "outputs": {"deep": (FLOAT, [1, "n", CLASSES, "h", "w"])},
        },
        "gives deep of rank 5",
    ),
    "flat output": (
        {
            "nodes": [helper.make_node("ReduceMean", ["score"], ["mean"], axes=[3], keepdims=0)],
            "outputs": {"mean": (FLOAT, ["n", CLASSES, "h"])},
        },
        r"gives shape \[1, 5, 256\] for one frame of 256x320",
    ),
    "custom operators": (
        {
            "nodes": [helper.make_node("DeformConv", ["score"], ["bent"], domain="mmdeploy")],
            "outputs": {"bent": (FLOAT, ["n", CLASSES, "h", "w"])},
            "domains": ["mmdeploy"],
        },
        "operators that are not ONNX's own: mmdeploy.DeformConv",
    ),
    "older INT8": (
        {
            "nodes": [helper.make_node("ConvInteger", ["score", "score.weight"], ["int"])],
            "outputs": {"int": (TensorProto.INT32, ["n", CLASSES, "h", "w"])},
        },
        "is quantised with ConvInteger, which TensorRT does not read",
    ),
    "no operator": (
        {
            "nodes": [helper.make_node("NoSuchOperator", ["score"], ["x"])],
            "outputs": {"x": (FLOAT, ["n", CLASSES, "h", "w"])},
        },
        "refuses original.onnx",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_cannot_be_wrapped(tmp_path: Path, name: str) -> None:
    changed, message = BAD_FILES[name]
    original = _tiny(tmp_path / "original.onnx", **changed)
    with pytest.raises(ModelError, match=message):
        wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET)
    assert [p.name for p in tmp_path.iterdir()] == ["original.onnx"]


def test_an_artefact_is_not_wrapped_again(tmp_path: Path) -> None:
    result = wrap_model(_tiny(tmp_path / "original.onnx"), tmp_path / "deploy.onnx", **IMAGENET)
    with pytest.raises(ModelError, match="is an artefact of fcn-deploy already"):
        wrap_model(result.path, tmp_path / "again.onnx", **IMAGENET)


def test_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    model = onnx.load(_tiny(tmp_path / "one.onnx"))
    original = inside / "original.onnx"
    onnx.save(model, str(original), save_as_external_data=True, location="w.bin", size_threshold=0)
    (inside / "w.bin").rename(tmp_path / "w.bin")
    light = onnx.load(str(original), load_external_data=False)
    for tensor in light.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../w.bin" if entry.key == "location" else entry.value
    original.write_bytes(light.SerializeToString())
    with pytest.raises(ModelError, match="outside its own folder"):
        wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET)


@pytest.mark.parametrize("content", [b"", b"\x00garbage", b"\xff" * 100, b"\x08\x08"])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    original = tmp_path / "original.onnx"
    original.write_bytes(content)
    with pytest.raises(FcnDeployError, match=r"original\.onnx") as caught:
        wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET)
    assert caught.value.exit_code == 2


def test_the_target_is_checked_first(tmp_path: Path) -> None:
    original = _tiny(tmp_path / "original.onnx")
    for target, message in (
        (original, "is the model itself"),
        (tmp_path / "missing" / "deploy.onnx", "does not exist"),
        (tmp_path / "deploy.engine", "must end in .onnx"),
    ):
        with pytest.raises(UsageError, match=message):
            wrap_model(original, target, **IMAGENET)


def test_a_fixed_size_is_not_padded(tmp_path: Path) -> None:
    original = exporters.ultralytics(tmp_path / "original.onnx")
    with pytest.raises(UsageError, match="frames of 64x96 only, none to pad"):
        wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET, size_multiple=32)


def test_labels_beyond_the_classes_are_told(tmp_path: Path) -> None:
    graph = exporters.Graph()
    x = graph.conv("input", "score", (1, 3, 1, 1))
    x = graph.add("Abs", [x], "size")
    graph.add("Mul", [x, graph.constant(9.0, "nine")], "many")
    graph.add("Cast", ["many"], "map", to=TensorProto.INT32)
    original = graph.save(
        tmp_path / "original.onnx",
        {"input": exporters.FRAMES},
        {"map": (TensorProto.INT32, ["n", 1, "h", "w"])},
        opset=17,
        ir=8,
        producer="x",
    )
    with pytest.raises(UsageError, match="nothing in it says how many classes"):
        wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET)
    with pytest.raises(UsageError, match=r"gives label \d+, and 3 classes are stated"):
        wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET, num_classes=3)


def test_an_old_opset_that_cannot_be_converted_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = exporters.mmdeploy(tmp_path / "original.onnx")

    def refuse(*_: object) -> None:
        raise RuntimeError("no adapter")

    monkeypatch.setattr(onnx.version_converter, "convert_version", refuse)
    with pytest.raises(ExportError, match=r"opset 11 cannot be converted to 20 \(no adapter\)"):
        wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET)


def test_progress_names_each_step(tmp_path: Path) -> None:
    steps: list[str] = []
    wrap_model(_tiny(tmp_path / "original.onnx"), tmp_path / "deploy.onnx", **IMAGENET, progress=steps.append)
    assert steps[0] == "reading the file"
    assert steps[-1] == "writing"
    assert all(a != b for a, b in itertools.pairwise(steps))


def test_the_written_graph_is_in_the_form_that_other_passes_read(tmp_path: Path) -> None:
    original = exporters.paddleseg(tmp_path / "original.onnx")
    model, _ = read_model(wrap_model(original, tmp_path / "deploy.onnx", **IMAGENET).path)
    names = [node.name for node in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    kernels = {tensor.name for tensor in model.graph.initializer}
    assert all(node.input[1] in kernels for node in model.graph.node if node.op_type == "Conv")
    assert "Constant" not in operators(tmp_path / "deploy.onnx")
