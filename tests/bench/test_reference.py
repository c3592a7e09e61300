"""Which checkpoint an artefact is compared with, and why there may be none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from fcn_deploy.bench import reference
from fcn_deploy.bench.reference import (
    chain_reference,
    label_with_reference,
    load_reference,
    named_reference,
)
from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.files import sha256_of
from fcn_deploy.runtimes.artefact import identity, read_spec
from fcn_deploy.spec import METADATA_KEY, ModelSpec


def weights(path: Path, spec: ModelSpec | None = None, value: float = 0.0) -> Path:
    """A file that looks like weights from outside."""
    path.parent.mkdir(exist_ok=True)
    metadata = {METADATA_KEY: spec.to_json()} if spec else None
    safetensors.numpy.save_file({"conv1_1.weight": np.full(3, value, np.float16)}, path, metadata)
    return path


def link_to(path: Path, **more: object) -> dict[str, object]:
    return {"kind": "checkpoint", "name": path.name, "sha256": sha256_of(path), **more}


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    path = tmp_path / "out" / "model.onnx"
    path.parent.mkdir()
    path.touch()
    return path


def test_the_checkpoint_beside_the_artefact_is_found_by_its_hash(artefact: Path, spec: ModelSpec) -> None:
    weights(artefact.with_name("decoy.safetensors"), value=1)
    checkpoint = weights(artefact.with_name("mine.safetensors"), value=2)
    link = {**link_to(checkpoint), "name": "renamed since.safetensors"}
    found = chain_reference(artefact, spec.with_parent(**link), [])
    assert found.path == str(checkpoint)
    assert "own provenance" in str(found)


def test_a_namesake_with_another_hash_is_refused(artefact: Path, spec: ModelSpec) -> None:
    checkpoint = weights(artefact.with_name("mine.safetensors"), value=2)
    link = link_to(checkpoint)
    weights(checkpoint, value=3)
    with pytest.raises(ModelError, match=r"mine\.safetensors \(sha256 [0-9a-f]{12}\) is not beside it"):
        chain_reference(artefact, spec.with_parent(**link), [])


def test_other_artefacts_given_and_their_neighbours_count(
    artefact: Path, tmp_path: Path, spec: ModelSpec
) -> None:
    checkpoint = weights(tmp_path / "elsewhere" / "mine.safetensors")
    found = chain_reference(artefact, spec.with_parent(**link_to(checkpoint)), [checkpoint])
    assert found.path == str(checkpoint)


def test_graphs_of_the_chain_are_passed_over(artefact: Path, spec: ModelSpec) -> None:
    checkpoint = weights(artefact.with_name("mine.safetensors"))
    chained = spec.with_parent(**link_to(checkpoint)).with_parent(kind="onnx", name="a.onnx", sha256="0" * 64)
    assert chain_reference(artefact, chained, []).path == str(checkpoint)


def test_an_earlier_checkpoint_does_not_replace_a_missing_one(artefact: Path, spec: ModelSpec) -> None:
    ancestor = weights(artefact.with_name("before-training.safetensors"))
    chained = spec.with_parent(**link_to(ancestor))
    chained = chained.with_parent(kind="safetensors", name="trained.safetensors", sha256="1" * 64)
    with pytest.raises(ModelError, match=r"trained\.safetensors"):
        chain_reference(artefact, chained, [])


def test_how_weights_are_stored_says_nothing(artefact: Path, spec: ModelSpec) -> None:
    """The bundled ones are stored as float16, and what is exported from them has the same numbers."""
    stored = weights(artefact.with_name("small.safetensors"), spec)
    assert chain_reference(artefact, spec.with_parent(**link_to(stored)), []).path == str(stored)


def test_weights_of_lower_precision_lead_to_their_parent(artefact: Path, spec: ModelSpec) -> None:
    full = weights(artefact.with_name("full.safetensors"))
    half = weights(artefact.with_name("half.safetensors"), spec.replace(precision="fp16"))
    chained = spec.with_parent(**link_to(full)).with_parent(**link_to(half, kind="safetensors"))
    assert chain_reference(artefact, chained, []).name == "full.safetensors"


def test_an_fp32_artefact_is_its_own_reference(tmp_path: Path, spec: ModelSpec) -> None:
    path = weights(tmp_path / "model.safetensors", spec)
    found = chain_reference(path, spec, [])
    assert (found.name, found.why) == ("model.safetensors", "its own weights")


def test_an_fp16_artefact_is_not(tmp_path: Path, spec: ModelSpec) -> None:
    half = spec.replace(precision="fp16")
    path = weights(tmp_path / "model.safetensors", half)
    with pytest.raises(ModelError, match="names no fp32 checkpoint"):
        chain_reference(path, half, [])


def test_bundled_weights_are_known_by_their_hash(
    artefact: Path, tmp_path: Path, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = weights(tmp_path / "package" / "bundled.safetensors", value=5)
    monkeypatch.setattr(reference, "bundled_path", lambda: bundled)
    link = {**link_to(bundled), "name": "bundled"}
    found = chain_reference(artefact, spec.with_parent(**link), [])
    assert (found.name, found.path) == ("bundled", str(bundled))
    assert named_reference("bundled", spec).path == str(bundled)


def test_random_weights_are_generated_again(artefact: Path) -> None:
    from fcn_deploy.model.checkpoints.describe import describe
    from fcn_deploy.model.checkpoints.random import random_model

    model, info = random_model(3, "fcn8s-lite", width=2, fc_channels=4, seed=7)
    found = chain_reference(artefact, describe(model, info), [])
    assert found.path is None
    again, _ = load_reference(found)
    for (key, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert (a == b).all(), key


def test_a_checkpoint_trained_on_rgb_is_read_as_such(artefact: Path) -> None:
    import torch

    from fcn_deploy.model.checkpoints.describe import describe
    from fcn_deploy.model.checkpoints.layouts import load_checkpoint
    from fcn_deploy.model.checkpoints.random import random_model

    checkpoint = artefact.with_name("mine.pth")
    torch.save(random_model(3, "fcn8s-lite", width=2, fc_channels=4)[0].state_dict(), checkpoint)
    model, info = load_checkpoint(checkpoint, variant="fcn8s-lite", trained_on="rgb")
    spec = describe(model, info)
    spec = spec.replace(provenance=({**spec.provenance[0], "trained_on": "rgb"},))
    again, _ = load_reference(chain_reference(artefact, spec, []))
    assert (again.conv1_1.weight == model.conv1_1.weight).all()


def test_a_variant_that_keys_do_not_tell_is_that_of_the_description(artefact: Path) -> None:
    import torch

    from fcn_deploy.model.checkpoints.describe import describe
    from fcn_deploy.model.checkpoints.layouts import load_checkpoint
    from fcn_deploy.model.checkpoints.random import random_model

    keys = {
        "score_pool4": "score_pool4_fr",
        "score_pool3": "score_pool3_fr",
        "upscore_pool4": "upscore2_pool4",
    }
    state = {}
    for key, value in random_model(3, "fcn8s-lecture", width=2, fc_channels=4)[0].state_dict().items():
        layer, kind = key.split(".")
        state[f"{keys.get(layer, layer + '.0' * layer.startswith('conv'))}.{kind}"] = value
    checkpoint = artefact.with_name("lecture.pth")
    torch.save(state, checkpoint)
    for variant in ("fcn8s-lecture", "fcn8s-lecture-norelu"):
        spec = describe(*load_checkpoint(checkpoint, variant=variant))
        again, _ = load_reference(chain_reference(artefact, spec, []))
        assert again.architecture.name == variant


@pytest.mark.parametrize("name", ["mine.pth.tar", "checkpoint"])
def test_the_set_of_weights_that_was_exported_is_the_reference(name: str, artefact: Path) -> None:
    import torch

    from fcn_deploy.model.checkpoints import describe, load_checkpoint, random_model

    kept, average = (random_model(3, "fcn8s-lite", width=1, fc_channels=2, seed=i)[0] for i in (1, 2))
    path = artefact.with_name(name)
    torch.save({"model": kept.state_dict(), "ema": average.state_dict()}, path)
    spec = describe(*load_checkpoint(path, variant="fcn8s-lite", key="ema"))
    again, _ = load_reference(chain_reference(artefact, spec, []))
    assert torch.equal(again.state_dict()["fc7.weight"], average.state_dict()["fc7.weight"])


def test_a_named_reference_keeps_its_own_description(tmp_path: Path, spec: ModelSpec) -> None:
    own = spec.replace(color_order="rgb", std=(2.0, 2.0, 2.0))
    found = named_reference(str(weights(tmp_path / "teacher.safetensors", own)), spec)
    read = ModelSpec.from_json(found.spec)
    assert (read.color_order, read.std) == ("rgb", (2.0, 2.0, 2.0))
    bare = named_reference(str(weights(tmp_path / "bare.safetensors")), spec)
    assert ModelSpec.from_json(bare.spec).color_order == "bgr"


def test_artefacts_of_one_model_share_one_reference(tmp_path: Path, spec: ModelSpec) -> None:
    path = str(weights(tmp_path / "teacher.safetensors"))
    other = spec.replace(precision="fp16", outputs=("labels", "confidence"), note="halved")
    assert named_reference(path, spec) == named_reference(path, other)


@pytest.mark.parametrize(
    ("name", "told"),
    [("missing.pth", "does not exist"), (".", "is a folder"), ("model.engine", "is not a checkpoint")],
)
def test_a_named_reference_must_be_a_checkpoint(
    artefact: Path, spec: ModelSpec, name: str, told: str
) -> None:
    artefact.with_name("model.engine").write_bytes(b"x")
    with pytest.raises(UsageError, match=told):
        named_reference(str(artefact.parent / name), spec)


def test_a_named_reference_must_be_fp32(tmp_path: Path, spec: ModelSpec) -> None:
    path = weights(tmp_path / "half.safetensors", spec.replace(precision="fp16"))
    with pytest.raises(UsageError, match="conversion to lower precision"):
        named_reference(str(path), spec)


# Modules of the user's own, whose code is not here: the fp32 artefact is the reference

MODULE = {"kind": "module", "name": "w.pth in nets.py:make", "sha256": "a" * 64}
IN_MEMORY = {"kind": "module", "name": "Net in memory", "sha256": None}


def test_an_fp32_artefact_of_a_module_is_its_own_reference(make_onnx) -> None:
    path = make_onnx(provenance=(IN_MEMORY,))
    found = chain_reference(path, read_spec(path), [])
    assert (found.kind, found.path) == ("artefact", str(path))
    assert "its own fp32 form, which export compared with the module" in str(found)


def test_a_conversion_finds_the_fp32_artefact_that_it_was_made_from(make_onnx) -> None:
    parent = make_onnx("fp32.onnx", provenance=(IN_MEMORY,))
    link = {"kind": "onnx", "name": "renamed since.onnx", "sha256": identity(parent)}
    child = make_onnx("int8.onnx", provenance=(link, IN_MEMORY), precision="int8")
    found = chain_reference(child, read_spec(child), [])
    assert (found.name, found.kind) == ("fp32.onnx", "artefact")


def test_another_file_of_the_same_weights_will_do(make_onnx, tmp_path: Path) -> None:
    other = make_onnx("elsewhere/fp32.onnx", provenance=(MODULE,))
    child = make_onnx("fp16.onnx", provenance=(MODULE,), precision="fp16")
    assert chain_reference(child, read_spec(child), [other]).path == str(other)


@pytest.mark.parametrize("root", [MODULE, IN_MEMORY], ids=["from a file", "in memory"])
def test_without_an_fp32_artefact_there_is_no_reference(make_onnx, root) -> None:
    """Two modules in memory have no hash that says that they are the same."""
    child = make_onnx("fp16.onnx", provenance=(root,), precision="fp16")
    make_onnx("half.onnx", provenance=(root,), precision="fp16")
    make_onnx("another.onnx", provenance=({**IN_MEMORY, "name": "Other in memory"},))
    with pytest.raises(
        ModelError, match=f"it was made of {root['name']}, and no fp32 artefact of it is beside"
    ):
        chain_reference(child, read_spec(child), [])


def test_an_artefact_can_be_named_as_the_reference(make_onnx, program, spec: ModelSpec) -> None:
    path = make_onnx(provenance=(IN_MEMORY,))
    found = named_reference(str(path), spec)
    assert (found.kind, found.name) == ("artefact", "tiny.onnx")
    assert named_reference(str(program[0]), spec).kind == "artefact"
    half = make_onnx("half.onnx", precision="fp16")
    with pytest.raises(UsageError, match="conversion to lower precision"):
        named_reference(str(half), spec)


@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_an_artefact_labels_the_frames_in_its_own_colour_order(make_onnx, tmp_path: Path, order: str) -> None:
    path = make_onnx(provenance=(IN_MEMORY,), color_order=order)
    frames = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)  # B, G, R
    np.save(tmp_path / "frames.npy", frames)
    job = chain_reference(path, read_spec(path), []).job()
    answer = label_with_reference(job, str(tmp_path / "frames.npy"), str(tmp_path / "labels.npy"))
    assert answer == {"classes": 3}
    handed = frames if order == "bgr" else frames[..., ::-1]
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), handed.argmax(-1))


def test_a_program_labels_the_frames(program, tmp_path: Path, spec: ModelSpec) -> None:
    np.save(tmp_path / "frames.npy", np.zeros((2, 9, 7, 3), np.uint8))
    job = named_reference(str(program[0]), spec).job()
    answer = label_with_reference(job, str(tmp_path / "frames.npy"), str(tmp_path / "labels.npy"))
    assert answer == {"classes": 3}
    assert np.load(tmp_path / "labels.npy").shape == (2, 9, 7)


def test_a_program_without_its_manifest_labels_where_it_is_trusted(
    program, tmp_path: Path, spec: ModelSpec
) -> None:
    alone = tmp_path / "alone.pt2"
    alone.write_bytes(program[0].read_bytes())
    np.save(tmp_path / "frames.npy", np.zeros((1, 9, 7, 3), np.uint8))
    files = (str(tmp_path / "frames.npy"), str(tmp_path / "labels.npy"))
    job = named_reference(str(alone), spec).job()
    with pytest.raises(ModelError, match="is a program, which can run any code"):
        label_with_reference(job, *files)
    assert label_with_reference(job, *files, trust=True) == {"classes": 3}


def test_typical_user_code_of_a_module_must_be_given(make_onnx) -> None:
    path = make_onnx(provenance=(IN_MEMORY,))
    found = chain_reference(path, read_spec(path), [])
    with pytest.raises(ModelError, match=r"whose code is not here; .*--typical-model FILE"):
        load_reference(found)
