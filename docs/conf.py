# SPDX-License-Identifier: Apache-2.0
"""The site: `sphinx-build -W docs build/docs`. Pages read as plain Markdown too."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "analysis"))

from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml

import attnbench

project = "attnbench"
author = "the attnbench authors"
project_copyright = "Apache-2.0"
release = version = attnbench.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
autodoc_mock_imports = ["attnbench._core"]  # the site is built without a compiler
autodoc_typehints = "none"  # they stand in the signatures
autodoc_member_order = "bysource"
nitpicky = False
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "attnbench"
# Links out of docs/ lead to files of the repository, which the site does not hold.
suppress_warnings = ["myst.xref_missing"]


def math(self: Any, node: nodes.math | nodes.math_block) -> None:
    """Formulas as MathML, which browsers draw themselves: the site needs no network."""
    block = isinstance(node, nodes.math_block)
    made = latex2mathml.tex2mathml(node.astext(), as_block=block)
    self.body.append(f'<div class="math">{made}</div>' if block else made)
    raise nodes.SkipNode


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", (math, None), (math, None))
