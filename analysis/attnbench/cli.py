# SPDX-License-Identifier: Apache-2.0
"""The command line: a table of commands, each a native program's or a Python module's.

A module that is a command has ``add_arguments(parser)`` and ``main(args) -> exit status``, and is
imported only when it is called: help needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from attnbench.places import CMAKE, IN_TREE, PROGRAMS, ROOT

QUICK = "experiments/quick.toml"

# Commands of attnbench-harness (bench: of attnbench-bench), and what each is for.
NATIVE = {
    "sweep": "[FILE] [-k KERNEL] [-a AXIS=VALUES] [-o DIR] ...  measure an experiment's cases",
    "list": "[--json]  the kernels, and what each one's idea is",
    "check": "[-k KERNEL]  compare kernels with the oracle over the edge shapes",
    "peak": "[--json]  measure what this machine can do",
    "bench": "[--benchmark_...]  the kernels as a plain Google Benchmark program",
}
PYTHON = {
    "report": ("attnbench.report", "DIR...  table, exponents, report.html and figures of a run"),
    "plot": (
        "attnbench.plot",
        "DIR... --x keys --y time  any column of the records against any other",
    ),
    "compare": ("attnbench.compare", "OLD NEW  what became faster or slower between two runs"),
    "history": ("attnbench.history", "DIR  how a folder's runs moved over time"),
    "merge": ("attnbench.merge", "DIR... -o OUT  join the shards of a sweep, and its machines"),
    "show": ("attnbench.show", '"SENTENCE"  attention of a real model as heatmap and graph'),
    "study": ("attnbench.study", "[NAME]  a question, what is expected, and what is found"),
    "tensors": (
        "attnbench.tensors",
        "[list|fetch|describe|calibrate]  real Q, K and V for experiments",
    ),
    "new": ("attnbench.new", "NAME [--plugin | --python]  start a kernel"),
    "doctor": ("attnbench.doctor", "what is missing here, or would spoil measurements"),
    "test": ("attnbench.testing", "every test, C++ and Python"),
}


def usage() -> str:
    """The help text: every command on a line."""
    summaries = NATIVE | {name: text for name, (_, text) in PYTHON.items()}
    order = ["sweep", "report", "compare", "plot", "show", "study", "list", "new", "check", "test"]
    order += [name for name in summaries if name not in order]
    lines = ["usage: attnbench COMMAND [ARGUMENT]...", ""]
    lines += ["Attention variants on CPUs: how fast, how much memory, how exact.", ""]
    lines += [f"  {name:8} {summaries[name]}" for name in order]
    lines += [
        "",
        "attnbench sweep          runs experiments/quick.toml and reports it (3 minutes)",
        "attnbench COMMAND --help says more; --offline forbids downloads, wherever it stands",
    ]
    return "\n".join(lines)


def harness(program: str = "attnbench-harness") -> Path:
    """The native program. Raises FileNotFoundError with the remedy where it is not built."""
    if program == "attnbench-harness" and (override := os.environ.get("ATTNBENCH_HARNESS")):
        path = Path(override)
    else:
        path = PROGRAMS / program
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not built; ./attnbench setup builds it")
    return path


def _error(message: str) -> int:
    print(f"attnbench: {message}", file=sys.stderr)
    return 2


def _native(command: str, arguments: list[str]) -> int:
    program = "attnbench-bench" if command == "bench" else "attnbench-harness"
    if "-h" in arguments or "--help" in arguments:
        try:
            harness(program)
        except FileNotFoundError:  # before the first build: what there is to say without it
            print(f"usage: attnbench {command} {NATIVE[command]}")
            print("The whole list of options is the native program's; ./attnbench setup builds it.")
            return 0
    path = harness(program)
    os.environ["ATTNBENCH_PYTHON"] = sys.executable
    if not IN_TREE:
        os.environ.setdefault("ATTNBENCH_ROOT", str(ROOT))
    if command != "sweep":
        prefix = [] if command == "bench" else [command]
        os.execv(path, [str(path), *prefix, *arguments])
    return _sweep(path, arguments)


def sweep_parser() -> argparse.ArgumentParser:
    """What has to be known here of a sweep's arguments; the native program judges them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("file", nargs="?")
    for option in ("--resume", "--budget", "--shard", "--rounds", "--against"):
        parser.add_argument(option)
    parser.add_argument("-o", "--output")
    parser.add_argument("-k", "--kernel", action="append", default=[])
    parser.add_argument("-a", "--axis", action="append")
    parser.add_argument("--plugin", action="append")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    parser.error = lambda message: (_ for _ in ()).throw(ValueError(message))  # type: ignore
    return parser


