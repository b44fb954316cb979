"""Training that goes wrong is rolled back, other training is left alone, and when patience runs out it ends."""

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charrnn.config import Config
from charrnn.errors import ConfigError, Interrupted, TrainingError
from charrnn.training import checkpoint, loop, session
from charrnn.training.divergence import Diverged, Watch
from charrnn.training.optimization import learning_rate_at
from charrnn.training.runs import Run, give_second_name
from charrnn.training.session import Session
from tests.training.test_faults import Killed, assert_same_run, killed_at
from tests.training.test_loop import interrupt_at, records, with_settings

GROWING = (
    "learning_rate=3",
    "readout_rate=1",
    "betas=[0.9, 0.99]",
    "clip_norm=null",
    "schedule=constant",
    "warmup=0.9",
)
"""A learning rate that grows beyond all bounds."""

EXPLODING = ("cell=rnn", *GROWING)
"""The loss explodes, near step 21 of 40; with half of it, hardly or not at all.

How CPUs round differently decides that: on one it came to 3.7 times the first loss, above the limit of 3.
"""


def events(run: Run, name: str) -> list[dict[str, Any]]:
    return [event for event in records(run, "event") if event["event"] == name]


def steps_of(run: Run) -> list[int]:
    return [report["step"] for report in records(run, "training")]


Ruin = Callable[[Session], None]


def ruin_after(monkeypatch: pytest.MonkeyPatch, step: int, ruin: Ruin, times: float = 1) -> None:
    """After a step something happens to the network, until there have been so many rollbacks."""
    ordinary = Session.step

    def spoilt(self: Session, progress: float) -> None:
        ordinary(self, progress)
        if self.step_count == step and self.rollbacks < times:
            ruin(self)

    monkeypatch.setattr(Session, "step", spoilt)


def no_number(session: Session) -> None:
    with torch.no_grad():
        session.network.readout.bias[3] = math.nan


def forget(session: Session) -> None:
    """The readout's biases are thrown away: the loss jumps by some nats and does not come back soon."""
    with torch.no_grad():
        session.network.readout.bias.copy_(torch.linspace(-5, 5, len(session.network.readout.bias)))


# ---- back, and on more slowly


def test_an_exploding_run_is_rolled_back_to_states_before_the_trouble_and_saved_by_halving_the_learning_rate(
    small_config, view, folder
):
    config = with_settings(small_config, *EXPLODING)
    run = loop.train(config, view, folder / "run")
    found = events(run, "rollback")
    assert [(event["rollbacks"], event["rate_factor"]) for event in found] == [(1, 0.5), (2, 0.25)][: len(found)]
    assert "the training loss exploded to " in found[0]["cause"]
    said = [text for label, text in view.said if label == "rollback"]
    assert len(said) == len(found)
    for text, event in zip(said, found, strict=True):
        assert event["to_step"] < event["step"]
        assert f"; back to step {event['to_step']} with the learning rate times {event['rate_factor']}" in text
    assert steps_of(run) == list(range(1, 41))
    for report in records(run, "training"):
        scheduled = learning_rate_at((report["step"] - 0.5) / 40, config.training)
        halved = sum(report["step"] > event["to_step"] for event in found)
        assert report["learning_rate"] == pytest.approx(scheduled * 0.5**halved)


def test_what_the_log_tells_of_a_rollback_stands_between_what_was_kept_and_what_was_done_again(
    small_config, view, folder, monkeypatch
):
    ruin_after(monkeypatch, 25, no_number, times=2)
    run = loop.train(with_settings(small_config, "samples=40"), view, folder / "run")
    lines = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    assert [line["rollbacks"] for line in lines if line.get("event") == "rollback"] == [1, 2]
    first = next(index for index, line in enumerate(lines) if line.get("event") == "rollback")
    assert all(line["step"] <= 24 for line in lines[1:first])
    assert all(line["step"] > 24 for line in lines[first + 2 :])
    sampled = [line for line in run.samples.read_text(encoding="utf-8").splitlines() if line.startswith("== step ")]
    assert sampled == [f"== step {step}" for step in range(1, 41)]


def infinite_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary, calls = session.clip_gradient, []

    def clip(*arguments: Any) -> torch.Tensor:
        calls.append(0)
        return torch.tensor(math.inf) if len(calls) == 25 else ordinary(*arguments)

    monkeypatch.setattr(session, "clip_gradient", clip)


