"""What kind of file weights came in, by its content: names of files say little and are often wrong.

Sources: the safetensors format (https://github.com/huggingface/safetensors#format); serialization.py and
caffe2/serialize of PyTorch; the `ModelProto` of ONNX; the signatures of HDF5, NumPy, gzip, tar and
TensorFlow, as their own documents give them.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

from fcn_deploy.errors import ModelError

SAFETENSORS = "safetensors"
ZIP = "zip"
"""What torch.save writes since 1.6."""
LEGACY = "legacy"
"""What torch.save wrote before: pickles one after the other, then the storages."""

_HEAD = 4096
_TAR_MAGIC = slice(257, 262)
_LARGEST_TABLE = 100_000_000
"""The largest table of tensors that safetensors reads."""

_SIGNATURES = (
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file itself; fetch it with git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, as Keras writes them, not a PyTorch checkpoint"),
    (b"\x93NUMPY", "is a NumPy array, not a PyTorch checkpoint"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it and give the file inside"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it and give the file inside"),
    (b"\x08\x01\x12", "is a SavedModel of TensorFlow, not a PyTorch checkpoint"),
)
_IR_VERSIONS = range(2, 64)
"""A ModelProto begins with its IR version, then one of these fields."""
_ONNX_FIELDS = b"\x12\x1a\x22\x28\x32\x3a\x42"


def container_of(path: Path) -> str:
    """:data:`SAFETENSORS`, :data:`ZIP` or :data:`LEGACY`.

    Raises:
        ModelError: it is something else, named in the message, or nothing known.
    """
    with open(path, "rb") as stream:
        head = stream.read(_HEAD)
    if not head:
        raise ModelError(f"{path} is empty (0 bytes); it was probably cut off while being written")
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LARGEST_TABLE:
        return SAFETENSORS
    if other := _other_kind(head, path.name):
        raise ModelError(f"{path} {other}")
    if head.startswith(b"\x80"):
        return LEGACY
    raise ModelError(
        f"{path} is not a complete checkpoint: it begins as neither torch.save nor safetensors write it; "
        "copy it again"
    )


def _other_kind(head: bytes, file: str) -> str | None:
    """What a file is that is no checkpoint, as the end of a sentence."""
    for signature, told in _SIGNATURES:
        if head.startswith(signature):
            return told
    if head.lstrip()[:200].lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page (HTML), not a checkpoint; download the file itself"
    if head[4:8] == b"TFL3":
        return "is a TensorFlow Lite model, not a PyTorch checkpoint"
    if head[:1] == b"\x08" and len(head) > 2 and head[1] in _IR_VERSIONS and head[2] in _ONNX_FIELDS:
        return (
            "is an ONNX model, not a checkpoint; give the weights that it was exported from, or make an "
            "artefact of it with: fcn-deploy wrap"
        )
    if head[:1] == b"\n" and b"Placeholder" in head:
        return "is a frozen graph of TensorFlow, not a PyTorch checkpoint"
    if head[:1] == b"\n" and b"Convolution" in head:
        return "is a Caffe model; convert it to PyTorch first"
    if head[_TAR_MAGIC] == b"ustar":
        return _tar_kind(head, file)
    return None


def _tar_kind(head: bytes, file: str) -> str:
    if head.startswith((b"sys_info\0", b"pickle\0", b"storages\0", b"tensors\0")):
        return (
            "is in the tar format of PyTorch before 0.2, which is not read here; where you trust it, save it "
            f'again: torch.save(torch.load("{file}", weights_only=False), "new.pth")'
        )
    return "is a tar archive; unpack it and give the file inside"


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as exc:
        raise ModelError(
            f"{path} is not a complete PyTorch checkpoint ({type(exc).__name__}); copy it again"
        ) from exc
    if other := _other_zip(names, path.name):
        raise ModelError(f"{path} {other}")
    return ZIP


def _other_zip(names: Sequence[str], file: str) -> str | None:
    """What a zip archive is that torch.save did not write, as the end of a sentence."""
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        return (
            "is a TorchScript archive, which is code and not a checkpoint; save its weights alone, where you "
            f'trust it: torch.save(torch.jit.load("{file}").state_dict(), "weights.pth")'
        )
    exported = {"serialized_exported_program.json", "archive_format"}
    if exported & (inside | set(names)) or any(name.startswith("models/") for name in inside):
        return (
            "is an exported program (.pt2), not a checkpoint; save its weights alone, where you trust it: "
            f'torch.save(torch.export.load("{file}").state_dict, "weights.pth")'
        )
    if "data.pkl" in inside:
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "is an archive of NumPy arrays (.npz), not a PyTorch checkpoint"
    if "model.weights.h5" in names:
        return "is a Keras model, not a PyTorch checkpoint"
    return "is a zip archive that torch.save did not write; unpack it and give the checkpoint inside"
