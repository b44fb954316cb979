"""What came of a grid, as tables for people."""

import math
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from charrnn.bench.report import Table, formatted, whole, without_empty_notes
from charrnn.errors import TrainingError, quoted
from charrnn.grid.combinations import CELL, LAYERS, SEED, UNITS, label, text_of
from charrnn.grid.folder import Grid, Outcome, Record

_SHOWN_REASON = 100
"""Characters of why a run failed; grid.json has all of them."""


@dataclass(frozen=True)
class Group:
    """Runs that only their seeds tell apart."""

    values: dict[str, Any]
    """Of the varied keys but the seed."""
    runs: list[Outcome]

    @property
    def name(self) -> str:
        """What the run's folder would be called if no seed were in it."""
        return label(self.values) or "all"

    @property
    def losses(self) -> list[float]:
        """Of the finished runs, the best nats per character on the validation text."""
        return [run.nats_per_char for run in self.runs if run.nats_per_char is not None]

    @property
    def loss(self) -> float:
        """Their median; infinite if there are none."""
        return statistics.median(self.losses) if self.losses else math.inf

    @property
    def parameters(self) -> int | None:
        """As many as each of the runs has; None if none is finished."""
        return next((run.parameters for run in self.runs if run.parameters), None)

    @property
    def note(self) -> str:
        """Which runs failed, and why."""
        failed = [run for run in self.runs if run.status == "failed"]
        said = [f"{_seed(run)}{textwrap.shorten(run.reason, _SHOWN_REASON)}" for run in failed]
        return "failed: " + "; ".join(said) if said else ""


def _seed(run: Outcome) -> str:
    return f"seed {run.values[SEED]}: " if SEED in run.values else ""


def _median(figures: Iterable[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return statistics.median(known) if known else None


def _nats(figure: float) -> str:
    return formatted(figure if math.isfinite(figure) else None, "{:.4f}".format)


def groups(record: Record) -> list[Group]:
    """The runs by their values but the seed, in the order of the grid."""
    found: dict[str, Group] = {}
    for run in record.runs:
        values = {key: value for key, value in run.values.items() if key != SEED}
        found.setdefault(repr(values), Group(values, [])).runs.append(run)
    return list(found.values())


def tables(record: Record) -> list[Table]:
    """All runs, the best first; and where sizes of cells are varied, sizes against cells and depths."""
    found = groups(record)
    others = {*record.vary} - {UNITS, SEED}
    crossed = [_crossed(record, found)] if UNITS in record.vary and others and others <= {CELL, LAYERS} else []
    return [_listed(record, found), *crossed]


def what(record: Record) -> str:
    """What the figures of a grid are."""
    seeds = [text_of(seed) for seed in dict.fromkeys(run.values.get(SEED) for run in record.runs)]
    of_seeds = f", median of seeds {', '.join(seeds)}" if SEED in record.vary else ""
    return f"best validation loss in nats per character{of_seeds}"


def _listed(record: Record, found: Sequence[Group]) -> Table:
    several = SEED in record.vary
    spread = ("lowest", "highest") if several else ()
    headings = ("run", "nats/char", *spread, "parameters", "chars/s", "steps", "note")
    rows = [_row(group, several) for group in sorted(found, key=lambda group: group.loss)]
    return without_empty_notes(Table(f"{what(record)}; the best first", headings, rows))


def _row(group: Group, several: bool) -> tuple[str, ...]:
    lowest, highest = (choose(group.losses, default=math.inf) for choose in (min, max))
    return (
        group.name,
        _nats(group.loss),
        *((_nats(lowest), _nats(highest)) if several else ()),
        whole(group.parameters),
        whole(_median(run.chars_per_second for run in group.runs)),
        whole(_median(run.steps for run in group.runs)),
        group.note,
    )


def _crossed(record: Record, found: Sequence[Group]) -> Table:
    """As in Karpathy, Johnson and Fei-Fei (2015), table 1: a row for each size, a column for each cell and depth."""
    cells: dict[int, dict[str, str]] = {}
    for group in found:
        column = " ".join(text_of(value) for key, value in group.values.items() if key != UNITS)
        cells.setdefault(group.values[UNITS], {})[column] = _nats(group.loss) if group.losses else "failed"
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    rows = [(str(size), *row.values()) for size, row in cells.items()]
    named = " and ".join(key.partition(".")[2] for key in record.vary if key in (CELL, LAYERS))
    return Table(f"{what(record)}; rows: hidden_size, columns: {named}", ("", *columns), rows)


def refuse_failed(grid: Grid) -> None:
    """Raise TrainingError if a run of the grid failed."""
    failed = grid.count("failed")
    if failed:
        raise TrainingError(
            f"{failed} of {len(grid.record.runs)} runs failed, as the table and their train.log say; charrnn grid "
            f"--resume --output {quoted(grid.folder)} tries them again"
        )
