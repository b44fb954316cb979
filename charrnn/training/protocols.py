"""What can be reported beside the figure of evaluation.py, and never in its place: others' protocols, and two more."""

from dataclasses import dataclass
from typing import Any

from charrnn.errors import ConfigError
from charrnn.model.network import CharRNN
from charrnn.text.dataset import Dataset
from charrnn.text.vocabulary import Ids
from charrnn.training.dynamic import Adaptation, evaluate_dynamically
from charrnn.training.evaluation import Tempered, evaluate_in_windows, summed_nats
from charrnn.training.temperature import at_temperature, best_temperature

_LONGEST_WINDOW = 1_000_000
"""Steps. A network that is to be read from zero state no oftener than that is read as one stream."""


@dataclass(frozen=True)
class Protocols:
    """Which others are asked for. Raises ConfigError for values out of range, and for two that do not go together."""

    window: int | None = None
    """Steps of windows that each start from zero state; nanoGPT's are 256."""
    dynamic: Adaptation | None = None
    """How the weights are adapted to the text while it is read."""
    tune_temperature: bool = False
    """Whether to find the softmax temperature that suits the validation text best."""

    def __post_init__(self) -> None:
        if self.window is not None and not 1 <= self.window <= _LONGEST_WINDOW:
            raise ConfigError(f"window = {self.window}: expected a whole number from 1 to {_LONGEST_WINDOW:,}")
        if self.window is not None and self.dynamic is not None:
            raise ConfigError(
                "window and dynamic: windows start from zero and stand for themselves, while dynamic evaluation "
                "carries all it has read; ask for one at a time"
            )

    @property
    def needs_own_text(self) -> bool:
        """Whether the text that the model was trained on is needed, whichever text is evaluated."""
        return self.dynamic is not None or self.tune_temperature

    def require(self, lanes: int, quantized: bool, by_equations: bool) -> None:
        """Raise ConfigError where another option leaves nothing to ask for."""
        name = "window" if self.window is not None else "dynamic" if self.dynamic is not None else ""
        if name and lanes != 1:
            why = {"window": "windows are read side by side anyway", "dynamic": "the weights go along one stream"}
            raise ConfigError(f"{name} with lanes = {lanes}: {why[name]}; leave lanes at 1")
        if quantized and (name or self.tune_temperature):
            raise ConfigError(f"quantize with {name or 'tune_temperature'}: it is for the weights as they are trained")
        if by_equations and self.tune_temperature:
            raise ConfigError("tune_temperature: it has a readout of its own, not that of a model of engine reference")

    def found(self, network: CharRNN, ids: Ids, lanes: int, own: Dataset | None) -> dict[str, Any]:
        """What each came to on a stream, under the name of its field in Evaluation.

        lanes: in which the stream is read at the tuned temperature. own: the dataset the network was trained on, if
        `needs_own_text`. Raises TextError where its validation split is needed and empty.
        """
        found: dict[str, Any] = {}
        if own is not None and self.tune_temperature:
            temperature = best_temperature(network, own.split("validation"))
            nats = summed_nats(at_temperature(network, temperature), ids, network.own_execution, lanes)
            found["tempered"] = Tempered(nats, len(ids) - 1, temperature)
        if self.window is not None:
            found["windowed"] = evaluate_in_windows(network, ids, self.window)
        if own is not None and self.dynamic is not None:
            found["dynamic"] = evaluate_dynamically(network, own.split("training"), ids, self.dynamic)
        return found
