# SPDX-License-Identifier: Apache-2.0
"""Studies: what one leaves behind, that verdicts follow the numbers, and each one's mathematics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("attnbench._core")

from attnbench import cli, studies, tensors
from attnbench.studies import (
    Claim,
    collapse,
    explanations,
    order,
    projections,
    reach,
    ring,
    self_luong,
    table1,
    words,
)


@pytest.fixture(autouse=True)
def gradients():
    """Those of other tests' peers switch autograd off for their process, which is this one."""
    try:
        import torch
    except ImportError:
        yield
        return
    with torch.enable_grad():
        yield


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


# --- order -----------------------------------------------------------------------------------


def test_sinusoids_start_at_zero_and_one_and_have_the_papers_wavelengths():
    table = order.sinusoidal(700, 4)
    np.testing.assert_array_equal(table[0], [0, 1, 0, 1])
    np.testing.assert_allclose(table[:, 0], np.sin(np.arange(700)), atol=1e-6)
    np.testing.assert_allclose(table[:, 3], np.cos(np.arange(700) / 100), atol=1e-6)


def test_rotary_products_depend_on_the_distance_alone():
    random = np.random.default_rng(1)
    q, k = (np.tile(random.standard_normal(8).astype(np.float32), (10, 1)) for _ in range(2))
    products = order.rotary(q) @ order.rotary(k).T
    for distance in range(-9, 10):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)
    assert abs(products[0, 3] - products[3, 0]) > 1e-3  # and it knows before from after
    np.testing.assert_allclose(np.linalg.norm(order.rotary(q), axis=1), np.linalg.norm(q, axis=1),
                               rtol=1e-6)  # fmt: skip


def test_alibi_falls_with_distance_by_each_heads_slope():
    bias = order.alibi(5, 2)
    np.testing.assert_allclose(bias[0, 4], [-0.25, -0.1875, -0.125, -0.0625, 0])
    np.testing.assert_array_equal(bias, np.swapaxes(bias, 1, 2))
    assert (bias[1] >= bias[0]).all()


def test_a_break_is_measured_where_there_is_one():
    x = np.random.default_rng(2).standard_normal((6, 3))
    backwards = np.arange(6)[::-1]
    assert order.broken(lambda a: a * 2, x, backwards) == 0
    assert order.broken(lambda a: a + np.arange(6)[:, None], x, backwards) > 0.5


# --- words -----------------------------------------------------------------------------------


def test_distances_are_one_less_cosine():
    table = words.distances(np.array([[1.0, 0], [2, 0], [0, 3], [-1, 0]]))
    np.testing.assert_allclose(table[0], [0, 0, 1, 2], atol=1e-12)


def test_pairs_are_split_by_kind_and_the_nearest_is_another():
    points = np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.05]])
    kinds = ["a", "a", "b", "b", "b"]  # the last of b stands among a
    table = words.distances(points)
    other, same = words.between_and_within(table, kinds)
    assert (len(other), len(same)) == (6, 4)
    assert words.nearest_kind(table, kinds).tolist() == [False, False, True, True, False]


# --- self_luong ------------------------------------------------------------------------------


def test_ulps_count_steps_between_floats():
    one = np.float32([1, -1, 0])
    assert self_luong.ulps(one, one) == 0
    assert self_luong.ulps(one, np.nextafter(one, np.float32(9))) == 1
    assert self_luong.ulps(np.float32([-0.0]), np.float32([0.0])) == 0


def test_self_attention_and_luong_agree_in_every_kernel_and_with_projections():
    random = np.random.default_rng(5)
    h = random.standard_normal((9, 12)).astype(np.float32)
    same = self_luong.by_kernel(h)
    assert {"naive", "flash"} <= set(same) and max(same.values()) <= 4
    maps = [random.standard_normal((12, 7)).astype(np.float32) / 4 for _ in range(3)]
    assert max(self_luong.projected(h, *maps)) < 1e-5


def test_entropy_is_ln_n_where_uniform_and_0_where_certain():
    assert self_luong.entropy(np.full((3, 8), 1 / 8)) == pytest.approx(np.log(8))
    assert self_luong.entropy(np.eye(4)) == 0


# --- collapse --------------------------------------------------------------------------------


def test_the_residual_is_1_for_centred_tokens_and_0_for_equal_ones():
    x = np.random.default_rng(6).standard_normal((10, 4))
    assert collapse.residual(x - x.mean(0)) == pytest.approx(1)
    assert collapse.residual(np.tile(x[:1], (10, 1))) == pytest.approx(0, abs=1e-12)
    shifted = x - x.mean(0) + np.linalg.norm(x - x.mean(0)) / np.sqrt(10 * 4)
    assert collapse.residual(shifted) == pytest.approx(np.sqrt(0.5))


