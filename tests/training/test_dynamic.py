"""Dynamic evaluation: learns from what it has predicted, and from nothing else."""

import copy

import numpy as np
import pytest
import torch

from charrnn.config import ModelConfig
from charrnn.errors import ConfigError
from charrnn.model.engines import Execution
from charrnn.model.network import CharRNN
from charrnn.text.vocabulary import Vocabulary
from charrnn.training import dynamic, evaluation
from charrnn.training.dynamic import Adaptation, evaluate_dynamically
from charrnn.training.evaluation import evaluate

TRAINING = "the quick brown fox jumps over the lazy dog. " * 20
HELD_OUT = "a lazy dog is quicker than the fox. " + "sphinx of quartz, judge my vow! " * 15
VOCABULARY = Vocabulary.of(TRAINING + HELD_OUT)
TRAINING_IDS, IDS = VOCABULARY.encode(TRAINING), VOCABULARY.encode(HELD_OUT)
STRONG = Adaptation(segment=13, rate=0.03, decay=0.2)

OPTIONS = [
    {"cell": "rnn"},
    {"cell": "rnn", "activation": "relu"},
    {"cell": "gru", "num_layers": 2},
    {"cell": "lstm"},
    {"cell": "lstm", "input": "embedding", "embedding_size": 5},
]


def network(**options: object) -> CharRNN:
    return CharRNN(ModelConfig(**{"hidden_size": 7, **options}), VOCABULARY.size).initialise(0)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_with_rate_0_it_is_the_static_figure(options, monkeypatch):
    monkeypatch.setattr(evaluation, "_STEPS", 13)  # sums over the same pieces are rounded alike
    made = network(**options)
    found = evaluate_dynamically(made, TRAINING_IDS, IDS, Adaptation(13, 0, 0.5))
    assert found.nats == pytest.approx(evaluate(made, VOCABULARY, IDS).nats, rel=1e-7)
    assert found.characters == len(IDS) - 1


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_repetition_planted_in_the_text_is_learned(options):
    made = network(**options)
    static = evaluate(made, VOCABULARY, IDS).nats_per_char
    assert evaluate_dynamically(made, TRAINING_IDS, IDS, STRONG).nats_per_char < static - 0.1


def gradients_of(made: CharRNN, ids: torch.Tensor, state: object) -> tuple[list[torch.Tensor], object, float]:
    nats, after = made.loss(ids[:-1, None], ids[1:, None], state, Execution("reference", torch.float64))
    gradients = torch.autograd.grad(nats, list(made.parameters()))
    return list(gradients), tuple(tensor.detach() for tensor in after), nats.item()


def segments(ids: object, length: int) -> list[torch.Tensor]:
    whole = torch.from_numpy(np.asarray(ids).astype(np.int64))
    return [whole[k : k + length + 1] for k in range(0, len(whole) - 1, length)]


def test_it_follows_the_papers_equations_segment_by_segment():
    """Written out with the readable engine: score, then theta + lambda R (theta_g - theta) - eta g / (rms + eps)."""
    made, training, held_out = network().double(), TRAINING_IDS[:100], IDS[:60]
    state, squares = None, [torch.zeros_like(weight) for weight in made.parameters()]
    for ids in segments(training, 13):
        gradients, state, _ = gradients_of(made, ids, state)
        squares = [square + gradient**2 for square, gradient in zip(squares, gradients, strict=True)]
    rms = [(square / len(segments(training, 13))).sqrt() for square in squares]
    mean = torch.cat([size.flatten() for size in rms]).mean()
    adapted, state, expected = copy.deepcopy(made), None, 0.0
    for ids in segments(held_out, 13):
        gradients, state, nats = gradients_of(adapted, ids, state)
        expected += nats
        with torch.no_grad():
            for theta, theta_g, g, size in zip(adapted.parameters(), made.parameters(), gradients, rms, strict=True):
                pull = torch.clamp(STRONG.decay * size / mean, max=1) * (theta_g - theta)
                theta += pull - STRONG.rate * g / (size + dynamic._EPSILON * mean)
    assert evaluate_dynamically(made, training, held_out, STRONG).nats == pytest.approx(expected, rel=1e-9)


def test_the_first_segment_is_scored_by_the_trained_weights():
    made = network()
    first = IDS[: STRONG.segment + 1]
    found = evaluate_dynamically(made, TRAINING_IDS, first, Adaptation(STRONG.segment, 10.0, 0))
    assert found.nats == pytest.approx(evaluate(made, VOCABULARY, first).nats, rel=1e-6)


