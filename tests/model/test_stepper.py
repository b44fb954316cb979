"""One character at a time gives what whole windows give."""

import pytest
import torch

from charrnn.config import ModelConfig
from charrnn.errors import ConfigError
from charrnn.model.network import CharRNN
from charrnn.model.products import can_quantize
from charrnn.model.stepper import Stepper

VOCABULARY = 11


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("embedding", [None, 7])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("cell", [("rnn", "tanh"), ("rnn", "relu"), ("gru", "tanh"), ("lstm", "tanh")])
def test_steps_give_the_logits_of_the_window(cell, depth, embedding, lanes):
    config = ModelConfig(
        cell=cell[0],
        activation=cell[1],
        num_layers=depth,
        hidden_size=5,
        input="embedding" if embedding else "one-hot",
        embedding_size=embedding,
    )
    network = CharRNN(config, VOCABULARY).initialise(0).double()
    with torch.no_grad():
        for parameter in network.parameters():  # biases that are all zero would hide a missing one
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    ids_TB = torch.randint(VOCABULARY, (13, lanes), generator=torch.Generator().manual_seed(1))
    start = tuple(torch.randn(depth, 1, 5, dtype=torch.float64) for _ in range(network.cell.states))
    expected, _ = network(ids_TB, tuple(tensor.expand(-1, lanes, -1).contiguous() for tensor in start))
    stepper = Stepper(network, start, lanes)
    for ids_B, expected_BV in zip(ids_TB, expected, strict=True):
        torch.testing.assert_close(stepper.step(ids_B), expected_BV, rtol=1e-12, atol=1e-12)


def test_stepping_changes_neither_the_state_it_began_from_nor_the_weights():
    network = CharRNN(ModelConfig(hidden_size=5), VOCABULARY).initialise(0)
    state = network.zero_state(1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Stepper(network, state, 2).step(torch.tensor([1, 2]))
    assert all(not tensor.any() for tensor in state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_logits_of_the_state_alone_are_the_readout_of_the_last_hidden_layer():
    network = CharRNN(ModelConfig(hidden_size=5, num_layers=2), VOCABULARY).initialise(0)
    _, state = network(torch.tensor([[3], [4]]))
    expected = network.readout(state[0][-1])
    torch.testing.assert_close(Stepper(network, state).logits(), expected.detach())


needs_int8 = pytest.mark.skipif(not can_quantize(), reason="no fast products of int8 here")


def trained_like(cell: str, depth: int) -> CharRNN:
    """A network whose hidden states are spread over their range, as training makes them."""
    network = CharRNN(ModelConfig(cell=cell, num_layers=depth, hidden_size=64), VOCABULARY).initialise(0)
    return network.requires_grad_(False)


@needs_int8
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_int8_weights_give_nearly_the_same_probabilities(cell, depth):
    network = trained_like(cell, depth)
    ids_TB = torch.randint(VOCABULARY, (40, 3), generator=torch.Generator().manual_seed(1))
    steppers = [Stepper(network, network.zero_state(1), 3, quantized) for quantized in (False, True)]
    for ids_B in ids_TB:
        exact, quantized = (torch.softmax(stepper.step(ids_B), dim=1) for stepper in steppers)
        torch.testing.assert_close(quantized, exact, rtol=0, atol=0.15 if cell == "rnn" else 0.05)
    assert not torch.equal(quantized, exact)


@needs_int8
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_int8_lanes_do_not_depend_on_each_other(cell):
    """Each lane of a batch is what it is alone: 8 bits leave no room for roundings that differ."""
    network = trained_like(cell, 2)
    ids_TB = torch.randint(VOCABULARY, (30, 5), generator=torch.Generator().manual_seed(1))
    together = Stepper(network, network.zero_state(1), 5, quantized=True)
    alone = [Stepper(network, network.zero_state(1), 1, quantized=True) for _ in range(5)]
    for ids_B in ids_TB:
        logits_BV = together.step(ids_B)
        each_BV = torch.cat([stepper.step(ids_B[b : b + 1]) for b, stepper in enumerate(alone)])
        torch.testing.assert_close(each_BV, logits_BV, rtol=0, atol=1e-4)


@needs_int8
def test_int8_is_refused_where_it_cannot_be_had():
    relu = CharRNN(ModelConfig(cell="rnn", activation="relu", hidden_size=5), VOCABULARY).initialise(0)
    double = CharRNN(ModelConfig(hidden_size=5), VOCABULARY).initialise(0).double()
    for network, reason in (
        (relu, "activation relu have no bounds"),
        (double, "a float32 model on the CPU, not float64"),
    ):
        with pytest.raises(ConfigError, match=f"quantize: .*{reason}"):
            Stepper(network, network.zero_state(1, network.readout.weight.dtype), quantized=True)


def test_int8_is_refused_without_the_instructions(monkeypatch):
    monkeypatch.setattr("charrnn.model.products.can_quantize", lambda: False)
    network = CharRNN(ModelConfig(hidden_size=5), VOCABULARY).initialise(0)
    with pytest.raises(ConfigError, match=r"quantize: this CPU, .* has no fast products of int8"):
        Stepper(network, network.zero_state(1), quantized=True)