def test_skips_keep_what_attention_alone_averages_away():
    alone, skipped = (collapse.random_layers(3, 6, skip)[-1] for skip in (False, True))
    assert alone < 1e-3 < 0.3 < skipped


@pytest.mark.weights
@pytest.mark.parametrize("name", ["words", "self_luong", "collapse"])
def test_studies_of_the_real_model_run(name, tmp_path):
    try:
        tensors.load_model("minilm")
    except ValueError as error:
        pytest.skip(str(error))
    found = studies.execute(studies.module(name).STUDY, tmp_path, quick=True)
    assert found["claims"] and found["figures"]


# --- explanations ----------------------------------------------------------------------------


def test_rank_correlations_are_over_tokens_by_layer_and_over_words_of_content():
    sentence = explanations.Sentence(
        ["the", "cat", "sat", "on", "mats", "softly", "."],
        np.array([0.1, 5, 4, 0.2, 3, 2, 0]),
        np.array([[0.1, 5, 4, 0.2, 3, 2, 0], [9, 2, 3, 8, 4, 5, 7.0]]),
        np.ones((2, 7)),
        np.ones((2, 3, 7)),
    )
    assert sentence.content.tolist() == [False, True, True, False, True, True, False]
    all_tokens = explanations.correlations([sentence], "received")
    np.testing.assert_allclose(all_tokens[0, 0], 1)
    content = explanations.correlations([sentence], "received", content=True)
    np.testing.assert_allclose(content, [[1, -1]])
    assert np.isnan(explanations.correlations([sentence], "heads")).all()  # constant: no ranks


# --- studies that need PyTorch ---------------------------------------------------------------


@pytest.fixture
def torch():
    module = pytest.importorskip("torch")
    module.set_num_threads(1)
    return module


def test_influence_is_the_gradients_norm(torch):
    curve = reach.influence(lambda x: torch.cumsum(x * 2, 0), 5, 0)
    np.testing.assert_allclose(curve, 2)
    nearest = reach.influence(lambda x: x, 5, 0)
    np.testing.assert_allclose(nearest, [1, 0, 0, 0, 0], atol=1e-12)


def test_influence_fades_where_it_stays_under_a_thousandth():
    assert reach.fades_at(np.array([9.0, 1, 0.5, 1e-5, 0.002, 1e-4, 1e-9])) == 5
    assert reach.fades_at(np.ones(4)) == 4


def test_windows_end_at_layers_times_window():
    assert reach.window_ends_at(3, 4, 40) == 12
    assert reach.window_ends_at(1, 5, 40) == 5


def test_each_question_has_one_answer_and_next_has_its_traps():
    keys, values = projections.codes()
    for task, step in (("same", 0), ("next", 1)):
        x, answer = projections.sequences(task, 40, np.random.default_rng(0))
        assert x.shape == (40, projections.PAIRS + 1, projections.WIDTH)
        for sequence, right in zip(x, answer):
            *pairs, question = sequence
            asked = int(np.linalg.norm(keys + values[-1] - question, axis=1).argmin())
            wanted = keys[(asked + step) % projections.KEYS] + values[right]
            assert min(np.abs(pair - wanted).max() for pair in pairs) < 1e-5
            own = [np.abs(pair - keys[asked] - values).max(1).min() < 1e-5 for pair in pairs]
            assert sum(own) == 1


def test_shared_projections_have_symmetric_logits():
    random = np.random.default_rng(0)
    w = [random.standard_normal((8, 8)).astype(np.float32) for _ in range(3)]
    x = random.standard_normal((2, 5, 8)).astype(np.float32)
    apart = projections.asymmetry(x, projections.Trained(w[0], w[1], w[2], w[2]))
    assert projections.asymmetry(x, projections.Trained(w[0], w[0], w[2], w[2])) < 1e-6
    assert 0.2 < apart < 2


@pytest.fixture
def bottleneck(torch):
    studies.module("bottleneck")
    return studies


@pytest.mark.parametrize("score", ["dot", "general", "concat", "bahdanau"])
def test_trained_attention_is_our_kernels(bottleneck, torch, score):
    model, tasks = (bottleneck.part("bottleneck", name) for name in ("model", "tasks"))
    torch.manual_seed(3)
    network = model.Seq2Seq(tasks.vocabulary("copy"), 12, score)
    batch = tasks.batch("copy", 7, 3, np.random.default_rng(0))
    source, given = torch.from_numpy(batch.source), torch.from_numpy(batch.given)
    assert model.kernel_difference(network, source, given) < 1e-5
    with torch.no_grad():
        logits, weights = network(source, given)
    assert logits.shape == (3, 8, tasks.vocabulary("copy")) and weights.shape == (3, 8, 7)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("score", ["none", "general", "bahdanau"])
