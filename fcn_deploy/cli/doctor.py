"""``fcn-deploy doctor``: what this machine can run, and why not the rest.

Versions come from the packages' own records, the GPU is asked through the driver's C library. Only
the backends are really imported, each in a process of its own: a broken library may end that one.
A check that fails says so in its own line; none of them ends the others.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from fcn_deploy.cli import console, options
from fcn_deploy.lazy import installed, require

_PACKAGES = (
    *("numpy", "pillow", "safetensors", "torch", "torchvision", "onnx", "onnxscript"),
    *("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "cuda-python", "pycuda"),
    *("opencv-python", "opencv-python-headless", "opencv-contrib-python"),
)
_FLAGS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "avx_vnni": "VNNI",
    "amx_int8": "AMX",
    "asimddp": "dot product",
    "i8mm": "int8 matrix product",
}
"""What decides how fast fp32 and INT8 run on a CPU: flag of the kernel -> name that people know."""

_NOT_RTX = ("8.7", "9.0", "10.0", "10.3", "11.0")
"""Compute capabilities of Jetsons and data-centre GPUs, which TensorRT-RTX leaves to TensorRT."""

_PROBE = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from fcn_deploy.runtimes.registry import BACKENDS
print(json.dumps(BACKENDS[sys.argv[1]].unavailable()))
"""
_PROBE_SECONDS = 60.0


def doctor(as_json: options.Json = False) -> None:
    """Say what this machine can run, and why not the rest."""
    with console.steps() as step:
        step("looking around")
        report = examine()
    if as_json:
        console.write_json(report)
    else:
        _show(report, console.Printer())


def examine() -> dict[str, Any]:
    """Everything that doctor knows, as JSON has it."""
    from fcn_deploy.bench.machine import describe_machine, versions

    packages = versions(_PACKAGES)
    gpu = _told(_gpu)
    return {
        "machine": _told(describe_machine),
        "gpu": gpu,
        "backends": _told(_backends),
        "opencv": _told(_opencv),
        "video": _told(_video),
        "tensorrt": _tensorrt(packages, gpu),
        "versions": packages,
        "warnings": _warnings(packages, bool(gpu.get("devices"))),
    }


def _told(check: Callable[[], Any]) -> Any:
    """The answer of a check, or in words why there is none."""
    try:
        return check()
    except Exception as exc:
        return {"error": f"could not be found out ({type(exc).__name__}: {exc})"}


def _gpu() -> dict[str, Any]:
    """NVIDIA GPUs as the driver's own library names them."""
    from fcn_deploy.runtimes.cuda.gpus import describe_gpus, driver_cuda, gpu_problem

    if reason := gpu_problem():
        return {"devices": [], "reason": reason}
    return {"cuda": driver_cuda(), "devices": [dataclasses.asdict(gpu) for gpu in describe_gpus()]}


def _backends() -> list[dict[str, Any]]:
    from fcn_deploy.runtimes.registry import BACKENDS

    started = {name: _start_probe(name) for name in BACKENDS}
    reasons = {name: _reason(process) for name, process in started.items()}
    return [{"name": name, "usable": reason is None, "reason": reason} for name, reason in reasons.items()]


def _start_probe(name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PROBE, name, json.dumps(sys.path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _reason(process: subprocess.Popen[str]) -> str | None:
    """Why a backend cannot run, in words; None where it can."""
    try:
        told, complaint = process.communicate(timeout=_PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"its library did not load within {_PROBE_SECONDS:.0f} s"
    if process.returncode < 0:
        return f"its library crashes while it loads (signal {-process.returncode}); reinstall it"
    if process.returncode:
        return f"its library fails while it loads ({(complaint.strip().splitlines() or ['no reason'])[-1]})"
    reason: str | None = json.loads(told.splitlines()[-1])
    return reason


def _opencv() -> dict[str, Any]:
    """cv2 as it is, because JetPack's own build is no pip package."""
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
    """What reads video here: name -> why it cannot, None where it can."""
    from fcn_deploy.camera.sources.opencv import video_backends

    return video_backends()


def _tensorrt(packages: dict[str, str], gpu: dict[str, Any]) -> list[dict[str, str | None]]:
    """The TensorRT lines that are installed, and what each builds and runs here."""
    lines = []
    for module, line in (("tensorrt", "TensorRT"), ("tensorrt_rtx", "TensorRT-RTX")):
        if installed(module):
            version = packages.get(module.replace("_", "-"))
            lines.append({"line": line, "version": version, **_tensorrt_here(line, gpu)})
    return lines


def _tensorrt_here(line: str, gpu: dict[str, Any]) -> dict[str, str]:
    """What a line builds and runs on this machine, in words."""
    device = next(iter(gpu.get("devices", ())), None)
    without = str(gpu.get("reason") or "the GPU could not be asked")
    if line == "TensorRT":
        if device is None:
            return {"builds": f"nothing, it builds on the GPU itself ({without})", "runs": f"no: {without}"}
        named = f"{device['name']} (compute capability {device['compute_capability']})"
        return {"builds": f"for {named}", "runs": f"on {named}"}
    builds = "for GeForce and RTX GPUs, Turing and later, on any machine"
    if device is None:
        return {"builds": builds, "runs": f"no: {without}"}
    capability = device["compute_capability"]
    if capability in _NOT_RTX:
        return {"builds": builds, "runs": f"no: it does not cover compute capability {capability}"}
    return {"builds": builds, "runs": f"on {device['name']} (compute capability {capability})"}


def _warnings(packages: dict[str, str], gpu: bool) -> list[str]:
    found = []
    if "onnxruntime" in packages and "onnxruntime-gpu" in packages:
        found.append(
            "onnxruntime and onnxruntime-gpu overwrite each other's files; run: pip uninstall "
            "onnxruntime onnxruntime-gpu, and install one of them"
        )
    elif gpu and "onnxruntime" in packages:
        found.append(
            "this onnxruntime is the CPU package; run: pip uninstall onnxruntime, and then "
            "pip install 'fcn-deploy[gpu]'"
        )
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
            *_tensorrt_words(report["tensorrt"]),
        ]
    )
    out.say()
    out.say("Backends")
    backends = report["backends"]
    if isinstance(backends, dict):
        out.say(f"  {backends['error']}")
    else:
        out.pairs(
            ((b["name"], "usable" if b["usable"] else f"no: {b['reason']}") for b in backends), indent=2
        )
    out.say()
    out.say("Packages")
    out.say("  " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    for warning in report["warnings"]:
        console.warn(warning)


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


def _tensorrt_words(lines: list[dict[str, str | None]]) -> list[tuple[str, str]]:
    if not lines:
        return [("TensorRT", "not installed; run: pip install 'fcn-deploy[tensorrt-rtx]' (or [tensorrt])")]
    return [
        row
        for line in lines
        for row in (
            ("TensorRT", f"{line['line']} {line['version'] or '(version unknown)'}"),
            ("  builds", str(line["builds"])),
            ("  runs", str(line["runs"])),
        )
    ]
