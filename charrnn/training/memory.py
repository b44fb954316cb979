"""What cannot fit is refused; what a training step frees is kept for the next one, and all else goes back at once."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from charrnn.config import Config
from charrnn.errors import ConfigError
from charrnn.limits import machine_memory
from charrnn.model.cells import Cell
from charrnn.model.network import CharRNN
from charrnn.model.readout import BLOCK
from charrnn.text.minibatches import Shape

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's malloc.h."""

_AS_LARGE_AS_CAN_BE = 2**31 - 1

_LARGEST_OF_OLD = 4 * 2**20 * ctypes.sizeof(ctypes.c_long)
"""What glibc before 2.35 takes at most for M_MMAP_THRESHOLD, 32 MiB; it refuses more."""

_APART = 2**20
"""Bytes from which on a block is worth pages of its own."""


def keep_freed_memory() -> None:
    """Tell glibc's allocator not to return large blocks to the system.

    By default a block of more than 32 MB comes from the system anew each time, its pages zeroed at first touch, and
    the top of the heap is given back as soon as it is free; a training step frees all it made. An LSTM of 2 x 512,
    64 lanes x 64 steps, bfloat16, forward and backward: 183 ms a step without this, 131 with it (2 Zen 5 cores). It
    lasts as long as the process and does nothing elsewhere than on Linux with glibc.
    """
    _tell_allocator(_M_MMAP_THRESHOLD, _AS_LARGE_AS_CAN_BE, _LARGEST_OF_OLD)
    _tell_allocator(_M_TRIM_THRESHOLD, _AS_LARGE_AS_CAN_BE)


@contextmanager
def memory_apart() -> Iterator[None]:
    """Between steps: what finds no room in the heap has pages of its own meanwhile, and gives them back.

    Among what steps use again and again it would leave holes of other sizes, and the heap would grow: with an LSTM of
    1 x 512, in 24 rounds of steps, evaluation, sample and checkpoint, by 3 and 0 % with this, and by 24 and 24 %
    without it and with the carried state (session.py) where each step made it.
    """
    _tell_allocator(_M_MMAP_THRESHOLD, _APART)
    try:
        yield
    finally:
        _tell_allocator(_M_MMAP_THRESHOLD, _AS_LARGE_AS_CAN_BE, _LARGEST_OF_OLD)


def _tell_allocator(parameter: int, *values: int) -> None:
    """Set one of its parameters to the first of the values that it takes."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        any(mallopt(parameter, value) for value in values)


def copies_of_weights(config: Config) -> int:
    """The parameters, their gradients, the optimizer's moments, their average."""
    return {"adamw": 4, "sgd": 2}[config.training.optimizer] + bool(config.training.averaging)


def window_bytes(config: Config, vocabulary_size: int, shape: Shape) -> int:
    """What is kept of a window for its backward pass, and a block of logits (see readout.py) with its gradient.

    Of each layer and character that is the gates and their gradients, the states and theirs. Engine reference keeps
    more, and all logits.
    """
    model, cells = config.model, shape.batch_size * shape.seq_length
    cell = Cell(model.cell, model.activation)
    kept = cells * model.num_layers * model.hidden_size * (2 * cell.gates + 2 * cell.states)
    at_once = cells if config.training.engine == "reference" else min(cells, max(BLOCK // vocabulary_size, 1))
    precision = config.training.precision
    return kept * {"float64": 8, "bfloat16": 2}.get(precision, 4) + 2 * at_once * vocabulary_size * _itemsize(precision)


def _itemsize(precision: str) -> int:
    """Bytes of a weight, and of a logit."""
    return 8 if precision == "float64" else 4


def refuse_larger_than_memory(config: Config, vocabulary_size: int, shape: Shape, device: torch.device) -> None:
    """Raise ConfigError for what this machine cannot hold; the system would kill the process without a word.

    On the CPU each parameter has a gradient beside it, AdamW's two moments and its average, and windows of that shape
    are kept for the backward pass; a GPU has those to itself.
    """
    on_cpu, has = device.type == "cpu", machine_memory()
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in CharRNN(config.model, vocabulary_size).parameters())
    weights = parameters * (copies_of_weights(config) if on_cpu else 1) * _itemsize(config.training.precision)
    window = window_bytes(config, vocabulary_size, shape) if on_cpu else 0
    if weights + window <= has:
        return
    model, most = config.model, f"expected at most the {has / 2**30:,.1f} GiB of this machine's memory"
    if weights > has:
        raise ConfigError(
            f"model.hidden_size = {model.hidden_size}, model.num_layers = {model.num_layers}: {parameters:,} "
            f"parameters take {weights / 2**30:,.1f} GiB to train; {most}"
        )
    raise ConfigError(
        f"training.batch_size = {shape.batch_size}, training.seq_length = {shape.seq_length}: windows of "
        f"{shape.batch_size * shape.seq_length:,} characters through {model.num_layers} x {model.hidden_size} units "
        f"take {(weights + window) / 2**30:,.1f} GiB with the weights; {most}"
    )