@pytest.mark.parametrize(
    ("trouble", "step", "cause"),
    [
        (lambda patch: ruin_after(patch, 25, no_number), 25, "the loss is no longer finite after step 25 (nan)"),
        (infinite_gradient, 24, "the gradient's norm is no longer finite after step 24 (inf)"),
        (
            lambda patch: ruin_after(patch, 20, no_number),
            20,
            "the validation loss is no longer finite after step 20 (nan)",
        ),
        (
            lambda patch: ruin_after(patch, 22, no_number),
            22,
            "the weights readout.bias are no longer finite after step 22",
        ),
    ],
    ids=["loss", "gradient", "validation", "weights"],
)
def test_whatever_is_not_finite_is_rolled_back(trouble, step, cause, small_config, view, folder, monkeypatch):
    trouble(monkeypatch)
    run = loop.train(small_config, view, folder / "run")
    (event,) = events(run, "rollback")
    assert (event["step"], event["cause"]) == (step, cause)
    assert steps_of(run) == list(range(1, 41))
    assert all(tensor.isfinite().all() for tensor in checkpoint.load(run.last).weights.values())


def test_weights_that_are_not_finite_are_never_saved(small_config, view, folder, monkeypatch):
    config = with_settings(small_config, "checkpoint_every=0.000001s")
    ruin_after(monkeypatch, 25, no_number, times=math.inf)
    saved: list[bool] = []
    ordinary = checkpoint.save

    def save(path: Path, stored: checkpoint.Checkpoint) -> None:
        saved.append(all(bool(tensor.isfinite().all()) for tensor in stored.weights.values()))
        ordinary(path, stored)

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(TrainingError):
        loop.train(config, view, folder / "run")
    assert len(saved) > 20
    assert all(saved)


def test_a_loss_that_jumps_and_stays_up_is_rolled_back(small_config, view, folder, monkeypatch):
    ruin_after(monkeypatch, 30, forget)
    config = with_settings(small_config, "evaluations=1", "learning_rate=1e-3")
    run = loop.train(config, view, folder / "run")
    (event,) = events(run, "rollback")
    assert (event["step"], event["to_step"]) == (35, 30)
    assert "the training loss jumped from about" in event["cause"]
    assert "should it jump there again, it is left to the text" in view.text()


def test_a_jump_that_comes_again_at_its_place_is_left_to_the_text(small_config, view, folder, monkeypatch):
    ruin_after(monkeypatch, 30, forget, times=math.inf)
    config = with_settings(small_config, "evaluations=1", "learning_rate=1e-3")
    run = loop.train(config, view, folder / "run")
    assert [event["rollbacks"] for event in events(run, "rollback")] == [1]
    assert steps_of(run) == list(range(1, 41))


def test_explosion_null_leaves_any_finite_loss_alone(small_config, view, folder, monkeypatch):
    run = loop.train(with_settings(small_config, *EXPLODING, "explosion=null"), view, folder / "run")
    assert not events(run, "rollback")
    ruin_after(monkeypatch, 30, forget)
    run = loop.train(with_settings(small_config, "explosion=null", "learning_rate=1e-3"), view, folder / "jump")
    assert not events(run, "rollback")


def test_a_rollback_gives_no_time_back(small_config, folder):
    """A run that did not spend the time it lost could go back for ever."""
    started = loop.prepare(with_settings(small_config, "budget=1000h"))
    started.step(0.5)
    good = started.full_checkpoint({})
    started.step(0.5)
    started._seconds_before = 900 * 3600.0
    started.roll_back(good, Diverged("trouble"))
    assert started.step_count == 1
    assert started.progress() == pytest.approx(0.9, abs=1e-4)
    assert started.seconds > good.progress["seconds"]


def test_a_time_budget_that_ends_during_a_rollback_ends_the_run_with_its_evaluation(
    small_config, view, folder, monkeypatch
):
    """By a clock that gives every step taken, also those done again, a tenth of a second."""
    taken = [0]
    ordinary = Session.step

    def step(self: Session, progress: float) -> None:
        taken[0] += 1
        ordinary(self, progress)
        if self.step_count == 45 and not self.rollbacks:
            taken[0] += 100
            no_number(self)

    monkeypatch.setattr(Session, "step", step)
    monkeypatch.setattr(Session, "seconds", property(lambda self: 0.1 * taken[0]))
    run = loop.train(with_settings(small_config, "budget=5s", "evaluations=5"), view, folder / "run")
    assert len(events(run, "rollback")) == 1
    assert records(run, "evaluation")[-1]["step"] == steps_of(run)[-1] < 45


