"""What a configuration leaves to charrnn, chosen from the text, the machine and the budget before training begins.

Three figures decide: the work that the budget buys (the machine's measured speed times the seconds), the length of the
training text, and so how often the text will be read. Nothing is taken from the held-out text. The constants were
fitted by hand to the runs in results/recipe.jsonl, but for those of plain gradient descent and of relu.
"""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from charrnn.config import Budget, Config, ModelConfig, load_config
from charrnn.model.cells import Cell
from charrnn.model.network import CharRNN
from charrnn.text.dataset import Dataset
from charrnn.text.minibatches import Shape
from charrnn.training.placement import choose_placement, seconds_per_window

_PROBE = Shape(32, 32)
"""Lanes and steps of the windows by which the machine's speed is measured, with 384 units."""

_PROBE_UNITS = 384

_ASSUMED_SECONDS = 600.0
"""What a budget of epochs or steps alone, which does not say how large a model may be, is taken for."""

_STEPS = 4000
"""Steps that a run should have at least: windows grow with the budget only beyond them."""

_MOST_WEIGHTS_PER_CHARACTER = 6.0
"""Of W_hh, so that a short text and a long time make no giant that learns it by heart, whatever the dropout.

The Time Machine, dropout 0.5 and 0.4: 3.7 weights a character, 124 epochs 1.312; 5.7, 80 and 179 epochs 1.302 and
1.307; 10.2, 111 epochs 1.318.
"""

_USUAL_VOCABULARY = 66
"""Of the texts to which the width was fitted."""

_NUM_LAYERS = 1
"""More cost what one wider layer does, and gave no more. The Time Machine, 16 epochs: 1 x 384 1.390, 2 x 256 1.395; 80
epochs: 1 x 480 1.302, 2 x 288 1.316."""

_SGD_LEARNING_RATE = 1.0
"""Of plain gradient descent. Tiny Shakespeare, LSTM 1 x 128, 400 steps: 0.02 3.395, 1 2.988, 2 3.016."""


@dataclass(frozen=True)
class Grounds:
    """What is known before training."""

    budget: Budget
    work: float
    """Weights times characters that the time buys; forward and backward, each takes 6 operations."""
    characters: int
    """Of the training text."""
    vocabulary_size: int


def follow(
    config: Config, dataset: Dataset, device: torch.device, speeds: dict[Hashable, float] | None = None
) -> tuple[Config, str]:
    """The configuration with nothing left open, and in words what was chosen on which grounds; "" if nothing was.

    speeds: those that were measured before, to which this one is added if it was not among them: two measurements
    differ, and might choose two networks where only a seed was to differ. Raises TextError for a text with nothing to
    train on.
    """
    left = config.left_to_recipe()
    if not left:
        return config, ""
    characters, vocabulary_size = len(dataset.split("training")), dataset.vocabulary.size
    budget = Budget.parse(config.training.budget)
    said = (config.model.cell, config.training.engine, config.training.precision)
    decisive = (*said, str(device), torch.get_num_threads(), vocabulary_size)
    speeds = {} if speeds is None else speeds
    if decisive not in speeds:
        speeds[decisive] = _measured_speed(config, vocabulary_size, device)
    speed = speeds[decisive]
    grounds = Grounds(budget, speed * (budget.seconds or _ASSUMED_SECONDS), characters, vocabulary_size)
    chosen = choose(config, grounds)
    resolved = load_config(flags=chosen, base=config)
    return resolved, _in_words(chosen, grounds, speed, _epochs_of(resolved, grounds))


def choose(config: Config, grounds: Grounds) -> dict[str, Any]:
    """The open keys and their values, which follow what is said: a given size decides the dropout, and so on."""
    said = _Said(config)
    cell = Cell(said("model.cell", "lstm"), config.model.activation)
    gates = cell.gates
    num_layers = said("model.num_layers", _NUM_LAYERS)
    hidden_size = said("model.hidden_size", _units(grounds, gates, num_layers))
    inputs = config.model.embedding_size or 0  # a one-hot row costs no product
    weights = _weights(hidden_size, gates, num_layers, grounds.vocabulary_size, inputs)
    in_time, in_epochs = _characters(grounds, weights), grounds.budget.limits.get("epochs", math.inf)
    batch_size, seq_length = _window(min(in_time, in_epochs * grounds.characters))
    batch_size, seq_length = said("training.batch_size", batch_size), said("training.seq_length", seq_length)
    epochs = _epochs(grounds, weights, batch_size * seq_length)
    said("model.dropout", _dropout(epochs))
    said("model.weight_dropout", _weight_dropout(epochs))
    adamw = config.training.optimizer == "adamw"
    rate = _learning_rate(cell, hidden_size) if adamw else _SGD_LEARNING_RATE
    said("training.learning_rate", max(rate, config.training.final_learning_rate))
    said("training.readout_rate", _readout_rate(hidden_size) if adamw else config.training.readout_rate)
    return said.chosen


