# SPDX-License-Identifier: Apache-2.0
"""anarcii: real cross-attention, of a model that numbers antibodies (encoder and decoder, 2 layers x
4 heads x 32).

Residues go in, their places in the IMGT scheme come out one after the other; each place looks back
at the residues by attention. The weights are those of the wheel on PyPI; nothing of it is run or
installed. Post-layer-norm, ReLU, learned positions, words times sqrt(hidden):

    encoder layer: x = LN(x + attention(x)); x = LN(x + ffn(x))
    decoder layer: y = LN(y + causal attention(y)); y = LN(y + attention(y, x)); y = LN(y + ffn(y))
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

import numpy as np

from attnbench import transformer
from attnbench.transformer import Layer

PACKAGE = "anarcii==2.0.8"
SUMMARY = "encoder-decoder of antibodies' numbers: cross-attention, 2 layers x 4 heads x 32"
LIMIT = 200  # tokens
TEXT = "antibodies.txt"  # of experiments/text
_STEM = "anarcii/models/antibody/antibody_4_2_128_512"
_MARKS = 4  # padding, begin, end, skip: the first words of both vocabularies
_BEGIN, _END = 1, 2
_RESIDUES = "ACDEFGHIKLMNPQRSTVWXY"
_EPSILON = 1e-5  # PyTorch's


class Model:
    """The model of a wheel.

    Args:
        wheel: the package's wheel. Raises ValueError where it holds no such model.
    """

    def __init__(self, wheel: Path) -> None:
        config, weights = transformer.members(wheel, f"{_STEM}.json", f"{_STEM}.pt")
        shape = json.loads(config)
        self._weights = transformer.torch_weights(weights)
        self.layers: int = shape["LAYERS"]
        self.heads: int = shape["HEADS"]

    def encode(self, line: str) -> list[int]:
        """Ids of the residues of "[HEAVY] [HUMAN] EVQL...", between the marks of begin and end.

        Raises ValueError for what is no residue.
        """
        residues = line.split()[-1]
        if unknown := set(residues) - set(_RESIDUES):
            raise ValueError(f"text: {min(unknown)!r} is no residue")
        ids = [_MARKS + _RESIDUES.index(residue) for residue in residues]
        return [_BEGIN, *ids[: LIMIT - 2], _END]

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _embed(self, ids: list[int], side: str) -> np.ndarray:
        words, places = (
            self._weights[f"{side}.{kind}_embedding.weight"] for kind in ("tok", "pos")
        )
        return words[ids] * np.float32(np.sqrt(words.shape[1])) + places[: len(ids)]

    def _inputs(self, x: np.ndarray, source: np.ndarray, name: str) -> Layer:
        """Queries of x; keys and values of the source."""
        weight, bias = (
            self._weights[f"{name}.multihead_attn.in_proj_{p}"] for p in ("weight", "bias")
        )
        q, k, v = (
            transformer.split(states @ w.T + b, self.heads)
            for states, w, b in zip((x, source, source), np.split(weight, 3), np.split(bias, 3))
        )
        return Layer(q, k, v, x)

    def _attend(self, x: np.ndarray, layer: Layer, name: str, causal: bool = False) -> np.ndarray:
        """x and what attention adds to it, not yet normalised."""
        context = transformer.attention_weights(layer.q, layer.k, causal) @ layer.v
        return x + self._linear(transformer.join(context), f"{name}.multihead_attn.out_proj")

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return transformer.norm(x, self._weights, f"{name}_layer_norm", _EPSILON)

    def _feed_forward(self, x: np.ndarray, name: str) -> np.ndarray:
        inner = np.maximum(self._linear(x, f"{name}.positionwise_feedforward.fc_1"), 0)
        inner = self._linear(inner, f"{name}.positionwise_feedforward.fc_2")
        return self._norm(x + inner, f"{name}.ff")

    def read(self, ids: list[int]) -> np.ndarray:
        """The encoder's states of the residues, ``[tokens, hidden]``."""
        x = self._embed(ids, "encoder")
        for number in range(self.layers):
            name = f"encoder.layers.{number}"
            layer = self._inputs(x, x, f"{name}.self_attention")
            x = self._attend(x, layer, f"{name}.self_attention")
            x = self._feed_forward(self._norm(x, f"{name}.self_attn"), name)
        return x

    def decode(self, places: list[int], states: np.ndarray) -> tuple[list[Layer], np.ndarray]:
        """Each layer's cross-attention, and the logits of what follows each place."""
        y, found = self._embed(places, "decoder"), []
        for number in range(self.layers):
            name = f"decoder.layers.{number}"
            own = self._inputs(y, y, f"{name}.self_attention")
            y = self._attend(y, own, f"{name}.self_attention", causal=True)
            y = self._norm(y, f"{name}.self_attn")
            found.append(across := self._inputs(y, states, f"{name}.encoder_attention"))
            y = self._attend(y, across, f"{name}.encoder_attention")
            y = self._feed_forward(self._norm(y, f"{name}.enc_attn"), name)
        return found, self._linear(y, "decoder.fc_out")

    def number(self, ids: list[int]) -> list[int]:
        """The places that the model gives to residues, the likeliest each: begin, chain, places."""
        states, places = self.read(ids), [_BEGIN]
        while len(places) < len(ids):
            _, logits = self.decode(places, states)
            places.append(int(logits[-1].argmax()))
        return places

    def attention_inputs(self, text: str) -> list[Layer]:
        """Q of the places, K and V of the residues of the text's first line, by layer."""
        ids = self.encode(transformer.first_line(text))
        layers, _ = self.decode(self.number(ids), self.read(ids))
        return layers

    @cached_property
    def description(self) -> dict[str, str]:
        """What the cache file says of its origin."""
        return {"model": "anarcii", "package": PACKAGE, "causal": "false"}
