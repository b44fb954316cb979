"""The same network as others write it: torch.nn over whole windows, and torch.nn called for every character."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.config import ModelConfig

PlainState = Any
"""What torch.nn's recurrent modules carry: a tensor, for the LSTM a pair of them, or None before the first step."""


def recurrent(model: ModelConfig, input_size: int) -> nn.Module:
    """torch.nn.RNN, GRU or LSTM of the model's size."""
    sizes = (input_size, model.hidden_size, model.num_layers)
    if model.cell == "rnn":
        return nn.RNN(*sizes, nonlinearity=model.activation, dropout=_between(model))
    kind = nn.GRU if model.cell == "gru" else nn.LSTM
    return kind(*sizes, dropout=_between(model))


def _between(model: ModelConfig) -> float:
    return model.dropout if model.num_layers > 1 else 0.0  # torch.nn warns of dropout with nothing to drop


class PlainNetwork(nn.Module):
    """One-hot rows (or embeddings) into torch.nn's recurrent module and a linear readout."""

    def __init__(self, model: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        size = model.embedding_size
        self.embedding = nn.Embedding(vocabulary_size, size) if size else None
        self.rnn = recurrent(model, size or vocabulary_size)
        self.dropout = nn.Dropout(model.dropout)
        self.readout = nn.Linear(model.hidden_size, vocabulary_size)

    def forward(self, ids_TB: Tensor, state: PlainState = None) -> tuple[Tensor, PlainState]:
        """(T, B) ids and the state before them to logits_TBV and the state after them."""
        if self.embedding is not None:
            x_TBD = self.embedding(ids_TB)
        else:
            x_TBD = functional.one_hot(ids_TB, self.vocabulary_size).float()
        H_TBH, state = self.rnn(x_TBD, state)
        return self.readout(self.dropout(H_TBH)), state


class PerCharacterNetwork(nn.Module):
    """As in char-rnn.pytorch: an embedding of H units, and a call of the module for each character."""

    def __init__(self, model: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, model.hidden_size)
        self.rnn = recurrent(model, model.hidden_size)
        self.readout = nn.Linear(model.hidden_size, vocabulary_size)

    def forward(self, ids_B: Tensor, state: PlainState = None) -> tuple[Tensor, PlainState]:
        """(B,) ids and the state before them to logits_BV and the state after them."""
        H_1BH, state = self.rnn(self.embedding(ids_B)[None], state)
        return self.readout(H_1BH[0]), state


def window_loss(network: PlainNetwork, inputs_TB: Tensor, targets_TB: Tensor, state: PlainState) -> Any:
    """(loss, state): nats per character of a window, by one call of the network."""
    logits_TBV, state = network(inputs_TB, state)
    return functional.cross_entropy(logits_TBV.flatten(0, 1), targets_TB.flatten()), state


def per_character_loss(network: PerCharacterNetwork, inputs_TB: Tensor, targets_TB: Tensor, state: PlainState) -> Any:
    """(loss, state): the same by a call of the network and of the criterion for each step of the window."""
    criterion = nn.CrossEntropyLoss()
    loss = torch.zeros((), device=inputs_TB.device)
    for inputs_B, targets_B in zip(inputs_TB, targets_TB, strict=True):
        logits_BV, state = network(inputs_B, state)
        loss = loss + criterion(logits_BV, targets_B)
    return loss / len(inputs_TB), state


def without_graph(state: PlainState) -> PlainState:
    """The state detached, to be carried to the next window."""
    return tuple(tensor.detach() for tensor in state) if isinstance(state, tuple) else state.detach()
