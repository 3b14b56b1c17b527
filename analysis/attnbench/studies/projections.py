# SPDX-License-Identifier: Apache-2.0
"""Why three projections: one attention layer with Q = K, with K = V, with none.

The tokens are pairs key + value, and last a question, key + blank; all codes are random and fixed,
so that only the projections and the readout learn (PyTorch). Two tasks: "same" asks for the value of
the question's own key (associative recall), "next" for that of the key after it in a fixed circular
order, a relation with a direction. Accuracies are taken with our kernel's self-attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import attnbench
from attnbench.figures import style
from attnbench.studies import Claim, Finding, Picture, Study

KEYS, VALUES, PAIRS, WIDTH = 24, 16, 8, 64
TASKS = {"same": "value of the same key", "next": "value of the next key"}
VARIANTS = ("Q, K, V", "Q = K", "K = V", "none")
HEADS = (2, 4, 6, 8, 16, 64)  # columns of the projections, in a sweep of their own
SOLVED, LOSS = 0.95, 0.1

Array = np.ndarray


@dataclass(frozen=True)
class Trained:
    """Projections ``[width, head]`` and the readout ``[head, values]``."""

    wq: Array
    wk: Array
    wv: Array
    readout: Array


def codes() -> tuple[Array, Array]:
    """Of keys ``[keys, width]`` and values (the last: blank), about unit length, the same always."""
    random = np.random.default_rng(42)
    table = random.standard_normal((KEYS + VALUES + 1, WIDTH)).astype(np.float32)
    return table[:KEYS], table[KEYS:]


def sequences(task: str, count: int, random: np.random.Generator) -> tuple[Array, Array]:
    """Tokens ``[count, pairs + 1, width]``, the question last, and answers ``[count]``.

    For "next" the question's own key and both its neighbours stand in the sequence.
    """
    key_codes, value_codes = codes()
    asked = random.integers(0, KEYS, count)
    there = [0] if task == "same" else [0, 1, KEYS - 1]  # from the question's key on
    free = [k for k in range(KEYS) if k not in there]
    drawn = random.permuted(np.tile(free, (count, 1)), axis=1)[:, : PAIRS - len(there)]
    keys = (asked[:, None] + np.hstack([np.tile(there, (count, 1)), drawn])) % KEYS
    keys = random.permuted(keys, axis=1)
    values = random.integers(0, VALUES, (count, PAIRS))
    wanted = asked if task == "same" else (asked + 1) % KEYS
    answer = values[keys == wanted[:, None]]
    pairs = key_codes[keys] + value_codes[values]
    question = key_codes[asked] + value_codes[VALUES]
    return np.concatenate([pairs, question[:, None]], 1), answer


def train(task: str, variant: str, seed: int, steps: int, head: int = WIDTH) -> Trained:
    """Adam on the answer's cross-entropy; the tied projections are one parameter."""
    import torch

    torch.manual_seed(seed)
    random = np.random.default_rng([seed, list(TASKS).index(task)])

    def fresh(rows: int, columns: int) -> torch.Tensor:
        return torch.nn.Parameter(torch.randn(rows, columns) * rows**-0.5)

    identity = torch.eye(WIDTH)
    a, b, c = (fresh(WIDTH, head) for _ in range(3))
    readout = fresh(head, VALUES)
    wq, wk, wv = {
        "Q, K, V": (a, b, c),
        "Q = K": (a, a, c),
        "K = V": (a, b, b),
        "none": (identity, identity, identity),
    }[variant]
    learned = {id(p): p for p in (wq, wk, wv, readout) if p is not identity}
    optimizer = torch.optim.Adam(list(learned.values()), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x, answer = (torch.from_numpy(part) for part in sequences(task, 128, random))
        logits = (x[:, -1:] @ wq) @ (x @ wk).transpose(1, 2) * wq.shape[1] ** -0.5
        out = (torch.softmax(logits, -1) @ (x @ wv))[:, 0] @ readout
        loss = torch.nn.functional.cross_entropy(out, answer)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return Trained(*(w.detach().numpy() for w in (wq, wk, wv, readout)))


def asymmetry(x: Array, trained: Trained) -> float:
    """||L - L^T|| / ||L + L^T|| of the logits between the tokens of sequences ``[B, n, width]``: 0
    where i looks at j as j looks at i, near 1 where the two have nothing to do with each other."""
    logits = (x @ trained.wq) @ np.swapaxes(x @ trained.wk, 1, 2)
    turned = np.swapaxes(logits, 1, 2)
    return float(np.linalg.norm(logits - turned) / np.linalg.norm(logits + turned))


def evaluate(task: str, trained: Trained, count: int) -> dict[str, float]:
    """Accuracy by our kernel, asymmetry of the logits, the question's weight on itself."""
    x, answer = sequences(task, count, np.random.default_rng(1))
    output, weights = attnbench.self_attention(x, trained.wq, trained.wk, trained.wv)
    right = (output[:, -1] @ trained.readout).argmax(1) == answer
    return {
        "accuracy": float(right.mean()),
        "asymmetry": asymmetry(x, trained),
        "on itself": float(weights[:, 0, -1, -1].mean()),
    }


def run(folder: Path, quick: bool) -> Finding:
    import torch

    torch.set_num_threads(1)
    steps, seeds = (300, 1) if quick else (1500, 3)
    table: dict[str, dict[str, dict[str, list[float]]]] = {}
    for task in TASKS:
        for variant in VARIANTS:
            rows = [evaluate(task, train(task, variant, s, steps), 2000) for s in range(seeds)]
            table.setdefault(task, {})[variant] = {k: [r[k] for r in rows] for k in rows[0]}

    narrow = {
        head: {
            variant: [
                evaluate("same", train("same", variant, s, steps, head), 2000)["accuracy"]
                for s in range(seeds)
            ]
            for variant in ("Q, K, V", "K = V")
        }
        for head in (HEADS[1:-1:2] if quick else HEADS)
    }
    gaps = {
        head: float(np.median(row["Q, K, V"]) - np.median(row["K = V"]))
        for head, row in narrow.items()
    }
    widest = max(gaps, key=gaps.__getitem__)

    def median(task: str, variant: str, what: str = "accuracy") -> float:
        return float(np.median(table[task][variant][what]))

    def both(variant: str) -> str:
        return ", ".join(f"{task} {median(task, variant):.2f}" for task in TASKS)

    three = {task: median(task, "Q, K, V") for task in TASKS}
    loss = {v: {t: three[t] - median(t, v) for t in TASKS} for v in VARIANTS}
    tied = max(max(table[t][v]["asymmetry"]) for t in TASKS for v in ("Q = K", "none"))
    claims = [
        Claim(
            f"three projections solve both tasks (over {SOLVED:g})",
            both("Q, K, V"),
            min(three.values()) > SOLVED,
        ),
        Claim(
            "Q = K makes the logits symmetric",
            f"asymmetry {tied:.1g}; with three projections"
            f" {median('same', 'Q, K, V', 'asymmetry'):.2f} (same) and"
            f" {median('next', 'Q, K, V', 'asymmetry'):.2f} (next)",
            tied < 1e-5 < 0.1 < median("next", "Q, K, V", "asymmetry"),
        ),
        Claim(
            f"and so loses what has a direction (next, by {LOSS:g} or more), not what has none (same)",
            both("Q = K"),
            loss["Q = K"]["next"] >= LOSS > loss["Q = K"]["same"],
        ),
        Claim(
            f"K = V ties what is matched to what is passed on, and loses (by {LOSS:g} or more) on"
            " one of the tasks",
            both("K = V"),
            max(loss["K = V"].values()) >= LOSS,
        ),
        Claim(
            f"it loses at least in narrow heads, where both must share few columns (by {LOSS:g})",
            "loss by columns: " + ", ".join(f"{head}: {gap:.2f}" for head, gap in gaps.items()),
            gaps[widest] >= LOSS,
        ),
        Claim(
            "without projections a token sees itself above all, and both tasks are lost",
            f"{both('none')}; the question's weight on itself {median('same', 'none', 'on itself'):.2f}",
            min(loss["none"].values()) >= LOSS and median("same", "none", "on itself") > 0.5,
        ),
    ]
    text = [
        f"One layer, {PAIRS} pairs of a key and a value and a question, {steps} steps, medians of"
        f" {seeds} seed{'s' * (seeds > 1)}; chance is {1 / VALUES:.2f}. Asked for the value of its own"
        f" key the layer is right in {three['same']:.2f} with three projections,"
        f" {median('same', 'Q = K'):.2f} with Q = K, {median('same', 'K = V'):.2f} with K = V and"
        f" {median('same', 'none'):.2f} with none; asked for the next key's,"
        f" {three['next']:.2f}, {median('next', 'Q = K'):.2f}, {median('next', 'K = V'):.2f} and"
        f" {median('next', 'none'):.2f}. With Q = K the question keeps"
        f" {median('next', 'Q = K', 'on itself'):.2f} of its weight on itself. K = V costs"
        f" {gaps[widest]:.2f} in heads of {widest} columns and {gaps[max(gaps)]:.2f} in heads of"
        f" {max(gaps)}."
    ]
    numbers = {
        "steps": steps, "seeds": seeds, "keys": KEYS, "values": VALUES, "pairs": PAIRS,
        "width": WIDTH, "table": table, "by_head_width": narrow,
    }  # fmt: skip
    return Finding(text, claims, numbers, [_picture(table, narrow, steps, seeds)])


def _picture(
    table: dict[str, dict[str, dict[str, list[float]]]],
    narrow: dict[int, dict[str, list[float]]],
    steps: int,
    seeds: int,
) -> Picture:
    marks = {"same": style.Mark("#0072B2", "o", "none"), "next": style.Mark("#D55E00", "s", "none")}
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(style.WIDE_IN, 2, 2, 1.75)
        panels = (
            ("accuracy", "answers right"),
            ("asymmetry", "asymmetry of the logits"),
            ("on itself", "question's weight on itself"),
        )
        for at, (what, label) in zip(axes.flat, panels):
            for shift, (task, mark) in zip((-0.14, 0.14), marks.items()):
                for place, variant in enumerate(VARIANTS):
                    values = table[task][variant][what]
                    at.plot([place + shift] * len(values), values, color=mark.color,
                            marker=mark.marker, ls="none", alpha=0.8)  # fmt: skip
            at.set_xticks(range(len(VARIANTS)), VARIANTS)
            at.set_xlim(-0.5, len(VARIANTS) - 0.5)
            at.set_title(label)
            at.grid(visible=False, axis="x")
            at.set_ylim(-0.04, 1.04 if what != "asymmetry" else None)
        axes[0, 0].axhline(1 / VALUES, color=style.FAINT, lw=0.8, ls=":")
        at = axes[1, 1]
        for variant, dash, fill, shift in (
            ("Q, K, V", "-", "full", -11),
            ("K = V", (0, (4, 1.5)), "none", -5),
        ):
            rows = np.array([row[variant] for row in narrow.values()])
            at.plot(list(narrow), np.median(rows, 1), color=marks["same"].color, ls=dash)
            at.plot(list(narrow), rows, color=marks["same"].color, marker="o", ls="none",
                    fillstyle=fill)  # fmt: skip
            at.annotate(variant, (next(iter(narrow)), np.median(rows[0])), xytext=(8, shift),
                        textcoords="offset points", fontsize="small")  # fmt: skip
        style.log_sizes(at, list(narrow), "columns of the projections")
        at.set_ylim(-0.04, 1.04)
        at.set_title("answers right in narrow heads (same key)")
        handles = [style.handle(TASKS[task], mark) for task, mark in marks.items()]
        footer = f"one layer of width {WIDTH}, {PAIRS} pairs, {steps} steps, {seeds} seed"
        style.finish(figure, footer + "s" * (seeds > 1) + " (a dot each); dotted: chance", handles)
    return Picture(
        "projections", figure, "What tying or leaving out projections costs, and what it does to who"
        " looks at whom.",
    )  # fmt: skip


STUDY = Study(
    "projections",
    "Why does attention project its input three times?",
    "With Q = K the logits are symmetric and no relation has a direction; with K = V what is matched"
    " is what is passed on; with no projection a token looks at itself above all.",
    run,
    extras=("experiments",),
)
