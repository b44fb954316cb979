"""One softmax temperature for all of a network's predictions: softmax(O / T) with the T that suits a text best.

Guo et al. 2017, "On Calibration of Modern Neural Networks" (section 4.2): T above 1 helps a network that is too sure
of itself, T below 1 one that is not sure enough. Found on one text, it is worth something on another.
"""

import copy
import math

import torch

from charrnn.model.engines import Execution
from charrnn.model.network import CharRNN
from charrnn.model.readout import sharpness_derivatives
from charrnn.text.minibatches import lane_bounds
from charrnn.text.vocabulary import Ids
from charrnn.training.evaluation import evaluating, pieces, primed_state, quick_lanes

_BOUNDS = (1 / 20, 20.0)
"""Between which 1/T is searched: a text that the network predicts without an error has no best T above zero."""

_TOLERANCE = 1e-4
"""Of 1/T, relative. The nats are flat around their least: they differ by about its square."""


def best_temperature(network: CharRNN, ids: Ids) -> float:
    """The temperature T at which softmax(O / T) needs the fewest nats for a stream of at least two ids.

    The nats are convex in 1/T: Newton's steps find their least in a few readings of the stream, and where a step would
    leave the bounds within which it is known to lie, these are halved. Read in lanes, as evaluations during training.
    """
    execution = network.own_execution
    low, high = _BOUNDS
    beta = 1.0
    while True:
        slope, curvature = _derivatives(network, ids, beta, execution)
        if abs(slope) <= _TOLERANCE * beta * curvature or high / low < 1 + _TOLERANCE:
            return 1 / beta
        low, high = (low, beta) if slope > 0 else (beta, high)
        newton = beta - slope / curvature if curvature > 0 else math.inf
        beta = newton if low < newton < high else math.sqrt(low * high)


def at_temperature(network: CharRNN, temperature: float) -> CharRNN:
    """A copy of a network whose logits are O / T."""
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in copied.readout.parameters():
            parameter.div_(temperature)
    return copied


def _derivatives(network: CharRNN, ids: Ids, beta: float, execution: Execution) -> tuple[float, float]:
    """Of the stream's nats in 1/T, see `sharpness_derivatives`."""
    bounds = lane_bounds(len(ids) - 1, quick_lanes(len(ids)))
    weight, bias = network.readout.weight, network.readout.bias
    slope, curvature = 0.0, 0.0
    with evaluating(network):
        state = primed_state(network, ids, execution, bounds[:-1])
        for inputs_TB, targets_TB in pieces(network, ids, bounds[:-1], bounds[1:]):
            H_TBH, state = network.hidden(inputs_TB, state, execution)
            first, second = sharpness_derivatives(H_TBH.flatten(0, 1), weight, bias, targets_TB.flatten(), beta)
            slope, curvature = slope + first, curvature + second
    return slope, curvature
