"""Forward and backward through time written by hand: the `written` engine.

What the equations of cells.py leave to autograd stands here as arithmetic, arranged for speed:

- layer 1's one-hot product is the gather of a row of W_xh, of those characters alone that the window holds if the
  vocabulary is larger, and its gradient a scatter-add; the layers above take all steps in one product before the loop;
- W_hh is laid out once a window for the products of all its steps, see products.py;
- everything in the backward pass that does not wait for a later step is computed for all steps at once, before the
  loop: the loop itself is one product, which adds the gradient from above, and a few multiplications;
- the gradients of W_hh, W_xh and the biases are one product or sum each over all steps, after the loop.

`dS` is the gradient of the loss in S. Suffixes: T steps, B lanes, H units, K = G * H the gates' sums side by side.
`sigmoid_gradient(dS, S)` is dS * S * (1 - S), `tanh_gradient(dS, S)` is dS * (1 - S * S): one pass each.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from charrnn.model.cells import Cell, CellName, Drop, State, Weights
from charrnn.model.products import repeated_product

sigmoid_gradient = torch.ops.aten.sigmoid_backward.grad_input
tanh_gradient = torch.ops.aten.tanh_backward.grad_input


def written(
    x: Tensor, state: State, layers: Sequence[Weights], cell: Cell, drop: Drop | None = None
) -> tuple[Tensor, State]:
    """The stack of layers by the functions below; the signature is that of every engine, see engines.py."""

    def layer(x: Tensor, before: State, weights: Weights) -> tuple[Tensor, ...]:
        function = {"rnn": _RNN, "gru": _GRU, "lstm": _LSTM}[cell.name]
        more = (cell.activation,) if cell.name == "rnn" else ()
        outputs: tuple[Tensor, ...] = function.apply(x, *before, *weights, *more)  # type: ignore[no-untyped-call]
        return outputs

    return through_layers(layer, x, state, layers, drop)


def through_layers(
    layer: Callable[[Tensor, State, Weights], tuple[Tensor, ...]],
    x: Tensor,
    state: State,
    layers: Sequence[Weights],
    drop: Drop | None,
) -> tuple[Tensor, State]:
    """One layer after the other. layer: (x, its state, its weights) -> H_TBH and its state after the last step."""
    if not x.is_floating_point() and x.is_cpu and layers[0].weight_ih.shape[1] > x.numel():
        x, layers = _of_used_characters(x, layers)  # on a GPU the host would have to wait for it
    H_TBH, finals = x, []
    for l, weights in enumerate(layers):
        H_TBH = drop(H_TBH) if drop and l else H_TBH
        H_TBH, *final = layer(H_TBH, tuple(tensor_LBH[l] for tensor_LBH in state), weights)
        finals.append(final)
    return H_TBH, tuple(torch.stack(tensors) for tensors in zip(*finals, strict=True))


def _of_used_characters(ids_TB: Tensor, layers: Sequence[Weights]) -> tuple[Tensor, list[Weights]]:
    """Ids into those columns alone of layer 1's W_xh that the window holds, and the layers with them."""
    used_U, ids_TB = torch.unique(ids_TB, return_inverse=True)
    require_ids(used_U[0], used_U[-1], layers[0].weight_ih.shape[1])
    return ids_TB, [layers[0]._replace(weight_ih=layers[0].weight_ih[:, used_U]), *layers[1:]]


def require_ids(smallest: Tensor, largest: Tensor, vocabulary_size: int) -> None:
    """Raise IndexError for ids that are outside of the vocabulary."""
    if smallest < 0 or largest >= vocabulary_size:
        raise IndexError(f"ids from {smallest} to {largest}; expected 0 to {vocabulary_size - 1}")


def split_biases(cell: CellName, b_ih: Tensor, b_hh: Tensor) -> tuple[Tensor, Tensor]:
    """(K,) that are added to the sums from inputs, and what is left of b_hh: of a GRU's n, (H,).

    That belongs to the sum from H, which the reset gate multiplies.
    """
    shared = len(b_hh) // 3 * 2 if cell == "gru" else len(b_hh)
    return torch.cat([b_ih[:shared] + b_hh[:shared], b_ih[shared:]]), b_hh[shared:].contiguous()


def _from_inputs(x: Tensor, weight_ih: Tensor, bias: Tensor) -> Tensor:
    """X W_xh + b over all steps, (T, B, K): rows of a table for ids, one product for vectors."""
    if x.is_floating_point():
        return functional.linear(x, weight_ih, bias)
    return functional.embedding(x, weight_ih.T + bias)


