# SPDX-License-Identifier: Apache-2.0
"""Records of any content are read and summarised, or refused with one line that names the run."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from synthetic_runs import ENVIRONMENT, record

from attnbench import records

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
GOOD = [record("flash", n, 64, r, [1e6, 1.1e6]) for n in (128, 256) for r in range(2)]
FIELDS = [(key,) for key in GOOD[0]] + [
    (outer, key) for outer in ("problem", "useful", "input") for key in GOOD[0][outer]
]


def read(content: bytes) -> None:
    """Loads and summarises; what is raised must be a RecordsError of one line."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "records.jsonl").write_bytes(content)
        (Path(folder) / "environment.json").write_text(json.dumps(ENVIRONMENT))
        try:
            frame = records.load(folder)
            records.summarise(frame, resamples=10)
        except records.RecordsError as error:
            assert "\n" not in str(error) and folder in str(error)


def changed(path: tuple[str, ...], value: Any) -> list[dict[str, Any]]:
    lines = json.loads(json.dumps(GOOD))
    at = lines[1]
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return lines


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(FIELDS), VALUES)
@example(("samples_ns",), [])
@example(("samples_ns",), ["x"])
@example(("median_ns",), {"a": 1})
@example(("useful",), None)
@example(("useful", "bytes"), 0)
@example(("flags",), [None, 3, {"a": []}])
@example(("problem",), [])
@example(("case",), {"a": 1})
@example(("case",), None)
@example(("round",), "two")
@example(("round",), 1e300)
@example(("threads",), -1.5)
@example(("session",), [1])
@example(("schema",), 10**30)
@example(("kernel",), 7)
@example(("kernel",), None)
def test_a_field_of_any_content_does_no_harm(path: tuple[str, ...], value: Any) -> None:
    read("".join(json.dumps(line) + "\n" for line in changed(path, value)).encode())


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_bytes_that_are_lost_or_changed_cost_only_their_line(data: st.DataObject) -> None:
    content = bytearray("".join(json.dumps(line) + "\n" for line in GOOD).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            del content[at : at + data.draw(st.integers(1, 50))]
        else:
            content[at] = data.draw(st.integers(0, 255))
    read(bytes(content))


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"[]\n", b'{"kernel": "k"', b"null\n{}\n"])
def test_nothing_that_is_a_record_is_one_line(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "records.jsonl").write_bytes(content)
        with pytest.raises(records.RecordsError, match="no record"):
            records.load(folder)
