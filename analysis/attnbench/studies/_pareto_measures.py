# SPDX-License-Identifier: Apache-2.0
"""What the study pareto measures: quality by head, the whole model's output, the kernels' times."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import attnbench
from attnbench import cli, records, sparsity, tensors, transformer
from attnbench.format import last_words
from attnbench.sparsity import CHOSEN, CONTROLS, FAMILIES, Pattern

N, HEADS, HEAD_DIM = 512, 12, 32  # of MiniLM
SHOWN = 64  # keys a row of tables and of figures of heads
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
    drawn = random.standard_normal((layers, 3, 1, HEADS, N, HEAD_DIM), np.float32)
    return [transformer.Layer(q, k, v, np.empty(0)) for q, k, v in drawn]


def dense(layer: Any, causal: bool = False) -> tuple[Array, Array]:
    """Weights ``[heads, n, n]`` and values, float64, of a layer."""
    weights = transformer.attention_weights(layer.q[0].astype(np.float64), layer.k[0], causal)
    return weights, layer.v[0].astype(np.float64)


def admitted(
    name: str, pattern: Pattern | None, layer: Any, weights: Array, keys: int, causal: bool
) -> Array:
    """The mask of a pattern, or of what depends on the content (None), for these heads."""
    if pattern is not None:
        return pattern.admitted
    if name == CHOSEN:
        return sparsity.chosen_blocks(layer.q[0], layer.k[0], keys, causal)
    return sparsity.control(name, weights, keys)


def contestants(budget: int, n: int = N, causal: bool = False) -> dict[str, Pattern | None]:
    """The patterns of a budget, and what depends on the content as None. Blocks are chosen whole:
    where as many keys are none, as of budgets below two blocks, they have no place."""
    off = abs(sparsity.chosen_keys(n, budget, causal) - budget)
    chosen = (CHOSEN,) if off <= sparsity.NEAR * budget else ()
    return {**sparsity.at_budget(n, budget, causal), **dict.fromkeys((*chosen, *CONTROLS))}


def measure(layers: Sequence[Any], budgets: Iterable[int], causal: bool = False) -> pd.DataFrame:
    """One row a head, budget and pattern: ``layer``, ``head``, ``keys`` and what was kept."""
    made = {budget: contestants(budget, layers[0].q.shape[2], causal) for budget in budgets}
    rows = []
    for number, layer in enumerate(layers):
        weights, v = dense(layer, causal)
        whole = weights @ v
        for budget, patterns in made.items():
            for name, pattern in patterns.items():
                mask = admitted(name, pattern, layer, weights, budget, causal)
                found = sparsity.kept(weights, v, mask, whole)
                frame = pd.DataFrame(found._asdict())
                rows.append(frame.assign(
                    layer=number, head=frame.index, budget=budget, pattern=name,
                    keys=pattern.keys if pattern is not None
                    else np.broadcast_to(mask, weights.shape).sum(-1).mean(-1),
                ))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def recalls(frame: pd.DataFrame, budget: int) -> pd.DataFrame:
    """Recall at a budget, a row a head and a column a pattern."""
    rows = frame[frame["budget"] == budget]
    rows = rows.assign(row=rows.groupby("pattern").cumcount())
    return rows.pivot(index="row", columns="pattern", values="recall")


def winners(heads: pd.DataFrame) -> dict[str, float]:
    """The share of heads in which a pattern of positions has the largest recall."""
    best = heads[[name for name in FAMILIES if name in heads]].idxmax(axis=1)
    return {str(k): float(v) for k, v in best.value_counts(normalize=True).items()}


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


def attend(
    name: str, pattern: Pattern | None, budget: int, causal: bool = False
) -> Callable[[Any], Array]:
    """A layer's attention under a pattern: by its kernel, head by head where it chooses; from the
    weights for controls, which no kernel serves."""
    if pattern is not None:
        given, kernel = pattern.arguments, pattern.kernel
        return lambda layer: attnbench.attention(layer.q, layer.k, layer.v, kernel=kernel, **given)

    def chosen(layer: Any) -> Array:
        options = sparsity.block_options(budget)
        heads = [
            attnbench.attention(*one, kernel="top_blocks", causal=causal, options=options)
            for one in zip(layer.q[0], layer.k[0], layer.v[0])
        ]
        return np.array(heads)[None]

    def from_weights(layer: Any) -> Array:
        weights, v = dense(layer, causal)
        mask = admitted(name, pattern, layer, weights, budget, causal)
        return sparsity.attend(weights, v, mask)[0][None].astype(np.float32)

    return chosen if name == CHOSEN else from_weights


def whole_model(ids: list[int], budgets: Iterable[int]) -> pd.DataFrame:
    """The model with each pattern in all layers, against itself: cosines of the text's vector (mean
    of the last states) and of single tokens' states (their mean)."""
    model = tensors.load_model("minilm")
    *_, own = model.forward(ids)
    rows = []
    for budget in budgets:
        for name, pattern in contestants(budget).items():
            *_, states = model.forward(ids, attend=attend(name, pattern, budget))
            rows.append({
                "budget": budget, "pattern": name, "text": cosine(own.mean(0), states.mean(0)),
                "token": float(np.mean([cosine(a, b) for a, b in zip(own, states)])),
            })  # fmt: skip
    return pd.DataFrame(rows)


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


