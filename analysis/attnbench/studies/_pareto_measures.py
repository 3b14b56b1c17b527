# SPDX-License-Identifier: Apache-2.0
"""What the study pareto measures: quality by head, the whole model's output, the kernels' times."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import attnbench
from attnbench import cli, records, sparsity, tensors
from attnbench.sparsity import CONTROLS, Pattern

N, HEADS, HEAD_DIM = 512, 12, 32  # of MiniLM
# Medians over heads measured beforehand on another text, of these masks (and the 65 best keys).
KNOWN = {
    "local ±32": ({"pattern": "local", "window": 32}, 0.29),
    "4 sinks + local ±32": ({"pattern": "local", "window": 32, "sinks": 4}, 0.42),
    "local ±32 + columns 0, 64, …": (
        {"pattern": "columns", "window": 32, "stride": 64, "offset": 0}, 0.42),
    "local ±32 + relative stride 64": ({"pattern": "strided", "window": 32, "stride": 64}, 0.30),
}  # fmt: skip
KNOWN_BEST = (65, 0.69)
BEST = f"best {KNOWN_BEST[0]} keys"

Array = np.ndarray


def passages(text: str, count: int) -> list[list[int]]:
    """Token ids of ``count`` stretches of the text, of 512 tokens each with the marks."""
    ids, _, _ = tensors.load_model("minilm").tokenizer.encode(text, 10**9)
    inner, room = ids[1:-1], N - 2
    if len(inner) < count * room:
        raise ValueError(f"text: has {len(inner)} tokens, {count * room} are needed")
    return [[ids[0], *inner[i * room : (i + 1) * room], ids[-1]] for i in range(count)]


def gaussian(layers: int, seed: int = 0) -> list[Any]:
    """Layers of the model's shape, their Q, K and V independent and normal."""
    random = np.random.default_rng(seed)
    layer = tensors.reader("minilm").Layer
    size = (1, HEADS, N, HEAD_DIM)
    return [
        layer(*(random.standard_normal(size, np.float32) for _ in range(3)), np.empty(0))
        for _ in range(layers)
    ]


def dense(layer: Any) -> tuple[Array, Array]:
    """Weights ``[heads, n, n]`` and values, float64, of a layer."""
    weights = tensors.reader("minilm").attention_weights(layer.q[0].astype(np.float64), layer.k[0])
    return weights, layer.v[0].astype(np.float64)


def admitted(name: str, pattern: Pattern | None, weights: Array, keys: int) -> Array:
    """The mask of a pattern, or of a control (None), for these heads."""
    return sparsity.control(name, weights, keys) if pattern is None else pattern.admitted


def contestants(budget: int, n: int = N) -> dict[str, Pattern | None]:
    """The patterns of a budget, and the controls as None."""
    return {**sparsity.at_budget(n, budget), **dict.fromkeys(CONTROLS)}


def measure(layers: Sequence[Any], budgets: Iterable[int]) -> pd.DataFrame:
    """One row a head, budget and pattern: ``layer``, ``head``, ``keys`` and what was kept."""
    made = {budget: contestants(budget, layers[0].q.shape[2]) for budget in budgets}
    rows = []
    for number, layer in enumerate(layers):
        weights, v = dense(layer)
        whole = weights @ v
        for budget, patterns in made.items():
            for name, pattern in patterns.items():
                found = sparsity.kept(weights, v, admitted(name, pattern, weights, budget), whole)
                frame = pd.DataFrame(found._asdict())
                rows.append(frame.assign(
                    layer=number, head=frame.index, budget=budget, pattern=name,
                    keys=budget if pattern is None else pattern.keys,
                ))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def quartiles(frame: pd.DataFrame) -> pd.DataFrame:
    """Recall over heads, a row a pattern: ``low``, ``recall`` (the median), ``high``."""
    recall = frame.groupby("pattern", sort=False)["recall"]
    table = recall.quantile([0.25, 0.5, 0.75]).unstack().reset_index()
    return table.set_axis(["pattern", "low", "recall", "high"], axis=1)


