"""The loss taken block by block is the loss of all logits at once."""

import pytest
import torch

from charrnn.model import readout
from charrnn.model.network import loss_sum
from charrnn.model.readout import IGNORE as IGNORED
from charrnn.model.readout import cross_entropy_sum
from charrnn.text import minibatches

ROWS, HIDDEN, VOCABULARY = 23, 5, 11


def operands(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    targets_N = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    targets_N[[2, 7, 22]] = IGNORED
    return draw(ROWS, HIDDEN), draw(VOCABULARY, HIDDEN), draw(VOCABULARY), targets_N


def test_targets_that_do_not_count_are_called_the_same_everywhere():
    assert IGNORED == minibatches.IGNORE


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_values_and_gradients_are_those_of_all_logits_at_once(rows, monkeypatch):
    monkeypatch.setattr(readout, "_BLOCK", rows * VOCABULARY)
    *leaves, targets_N = operands()
    H_NH, weight_VH, bias_V = leaves
    expected = loss_sum((H_NH @ weight_VH.T + bias_V)[None], targets_N[None]) / 20
    found = cross_entropy_sum(*leaves, targets_N, True) / 20
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_gradients_agree_with_finite_differences():
    *leaves, targets_N = operands()
    assert torch.autograd.gradcheck(lambda *tensors: cross_entropy_sum(*tensors, targets_N, True), leaves)


def test_without_a_gradient_the_value_is_the_same():
    *leaves, targets_N = operands()
    with torch.no_grad():
        assert cross_entropy_sum(*leaves, targets_N, False) == cross_entropy_sum(*leaves, targets_N, True)


def test_bfloat16_products_keep_the_sum_and_the_weights_gradient_in_float32():
    H_NH, weight_VH, bias_V, targets_N = operands(torch.float32)
    exact = cross_entropy_sum(H_NH, weight_VH, bias_V, targets_N, True)
    half = H_NH.detach().bfloat16().requires_grad_()
    found = cross_entropy_sum(half, weight_VH, bias_V, targets_N, True)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0)
    gradients = torch.autograd.grad(found, (half, weight_VH, bias_V))
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32, torch.float32]


def test_targets_that_are_all_ignored_give_zero():
    *leaves, targets_N = operands()
    found = cross_entropy_sum(*leaves, torch.full_like(targets_N, IGNORED), True)
    assert found == 0
    assert all(not gradient.any() for gradient in torch.autograd.grad(found, leaves))


def test_slope_and_curvature_in_the_logits_factor_are_those_of_the_loss(monkeypatch):
    monkeypatch.setattr(readout, "_BLOCK", 11 * 3)
    generator = torch.Generator().manual_seed(0)
    H_NH, weight_VH, bias_V = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((17, 5), (11, 5), (11,))
    )
    targets_N = torch.randint(11, (17,), generator=generator)
    targets_N[[0, 7]] = IGNORED

    def nats(beta: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(beta * (H_NH @ weight_VH.T + bias_V), targets_N, reduction="sum")

    beta = torch.tensor(1.3, dtype=torch.float64)
    slope, curvature = readout.sharpness_derivatives(H_NH, weight_VH, bias_V, targets_N, 1.3)
    assert slope == pytest.approx(torch.autograd.functional.jacobian(nats, beta).item())
    assert curvature == pytest.approx(torch.autograd.functional.hessian(nats, beta).item())
