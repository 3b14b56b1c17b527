# SPDX-License-Identifier: Apache-2.0
"""ALBERT in rxnmapper: real Q, K and V of a bidirectional encoder of chemical reactions (12 layers of
shared weights x 8 heads x 32, n <= 512).

Schwaller et al. 2021 read which atom becomes which off its attention. The weights are those of the
wheel on PyPI; nothing of it is run or installed. ALBERT (Lan et al. 2020) has one layer, applied
twelve times; post-layer-norm, exact GELU, learned positions, narrow embeddings:

    x = LN(word + position + type) W;  twelve times: x = LN(x + attention(x) Wo);  x = LN(x + ffn(x))
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.special import erf

from attnbench import transformer
from attnbench.transformer import Layer

PACKAGE = "rxnmapper==0.4.3"
SUMMARY = (
    "ALBERT encoder of reactions: 12 times one layer x 8 heads x 32, bidirectional, 512 tokens"
)
LIMIT = 512  # tokens
TEXT = "reactions.txt"  # of experiments/text
_FOLDER = "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k"
_LAYER = "albert.encoder.albert_layer_groups.0.albert_layers.0"
# Of SMILES: bracketed atoms, elements of two letters, %nn of rings, and single characters.
_WORD = re.compile(r"\[[^\]]*\]|Br|Cl|>>|%\d\d|\S")


class Model:
    """The model of a wheel.

    Args:
        wheel: the package's wheel. Raises ValueError where it holds no such model.
    """

    def __init__(self, wheel: Path) -> None:
        config, vocabulary, weights = transformer.members(
            wheel, *(f"{_FOLDER}/{n}" for n in ("config.json", "vocab.txt", "pytorch_model.bin"))
        )
        shape = json.loads(config)
        self._ids = {word: i for i, word in enumerate(vocabulary.decode().splitlines())}
        self._weights = transformer.torch_weights(weights)
        self.layers: int = shape["num_hidden_layers"]
        self.heads: int = shape["num_attention_heads"]
        self._epsilon: float = shape["layer_norm_eps"]

    def encode(self, reaction: str) -> list[int]:
        """Ids of a reaction in SMILES, between the marks of begin and end."""
        unknown = self._ids["[UNK]"]
        words = [self._ids.get(word, unknown) for word in _WORD.findall(reaction)]
        return [self._ids["[CLS]"], *words[: LIMIT - 2], self._ids["[SEP]"]]

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return transformer.norm(x, self._weights, name, self._epsilon)

    def forward(
        self, ids: list[int], attend: Callable[[Layer], np.ndarray] | None = None
    ) -> Iterator[Layer | np.ndarray]:
        """Each layer's Q, K and V in turn, and last the hidden states ``[tokens, hidden]``.
        ``attend`` gives a layer's output ``[1, heads, tokens, head_dim]`` in place of attention."""
        tables = [
            self._weights[f"albert.embeddings.{kind}_embeddings.weight"]
            for kind in ("word", "position", "token_type")
        ]
        x = tables[0][ids] + tables[1][: len(ids)] + tables[2][0]
        x = self._norm(x, "albert.embeddings.LayerNorm")
        x = self._linear(x, "albert.encoder.embedding_hidden_mapping_in")
        for _ in range(self.layers):
            q, k, v = (
                transformer.split(self._linear(x, f"{_LAYER}.attention.{part}"), self.heads)
                for part in ("query", "key", "value")
            )
            yield (layer := Layer(q, k, v, x))
            context = transformer.attention_weights(q, k) @ v if attend is None else attend(layer)
            x = x + self._linear(transformer.join(context), f"{_LAYER}.attention.dense")
            x = self._norm(x, f"{_LAYER}.attention.LayerNorm")
            inner = self._linear(x, f"{_LAYER}.ffn")
            inner = (inner * (1 + erf(inner / np.sqrt(2))) / 2).astype(np.float32)
            x = self._norm(
                x + self._linear(inner, f"{_LAYER}.ffn_output"), f"{_LAYER}.full_layer_layer_norm"
            )
        yield x

    def foretell(self, states: np.ndarray) -> np.ndarray:
        """What the words at masked places are: logits ``[tokens, words]`` of the last states."""
        inner = self._linear(states, "predictions.dense")
        inner = inner * (1 + erf(inner / np.sqrt(2))) / 2
        inner = self._norm(inner, "predictions.LayerNorm")
        return (
            inner @ self._weights["predictions.decoder.weight"].T
            + self._weights["predictions.bias"]
        )

    attention_inputs = transformer.over_first_line

    @cached_property
    def description(self) -> dict[str, str]:
        """What the cache file says of its origin."""
        return {"model": "rxnmapper", "package": PACKAGE, "causal": "false"}