class _Said:
    """Values by their dotted key: what the configuration says, else what is proposed, which is then noted."""

    def __init__(self, config: Config) -> None:
        self._values, self._left = config.model_dump(), set(config.left_to_recipe())
        self.chosen: dict[str, Any] = {}

    def __call__(self, key: str, proposed: Any) -> Any:
        if key in self._left:
            self.chosen[key] = proposed
            return proposed
        section, name = key.split(".")
        return self._values[section][name]


def _units(grounds: Grounds, gates: int, num_layers: int) -> int:
    """H for the work: 256 units of an LSTM for 1e12, twice as many for nearly nine times as much work.

    With more layers as many as keep the number of weights; no more than the text can feed. Where many distinct
    characters make the readout dear, as many as a usual text would get for as many characters of training. Chinese,
    6,174 distinct characters, work 6e11: 1 x 32 2.480, 1 x 64 2.405, 1 x 96 2.417, 1 x 128 2.444, 1 x 224 2.535.
    """
    fed = math.sqrt(_MOST_WEIGHTS_PER_CHARACTER * grounds.characters / gates)
    units, shape = 256.0, (gates, num_layers)
    for _ in range(9):  # each three times as near to where it leads
        usual, all_in_all = (_weights(units, *shape, size) for size in (_USUAL_VOCABULARY, grounds.vocabulary_size))
        one_layer = 256 * (grounds.work * usual / all_in_all / 1e12) ** 0.32 * math.sqrt(4 / gates)
        units = min(one_layer, fed) / math.sqrt(2 * num_layers - 1)
    return int(min(max(32 * round(units / 32), 64), 2048))


def _weights(hidden_size: float, gates: int, num_layers: int, vocabulary_size: int, inputs: int = 0) -> float:
    """Weights multiplied for a character. inputs: of its embedding; without one its own are a row of a table."""
    return hidden_size * (gates * (hidden_size * (2 * num_layers - 1) + inputs) + vocabulary_size)


def _window(characters: float) -> tuple[int, int]:
    """B and T for so many characters to be read in at least _STEPS steps."""
    together = characters / _STEPS
    batch_size = 32 if together < 4096 else 64
    return batch_size, int(min(max(16 * round(together / batch_size / 16), 32), 128))


def _characters(grounds: Grounds, weights: float) -> float:
    """How many characters of training the time buys for a network of so many weights.

    A step keeps some 0.9 of the probe's speed, and a character costs besides what 125,000 weights do. Characters a
    second in runs with engine compiled, and by this at a probe's 2.3e10: 1 x 128: 107,000, 104,000; 1 x 192: 71,000,
    73,000; 1 x 288: 42,000, 43,000; 1 x 416: 26,000, 24,000.
    """
    return 0.9 * grounds.work / (weights + 125_000)


def _epochs(grounds: Grounds, weights: float, together: int) -> float:
    """How often the text will be read: of several limits the first to be reached."""
    characters = {
        "seconds": _characters(grounds, weights) / (grounds.budget.seconds or 1.0),
        "epochs": grounds.characters,
        "steps": together,
    }
    return min(amount * characters[unit] for unit, amount in grounds.budget.limits.items()) / grounds.characters


def _dropout(epochs: float) -> float:
    """None for the first readings, since nothing is learnt by heart in them; then more the more there are.

    With that of W_hh, nats per character: tiny Shakespeare, 1 x 256, 2.5 epochs: none 1.496, 0.1 and 0 1.500, 0 and
    0.05 1.505, 0.1 and 0.05 1.511. The Time Machine, 1 x 256, 4 epochs: none 1.413, 0.1 and 0.05 1.403, 0.2 and 0.1
    1.420; 8 epochs: 0.2 and 0.1 1.369, 1.383 and 1.380, 0.3 and 0.1 1.380, 0.2 and 0.2 1.384, 0.1 and 0.1 1.383.
    """
    return _between({3: 0.0, 7.5: 0.2, 16: 0.4, 40: 0.5}, epochs)


