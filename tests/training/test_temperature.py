"""The temperature that suits a text best is found."""

import numpy as np
import pytest
import torch

from charrnn.config import ModelConfig
from charrnn.model import readout
from charrnn.model.network import CharRNN
from charrnn.text.vocabulary import Vocabulary
from charrnn.training.evaluation import evaluate
from charrnn.training.temperature import at_temperature, best_temperature

VOCABULARY = Vocabulary.of("the quick brown fox jumps over the lazy dog. ")
TEXT = "the quick brown fox jumps over the lazy dog. the lazy fox jumps over the quick brown dog. " * 5
IDS = VOCABULARY.encode(TEXT)


def network(sharpness: float = 1.0) -> CharRNN:
    """One that is right about this text more often than not; its logits times `sharpness`."""
    made = CharRNN(ModelConfig(hidden_size=7), VOCABULARY.size).initialise(0)
    ids = torch.from_numpy(IDS[:46].astype(np.int64)).unsqueeze(1)
    optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
    for _ in range(40):
        optimizer.zero_grad()
        made.loss(ids[:-1], ids[1:])[0].backward()
        optimizer.step()
    return at_temperature(made, 1 / sharpness)


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0])
def test_no_temperature_beside_it_needs_fewer_nats(sharpness):
    made = network(sharpness)
    best = best_temperature(made, IDS)

    def nats(temperature: float) -> float:
        return evaluate(at_temperature(made, temperature), VOCABULARY, IDS).nats

    assert nats(best) < min(nats(best * 1.05), nats(best / 1.05))
    assert nats(best) < nats(1.0)


def test_a_network_made_three_times_as_sure_of_itself_needs_three_times_the_temperature():
    assert best_temperature(network(3.0), IDS) == pytest.approx(3 * best_temperature(network(), IDS), rel=1e-3)


def unigrams(counts: dict[str, float], sharpness: float = 1.0) -> CharRNN:
    """A network whose logits are the same everywhere: the logarithms of these shares."""
    made = CharRNN(ModelConfig(hidden_size=7), VOCABULARY.size)  # all weights zero
    with torch.no_grad():
        made.readout.weight.zero_()
        made.readout.bias.fill_(-30)
        for character, count in counts.items():
            made.readout.bias[int(VOCABULARY.encode(character)[0])] = np.log(count)
        made.readout.bias.mul_(sharpness)
    return made


def test_a_calibrated_network_is_left_at_temperature_1_and_a_miscalibrated_one_is_brought_there():
    counts = {character: TEXT[1:].count(character) / (len(TEXT) - 1) for character in set(TEXT)}
    assert best_temperature(unigrams(counts), IDS) == pytest.approx(1, abs=1e-3)
    assert best_temperature(unigrams(counts, 4.0), IDS) == pytest.approx(4, rel=1e-3)
    assert best_temperature(unigrams(counts, 0.2), IDS) == pytest.approx(0.2, rel=1e-3)


@pytest.mark.parametrize(
    ("counts", "text", "expected"),
    [
        ({"t": 0.9, "h": 0.1}, "tttttttttt", 1 / 20),  # without an error: the surer the better
        ({"z": 1.0}, "the quick", 20),  # never right: the less sure the better
        ({}, "the quick", 1),  # all logits alike
    ],
)
def test_the_search_ends_at_its_bounds_where_there_is_no_best(counts, text, expected):
    assert best_temperature(unigrams(counts), VOCABULARY.encode(text)) == pytest.approx(expected, rel=1e-3)


def test_the_blocks_in_which_the_logits_are_made_change_nothing(monkeypatch):
    whole = best_temperature(network(2.0), IDS)
    monkeypatch.setattr(readout, "BLOCK", 100)
    assert best_temperature(network(2.0), IDS) == pytest.approx(whole, rel=1e-3)


def test_the_network_is_left_as_it_was():
    made = network().train()
    before = made.readout.weight.clone()
    best_temperature(made, IDS)
    assert made.training
    assert not torch.equal(at_temperature(made, 2.0).readout.weight, before)
    assert torch.equal(made.readout.weight, before)