# ---- exact


@pytest.mark.parametrize("stop_at", [13, 21, 33])
def test_interrupted_and_resumed_equals_uninterrupted_through_a_rollback(
    stop_at, small_config, view, folder, monkeypatch
):
    config = with_settings(small_config, *EXPLODING, "dropout=0.2", "num_layers=2", "samples=8", "keep=2")
    whole = loop.train(config, view, folder / "whole")
    assert events(whole, "rollback")
    interrupt_at(monkeypatch, stop_at)
    with pytest.raises(Interrupted):
        loop.train(config, view, folder / "parts")
    torch.manual_seed(12345)
    parts = loop.resume(view, folder / "parts", [], None)
    assert_same_run(whole, parts)
    assert events(whole, "rollback") == events(parts, "rollback")


@pytest.mark.parametrize(("budget", "to_step"), [("40 steps", 24), ("10h, 40 steps", 24), ("40s, 1000 steps", 25)])
def test_where_the_clock_has_saved_is_gone_back_to_only_where_time_is_the_limit(
    budget, to_step, small_config, view, folder, monkeypatch
):
    """By a clock that gives every step a second."""
    monkeypatch.setattr(Session, "seconds", property(lambda self: 1.0 * self.step_count))
    ruin_after(monkeypatch, 26, no_number)
    config = with_settings(small_config, f"budget={budget}", "checkpoint_every=0.000001s")
    (event,) = events(loop.train(config, view, folder / "run"), "rollback")
    assert event["to_step"] == to_step


def test_a_run_killed_between_any_two_changes_of_the_disk_is_rolled_back_as_it_would_have_been(
    small_config, view, folder, monkeypatch
):
    ruin_after(monkeypatch, 5, no_number)
    config = with_settings(small_config, "budget=8 steps", "keep=2", "evaluations=4", "learning_rate=0.1")
    whole = loop.train(config, view, folder / "whole")
    ordinary = loop.Trainer.roll_back
    for moment in range(10):  # those of the rollback, and of the first steps after it
        with monkeypatch.context() as patch:

            def dying(self: loop.Trainer, trouble: Diverged, patch: Any = patch, moment: int = moment) -> None:
                killed_at(patch, moment)
                ordinary(self, trouble)

            patch.setattr(loop.Trainer, "roll_back", dying)
            with pytest.raises(Killed):
                loop.train(config, view, folder / "parts")
        parts = loop.resume(view, folder / "parts", [], None)
        assert_same_run(whole, parts)
        shutil.rmtree(parts.folder)


