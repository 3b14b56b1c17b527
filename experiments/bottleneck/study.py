# SPDX-License-Identifier: Apache-2.0
"""The bottleneck: one fixed context vector against attention, by the length of the sequence.

Trains LSTM encoder-decoders (model.py) on copying, reversing and recalling (tasks.py) with equal
steps, lets them decode freely at lengths up to twice those of training, compares the attention of
each trained model with our kernels', and measures a real model without attention (g2p.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attnbench import heatmap
from attnbench.figures import style
from attnbench.studies import Claim, Finding, Picture, Study

if TYPE_CHECKING:
    from .training import Run

TOLERANCE = 1e-5
LONGEST, LENGTHS, SEEDS, STEPS = 20, (6, 10, 14, 20, 24, 30, 34, 40), 3, 2400
QUICK_LONGEST, QUICK_LENGTHS, QUICK_STEPS = 10, (6, 10, 14, 20), 900
ATTENTIVE, LOST, GAP = 0.9, 0.1, 0.3  # exact match that counts as solved, as none, as a difference
SHOWN = 12  # tokens of the alignment matrices
WORDS = 1000  # of a length, at most, that the real model spells

MARKS = {
    "none": ("one fixed context", style.Mark("#D55E00", "s", "-")),
    "dot": ("Luong dot", style.Mark("#56B4E9", "D", (0, (4, 1.5)))),
    "general": ("Luong general", style.Mark("#0072B2", "o", "-")),
    "concat": ("Luong concat", style.Mark("#009E73", "^", (0, (1, 1.2)))),
    "bahdanau": ("Bahdanau", style.Mark("#882255", "v", (0, (5, 1, 1, 1)))),
}


def plan(quick: bool) -> list[Run]:
    """The trainings, one seed of everything before the next seed."""
    from .training import Run

    if quick:
        return [Run("copy", score, 0, QUICK_STEPS, QUICK_LONGEST, QUICK_LENGTHS, 100)
                for score in ("none", "general")]  # fmt: skip
    return [
        Run(task, score, seed, STEPS, LONGEST, LENGTHS)
        for seed in range(SEEDS)
        for task in ("copy", "reverse", "recall")
        for score in MARKS
    ]


def run(folder: Path, quick: bool) -> Finding:
    import torch

    from . import g2p, tasks, training
    from .model import kernel_difference

    runs = plan(quick)
    training.finish_all(folder / "models", runs)
    torch.set_num_threads(1)
    exact: dict[str, dict[str, list[list[float]]]] = {}
    token: dict[str, dict[str, list[list[float]]]] = {}
    apart: dict[str, float] = {}
    alignments: dict[tuple[str, str], tuple[Any, Any, Any]] = {}
    for each in runs:
        kept = training.load(folder / "models", each)
        assert kept is not None
        model, accuracy = kept
        exact.setdefault(each.task, {}).setdefault(each.score, []).append(accuracy["exact"])
        token.setdefault(each.task, {}).setdefault(each.score, []).append(accuracy["token"])
        if each.score == "none":
            continue
        batch = tasks.batch(each.task, each.longest, 8, np.random.default_rng(3))
        source, given = torch.from_numpy(batch.source), torch.from_numpy(batch.given.copy())
        apart[each.stem] = kernel_difference(model, source, given)
        if each.seed == 0:
            batch = tasks.batch(each.task, min(SHOWN, each.longest), 64, np.random.default_rng(5))
            answered, weights = training.answers(model, each.task, batch)
            alignments[each.task, each.score] = (batch, answered, weights)
    spelling = {} if quick else g2p.errors_by_letters(WORDS)
    first = runs[0]
    claims = _claims(exact, apart, alignments, spelling, first.longest, first.lengths)
    numbers = {
        "steps": first.steps, "seeds": 1 + max(r.seed for r in runs), "longest": first.longest,
        "lengths": first.lengths, "hidden": first.hidden, "tests": first.tests, "exact": exact,
        "token": token, "kernel_difference": apart, "g2p_phoneme_error_by_letters": spelling,
    }  # fmt: skip
    text = _text(exact, spelling, first, numbers["seeds"], max(apart.values()))
    pictures = [_accuracy(exact, token, first, numbers["seeds"]), _alignment(alignments)]
    if spelling:
        pictures.append(_spelling(spelling))
    return Finding(text, claims, numbers, pictures)


def at(exact: dict[str, list[list[float]]], score: str, place: int) -> float:
    """The median over seeds at one length."""
    return float(np.median([row[place] for row in exact[score]]))


def best(exact: dict[str, list[list[float]]], place: int) -> tuple[str, float]:
    """The attention that answers most whole sequences at one length."""
    found = {score: at(exact, score, place) for score in exact if score != "none"}
    score = max(found, key=found.__getitem__)
    return score, found[score]


def on_path(task: str, batch: Any, weights: np.ndarray) -> float:
    """How often the largest weight is within one token of the source position that the answer
    stands at."""
    n, m = batch.source.shape[1], batch.answer.shape[1]
    place = np.arange(m)
    wanted = np.tile(n - 1 - place if task == "reverse" else place, (len(batch.source), 1))
    if task == "recall":  # the value after the key
        wanted = (batch.source[:, None, :] == batch.given[:, :, None]).argmax(2) + 1
    content = slice(0, m if task == "recall" else n)  # END stands at no position
    near = np.abs(weights.argmax(2) - wanted) <= 1
    return float(near[:, content].mean())


def _claims(
    exact: dict[str, Any], apart: dict[str, float], alignments: dict[Any, Any],
    spelling: dict[int, float], longest: int, lengths: tuple[int, ...],
) -> list[Claim]:  # fmt: skip
    trained, beyond = lengths.index(longest), lengths.index(longest) + 1
    claims = []
    for task, scores in exact.items():
        none, (name, most) = at(scores, "none", trained), best(scores, trained)
        claims.append(
            Claim(
                f"{task}: at the longest trained length ({longest}) attention answers more whole"
                f" sequences than one fixed context (by {GAP:g} or more)",
                f"{none:.2f} without, {most:.2f} with ({name})",
                most - none >= GAP,
            )
        )
    twice = lengths.index(2 * longest)
    lost = {task: at(s, "none", beyond) for task, s in exact.items()}
    claims.append(
        Claim(
            f"past it the fixed context fails (at {lengths[beyond]} tokens under {LOST:g})",
            ", ".join(f"{task} {value:.2f}" for task, value in lost.items()),
            max(lost.values()) < LOST,
        )
    )
    far = {task: best(s, twice) for task, s in exact.items()}
    claims.append(
        Claim(
            f"attention too fails at twice the trained length (under {ATTENTIVE:g})",
            ", ".join(f"{task} {value:.2f} ({name})" for task, (name, value) in far.items()),
            max(value for _, value in far.values()) < ATTENTIVE,
        )
    )
    paths = {key: on_path(key[0], batch, w) for key, (batch, _, w) in alignments.items()}
    solved = {key: p for key, p in paths.items() if at(exact[key[0]], key[1], trained) > ATTENTIVE}
    claims.append(
        Claim(
            "where a task is solved by attention, its largest weight lies on the token needed or"
            " beside it (9 times of 10)",
            ", ".join(f"{task} {score} {p:.2f}" for (task, score), p in solved.items())
            or "none is solved",
            bool(solved) and min(solved.values()) > 0.9,
        )
    )
    worst = max(apart, key=apart.__getitem__)
    claims.append(
        Claim(
            f"our kernels' context and weights equal PyTorch's to {TOLERANCE:g} in every trained"
            " model",
            f"within {apart[worst]:.1e} over {len(apart)} models",
            apart[worst] <= TOLERANCE,
        )
    )
    if spelling:
        claims.append(
            Claim(
                "a real model without attention errs more the longer the word",
                f"g2p-en's phoneme error: {spelling[4]:.1%} at 4 letters, {spelling[8]:.1%} at 8,"
                f" {spelling[12]:.1%} at 12, {spelling[16]:.1%} at 16",
                spelling[4] < spelling[8] < spelling[12] < spelling[16],
            )
        )
    return claims


def _text(
    exact: dict[str, Any], spelling: dict[int, float], run: Run, seeds: int, apart: float
) -> list[str]:
    trained = run.lengths.index(run.longest)
    parts = []
    for task, scores in exact.items():
        name, most = best(scores, trained)
        limit = max(
            (n for i, n in enumerate(run.lengths) if at(scores, "none", i) >= 0.5), default=0
        )
        reach = max((n for i, n in enumerate(run.lengths) if best(scores, i)[1] >= 0.5), default=0)
        parts.append(
            f"{task}: {at(scores, 'none', trained):.2f} without attention, {most:.2f} with {name};"
            f" half of the sequences are whole up to {limit or 'no length tested'} without, up to"
            f" {reach or 'no length tested'} with"
        )
    late = exact.get("recall", {}).get("bahdanau")
    if late and at(exact["recall"], "bahdanau", trained) < 0.5:
        parts.append(
            "There Bahdanau's attention falls behind Luong's"
            f" ({at(exact['recall'], 'bahdanau', trained):.2f}): its query is the decoder's state before"
            " the step, which has not read the key that is asked for"
        )
    many = f"{seeds} seeds" if seeds > 1 else "one seed"
    text = [
        f"Trained {run.steps} steps on sequences of up to {run.longest} tokens (LSTM of"
        f" {run.hidden}, {many}; medians), decoding freely at {run.longest} tokens: "
        + ". ".join(parts)
        + f". Our kernels compute the trained models' attention within {apart:.0e} of PyTorch's."
    ]
    if spelling:
        text.append(
            f"The same in a real model: g2p-en, two GRUs and one vector between them, misspells"
            f" {spelling[4]:.1%} of the phonemes of words of 4 letters and {spelling[16]:.1%} at 16."
        )
    return text


def _accuracy(exact: Any, token: Any, run: Run, seeds: int) -> Picture:
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(style.WIDE_IN, 2, len(exact), 1.75, sharey="row", sharex=True)
        for row, (kind, name) in enumerate(((exact, "whole sequences"), (token, "tokens"))):
            for panel, (task, scores) in zip(axes[row], kind.items()):
                panel.axvspan(min(run.lengths), run.longest, color=style.GRID, alpha=0.45, lw=0)
                for score, rows in scores.items():
                    mark, values = MARKS[score][1], np.array(rows)
                    panel.fill_between(run.lengths, values.min(0), values.max(0),
                                       color=mark.color, alpha=0.13, lw=0)  # fmt: skip
                    panel.plot(run.lengths, np.median(values, 0), color=mark.color,
                               marker=mark.marker, ls=mark.dash)  # fmt: skip
                panel.set_ylim(-0.03, 1.03)
                if row == 0:
                    panel.set_title(task)
                else:
                    panel.set_xlabel("length of the source")
            axes[row, 0].set_ylabel(f"{name} right")
        shown = [MARKS[s] for s in MARKS if any(s in scores for scores in exact.values())]
        footer = f"LSTM of {run.hidden}, {run.steps} steps, {seeds} seed{'s' * (seeds > 1)} (lines"
        footer += (
            f": medians, bands: extremes), {run.tests} sequences a point; grey: lengths trained on"
        )
        style.finish(figure, footer, [style.handle(name, mark) for name, mark in shown])
    return Picture(
        "accuracy", figure,
        "Whole sequences and tokens right by the length of the source, each model left to its own"
        " answers.",
    )  # fmt: skip


def _alignment(alignments: dict[tuple[str, str], tuple[Any, Any, Any]]) -> Picture:
    tasks = list(dict.fromkeys(task for task, _ in alignments))
    scores = list(dict.fromkeys(score for _, score in alignments))
    with style.rc(style.WIDE_IN):
        width = style.WIDE_IN if len(scores) > 1 else style.COLUMN_IN
        figure, axes = style.canvas(width, len(tasks), len(scores), 1.6 if len(scores) > 1 else 2.8)
        for row, task in zip(axes, tasks):
            for panel, score in zip(row, scores):
                batch, answered, weights = alignments[task, score]
                image = panel.imshow(
                    weights[0], cmap=heatmap.COLOURS, vmin=0, vmax=1, aspect="auto"
                )
                panel.grid(visible=False)
                panel.tick_params(length=0, pad=1, labelsize=5)
                names = _names(task, batch.source[0])
                panel.set_xticks(range(len(names)), names)
                answers = _names(task, answered[0])
                panel.set_yticks(range(len(answers)), answers)
                if task == tasks[0]:
                    panel.set_title(MARKS[score][0])
                if score == scores[0]:
                    panel.set_ylabel(f"{task}: answers")
                if task == tasks[-1]:
                    panel.set_xlabel("source")
        figure.colorbar(image, ax=axes, fraction=0.02, pad=0.01).outline.set_visible(False)
        footer = "trained models, seed 0 · letters: symbols, numbers: keys, dot: the end"
        style.finish(figure, footer)
    return Picture("alignment", figure, "Where each answer looks in the source.")


def _names(task: str, tokens: np.ndarray) -> list[str]:
    from . import tasks

    def name(token: int) -> str:
        if token < tasks.SYMBOLS:
            return chr(ord("a") + token)
        return str(token - tasks.SYMBOLS) if task == "recall" else "."

    return [name(int(token)) for token in tokens]


def _spelling(errors: dict[int, float]) -> Picture:
    with style.rc(style.COLUMN_IN):
        figure, axes = style.canvas(style.COLUMN_IN, panel_in=2.0)
        axes[0, 0].plot(list(errors), [100 * e for e in errors.values()],
                        color=MARKS["none"][1].color, marker="s")  # fmt: skip
        axes[0, 0].set_ylim(0)
        axes[0, 0].set_xlabel("letters of the word")
        axes[0, 0].set_ylabel("phoneme errors, %")
        style.finish(figure, f"g2p-en 2.1.0 over CMUdict · greedy · at most {WORDS} words a length")
    return Picture(
        "g2p", figure, "A real encoder-decoder without attention, by the length of the word."
    )


STUDY = Study(
    "bottleneck",
    "What does one fixed context vector cost, and what does attention mend?",
    "An encoder-decoder with one vector between its halves fails on long sequences, within and"
    " above all past the lengths it was trained on; with attention it does not, up to 1.5 to 2 times"
    " those lengths (Bahdanau et al. 2014, table 1 and figure 2).",
    run,
    extras=("experiments",),
)
