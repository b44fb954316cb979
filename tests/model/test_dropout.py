"""Dropout drops what it says, scales the rest, and follows torch's random state."""

import pytest
import torch

from charrnn.model.dropout import dropout


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.95])
def test_so_many_are_dropped_and_the_mean_stays(p):
    torch.manual_seed(0)
    x = torch.full((1001, 997), 3.0)
    found = dropout(x, p)
    share = (found == 0).double().mean().item()
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    assert share == pytest.approx(p, abs=4 * deviation + 2**-17)
    assert found.double().mean().item() == pytest.approx(3, abs=3 * (4 * deviation + 2**-17) / (1 - p))
    assert len(found.unique()) == 2


def test_neighbours_are_dropped_independently():
    """Four numbers come of one draw."""
    torch.manual_seed(0)
    kept = (dropout(torch.ones(400_000), 0.5) > 0).double()
    for distance in (1, 2, 3, 4, 5):
        both = (kept[:-distance] * kept[distance:]).mean().item()
        assert both == pytest.approx(0.25, abs=0.003)


def test_the_gradient_is_that_of_what_was_kept():
    torch.manual_seed(0)
    x = torch.randn(7, 5, 3, dtype=torch.float64, requires_grad=True)
    found = dropout(x, 0.4)
    (gradient,) = torch.autograd.grad(found.sum(), [x])
    torch.testing.assert_close(found, gradient * x)
    assert gradient.unique().tolist() == pytest.approx([0.0, 1 / 0.6], abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 7), (0, 4)])
def test_any_shape_and_precision_follows_the_random_state(shape, dtype):
    x = torch.ones(shape, dtype=dtype)
    torch.manual_seed(3)
    one, after = dropout(x, 0.5), torch.get_rng_state()
    torch.manual_seed(3)
    other = dropout(x, 0.5)
    assert torch.equal(one, other)
    assert torch.equal(after, torch.get_rng_state())
    assert (one.shape, one.dtype) == (shape, dtype)


def test_nearly_everything_may_be_dropped():
    assert dropout(torch.ones(1000), 1 - 1e-9).isfinite().all()
