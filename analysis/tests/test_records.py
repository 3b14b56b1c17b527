# SPDX-License-Identifier: Apache-2.0
"""What is read from a run directory is all that is in it, whole or torn, and nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic_runs import record, sweep, with_gaps, write_run

from attnbench import records, variants


def test_nested_fields_become_columns_and_the_environment_is_attached(tmp_path: Path) -> None:
    frame = records.load(write_run(tmp_path / "run", sweep(rounds=1)))
    row = frame[frame["kernel"] == "local_window"].iloc[0]
    assert (row["keys"], row["head_dim"], row["pattern"], row["window"]) == (128, 64, "local", 256)
    assert row["option_tile"] == 64 and row["useful_flops"] == 4 * 64 * 128 * 513
    assert frame.attrs["environment"]["machine"] == "example-2c"


def test_a_torn_last_line_is_dropped_with_a_message(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sweep(rounds=1))
    whole = len(records.load(run))
    with (run / "records.jsonl").open("a") as f:
        f.write('{"kernel": "flash", "rou')
    frame = records.load(run)
    assert len(frame) == whole
    assert any("torn last line" in m for m in frame.attrs["messages"])


def test_after_another_build_resumed_a_run_only_its_records_count(tmp_path: Path) -> None:
    lines = [record("flash", 128, 64, r, [1e6], build="old") for r in range(3)]
    lines += [record("naive", 128, 64, r, [5e6], build="old") for r in range(3)]
    lines += [record("flash", 128, 64, r, [2e6], build="new", session="s2") for r in range(3)]
    frame = records.load(write_run(tmp_path / "run", lines))
    summary = records.summarise(frame).set_index("kernel")
    assert summary.loc["flash", "median_ns"] == 2e6 and summary.loc["flash", "rounds"] == 3
    assert summary.loc["naive", "median_ns"] == 5e6, "what was not measured again stands"
    assert any("3 records of an earlier build" in m for m in frame.attrs["messages"])


def test_a_repeated_visit_stands_for_the_slowed_one(tmp_path: Path) -> None:
    lines = [record("flash", 128, 64, r, [1e6]) for r in range(3)]
    lines[1] = record("flash", 128, 64, 1, [9e6], flags=["slowed"])
    lines.append(record("flash", 128, 64, 1, [1e6], flags=["repeated"]))
    frame = records.load(write_run(tmp_path / "run", lines))
    assert len(frame) == 4, "the slowed one is not dropped"
    assert records.summarise(frame)["high_ns"].iloc[0] == 1e6


def test_unknown_fields_and_missing_ones_do_no_harm(tmp_path: Path) -> None:
    lines = [{"kernel": "k", "status": "ok", "median_ns": 5.0, "novel": {"deep": {"er": 1}}}]
    frame = records.load(write_run(tmp_path / "run", lines))
    assert frame["novel_deep_er"].iloc[0] == 1
    assert records.summarise(frame)["median_ns"].iloc[0] == 5.0


@pytest.mark.parametrize("content", [None, "", "\n\n"])
def test_nothing_to_read_is_one_line_that_names_the_place(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "records.jsonl").write_text(content)
    with pytest.raises(records.RecordsError, match=str(tmp_path)) as caught:
        records.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_of_runs_is_refused_with_the_runs_inside_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a" / "b", sweep(rounds=1))
    with pytest.raises(records.RecordsError, match=str(run)):
        records.load(tmp_path)


def test_every_case_stays_in_the_summary_with_its_status_and_reason(tmp_path: Path) -> None:
    lines = with_gaps(sweep())
    summary = records.summarise(records.load(write_run(tmp_path / "run", lines)))
    assert len(summary) == len({line["case"] for line in lines})
    assert set(summary["status"]) == {"ok", "skipped", "timeout", "failed", "incorrect", "refused"}
    assert summary[summary["status"] != "ok"]["reason"].str.len().min() > 0
    skipped = summary[summary["status"] == "skipped"].iloc[0]
    assert skipped["predicted_bytes"] == 4 * 32768**2


def test_a_case_lost_in_one_round_is_measured_and_says_so(tmp_path: Path) -> None:
    lines = [record("flash", 128, 64, r, [10.0, 11, 12]) for r in range(5)]
    lines.append(record("flash", 128, 64, 5, status="timeout", reason="no answer within 9 s"))
    row = records.summarise(records.load(write_run(tmp_path / "run", lines))).iloc[0]
    assert row["status"] == "ok" and row["rounds"] == 5
    assert "1 timeout of 6 rounds" in row["reason"]


def test_a_wrong_result_in_any_round_makes_the_case_incorrect(tmp_path: Path) -> None:
    lines = [record("flash", 128, 64, 0, [10.0]), record("flash", 128, 64, 1, status="incorrect")]
    row = records.summarise(records.load(write_run(tmp_path / "run", lines))).iloc[0]
    assert row["status"] == "incorrect"


def test_a_round_measured_twice_counts_once(tmp_path: Path) -> None:
    lines = [record("flash", 128, 64, 0, [t, t, t]) for t in (10.0, 20.0)]
    row = records.summarise(records.load(write_run(tmp_path / "run", lines))).iloc[0]
    assert row["rounds"] == 1 and row["median_ns"] == 20.0


def test_the_interval_covers_the_true_median_where_rounds_differ_more_than_samples() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        centres = 100 * np.exp(0.03 * rng.normal(size=8))
        rounds = [c * np.exp(0.01 * rng.normal(size=11)) for c in centres]
        low, high = records.interval_of_median(rounds, rng, 400)
        covered += low <= 100 <= high
    assert 0.88 <= covered / 200 <= 1.0


def test_medians_of_resamples_have_the_distribution_of_real_resampling() -> None:
    rng = np.random.default_rng(5)
    for count in (1, 2, 5, 8):
        ordered = np.sort(rng.normal(size=count))
        direct = records._resampled_medians(ordered, (20000, 1), rng)[:, 0]
        real = np.median(ordered[rng.integers(count, size=(20000, count))], axis=1)
        assert np.allclose(
            np.percentile(direct, [10, 50, 90]), np.percentile(real, [10, 50, 90]), atol=0.15
        )


def test_labels_name_the_mask_and_what_varies_and_nothing_else(tmp_path: Path) -> None:
    lines = sweep(rounds=1, sizes=[128])
    plain = records.summarise(records.load(write_run(tmp_path / "a", lines)))
    assert set(plain["label"]) == {
        "naive", "blis_blocked", "flash", "local_window (local ±256)"
    }  # fmt: skip
    tiles = [
        record("flash", 128, 64, 0, [1.0], case=f"t{t}", options={"tile": t}) for t in (32, 64)
    ]
    labelled = records.summarise(records.load(write_run(tmp_path / "b", tiles)))
    assert list(labelled["label"]) == ["flash (tile=32)", "flash (tile=64)"]
    tiles.append(record("flash", 128, 64, 0, [1.0], case="f", options={"tile": 64, "fetch": 0}))
    tiles[0]["options"] |= {"fetch": 1}
    tiles[1]["options"] |= {"fetch": 1}
    labelled = records.summarise(records.load(write_run(tmp_path / "c", tiles)))
    assert set(labelled["label"]) == {"flash (tile=32)", "flash", "flash (fetch=0)"}


def test_masks_of_tiles_are_named_by_their_numbers():
    bird = {"pattern": "tiles", "tile": 64, "band": 1, "dilation": 1, "global_tiles": 1,
            "random_tiles": 2}  # fmt: skip
    assert variants.mask_label(bird) == "tiles of 64: ±1, 1 global, 2 random"
    dilated = {"pattern": "tiles", "tile": 1, "band": 32, "dilation": 2}
    assert variants.mask_label(dilated) == "tiles of 1: ±32 /2"
    assert variants.mask_label({"pattern": "tiles", "tile": np.nan}) == "tiles"


def test_choosing_keys_counts_and_is_another_problem_than_dense_attention(tmp_path: Path) -> None:
    lines = [
        record("flash", 128, 64, 0, [100.0]),
        record("top_blocks", 128, 64, 0, [40.0], select_ns=10.0),
        record("top_blocks", 1 << 20, 64, 0, status="skipped", reason="too large"),
    ]
    run = records.load(write_run(tmp_path / "run", lines))
    found = records.summarise(run).set_index(["kernel", "keys"])
    assert found["median_ns"]["top_blocks", 128] == 50
    assert records.round_medians(run).set_index("kernel")["median_ns"]["top_blocks"] == 50
    selecting = found.loc["top_blocks"]["label"]
    assert set(selecting) == {"top_blocks (selected keys)"}, "measured or not"
    assert found["median_ns"]["flash", 128] == 100 and found["label"]["flash", 128] == "flash"


def test_the_default_scale_is_no_variant(tmp_path: Path) -> None:
    summary = records.summarise(
        records.load(write_run(tmp_path / "run", sweep(rounds=1, head_dims=(32, 64))))
    )
    assert "naive" in set(summary["label"])


def test_runs_read_together_keep_apart(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, sweep(rounds=2, sizes=[128])) for name in ("old", "new")]
    summary = records.summarise(records.load(runs))
    assert len(summary) == 8
    assert {"flash · old", "flash · new"} <= set(summary["label"])


def test_a_mask_is_described_in_words() -> None:
    mask = {"pattern": "columns", "window": 32, "stride": 64, "sinks": 4, "causal": True}
    assert variants.mask_label(mask) == "columns ±32 every 64 +4 sinks causal"


def test_non_finite_values_arrive_as_missing(tmp_path: Path) -> None:
    line = json.loads(json.dumps(record("flash", 128, 64, 0, [1.0], error=None)))
    frame = records.load(write_run(tmp_path / "run", [line]))
    assert np.isnan(frame["error"].iloc[0])