def _weight_dropout(epochs: float) -> float:
    return _between({3: 0.0, 7.5: 0.1, 16: 0.25, 40: 0.4}, epochs)


def _learning_rate(cell: Cell, hidden_size: int) -> float:
    """Falls with the width; no gate protects an RNN's state. With so little momentum it may be high.

    Nats per character, betas 0.5 and 0.99, schedule wsd. LSTM, tiny Shakespeare, 32 x 32: 1 x 192, 1 epoch: 3.1 / H
    1.587 and 1.592, 4.2 / H 1.586, 5.8 / H 1.582; 1 x 320, 2 epochs: 3.2 / H 1.482, 5.1 / H 1.492, 7 / H 1.481. The
    Time Machine, 16 x 64, 1 x 256, 8 epochs, dropout: 3.3 / H 1.381, 5.1 / H 1.369 and 1.378, 7.2 / H 1.366, 10.2 / H
    1.376. Tiny Shakespeare, 1 epoch: GRU 1 x 192: 1 / H 1.649, 2 / H 1.624, 4 / H 1.674; RNN 1 x 320: 0.25 / H 1.874,
    0.5 / H 1.787, 1 / H 1.731.
    """
    rate = 0.25 if cell.activation == "relu" else {"lstm": 5.0, "gru": 2.0, "rnn": 1.0}[cell.name]
    return float(f"{min(rate / hidden_size, 3e-2):.2g}")


def _readout_rate(hidden_size: int) -> float:
    """Three times the rate of the others, which is worth much at first, and the same in the wide networks of long runs.

    Nats per character with 3 less those with 1, an LSTM; a figure a seed, or of medians. Tiny Shakespeare: 1 x 192, 1
    epoch -0.031; 1 x 288, 2.4 epochs 0.000, -0.004; 1 x 400, 3.8 epochs -0.004; 3 minutes, 1 x 416, with 3 less those
    with 1.7 +0.005; an hour's, 1 x 1120 with 3, 1 x 1056 with 1 +0.018. The Time Machine: 1 x 256, 4 epochs -0.005; 1 x
    288, 13 epochs -0.010, -0.007; 1 x 480, 31 to 35 epochs, with 3 1.327, 1.322, with 1 1.319, 1.325.
    """
    return _between({320: 3.0, 480: 1.0}, hidden_size)


def _between(points: Mapping[float, float], at: float) -> float:
    """The value at a point, on straight lines over the logarithm between the given ones, in steps of 0.05."""
    places, values = [math.log(point) for point in points], list(points.values())
    value = float(np.interp(math.log(at), places, values))
    return round(20 * value) / 20


def _measured_speed(config: Config, vocabulary_size: int, device: torch.device) -> float:
    """Weights times characters a second, forward and backward, by a window of a middling network."""
    probe = ModelConfig(cell=config.model.cell, hidden_size=_PROBE_UNITS)
    network = CharRNN(probe, vocabulary_size).initialise(0)
    network.to(device, torch.float64 if config.training.precision == "float64" else torch.float32)
    execution = choose_placement(network, config.training, _PROBE).execution
    weights = _weights(_PROBE_UNITS, network.cell.gates, 1, vocabulary_size)
    return weights * _PROBE.batch_size * _PROBE.seq_length / seconds_per_window(network, execution, _PROBE)


def _epochs_of(config: Config, grounds: Grounds) -> float:
    """How often the text will be read, as far as can be told."""
    model, training = config.model, config.training
    gates, inputs = Cell(model.cell, model.activation).gates, model.embedding_size or 0
    weights = _weights(model.hidden_size, gates, model.num_layers, grounds.vocabulary_size, inputs)
    return _epochs(grounds, weights, training.batch_size * training.seq_length)


def _in_words(chosen: Mapping[str, Any], grounds: Grounds, speed: float, epochs: float) -> str:
    names = ", ".join(key.partition(".")[2] for key in chosen)
    time = "" if grounds.budget.seconds else " (the budget names no time: as for 10 minutes)"
    return (
        f"chose {names} for {grounds.characters:,} characters, about {epochs:.2g} epochs, and this machine's "
        f"{speed:.2g} weights x characters a second{time}; --set recipe=none takes fixed values"
    )
