"""Learning curves."""

import pytest

from charrnn.errors import CheckpointError, ConfigError
from charrnn.insight.plotting import curve, plain_label, plot_curves, read_metrics
from charrnn.training import loop
from charrnn.training.runs import Run

pytest.importorskip("matplotlib")


@pytest.fixture
def run(small_config, view, folder):
    return loop.train(small_config, view, folder / "run")


@pytest.mark.parametrize("axis", ["seconds", "steps", "epochs"])
def test_a_curve_holds_every_record_in_nats(run, axis):
    records = read_metrics(run)["evaluation"]
    where, nats = curve(records, axis)
    assert len(where) == 4
    assert where == sorted(where)
    assert nats == [record["nats_per_char"] for record in records]


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_curves_are_drawn_in_the_format_of_the_files_name(run, folder, name, start):
    plot_curves([run, run], folder / name)
    assert (folder / name).read_bytes().startswith(start)


def test_what_cannot_be_drawn_is_an_error(run, folder):
    with pytest.raises(ConfigError, match="--output"):
        plot_curves([run], folder / "a.nonsense")
    with pytest.raises(ConfigError, match="--output"):
        plot_curves([run], folder / "nowhere" / "a.png")
    with pytest.raises(CheckpointError, match="name the folder of a run"):
        plot_curves([Run(folder / "nowhere")], folder / "a.png")
    with pytest.raises(ConfigError, match=r"--output .*curves: expected a name that ends in \.png, \.svg, \.pdf"):
        plot_curves([run], folder / "curves")
    run.metrics.write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="damaged log"):
        plot_curves([run], folder / "a.png")


NO_RECORDS = ["", "[]", "3", "null", '"x"', "{", "\0", "{}", '{"type": [1]}', "[" * 100_000, "9" * 5000]
NO_RECORDS += ['{"type": "training"}', '{"type": "evaluation", "seconds": 1, "step": 1, "epoch": 1}']
NO_RECORDS += [
    f'{{"type": "training", "step": 1, "epoch": 1, "seconds": 1, "nats_per_char": {value}}}'
    for value in ("NaN", "Infinity", "1e308", "9" * 400, "null", "true", '"1"', "[1]")
]


@pytest.mark.parametrize("line", NO_RECORDS, ids=range(len(NO_RECORDS)))
def test_a_line_that_is_no_record_is_named(folder, line):
    (folder / "metrics.jsonl").write_bytes(b'{"type": "event"}\n' + line.encode() + b'\n{"type": "event"}\n')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 2: a damaged log, .*; delete that line") as caught:
        plot_curves([Run(folder)], folder / "a.png")
    assert len(str(caught.value)) < 300


def test_bytes_that_are_no_text_are_a_damaged_line(folder):
    (folder / "metrics.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="line 1: a damaged log"):
        read_metrics(Run(folder))


def test_a_log_without_figures_draws_no_empty_picture(folder):
    (folder / "metrics.jsonl").write_bytes(b'{"type": "event"}\n')
    with pytest.raises(CheckpointError, match="no figures in it yet"):
        plot_curves([Run(folder)], folder / "a.png")
    assert not (folder / "a.png").exists()


def test_a_runs_name_is_no_formula(run, folder):
    for name in ("$x^$", "_hidden", "a\x1bb"):
        renamed = run.folder.rename(folder / name)
        plot_curves([Run(renamed)], folder / "a.svg")
        renamed.rename(run.folder)
    assert [plain_label(name) for name in ("$x^$", "_hidden")] == [r"\$x^\$", "hidden"]
