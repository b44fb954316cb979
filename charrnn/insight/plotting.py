"""Learning curves of runs, from what their metrics.jsonl says."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from charrnn.errors import CheckpointError, ConfigError
from charrnn.training.runs import Run

Axis = Literal["seconds", "steps", "epochs"]

_KEYS = {"seconds": "seconds", "steps": "step", "epochs": "epoch"}


def read_metrics(run: Run) -> dict[str, list[dict[str, Any]]]:
    """The records of a run's metrics.jsonl by their type. Raises CheckpointError if there are none."""
    try:
        lines = run.metrics.read_text(encoding="utf-8").splitlines()
        records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    except OSError as error:
        raise CheckpointError(f"{run.metrics}: {error.strerror}; name the folder of a run") from None
    except ValueError as error:
        raise CheckpointError(f"{run.metrics}: a damaged log: {error}") from None
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        found.setdefault(str(record.get("type")), []).append(record)
    return found


def curve(records: Sequence[dict[str, Any]], axis: Axis) -> tuple[list[float], list[float]]:
    """Where and how high: bits per character of training or validation records along an axis."""
    key = _KEYS[axis]
    return [record[key] for record in records], [record["nats_per_char"] / math.log(2) for record in records]


def plot_curves(runs: Sequence[Run], output: Path, axis: Axis = "seconds") -> None:
    """Draw bits per character of some runs into a PNG, SVG or PDF file: validation full, training faint.

    Raises ConfigError without matplotlib or for a file it cannot write, CheckpointError for a folder that is no run.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("plot: needs matplotlib; pip install matplotlib") from None
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, run in enumerate(runs):
        metrics, color = read_metrics(run), f"C{number}"
        axes.plot(*curve(metrics.get("training", []), axis), color=color, alpha=0.35, linewidth=1)
        validation = curve(metrics.get("evaluation", []), axis)
        lowest = f", best {min(validation[1]):.3f}" if validation[1] else ""
        axes.plot(*validation, color=color, marker="o", markersize=3, label=f"{run.folder.name}{lowest}")
    axes.set(xlabel=axis, ylabel="bits per character", title="validation (dots) and training (faint)")
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(output, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--output {output}: {error}") from None