_PLAIN = {"pattern": "full", "window": 0, "stride": 0, "offset": -1, "columns": 0, "sinks": 0,
          "tile": 0, "band": -1, "dilation": 1, "global_tiles": 0, "random_tiles": 0, "blocks": 0}  # fmt: skip


def identity(mask: dict[str, Any]) -> tuple[Any, ...]:
    """What tells masks apart, as a key; ``blocks`` stands for a mask that is chosen."""
    return tuple(mask.get(field, plain) for field, plain in _PLAIN.items())


def toml(fields: dict[str, Any]) -> str:
    """An inline table."""
    return "{" + ", ".join(
        f'{k} = "{v}"' if isinstance(v, str) else f"{k} = {str(v).lower()}" for k, v in fields.items()
    ) + "}"  # fmt: skip


class Size(NamedTuple):
    """Of a layer's attention."""

    n: int = N
    heads: int = HEADS
    head_dim: int = HEAD_DIM
    causal: bool = False


MINILM = Size()


def experiment(
    patterns: Iterable[Pattern], budgets: Iterable[int], seconds: float, size: Size = MINILM
) -> str:
    """A TOML file that sweeps dense attention and these masks, each by its kernel, and the kernel
    that chooses, which does so head by head."""
    whole = ['mask = {pattern = "full", causal = true}'] if size.causal else []
    lines = [
        'title = "What the masks of the study cost"', "[sweep]", f"budget_s = {seconds:g}",
        "rounds = 5", "seed = 1", "[axes]", f"keys = {size.n}", f"head_dim = {size.head_dim}",
        f"heads = {size.heads}", "threads = 1", "[[kernel]]", 'name = "flash"', *whole,
    ]  # fmt: skip
    for pattern in patterns:
        lines += ["[[kernel]]", f'name = "{pattern.kernel}"', f"mask = {toml(pattern.mask)}"]
    for budget in budgets:
        options = toml(sparsity.block_options(budget))
        lines += ["[[kernel]]", 'name = "top_blocks"', "heads = 1", f"options = {options}", *whole]
    return "\n".join(lines) + "\n"


class Spent(NamedTuple):
    """What a mask costs: nanoseconds, of them the choice of keys; the plan, made once for all
    inputs, is not among them. Bytes are those beyond the tensors."""

    time_ns: float = np.nan
    choice_ns: float = np.nan
    plan_ns: float = np.nan
    memory_bytes: float = np.nan