@pytest.mark.parametrize("victim", [(checkpoint, "save"), (loop.Reporter, "rewind")], ids=["save", "rewind"])
def test_a_rollback_saves_before_it_cuts_the_logs_so_that_a_kill_between_them_loses_no_line(
    victim, small_config, view, folder, monkeypatch
):
    """The trouble does not come again. Cut first, the logs would lack lines that the last checkpoint vouches for."""
    config = with_settings(small_config, "checkpoint_every=0.000001s", "samples=40")
    ordinary = loop.Trainer.roll_back

    def die(*arguments: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:

        def dying(self: loop.Trainer, trouble: Diverged) -> None:
            patch.setattr(*victim, die)
            ordinary(self, trouble)

        ruin_after(patch, 28, no_number)
        patch.setattr(loop.Trainer, "roll_back", dying)
        with pytest.raises(Killed):
            loop.train(config, view, folder / "parts")
    parts = loop.resume(view, folder / "parts", [], None)
    assert steps_of(parts) == list(range(1, 41))
    if victim[1] == "save":  # of the trouble nothing is left
        assert_same_run(loop.train(config, view, folder / "whole"), parts)


# ---- giving up


def assert_sound(run: Run) -> None:
    for path in (run.best, run.last):
        stored = checkpoint.load(path, with_training=path == run.last)
        assert all(tensor.isfinite().all() for tensor in stored.weights.values())


@pytest.mark.parametrize(("rollbacks", "more"), [(0, 1), (2, 5)])
def test_after_so_many_rollbacks_it_gives_up_with_all_saved_and_says_what_to_change(
    rollbacks, more, small_config, view, folder, monkeypatch
):
    ruin_after(monkeypatch, 25, no_number, times=math.inf)
    with pytest.raises(TrainingError) as caught:
        loop.train(with_settings(small_config, f"rollbacks={rollbacks}"), view, folder / "run")
    run = Run(folder / "run")
    message = str(caught.value)
    for part in (
        "the loss is no longer finite after step 25 (nan); ",
        f"given up after training.rollbacks = {rollbacks}, each with half the learning rate",
        f"Saved: {run.best} (step 20) and {run.last} (step 24)",
        f"training.learning_rate below {0.5**rollbacks * small_config.training.learning_rate:g}",
        f"--init-from {run.best} starts",
        f"--set rollbacks={more}",
    ):
        assert part in message
    assert caught.value.exit_code == 1
    assert len(events(run, "rollback")) == rollbacks
    assert_sound(run)


def test_a_run_given_up_goes_on_when_it_is_allowed_more_rollbacks(small_config, view, folder, monkeypatch):
    ruin_after(monkeypatch, 25, no_number, times=3)
    with pytest.raises(TrainingError):
        loop.train(with_settings(small_config, "rollbacks=2"), view, folder / "run")
    with pytest.raises(TrainingError, match=r"given up after training.rollbacks = 2"):
        loop.resume(view, folder / "run", [], None)
    run = loop.resume(view, folder / "run", ["rollbacks=3"], None)
    assert [event["rate_factor"] for event in events(run, "rollback")] == [0.5, 0.25, 0.125]
    assert steps_of(run) == list(range(1, 41))


def test_without_a_validation_text_the_last_good_state_is_what_is_saved(small_config, view, folder, monkeypatch):
    ruin_after(monkeypatch, 25, no_number, times=math.inf)
    with pytest.raises(TrainingError, match=r"Saved: \S+last.safetensors \(step 24\)\. .*--init-from \S+last.safe"):
        loop.train(with_settings(small_config, "validation=0"), view, folder / "run")


def test_a_good_state_that_cannot_be_read_ends_the_run_with_what_is_saved(small_config, view, folder, monkeypatch):
    ruin_after(monkeypatch, 25, lambda spoilt: (Run(folder / "run").good.unlink(), no_number(spoilt))[0])
    with pytest.raises(TrainingError, match=r"good.safetensors: no such checkpoint. Saved: .*best.*\(step 20\) and"):
        loop.train(small_config, view, folder / "run")
    assert_sound(Run(folder / "run"))


# ---- ordinary training is left alone


def foreign_document(text: str) -> str:
    """The text with a page in another alphabet in the middle of its training part."""
    middle = len(text) // 3
    return text[:middle] + "ΩΨΧΦΥ ΤΣΡ ΠΟΞΝΜ ΛΚΙΘ ΗΖΕΔ ΓΒΑ. " * 4 + text[middle:]


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize(
    ("budget", "lanes", "steps"),
    [
        ("40 steps", 4, 11),
        ("300 steps", 1, 5),
        pytest.param("600 steps", 4, 11, marks=pytest.mark.slow),
        pytest.param("20 epochs", 1, 11, marks=pytest.mark.slow),
    ],
)
def test_ordinary_training_is_never_taken_for_divergence(
    budget, lanes, steps, cell, small_config, view, folder, text_file
):
    """At the default learning rate, from the first step of the warm-up, past a foreign page, epoch after epoch."""
    text_file.write_text(foreign_document(text_file.read_text(encoding="utf-8")), encoding="utf-8")
    shape = (f"batch_size={lanes}", f"seq_length={steps}", "samples=0")
    config = with_settings(small_config, f"budget={budget}", f"cell={cell}", *shape)
    assert config.training.learning_rate == Config().training.learning_rate
    run = loop.train(config, view, folder / "run")
    assert not events(run, "rollback")


def test_training_that_starts_from_another_models_low_loss_may_begin_badly(small_config, view, folder, text_file):
    first = loop.train(with_settings(small_config, "budget=200 steps", "samples=0"), view, folder / "first")
    letters = sorted(set(text_file.read_text(encoding="utf-8")))
    other = folder / "other.txt"
    noise = np.random.default_rng(0).choice(letters, 1500)
    other.write_text(
        "".join(np.insert(noise, 400, list(text_file.read_text(encoding="utf-8")[:900]))), encoding="utf-8"
    )
    second = loop.train(
        with_settings(small_config, f"source={other}", "learning_rate=1e-3"), view, folder / "second", first.best
    )
    assert not events(second, "rollback")


# ---- the watch


def seen(watch: Watch, losses: list[float], explosion: float | None = 3.0) -> Watch:
    for step, loss in enumerate(losses):
        watch.see(loss, explosion, 4.0, 10 * step, 10 * step + 10)
    return watch


QUIET = [1.5 + 0.01 * (-1) ** n for n in range(40)]


def test_an_explosion_is_so_many_times_the_first_loss_or_that_of_guessing():
    seen(Watch(), [5.0, 14.9])
    with pytest.raises(Diverged, match=r"exploded to 15.1 nats/char by step 20, above 3 times the 5 where it began"):
        seen(Watch(), [5.0, 15.1])
    seen(Watch(), [0.1, 11.9])
    with pytest.raises(Diverged, match=r"above 3 times the 4 where it began"):
        seen(Watch(), [0.1, 12.1])
    with pytest.raises(Diverged, match=r"above 1.5 times"):
        seen(Watch(), [0.1, 6.1], explosion=1.5)


def test_a_jump_is_a_nat_beyond_the_spread_five_times_in_a_row():
    with pytest.raises(
        Diverged, match=r"jumped from about 1.5 to 2.6 nats/char and stayed up until step 450"
    ) as caught:
        seen(Watch(), [*QUIET, *[2.6] * 5])
    assert caught.value.jumped_at == 400
    seen(Watch(), [*QUIET, *[2.6] * 4, *QUIET, *[2.6] * 4])
    seen(Watch(), [*QUIET, *[2.4] * 50])
    seen(Watch(), QUIET[:10] + [2.6] * 40)


def test_noise_hides_a_jump():
    noisy = [2.0 + 0.5 * (-1) ** n for n in range(40)]
    seen(Watch(), [*noisy, *[6.0] * 20])
    with pytest.raises(Diverged, match="jumped"):
        seen(Watch(), [*noisy, *[8.0] * 20])


def test_a_suspicion_is_forgotten_when_the_model_proves_to_be_the_best():
    watch = seen(Watch(), [*QUIET, *[2.6] * 4])
    watch.clear()
    seen(watch, [2.6] * 4)
    with pytest.raises(Diverged):
        seen(watch, [2.6])


def test_a_jump_rolled_back_before_is_excused_at_its_place_and_nowhere_else():
    for place, excused in ((400, True), (390, True), (410, True), (370, False), (430, False)):
        watch = Watch(jumped_at=place)
        if excused:
            seen(watch, [*QUIET, *[2.6] * 60])
            assert watch.mean == pytest.approx(2.6)
        else:
            with pytest.raises(Diverged):
                seen(watch, [*QUIET, *[2.6] * 60])


def test_a_state_is_good_while_the_loss_is_about_as_low_as_it_has_been():
    assert Watch().calm()
    watch = seen(Watch(), [*QUIET, 1.9])
    assert watch.calm()
    assert watch.calm(1.98)
    assert not watch.calm(2.1)
    assert not seen(watch, [2.1]).calm()
    assert not seen(Watch(), [*QUIET, 9.0], explosion=None).calm()


# ---- patience


WORSENING = (*GROWING, "explosion=null")
"""The validation loss is best at step 10 of 40, and worse at 20, 30 and 40."""


def test_patience_stops_after_so_many_evaluations_without_a_new_best(small_config, view, folder):
    run = loop.train(with_settings(small_config, *WORSENING, "patience=2"), view, folder / "run")
    assert [found["step"] for found in records(run, "evaluation")] == [10, 20, 30]
    (event,) = events(run, "stopped early")
    assert (event["step"], event["evaluations"]) == (30, 2)
    assert "stopped early: after 2 evaluations without a new best, at step 30" in view.text()
    assert checkpoint.load(run.last).metrics["step"] == 30
    assert checkpoint.load(run.best).metrics["step"] == 10
    assert "finished: 30 steps" in view.text()


def test_a_new_best_gives_patience_back(small_config, view, folder):
    config = with_settings(small_config, "patience=1")
    assert steps_of(loop.train(config, view, folder / "run"))[-1] == 40


def test_a_run_that_stopped_early_says_so_and_goes_on_only_with_more_patience_or_budget(small_config, view, folder):
    run = loop.train(with_settings(small_config, *WORSENING, "patience=2"), view, folder / "run")
    for name in ("patient", "longer"):
        shutil.copytree(run.folder, folder / name)
    loop.resume(view, run.folder, ["samples=1"], None)
    assert "it stopped early after 2 evaluations without a new best, and a larger --budget or --set patience=4" in (
        view.text()
    )
    loop.resume(view, run.folder, [], "35 steps")
    assert checkpoint.load(run.last).metrics["step"] == 30
    patient = loop.resume(view, folder / "patient", ["patience=3"], None)
    assert [event["step"] for event in events(patient, "stopped early")] == [30, 40]
    longer = loop.resume(view, folder / "longer", ["evaluations=6"], "60 steps")
    assert [event["step"] for event in events(longer, "stopped early")] == [30, 50]


@pytest.mark.parametrize("stop_at", [15, 29])
def test_patience_is_counted_through_an_interruption(stop_at, small_config, view, folder, monkeypatch):
    config = with_settings(small_config, *WORSENING, "patience=2")
    whole = loop.train(config, view, folder / "whole")
    interrupt_at(monkeypatch, stop_at)
    with pytest.raises(Interrupted):
        loop.train(config, view, folder / "parts")
    parts = loop.resume(view, folder / "parts", [], None)
    assert_same_run(whole, parts)
    assert events(whole, "stopped early") == events(parts, "stopped early")


def worse_in_between(monkeypatch: pytest.MonkeyPatch, until: int = 20) -> None:
    """Have the validation loss rise after step 10, and fall again after another step, whatever the model says."""
    ordinary = Session.rank

    def ranked(self: Session, nats_per_char: float) -> bool:
        step = self.step_count
        return ordinary(self, 3.0 if step <= 10 else 3.5 if step <= until else 2.9 - step / 1000)

    monkeypatch.setattr(Session, "rank", ranked)


def test_when_patience_is_lost_before_the_cooldown_the_cooldown_comes_then(small_config, view, folder, monkeypatch):
    worse_in_between(monkeypatch)
    run = loop.train(with_settings(small_config, "patience=1", "cooldown=0.4"), view, folder / "run")
    (event,) = events(run, "cooldown")
    assert (event["step"], event["evaluations"]) == (20, 1)
    assert not events(run, "stopped early")
    # Step 20 of 33.3 is where 0.4 are left.
    assert [found["step"] for found in records(run, "evaluation")] == [10, 20, 25, 34]
    rates = [report["learning_rate"] for report in records(run, "training")]
    assert set(rates[2:20]) == {small_config.training.learning_rate}
    assert all(before > after for before, after in pairwise(rates[19:]))
    assert rates[-1] == 0
    assert "cooldown: the learning rate falls from here on, after 1 evaluations without a new best" in view.text()


def test_patience_lost_just_as_the_cooldown_begins_waits_for_what_that_brings(small_config, view, folder, monkeypatch):
    worse_in_between(monkeypatch, until=24)
    config = with_settings(small_config, "patience=2", "cooldown=0.4", "evaluations=5")
    run = loop.train(config, view, folder / "run")
    assert [found["step"] for found in records(run, "evaluation")] == [8, 16, 24, 32, 40]
    assert not events(run, "cooldown")
    assert not events(run, "stopped early")


def test_a_run_resumed_with_less_patience_than_it_has_used_cools_down_first(small_config, view, folder, monkeypatch):
    worse_in_between(monkeypatch)
    interrupt_at(monkeypatch, 18)
    with pytest.raises(Interrupted):
        loop.train(with_settings(small_config, "evaluations=8"), view, folder / "run")
    run = loop.resume(view, folder / "run", ["patience=2"], None)
    assert [event["step"] for event in events(run, "cooldown")] == [18]
    assert steps_of(run)[-1] == 30  # 18 of which are 0.6
    assert "stopped early" not in view.text()


def test_a_rollback_does_not_bring_back_the_end_of_a_smaller_budget(small_config, folder):
    before = loop.prepare(with_settings(small_config, "budget=20 steps"))
    before.step(0.1)
    before.end, before.since_best = 0.5, 3
    stored = before.full_checkpoint({})
    for budget, expected in (("20 steps", (0.5, 3)), ("40 steps", (1.0, 0))):
        other = loop.prepare(with_settings(small_config, f"budget={budget}"))
        other.roll_back(stored, Diverged("a test"))
        assert (other.end, other.since_best) == expected


def test_patience_can_be_lost_in_the_cooldown_too(small_config, view, folder, monkeypatch):
    worse_in_between(monkeypatch)
    config = with_settings(small_config, "patience=1", "cooldown=0.8", "warmup=0.2")
    run = loop.train(config, view, folder / "run")
    assert [event["step"] for event in events(run, "stopped early")] == [20]
    assert not events(run, "cooldown")


@pytest.mark.parametrize("stop_at", [15, 20, 21, 29])
def test_a_cooldown_brought_forward_stays_so_through_an_interruption(stop_at, small_config, view, folder, monkeypatch):
    worse_in_between(monkeypatch)
    config = with_settings(small_config, "patience=1")
    whole = loop.train(config, view, folder / "whole")
    interrupt_at(monkeypatch, stop_at)
    with pytest.raises(Interrupted):
        loop.train(config, view, folder / "parts")
    assert_same_run(whole, loop.resume(view, folder / "parts", [], None))


def test_a_smaller_budget_leaves_a_cooldown_that_was_brought_forward_its_end(small_config, view, folder, monkeypatch):
    """At step 34 of 40 it would have ended; it does so of 36 too, with the same learning rates on the way."""
    worse_in_between(monkeypatch)
    whole = loop.train(with_settings(small_config, "patience=1"), view, folder / "whole")
    interrupt_at(monkeypatch, 25)
    with pytest.raises(Interrupted):
        loop.train(with_settings(small_config, "patience=1"), view, folder / "parts")
    parts = loop.resume(view, folder / "parts", [], "36 steps")
    rates = [[(one["step"], one["learning_rate"]) for one in records(run, "training")] for run in (whole, parts)]
    assert rates[0][-1][0] == rates[1][-1][0] == 34
    assert [rate for _, rate in rates[1]] == pytest.approx([rate for _, rate in rates[0]], rel=1e-9, abs=1e-12)


def test_a_larger_budget_after_it_is_a_whole_one_again(small_config, view, folder, monkeypatch):
    worse_in_between(monkeypatch)
    run = loop.train(with_settings(small_config, "patience=1"), view, folder / "run")
    assert steps_of(loop.resume(view, run.folder, [], "50 steps"))[-1] == 50


@pytest.mark.parametrize("setting", ["patience=2", "keep=1"])
def test_what_goes_by_evaluations_is_refused_where_there_will_be_none(setting, small_config, view, folder):
    message = (
        rf"training\.{setting.replace('=', ' = ')}: expected (null|0), .* corpus\.validation = 0 holds nothing out"
    )
    with pytest.raises(ConfigError, match=message):
        loop.train(with_settings(small_config, "validation=0", setting), view, folder / "run")


# ---- on the disk


def test_a_checkpoint_of_an_earlier_version_goes_on_with_nothing_against_it(small_config, view, folder, monkeypatch):
    interrupt_at(monkeypatch, 17)
    with pytest.raises(Interrupted):
        loop.train(small_config, view, folder / "run")
    run = Run(folder / "run")
    stored = checkpoint.load(run.last, with_training=True)
    for key in ("since_best", "end", "good_step", "rollbacks", "watch"):
        del stored.progress[key]
    checkpoint.save(run.last, stored)
    run.good.unlink()
    ruin_after(monkeypatch, 17 + 1, no_number)
    loop.resume(view, run.folder, [], None)
    assert [(event["step"], event["to_step"]) for event in events(run, "rollback")] == [(18, 17)]


def refuse(*arguments: Any) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_stays_when_the_first_gets_another_file(links, folder, monkeypatch):
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    one, two = folder / "one", folder / "two"
    one.write_bytes(b"before")
    for _ in range(2):
        give_second_name(one, two)
        assert (one.read_bytes(), two.read_bytes()) == (b"before", b"before")
    (folder / "new").write_bytes(b"after")
    os.replace(folder / "new", one)
    assert two.read_bytes() == b"before"
    give_second_name(one, two)
    assert two.read_bytes() == b"after"
    assert sorted(path.name for path in folder.iterdir()) == ["one", "two"]
