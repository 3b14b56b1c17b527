# SPDX-License-Identifier: Apache-2.0
"""A report is readable in 100 columns, whole in one HTML file, and leaves nothing out."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from synthetic_runs import record, sweep, with_gaps, write_run

from attnbench import document, figures, page, peers, ratios, records, report, tables
from attnbench import format as text


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    return report.main(parser.parse_args(list(arguments)))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("runs") / "quick", with_gaps(sweep(head_dims=(32, 64))))
    assert command(str(run)) == 0
    return run


def test_the_terminal_shows_results_exponents_and_gaps_in_100_columns(written: Path) -> None:
    shown = report.terminal(report.read([str(written)]))
    assert max(map(len, shown.splitlines())) <= 100
    for words in (
        "GFLOP/s",
        "% ceil",
        "[95 %]",
        "n^p",
        "last slope",
        "skipped",
        "SIGSEGV",
        "error",
    ):
        assert words in shown
    assert "provisional" in shown


def test_a_long_sweep_shows_a_digest_and_where_the_rest_is(written: Path) -> None:
    run = report.read([str(written)])

    def rows(shown: str) -> list[str]:
        results = shown.split("\n\n")[1]  # headline, results, exponents, ...
        return [line for line in results.splitlines() if line.startswith("flash ")]

    assert len(rows(report.terminal(run))) == 2
    assert all(" 2048 " in row for row in rows(report.terminal(run)))
    assert "report.html" in report.terminal(run)
    assert len(rows(report.terminal(run, every_case=True))) == 10


def test_series_of_a_single_size_are_counted_and_take_no_rows(tmp_path: Path) -> None:
    lone = sweep(sizes=(4096,), kernels=("naive",), rounds=2)
    both = sweep(kernels=("flash",), rounds=2) + sweep(
        sizes=(64,), kernels=("local_window",), rounds=2
    )
    failed = [record("local_window", 128, 64, 0, status="failed", reason="killed")]
    run = report.read([str(write_run(tmp_path / "some", lone + both + failed))])
    assert [row[0] for row in run.tables["exponents"].rows] == ["flash"]
    assert "single n, of which no growth can be seen: 2" in report.terminal(run)
    for size in ([], sweep(sizes=(64,), kernels=("flash",), rounds=2)):
        alone = report.read([str(write_run(tmp_path / f"alone{len(size)}", lone + size))])
        assert not alone.grows and "slope" not in report.terminal(alone)


def test_series_of_too_few_sizes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are no others, or where they are many; the file of numbers has them all."""
    monkeypatch.setattr(report, "draw_all", lambda *_: {})  # it is about words
    few = sweep(sizes=(128, 256, 512), head_dims=(32, 64), rounds=2)
    for name, lines, series, rows in (
        ("none", few, 8, 0),
        ("many", few + sweep(head_dims=(128,), rounds=2), 8, 4),
    ):
        folder = write_run(tmp_path / name, lines)
        assert command(str(folder)) == 0
        run = report.read([str(folder)])
        line = f"No exponent of {series} series, measured at 3 sizes of n: a fit needs 4."
        shown, page = report.terminal(run), (folder / "report.html").read_text()
        assert line in shown and line in page and "no fit" not in shown + page
        assert ("n^p" in shown) == bool(rows) and len(run.tables["exponents"].rows) == rows
        assert ("tables/exponents.tex" in page) == bool(rows)
        assert len(pd.read_csv(folder / "tables" / "exponents.csv")) == 2 * (series + rows)
    lines = sweep(sizes=(128, 256), kernels=("naive",)) + sweep(kernels=("flash",))
    mixed = report.read([str(write_run(tmp_path / "mixed", lines))])
    assert {row[0]: row[1] for row in mixed.tables["exponents"].rows}["naive"] == "no fit"


def test_an_undetermined_exponent_reads_so_everywhere(tmp_path: Path) -> None:
    lines = sweep(kernels=("flash",), rounds=3)
    sizes = {128: 300e3, 256: 340e3, 512: 320e3, 1024: 420e3, 2048: 615e3}
    for line in lines:
        line["peak_rss_bytes"] = sizes[line["problem"]["keys"]]
    folder = write_run(tmp_path / "run", lines)
    assert command(str(folder), "--pdf", "--tex") == 0
    shown = report.terminal(report.read([str(folder)]))
    texts = [shown, (folder / "report.html").read_text()]
    texts += [(folder / "tables" / f"exponents.{kind}").read_text() for kind in ("csv", "tex")]
    assert all("undetermined: [0.00, " in text for text in texts)
    assert "the interval is wider than 2" in shown
    assert "n^2.8" not in texts[1], "no legend gives what the table does not"