def times(
    folder: Path, patterns: list[Pattern], budgets: Iterable[int], seconds: float, size: Size = MINILM,
    stem: str = "masks",
) -> dict[tuple[Any, ...], Spent]:  # fmt: skip
    """The cost of a layer's attention by mask, measured if the folder lacks it; dense attention is
    the mask without fields. Where keys are chosen, the heads follow each other, in one's memory.
    Raises ValueError where the sweep fails."""
    found = sweep(folder, experiment(patterns, budgets, seconds, size), stem)
    chosen = [identity({"blocks": sparsity.block_options(b)["blocks"]}) for b in budgets]
    cost = {tuple(mask): spent for (_, *mask), spent in found.items()}
    for mask in set(chosen) & cost.keys():
        one = cost[mask]
        cost[mask] = one._replace(
            time_ns=size.heads * one.time_ns, choice_ns=size.heads * one.choice_ns
        )
    return cost


def sweep(folder: Path, text: str, stem: str) -> dict[tuple[Any, ...], Spent]:
    """Costs by the number of keys and the mask's identity, of an experiment, which is run if the
    folder lacks it. Raises ValueError where that fails."""
    name = hashlib.sha256(text.encode()).hexdigest()[:8]  # a quick look has other masks
    output, file = folder / f"run-{name}", folder / f"{stem}-{name}.toml"
    if not (output / "done").exists():
        file.write_text(text)
        begun = (output / "run.json").exists()
        given = ["--resume", str(output)] if begun else [str(file), "-o", str(output)]
        done = subprocess.run([str(cli.harness()), "sweep", *given], stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True)  # fmt: skip
        if done.returncode != 0:
            raise ValueError(f"the sweep of {file.name} failed: {last_words(done.stderr)}")
        (output / "done").write_text("")
    summary = records.summarise(records.load(output))
    found = {}
    for _, row in summary[summary["status"] == "ok"].iterrows():
        if row["kernel"] == "top_blocks":
            mask = {"blocks": int(row["option_blocks"])}
        else:
            mask = {f: row.get("mask_columns" if f == "columns" else f) for f in _PLAIN}
            mask = {k: v if isinstance(v, str) else int(v) for k, v in mask.items() if pd.notna(v)}
        spent = (row[c] for c in ("median_ns", "select_ns", "plan_ns", "memory_bytes"))
        found[int(row["keys"]), *identity(mask)] = Spent(*map(float, spent))
    return found


def points(
    frame: pd.DataFrame, cost: dict[tuple[Any, ...], Spent], n: int = N, causal: bool = False
) -> pd.DataFrame:
    """One row a pattern and budget, medians over heads; what it costs is NaN where no kernel serves
    it. Dense attention is the last row."""
    measures = ["keys", *sparsity.Kept._fields]
    table = frame.groupby(["pattern", "budget"], sort=False)[measures].median().reset_index()
    made = {budget: contestants(budget, n, causal) for budget in table["budget"].unique()}

    def spent(name: str, budget: int) -> Spent:
        if name == CHOSEN:
            blocks = sparsity.block_options(budget)["blocks"]
            return cost.get(identity({"blocks": blocks}), Spent())
        pattern = made[budget][name]
        return Spent() if pattern is None else cost.get(identity(pattern.mask), Spent())

    costs = [spent(name, b) for name, b in zip(table["pattern"], table["budget"])]
    table = table.join(pd.DataFrame(costs, columns=list(Spent._fields), index=table.index))
    whole: dict[str, Any] = {m: 1.0 if "recall" in m or "cosine" in m else 0.0 for m in measures}
    whole |= dict.fromkeys(("entropy", "entropy_p5"), np.nan)
    all_keys = (n + 1) / 2 if causal else n
    whole |= {"pattern": "dense", "budget": n, "keys": all_keys}
    whole |= cost.get(identity({}), Spent())._asdict()
    return pd.concat([table, pd.DataFrame([whole])], ignore_index=True)


def shapes(layers: Iterable[Any]) -> dict[str, list[Array]]:
    """What ``sparsity.shape`` says of each layer's heads, by name."""
    found: dict[str, list[Array]] = {}
    for layer in layers:
        for name, values in sparsity.shape(layer.q[0], layer.k[0])._asdict().items():
            found.setdefault(name, []).append(values)
    return found
