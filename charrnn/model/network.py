"""CharRNN: L hidden layers and the readout O_t = H_t^(L) W_hq + b_q (10.3.2)."""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.config import ModelConfig
from charrnn.model.cells import Cell, State, Weights
from charrnn.model.compiling import kernels_for
from charrnn.model.dropout import dropout
from charrnn.model.engines import ENGINES, Execution
from charrnn.model.readout import cross_entropy_sum, logits
from charrnn.text.minibatches import IGNORE

INPUT_STD = 1.0
"""Of the first layer's input weights. A one-hot row picks one column of W_xh, which alone has to tell the character,
as the row of an embedding does; torch.nn's U(-1/sqrt(H), 1/sqrt(H)) leaves it too faint. Measured on tiny Shakespeare,
LSTM 1 x 192, 5,300 steps of 32 x 32, validation nats per character: torch.nn's 1.617; 0.3: 1.583; 0.6: 1.562;
1: 1.535; 2: 1.520."""

READOUT_STD = 2.0
"""Of the readout's weights, times 1/sqrt(H). In the same setting, with INPUT_STD 1: 0.6 (torch.nn's): 1.535; 2: 1.517;
with INPUT_STD 0.3, 0.1: 1.630; 0.6: 1.583. The first loss is then a little above ln V, for a few steps."""


