# SPDX-License-Identifier: Apache-2.0
"""An LSTM encoder-decoder with one fixed context vector, or with attention (PyTorch).

All variants share the encoder, a decoder that starts from the encoder's last state, and the output
softmax(out tanh(mix [s; c])). They differ in the context c: the encoder's last state at every step
("none": Sutskever et al. 2014, Cho et al. 2014), Luong's global attention by dot, general or concat
(2015, section 3.1), or Bahdanau's (2014, A.1.2), whose query is the decoder's state before the step
and whose context enters the decoder too.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import attnbench

SCORES = ("none", "dot", "general", "concat", "bahdanau")
State = tuple[Tensor, Tensor]


class Seq2Seq(nn.Module):
    """Encoder and decoder of ``hidden`` units over ``vocabulary`` tokens; ``targets`` where the
    answers' vocabulary is another; ``both_ways`` for an encoder of two halves, one backwards."""

    def __init__(
        self, vocabulary: int, hidden: int, score: str, targets: int = 0, both_ways: bool = False
    ) -> None:
        super().__init__()
        if score not in SCORES:
            raise ValueError(f"score: must be one of {', '.join(SCORES)}, is {score!r}")
        self.score = score
        self.embed = nn.Embedding(vocabulary, hidden)
        self.embed_target = nn.Embedding(targets, hidden) if targets else self.embed
        units = hidden // 2 if both_ways else hidden
        self.encoder = nn.LSTM(hidden, units, batch_first=True, bidirectional=both_ways)
        width = 2 * hidden if score == "bahdanau" else hidden
        self.decoder = nn.LSTM(width, hidden, batch_first=True)
        self.mix = nn.Linear(2 * hidden, hidden)
        self.out = nn.Linear(hidden, targets or vocabulary)
        shapes = {
            "general": {"w": (hidden, hidden)},
            "concat": {"w": (hidden, 2 * hidden), "v": (hidden,)},
            "bahdanau": {"w": (hidden, hidden), "u": (hidden, hidden), "v": (hidden,)},
        }.get(score, {})
        for name, shape in shapes.items():
            bound = hidden**-0.5
            setattr(self, name, nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))

    def encode(self, source: Tensor) -> tuple[Tensor, State]:
        """States ``[B, n, hidden]`` and the last one."""
        h, (last, cell) = self.encoder(self.embed(source))
        return h, (torch.cat([*last], -1)[None], torch.cat([*cell], -1)[None])

    def keys(self, h: Tensor) -> Tensor:
        """What of the scores depends on the encoder alone, computed once a sequence."""
        if self.score == "general":
            return h @ self.w.T
        if self.score == "concat":
            return h @ self.w[:, h.shape[-1] :].T
        return h @ self.u if self.score == "bahdanau" else h

    def attend(self, s: Tensor, h: Tensor, keys: Tensor) -> tuple[Tensor, Tensor | None]:
        """Context ``[B, m, hidden]`` and weights ``[B, m, n]`` for states ``s [B, m, hidden]``."""
        if self.score == "none":
            return h[:, -1:].expand_as(s), None
        if self.score in ("dot", "general"):
            scores = s @ keys.transpose(1, 2)
        else:
            q = s @ (self.w if self.score == "bahdanau" else self.w[:, : s.shape[-1]].T)
            scores = torch.tanh(q[:, :, None] + keys[:, None]) @ self.v
        weights = torch.softmax(scores, -1)
        return weights @ h, weights

    def step(
        self, given: Tensor, state: State, h: Tensor, keys: Tensor
    ) -> tuple[Tensor, State, Tensor | None]:
        """Decodes ``given [B, m]`` (one token for Bahdanau): logits, the state, the weights."""
        x = self.embed_target(given)
        if self.score == "bahdanau":
            c, weights = self.attend(state[0].transpose(0, 1), h, keys)
            s, state = self.decoder(torch.cat([x, c], -1), state)
        else:
            s, state = self.decoder(x, state)
            c, weights = self.attend(s, h, keys)
        return self.out(torch.tanh(self.mix(torch.cat([s, c], -1)))), state, weights

    def forward(self, source: Tensor, given: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits ``[B, m, tokens]`` and weights with the right answers given (teacher forcing)."""
        h, state = self.encode(source)
        keys = self.keys(h)
        if self.score != "bahdanau":
            logits, _, weights = self.step(given, state, h, keys)
            return logits, weights
        steps = []
        for i in range(given.shape[1]):
            logits, state, weights = self.step(given[:, i : i + 1], state, h, keys)
            steps.append((logits, weights))
        return torch.cat([x for x, _ in steps], 1), torch.cat([a for _, a in steps], 1)

    @torch.no_grad()
    def generate(self, source: Tensor, begin: int, limit: int) -> tuple[Tensor, Tensor | None]:
        """Greedy answers ``[B, limit]``, each fed back, and the weights of every step."""
        h, state = self.encode(source)
        keys = self.keys(h)
        token = torch.full((len(source), 1), begin)
        tokens, seen = [], []
        for _ in range(limit):
            logits, state, weights = self.step(token, state, h, keys)
            token = logits.argmax(-1)
            tokens.append(token)
            seen.append(weights)
        return torch.cat(tokens, 1), None if seen[0] is None else torch.cat(seen, 1)


@torch.no_grad()
def kernel_difference(model: Seq2Seq, source: Tensor, given: Tensor) -> float:
    """The largest difference, over context and weights, between PyTorch's attention in the trained
    model and our kernel's on the same states."""
    h, state = model.encode(source)
    keys = model.keys(h)
    if model.score == "bahdanau":
        states = []
        for i in range(given.shape[1]):
            states.append(state[0].transpose(0, 1))
            _, state, _ = model.step(given[:, i : i + 1], state, h, keys)
        s = torch.cat(states, 1)
    else:
        s, _ = model.decoder(model.embed_target(given), state)
    context, weights = model.attend(s, h, keys)
    parameters = {n: p.numpy() for n, p in model.named_parameters() if n in ("w", "u", "v")}
    if model.score == "bahdanau":
        ours = attnbench.bahdanau_attention(s.numpy(), h.numpy(), **parameters)
    else:
        ours = attnbench.luong_attention(s.numpy(), h.numpy(), model.score, **parameters)
    assert weights is not None
    return max(
        float(np.abs(a - b.numpy()).max()) for a, b in zip(ours, (context, weights), strict=True)
    )
