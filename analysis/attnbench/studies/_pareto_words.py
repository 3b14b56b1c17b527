# SPDX-License-Identifier: Apache-2.0
"""What the study pareto says of its numbers: paragraphs and tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from attnbench.format import bytes_text, time_text
from attnbench.sparsity import CHOSEN, FAMILIES
from attnbench.studies import _pareto_models
from attnbench.studies._pareto_measures import (
    BEST,
    HEADS,
    KNOWN,
    KNOWN_BEST,
    SHOWN,
    N,
    recalls,
    winners,
)
from attnbench.tables import Table


def medians(
    real: pd.DataFrame, noise: pd.DataFrame, at: pd.DataFrame, flat: pd.DataFrame, blank: pd.DataFrame,
    cosines: pd.DataFrame, blind_best: float, before: dict[str, float], other: float,
    grown: pd.DataFrame,
) -> list[str]:  # fmt: skip
    recall, blind = at["recall"], flat["recall"]
    heads, blind_heads = recalls(real, SHOWN), recalls(noise, SHOWN)
    local = heads["local"]
    best = ", ".join(f"{name} {share:.0%}" for name, share in winners(heads).items())

    def worth(a: str, b: str) -> str:
        values = [round(float((h[a] - h[b]).median()), 3) + 0.0 for h in (blind_heads, heads)]
        return f"{values[0]:+.3f} (here {values[1]:+.2f})"

    dense = blank["time_ns"].iloc[-1]
    timed = at[at["time_ns"].notna()]
    pair = (timed["time_ns"] / timed["keys"]) / (dense / N)
    fixed = [name for name in FAMILIES if name in blind]
    return [
        f"Of {len(local)} heads, {SHOWN} keys around each token keep between {local.min():.2f} and"
        f" {local.max():.2f} of the mass, {recall['local']:.2f} in the median; four sinks beside them"
        f" {recall['sinks + local']:.2f}, the row's best keys {recall['best keys']:.2f}, random keys"
        f" {recall['random keys']:.2f}. No pattern serves all heads; the largest recall has: {best}.",
        f"Gaussian Q, K and V would have claimed that local windows lose {1 - blind['local']:.0%} of"
        f" the mass (here {1 - recall['local']:.0%}), that four sinks are worth"
        f" {worth('sinks + local', 'local')}, that key 0 adds"
        f" {worth('columns with key 0', 'columns')} to columns, that the best {KNOWN_BEST[0]} keys"
        f" hold {blind_best:.2f} (here {before[BEST]:.2f}), that the output of {SHOWN} local keys is"
        f" {flat['error']['local']:.1f} times its own size off (here {at['error']['local']:.1f}), and"
        f" that it does not matter which pattern one takes: their recalls lie within"
        f" {np.ptp(blind[fixed]):.3f} of each other (here {np.ptp(recall[fixed]):.2f}).",
        f"At one key in {N // SHOWN} and {', '.join(map(str, grown['n'].unique()))} tokens the median loss is "
        + "; ".join(
            f"{name} "
            + ", ".join(f"{1 - r:.2f}" for r in grown.loc[grown["pattern"] == name, "recall"])
            for name in ("local", "sinks + local", "best keys")
        )
        + ".",
        f"A layer of {HEADS} heads takes {dense / 1e6:.2f} ms dense; a pair of query and key costs "
        + ", ".join(f"{name} {value:.2f}" for name, value in pair.items())
        + " times what it costs there; chosen blocks count the choice. Controls have no kernel and no"
        " time.",
        f"With {SHOWN} keys a row in all layers, the text's vector (the mean of all last states)"
        " keeps a cosine of "
        + ", ".join(f"{name} {value:.3f}" for name, value in cosines["text"].items())
        + f" (another passage's: {other:.3f}), and single tokens' states "
        + ", ".join(f"{name} {value:.3f}" for name, value in cosines["token"].items())
        + ".",
    ]


def further(causal: pd.DataFrame, long: pd.DataFrame, wide: int) -> list[str]:
    words = causal.set_index("pattern")
    longest = long[long["n"] == long["n"].max()]
    made = longest[longest["source"] == "calibrated"].set_index("pattern")
    dense = longest[longest["pattern"] == "dense"]["time_ns"].iloc[0]
    timed = made[made["time_ns"].notna()]
    return [
        f"IgLM with {_pareto_models.KEYS} keys a row in all layers foretells residues with a"
        " perplexity of "
        + ", ".join(f"{name} {value:.2f}" for name, value in words["perplexity"].items())
        + "; right are "
        + ", ".join(f"{name} {value:.3f}" for name, value in words["accuracy"].items())
        + ".",
        f"Generated heads of {longest['n'].iloc[0]} tokens, {wide} keys a row: recall and speed-up over"
        " dense are "
        + ", ".join(
            f"{name} {row['recall']:.2f} and {dense / row['time_ns']:.1f}"
            for name, row in timed.iterrows()
        )
        + f"; the best keys recall {made['recall']['best keys']:.2f}.",
    ]  # fmt: skip


def beforehand(each: Sequence[dict[str, float]]) -> str:
    beside = {name: value for name, (_, value) in KNOWN.items()} | {BEST: KNOWN_BEST[1]}
    return (
        "The recalls that were measured beforehand are of another text, and move with it. By passage"
        " here, and there: "
        + "; ".join(
            f"{name} {', '.join(f'{one[name]:.2f}' for one in each)}, and {value:.2f}"
            for name, value in beside.items()
        )
        + "."
    )


def entropy(
    at: pd.DataFrame, flat: pd.DataFrame, shape: dict[str, float], blind: dict[str, float]
) -> str:
    names = ("local", "sinks + local", "best keys", "random keys")
    return (
        f"Of ln {N} = {np.log(N):.2f} nats a row of dense attention has an entropy of"
        f" {shape['entropy']:.2f} in the median head (Gaussian {blind['entropy']:.2f}); among the"
        f" {SHOWN} keys of a pattern, of ln {SHOWN} = {np.log(SHOWN):.2f}, it is "
        + ", ".join(f"{name} {at['entropy'][name]:.2f}" for name in names)
        + f" (Gaussian {flat['entropy']['local']:.2f} for local)."
    )


def cost(at: pd.DataFrame) -> str:
    planned = (at["plan_ns"] / at["time_ns"]).dropna()
    return (
        f"To choose blocks takes {at['choice_ns'][CHOSEN] / at['time_ns'][CHOSEN]:.0%} of their time."
        " A list of keys that depends on positions alone is planned once for all inputs, and is not"
        " part of the times; to make it again each time would add "
        + ", ".join(f"{name} {share:.0%}" for name, share in planned.items())
        + "."
    )


def other_models(others: dict[str, _pareto_models.Other]) -> str:
    keys = _pareto_models.KEYS
    said = []
    for one in others.values():
        recall = one.table[one.table["budget"] == keys].set_index("pattern")["recall"]
        said.append(
            f"{one.words} ({one.size.n} tokens) "
            + ", ".join(f"{name} {recall[name]:.2f}"
                        for name in ("local", "sinks + local", "best keys", "random keys"))
        )  # fmt: skip
    return f"Recall of {keys} keys a row in the median head of other models: {'; '.join(said)}."


def cost_table(at: pd.DataFrame, dense: pd.Series) -> tuple[str, Table]:
    def text(value: float, form: Callable[[float], str]) -> str:
        return form(value) if value > 0 else "-"

    rows = [
        (
            name, f"{row['keys']:.1f}", f"{row['keys'] / N:.3f}", time_text(row["time_ns"]),
            f"{row['time_ns'] / dense['time_ns']:.2f}",
            f"{row['time_ns'] / row['keys'] * N / dense['time_ns']:.2f}",
            text(row["choice_ns"], time_text), text(row["plan_ns"], time_text),
            text(row["memory_bytes"], bytes_text),
        )
        for name, row in [*at.iterrows(), ("dense", dense)] if row["time_ns"] > 0
    ]  # fmt: skip
    caption = (
        f"What {SHOWN} keys a row cost a layer of {HEADS} heads, one thread: the share of admitted"
        " pairs; time, also as a share of dense attention's, and a pair's; of it the choice of keys;"
        " beside it the plan, made once for all inputs; memory beyond the tensors, at its peak."
    )
    header = ("pattern", "keys a row", "density", "time", "of dense", "a pair, of dense", "choice",
              "plan", "memory")  # fmt: skip
    return caption, Table(header, rows)


def causal_table(causal: pd.DataFrame) -> tuple[str, Table]:
    rows = [
        (row["pattern"], f"{row['keys']:.1f}" if row["keys"] > 0 else "all", f"{row['recall']:.2f}",
         f"{row['accuracy']:.3f}", f"{row['perplexity']:.2f}")
        for _, row in causal.iterrows()
    ]  # fmt: skip
    caption = (
        f"IgLM, causal, with {causal['budget'].iloc[0]} keys a row in all layers: recall of the median"
        " head, accuracy of the next residue, perplexity."
    )
    return caption, Table(("pattern", "keys a row", "recall", "accuracy", "perplexity"), rows)


def quality_table(
    at: pd.DataFrame, flat: pd.DataFrame, cosines: pd.DataFrame, entropy: float
) -> tuple[str, Table]:
    header = ("pattern", "keys a row", "recall", "5 % of rows", "Gaussian", "relative error",
              "95 % of rows", "cosine", "5 % of rows", "max error", "entropy", "model's cosine",
              "time")  # fmt: skip
    rows = [
        (
            name, f"{row['keys']:.1f}", f"{row['recall']:.2f}", f"{row['recall_p5']:.2f}",
            f"{flat['recall'][name]:.2f}", f"{row['error']:.2f}", f"{row['error_p95']:.2f}",
            f"{row['cosine']:.3f}", f"{row['cosine_p5']:.3f}", f"{row['greatest']:.2f}",
            f"{row['entropy']:.2f}", f"{cosines['token'][name]:.3f}",
            f"{row['time_ns'] / 1e3:.0f} µs" if row["time_ns"] > 0 else "no kernel",
        )
        for name, row in at.iterrows()
    ]  # fmt: skip
    caption = (
        f"Medians over heads at {SHOWN} keys a row; rows are queries of a head. Errors are of the"
        " output; max error is of max |v|; entropy in nats, of admitted keys (of all keys"
        f" {entropy:.2f}); the model's cosine is of single tokens' last states."
    )
    return caption, Table(header, rows)
