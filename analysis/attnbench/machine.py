# SPDX-License-Identifier: Apache-2.0
"""What environment.json says of the machine, in words: footers, titles, the test of sameness."""

from __future__ import annotations

from typing import Any

import pandas as pd

from attnbench.format import bytes_text


def cpu(environment: dict[str, Any]) -> str:
    """The processor's name; "unknown CPU" where the environment does not say."""
    found = _first(environment, ("cpu", "model"), ("cpu",))
    return " ".join(found.split()) if isinstance(found, str) and found else "unknown CPU"


def cpus(environment: dict[str, Any]) -> int:
    """How many CPUs the run was allowed; 0 where unknown."""
    found = _first(environment, ("cpu", "allowed"), ("cpus_allowed",))
    if isinstance(found, list):
        return len(found)
    return int(found) if isinstance(found, (int, float)) else 0


def name(environment: dict[str, Any]) -> str:
    """The harness's name of the machine (amd-epyc-2c), the processor's where it gives none."""
    found = environment.get("machine")
    return found if isinstance(found, str) and found else cpu(environment)


def names(frame: pd.DataFrame) -> list[str]:
    """The machines of a frame of records, each once."""
    environments = frame.attrs.get("environments", {})
    return list(dict.fromkeys(name(environment) for environment in environments.values()))


def each_part(environment: dict[str, Any]) -> list[dict[str, Any]]:
    """The environments of the parts that a merged run has of one machine; else the run's own."""
    found = environment.get("parts")
    return list(found.values()) if isinstance(found, dict) and found else [environment]


def commit(environment: dict[str, Any]) -> str:
    """The commit's first nine digits, with "+dirty" where the tree had changes; may be empty."""
    found = _first(environment, ("git", "commit"), ("git_commit",))
    if not isinstance(found, str) or not found:
        return ""
    dirty = _first(environment, ("git", "dirty")) is True
    return found.split("+")[0][:9] + ("+dirty" if dirty or found.endswith("+dirty") else "")


def cache_bytes(environment: dict[str, Any]) -> list[int]:
    """Data caches of one core, level 1 first; empty where unknown."""
    found = environment.get("caches")
    levels = [c for c in found if isinstance(c, dict)] if isinstance(found, list) else []
    return [int(c["bytes"]) for c in levels if isinstance(c.get("bytes"), (int, float))]


def sentence(environment: dict[str, Any]) -> str:
    """Processor, memory, compiler, system and commit, as far as they are known, on one line."""
    caches = ", ".join(f"L{i} {bytes_text(c)}" for i, c in enumerate(cache_bytes(environment), 1))
    memory = _first(environment, ("memory_bytes",))
    compiler = [_first(environment, ("compiler", part)) for part in ("name", "flags")]
    system = [_first(environment, ("os", part)) for part in ("system", "release")]
    parts = [
        cpu(environment), f"{cpus(environment)} CPUs" if cpus(environment) else "", caches,
        f"{bytes_text(memory)} of memory" if isinstance(memory, (int, float)) else "",
        _first(environment, ("target",)), " ".join(str(c).strip() for c in compiler if c),
        " ".join(str(s) for s in system if s), f"commit {commit(environment) or 'unknown'}",
    ]  # fmt: skip
    return " · ".join(str(part) for part in parts if part)


def identity(environment: dict[str, Any]) -> dict[str, Any]:
    """What must agree for two runs to count as of one machine."""
    return {"processor": cpu(environment), "CPUs allowed": cpus(environment)}


def footer(frame: pd.DataFrame, width_in: float = 7.0) -> str:
    """One line for a figure: machine, threads, dtype, commit."""
    environments = list(frame.attrs.get("environments", {}).values())
    environments = environments or [frame.attrs.get("environment", {})]
    environments = [part for environment in environments for part in each_part(environment)]
    names = list(dict.fromkeys(cpu(e) for e in environments))
    commits = list(dict.fromkeys(c for e in environments if (c := commit(e))))
    threads = sorted(frame["threads"].unique())
    count = f"{_listed(threads)} thread{'s' if threads != [1] else ''}"
    parts = [" / ".join(names), count, _listed(sorted(frame["dtype"].unique()))]
    parts.append(f"commit {_listed(commits)}" if commits else "commit unknown")
    joined = " · ".join(p for p in parts if p)
    if width_in < 5 and len(joined) > 60:
        return f"{parts[0]}\n" + " · ".join(p for p in parts[1:] if p)
    return joined


def _listed(values: list[Any]) -> str:
    shown = ", ".join(map(str, values[:4]))
    return shown + (", …" if len(values) > 4 else "")


def _first(environment: dict[str, Any], *paths: tuple[str, ...]) -> Any:
    for path in paths:
        value: Any = environment
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None and not isinstance(value, dict):
            return value
    return None
