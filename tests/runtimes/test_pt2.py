"""``.pt2``: what may be opened, what is read without opening it, and what it answers."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from fcn_deploy.errors import ModelError, UsageError  # noqa: E402
from fcn_deploy.files import sha256_of  # noqa: E402
from fcn_deploy.model.deploy import reference_logits  # noqa: E402
from fcn_deploy.model.user import ModuleOptions, UserNetwork  # noqa: E402
from fcn_deploy.runtimes.artefact import describe, identity, read_spec  # noqa: E402
from fcn_deploy.runtimes.pt2 import (  # noqa: E402
    add_spec,
    check_trust,
    content_of_program,
    manifest_path,
    parameters_of_program,
    read_pt2_spec,
    write_manifest,
)
from fcn_deploy.runtimes.registry import load  # noqa: E402


@pytest.fixture
def copy(program, tmp_path: Path) -> Path:
    """The artefact and its manifest in a folder of their own."""
    path = tmp_path / "copy.pt2"
    shutil.copy(program[0], path)
    shutil.copy(manifest_path(program[0]), manifest_path(path))
    return path


@pytest.fixture(scope="module")
def opened(program):
    with load(program[0], device="cpu") as segmenter:
        yield segmenter


@pytest.fixture(scope="module")
def network(program) -> UserNetwork:
    return UserNetwork(program[1], ModuleOptions(size_multiple=8))


@settings(max_examples=25)
@given(shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70)))
def test_it_answers_as_the_module_does_at_every_size(
    opened, program, network, shape: tuple[int, int, int]
) -> None:
    frames = np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)
    answer = opened.infer(frames)
    expected = reference_logits(network, program[2], frames)
    assert answer.logits.shape == (shape[0], 3, *shape[1:])
    assert np.abs(answer.logits - expected).max() <= 1e-5 * np.abs(expected).max()
    np.testing.assert_array_equal(answer.labels, answer.logits.argmax(1))
    assert answer.confidence.dtype == np.float32 and answer.confidence.shape == shape
    assert answer.confidence.min() >= 1 / 3 - 1e-6 and answer.confidence.max() <= 1 + 1e-6


def test_what_runs_it(opened) -> None:
    assert (opened.backend, opened.device, opened.precision) == ("pytorch", "cpu", "fp32")
    assert opened.details()["computes_in"] == "fp32"


def test_it_runs_where_the_users_code_is_gone(copy: Path, tmp_path: Path) -> None:
    """In a process that never sees the file with the network's classes."""
    frames = np.random.default_rng(1).integers(0, 256, (1, 13, 21, 3), dtype=np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    code = (
        "import sys, numpy as np, fcn_deploy\n"
        f"with fcn_deploy.load({str(copy)!r}, device='cpu') as model:\n"
        f"    labels = model.infer(np.load({str(tmp_path / 'frames.npy')!r})).labels\n"
        f"np.save({str(tmp_path / 'labels.npy')!r}, labels)\n"
        "assert 'user_modules' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=120, env=_environment())
    with load(copy, device="cpu") as segmenter:
        np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), segmenter.infer(frames).labels)


def _environment() -> dict[str, str]:
    import fcn_deploy

    return {**os.environ, "PYTHONPATH": str(Path(fcn_deploy.__file__).parents[1])}


# What may be opened


def test_the_manifest_lets_it_be_opened(copy: Path) -> None:
    check_trust(copy, None, trust=False)


def test_without_a_manifest_it_is_refused_unless_its_hash_is_known_or_it_is_trusted(copy: Path) -> None:
    manifest_path(copy).unlink()
    with pytest.raises(
        ModelError, match=r"can run any code .*copy\.pt2\.json is not beside it.*--expect-sha256"
    ):
        load(copy)
    load(copy, expect_sha256=sha256_of(copy)).close()
    load(copy, trust=True).close()


def test_a_hash_that_is_expected_wins_over_the_manifest_and_trust(copy: Path) -> None:
    with pytest.raises(ModelError, match=f"expected {'0' * 64}; do not load it"):
        load(copy, expect_sha256="0" * 64, trust=True)
    with pytest.raises(UsageError, match="64 hexadecimal digits, not 'abc'"):
        load(copy, expect_sha256="abc")


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        ('{"sha256": "00"}', "is not the program that copy.pt2.json was written for"),
        ("{}", r"copy\.pt2\.json is damaged \(KeyError\)"),
        ("[1]", r"is damaged \(TypeError\)"),
        ("not json", r"is damaged \(JSONDecodeError\)"),
        (b"\xff\xfe", r"is damaged \(UnicodeDecodeError\)"),
        ("", r"is damaged"),
    ],
)
def test_a_manifest_of_another_program_or_none(copy: Path, manifest: str | bytes, told: str) -> None:
    text = manifest if isinstance(manifest, bytes) else manifest.encode()
    manifest_path(copy).write_bytes(text)
    with pytest.raises(ModelError, match=told):
        load(copy)


