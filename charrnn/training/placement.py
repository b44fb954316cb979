"""Where and how a network runs: the device, the engine and the precision, each with the reason it was taken."""

import time
from dataclasses import dataclass

import torch

from charrnn.config import TrainingConfig
from charrnn.errors import ConfigError
from charrnn.model.cells import Cell
from charrnn.model.engines import Execution
from charrnn.model.network import CharRNN, loss_sum
from charrnn.text.minibatches import Shape

_TRIAL_STEPS = 16
"""Time steps of a trial; enough for a kernel's cost per step to show, few enough to take milliseconds."""

_TRIALS = 5
"""Passes of each precision, in turn; the quickest of each counts, as others may be using the machine."""

_WORTHWHILE = 1.1
"""How much faster bfloat16 must be in the trial: below that its lost digits are not worth it, and noise decides."""


@dataclass(frozen=True)
class Placement:
    """A choice, and in words why."""

    device: torch.device
    execution: Execution
    reason: str


def choose_device(wanted: str) -> torch.device:
    """The device meant by the option. Raises ConfigError if this machine has none such."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {wanted}: not to be had here ({reason}); expected auto, cpu, cuda or mps") from None
    return device


def place(network: CharRNN, config: TrainingConfig, shape: Shape) -> Placement:
    """Choose the engine and the precision for a network that is on its device already.

    `precision: auto` takes bfloat16 on a GPU that has it. On a CPU that has it, a trial of a few steps decides:
    without matrix units (AMX) bfloat16 can be slower than float32, whatever the instruction set says.
    """
    device = network.device
    engine = fastest_engine(network.cell, device) if config.engine == "auto" else config.engine
    if config.precision != "auto":
        return Placement(device, Execution(engine, getattr(torch, config.precision)), "as configured")
    single, half = Execution(engine, torch.float32), Execution(engine, torch.bfloat16)
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return Placement(device, half, "the GPU has bfloat16")
    if device.type != "cpu" or not cpu_has_bfloat16():
        return Placement(device, single, f"this {device.type} has no bfloat16 of its own")
    ratio = _times_faster(network, half, single, shape)
    return Placement(
        device,
        half if ratio >= _WORTHWHILE else single,
        f"bfloat16 ran at {ratio:.2f} times the speed of float32 in a trial on this CPU",
    )


def fastest_engine(cell: Cell, device: torch.device) -> str:
    """The engine that `auto` means.

    On a CPU PyTorch has a fused kernel (oneDNN) for the LSTM alone. Forward and backward by `written` over `torch`,
    float32, 2 AVX-512 cores, torch 2.13, layers x units, lanes x steps:

            1x256, 32x32   2x128, 50x50   2x256, 32x64   2x512, 64x64
    LSTM        0.78           0.68           0.71           0.91
    GRU         1.34           1.26           1.28           1.18
    RNN         1.18           1.38           1.33           1.24

    Elsewhere, cuDNN above all, PyTorch's kernels take whole windows at once.
    """
    return "written" if device.type == "cpu" and cell.name != "lstm" else "torch"


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX-512 BF16 or AMX). Older torch cannot tell: then not."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def _times_faster(network: CharRNN, execution: Execution, other: Execution, shape: Shape) -> float:
    """Speed of one execution over another's, in passes that take turns after one that sets the kernels up."""
    passes = [(_trial(network, execution, shape), _trial(network, other, shape)) for _ in range(1 + _TRIALS)]
    seconds, other_seconds = zip(*passes[1:], strict=True)
    return float(min(other_seconds) / min(seconds))


def _trial(network: CharRNN, execution: Execution, shape: Shape) -> float:
    """Seconds of one forward and backward pass. Touches no gradient and no random state."""
    ids_TB = torch.zeros(
        min(shape.seq_length, _TRIAL_STEPS), shape.batch_size, dtype=torch.int64, device=network.device
    )
    was_training = network.training
    network.eval()  # no dropout, which would draw random numbers
    start = time.perf_counter()
    logits_TBV, _ = network(ids_TB, None, execution)
    torch.autograd.grad(loss_sum(logits_TBV, ids_TB), list(network.parameters()))
    network.train(was_training)
    return time.perf_counter() - start
