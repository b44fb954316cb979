"""The table and the picture of a grid, whatever was varied."""

import itertools
import re
import shlex
import sys
from typing import Any

import pytest

from charrnn.errors import TrainingError
from charrnn.grid import picture, report
from charrnn.grid.folder import Grid, Outcome, Record

FIGURES = {"status": "finished", "parameters": 1000, "chars_per_second": 2000.0, "steps": 300}


def record_of(losses: dict[str, float], **varied: list[Any]) -> Record:
    """A grid over these values, whose losses are given by name or else count up from 1."""
    keys = {name: f"{'training' if name in ('seed', 'optimizer') else 'model'}.{name}" for name in varied}
    runs = []
    for number, values in enumerate(itertools.product(*varied.values())):
        name = re.sub(r"[^\w.-]", "x", "-".join(map(str, values)))
        loss = losses.get(name, 1 + number / 100)
        runs.append(
            Outcome(name=name, values=dict(zip(keys.values(), values, strict=True)), nats_per_char=loss, **FIGURES)
        )
    return Record(vary=list(keys.values()), jobs=None, texts=[], runs=runs)


def failed(record: Record, name: str, reason: str) -> Record:
    runs = [
        run if run.name != name else Outcome(name=name, values=run.values, status="failed", reason=reason)
        for run in record.runs
    ]
    return record.model_copy(update={"runs": runs})


SIZES = {"cell": ["rnn", "lstm"], "num_layers": [1, 2], "hidden_size": [64, 128]}


def test_sizes_stand_against_cells_and_depths_as_in_the_paper():
    _, crossed = report.tables(failed(record_of({"lstm-1-128": 0.5}, **SIZES), "rnn-2-64", "too bad"))
    assert crossed.headings == ("", "rnn 1", "rnn 2", "lstm 1", "lstm 2")
    assert crossed.rows == [
        ("64", "1.0000", "failed", "1.0400", "1.0600"),
        ("128", "1.0100", "1.0300", "0.5000", "1.0700"),
    ]
    assert crossed.title.endswith("rows: hidden_size, columns: cell and num_layers")


def test_all_runs_are_listed_the_best_first_and_the_failed_last_with_their_reason():
    listed, _ = report.tables(failed(record_of({"lstm-1-128": 0.5}, **SIZES), "rnn-2-64", "too bad " * 50))
    assert listed.headings == ("run", "nats/char", "parameters", "chars/s", "steps", "note")
    assert len(listed.rows) == 8
    assert listed.rows[0] == ("lstm-1-128", "0.5000", "1,000", "2,000", "300", "")
    assert listed.rows[-1][:-1] == ("rnn-2-64", "-", "-", "-", "-")
    assert listed.rows[-1][-1].startswith("failed: too bad too")
    assert len(listed.rows[-1][-1]) < 120


def test_of_several_seeds_the_median_counts_and_the_extremes_are_shown():
    losses = {"gru-0": 3.0, "gru-1": 1.0, "gru-2": 2.5, "rnn-0": 2.0, "rnn-1": 4.0}
    (listed,) = report.tables(failed(record_of(losses, cell=["gru", "rnn"], seed=[0, 1, 2]), "rnn-2", "why"))
    assert listed.title == "best validation loss in nats per character, median of seeds 0, 1, 2; the best first"
    assert [row[:4] for row in listed.rows] == [
        ("gru", "2.5000", "1.0000", "3.0000"),
        ("rnn", "3.0000", "2.0000", "4.0000"),
    ]
    assert [row[-1] for row in listed.rows] == ["", "failed: seed 2: why"]


def test_seeds_alone_and_what_has_no_size_make_a_list_only():
    (only,) = report.tables(record_of({}, seed=[0, 1]))
    assert [row[0] for row in only.rows] == ["all"]
    (listed,) = report.tables(record_of({}, optimizer=["sgd", "adamw"], hidden_size=[3, 5]))
    assert {row[0] for row in listed.rows} == {
        f"optimizer-{name}-hidden_size-{units}" for name in ("sgd", "adamw") for units in (3, 5)
    }


def test_a_failed_run_is_an_error_in_the_end(tmp_path):
    report.refuse_failed(Grid(tmp_path, record_of({}, **SIZES), {}))
    with pytest.raises(TrainingError, match=r"1 of 8 runs failed.* --resume --output .* tries them again"):
        report.refuse_failed(Grid(tmp_path, failed(record_of({}, **SIZES), "rnn-2-64", "too bad"), {}))


# ---- the picture


@pytest.mark.parametrize(
    "record",
    [
        record_of({}, **SIZES),
        failed(record_of({}, **SIZES), "rnn-2-64", "too bad"),
        record_of({}, **SIZES, seed=[0, 1, 2]),
        record_of({}, num_layers=[1, 2, 3], dropout=[0.0, 0.5]),
        record_of({}, dropout=[0.0, None]),
        record_of({}, cell=["rnn", "gru"], optimizer=["sgd", "adamw"], seed=[1, 2]),
        record_of({}, optimizer=["$x^$", "_y"], dropout=[0.1, 0.2]),
        record_of({}, seed=[1, 2]),
    ],
    ids=range(8),
)
def test_whatever_is_varied_is_drawn(record, tmp_path):
    pytest.importorskip("matplotlib")
    assert picture.draw(Grid(tmp_path, record, {})) == str(tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_lines_run_along_the_hidden_size_or_the_key_with_the_most_numbers():
    assert picture._axis(record_of({}, **SIZES)) == "model.hidden_size"
    assert (
        picture._axis(record_of({}, dropout=[0.0, 0.1, 0.2], num_layers=[1, 2], seed=[1, 2, 3, 4])) == "model.dropout"
    )
    assert picture._axis(record_of({}, dropout=[0.0, None], cell=["rnn", "gru"])) is None
    assert picture._axis(record_of({}, hidden_size=[64], seed=[1, 2])) is None


def test_a_line_joins_what_differs_in_the_size_only_and_its_color_is_the_cells():
    record = failed(record_of({}, **SIZES), "rnn-2-64", "too bad")
    found = [group for group in report.groups(record) if group.losses]
    lines = {line.name: line for line in picture._lines(found, "model.hidden_size")}
    assert list(lines) == ["lstm, num_layers 2", "lstm, num_layers 1", "rnn, num_layers 2", "rnn, num_layers 1"]
    assert [group.values["model.hidden_size"] for group in lines["lstm, num_layers 1"].groups] == [64, 128]
    assert [group.values["model.hidden_size"] for group in lines["rnn, num_layers 2"].groups] == [128]
    assert len({line.color for line in lines.values()}) == len({line.style for line in lines.values()}) == 2


def test_without_matplotlib_or_figures_there_is_a_word_and_no_picture(tmp_path, monkeypatch):
    grid = Grid(tmp_path, failed(record_of({}, cell=["rnn"]), "rnn", "why"), {})
    assert picture.draw(grid) == "none, since no run is finished"
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert (
        picture.draw(Grid(tmp_path, record_of({}, **SIZES), {}))
        == f"none: drawing needs matplotlib: {shlex.quote(sys.executable)} -m pip install matplotlib"
    )
    assert not (tmp_path / "grid.png").exists()
