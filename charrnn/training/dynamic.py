"""Dynamic evaluation: the weights go on learning from a text while it is being read.

Krause, Kahembwe, Murray and Renals 2018, "Dynamic Evaluation of Neural Sequence Models" (arXiv:1709.07432), with the
update they found best: the gradient over its usual size on the training text, and a decay towards the trained weights,
stronger where gradients are usually large. A segment of the text is predicted first and learned from afterwards, so no
character is predicted by weights that have seen it. What repeats itself in a text, its names above all, is then
predicted better.
"""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from charrnn.errors import ConfigError
from charrnn.model.engines import Execution
from charrnn.model.network import CharRNN, detached
from charrnn.text.minibatches import lane_bounds
from charrnn.text.vocabulary import Ids
from charrnn.training.evaluation import Dynamic, evaluating, pieces, primed_state, quick_lanes

_SAMPLED_SEGMENTS = 512
"""Of the training text, spread over it, to learn the usual size of each weight's gradient from."""

_EPSILON = 0.1
"""Times the mean of that size over all weights, and added to it, so that a weight which the training text hardly moved
does not fly off. In place of 1.4642 and 1.3652 below it was 1.4743 and 1.3611 with 0.001, 1.4630 and 1.3810 with 1."""


@dataclass(frozen=True)
class Adaptation:
    """How the weights are adapted. Raises ConfigError for values out of range.

    The defaults were chosen, with one LSTM of 192 units for each, on The Time Machine's validation text (17,889
    characters; static 1.4776 nats per character, dynamic 1.4642, the best of all that was tried 1.4622) and on the
    first 20,000 characters of tiny Shakespeare's (1.4440, 1.3652, 1.3610), among segments of 10, 20 and 50, rates of
    0.0003 to 0.01 and decays of 0 to 0.03.
    """

    segment: int = 20
    """Characters predicted between two updates, and the steps their gradient flows back through."""
    rate: float = 1e-3
    """eta: how far a weight goes for a gradient of its usual size."""
    decay: float = 3e-3
    """lambda: the share of its way from the trained weight that a weight goes back at each update, on average."""

    def __post_init__(self) -> None:
        if self.segment < 1:
            raise ConfigError(f"segment = {self.segment}: expected a whole number of 1 or more")
        for name, value in (("dynamic-rate", self.rate), ("dynamic-decay", self.decay)):
            if not 0 <= value < math.inf:
                raise ConfigError(f"{name} = {value:g}: expected a number of 0 or more")


def evaluate_dynamically(network: CharRNN, training: Ids, ids: Ids, how: Adaptation) -> Dynamic:
    """Predict one stream of at least two ids in order, with the state carried and the weights adapted on the way.

    training: the stream the network was trained on. It works on a copy: the network is left as it is. Raises
    ConfigError where the adapted weights predict nothing any more. As it runs by itself: one lane of 20 steps takes
    PyTorch's kernels 0.3 to 1 times the time of `written` with an LSTM or an RNN, and 1.1 to 1.5 times with a GRU.
    """
    execution = network.own_execution
    usual = _usual_gradients(network, training, how.segment, execution)
    adapted = _trainable_copy(network)
    weights = list(adapted.parameters())
    mean = torch.cat([size.flatten() for size in usual]).mean().clamp(min=1e-30)  # 0 where all is certain
    steps = [how.rate / (size + _EPSILON * mean) for size in usual]
    decays = [(how.decay * size / mean).clamp(max=1) for size in usual]
    state = adapted.zero_state(1, execution.dtype)
    nats = 0.0
    for inputs_T1, targets_T1 in pieces(adapted, ids, np.array([0]), np.array([len(ids) - 1]), how.segment):
        segment_nats, state = adapted.loss(inputs_T1, targets_T1, state, execution)
        nats += segment_nats.item()
        if not math.isfinite(nats):
            raise ConfigError(
                f"dynamic-rate = {how.rate:g}, dynamic-decay = {how.decay:g}: the adapted weights predict nothing any "
                "more; try less"
            )
        gradients = torch.autograd.grad(segment_nats, weights)
        with torch.no_grad():  # theta <- theta + lambda R (theta_g - theta) - eta g / (sqrt(MS_g) + epsilon)
            for theta, theta_g, g, step, decay in zip(
                weights, network.parameters(), gradients, steps, decays, strict=True
            ):
                theta.lerp_(theta_g, decay).addcmul_(g, step, value=-1)
        state = detached(state)
    return Dynamic(nats, len(ids) - 1, how.segment, how.rate, how.decay)


def _usual_gradients(network: CharRNN, training: Ids, segment: int, execution: Execution) -> list[Tensor]:
    """sqrt(MS_g): the root mean square of each weight's gradient of one segment's nats."""
    copied = _trainable_copy(network)
    weights = list(copied.parameters())
    squares = [torch.zeros_like(weight) for weight in weights]
    lanes = quick_lanes(len(training))
    bounds = lane_bounds(len(training) - 1, lanes)
    with evaluating(copied):
        states = primed_state(copied, training, execution, bounds[:-1])
    count = 0
    for lane in range(lanes):
        state = tuple(tensor_LBH[:, lane : lane + 1].contiguous() for tensor_LBH in states)
        end = min(bounds[lane + 1], bounds[lane] + segment * -(-_SAMPLED_SEGMENTS // lanes))
        for inputs_T1, targets_T1 in pieces(copied, training, bounds[lane : lane + 1], np.array([end]), segment):
            nats, state = copied.loss(inputs_T1, targets_T1, state, execution)
            gradients = torch.autograd.grad(nats, weights)
            for square, gradient in zip(squares, gradients, strict=True):
                square.addcmul_(gradient, gradient)
            state = detached(state)
            count += 1
    return [(square / count).sqrt() for square in squares]


def _trainable_copy(network: CharRNN) -> CharRNN:
    return copy.deepcopy(network).eval().requires_grad_(True)
