"""The bytes of safetensors files, and how they get to the disk.

Format: https://huggingface.co/docs/safetensors (8 bytes of header length, a JSON header, raw little-endian tensors).
"""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from evomm.checkpoints.reader import DTYPES, TensorInfo

CODES = {dtype: code for code, dtype in DTYPES.items()}


def header(infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """The safetensors header (length, JSON, padded to 8 bytes) and each tensor's offset behind it."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    offsets: dict[str, int] = {}
    at = 0
    for name, info in infos.items():
        offsets[name] = at
        entries[name] = {
            "dtype": CODES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [at, at + info.nbytes],
        }
        at += info.nbytes
    body = json.dumps(entries, separators=(",", ":")).encode()
    body += b" " * (-len(body) % 8)
    return len(body).to_bytes(8, "little") + body, offsets


def raw(tensor: Tensor) -> memoryview:
    """The tensor's bytes in a row."""
    flat = tensor.detach().cpu().contiguous().view(-1)
    return memoryview(flat.view(torch.uint8).numpy().data) if flat.numel() else memoryview(b"")


def pwrite(fd: int, data: memoryview, offset: int) -> None:
    """Write all bytes at an offset."""
    while data.nbytes:
        done = os.pwrite(fd, data[: 1 << 30], offset)  # one call writes at most 2 GiB
        data, offset = data[done:], offset + done


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def claim(fd: int, size: int) -> None:
    """Reserve the bytes now, where the file system can; a full disk is an error here and not an hour later."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
            raise