def test_free_decoding_equals_teacher_forcing_on_its_own_answers(bottleneck, torch, score):
    model, tasks = (bottleneck.part("bottleneck", name) for name in ("model", "tasks"))
    torch.manual_seed(4)
    network = model.Seq2Seq(tasks.vocabulary("copy"), 10, score)
    source = torch.from_numpy(tasks.batch("copy", 5, 2, np.random.default_rng(1)).source)
    answers, _ = network.generate(source, tasks.BEGIN, 4)
    begin = torch.full((2, 1), tasks.BEGIN)
    with torch.no_grad():
        logits, _ = network(source, torch.cat([begin, answers[:, :-1]], 1))
    assert torch.equal(logits.argmax(-1), answers)


def test_tasks_ask_what_they_say(bottleneck):
    tasks = bottleneck.part("bottleneck", "tasks")
    copy = tasks.batch("copy", 5, 4, np.random.default_rng(0))
    np.testing.assert_array_equal(copy.answer[:, :-1], copy.source)
    np.testing.assert_array_equal(copy.given[:, 1:], copy.source)
    assert (copy.answer[:, -1] == tasks.END).all() and (copy.given[:, 0] == tasks.BEGIN).all()
    back = tasks.batch("reverse", 5, 4, np.random.default_rng(0))
    np.testing.assert_array_equal(back.answer[:, :-1], back.source[:, ::-1])
    recall = tasks.batch("recall", 12, 4, np.random.default_rng(0))
    for source, given, answer in zip(*recall):
        pairs = dict(zip(source[::2].tolist(), source[1::2].tolist()))
        assert len(pairs) == 6 and [pairs[k] for k in given.tolist()] == answer.tolist()
    with pytest.raises(ValueError, match="length"):
        tasks.batch("recall", 5, 1, np.random.default_rng(0))


def test_a_finished_training_is_not_redone(bottleneck, torch, tmp_path, monkeypatch):
    training = bottleneck.part("bottleneck", "training")
    run = training.Run("copy", "dot", 0, 3, 6, (4, 6), tests=5, hidden=8)
    training.finish_all(tmp_path, [run])
    _, first = training.load(tmp_path, run)
    monkeypatch.setattr(training, "train", None)
    training.finish_all(tmp_path, [run])  # would fail if it trained
    assert training.load(tmp_path, run)[1] == first
    other = training.Run("copy", "dot", 0, 3, 6, (4,), tests=5, hidden=8)
    assert training.load(tmp_path, other) is None  # other settings


def test_an_edit_distance_counts_insertions_deletions_and_substitutions(bottleneck):
    g2p = bottleneck.part("bottleneck", "g2p")
    assert g2p.edit_distance(list("kitten"), list("sitting")) == 3
    assert g2p.edit_distance([], list("ab")) == 2


def test_the_spellers_gru_is_pytorchs(bottleneck, torch):
    g2p = bottleneck.part("bottleneck", "g2p")
    cell = torch.nn.GRUCell(5, 6)
    weights = {name.replace("weight", "w").replace("bias", "b"): p.detach().numpy()
               for name, p in cell.named_parameters()}  # fmt: skip
    x, h = torch.randn(3, 5), torch.randn(3, 6)
    np.testing.assert_allclose(g2p.gru(x.numpy(), h.numpy(), weights), cell(x, h).detach(),
                               atol=1e-6)  # fmt: skip


@pytest.fixture
def alignment(torch):
    return studies.module("alignment")


def test_the_phrases_hold_the_title_and_their_links_fit(alignment):
    phrases = alignment.read()
    found = {" ".join(p.english): p for p in phrases}
    assert " ".join(found[alignment.TITLE].hindi) == "लाइट बंद करो"
    assert [found[alignment.TITLE].english[i] for i in found[alignment.TITLE].links] == [
        "lights", "off", "turn",
    ]  # fmt: skip
    assert len(found) == len(phrases) > 200
    # A word of content stands for one word whatever the phrase.
    partners = {(p.english[e], p.hindi[h]) for p in phrases for h, e in enumerate(p.links)
                if e is not None and p.english[e] in ("door", "lights", "milk", "off")}  # fmt: skip
    assert partners == {("door", "दरवाज़ा"), ("lights", "लाइट"), ("milk", "दूध"), ("off", "बंद")}


def test_held_out_phrases_are_of_known_words_and_hold_the_title(alignment):
    phrases = alignment.read()
    kept, held = alignment.split(phrases, 1)
    assert len(kept) + len(held) == len(phrases)
    assert alignment.TITLE.split() in [p.english for p in held]
    assert {w for p in held for w in p.english} <= {w for p in kept for w in p.english}


def test_a_word_counts_as_aligned_where_its_largest_weight_is_on_its_partner(alignment):
    phrase = alignment.Phrase(["open", "the", "door"], ["दरवाज़ा", "खोलो", "है"], [2, 0, None])
    weights = np.array([[0.1, 0.1, 0.8], [0.3, 0.3, 0.4], [1, 0, 0]])
    assert alignment.aligned(phrase, weights) == [True, False]
    assert alignment.by_reading_order(phrase) == [False, False]


