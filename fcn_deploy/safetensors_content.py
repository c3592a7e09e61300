"""A safetensors file's content, apart from its metadata.

Source: the format's own description (https://github.com/huggingface/safetensors#format): eight bytes of
length, a JSON table of tensors with the metadata under ``__metadata__``, then the tensors' bytes.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from pathlib import Path

from fcn_deploy.errors import ModelError

_METADATA = "__metadata__"


def content_of(data: bytes | mmap.mmap) -> str:
    """SHA-256 over the table of tensors and their bytes, without the metadata.

    Args:
        data: a whole file.

    Raises:
        ValueError: it is not a safetensors file.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    table = json.loads(data[8:start])
    table.pop(_METADATA, None)
    digest = hashlib.sha256(json.dumps(table, sort_keys=True).encode())
    with memoryview(data) as view, view[start:] as tensors:
        digest.update(tensors)
    return digest.hexdigest()


def content_of_file(path: Path) -> str:
    """:func:`content_of` a file, mapped rather than read into memory.

    Raises:
        ModelError: it is not a complete safetensors file.
    """
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return content_of(data)
        except ValueError as exc:
            raise ModelError(f"{path} is not a complete safetensors file ({exc}); copy it again") from exc
