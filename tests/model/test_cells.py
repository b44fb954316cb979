"""The cells' equations, against numbers worked out by hand from the book's formulas."""

import math

import pytest
import torch

from charrnn.model.cells import Cell, Weights


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def one_unit_weights(inputs: list[float], hiddens: list[float], biases: list[float]) -> Weights:
    """Weights of one input and one hidden unit, a number a gate; the bias is split unevenly over its two halves."""
    column = [torch.tensor(values, dtype=torch.float64)[:, None] for values in (inputs, hiddens)]
    bias = torch.tensor(biases, dtype=torch.float64)
    return Weights(column[0], column[1], 0.25 * bias, 0.75 * bias)


def scalar(value: float) -> torch.Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


@pytest.mark.parametrize("x", [2.0, -2.0])
def test_rnn_follows_equation_9_4_5(x):
    weights = one_unit_weights([0.5], [-0.3], [0.1])
    total = x * 0.5 + 0.7 * -0.3 + 0.1
    assert Cell("rnn").step(scalar(x), (scalar(0.7),), weights)[0].item() == pytest.approx(math.tanh(total))
    assert Cell("rnn", "relu").step(scalar(x), (scalar(0.7),), weights)[0].item() == pytest.approx(max(total, 0))


def test_lstm_follows_equations_10_1_1_to_10_1_4_with_gates_in_the_order_i_f_g_o():
    x, h, c = 1.5, 0.4, -0.8
    inputs, hiddens, biases = [0.2, -0.4, 0.6, 0.8], [0.1, 0.3, -0.5, 0.7], [0.05, 1.0, -0.1, 0.2]
    sums = [x * i + h * j + b for i, j, b in zip(inputs, hiddens, biases, strict=True)]
    new_c = sigmoid(sums[1]) * c + sigmoid(sums[0]) * math.tanh(sums[2])
    state = Cell("lstm").step(scalar(x), (scalar(h), scalar(c)), one_unit_weights(inputs, hiddens, biases))
    assert state[1].item() == pytest.approx(new_c)
    assert state[0].item() == pytest.approx(sigmoid(sums[3]) * math.tanh(new_c))


def test_gru_follows_equations_10_2_1_to_10_2_3_with_the_reset_after_the_product():
    x, h = 1.5, 0.4
    inputs, hiddens, biases = [0.2, -0.4, 0.6], [0.1, 0.3, -0.5], [0.05, 1.0, -0.1]
    r, z = (sigmoid(x * inputs[k] + h * hiddens[k] + biases[k]) for k in (0, 1))
    candidate = math.tanh(x * inputs[2] + 0.25 * biases[2] + r * (h * hiddens[2] + 0.75 * biases[2]))
    (found,) = Cell("gru").step(scalar(x), (scalar(h),), one_unit_weights(inputs, hiddens, biases))
    assert found.item() == pytest.approx(z * h + (1 - z) * candidate)
