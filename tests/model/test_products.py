"""Products laid out once give what plain products give."""

import pytest
import torch

from charrnn.model import products
from charrnn.model.products import (
    bound_product,
    bound_quantized_product,
    can_quantize,
    quantize_states,
    repeated_product,
)

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


@pytest.mark.parametrize("packable", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rows", [1, 5])
def test_a_bound_product_reads_and_writes_where_it_is_bound_to(rows, dtype, packable, monkeypatch):
    if not packable:
        monkeypatch.setattr(products, "_packable", frozenset)
    x, weight, added = operands(rows, dtype)
    before, after = torch.randn(rows, 100, dtype=dtype), torch.randn(rows, 100, dtype=dtype)
    read, written = before[:, 11 : 11 + x.shape[1]], after[:, 30 : 30 + added.shape[1]]
    product, others = bound_product(weight, read, written), after.clone()
    for factor in (1, 2):
        read.copy_(x * factor)
        product(added[0] if rows == 1 else added)
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(written, factor * x @ weight.T + added, rtol=tolerance, atol=tolerance)
    written.zero_()
    others[:, 30 : 30 + added.shape[1]] = 0
    assert torch.equal(after, others)  # nothing beside it


@pytest.mark.skipif(not can_quantize(), reason="no fast products of int8 here")
@pytest.mark.parametrize("rows", [1, 5])
def test_a_quantized_product_is_that_of_the_rounded_numbers(rows):
    x, weight, added = operands(rows, torch.float32)
    x.clamp_(-1, 1)
    x[0, :3] = torch.tensor([-1.0, 0.0, 1.0])
    weight[3] = 0
    codes = torch.empty_like(x, dtype=torch.uint8)
    quantize_states(x, into=codes)
    assert codes[0, :3].tolist() == [1, 128, 255]
    scales = weight.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
    rounded_x, rounded_weight = (codes.double() - 128) / 127, torch.round(weight / scales).double() * scales.double()
    assert (rounded_x - x).abs().max() <= 0.5 / 127 + 1e-6
    found = torch.empty_like(added)
    bound_quantized_product(weight, codes, found)(added[0] if rows == 1 else added)
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
