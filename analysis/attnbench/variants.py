# SPDX-License-Identifier: Apache-2.0
"""What a case is called in tables and legends: one place, so that all agree.

A variant is a kernel with all that distinguishes it but the size of the problem: mask, options,
dtype, threads, cache, input. Sizes are axes and stand in columns of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from attnbench import machine

# The axes of a sweep, in the order in which a growth is looked for along them.
GROWTH = ("keys", "queries", "head_dim", "v_dim", "d_model", "heads", "kv_heads", "batch")
# Where real inputs come from: axes too, but nothing grows along them.
SIZES = (*GROWTH, "input_layer", "input_head")
# Sizes that follow another in most sweeps, and are told only where they do not.
_FOLLOWED = {"queries": "keys", "v_dim": "head_dim", "kv_heads": "heads"}

# Columns that enter the label where they vary, and how.
_VARYING = {
    "dtype": "{}",
    "threads": "{} threads",
    "cache": "{}",
    "ranks": "{} ranks",
    "softcap": "softcap {}",
    "bias": "bias {}",
    "key_lengths": "ragged {}",
    "input_kind": "{}",
    "input_logit_scale": "logits {}",
    "input_content": "{}",
}
# What enters where it varies within one kernel: that luong's score is not flash's goes with their
# names, and the default scale, 1/sqrt(head_dim), moves with a size.
_OWN = {"score": "{}", "scale": "scale {}", "encoding": "{}", "attention": "{} inside",
        "cross": "cross {}", "d_out": "to {} columns", "width": "width {}"}  # fmt: skip
# The sizes that the default scale and, of layers, head_dim follow.
_WIDTHS = ("head_dim", "d_model", "heads")


def mask_label(row: pd.Series | dict[str, Any]) -> str:
    """The mask in words, empty for full attention: "local ±256", "columns ±32 every 64 causal"."""
    pattern = row.get("pattern", "full")
    window, stride = _whole(row.get("window")), _whole(row.get("stride"))
    words = {
        "full": "",
        "local": f"local ±{window}",
        "strided": f"strided ±{window} /{stride}",
        "columns": f"columns ±{window} every {stride}",
        "fixed": f"fixed {stride}·{_whole(row.get('mask_columns'))}",
        "tiles": _tiles(row),
        "selected": "selected keys",
    }.get(pattern, str(pattern))
    if _whole(row.get("sinks")):
        words += f" +{_said('{} sinks', row['sinks'])}"
    if row.get("causal") is True or row.get("causal") == 1:
        words += " causal"
    return words.strip()


def _tiles(row: pd.Series | dict[str, Any]) -> str:
    """ "tiles of 64: ±1, 1 global, 3 random"; without its numbers a list is just "tiles"."""
    if not _whole(row.get("tile")):
        return "tiles"
    band, apart = row.get("band"), _whole(row.get("dilation"))
    parts = [] if _whole(band) < 0 else [f"±{_whole(band)}" + (f" /{apart}" if apart > 1 else "")]
    for name in ("global", "random"):
        if count := _whole(row.get(f"{name}_tiles")):
            parts.append(f"{count} {name}")
    return f"tiles of {_whole(row.get('tile'))}: {', '.join(parts)}"


def _said(text: str, value: Any) -> str:
    """The text with the value in it; one of a plural is singular."""
    said = text.format(_short(value))
    return said[:-1] if said.startswith("1 ") and said.endswith("s") else said


def telling(frame: pd.DataFrame, columns: Iterable[str]) -> list[str]:
    """Those of `columns` that vary within the frame and do not just follow another size."""
    return [
        c for c in columns if c in frame and frame[c].nunique(dropna=False) > 1
        and not (c in _FOLLOWED and (frame[c] == frame[_FOLLOWED[c]]).all())
    ]  # fmt: skip


def labels(frame: pd.DataFrame) -> pd.Series:
    """A label for each row: kernel and mask, and whatever else varies within the frame.

    Unique per variant; two rows of one label differ in sizes, round or source only, or the source
    stands in the label too (a frame of several runs).
    """
    common = [c for c in _VARYING if c in frame and frame[c].nunique(dropna=False) > 1]
    own = {kernel: _own(group) for kernel, group in frame.groupby("kernel")}
    options = {kernel: usual_options(group) for kernel, group in frame.groupby("kernel")}
    parts = frame["kernel"].astype(str).to_numpy(object).copy()
    for i, (_, row) in enumerate(frame.iterrows()):
        words = [mask_label(row)]
        words += [_said(_VARYING[c], row[c]) for c in common if pd.notna(row[c])]
        varying = own[row["kernel"]].items()
        words += [_said(text, row[c]) for c, text in varying if pd.notna(row[c])]
        words += options_label(row, options[row["kernel"]])
        text = ", ".join(w for w in words if w)
        if text:
            parts[i] += f" ({text})"
    if "source" in frame and frame["source"].nunique() > 1:
        parts = parts + " · " + frame["source"].map(source_names(frame)).to_numpy(object)
    return pd.Series(parts, index=frame.index, name="label")


def source_names(frame: pd.DataFrame) -> dict[str, str]:
    """What each source of a frame is called: its machine where that tells them apart, else the end
    of its path."""
    sources = list(frame["source"].unique())
    machines = _machines(frame)
    return machines if len(set(machines.values())) == len(sources) else short_sources(sources)


def _machines(frame: pd.DataFrame) -> dict[str, str]:
    known = frame.attrs.get("environments", {})
    return {s: machine.name(known.get(s, {})) for s in frame["source"].unique()}


def by_machine(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A frame with labels, made ready for panels of one machine each: with a column `machine`, the
    name of which is returned, and labels that do not repeat it. As it is where there is one."""
    machines = _machines(frame)
    if len(set(machines.values())) < 2:
        return frame, []
    names = source_names(frame)
    alone = {s for s, m in machines.items() if list(machines.values()).count(m) == 1}
    labels = [
        label.removesuffix(f" · {names[source]}") if source in alone else label
        for label, source in zip(frame["label"], frame["source"], strict=True)
    ]
    return frame.assign(machine=frame["source"].map(machines), label=labels), ["machine"]


