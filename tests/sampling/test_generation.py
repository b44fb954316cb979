"""Generation: the same seed, the same text, however it is asked for."""

import numpy as np
import pytest
import torch

from charrnn.config import ModelConfig
from charrnn.model import stepper as steppers
from charrnn.model.network import CharRNN
from charrnn.sampling.choosing import Choosing
from charrnn.sampling.generation import _primed, generate
from charrnn.text.vocabulary import UNKNOWN, Vocabulary

VOCABULARY = Vocabulary.of("abcdefghij \n")


def network(cell: str = "lstm", **options: object) -> CharRNN:
    """In float64, where other rounding cannot tip a draw within so few characters."""
    return CharRNN(ModelConfig(cell=cell, hidden_size=13, **options), VOCABULARY.size).initialise(0).double().eval()


def draw(made: CharRNN, prefix: str = "abc", length: int = 300, lanes=(0,), how=None, seed: int = 7) -> np.ndarray:
    return np.concatenate(list(generate(made, VOCABULARY, VOCABULARY.encode(prefix), length, how, seed, lanes)))


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_batch_draws_what_each_lane_draws_alone(cell, way):
    made = network(cell, num_layers=2)
    batch_TB = draw(made, lanes=range(6))
    for lane in range(6):
        assert np.array_equal(batch_TB[:, lane], draw(made, lanes=[lane])[:, 0])
    assert len({tuple(column) for column in batch_TB.T}) == 6


def test_the_same_seed_gives_the_same_text_and_another_seed_another():
    made = network()
    assert np.array_equal(draw(made), draw(made))
    assert not np.array_equal(draw(made), draw(made, seed=8))


def test_a_longer_text_begins_with_the_shorter_one():
    made = network()
    assert np.array_equal(draw(made, length=700)[:300], draw(made, length=300))


def test_exactly_the_asked_number_of_characters_is_drawn():
    made = network()
    for length in (0, 1, 2, 513):
        assert sum(map(len, generate(made, VOCABULARY, VOCABULARY.encode("a"), length))) == length


def test_greedy_text_is_what_whole_windows_would_choose():
    """The next character is the most probable by the network's own forward pass over all that came before."""
    made = network("gru", num_layers=2)
    ids = [int(i) for i in VOCABULARY.encode("abc")]
    for chosen in draw(made, "abc", 50, how=Choosing(temperature=0)):
        logits_V = made(torch.tensor(ids)[:, None])[0][-1, 0]
        logits_V[UNKNOWN] = -torch.inf
        assert int(chosen[0]) == int(logits_V.argmax())
        ids.append(int(chosen[0]))


def test_the_prefix_is_read_whole_however_long(way):
    """Longer than a block of priming, and by a network that remembers what stood before the last block."""
    made = network().double()
    with torch.no_grad():
        made.rnn.layers()[0].bias_hh.view(4, -1)[1] += 9.0  # the forget gates
    ids = VOCABULARY.encode("a" + "bcde" * 150)
    in_one_V, from_512_V = (
        made(torch.from_numpy(part.astype(np.int64))[:, None])[0][-1, 0] for part in (ids, ids[512:])
    )
    assert (in_one_V - from_512_V).abs().max() > 0.01
    _, logits_BV = _primed(made, ids, 1, False)
    torch.testing.assert_close(logits_BV[0], in_one_V, rtol=1e-10, atol=1e-10)


def test_an_empty_prefix_begins_as_after_a_line_end():
    made = network()
    assert np.array_equal(draw(made, prefix=""), draw(made, prefix="\n"))


def test_an_empty_prefix_works_without_a_line_end_in_the_vocabulary():
    vocabulary = Vocabulary.of("abc")
    made = CharRNN(ModelConfig(hidden_size=3), vocabulary.size).initialise(0)
    assert sum(map(len, generate(made, vocabulary, vocabulary.encode(""), 20))) == 20


@pytest.mark.parametrize("how", [None, Choosing(top_k=5), Choosing(0.7, top_p=0.9), Choosing(min_p=0.1)], ids=str)
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_the_text_is_the_same_however_it_is_made(cell, how, monkeypatch):
    """By C and by tensors, in pieces of any length."""
    made = network(cell, num_layers=2)
    expected = draw(made, length=700, how=how, lanes=range(3))
    prefix = VOCABULARY.encode("abc")
    for at_once in (1, 7, 600):
        pieces = list(generate(made, VOCABULARY, prefix, 700, how, 7, range(3), at_once=at_once))
        assert max(map(len, pieces)) == min(at_once, 512)
        assert np.array_equal(np.concatenate(pieces), expected)
    monkeypatch.setattr(steppers, "usable_kernels", lambda dtype, device: None)
    assert np.array_equal(draw(made, length=700, how=how, lanes=range(3)), expected)


@pytest.mark.parametrize("how", [None, Choosing(top_k=5)], ids=str)
def test_the_unknown_character_is_never_drawn(how, way):
    made = network()
    with torch.no_grad():
        made.readout.bias[UNKNOWN] = 50.0
    assert not (draw(made, lanes=range(5), how=how) == UNKNOWN).any()
    assert not (draw(made, how=Choosing(temperature=0)) == UNKNOWN).any()


def test_at_level_byte_id_zero_is_the_nul_byte_and_can_be_drawn():
    vocabulary = Vocabulary("byte")
    made = CharRNN(ModelConfig(hidden_size=3), 256).initialise(0)
    with torch.no_grad():
        made.readout.bias[0] = 50.0
    assert not np.concatenate(list(generate(made, vocabulary, vocabulary.encode("x"), 10))).any()


def test_drawing_leaves_global_random_state_and_mode_alone():
    made = network(dropout=0.5).train()
    before = torch.get_rng_state()
    first = draw(made)
    assert made.training
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(first, draw(made))
