# SPDX-License-Identifier: Apache-2.0
"""The sole reader of run directories: records.jsonl and environment.json -> pandas.

`load` gives one row a record, `summarise` one row a case. Everything else in the analysis starts
from these two frames, so what a field means is decided here and nowhere else.

Columns of `load` (fields of results/SCHEMA.md, nested ones flattened):
  problem.*     under their own names: batch, heads, queries, keys, head_dim, v_dim, dtype, ...
  layer_problem.*  the same, with d_model, d_out, width, encoding, ...; a head_dim or v_dim that is
                d_model / heads, or has no meaning for the layer, is left empty
  mask.*        pattern, window, stride, offset, mask_columns, sinks, causal
  options.x     option_x      input.x    input_x (logit_scale, layer, ... keep the prefix)
  useful.x      useful_x      executed.x executed_x      dense.x  dense_x
  ci95_ns       ci95_low_ns, ci95_high_ns
  source        the run directory that the record came from; of a run that `merge` joined from
                several machines, with the machine's name behind it
Where a run was resumed by another build, only the last build's records of a case are kept.
Unknown fields become columns too (nested: parent_child), so that a newer writer does no harm.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attnbench import machine, variants

RECORDS = "records.jsonl"
ENVIRONMENT = "environment.json"
MERGED = "merged.json"  # of a run that `merge` joined: its parts and its gaps
SCHEMA = 1

# Nested records and the prefix that their fields get as columns.
_PREFIX = {"problem": "", "layer_problem": "", "mask": "", "options": "option_"}
_RENAMED = {"mask.columns": "mask_columns"}  # `columns` is what a DataFrame calls its own
_KEPT_WHOLE = {"samples_ns", "flags", "options", "tiles"}
_SHAPE = ("batch", "heads", "kv_heads", "queries", "keys", "head_dim", "v_dim", "d_model")
_TEXT = ("kernel", "kind", "host", "target", "status", "reason", "dtype", "cache", "stop", "score",
         "pattern", "case", "experiment", "session", "run", "build", "started")  # fmt: skip
_NUMBERS = ("round", "threads", "ranks", "median_ns", "plan_ns", "select_ns", "total_ns",
            "workspace_bytes", "tensor_bytes", "ring_bytes", "peak_rss_bytes", "predicted_bytes",
            "predicted_ns", "error", "error_frobenius",
            "tolerance", "rows_checked", "gflops", "ceiling_gflops", "ceiling_gbps",
            "fraction_of_ceiling", "useful_flops", "useful_bytes", "useful_exps",
            "executed_flops", "window", "stride", "offset", "sinks", "mask_columns", "tile", "band",
            "dilation", "global_tiles", "random_tiles",
            "ci95_low_ns", "ci95_high_ns", "input_layer", "input_head", "parameters",
            "sequential_operations", "d_out", "width", *_SHAPE)  # fmt: skip

log = logging.getLogger("attnbench")


class RecordsError(ValueError):
    """A run directory that cannot be read; the message is one line that names it."""


class Facts(dict):
    """What a frame's attrs hold. pandas copies attrs deeply at every step, an environment file in
    each slice and row: a sixth of a report's time. These are shared instead; nobody writes them."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Facts:
        return self


