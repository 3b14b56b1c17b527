# SPDX-License-Identifier: Apache-2.0
"""Sequences to copy, to reverse, and to look values up in; any length, all of one length a batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SYMBOLS, KEYS = 16, 32
BEGIN, END = SYMBOLS, SYMBOLS + 1
NAMES = ("copy", "reverse", "recall")


class Batch(NamedTuple):
    """Tokens, int64: ``source [B, n]``, what the decoder is given ``[B, m]`` and should answer."""

    source: np.ndarray
    given: np.ndarray
    answer: np.ndarray


def vocabulary(task: str) -> int:
    """How many tokens there are."""
    return SYMBOLS + (KEYS if task == "recall" else 2)


def batch(task: str, length: int, count: int, random: np.random.Generator) -> Batch:
    """``count`` sequences of ``length`` tokens.

    copy, reverse: the answer is the source (backwards) and END; given is the answer one step late.
    recall: the source is pairs of a key and a value; given are all its keys in another order, the
    answers are their values. Raises ValueError where the length does not suit.
    """
    if task != "recall":
        source = random.integers(0, SYMBOLS, (count, length))
        answer = source[:, ::-1] if task == "reverse" else source
        begin, end = (np.full((count, 1), token) for token in (BEGIN, END))
        return Batch(source, np.hstack([begin, answer]), np.hstack([answer, end]))
    pairs = length // 2
    if length % 2 or not 0 < pairs <= KEYS:
        raise ValueError(f"length: recall needs 2 ... {2 * KEYS} tokens, an even number: {length}")
    keys = random.permuted(np.tile(np.arange(KEYS), (count, 1)), axis=1)[:, :pairs]
    values = random.integers(0, SYMBOLS, (count, pairs))
    order = random.permuted(np.tile(np.arange(pairs), (count, 1)), axis=1)
    source = np.stack([keys + SYMBOLS, values], -1).reshape(count, length)
    return Batch(
        source, np.take_along_axis(keys, order, 1) + SYMBOLS, np.take_along_axis(values, order, 1)
    )
