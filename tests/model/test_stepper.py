"""One character at a time gives what whole windows give."""

import pytest
import torch

from charrnn.config import ModelConfig
from charrnn.model.network import CharRNN
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