def load(source: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """Reads one run directory (or records.jsonl), or several, into one row a record.

    A last line that was torn by a killed writer is dropped with a message; any other line that is
    no JSON object is too, naming its number. `attrs` holds `environment` (the first run's),
    `environments` {source: environment.json's content} and `messages`. The environments of the
    parts that a merged run has of one machine stand under `parts` of the first one's.
    Raises RecordsError when there is nothing to read.
    """
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    rows: list[dict[str, Any]] = []
    environments: Facts = Facts()
    messages: list[str] = []
    for one in sources:
        path = _records_file(Path(one))
        part_of, found = _by_machine(path.parent, messages)
        for record in _read_lines(path, messages):
            row = _flatten(record)
            row["source"] = part_of.get(record.get("part"), str(path.parent))
            rows.append(row)
        environments |= found
    if not rows:
        raise RecordsError(f"{sources[0]}: no record in {RECORDS}")
    frame = _of_the_last_build(_typed(pd.DataFrame(rows)), messages)
    frame.attrs = {
        "environment": next(iter(environments.values())),
        "environments": environments,
        "messages": messages,
    }
    for message in messages:
        log.warning("%s", message)
    return frame


def find_runs(root: str | Path) -> list[Path]:
    """All run directories at or under `root`, sorted by path."""
    return sorted(p.parent for p in Path(root).rglob(RECORDS))


def round_medians(records: pd.DataFrame, column: str = "median_ns") -> pd.DataFrame:
    """One row a (source, case, round) that was measured: the unit of all statistics.

    A round that was measured twice (resumed, or repeated after a slow spell) counts once, by its
    last record. A content-dependent choice of keys is part of the answer: its time counts in
    ``median_ns``, as in the record's gflops.
    """
    good = records[(records["status"] == "ok") & records[column].notna()]
    good = good.drop_duplicates(["source", "case", "session", "round"], keep="last")
    return good.assign(median_ns=good["median_ns"] + good["select_ns"].fillna(0))


def summarise(records: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """One row a case, ordered by label and sizes (rounds are shuffled); no case is dropped.

    Adds to the case's own columns: `label` (see variants.py), `median_ns` (median over rounds of
    the round's median), `low_ns`, `high_ns` (95 %, resampling rounds first, then samples; nan with
    fewer than two rounds and six samples), `rounds`, `samples`, `gflops` (useful), `intensity`
    (useful flop/byte), `ceiling_gflops`, `fraction_of_ceiling`, `memory_bytes` (peak above the
    child's floor), `workspace_bytes`, `error` (worst over rounds), `status`, `reason`.
    A case that failed in some rounds only keeps status ok, and its reason says in how many.
    """
    if records.empty:
        raise RecordsError("no records to summarise")
    rng = np.random.default_rng(seed)
    rows = [
        _summary(group, rng, resamples)
        for _, group in records.groupby(["source", "case"], sort=False, dropna=False)
    ]
    summary = pd.DataFrame(rows)
    summary.attrs = dict(records.attrs)
    summary["label"] = variants.labels(summary)
    order = ["label", "input_layer", "input_head", *reversed(variants.GROWTH), "case"]
    order = [c for c in order if c in summary]
    return summary.sort_values(order, kind="stable").reset_index(drop=True)


def interval_of_median(
    rounds: Sequence[np.ndarray], rng: np.random.Generator, resamples: int = 1000
) -> tuple[float, float]:
    """95 % percentile interval of the median over rounds of the rounds' medians, in the samples' unit.

    Resamples rounds first, then samples within each (the median of a resample is drawn directly by
    its order statistics, which is the same distribution and costs one draw instead of a resample).
    """
    if len(rounds) < 2 and (not rounds or len(rounds[0]) < 6):
        return np.nan, np.nan
    medians = np.stack(
        [_resampled_medians(np.sort(r), (resamples, len(rounds)), rng) for r in rounds]
    )
    chosen = rng.integers(len(rounds), size=(resamples, len(rounds)))
    rows, columns = np.indices(chosen.shape)
    low, high = np.percentile(np.median(medians[chosen, rows, columns], axis=1), [2.5, 97.5])
    return float(low), float(high)


def _resampled_medians(
    ordered: np.ndarray, size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Medians of `size` resamples with replacement of the sorted samples `ordered`."""
    count = len(ordered)
    half = (count + 1) // 2
    lower = rng.beta(half, count - half + 1, size)  # the half-th smallest of `count` uniforms
    first = ordered[np.minimum((lower * count).astype(int), count - 1)]
    if count % 2:
        return first
    # Given the half-th, the next one is the least of count - half uniforms above it.
    upper = 1 - (1 - lower) * rng.random(size) ** (1 / (count - half))
    return (first + ordered[np.minimum((upper * count).astype(int), count - 1)]) / 2


def _summary(group: pd.DataFrame, rng: np.random.Generator, resamples: int) -> dict[str, Any]:
    row = group.iloc[0].to_dict()
    measured = round_medians(group)
    samples = [
        np.asarray(s, float) + chosen
        if isinstance(s, (list, np.ndarray)) and len(s)
        else np.array([m])
        for s, m, chosen in zip(
            measured["samples_ns"],
            measured["median_ns"],
            measured["select_ns"].fillna(0),
            strict=True,
        )
    ]
    median = float(np.median(measured["median_ns"])) if len(measured) else np.nan
    low, high = interval_of_median(samples, rng, resamples)
    status, reason = _status(group)
    row |= {
        "status": status,
        "reason": reason,
        "rounds": len(measured),
        "samples": sum(map(len, samples)),
        "median_ns": median,
        "low_ns": low,
        "high_ns": high,
        "gflops": row["useful_flops"] / median if median > 0 else np.nan,
        "intensity": row["useful_flops"] / row["useful_bytes"] if row["useful_bytes"] else np.nan,
        "memory_bytes": group["peak_rss_bytes"].max(),
        "error": group["error"].max(),
        "flags": tuple(sorted({f for flags in group["flags"] for f in flags})),
    }
    for column in ("ceiling_gflops", "ceiling_gbps", "fraction_of_ceiling", "plan_ns", "select_ns"):
        row[column] = measured[column].median() if len(measured) else np.nan
    for column in ("workspace_bytes", "predicted_bytes", "predicted_ns", "useful_flops",
                   "useful_bytes", "tolerance", "error_frobenius", "rows_checked"):  # fmt: skip
        row[column] = group[column].max()
    if np.isnan(row["fraction_of_ceiling"]):
        row["fraction_of_ceiling"] = row["gflops"] / row["ceiling_gflops"]
    return row


def _status(group: pd.DataFrame) -> tuple[str, str]:
    """The case's one status. A wrong result outweighs everything; a measured round outweighs a
    lost one, which the reason then counts."""
    statuses = list(group["status"])
    rounds = group["round"].nunique()
    if len(set(statuses)) == 1:
        return statuses[0], _first_reason(group)
    if "incorrect" in statuses:
        return "incorrect", _first_reason(group[group["status"] == "incorrect"])
    chosen = "ok" if "ok" in statuses else statuses[-1]
    others = group[group["status"] != chosen]
    lost = ", ".join(f"{n} {s}" for s, n in others["status"].value_counts().items())
    detail = _first_reason(others)
    return chosen, f"{lost} of {rounds} rounds" + (f": {detail}" if detail else "")


def _first_reason(group: pd.DataFrame) -> str:
    return next((r for r in group["reason"] if isinstance(r, str) and r), "")


def _records_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise RecordsError(f"{path}: no such run directory")
    if (path / RECORDS).is_file():
        return path / RECORDS
    inside = find_runs(path)
    hint = f"; runs inside it: {', '.join(str(p) for p in inside[:3])}" if inside else ""
    raise RecordsError(f"{path}: not a run directory (no {RECORDS}){hint}")


def lines_of(path: Path) -> Iterator[tuple[str, bytes, dict[str, Any] | None, bool]]:
    """Of each line: where it stands, itself, its record (None: it is none), and whether it is the
    last, which a killed writer leaves torn."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        whole = isinstance(record, dict) and "kernel" in record
        yield f"{path}:{number}", line, record if whole else None, number == len(lines)


def _read_lines(path: Path, messages: list[str]) -> Iterable[dict[str, Any]]:
    for place, _, record, last in lines_of(path):
        if record is None:
            what = "torn last line" if last else "line that is no record"
            messages.append(f"{place}: {what} dropped")
            continue
        schema = record.get("schema", SCHEMA)
        if isinstance(schema, int) and schema > SCHEMA:
            newer = f"{path}: written by a newer schema ({schema}); unknown fields are ignored"
            if newer not in messages:
                messages.append(newer)
        yield record


def _by_machine(
    run: Path, messages: list[str]
) -> tuple[dict[str | None, str], dict[str, dict[str, Any]]]:
    """The source of each part of a run, and the environment of each source. A run that was not
    merged is one source; of one that was, each machine is."""
    environment = _environment(run / ENVIRONMENT, messages)
    parts = environment.get("parts")
    if not isinstance(parts, dict) or not all(isinstance(e, dict) for e in parts.values()):
        return {}, {str(run): Facts(environment)}
    messages += _gaps_of(run / MERGED)
    machines: dict[str, dict[str, Any]] = {}
    for name, one in parts.items():
        machines.setdefault(machine.name(one), {})[name] = one
    alone = len(machines) == 1
    sources: dict[str | None, str] = {}
    found: dict[str, dict[str, Any]] = {}
    for where, own in machines.items():
        source = str(run) if alone else f"{run}/{where}"
        sources |= dict.fromkeys(own, source)
        found[source] = Facts(next(iter(own.values())) | {"parts": own})
    return sources, found


def _gaps_of(path: Path) -> list[str]:
    try:
        gaps = json.loads(path.read_text())["gaps"]
    except (OSError, ValueError, KeyError, TypeError):
        return [f"{path}: cannot be read; what no part measured is unknown"]
    if not gaps:
        return []
    more = ", ..." if len(gaps) > 3 else ""
    return [f"{path}: no part measured {len(gaps)} planned: {', '.join(gaps[:3])}{more}"]


def _environment(path: Path, messages: list[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        messages.append(f"{path}: missing; the machine is unknown")
        return {}
    except ValueError as error:
        messages.append(f"{path}: not JSON ({error}); the machine is unknown")
        return {}
    return content if isinstance(content, dict) else {}


def _flatten(record: dict[str, Any], parent: str = "", prefix: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in record.items():
        column = _RENAMED.get(f"{parent}.{key}", prefix + key)
        if isinstance(value, dict):
            row |= _flatten(value, key, _PREFIX.get(key, f"{column}_"))
        if key == "ci95_ns" and isinstance(value, list) and len(value) == 2:
            row["ci95_low_ns"], row["ci95_high_ns"] = value
        elif key in _KEPT_WHOLE or not isinstance(value, dict):
            row[column] = value
    return row


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Every column that the analysis reads exists, with one type."""
    missing = {
        **{c: np.nan for c in _NUMBERS if c not in frame},
        **{c: "" for c in (*_TEXT, "reason") if c not in frame},
        **{c: None for c in ("samples_ns", "flags", "options") if c not in frame},
    }
    frame = pd.concat([frame, pd.DataFrame(missing, index=frame.index)], axis=1)
    for column in _NUMBERS:
        frame[column] = pd.to_numeric(frame[column], errors="coerce")
    for column in _TEXT:
        frame[column] = frame[column].astype(object).where(frame[column].notna(), "").astype(str)
    if "causal" not in frame:
        frame["causal"] = False
    frame["causal"] = frame["causal"].map(lambda v: v is True)
    frame["flags"] = [
        tuple(x for x in f if isinstance(x, str)) if isinstance(f, list) else ()
        for f in frame["flags"]
    ]
    frame["samples_ns"] = [s if _all_numbers(s) else None for s in frame["samples_ns"]]
    for column in ("batch", "heads", "threads"):
        frame[column] = frame[column].fillna(1)
    for column in ("head_dim", "v_dim"):  # of a layer they follow its width
        frame[column] = frame[column].mask(frame[column] * frame["heads"] == frame["d_model"])
    frame["d_out"] = frame["d_out"].mask(frame["d_out"] == frame["d_model"])
    frame["round"] = frame["round"].fillna(0)
    frame["pattern"] = frame["pattern"].replace("", "full")
    # What a kernel that selects its keys solves is not the problem that it was given.
    selecting = frame["kernel"].isin(frame.loc[frame["select_ns"].notna(), "kernel"])
    frame.loc[selecting & (frame["pattern"] == "full"), "pattern"] = "selected"
    frame["case"] = frame["case"].mask(frame["case"] == "", _identity(frame))
    whole = [c for c in (*_SHAPE, "threads", "round", "ranks") if frame[c].notna().all()]
    return frame.astype(dict.fromkeys(whole, "int64"))


def _all_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(x, (int, float)) and not isinstance(x, bool) for x in value
    )


def _of_the_last_build(frame: pd.DataFrame, messages: list[str]) -> pd.DataFrame:
    """Records of different builds are different measurements: those of a case's last build."""
    last = frame.groupby(["source", "case"])["build"].transform("last")
    stale = frame["build"] != last
    for source, count in frame[stale].groupby("source").size().items():
        messages.append(f"{source}: {count} records of an earlier build left out")
    return frame[~stale].reset_index(drop=True)


def _identity(frame: pd.DataFrame) -> pd.Series:
    """A stand-in for the case's hash where a writer gave none."""
    columns = ["kernel", *_SHAPE, "dtype", "pattern", "window", "threads", "cache"]
    return pd.Series(["|".join(map(str, row)) for row in frame[columns].itertuples(index=False)])
