"""What kind of file it is, by its content, whatever its name."""

from __future__ import annotations

import gzip
import io
import re
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from checkpoint_files import tiny_state
from torch import nn

from fcn_deploy.errors import ModelError
from fcn_deploy.model.checkpoints.containers import LEGACY, SAFETENSORS, ZIP, container_of
from fcn_deploy.model.checkpoints.read import read

SUFFIXES = ("", ".pth", ".tar", ".pkl", ".ckpt", ".safetensors", ".zip", ".onnx")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_checkpoints_are_read_under_any_name(suffix: str, tmp_path: Path) -> None:
    state, path = tiny_state(), tmp_path / f"checkpoint.pth{suffix}"
    torch.save(state, path)
    assert container_of(path) == ZIP and read(path).container == "checkpoint"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert container_of(path) == LEGACY and list(read(path).state) == list(state)
    safetensors.torch.save_file(state, path)
    assert container_of(path) == SAFETENSORS
    assert read(path).container == "safetensors" and set(read(path).state) == set(state)


class Tiny(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


def zipped(**records: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in records.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), data)
    return buffer.getvalue()


def torchscript() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(Tiny(), torch.ones(1), check_trace=False), buffer)
    return buffer.getvalue()


def exported() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(Tiny(), (torch.ones(2),)), buffer)
    return buffer.getvalue()


def onnx_model() -> bytes:
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    return onnx.helper.make_model(graph).SerializeToString()


def array(save: object = np.save) -> bytes:
    buffer = io.BytesIO()
    save(buffer, np.ones(3))  # type: ignore[operator]
    return buffer.getvalue()


def tar(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def field(number: int, data: bytes) -> bytes:
    """A field of a protobuf message."""
    return bytes([number << 3 | 2, len(data)]) + data


OTHERS = {
    "a web page": (b"\n<!DOCTYPE html><html><body>404</body></html>", "is a web page (HTML)"),
    "a page without a type": (b"<HTML><head>", "is a web page (HTML)"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"),
    "onnx": (onnx_model(), "is an ONNX model"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file, as Keras"),
    "keras": (zipped(config_dot_json=b"{}", model_dot_weights_dot_h5=b""), "is a Keras model"),
    "saved model": (b"\x08\x01\x12\x90\x03", "is a SavedModel of TensorFlow"),
    "frozen graph": (
        field(1, field(1, b"image") + field(2, b"Placeholder")),
        "is a frozen graph of TensorFlow",
    ),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(50), "is a TensorFlow Lite model"),
    "caffe": (field(1, b"fcn8s") + field(2, b"conv1_1") + b"Convolution", "is a Caffe model"),
    "npy": (array(), "is a NumPy array"),
    "npz": (array(np.savez), "is an archive of NumPy arrays"),
    "gzip": (gzip.compress(b"weights"), "is compressed with gzip"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(50), "is a 7z archive"),
    "tar": (tar("model.pth"), "is a tar archive; unpack it"),
    "tar of torch": (tar("sys_info"), "is in the tar format of PyTorch before 0.2"),
    "zip": (zipped(folder__model_dot_pth=b"weights"), "unpack it and give the checkpoint inside"),
    "nothing": (b"", "is empty (0 bytes)"),
    "text": (b"hello", "is not a complete checkpoint"),
    "zeros": (bytes(1000), "is not a complete checkpoint"),
    "a length without a table": (struct.pack("<Q", 1 << 60) + b"{", "is not a complete checkpoint"),
    "half a zip": (zipped(a__data_dot_pkl=b"x" * 500)[:300], "is not a complete PyTorch checkpoint"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", OTHERS)
def test_other_files_are_told_in_words(kind: str, suffix: str, tmp_path: Path) -> None:
    data, told = OTHERS[kind]
    path = tmp_path / f"other{suffix}"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=rf"other{re.escape(suffix)} .*{re.escape(told)}"):
        read(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*torch.export")
def test_torchscript_and_exported_programs_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(torchscript())
    with pytest.raises(ModelError, match=r'TorchScript archive.*torch.jit.load\("model.pt"\).state_dict\(\)'):
        read(path)
    path.write_bytes(exported())
    with pytest.raises(ModelError, match=r'exported program.*torch.export.load\("model.pt"\).state_dict'):
        read(path)


def test_programs_of_older_versions_are_known(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(zipped(serialized_exported_program_dot_json=b"{}", version=b"5.3"))
    with pytest.raises(ModelError, match="exported program"):
        read(path)


def test_a_zip_archive_that_torch_would_not_write_is_not_read(tmp_path: Path) -> None:
    """Compressed or repeated records could be far larger than the file."""
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02N.")
        archive.writestr("a/data/0", bytes(10_000_000))
    with pytest.raises(ModelError, match="compressed records"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02N.")
        archive.writestr("a/data.PKL", b"\x80\x02}.")
    with pytest.raises(ModelError, match="two records of one name"):
        read(path)


def test_one_byte_order_is_read(tmp_path: Path) -> None:
    path = tmp_path / "big.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/byteorder", b"big")
    with pytest.raises(ModelError, match="other byte order"):
        read(path)
