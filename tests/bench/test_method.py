"""The whole measurement: fair turns, honest agreement, rows that fail alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.bench.method import benchmark, rotated
from fcn_deploy.bench.plan import open_specs
from fcn_deploy.bench.report import remarks
from fcn_deploy.bench.results import BenchmarkResult, Row
from fcn_deploy.errors import ModelError, UsageError
from fcn_deploy.files import sha256_of

QUICK = {"sizes": ((12, 20),), "rounds": 3, "seconds": 0.03, "threads": 1}

# What a file does depends on its name: "slow" and "fast" differ by a delay, "wrong" gives another label,
# "crash" and "hang" do so at their first call.
ACTORS = """
import os, pathlib, sys, time
import numpy as np
from fcn_deploy.bench.subjects import ArtefactSubject
from fcn_deploy.bench.worker import Worker, main
from fcn_deploy.errors import ModelError
from fcn_deploy.testing import FakeRuntime

def act(path, **_):
    name = pathlib.Path(path).stem
    def rule(images):
        with open(pathlib.Path(path).with_name("turns.txt"), "a") as log:
            log.write(name + "\\n")
        if "crash" in name:
            os._exit(9)
        if "hang" in name:
            time.sleep(600)
        return np.full(images.shape[:3], 2 if "wrong" in name else 1, np.uint8)
    if "refuse" in name:
        raise ModelError(name + " is refused")
    return ArtefactSubject(FakeRuntime(rule, delay=0.08 if "slow" in name else 0.002))

class Actors(Worker):
    def reference(self, request):
        job = request["job"]
        pool = np.load(job["frames"])
        labels = np.ones(pool.shape[:3], np.uint8)
        labels[0, 0] = 2
        np.save(job["out"], labels)
        return {"classes": 3}

