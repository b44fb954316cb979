"""What a run says of itself."""

import io
import math
from typing import Any

import pytest
from rich.console import Console

from charrnn.training import loop, reporting
from charrnn.training.evaluation import Evaluation
from charrnn.training.reporting import LiveView, PlainView, duration, harmless
from charrnn.training.runs import Run
from charrnn.training.session import Session
from tests.training.test_divergence import no_number, ruin_after
from tests.training.test_loop import with_settings

FOUND = Evaluation(
    nats=160.0, characters=100, bytes=100, unknown=0, unigram_nats_per_char=3.0, uniform_nats_per_char=4.0
)
REPORT = {"step": 7, "epoch": 0.5, "nats_per_char": 2.0, "chars_per_second": 1234}


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (185, "3:05"), (3723, "1:02:03"), (math.inf, "?"), (math.nan, "?")],
)
def test_durations_are_said_as_people_say_them(seconds, shown):
    assert duration(seconds) == shown


def test_control_characters_are_shown_as_pictures():
    assert harmless("a\x1b[31mb\x07\n\tc\x7f\x9b") == "a␛[31mb␇\n\tc␡\ufffd"
    assert harmless("é€😀") == "é€😀"
    assert harmless("\ud800") == "?"


def test_the_plain_view_writes_whole_lines_even_to_a_narrow_encoding():
    raw = io.BytesIO()
    view = PlainView(io.TextIOWrapper(raw, encoding="ascii"))
    view.say("note", "Größe \x1b[2J")
    view.update(0.5, REPORT)
    view.evaluated(7, 0.5, FOUND, True)
    view.sample(7, "ein Beispiel €")
    view.close()
    text = raw.getvalue().decode("ascii")
    assert "Gr\\xf6\\xdfe \\u241b[2J" in text
    assert "50%  step 7  epoch 0.50  train 2.0000 nats/char = 2.885 bits, perplexity 7.39  1,234 chars/s" in text
    assert "50%  step 7  validation 1.6000 nats/char = 2.308 bits, perplexity 4.95  best" in text
    assert "ein Beispiel \\u20ac" in text


def test_a_run_whose_messages_nobody_can_read_trains_on_unheard(small_config, folder):
    stream = io.StringIO()
    view = PlainView(stream)
    stream.close()
    assert loop.train(small_config, view, folder / "run").best.exists()


@pytest.mark.parametrize(("width", "shown", "left_out"), [(80, "left", "epoch"), (200, "gone", "x")])
def test_the_live_bar_keeps_its_percentage_and_drops_figures_by_width(width, shown, left_out):
    stream = io.StringIO()
    view = LiveView(Console(file=stream, force_terminal=True, width=width, color_system=None))
    view.update(0.25, None)
    view.update(0.5, REPORT)
    view.evaluated(7, 0.5, FOUND, True)
    view.update(0.6, REPORT)
    view.close()
    last = [line for line in stream.getvalue().splitlines() if "60%" in line][-1]
    assert shown in last
    assert left_out not in last


def test_the_plain_view_does_not_repeat_itself_within_seconds():
    stream = io.StringIO()
    view = PlainView(stream)
    for _ in range(5):
        view.update(0.5, REPORT)
    assert stream.getvalue().count("\n") == 1


def test_the_live_view_shows_the_figures_and_takes_brackets_in_a_text_for_text():
    stream = io.StringIO()
    view = LiveView(Console(file=stream, force_terminal=True, width=200, color_system=None))
    view.say("note", "[bold]not markup[/bold]")
    view.update(0.25, None)
    view.update(0.5, REPORT)
    assert "perplexity 7.39" in view._figures(0.5)  # as long as nothing is held out
    view.evaluated(7, 0.5, FOUND, True)
    view.update(0.6, None)
    view.sample(7, "[red]x[/red]")
    view.close()
    drawn = stream.getvalue()
    for part in (
        "[bold]not markup[/bold]",
        "[red]x[/red]",
        "60%",
        "train 2.000 nats = 2.89 bits",
        "val 1.600 best 1.600",
    ):
        assert part in drawn


def test_in_a_later_sitting_the_bar_claims_no_best_that_is_none():
    stream = io.StringIO()
    view = LiveView(Console(file=stream, force_terminal=True, width=200, color_system=None))
    view.update(0.5, REPORT)
    view.evaluated(7, 0.5, FOUND, False)
    view.update(0.6, REPORT)
    view.close()
    assert "val 1.600 · " in stream.getvalue()


def test_metrics_are_written_for_tensorboard_too(small_config, view, folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = loop.train(with_settings(small_config, "tensorboard=true"), view, folder / "run")
    events = accumulator.EventAccumulator(str(run.folder)).Reload()
    values = [event.value for event in events.Scalars("validation/nats_per_char")]
    assert values == pytest.approx([found.nats_per_char for _, found, _ in view.evaluations])
    assert events.Scalars("training/chars_per_second")[-1].step == 40


def steps_in_tensorboard(run: Run) -> list[int]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    unlimited = {"scalars": 0}
    events = accumulator.EventAccumulator(str(run.folder), size_guidance=unlimited).Reload()
    return [event.step for event in events.Scalars("training/nats_per_char")]


def test_a_rollback_voids_tensorboards_events_of_the_steps_that_are_done_again(small_config, view, folder, monkeypatch):
    ruin_after(monkeypatch, 27, no_number)
    run = loop.train(with_settings(small_config, "tensorboard=true"), view, folder / "run")
    assert "back to step 26 " in view.text()
    assert steps_in_tensorboard(run) == list(range(1, 41))


def test_a_resume_voids_tensorboards_events_of_the_steps_that_were_lost(small_config, view, folder, monkeypatch):
    config = with_settings(small_config, "tensorboard=true")
    with monkeypatch.context() as patch:
        ordinary = Session.step
        patch.setattr(Session, "step", lambda self, x: pytest.fail("x") if self.step_count == 17 else ordinary(self, x))
        with pytest.raises(pytest.fail.Exception):
            loop.train(config, view, folder / "run")
    assert steps_in_tensorboard(Run(folder / "run"))[-1] == 17
    run = loop.resume(view, folder / "run", [], None)
    assert steps_in_tensorboard(run) == list(range(1, 41))


def test_training_goes_on_where_tensorboards_events_cannot_be_written(small_config, view, folder, monkeypatch):
    pytest.importorskip("tensorboard")

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reporting, "require_tensorboard", lambda: refuse)
    assert loop.train(with_settings(small_config, "tensorboard=true"), view, folder / "run").best.exists()
    assert "TensorBoard's events cannot be written any more (No space left on device)" in view.text()
