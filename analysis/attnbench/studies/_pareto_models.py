# SPDX-License-Identifier: Apache-2.0
"""The study pareto beyond MiniLM: the other models' layers, a causal model's own task, and lengths
that no model here has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from attnbench import _core, sparsity, tensors, transformer
from attnbench.sparsity import CHOSEN
from attnbench.studies._pareto_measures import (
    Size,
    Spent,
    attend,
    contestants,
    identity,
    measure,
    points,
    sweep,
    times,
    toml,
)

KEYS = 16  # a row, of the 107 to 126 tokens of an antibody
BLOCKS_KEYS = 24  # about what two chosen blocks are there, of which one is each row's own
OTHERS = {  # how a model is called, and whether a key may follow its query
    "iglm": ("IgLM", True),
    "rxnmapper": ("RXNMapper", False),
    "anarcii": ("ANARCII, cross-attention", False),
}
OTHER_BUDGETS = (8, KEYS, BLOCKS_KEYS, 32)  # of 82 to 123 tokens
ROWS = 256  # queries looked at where sequences are long
MARKS = 2  # chain and species: given, not foretold

Array = np.ndarray


class Other(NamedTuple):
    """A model's heads under masks: ``real`` a row a head, ``table`` a row a pattern and budget."""

    words: str
    size: Size
    real: pd.DataFrame
    table: pd.DataFrame


def others(folder: Path, budgets: Iterable[int], seconds: float) -> dict[str, Other]:
    """The layers of the models beside MiniLM, over the first line of their own texts."""
    budgets, found = list(budgets), {}
    for name, (words, causal) in OTHERS.items():
        text = tensors.default_text(name).read_text(encoding="utf-8")
        layers = tensors.load_model(name).attention_inputs(text)
        _, heads, n, head_dim = layers[0].q.shape
        size = Size(n, heads, head_dim, causal)
        real = measure(layers, budgets, causal)
        patterns = [p for b in budgets for p in sparsity.at_budget(n, b, causal).values()]
        cost = times(folder, patterns, budgets, seconds, size, name)
        found[name] = Other(words, size, real, points(real, cost, n, causal))
    return found


def antibodies(lines: Sequence[str], keys: int = KEYS) -> pd.DataFrame:
    """IgLM with each pattern in all layers, over the sequences: one row a pattern, dense last.
    ``recall`` is the median over heads and sequences; ``accuracy`` of the next residue and
    ``perplexity`` are of all residues after the first."""
    model = tensors.load_model("iglm")
    kept, foretold = [], []
    for line in lines:
        ids = model.encode(line)
        *layers, logits = model.forward(ids)
        kept.append(measure(layers, (keys,), causal=True))
        foretold.append(_foretold("dense", ids, logits))
        for name, pattern in contestants(keys, len(ids), causal=True).items():
            *_, logits = model.forward(ids, attend(name, pattern, keys, causal=True))
            foretold.append(_foretold(name, ids, logits))
    heads = pd.concat(kept).groupby("pattern", sort=False)[["keys", "recall"]].median()
    words = pd.concat(foretold).groupby("pattern", sort=False)
    table = pd.DataFrame({
        "accuracy": words["right"].mean(), "perplexity": np.exp(-words["log_p"].mean()),
    })  # fmt: skip
    found = heads.join(table).reset_index()
    whole = {"pattern": "dense", "keys": np.nan, "recall": 1.0, **table.loc["dense"]}
    return pd.concat([found, pd.DataFrame([whole])], ignore_index=True).assign(budget=keys)


def _foretold(name: str, ids: Sequence[int], logits: Array) -> pd.DataFrame:
    """A row a residue: whether it was foretold, and the logarithm of its probability."""
    logits = logits[MARKS - 1 : -1].astype(np.float64)
    wanted = np.array(ids[MARKS:])
    logits = logits - logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    right = logits.argmax(1) == wanted
    return pd.DataFrame({
        "pattern": name, "right": right[1:], "log_p": log_p[np.arange(len(wanted)), wanted][1:],
    })  # fmt: skip


def generated(n: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """q, k, v ``[heads, n, head_dim]`` of the calibrated heads at a length; as the harness makes
    them, a sink grows with the logarithm of the length."""
    pairs, width = [], 0
    for number, head in enumerate(_core.calibrated_heads()):
        width = head["head_dim"]
        sink = head["sink"] + np.log(n / head["tokens"])
        pairs.append(_core.calibrated(n, width, deviation=head["deviation"], sink=sink,
                                      locality=head["locality"], seed=seed + number))  # fmt: skip
    v = np.random.default_rng(seed).standard_normal((len(pairs), n, width), np.float32)
    return np.array([q for q, _ in pairs]), np.array([k for _, k in pairs]), v


def by_length(sizes: Iterable[int], keys: int) -> pd.DataFrame:
    """Quality of as many keys a row at any length, on calibrated heads and on Gaussian ones
    (``source``): medians over heads of means over some rows."""
    found = []
    for n in sizes:
        rows = np.sort(np.random.default_rng(n).choice(n, min(ROWS, n), replace=False))
        patterns = contestants(keys, n)
        noise = np.random.default_rng(1).standard_normal((3, 2, n, 32), np.float32)
        for source, (q, k, v) in (("calibrated", generated(n)), ("Gaussian", tuple(noise))):
            weights = transformer.attention_weights(q[:, rows].astype(np.float64), k)
            for name, pattern in patterns.items():
                if pattern is not None:
                    mask: Array = pattern.admitted[rows]
                elif name == CHOSEN:
                    mask = sparsity.chosen_blocks(q, k, keys)[:, rows]
                else:
                    mask = sparsity.control(name, weights, keys)
                kept = sparsity.kept(weights, v.astype(np.float64), mask)
                found.append({"source": source, "n": n, "pattern": name,
                              "recall": float(np.median(kept.recall)),
                              "error": float(np.median(kept.error))})  # fmt: skip
    return pd.DataFrame(found)


def times_by_length(folder: Path, sizes: Iterable[int], keys: int, seconds: float) -> pd.DataFrame:
    """The cost of one calibrated head by ``n`` and ``pattern`` (dense among them), measured if the
    folder lacks it. Raises ValueError where the sweep fails."""
    sizes = list(sizes)
    patterns = {n: sparsity.at_budget(n, keys) for n in sizes}
    lines = [
        'title = "What the masks of the study cost by length"', "[sweep]",
        f"budget_s = {seconds:g}", "rounds = 5", "seed = 1", "[input]", 'kind = "calibrated"',
        "[axes]", f"keys = {sizes}", "head_dim = 32", "threads = 1",
        "[[kernel]]", 'name = "flash"',
        "[[kernel]]", 'name = "top_blocks"', f"options = {toml(sparsity.block_options(keys))}",
    ]  # fmt: skip
    for n, own in patterns.items():
        for pattern in own.values():
            lines += [
                "[[kernel]]",
                f'name = "{pattern.kernel}"',
                f"keys = {n}",
                f"mask = {toml(pattern.mask)}",
            ]
    cost = sweep(folder, "\n".join(lines) + "\n", "lengths")
    rows: list[dict[str, Any]] = []
    for n in sizes:
        chosen = identity({"blocks": sparsity.block_options(keys)["blocks"]})
        of: dict[str, tuple[Any, ...]] = {"dense": identity({}), CHOSEN: chosen}
        of |= {name: identity(pattern.mask) for name, pattern in patterns[n].items()}
        rows += [{"n": n, "pattern": name, **cost.get((n, *key), Spent())._asdict()}
                 for name, key in of.items()]  # fmt: skip
    return pd.DataFrame(rows)
