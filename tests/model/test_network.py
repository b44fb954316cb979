"""The network: its logits, its initial weights, its dropout."""

import math

import pytest
import torch

from charrnn.config import ModelConfig
from charrnn.model.dropout import dropout
from charrnn.model.engines import ENGINES, Execution
from charrnn.model.network import CharRNN, loss_sum
from charrnn.text.minibatches import IGNORE

VOCABULARY = 11


def make(**options: object) -> CharRNN:
    return CharRNN(ModelConfig(**{"hidden_size": 5, **options}), VOCABULARY).initialise(0)


def ids(steps: int = 7, lanes: int = 3) -> torch.Tensor:
    return torch.randint(VOCABULARY, (steps, lanes), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("embedding", [None, 3])
@pytest.mark.parametrize("engine", ["reference", "torch"])
def test_logits_have_a_row_of_the_vocabulary_for_every_step_and_lane(cell, embedding, engine):
    options = {"input": "embedding", "embedding_size": embedding} if embedding else {}
    network = make(cell=cell, num_layers=2, **options)
    logits_TBV, state = network(ids(), None, Execution(engine))
    assert logits_TBV.shape == (7, 3, VOCABULARY)
    assert all(tensor.shape == (2, 3, 5) for tensor in state)
    assert len(state) == (2 if cell == "lstm" else 1)


def test_the_first_loss_is_near_knowing_nothing():
    network = make(hidden_size=64)
    logits_TBV, _ = network(ids(50, 20))
    loss = loss_sum(logits_TBV, ids(50, 20)).item() / 1000
    assert loss == pytest.approx(math.log(VOCABULARY), abs=0.6)


def test_the_same_seed_draws_the_same_weights_and_another_seed_others():
    first, same = make(), make()
    other = CharRNN(ModelConfig(hidden_size=5), VOCABULARY).initialise(1)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name])
    assert not torch.equal(first.rnn.weight_hh_l0, other.rnn.weight_hh_l0)


def test_initialising_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    make(input="embedding", embedding_size=3, num_layers=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_recurrent_matrices_start_orthogonal_gate_by_gate(cell):
    network = make(cell=cell, num_layers=2)
    for weights in network.rnn.layers():
        for gate_HH in weights.weight_hh.split(5):
            torch.testing.assert_close(gate_HH @ gate_HH.T, torch.eye(5), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("cell", "biases"), [("lstm", [0, 1, 0, 0]), ("gru", [0, 1, 0]), ("rnn", [0])])
def test_the_gate_that_keeps_the_state_starts_open(cell, biases):
    """The LSTM's forget gate, the GRU's update gate."""
    for weights in make(cell=cell, num_layers=2).rnn.layers():
        bias = (weights.bias_ih + weights.bias_hh).view(len(biases), 5)
        assert torch.equal(bias, torch.tensor(biases).float()[:, None].expand(-1, 5))


def test_dropout_acts_in_training_only():
    network = make(num_layers=2, dropout=0.5)
    network.eval()
    assert torch.equal(network(ids())[0], network(ids())[0])
    network.train()
    assert not torch.equal(network(ids())[0], network(ids())[0])


def test_dropout_drops_the_outputs_of_every_layer_but_never_the_state_through_time():
    network = make(num_layers=2, dropout=0.4).train()
    torch.manual_seed(3)
    found, (H_LBH, C_LBH) = network(ids())
    torch.manual_seed(3)
    x, finals = ids(), []
    for l, weights in enumerate(network.rnn.layers()):
        start = tuple(tensor_LBH[l : l + 1] for tensor_LBH in network.zero_state(ids().shape[1]))
        H_TBH, final = ENGINES["reference"](x, start, [weights], network.cell, None)
        x = dropout(H_TBH, 0.4)
        finals.append(final)
    torch.testing.assert_close(found, network.readout(x))
    torch.testing.assert_close(H_LBH, torch.cat([H_1BH for H_1BH, _ in finals]))
    torch.testing.assert_close(C_LBH, torch.cat([C_1BH for _, C_1BH in finals]))


def test_weight_dropout_drops_weights_of_w_hh_for_the_whole_window_in_training_only():
    network, p = make(num_layers=2, weight_dropout=0.4).train(), 0.4
    torch.manual_seed(3)
    found, _ = network(ids())
    torch.manual_seed(3)
    masks = [dropout(torch.ones_like(weights.weight_hh), p) for weights in network.rnn.layers()]
    whole, _ = network.eval()(ids())
    with torch.no_grad():
        for weights, mask in zip(network.rnn.layers(), masks, strict=True):
            assert mask.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)], abs=1e-4)
            weights.weight_hh.mul_(mask)
    expected, _ = network(ids())
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, whole)


def test_the_loss_sums_over_targets_and_skips_ignored_ones():
    logits_TBV = torch.randn(4, 2, VOCABULARY, generator=torch.Generator().manual_seed(1))
    targets_TB = ids(4, 2)
    expected = -sum(
        torch.log_softmax(logits_TBV, -1)[t, b, targets_TB[t, b]].item() for t in range(4) for b in range(2)
    )
    assert loss_sum(logits_TBV, targets_TB).item() == pytest.approx(expected, rel=1e-5)
    targets_TB[3, 1] = IGNORE
    less = -torch.log_softmax(logits_TBV, -1)[3, 1, ids(4, 2)[3, 1]].item()
    assert loss_sum(logits_TBV, targets_TB).item() == pytest.approx(expected - less, rel=1e-5)


def test_bfloat16_runs_and_gives_gradients_to_float32_weights():
    network = make(num_layers=2)
    logits_TBV, _ = network(ids(), None, Execution("torch", torch.bfloat16))
    assert logits_TBV.dtype == torch.float32
    loss_sum(logits_TBV, ids()).backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in network.parameters())
