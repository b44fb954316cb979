"""The readout and the loss in one: cross-entropy without holding the logits of a whole window.

O = H W_hq + b_q (10.3.2) has V columns, several times as many as H in a text of many distinct characters, and the loss
needs every logit once: its value and its gradient, softmax(O) minus the one-hot target, are taken from a block of rows
while the block is in the cache. Suffixes: N = T * B rows, H units, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from charrnn.model.compiling import Kernels
from charrnn.text.minibatches import IGNORE

BLOCK = 2**21
"""Logits of a block, 8 MB in float32, which a cache may still hold. A text of 66 characters has all of a window in one.

On 2 Ice Lake cores by blocks of 2^18, 2^19, 2^20, 2^21, 2^22 logits, ms: 1,120 rows of 256 units, 2,614 characters 27,
26, 24, 25, 25; 1,024 rows of 128 units, 6,174 characters 68, 50, 44, 42, 42.
"""


def cross_entropy_sum(
    H_NH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor,
    targets_N: Tensor,
    kernels: Kernels | None = None,
) -> Tensor:
    """Nats summed over the targets that are not IGNORE, in the weights' precision; products in that of H_NH.

    The gradient, if any is wanted, is made on the way. kernels: those for the weights' precision, if the softmax is to
    be taken by them.
    """
    operands = (H_NH, weight_VH, bias_V)
    with_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in operands)
    nats: Tensor = _CrossEntropy.apply(*operands, targets_N, with_gradient, kernels)  # type: ignore[no-untyped-call]
    return nats


def logits(H: Tensor, weight_VH: Tensor, bias_V: Tensor) -> Tensor:
    """O = H W_hq + b_q (10.3.2), (..., V) of (..., H): the product in H's precision, the result in the weights'."""
    return functional.linear(H, weight_VH.to(H.dtype), bias_V.to(H.dtype)).to(weight_VH.dtype)


def sharpness_derivatives(
    H_NH: Tensor, weight_VH: Tensor, bias_V: Tensor, targets_N: Tensor, beta: float
) -> tuple[float, float]:
    """Slope and curvature in beta of the nats of softmax(beta O), summed over the targets that are not IGNORE.

    d/dbeta (ln sum exp(beta O) - beta O_target) = E[O] - O_target, whose derivative is Var[O], under softmax(beta O).
    """
    slope, curvature = 0.0, 0.0
    counted_N = targets_N != IGNORE
    H_NH, targets_N = H_NH[counted_N], targets_N[counted_N]
    for H, targets in zip(*(torch.split(rows_N, _rows(bias_V)) for rows_N in (H_NH, targets_N)), strict=True):
        O = logits(H, weight_VH, bias_V)
        O -= O.amax(1, keepdim=True)  # changes nothing but the rounding
        p = torch.softmax(beta * O, dim=1)
        mean_N1 = (p * O).sum(1, keepdim=True)
        slope += (mean_N1 - O.gather(1, targets.unsqueeze(1))).sum().item()
        curvature += (p * (O - mean_N1).square()).sum().item()
    return slope, curvature


def _rows(bias_V: Tensor) -> int:
    """Of a block of logits."""
    return max(1, BLOCK // len(bias_V))


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        H_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor,
        targets_N: Tensor,
        with_gradient: bool,
        kernels: Kernels | None,
    ) -> Tensor:
        dtype = H_NH.dtype
        W_VH, b_V = weight_VH.to(dtype), bias_V.to(dtype)
        nats = weight_VH.new_zeros(())
        gradients: tuple[Tensor, ...] = ()
        if with_gradient:
            dH_NH, dweight_VH, dbias_V = torch.empty_like(H_NH), torch.zeros_like(weight_VH), torch.zeros_like(bias_V)
            gradients = dH_NH, dweight_VH, dbias_V
        rows = _rows(bias_V)
        for start in range(0, len(H_NH), rows):
            H, targets = H_NH[start : start + rows], targets_N[start : start + rows]
            O = functional.linear(H, W_VH, b_V).to(weight_VH.dtype)
            if kernels is not None:
                nats += kernels.cross_entropy(O, targets, IGNORE, with_gradient)
                dO = O
            else:
                log_p = torch.log_softmax(O, dim=1)
                nats += functional.nll_loss(log_p, targets, reduction="sum", ignore_index=IGNORE)
                dO = _logit_gradient(log_p, targets) if with_gradient else log_p
            if with_gradient:
                dbias_V += dO.sum(0)
                dO = dO.to(dtype)
                torch.mm(dO, W_VH, out=dH_NH[start : start + rows])
                dweight_VH += dO.T @ H
        ctx.save_for_backward(*gradients)
        return nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dnats: Tensor) -> tuple[Tensor | None, ...]:
        dH_NH, dweight_VH, dbias_V = ctx.saved_tensors
        return dH_NH * dnats.to(dH_NH.dtype), dweight_VH * dnats, dbias_V * dnats, None, None, None


def _logit_gradient(log_p_NV: Tensor, targets_N: Tensor) -> Tensor:
    """softmax(O) minus the one-hot target, zero where there is none; takes the room of log_p_NV."""
    counts_N1 = (targets_N != IGNORE).unsqueeze(1)
    dO_NV = log_p_NV.exp_()
    dO_NV.scatter_add_(1, targets_N.clamp(min=0).unsqueeze(1), -torch.ones_like(dO_NV[:, :1]))
    return dO_NV.mul_(counts_N1)
