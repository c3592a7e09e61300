"""``fcn-deploy doctor``: what this machine can run, and why not the rest.

Versions come from package metadata, facts about the GPU from the driver's C library. The libraries of
each backend are imported in a process of its own, because a broken library may crash it. A check that
fails is a line in the report; the other checks continue.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable
from typing import Any

from fcn_deploy.child import command, environment
from fcn_deploy.cli import console, options
from fcn_deploy.lazy import installed, require

_PACKAGES = (
    *("numpy", "pillow", "safetensors", "onnx", "onnxscript"),
    *("opencv-python", "opencv-python-headless", "opencv-contrib-python"),
)
"""Packages that no backend lists as its own."""


def doctor(as_json: options.Json = False) -> None:
    """Say what this machine can run, and why not the rest."""
    with console.steps() as step:
        step("checking this machine")
        report = examine()
    if as_json:
        console.write_json({**report, "backends": _without_rows(report["backends"])})
    else:
        _show(report, console.Printer())


def examine() -> dict[str, Any]:
    """The whole report, as ``--json`` prints it."""
    from fcn_deploy.bench.machine import describe_machine, versions

    packages = versions(dict.fromkeys([*_PACKAGES, *_packages_of_backends()]))
    return {
        "machine": _checked(describe_machine),
        "gpu": _checked(_gpu),
        "backends": _checked(_backends),
        "opencv": _checked(_opencv),
        "video": _checked(_video),
        "versions": packages,
        "warnings": _warnings(packages),
    }


def _packages_of_backends() -> list[str]:
    from fcn_deploy.runtimes.registry import backends

    return [package for backend in backends().values() for package in backend.packages]


def _checked(check: Callable[[], Any]) -> Any:
    """The result of a check, or ``error``: why there is none."""
    try:
        return check()
    except Exception as exc:
        return {"error": f"could not be checked ({type(exc).__name__}: {exc})"}


def _gpu() -> dict[str, Any]:
    """NVIDIA GPUs as the driver describes them."""
    from fcn_deploy.runtimes.cuda import describe_gpus, driver_cuda, gpu_problem

    if reason := gpu_problem():
        return {"devices": [], "reason": reason}
    return {"cuda": driver_cuda(), "devices": [dataclasses.asdict(gpu) for gpu in describe_gpus()]}


def _backends() -> list[dict[str, Any]]:
    """What each backend reports about this machine, and why an installed one cannot be loaded."""
    from fcn_deploy.runtimes.registry import backends, problems

    started = {name: _start_probe(name) for name in backends()}
    found = [(name, _probed(process)) for name, process in started.items()]
    found += [(name, _failed(reason)) for name, reason in problems()]
    return [{"name": name, "usable": one["reason"] is None, **one} for name, one in found]


_PROBE_SECONDS = 60.0


def _start_probe(name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command("fcn_deploy.runtimes.probe"), name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def _probed(process: subprocess.Popen[str]) -> dict[str, Any]:
    """As :func:`fcn_deploy.runtimes.registry.diagnose`, also where its process crashed or hangs."""
    try:
        printed, errors = process.communicate(timeout=_PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return _failed(f"its library did not load within {_PROBE_SECONDS:.0f} s")
    if process.returncode < 0:
        return _failed(f"its library crashes while it loads (signal {-process.returncode}); reinstall it")
    if process.returncode:
        last = (errors.strip().splitlines() or ["no reason"])[-1]
        return _failed(f"its library fails while it loads ({last})")
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def _without_rows(backends: Any) -> Any:
    """For JSON, which has ``details`` instead."""
    if isinstance(backends, dict):  # the check failed
        return backends
    return [{key: value for key, value in one.items() if key != "rows"} for one in backends]


def _failed(reason: str) -> dict[str, Any]:
    return {"reason": reason, "details": {}, "rows": [], "warnings": []}


def _opencv() -> dict[str, Any]:
    """cv2 as it is imported, because JetPack's build is not a pip package."""
    if not installed("cv2"):
        return {"version": None, "reason": "not installed; run: pip install 'fcn-deploy[opencv]'"}
    cv2 = require("cv2", extra="opencv")
    lines = (line.partition(":") for line in cv2.getBuildInformation().splitlines())
    built = {name.strip(): value.strip() for name, _, value in lines}
    return {
        "version": cv2.__version__,
        "gstreamer": built.get("GStreamer", "NO").startswith("YES"),
        "ffmpeg": built.get("FFMPEG", "NO").startswith("YES"),
        "v4l2": built.get("v4l/v4l2", "NO").startswith("YES"),
    }


