"""One character at a time by tensor operations: the weights laid out once for that, the state updated in place.

A call of torch.nn per character spends most of its time outside the arithmetic. Here layer 1's one-hot product is the
copy of a row; the layers above take [x, h], side by side in memory, in one product; and every operation writes into
memory that was set aside for it, whose gates need not be cut out anew.

With int8 weights (each row of W with its own scale) hidden states are kept beside as codes of 8 bits, and a product
touches a quarter of the bytes: 4096 x 2048, one lane, on 2 Zen 5 cores with VNNI, 91 us in place of 700 to 1,400.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charrnn.model.cells import State, Weights
from charrnn.model.network import CharRNN
from charrnn.model.products import BoundProduct, bound_product, bound_quantized_product, quantize_states


class TensorStepper:
    """A Stepper on any device, of a network and a state as `stepper_for` takes them."""

    @torch.inference_mode()
    def __init__(self, network: CharRNN, state: State, lanes: int = 1, quantized: bool = False) -> None:
        make_layer = {"lstm": _LSTM, "gru": _GRU, "rnn": _RNN}[network.cell.name]
        weight, bias = network.readout.weight.detach(), network.readout.bias.detach()
        # A lane's row is h of layer 1, of layer 2, ...: a layer reads the one below and itself in one piece.
        rows_BLH = weight.new_empty(lanes, len(state[0]), weight.shape[1])
        rows_BLH[:] = state[0].detach().transpose(0, 1)
        read_BLH = torch.empty_like(rows_BLH, dtype=torch.uint8) if quantized else rows_BLH
        self._layers: list[_Layer] = []
        for l, parameters in enumerate(network.rnn.layers()):
            weights = Weights(*(tensor.detach() for tensor in parameters))
            own = [tensor[l].detach().to(weight.dtype).expand(lanes, -1).clone() for tensor in state[1:]]
            place = _Place(rows_BLH[:, l], own, read_BLH[:, max(l - 1, 0) : l + 1], l == 0, network.cell.activation)
            place.written()
            self._layers.append(make_layer(weights, place))
        embedding = None if network.embedding is None else network.embedding.weight.detach()
        self._table = self._layers[0].table(embedding)
        self._rows = self._table.unbind() if lanes == 1 else ()
        self._biases = [_added(layer.bias, lanes) for layer in self._layers[1:]]
        self._logits_BV, self._bias = weight.new_empty(lanes, len(bias)), _added(bias, lanes)
        self._readout = bound_product(weight, rows_BLH[:, -1], self._logits_BV)

    @torch.inference_mode()
    def step(self, ids_B: Tensor | npt.NDArray[np.int64]) -> Tensor:
        """See Stepper."""
        if self._rows:
            read = self._rows[int(ids_B[0])]
        else:
            read = self._table[torch.as_tensor(ids_B, device=self._table.device)]
        for layer, added in zip(self._layers, [read, *self._biases], strict=True):
            layer.step(added)
        self._readout(self._bias)
        return self._logits_BV

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """See Stepper."""
        self._readout(self._bias)
        return self._logits_BV


def _added(bias_K: Tensor, lanes: int) -> Tensor:
    """A bias as a BoundProduct adds it: (K,) to one lane, else (B, K)."""
    return bias_K.expand(lanes, -1).squeeze(0).clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class _Place:
    """Where a layer writes, and what its products read."""

    hidden_BH: Tensor
    own: list[Tensor]
    """The rest of its state: the LSTM's C_BH."""
    read_BPH: Tensor
    """The hidden states of the layer below, if there is one, and its own: the same memory, or 8-bit codes of it."""
    is_first: bool
    activation: str

    @property
    def lanes(self) -> int:
        """B."""
        return len(self.hidden_BH)

    def sums(self, weights: Weights) -> Tensor:
        """Room for the gates' sums, (B, K)."""
        return self.hidden_BH.new_empty(self.lanes, len(weights.weight_hh))

    def product(self, weight: Tensor, read_BD: Tensor, sums_BK: Tensor) -> BoundProduct:
        """The product with a weight of what is read, as numbers or as codes."""
        is_coded = self.read_BPH.dtype == torch.uint8
        return (bound_quantized_product if is_coded else bound_product)(weight, read_BD, sums_BK)

    def joined(self, weights: Weights, sums_BK: Tensor) -> BoundProduct:
        """The product of all that the layer reads with [W_xh W_hh], in layer 1 with W_hh alone."""
        weight = weights.weight_hh
        if not self.is_first:
            weight = torch.cat([weights.weight_ih, weight], dim=1)
        return self.product(weight, self.read_BPH.flatten(1), sums_BK)

    def written(self) -> None:
        """Make what has been written readable."""
        if self.read_BPH.dtype == torch.uint8:
            quantize_states(self.hidden_BH, into=self.read_BPH[:, -1])


