"""Forward and backward through time in C: the `compiled` engine, where there is a compiler for it, see compiling.py.

What kernels.c does not do, the products over all steps at once, is PyTorch's. Suffixes: T steps, B lanes, H units,
K = G * H the gates' sums side by side.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from charrnn.model.bptt import input_gradients, recurrent_gradient, require_ids, split_biases, through_layers
from charrnn.model.cells import Cell, Drop, State, Weights
from charrnn.model.compiling import Kernels, kernels_for


def compiled(
    x: Tensor, state: State, layers: Sequence[Weights], cell: Cell, drop: Drop | None = None
) -> tuple[Tensor, State]:
    """The stack of layers by kernels.c; the signature is that of every engine, see engines.py.

    Raises ConfigError off the CPU, in bfloat16, and where nothing can be compiled.
    """
    kernels = kernels_for(layers[0].weight_hh.dtype, layers[0].weight_hh.device)
    how = (kernels, cell, torch.is_grad_enabled())

    def layer(x: Tensor, before: State, weights: Weights) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = _Layer.apply(*how, x, *weights, *before)  # type: ignore[no-untyped-call]
        return outputs

    return through_layers(layer, x, state, layers, drop)


class _Layer(torch.autograd.Function):
    """(kernels, cell, whether a backward pass may come, x, the weights, state) -> H_TBH and the last state."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        cell: Cell,
        with_gradient: bool,
        x: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor,
        b_hh: Tensor,
        *before: Tensor,
    ) -> tuple[Tensor, ...]:
        (T, B), H = x.shape[:2], w_hh.shape[1]
        H_TBH = kernels.rows(w_hh, T + 1, B, H)
        H_TBH[0] = before[0]
        C_BH = None
        if cell.name == "lstm":
            C_BH = before[1].to(w_hh.dtype).expand(B, H).clone(memory_format=torch.contiguous_format)
        kept = kernels.kept(w_hh, cell, T, B, H) if with_gradient else None
        bias_K, b_n = split_biases(cell.name, b_ih, b_hh)
        ids_TB = _ids(x, w_ih.shape[1])
        x = x if ids_TB is None else ids_TB
        table = functional.linear(x, w_ih, bias_K) if ids_TB is None else (w_ih.T + bias_K).contiguous()
        w_hh = w_hh.contiguous()
        kernels.run("forward", cell, (T, B, H), ids_TB, table, w_hh, b_n, kernels.packed(w_hh), H_TBH, C_BH, kept)
        ctx.save_for_backward(x, w_ih, w_hh, H_TBH, kept)
        ctx.kernels, ctx.cell = kernels, cell
        return H_TBH[1:], H_TBH[-1].clone(), *([] if C_BH is None else [C_BH])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dH_TBH: Tensor, *dstate: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, H_TBH, kept = ctx.saved_tensors
        (T, B), (K, H) = x.shape[:2], w_hh.shape
        dstate = tuple(tensor_BH.clone(memory_format=torch.contiguous_format) for tensor_BH in dstate)
        dH_BH, dC_BH = dstate if len(dstate) == 2 else (dstate[0], None)
        ids_TB = None if x.is_floating_point() else x
        dtable_VK = None if ids_TB is None else w_ih.new_zeros(w_ih.shape[1], K)
        dsums_TBK = ctx.kernels.rows(w_hh, T, B, K)
        dn_TBH = w_hh.new_empty(T, B, H) if ctx.cell.name == "gru" else None
        known = (ids_TB, w_hh, ctx.kernels.packed(w_hh), H_TBH, kept, dH_TBH.contiguous())
        ctx.kernels.run("backward", ctx.cell, (T, B, H), *known, dH_BH, dC_BH, dsums_TBK, dn_TBH, dtable_VK)
        if dtable_VK is not None:
            dx, dw_ih, db_ih = None, dtable_VK.T, dtable_VK.sum(0)
        else:
            from_inputs_TBK = dsums_TBK if dn_TBH is None else torch.cat([dsums_TBK[..., : K - H], dn_TBH], dim=2)
            dx, dw_ih, db_ih = input_gradients(x, w_ih, from_inputs_TBK)
        db_hh = db_ih if dn_TBH is None else torch.cat([db_ih[: K - H], dsums_TBK[..., K - H :].sum((0, 1))])
        return None, None, None, dx, dw_ih, recurrent_gradient(dsums_TBK, H_TBH[:-1]), db_ih, db_hh, *dstate


def _ids(x: Tensor, vocabulary_size: int) -> Tensor | None:
    """As the kernels read them, which check nothing; None for vectors."""
    if x.is_floating_point():
        return None
    require_ids(*torch.aminmax(x), vocabulary_size)
    return x.to(torch.int64).contiguous()
