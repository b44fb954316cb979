"""A measured case as tables for people."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from charrnn.training.reporting import counted

Record = dict[str, Any]

_MISSING = "-"


@dataclass(frozen=True)
class Table:
    """Cells as they are shown. The first column and the notes are texts, the others figures."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def is_text(self, column: int) -> bool:
        """Whether a column reads from the left; figures end at the right."""
        return column == 0 or self.headings[column] == "note"

    def aligned(self) -> str:
        """The table in plain lines."""
        lines = [self.headings, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.headings))]
        shown = [self.title]
        for line in lines:
            cells = (
                cell.ljust(widths[column]) if self.is_text(column) else cell.rjust(widths[column])
                for column, cell in enumerate(line)
            )
            shown.append("  " + "  ".join(cells).rstrip())
        return "\n".join(shown)


def machine_line(machine: Record) -> str:
    """The machine in a line."""
    hardware = machine["gpu"] or f"{machine['cpu']}, {counted(machine['threads'], 'thread')}"
    return f"{machine['device']}: {hardware}; torch {machine['torch']}, {machine['system']}, Python {machine['python']}"


def tables(case: Record, label: str) -> list[Table]:
    """Training, matrix products, sampling."""
    return [_training(case, label), _products(case), _sampling(case)]


def _training(case: Record, label: str) -> Table:
    headings = ("contender", "chars/s", "x plain", "x per char", "of large GEMM", "of step GEMM", "repeats", "note")
    rows = [
        (
            record["name"],
            whole(record["chars_per_second"]),
            _times(record["ratio_to_plain"]),
            _times(record["ratio_to_call_per_character"]),
            _share(record["fraction_of_large_gemm"]),
            _share(record["fraction_of_recurrent_gemm"]),
            str(record["repeats"]),
            record["note"],
        )
        for record in case["training"]
    ]
    return without_empty_notes(Table(f"training {label}", headings, rows))


def _products(case: Record) -> Table:
    headings = ("matrix product", "precision", "library", "GFLOP/s", "repeats", "note")
    rows = [
        (
            f"{record['shape']} {record['rows']} x {record['inner']} x {record['columns']}",
            record["precision"],
            record["library"],
            whole(_scaled(record["flops_per_second"], 1e9)),
            str(record["repeats"]),
            record["note"],
        )
        for record in case["gemm"]
    ]
    title = f"GEMM in the same turns; a character costs {case['flops_per_character'] / 1e6:.2f} MFLOP of training"
    return without_empty_notes(Table(title, headings, rows))


def _sampling(case: Record) -> Table:
    headings = ("contender", "chars/s", "x per char", "of read bandwidth", "repeats", "note")
    rows = [
        (
            record["name"],
            whole(record["chars_per_second"]),
            _times(record["ratio_to_call_per_character"]),
            _share(record["fraction_of_read_bandwidth"]),
            str(record["repeats"]),
            record["note"],
        )
        for record in case["sampling"]
    ]
    megabytes = case["weight_bytes_per_character"] / 1e6
    speed = formatted(_scaled(case["read_bytes_per_second"], 1e9), "{:.1f} GB/s".format)
    title = f"sampling; {megabytes:.2f} MB of weights a character, such a buffer is read at {speed}"
    return without_empty_notes(Table(title, headings, rows))


def without_empty_notes(table: Table) -> Table:
    """The table without its last column, if nothing is in it."""
    if any(row[-1] for row in table.rows):
        return table
    return Table(table.title, table.headings[:-1], [row[:-1] for row in table.rows])


def formatted(value: float | None, show: Callable[[float], str]) -> str:
    """A figure as it is shown, or the sign of one that is missing."""
    return _MISSING if value is None else show(value)


def whole(value: float | None) -> str:
    """A figure without decimals."""
    return formatted(value, "{:,.0f}".format)


def _times(value: float | None) -> str:
    return formatted(value, "{:.2f}".format)


def _share(value: float | None) -> str:
    return formatted(value, "{:.0%}".format)


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit
