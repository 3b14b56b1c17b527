# SPDX-License-Identifier: Apache-2.0
"""Every figure is drawn from what a sweep leaves, in both widths, and no case vanishes from one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from synthetic_runs import ENVIRONMENT, record, sweep, switched, with_gaps, write_run

from attnbench import figures, plot, records
from attnbench.figures import FIGURES, _gaps, _speedup, style

Frames = tuple[pd.DataFrame, pd.DataFrame]
OTHER_RUNS = (
    "threads",
    "time_by_width",
    "options",
    "peers",
)  # which this run has nothing for: see test_images


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    path = tmp_path_factory.mktemp("runs") / "quick"
    frame = records.load(write_run(path, with_gaps(sweep(head_dims=(32, 64)))))
    return frame, records.summarise(frame)


def texts(drawing: style.Drawing) -> str:
    return "\n".join(t.get_text() for t in drawing.figure.findobj(Text))


@pytest.mark.parametrize("width_in", [figures.WIDE_IN, figures.COLUMN_IN])
@pytest.mark.parametrize("name", [f.name for f in FIGURES if f.name not in OTHER_RUNS])
def test_each_figure_is_drawn_and_states_what_it_was_measured_on(
    frames: Frames, name: str, width_in: float, tmp_path: Path
) -> None:
    figure = next(f for f in FIGURES if f.name == name)
    drawing = figures.draw(figure, *frames, width_in)
    assert drawing is not None and len(drawing.data)
    written = texts(drawing).replace("\n", " ")
    for fact in ("Example CPU 9000", "1 thread", "f32", "012345678"):
        assert fact in written
    assert drawing.figure.get_figwidth() == width_in
    paths = style.save(drawing, tmp_path / name)
    assert [p.suffix for p in paths] == [".pdf", ".png"] and all(p.stat().st_size for p in paths)
    assert b"/Type3" not in paths[0].read_bytes()  # TrueType (42): editors and printers accept it


@pytest.mark.parametrize("name", [f.name for f in FIGURES if f.name not in ("threads", "gaps")])
def test_nothing_is_drawn_of_a_run_without_a_measurement(tmp_path: Path, name: str) -> None:
    lines = [r for r in with_gaps([]) if r["status"] != "incorrect"]
    frame = records.load(write_run(tmp_path / "run", lines))
    figure = next(f for f in FIGURES if f.name == name)
    assert figures.draw(figure, frame, records.summarise(frame)) is None


def test_panels_of_slopes_share_the_scale_that_the_left_one_names(tmp_path: Path) -> None:
    steep = [line for line in sweep(head_dims=(32, 64)) if line["case"] != "naive-2048-64"]
    late = [record("naive", 2048, 64, r, [9e8] * 3) for r in range(3)]
    frame = records.load(write_run(tmp_path / "run", steep + late))
    panels = [a for a in figures.time(frame).figure.axes if a.get_yscale() == "linear"]
    assert len(panels) == 2 and len({panel.get_ylim() for panel in panels}) == 1
    assert panels[0].get_ylim()[1] == 4.5


def test_points_that_were_not_measured_are_in_the_growth_figure(frames: Frames) -> None:
    drawing = figures.draw(FIGURES[0], *frames)
    assert drawing is not None
    drawn = drawing.data.set_index(["label", "keys", "head_dim"])["drawn_as"]
    assert drawn["naive", 32768, 64] == "predicted"
    assert drawn["blis_blocked", 32768, 64] == "lost"
    cases = frames[1]
    assert len(drawing.data) == len(cases[cases["status"] != "refused"])


def test_the_table_of_gaps_holds_every_case_that_has_no_figure(frames: Frames) -> None:
    data = _gaps.table(frames[1])
    assert data["cases"].sum() == (frames[1]["status"] != "ok").sum() == 5
    assert set(data["status"]) == {"skipped", "timeout", "failed", "incorrect", "refused"}
    assert data["reason"].str.len().min() > 0


def test_reasons_that_differ_in_their_figures_only_are_one_row(tmp_path: Path) -> None:
    lines = with_gaps([])[:1]
    for n, text in ((16384, "1.0 GiB"), (65536, "16.0 GiB")):
        other = dict(
            lines[0], case=f"naive-{n}", reason=lines[0]["reason"].replace("4.0 GiB", text)
        )
        lines.append(other | {"problem": lines[0]["problem"] | {"keys": n, "queries": n}})
    summary = records.summarise(records.load(write_run(tmp_path / "run", lines)))
    assert list(_gaps.table(summary)["cases"]) == [3]


def test_speedups_are_ratios_of_times_and_mark_other_problems(frames: Frames) -> None:
    baseline = _speedup.choose_baseline(frames[1])
    assert baseline == "naive"
    data = _speedup.ratios(frames[1], "naive").set_index(["label", "keys", "head_dim"])
    flash = data.loc["flash", 2048, 64]
    naive = data.loc["naive", 2048, 64]
    assert flash["speedup"] == pytest.approx(naive["median_ns"] / flash["median_ns"])
    assert flash["speedup_low"] < flash["speedup"] < flash["speedup_high"]
    assert data.loc["local_window (local ±256)", 2048, 64]["other_problem"]
    assert not flash["other_problem"]


def test_options_are_worth_what_the_usual_ones_gain_over_others(tmp_path: Path) -> None:
    frame = records.load(write_run(tmp_path / "run", switched()))
    assert set(records.summarise(frame)["label"]) == {
        "flash", "flash (lazy=0)", "flash (block=128)"
    }  # fmt: skip
    drawing = figures.options(frame)
    speed = drawing.data.set_index(["setting", "head_dim"])["speed"]
    for d in (64, 128):
        assert speed["flash lazy=0", d] == pytest.approx(0.9)
        assert speed["flash block=128", d] == pytest.approx(1.05)
    written = texts(drawing)
    assert "-10.0" in written and "+5.0" in written and "d = 128" in written
    with pytest.raises(ValueError, match="the figure 'speedup' needs"):
        figures.speedup(frame)  # says the same of fewer problems
    assert len(figures.speedup(frame, baseline="flash").data) == 3


def test_a_kernel_keeps_its_colour_whatever_else_is_drawn(frames: Frames) -> None:
    alone = style.marks(frames[1][frames[1]["kernel"] == "flash"])
    assert style.marks(frames[1])["flash"].color == alone["flash"].color
    named = style.marks(frames[1])
    assert len({m.color for m in named.values()}) == len(named)


def test_thread_scaling_is_drawn_where_threads_vary(tmp_path: Path) -> None:
    lines = [
        r | {"case": f"{r['case']}-{t}", "threads": t} for t in (1, 2) for r in sweep(rounds=2)
    ]
    frame = records.load(write_run(tmp_path / "run", lines))
    figure = next(f for f in FIGURES if f.name == "threads")
    drawing = figures.draw(figure, frame, records.summarise(frame))
    assert drawing is not None and set(drawing.data["base"]) >= {"flash", "naive"}


def test_bandwidth_roofs_come_from_the_environment(tmp_path: Path) -> None:
    levels = {"L1": 200.0, "DRAM": 10.0}
    environment = ENVIRONMENT | {"ceilings": {"rows": [{"threads": 1, "read_gbps": levels}]}}
    lines = sweep(rounds=1, useful={"flops": 1e6, "exps": 1, "bytes": 1e6})
    frame = records.load(write_run(tmp_path / "run", lines, environment))
    figure = next(f for f in FIGURES if f.name == "roofline")
    drawing = figures.draw(figure, frame, records.summarise(frame))
    assert drawing is not None and "DRAM 10 GB/s" in texts(drawing)


def test_the_roofline_names_variants_that_look_alike_once(tmp_path: Path) -> None:
    work = {"flops": 1e6, "exps": 1, "bytes": 1e6}
    lines = sweep(kernels=("flash", "naive"), sizes=[256], rounds=1, useful=work)
    causal = record("flash", 256, 64, 0, [1e6], case="flash-causal", useful=work)
    causal["problem"]["mask"]["causal"] = True
    frame = records.load(write_run(tmp_path / "run", [*lines, causal]))
    assert frame["causal"].sum() == 1
    (legend,) = figures.roofline(frame).figure.legends
    assert sorted(text.get_text() for text in legend.get_texts()) == ["flash", "naive"]


def plot_command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    plot.add_arguments(parser)
    return plot.main(parser.parse_args(list(arguments)))


def test_plot_draws_any_column_of_any_selection(tmp_path: Path) -> None:
    run = str(write_run(tmp_path / "run", with_gaps(sweep(head_dims=(32, 64)))))
    target = str(tmp_path / "out" / "figure.png")
    assert plot_command(
        run, "--x", "keys", "--y", "time", "--group", "kernel", "--facet", "head_dim",
        "--where", 'dtype == "f32" and keys < 5000', "-o", target,
    ) == 0  # fmt: skip
    assert Path(target).stat().st_size and Path(target).with_suffix(".csv").exists()
    assert plot_command(run, "--x", "head_dim", "--y", "gflops", "--group", "threads") == 0
    assert (tmp_path / "run" / "figures" / "plot-gflops-head_dim.pdf").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--y", "speed"], "--y"), (["--x", "size"], "--x"), (["--where", "keys >"], "--where"),
     (["--where", "keys > 1e9"], "--where"), (["--y", "kernel"], "--y"),
     (["-o", "figure.gif"], "--output"), (["--facet", "nothing"], "--facet")],
)  # fmt: skip
def test_a_wrong_argument_of_plot_is_one_line_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    run = str(write_run(tmp_path / "run", sweep(rounds=1)))
    assert plot_command(run, *arguments) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1


def test_a_figure_from_python_takes_the_records_or_a_selection_of_them(
    frames: Frames, tmp_path: Path
) -> None:
    records_only = frames[0]
    narrow = records_only[records_only["head_dim"] == 64]
    drawing = figures.time(narrow, width_in=3.3)
    assert set(drawing.data["label"]) >= {"flash", "naive"}
    assert "naive: n^2.0" in texts(drawing)
    paths = drawing.save(tmp_path / "time.svg")
    assert [p.name for p in paths] == ["time.svg", "time.csv"]
    assert pd.read_csv(paths[1])["keys"].max() == 32768
    over = figures.speedup(records_only, baseline="flash")
    assert "speed-up over flash" in texts(over)
    for other in (figures.memory, figures.roofline, figures.exactness, figures.sizes, figures.gaps):
        assert len(other(records_only).data)


@pytest.mark.parametrize(
    ("call", "words"),
    [(lambda run: figures.threads(run), "run: the figure 'threads' needs .* two thread counts"),
     (lambda run: figures.speedup(run, baseline="fast"), "baseline: no variant 'fast'"),
     (lambda run: figures.time(run, width_in=0), "width_in: "),
     (lambda run: figures.time(run["kernel"]), "run: must be what attnbench.load gives"),
     (lambda run: figures.time(run).save("time.gif"), "path: 'time.gif'")],
)  # fmt: skip
def test_a_figure_from_python_says_what_is_wrong(
    frames: Frames, call: Callable[[pd.DataFrame], object], words: str
) -> None:
    with pytest.raises(ValueError, match=rf"^{words}"):
        call(frames[0])


def test_a_figure_moves_onto_a_page_in_its_own_size(frames: Frames) -> None:
    drawing = figures.draw("sizes", *frames)
    assert drawing is not None
    style.settle(drawing.figure)

    def inches() -> list[float]:
        size = drawing.figure.get_size_inches()
        boxes = [axes.get_position().bounds for axes in drawing.figure.axes]
        return [side for b in boxes for side in (b[2] * size[0], b[3] * size[1])]

    before, height = inches(), drawing.figure.get_figheight()
    style.onto_page(drawing.figure, (8.27, 11.69), 0.6, 2.0)
    assert inches() == pytest.approx(before)
    footer = drawing.figure.texts[0].get_position()
    assert (1 - footer[1]) * 11.69 == pytest.approx(2.0 + height, abs=0.05)


def test_all_heads_are_drawn_on_one_scale() -> None:
    from attnbench import heatmap

    weights = np.tril(np.ones((2, 12, 5, 5))) / np.arange(1, 6)[:, None]
    figure = heatmap.plot_heads(weights)
    maps = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(maps) == 24 and {m.get_clim() for m in maps} == {(0, 1)}
    assert len([a for a in heatmap.plot_heads(weights[0]).axes if a.images]) == 12
    for wrong in (weights[0, 0], weights * 2):
        with pytest.raises(ValueError, match=r"^weights: "):
            heatmap.plot_heads(wrong)
