# SPDX-License-Identifier: Apache-2.0
"""Trains one encoder-decoder on one task and keeps it: weights, and accuracy by length.

A finished run is a file and is never redone, so a long study goes on from where it was stopped.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import tasks
from .model import Seq2Seq

RATE, BATCH, CLIP = 3e-3, 64, 1.0


@dataclass(frozen=True)
class Run:
    """All that decides what a training gives."""

    task: str
    score: str
    seed: int
    steps: int
    longest: int  # tokens in training
    lengths: tuple[int, ...]  # of the tests
    tests: int = 200  # sequences a length
    hidden: int = 64

    @property
    def stem(self) -> str:
        return f"{self.task}-{self.score}-seed{self.seed}-{self.steps}steps-{self.longest}"


def _tensors(batch: tasks.Batch) -> Iterable[torch.Tensor]:
    return (torch.from_numpy(np.ascontiguousarray(part)) for part in batch)


def train(run: Run) -> Seq2Seq:
    """Adam with a cosine decay over sequences of 4 ... ``longest`` tokens, one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    random = np.random.default_rng([run.seed, tasks.NAMES.index(run.task)])
    model = Seq2Seq(tasks.vocabulary(run.task), run.hidden, run.score)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.steps)
    for _ in range(run.steps):
        length = 2 * int(random.integers(2, run.longest // 2 + 1))
        source, given, answer = _tensors(tasks.batch(run.task, length, BATCH, random))
        logits, _ = model(source, given)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), answer.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def answers(model: Seq2Seq, task: str, batch: tasks.Batch) -> tuple[np.ndarray, Any]:
    """What the model answers, left to itself, ``[B, m]``, and the weights ``[B, m, n]``.

    copy and reverse feed their own answers back; recall is given keys, never answers.
    """
    source, given, answer = _tensors(batch)
    if task == "recall":
        logits, weights = model(source, given)
        tokens = logits.argmax(-1)
    else:
        tokens, weights = model.generate(source, tasks.BEGIN, answer.shape[1])
    return tokens.numpy(), None if weights is None else weights.numpy()


def accuracy(model: Seq2Seq, run: Run) -> dict[str, list[float]]:
    """By length of ``run.lengths``: share of whole sequences and of tokens answered right."""
    found: dict[str, list[float]] = {"exact": [], "token": []}
    for length in run.lengths:
        batch = tasks.batch(run.task, length, run.tests, np.random.default_rng([7, length]))
        right = answers(model, run.task, batch)[0] == batch.answer
        found["exact"].append(float(right.all(1).mean()))
        found["token"].append(float(right.mean()))
    return found


def _path(folder: Path, run: Run) -> Path:
    return folder / f"{run.stem}.pt"


def load(folder: Path, run: Run) -> tuple[Seq2Seq, dict[str, list[float]]] | None:
    """A finished run's model and accuracies; None where there is none of these settings."""
    try:
        kept = torch.load(_path(folder, run), weights_only=True)
    except FileNotFoundError:
        return None
    if kept["run"] != _plain(run):
        return None
    model = Seq2Seq(tasks.vocabulary(run.task), run.hidden, run.score)
    model.load_state_dict(kept["model"])
    return model.eval(), kept["accuracy"]


def _plain(run: Run) -> dict[str, Any]:
    return asdict(run) | {"lengths": list(run.lengths)}


def _finish(folder: Path, run: Run) -> str:
    model = train(run)
    kept = {"run": _plain(run), "model": model.state_dict(), "accuracy": accuracy(model, run)}
    partial = _path(folder, run).with_suffix(".partial")
    torch.save(kept, partial)
    partial.replace(_path(folder, run))
    return run.stem


def finish_all(folder: Path, runs: list[Run]) -> None:
    """Trains what is not there yet, a process a core, one line each."""
    folder.mkdir(parents=True, exist_ok=True)
    left = [run for run in runs if load(folder, run) is None]
    if not left:
        return
    workers = min(len(os.sched_getaffinity(0)), len(left))
    print(f"training {len(left)} of {len(runs)} models on {workers} cores", flush=True)
    # Spawned ones would have to find this folder's package again.
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        waiting = [pool.submit(_finish, folder, run) for run in left]
        try:
            for number, done in enumerate(as_completed(waiting), 1):
                print(f"[{number}/{len(left)}] {done.result()}", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
