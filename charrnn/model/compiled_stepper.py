"""One character at a time by steps.c, which goes through all layers and the readout in one call.

Suffixes: P panels of U neighbouring units, as many as one of the CPU's vectors holds; G gates; D what a product reads.
"""

import ctypes

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from charrnn.model.bptt import split_biases
from charrnn.model.cells import State, Weights
from charrnn.model.compiling import CELLS, Kernels
from charrnn.model.network import CharRNN
from charrnn.model.products import STATE_LEVELS, ZERO_POINT, quantize_rows, quantize_states

_WORTH_A_THREAD, _WORTH_A_THREAD_INT8 = 2**16, 2**18
"""Multiplications of a step to each thread; with fewer it is over before one more has begun. On 2 Ice Lake cores a step
of one lane took one and two threads, us: RNN 2 x 64 3.8, 4.3; LSTM 2 x 128 18, 13; quantized, 2 x 128 7.6, 7.5, 2 x 256
21, 13."""

_TOGETHER = 4
"""Codes of 8 bits that are multiplied and summed by one instruction."""


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
        *((name, ctypes.c_int64) for name in ("cell", "quantized", "lanes", "hidden", "depth", "vocabulary")),
        ("layers", ctypes.POINTER(_Layer)),
        *((name, ctypes.c_void_p) for name in ("readout", "readout_bias", "states", "codes", "logits")),
        ("latest", ctypes.c_int64),
    ]


class CompiledStepper:
    """A Stepper in C, on the CPU, of a network and a state as `stepper_for` takes them.

    quantized: where `kernels.has_int8`.
    """

    @torch.inference_mode()
    def __init__(
        self, kernels: Kernels, network: CharRNN, state: State, lanes: int = 1, quantized: bool = False
    ) -> None:
        self._kernels, self._quantized, self._lanes = kernels, quantized, lanes
        self._kept: list[Tensor] = []
        """What C has the addresses of."""
        weight = network.readout.weight.detach()
        (V, H), L = weight.shape, len(state[0])
        self._logits_BV = weight.new_empty(lanes, V)
        states_2LBH = weight.new_zeros(2, L, lanes, kernels.row_of(H))
        states_2LBH[0, ..., :H] = state[0].detach()
        row = _TOGETHER * kernels.row_of(-(-H // _TOGETHER))
        codes_2LBH = weight.new_zeros(2, L, lanes, row, dtype=torch.uint8)
        if quantized:
            quantize_states(states_2LBH[0, ..., :H], into=codes_2LBH[0, ..., :H])
        self._network = _Network(
            cell=CELLS[network.cell.name, network.cell.activation],
            quantized=quantized,
            lanes=lanes,
            hidden=H,
            depth=L,
            vocabulary=V,
            layers=self._layers(network, state),
            readout=self._at(_panels(weight, 1, kernels.units)),
            readout_bias=self._at(network.readout.bias.detach().clone()),
            states=self._at(states_2LBH),
            codes=self._at(codes_2LBH),
            logits=self._at(self._logits_BV),
        )
        _, *matrices = (matrix for weights in network.rnn.layers() for matrix in weights[:2])  # layer 1's W_xh is read
        multiplications = lanes * sum(matrix.numel() for matrix in (*matrices, weight))
        worth = multiplications // (_WORTH_A_THREAD_INT8 if quantized else _WORTH_A_THREAD)
        threads = min(torch.get_num_threads(), max(worth, 1))
        self._arguments, self._room = (ctypes.byref(self._network), threads), np.empty((threads, V))

    def step(self, ids_B: Tensor | npt.NDArray[np.int64]) -> Tensor:
        """See Stepper."""
        ids_B, V = np.ascontiguousarray(ids_B, dtype=np.int64), self._logits_BV.shape[1]
        if ids_B.shape != (self._lanes,) or not ((ids_B >= 0) & (ids_B < V)).all():  # C checks nothing
            raise IndexError(f"ids {ids_B}: expected {self._lanes} numbers from 0 to {V - 1}")
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
        uniforms_TB = np.ascontiguousarray(uniforms_TB, dtype=np.float64)
        assert uniforms_TB.shape[1] == self._lanes
        ids_TB = np.empty(uniforms_TB.shape, dtype=np.int64)
        operands = (len(ids_TB), uniforms_TB.ctypes.data, temperature, -1 if excluded is None else excluded)
        self._kernels.draw(*self._arguments, *operands, self._room.ctypes.data, ids_TB.ctypes.data)
        return ids_TB

    def _layers(self, network: CharRNN, state: State) -> "ctypes.Array[_Layer]":
        cell, embedding = network.cell, network.embedding
        found = []
        for l, parameters in enumerate(network.rnn.layers()):
            weights = Weights(*(tensor.detach() for tensor in parameters))
            bias_K, b_n = split_biases(cell.name, weights.bias_ih, weights.bias_hh)
            layer = _Layer(w_hh=self._matrix(weights.weight_hh, cell.gates), b_n=self._at(b_n.clone()))
            if l == 0:  # each character's row, through its embedding if there is one
                columns = weights.weight_ih.T if embedding is None else embedding.weight.detach() @ weights.weight_ih.T
                layer.added = self._at((columns + bias_K).contiguous())
            else:
                layer.w_xh, layer.added = self._matrix(weights.weight_ih, cell.gates), self._at(bias_K)
            if cell.name == "lstm":
                C_BH = state[1][l].detach().to(bias_K.dtype).expand(self._lanes, -1)
                layer.C_BH = self._at(C_BH.clone(memory_format=torch.contiguous_format))
            found.append(layer)
        return (_Layer * len(found))(*found)

    def _matrix(self, weight_KD: Tensor, gates: int) -> _Matrix:
        """A weight of a hidden layer as the products read it."""
        units = self._kernels.units
        if not self._quantized:
            return _Matrix(panels=self._at(_panels(weight_KD, gates, units)))
        codes_KD, scales_K = quantize_rows(weight_KD)
        offsets_K = -ZERO_POINT * codes_KD.sum(dim=1, dtype=torch.int32)
        return _Matrix(
            panels=self._at(_panels(codes_KD, gates, units, _TOGETHER)),
            scales=self._at(_panels(scales_K[:, None] / STATE_LEVELS, gates, units)),
            offsets=self._at(_panels(offsets_K[:, None], gates, units)),
        )

    def _at(self, tensor: Tensor) -> int:
        self._kept.append(tensor)
        return tensor.data_ptr()


def _panels(weight_KD: Tensor, gates: int, units: int, together: int = 1) -> Tensor:
    """(P, D / together, G, U, together), with zeros where U or `together` does not divide what there is."""
    K, D = weight_KD.shape
    weight_GHD = weight_KD.reshape(gates, K // gates, D)
    weight_GHD = functional.pad(weight_GHD, (0, -D % together, 0, -(K // gates) % units))
    in_panels = weight_GHD.view(gates, -1, units, weight_GHD.shape[2] // together, together)
    return in_panels.permute(1, 3, 0, 2, 4).contiguous()
