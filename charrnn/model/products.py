"""Products that are taken many times with the same matrix, laid out once for it."""

import platform
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

Product = Callable[[Tensor, Tensor | None], Tensor]


def repeated_product(weight: Tensor, lanes: int) -> Product:
    """(x_BD, sums_BK or None) -> sums + x W^T, for many x of `lanes` rows and one weight W (K, D).

    On an x86 CPU oneDNN takes W packed in its own blocks, and adds the sums in the same pass; the product of a step
    otherwise reads W in an order that is not the kernel's. Measured on 2 Zen 5 cores, us a product, packed against
    torch.addmm with W^T contiguous: 64 x 512 by 512 x 2048 float32 319 : 828, bfloat16 167 : 214; 32 x 256 by
    256 x 1024 float32 55 : 155, bfloat16 33 : 42. Elsewhere W^T is made contiguous (32 x 256 by 256 x 1024 on 2 Xeon
    cores: 85 us, with the transposed view 115).
    """
    if weight.device.type == "cpu" and weight.dtype in _packable():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), lanes)
        plain, adding = torch.ops.mkldnn._linear_pointwise.default, torch.ops.mkldnn._linear_pointwise.binary

        def packed_product(x_BD: Tensor, sums_BK: Tensor | None) -> Tensor:
            if sums_BK is None:
                product: Tensor = plain(x_BD, packed, None, "none", [], "")
            else:
                product = adding(x_BD, sums_BK, packed, None, "add")
            return product

        return packed_product
    W = weight.T.contiguous()
    return lambda x_BD, sums_BK: x_BD @ W if sums_BK is None else torch.addmm(sums_BK, x_BD, W)


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
