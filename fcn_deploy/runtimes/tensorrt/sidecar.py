"""The sidecar ``NAME.engine.json``: what an engine is, and whether it may be loaded here.

An engine is machine code for one version of TensorRT and for certain GPUs, and tells neither before it is
loaded. The sidecar does, with the model's spec and the hash of the engine that it belongs to: an engine
whose sidecar belongs to another one is refused.
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

from fcn_deploy.errors import EngineError
from fcn_deploy.files import input_file
from fcn_deploy.runtimes.known_hash import check_expected
from fcn_deploy.runtimes.tensorrt.profiles import Profile
from fcn_deploy.spec import ModelSpec

SCHEMA_VERSION = 2
"""Version 0.1 wrote schema 1, which is still read."""

TENSORRT, TENSORRT_RTX = "tensorrt", "rtx"
"""The two flavors, as ``--flavor`` takes them; neither opens the other's engines."""

_PRODUCTS = {TENSORRT: "TensorRT", TENSORRT_RTX: "TensorRT-RTX"}

NOT_CHECKED = "not checked: no device"
"""The achieved precision where there was no GPU to check it on."""


def product_name(flavor: str) -> str:
    """The name of a flavor in messages: ``TensorRT`` or ``TensorRT-RTX``."""
    return _PRODUCTS[flavor]


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
    """The GPU model that kernels were chosen for; None where any of the compute capabilities will do."""
    dla_core: int | None = None
    """The DLA core that layers run on; None where all run on the GPU."""


@dataclass(frozen=True)
class Host:
    """The machine that is to load an engine. What is None is not known, and not checked."""

    flavor: str
    """:data:`TENSORRT` or :data:`TENSORRT_RTX`."""
    version: str
    """Of the library, such as ``10.3.0``."""
    compute_capability: str | None = None
    """Of the GPU, such as ``8.7``."""
    gpu: str | None = None
    """Its name, as the driver reports it."""
    platform: str = dataclasses.field(default_factory=lambda: this_platform())

    @property
    def product(self) -> str:
        """The TensorRT that is installed, such as ``TensorRT-RTX``."""
        return product_name(self.flavor)


