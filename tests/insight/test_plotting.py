"""Learning curves."""

import math

import pytest

from charrnn.errors import CheckpointError, ConfigError
from charrnn.insight.plotting import curve, plot_curves, read_metrics
from charrnn.training import loop
from charrnn.training.runs import Run

pytest.importorskip("matplotlib")


@pytest.fixture
def run(small_config, view, folder):
    return loop.train(small_config, view, folder / "run")


@pytest.mark.parametrize("axis", ["seconds", "steps", "epochs"])
def test_a_curve_holds_every_record_in_bits(run, axis):
    records = read_metrics(run)["evaluation"]
    where, bits = curve(records, axis)
    assert len(where) == 4
    assert where == sorted(where)
    assert bits == [record["nats_per_char"] / math.log(2) for record in records]


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
    run.metrics.write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="damaged log"):
        plot_curves([run], folder / "a.png")