def short_sources(sources: Any) -> dict[str, str]:
    """The shortest trailing part of each path that tells the runs apart."""
    split = {s: str(s).rstrip("/").split("/") for s in sources}
    for length in range(1, 1 + max(map(len, split.values()))):
        short = {s: "/".join(p[-length:]) for s, p in split.items()}
        if len(set(short.values())) == len(short):
            return short
    return {s: str(s) for s in sources}


def _own(group: pd.DataFrame) -> dict[str, str]:
    """What tells the variants of one kernel apart, beyond what all kernels share."""
    found = {}
    for column, text in _OWN.items():
        if column in group:
            widths = [c for c in _WIDTHS if c in group]
            sizes = group.groupby(widths, dropna=False)[column].nunique(dropna=False)
            if len(sizes) and sizes.max() > 1:
                found[column] = text
    return found


def usual_options(group: pd.DataFrame) -> dict[str, Any]:
    """The options that vary among the cases of one kernel, and of each the value that more than
    half of the kernel's settings have; None where none has."""
    columns = [c for c in group if c.startswith("option_") and group[c].nunique() > 1]
    settings = group[columns].drop_duplicates()
    usual = {}
    for column in columns:
        counts = settings[column].value_counts()
        usual[column] = counts.index[0] if 2 * counts.iloc[0] > len(settings) else None
    return usual


def options_label(row: pd.Series, usual: dict[str, Any]) -> list[str]:
    """The options that are not as usual: ["prefetch=0"]."""
    return [
        f"{c.removeprefix('option_')}={_short(row[c])}" for c, value in usual.items()
        if pd.notna(row[c]) and row[c] != value
    ]  # fmt: skip


def _whole(value: Any) -> int:
    return 0 if value is None or pd.isna(value) else int(value)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
