# SPDX-License-Identifier: Apache-2.0
"""attnbench: attention variants on CPUs, and the records of measuring them.

Arrays are ``[batch, heads, n, d]``, ``[heads, n, d]`` or ``[n, d]``, float32 or bfloat16
(``ml_dtypes.bfloat16``). Whatever is wrong with an argument is a ``ValueError`` whose message
begins with the argument's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__version__ = "0.1.0"
__all__ = [
    "attention",
    "attention_weights",
    "bahdanau_attention",
    "kernels",
    "load",
    "luong_attention",
    "self_attention",
]

# The functions stand in attnbench.api, which needs NumPy and the extension. Help, set-up and the
# doctor import this package without either.


def __getattr__(name: str) -> Any:
    if name in __all__ and name != "load":
        from attnbench import api

        return getattr(api, name)
    raise AttributeError(f"module 'attnbench' has no attribute {name!r}")


def load(run_dir: str) -> pd.DataFrame:
    """The records of a run directory as a DataFrame, one row a record."""
    from attnbench import records

    return records.load(run_dir)
