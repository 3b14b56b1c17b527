# SPDX-License-Identifier: Apache-2.0
"""A merge keeps every record and every environment, says what is missing, and refuses by a line."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import ENVIRONMENT, SIZES, sweep, write_run

from attnbench import cli, compare, figures, history, merge, places, records, report

OTHER = ENVIRONMENT | {"machine": "other-8c", "cpu": {"model": "Other CPU", "allowed": [0] * 8}}
TINY = """
[sweep]
rounds = 2
max_seconds_per_case = 0.01
repeat_slowed = false
[axes]
keys = "16:128:*2"
head_dim = 8
[[kernel]]
name = "naive"
[[kernel]]
name = "luong"
score = "dot"
"""


def parts(
    folder: Path, count: int = 4, environment: dict[str, Any] = ENVIRONMENT, **changes: Any
) -> list[Path]:
    """A synthetic sweep in `count` folders, its sizes dealt out in turn."""
    return [
        write_run(folder / f"shard-{i + 1}", sweep(sizes=SIZES[i::count], **changes), environment)
        for i in range(count)
    ]


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]


def tree(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], *folders: Path) -> str:
    """The one line with which the command refuses, having written nothing."""
    before = tree(tmp_path)
    status = cli.main(["merge", *map(str, folders), "-o", str(tmp_path / "out")])
    out, error = capsys.readouterr()
    assert (status, out) == (2, "") and error.count("\n") == 1, error
    assert tree(tmp_path) == before
    return error


def test_every_record_is_kept_and_names_its_part(tmp_path: Path) -> None:
    folders = parts(tmp_path)
    whole = [r | {"part": folder.name} for folder in folders for r in lines(folder)]
    merge.merge(folders, tmp_path / "out")
    assert lines(tmp_path / "out") == whole
    assert not [name for name in tree(tmp_path) if name.endswith(".part")]
    alone = records.summarise(records.load(write_run(tmp_path / "alone", sweep())))
    joined = records.summarise(records.load(tmp_path / "out"))
    assert set(joined["label"]) == set(alone["label"])  # one machine: one run, as if never parted
    assert len(joined) == len(alone) and (joined["rounds"] == 6).all()


def test_every_environment_is_kept_whole(tmp_path: Path) -> None:
    folders = parts(tmp_path / "a", 2) + parts(tmp_path / "b", 2, OTHER)
    merge.merge(folders, tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "environment.json").read_text())["parts"]
    assert list(kept.values()) == [ENVIRONMENT, ENVIRONMENT, OTHER, OTHER]
    frame = records.load(tmp_path / "out")
    assert len(frame) == 2 * len(sweep())
    assert {Path(source).name for source in frame["source"]} == {"example-2c", "other-8c"}
    for source, environment in frame.attrs["environments"].items():
        assert environment["machine"] == Path(source).name and len(environment["parts"]) == 2


def test_a_report_of_two_machines_sets_each_beside_the_other(tmp_path: Path) -> None:
    def roofs(gbps: float) -> dict[str, Any]:
        return {"ceilings": {"rows": [{"threads": 1, "read_gbps": {"DRAM": gbps}}]}}

    folders = parts(tmp_path / "a", 2, ENVIRONMENT | roofs(20), rounds=2)
    folders += parts(tmp_path / "b", 1, OTHER | roofs(80), rounds=2, ceiling_gflops=250.0,
                     slower=lambda kernel, n: 0.5 if kernel == "flash" else 1.0)  # fmt: skip
    merge.merge(folders, tmp_path / "out")
    run = report.read([str(tmp_path / "out")])
    shown = [list(row) for row in run.tables["machines"].rows]
    assert [row[0] for row in shown] == ["example-2c", "other-8c"]
    assert [row[3:] for row in shown] == [
        ["2", "20 of 20", "f32, 1 thread: 100", "20"],
        ["1", "20 of 20", "f32, 1 thread: 250", "80"],
    ]
    machines = {"example-2c", "other-8c"}
    exponents = report.terminal(run).split("time n^p")[1].split("\n\n")[0].splitlines()
    shown_labels = [line.split("  ")[0] for line in exponents[2:10]]
    assert len(set(shown_labels)) == 8, shown_labels  # cut, but not to the same words
    for name in ("time", "memory", "roofline", "speedup"):
        drawing = figures.draw(name, run.records, run.summary)
        assert drawing is not None and set(drawing.data["machine"]) == machines
        titles = [axes.get_title(loc="left") for axes in drawing.figure.axes]
        assert all(any(title.startswith(m) for title in titles) for m in machines), titles
        assert "flash" in set(drawing.data["label"])  # the panel says which machine
    flash = drawing.data[drawing.data["label"] == "flash"].set_index("machine")["speedup"]
    assert flash["other-8c"] / flash["example-2c"] == pytest.approx(
        2, rel=0.1
    )  # over its own naive
    crossed = run.tables["crossings"].rows
    assert crossed and all(a.split("·")[1] == b.split("·")[1] for a, b, *_ in crossed)
    with pytest.raises(ValueError, match="OLD holds several machines"):
        compare.compare(run.records, run.records)
    past = history.read(tmp_path)
    assert any("out: of several machines" in message for message in past.messages)
    merge.merge(folders[:2], tmp_path / "alone")
    alone = report.read([str(tmp_path / "alone")])
    assert not alone.tables["machines"].rows


def test_a_merged_run_can_be_merged_again(tmp_path: Path) -> None:
    folders = parts(tmp_path)
    merge.merge(folders[:2], tmp_path / "half")
    merge.merge([tmp_path / "half", *folders[2:]], tmp_path / "out")
    merge.merge(folders, tmp_path / "once")
    twice, once = lines(tmp_path / "out"), lines(tmp_path / "once")
    assert {r.pop("part") for r in twice} == {"half/shard-1", "half/shard-2", "shard-3", "shard-4"}
    assert [r for r in once if r.pop("part")] == twice
    environments = json.loads((tmp_path / "out" / "environment.json").read_text())["parts"]
    assert len(environments) == 4


def test_mixed_schemas_and_experiments_are_refused(tmp_path, capsys) -> None:
    one, two = parts(tmp_path, 2)
    newer = write_run(tmp_path / "newer", [r | {"schema": 2} for r in lines(two)])
    assert "newer: is of another schema than" in refused(tmp_path, capsys, one, newer)
    other = write_run(tmp_path / "other", [r | {"experiment": "scaling"} for r in lines(two)])
    assert "(scaling, not quick)" in refused(tmp_path, capsys, one, other)
    (one / "experiment.toml").write_text("[sweep]\nrounds = 1\n")
    (two / "experiment.toml").write_text("[sweep]\nrounds = 2\n")
    assert "another experiment.toml than" in refused(tmp_path, capsys, one, two)


def test_what_would_stand_twice_is_refused(tmp_path, capsys) -> None:
    one, two = parts(tmp_path, 2)
    assert "is given twice" in refused(tmp_path, capsys, one, two, one / ".")
    again = Path(shutil.copytree(one, tmp_path / "again"))
    assert "is also in" in refused(tmp_path, capsys, one, two, again)
    with (two / "records.jsonl").open("a") as file:
        file.write(json.dumps(lines(two)[0]) + "\n")
    assert "stands there 2 times" in refused(tmp_path, capsys, one, two)
    merge.merge([one, write_run(again, lines(one), OTHER)], tmp_path / "out")  # by another machine


def test_folders_that_hold_no_finished_run_are_refused(tmp_path, capsys) -> None:
    one, two = parts(tmp_path, 2)
    assert "no such run" in refused(tmp_path, capsys, one, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "not a run directory" in refused(tmp_path, capsys, one, tmp_path / "empty")
    with (two / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "a sweep is writing there" in refused(tmp_path, capsys, one, two)
    (two / "environment.json").unlink()
    assert "environment.json: missing" in refused(tmp_path, capsys, one, two)
    shutil.copy(one / "environment.json", two)
    text = (two / "records.jsonl").read_text()
    (two / "records.jsonl").write_text("{broken\n" + text)
    assert "records.jsonl:1: is no record" in refused(tmp_path, capsys, one, two)
    assert "new or empty folder" in (
        cli.main(["merge", str(one), "-o", str(two)]) and capsys.readouterr().err
    )


def test_a_torn_last_line_is_left_out_with_a_message(tmp_path: Path) -> None:
    one, two = parts(tmp_path, 2)
    count = len(lines(one)) + len(lines(two))
    with (two / "records.jsonl").open("a") as file:
        file.write('{"schema": 1, "ker')
    merged = merge.merge([one, two], tmp_path / "out")
    assert [m for m in merged.messages if "torn last line" in m]
    assert len(lines(tmp_path / "out")) == count


def test_nothing_is_left_when_writing_fails(tmp_path, capsys, monkeypatch) -> None:
    folders = parts(tmp_path, 2)

    def full(file: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merge, "_sync", full)
    assert "No space left" in refused(tmp_path, capsys, *folders)


def test_the_hash_of_a_planned_case_is_that_of_its_records() -> None:
    run = places.ROOT / "results" / "reference"
    planned = json.loads((run / "run.json").read_text())["cases"]
    assert {merge.case_hash(case) for case in planned} == {r["case"] for r in lines(run)}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A real sweep in three parts."""
    try:
        program = cli.harness()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("shards")
    (folder / "tiny.toml").write_text(TINY)
    for i in range(1, 4):
        subprocess.run(
            [program, "sweep", "tiny.toml", "-a", "keys=16:64:*2", "--shard", f"{i}/3", "-o", f"{i}"],
            cwd=folder, check=True, capture_output=True, timeout=100,
        )  # fmt: skip
    return [folder / f"{i}" for i in range(1, 4)]


