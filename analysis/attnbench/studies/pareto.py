# SPDX-License-Identifier: Apache-2.0
"""Pareto: what sparse attention loses on real Q, K and V, beside the time that it saves.

MiniLM's 72 heads over 512 tokens of a text, under patterns that all admit as many keys a row, under
blocks chosen by content, and under controls without which such a chart means nothing: each row's
heaviest keys, the heaviest columns of a head, random keys. Recall is the mass that dense attention
gives to the admitted keys. Times are the kernels' own, from a sweep of just these masks; controls
have a quality and no time. The same on Gaussian Q, K and V says what those would have claimed. The
layers of three further models stand beside; IgLM, which is causal, says what its own task loses;
generated heads, fitted to MiniLM's, what lengths that no model here reaches do to both sides.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from attnbench import sparsity, tensors
from attnbench.sparsity import CHOSEN, FAMILIES
from attnbench.studies import ROOT, Claim, Finding, Study, _pareto_models, _pareto_pictures
from attnbench.studies import _pareto_words as words
from attnbench.studies._pareto_measures import (
    BEST,
    HEADS,
    KNOWN,
    KNOWN_BEST,
    SHOWN,
    N,
    cosine,
    gaussian,
    known,
    lengths,
    measure,
    passages,
    points,
    quartiles,
    recalls,
    shapes,
    times,
    whole_model,
)

TEXT = ROOT / "experiments" / "text" / "library.txt"
BUDGETS = (16, 32, 64, 128, 256)  # keys a row
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
    lines = lines[:2] if quick else lines
    causal = _pareto_models.antibodies(lines)
    with_blocks = _pareto_models.antibodies(lines, _pareto_models.BLOCKS_KEYS)
    others = _pareto_models.others(
        folder,
        (_pareto_models.KEYS,) if quick else _pareto_models.OTHER_BUDGETS,
        5 if quick else 40,
    )
    sizes = LONG[:2] if quick else LONG
    long = _pareto_models.by_length(sizes, WIDE).merge(
        _pareto_models.times_by_length(folder, sizes, WIDE, 10 if quick else 60), how="outer"
    )
    found = _claims(real, before, table, at, flat, blank, cosines)
    found += _further_claims(real, causal, long)
    shape, noise_shape = (
        {k: np.round(np.median(np.concatenate(v), 0), 3) for k, v in shapes(one).items()}
        for one in (layers, noise_layers)
    )
    each = [known(layers[i : i + len(first)]) for i in range(0, len(layers), len(first))]
    text = [
        *words.medians(
            real, noise, at, flat, blank, cosines, known(noise_layers)[BEST], before, other, grown
        ),
        words.beforehand(each),
        words.entropy(at, flat, shape, noise_shape),
        words.cost(at),
        *words.further(causal, long, WIDE),
        words.other_models(others),
    ]
    numbers = {
        "n": N, "heads": len(layers) * HEADS, "passages": count, "known_masks": before,
        "known_masks_by_passage": each,
        "shape_median": shape, "shape_median_gaussian": noise_shape,
        "patterns": {
            f"{b} keys": {k: {"words": p.words, "keys": p.keys, "kernel": p.kernel}
                          for k, p in sparsity.at_budget(N, b).items()} for b in budgets},
        "medians": table.to_dict("records"), "medians_gaussian": blank.to_dict("records"),
        "whole_model": swapped.to_dict("records"), "whole_model_another_passage": other,
        "by_length": grown.to_dict("records"),
        "iglm": [*causal.to_dict("records"), *with_blocks.to_dict("records")],
        "other_models": {
            name: {**one.size._asdict(), "medians": one.table.to_dict("records"),
                   "by_layer": one.real.groupby(["layer", "pattern", "budget"], sort=False)["recall"]
                   .median().reset_index().to_dict("records")}
            for name, one in others.items()},
        "generated": long.to_dict("records"),
        "by_head": {
            f"{name}, {budget} keys": {m: group[m].round(4) for m in sparsity.Kept._fields}
            for (name, budget), group in real.groupby(["pattern", "budget"], sort=False)
        },
    }  # fmt: skip
    return Finding(
        text, found, numbers,
        [*_pareto_pictures.draw(real, table, blank, grown, layers, count),
         *(_pareto_pictures.other(name, one) for name, one in others.items()),
         _pareto_pictures.generated(long, WIDE)],
        [words.quality_table(at, flat, cosines, shape["entropy"]),
         words.cost_table(at, table.iloc[-1]),
         words.causal_table(causal), words.causal_table(with_blocks)],
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


def _further_claims(real: pd.DataFrame, causal: pd.DataFrame, long: pd.DataFrame) -> list[Claim]:
    by_pattern, most = causal.set_index("pattern"), 2 * SHOWN
    gain, oracle = {}, {}
    for budget in sorted(real.loc[real["pattern"] == CHOSEN, "budget"].unique()):
        heads = recalls(real, budget)
        gain[budget] = heads[CHOSEN] - heads["sinks + local"]
        oracle[budget] = float((heads["best keys"] - heads[CHOSEN]).median())
    medians = [float(of.median()) for of in gain.values()]
    fewest = 2 * sparsity.BLOCK
    dense = by_pattern["perplexity"]["dense"]
    sinks, local = by_pattern["perplexity"]["sinks + local"], by_pattern["perplexity"]["local"]
    last = long[long["n"] == long["n"].max()].set_index(["source", "pattern"])["recall"]
    blind, seen = last["Gaussian"], last["calibrated"]
    positions = [name for name in FAMILIES if name in seen]
    return [
        Claim(
            "what blocks chosen by pooled keys gain over a window with sinks of as many keys grows with"
            f" how many are free: less than nothing at {fewest} keys, which are the first block and the"
            f" row's own, {CLEAR:g} of the mass or more in the median head at {most}, where"
            f" {most // sparsity.BLOCK - 2} of {most // sparsity.BLOCK} are chosen; each row's best keys"
            " keep more throughout",
            ", ".join(f"{v:+.2f} at {b} keys ({(gain[b] > 0).mean():.0%} of the heads)"
                      for b, v in zip(gain, medians))
            + f"; the best keys keep {min(oracle.values()):+.2f} to {max(oracle.values()):+.2f} more",
            bool(medians == sorted(medians) and medians[0] < 0 and min(gain) == fewest
                 and gain[most].median() >= CLEAR and min(oracle.values()) > 0),
        ),
        Claim(
            "a causal model foretells worse with windows than with windows and sinks",
            f"IgLM with {_pareto_models.KEYS} keys a row: perplexity {local:.2f} and {sinks:.2f},"
            f" dense {dense:.2f}; accuracy {by_pattern['accuracy']['local']:.3f},"
            f" {by_pattern['accuracy']['sinks + local']:.3f}, {by_pattern['accuracy']['dense']:.3f}",
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


STUDY = Study(
    "pareto",
    "What does sparse attention lose on real heads, beside the time that it saves?",
    "Windows need the first tokens beside them, as sinks (Xiao et al. 2023); a stride fails on text"
    " (Child et al. 2019); heads differ and their keys depend on the content, so that a fixed pattern"
    " falls short of each row's best keys; Gaussian inputs show none of this.",
    run,
)
