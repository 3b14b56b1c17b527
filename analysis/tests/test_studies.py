# SPDX-License-Identifier: Apache-2.0
"""Studies: what one leaves behind, and that verdicts follow the numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("attnbench._core")

from attnbench import cli, studies
from attnbench.studies import Claim


def record(*agreeing: bool) -> dict:
    return {"claims": [{"expected": "", "found": "", "agrees": a} for a in agreeing]}


def test_the_list_names_every_study_with_its_question(capsys):
    assert cli.main(["study"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = studies.all_studies()
    assert [line.split()[0] for line in lines] == [study.name for study in found]
    for line, study in zip(lines, found):
        assert line.endswith(study.question) and "\n" not in study.question
        assert study.expected


def test_every_study_bears_its_files_name():
    for name, path in studies._files().items():
        assert studies.module(name).STUDY.name == name, path


def test_an_unknown_study_is_one_line_and_status_2(capsys):
    assert cli.main(["study", "odrer"]) == 2
    error = capsys.readouterr().err
    assert "'odrer'" in error and "order" in error and error.count("\n") == 1


def test_study_order_leaves_numbers_figures_and_a_page(tmp_path: Path, capsys):
    folder = tmp_path / "order"
    assert cli.main(["study", "order", "--quick", "-o", str(folder)]) == 0
    found = json.loads((folder / "study.json").read_text())
    assert found["agrees"] is True and found["quick"] is True
    assert len(found["numbers"]["break"]["rotary"]["shuffled"]) == 3
    for kind in studies.FORMATS:
        assert (folder / "figures" / f"equivariance.{kind}").stat().st_size > 3000
    page = (folder / "report.html").read_text()
    assert studies.verdict(found) in page and "<svg" in page and "f(PX) = P f(X)" in page
    assert "agrees  each encoding" in capsys.readouterr().out
    together = studies.report([folder, folder], tmp_path)  # one page for several
    assert together.count("<h2") == 2 and 'href="order/figures/equivariance.pdf"' in together


def test_the_verdict_follows_the_claims():
    assert "agrees with" in studies.verdict(record(True, True))
    assert "contradicts" in studies.verdict(record(False, False))
    assert "1 of 3 points" in studies.verdict(record(True, False, False))
    finding = studies.Finding([], [Claim("", "", True), Claim("", "", False)], {})
    assert not finding.agrees


def test_numbers_become_json():
    value = {1: np.float32(0.5), "a": [np.arange(2), (np.nan, np.inf)], "b": np.bool_(True)}
    assert studies.plain(value) == {"1": 0.5, "a": [[0, 1], [None, None]], "b": True}
    text = studies.to_json({"numbers": {"rows": [[1, 2.25e-7, None], [-3]], "name": "a, [1, 2"}})
    assert json.loads(text)["numbers"] == {"rows": [[1, 2.25e-7, None], [-3]], "name": "a, [1, 2"}
    assert "[1, 2.25e-07, null]" in text
