# SPDX-License-Identifier: Apache-2.0
"""`merge DIR... -o OUT`: joins the shards of a sweep, and the machines that ran it, into one run.

Every record is kept as it was written, with the name of the part that it came from; every part's
environment and plan are kept whole. Records of one schema and one experiment are joined, a case of
a machine comes from one part only, and whatever is refused leaves nothing behind. Cases that no
part measured are counted and listed, here and in every report of the merged run.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnbench import machine, records, variants
from attnbench.format import reason

PLAN = "run.json"
EXPERIMENT = "experiment.toml"
_LISTED = 20  # gaps on the terminal


class MergeError(ValueError):
    """What cannot be joined; the message is one line that names the folder."""


@dataclass
class Part:
    """One run, or one part of a run that was itself merged."""

    name: str
    folder: Path
    environment: dict[str, Any]
    plan: dict[str, Any]  # of run.json; empty where there is none
    records: list[dict[str, Any]] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)

    @property
    def machine(self) -> str:
        return machine.name(self.environment)

    @property
    def shard(self) -> tuple[int, int]:
        index, count = self.plan.get("shard") or (1, 1)
        return int(index), int(count)


@dataclass
class Merged:
    """What became of a merge."""

    parts: list[Part]
    gaps: list[str]  # a line a case, or a shard whose cases are not known here
    messages: list[str]


def merge(folders: Sequence[str | Path], output: str | Path) -> Merged:
    """Joins the run directories `folders` into the new or empty folder `output`.

    Raises MergeError, having written nothing: a folder is no run or is being written, schemas or
    experiments differ, a record stands twice, or two parts hold one case of one machine.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise MergeError(f"{output}: -o takes a new or empty folder")
    messages: list[str] = []
    parts = _read(folders, messages)
    _refuse_mixtures(parts)
    _refuse_doubles(parts)
    builds = {r.get("build") for part in parts for r in part.records}
    if len(builds) > 1:
        messages.append(f"records of {len(builds)} builds of attnbench: compare with care")
    merged = Merged(parts, _gaps(parts), messages)
    _write(merged, output)
    return merged


def _read(folders: Sequence[str | Path], messages: list[str]) -> list[Part]:
    names = variants.short_sources([str(folder) for folder in folders])
    parts: list[Part] = []
    seen: set[Path] = set()
    for folder in map(Path, folders):
        if folder.resolve() in seen:
            raise MergeError(f"{folder}: is given twice")
        seen.add(folder.resolve())
        if not folder.is_dir():
            raise MergeError(f"{folder}: no such run directory")
        if not (folder / records.RECORDS).is_file() and not (folder / PLAN).is_file():
            raise MergeError(f"{folder}: not a run directory (no {records.RECORDS})")
        _refuse_busy(folder)
        own = {part.name: part for part in _parts_of(folder, names[str(folder)])}
        for line, record in _lines(folder / records.RECORDS, messages):
            inner = record.pop("part", None)
            name = f"{names[str(folder)]}/{inner}" if inner else names[str(folder)]
            if name not in own:
                raise MergeError(f"{folder}: a record is of the part '{inner}', which it lacks")
            own[name].records.append(record)
            own[name].lines.append(line)
        parts += own.values()
    if not any(part.records for part in parts):
        raise MergeError(f"{folders[0]}: no record in any of the folders")
    return parts


def _parts_of(folder: Path, name: str) -> Iterator[Part]:
    environment = _object(folder / records.ENVIRONMENT, required=True)
    if "parts" not in environment:
        yield Part(name, folder, environment, _object(folder / PLAN))
        return
    plans = _object(folder / records.MERGED, required=True)["parts"]
    for inner, one in environment["parts"].items():
        yield Part(f"{name}/{inner}", folder, one, plans[inner]["plan"])


def _object(path: Path, required: bool = False) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        if not required:
            return {}
        raise MergeError(f"{path}: missing; a merged run keeps it of every part") from None
    except ValueError as error:
        raise MergeError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise MergeError(f"{path}: not a JSON object")
    return content


