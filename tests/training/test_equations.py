"""Change an equation, and with engine reference the network is trained, evaluated and sampled by it."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import charrnn
from charrnn.errors import ConfigError
from charrnn.model import cells, network
from charrnn.model.cells import State, Weights
from charrnn.model.network import CharRNN
from charrnn.sampling.choosing import Choosing
from charrnn.text.vocabulary import UNKNOWN
from charrnn.trained import TrainedModel
from charrnn.training import loop
from tests.training.test_loop import with_settings

LSTM, OUTPUTS = cells.lstm, CharRNN.outputs


def without_output_gate(X_BD: Tensor, state: State, weights: Weights) -> State:
    _, C_BH = LSTM(X_BD, state, weights)
    return torch.tanh(C_BH), C_BH


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "lstm", without_output_gate)
    monkeypatch.setattr(CharRNN, "outputs", lambda self, H: 2 * OUTPUTS(self, H))


def read_by_hand(model: TrainedModel, text: str, drawn: int = 0) -> tuple[Tensor, list[int]]:
    """Logits after each character of a text and of those drawn greedily after it, and the ids of all."""
    made = model.network
    (weights,) = made.rnn.layers()
    state, logits = made.zero_state(1), []
    ids = model.vocabulary.encode(text).tolist()
    total = len(ids) + drawn
    for at in range(total):
        X_1V = functional.one_hot(torch.tensor([ids[at]]), made.vocabulary_size).float()
        state = without_output_gate(X_1V, tuple(tensor[0] if tensor.ndim == 3 else tensor for tensor in state), weights)
        logits.append(2 * OUTPUTS(made, state[0])[0])
        if at + 1 == len(ids) < total:
            allowed = logits[-1].clone()
            allowed[UNKNOWN] = -torch.inf
            ids.append(int(allowed.argmax()))
    return torch.stack(logits), ids


@pytest.mark.usefixtures("changed")
def test_a_changed_equation_is_evaluated_and_sampled_by(small_config, view, folder):
    run = loop.train(with_settings(small_config, "engine=reference"), view, folder / "run")
    model = charrnn.load(run.folder)
    text = "3 times 4 makes 12, as everybody knows."
    logits, ids = read_by_hand(model, text)
    expected = functional.cross_entropy(logits[:-1], torch.tensor(ids[1:])).item()
    assert model.evaluate(text).nats_per_char == pytest.approx(expected, rel=1e-5)
    _, ids = read_by_hand(model, "3 times", 30)
    assert model.sample("3 times", 30, temperature=0) == model.vocabulary.decode(ids)
    assert model.samples(2, "3 times", 30, Choosing(0))[1] == model.vocabulary.decode(ids)
    best = min(found.nats_per_char for _, found, _ in view.evaluations)
    assert model.evaluate_split("validation").nats_per_char == pytest.approx(best, abs=1e-4)
    last, prefix = charrnn.load(run.last), small_config.training.sample_prefix
    assert last.sample(prefix, 20, seed=small_config.training.seed) == view.samples[-1]
    with pytest.raises(ConfigError, match="tune_temperature: it has a readout of its own"):
        model.evaluate(text, tune_temperature=True)
    with pytest.raises(ConfigError, match="engine reference is run by its equations, which have no int8"):
        charrnn.load(run.folder, quantize="int8")


def test_a_changed_loss_is_trained_by(small_config, view, folder, monkeypatch):
    """One without a gradient leaves the weights as they were."""
    monkeypatch.setattr(network, "loss_sum", lambda logits_TBV, targets_TB: 0 * logits_TBV.sum())
    still = with_settings(small_config, "weight_decay=0", "explosion=null")
    run = loop.train(with_settings(still, "engine=reference"), view, folder / "run")
    drawn = CharRNN(small_config.model, charrnn.load(run.last).vocabulary.size).initialise(small_config.training.seed)
    for name, tensor in charrnn.load(run.last).network.state_dict().items():
        assert torch.equal(tensor, drawn.state_dict()[name])
    assert {found.nats_per_char for _, found, _ in view.evaluations} == {0}