@dataclass(frozen=True)
class Sidecar:
    """Everything that is known about an engine without loading it."""

    spec: ModelSpec
    flavor: str
    """:data:`TENSORRT` or :data:`TENSORRT_RTX`."""
    version: str
    """Of the library that built it."""
    version_compatible: bool
    """Whether later versions may load it."""
    target: EngineTarget
    profiles: tuple[Profile, ...]
    precision: dict[str, Any]
    """``declared``: of the graph, with numbers of layers by type; ``achieved``: what TensorRT's engine
    inspector found on a device, or :data:`NOT_CHECKED`."""
    engine_sha256: str
    engine_bytes: int
    onnx: dict[str, str]
    """``name`` and ``identity`` of the graph that it was built from."""
    build: dict[str, Any]
    """``seconds``, the options and estimates, and a summary of TensorRT's log."""
    schema_version: int = SCHEMA_VERSION

    @property
    def product(self) -> str:
        """The TensorRT that built it, such as ``TensorRT-RTX``."""
        return product_name(self.flavor)

    @property
    def built_by(self) -> str:
        """The TensorRT that built it, with its version, such as ``TensorRT-RTX 1.7.1``."""
        return f"{self.product} {self.version}"

    def to_json(self) -> str:
        """Indented JSON with sorted keys, so that people can read it too."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> Sidecar:
        """Read what :meth:`to_json` wrote, in this version or an older one.

        Args:
            text: the JSON.
            source: the file that it comes from, for messages.

        Raises:
            EngineError: it is not JSON, damaged, or of a newer schema.
            ModelError: the spec in it cannot be used.
        """
        try:
            data = json.loads(text)
            schema = data["schema_version"]
            if isinstance(schema, int) and schema > SCHEMA_VERSION:
                raise EngineError(
                    f"{source} was written by a newer fcn-deploy (schema {schema}, this one reads up to "
                    f"{SCHEMA_VERSION}); upgrade with: pip install -U fcn-deploy"
                )
            if schema == 1:
                data = _from_schema_1(data)
            if data["schema_version"] != SCHEMA_VERSION or data["flavor"] not in _PRODUCTS:
                raise ValueError("no such schema_version or flavor")
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


def _from_schema_1(data: dict[str, Any]) -> dict[str, Any]:
    """Version 0.1 had other names for two things: the flavor, and the sizes of a profile."""
    flavors = {product: flavor for flavor, product in _PRODUCTS.items()}
    sizes = {"min": "smallest", "opt": "tuned", "max": "largest"}
    return {
        **{name: value for name, value in data.items() if name != "line"},
        "schema_version": SCHEMA_VERSION,
        "flavor": flavors[data["line"]],
        "profiles": [
            {"index": entry["index"], **{new: entry[old] for new, old in sizes.items()}}
            for entry in data["profiles"]
        ],
    }


def _profile(entry: dict[str, Any]) -> Profile:
    sizes = {name: tuple(entry[name]) for name in ("min", "opt", "max")}
    if any(len(size) != 3 for size in sizes.values()):
        raise ValueError("a profile has three sizes, each of batch, height and width")
    return Profile(index=entry["index"], **sizes)


def sidecar_path(engine: str | Path) -> Path:
    """``street.engine`` -> ``street.engine.json``."""
    return Path(f"{engine}.json")


def this_platform() -> str:
    """System and processor, as in :attr:`EngineTarget.platform`."""
    system = "windows" if sys.platform == "win32" else sys.platform
    return f"{system}-{platform.machine().replace('AMD64', 'x86_64').lower()}"


def read_sidecar(engine: str | Path) -> Sidecar:
    """The sidecar of an engine. The engine itself is not read, only its size is checked.

    Raises:
        UsageError: the engine is missing, empty or may not be read.
        EngineError: it has no sidecar, a damaged one, or another size than that says.
        ModelError: the spec in the sidecar cannot be used.
    """
    found = input_file(engine, "engine")
    path = sidecar_path(found)
    if not path.is_file():
        raise EngineError(
            f"{found} has no sidecar beside it; copy {path.name} into the same folder, or build the engine "
            "with fcn-deploy build-engine"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise EngineError(f"{path} is damaged (no UTF-8 text); copy it again beside its engine") from exc
    sidecar = Sidecar.from_json(text, str(path))
    size = found.stat().st_size
    if size != sidecar.engine_bytes:
        raise EngineError(
            f"{found} has {size:,} bytes, and {path.name} was written for {sidecar.engine_bytes:,}: it was "
            "cut off, or one of the two was replaced; copy both again"
        )
    return sidecar


def read_engine(engine: Path, sidecar: Sidecar, expect_sha256: str | None = None) -> bytes:
    """The bytes of an engine, whose hash is checked before anything may execute them.

    Args:
        engine: the file.
        sidecar: of this engine, as :func:`read_sidecar` returned it.
        expect_sha256: the hash that the user knows from another place, 64 hexadecimal digits. The
            sidecar's own finds files that were mixed up or cut off; only this one finds tampering.

    Raises:
        UsageError: ``expect_sha256`` is not a hash.
        EngineError: the hash differs from one of the two.
    """
    data = engine.read_bytes()
    _check_hash(engine, sidecar, hashlib.sha256(data).hexdigest(), expect_sha256)
    return data


def check_engine(engine: str | Path, host: Host | None = None, expect_sha256: str | None = None) -> Sidecar:
    """The sidecar of an engine, checked with the engine's bytes.

    Args:
        engine: the file; its sidecar lies beside it.
        host: the machine that is to load it; None checks the hashes only.
        expect_sha256: as :func:`read_engine` takes it.

    Raises:
        UsageError: the file cannot be read, or ``expect_sha256`` is not a hash.
        EngineError: no sidecar, another hash, another version or another GPU; says what to do.
        ModelError: the spec in the sidecar cannot be used.
    """
    path = Path(engine)
    sidecar = read_sidecar(path)
    if host is not None:
        check_host(path, sidecar, host)
    read_engine(path, sidecar, expect_sha256)
    return sidecar


def _check_hash(engine: Path, sidecar: Sidecar, sha256: str, expected: str | None) -> None:
    check_expected(engine, sha256, expected, EngineError)
    if sha256 != sidecar.engine_sha256:
        raise EngineError(
            f"{engine} is not the engine that {sidecar_path(engine).name} describes (SHA-256 "
            f"{sha256[:12]}..., expected {sidecar.engine_sha256[:12]}...); copy both again, or build it again"
        )


def check_host(engine: Path, sidecar: Sidecar, host: Host) -> None:
    """Refuse an engine that was built for another TensorRT, system or GPU.

    Raises:
        EngineError: says what it was built for, what this machine has, and what to do.
    """
    for problem in (_flavor_problem, _version_problem, _platform_problem, _gpu_problem):
        if reason := problem(sidecar, host):
            raise EngineError(
                f"{engine} {reason}; build it here from its ONNX file with: fcn-deploy build-engine"
            )


def _flavor_problem(sidecar: Sidecar, host: Host) -> str | None:
    if sidecar.flavor == host.flavor:
        return None
    return f"was built by {sidecar.product}, and {host.product} does not open its engines"


def _version_problem(sidecar: Sidecar, host: Host) -> str | None:
    built, here = release(sidecar.version), release(host.version)
    if built == here or (sidecar.version_compatible and _loads_compatible(built, here)):
        return None
    later = " for it and compatible later versions" if sidecar.version_compatible else ""
    return f"was built by {sidecar.built_by}{later}, and {host.version} is installed here"


def release(version: str) -> tuple[int, ...]:
    """``10.3.0.26`` -> (10, 3, 0): packages give three or four numbers for the same release."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _loads_compatible(built: tuple[int, ...], here: tuple[int, ...]) -> bool:
    """Whether a version-compatible engine runs on a later version: of the same major, or 11 for 10.

    Source: "Engine Portability" in TensorRT's support matrix.
    """
    return here >= built and (here[0] == built[0] or (built[0], here[0]) == (10, 11))


def _platform_problem(sidecar: Sidecar, host: Host) -> str | None:
    if sidecar.target.platform in ("any", host.platform):
        return None
    return f"was built for {sidecar.target.platform}, and this is {host.platform}"


def _gpu_problem(sidecar: Sidecar, host: Host) -> str | None:
    target, here = sidecar.target, host.compute_capability
    if here is not None and here not in target.compute_capabilities:
        newest = max(target.compute_capabilities, key=release)
        if not (target.later and release(here) > release(newest)):
            listed = ", ".join(target.compute_capabilities) + (" and later" if target.later else "")
            return f"was built for compute capability {listed}, and this GPU has {here}"
    if target.gpu is not None and host.gpu is not None and target.gpu != host.gpu:
        return f"was built for the GPU {target.gpu!r}, and this is {host.gpu!r}"
    return None
