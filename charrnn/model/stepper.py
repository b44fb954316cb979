"""One character at a time, for sampling: the weights laid out once for that, the state updated in place.

A call of torch.nn per character spends most of its time outside the arithmetic. Here layer 1's one-hot product is the
copy of a row; the layers above take [x, h], side by side in memory, in one product; the pointwise work is in place.

With int8 weights (each row of W with its own scale, activations in 8 bits, sums in whole numbers) a product touches a
quarter of the bytes: 4096 x 2048, one lane, on 2 Zen 5 cores with VNNI, 61 us in place of 1,400.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from charrnn.model.cells import State, Weights
from charrnn.model.network import CharRNN
from charrnn.model.products import Product, quantized_product, step_product

_ENDS = (-1.0, 1.0)
"""Of the 8-bit scale, which is that of a tanh's values. They stand beside every layer's hidden state, with weights of
zero, as the kernel takes its scale from the smallest and the largest number it reads: so it is the same for every lane
and character, and a sample is the same alone and in a batch."""


class Stepper:
    """A network's B lanes of state and the step that takes them one character further.

    state: each tensor (L, 1, H), repeated for all lanes, or (L, B, H). float32 or float64, as the network's weights.
    quantized: int8 weights in the hidden layers. Raises ConfigError where that cannot be had, see quantized_product.
    """

    def __init__(self, network: CharRNN, state: State, lanes: int = 1, quantized: bool = False) -> None:
        make_product = quantized_product if quantized else step_product
        make_layer = {"lstm": _LSTM, "gru": _GRU, "rnn": _RNN}[network.cell.name]
        phi = torch.relu if network.cell.activation == "relu" else torch.tanh
        weight, bias = network.readout.weight.detach(), network.readout.bias.detach()
        ends, H = weight.new_tensor(_ENDS if quantized else ()), weight.shape[1]
        # A lane's row is h of layer 1, the ends, h of layer 2, the ends, ...: a layer reads two neighbours at once.
        rows_BLW = weight.new_empty(lanes, len(state[0]), H + len(ends))
        rows_BLW[..., :H], rows_BLW[..., H:] = state[0].detach().transpose(0, 1), ends
        self._layers: list[_Layer] = []
        for l, parameters in enumerate(network.rnn.layers()):
            weights = Weights(*(tensor.detach() for tensor in parameters))
            own = [tensor[l].detach().to(weight.dtype).expand(lanes, -1).clone() for tensor in state[1:]]
            place = _Place(rows_BLW[:, max(l - 1, 0) : l + 1], H, is_first=l == 0)
            self._layers.append(make_layer(weights, place, own, phi, lambda W: make_product(W, lanes)))
        embedding = None if network.embedding is None else network.embedding.weight.detach()
        self._table = self._layers[0].table(embedding)
        self._biases = [layer.bias.expand(lanes, -1).squeeze(0).contiguous() for layer in self._layers[1:]]
        self._readout, self._bias = step_product(weight, lanes), bias.expand(lanes, -1).squeeze(0).contiguous()
        self._top, self._one = rows_BLW[:, -1, :H], lanes == 1

    def step(self, ids_B: Tensor) -> Tensor:
        """Read one id in each lane; the (B, V) logits of what follows."""
        rows = self._table[int(ids_B)] if self._one else self._table[ids_B]
        for layer, added in zip(self._layers, [rows, *self._biases], strict=True):
            layer.step(added)
        return self.logits()

    def logits(self) -> Tensor:
        """The (B, V) logits of what follows the state as it is, with nothing read."""
        return self._readout(self._top, self._bias)


@dataclass(frozen=True)
class _Place:
    """Where a layer reads and writes: its own part of the lanes' rows, and that of the layer below, if there is one.

    Parts are wider than H where the ends of a scale follow the hidden state.
    """

    parts_BPW: Tensor
    H: int
    is_first: bool

    @property
    def hidden(self) -> Tensor:
        """(B, H), where the hidden state is."""
        return self.parts_BPW[:, -1, : self.H]

    def part(self, index: int) -> Tensor:
        """(B, W): 0 is the layer below, -1 the layer's own hidden state."""
        return self.parts_BPW[:, index]

    def both(self) -> Tensor:
        """(B, W) or (B, 2 W): all that the layer reads, in one piece."""
        return self.parts_BPW.flatten(1)

    def widened(self, weight: Tensor) -> Tensor:
        """Weights (K, H) for a part: zero for what is beyond H."""
        return functional.pad(weight, (0, self.parts_BPW.shape[2] - self.H))

    def joined(self, weights: Weights) -> Tensor:
        """Weights for `both`: [W_xh W_hh], in layer 1 W_hh alone."""
        below = [] if self.is_first else [self.widened(weights.weight_ih)]
        return torch.cat([*below, self.widened(weights.weight_hh)], dim=1)


