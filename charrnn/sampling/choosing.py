"""From logits to one id a lane: temperature, top-k, top-p, min-p, then one uniform number decides."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from charrnn.errors import ConfigError

Floats = npt.NDArray[np.float64]
Choices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Choosing:
    """How the next character is chosen. The parts apply in the order they stand here."""

    temperature: float = 1.0
    """Logits are divided by it; 0 takes the most probable character (the first of equals)."""
    top_k: int | None = None
    """Only the k most probable characters (Fan et al. 2018)."""
    top_p: float | None = None
    """Only the fewest most probable characters whose probabilities sum to p (Holtzman et al. 2020)."""
    min_p: float | None = None
    """Only characters at least min_p times as probable as the most probable (Nguyen et al. 2024)."""

    def __post_init__(self) -> None:
        """Raises ConfigError for values outside their range."""
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"temperature = {self.temperature}: expected a number of 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top-k = {self.top_k}: expected a whole number of 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top-p = {self.top_p}: expected a number above 0, up to 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ConfigError(f"min-p = {self.min_p}: expected a number from 0 to 1")


def choose(logits_BV: npt.NDArray[Any], uniforms_B: Floats, how: Choosing) -> Choices:
    """(B,) ids: each lane's uniform number in [0, 1) looked up in the cumulative probabilities, in id order.

    A character whose logit is -inf is never chosen, and of logits that are no numbers the first.
    """
    if how.temperature == 0:
        return _argmax(logits_BV)
    weights_BV = _weights(logits_BV.astype(np.float64), how.temperature)
    if how.top_k is not None or how.top_p is not None:
        weights_BV = _keep_most_probable(weights_BV, how.top_k, how.top_p)
    if how.min_p is not None:
        largest_B1 = weights_BV.max(axis=1, keepdims=True)
        weights_BV = np.where(weights_BV >= how.min_p * largest_B1, weights_BV, 0.0)
    cumulative_BV = weights_BV.cumsum(axis=1)
    total_B = cumulative_BV[:, -1]
    # The first id whose cumulative weight exceeds the threshold, which is below the total.
    drawn_B = _argmax(cumulative_BV > (uniforms_B * total_B)[:, None])
    return np.where((total_B > 0) & np.isfinite(total_B), drawn_B, _argmax(logits_BV))


def _argmax(values_BV: npt.NDArray[Any]) -> Choices:
    choices_B: Choices = values_BV.argmax(axis=1)
    return choices_B


def _weights(logits_BV: Floats, temperature: float) -> Floats:
    """Probabilities up to a factor of each row's own, which the draw takes out."""
    with np.errstate(over="ignore", invalid="ignore"):
        logits_BV -= logits_BV.max(axis=1, keepdims=True)  # first, so that no temperature makes it infinite
        if temperature != 1:
            logits_BV /= temperature
    return np.exp(logits_BV, out=logits_BV)


def _keep_most_probable(weights_BV: Floats, top_k: int | None, top_p: float | None) -> Floats:
    """Zero all but the leading characters by top-k, then by top-p of what top-k left."""
    order_BV = np.argsort(-weights_BV, axis=1, kind="stable")
    sorted_BV = np.take_along_axis(weights_BV, order_BV, axis=1)
    if top_k is not None:
        sorted_BV[:, top_k:] = 0.0
    if top_p is not None:
        before_BV = sorted_BV.cumsum(axis=1) - sorted_BV
        total_B1 = sorted_BV.sum(axis=1, keepdims=True)
        sorted_BV[before_BV >= top_p * total_B1] = 0.0
    kept_BV = np.zeros_like(weights_BV)
    np.put_along_axis(kept_BV, order_BV, sorted_BV, axis=1)
    return kept_BV
