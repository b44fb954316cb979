"""The loss taken block by block is the loss of all logits at once."""

import pytest
import torch

from charrnn.model import readout
from charrnn.model.compiling import Kernels, usable_kernels
from charrnn.model.network import loss_sum
from charrnn.model.readout import cross_entropy_sum
from charrnn.text.minibatches import IGNORE as IGNORED

ROWS, HIDDEN, VOCABULARY = 23, 5, 11


def operands(dtype: torch.dtype = torch.float64, vocabulary: int = VOCABULARY) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    targets_N = torch.randint(vocabulary, (ROWS,), generator=generator)
    targets_N[[2, 7, 22]] = IGNORED
    return draw(ROWS, HIDDEN), draw(vocabulary, HIDDEN), draw(vocabulary), targets_N


@pytest.fixture(params=["tensors", "C"])
def kernels(request: pytest.FixtureRequest) -> Kernels | None:
    """For float64."""
    if request.param == "tensors":
        return None
    return usable_kernels(torch.float64, torch.device("cpu")) or pytest.skip("there is no C compiler here")


@pytest.mark.parametrize("vocabulary", [1, 11, 16, 37])
@pytest.mark.parametrize("rows", [1, 4, 100])
def test_values_and_gradients_are_those_of_all_logits_at_once(rows, vocabulary, kernels, monkeypatch):
    monkeypatch.setattr(readout, "BLOCK", rows * vocabulary)
    *leaves, targets_N = operands(vocabulary=vocabulary)
    H_NH, weight_VH, bias_V = leaves
    expected = loss_sum((H_NH @ weight_VH.T + bias_V)[None], targets_N[None]) / 20
    found = cross_entropy_sum(*leaves, targets_N, kernels) / 20
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_gradients_agree_with_finite_differences(kernels):
    *leaves, targets_N = operands()
    assert torch.autograd.gradcheck(lambda *tensors: cross_entropy_sum(*tensors, targets_N, kernels), leaves)


def test_without_a_gradient_the_value_is_the_same(kernels):
    *leaves, targets_N = operands()
    with torch.no_grad():
        without = cross_entropy_sum(*leaves, targets_N, kernels)
    assert without == cross_entropy_sum(*leaves, targets_N, kernels)
    constants = [leaf.detach() for leaf in leaves]
    assert without == cross_entropy_sum(*constants, targets_N, kernels)


def test_logits_far_apart_and_far_from_zero_lose_nothing(kernels):
    for shift in (-1e4, 0.0, 1e4):
        for spread in (0.0, 1.0, 1e3):
            bias_V = shift + spread * torch.linspace(-1, 1, VOCABULARY, dtype=torch.float64)
            nothing = torch.zeros(ROWS, HIDDEN, dtype=torch.float64), torch.zeros(VOCABULARY, HIDDEN).double()
            targets_N = torch.arange(ROWS) % VOCABULARY
            expected = torch.nn.functional.cross_entropy(bias_V.expand(ROWS, -1), targets_N, reduction="sum")
            torch.testing.assert_close(cross_entropy_sum(*nothing, bias_V, targets_N, kernels), expected)


def test_what_is_no_number_is_not_hidden(kernels):
    H_NH, weight_VH, bias_V, targets_N = operands()
    for value in (torch.nan, torch.inf):
        spoilt = bias_V.detach().clone()
        spoilt[3] = value
        assert cross_entropy_sum(H_NH, weight_VH, spoilt, targets_N, kernels).isnan()


@pytest.mark.parametrize("wrong", [-1, VOCABULARY])
def test_targets_outside_of_the_vocabulary_are_refused(wrong, kernels):
    *leaves, targets_N = operands()
    targets_N[5] = wrong
    with pytest.raises(IndexError, match=r"out of bounds|expected ids from 0 to 10"):
        cross_entropy_sum(*leaves, targets_N, kernels)


@pytest.mark.parametrize("threads", [1, 3])
def test_in_float32_the_softmax_in_c_is_as_near_as_pytorchs(threads):
    """Of characters that are hardly possible too, of which there may be thousands."""
    kernels = usable_kernels(torch.float32, torch.device("cpu")) or pytest.skip("there is no C compiler here")
    torch.set_num_threads(threads)
    logits_NV = torch.randn(29, 131, generator=torch.Generator().manual_seed(0)) * 8
    targets_N = torch.arange(29) * 4
    exact = logits_NV.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(exact, targets_N, reduction="sum")
    (gradient_NV,) = torch.autograd.grad(expected, exact)
    nats = kernels.cross_entropy(logits_NV, targets_N, IGNORED, with_gradient=True)
    torch.testing.assert_close(nats.double(), expected.detach(), rtol=1e-6, atol=0)
    assert gradient_NV.abs().min() < 1e-20
    torch.testing.assert_close(logits_NV.double(), gradient_NV, rtol=1e-5, atol=1e-30)


def test_bfloat16_products_keep_the_sum_and_the_weights_gradient_in_float32():
    H_NH, weight_VH, bias_V, targets_N = operands(torch.float32)
    exact = cross_entropy_sum(H_NH, weight_VH, bias_V, targets_N)
    half = H_NH.detach().bfloat16().requires_grad_()
    found = cross_entropy_sum(half, weight_VH, bias_V, targets_N)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0)
    gradients = torch.autograd.grad(found, (half, weight_VH, bias_V))
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32, torch.float32]


def test_targets_that_are_all_ignored_give_zero(kernels):
    *leaves, targets_N = operands()
    found = cross_entropy_sum(*leaves, torch.full_like(targets_N, IGNORED), kernels)
    assert found == 0
    assert all(not gradient.any() for gradient in torch.autograd.grad(found, leaves))


def test_slope_and_curvature_in_the_logits_factor_are_those_of_the_loss(monkeypatch):
    monkeypatch.setattr(readout, "BLOCK", 11 * 3)
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
