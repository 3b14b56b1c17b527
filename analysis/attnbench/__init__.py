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
    import pandas as pd

__version__ = "0.1.0"

# Where the functions stand. They are imported when they are asked for: they need NumPy, the
# extension or Matplotlib, and help, set-up and the doctor import this package without any.
_HOMES = {
    "api": ("attention", "attention_weights", "bahdanau_attention", "kernels", "luong_attention"),
    "layers": ("gru", "lstm", "multi_head_attention", "rnn", "self_attention"),
    "heatmap": ("plot_attention",),
    "graph": ("attention_graph", "plot_graph"),
}
__all__ = ["load", *sorted(name for names in _HOMES.values() for name in names)]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"attnbench.{home}"), name)
    raise AttributeError(f"module 'attnbench' has no attribute {name!r}")


def load(run_dir: str) -> pd.DataFrame:
    """The records of a run directory as a DataFrame, one row a record."""
    from attnbench import records

    return records.load(run_dir)
