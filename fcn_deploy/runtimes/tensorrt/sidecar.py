"""``NAME.engine.json``: what an engine is, and whether it may be loaded here.

An engine is machine code for one version of TensorRT and for certain GPUs, and says neither in a way
that can be read without loading it. The file beside it does, with the model's own description and the
hash of the engine that it belongs to: a pair of which only one half was copied is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_deploy.errors import EngineError, UsageError
from fcn_deploy.files import input_file
from fcn_deploy.runtimes.tensorrt.profiles import Profile
from fcn_deploy.spec import ModelSpec

SCHEMA_VERSION = 1


TENSORRT, TENSORRT_RTX = "TensorRT", "TensorRT-RTX"
"""The two lines; neither opens the other's engines."""


NOT_CHECKED = "not checked: no device"
"""What stands for the achieved precision where no GPU could be asked."""


@dataclass(frozen=True)
class EngineTarget:
    """The machines that an engine was built for."""

    platform: str
    """``linux-x86_64`` and the like; ``any`` for TensorRT-RTX, whose engines move between systems."""
    compute_capabilities: tuple[str, ...]
    """Such as ``8.6``."""
    later: bool = False
    """Whether GPUs newer than the last of them may run it too."""
    gpu: str | None = None
    """The model whose kernels were chosen; None where any GPU of the compute capabilities will do."""
    dla_core: int | None = None
    """The DLA core that layers were placed on; None for the GPU alone."""


@dataclass(frozen=True)
class Host:
    """What would load an engine. None is not known, and not checked."""

    line: str
    """:data:`TENSORRT` or :data:`TENSORRT_RTX`."""
    version: str
    """Of the library, such as ``10.3.0``."""
    compute_capability: str | None = None
    """Of the GPU, such as ``8.7``."""
    gpu: str | None = None
    """Its name, as the driver gives it."""
    platform: str = dataclasses.field(default_factory=lambda: this_platform())


@dataclass(frozen=True)
class Sidecar:
    """Everything that is known of an engine without loading it."""

    spec: ModelSpec
    line: str
    """:data:`TENSORRT` or :data:`TENSORRT_RTX`."""
    version: str
    """Of the library that built it."""
    version_compatible: bool
    """Whether later versions may load it."""
    target: EngineTarget
    profiles: tuple[Profile, ...]
    precision: dict[str, Any]
    """``declared``: what the graph says, layer counts by type; ``achieved``: what the engine's inspector
    found on a device, or :data:`NOT_CHECKED`."""
    engine_sha256: str
    engine_bytes: int
    onnx: dict[str, str]
    """``name`` and ``identity`` of the graph that it was built from."""
    build: dict[str, Any]
    """``seconds``, the options and estimates, and a summary of TensorRT's log."""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Indented JSON with sorted keys, for people to read as well."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> Sidecar:
        """Read what :meth:`to_json` wrote; ``source`` is the file, for messages.

        Raises:
            EngineError: it is not JSON, damaged, or of a newer schema.
            ModelError: the model's description in it cannot be used.
        """
        try:
            data = json.loads(text)
            schema = data["schema_version"]
            if isinstance(schema, int) and schema > SCHEMA_VERSION:
                raise EngineError(
                    f"{source} was written by a newer fcn-deploy (schema {schema}, this one reads up to "
                    f"{SCHEMA_VERSION}); upgrade with: pip install -U fcn-deploy"
                )
            target = data["target"]
            return cls(
                **{
                    **data,
                    "spec": ModelSpec.from_json(json.dumps(data["spec"]), source),
                    "target": EngineTarget(
                        **{**target, "compute_capabilities": tuple(target["compute_capabilities"])}
                    ),
                    "profiles": tuple(_profile(entry) for entry in data["profiles"]),
                }
            )
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise EngineError(
                f"{source} is damaged ({type(exc).__name__}: {exc}); copy it again beside its engine"
            ) from exc


def _profile(entry: dict[str, Any]) -> Profile:
    bounds = {key: tuple(entry[key]) for key in ("smallest", "tuned", "largest")}
    if any(len(bound) != 3 for bound in bounds.values()):
        raise ValueError("a profile is three times batch, height and width")
    return Profile(index=entry["index"], **bounds)


def sidecar_path(engine: str | Path) -> Path:
    """``street.engine`` -> ``street.engine.json``."""
    return Path(f"{engine}.json")


def this_platform() -> str:
    """System and processor, as in :attr:`EngineTarget.platform`."""
    system = "windows" if sys.platform == "win32" else sys.platform
    return f"{system}-{platform.machine().replace('AMD64', 'x86_64').lower()}"