def test_a_program_that_was_changed_after_its_manifest_was_written(copy: Path) -> None:
    data = bytearray(copy.read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    with pytest.raises(ModelError, match="is not the program that"):
        load(copy)


class Hostile:
    """Its pickle makes a folder where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.canary),)


def hostile(path: Path, canary: Path, program: Path) -> Path:
    """The program with a pickle where torch.export.load reads one: as a weight that is said to be pickled."""
    payload = io.BytesIO()
    torch.save(Hostile(canary), payload)
    with zipfile.ZipFile(program) as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            data = good.read(name)
            if name.endswith("model_weights_config.json"):
                listed = json.loads(data)
                for weight in listed["config"].values():
                    weight["use_pickle"] = True
                data = json.dumps(listed).encode()
            bad.writestr(name, payload.getvalue() if "/weight_" in name else data)
    return path


def test_a_hostile_file_is_refused_before_anything_runs(program, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = hostile(tmp_path / "hostile.pt2", canary, program[0])
    for options in ({}, {"expect_sha256": sha256_of(program[0])}):
        with pytest.raises(ModelError):
            load(path, **options)
    shutil.copy(manifest_path(program[0]), manifest_path(path))
    with pytest.raises(ModelError, match="is not the program that"):
        load(path)
    assert read_pt2_spec(path) == program[2], "its description is read as text"
    assert program[2].describes(content_of_program(path)) is False
    assert len(identity(path)) == 64
    assert describe(path).rows, "what inspect shows is read as text too"
    assert not canary.exists()

    with contextlib.suppress(ModelError):
        load(path, trust=True)
    if not canary.exists():
        pytest.skip("this PyTorch reads the file in another way, so that nothing above could have run")


# What is read without opening it


def test_the_description_needs_no_pytorch(copy: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from fcn_deploy.runtimes.artefact import read_spec, identity\n"
        f"print(read_spec({str(copy)!r}).architecture.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=_environment()
    )
    assert done.stdout == "UNet\n", done.stderr


def test_how_many_weights_there_are(program) -> None:
    expected = sum(weight.numel() for weight in program[1].parameters())
    assert parameters_of_program(program[0]) == {"f32": expected}


@pytest.mark.parametrize("kept", [0, 10, 1000, -1, -30])
def test_a_file_that_was_cut_off(copy: Path, kept: int) -> None:
    copy.write_bytes(copy.read_bytes()[:kept])
    with pytest.raises((ModelError, UsageError), match=r"copy\.pt2 is (not a complete \.pt2 file|empty)"):
        read_spec(copy)
    with pytest.raises((ModelError, UsageError), match=r"copy\.pt2 is (not |empty)"):
        load(copy, trust=True)


@pytest.mark.parametrize("content", [b"\x08\x0aonnx", b"\x80\x02.", b"PK\x03\x04 and no more", b"x" * 5000])
def test_a_file_of_another_kind_under_this_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "renamed.pt2"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"renamed\.pt2 is not a complete \.pt2 file"):
        load(path, trust=True)


def test_a_checkpoint_under_this_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt2"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match=r"weights\.pt2 carries no description of fcn-deploy"):
        load(path, trust=True)


def test_a_program_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "other.pt2"
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(2),)), path)
    with pytest.raises(ModelError, match=r"other\.pt2 carries no description of fcn-deploy"):
        load(path, trust=True)


def test_a_description_without_a_program(program, tmp_path: Path) -> None:
    path = tmp_path / "empty.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/archive_format", "pt2")
    add_spec(path, program[2])
    assert read_pt2_spec(path) == program[2]
    assert parameters_of_program(path) == {}
    with pytest.raises(
        ModelError, match=r"empty\.pt2 is no program that torch .* can open \(.*\); export it again"
    ):
        load(path, trust=True)


def test_a_description_that_is_too_large_to_be_one(
    program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcn_deploy.runtimes.pt2._LARGEST", 100)
    with pytest.raises(ModelError, match="is not a complete"):
        read_pt2_spec(program[0])


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_bit_that_is_wrong_is_never_an_error_of_another_class(
    program, tmp_path_factory, place, bit
) -> None:
    data = bytearray(program[0].read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path = tmp_path_factory.mktemp("bit") / "bit.pt2"
    path.write_bytes(data)
    for read in (read_pt2_spec, content_of_program, parameters_of_program):
        try:
            read(path)
        except ModelError as exc:
            assert "bit.pt2" in str(exc)


# The digest and the manifest


def test_the_digest_covers_program_and_description(copy: Path, tmp_path: Path) -> None:
    spec = read_spec(copy)
    assert spec.describes(content_of_program(copy)) is True
    other = tmp_path / "other.pt2"
    with zipfile.ZipFile(copy) as good, zipfile.ZipFile(other, "w") as bad:
        for name in good.namelist():
            data = good.read(name)
            bad.writestr(name, data[:-1] + b"\1" if name.endswith("weight_0") else data)
    assert spec.describes(content_of_program(other)) is False


def test_the_content_is_the_same_whatever_the_order_and_folder_in_the_archive(
    copy: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.pt2"
    with zipfile.ZipFile(copy) as good, zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as new:
        for name in reversed(good.namelist()):
            new.writestr(name.replace("archive/", "renamed/", 1), good.read(name))
    assert content_of_program(other) == content_of_program(copy)


def test_a_manifest_says_more_than_the_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.pt2"
    path.write_bytes(b"anything")
    write_manifest(path, {"torch": "9.9"})
    written = json.loads((tmp_path / "a.pt2.json").read_text())
    assert written == {"schema": 1, "sha256": sha256_of(path), "torch": "9.9"}
