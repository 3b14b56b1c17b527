# SPDX-License-Identifier: Apache-2.0
"""Where things lie: in the source tree, or, installed from a wheel, inside the package itself."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# Experiments, kernels/peers and the rest stand under the same names in both.
IN_TREE = (PACKAGE.parents[1] / "kernels" / "contract" / "kernel.h").is_file()
ROOT = PACKAGE.parents[1] if IN_TREE else PACKAGE
PROGRAMS = ROOT / "build" / "release" / "harness" if IN_TREE else PACKAGE / "bin"
# Where downloads and what is computed from them are kept.
CACHE = (
    ROOT / "build"
    if IN_TREE
    else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "attnbench"
)
# attnbench.cmake, with which a project of its own builds a kernel.
CMAKE = ROOT / "cmake"
