"""Products laid out once give what plain products give."""

import pytest
import torch

from charrnn.model import products
from charrnn.model.products import can_quantize, encoded, quantized_product, repeated_product, step_product

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05}


def operands(rows: int, dtype: torch.dtype, inner: int = 37, columns: int = 53) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (rows, inner), (columns, inner), (rows, columns)
    return [torch.randn(shape, generator=generator).mul_(0.3).to(dtype) for shape in shapes]


@pytest.mark.parametrize("packable", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_a_repeated_product_is_the_product(rows, dtype, packable, monkeypatch):
    if not packable:
        monkeypatch.setattr(products, "_packable", frozenset)
    x, weight, added = operands(rows, dtype)
    expected = x.double() @ weight.double().T
    for layout in (weight, weight.T.contiguous().T):
        product = repeated_product(layout, rows)
        for found, sums in ((product(x, None), expected), (product(x, added), expected + added.double())):
            assert found.dtype == dtype
            torch.testing.assert_close(found.double(), sums, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("rows", [1, 5])
def test_a_step_product_adds_a_row_to_each_row_and_takes_rows_that_lie_apart(rows, large, monkeypatch):
    monkeypatch.setattr(products, "_LARGE", 0 if large else 2**30)
    x, weight, added = operands(rows, torch.float32)
    apart = torch.randn(rows, 100)
    apart[:, 11 : 11 + x.shape[1]] = x
    found = step_product(weight, rows)(apart[:, 11 : 11 + x.shape[1]], added[0] if rows == 1 else added)
    torch.testing.assert_close(found, x @ weight.T + added, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not can_quantize(), reason="no fast products of int8 here")
@pytest.mark.parametrize("rows", [1, 5])
def test_a_quantized_product_is_that_of_the_rounded_numbers(rows):
    x, weight, added = operands(rows, torch.float32)
    x.clamp_(-1, 1)
    x[0, :3] = torch.tensor([-1.0, 0.0, 1.0])
    weight[3] = 0
    codes = torch.empty_like(x, dtype=torch.uint8)
    encoded(x, into=codes)
    assert codes[0, :3].tolist() == [1, 128, 255]
    scales = weight.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
    rounded_x, rounded_weight = (codes.double() - 128) / 127, torch.round(weight / scales).double() * scales.double()
    assert (rounded_x - x).abs().max() <= 0.5 / 127 + 1e-6
    found = quantized_product(weight, rows)(codes, added[0] if rows == 1 else added)
    torch.testing.assert_close(found.double(), rounded_x @ rounded_weight.T + added.double(), rtol=1e-5, atol=1e-5)


def test_operators_that_another_pytorch_lacks_or_has_in_another_form_are_not_used(monkeypatch):
    def other(*arguments: object) -> None:
        raise TypeError("another signature")

    with monkeypatch.context() as patch:
        for name, check in (("_packed", products._packable), ("_quantized", products.can_quantize)):
            patch.setattr(products, name, other)
            check.cache_clear()
            assert not check()
    products._packable.cache_clear()
    products.can_quantize.cache_clear()
