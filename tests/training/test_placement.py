"""Where and how a network runs, and what is said of it."""

from unittest.mock import Mock

import pytest
import torch

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.errors import ConfigError
from charrnn.model import engines
from charrnn.model.engines import Execution
from charrnn.model.network import CharRNN
from charrnn.text.minibatches import Shape
from charrnn.training import placement
from charrnn.training.placement import choose_device, choose_placement

SHAPE = Shape(3, 5)


def network() -> CharRNN:
    return CharRNN(ModelConfig(hidden_size=5, dropout=0.5), 7).initialise(0).train()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_a_configured_precision_is_taken_as_it_is(precision):
    found = choose_placement(network(), TrainingConfig(precision=precision, engine="torch"), SHAPE)
    assert found.execution.dtype == getattr(torch, precision)
    assert found.reason == "as configured"


TRIALS = [
    ({"torch float32": 1.0, "written float32": 1.5, "torch bfloat16": 0.5, "written bfloat16": 0.7}, "torch bfloat16"),
    (
        {"torch float32": 1.5, "written float32": 1.0, "torch bfloat16": 1.4, "written bfloat16": 0.95},
        "written float32",
    ),
    (
        {"torch float32": 1.0, "written float32": 1.1, "torch bfloat16": 2.0, "written bfloat16": 0.9},
        "written bfloat16",
    ),
    (
        {
            "torch float32": 1.0,
            "written float32": 1.1,
            "compiled float32": 0.8,
            "torch bfloat16": 0.9,
            "written bfloat16": 0.9,
        },
        "compiled float32",
    ),
]


@pytest.mark.parametrize(("seconds", "taken"), TRIALS, ids=[taken for _, taken in TRIALS])
def test_a_cpu_with_bfloat16_takes_what_a_trial_shows_to_be_faster(seconds, taken, monkeypatch):
    monkeypatch.setattr(placement, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(
        engines, "usable_kernels", lambda dtype, device: f"compiled {dtype}".replace("torch.", "") in seconds or None
    )
    monkeypatch.setattr(
        placement, "_pass", lambda network, execution, shape: seconds[placement._in_words(execution)] / 10
    )
    found = choose_placement(network(), TrainingConfig(), SHAPE)
    assert placement._in_words(found.execution) == taken
    for name, value in seconds.items():
        said = f"{value / seconds[taken]:.2f} times as fast as {name}"
        assert (said in found.reason) == (name != taken)


def test_a_trial_keeps_to_what_is_configured(monkeypatch):
    monkeypatch.setattr(placement, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(engines, "usable_kernels", lambda dtype, device: dtype == torch.float32 or None)
    tried = set()
    monkeypatch.setattr(placement, "_pass", lambda network, execution, shape: tried.add(execution) or 0.1)
    choose_placement(network(), TrainingConfig(engine="written"), SHAPE)
    assert {placement._in_words(execution) for execution in tried} == {"written float32", "written bfloat16"}
    tried.clear()
    choose_placement(network(), TrainingConfig(precision="float32"), SHAPE)
    assert {placement._in_words(execution) for execution in tried} == {
        "written float32",
        "torch float32",
        "compiled float32",
    }
    tried.clear()
    found = choose_placement(network(), TrainingConfig(engine="reference", precision="float64"), SHAPE)
    assert not tried
    assert found.execution == Execution("reference", torch.float64)


def test_a_cpu_without_bfloat16_takes_float32_untried(monkeypatch):
    monkeypatch.setattr(placement, "cpu_has_bfloat16", lambda: False)
    found = choose_placement(network(), TrainingConfig(engine="torch"), SHAPE)
    assert found.execution == Execution("torch", torch.float32)
    assert "no bfloat16" in found.reason


def test_a_trial_leaves_no_trace(monkeypatch):
    monkeypatch.setattr(placement, "cpu_has_bfloat16", lambda: True)
    made = network()
    before, weights = torch.get_rng_state(), {name: t.clone() for name, t in made.state_dict().items()}
    choose_placement(made, TrainingConfig(), SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
    assert made.training
    assert all(parameter.grad is None for parameter in made.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in made.state_dict().items())


def test_a_device_that_is_not_here_is_refused():
    assert choose_device("cpu") == torch.device("cpu")
    for wanted in ("tpu", "cuda:99", "nonsense:x"):
        with pytest.raises(ConfigError, match=f"device {wanted}: not to be had here"):
            choose_device(wanted)


def test_a_gpu_that_this_torch_has_no_kernels_for_is_left_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", Mock(side_effect=RuntimeError("CUDA error: no kernel image is available")))
    assert choose_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch, "ones", Mock(side_effect=RuntimeError("CUDA error: out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):  # which is no reason to train elsewhere
        choose_device("auto")
    monkeypatch.setattr(torch, "ones", Mock())
    assert choose_device("auto") == torch.device("cuda")


def test_a_gpu_with_bfloat16_takes_it_only_where_a_trial_shows_it_to_be_faster(monkeypatch):
    monkeypatch.setattr(CharRNN, "device", torch.device("cuda"))
    monkeypatch.setattr(placement, "has_bfloat16", lambda device: True)
    for half, taken in ((0.5, torch.bfloat16), (3.0, torch.float32)):
        seconds = {torch.float32: 1.0, torch.bfloat16: half}
        monkeypatch.setattr(placement, "_pass", lambda network, execution, shape, s=seconds: s[execution.dtype])
        found = choose_placement(network(), TrainingConfig(), SHAPE)
        assert found.execution == Execution("torch", taken)
        assert "in a trial on this GPU" in found.reason


def test_gradients_that_mps_may_get_wrong_are_not_trained_by(monkeypatch):
    monkeypatch.setattr(CharRNN, "device", torch.device("mps"))
    with pytest.raises(ConfigError, match=r"training.engine = 'written': .* expected 'auto', 'torch' or 'reference'"):
        choose_placement(network(), TrainingConfig(engine="written"), SHAPE)
    assert choose_placement(network(), TrainingConfig(), SHAPE).execution == Execution("torch", torch.float32)


def test_float64_is_refused_where_there_is_none():
    with pytest.raises(ConfigError, match="device mps has no float64; expected cpu or cuda, or another precision"):
        placement.refuse_float64(torch.device("mps"), wanted=True)
    placement.refuse_float64(torch.device("mps"), wanted=False)
    placement.refuse_float64(torch.device("cpu"), wanted=True)


@pytest.mark.parametrize(("vocabulary", "different"), [(1, (1, 1)), (66, (55, 66)), (2614, (400, 650))])
def test_the_trial_reads_about_as_many_different_characters_as_a_text_would(vocabulary, different):
    ids_TB = placement._like_a_text(32, 32, vocabulary)
    assert ids_TB.shape == (32, 32)
    assert 0 <= ids_TB.min() <= ids_TB.max() < vocabulary
    assert different[0] <= len(ids_TB.unique()) <= different[1]
