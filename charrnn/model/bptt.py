"""Forward and backward through time written by hand: the `written` engine.

What the equations of cells.py leave to autograd stands here as arithmetic, arranged for speed:

- layer 1's one-hot product is the gather of a row of W_xh, and its gradient a scatter-add, so their cost does not
  depend on the vocabulary; the layers above take all steps in one product before the loop;
- W_hh is transposed once a window, which lets the product of every step run at the machine's matrix rate (measured
  with 32 x 256 by 256 x 1024 on 2 AVX-512 cores: 85 us, as a product with the transposed view 115 us);
- everything in the backward pass that does not wait for a later step is computed for all steps at once, before the
  loop: the loop itself is one product and a few multiplications;
- the gradients of W_hh, W_xh and the biases are one product or sum each over all steps, after the loop.

`dS` is the gradient of the loss in S. Suffixes: T steps, B lanes, H units, K = G * H the gates' sums side by side.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from charrnn.model.cells import Cell, State, Weights


def written(
    x: Tensor, state: State, layers: Sequence[Weights], cell: Cell, dropout: float = 0.0
) -> tuple[Tensor, State]:
    """The stack of layers by the functions below; the signature is that of every engine, see engines.py."""
    H_TBH, finals = x, []
    for l, weights in enumerate(layers):
        if dropout and l:
            H_TBH = functional.dropout(H_TBH, dropout)
        before = tuple(tensor_LBH[l] for tensor_LBH in state)
        if cell.name == "rnn":
            H_TBH, *final = _RNN.apply(H_TBH, *before, *weights, cell.activation)  # type: ignore[no-untyped-call]
        else:
            layer = _LSTM if cell.name == "lstm" else _GRU
            H_TBH, *final = layer.apply(H_TBH, *before, *weights)  # type: ignore[no-untyped-call]
        finals.append(final)
    return H_TBH, tuple(torch.stack(tensors) for tensors in zip(*finals, strict=True))


def _from_inputs(x: Tensor, weight_ih: Tensor, bias: Tensor) -> Tensor:
    """X W_xh + b over all steps, (T, B, K): rows of a table for ids, one product for vectors."""
    if x.is_floating_point():
        return functional.linear(x, weight_ih, bias)
    return functional.embedding(x, weight_ih.T + bias)


def _input_gradients(x: Tensor, weight_ih: Tensor, dsums_TBK: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of the inputs (None for ids), of W_xh (K, D) and of its bias (K,)."""
    dsums_NK = dsums_TBK.flatten(0, 1)
    dbias_K = dsums_NK.sum(0)
    if x.is_floating_point():
        return dsums_TBK @ weight_ih, dsums_NK.T @ x.flatten(0, 1), dbias_K
    dtable_VK = torch.zeros(weight_ih.shape[::-1], dtype=dsums_TBK.dtype, device=dsums_TBK.device)
    return None, dtable_VK.index_add_(0, x.flatten(), dsums_NK).T, dbias_K


def _states(first_BH: Tensor, steps: int) -> Tensor:
    """(T + 1, B, H) room for a state before and after every step, the first filled in."""
    states = first_BH.new_empty(steps + 1, *first_BH.shape)
    states[0] = first_BH
    return states


def _recurrent_gradient(dsums_TBK: Tensor, H_TBH: Tensor) -> Tensor:
    """Gradient of W_hh, (K, H), from the sums' gradients and the states before each step."""
    return dsums_TBK.flatten(0, 1).T @ H_TBH.flatten(0, 1)


