# SPDX-License-Identifier: Apache-2.0
"""Alignment: which source word does a trained encoder-decoder look at for each word it translates?

English to Hindi, whose verb comes last, on a few hundred household phrases written for the project
(english_hindi.tsv, with the words that belong together). Bahdanau et al. (2014, figure 3) found that
attention, trained on translation alone, aligns words as people do, across changes of order.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure

from attnbench import heatmap, studies
from attnbench.figures import style
from attnbench.studies import Claim, Finding, Picture, Study

PAIRS = Path(__file__).parent / "english_hindi.tsv"
TITLE = "turn off the lights"  # held out of the training, whatever the seed
SHOWN = (TITLE, "do not open the door", "sita drinks the milk")
SCORES = {"general": "Luong general", "bahdanau": "Bahdanau"}
HIDDEN, RATE, BATCH, HELD_OUT = 48, 3e-3, 32, 0.15
TOLERANCE = 1e-5
BEGIN, END, PAD = "<begin>", "<end>", "<pad>"

Array = np.ndarray


class Phrase(NamedTuple):
    """Words of both languages, and for each Hindi word the English one that it stands for, or
    None."""

    english: list[str]
    hindi: list[str]
    links: list[int | None]


def read(path: Path = PAIRS) -> list[Phrase]:
    """Raises ValueError naming the line that is no phrase."""
    phrases = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("#"):
            continue
        try:
            english, hindi, links = line.split("\t")
            known = {int(h): int(e) for h, e in (link.split("-") for link in links.split())}
        except ValueError:
            raise ValueError(f"{path}:{number}: must be english, hindi and links") from None
        one = Phrase(english.split(), hindi.split(), [])
        if any(h >= len(one.hindi) or e >= len(one.english) for h, e in known.items()):
            raise ValueError(f"{path}:{number}: a link points past the words")
        phrases.append(one._replace(links=[known.get(h) for h in range(len(one.hindi))]))
    return phrases


class Vocabulary:
    """Words and their numbers; BEGIN, END and PAD are among them."""

    def __init__(self, sentences: list[list[str]]) -> None:
        self.words = [PAD, BEGIN, END, *sorted({word for s in sentences for word in s})]
        self.numbers = {word: i for i, word in enumerate(self.words)}

    def encode(self, sentences: list[list[str]]) -> Array:
        """``[sentences, longest]``, short ones filled up with PAD."""
        width = max(map(len, sentences))
        rows = [[self.numbers[w] for w in s] + [0] * (width - len(s)) for s in sentences]
        return np.array(rows)


def split(phrases: list[Phrase], seed: int) -> tuple[list[Phrase], list[Phrase]]:
    """Trained on and held out; every word of what is held out stands in what is not."""
    order = np.random.default_rng(seed).permutation(len(phrases))
    shuffled = [phrases[i] for i in order]
    shuffled.sort(key=lambda phrase: phrase.english != TITLE.split())  # the first to be held out
    held: list[Phrase] = []
    kept = list(phrases)
    for phrase in shuffled:
        if len(held) >= HELD_OUT * len(phrases):
            break
        rest = [p for p in kept if p is not phrase]
        known = {w for p in rest for w in (*p.english, *p.hindi)}
        if {*phrase.english, *phrase.hindi} <= known:
            kept, held = rest, [*held, phrase]
    return kept, held


class Trained(NamedTuple):
    """A model, its vocabularies, and the phrases that it has not seen."""

    model: Any
    english: Vocabulary
    hindi: Vocabulary
    held: list[Phrase]


def train(phrases: list[Phrase], score: str, seed: int, epochs: int) -> Trained:
    """Batches hold phrases of one English length, so that no source is padded."""
    import torch

    seq2seq = studies.part("bottleneck", "model").Seq2Seq
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    kept, held = split(phrases, seed)
    english = Vocabulary([p.english for p in phrases])
    hindi = Vocabulary([p.hindi for p in phrases])
    model = seq2seq(len(english.words), HIDDEN, score, len(hindi.words), both_ways=True)
    optimizer = torch.optim.Adam(model.parameters(), RATE, weight_decay=1e-4)
    for _ in range(epochs):
        for batch in batches(kept, random):
            source = torch.from_numpy(english.encode([p.english for p in batch]))
            given = torch.from_numpy(hindi.encode([[BEGIN, *p.hindi] for p in batch]))
            answer = torch.from_numpy(hindi.encode([[*p.hindi, END] for p in batch]))
            logits, _ = model(source, given)
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), answer.flatten(), ignore_index=0
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return Trained(model.eval(), english, hindi, held)


def batches(phrases: list[Phrase], random: np.random.Generator) -> list[list[Phrase]]:
    """The phrases in a new order, BATCH of one English length at a time."""
    groups: dict[int, list[Phrase]] = {}
    for i in random.permutation(len(phrases)):
        groups.setdefault(len(phrases[i].english), []).append(phrases[i])
    made = [g[i : i + BATCH] for g in groups.values() for i in range(0, len(g), BATCH)]
    return [made[i] for i in random.permutation(len(made))]


def translate(trained: Trained, phrase: Phrase) -> tuple[list[str], Array]:
    """Hindi words, greedily, and the weights ``[words, English words]``."""
    import torch

    source = torch.from_numpy(trained.english.encode([phrase.english]))
    tokens, weights = trained.model.generate(source, trained.hindi.numbers[BEGIN], 9)
    words = [trained.hindi.words[i] for i in tokens[0]]
    words = words[: words.index(END)] if END in words else words
    return words, weights[0, : len(words)].numpy()


def aligned(phrase: Phrase, weights: Array) -> list[bool]:
    """For each linked word of a right translation: whether its largest weight is on its partner."""
    return [
        int(row.argmax()) == link for row, link in zip(weights, phrase.links) if link is not None
    ]


def by_reading_order(phrase: Phrase) -> list[bool]:
    """The same for a reader who looks at word i for word i: what word order alone would give."""
    return [min(i, len(phrase.english) - 1) == link for i, link in enumerate(phrase.links)
            if link is not None]  # fmt: skip


def run(folder: Path, quick: bool) -> Finding:
    import torch

    torch.set_num_threads(1)
    phrases = read()
    seeds, epochs = (1, 30) if quick else (3, 60)
    shown: dict[tuple[str, str], tuple[list[str], list[str], Array]] = {}
    rows: dict[str, dict[str, list[float]]] = {}
    apart, order = 0.0, []
    for score in SCORES:
        found: dict[str, list[float]] = {"translated": [], "aligned": []}
        for seed in range(seeds):
            trained = train(phrases, score, seed, epochs)
            right, links = [], []
            for phrase in trained.held:
                words, weights = translate(trained, phrase)
                right.append(words == phrase.hindi)
                if right[-1]:
                    links += aligned(phrase, weights)
                    order += by_reading_order(phrase)
            found["translated"].append(float(np.mean(right)))
            found["aligned"].append(float(np.mean(links)) if links else 0.0)
            apart = max(apart, _kernels(trained))
            if seed == 0:
                for phrase in (p for p in phrases if " ".join(p.english) in SHOWN):
                    words, weights = translate(trained, phrase)
                    shown[score, " ".join(phrase.english)] = (words, phrase.english, weights)
        rows[score] = found
    best = max(SCORES, key=lambda s: np.median(rows[s]["aligned"]))
    median = {s: {k: float(np.median(v)) for k, v in rows[s].items()} for s in SCORES}
    title = next(p for p in phrases if p.english == TITLE.split())
    words, _, weights = shown[best, TITLE]
    pairs = [f"{w} → {title.english[int(r.argmax())]}" for w, r in zip(words, weights)]
    straight = float(np.mean(order)) if order else 0.0
    claims = [
        Claim(
            "what was held out is translated (9 phrases of 10)",
            ", ".join(f"{SCORES[s]} {median[s]['translated']:.2f}" for s in SCORES),
            max(median[s]["translated"] for s in SCORES) > 0.9,
        ),
        Claim(
            f"“{TITLE}”, never seen in training, becomes “{' '.join(title.hindi)}”",
            f"“{' '.join(words)}”",
            words == title.hindi,
        ),
        Claim(
            "the largest weight of a word lies on the word that it stands for (8 of 10), though"
            " nothing but translation was trained",
            ", ".join(f"{SCORES[s]} {median[s]['aligned']:.2f}" for s in SCORES)
            + f"; looking straight across would give {straight:.2f}",
            median[best]["aligned"] > 0.8,
        ),
        Claim(
            f"our kernels' context and weights equal PyTorch's to {TOLERANCE:g}",
            f"within {apart:.1e}",
            apart <= TOLERANCE,
        ),
    ]
    text = [
        f"Trained on {len(phrases) - len(trained.held)} of {len(phrases)} phrases ({epochs} epochs,"
        f" medians of {seeds} seed{'s' * (seeds > 1)}), the models translate"
        f" {median['general']['translated']:.0%} (Luong general) and"
        f" {median['bahdanau']['translated']:.0%} (Bahdanau) of the {len(trained.held)} others word for"
        f" word. The largest weight lies on the word's partner in {median['general']['aligned']:.0%} and"
        f" {median['bahdanau']['aligned']:.0%} of the words; looking straight across would in"
        f" {straight:.0%}. For “{TITLE}” {SCORES[best]} gives: {', '.join(pairs)}."
    ]
    numbers = {
        "phrases": len(phrases), "held_out": len(trained.held), "seeds": seeds, "epochs": epochs,
        "by_score": rows, "straight_across": straight, "kernel_difference": apart,
        "weights": {f"{s}: {e}": w for (s, e), (_, _, w) in shown.items()},
    }  # fmt: skip
    pictures = []
    if font := devanagari():
        pictures = [
            Picture(
                "matrices", _matrices(shown, font),
                "Weights of each Hindi word, in the order it is written, over the English words.",
            )
        ]  # fmt: skip
    else:
        text.append("No installed font draws Devanagari (on Debian: apt-get install"
                    " fonts-lohit-deva), so the matrices stand in study.json alone.")  # fmt: skip
    return Finding(text, claims, numbers, pictures)


def _kernels(trained: Trained) -> float:
    """PyTorch's attention against our kernel's over the held-out phrases of one length."""
    import torch

    length = len(TITLE.split())
    batch = [p for p in trained.held if len(p.english) == length]
    source = torch.from_numpy(trained.english.encode([p.english for p in batch]))
    given = torch.from_numpy(trained.hindi.encode([[BEGIN, *p.hindi] for p in batch]))
    return studies.part("bottleneck", "model").kernel_difference(trained.model, source, given)


@cache
def devanagari() -> str | None:
    """The name of an installed font that draws Hindi."""
    for path in font_manager.findSystemFonts():
        if "deva" not in path.lower() and "hind" not in path.lower():
            continue
        font = font_manager.get_font(path)
        if font.get_char_index(ord("ल")):
            font_manager.fontManager.addfont(path)
            return font.family_name
    return None


def _matrices(
    shown: dict[tuple[str, str], tuple[list[str], list[str], Array]], font: str
) -> Figure:
    with style.rc(style.WIDE_IN):
        figure, axes = style.canvas(style.WIDE_IN, len(SCORES), len(SHOWN), 2.0)
        for row, score in zip(axes, SCORES):
            for at, phrase in zip(row, SHOWN):
                words, english, weights = shown[score, phrase]
                image = heatmap.draw(at, weights, words, english)
                at.set_xlabel("")
                at.set_ylabel(SCORES[score] if phrase == SHOWN[0] else "")
                for label in at.get_yticklabels():
                    label.set_fontfamily(["DejaVu Sans", font])
        figure.colorbar(image, ax=axes, fraction=0.02, pad=0.02).outline.set_visible(False)
        style.finish(figure, f"bidirectional LSTM encoder of {HIDDEN}, seed 0; the first phrase was"
                             " held out of the training")  # fmt: skip
        return figure


STUDY = Study(
    "alignment",
    "Does attention align the words of two languages without being told?",
    "Trained on translation alone, the weights align words as people do, also where the order"
    " changes (Bahdanau et al. 2014, figure 3): English “turn off the lights” is Hindi “लाइट बंद"
    " करो”, lights-off-do.",
    run,
    extras=("experiments",),
)
