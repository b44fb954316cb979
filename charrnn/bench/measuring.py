"""One case measured: every figure by its name and unit, and each ratio only where both its figures were measured."""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import torch

from charrnn.bench import machine, sampling, training
from charrnn.bench.cases import Case
from charrnn.bench.timing import Clock, Contender, Stopwatch, Timing, take_turns
from charrnn.training.threads import limit_threads, restored_threads

_SAMPLING_SHARE = 0.25
"""Of the seconds given to training, what sampling gets on top: it has few contenders, with short steps."""

Timings = Mapping[str, Timing]
Record = dict[str, Any]


def measure(case: Case, device: torch.device, seconds: float, clock: Clock = time.perf_counter) -> Record:
    """Train for about `seconds`, sample for a quarter of that, and report; no random state is changed by it."""
    model, settings = case.config.model, case.config.training
    stopwatch = Stopwatch(machine.synchroniser(device), clock)
    with restored_threads(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        limit_threads(settings.threads)
        torch.manual_seed(settings.seed)
        trained = measure_training(case, device, seconds, stopwatch)
        sampled = measure_sampling(case, device, seconds * _SAMPLING_SHARE, stopwatch)
    return {
        "cell": model.cell,
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "batch_size": settings.batch_size,
        "seq_length": settings.seq_length,
        "vocabulary": case.vocabulary.size,
        **trained,
        **sampled,
    }


# ---- training


def measure_training(case: Case, device: torch.device, seconds: float, stopwatch: Stopwatch) -> Record:
    """Ways to train and the machine's matrix products, taking turns."""
    runners = training.contenders(case, device)
    gemms = machine.contenders(case, device, training.precisions(case.config))
    for contender in runners:
        with contextlib.suppress(RuntimeError):  # its step will say so
            contender.start()
    last = [runner for runner in runners if runner.engine == "reference"]  # slow on purpose
    timings = take_turns([*(runner for runner in runners if runner not in last), *gemms, *last], seconds, stopwatch)
    gemm = [_gemm_record(contender, timings[contender.name]) for contender in gemms]
    return {
        "flops_per_character": case.flops_per_character,
        "training": [_training_record(case, contender, timings, gemm) for contender in runners],
        "gemm": gemm,
    }


def _gemm_record(contender: machine.GemmContender, timing: Timing) -> Record:
    return {
        "shape": contender.shape,
        "rows": contender.product.rows,
        "inner": contender.product.inner,
        "columns": contender.product.columns,
        "precision": contender.precision,
        "library": contender.library,
        "flops_per_second": rate(contender.product.flops, timing),
        "repeats": timing.repeats,
        "note": timing.note,
    }


def _training_record(case: Case, contender: training.TrainingContender, timings: Timings, gemm: list[Record]) -> Record:
    timing = timings[contender.name]
    speed = rate(case.characters_per_step, timing)
    flops = rate(case.characters_per_step * case.flops_per_character, timing)
    plain, per_character = (
        rate(case.characters_per_step, timings[name]) for name in (training.PLAIN, training.PER_CHARACTER)
    )
    return {
        "name": contender.name,
        "engine": contender.engine,
        "precision": contender.precision,
        "chars_per_second": speed,
        "seconds_per_step": timing.seconds,
        "repeats": timing.repeats,
        "note": timing.note,
        "ratio_to_plain": ratio(speed, plain),
        "ratio_to_call_per_character": ratio(speed, per_character),
        "model_flops_per_second": flops,
        **{
            f"fraction_of_{shape}_gemm": ratio(flops, best_gemm(gemm, shape, contender.precision))
            for shape in ("large", "window", "recurrent")
        },
    }


def best_gemm(gemm: list[Record], shape: str, precision: str) -> float | None:
    """The fastest measured product of that kind and precision by any library, in FLOP/s."""
    speeds = [
        record["flops_per_second"]
        for record in gemm
        if (record["shape"], record["precision"]) == (shape, precision) and record["flops_per_second"] is not None
    ]
    return max(speeds, default=None)


# ---- sampling


def measure_sampling(case: Case, device: torch.device, seconds: float, stopwatch: Stopwatch) -> Record:
    """Ways to sample and the reading of as many bytes as the weights have, taking turns."""
    runners = sampling.contenders(case, device)
    num_bytes = case.weight_bytes()
    reader = Contender("read", machine.reading(num_bytes, device))
    timings = take_turns([reader, *runners], seconds, stopwatch)
    read_speed = rate(num_bytes, timings[reader.name])
    return {
        "weight_bytes_per_character": num_bytes,
        "read_bytes_per_second": read_speed,
        "sampling": [_sampling_record(case, contender, runners, timings, read_speed) for contender in runners],
    }


def _sampling_record(
    case: Case,
    contender: sampling.SamplingContender,
    runners: list[sampling.SamplingContender],
    timings: Timings,
    read_speed: float | None,
) -> Record:
    timing = timings[contender.name]
    speed = rate(contender.characters, timing)
    plain = next(other for other in runners if other.lanes == contender.lanes and not other.is_ours)
    bytes_per_second = rate(contender.characters * contender.weight_bytes, timing)
    return {
        "name": contender.name,
        "lanes": contender.lanes,
        "chars_per_second": speed,
        "repeats": timing.repeats,
        "note": timing.note,
        "ratio_to_call_per_character": ratio(speed, rate(plain.characters, timings[plain.name])),
        # Several lanes share one reading of the weights, so only a single one has this limit.
        "fraction_of_read_bandwidth": ratio(bytes_per_second, read_speed) if contender.lanes == 1 else None,
    }


# ---- figures


def rate(amount: float, timing: Timing) -> float | None:
    """Amount a second, of what one step handles; None where nothing was measured."""
    return amount / timing.seconds if timing.seconds else None


def ratio(of: float | None, to: float | None) -> float | None:
    """The quotient of two measured figures; None unless both were."""
    return of / to if of is not None and to else None
