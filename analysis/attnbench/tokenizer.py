# SPDX-License-Identifier: Apache-2.0
"""BERT's uncased WordPiece tokenizer, from its vocabulary (Devlin et al. 2018; Wu et al. 2016).

Text is cleaned, lower-cased and stripped of accents, split at white space and around every
punctuation mark and CJK character; each word is then cut greedily into the longest pieces that the
vocabulary knows, continuations marked with ``##``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_LONGEST_WORD = 100  # characters; a longer one is unknown


@dataclass(frozen=True)
class Word:
    """One word of the text as pieces: ``pieces`` index the token sequence."""

    text: str
    pieces: tuple[int, ...]


def _is_punctuation(c: str) -> bool:
    # All of ASCII that is no letter, digit or space counts, as "$" and "^" too.
    return ("!" <= c <= "~" and not c.isalnum()) or unicodedata.category(c).startswith("P")


def _is_cjk(c: str) -> bool:
    code = ord(c)
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )


def words(text: str) -> list[str]:
    """The text as lower-case words and single punctuation marks."""
    spaced = []
    for c in text:
        if c in "\t\n\r" or unicodedata.category(c) == "Zs":
            spaced.append(" ")
        elif c in "\0\ufffd" or unicodedata.category(c).startswith("C"):
            continue
        elif _is_cjk(c):
            spaced.append(f" {c} ")
        else:
            spaced.append(c)
    plain = unicodedata.normalize("NFD", "".join(spaced).lower())
    plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
    return "".join(f" {c} " if _is_punctuation(c) else c for c in plain).split()


class WordPiece:
    """Tokenizer over a vocabulary: one token a line, its number the line's."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.tokens = list(vocabulary)
        self.ids = {token: i for i, token in enumerate(self.tokens)}

    def pieces(self, word: str) -> list[str]:
        """Greedy longest match; ``["[UNK]"]`` where the vocabulary cannot spell the word."""
        if len(word) > _LONGEST_WORD:
            return ["[UNK]"]
        found, begin = [], 0
        while begin < len(word):
            mark = "##" if begin else ""
            for end in range(len(word), begin, -1):
                if mark + word[begin:end] in self.ids:
                    found.append(mark + word[begin:end])
                    begin = end
                    break
            else:
                return ["[UNK]"]
        return found

    def encode(self, text: str, limit: int = 512) -> tuple[list[int], list[str], list[Word]]:
        """Numbers, tokens and words of ``[CLS] text [SEP]``, cut to ``limit`` tokens.

        ``words`` has ``[CLS]`` and ``[SEP]`` as words of one piece. A word's contraction stays as
        the tokenizer splits it ("didn't": didn, ', t); see ``merge_contractions``.
        """
        tokens = ["[CLS]"]
        grouped = [Word("[CLS]", (0,))]
        for word in words(text):
            pieces = self.pieces(word)[: limit - 1 - len(tokens)]
            if not pieces:
                break
            grouped.append(Word(word, tuple(range(len(tokens), len(tokens) + len(pieces)))))
            tokens.extend(pieces)
        grouped.append(Word("[SEP]", (len(tokens),)))
        tokens.append("[SEP]")
        return [self.ids[token] for token in tokens], tokens, grouped


def merge_contractions(grouped: Sequence[Word]) -> list[Word]:
    """Joins what an apostrophe split: didn + ' + t is the word "didn't"."""
    merged: list[Word] = []
    i = 0
    while i < len(grouped):
        joins = i + 2 < len(grouped) and grouped[i + 1].text in "'’" and grouped[i].text.isalpha()
        if joins and grouped[i + 2].text in ("t", "s", "d", "m", "re", "ve", "ll"):
            three = grouped[i : i + 3]
            merged.append(
                Word("".join(w.text for w in three), tuple(p for w in three for p in w.pieces))
            )
            i += 3
        else:
            merged.append(grouped[i])
            i += 1
    return merged
