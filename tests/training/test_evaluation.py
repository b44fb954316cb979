"""Evaluation: defined once, disturbing nothing."""

import math

import numpy as np
import pytest
import torch

from charrnn.config import ModelConfig
from charrnn.model.engines import Execution
from charrnn.model.network import CharRNN
from charrnn.text.vocabulary import Vocabulary
from charrnn.training import evaluation
from charrnn.training.evaluation import entropy, evaluate, evaluate_in_windows, quick_lanes

TEXT = "the quick brown fox jumps over the lazy dog. " * 40
VOCABULARY = Vocabulary.of(TEXT)
IDS = VOCABULARY.encode(TEXT)


def network(cell: str = "lstm", **options: object) -> CharRNN:
    made = CharRNN(ModelConfig(cell=cell, hidden_size=7, **options), VOCABULARY.size).initialise(0)
    with torch.no_grad():  # far from uniform, so that a mistake in targets or state shows
        made.readout.weight.mul_(20)
    return made


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_nats_are_summed_over_every_character_but_the_first_with_state_carried(cell):
    made = network(cell, num_layers=2)
    log_probabilities = torch.log_softmax(made(torch.from_numpy(IDS[:-1].astype(np.int64))[:, None])[0][:, 0], -1)
    targets = IDS[1:].astype(np.int64)
    expected = -log_probabilities[torch.arange(len(targets)), torch.from_numpy(targets)].sum().item()
    found = evaluate(made, VOCABULARY, IDS)
    assert found.characters == len(TEXT) - 1
    assert found.nats == pytest.approx(expected, rel=1e-5)


def test_the_window_in_which_the_stream_is_read_changes_nothing(monkeypatch):
    whole = evaluate(network(), VOCABULARY, IDS).nats
    monkeypatch.setattr(evaluation, "_STEPS", 17)
    assert evaluate(network(), VOCABULARY, IDS).nats == pytest.approx(whole, rel=1e-6)


def test_lanes_primed_with_what_stands_before_them_give_the_same_figure():
    made = network()
    single = evaluate(made, VOCABULARY, IDS)
    several = evaluate(made, VOCABULARY, IDS, lanes=3)
    assert several.characters == single.characters
    assert several.nats_per_char == pytest.approx(single.nats_per_char, abs=1e-4)


def test_without_priming_lanes_would_give_another_figure(monkeypatch):
    """The test above can fail: it is the priming that makes lanes agree."""
    made = network()
    single = evaluate(made, VOCABULARY, IDS)
    monkeypatch.setattr(evaluation, "PRIMING", 0)
    several = evaluate(made, VOCABULARY, IDS, lanes=20)
    assert abs(several.nats_per_char - single.nats_per_char) > 1e-3


@pytest.mark.parametrize("lanes", [1, 2, 7, 64])
def test_any_number_of_lanes_predicts_every_character_once(lanes):
    """A network that gives every character the same probability must be charged ln V for each, and no more."""
    made = network()
    with torch.no_grad():
        made.readout.weight.zero_()
    found = evaluate(made, VOCABULARY, IDS[:131], lanes=lanes)
    assert found.nats == pytest.approx(130 * math.log(VOCABULARY.size), rel=1e-6)


def test_evaluation_disturbs_neither_mode_nor_gradients_nor_random_state():
    made = network(dropout=0.5).train()
    before = torch.get_rng_state()
    weights = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    first = evaluate(made, VOCABULARY, IDS, Execution("torch", torch.bfloat16), lanes=2)
    second = evaluate(made, VOCABULARY, IDS, Execution("torch", torch.bfloat16), lanes=2)
    assert first == second
    assert made.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in made.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in made.state_dict().items())


def test_the_figures_derive_from_the_sums():
    found = evaluation.Evaluation(
        nats=200.0, characters=100, bytes=150, unknown=0, unigram_nats_per_char=1.0, uniform_nats_per_char=2.0
    )
    assert found.nats_per_char == 2.0
    assert found.bits_per_char == pytest.approx(2 / math.log(2))
    assert found.perplexity == pytest.approx(math.exp(2))
    assert found.bits_per_byte == pytest.approx(200 / math.log(2) / 150)


def test_bytes_and_unknown_characters_of_the_predicted_text_are_counted():
    vocabulary = Vocabulary.of("aä€😀")
    ids = vocabulary.encode("aaä€😀?", on_unknown="replace")
    found = evaluate(CharRNN(ModelConfig(hidden_size=3), vocabulary.size).initialise(0), vocabulary, ids)
    assert found.characters == 5
    assert found.bytes == 1 + 2 + 3 + 4 + 3  # U+FFFD stands for the unknown one
    assert found.unknown == 1


def test_entropy_of_known_distributions():
    assert entropy(np.array([5, 5, 0, 5, 5])) == pytest.approx(math.log(4))
    assert entropy(np.array([7])) == 0
    assert entropy(np.array([3, 1])) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_unigram_and_uniform_entropies_stand_beside():
    found = evaluate(network(), VOCABULARY, IDS)
    counts = np.array([TEXT[1:].count(character) for character in set(TEXT)])
    assert found.unigram_nats_per_char == pytest.approx(entropy(counts))
    assert found.uniform_nats_per_char == pytest.approx(math.log(VOCABULARY.size))


@pytest.mark.parametrize(("length", "lanes"), [(10, 1), (3999, 1), (4000, 2), (111_540, 55), (10**7, 64)])
def test_quick_evaluations_take_no_more_lanes_than_leave_each_twice_its_priming(length, lanes):
    assert quick_lanes(length) == lanes


# ---- windows that start from zero


@pytest.mark.parametrize("window", [1, 17, 256, 2000])
def test_each_window_is_read_as_a_text_of_its_own(window):
    made = network()
    apart = sum(evaluate(made, VOCABULARY, IDS[k : k + window + 1]).nats for k in range(0, len(IDS) - 1, window))
    found = evaluate_in_windows(made, IDS, window)
    assert found.nats == pytest.approx(apart, rel=1e-6)
    assert (found.characters, found.window) == (len(IDS) - 1, window)


def test_a_window_of_the_whole_text_is_the_definition_and_a_smaller_one_is_not():
    made = network()
    whole = evaluate(made, VOCABULARY, IDS).nats
    assert evaluate_in_windows(made, IDS, len(IDS)).nats == pytest.approx(whole, rel=1e-6)
    assert abs(evaluate_in_windows(made, IDS, 17).nats - whole) > 1


@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_windows_side_by_side_predict_every_character_once_however_many_there_are(at_once, monkeypatch):
    made = network()
    expected = evaluate_in_windows(made, IDS, 13).nats
    monkeypatch.setattr(evaluation, "_WINDOWS_AT_ONCE", at_once)
    assert evaluate_in_windows(made, IDS, 13).nats == pytest.approx(expected, rel=1e-6)
    with torch.no_grad():
        made.readout.weight.zero_()
    found = evaluate_in_windows(made, IDS, 13)
    assert found.nats == pytest.approx((len(IDS) - 1) * math.log(VOCABULARY.size), rel=1e-6)


def test_a_text_counted_by_parts_is_counted_once(monkeypatch):
    whole = evaluate(network(), VOCABULARY, IDS)
    monkeypatch.setattr(evaluation, "_COUNTED", 7)
    assert evaluate(network(), VOCABULARY, IDS) == whole


def test_windows_leave_the_mode_and_draw_no_dropout():
    made = network(dropout=0.5).train()
    assert evaluate_in_windows(made, IDS, 50) == evaluate_in_windows(made, IDS, 50)
    assert made.training