def _video() -> dict[str, str | None]:
    """Libraries that read video: name -> why it cannot be used here, None where it can."""
    from fcn_deploy.camera.sources.opencv import video_backends

    return video_backends()


def _warnings(packages: dict[str, str]) -> list[str]:
    found = []
    if len([name for name in packages if name.startswith("opencv-")]) > 1:
        found.append("several OpenCV packages overwrite each other's files; keep one of them")
    return found


def _show(report: dict[str, Any], out: console.Printer) -> None:
    versions = dict(report["versions"])
    out.pairs(
        [
            ("fcn-deploy", f"{versions.pop('fcn-deploy')}, Python {versions.pop('python')}"),
            *_machine_words(report["machine"]),
            ("GPU", _gpu_words(report["gpu"])),
            ("OpenCV", _opencv_words(report["opencv"])),
            *_video_words(report["video"]),
        ]
    )
    out.say()
    out.say("Backends")
    backends = report["backends"]
    if isinstance(backends, dict):
        out.say(f"  {backends['error']}")
    else:
        out.pairs((row for backend in backends for row in _backend_rows(backend)), indent=2)
    out.say()
    out.say("Packages")
    out.say("  " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    for warning in report["warnings"]:
        console.warn(warning)
    for backend in backends if isinstance(backends, list) else []:
        for warning in backend["warnings"]:
            console.warn(warning)


def _backend_rows(backend: dict[str, Any]) -> list[tuple[str, str]]:
    own = [(f"  {name}", value) for name, value in backend["rows"]]
    return [(backend["name"], "usable" if backend["usable"] else f"no: {backend['reason']}"), *own]


_FLAGS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "avx_vnni": "VNNI",
    "amx_int8": "AMX",
    "asimddp": "dot product",
    "i8mm": "int8 matrix product",
}
"""CPU features that decide how fast fp32 and INT8 run: the Linux kernel's flag -> its common name."""


def _machine_words(machine: dict[str, Any]) -> list[tuple[str, str]]:
    from fcn_deploy.runtimes.cpu import has_vnni

    if "error" in machine:
        return [("machine", machine["error"])]
    flags = machine["flags"]
    features = list(dict.fromkeys(_FLAGS[flag] for flag in flags if flag in _FLAGS))
    if flags and has_vnni(frozenset(flags), machine["architecture"]) is False:
        features.append("no VNNI")
    cores = f"{machine['cores_usable']} of {machine['cores_total']} cores usable"
    memory = machine["memory_mb"]
    return [
        ("system", f"{machine['os']} {machine['architecture']}"),
        ("board", machine["board"]),
        ("CPU", ", ".join([machine["cpu"], cores, *features])),
        ("memory", "unknown" if memory is None else f"{memory / 1e3:.1f} GB"),
    ]


def _gpu_words(gpu: dict[str, Any]) -> str:
    if not gpu.get("devices"):
        return str(gpu.get("error") or gpu.get("reason") or "none seen by the driver")
    named = (
        f"{d['name']} (SM {d['compute_capability']}, {d['memory'] / 2**30:.0f} GiB)" for d in gpu["devices"]
    )
    return f"{', '.join(named)}; driver for CUDA {gpu['cuda']}"


def _opencv_words(opencv: dict[str, Any]) -> str:
    if not opencv.get("version"):
        return str(opencv.get("error") or opencv["reason"])
    parts = (("GStreamer", "gstreamer"), ("FFmpeg", "ffmpeg"), ("V4L2", "v4l2"))
    have = [f"{'with' if opencv[key] else 'without'} {name}" for name, key in parts]
    return f"{opencv['version']}, {', '.join(have)}"


_VIDEO = {
    "FFmpeg": "video files, rtsp:// and http(s)://",
    "GStreamer": "csi:// (a Jetson's cameras) and pipelines of your own",
    "V4L2": "USB cameras: 0, /dev/videoN",
}
"""What each way of reading video is for."""


def _video_words(video: dict[str, str | None]) -> list[tuple[str, str]]:
    if "error" in video:
        return [("video", str(video["error"]))]
    readable = [_VIDEO[name] for name, reason in video.items() if reason is None]
    missing = [(f"  no {name}", f"{reason}") for name, reason in video.items() if reason is not None]
    if not readable:  # without OpenCV, which the line above says
        return [("video", "none")]
    return [("video", "; ".join(readable)), *missing]