def test_shards_of_a_real_sweep_join_without_gaps(shards: list[Path], tmp_path: Path) -> None:
    merged = merge.merge(shards, tmp_path / "out")
    assert merged.gaps == []
    visits = [(r["case"], r["round"]) for r in lines(tmp_path / "out")]
    assert len(visits) == len(set(visits)) == 2 * 2 * 3  # kernels, rounds, sizes


def test_what_no_part_measured_is_reported_by_case(
    shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = {r["case"] for r in lines(shards[1])}
    command = ["merge", str(shards[0]), str(shards[2]), "-o", str(tmp_path / "out")]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert missing and all(f"not measured: {case} " in shown for case in missing)
    assert f"\n{len(missing)} gap" in shown  # and not the sizes that -a left out
    messages = records.load(tmp_path / "out").attrs["messages"]
    assert any(f"no part measured {len(missing)} planned" in m for m in messages)


def test_a_planned_case_without_a_record_is_a_gap(shards: list[Path], tmp_path: Path) -> None:
    cut = Path(shutil.copytree(shards[0], tmp_path / "cut"))
    kept = [r for r in lines(cut) if r["case"] != lines(cut)[0]["case"]]
    (cut / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in kept))
    merged = merge.merge([cut, *shards[1:]], tmp_path / "out")
    assert len(merged.gaps) == 1 and merged.gaps[0].startswith(lines(shards[0])[0]["case"])
