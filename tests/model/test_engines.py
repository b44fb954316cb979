"""Every engine agrees with `reference`, and `reference` with torch.nn and with numeric gradients."""

import itertools
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import dropout

from charrnn.config import ModelConfig
from charrnn.model.cells import Cell, State, Weights
from charrnn.model.compiling import compiler_here
from charrnn.model.engines import ENGINES, one_hot, reference
from charrnn.model.network import CharRNN

# Primes that differ, so that no mistaken axis can pass unseen.
STEPS, LANES, VOCABULARY, HIDDEN, EMBEDDING = 7, 3, 11, 5, 13

ENGINE_NAMES = [name for name in ENGINES if name != "compiled" or compiler_here()]
FASTER = [name for name in ENGINE_NAMES if name != "reference"]
PRECISIONS = [
    (name, dtype, tolerance)
    for name in ENGINE_NAMES
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.1))
    if name != "compiled" or dtype != torch.bfloat16
]

CELLS = [Cell("rnn"), Cell("rnn", "relu"), Cell("gru"), Cell("lstm")]
IDS = [f"{cell.name}-{cell.activation}" for cell in CELLS]


def random_layers(cell: Cell, input_size: int, depth: int, seed: int = 0) -> list[Weights]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).mul_(0.5).requires_grad_()

    rows = cell.gates * HIDDEN
    return [
        Weights(draw(rows, HIDDEN if l else input_size), draw(rows, HIDDEN), draw(rows), draw(rows))
        for l in range(depth)
    ]


def random_state(cell: Cell, depth: int, lanes: int = LANES) -> State:
    generator = torch.Generator().manual_seed(1)
    shape = (depth, lanes, HIDDEN)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(cell.states))


def zero_state(cell: Cell, depth: int) -> State:
    return tuple(torch.zeros(depth, LANES, HIDDEN, dtype=torch.float64) for _ in range(cell.states))