def input_gradients(x: Tensor, weight_ih: Tensor, dsums_TBK: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
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


def recurrent_gradient(dsums_TBK: Tensor, H_TBH: Tensor) -> Tensor:
    """Gradient of W_hh, (K, H), from the sums' gradients and the states before each step."""
    return dsums_TBK.flatten(0, 1).T @ H_TBH.flatten(0, 1)


class _RNN(torch.autograd.Function):
    """H_t = phi(X_t W_xh + H_{t-1} W_hh + b_h)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, H_BH: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, activation: str
    ) -> tuple[Tensor, Tensor]:
        H_TBH = _states(H_BH, len(x))
        add_product = repeated_product(w_hh, len(H_BH))
        for sums_BK, H_BH, after_BH in zip(_from_inputs(x, w_ih, b_ih + b_hh), H_TBH[:-1], H_TBH[1:], strict=True):
            sums_BK = add_product(H_BH, sums_BK)
            if activation == "relu":
                torch.clamp_min(sums_BK, 0, out=after_BH)
            else:
                torch.tanh(sums_BK, out=after_BH)
        ctx.save_for_backward(x, w_ih, w_hh, H_TBH)
        ctx.activation = activation
        return H_TBH[1:], H_TBH[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dH_TBH: Tensor, dH_BH: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, H_TBH = ctx.saved_tensors
        # dsum_t = dH_t phi'(sum_t)     dH_{t-1} = dsum_t W_hh + what comes from above
        dsums_TBK = torch.empty_like(H_TBH[1:])
        add_product = repeated_product(w_hh.T, len(dH_BH))
        dH_BH = dH_BH + dH_TBH[-1]
        for t in range(len(dsums_TBK) - 1, -1, -1):
            if ctx.activation == "relu":
                torch.mul(dH_BH, H_TBH[t + 1] > 0, out=dsums_TBK[t])
            else:
                tanh_gradient(dH_BH, H_TBH[t + 1], grad_input=dsums_TBK[t])
            dH_BH = add_product(dsums_TBK[t], dH_TBH[t - 1] if t else None)
        dx, dw_ih, dbias_K = input_gradients(x, w_ih, dsums_TBK)
        return dx, dH_BH, dw_ih, recurrent_gradient(dsums_TBK, H_TBH[:-1]), dbias_K, dbias_K, None


class _LSTM(torch.autograd.Function):
    """Equations 10.1.1 to 10.1.4 with the gates i f g o side by side."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, H_BH: Tensor, C_BH: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        gates_TBK = _from_inputs(x, w_ih, b_ih + b_hh)
        H = H_BH.shape[1]
        H_TBH, C_TBH = _states(H_BH, len(x)), _states(C_BH, len(x))
        tanhC_TBH = torch.empty_like(H_TBH[1:])
        add_product = repeated_product(w_hh, len(H_BH))
        i_f_TBK, g_TBH, o_TBH = torch.split(gates_TBK, [2 * H, H, H], dim=2)
        i_TBH, f_TBH = i_f_TBK.chunk(2, dim=2)
        rows = zip(gates_TBK, i_f_TBK, i_TBH, f_TBH, g_TBH, o_TBH, tanhC_TBH, strict=True)
        for t, (gates_BK, i_f, i, f, g, o, tanhC) in enumerate(rows):
            sums_BK = add_product(H_TBH[t], gates_BK)
            torch.sigmoid(sums_BK[:, : 2 * H], out=i_f)
            torch.tanh(sums_BK[:, 2 * H : 3 * H], out=g)
            torch.sigmoid(sums_BK[:, 3 * H :], out=o)
            torch.mul(f, C_TBH[t], out=C_TBH[t + 1]).addcmul_(i, g)
            torch.mul(o, torch.tanh(C_TBH[t + 1], out=tanhC), out=H_TBH[t + 1])
        ctx.save_for_backward(x, w_ih, w_hh, gates_TBK, H_TBH, C_TBH, tanhC_TBH)
        return H_TBH[1:], H_TBH[-1].clone(), C_TBH[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dH_TBH: Tensor, dH_BH: Tensor, dC_BH: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, gates_TBK, H_TBH, C_TBH, tanhC_TBH = ctx.saved_tensors
        i, f, g, o = gates_TBK.chunk(4, dim=2)
        # With I, F, G, O the gates after their function and i, f, g, o their sums, by the chain rule on 10.1.1 to
        # 10.1.4:
        #   dC_t = dC_{t+1} F_{t+1} + dH_t O (1 - tanh^2 C_t)
        #   di = dC_t G I (1 - I)       df = dC_t C_{t-1} F (1 - F)
        #   dg = dC_t I (1 - G^2)       do = dH_t tanh C_t O (1 - O)
        #   dH_{t-1} = [di df dg do] W_hh + what comes from above
        # Each is dC (i, f, g) or dH (o) times a factor that is known already.
        dsums_TBK = torch.empty_like(gates_TBK)
        factor_i, factor_f, factor_g, factor_o = dsums_TBK.chunk(4, dim=2)
        sigmoid_gradient(g, i, grad_input=factor_i)
        sigmoid_gradient(C_TBH[:-1], f, grad_input=factor_f)
        tanh_gradient(i, g, grad_input=factor_g)
        sigmoid_gradient(tanhC_TBH, o, grad_input=factor_o)
        H_to_C_TBH = torch.empty_like(tanhC_TBH)
        tanh_gradient(o, tanhC_TBH, grad_input=H_to_C_TBH)
        add_product = repeated_product(w_hh.T, len(dH_BH))
        steps, lanes, H = dH_TBH.shape
        by_C_TBGH = dsums_TBK[..., : 3 * H].view(steps, lanes, 3, H)
        dH_BH, dC_BH = dH_BH + dH_TBH[-1], dC_BH.clone()
        for t in range(len(dsums_TBK) - 1, -1, -1):
            dC_BH.addcmul_(dH_BH, H_to_C_TBH[t])
            by_C_TBGH[t].mul_(dC_BH.unsqueeze(1))
            factor_o[t].mul_(dH_BH)
            dC_BH.mul_(f[t])
            dH_BH = add_product(dsums_TBK[t], dH_TBH[t - 1] if t else None)
        dx, dw_ih, dbias_K = input_gradients(x, w_ih, dsums_TBK)
        return dx, dH_BH, dC_BH, dw_ih, recurrent_gradient(dsums_TBK, H_TBH[:-1]), dbias_K, dbias_K


class _GRU(torch.autograd.Function):
    """Equations 10.2.1 to 10.2.3 with the gates r z n side by side and the reset after the product."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, H_BH: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
    ) -> tuple[Tensor, Tensor]:
        H = H_BH.shape[1]
        bias_K, b_n = split_biases("gru", b_ih, b_hh)
        gates_TBK = _from_inputs(x, w_ih, bias_K)
        H_TBH = _states(H_BH, len(x))
        hidden_n_TBH = torch.empty_like(H_TBH[1:])
        product = repeated_product(w_hh, len(H_BH))
        r_z_TBK, n_TBH = torch.split(gates_TBK, [2 * H, H], dim=2)
        r_TBH, z_TBH = r_z_TBK.chunk(2, dim=2)
        for t, (r_z, r, z, n, hidden_n) in enumerate(zip(r_z_TBK, r_TBH, z_TBH, n_TBH, hidden_n_TBH, strict=True)):
            from_H_BK = product(H_TBH[t], None)
            r_z.add_(from_H_BK[:, : 2 * H]).sigmoid_()
            torch.add(from_H_BK[:, 2 * H :], b_n, out=hidden_n)
            n.addcmul_(r, hidden_n).tanh_()
            torch.lerp(n, H_TBH[t], z, out=H_TBH[t + 1])
        ctx.save_for_backward(x, w_ih, w_hh, gates_TBK, H_TBH, hidden_n_TBH)
        return H_TBH[1:], H_TBH[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dH_TBH: Tensor, dH_BH: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, gates_TBK, H_TBH, hidden_n_TBH = ctx.saved_tensors
        r, z, n = gates_TBK.chunk(3, dim=2)
        # With R, Z, N the gates after their function and r, z, n their sums, h_n n's sum from H, by the chain rule on
        # 10.2.1 to 10.2.3:
        #   dn = dH_t (1 - Z) (1 - N^2)     dh_n = dn R     dr = dn h_n R (1 - R)     dz = dH_t (H_{t-1} - N) Z (1 - Z)
        #   dH_{t-1} = dH_t Z + [dr dz dh_n] W_hh + what comes from above
        # Each is dH times a factor that is known already.
        dn_TBH = torch.rsub(z, 1)
        tanh_gradient(dn_TBH, n, grad_input=dn_TBH)
        dhidden_TBK = torch.empty_like(gates_TBK)
        factor_r, factor_z, factor_n = dhidden_TBK.chunk(3, dim=2)
        sigmoid_gradient(hidden_n_TBH * dn_TBH, r, grad_input=factor_r)
        sigmoid_gradient(H_TBH[:-1] - n, z, grad_input=factor_z)
        torch.mul(dn_TBH, r, out=factor_n)
        add_product = repeated_product(w_hh.T, len(dH_BH))
        dhidden_TBGH = dhidden_TBK.view(*dn_TBH.shape[:2], 3, -1)
        dH_BH = dH_BH + dH_TBH[-1]
        for t in range(len(dhidden_TBK) - 1, -1, -1):
            dhidden_TBGH[t].mul_(dH_BH.unsqueeze(1))
            dn_TBH[t].mul_(dH_BH)
            kept_BH = dH_BH.mul_(z[t])
            dH_BH = add_product(dhidden_TBK[t], kept_BH.add_(dH_TBH[t - 1]) if t else kept_BH)
        dw_hh, db_hh = recurrent_gradient(dhidden_TBK, H_TBH[:-1]), dhidden_TBK.sum((0, 1))
        dsums_TBK = torch.cat([dhidden_TBK[..., : -dn_TBH.shape[2]], dn_TBH], dim=2)
        dx, dw_ih, db_ih = input_gradients(x, w_ih, dsums_TBK)
        return dx, dH_BH, dw_ih, dw_hh, db_ih, db_hh
