"""One character at a time, for sampling: the weights laid out once for that, the state updated in place.

A call of torch.nn per character spends most of its time outside the arithmetic. Here layer 1's one-hot product is the
copy of a row; the layers above take [x, h], side by side in memory, in one product; the pointwise work is in place.

With int8 weights (each row of W with its own scale) hidden states are kept beside as codes of 8 bits, and a product
touches a quarter of the bytes: 4096 x 2048, one lane, on 2 Zen 5 cores with VNNI, 91 us in place of 700 to 1,400.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from charrnn.errors import ConfigError
from charrnn.model.cells import State, Weights
from charrnn.model.network import CharRNN
from charrnn.model.products import Product, encoded, quantized_product, require_int8, step_product


class Stepper:
    """A network's B lanes of state and the step that takes them one character further.

    state: each tensor (L, 1, H), repeated for all lanes, or (L, B, H). float32 or float64, as the network's weights.
    quantized: int8 weights in the hidden layers. Raises ConfigError where that cannot be had, see require_quantizable.
    """

    def __init__(self, network: CharRNN, state: State, lanes: int = 1, quantized: bool = False) -> None:
        make_product = quantized_product if quantized else step_product
        if quantized:
            require_quantizable(network)
        make_layer = {"lstm": _LSTM, "gru": _GRU, "rnn": _RNN}[network.cell.name]
        phi = torch.relu if network.cell.activation == "relu" else torch.tanh
        weight, bias = network.readout.weight.detach(), network.readout.bias.detach()
        # A lane's row is h of layer 1, of layer 2, ...: a layer reads the one below and itself in one piece.
        rows_BLH = weight.new_empty(lanes, len(state[0]), weight.shape[1])
        rows_BLH[:] = state[0].detach().transpose(0, 1)
        read_BLH = torch.empty_like(rows_BLH, dtype=torch.uint8) if quantized else rows_BLH
        self._layers: list[_Layer] = []
        for l, parameters in enumerate(network.rnn.layers()):
            weights = Weights(*(tensor.detach() for tensor in parameters))
            own = [tensor[l].detach().to(weight.dtype).expand(lanes, -1).clone() for tensor in state[1:]]
            place = _Place(rows_BLH[:, l], own, read_BLH[:, max(l - 1, 0) : l + 1], l == 0, make_product, phi)
            place.written()
            self._layers.append(make_layer(weights, place))
        embedding = None if network.embedding is None else network.embedding.weight.detach()
        self._table = self._layers[0].table(embedding)
        self._biases = [_added(layer.bias, lanes) for layer in self._layers[1:]]
        self._readout, self._bias = step_product(weight, lanes), _added(bias, lanes)
        self._top, self._id_is_here = rows_BLH[:, -1], lanes == 1 and weight.device.type == "cpu"

    def step(self, ids_B: Tensor) -> Tensor:
        """Read one id in each lane; the (B, V) logits of what follows."""
        rows = self._table[int(ids_B)] if self._id_is_here else self._table[ids_B].squeeze(0)
        for layer, added in zip(self._layers, [rows, *self._biases], strict=True):
            layer.step(added)
        return self.logits()

    def logits(self) -> Tensor:
        """The (B, V) logits of what follows the state as it is, with nothing read."""
        return self._readout(self._top, self._bias)


def require_quantizable(network: CharRNN) -> None:
    """Raise ConfigError where int8 weights cannot be had: see require_int8, and for hidden states without bounds."""
    if network.cell.activation == "relu":
        raise ConfigError("quantize: the hidden states of activation relu have no bounds to scale them by")
    require_int8(network.readout.weight)


def _added(bias_K: Tensor, lanes: int) -> Tensor:
    """A bias as a Product adds it: (K,) to one lane, else (B, K)."""
    return bias_K.expand(lanes, -1).squeeze(0).contiguous()


@dataclass(frozen=True)
class _Place:
    """Where a layer writes, what its products read, and how they are made."""

    hidden_BH: Tensor
    own: list[Tensor]
    """The rest of its state: the LSTM's C_BH."""
    read_BPH: Tensor
    """The hidden states of the layer below, if there is one, and its own: the same memory, or 8-bit codes of it."""
    is_first: bool
    make_product: Callable[[Tensor, int], Product]
    phi: Callable[..., Tensor]

    def both(self) -> Tensor:
        """(B, H) or (B, 2 H): all that the layer reads, in one piece."""
        return self.read_BPH.flatten(1)

    def product(self, weight: Tensor) -> Product:
        """The product with a weight for as many rows as there are lanes."""
        return self.make_product(weight, len(self.hidden_BH))

    def joined(self, weights: Weights) -> Product:
        """The product of `both` with [W_xh W_hh], in layer 1 with W_hh alone."""
        if self.is_first:
            return self.product(weights.weight_hh)
        return self.product(torch.cat([weights.weight_ih, weights.weight_hh], dim=1))

    def written(self) -> None:
        """Make what has been written readable."""
        if self.read_BPH.dtype == torch.uint8:
            encoded(self.hidden_BH, into=self.read_BPH[:, -1])


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
        self._product, self._inputs, self._place = place.joined(weights), place.both(), place

    def step(self, added: Tensor) -> None:
        self._place.hidden_BH.copy_(self._place.phi(self._product(self._inputs, added)))
        self._place.written()


class _LSTM(_Layer):
    def __init__(self, weights: Weights, place: _Place) -> None:
        # tanh(g) = 2 sigmoid(2 g) - 1: with g's rows doubled one sigmoid serves all gates.
        weights = Weights(*(_third_gate_doubled(tensor) for tensor in weights))
        self.weight_ih, self.bias = weights.weight_ih, weights.bias_ih + weights.bias_hh
        self._product, self._inputs, self._place = place.joined(weights), place.both(), place
        (self._cell_state,) = place.own

    def step(self, added: Tensor) -> None:
        i, f, g, o = self._product(self._inputs, added).sigmoid_().chunk(4, dim=1)
        self._cell_state.mul_(f).addcmul_(i, g, value=2).sub_(i)
        torch.tanh(self._cell_state, out=self._place.hidden_BH).mul_(o)
        self._place.written()


class _GRU(_Layer):
    """Two products a step, since the reset gate stands between them: W_xh x and W_hh h."""

    def __init__(self, weights: Weights, place: _Place) -> None:
        self.weight_ih, self.bias = weights.weight_ih, weights.bias_ih
        self._from_x = None if place.is_first else place.product(weights.weight_ih)
        self._from_h = place.product(weights.weight_hh)
        lanes, H = place.hidden_BH.shape
        self._bias_hh = _added(weights.bias_hh, lanes)
        self._x, self._h, self._place, self._gates = place.read_BPH[:, 0], place.read_BPH[:, -1], place, 2 * H

    def step(self, added: Tensor) -> None:
        hidden, gates = self._place.hidden_BH, self._gates
        from_x = added.view(len(hidden), -1) if self._from_x is None else self._from_x(self._x, added)
        from_h = self._from_h(self._h, self._bias_hh)
        r, z = from_h[:, :gates].add_(from_x[:, :gates]).sigmoid_().chunk(2, dim=1)
        n = torch.addcmul(from_x[:, gates:], r, from_h[:, gates:]).tanh_()
        torch.lerp(n, hidden, z, out=hidden)
        self._place.written()


def _third_gate_doubled(stacked: Tensor) -> Tensor:
    i, f, g, o = stacked.chunk(4)
    return torch.cat([i, f, 2 * g, o])
