# SPDX-License-Identifier: Apache-2.0
"""Pareto: what sparse attention loses on real Q, K and V, beside the time that it saves.

MiniLM's 72 heads over 512 tokens of a text, under patterns that all admit as many keys a row, under
blocks chosen by content, and under controls without which such a chart means nothing: each row's
heaviest keys, the heaviest columns of a head, random keys. Recall is the mass that dense attention
gives to the admitted keys. Times are the kernels' own, from a sweep of just these masks; controls
have a quality and no time. The same on Gaussian Q, K and V says what those would have claimed. IgLM,
a causal model, says what its own task loses; generated heads, fitted to MiniLM's, what lengths that
no model here reaches do to both sides.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from attnbench import sparsity, tensors
from attnbench.sparsity import CHOSEN, FAMILIES
from attnbench.studies import ROOT, Claim, Finding, Study, _pareto_models, _pareto_pictures
from attnbench.studies._pareto_measures import (
    BEST,
    HEADS,
    KNOWN,
    KNOWN_BEST,
    N,
    cosine,
    gaussian,
    known,
    lengths,
    measure,
    passages,
    points,
    quartiles,
    shapes,
    times,
    whole_model,
)
from attnbench.tables import Table

TEXT = ROOT / "experiments" / "text" / "library.txt"
BUDGETS, SHOWN = (16, 32, 64, 128, 256), 64  # keys a row; that of the tables and heads
PROTEINS = TEXT.with_name("antibodies.txt")
LONG, WIDE = (512, 1024, 2048, 4096), 128  # generated lengths, and the keys a row there
LENGTHS, SHARE = (64, 128, 256), N // SHOWN  # shorter texts, of one key in so many
WHOLE = (16, 64, 256)  # with which the whole model runs
CLOSE = 0.05  # to what was measured beforehand
CLEAR = 0.05  # a difference in recall that counts
CHANCE = 0.02  # what a recall may differ from the share of admitted keys, and be chance


def run(folder: Path, quick: bool) -> Finding:
    budgets = (32, SHOWN, 128) if quick else BUDGETS
    patterns = [p for b in budgets for p in sparsity.at_budget(N, b).values()]
    cost = times(folder, patterns, budgets, 16 if quick else 60)
    model = tensors.load_model("minilm")
    texts = passages(TEXT.read_text(encoding="utf-8"), 2)
    *first, own = model.forward(texts[0])
    *second, another = model.forward(texts[1])
    other = cosine(own.mean(0), another.mean(0))
    layers = first if quick else first + second
    count = len(layers) // len(first)
    real = measure(layers, budgets)
    noise_layers = gaussian(1)
    noise = measure(noise_layers, budgets)
    before = known(layers)
    table, blank = points(real, cost), points(noise, cost)
    swapped = whole_model(texts[0], (SHOWN,) if quick else WHOLE)
    passage = real[(real["layer"] < len(first)) & (real["budget"] == SHOWN)]
    grown = pd.concat([lengths(texts[0], LENGTHS, SHARE), quartiles(passage).assign(n=N)])
    at = table[table["budget"] == SHOWN].set_index("pattern")
    flat = blank[blank["budget"] == SHOWN].set_index("pattern")
    cosines = swapped[swapped["budget"] == SHOWN].set_index("pattern")
    lines = PROTEINS.read_text(encoding="utf-8").splitlines()
    causal = _pareto_models.antibodies(lines[:2] if quick else lines)
    sizes = LONG[:2] if quick else LONG
    long = _pareto_models.by_length(sizes, WIDE).merge(
        _pareto_models.times_by_length(folder, sizes, WIDE, 10 if quick else 60), how="outer"
    )
    found = _claims(real, before, table, at, flat, blank, cosines)
    found += _further_claims(real, causal, long)
    text = _text(
        real, noise, at, flat, blank, cosines, known(noise_layers)[BEST], before, other, grown
    )
    text += _further_text(causal, long)
    shape, noise_shape = (
        {k: np.round(np.median(np.concatenate(v), 0), 3) for k, v in shapes(one).items()}
        for one in (layers, noise_layers)
    )
    numbers = {
        "n": N, "heads": len(layers) * HEADS, "passages": count, "known_masks": before,
        "shape_median": shape, "shape_median_gaussian": noise_shape,
        "patterns": {
            f"{b} keys": {k: {"words": p.words, "keys": p.keys, "kernel": p.kernel}
                          for k, p in sparsity.at_budget(N, b).items()} for b in budgets},
        "medians": table.to_dict("records"), "medians_gaussian": blank.to_dict("records"),
        "whole_model": swapped.to_dict("records"), "whole_model_another_passage": other,
        "by_length": grown.to_dict("records"), "iglm": causal.to_dict("records"),
        "generated": long.to_dict("records"),
        "by_head": {
            f"{name}, {budget} keys": {m: group[m].round(4) for m in sparsity.Kept._fields}
            for (name, budget), group in real.groupby(["pattern", "budget"], sort=False)
        },
    }  # fmt: skip
    return Finding(
        text, found, numbers,
        [*_pareto_pictures.draw(real, table, blank, grown, layers, count),
         _pareto_pictures.generated(long, WIDE)],
        [_table(at, flat, cosines), _causal_table(causal)],
    )  # fmt: skip


def _claims(
    real: pd.DataFrame, before: dict[str, float], table: pd.DataFrame, at: pd.DataFrame, flat: pd.DataFrame,
    blank: pd.DataFrame, cosines: pd.DataFrame,
) -> list[Claim]:  # fmt: skip
    expected = {name: value for name, (_, value) in KNOWN.items()}
    expected[BEST] = KNOWN_BEST[1]
    heads, blind = recalls(real, SHOWN), flat["recall"]
    fixed = [name for name in FAMILIES if name in heads]
    sinks, key0, columns, strided = (
        heads[a] - heads[b]
        for a, b in (
            ("sinks + local", "local"),
            ("columns with key 0", "columns"),
            ("columns", "local"),
            ("strided", "local"),
        )
    )
    chosen = heads["best keys"] - heads[fixed].max(axis=1)
    positions = blank[blank["pattern"].isin(FAMILIES)]
    apart = float((positions["recall"] - positions["keys"] / N).abs().max())
    spread = [float(np.ptp(r[fixed])) for r in (at["recall"], blind)]
    speed = at["time_ns"].dropna() / table["time_ns"].iloc[-1]
    return [
        Claim(
            f"median recalls as measured beforehand on another text, within {CLOSE:g}: "
            + ", ".join(f"{name} {value:.2f}" for name, value in expected.items()),
            ", ".join(f"{name} {before[name]:.2f}" for name in expected),
            all(abs(before[name] - value) <= CLOSE for name, value in expected.items()),
        ),
        Claim(
            f"four sinks are worth more than the keys that they displace (in the median head by"
            f" {CLEAR:g} of the mass or more)",
            f"{sinks.median():+.2f} at {SHOWN} keys; {(sinks > 0).mean():.0%} of the heads gain",
            bool(sinks.median() >= CLEAR),
        ),
        Claim(
            "columns help by key 0, which is a sink, and not by being columns",
            f"key 0 among them is worth {key0.median():+.2f}; without it columns are worth"
            f" {columns.median():+.3f} against a window of as many keys",
            bool(key0.median() >= CLEAR and columns.median() < CLEAR),
        ),
        Claim(
            "a stride, made for images, keeps no more of text than a window of as many keys",
            f"{strided.median():+.3f}; {(strided > 0).mean():.0%} of the heads gain",
            bool(strided.median() <= 0),
        ),
        Claim(
            "which keys matter depends on the content: each row's best keys keep more than the"
            f" pattern that is best for the head (by {CLEAR:g} or more)",
            f"{chosen.median():+.2f} in the median head, {chosen.min():+.2f} in the one that the"
            " patterns suit best",
            bool(chosen.median() >= CLEAR),
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


def recalls(frame: pd.DataFrame, budget: int) -> pd.DataFrame:
    """Recall at a budget, a row a head and a column a pattern."""
    rows = frame[frame["budget"] == budget]
    rows = rows.assign(row=rows.groupby("pattern").cumcount())
    return rows.pivot(index="row", columns="pattern", values="recall")


def winners(heads: pd.DataFrame) -> dict[str, float]:
    """The share of heads in which a pattern of positions has the largest recall."""
    best = heads[[name for name in FAMILIES if name in heads]].idxmax(axis=1)
    return {str(k): float(v) for k, v in best.value_counts(normalize=True).items()}


def _text(
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
        f"At one key in {SHARE} and {', '.join(map(str, (*LENGTHS, N)))} tokens the median loss is "
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


def _further_claims(real: pd.DataFrame, causal: pd.DataFrame, long: pd.DataFrame) -> list[Claim]:
    heads, words = recalls(real, SHOWN), causal.set_index("pattern")
    chosen = heads[CHOSEN] - heads["sinks + local"]
    oracle = heads["best keys"] - heads[CHOSEN]
    dense = words["perplexity"]["dense"]
    sinks, local = words["perplexity"]["sinks + local"], words["perplexity"]["local"]
    last = long[long["n"] == long["n"].max()].set_index(["source", "pattern"])["recall"]
    blind, seen = last["Gaussian"], last["calibrated"]
    positions = [name for name in FAMILIES if name in seen]
    return [
        Claim(
            "blocks chosen by pooled keys keep more than a window with sinks of as many keys (by"
            f" {CLEAR:g} in the median head), and less than each row's best keys",
            f"{chosen.median():+.2f}, in {(chosen > 0).mean():.0%} of the heads; the best keys keep"
            f" {oracle.median():+.2f} more",
            bool(chosen.median() >= CLEAR and oracle.median() > 0),
        ),
        Claim(
            "a causal model foretells worse with windows than with windows and sinks",
            f"IgLM with {_pareto_models.KEYS} keys a row: perplexity {local:.2f} and {sinks:.2f},"
            f" dense {dense:.2f}; accuracy {words['accuracy']['local']:.3f},"
            f" {words['accuracy']['sinks + local']:.3f}, {words['accuracy']['dense']:.3f}",
            bool(local > sinks >= dense),
        ),
        Claim(
            f"at {long['n'].max()} tokens patterns of {WIDE} keys still differ on generated heads, and"
            " not on Gaussian ones",
            f"recalls within {np.ptp(seen[positions]):.2f} of each other, Gaussian within"
            f" {np.ptp(blind[positions]):.3f}",
            bool(np.ptp(seen[positions]) > CLEAR > np.ptp(blind[positions])),
        ),
    ]  # fmt: skip


def _further_text(causal: pd.DataFrame, long: pd.DataFrame) -> list[str]:
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
        f"Generated heads of {longest['n'].iloc[0]} tokens, {WIDE} keys a row: recall and speed-up over"
        " dense are "
        + ", ".join(
            f"{name} {row['recall']:.2f} and {dense / row['time_ns']:.1f}"
            for name, row in timed.iterrows()
        )
        + f"; the best keys recall {made['recall']['best keys']:.2f}.",
    ]  # fmt: skip


def _causal_table(causal: pd.DataFrame) -> tuple[str, Table]:
    rows = [
        (row["pattern"], f"{row['keys']:.1f}" if row["keys"] > 0 else "all", f"{row['recall']:.2f}",
         f"{row['accuracy']:.3f}", f"{row['perplexity']:.2f}")
        for _, row in causal.iterrows()
    ]  # fmt: skip
    caption = (
        f"IgLM, causal, with {_pareto_models.KEYS} keys a row in all layers: recall of the median"
        " head, accuracy of the next residue, perplexity."
    )
    return caption, Table(("pattern", "keys a row", "recall", "accuracy", "perplexity"), rows)


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