class Stack(nn.Module):
    """The parameters of L layers under torch.nn's names: weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, ..."""

    def __init__(self, cell: Cell, input_size: int, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.num_layers = num_layers
        rows = cell.gates * hidden_size
        for l in range(num_layers):
            columns = hidden_size if l else input_size
            shapes = ((rows, columns), (rows, hidden_size), (rows,), (rows,))
            for name, shape in zip(Weights._fields, shapes, strict=True):
                self.register_parameter(f"{name}_l{l}", nn.Parameter(torch.zeros(shape)))

    def layers(self) -> list[Weights]:
        """The parameters, a `Weights` a layer."""
        return [Weights(*(getattr(self, f"{name}_l{l}") for name in Weights._fields)) for l in range(self.num_layers)]


class _Linear(nn.Linear):
    """One that holds nothing yet: torch.nn's would draw its weights from the global random state."""

    def reset_parameters(self) -> None:
        """Leave that to `CharRNN.initialise`."""


class _Embedding(nn.Embedding):
    """The same."""

    def reset_parameters(self) -> None:
        """Leave that to `CharRNN.initialise`."""


class CharRNN(nn.Module):
    """Logits for the next character at every step of a window.

    Parameters: `rnn.*` as in torch.nn.LSTM, GRU or RNN of the same size; `readout.weight` (V, H) and `readout.bias`
    (V,), which are W_hq transposed and b_q; `embedding.weight` (V, E) if the input is embedded. They are float32 or
    float64; `Execution.dtype` says what they are cast to when the network runs. They hold nothing of use before
    `initialise` or `load_state_dict`.
    """

    by_equations = False
    """Whether it always runs as cells.py, `forward` and `loss_sum` have it: for those who change the equations."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocabulary_size = vocabulary_size
        self.cell = Cell(config.cell, config.activation)
        size = config.embedding_size
        self.embedding = _Embedding(vocabulary_size, size) if size else None
        input_size = config.embedding_size or vocabulary_size
        self.rnn = Stack(self.cell, input_size, config.hidden_size, config.num_layers)
        self.readout = _Linear(config.hidden_size, vocabulary_size)

    def forward(
        self, ids_TB: Tensor, state: State | None = None, execution: Execution | None = None
    ) -> tuple[Tensor, State]:
        """(T, B) ids and the state before them to logits_TBV in float32 (float64) and the state after them.

        execution: by default `own_execution`. In training mode dropout is drawn from torch's global random state.
        """
        H_TBH, state = self.hidden(ids_TB, state, execution)
        return self.outputs(H_TBH), state

    def outputs(self, H: Tensor) -> Tensor:
        """O_t = H_t^(L) W_hq + b_q (10.3.2): (..., V) logits of (..., H)."""
        return logits(H, self.readout.weight, self.readout.bias)

    def loss(
        self, ids_TB: Tensor, targets_TB: Tensor, state: State | None = None, execution: Execution | None = None
    ) -> tuple[Tensor, State]:
        """Nats summed over the targets, as `loss_sum` of the logits, and the state after the ids.

        But with engine reference the logits are never all in memory at once, see readout.py.
        """
        execution = execution or self.own_execution
        if execution.engine == "reference":
            logits_TBV, state = self(ids_TB, state, execution)
            return loss_sum(logits_TBV, targets_TB), state
        H_TBH, state = self.hidden(ids_TB, state, execution)
        weight, bias = self.readout.weight, self.readout.bias
        kernels = kernels_for(weight.dtype, weight.device) if execution.engine == "compiled" else None
        return cross_entropy_sum(H_TBH.flatten(0, 1), weight, bias, targets_TB.flatten(), kernels), state

    def hidden(self, ids_TB: Tensor, state: State | None, execution: Execution | None) -> tuple[Tensor, State]:
        """H_TBH of the last layer, in the execution's precision, and the state after the ids."""
        execution = execution or self.own_execution
        dtype = execution.dtype
        state = state if state is not None else self.zero_state(ids_TB.shape[1], dtype)
        layers = [Weights(*(tensor.to(dtype) for tensor in weights)) for weights in self.rnn.layers()]
        if self.training and self.config.weight_dropout:
            layers = [self._with_dropped_weights(weights) for weights in layers]
        dropped = self.training and self.config.dropout > 0
        drop = partial(dropout, p=self.config.dropout) if dropped else None
        x = ids_TB if self.embedding is None else self.embedding(ids_TB).to(dtype)
        H_TBH, state = ENGINES[execution.engine](x, state, layers, self.cell, drop)
        return (drop(H_TBH) if drop else H_TBH), state

    def _with_dropped_weights(self, weights: Weights) -> Weights:
        """DropConnect on W_hh, one mask for the whole window (Merity et al. 2018)."""
        return weights._replace(weight_hh=dropout(weights.weight_hh, self.config.weight_dropout))

    def zero_state(self, lanes: int, dtype: torch.dtype = torch.float32) -> State:
        """The cell's tensors of zeros, each (L, lanes, H)."""
        shape = (self.config.num_layers, lanes, self.config.hidden_size)
        return tuple(torch.zeros(shape, dtype=dtype, device=self.device) for _ in range(self.cell.states))

    @property
    def own_execution(self) -> Execution:
        """How it runs unless told otherwise: by PyTorch's kernels, or by the equations, in its weights' precision."""
        return Execution("reference" if self.by_equations else "torch", self.readout.weight.dtype)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        device: torch.device = self.readout.weight.device
        return device

    @torch.no_grad()
    def initialise(self, seed: int) -> "CharRNN":
        """Draw the initial weights, on the CPU, so that every device starts from the same ones. Returns self.

        W_hh orthogonal gate by gate: products over many steps then neither vanish nor explode (Saxe et al. 2014; Le
        et al. 2015). W_xh of layer 1 with standard deviation INPUT_STD for one-hot rows; of the layers above, and for
        embeddings, Glorot and Bengio's (2010) normal. The LSTM's forget gate starts open with bias 1 (Jozefowicz et
        al. 2015); the GRU's update gate, whose Z keeps the old state, likewise. Other biases zero. The readout with
        READOUT_STD.
        """
        generator = torch.Generator().manual_seed(seed)
        hidden_size = self.config.hidden_size
        if self.embedding is not None:
            self.embedding.weight.normal_(0, 1, generator=generator)
        for l, weights in enumerate(self.rnn.layers()):
            for gate_HH in torch.split(weights.weight_hh, hidden_size):
                nn.init.orthogonal_(gate_HH, generator=generator)
            columns = weights.weight_ih.shape[1]
            one_hot_input = l == 0 and self.embedding is None
            std = INPUT_STD if one_hot_input else math.sqrt(2 / (columns + hidden_size))
            weights.weight_ih.normal_(0, std, generator=generator)
            weights.bias_ih.zero_()
            weights.bias_hh.zero_()
            if self.cell.name != "rnn":
                weights.bias_ih[hidden_size : 2 * hidden_size] = 1.0
        self.readout.weight.normal_(0, READOUT_STD / math.sqrt(hidden_size), generator=generator)
        self.readout.bias.zero_()
        return self


def loss_sum(logits_TBV: Tensor, targets_TB: Tensor) -> Tensor:
    """Nats summed over the targets that are not IGNORE: -log softmax(O)[target], the book's cross-entropy (9.3)."""
    logits_NV, targets_N = logits_TBV.flatten(0, 1), targets_TB.flatten()
    return functional.cross_entropy(logits_NV, targets_N, ignore_index=IGNORE, reduction="sum")


def detached(state: State) -> State:
    """The state's values without the graph that made them, so that the gradient ends at the window's edge."""
    return tuple(tensor.detach() for tensor in state)
