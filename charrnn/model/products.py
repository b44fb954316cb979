"""Products that are taken many times with the same matrix, laid out once for it. Suffixes: B rows of D, K results."""

import platform
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from charrnn.errors import ConfigError

Product = Callable[[Tensor, Tensor], Tensor]
"""(x_BD, added: (B, K), or (K,) for one row) -> added + x W^T, (B, K), which is the caller's to overwrite."""

_STEPS, _ZERO = 127, 128
"""Of the 8-bit codes: steps from 0 to 1, and the code of 0."""

_LARGE = 2**19
"""Weights of a matrix-vector product from which packed ones are quicker. One row in float32, packed and plain, us:
512 x 256 25, 9; 1024 x 512 29, 32; 2048 x 512 44, 63; 2048 x 1024 81, 118 (2 Zen 5 cores)."""


def repeated_product(weight: Tensor, rows: int) -> Callable[[Tensor, Tensor | None], Tensor]:
    """The product with one weight W (K, D) for many x of several rows each; `added` may be None.

    On an x86 CPU oneDNN takes W packed in its own blocks, and adds in the same pass; otherwise the kernel reads W in an
    order that is not its own. Measured on 2 Zen 5 cores, us a product, packed against torch.addmm with W^T contiguous:
    64 x 512 by 512 x 2048 float32 319 : 828, bfloat16 167 : 214; 32 x 256 by 256 x 1024 float32 55 : 155, bfloat16
    33 : 42. Elsewhere W^T is made contiguous (32 x 256 by 256 x 1024 on 2 Xeon cores: 85 us; with the transposed view
    115).
    """
    if weight.device.type == "cpu" and weight.dtype in _packable():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
        plain, adding = torch.ops.mkldnn._linear_pointwise.default, torch.ops.mkldnn._linear_pointwise.binary

        def packed_product(x_BD: Tensor, added: Tensor | None) -> Tensor:
            if added is None:
                product: Tensor = plain(x_BD, packed, None, "none", [], "")
            else:
                product = adding(x_BD, added, packed, None, "add")
            return product

        return packed_product
    W = weight.T.contiguous()
    return lambda x_BD, added: x_BD @ W if added is None else torch.addmm(added, x_BD, W)


def step_product(weight: Tensor, rows: int) -> Product:
    """The same for a fixed number of rows, where one row is a matrix-vector product."""
    if rows > 1:
        return repeated_product(weight, rows)
    if weight.device.type == "cpu" and weight.dtype in _packable() and weight.numel() > _LARGE:
        packed, linear = (
            torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 1),
            torch.ops.mkldnn._linear_pointwise,
        )
        return lambda x_1D, added: linear(x_1D, packed, added, "none", [], "")
    weight = weight.contiguous()
    return lambda x_1D, added: functional.linear(x_1D, weight, added)


def encoded(x_BD: Tensor, into: Tensor) -> None:
    """Write numbers of -1 to 1 as codes of 8 bits (torch.uint8), in steps of 1/127 with 128 for zero."""
    into.copy_(x_BD.mul(_STEPS).add_(_ZERO + 0.5))


def quantized_product(weight: Tensor, rows: int) -> Product:
    """The same for x as `encoded`, with W in int8 and a scale for each of its K rows.

    The sums are whole numbers, so they do not depend on how many rows there are. Raises ConfigError for float64, off
    the CPU, and on one without products of 8 bits summed in 32 (VNNI), where sums could overflow or take longer.
    """
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        dtype = str(weight.dtype).removeprefix("torch.")
        raise ConfigError(
            f"quantize: int8 weights want a float32 model on the CPU, not {dtype} on {weight.device.type}"
        )
    if not can_quantize():
        raise ConfigError("quantize: this CPU, or this build of PyTorch, has no fast products of int8 (VNNI)")
    scales_K = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    codes_KD = torch.round(weight / scales_K[:, None]).to(torch.int8)
    packed, zeros_K = (
        torch.ops.onednn.qlinear_prepack(codes_KD, [rows, weight.shape[1]]),
        torch.zeros_like(scales_K).long(),
    )
    operands = (1 / _STEPS, _ZERO, packed, scales_K, zeros_K)
    alone, adding = torch.ops.onednn.qlinear_pointwise.default, torch.ops.onednn.qlinear_pointwise.binary
    result = (1.0, 0, torch.float32)
    if rows == 1:
        return lambda x_1D, added: alone(x_1D, *operands, added, *result, "none", [], "")
    return lambda x_BD, added: adding(x_BD, *operands, added, None, *result, 1.0, 0, "add", 1.0, "none", [], "")


def can_quantize() -> bool:
    """Whether int8 products are at hand: oneDNN's, which torch.compile's CPU backend calls, and VNNI."""
    has_them = torch._C._has_mkldnn and hasattr(torch.ops.onednn, "qlinear_pointwise")
    return has_them and bool(getattr(torch.cpu, "_is_vnni_supported", lambda: False)())


@lru_cache(maxsize=1)
def _packable() -> frozenset[torch.dtype]:
    """Precisions in which oneDNN packs weights here. Its operators are those that torch.compile's CPU backend calls."""
    operators = ("_reorder_linear_weight", "_linear_pointwise")
    has_them = torch._C._has_mkldnn and all(hasattr(torch.ops.mkldnn, name) for name in operators)
    if not has_them or platform.machine() not in ("x86_64", "AMD64"):
        return frozenset()
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return frozenset([torch.float32, torch.bfloat16])
    return frozenset([torch.float32])