def test_no_character_is_scored_by_weights_that_have_seen_it_or_what_follows(monkeypatch):
    """Change the text from a character in the middle of a segment on: all before it costs what it cost."""
    scored: list[list[float]] = []
    loss = CharRNN.loss

    def spied(self, ids_TB, targets_TB, state=None, execution=None):
        with torch.no_grad():
            logits_TBV, _ = self(ids_TB, state, execution)
            log_p_TBV = torch.log_softmax(logits_TBV, -1)
        scored[-1] += (-log_p_TBV.gather(2, targets_TB.clamp(min=0).unsqueeze(2))).flatten().tolist()
        return loss(self, ids_TB, targets_TB, state, execution)

    made = network()
    monkeypatch.setattr(dynamic, "_usual_gradients", lambda *_: [torch.ones_like(w) for w in made.parameters()])
    monkeypatch.setattr(CharRNN, "loss", spied)
    changed_at = 13 * 6 + 7
    for tail in (IDS[changed_at:], IDS[changed_at:][::-1]):
        scored.append([])
        evaluate_dynamically(made, TRAINING_IDS, np.concatenate([IDS[:changed_at], tail]), STRONG)
    one, other = scored
    assert len(one) == len(IDS) - 1
    assert one[: changed_at - 1] == other[: changed_at - 1]
    assert one[changed_at + 13 :] != other[changed_at + 13 :]


def test_the_network_its_mode_its_gradients_and_the_random_state_are_left_as_they_were():
    made = network(dropout=0.5).train().requires_grad_(False)
    before, random_state = copy.deepcopy(made.state_dict()), torch.get_rng_state()
    first = evaluate_dynamically(made, TRAINING_IDS, IDS, STRONG)
    assert evaluate_dynamically(made, TRAINING_IDS, IDS, STRONG) == first
    assert made.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(weight.grad is None and not weight.requires_grad for weight in made.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())


def test_a_decay_without_bounds_goes_back_to_the_trained_weights_and_no_further():
    """Each update then undoes the one before, so what is left of learning is its last step."""
    made = network()
    weak = evaluate_dynamically(made, TRAINING_IDS, IDS, Adaptation(13, 0.001, 1e9)).nats_per_char
    assert weak == pytest.approx(evaluate(made, VOCABULARY, IDS).nats_per_char, abs=0.05)


def test_long_training_texts_are_sampled_all_over(monkeypatch):
    """What stands in the text's last fifth alone has gradients, too."""
    monkeypatch.setattr(dynamic, "_SAMPLED_SEGMENTS", 24)
    vocabulary = Vocabulary.of("ab#")
    ids = vocabulary.encode("ab" * 5000 + "#" * 2500)
    made = CharRNN(ModelConfig(hidden_size=3), vocabulary.size).initialise(0)
    usual = dynamic._usual_gradients(made, ids, 13, Execution())
    seen = [bool((usual[0][:, vocabulary.encode(character)[0]] > 0).any()) for character in "ab#"]
    assert seen == [True, True, True]


def test_values_out_of_range_are_refused():
    for options, message in (
        ({"segment": 0}, "segment = 0: expected a whole number of 1 or more"),
        ({"rate": -1.0}, "dynamic-rate = -1: expected a number of 0 or more"),
        ({"rate": float("nan")}, "dynamic-rate = nan"),
        ({"decay": float("inf")}, "dynamic-decay = inf"),
    ):
        with pytest.raises(ConfigError, match=message):
            Adaptation(**options)


def test_a_rate_that_ruins_the_weights_is_an_error_that_names_it():
    with pytest.raises(
        ConfigError,
        match=r"dynamic-rate = 1e\+38, dynamic-decay = 0\.003: the adapted weights predict nothing any more",
    ):
        evaluate_dynamically(network(), TRAINING_IDS, IDS, Adaptation(rate=1e38))


def test_a_text_of_one_character_repeated_which_is_certain_works():
    vocabulary = Vocabulary.of("a")
    ids = vocabulary.encode("a" * 100)
    made = CharRNN(ModelConfig(hidden_size=3), vocabulary.size).initialise(0)
    with torch.no_grad():
        made.readout.weight.zero_()
        made.readout.bias.copy_(torch.tensor([0.0, 500.0]))
    assert evaluate_dynamically(made, ids, ids, Adaptation()).nats == 0
