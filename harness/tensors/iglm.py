# SPDX-License-Identifier: Apache-2.0
"""IgLM: real Q, K and V of a causal language model (GPT-2, 4 layers x 8 heads x 64, n <= 512).

A model of antibodies' sequences (Shuai et al. 2023), whose words are amino acids: after a chain and
a species it foretells one residue after the other. The weights are those of the wheel on PyPI
(licensed for academic use: they stay where they were downloaded); nothing of it is run or
installed. Pre-layer-norm, GELU by tanh, learned positions, tied embeddings:

    x = word + position;  per layer: x += attention(LN(x)) Wo;  x += ffn(LN(x));  logits = LN(x) word^T
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from attnbench import transformer
from attnbench.transformer import Layer

PACKAGE = "iglm==0.1.0"
SUMMARY = "GPT-2 of antibodies IgLM: 4 layers x 8 heads x 64, causal, 512 tokens"
LIMIT = 512  # tokens
TEXT = "antibodies.txt"  # of experiments/text
_FOLDER = "iglm/trained_models"


class Model:
    """The model of a wheel.

    Args:
        wheel: the package's wheel. Raises ValueError where it holds no such model.
    """

    def __init__(self, wheel: Path) -> None:
        config, vocabulary, weights = transformer.members(
            wheel,
            f"{_FOLDER}/IgLM/config.json",
            f"{_FOLDER}/vocab.txt",
            f"{_FOLDER}/IgLM/pytorch_model.bin",
        )
        shape = json.loads(config)
        self._ids = {word: i for i, word in enumerate(vocabulary.decode().split())}
        self._weights = transformer.torch_weights(weights)
        self.layers: int = shape["n_layer"]
        self.heads: int = shape["n_head"]
        self._epsilon: float = shape["layer_norm_epsilon"]

    def encode(self, line: str) -> list[int]:
        """Ids of "[HEAVY] [HUMAN] EVQL...": chain, species, residues, and the mark of the end.

        Raises ValueError for what the vocabulary lacks.
        """
        *marks, residues = line.split()
        words = [*marks, *residues, "[SEP]"]
        if unknown := [w for w in words if w not in self._ids]:
            raise ValueError(f"text: {unknown[0]!r} is no residue, chain or species")
        return [self._ids[w] for w in words][:LIMIT]

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return transformer.norm(x, self._weights, f"transformer.{name}", self._epsilon)

    def forward(
        self, ids: list[int], attend: Callable[[Layer], np.ndarray] | None = None
    ) -> Iterator[Layer | np.ndarray]:
        """Each layer's Q, K and V in turn, and last the logits ``[tokens, words]``. ``attend`` gives
        a layer's output ``[1, heads, tokens, head_dim]`` in place of causal attention."""
        words = self._weights["transformer.wte.weight"]
        x = words[ids] + self._weights["transformer.wpe.weight"][: len(ids)]
        for number in range(self.layers):
            name = f"h.{number}"
            inner = self._norm(x, f"{name}.ln_1")
            parts = np.split(self._linear(inner, f"transformer.{name}.attn.c_attn"), 3, axis=-1)
            yield (layer := Layer(*(transformer.split(part, self.heads) for part in parts), inner))
            if attend is None:
                weights = transformer.attention_weights(layer.q, layer.k, causal=True)
                context = weights @ layer.v
            else:
                context = attend(layer)
            x = x + self._linear(transformer.join(context), f"transformer.{name}.attn.c_proj")
            inner = self._linear(self._norm(x, f"{name}.ln_2"), f"transformer.{name}.mlp.c_fc")
            x = x + self._linear(transformer.gelu_tanh(inner), f"transformer.{name}.mlp.c_proj")
        yield self._norm(x, "ln_f") @ words.T

    attention_inputs = transformer.over_first_line

    @cached_property
    def description(self) -> dict[str, str]:
        """What the cache file says of its origin."""
        return {"model": "iglm", "package": PACKAGE, "causal": "true"}