main(Actors(act))
"""


@pytest.fixture
def actors(plant: Callable[[str], None], make_onnx) -> Callable[..., BenchmarkResult]:
    plant(ACTORS)

    def play(*names: str, **options) -> BenchmarkResult:
        paths = [make_onnx(f"{name}.onnx", provenance=(RANDOM,)) for name in names]
        return benchmark(paths, **{**QUICK, **options})

    return play


RANDOM = {"kind": "random", "name": "random (seed 3)", "sha256": None}


def by_name(report: BenchmarkResult) -> dict[str, Row]:
    return {row.artefact.removesuffix(".onnx"): row for row in report.rows}


def test_the_slow_one_is_slower_and_the_ratio_says_so(actors: Callable[..., BenchmarkResult]) -> None:
    rows = by_name(actors("slow", "fast"))
    slow, fast = rows["slow"], rows["fast"]
    assert slow.latency_ms.p50 >= 80 > fast.latency_ms.p50
    assert slow.ratio.baseline == fast.ratio.baseline == slow.name
    assert slow.ratio.median == 1
    assert fast.ratio.min > 2
    assert fast.frames_per_second > slow.frames_per_second
    assert fast.stages_ms.infer.p50 <= fast.latency_ms.p50
    assert slow.calls == 3  # at least one a turn, however long it takes
    assert len(slow.latency_ms.rounds) == len(fast.latency_ms.rounds) == 3
    # And whoever waited slept.
    assert max(slow.idle_cpu_seconds, fast.idle_cpu_seconds) < 0.2


def test_rows_have_their_turns_in_rotation(actors: Callable[..., BenchmarkResult], tmp_path: Path) -> None:
    actors("a", "b", "c", rounds=3, seconds=3e-9)
    calls = (tmp_path / "turns.txt").read_text().split()
    # Timed at the end: 3 rounds of 3 rows, 2 calls each (one is not counted), then 8 frames for labels.
    turns = calls[-(18 + 24) : -24]
    assert turns == [*"aabbcc", *"bbccaa", *"ccaabb"]
    assert set(Counter(calls[:-42]).values()) <= set(range(11, 200))


@given(st.lists(st.integers(), min_size=1, max_size=7, unique=True))
def test_rotation_gives_each_row_each_place(rows: list[int]) -> None:
    places = zip(*(rotated(rows, turn) for turn in range(len(rows))), strict=True)
    assert all(sorted(place) == sorted(rows) for place in places)


def test_wrong_labels_are_found_however_fast_they_are(actors: Callable[..., BenchmarkResult]) -> None:
    rows = by_name(actors("right", "wrong"))
    right, wrong = rows["right"].agreement, rows["wrong"].agreement
    assert right.share == pytest.approx(1 - 1 / (8 * 12))  # one line of one frame in eight
    assert right.worst_frame == pytest.approx(1 - 1 / 12)
    assert wrong.share == pytest.approx(1 / (8 * 12))
    assert wrong.worst_frame == 0
    assert right.frames == 8
    assert "random (seed 3)" in right.reference


def test_rows_that_crash_hang_or_refuse_fail_alone(actors: Callable[..., BenchmarkResult]) -> None:
    began = time.monotonic()
    report = actors("crash", "fast", "hang", "refuse", timeout=6)
    assert time.monotonic() - began < 60
    rows = by_name(report)
    assert rows["fast"].measured and rows["fast"].ratio.baseline == rows["fast"].name
    assert {row.artefact for row in report.failed} == {"crash.onnx", "hang.onnx", "refuse.onnx"}
    assert "exit code 9" in rows["crash"].failure
    assert "did not respond within 6 s" in rows["hang"].failure
    assert rows["refuse"].failure == "refuse is refused"
    assert rows["hang"].latency_ms is None and rows["hang"].ratio is None
    assert all(any(row.failure in remark for remark in remarks(report)) for row in report.failed)


def test_sizes_and_batches_are_swept(actors: Callable[..., BenchmarkResult]) -> None:
    report = actors("fast", sizes=((5, 7), (9, 4)), batches=(1, 3), rounds=1, seconds=0.01)
    cases = [(row.height, row.width, row.batch) for row in report.rows]
    assert cases == [(5, 7, 1), (5, 7, 3), (9, 4, 1), (9, 4, 3)]
    assert all(row.measured and row.agreement.frames == 8 for row in report.rows)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["rows"][3]["batch"] == 3


def test_options_reach_the_backends_that_have_them(make_onnx) -> None:
    pytest.importorskip("openvino")
    options = {"optimization": "basic", "spinning": False}
    found = benchmark(make_onnx(), **{**QUICK, "backends": ["onnxruntime", "openvino"], **options})
    assert [row.failure for row in found.rows] == [None, None]
    assert found.rows[0].details["spinning"] is False
    assert found.to_dict()["method"]["options"] == options
    assert "Options of backends: optimization=basic, spinning=False." in found.method["text"]


def test_the_same_name_twice_is_told_apart(make_onnx) -> None:
    one, two = make_onnx("one/fast.onnx"), make_onnx("two/fast.onnx")
    names = [artefact.name for artefact in open_specs([one, one])]
    assert names == ["fast.onnx", "fast.onnx (2)"]
    names = [artefact.name for artefact in open_specs([one, two, two])]
    assert names == ["one/fast.onnx", "two/fast.onnx", "two/fast.onnx (2)"]


def test_frames_of_the_users_own(actors: Callable[..., BenchmarkResult], tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "mine").mkdir()
    for i in range(3):
        Image.new("RGB", (40, 30), (i, 0, 0)).save(tmp_path / "mine" / f"{i}.png")
    report = actors("fast", frames=tmp_path / "mine", rounds=1)
    assert report.rows[0].agreement.frames == 3
    assert report.method["frames"] == "mine"


def test_progress_names_each_step(actors: Callable[..., BenchmarkResult]) -> None:
    steps: list[str] = []
    actors("fast", progress=steps.append)
    told = "\n".join(steps)
    for word in ("frames", "reference", "opening fast.onnx", "warming up", "round 3 of 3", "labels"):
        assert word in told


def test_no_reference_is_told_in_words(make_onnx) -> None:
    """Real workers from here on."""
    report = benchmark(make_onnx(note="trained for minutes"), **QUICK)
    (row,) = report.rows
    assert row.agreement.share is None
    assert "names no fp32 checkpoint" in row.agreement.reason
    assert row.device == "cpu" and row.details["provider"] == "cpu" and row.details["threads"] == 1
    assert row.memory_mb.peak >= row.memory_mb.after_load > row.memory_mb.before_load > 0
    assert row.load_seconds > 0 and row.first_answer_seconds >= row.load_seconds
    assert row.warm_up.calls >= 10 and row.warm_up.steady
    assert report.threads == 1 and "onnxruntime" in " ".join(report.versions)
    assert report.machine["cores_usable"] >= 1
    assert len(report.method["text"]) > 5
    assert any("agreement not known" in remark for remark in remarks(report))
    assert any("trained for minutes" in remark for remark in remarks(report))


def test_a_backend_only_meets_what_it_reads(make_onnx, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tiny\.onnx was left out: pytorch cannot read it"):
        benchmark(make_onnx(), backends=["pytorch"], **QUICK)


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random lite network of two channels, as a PyTorch artefact."""
    from fcn_deploy.model.checkpoints.describe import describe
    from fcn_deploy.model.checkpoints.native import save_safetensors
    from fcn_deploy.model.checkpoints.random import random_model

    model, info = random_model(3, "fcn8s-lite", width=2, fc_channels=4, seed=1)
    path = tmp_path_factory.mktemp("lite") / "lite.safetensors"
    save_safetensors(model, describe(model, info), path)
    return path


@pytest.fixture
def unrelated(lite: Path, make_onnx) -> Path:
    """An ONNX file whose provenance names the network, with other labels."""
    link = {"kind": "safetensors", "name": lite.name, "sha256": sha256_of(lite)}
    return make_onnx("unrelated.onnx", provenance=(link,))


