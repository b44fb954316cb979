"""One character at a time by steps.c, which goes through all layers and the readout in one call.

Suffixes: P panels of U neighbouring units, as many as one of the CPU's vectors holds; G gates; D what a product reads.
"""

import ctypes

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from charrnn.model.cells import State, Weights
from charrnn.model.compiled import biases
from charrnn.model.compiling import CELLS, Kernels
from charrnn.model.network import CharRNN
from charrnn.model.products import CODE_STEPS, CODE_ZERO, encoded, int8_rows

_WORTH_THREADS = 2**17
"""Multiplications of a step: with fewer it is over before another thread has begun."""

_CODES = 4
"""Of 8 bits, that one instruction multiplies by as many weights and sums."""


class _Matrix(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("panels", "scales", "offsets")]


class _Layer(ctypes.Structure):
    _fields_ = [
        ("w_xh", _Matrix),
        ("w_hh", _Matrix),
        *((name, ctypes.c_void_p) for name in ("added", "b_n", "C_BH")),
    ]


class _Network(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("cell", "coded", "lanes", "hidden", "depth", "vocabulary")),
        ("layers", ctypes.POINTER(_Layer)),
        *((name, ctypes.c_void_p) for name in ("readout", "readout_bias", "states", "codes", "logits")),
        ("latest", ctypes.c_int64),
    ]


class CompiledStepper:
    """One by C, on the CPU: the arguments of `stepper_for`."""

    @torch.inference_mode()
    def __init__(
        self, kernels: Kernels, network: CharRNN, state: State, lanes: int = 1, quantized: bool = False
    ) -> None:
        weight = network.readout.weight.detach()
        (V, H), L = weight.shape, len(state[0])
        self._kernels, self._quantized = kernels, quantized
        self._kept: list[Tensor] = []  # what C has the addresses of
        states = self._kernels.rows(weight, 2 * L, lanes, H)
        states[:L] = state[0].detach()
        codes = self._kernels.rows(torch.empty(0, dtype=torch.int32), 2 * L, lanes, -(-H // _CODES))
        if quantized:
            encoded(states[:L], into=codes.view(torch.uint8)[:L, :, :H])
        layers = [Weights(*(tensor.detach() for tensor in weights)) for weights in network.rnn.layers()]
        embedding = None if network.embedding is None else network.embedding.weight.detach()
        of_layers = []
        for l, weights in enumerate(layers):
            bias_K, b_n = biases(network.cell, weights.bias_ih, weights.bias_hh)
            if l == 0:  # each character's row, through its embedding if there is one
                columns = weights.weight_ih.T if embedding is None else embedding @ weights.weight_ih.T
                below, added = _Matrix(), (columns + bias_K).contiguous()
            else:
                below, added = self._matrix(weights.weight_ih, network.cell.gates), bias_K
            own = [tensor[l].detach().to(weight.dtype).expand(lanes, -1).clone() for tensor in state[1:]]
            itself = self._matrix(weights.weight_hh, network.cell.gates)
            of_layers.append(_Layer(below, itself, self._at(added), self._at(b_n), *map(self._at, own)))
        self._logits_BV = weight.new_empty(lanes, V)
        self._network = _Network(
            CELLS[network.cell.name, network.cell.activation],
            quantized,
            lanes,
            H,
            L,
            V,
            (_Layer * L)(*of_layers),
            self._at(_panels(weight, 1, self._kernels.units)),
            self._at(network.readout.bias.detach()),
            self._at(states),
            self._at(codes),
            self._at(self._logits_BV),
        )
        multiplications = lanes * sum(tensor.numel() for weights in layers[1:] for tensor in weights[:2])
        multiplications += lanes * (layers[0].weight_hh.numel() + weight.numel())
        threads = torch.get_num_threads() if multiplications >= _WORTH_THREADS else 1
        self._arguments = (ctypes.byref(self._network), threads)
        self._room = np.empty((threads, V))

    def step(self, ids_B: Tensor | npt.NDArray[np.int64]) -> Tensor:
        """See Stepper."""
        ids_B = np.ascontiguousarray(ids_B, dtype=np.int64)
        V = self._logits_BV.shape[1]
        if not (ids_B >= 0).all() or not (ids_B < V).all():  # C checks nothing
            raise IndexError(f"ids {ids_B}: expected numbers from 0 to {V - 1}")
        self._kernels.step(*self._arguments, ids_B.ctypes.data)
        return self._logits_BV

    def logits(self) -> Tensor:
        """See Stepper."""
        self._kernels.step(*self._arguments, None)
        return self._logits_BV

    def draw(
        self, uniforms_TB: npt.NDArray[np.float64], temperature: float, excluded: int | None
    ) -> npt.NDArray[np.int64]:
        """(T, B) ids drawn and read one after another, the first by the logits that were computed last.

        uniforms_TB: numbers in [0, 1) that decide, as in `charrnn.sampling.choosing.choose`. excluded: is never drawn.
        """
        uniforms_TB = np.ascontiguousarray(uniforms_TB)
        ids_TB = np.empty(uniforms_TB.shape, dtype=np.int64)
        operands = (len(ids_TB), uniforms_TB.ctypes.data, temperature, -1 if excluded is None else excluded)
        self._kernels.draw(*self._arguments, *operands, self._room.ctypes.data, ids_TB.ctypes.data)
        return ids_TB

    def _at(self, tensor: Tensor) -> int:
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _matrix(self, weight_KD: Tensor, gates: int) -> _Matrix:
        """A weight of a hidden layer as the products read it."""
        units = self._kernels.units
        if not self._quantized:
            return _Matrix(self._at(_panels(weight_KD, gates, units)))
        codes_KD, scales_K = int8_rows(weight_KD)
        offsets_K = -CODE_ZERO * codes_KD.sum(dim=1, dtype=torch.int32)
        return _Matrix(
            self._at(_panels(codes_KD, gates, units, _CODES)),
            self._at(_panels(scales_K[:, None] / CODE_STEPS, gates, units)),
            self._at(_panels(offsets_K[:, None], gates, units)),
        )


def _panels(weight_KD: Tensor, gates: int, units: int, together: int = 1) -> Tensor:
    """(P, D / together, G, U, together), with zeros where U or `together` does not divide what there is."""
    K, D = weight_KD.shape
    weight_GHD = weight_KD.view(gates, K // gates, D)
    weight_GHD = functional.pad(weight_GHD, (0, -D % together, 0, -(K // gates) % units))
    in_panels = weight_GHD.view(gates, -1, units, weight_GHD.shape[2] // together, together)
    return in_panels.permute(1, 3, 0, 2, 4).contiguous()
