"""One signature for the whole stack of hidden layers, several engines behind it.

    run(x, state, layers, cell, drop) -> (H_TBH, state)

x is either ids_TB (integers), standing for one-hot rows, or X_TBD (floating point). `state` holds the cell's tensors,
each (L, B, H). `drop`, if it is given, makes of H^(l-1) what layer l reads, for layers 2 to L in this order. Every
engine agrees with `reference` in values and gradients.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from charrnn.model.bptt import written
from charrnn.model.cells import Cell, Drop, State, Weights
from charrnn.model.compiled import compiled
from charrnn.model.compiling import kernels_for, usable_kernels


@dataclass(frozen=True)
class Execution:
    """How a network is run: by which engine, and in which precision its products are."""

    engine: str = "torch"
    dtype: torch.dtype = torch.float32

    @property
    def precision(self) -> str:
        """The dtype as configurations name it."""
        return str(self.dtype).removeprefix("torch.")


Engine = Callable[[Tensor, State, Sequence[Weights], Cell, Drop | None], tuple[Tensor, State]]


def one_hot(ids_TB: Tensor, vocabulary_size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn (T, B) ids into (T, B, V) rows that hold a single 1."""
    rows_TBV = torch.zeros(*ids_TB.shape, vocabulary_size, dtype=dtype, device=ids_TB.device)
    return rows_TBV.scatter_(-1, ids_TB.unsqueeze(-1), 1)


def reference(
    x: Tensor, state: State, layers: Sequence[Weights], cell: Cell, drop: Drop | None = None
) -> tuple[Tensor, State]:
    """The book's recurrence as written in cells.py, step by step and layer by layer, under autograd."""
    H_TBH = _dense(x, layers[0])  # H^(0) = X
    finals = []
    for l, weights in enumerate(layers):
        H_TBH = drop(H_TBH) if drop and l else H_TBH
        state_l = tuple(tensor_LBH[l] for tensor_LBH in state)
        outputs = []
        for X_BD in H_TBH:
            state_l = cell.step(X_BD, state_l, weights)
            outputs.append(state_l[0])
        H_TBH = torch.stack(outputs)
        finals.append(state_l)
    return H_TBH, tuple(torch.stack(tensors) for tensors in zip(*finals, strict=True))


def with_torch(
    x: Tensor, state: State, layers: Sequence[Weights], cell: Cell, drop: Drop | None = None
) -> tuple[Tensor, State]:
    """PyTorch's own kernels: oneDNN for the LSTM on a CPU, cuDNN on a GPU.

    With dropout the layers are called one by one: the masks are then drawn in the same order as in `reference`, and
    the kernels' own dropout, whose gradients were wrong on MPS, is never used. Without it one call lets cuDNN
    overlap the layers. These kernels want vectors, so ids become one-hot rows, unless on a CPU these would be wider
    than the hidden layers: `written` then runs layer 1, which gathers.
    """
    wide = x.is_cpu and not x.is_floating_point() and layers[0].weight_ih.shape[1] > layers[0].weight_hh.shape[1]
    depth = len(layers)
    alone = depth if drop else int(wide)
    parts = [slice(l, l + 1) for l in range(alone)] + ([slice(alone, depth)] if alone < depth else [])
    H_TBH, finals = x, []
    for part in parts:
        H_TBH = drop(H_TBH) if drop and part.start else H_TBH
        run = written if wide and part.start == 0 else _kernels
        H_TBH, final = run(H_TBH, tuple(tensor_LBH[part] for tensor_LBH in state), layers[part], cell)
        finals.append(final)
    return H_TBH, tuple(torch.cat(tensors) for tensors in zip(*finals, strict=True))


# Of each layer they are tensors of their own. There is no flatten_parameters() to call, as cuDNN's warning asks.
warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")


def _kernels(x: Tensor, state: State, layers: Sequence[Weights], cell: Cell) -> tuple[Tensor, State]:
    x_TBD = _dense(x, layers[0])
    flat = [tensor for weights in layers for tensor in weights]
    train = torch.is_grad_enabled()
    # biases, number of layers, dropout, train (keep what the backward needs), bidirectional, batch first
    arguments = (flat, True, len(layers), 0.0, train, False, False)
    if cell.name == "lstm":
        H_TBH, *final = torch.lstm(x_TBD, state, *arguments)
        return H_TBH, tuple(final)
    function = {"gru": torch.gru, "tanh": torch.rnn_tanh, "relu": torch.rnn_relu}[
        "gru" if cell.name == "gru" else cell.activation
    ]
    H_TBH, final_LBH = function(x_TBD, state[0], *arguments)
    return H_TBH, (final_LBH,)


def _dense(x: Tensor, first: Weights) -> Tensor:
    if x.is_floating_point():
        return x
    return one_hot(x, first.weight_ih.shape[1], first.weight_ih.dtype)


def can_run(execution: Execution, device: torch.device) -> bool:
    """Whether the engine is to be had there in that precision."""
    return execution.engine != "compiled" or usable_kernels(execution.dtype, device) is not None


def build_of(execution: Execution) -> str | None:
    """Which build of the kernels an execution takes, where they are not PyTorch's own."""
    if execution.engine != "compiled":
        return None
    return kernels_for(execution.dtype, torch.device("cpu")).build


ENGINES: dict[str, Engine] = {
    "reference": reference,
    "written": written,
    "torch": with_torch,
    "compiled": compiled,
}
