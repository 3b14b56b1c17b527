# SPDX-License-Identifier: Apache-2.0
"""The model of study ring: what a run over R ranks takes, from a handful of measured constants."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

RANKS = 2 ** np.arange(11)  # 1 ... 1024
LENGTHS = (10**5, 10**6, 10**7)
# A cluster as there are many; nothing here can measure one: a rank is a node of 64 cores, each as
# fast as this one, and messages go over 200 Gbit/s.
CORES, NETWORK = 64, {"latency_s": 2e-6, "bytes_per_s": 25e9}
ASSUMED = "64 cores a rank as fast as this one, messages of 2 us and 25 GB/s"


@dataclass(frozen=True)
class Shape:
    """What is attended to: [heads, n, width], ``width`` elements of both k and v, f32."""

    n: int
    heads: int
    width: int
    causal: bool

    def pairs(self) -> float:
        """Admitted pairs over all heads."""
        return self.heads * (self.n * (self.n + 1) / 2 if self.causal else self.n**2)

    def block_bytes(self, ranks: int) -> float:
        """Of k and v of one rank."""
        return self.n / ranks * self.heads * 2 * self.width * 4

    def partials(self, ranks: int) -> float:
        """Partial results that a row of queries gets, on average: one from each run of keys that it
        sees. Zigzag parts a causal sequence into 2 R runs, the i-th of which sees i."""
        return (2 * ranks + 1) / 2 if self.causal and ranks > 1 else ranks


@dataclass(frozen=True)
class Model:
    """Seconds a pair, a row and so on: the head of ring.py says what each is of."""

    pair: float
    row: float
    partial: float
    finish: float
    packed_byte: float
    latency_s: float
    bytes_per_s: float

    def compute(self, s: Shape, ranks: int) -> float:
        rows = s.n / ranks * s.heads
        return self.pair * s.pairs() / ranks + self.row * rows * s.partials(ranks)

    def merge(self, s: Shape, ranks: int) -> float:
        rows = s.n / ranks * s.heads
        packed = s.block_bytes(ranks) if ranks > 1 else 0.0
        return (
            self.partial * rows * s.partials(ranks) + self.finish * rows + self.packed_byte * packed
        )

    def on_cluster(self) -> Model:
        """The same with the cores and the network that are assumed."""
        work = {"pair", "row", "partial", "finish", "packed_byte"}
        return Model(**{k: v / CORES if k in work else NETWORK[k] for k, v in asdict(self).items()})

    def message(self, s: Shape, ranks: int) -> float:
        """One step's."""
        return self.latency_s + s.block_bytes(ranks) / self.bytes_per_s

    def total(self, s: Shape, ranks: int, overlap: bool) -> float:
        """A run: R steps of work, R - 1 messages."""
        work = self.compute(s, ranks) + self.merge(s, ranks)
        if ranks == 1:
            return work
        message, step = self.message(s, ranks), work / ranks
        return step + (ranks - 1) * (max(step, message) if overlap else step + message)


def memory(s: Shape, ranks: int) -> float:
    """Bytes a rank: q, k, v and out, two blocks in flight, an output and two numbers a row. One on
    its own has no block in flight."""
    rows = s.n / ranks * s.heads
    blocks = 4 * s.width if ranks > 1 else 0
    return 4 * rows * (4 * s.width + blocks + s.width + 2)
