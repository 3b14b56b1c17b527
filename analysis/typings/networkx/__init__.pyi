# SPDX-License-Identifier: Apache-2.0
# For pyright: networkx is Any here, as it is to mypy (pyproject.toml).
from typing import Any

def __getattr__(name: str) -> Any: ...
