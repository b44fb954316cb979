"""Products that are taken many times with the same matrix, laid out once for it. Suffixes: B rows of D, K results."""

import platform
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from charrnn.errors import ConfigError

BoundProduct = Callable[[Tensor], object]
"""added -> writes added + x W^T where the caller reads it, with x and the result in places fixed beforehand.

added: (B, K), or (K,) for one row.
"""

STATE_LEVELS, ZERO_POINT = 127, 128
"""Of hidden states in 8 bits: the steps from 0 to 1, and the code that stands for 0."""


def repeated_product(weight: Tensor, rows: int) -> Callable[[Tensor, Tensor | None], Tensor]:
    """The product with one weight W (K, D) for many x of several rows each; `added` may be None.

    On an x86 CPU oneDNN takes W packed in its own blocks, and adds in the same pass; otherwise the kernel reads W in an
    order that is not its own. Measured on 2 Zen 5 cores, us a product, packed against torch.addmm with W^T contiguous:
    64 x 512 by 512 x 2048 float32 319 : 828, bfloat16 167 : 214; 32 x 256 by 256 x 1024 float32 55 : 155, bfloat16
    33 : 42. Elsewhere W^T is made contiguous (32 x 256 by 256 x 1024 on 2 Xeon cores: 85 us; with the transposed view
    115).
    """
    if weight.device.type == "cpu" and weight.dtype in _packable():
        return _packed(weight, rows)
    W = weight.T.clone(memory_format=torch.contiguous_format)
    return lambda x_BD, added: x_BD @ W if added is None else torch.addmm(added, x_BD, W)


def _packed(weight: Tensor, rows: int) -> Callable[[Tensor, Tensor | None], Tensor]:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
    plain, adding = torch.ops.mkldnn._linear_pointwise.default, torch.ops.mkldnn._linear_pointwise.binary

    def product(x_BD: Tensor, added: Tensor | None) -> Tensor:
        if added is None:
            result: Tensor = plain(x_BD, packed, None, "none", [], "")
        else:
            result = adding(x_BD, added, packed, None, "add")
        return result

    return product


def bound_product(weight: Tensor, x_BD: Tensor, out_BK: Tensor) -> BoundProduct:
    """The same with x and the result in fixed places. One row is a matrix-vector product. The weights are copied."""
    if len(x_BD) == 1:
        W, x_D, out_K = weight.clone(memory_format=torch.contiguous_format), x_BD[0], out_BK[0]
        return lambda added_K: torch.addmv(added_K, W, x_D, out=out_K)
    product = repeated_product(weight, len(x_BD))
    return lambda added_BK: out_BK.copy_(product(x_BD, added_BK))


def quantize_states(x_BD: Tensor, into: Tensor) -> None:
    """Write numbers of -1 to 1 as codes of 8 bits (torch.uint8), in steps of 1/127 with 128 for zero."""
    into.copy_(x_BD.mul(STATE_LEVELS).add_(ZERO_POINT + 0.5))


def bound_quantized_product(weight: Tensor, x_BD: Tensor, out_BK: Tensor) -> BoundProduct:
    """The same for x as `quantize_states`, with W in int8 and a scale for each of its K rows.

    The sums are whole numbers, so they do not depend on how many rows there are. Raises ConfigError as require_int8.
    """
    require_int8(weight)
    product = _quantized(weight, len(x_BD))
    return lambda added: out_BK.copy_(product(x_BD, added))


def require_int8(weight: Tensor) -> None:
    """Raise ConfigError for float64, off the CPU, and on one without products of 8 bits summed in 32 (VNNI).

    There sums could overflow, or take longer.
    """
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        dtype = str(weight.dtype).removeprefix("torch.")
        raise ConfigError(
            f"quantize: int8 weights want a float32 model on the CPU, not {dtype} on {weight.device.type}"
        )
    if not can_quantize():
        raise ConfigError("quantize: this CPU, or this build of PyTorch, has no fast products of int8 (VNNI)")


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """W (K, D) as int8, and what each of its K rows is to be multiplied by."""
    scales_K = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return torch.round(weight / scales_K[:, None]).to(torch.int8), scales_K


def _quantized(weight: Tensor, rows: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The product of codes (B, D) and what is added to it, (B, K), or (K,) for one row."""
    codes_KD, scales_K = quantize_rows(weight)
    packed, zeros_K = (
        torch.ops.onednn.qlinear_prepack(codes_KD, [rows, weight.shape[1]]),
        torch.zeros_like(scales_K).long(),
    )
    operands = (1 / STATE_LEVELS, ZERO_POINT, packed, scales_K, zeros_K)
    alone, adding = torch.ops.onednn.qlinear_pointwise.default, torch.ops.onednn.qlinear_pointwise.binary
    result = (1.0, 0, torch.float32)
    if rows == 1:
        return lambda x_1D, added: alone(x_1D, *operands, added, *result, "none", [], "")
    return lambda x_BD, added: adding(x_BD, *operands, added, None, *result, 1.0, 0, "add", 1.0, "none", [], "")


@lru_cache(maxsize=1)
def can_quantize() -> bool:
    """Whether int8 products are at hand: oneDNN's, which torch.compile's CPU backend calls, and VNNI.

    They are no documented interface, so a small product is tried rather than a version of PyTorch trusted.
    """
    if not torch._C._has_mkldnn or not getattr(torch.cpu, "_is_vnni_supported", lambda: False)():
        return False
    weight, x_BD = torch.tensor([[1.0, -0.5, 0.25], [0.0, 2.0, 1.0]]), torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, 1.0]])
    codes_BD, added = torch.empty_like(x_BD, dtype=torch.uint8), torch.ones(2, 2)
    quantize_states(x_BD, into=codes_BD)
    try:
        found = [_quantized(weight, 1)(codes_BD[:1], added[0]), _quantized(weight, 2)(codes_BD, added)]
    except (AttributeError, RuntimeError, TypeError):
        return False
    expected = x_BD @ weight.T + added
    return all(torch.allclose(result, expected[: len(result)], atol=0.05) for result in found)


@lru_cache(maxsize=1)
def _packable() -> frozenset[torch.dtype]:
    """Precisions in which oneDNN packs weights here.

    Its operators are those that torch.compile's CPU backend calls, and no documented interface: they are tried.
    """
    if not torch._C._has_mkldnn or platform.machine() not in ("x86_64", "AMD64"):
        return frozenset()
    return frozenset(dtype for dtype in (torch.float32, torch.bfloat16) if _packs(dtype))


def _packs(dtype: torch.dtype) -> bool:
    weight, x_BD, added = (
        torch.tensor([[1.0, 2.0, 3.0]]),
        torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]),
        torch.ones(2, 1),
    )
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        found = _packed(weight.to(dtype), 2)(x_BD.to(dtype), added.to(dtype))
    except (AttributeError, RuntimeError, TypeError):
        return False
    return bool((found.float() == torch.tensor([[4.0], [6.0]])).all())