def test_labels_of_another_model_do_not_agree_with_the_reference(lite: Path, unrelated: Path) -> None:
    own, other = benchmark([lite, unrelated], **QUICK).rows
    assert own.backend == "pytorch" and own.agreement.share > 0.999
    assert other.agreement.share < 0.9
    assert "own provenance" in other.agreement.reference


@pytest.mark.slow
def test_typical_user_code_is_the_baseline(lite: Path, unrelated: Path) -> None:
    report = benchmark([unrelated, lite], **{**QUICK, "sizes": ((33, 47),)}, batches=(2,), typical=True)
    assert not report.failed, remarks(report)
    *_, typical = report.rows
    assert typical.kind == "typical" and "bilinear kernels" in typical.description
    assert typical.agreement.share > 0.8  # the border is filled differently
    assert typical.stages_ms.preprocess.p50 > 0 and typical.stages_ms.postprocess.p50 > 0
    assert {row.ratio.baseline for row in report.rows} == {typical.name}
    assert typical.ratio.median == 1


def test_a_named_reference_with_other_classes_is_not_compared(lite: Path, make_onnx) -> None:
    four = make_onnx("four.onnx", classes=("a", "b", "c", "d"), palette=())
    (row,) = benchmark(four, reference=lite, **QUICK).rows
    assert row.agreement.share is None
    assert "has 3 classes, this model has 4" in row.agreement.reason


def test_typical_without_a_checkpoint_is_a_failed_row(make_onnx) -> None:
    report = benchmark(make_onnx(), typical=True, **QUICK)
    tiny, typical = report.rows
    assert tiny.measured
    assert "no checkpoint to export" in typical.failure


def test_a_reference_that_fails_is_told(make_onnx, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"not a checkpoint")
    (row,) = benchmark(make_onnx(), reference=broken, **QUICK).rows
    assert row.measured and row.agreement.share is None
    assert "broken.pth" in row.agreement.reason


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sizes": ()}, "sizes is empty"),
        ({"sizes": ((0, 5),)}, "a size must be"),
        ({"sizes": ((5,),)}, "a size must be"),
        ({"sizes": ((5, -5),)}, "a size must be"),
        ({"batches": ()}, "batches is empty"),
        ({"batches": (1, -1)}, "batch must be a whole number of at least 1, not -1"),
        ({"threads": 0}, "threads must be"),
        ({"rounds": 0}, "rounds must be"),
        ({"seconds": 0}, "seconds must be above 0"),
        ({"seconds": float("nan")}, "seconds must be above 0"),
        ({"timeout": -1}, "timeout must be above 0"),
        ({"backends": ["onnx"]}, "unknown backend 'onnx'"),
        ({"backends": []}, "backends is empty"),
        ({"sizes": ((5000, 5),)}, r"tiny\.onnx accepts frames up to 4096x4096, not 5000x5"),
        ({"reference": "missing.pth"}, "does not exist"),
        ({"frames": "missing"}, "does not exist"),
        ({"spin": True}, "unknown option 'spin'; the onnxruntime backend has device, "),
        ({"optimization": "much"}, "optimization"),
    ],
)
def test_wrong_use_is_refused_before_anything_runs(make_onnx, options: dict, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        benchmark(make_onnx(), **{**QUICK, **options})


def test_an_artefact_must_be_there_and_whole(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no artefact"):
        benchmark([])
    with pytest.raises(UsageError, match="does not exist"):
        benchmark(tmp_path / "missing.onnx")
    (tmp_path / "cut.onnx").write_bytes(b"\x08")
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        benchmark(tmp_path / "cut.onnx")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_the_workers(make_onnx, tmp_path: Path) -> None:
    (tmp_path / "actors.py").write_text(ACTORS)
    make_onnx("hang.onnx")
    code = """
    import sys
    from fcn_deploy.bench import process
    from fcn_deploy.bench.method import benchmark
    process.command = lambda module: (sys.executable, "actors.py")
    benchmark("hang.onnx", sizes=((5, 7),), progress=lambda step: print(step, flush=True))
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    user = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    turns = tmp_path / "turns.txt"
    end = time.monotonic() + 60
    while not (turns.exists() and turns.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    children = Path(f"/proc/{user.pid}/task/{user.pid}/children").read_text().split()
    assert children
    user.send_signal(signal.SIGINT)
    _, errors = user.communicate(timeout=30)
    assert b"KeyboardInterrupt" in errors
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_frames_are_the_same_for_everyone() -> None:
    from fcn_deploy.bench.frames import make_frames

    a, b = make_frames(None, 12, 20), make_frames(None, 12, 20)
    assert a.dtype == np.uint8 and a.shape == (8, 12, 20, 3)
    assert (a == b).all()
    assert len({frame.tobytes() for frame in a}) == 8