def test_a_line_that_is_no_phrase_is_named(alignment, tmp_path):
    path = tmp_path / "pairs.tsv"
    for text in ("# head\none line\n", "# head\na\tb\t0-3\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"pairs\.tsv:2"):
            alignment.read(path)


# --- table 1 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", table1.PATHS)
def test_paths_by_search_and_through_layers_are_the_tables(name):
    mask, expected = table1.PATHS[name]
    assert table1.path_by_search(table1.LENGTH, **mask) == expected
    assert table1.path_by_perturbation(table1.LENGTH, **mask) == expected


def test_curves_cross_where_their_logarithms_do():
    sizes = np.array([1.0, 2, 4, 8])
    assert table1.crossing(sizes, sizes**2, 3 * sizes) == pytest.approx(3)
    assert table1.crossing(sizes, sizes**2, sizes / 2) == 0
    assert table1.crossing(sizes, sizes**2, 100 * sizes) == np.inf


def layers(**columns) -> pd.DataFrame:
    """Attention of 8 n d^2 + 4 n^2 d operations and an LSTM of 16 n d^2; time is a tenth."""
    rows = []
    for d in (64, 256):
        for n in 2.0 ** np.arange(6, 14):
            for layer, flops in (
                ("self-attention", 8 * n * d**2 + 4 * n**2 * d),
                ("lstm", 16 * n * d**2),
            ):
                time = flops / 10 * (2 if layer == "lstm" else 1)
                rows.append({"layer": layer, "keys": n, "d_model": d, "useful_flops": flops,
                             "median_ns": time, "threads": 1})  # fmt: skip
    return pd.DataFrame(rows)


def test_crossovers_and_exponents_follow_the_counts():
    found = table1.crossovers(layers())
    assert found["lstm, d = 64"]["count"] == pytest.approx(128, rel=0.05)
    assert found["lstm, d = 64"]["time"] == pytest.approx(6 * 64, rel=0.05)  # twice as slow
    assert found["lstm, d = 256"]["count"] == pytest.approx(512, rel=0.05)
    grown = table1.exponents(layers(), "keys", 8)
    assert grown["lstm, d = 64"]["time"] == pytest.approx(1, abs=0.01)
    assert 1.7 < grown["self-attention, d = 64"]["count"] <= 2.01
    assert table1.exponents(layers(), "d_model", 8) == {}  # two widths give no exponent


def test_the_layers_of_the_table_are_told_apart():
    def name(kernel: str, pattern: str) -> str:
        return table1.layer_name(pd.Series({"kernel": kernel, "pattern": pattern}))

    assert name("self_attention", "full") == "self-attention"
    assert name("self_attention", "local") == "restricted"
    assert name("lstm", "full") == "lstm"


def ring_table(model: ring.Model) -> pd.DataFrame:
    """Runs as the model says, without overlap."""
    rows = []
    for n in (512, 1024, 2048):
        for ranks in (1, 2):
            for causal in (False, True):
                s = ring.Shape(n, 4, 64, causal)
                rows.append({
                    "kernel": "ring", "n": n, "ranks": ranks, "heads": 4, "width": 64,
                    "causal": causal, "overlap": True, "zigzag": True,
                    "compute": model.compute(s, ranks), "merge": model.merge(s, ranks),
                    "seconds": model.total(s, ranks, overlap=False),
                })  # fmt: skip
    return pd.DataFrame(rows)


def test_study_ring_finds_the_constants_of_a_machine_that_follows_its_model():
    truth = ring.Model(2e-9, 3e-7, 5e-8, 4e-8, 1e-10, 1e-6, 1e10)
    table = ring_table(truth)
    found = ring.fit(table, truth.latency_s, truth.bytes_per_s)
    for name, value in vars(truth).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-6), name
    assert all(abs(e) < 1e-6 for part in ring.errors(table, found).values() for e in part)
    far = ring.Shape(10**6, 4, 64, True)
    assert truth.total(far, 64, overlap=True) < truth.total(far, 64, overlap=False)
    assert truth.total(far, 1, overlap=True) == truth.total(far, 1, overlap=False)


def test_study_ring_counts_the_partial_results_of_a_row():
    for ranks in (2, 3, 8):
        runs = 2 * ranks  # a causal sequence in zigzag: rows of run i meet runs 0 ... i
        counted = np.mean([i + 1 for i in range(runs)])
        assert ring.Shape(1024, 1, 8, True).partials(ranks) == counted
    assert ring.Shape(1024, 1, 8, False).partials(3) == 3
    assert ring.Shape(1024, 1, 8, True).partials(1) == 1