def inputs(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    if kind == "ids":
        return torch.randint(VOCABULARY, (STEPS, LANES), generator=generator)
    return torch.randn(STEPS, LANES, EMBEDDING, generator=generator, dtype=torch.float64).requires_grad_()


def torch_module(cell: Cell, input_size: int, depth: int) -> nn.RNNBase:
    if cell.name == "rnn":
        return nn.RNN(input_size, HIDDEN, depth, nonlinearity=cell.activation, dtype=torch.float64)
    kind = nn.GRU if cell.name == "gru" else nn.LSTM
    return kind(input_size, HIDDEN, depth, dtype=torch.float64)


def values_and_gradients(engine, x, state, layers, cell) -> list[torch.Tensor]:
    """Outputs, final state, and the gradients of a loss that weighs all of them unevenly."""
    state = tuple(tensor.clone().requires_grad_() for tensor in state)
    leaves = [*state, *itertools.chain.from_iterable(layers), *([x] if x.is_floating_point() else [])]
    hidden_TBH, final = engine(x, state, layers, cell)
    outputs = [hidden_TBH, *final]
    loss = sum((output * torch.linspace(-1, 2, output.numel()).view_as(output)).sum() for output in outputs)
    return [*outputs, *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("kind", ["ids", "vectors"])
@pytest.mark.parametrize("carried", [False, True], ids=["zero-state", "carried-state"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("cell", CELLS, ids=IDS)
@pytest.mark.parametrize("name", FASTER)
def test_engine_agrees_with_reference_in_values_and_gradients(name, cell, depth, carried, kind):
    layers = random_layers(cell, VOCABULARY if kind == "ids" else EMBEDDING, depth)
    state = random_state(cell, depth) if carried else zero_state(cell, depth)
    expected = values_and_gradients(reference, inputs(kind), state, layers, cell)
    found = values_and_gradients(ENGINES[name], inputs(kind), state, layers, cell)
    assert len(expected) == 1 + 2 * cell.states + 4 * depth + (kind == "vectors")
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cell", CELLS, ids=IDS)
@pytest.mark.parametrize("name", FASTER)
def test_a_vocabulary_larger_than_the_window_changes_nothing(name, cell):
    """Of W_xh only the columns that the window holds are read, and the others' gradients are zero."""
    layers, state = random_layers(cell, 997, 2), random_state(cell, 2)
    ids_TB = inputs("ids") * 83
    expected = values_and_gradients(reference, ids_TB, state, layers, cell)
    found = values_and_gradients(ENGINES[name], ids_TB, state, layers, cell)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cell", CELLS, ids=IDS)
@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_engine_agrees_with_reference_under_dropout_from_the_same_seed(name, cell):
    layers, state = random_layers(cell, VOCABULARY, 3), random_state(cell, 3)
    results = []
    for engine in (reference, ENGINES[name]):
        torch.manual_seed(5)
        results.append(engine(inputs("ids"), state, layers, cell, partial(dropout, p=0.4))[0])
    without, _ = reference(inputs("ids"), state, layers, cell)
    torch.testing.assert_close(results[0], results[1])
    assert not torch.allclose(results[0], without)


@pytest.mark.parametrize(("name", "dtype", "tolerance"), PRECISIONS, ids=str)
@pytest.mark.parametrize("cell", CELLS, ids=IDS)
def test_engine_in_lower_precision_stays_near_float64(name, dtype, tolerance, cell):
    layers, state = random_layers(cell, VOCABULARY, 2), random_state(cell, 2)
    exact, _ = reference(inputs("ids"), state, layers, cell)
    lower = [Weights(*(tensor.detach().to(dtype) for tensor in weights)) for weights in layers]
    found, _ = ENGINES[name](inputs("ids"), tuple(tensor.to(dtype) for tensor in state), lower, cell)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("cell", CELLS, ids=IDS)
@pytest.mark.parametrize(("name", "dtype", "tolerance"), [one for one in PRECISIONS if one[0] in FASTER], ids=str)
def test_gradients_in_lower_precision_stay_near_float64(name, cell, dtype, tolerance):
    layers, state = random_layers(cell, VOCABULARY, 2), random_state(cell, 2)
    exact = values_and_gradients(reference, inputs("ids"), state, layers, cell)
    lower = [Weights(*(tensor.detach().to(dtype).requires_grad_() for tensor in weights)) for weights in layers]
    found = values_and_gradients(ENGINES[name], inputs("ids"), tuple(tensor.to(dtype) for tensor in state), lower, cell)
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == dtype
        assert (one.double() - other).norm() <= (0.1 if dtype == torch.bfloat16 else 1e-4) * other.norm()


@pytest.mark.parametrize("drop", [None, dropout], ids=["whole", "dropped"])
@pytest.mark.parametrize("cell", CELLS, ids=IDS)
@pytest.mark.parametrize("name", FASTER)
def test_fast_engines_make_no_one_hot_rows_wider_than_the_hidden_layers(name, cell, drop, monkeypatch):
    assert VOCABULARY > HIDDEN
    monkeypatch.setattr("charrnn.model.engines.one_hot", lambda *arguments: pytest.fail("one-hot rows"))
    ENGINES[name](inputs("ids"), random_state(cell, 2), random_layers(cell, VOCABULARY, 2), cell, drop)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("cell", CELLS, ids=IDS)
def test_reference_computes_what_torch_nn_computes_from_the_same_weights(cell, depth):
    module = torch_module(cell, VOCABULARY, depth)
    layers = [Weights(*(getattr(module, f"{name}_l{l}") for name in Weights._fields)) for l in range(depth)]
    state = random_state(cell, depth)
    rows_TBV = one_hot(inputs("ids"), VOCABULARY, torch.float64)
    expected, expected_state = module(rows_TBV, state if cell.name == "lstm" else state[0])
    expected_state = expected_state if cell.name == "lstm" else (expected_state,)
    found, found_state = reference(inputs("ids"), state, layers, cell)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(found_state, expected_state, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", [CELLS[0], CELLS[2], CELLS[3]], ids=[IDS[0], IDS[2], IDS[3]])
@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_gradients_agree_with_finite_differences(name, cell):
    layers, state = random_layers(cell, VOCABULARY, 2), random_state(cell, 2, lanes=2)
    ids_TB = inputs("ids")[:3, :2]

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        stacked = [Weights(*tensors[4 * l : 4 * l + 4]) for l in range(2)]
        hidden_TBH, final = ENGINES[name](ids_TB, state, stacked, cell)
        return (hidden_TBH, *final)

    assert torch.autograd.gradcheck(run, tuple(itertools.chain.from_iterable(layers)))


@pytest.mark.parametrize("cell", CELLS, ids=IDS)
@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_a_split_sequence_equals_a_whole_one(name, cell):
    layers, state, ids_TB = random_layers(cell, VOCABULARY, 2), random_state(cell, 2), inputs("ids")
    whole, final = ENGINES[name](ids_TB, state, layers, cell)
    first, carried = ENGINES[name](ids_TB[:3], state, layers, cell)
    second, carried = ENGINES[name](ids_TB[3:], carried, layers, cell)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=1e-12, atol=1e-12)
    for one, other in zip(carried, final, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_one_hot_rows_hold_a_single_one_at_the_id():
    ids_TB = inputs("ids")
    rows_TBV = one_hot(ids_TB, VOCABULARY)
    assert rows_TBV.shape == (STEPS, LANES, VOCABULARY)
    assert torch.equal(rows_TBV.argmax(-1), ids_TB)
    assert torch.equal(rows_TBV.sum(-1), torch.ones(STEPS, LANES))
    assert torch.equal(rows_TBV.max(-1).values, torch.ones(STEPS, LANES))


@pytest.mark.parametrize("cell", CELLS, ids=IDS)
def test_the_weights_load_into_torch_nn_by_name_and_give_the_same_output(cell):
    config = ModelConfig(cell=cell.name, activation=cell.activation, num_layers=2, hidden_size=HIDDEN)
    network = CharRNN(config, VOCABULARY).double().initialise(3)
    module = torch_module(cell, VOCABULARY, 2)
    stored = network.state_dict()
    module.load_state_dict(
        {name.removeprefix("rnn."): tensor for name, tensor in stored.items() if name.startswith("rnn.")}
    )
    hidden_TBH, _ = module(one_hot(inputs("ids"), VOCABULARY, torch.float64))
    expected = hidden_TBH @ stored["readout.weight"].T + stored["readout.bias"]
    found, _ = network(inputs("ids"), network.zero_state(LANES, torch.float64))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
