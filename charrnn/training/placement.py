"""Where and how a network runs: the device, the engine and the precision, each with the reason it was taken."""

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from charrnn.config import TrainingConfig
from charrnn.errors import ConfigError
from charrnn.model.compiling import kernels_for
from charrnn.model.engines import Execution, can_run
from charrnn.model.network import CharRNN
from charrnn.text.minibatches import Shape

_TRIAL_STEPS = 32
"""Time steps of a trial at most; enough for a kernel's cost per step to show against its cost per window."""

_TRIAL_SECONDS = 0.5
"""For the passes of all candidates together, in turn; the quickest of each counts, as others may use the machine."""

_WORTHWHILE = 1.1
"""How much faster bfloat16 must be in the trial: below that its lost digits are not worth it, and noise decides."""

_DEVICE_TYPES = ("cpu", "cuda", "mps")


@dataclass(frozen=True)
class Placement:
    """A choice, and in words why."""

    device: torch.device
    execution: Execution
    reason: str
    threads: int = field(default_factory=torch.get_num_threads)
    """Of the CPU, at most."""


def choose_device(wanted: str) -> torch.device:
    """The device meant by the option. Raises ConfigError if this machine has none such."""
    if wanted == "auto":
        return torch.device("cuda" if _has_cuda() else "cpu")
    try:
        if wanted.partition(":")[0] not in _DEVICE_TYPES:  # torch knows others, some without any numbers
            raise RuntimeError("no such kind")
        device = torch.device(wanted)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise ConfigError(f"device {wanted}: not to be had here ({reason}); expected auto, cpu, cuda or mps") from None
    return device


def _has_cuda() -> bool:
    """Whether there is a GPU that this PyTorch has kernels for; of one too old or too new PyTorch itself warns."""
    if not torch.cuda.is_available():
        return False
    try:
        torch.ones(1, device="cuda")
    except RuntimeError as error:
        if "no kernel image" in str(error):
            return False
        raise
    return True


def refuse_float64(device: torch.device, wanted: bool) -> None:
    """Raise ConfigError for float64 where the device has none."""
    if wanted and device.type == "mps":
        raise ConfigError("device mps has no float64; expected cpu or cuda, or another precision")


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's on the device; to a GPU from page-locked memory, so that nothing waits for the copy."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def choose_placement(network: CharRNN, config: TrainingConfig, shape: Shape) -> Placement:
    """Choose the engine and the precision for a network that is on its device already.

    A trial decides whether bfloat16 or float32 is quicker: cuDNN before 9.13 has no RNN in bfloat16, and of CPUs each
    make differs (LSTM 2 x 512 in bfloat16 over float32: 0.7 times the speed on one with AVX-512 and no AMX, 1.7 on
    another). On a GPU the engine is PyTorch's kernels, which take whole windows at once; on a CPU the trial decides.

    Raises ConfigError if the engine is to be `compiled` and cannot be, or `written` on mps.
    """
    device = network.device
    if device.type == "mps" and config.engine == "written":
        raise ConfigError(
            "training.engine = 'written': it writes gradients into parts of tensors, which PyTorch on mps gets wrong; "
            "expected 'auto', 'torch' or 'reference'"
        )
    engines = ("written", "torch", "compiled") if device.type == "cpu" else ("torch",)
    engines = engines if config.engine == "auto" else (config.engine,)
    if config.precision != "auto":
        dtypes, why = [getattr(torch, config.precision)], "as configured"
    elif not has_bfloat16(device):
        dtypes, why = [torch.float32], f"this {device.type} has no bfloat16 of its own"
    else:
        dtypes, why = [torch.float32, torch.bfloat16], ""
    if engines == ("compiled",):
        kernels_for(dtypes[0], device)  # or it is said why there are none
    every = [Execution(engine, dtype) for dtype in dtypes for engine in engines]
    candidates = [execution for execution in every if can_run(execution, device)]
    if len(candidates) == 1:
        return Placement(device, candidates[0], why or f"engine {candidates[0].engine} has no other precision")
    return Placement(device, *_fastest(network, candidates, shape))


def _fastest(network: CharRNN, candidates: list[Execution], shape: Shape) -> tuple[Execution, str]:
    """The quickest in a trial, though bfloat16 only if it is worthwhile; and the trial's figures in words."""
    seconds = _trial(network, candidates, shape)

    def quickest(dtype: torch.dtype) -> Execution | None:
        return min((e for e in candidates if e.dtype == dtype), key=seconds.__getitem__, default=None)

    best, half = quickest(torch.float32), quickest(torch.bfloat16)
    if best is None or (half is not None and seconds[half] * _WORTHWHILE <= seconds[best]):
        best = half or min(candidates, key=seconds.__getitem__)
    others = ", ".join(
        f"{seconds[other] / seconds[best]:.2f} times as fast as {_in_words(other)}"
        for other in candidates
        if other != best
    )
    return best, f"in a trial on this {'CPU' if network.device.type == 'cpu' else 'GPU'} {others}"


def _in_words(execution: Execution) -> str:
    return f"{execution.engine} {execution.precision}"


def has_bfloat16(device: torch.device) -> bool:
    """Whether it multiplies bfloat16 in hardware, as far as can be told."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and cpu_has_bfloat16()


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX-512 BF16 or AMX). Older torch cannot tell: then not."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def seconds_per_window(network: CharRNN, execution: Execution, shape: Shape) -> float:
    """Of a forward and a backward pass over B lanes of T steps, T up to 32, at its quickest in half a second."""
    return _trial(network, [execution], shape)[execution]


def _trial(network: CharRNN, candidates: list[Execution], shape: Shape) -> dict[Execution, float]:
    """Seconds of the quickest pass of each, in passes that take turns after one that sets the kernels up."""
    seconds = dict.fromkeys(candidates, math.inf)
    for execution in candidates:
        _pass(network, execution, shape)
    started = time.perf_counter()
    rounds = 0
    while rounds < 2 or time.perf_counter() - started < _TRIAL_SECONDS:
        for execution in candidates:
            seconds[execution] = min(seconds[execution], _pass(network, execution, shape))
        rounds += 1
    return seconds


def _like_a_text(steps: int, lanes: int, vocabulary_size: int) -> Tensor:
    """(T, B) ids of which each is as frequent as its rank has it (Zipf): how many are different decides the speed."""
    powers = torch.linspace(0, 1, steps * lanes, dtype=torch.float64)
    return (vocabulary_size**powers).long().clamp(max=vocabulary_size).sub(1).view(lanes, steps).T.contiguous()


def _pass(network: CharRNN, execution: Execution, shape: Shape) -> float:
    """Seconds of one forward and backward pass. Touches no gradient and no random state."""
    ids_TB = _like_a_text(min(shape.seq_length, _TRIAL_STEPS), shape.batch_size, network.vocabulary_size)
    ids_TB = ids_TB.to(network.device)
    was_training = network.training
    network.eval()  # no dropout, which would draw random numbers
    start = time.perf_counter()
    nats, _ = network.loss(ids_TB, ids_TB, None, execution)
    gradient, *_ = torch.autograd.grad(nats, list(network.parameters()))
    gradient.flatten()[0].item()  # a GPU has only been told so far: wait for it
    network.train(was_training)
    return time.perf_counter() - start
