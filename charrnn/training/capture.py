"""A window's loss and gradients as one CUDA graph: the GPU replays hundreds of kernels without hearing of each."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from charrnn.model.cells import State
from charrnn.model.engines import Execution
from charrnn.model.network import CharRNN
from charrnn.text.minibatches import Shape

LossOfTensors = Callable[..., tuple[Tensor, ...]]


class WindowLoss(nn.Module):
    """`CharRNN.loss` as a module that takes and gives nothing but tensors, as a capture wants it."""

    def __init__(self, network: CharRNN, execution: Execution) -> None:
        super().__init__()
        self.network = network
        self.execution = execution

    def forward(self, inputs_TB: Tensor, targets_TB: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Nats summed over the targets, and each tensor of the state after the window."""
        nats, state = self.network.loss(inputs_TB, targets_TB, state, self.execution)
        return nats, *state


def captured(network: CharRNN, execution: Execution, shape: Shape) -> LossOfTensors:
    """The loss of windows of this very shape, captured on a GPU, forward and backward; elsewhere as it is.

    What its warming up draws for dropout is given back, so that a resumed run draws what it would have.
    """
    loss = WindowLoss(network, execution)
    if network.device.type != "cuda":
        return loss
    ids_TB = torch.zeros(shape.seq_length, shape.batch_size, dtype=torch.int64, device=network.device)
    state: State = network.zero_state(shape.batch_size, execution.dtype)
    with torch.cuda.device(network.device), torch.random.fork_rng(devices=[network.device]):
        return cast(LossOfTensors, torch.cuda.make_graphed_callables(loss, (ids_TB, ids_TB.clone(), *state)))