def _prepare(experiment: Path, kernels: list[str]) -> None:
    """Installs and computes what the experiment's kernels and inputs need. Raises ValueError."""
    from attnbench import extras

    hosted = {path.stem for path in (ROOT / "kernels" / "peers").glob("*.py")}
    if IN_TREE and hosted & (set(kernels) or extras.kernels_of(experiment)):
        try:
            extras.install("peers")
        except extras.SetupError as error:
            raise ValueError(str(error)) from None
    from attnbench import tensors

    if needed := tensors.needed_by(experiment):
        tensors.cached(*needed)


def _sweep(path: Path, arguments: list[str]) -> int:
    try:
        known, _ = sweep_parser().parse_known_args(arguments)
    except ValueError:
        known = None  # an option without its value: the native program words that
    report = False
    if known and not known.help:
        given = known.file or QUICK
        experiment = Path(given) if Path(given).exists() else ROOT / given
        if known.resume:
            experiment = next(iter(Path(known.resume).glob("*.toml")), experiment)
        try:
            _prepare(experiment, known.kernel)
        except ValueError as error:
            return _error(str(error))
        report = not known.dry_run
    status, run = _run_native([str(path), "sweep", *arguments])
    run = run or (known.resume if known else None)
    if not report or run is None or not (Path(run) / "records.jsonl").is_file():
        return status
    if _is_a_shard(Path(run)):
        print("One shard of a sweep: attnbench merge joins it with the others, for a report.")
        return status
    reported = _python("report", [run])
    return status or reported


def _is_a_shard(run: Path) -> bool:
    try:
        return json.loads((run / "run.json").read_text())["shard"][1] > 1
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return False


def _run_native(command: list[str]) -> tuple[int, str | None]:
    """Runs it to its end, an interrupt included; its status and the run directory it names."""
    run = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        # Ctrl-C is the harness's to answer: it ends the case at hand and keeps the rest.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, _: child.send_signal(received))
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="", flush=True)
            if line.startswith("run: "):
                run = line[5:].strip()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    code = child.returncode
    return (code if code >= 0 else 128 - code), run


def _python(command: str, arguments: list[str]) -> int:
    name, summary = PYTHON[command]
    module = importlib.import_module(name)
    parser = argparse.ArgumentParser(
        prog=f"attnbench {command}",
        description=module.__doc__ or summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return module.main(parser.parse_args(arguments))


def main(argv: list[str] | None = None) -> int:
    """Runs one command; the process's exit status: 0 well, 1 found wanting, 2 bad input."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("help", "-h", "--help"):
        print(usage())
        return 0
    command, *rest = arguments
    if command == "--version":
        from attnbench import __version__

        print(f"attnbench {__version__}")
        return 0
    if command == "--cmakedir":  # of attnbench.cmake, for a kernel outside the tree
        print(CMAKE)
        return 0
    try:
        if command in NATIVE:
            return _native(command, rest)
        if command in PYTHON:
            return _python(command, rest)
    except (FileNotFoundError, ImportError) as error:
        return _error(str(error))
    except BrokenPipeError:  # `| head` had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    near = difflib.get_close_matches(command, [*NATIVE, *PYTHON], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return _error(f"unknown command {command!r}{hint} (attnbench --help lists them)")
