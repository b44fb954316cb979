"""The hidden layers as equations: one time step of an RNN, a GRU and an LSTM, beside the book's numbers.

The book is Zhang, Lipton, Li and Smola, "Dive into Deep Learning" (d2l.ai, version 1.0). Its X_t is `X_BD`, its
H_{t-1} is `H_BH`, and W_xh, W_hh, b_h are drawn from a layer's `Weights`, which are stored as torch.nn stores them:
transposed, with the gates stacked (LSTM i f g o; GRU r z n) and the bias in two halves. This is the readable truth
that every engine is tested against; autograd differentiates it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

CellName = Literal["rnn", "gru", "lstm"]
State = tuple[Tensor, ...]
"""What a layer or a stack carries through time: (H,), and for the LSTM (H, C)."""

Drop = Callable[[Tensor], Tensor]
"""What the layers between which it stands read of H_TBH: some of it dropped."""


class Weights(NamedTuple):
    """One layer's parameters, G gates stacked, D inputs, H units: named and shaped as in torch.nn."""

    weight_ih: Tensor  # (G * H, D)
    weight_hh: Tensor  # (G * H, H)
    bias_ih: Tensor  # (G * H,)
    bias_hh: Tensor  # (G * H,)


@dataclass(frozen=True)
class Cell:
    """Which equations the hidden layers follow. `activation` is phi, for the RNN alone."""

    name: CellName
    activation: Literal["tanh", "relu"] = "tanh"

    @property
    def gates(self) -> int:
        """G, the products of width H that one step needs."""
        return {"rnn": 1, "gru": 3, "lstm": 4}[self.name]

    @property
    def states(self) -> int:
        """Tensors carried through time."""
        return 2 if self.name == "lstm" else 1

    @property
    def step(self) -> Callable[[Tensor, State, Weights], State]:
        """The cell's function (X_BD, state, weights) -> state; the new H_BH is its first member."""
        return {"rnn": rnn_relu if self.activation == "relu" else rnn_tanh, "gru": gru, "lstm": lstm}[self.name]


def rnn_tanh(X_BD: Tensor, state: State, weights: Weights) -> State:
    """H_t = phi(X_t W_xh + H_{t-1} W_hh + b_h) with phi = tanh (9.4.5; in layer l of a deep network, 10.3.1)."""
    return (torch.tanh(_rnn_sum(X_BD, state, weights)),)


def rnn_relu(X_BD: Tensor, state: State, weights: Weights) -> State:
    """The same with phi = max(0, .)."""
    return (torch.relu(_rnn_sum(X_BD, state, weights)),)


def _rnn_sum(X_BD: Tensor, state: State, weights: Weights) -> Tensor:
    (H_BH,) = state
    W_xh, W_hh = weights.weight_ih.T, weights.weight_hh.T
    b_h = weights.bias_ih + weights.bias_hh
    return X_BD @ W_xh + H_BH @ W_hh + b_h


def lstm(X_BD: Tensor, state: State, weights: Weights) -> State:
    """Gates (10.1.1), input node (10.1.2), cell internal state (10.1.3), hidden state (10.1.4)."""
    H_BH, C_BH = state
    W_x, W_h = weights.weight_ih.T, weights.weight_hh.T
    b = weights.bias_ih + weights.bias_hh
    i, f, g, o = (X_BD @ W_x + H_BH @ W_h + b).chunk(4, dim=-1)
    I, F, O = torch.sigmoid(i), torch.sigmoid(f), torch.sigmoid(o)
    C_tilde = torch.tanh(g)
    C = F * C_BH + I * C_tilde
    H = O * torch.tanh(C)
    return H, C


def gru(X_BD: Tensor, state: State, weights: Weights) -> State:
    """Gates (10.2.1), candidate (10.2.2), hidden state (10.2.3).

    The reset gate acts after the product, R * (H W_hh + b_hn), as cuDNN and torch.nn have it (Cho et al. 2014, first
    version); the book has (R * H) W_hh. Only so can the three products with H be one.
    """
    (H_BH,) = state
    W_x, W_h = weights.weight_ih.T, weights.weight_hh.T
    x_r, x_z, x_n = (X_BD @ W_x + weights.bias_ih).chunk(3, dim=-1)
    h_r, h_z, h_n = (H_BH @ W_h + weights.bias_hh).chunk(3, dim=-1)
    R, Z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    H_tilde = torch.tanh(x_n + R * h_n)
    return (Z * H_BH + (1 - Z) * H_tilde,)