def read_sidecar(engine: str | Path) -> Sidecar:
    """What stands beside an engine; the engine itself is not read, only its size is looked at.

    Raises:
        UsageError: the engine is missing, empty or may not be read.
        EngineError: it has no sidecar, a damaged one, or is not as long as that says.
        ModelError: the model's description in it cannot be used.
    """
    found = input_file(engine, "engine")
    path = sidecar_path(found)
    if not path.is_file():
        raise EngineError(
            f"{found} has no description beside it; copy {path.name} into the same folder, or build the "
            "engine with fcn-deploy build-engine"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise EngineError(f"{path} is damaged (no UTF-8 text); copy it again beside its engine") from exc
    sidecar = Sidecar.from_json(text, str(path))
    size = found.stat().st_size
    if size != sidecar.engine_bytes:
        raise EngineError(
            f"{found} has {size:,} bytes and {path.name} was written for {sidecar.engine_bytes:,}: it was "
            "cut off, or one of the two was replaced; copy both again"
        )
    return sidecar


def load_engine(
    engine: str | Path, host: Host | None = None, expect_sha256: str | None = None
) -> tuple[bytes, Sidecar]:
    """The bytes of an engine, read once and checked before anything may execute them.

    Args:
        engine: the file; its sidecar lies beside it.
        host: what would load it; None checks the hashes alone.
        expect_sha256: the hash that its user knows from elsewhere, 64 hexadecimal digits. The
            sidecar's own catches mix-ups and truncation; only this one catches tampering.

    Raises:
        UsageError: the file cannot be read, or ``expect_sha256`` is no hash.
        EngineError: no sidecar, another hash, another version or another GPU; says what to do.
        ModelError: the model's description in the sidecar cannot be used.
    """
    path = Path(engine)
    sidecar = read_sidecar(path)
    if host is not None:
        check_host(path, sidecar, host)
    data = path.read_bytes()
    check_hash(path, sidecar, hashlib.sha256(data).hexdigest(), expect_sha256)
    return data, sidecar


def check_engine(engine: str | Path, host: Host | None = None, expect_sha256: str | None = None) -> Sidecar:
    """As :func:`load_engine`, without keeping the bytes."""
    return load_engine(engine, host, expect_sha256)[1]


def check_hash(engine: Path, sidecar: Sidecar, sha256: str, expected: str | None = None) -> None:
    """Hold the hash of an engine's bytes against its sidecar and against what its user expects.

    Raises:
        UsageError: ``expected`` is no hash.
        EngineError: one of them differs.
    """
    if expected is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", expected):
        raise UsageError(f"expected a SHA-256 of 64 hexadecimal digits, not {expected!r}")
    if expected is not None and sha256 != expected.lower():
        raise EngineError(
            f"{engine} has the SHA-256 {sha256} and {expected.lower()} was expected; do not load it, get it "
            "again from where the hash comes from"
        )
    if sha256 != sidecar.engine_sha256:
        raise EngineError(
            f"{engine} is not the engine that {sidecar_path(engine).name} describes (SHA-256 "
            f"{sha256[:12]}..., expected {sidecar.engine_sha256[:12]}...); copy both again, or build it again"
        )


def check_host(engine: Path, sidecar: Sidecar, host: Host) -> None:
    """Refuse an engine that was built for another TensorRT, system or GPU.

    Raises:
        EngineError: says what it was built for, what is here, and what to do.
    """
    for problem in (_line_problem, _version_problem, _platform_problem, _gpu_problem):
        if reason := problem(sidecar, host):
            raise EngineError(
                f"{engine} {reason}; build it here from its ONNX file with: fcn-deploy build-engine"
            )


def _line_problem(sidecar: Sidecar, host: Host) -> str | None:
    if sidecar.line == host.line:
        return None
    return f"was built by {sidecar.line} and {host.line} does not open its engines"


def _version_problem(sidecar: Sidecar, host: Host) -> str | None:
    built, here = release(sidecar.version), release(host.version)
    if built == here or (sidecar.version_compatible and _loads_compatible(built, here)):
        return None
    promise = " (or later, within what TensorRT promises)" if sidecar.version_compatible else ""
    return f"was built by {sidecar.line} {sidecar.version}{promise} and {host.version} is installed here"


def release(version: str) -> tuple[int, ...]:
    """``10.3.0.26`` -> (10, 3, 0): packages give three numbers or four for the same release."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _loads_compatible(built: tuple[int, ...], here: tuple[int, ...]) -> bool:
    """Source: TensorRT's support matrix, "Engine Portability": later versions of the same major, and 11
    for engines of 10."""
    return here >= built and (here[0] == built[0] or (built[0], here[0]) == (10, 11))


def _platform_problem(sidecar: Sidecar, host: Host) -> str | None:
    if sidecar.target.platform in ("any", host.platform):
        return None
    return f"was built for {sidecar.target.platform} and this is {host.platform}"


def _gpu_problem(sidecar: Sidecar, host: Host) -> str | None:
    target, here = sidecar.target, host.compute_capability
    if here is not None and here not in target.compute_capabilities:
        newest = max(target.compute_capabilities, key=release)
        if not (target.later and release(here) > release(newest)):
            listed = ", ".join(target.compute_capabilities) + (" and later" if target.later else "")
            return f"was built for compute capability {listed} and this GPU has {here}"
    if target.gpu is not None and host.gpu is not None and target.gpu != host.gpu:
        return f"was built for the GPU {target.gpu!r} and this is {host.gpu!r}"
    return None
