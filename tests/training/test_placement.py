"""Where and how a network runs, and what is said of it."""

import pytest
import torch

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.errors import ConfigError
from charrnn.model.cells import Cell
from charrnn.model.network import CharRNN
from charrnn.text.minibatches import Shape
from charrnn.training import placement
from charrnn.training.placement import choose_device, fastest_engine, place

SHAPE = Shape(3, 5)


def network() -> CharRNN:
    return CharRNN(ModelConfig(hidden_size=5, dropout=0.5), 7).initialise(0).train()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_a_configured_precision_is_taken_as_it_is(precision):
    found = place(network(), TrainingConfig(precision=precision), SHAPE)
    assert found.execution.dtype == getattr(torch, precision)
    assert found.reason == "as configured"


@pytest.mark.parametrize(("ratio", "taken"), [(3.0, torch.bfloat16), (1.05, torch.float32), (0.6, torch.float32)])
def test_a_cpu_with_bfloat16_takes_it_where_a_trial_shows_it_faster(ratio, taken, monkeypatch):
    monkeypatch.setattr(placement, "cpu_has_bfloat16", lambda: True)
    seconds = iter([1.0, ratio] * 10)
    monkeypatch.setattr(placement, "_trial", lambda *arguments: next(seconds))
    found = place(network(), TrainingConfig(), SHAPE)
    assert found.execution.dtype == taken
    assert f"{ratio:.2f} times the speed of float32" in found.reason


def test_a_cpu_without_bfloat16_takes_float32_untried(monkeypatch):
    monkeypatch.setattr(placement, "cpu_has_bfloat16", lambda: False)
    monkeypatch.setattr(placement, "_trial", lambda *arguments: pytest.fail("a trial"))
    found = place(network(), TrainingConfig(), SHAPE)
    assert found.execution.dtype == torch.float32
    assert "no bfloat16" in found.reason


def test_a_trial_leaves_no_trace(monkeypatch):
    monkeypatch.setattr(placement, "cpu_has_bfloat16", lambda: True)
    made = network()
    before, weights = torch.get_rng_state(), {name: t.clone() for name, t in made.state_dict().items()}
    place(made, TrainingConfig(), SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
    assert made.training
    assert all(parameter.grad is None for parameter in made.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in made.state_dict().items())


def test_the_engine_is_chosen_by_cell_and_device_unless_configured():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [fastest_engine(Cell(name), cpu) for name in ("lstm", "gru", "rnn")] == ["torch", "written", "written"]
    assert {fastest_engine(Cell(name), cuda) for name in ("lstm", "gru", "rnn")} == {"torch"}
    found = place(network(), TrainingConfig(engine="reference", precision="float32"), SHAPE)
    assert found.execution.engine == "reference"


def test_a_device_that_is_not_here_is_refused():
    assert choose_device("cpu") == torch.device("cpu")
    for wanted in ("tpu", "cuda:99", "nonsense:x"):
        with pytest.raises(ConfigError, match=f"device {wanted}: not to be had here"):
            choose_device(wanted)
