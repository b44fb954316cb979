"""What cannot fit is refused; what a training step frees is kept for the next one, and all else goes back at once."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from charrnn.config import Config
from charrnn.errors import ConfigError
from charrnn.memory import machine_memory
from charrnn.model.network import CharRNN

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


def refuse_larger_than_memory(config: Config, vocabulary_size: int, device: torch.device) -> None:
    """Raise ConfigError for a network that this machine cannot hold; the system would kill the process without a word.

    On the CPU each parameter has a gradient beside it, AdamW's two moments and its average; a GPU has those to itself.
    """
    copies = copies_of_weights(config) if device.type == "cpu" else 1
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in CharRNN(config.model, vocabulary_size).parameters())
    needed = parameters * copies * (8 if config.training.precision == "float64" else 4)
    if needed > machine_memory():
        raise ConfigError(
            f"model.hidden_size = {config.model.hidden_size}, model.num_layers = {config.model.num_layers}: "
            f"{parameters:,} parameters take {needed / 2**30:,.0f} GiB to train; expected at most the "
            f"{machine_memory() / 2**30:,.0f} GiB of this machine's memory"
        )
