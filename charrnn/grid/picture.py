"""What came of a grid, drawn: the loss along a size, with a line for each combination of the rest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from charrnn.errors import ConfigError
from charrnn.grid.combinations import CELL, LAYERS, SEED, UNITS, text_of
from charrnn.grid.folder import Grid, Record
from charrnn.grid.report import Group, groups, what
from charrnn.insight.plotting import new_figure, plain_label, save_figure

_STYLES = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."))
"""Marker and line."""

_WIDE = 4.0
"""How many times the smallest value the largest is from which an axis is logarithmic."""


def draw(grid: Grid) -> str:
    """Draw grid.png; in words where it is, or why there is none."""
    found = [group for group in groups(grid.record) if group.losses]
    if not found:
        return "none, since no run is finished"
    axis = _axis(grid.record)
    try:
        figure = _ranked(found) if axis is None else _curves(found, axis)
        figure.suptitle(what(grid.record))
        save_figure(figure, grid.picture)
    except ConfigError as error:
        return f"none: {error}"
    return str(grid.picture)


def _axis(record: Record) -> str | None:
    """The key along which lines run: hidden_size, or else that of the most numbers; None if none has several."""
    counts = {key: _several(record, key) for key in record.vary if key != SEED}
    return max(counts, key=lambda key: (counts[key] and key == UNITS, counts[key])) if any(counts.values()) else None


def _several(record: Record, key: str) -> int:
    """How many different numbers a key has; 0 if there is only one or it has other values too."""
    values = [run.values[key] for run in record.runs]
    return len({*values}) if all(type(value) in (int, float) for value in values) and len({*values}) > 1 else 0


# ---- along a key


@dataclass(frozen=True)
class _Line:
    """Groups that differ in one key only."""

    name: str
    color: str
    style: tuple[str, str]
    groups: list[Group] = field(default_factory=list)


def _curves(found: Sequence[Group], axis: str) -> Any:
    """The loss along a key, and beside it along the number of parameters where the key decides that."""
    places: dict[str, Callable[[Group], Any]] = {axis.partition(".")[2]: lambda group: group.values[axis]}
    if axis in (UNITS, LAYERS):
        places["parameters"] = lambda group: group.parameters
    lines = _lines(found, axis)
    figure = new_figure(3 + 4.5 * len(places), 5)
    for axes, (name, place) in zip(
        figure.subplots(1, len(places), sharey=True, squeeze=False)[0], places.items(), strict=True
    ):
        for line in lines:
            _draw(axes, line, place)
        _mark(axes, name, sorted({place(group) for group in found}))
    figure.axes[0].set_ylabel("nats per character")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def _lines(found: Sequence[Group], axis: str) -> list[_Line]:
    """The groups by their other values, of which the first gives the color and the rest the style.

    In the order, from the top, in which they end, since the legend then stands as they do.
    """
    colors: dict[str, str] = {}
    styles: dict[str, tuple[str, str]] = {}
    lines: dict[str, _Line] = {}
    for group in found:
        values = {key: value for key, value in group.values.items() if key != axis}
        first, *rest = [text_of(value) for value in values.values()] or [""]
        color = colors.setdefault(first, f"C{len(colors)}")
        style = styles.setdefault(repr(rest), _STYLES[len(styles) % len(_STYLES)])
        line = lines.setdefault(repr(values), _Line(_legend(values), color, style))
        line.groups.append(group)
    return sorted(lines.values(), key=lambda line: line.groups[-1].loss, reverse=True)


def _legend(values: Mapping[str, Any]) -> str:
    """lstm, num_layers 2."""
    said = (
        text_of(value) if key == CELL else f"{key.partition('.')[2]} {text_of(value)}" for key, value in values.items()
    )
    return plain_label(", ".join(said))


def _draw(axes: Any, line: _Line, place: Callable[[Group], Any]) -> None:
    """The medians joined; through each of several seeds' a bar from the lowest to the highest."""
    there = sorted(line.groups, key=place)
    spread = [
        [group.loss - min(group.losses) for group in there],
        [max(group.losses) - group.loss for group in there],
    ]
    marker, dashes = line.style
    axes.errorbar(
        [place(group) for group in there],
        [group.loss for group in there],
        spread if any(map(any, spread)) else None,
        color=line.color,
        marker=marker,
        linestyle=dashes,
        markersize=5,
        linewidth=1.3,
        elinewidth=0.8,
        label=line.name,
    )


def _mark(axes: Any, name: str, values: Sequence[float]) -> None:
    """Name an axis; values that are wide apart stand on a logarithmic scale."""
    from matplotlib.ticker import EngFormatter, LogLocator

    axes.set_xlabel(name)
    axes.grid(alpha=0.3)
    wide = values[0] > 0 and values[-1] >= _WIDE * values[0]
    if wide:
        axes.set_xscale("log")
    if name != "parameters":
        axes.set_xticks(values, [f"{value:g}" for value in values])
    elif wide:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.minorticks_off()
    if name == "parameters":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


# ---- no number to go along


def _ranked(found: Sequence[Group]) -> Any:
    """A row for each group, the best at the top."""
    there = sorted(found, key=lambda group: group.loss, reverse=True)
    figure = new_figure(8, 1.5 + 0.3 * len(there))
    axes = figure.subplots()
    for row, group in enumerate(there):
        axes.plot([min(group.losses), max(group.losses)], [row, row], color="C0", linewidth=1)
        axes.plot(group.loss, row, color="C0", marker="o")
    axes.set_yticks(range(len(there)), [group.name for group in there])
    axes.set_xlabel("nats per character")
    axes.grid(alpha=0.3)
    return figure