class _Layer:
    """One layer's weights and state. `step(added)` reads what the layer below has just written.

    added: what does not depend on hidden states: in layer 1 the row of `table` for the character, else `bias`; (K,) for
    one lane, (B, K) for more.
    """

    weight_ih: Tensor
    bias: Tensor

    def __init__(self, weights: Weights, place: _Place) -> None:
        raise NotImplementedError

    def step(self, added: Tensor) -> None:
        """One character further."""
        raise NotImplementedError

    def table(self, embedding: Tensor | None) -> Tensor:
        """(V, K): what each character adds to the gates' sums, through its embedding if there is one."""
        columns = self.weight_ih.T if embedding is None else embedding @ self.weight_ih.T
        return (columns + self.bias).contiguous()


class _RNN(_Layer):
    def __init__(self, weights: Weights, place: _Place) -> None:
        self.weight_ih, self.bias = weights.weight_ih, weights.bias_ih + weights.bias_hh
        self._sums, self._place = place.sums(weights), place
        self._product = place.joined(weights, self._sums)

    def step(self, added: Tensor) -> None:
        self._product(added)
        if self._place.activation == "relu":
            torch.clamp_min(self._sums, 0, out=self._place.hidden_BH)
        else:
            torch.tanh(self._sums, out=self._place.hidden_BH)
        self._place.written()


class _LSTM(_Layer):
    def __init__(self, weights: Weights, place: _Place) -> None:
        # tanh(g) = 2 sigmoid(2 g) - 1: with g's rows doubled one sigmoid serves all gates.
        weights = Weights(*(_third_gate_doubled(tensor) for tensor in weights))
        self.weight_ih, self.bias = weights.weight_ih, weights.bias_ih + weights.bias_hh
        self._sums, self._place = place.sums(weights), place
        self._product = place.joined(weights, self._sums)
        self._i, self._f, self._g, self._o = self._sums.chunk(4, dim=1)
        (self._cell_state,) = place.own

    def step(self, added: Tensor) -> None:
        self._product(added)
        self._sums.sigmoid_()
        self._cell_state.mul_(self._f).addcmul_(self._i, self._g, value=2).sub_(self._i)
        torch.tanh(self._cell_state, out=self._place.hidden_BH).mul_(self._o)
        self._place.written()


class _GRU(_Layer):
    """Two products a step, since the reset gate stands between them: W_xh x and W_hh h."""

    def __init__(self, weights: Weights, place: _Place) -> None:
        self.weight_ih, self.bias = weights.weight_ih, weights.bias_ih
        self._from_x, from_h = place.sums(weights), place.sums(weights)
        below, own = place.read_BPH[:, 0], place.read_BPH[:, -1]
        self._read = self._from_x.copy_ if place.is_first else place.product(weights.weight_ih, below, self._from_x)
        self._recur, self._bias_hh = place.product(weights.weight_hh, own, from_h), _added(weights.bias_hh, place.lanes)
        H = place.hidden_BH.shape[1]
        (self._x_rz, self._x_n), (self._rz, self._h_n) = (
            torch.split(part, [2 * H, H], dim=1) for part in (self._from_x, from_h)
        )
        self._r, self._z = self._rz.chunk(2, dim=1)
        self._n, self._place = torch.empty_like(place.hidden_BH), place

    def step(self, added: Tensor) -> None:
        hidden = self._place.hidden_BH
        self._read(added)
        self._recur(self._bias_hh)
        self._rz.add_(self._x_rz).sigmoid_()
        torch.addcmul(self._x_n, self._r, self._h_n, out=self._n).tanh_()
        torch.lerp(self._n, hidden, self._z, out=hidden)
        self._place.written()


def _third_gate_doubled(stacked: Tensor) -> Tensor:
    i, f, g, o = stacked.chunk(4)
    return torch.cat([i, f, 2 * g, o])
