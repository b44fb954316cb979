"""One character at a time gives what whole windows give."""

import numpy as np
import pytest
import torch

from charrnn.config import ModelConfig
from charrnn.errors import ConfigError
from charrnn.model import stepper as steppers
from charrnn.model.compiled_stepper import CompiledStepper
from charrnn.model.compiling import usable_kernels
from charrnn.model.network import CharRNN
from charrnn.model.products import can_quantize
from charrnn.model.stepper import EquationStepper, stepper_for, worth_quantizing
from charrnn.model.tensor_stepper import TensorStepper
from charrnn.sampling.choosing import Choosing, choose
from tests.conftest import has_int8, needs_compiler

VOCABULARY = 11


def perturbed(network: CharRNN) -> CharRNN:
    """With biases that are not zero, which would hide a missing one."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("lanes", "hidden_size", "vocabulary"), [(1, 5, 11), (3, 5, 32), (3, 131, 40), (67, 16, 11)])
@pytest.mark.parametrize("embedding", [None, 7])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("cell", [("rnn", "tanh"), ("rnn", "relu"), ("gru", "tanh"), ("lstm", "tanh")])
def test_steps_give_the_logits_of_the_window(cell, depth, embedding, lanes, hidden_size, vocabulary, dtype, way):
    """With more and fewer lanes, units and characters than C takes at once."""
    config = ModelConfig(
        cell=cell[0],
        activation=cell[1],
        num_layers=depth,
        hidden_size=hidden_size,
        input="embedding" if embedding else "one-hot",
        embedding_size=embedding,
    )
    network = perturbed(CharRNN(config, vocabulary).initialise(0)).to(dtype)
    generator = torch.Generator().manual_seed(1)
    ids_TB = torch.randint(vocabulary, (13, lanes), generator=generator)
    shape = (network.cell.states, depth, 1, hidden_size)
    start = tuple(torch.randn(shape, dtype=dtype, generator=generator).unbind())
    expected, _ = network(ids_TB, tuple(tensor.expand(-1, lanes, -1).contiguous() for tensor in start))
    stepper = stepper_for(network, start, lanes)
    assert isinstance(stepper, CompiledStepper) == (way == "C")
    tolerance = 1e-11 if dtype == torch.float64 else 2e-4
    for ids_B, expected_BV in zip(ids_TB, expected, strict=True):
        torch.testing.assert_close(stepper.step(ids_B), expected_BV, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("embedding", [None, 7])
def test_a_network_that_runs_by_its_equations_steps_by_them(embedding, lanes):
    options = {"input": "embedding", "embedding_size": embedding} if embedding else {}
    network = CharRNN(ModelConfig(cell="gru", num_layers=2, hidden_size=5, dropout=0.9, **options), VOCABULARY)
    network = perturbed(network.initialise(0))
    ids_TB = torch.randint(VOCABULARY, (13, lanes), generator=torch.Generator().manual_seed(1))
    expected_TBV, _ = network.eval()(ids_TB)
    network.train().by_equations = True  # a sample on the way knows no dropout
    stepper = stepper_for(network, network.zero_state(1), lanes)
    assert isinstance(stepper, EquationStepper)
    torch.testing.assert_close(torch.stack([stepper.step(ids_B) for ids_B in ids_TB]), expected_TBV)
    torch.testing.assert_close(stepper.logits(), expected_TBV[-1])


def test_stepping_changes_neither_the_state_it_began_from_nor_the_weights(way):
    network = CharRNN(ModelConfig(hidden_size=5), VOCABULARY).initialise(0)
    state = network.zero_state(1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    stepper_for(network, state, 2).step(torch.tensor([1, 2]))
    assert all(not tensor.any() for tensor in state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_logits_of_the_state_alone_are_the_readout_of_the_last_hidden_layer(way):
    network = CharRNN(ModelConfig(hidden_size=5, num_layers=2), VOCABULARY).initialise(0)
    _, state = network(torch.tensor([[3], [4]]))
    expected = network.readout(state[0][-1])
    torch.testing.assert_close(stepper_for(network, state).logits(), expected.detach())


needs_codes = pytest.mark.skipif(not has_int8(), reason="no int8 in C here")


@pytest.fixture
def int8_way(way: str) -> str:
    """By which of the two int8 weights are multiplied: there are CPUs for each alone."""
    if not (can_quantize() or (way == "C" and has_int8())):
        pytest.skip("no fast products of int8 here")
    return way


def trained_like(cell: str, depth: int) -> CharRNN:
    """A network whose hidden states are spread over their range, as training makes them."""
    network = CharRNN(ModelConfig(cell=cell, num_layers=depth, hidden_size=67), VOCABULARY).initialise(0)
    return network.requires_grad_(False)


@pytest.mark.usefixtures("int8_way")
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_int8_weights_give_nearly_the_same_probabilities(cell, depth):
    network = trained_like(cell, depth)
    ids_TB = torch.randint(VOCABULARY, (40, 3), generator=torch.Generator().manual_seed(1))
    both = [stepper_for(network, network.zero_state(1), 3, quantized) for quantized in (False, True)]
    for ids_B in ids_TB:
        exact, quantized = (torch.softmax(stepper.step(ids_B), dim=1) for stepper in both)
        torch.testing.assert_close(quantized, exact, rtol=0, atol=0.15 if cell == "rnn" else 0.05)
    assert not torch.equal(quantized, exact)


@pytest.mark.usefixtures("int8_way")
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_int8_lanes_do_not_depend_on_each_other(cell):
    """Each lane of a batch is what it is alone: 8 bits leave no room for roundings that differ."""
    network = trained_like(cell, 2)
    ids_TB = torch.randint(VOCABULARY, (30, 5), generator=torch.Generator().manual_seed(1))
    together = stepper_for(network, network.zero_state(1), 5, quantized=True)
    alone = [stepper_for(network, network.zero_state(1), 1, quantized=True) for _ in range(5)]
    for ids_B in ids_TB:
        logits_BV = together.step(ids_B)
        each_BV = torch.cat([stepper.step(ids_B[b : b + 1]) for b, stepper in enumerate(alone)])
        torch.testing.assert_close(each_BV, logits_BV, rtol=0, atol=1e-4)


@needs_codes
@pytest.mark.skipif(not can_quantize(), reason="no int8 by tensors here")
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_int8_in_c_is_what_it_is_by_tensors(cell):
    """From the same state on, whose codes are then the same: the sums are whole numbers."""
    network = perturbed(trained_like(cell, 1))
    generator = torch.Generator().manual_seed(1)
    state = tuple(torch.rand(1, 3, 67, generator=generator) * 2 - 1 for _ in range(network.cell.states))
    found, expected = stepper_for(network, state, 3, quantized=True), TensorStepper(network, state, 3, quantized=True)
    assert isinstance(found, CompiledStepper)
    ids_B = torch.tensor([1, 5, 10])
    torch.testing.assert_close(found.step(ids_B), expected.step(ids_B), rtol=1e-4, atol=1e-4)


def test_int8_pays_from_a_size_on_that_is_smaller_in_c(int8_way):
    network = CharRNN(ModelConfig(hidden_size=5), VOCABULARY)
    assert (worth_quantizing(network) < 2**20) == (int8_way == "C" and has_int8())


@needs_codes
def test_int8_of_many_lanes_is_left_to_one_thread_of_c_where_tensors_have_none(monkeypatch):
    kernels = usable_kernels(torch.float32, torch.device("cpu"))
    monkeypatch.setattr(kernels, "has_threads", False)
    network = CharRNN(ModelConfig(hidden_size=5), VOCABULARY).initialise(0)
    monkeypatch.setattr(steppers, "can_quantize", lambda: True)
    assert isinstance(stepper_for(network, network.zero_state(1), 9, quantized=True), TensorStepper)
    monkeypatch.setattr(steppers, "can_quantize", lambda: False)
    assert isinstance(stepper_for(network, network.zero_state(1), 9, quantized=True), CompiledStepper)


@pytest.mark.usefixtures("int8_way")
def test_int8_is_refused_where_it_cannot_be_had():
    relu = CharRNN(ModelConfig(cell="rnn", activation="relu", hidden_size=5), VOCABULARY).initialise(0)
    double = CharRNN(ModelConfig(hidden_size=5), VOCABULARY).initialise(0).double()
    for network, reason in (
        (relu, "activation relu have no bounds"),
        (double, "a float32 model on the CPU, not float64"),
    ):
        with pytest.raises(ConfigError, match=f"quantize: .*{reason}"):
            stepper_for(network, network.zero_state(1, network.readout.weight.dtype), quantized=True)


def test_int8_is_refused_without_the_instructions(monkeypatch):
    monkeypatch.setattr(steppers, "usable_kernels", lambda dtype, device: None)
    monkeypatch.setattr("charrnn.model.products.can_quantize", lambda: False)
    network = CharRNN(ModelConfig(hidden_size=5), VOCABULARY).initialise(0)
    with pytest.raises(ConfigError, match=r"quantize: this CPU, .* has no fast products of int8"):
        stepper_for(network, network.zero_state(1), quantized=True)


def made(cell: str, dtype: torch.dtype = torch.float32, **options: object) -> CharRNN:
    network = CharRNN(ModelConfig(cell=cell, hidden_size=131, **options), VOCABULARY).initialise(0).to(dtype)
    return network.requires_grad_(False)


@needs_compiler
@pytest.mark.parametrize("quantized", [False, pytest.param(True, marks=needs_codes)])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_in_c_a_lane_is_bit_for_bit_what_it_is_alone_and_with_any_number_of_threads(cell, quantized, monkeypatch):
    for name in ("_WORTH_A_THREAD", "_WORTH_A_THREAD_INT8"):
        monkeypatch.setattr(f"charrnn.model.compiled_stepper.{name}", 1)
    network = made(cell, num_layers=2)
    uniforms_TB = np.random.default_rng(0).random((40, 70))
    found = []
    for threads in (1, 2, 3, 9):
        torch.set_num_threads(threads)
        together = stepper_for(network, network.zero_state(1), 70, quantized)
        together.logits()
        found.append((together.draw(uniforms_TB, 1.0, 0), together.logits().clone()))
    for ids_TB, logits_BV in found[1:]:
        assert np.array_equal(ids_TB, found[0][0])
        assert torch.equal(logits_BV, found[0][1])
    for lane in (0, 33, 69):
        alone = stepper_for(network, network.zero_state(1), 1, quantized)
        alone.logits()
        assert np.array_equal(alone.draw(uniforms_TB[:, [lane]], 1.0, 0)[:, 0], found[0][0][:, lane])
        assert torch.equal(alone.logits()[0], found[0][1][lane])


@needs_compiler
@pytest.mark.parametrize("excluded", [None, 0, 4])
@pytest.mark.parametrize("temperature", [0, 1e-310, 0.5, 1.0, 30.0])
def test_c_draws_what_choose_would(temperature, excluded):
    network = made("lstm", torch.float64)
    stepper, other = (stepper_for(network, network.zero_state(1), 9) for _ in range(2))
    uniforms_TB = np.random.default_rng(1).random((50, 9))
    stepper.logits()
    logits_BV = other.logits()
    for ids_B, uniforms_B in zip(stepper.draw(uniforms_TB, temperature, excluded), uniforms_TB, strict=True):
        scores_BV = logits_BV.numpy().copy()
        if excluded is not None:
            scores_BV[:, excluded] = -np.inf
        assert np.array_equal(choose(scores_BV, uniforms_B, Choosing(temperature)), ids_B)
        logits_BV = other.step(ids_B)


@needs_compiler
def test_c_draws_something_from_what_is_no_number():
    network = made("lstm")
    network.readout.bias[:] = torch.nan
    stepper = stepper_for(network, network.zero_state(1), 2)
    stepper.logits()
    drawn_TB = stepper.draw(np.full((5, 2), 0.5), 1.0, 0)
    assert ((drawn_TB > 0) & (drawn_TB < VOCABULARY)).all()


@pytest.mark.parametrize("ids", [[1], [1, 2]], ids=str)
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_stepper_keeps_the_weights_that_it_was_made_with(cell, ids, way):
    network, lanes = made(cell), len(ids)
    stepper = stepper_for(network, network.zero_state(1), lanes)
    before_BV = stepper.logits().clone()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1
    torch.testing.assert_close(stepper.logits(), before_BV)
    untouched = stepper_for(made(cell), network.zero_state(1), lanes)
    torch.testing.assert_close(stepper.step(torch.tensor(ids)), untouched.step(torch.tensor(ids)))


@needs_compiler
@pytest.mark.parametrize("ids", [[0, -1], [0, VOCABULARY], [0], [0, 1, 2]], ids=str)
def test_ids_that_c_would_read_elsewhere_are_refused(ids):
    network = made("gru")
    with pytest.raises(IndexError, match=r"expected 2 numbers from 0 to 10"):
        stepper_for(network, network.zero_state(1), 2).step(torch.tensor(ids))
