"""Learning curves of runs, from what their metrics.jsonl says."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from charrnn.errors import CheckpointError, ConfigError, missing
from charrnn.text.reading import shown
from charrnn.training.runs import Run

Axis = Literal["seconds", "steps", "epochs"]

_KEYS = {"seconds": "seconds", "steps": "step", "epochs": "epoch"}
_DRAWN = ("training", "evaluation")
_FORMATS = (".png", ".svg", ".pdf")
_LARGEST = 1e30
"""What no figure of a run comes near, and matplotlib's margins do not overflow at."""


def read_metrics(run: Run) -> dict[str, list[dict[str, Any]]]:
    """The records of a run's metrics.jsonl by their type. Raises CheckpointError that names the line if one is none."""
    try:
        lines = run.metrics.read_bytes().split(b"\n")
    except OSError as error:
        raise CheckpointError(f"{run.metrics}: {error.strerror}; name the folder of a run") from None
    found: dict[str, list[dict[str, Any]]] = {}
    for number, line in enumerate(lines[:-1] if lines[-1] == b"" else lines, start=1):
        try:
            record = _record(line)
        except (ValueError, RecursionError) as error:
            problem = str(error)[:100]
            raise CheckpointError(f"{run.metrics}, line {number}: a damaged log, {problem}; delete that line") from None
        found.setdefault(record["type"], []).append(record)
    return found


def _record(line: bytes) -> dict[str, Any]:
    """A line of a log. Raises ValueError if it is none, RecursionError if it is nested too deeply."""
    record = json.loads(line.decode("utf-8"))
    if not isinstance(record, dict) or not isinstance(record.get("type"), str):
        raise ValueError("no object with a type")
    wanted = [*_KEYS.values(), "nats_per_char"] if record["type"] in _DRAWN else []
    for key in wanted:
        value: Any = record.get(key)
        if type(value) not in (int, float) or not abs(value) < _LARGEST:
            raise ValueError(f"{key} is no number that can be drawn")
    return record


def curve(records: Sequence[dict[str, Any]], axis: Axis) -> tuple[list[float], list[float]]:
    """Where and how high: nats per character of training or validation records along an axis."""
    key = _KEYS[axis]
    return [record[key] for record in records], [record["nats_per_char"] for record in records]


def plain_label(text: str) -> str:
    """A text in which matplotlib shall see neither a formula nor a label to hide."""
    return shown(text).replace("$", r"\$").lstrip("_")


def plot_curves(runs: Sequence[Run], output: Path, axis: Axis = "seconds") -> None:
    """Draw nats per character of some runs into a PNG, SVG or PDF file: validation full, training faint.

    Raises ConfigError without matplotlib or for a file it cannot write, CheckpointError for a folder that is no run or
    a log without figures.
    """
    if output.suffix.lower() not in _FORMATS:
        raise ConfigError(f"--output {output}: expected a name that ends in {', '.join(_FORMATS)}")
    figure = new_figure(8, 5)
    axes = figure.subplots()
    for number, run in enumerate(runs):
        metrics, color = read_metrics(run), f"C{number}"
        if not any(metrics.get(kind) for kind in _DRAWN):
            raise CheckpointError(f"{run.metrics}: no figures in it yet; let the run train on for a while")
        axes.plot(*curve(metrics.get("training", []), axis), color=color, alpha=0.35, linewidth=1)
        validation = curve(metrics.get("evaluation", []), axis)
        lowest = f", best {min(validation[1]):.3f}" if validation[1] else ""
        axes.plot(
            *validation,
            color=color,
            marker="o",
            markersize=3,
            label=f"{plain_label(run.folder.absolute().name)}{lowest}",
        )
    axes.set(xlabel=axis, ylabel="nats per character", title="validation (dots) and training (faint)")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, output)


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib Figure of so many inches. Raises ConfigError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing("matplotlib", "drawing") from None
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, output: Path) -> None:
    """Write a figure in the format of the file's name. Raises ConfigError for a file that cannot be written."""
    try:
        figure.savefig(output, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--output {output}: {getattr(error, 'strerror', None) or error}") from None
