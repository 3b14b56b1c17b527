# SPDX-License-Identifier: Apache-2.0
"""Pareto: what sparse attention loses on real Q, K and V, beside the time that it saves.

MiniLM's 72 heads over 512 tokens of a text, under patterns that all admit as many keys a row, and
under controls without which such a chart means nothing: each row's heaviest keys, the heaviest
columns of a head, random keys. Recall is the mass that dense attention gives to the admitted keys.
Times are the kernels' own, from a sweep of just these masks; a pattern that no kernel serves has a
quality and no time. The same on Gaussian Q, K and V says what those would have claimed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import attnbench
from attnbench import cli, records, sparsity, tensors
from attnbench.sparsity import CONTROLS, FAMILIES, Pattern
from attnbench.studies import ROOT, Claim, Finding, Study, Table, _pareto_pictures

TEXT = ROOT / "experiments" / "text" / "library.txt"
N, HEADS, HEAD_DIM = 512, 12, 32
BUDGETS, SHOWN = (16, 32, 64, 128, 256), 64  # keys a row; that of the tables and heads
WHOLE = (16, 64, 256)  # with which the whole model runs
# Medians over heads measured beforehand on another text, of these masks (and the 65 best keys).
KNOWN = {
    "local ±32": ({"pattern": "local", "window": 32}, 0.29),
    "4 sinks + local ±32": ({"pattern": "local", "window": 32, "sinks": 4}, 0.42),
    "local ±32 + columns 0, 64, …": (
        {"pattern": "columns", "window": 32, "stride": 64, "offset": 0}, 0.42),
    "local ±32 + relative stride 64": ({"pattern": "strided", "window": 32, "stride": 64}, 0.30),
}  # fmt: skip
KNOWN_BEST = (65, 0.69)
CLOSE = 0.05  # to those
CLEAR = 0.05  # a difference of medians that counts
CHANCE = 0.02  # what a recall may differ from the share of admitted keys, and be chance

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


def contestants(budget: int) -> dict[str, Pattern | None]:
    """The patterns of a budget, and the controls as None."""
    return {**sparsity.at_budget(N, budget), **dict.fromkeys(CONTROLS)}


def measure(layers: Iterable[Any], budgets: Iterable[int]) -> pd.DataFrame:
    """One row a head, budget and pattern: ``layer``, ``head``, ``keys`` and what was kept."""
    made = {budget: contestants(budget) for budget in budgets}
    rows = []
    for number, layer in enumerate(layers):
        weights, v = dense(layer)
        for budget, patterns in made.items():
            for name, pattern in patterns.items():
                found = sparsity.kept(weights, v, admitted(name, pattern, weights, budget))
                frame = pd.DataFrame(found._asdict())
                rows.append(frame.assign(
                    layer=number, head=frame.index, budget=budget, pattern=name,
                    keys=budget if pattern is None else pattern.keys,
                ))  # fmt: skip
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
        heads.setdefault(f"best {KNOWN_BEST[0]} keys", []).append(best)
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
    output, text = folder / "run", experiment(patterns, seconds)
    file = folder / "masks.toml"
    if not (output / "records.jsonl").exists() or not file.exists() or file.read_text() != text:
        file.write_text(text)
        command = [str(cli.harness()), "sweep", str(file), "-o", str(output)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            last = (done.stderr.strip() or "no reason given").splitlines()[-1]
            raise ValueError(f"the sweep of {file.name} failed: {last}")
    summary = records.summarise(records.load(output))
    found = {}
    for _, row in summary[summary["status"] == "ok"].iterrows():
        mask = {f: row.get("mask_columns" if f == "columns" else f) for f in _FIELDS}
        mask = {k: v if isinstance(v, str) else int(v) for k, v in mask.items() if pd.notna(v)}
        found[identity(mask)] = float(row["median_ns"])
    return found


def points(frame: pd.DataFrame, cost: dict[tuple[Any, ...], float]) -> pd.DataFrame:
    """One row a pattern and budget, medians over heads; ``time_ns`` is NaN where no kernel serves
    it. Dense attention is the last row."""
    measures = ["keys", *sparsity.Kept._fields]
    table = frame.groupby(["pattern", "budget"], sort=False)[measures].median().reset_index()
    made = {budget: contestants(budget) for budget in table["budget"].unique()}
    table["time_ns"] = [
        cost.get(identity(p.mask), np.nan)
        if (p := made[b][name]) is not None and p.mask
        else np.nan
        for name, b in zip(table["pattern"], table["budget"])
    ]
    whole = {m: 1.0 if "recall" in m or "cosine" in m else 0.0 for m in measures}
    whole |= {"pattern": "dense", "budget": N, "keys": N, "time_ns": cost.get(identity({}), np.nan)}
    return pd.concat([table, pd.DataFrame([whole])], ignore_index=True)


def run(folder: Path, quick: bool) -> Finding:
    budgets = (32, SHOWN, 128) if quick else BUDGETS
    model = tensors.load_model("minilm")
    texts = passages(TEXT.read_text(encoding="utf-8"), 1 if quick else 2)
    layers = [x for ids in texts for x in model.forward(ids) if not isinstance(x, np.ndarray)]
    real = measure(layers, budgets)
    noise_layers = gaussian(1)
    noise = measure(noise_layers, budgets)
    before = known(layers)
    patterns = [p for b in budgets for p in sparsity.at_budget(N, b).values()]
    cost = times(folder, patterns, 15 if quick else 40)
    table, blank = points(real, cost), points(noise, cost)
    swapped = whole_model(texts[0], (SHOWN,) if quick else WHOLE)
    at = table[table["budget"] == SHOWN].set_index("pattern")
    flat = blank[blank["budget"] == SHOWN].set_index("pattern")
    cosines = swapped[swapped["budget"] == SHOWN].set_index("pattern")
    found = _claims(before, table, at, flat, blank, cosines)
    text = _text(real, at, flat, blank, cosines, known(noise_layers), before)
    shape, noise_shape = (
        {k: np.round(np.median(np.concatenate(v), 0), 3) for k, v in _shapes(one).items()}
        for one in (layers, noise_layers)
    )
    numbers = {
        "n": N, "heads": len(layers) * HEADS, "passages": len(texts), "known_masks": before,
        "shape_median": shape, "shape_median_gaussian": noise_shape,
        "patterns": {
            f"{b} keys": {k: {"words": p.words, "keys": p.keys, "kernel": p.kernel or None}
                          for k, p in sparsity.at_budget(N, b).items()} for b in budgets},
        "medians": table.to_dict("records"), "medians_gaussian": blank.to_dict("records"),
        "whole_model": swapped.to_dict("records"),
        "by_head": {
            f"{name}, {budget} keys": {m: group[m].round(4) for m in sparsity.Kept._fields}
            for (name, budget), group in real.groupby(["pattern", "budget"], sort=False)
        },
    }  # fmt: skip
    return Finding(
        text, found, numbers, _pareto_pictures.draw(real, table, blank, layers, len(texts)),
        [_table(at, flat, cosines)],
    )  # fmt: skip


def _shapes(layers: Iterable[Any]) -> dict[str, list[Array]]:
    found: dict[str, list[Array]] = {}
    for layer in layers:
        for name, values in sparsity.shape(layer.q[0], layer.k[0])._asdict().items():
            found.setdefault(name, []).append(values)
    return found


def _claims(
    before: dict[str, float], table: pd.DataFrame, at: pd.DataFrame, flat: pd.DataFrame,
    blank: pd.DataFrame, cosines: pd.DataFrame,
) -> list[Claim]:  # fmt: skip
    expected = {name: value for name, (_, value) in KNOWN.items()}
    expected[f"best {KNOWN_BEST[0]} keys"] = KNOWN_BEST[1]
    recall, blind = at["recall"], flat["recall"]
    fixed = recall[[name for name in FAMILIES if name in recall]]
    positions = blank[blank["pattern"].isin(FAMILIES)]
    apart = float((positions["recall"] - positions["keys"] / N).abs().max())
    spread = [float(np.ptp(r[fixed.index])) for r in (recall, blind)]
    speed = at["time_ns"].dropna() / table["time_ns"].iloc[-1]
    return [
        Claim(
            f"median recalls as measured beforehand on another text, within {CLOSE:g}: "
            + ", ".join(f"{name} {value:.2f}" for name, value in expected.items()),
            ", ".join(f"{name} {before[name]:.2f}" for name in expected),
            all(abs(before[name] - value) <= CLOSE for name, value in expected.items()),
        ),
        Claim(
            f"four sinks are worth more than the keys that they displace (by {CLEAR:g} or more)",
            f"{recall['sinks + local']:.2f} against {recall['local']:.2f} of local windows, at"
            f" {SHOWN} keys",
            bool(recall["sinks + local"] >= recall["local"] + CLEAR),
        ),
        Claim(
            "columns help by key 0, which is a sink, and not by being columns",
            f"{recall['columns with key 0']:.2f} with key 0, {recall['columns']:.2f} without,"
            f" {recall['local']:.2f} without columns",
            bool(recall["columns with key 0"] >= recall["columns"] + CLEAR
                 and recall["columns"] < recall["local"] + CLEAR),
        ),
        Claim(
            "a stride, made for images, keeps no more of text than a window of as many keys",
            f"strided {recall['strided']:.2f}, local {recall['local']:.2f}",
            bool(recall["strided"] < recall["local"] + CLEAR),
        ),
        Claim(
            "which keys matter depends on the content: no pattern of positions comes near each row's"
            " best keys",
            f"{fixed.max():.2f} ({fixed.idxmax()}) against {recall['best keys']:.2f}, and"
            f" {recall['best columns']:.2f} of each head's best columns",
            bool(fixed.max() < recall["best keys"] - CLEAR),
        ),
        Claim(
            f"on Gaussian inputs a pattern recalls the share of its keys and nothing else (within"
            f" {CHANCE:g}), so that all patterns look alike",
            f"at most {apart:.3f} off; patterns of {SHOWN} keys lie within {spread[1]:.3f} of each"
            f" other, on the text within {spread[0]:.2f}",
            bool(apart <= CHANCE and spread[1] < CLEAR < spread[0]),
        ),
        Claim(
            f"an eighth of the keys ({SHOWN} of {N}) takes less than half of dense attention's time",
            ", ".join(f"{name} {value:.2f}" for name, value in speed.items()),
            bool(len(speed) and speed.max() < 0.5),
        ),
        Claim(
            "with sinks the model's own output survives better than with windows alone",
            f"cosine of the text's vector {cosines['text']['sinks + local']:.3f} against"
            f" {cosines['text']['local']:.3f}, of single tokens"
            f" {cosines['token']['sinks + local']:.3f} against {cosines['token']['local']:.3f}",
            bool((cosines.loc["sinks + local", ["text", "token"]]
                  > cosines.loc["local", ["text", "token"]]).all()),
        ),
    ]  # fmt: skip


def winners(real: pd.DataFrame, budget: int) -> dict[str, float]:
    """The share of heads in which a pattern of positions has the largest recall."""
    rows = real[(real["budget"] == budget) & real["pattern"].isin(FAMILIES)].copy()
    rows["row"] = rows.groupby("pattern").cumcount()
    best = rows.pivot(index="row", columns="pattern", values="recall").idxmax(axis=1)
    return {str(k): float(v) for k, v in best.value_counts(normalize=True).items()}


def _text(
    real: pd.DataFrame, at: pd.DataFrame, flat: pd.DataFrame, blank: pd.DataFrame,
    cosines: pd.DataFrame, noise: dict[str, float], before: dict[str, float],
) -> list[str]:  # fmt: skip
    recall, blind = at["recall"], flat["recall"]
    local = real[(real["pattern"] == "local") & (real["budget"] == SHOWN)]["recall"]
    best = ", ".join(f"{name} {share:.0%}" for name, share in winners(real, SHOWN).items())
    dense = blank["time_ns"].iloc[-1]
    timed = at[at["time_ns"].notna()]
    pair = (timed["time_ns"] / timed["keys"]) / (dense / N)
    untimed = [name for name in at.index if np.isnan(at.loc[name, "time_ns"])]
    order = blind[[n for n in FAMILIES if n in blind]].idxmax()
    return [
        f"Of {len(local)} heads, {SHOWN} keys around each token keep between {local.min():.2f} and"
        f" {local.max():.2f} of the mass, {recall['local']:.2f} in the median; four sinks beside them"
        f" {recall['sinks + local']:.2f}, the row's best keys {recall['best keys']:.2f}, random keys"
        f" {recall['random keys']:.2f}. No pattern serves all heads; the largest recall has: {best}.",
        f"Gaussian Q, K and V would have claimed that local windows lose {1 - blind['local']:.0%} of"
        f" the mass (here {1 - recall['local']:.0%}), that four sinks are worth"
        f" {blind['sinks + local'] - blind['local']:+.3f} (here"
        f" {recall['sinks + local'] - recall['local']:+.2f}), that key 0 adds"
        f" {blind['columns with key 0'] - blind['columns']:+.3f} to columns (here"
        f" {recall['columns with key 0'] - recall['columns']:+.2f}), that the best"
        f" {KNOWN_BEST[0]} keys hold {noise[f'best {KNOWN_BEST[0]} keys']:.2f} (here"
        f" {before[f'best {KNOWN_BEST[0]} keys']:.2f}), that the output of {SHOWN} local keys is"
        f" {flat['error']['local']:.1f} times its own size off (here {at['error']['local']:.1f}), and"
        f" that {order} is the pattern to take.",
        f"A layer of {HEADS} heads takes {dense / 1e6:.2f} ms dense; a pair of query and key costs "
        + ", ".join(f"{name} {value:.2f}" for name, value in pair.items())
        + f" times what it costs there. No fast kernel here serves {', '.join(untimed)}: their"
        " quality is shown, and no time is claimed for them.",
        f"With {SHOWN} keys a row in all layers, the text's vector keeps a cosine of "
        + ", ".join(f"{name} {value:.3f}" for name, value in cosines["text"].items())
        + "; it averages over all tokens, whose own states lose more: "
        + ", ".join(f"{name} {value:.3f}" for name, value in cosines["token"].items())
        + ".",
    ]


def _table(at: pd.DataFrame, flat: pd.DataFrame, cosines: pd.DataFrame) -> tuple[str, Table]:
    header = ("pattern", "keys a row", "recall", "5 % of rows", "Gaussian", "relative error",
              "95 % of rows", "cosine", "max error", "model's cosine", "time")  # fmt: skip
    rows = [
        (
            name, f"{row['keys']:.1f}", f"{row['recall']:.2f}", f"{row['recall_p5']:.2f}",
            f"{flat['recall'][name]:.2f}", f"{row['error']:.2f}", f"{row['error_p95']:.2f}",
            f"{row['cosine']:.3f}", f"{row['greatest']:.2f}", f"{cosines['token'][name]:.3f}",
            f"{row['time_ns'] / 1e3:.0f} µs" if row["time_ns"] > 0 else "no kernel",
        )
        for name, row in at.iterrows()
    ]  # fmt: skip
    caption = f"Medians over heads at {SHOWN} keys a row; rows are queries of a head."
    return caption, Table(header, rows)


STUDY = Study(
    "pareto",
    "What does sparse attention lose on real heads, beside the time that it saves?",
    "Windows need the first tokens beside them, as sinks (Xiao et al. 2023); a stride fails on text"
    " (Child et al. 2019); heads differ and their keys depend on the content, so that a fixed pattern"
    " falls short of each row's best keys; Gaussian inputs show none of this.",
    run,
)