class _Layer:
    """One layer's weights and state. `step(added)` reads what the layer below has just written.

    added: what does not depend on hidden states: in layer 1 the row of `table` for the character, else `bias`; (K,) for
    one lane, (B, K) for more.
    """

    weight_ih: Tensor
    bias: Tensor

    def __init__(
        self,
        weights: Weights,
        place: _Place,
        own: list[Tensor],
        phi: Callable[..., Tensor],
        make_product: Callable[[Tensor], Product],
    ) -> None:
        raise NotImplementedError

    def step(self, added: Tensor) -> None:
        """One character further."""
        raise NotImplementedError

    def table(self, embedding: Tensor | None) -> Tensor:
        """(V, K): what each character adds to the gates' sums, through its embedding if there is one."""
        columns = self.weight_ih.T if embedding is None else embedding @ self.weight_ih.T
        return (columns + self.bias).contiguous()


class _RNN(_Layer):
    def __init__(
        self,
        weights: Weights,
        place: _Place,
        own: list[Tensor],
        phi: Callable[..., Tensor],
        make_product: Callable[[Tensor], Product],
    ) -> None:
        self.weight_ih, self.bias = weights.weight_ih, weights.bias_ih + weights.bias_hh
        self._product, self._inputs, self._hidden = make_product(place.joined(weights)), place.both(), place.hidden
        self._phi = phi

    def step(self, added: Tensor) -> None:
        self._hidden.copy_(self._phi(self._product(self._inputs, added)))


class _LSTM(_Layer):
    def __init__(
        self,
        weights: Weights,
        place: _Place,
        own: list[Tensor],
        phi: Callable[..., Tensor],
        make_product: Callable[[Tensor], Product],
    ) -> None:
        # Gates i f o g: the sigmoids side by side.
        order = [rows for gate in (0, 1, 3, 2) for rows in range(gate * place.H, (gate + 1) * place.H)]
        weights = Weights(*(tensor[order] for tensor in weights))
        self.weight_ih, self.bias = weights.weight_ih, weights.bias_ih + weights.bias_hh
        self._product, self._inputs, self._hidden = make_product(place.joined(weights)), place.both(), place.hidden
        self._cell_state, self._sigmoids = own[0], 3 * place.H

    def step(self, added: Tensor) -> None:
        sums = self._product(self._inputs, added)
        sums[:, : self._sigmoids].sigmoid_()
        i, f, o, g = sums.chunk(4, dim=1)
        self._cell_state.mul_(f).addcmul_(i, g.tanh_())
        torch.tanh(self._cell_state, out=self._hidden).mul_(o)


class _GRU(_Layer):
    """Two products a step, since the reset gate stands between them: W_xh x and W_hh h."""

    def __init__(
        self,
        weights: Weights,
        place: _Place,
        own: list[Tensor],
        phi: Callable[..., Tensor],
        make_product: Callable[[Tensor], Product],
    ) -> None:
        self.weight_ih, self.bias = weights.weight_ih, weights.bias_ih
        self._from_x = None if place.is_first else make_product(place.widened(weights.weight_ih))
        self._from_h = make_product(place.widened(weights.weight_hh))
        lanes = len(place.hidden)
        self._bias_hh = weights.bias_hh.expand(lanes, -1).squeeze(0).contiguous()
        self._x, self._h, self._hidden, self._gates = place.part(0), place.part(-1), place.hidden, 2 * place.H

    def step(self, added: Tensor) -> None:
        from_x = added.view(len(self._h), -1) if self._from_x is None else self._from_x(self._x, added)
        from_h = self._from_h(self._h, self._bias_hh)
        r, z = from_h[:, : self._gates].add_(from_x[:, : self._gates]).sigmoid_().chunk(2, dim=1)
        n = torch.addcmul(from_x[:, self._gates :], r, from_h[:, self._gates :]).tanh_()
        torch.lerp(n, self._hidden, z, out=self._hidden)