def test_the_page_is_one_file_that_needs_no_network(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert not re.search(r'(src|href)="https?:', page) and "<script" not in page
    assert "prefers-color-scheme: dark" in page and "@media print" in page
    for section in ("results", "growth", "time", "memory", "speedup", "roofline", "exactness",
                    "sizes", "gaps", "environment"):  # fmt: skip
        assert f'href="#{section}"' in page and f'id="{section}"' in page
    environment = page.split('id="environment"')[1]  # on paper, where the JSON does not open
    assert (
        "<p>Example CPU 9000 · 2 CPUs · L1 32.0 KiB, L2 1.00 MiB · commit 012345678</p>"
        in environment
    )
    assert page.count("<svg") == 12  # six figures, wide and narrow
    assert "#1b1d21;" not in page.split("</style>")[1]  # ink follows the page's colours
    for link in re.findall(r'href="((?:figures|tables)/[^"]*)"', page):
        assert (written / link).is_file(), link


def test_figures_and_tables_lie_beside_the_page(written: Path) -> None:
    for name in ("time", "memory", "speedup", "roofline", "exactness", "sizes", "gaps"):
        for suffix in (".pdf", ".png", "-column.pdf", "-column.png", ".csv"):
            assert (written / "figures" / f"{name}{suffix}").stat().st_size > 0
    latex = (written / "tables" / "results.tex").read_text()
    assert (
        r"\toprule" in latex and r"local\_window" in latex and "_" not in latex.replace(r"\_", "")
    )
    cases = pd.read_csv(written / "tables" / "results.csv")
    assert len(cases) == 45 and set(cases["status"]) >= {"ok", "skipped", "failed"}


@pytest.mark.parametrize(
    ("flags", "there", "absent"),
    [(["--png"], ["time.png"], ["time.pdf", "time.svg"]),
     (["--svg", "--pdf"], ["time.svg", "time-column.pdf"], ["time.png"])],
)  # fmt: skip
def test_formats_are_chosen_and_the_page_links_no_other(
    tmp_path: Path, flags: list[str], there: list[str], absent: list[str]
) -> None:
    run = write_run(tmp_path / "run", with_gaps(sweep(rounds=2)))
    assert command(str(run), *flags) == 0
    assert all((run / "figures" / name).is_file() for name in there)
    assert not any((run / "figures" / name).exists() for name in absent)
    assert (run / "figures" / "time.csv").is_file()
    assert (run / "report.pdf").exists() == ("--pdf" in flags)
    page = (run / "report.html").read_text()
    assert page.count("<svg") >= 8
    for link in re.findall(r'href="((?:figures|tables)/[^"]*)"', page):
        assert (run / link).is_file(), link


def test_what_an_earlier_report_drew_goes_and_what_others_put_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", sweep(rounds=2))
    earlier = [run / "figures" / name for name in ("gaps.csv", "gaps-column.svg", "time.pdf")]
    earlier += [run / "tables" / f"not_measured.{kind}" for kind in ("csv", "tex")]
    theirs = [run / "figures" / name for name in ("plot-time-keys.pdf", "mine.png", "time.txt")]
    for path in earlier + theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("old")
    drawn = run / "figures" / "time.svg"

    def draw(*_: object) -> dict[str, tuple[str, str]]:
        for path in (drawn, drawn.with_suffix(".csv")):
            path.write_text("new")
        return {"time": ("<svg/>", "<svg/>")}

    monkeypatch.setattr(report, "draw_all", draw)
    assert command(str(run)) == 0
    assert not any(path.exists() for path in earlier)
    assert all(path.is_file() for path in [*theirs, drawn, run / "tables" / "results.csv"])
    others = [run / "figures" / "time.png", run / "tables" / "results.tex"]  # not asked for: stay
    others[0].write_text("earlier")
    (run / "figures" / "gaps.png").write_text("of a figure that is not drawn any more")
    assert command(str(run), "--svg") == 0
    assert all(path.is_file() for path in others)
    assert not (run / "figures" / "gaps.png").exists()


def test_the_pdf_has_every_section_and_every_case(written: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.pdf"
    run = report.read([str(written)])
    document.write_pdf(run, path)
    content = path.read_bytes()
    assert content.startswith(b"%PDF") and b"/Type3" not in content
    if shutil.which("pdftotext") is None:
        pytest.skip("no pdftotext to read it with")
    text = subprocess.run(["pdftotext", "-layout", path, "-"], capture_output=True, text=True)
    for words in ("Results", "Growth", "Speed-up", "What was not measured", "SIGSEGV", "All cases"):
        assert words in text.stdout
    cases = text.stdout[text.stdout.rindex("All cases") :]
    assert len(re.findall(r"^(?:naive|flash|blis_blocked|local_window|luong) ", cases, re.M)) == 45


def test_the_latex_document_includes_what_lies_beside_it(written: Path, tmp_path: Path) -> None:
    assert command(str(written), "--tex", "-o", str(tmp_path)) == 0
    source = (tmp_path / "report.tex").read_text()
    for table in re.findall(r"\fitted\{(tables/\w+)\}", source):
        assert (tmp_path / f"{table}.tex").is_file()
    figures = re.findall(r"\{(figures/\w+)\}", source)
    assert len(figures) == 6 and all((tmp_path / f"{name}.pdf").is_file() for name in figures)
    if shutil.which("pdflatex") is None:
        pytest.skip("no TeX to compile it with")
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "report.tex"], cwd=tmp_path,
        capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_run_of_nothing_but_refusals_still_has_a_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", with_gaps([])[-1:])
    assert command(str(run)) == 0
    assert "serves dot only" in (run / "report.html").read_text()


def test_one_size_has_no_growth_and_no_crash(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sweep(sizes=[512]))
    assert command(str(run)) == 0
    assert 'id="growth"' not in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("make", "arguments", "words"),
    [(False, [], "no such run"), (True, ["--baseline", "none"], "--baseline")],
)
def test_bad_input_is_one_line_and_status_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: bool, arguments: list[str], words: str
) -> None:
    if make:
        write_run(tmp_path / "run", sweep(rounds=1, sizes=[128]))
    assert command(str(tmp_path / "run"), *arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_several_runs_make_one_report(tmp_path: Path) -> None:
    runs = [str(write_run(tmp_path / n, sweep(rounds=2, sizes=[128, 256]))) for n in ("a", "b")]
    assert command(*runs) == 2  # where to?
    assert command(*runs, "-o", str(tmp_path / "both")) == 0
    assert "flash · a" in (tmp_path / "both" / "report.html").read_text()


def test_peers_are_compared_with_the_best_of_ours_problem_by_problem(tmp_path: Path) -> None:
    lines = sweep(kernels=["naive", "flash"], sizes=[256, 512])
    rng = np.random.default_rng(0)
    for n in (256, 512):
        for r in range(6):
            flash = next(x for x in lines if (x["case"], x["round"]) == (f"flash-{n}-64", r))
            samples = 0.5 * flash["median_ns"] * np.exp(0.01 * rng.normal(size=9))
            lines.append(record("torch_sdpa", n, 64, r, samples, host="python"))
    frame = records.load(write_run(tmp_path / "run", lines))
    data = peers.against_peers(frame, records.summarise(frame))
    assert list(data["keys"]) == [256, 512] and set(data["ours"]) == {"flash"}
    assert data["ratio"].to_list() == pytest.approx([2, 2], rel=0.05)
    assert (data["low"] <= 2.02).all() and (data["high"] >= 1.98).all()
    assert tables.peer_table(frame, records.summarise(frame)).rows
    bars = figures.peers(frame).data.set_index(["kernel", "keys"])
    assert (bars["host"] == "python").sum() == 2 and len(bars) == 6
    assert bars.loc["torch_sdpa", "speed"].to_list() == [1, 1]
    assert bars.loc["flash", "speed"].to_list() == pytest.approx([0.5, 0.5], rel=0.05)
    assert (bars["low"] <= bars["speed"]).all() and (bars["speed"] <= bars["high"]).all()
    with pytest.raises(ValueError, match="beside peers, a baseline that is named"):
        figures.speedup(frame)
    assert figures.speedup(frame, baseline="torch_sdpa").data["speedup"].min() < 0.52


def test_peers_of_several_runs_and_conditions_have_panels_of_their_own(tmp_path: Path) -> None:
    runs = []
    for cache, threads in (("warm", 1), ("cold", 1), ("warm", 2)):
        lines = sweep(kernels=["naive", "flash"], sizes=[256], rounds=3)
        hosted = [x | {"host": "python"} if x["kernel"] == "flash" else x for x in lines]
        same = [x | {"cache": cache, "threads": threads} for x in hosted]
        runs.append(str(write_run(tmp_path / f"{cache}{threads}", same)))
    bars = figures.peers(report.read(runs).records).data
    assert len(bars) == 6 and bars["run"].nunique() == 3
    assert bars.groupby(["run", "cache", "threads"])["kernel"].nunique().to_list() == [2, 2, 2]


def test_lists_of_tiles_are_problems_of_their_own(tmp_path: Path) -> None:
    lines = []
    for global_tiles in (1, 2):
        line = record("block_sparse", 256, 64, 0, [1e6], case=f"block_sparse-{global_tiles}")
        tiles = {"pattern": "tiles", "tile": 64, "band": 1, "global_tiles": global_tiles}
        line["problem"]["mask"] |= tiles
        lines.append(line)
    frame = records.load(write_run(tmp_path / "run", lines))
    found = [problem for problem, _ in ratios.problems(records.summarise(frame))]
    assert [problem["global_tiles"] for problem in found] == [1, 2]


def test_a_page_with_peers_names_each_section_once_and_every_kernel(tmp_path: Path) -> None:
    lines = sweep(kernels=["naive", "flash"], sizes=[256, 512], rounds=2)
    lines = [line for line in lines if line["case"] != "naive-512-64"]
    lines += [record("sdpa", n, 64, r, [2e6], host="python") for n in (256, 512) for r in (0, 1)]
    run = report.read([str(write_run(tmp_path / "run", lines))])
    drawing = figures.peers(run.records)
    words = [text.get_text() for text in drawing.figure.findobj(Text)]
    assert words.count("not run") == 1, "naive at 512"
    (tmp_path / "peers.csv").write_text(drawing.data.to_csv())
    drawn = {"peers": ("<svg></svg>", "<svg></svg>")}
    made = page.render(run, tmp_path, drawn, page.Links((), ()))
    for found in (re.findall(r'<h2 id="([^"]*)', made), re.findall(r"<h2[^>]*>([^<]*)", made)):
        assert len(set(found)) == len(found) > 4


def test_without_peers_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    frame = records.load(write_run(tmp_path / "run", sweep(kernels=("flash", "naive"), rounds=2)))
    assert peers.over_best_peer(frame, records.summarise(frame)).empty
    with pytest.raises(ValueError, match="the figure 'peers' needs problems that both"):
        figures.peers(frame)


def test_figures_are_written_with_three_digits_and_their_unit() -> None:
    assert text.time_text(1234567) == "1.23 ms" and text.time_text(999.6) == "1000 ns"
    assert text.bytes_text(2**20 * 1.5) == "1.50 MiB" and text.bytes_text(float("nan")) == ""
    assert text.time_with_interval(1e6, 9.9e5, 1.02e6) == "1.00 ms [0.990, 1.02]"
    assert text.significant(99.96) == "100" and text.significant(0.012345) == "0.0123"


def test_latex_escapes_what_tex_would_read() -> None:
    escaped = text.latex_escape("a_b & 5 % ±3 {x}^2")
    assert escaped == r"a\_b \& 5 \% $\pm$3 \{x\}\^{}2"


def test_flags_of_visits_are_told(tmp_path: Path) -> None:
    lines = sweep(rounds=3, sizes=[128, 256])
    lines[0]["flags"] = ["slowed", "preempted"]
    lines[1]["flags"] = ["repeated", "unheard_of"]
    lines[2]["flags"] = ["hidden_memory"]
    for line in lines:
        line |= {"counters": {"instructions": None}, "counters_reason": "instructions: not here"}
    run = report.read([str(write_run(tmp_path / "run", lines))])
    told = report.terminal(run)
    whose = lines[2]["kernel"]
    assert "Flags of 24 visits: slowed 1, repeated 1, hidden_memory 1" in " ".join(told.split())
    assert f"({whose})" in told and "unheard_of 1" in told
    assert "Not all counters could be read: instructions: not here." in told
    quiet = report.read([str(write_run(tmp_path / "quiet", sweep(rounds=3, sizes=[128, 256])))])
    assert "Flags" not in report.terminal(quiet)