def lengths(ids: list[int], sizes: Iterable[int], share: int) -> pd.DataFrame:
    """Quartiles on the text's first tokens, ``n`` of them with the marks, under patterns of
    n / share keys a row."""
    model = tensors.load_model("minilm")
    rows = []
    for n in sizes:
        layers = list(model.forward([*ids[: n - 1], ids[-1]]))[:-1]
        rows.append(quartiles(measure(layers, (n // share,))).assign(n=n))
    return pd.concat(rows, ignore_index=True)


def known(layers: Iterable[Any]) -> dict[str, float]:
    """Median recall over heads of the masks that were measured beforehand."""
    heads: dict[str, list[Array]] = {}
    masks = {name: sparsity.served("", name, N, **mask) for name, (mask, _) in KNOWN.items()}
    for layer in layers:
        weights, _ = dense(layer)
        for name, pattern in masks.items():
            heads.setdefault(name, []).append((weights * pattern.admitted).sum(2).mean(1))
        best = np.sort(weights, -1)[..., -KNOWN_BEST[0] :].sum(2).mean(1)
        heads.setdefault(BEST, []).append(best)
    return {name: float(np.median(values)) for name, values in heads.items()}


def _attend(name: str, pattern: Pattern | None, budget: int) -> Callable[[Any], Array]:
    """A layer's attention under a pattern: by its kernel, or from the weights where none is."""
    if pattern is not None and pattern.mask is not None:
        mask, kernel = pattern.mask, pattern.kernel
        return lambda layer: attnbench.attention(layer.q, layer.k, layer.v, kernel=kernel, **mask)

    def from_weights(layer: Any) -> Array:
        weights, v = dense(layer)
        out, _ = sparsity.attend(weights, v, admitted(name, pattern, weights, budget))
        return out[None].astype(np.float32)

    return from_weights


def whole_model(ids: list[int], budgets: Iterable[int]) -> pd.DataFrame:
    """The model with each pattern in all layers, against itself: cosines of the text's vector (mean
    of the last states) and of single tokens' states (their mean)."""
    model = tensors.load_model("minilm")
    *_, own = model.forward(ids)
    rows = []
    for budget in budgets:
        for name, pattern in contestants(budget).items():
            *_, states = model.forward(ids, attend=_attend(name, pattern, budget))
            rows.append({
                "budget": budget, "pattern": name, "text": cosine(own.mean(0), states.mean(0)),
                "token": float(np.mean([cosine(a, b) for a, b in zip(own, states)])),
            })  # fmt: skip
    return pd.DataFrame(rows)


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


_FIELDS = ("pattern", "window", "stride", "offset", "columns", "sinks")


def identity(mask: dict[str, Any]) -> tuple[Any, ...]:
    """What tells masks apart, as a key."""
    plain = {"pattern": "full", "window": 0, "stride": 0, "offset": -1, "columns": 0, "sinks": 0}
    return tuple(mask.get(field, plain[field]) for field in _FIELDS)


def experiment(patterns: Iterable[Pattern], seconds: float) -> str:
    """A TOML file that sweeps dense attention and these masks, each by its kernel."""
    lines = [
        'title = "What the masks of the study cost"', "[sweep]", f"budget_s = {seconds:g}",
        "rounds = 5", "seed = 1", "[axes]", f"keys = {N}", f"head_dim = {HEAD_DIM}",
        f"heads = {HEADS}", "threads = 1", "[[kernel]]", 'name = "flash"',
    ]  # fmt: skip
    for pattern in patterns:
        if pattern.mask is not None:
            fields = (f'{k} = "{v}"' if k == "pattern" else f"{k} = {v}"
                      for k, v in pattern.mask.items())  # fmt: skip
            lines += ["[[kernel]]", f'name = "{pattern.kernel}"', f"mask = {{{', '.join(fields)}}}"]
    return "\n".join(lines) + "\n"


def times(folder: Path, patterns: list[Pattern], seconds: float) -> dict[tuple[Any, ...], float]:
    """Nanoseconds of a layer's attention (12 heads) by mask, measured if the folder lacks it; dense
    attention is the mask without fields. Raises ValueError where the sweep fails."""
    text = experiment(patterns, seconds)
    name = hashlib.sha256(text.encode()).hexdigest()[:8]  # a quick look has other masks
    output, file = folder / f"run-{name}", folder / f"masks-{name}.toml"
    if not (output / "done").exists():
        file.write_text(text)
        begun = (output / "run.json").exists()
        given = ["--resume", str(output)] if begun else [str(file), "-o", str(output)]
        done = subprocess.run([str(cli.harness()), "sweep", *given], stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True)  # fmt: skip
        if done.returncode != 0:
            last = (done.stderr.strip() or "no reason given").splitlines()[-1]
            raise ValueError(f"the sweep of {file.name} failed: {last}")
        (output / "done").write_text("")
    summary = records.summarise(records.load(output))
    found = {}
    for _, row in summary[summary["status"] == "ok"].iterrows():
        mask = {f: row.get("mask_columns" if f == "columns" else f) for f in _FIELDS}
        mask = {k: v if isinstance(v, str) else int(v) for k, v in mask.items() if pd.notna(v)}
        found[identity(mask)] = float(row["median_ns"])
    return found


def points(frame: pd.DataFrame, cost: dict[tuple[Any, ...], float], n: int = N) -> pd.DataFrame:
    """One row a pattern and budget, medians over heads; ``time_ns`` is NaN where no kernel serves
    it. Dense attention is the last row."""
    measures = ["keys", *sparsity.Kept._fields]
    table = frame.groupby(["pattern", "budget"], sort=False)[measures].median().reset_index()
    made = {budget: contestants(budget, n) for budget in table["budget"].unique()}
    table["time_ns"] = [
        cost.get(identity(p.mask), np.nan)
        if (p := made[b][name]) is not None and p.mask
        else np.nan
        for name, b in zip(table["pattern"], table["budget"])
    ]
    whole: dict[str, Any] = {m: 1.0 if "recall" in m or "cosine" in m else 0.0 for m in measures}
    whole |= {"pattern": "dense", "budget": n, "keys": n, "time_ns": cost.get(identity({}), np.nan)}
    return pd.concat([table, pd.DataFrame([whole])], ignore_index=True)


def shapes(layers: Iterable[Any]) -> dict[str, list[Array]]:
    """What ``sparsity.shape`` says of each layer's heads, by name."""
    found: dict[str, list[Array]] = {}
    for layer in layers:
        for name, values in sparsity.shape(layer.q[0], layer.k[0])._asdict().items():
            found.setdefault(name, []).append(values)
    return found
