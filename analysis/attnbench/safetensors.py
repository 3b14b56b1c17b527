# SPDX-License-Identifier: Apache-2.0
"""Safetensors with NumPy alone: 8 bytes of header length (little endian), JSON, raw tensors."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_DTYPES: dict[str, Any] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "I64": np.dtype("<i8")}


def read(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors of an open file, by name, and its metadata.

    Raises ValueError where the bytes are no safetensors file or a tensor's type is not float32,
    float64 or int64.
    """
    raw = file.read()
    if len(raw) < 8 or (length := struct.unpack("<Q", raw[:8])[0]) > len(raw) - 8:
        raise ValueError("not a safetensors file: the header's length is beyond the end")
    try:
        header = json.loads(raw[8 : 8 + length])
    except ValueError as error:
        raise ValueError(f"not a safetensors file: {error}") from None
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"tensor {name!r} has type {entry['dtype']}, which is not read here")
        begin, end = entry["data_offsets"]
        flat = np.frombuffer(raw[8 + length + begin : 8 + length + end], _DTYPES[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return tensors, metadata


def read_header(path: Path) -> tuple[dict[str, dict], dict[str, str]]:
    """The header's entries by tensor and the metadata, without the tensors."""
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8 or (length := struct.unpack("<Q", prefix)[0]) > path.stat().st_size:
            raise ValueError(f"{path}: not a safetensors file")
        header = json.loads(file.read(length))
    return header, header.pop("__metadata__", {})


def write(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Writes float32 tensors; the file appears under its name only when it is whole."""
    header: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.size * 4
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor, "<f4").tobytes())
    partial.replace(path)
