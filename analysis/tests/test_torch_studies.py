# SPDX-License-Identifier: Apache-2.0
"""Studies that need PyTorch: gradients, tasks that are trained on, models that are our kernels."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("attnbench._core")

from attnbench import studies
from attnbench.studies import projections, reach


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