class _RNN(torch.autograd.Function):
    """H_t = phi(X_t W_xh + H_{t-1} W_hh + b_h)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, H_BH: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, activation: str
    ) -> tuple[Tensor, Tensor]:
        sums_TBK = _from_inputs(x, w_ih, b_ih + b_hh)
        H_TBH = _states(H_BH, len(x))
        W_hh = w_hh.T.contiguous()
        phi = torch.relu if activation == "relu" else torch.tanh
        for t, sums_BK in enumerate(sums_TBK):
            H_TBH[t + 1] = phi(sums_BK.addmm_(H_TBH[t], W_hh))
        ctx.save_for_backward(x, w_ih, w_hh, H_TBH)
        ctx.activation = activation
        return H_TBH[1:], H_TBH[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dH_TBH: Tensor, dH_BH: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, H_TBH = ctx.saved_tensors
        after_TBH = H_TBH[1:]
        slope_TBH = (after_TBH > 0).to(H_TBH.dtype) if ctx.activation == "relu" else 1 - after_TBH * after_TBH
        dsums_TBK = slope_TBH  # turned into it step by step
        for t in range(len(dsums_TBK) - 1, -1, -1):
            dsums_TBK[t].mul_(dH_BH.add(dH_TBH[t]))
            dH_BH = dsums_TBK[t] @ w_hh
        dx, dw_ih, dbias_K = _input_gradients(x, w_ih, dsums_TBK)
        return dx, dH_BH, dw_ih, _recurrent_gradient(dsums_TBK, H_TBH[:-1]), dbias_K, dbias_K, None


class _LSTM(torch.autograd.Function):
    """Equations 10.1.1 to 10.1.4 with the gates i f g o side by side."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, H_BH: Tensor, C_BH: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        gates_TBK = _from_inputs(x, w_ih, b_ih + b_hh)
        steps, width = len(x), H_BH.shape[1]
        H_TBH, C_TBH = _states(H_BH, steps), _states(C_BH, steps)
        tanhC_TBH = torch.empty_like(H_TBH[1:])
        W_hh = w_hh.T.contiguous()
        for t, gates_BK in enumerate(gates_TBK):
            gates_BK.addmm_(H_TBH[t], W_hh)
            gates_BK[:, : 2 * width].sigmoid_()
            gates_BK[:, 2 * width : 3 * width].tanh_()
            gates_BK[:, 3 * width :].sigmoid_()
            i, f, g, o = gates_BK.chunk(4, dim=1)
            torch.mul(f, C_TBH[t], out=C_TBH[t + 1]).addcmul_(i, g)
            torch.tanh(C_TBH[t + 1], out=tanhC_TBH[t])
            torch.mul(o, tanhC_TBH[t], out=H_TBH[t + 1])
        ctx.save_for_backward(x, w_ih, w_hh, gates_TBK, H_TBH, C_TBH, tanhC_TBH)
        return H_TBH[1:], H_TBH[-1].clone(), C_TBH[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dH_TBH: Tensor, dH_BH: Tensor, dC_BH: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, gates_TBK, H_TBH, C_TBH, tanhC_TBH = ctx.saved_tensors
        i, f, g, o = gates_TBK.chunk(4, dim=2)
        # Each gate's sum moves the loss by dC (i, f, g) or dH (o) times a factor that is known already.
        dsums_TBGH = torch.stack(
            [g * i * (1 - i), C_TBH[:-1] * f * (1 - f), i * (1 - g * g), tanhC_TBH * o * (1 - o)], dim=2
        )
        H_to_C_TBH = o * (1 - tanhC_TBH * tanhC_TBH)
        dsums_TBK = dsums_TBGH.flatten(2)
        dC_BH = dC_BH.clone()
        for t in range(len(dsums_TBK) - 1, -1, -1):
            dH_BH = dH_TBH[t] + dH_BH
            dC_BH.addcmul_(dH_BH, H_to_C_TBH[t])
            dsums_TBGH[t, :, :3].mul_(dC_BH.unsqueeze(1))
            dsums_TBGH[t, :, 3].mul_(dH_BH)
            dC_BH.mul_(f[t])
            dH_BH = dsums_TBK[t] @ w_hh
        dx, dw_ih, dbias_K = _input_gradients(x, w_ih, dsums_TBK)
        return dx, dH_BH, dC_BH, dw_ih, _recurrent_gradient(dsums_TBK, H_TBH[:-1]), dbias_K, dbias_K


class _GRU(torch.autograd.Function):
    """Equations 10.2.1 to 10.2.3 with the gates r z n side by side and the reset after the product."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, H_BH: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
    ) -> tuple[Tensor, Tensor]:
        gates_TBK = _from_inputs(x, w_ih, b_ih)
        steps, width = len(x), H_BH.shape[1]
        H_TBH = _states(H_BH, steps)
        from_H_TBK = torch.empty_like(gates_TBK)
        W_hh = w_hh.T.contiguous()
        for t, gates_BK in enumerate(gates_TBK):
            from_H_BK = torch.addmm(b_hh, H_TBH[t], W_hh, out=from_H_TBK[t])
            gates_BK[:, : 2 * width].add_(from_H_BK[:, : 2 * width]).sigmoid_()
            r, z, n = gates_BK.chunk(3, dim=1)
            n.addcmul_(r, from_H_BK[:, 2 * width :]).tanh_()
            torch.lerp(n, H_TBH[t], z, out=H_TBH[t + 1])
        ctx.save_for_backward(x, w_ih, w_hh, gates_TBK, H_TBH, from_H_TBK[..., 2 * width :])
        return H_TBH[1:], H_TBH[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dH_TBH: Tensor, dH_BH: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, gates_TBK, H_TBH, hidden_n_TBH = ctx.saved_tensors
        r, z, n = gates_TBK.chunk(3, dim=2)
        # Every gate's sum moves the loss by dH times a factor that is known already.
        factor_n = (1 - z) * (1 - n * n)
        dhidden_TBGH = torch.stack(
            [factor_n * hidden_n_TBH * r * (1 - r), (H_TBH[:-1] - n) * z * (1 - z), factor_n * r], dim=2
        )
        dhidden_TBK = dhidden_TBGH.flatten(2)
        dn_TBH = factor_n
        for t in range(len(dhidden_TBK) - 1, -1, -1):
            dH_BH = dH_TBH[t] + dH_BH
            dhidden_TBGH[t].mul_(dH_BH.unsqueeze(1))
            dn_TBH[t].mul_(dH_BH)
            dH_BH = torch.addmm(dH_BH.mul_(z[t]), dhidden_TBK[t], w_hh)
        dw_hh, db_hh = _recurrent_gradient(dhidden_TBK, H_TBH[:-1]), dhidden_TBK.sum((0, 1))
        dsums_TBK = torch.cat([dhidden_TBK[..., : -dn_TBH.shape[2]], dn_TBH], dim=2)
        dx, dw_ih, db_ih = _input_gradients(x, w_ih, dsums_TBK)
        return dx, dH_BH, dw_ih, dw_hh, db_ih, db_hh
