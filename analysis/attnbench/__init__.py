# SPDX-License-Identifier: Apache-2.0
"""attnbench: attention variants on CPUs, and the records of measuring them.

Arrays are ``[batch, heads, n, d]``, ``[heads, n, d]`` or ``[n, d]``, float32 or bfloat16
(``ml_dtypes.bfloat16``). Whatever is wrong with an argument is a ``ValueError`` whose message
begins with the argument's name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

__version__ = "0.1.0"

# Where the functions stand. They are imported when they are asked for: they need NumPy, the
# extension or Matplotlib, and help, set-up and the doctor import this package without any.
_HOMES = {
    "api": (
        "attention",
        "attention_weights",
        "bahdanau_attention",
        "kernels",
        "luong_attention",
        "tiles",
    ),
    "layers": ("gru", "lstm", "multi_head_attention", "rnn", "self_attention"),
    "heatmap": ("plot_attention", "plot_heads"),
    "graph": ("attention_graph", "plot_graph"),
    "plugin": ("kernel", "serves"),
}
__all__ = [
    "figures", "load", "summarise", *sorted(name for names in _HOMES.values() for name in names)
]  # fmt: skip

if TYPE_CHECKING:
    from attnbench import figures as figures
    from attnbench.api import attention as attention
    from attnbench.api import attention_weights as attention_weights
    from attnbench.api import bahdanau_attention as bahdanau_attention
    from attnbench.api import kernels as kernels
    from attnbench.api import luong_attention as luong_attention
    from attnbench.api import tiles as tiles
    from attnbench.graph import attention_graph as attention_graph
    from attnbench.graph import plot_graph as plot_graph
    from attnbench.heatmap import plot_attention as plot_attention
    from attnbench.heatmap import plot_heads as plot_heads
    from attnbench.layers import gru as gru
    from attnbench.layers import lstm as lstm
    from attnbench.layers import multi_head_attention as multi_head_attention
    from attnbench.layers import rnn as rnn
    from attnbench.layers import self_attention as self_attention
    from attnbench.plugin import kernel as kernel
    from attnbench.plugin import serves as serves


def __getattr__(name: str) -> Any:
    if name == "figures":
        return importlib.import_module("attnbench.figures")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"attnbench.{home}"), name)
    raise AttributeError(f"module 'attnbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def load(run_dir: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """The records of a run directory, or of several, as a DataFrame: one row a record.

    Columns are the fields of results/SCHEMA.md, nested ones flattened (``keys``, ``median_ns``).
    """
    from attnbench import records

    return records.load(run_dir)


def summarise(run: pd.DataFrame) -> pd.DataFrame:
    """One row a case of ``load``'s records: label, median_ns with low_ns and high_ns (95 %), gflops,
    memory_bytes, error, status, reason, and the case's own columns."""
    from attnbench import records

    return records.summarise(run)
