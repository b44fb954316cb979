"""What a run will do, said before it does it: for the head of every run, and at length for --dry-run."""

import time
from typing import Any

import torch

from charrnn.model.network import CharRNN
from charrnn.training.memory import copies_of_weights, window_bytes
from charrnn.training.reporting import counted, duration
from charrnn.training.session import Session

_MEASURED_SECONDS = 2.0
_MEASURED_STEPS = 20


def headline(session: Session) -> list[tuple[str, str]]:
    """The run in a few (label, text) lines."""
    return [
        *(("note", note) for note in session.dataset.notes),
        ("corpus", _corpus(session)),
        *((("recipe", session.recipe),) if session.recipe else ()),
        ("model", _model(session)),
        ("training", _training(session)),
        ("hardware", _hardware(session)),
    ]


def dry_run(session: Session) -> list[tuple[str, str]]:
    """The headline, and details: parameters by layer, windows, memory, and the speed of a few real steps."""
    speed = _measured_speed(session)
    targets = len(session.dataset.training) - 1
    return [
        *headline(session),
        *(("parameters", text) for text in _parameters(session.network)),
        ("windows", f"{session.minibatches.windows_in(0):,} in the first epoch, of {targets:,} characters to predict"),
        ("memory", f"about {_memory(session) / 2**20:,.0f} MiB beside PyTorch's own"),
        ("speed", f"{speed:,.0f} characters per second over a few steps"),
        ("expected", _expected(session, speed, targets)),
    ]


def _corpus(session: Session) -> str:
    data = session.dataset
    parts = [("training", data.training), ("validation", data.validation), ("test", data.test)]
    split = ", ".join(f"{len(ids):,} {name}" for name, ids in parts if len(ids))
    kind = "bytes" if data.vocabulary.level == "byte" else "characters"
    known = "256 values" if kind == "bytes" else f"{len(data.vocabulary.characters):,} distinct and the unknown one"
    return f"{data.name}: {split} {kind}; vocabulary: {known}"


def _model(session: Session) -> str:
    model = session.config.model
    count = sum(parameter.numel() for parameter in session.network.parameters())
    cell = model.cell.upper() if model.cell != "rnn" else f"RNN ({model.activation})"
    source = model.input if model.input == "one-hot" else f"embedding of {model.embedding_size}"
    dropout = f", dropout {model.dropout:g}" if model.dropout else ""
    dropout += f", of W_hh {model.weight_dropout:g}" if model.weight_dropout else ""
    return f"{cell}, {model.num_layers} x {model.hidden_size} units, {source} input{dropout}; {count:,} parameters"


def _training(session: Session) -> str:
    training, shape = session.config.training, session.minibatches.shape
    wanted = (training.batch_size, training.seq_length)
    smaller = (
        ""
        if wanted == (shape.batch_size, shape.seq_length)
        else (f" (the text is too short for {wanted[0]} x {wanted[1]})")
    )
    clip = f"clipped at {training.clip_norm:g}" if training.clip_norm is not None else "no clipping"
    rate = f"{training.learning_rate:g}"
    if training.optimizer == "adamw" and training.readout_rate != 1:
        rate += f" (W_hq {training.readout_rate * training.learning_rate:g})"
    return (
        f"{training.budget} of {training.partitioning} windows, {shape.batch_size} lanes x {shape.seq_length} steps"
        f"{smaller}; {training.optimizer} {rate}, {training.schedule}, {clip}"
    )


def _hardware(session: Session) -> str:
    device, execution = session.placement.device, session.placement.execution
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        where = f"{device.type}, {counted(session.placement.threads, 'thread')}"
    return f"{where}; engine {execution.engine} in {execution.precision} ({session.placement.reason})"


def _parameters(network: CharRNN) -> list[str]:
    lines = []
    if network.embedding is not None:
        lines.append(f"embedding: {_shapes({'weight': network.embedding.weight})}")
    for l, weights in enumerate(network.rnn.layers()):
        lines.append(f"layer {l + 1}: {_shapes(weights._asdict())}")
    lines.append(f"readout: {_shapes(dict(network.readout.named_parameters()))}")
    return lines


def _shapes(tensors: dict[str, Any]) -> str:
    shapes = ", ".join(f"{name} {' x '.join(map(str, tensor.shape))}" for name, tensor in tensors.items())
    return f"{sum(tensor.numel() for tensor in tensors.values()):,} ({shapes})"


def _memory(session: Session) -> float:
    """Bytes: the weights and what goes with them; what is kept of a window; ids."""
    config, network = session.config, session.network
    weights = copies_of_weights(config) * sum(parameter.nbytes for parameter in network.parameters())
    window = window_bytes(config, network.vocabulary_size, session.minibatches.shape)
    ids = sum(part.nbytes for part in (session.dataset.training, session.dataset.validation, session.dataset.test))
    return float(weights + window + ids)


def _measured_speed(session: Session) -> float:
    """Characters per second of a few steps, after one that sets things up. The session is spent by it."""
    session.step(0.0)
    session.report()
    started = time.perf_counter()
    while session.tally.steps < _MEASURED_STEPS and time.perf_counter() - started < _MEASURED_SECONDS:
        session.step(0.0)
    session.settle()
    return session.tally.characters / session.tally.seconds


def _expected(session: Session, speed: float, targets: int) -> str:
    per_step = targets / session.minibatches.windows_in(0)
    seconds_per = {"seconds": 1.0, "epochs": targets / speed, "steps": per_step / speed}
    lasting = {unit: amount * seconds_per[unit] for unit, amount in session.budget.limits.items()}
    first = min(lasting, key=lambda unit: lasting[unit])
    seconds = lasting[first]
    epochs = seconds * speed / targets
    steps = seconds * speed / per_step
    ended = f"; the limit in {first} comes first" if len(lasting) > 1 else ""
    return f"{duration(seconds)}, {steps:,.0f} steps, {epochs:.1f} epochs, evaluations not counted{ended}"