def _refuse_busy(folder: Path) -> None:
    """A sweep holds the lock as long as it writes; one that was killed leaves the file, unheld."""
    try:
        with (folder / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        pass
    except BlockingIOError:
        raise MergeError(f"{folder}: a sweep is writing there") from None


def _lines(path: Path, messages: list[str]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The whole lines with their records; a torn last line is left out with a message."""
    if not path.is_file():
        return  # of an empty shard, or one that was killed before its first case
    for place, line, record, last in records.lines_of(path):
        if record is not None:
            yield line, record
        elif last:
            messages.append(f"{place}: torn last line dropped")
        else:
            raise MergeError(f"{place}: is no record; attnbench sweep --resume mends a run")


def _refuse_mixtures(parts: list[Part]) -> None:
    """One schema, one experiment: each against the first that has one."""
    seen: dict[str, tuple[Any, Part]] = {}

    def same(what: str, value: Any, part: Part) -> None:
        first, other = seen.setdefault(what, (value, part))
        if value != first:
            shown = f" ({value}, not {first})" if isinstance(value, (int, str)) else ""
            raise MergeError(
                f"{part.folder}: is of another {what} than {other.folder}{shown}; nothing is joined"
            )

    for part in parts:
        for record in part.records:
            same("schema", record.get("schema"), part)
            same("experiment", record.get("experiment"), part)
        text = part.folder / EXPERIMENT
        if text.is_file():
            same(EXPERIMENT, text.read_bytes(), part)


def _refuse_doubles(parts: list[Part]) -> None:
    owner: dict[tuple[str, str], Part] = {}
    for part in parts:
        once = Counter(
            tuple(r.get(f) for f in ("case", "round", "session", "build", "started"))
            for r in part.records
        )
        if doubled := [key for key, count in once.items() if count > 1]:
            case, index = doubled[0][:2]
            raise MergeError(
                f"{part.folder}: the record of case {case}, round {index}, stands there"
                f" {once[doubled[0]]} times"
            )
        for record in part.records:
            key = (part.machine, str(record.get("case")))
            other = owner.setdefault(key, part)
            if other is not part:
                raise MergeError(
                    f"{part.folder}: case {key[1]} ({_label(record)}) is also in {other.folder}, of"
                    f" the same machine ({key[0]}); `attnbench report` sets whole runs side by side"
                )


def _gaps(parts: list[Part]) -> list[str]:
    """Planned cases without a record in any part, and those of shards of which there is no part."""
    measured = {r.get("case") for part in parts for r in part.records}
    planned: dict[str, str] = {}
    for part in parts:
        for case in part.plan.get("cases", []):
            planned.setdefault(case_hash(case), _label(case))
    lost = [f"{case} {label}" for case, label in planned.items() if case not in measured]
    for count in sorted({part.shard[1] for part in parts}):
        own = [part for part in parts if part.shard[1] == count]
        for index in sorted(set(range(1, count + 1)) - {part.shard[0] for part in own}):
            cases = _cases_of_shard(own[0], index)
            if cases is None:
                lost.append(f"shard {index}/{count}: no part is of it")
            for case, label in (cases or {}).items():
                if case not in measured and case not in planned:
                    lost.append(f"{case} {label} (shard {index}/{count}: no part is of it)")
    return lost


def case_hash(case: dict[str, Any]) -> str:
    """A record's `case`, from a case of run.json: 64-bit FNV-1a of its sorted, compact JSON without
    the path of its input, as Hash() in harness/case.cc."""
    source = {k: v for k, v in case["input"].items() if k != "file"}
    text = json.dumps(case | {"input": source}, sort_keys=True, separators=(",", ":"))
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def _cases_of_shard(part: Part, index: int) -> dict[str, str] | None:
    """hash -> label of what shard `index` would measure, asked of the harness with the options that
    `part` was started with; None where it is not built or refuses."""
    from attnbench import cli

    experiment = part.folder / EXPERIMENT
    try:
        known, _ = cli.sweep_parser().parse_known_args(part.environment.get("argv", [])[2:])
        program = cli.harness()
    except (ValueError, FileNotFoundError):
        return None
    command = [str(program), "sweep", str(experiment), "--dry-run"]
    command += ["--shard", f"{index}/{part.shard[1]}"]
    for option in ("kernel", "axis", "plugin"):
        for value in getattr(known, option) or []:
            command += [f"--{option}", value]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return None
    rows = re.findall(r"^([0-9a-f]{16})  .*?  .*?  (\S.*?)(?:  \[.*)?$", done.stdout, re.M)
    return {case: re.split(r"\s{2,}", label)[-1] for case, label in rows}


def _label(case: dict[str, Any]) -> str:
    problem = case.get("problem") or case.get("layer_problem") or {}
    sizes = [f"{name}={problem[name]}" for name in ("queries", "keys", "head_dim", "d_model")
             if name in problem and not (name == "queries" and problem.get("keys") == problem[name])]  # fmt: skip
    mask = (problem.get("mask") or {}).get("pattern", "full")
    return " ".join([str(case.get("kernel")), *sizes, *([mask] if mask != "full" else [])])


def _write(merged: Merged, output: Path) -> None:
    """Whole or not at all: beside `output`, synced, renamed."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".part", dir=output.parent))
    try:
        partial.chmod(0o755)
        with (partial / records.RECORDS).open("wb") as out:
            for part in merged.parts:
                mark = b'{"part":' + json.dumps(part.name).encode() + b","
                for line, record in zip(part.lines, part.records, strict=True):
                    out.write(_marked(line, record, mark) + b"\n")
            _sync(out)
        environments = {part.name: part.environment for part in merged.parts}
        plans = {
            part.name: {"folder": str(part.folder), "plan": part.plan} for part in merged.parts
        }
        about = {"schema": records.SCHEMA, "parts": plans, "gaps": merged.gaps,
                 "messages": merged.messages}  # fmt: skip
        for name, content in (
            (records.ENVIRONMENT, {"parts": environments}),
            (records.MERGED, about),
        ):
            with (partial / name).open("wb") as out:
                out.write(json.dumps(content, indent=1).encode() + b"\n")
                _sync(out)
        texts = [t for part in merged.parts if (t := part.folder / EXPERIMENT).is_file()]
        if texts:
            shutil.copyfile(texts[0], partial / EXPERIMENT)
        partial.replace(output)  # an empty folder gives way
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _marked(line: bytes, record: dict[str, Any], mark: bytes) -> bytes:
    """The line with its part in front, otherwise byte for byte (a merge of merges renames it)."""
    if line.startswith(b'{"part":'):
        return mark + json.dumps(record, separators=(",", ":")).encode()[1:]
    return mark + line.lstrip()[1:]


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="DIR", help="run directory: a shard, a machine")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="new or empty folder")


def main(args: argparse.Namespace) -> int:
    try:
        merged = merge(args.runs, args.output)
    except (ValueError, OSError) as error:
        print(f"attnbench merge: {reason(error)}", file=sys.stderr)
        return 2
    for message in merged.messages:
        print(message)
    for name in dict.fromkeys(part.machine for part in merged.parts):
        own = [part for part in merged.parts if part.machine == name]
        cases = {r.get("case") for part in own for r in part.records}
        print(f"{name}: {len(own)} part{'s' * (len(own) > 1)}, {len(cases)} cases,"
              f" {sum(len(part.records) for part in own)} records")  # fmt: skip
    for line in merged.gaps[:_LISTED]:
        print(f"not measured: {line}")
    if len(merged.gaps) > _LISTED:
        print(f"... and {len(merged.gaps) - _LISTED} more, in {args.output}/{records.MERGED}")
    count = len(merged.gaps)
    print(f"{count} gap{'s' * (count != 1)}" if count else "no gaps: every planned case is there")
    print(f"run: {args.output}")
    return 0
