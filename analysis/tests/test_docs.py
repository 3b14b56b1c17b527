# SPDX-License-Identifier: Apache-2.0
"""The pages say what is so: their code runs and prints what they show, their links lead somewhere."""

from __future__ import annotations

import doctest
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from matplotlib import image
from test_images import MEAN, WORST, difference

from attnbench.places import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
RUN = [page for page in PAGES if "\n>>> " in page.read_text()]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_code_on_a_page_prints_what_the_page_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("attnbench._core")
    if "import torch" in page.read_text():
        pytest.importorskip("torch")
    monkeypatch.chdir(ROOT)
    done = doctest.testfile(
        str(page), module_relative=False, globs={"folder": tmp_path}, encoding="utf-8"
    )
    assert done.attempted > 3 and done.failed == 0


def test_the_tutorial_is_among_the_pages_that_are_run() -> None:
    assert {"tutorial", "attention"} <= {page.stem for page in RUN}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"],
                         ids=lambda page: page.stem)  # fmt: skip
def test_links_and_pictures_lead_to_files(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_gallery_shows_the_reference_run_as_it_is() -> None:
    assert (ROOT / "docs" / "gallery.md").read_text() == script("gallery").page()
    assert (ROOT / "docs" / "gallery.md").read_text().count("![") >= 6


def test_the_page_of_trust_is_what_its_studies_left(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    trust = script("trust")
    text = trust.page()
    assert (ROOT / "docs" / "trust.md").read_text() == text
    kept = sorted(trust.KEPT.glob("*.json"))
    assert text.count("`./attnbench study ") == len(kept) > 0
    assert not any('"quick": true' in path.read_text() for path in kept)
    monkeypatch.setattr(trust, "KEPT", tmp_path / "kept")
    run = tmp_path / "run" / kept[0].stem
    run.mkdir(parents=True)
    record = kept[0].read_text()
    (run / "study.json").write_text(record.replace('"quick": false', '"quick": true'))
    trust.take_up(run.parent)
    assert trust.page() == trust.INTRODUCTION  # a first look is not kept
    (run / "study.json").write_text(record)
    trust.take_up(run.parent)
    assert (tmp_path / "kept" / kept[0].name).read_text() == record


def test_the_pictures_of_attention_are_what_their_script_draws(tmp_path: Path) -> None:
    pytest.importorskip("attnbench._core")
    pictures = script("pictures")
    names = {f"{picture.__name__}.png" for picture in pictures.PICTURES}
    assert names == {path.name for path in pictures.FOLDER.iterdir()}
    shown = re.findall(r"\]\(pictures/(\w+\.png)\)", (ROOT / "docs" / "attention.md").read_text())
    assert sorted(shown) == sorted(names)
    pictures.main((), tmp_path)
    for name in names:
        drawn, kept = (image.imread(at / name)[..., :3] for at in (tmp_path, pictures.FOLDER))
        worst, mean = difference(drawn, kept)
        assert worst <= WORST and mean <= MEAN, (
            f"{name}: {worst:.3f} at worst, {mean:.4f} in the mean"
        )


def test_every_page_is_in_the_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    listed = set(re.findall(r"^(\w+)$", index, re.M))
    assert {page.stem for page in PAGES} - {"index"} == listed - {"toctree"}
