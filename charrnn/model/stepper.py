"""What takes a network one character at a time, for sampling: by C, by tensor operations, or by the equations."""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charrnn.errors import ConfigError
from charrnn.model.cells import State
from charrnn.model.compiled_stepper import CompiledStepper
from charrnn.model.compiling import usable_kernels
from charrnn.model.engines import reference
from charrnn.model.network import CharRNN
from charrnn.model.products import can_quantize, require_int8
from charrnn.model.tensor_stepper import TensorStepper

_FEW = 8
"""Lanes up to which one thread that reads the weights is enough. A guess, for macOS, where steps.c has but one: the
products of more lanes are for all that the machine has."""


class Stepper(Protocol):
    """A network's B lanes of state, and the step that takes them one character further."""

    def step(self, ids_B: Tensor | npt.NDArray[np.int64]) -> Tensor:
        """Read one id in each lane; the (B, V) logits of what follows, which the next step overwrites."""

    def logits(self) -> Tensor:
        """The (B, V) logits of what follows the state as it is, with nothing read; the next step overwrites them."""


class EquationStepper:
    """A Stepper by cells.py itself, of a network and a state as `stepper_for` takes them."""

    def __init__(self, network: CharRNN, state: State, lanes: int) -> None:
        self._network = network
        self._state = tuple(tensor.detach().expand(-1, lanes, -1) for tensor in state)

    @torch.inference_mode()
    def step(self, ids_B: Tensor | npt.NDArray[np.int64]) -> Tensor:
        """See Stepper."""
        network = self._network
        x = torch.as_tensor(ids_B, device=network.device)[None]
        x = x if network.embedding is None else network.embedding(x)
        _, self._state = reference(x, self._state, network.rnn.layers(), network.cell)
        return self.logits()

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """See Stepper."""
        return self._network.outputs(self._state[0][-1])


def stepper_for(network: CharRNN, state: State, lanes: int = 1, quantized: bool = False) -> Stepper:
    """A stepper by steps.c where that can be compiled and is not slower, elsewhere by tensor operations.

    Of a network that runs by its equations: one that does.

    state: each tensor (L, 1, H), repeated for all lanes, or (L, B, H). float32 or float64, as the network's weights.
    quantized: int8 weights in the hidden layers. Raises ConfigError where that cannot be had, see require_quantizable.
    """
    if quantized:
        require_quantizable(network)
    if network.by_equations:
        return EquationStepper(network, state, lanes)
    kernels = usable_kernels(network.readout.weight.dtype, network.device)
    if kernels is None or (quantized and not kernels.has_int8):
        return TensorStepper(network, state, lanes, quantized)
    slower = lanes > _FEW and not kernels.has_threads
    if slower and (not quantized or can_quantize()):
        return TensorStepper(network, state, lanes, quantized)
    return CompiledStepper(kernels, network, state, lanes, quantized)


def require_quantizable(network: CharRNN) -> None:
    """Raise ConfigError where int8 weights cannot be had: see require_int8, and for hidden states without bounds."""
    if network.by_equations:
        raise ConfigError("quantize: a model of engine reference is run by its equations, which have no int8 weights")
    if network.cell.activation == "relu":
        raise ConfigError("quantize: the hidden states of activation relu have no bounds to scale them by")
    if not _has_int8(network):
        require_int8(network.readout.weight)


def worth_quantizing(network: CharRNN) -> int:
    """Elements of W_hh in all layers from which int8 weights, where they can be had, are faster one text at a time.

    Measured on 2 Ice Lake cores. By steps.c: LSTM 1 x 64, with half of them, the same speed; 2 x 128, with four times
    of them, 1.8 times. By tensor operations: 2 x 512, with half of them, 0.9 times; 3 x 1024, with three times, 2.2.
    """
    return 2**15 if _has_int8(network) else 2**22


def _has_int8(network: CharRNN) -> bool:
    kernels = usable_kernels(network.readout.weight.dtype, network.device)
    return kernels is not None and kernels.has_int8
