"""What is measured, and the arithmetic of its figures against counts by hand."""

import math

import pytest
import torch

from charrnn.bench.cases import Case, checked_seconds, grid, made_up_vocabulary, multiplied_weights, touched_weights
from charrnn.config import Config, ModelConfig, load_config
from charrnn.errors import ConfigError
from charrnn.model.network import CharRNN


def test_the_weights_multiplied_for_a_character_are_those_counted_by_hand():
    model = ModelConfig(cell="lstm", num_layers=2, hidden_size=5)
    first, second, readout = 20 * 7 + 20 * 5, 20 * 5 + 20 * 5, 7 * 5
    assert multiplied_weights(model, 7) == first + second + readout == 475
    assert Case(Config(model=model), made_up_vocabulary(7, "character")).flops_per_character == 6 * 475


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("embedding_size", [None, 3])
def test_they_are_the_matrices_of_the_network(cell, embedding_size):
    kind = "embedding" if embedding_size else "one-hot"
    model = ModelConfig(cell=cell, num_layers=3, hidden_size=5, input=kind, embedding_size=embedding_size)
    parameters = CharRNN(model, 7).named_parameters()
    matrices = [tensor for name, tensor in parameters if tensor.dim() == 2 and not name.startswith("embedding")]
    assert multiplied_weights(model, 7) == sum(tensor.numel() for tensor in matrices)


@pytest.mark.parametrize(
    ("cell", "num_layers", "elements"),
    [
        ("rnn", 1, 5 * (1 + 5) + 35),  # a row of W_xh, W_hh, W_hq
        ("gru", 2, 15 * (1 + 5) + 15 * (5 + 5) + 35),
        ("lstm", 3, 20 * (1 + 5) + 2 * 20 * (5 + 5) + 35),
    ],
)
def test_the_weights_touched_by_sampling_a_character_are_those_counted_by_hand(cell, num_layers, elements):
    model = ModelConfig(cell=cell, num_layers=num_layers, hidden_size=5)
    assert touched_weights(model, 7) == elements
    assert Case(Config(model=model), made_up_vocabulary(7, "character")).weight_bytes() == 4 * elements


def test_int8_weights_are_read_in_a_quarter_of_the_bytes_but_for_the_table_and_the_readout():
    case = Case(Config(model=ModelConfig(cell="lstm", num_layers=2, hidden_size=5)), made_up_vocabulary(7, "character"))
    assert case.weight_bytes(quantized=True) == 20 * (5 + 5 + 5) + 4 * (20 + 35)


def test_the_default_grid_has_each_cell_at_each_size_on_the_chosen_device():
    base = load_config(flags={"training.device": "cpu"})
    cases = grid(base, made_up_vocabulary(None, "character"))
    found = {
        (
            case.config.model.cell,
            case.config.model.num_layers,
            case.config.model.hidden_size,
            case.config.training.batch_size,
            case.config.training.seq_length,
        )
        for case in cases
    }
    sizes = [(2, 128, 50, 50), (2, 256, 32, 64), (2, 512, 64, 64), (3, 1024, 32, 64)]
    assert found == {(cell, *size) for cell in ("rnn", "gru", "lstm") for size in sizes}
    assert len(cases) == 12
    assert {case.config.training.device for case in cases} == {"cpu"}
    assert {case.vocabulary.size for case in cases} == {66}
    assert cases[0].label == "rnn 2x128, batch 50 x 50 steps, 66 symbols"


@pytest.mark.parametrize(
    ("size", "level", "symbols"), [(2, "character", 2), (100, "character", 100), (None, "byte", 256)]
)
def test_a_made_up_vocabulary_has_the_asked_symbols(size, level, symbols):
    vocabulary = made_up_vocabulary(size, level)
    assert vocabulary.size == symbols
    assert vocabulary.level == level
    assert len(set(vocabulary.characters)) == len(vocabulary.characters)


@pytest.mark.parametrize(
    ("size", "level", "message"),
    [
        (1, "character", "vocabulary = 1: expected a whole number from 2 to 50,000"),
        (50_001, "character", "vocabulary = 50001: expected a whole number"),
        (66, "byte", "vocabulary = 66: expected 256"),
    ],
)
def test_an_impossible_vocabulary_is_refused(size, level, message):
    with pytest.raises(ConfigError, match=message):
        made_up_vocabulary(size, level)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, math.nan, math.inf])
def test_a_time_that_is_none_is_refused(seconds):
    with pytest.raises(ConfigError, match=f"seconds = {seconds}: expected a number above 0"):
        checked_seconds(seconds)
    assert checked_seconds(0.5) == 0.5


def test_large_vocabularies_still_have_characters_that_can_be_encoded():
    vocabulary = made_up_vocabulary(50_000, "character")
    assert torch.tensor(vocabulary.encode(vocabulary.characters).astype("int64")).max() == 49_999
