"""An engine is only loaded with the sidecar that was written for it, and where it was built for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.errors import EngineError, FcnDeployError, UsageError
from fcn_deploy.runtimes.artefact import read_spec
from fcn_deploy.runtimes.tensorrt.profiles import Profile
from fcn_deploy.runtimes.tensorrt.sidecar import (
    NOT_CHECKED,
    TENSORRT,
    TENSORRT_RTX,
    EngineTarget,
    Host,
    Sidecar,
    check_engine,
    check_host,
    read_engine,
    read_sidecar,
    release,
    sidecar_path,
    this_platform,
)

BYTES = b"machine code"
ORIN = EngineTarget("linux-aarch64", ("8.7",), gpu="Orin")
ORIN_HOST = Host(TENSORRT, "10.3.0", "8.7", "Orin", platform="linux-aarch64")
PORTABLE = EngineTarget("any", ("8.0", "8.6", "8.9", "12.0"), later=True)


@pytest.fixture
def sidecar(build) -> Sidecar:
    return Sidecar(
        spec=build.spec,
        flavor=TENSORRT,
        version="10.3.0",
        version_compatible=False,
        target=ORIN,
        profiles=(Profile(0, (1, 1, 1), (1, 64, 80), (2, 64, 80)),),
        precision={"declared": {"layers": {"fp32": 1}}, "achieved": NOT_CHECKED},
        engine_sha256=hashlib.sha256(BYTES).hexdigest(),
        engine_bytes=len(BYTES),
        onnx={"name": "tiny.onnx", "identity": "0" * 64},
        build={"seconds": 1.0},
    )


@pytest.fixture
def engine(tmp_path: Path, sidecar: Sidecar) -> Path:
    path = tmp_path / "street.engine"
    path.write_bytes(BYTES)
    sidecar_path(path).write_text(sidecar.to_json())
    return path


def test_what_was_written_is_read(engine: Path, sidecar: Sidecar, build) -> None:
    assert read_sidecar(engine) == sidecar
    assert read_spec(engine) == build.spec
    assert read_engine(engine, sidecar) == BYTES


def test_an_engine_without_a_sidecar(engine: Path) -> None:
    sidecar_path(engine).unlink()
    with pytest.raises(EngineError, match=r"no sidecar beside it; copy street\.engine\.json"):
        read_sidecar(engine)


@pytest.mark.parametrize("text", ["{", "[]", "{}", "null", '{"schema_version": "1"}', "\xff"])
def test_a_damaged_sidecar(engine: Path, text: str) -> None:
    sidecar_path(engine).write_bytes(text.encode("latin-1"))
    with pytest.raises(EngineError, match=r"street\.engine\.json is damaged .* copy it again"):
        read_sidecar(engine)


@given(data=st.data())
def test_no_field_may_be_missing_or_of_another_kind(data, build) -> None:
    whole = json.loads(_example(build.spec).to_json())
    name = data.draw(st.sampled_from(sorted(set(whole) - {"schema_version"})))
    if data.draw(st.booleans()):
        del whole[name]
    else:
        whole["target"] = data.draw(st.sampled_from([None, [], {"platform": 1}, "x"]))
    with pytest.raises(FcnDeployError):
        Sidecar.from_json(json.dumps(whole), "x.engine.json")


def _example(spec) -> Sidecar:
    return Sidecar(spec, TENSORRT, "10.3.0", False, ORIN, (), {}, "0" * 64, 1, {}, {})


def test_a_newer_schema_asks_for_an_upgrade(engine: Path, sidecar: Sidecar) -> None:
    sidecar_path(engine).write_text(dataclasses.replace(sidecar, schema_version=99).to_json())
    with pytest.raises(EngineError, match=r"newer fcn-deploy .* upgrade"):
        read_sidecar(engine)


FROZEN = Path(__file__).parent / "frozen" / "sidecar-0.1.json"
"""Written by version 0.1 beside an engine that TensorRT-RTX 1.7.1 built."""


def test_a_sidecar_of_version_0_1_is_read() -> None:
    read = Sidecar.from_json(FROZEN.read_text(), FROZEN.name)
    assert (read.flavor, read.built_by) == (TENSORRT_RTX, "TensorRT-RTX 1.7.1.116")
    assert read.profiles == (
        Profile(0, (1, 1, 1), (1, 24, 32), (2, 40, 48)),
        Profile(1, (1, 32, 48), (1, 48, 64), (4, 64, 80)),
    )
    assert read.target == PORTABLE
    assert read.engine_bytes == 1446860
    assert read.spec.classes == ("blue", "green", "red", "dark")


def test_what_is_written_has_the_names_of_schema_2() -> None:
    read = Sidecar.from_json(FROZEN.read_text(), FROZEN.name)
    written = json.loads(read.to_json())
    assert (written["schema_version"], written["flavor"]) == (2, "rtx")
    assert written["profiles"][0] == {"index": 0, "min": [1, 1, 1], "opt": [1, 24, 32], "max": [2, 40, 48]}
    assert "line" not in written
    assert Sidecar.from_json(read.to_json(), "x.engine.json") == read


@pytest.mark.parametrize("change", [{"schema_version": 0}, {"flavor": "TensorRT"}])
def test_an_unknown_schema_or_flavor_is_damage(sidecar: Sidecar, change: dict[str, object]) -> None:
    text = dataclasses.replace(sidecar, **change).to_json()
    with pytest.raises(EngineError, match="is damaged"):
        Sidecar.from_json(text, "x.engine.json")


def test_an_engine_that_was_cut_off_is_known_by_its_size(engine: Path) -> None:
    engine.write_bytes(BYTES[:-1])
    with pytest.raises(EngineError, match=r"has 11 bytes, and street\.engine\.json was written for 12"):
        read_spec(engine)


def test_another_engine_of_the_same_size_is_known_by_its_hash(engine: Path) -> None:
    engine.write_bytes(BYTES[::-1])
    with pytest.raises(EngineError, match=r"not the engine that street\.engine\.json describes"):
        check_engine(engine)


def test_the_hash_that_its_user_expects(engine: Path, sidecar: Sidecar) -> None:
    assert check_engine(engine, expect_sha256=sidecar.engine_sha256.upper()) == sidecar
    with pytest.raises(EngineError, match=r"expected 0{64}; do not load it"):
        check_engine(engine, expect_sha256="0" * 64)
    with pytest.raises(UsageError, match="64 hexadecimal digits, not 'abc'"):
        check_engine(engine, expect_sha256="abc")


def test_the_machine_it_was_built_on_may_load_it(engine: Path, sidecar: Sidecar) -> None:
    assert check_engine(engine, ORIN_HOST) == sidecar


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"flavor": TENSORRT_RTX}, "was built by TensorRT, and TensorRT-RTX does not open"),
        ({"version": "10.4.0"}, "by TensorRT 10.3.0, and 10.4.0 is installed here"),
        ({"platform": "linux-x86_64"}, "for linux-aarch64, and this is linux-x86_64"),
        ({"compute_capability": "8.6"}, "for compute capability 8.7, and this GPU has 8.6"),
        ({"gpu": "Orin Nano"}, "for the GPU 'Orin', and this is 'Orin Nano'"),
    ],
)
def test_any_other_machine_is_told_what_to_do(engine: Path, change: dict[str, str], told: str) -> None:
    with pytest.raises(EngineError, match=r"build it here from its ONNX file .* build-engine") as caught:
        check_engine(engine, dataclasses.replace(ORIN_HOST, **change))
    assert told in str(caught.value)


def test_what_is_not_known_of_a_host_is_not_held_against_it(engine: Path) -> None:
    check_engine(engine, Host(TENSORRT, "10.3.0.26", platform="linux-aarch64"))


@pytest.mark.parametrize(
    ("built", "here", "loads"),
    [
        ("10.3.0", "10.3.0", True),
        ("10.3.0", "10.16.1.11", True),
        ("10.16.1", "10.3.0", False),
        ("10.3.0", "11.4.0", True),
        ("10.3.0", "12.0.0", False),
        ("11.4.0", "10.16.1", False),
    ],
)
def test_version_compatible_engines_go_forward(sidecar: Sidecar, built: str, here: str, loads: bool) -> None:
    compatible = dataclasses.replace(sidecar, version=built, version_compatible=True)
    host = dataclasses.replace(ORIN_HOST, version=here)
    if loads:
        check_host(Path("x.engine"), compatible, host)
    else:
        with pytest.raises(EngineError, match=f"{built} .*, and {here} is installed"):
            check_host(Path("x.engine"), compatible, host)


@pytest.mark.parametrize(
    ("capability", "loads"),
    [("8.6", True), ("12.0", True), ("12.1", True), ("13.0", True), ("7.5", False), ("9.0", False)],
)
def test_a_portable_engine_runs_on_what_it_names_and_on_what_is_newer(
    sidecar: Sidecar, capability: str, loads: bool
) -> None:
    portable = dataclasses.replace(sidecar, flavor=TENSORRT_RTX, version="1.7.1.116", target=PORTABLE)
    host = Host(TENSORRT_RTX, "1.7.1.116", capability, "any GPU")
    if loads:
        check_host(Path("x.engine"), portable, host)
    else:
        with pytest.raises(EngineError, match=r"8\.0, 8\.6, 8\.9, 12\.0 and later, and this GPU has"):
            check_host(Path("x.engine"), portable, host)


def test_versions_are_compared_as_numbers() -> None:
    assert release("10.16.1.11") > release("10.3.0")
    assert release("10.3.0") == release("10.3.0.26")


def test_this_machine_has_a_name() -> None:
    system, _, processor = this_platform().partition("-")
    assert system and processor
