"""Training as a whole: it learns, it keeps the best, it stops and goes on, it leaves nothing half done."""

import ctypes
import json
import math
import signal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

import charrnn
from charrnn import __version__, cli
from charrnn.config import Config, load_config
from charrnn.errors import CheckpointError, ConfigError, Interrupted, TextError, TrainingError
from charrnn.text.dataset import load_dataset
from charrnn.text.minibatches import Shape
from charrnn.training import checkpoint, loop, memory
from charrnn.training.divergence import Diverged
from charrnn.training.evaluation import evaluate, quick_lanes
from charrnn.training.memory import keep_freed_memory, memory_apart
from charrnn.training.optimization import learning_rate_at
from charrnn.training.progress import PlacementRecord
from charrnn.training.runs import Run
from charrnn.training.session import Session
from charrnn.training.signals import caught_signals
from tests.model.test_engines import FASTER


def with_settings(config: Config, *settings: str) -> Config:
    return load_config(settings=settings, base=config)


def records(run: Run, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["type"] == kind]


def without_time(run: Run) -> list[dict[str, Any]]:
    """metrics.jsonl but for what no two runs share: the clock, and the starting and stopping."""
    timed = ("seconds", "chars_per_second")
    lines = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k not in timed} for line in lines if line["type"] != "event"]


def assert_same_tensors(one: Path, other: Path) -> None:
    first, second = (checkpoint.load(path, with_training=True) for path in (one, other))
    for left, right in ((first.weights, second.weights), (first.training, second.training)):
        assert left.keys() == right.keys()
        for name in left:
            assert torch.equal(left[name], right[name]), name


def test_a_run_leaves_its_files_and_figures(small_config, view, folder):
    run = loop.train(small_config, view, folder / "run")
    assert {path.name for path in run.folder.iterdir()} == {
        ".lock",
        "config.yaml",
        "metrics.jsonl",
        "samples.txt",
        "best.safetensors",
        "last.safetensors",
    }
    assert load_config(run.config) == small_config
    training = records(run, "training")
    assert training[-1]["step"] == 40
    keys = {"step", "epoch", "seconds", "nats_per_char", "learning_rate", "grad_norm", "clipped_share"}
    assert keys < training[0].keys()
    evaluations = records(run, "evaluation")
    assert [found["step"] for found in evaluations] == [10, 20, 30, 40]
    assert [found["step"] for found in records(run, "sample")] == [20, 40]
    assert all(len(sample) == 20 for sample in view.samples)
    best = min(found["nats_per_char"] for found in evaluations)
    stored = checkpoint.load(run.best)
    assert stored.metrics["validation"]["nats_per_char"] == best
    assert not stored.training


def test_best_is_not_overwritten_by_a_worse_last(small_config, view, folder):
    """A learning rate that grows absurd makes the last model worse than an earlier one."""
    config = with_settings(small_config, "schedule=constant", "warmup=0.9", "learning_rate=3", "clip_norm=null")
    run = loop.train(config, view, folder / "run")
    evaluations = records(run, "evaluation")
    figures = [found["nats_per_char"] for found in evaluations]
    assert figures[-1] > min(figures)
    assert checkpoint.load(run.best).metrics["validation"]["nats_per_char"] == min(figures)
    assert [found["best"] for found in evaluations] == [
        figure == min(figures[: index + 1]) for index, figure in enumerate(figures)
    ]


def test_training_learns_more_than_the_letter_frequencies_of_its_validation_text(small_config, view, folder):
    config = with_settings(small_config, "budget=400 steps", "hidden_size=32", "learning_rate=2e-2", "samples=0")
    run = loop.train(config, view, folder / "run")
    last = records(run, "evaluation")[-1]
    assert last["nats_per_char"] < 0.8 * last["unigram_nats_per_char"]


def test_the_same_seed_trains_the_same_model_and_another_seed_another(small_config, view, folder):
    config = with_settings(small_config, "dropout=0.3", "num_layers=2")
    first, second = (loop.train(config, view, folder / name) for name in ("first", "second"))
    assert_same_tensors(first.last, second.last)
    assert without_time(first) == without_time(second)
    other = loop.train(with_settings(config, "seed=1"), view, folder / "other")
    one, another = checkpoint.load(first.last).weights, checkpoint.load(other.last).weights
    assert not torch.equal(one["readout.weight"], another["readout.weight"])


def test_evaluations_and_samples_on_the_way_do_not_change_the_training(small_config, view, folder):
    config = with_settings(small_config, "dropout=0.3")
    often = loop.train(with_settings(config, "evaluations=20", "samples=10"), view, folder / "often")
    seldom = loop.train(with_settings(config, "evaluations=1", "samples=0"), view, folder / "seldom")
    assert_same_tensors(often.last, seldom.last)


def test_what_lasts_from_step_to_step_stays_in_its_place(small_config):
    session = loop.prepare(small_config)
    session.step(0.5)
    places = [tensor.data_ptr() for tensor in session.state]
    for _ in range(5):
        session.step(0.5)
        assert [tensor.data_ptr() for tensor in session.state] == places
        assert all(parameter.grad is None for parameter in session.network.parameters())


def test_what_is_made_apart_does_not_make_the_heap_grow():
    """By glibc's own count of the blocks that it has from the system directly."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("another C library than glibc, or one before 2.33")

    class Info(ctypes.Structure):
        _fields_ = [(f"field{n}", ctypes.c_size_t) for n in range(10)]

    libc.mallinfo2.restype = Info

    def blocks() -> int:
        return int(libc.mallinfo2().field3)

    def larger_than_the_heap() -> torch.Tensor:
        return torch.empty(libc.mallinfo2().field0 + (1 << 20), dtype=torch.uint8)

    keep_freed_memory()
    before = blocks()
    with memory_apart():
        apart = larger_than_the_heap()
        assert blocks() == before + 1
        del apart
        assert blocks() == before
    kept = larger_than_the_heap()
    assert blocks() == before
    del kept


def test_what_is_evaluated_sampled_and_kept_is_the_average_and_training_goes_on_from_the_last_weights(
    small_config, view, folder
):
    plain = loop.train(small_config, view, folder / "plain")
    averaged = loop.train(with_settings(small_config, "averaging=0.3"), view, folder / "averaged")
    before, after = (checkpoint.load(run.last, with_training=True) for run in (plain, averaged))
    for name, weight in before.weights.items():  # averaging does not change the training
        assert torch.equal(after.training[f"network/{name}"], weight)
        assert not torch.equal(after.weights[name], weight)
    stored = checkpoint.load(averaged.last)
    validation = load_dataset(stored.config.corpus).validation
    found = evaluate(stored.network(), stored.vocabulary, validation, lanes=quick_lanes(len(validation)))
    assert records(averaged, "evaluation")[-1]["nats_per_char"] == pytest.approx(found.nats_per_char, abs=1e-6)
    assert records(plain, "evaluation")[-1]["nats_per_char"] != pytest.approx(found.nats_per_char, abs=1e-6)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGINT) -> None:
    """Send this process a signal in the middle of a step, once."""
    ordinary = Session._forward

    def interrupted(self: Session, window: Any) -> Any:
        if self.step_count + 1 == step:
            monkeypatch.setattr(Session, "_forward", ordinary)
            signal.raise_signal(number)
        return ordinary(self, window)

    monkeypatch.setattr(Session, "_forward", interrupted)


@pytest.mark.parametrize(
    "settings",
    [
        ["cell=lstm", "num_layers=2", "dropout=0.3"],
        ["cell=lstm", "num_layers=2", "dropout=0.3", "weight_dropout=0.3", "averaging=0.1"],
        ["cell=gru", "partitioning=random", "dropout=0.2", "schedule=linear"],
        [
            "cell=lstm",
            "partitioning=random",
            "batch_size=8",
            "seq_length=18",
        ],  # step 17 ends an epoch, with fewer lanes
        ["cell=rnn", "engine=reference", "optimizer=sgd"],
        ["cell=lstm", "precision=bfloat16", "budget=3 epochs"],
        ["cell=gru", "precision=float64", "input=embedding", "embedding_size=7"],
    ],
    ids=lambda settings: " ".join(settings),
)
@pytest.mark.parametrize("stop_at", [1, 17])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    settings, stop_at, small_config, view, folder, monkeypatch
):
    config = with_settings(small_config, *settings)
    whole = loop.train(config, view, folder / "whole")
    interrupt_at(monkeypatch, stop_at)
    with pytest.raises(Interrupted, match=r"charrnn train --resume --run") as caught:
        loop.train(config, view, folder / "parts")
    assert caught.value.exit_code == 130
    assert checkpoint.load(Run(folder / "parts").last).metrics["step"] == stop_at
    torch.manual_seed(12345)  # whatever else the process does between must not matter
    parts = loop.resume(view, folder / "parts", [], None)
    assert_same_tensors(whole.last, parts.last)
    assert_same_tensors(whole.best, parts.best)
    assert without_time(whole) == without_time(parts)
    assert whole.samples.read_bytes() == parts.samples.read_bytes()


def test_lines_written_after_the_last_checkpoint_are_not_doubled_by_a_resume(small_config, view, folder, monkeypatch):
    """A crash loses the steps since the checkpoint, and their lines with them."""
    whole = loop.train(small_config, view, folder / "whole")
    ordinary = Session._forward

    def crash(self: Session, window: Any) -> Any:
        if self.step_count == 17:
            raise RuntimeError("power cut")
        return ordinary(self, window)

    monkeypatch.setattr(Session, "_forward", crash)
    with pytest.raises(RuntimeError, match=r"power cut"):
        loop.train(small_config, view, folder / "parts")
    monkeypatch.setattr(Session, "_forward", ordinary)
    assert records(Run(folder / "parts"), "training")[-1]["step"] > 10  # beyond the checkpoint of step 10
    parts = loop.resume(view, folder / "parts", [], None)
    assert without_time(whole) == without_time(parts)
    assert_same_tensors(whole.last, parts.last)


def test_sigterm_saves_too_and_reports_143(small_config, view, folder, monkeypatch):
    interrupt_at(monkeypatch, 5, signal.SIGTERM)
    with pytest.raises(Interrupted) as caught:
        loop.train(small_config, view, folder / "run")
    assert caught.value.exit_code == 143
    assert checkpoint.load(Run(folder / "run").last).metrics["step"] == 5
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_time_budget_ends_on_time_with_the_learning_rate_at_its_end(small_config, view, folder, monkeypatch):
    """By a clock that gives every step a tenth of a second."""
    monkeypatch.setattr(Session, "seconds", property(lambda self: 0.1 * self.step_count))
    config = with_settings(small_config, "budget=5s", "evaluations=2")
    run = loop.train(config, view, folder / "run")
    last = records(run, "training")[-1]
    assert last["step"] == 50
    assert last["learning_rate"] == pytest.approx(learning_rate_at(4.9 / 5, config.training))


def test_a_budget_of_one_step_trains(small_config, view, folder):
    config = with_settings(small_config, "budget=1 step", "evaluations=1")
    run = loop.train(config, view, folder / "run")
    (report,) = records(run, "training")
    assert report["learning_rate"] == pytest.approx(learning_rate_at(0.5, config.training))
    before, after = loop.prepare(config).network.state_dict(), checkpoint.load(run.last).weights
    assert not torch.equal(before["readout.weight"], after["readout.weight"])


@pytest.mark.parametrize("budget", ["40 steps", "2 epochs", "10h, 40 steps"])
def test_the_learning_rate_of_a_step_is_that_of_its_middle(budget, small_config, view, folder):
    config = with_settings(small_config, f"budget={budget}", "warmup=0.5")
    session = loop.prepare(config)
    spent = {"40 steps": 0.5 / 40, "2 epochs": 0.5 / session.minibatches.windows_in(0) / 2}
    run = loop.train(config, view, folder / "run")
    first = records(run, "training")[0]["learning_rate"]
    assert first == pytest.approx(learning_rate_at(spent.get(budget, 0.5 / 40), config.training))


def test_of_several_limits_the_first_ends_the_run_and_the_learning_rates_schedule(
    small_config, view, folder, monkeypatch
):
    """By a clock that gives every step a tenth of a second; an epoch has 56 steps or so."""
    monkeypatch.setattr(Session, "seconds", property(lambda self: 0.1 * self.step_count))
    for number, (budget, steps) in enumerate(
        [("3s, 2 epochs, 50 steps", 30), ("9s or 20 steps", 20), ("1h, 0.5 epochs", 28)]
    ):
        config = with_settings(small_config, f"budget={budget}", "evaluations=2", "schedule=cosine")
        run = loop.train(config, view, folder / str(number))
        last = records(run, "training")[-1]
        assert last["step"] == pytest.approx(steps, abs=0 if number < 2 else 1)
        assert last["learning_rate"] < 0.01 * config.training.learning_rate
        assert records(run, "evaluation")[-1]["step"] == last["step"]


def test_evaluations_are_skipped_for_their_cost_only_where_time_is_the_limit_to_be_reached_first(
    small_config, view, folder, monkeypatch
):
    monkeypatch.setattr(Session, "seconds", property(lambda self: 0.1 * self.step_count))
    monkeypatch.setattr(loop.Trainer, "expected_seconds", lambda self: 1e9)
    for budget, steps in (("5s, 1000 steps", [50]), ("1000s, 50 steps", [10, 20, 30, 40, 50])):
        run = loop.train(with_settings(small_config, f"budget={budget}", "evaluations=5"), view, folder / budget)
        assert [found["step"] for found in records(run, "evaluation")] == steps
    assert records(run, "evaluation")[-1]["step"] == 50


def test_a_time_budget_skips_evaluations_that_would_cost_too_much_but_never_the_last(
    small_config, view, folder, monkeypatch
):
    monkeypatch.setattr(Session, "seconds", property(lambda self: 0.1 * self.step_count))
    for expected, steps in ((1e9, [50]), (-1e9, [10, 20, 30, 40, 50])):
        monkeypatch.setattr(loop.Trainer, "expected_seconds", lambda self, seconds=expected: seconds)
        config = with_settings(small_config, "budget=5s", "evaluations=5")
        run = loop.train(config, view, folder / f"run{len(steps)}")
        assert [found["step"] for found in records(run, "evaluation")] == steps


def test_a_run_goes_on_in_another_precision_where_another_device_brings_one(small_config, folder):
    dataset = load_dataset(small_config.corpus)
    for cell in ("rnn", "gru", "lstm"):
        half, single = (
            loop.begin(with_settings(small_config, f"cell={cell}", f"precision={precision}"), dataset)
            for precision in ("bfloat16", "float32")
        )
        half.step(0.5)
        single.restore(half.full_checkpoint({}))
        for restored, stored in zip(single.state, half.state, strict=True):
            assert stored.any()
            assert torch.equal(restored, stored.float())
        single.step(0.5)
        assert single.step_count == 2


def test_a_checkpoint_without_the_optimizers_moments_is_not_gone_on_from(small_config, folder):
    session = loop.begin(small_config, load_dataset(small_config.corpus))
    session.step(0.5)
    stored = session.full_checkpoint({})
    for name in [name for name in stored.training if name.startswith("optimizer/")]:
        del stored.training[name]
    with pytest.raises(CheckpointError, match=r"optimizer/step/rnn.weight_ih_l0 is missing"):
        session.restore(stored)


def test_a_resumed_time_budget_has_the_time_it_had_left(small_config, view, folder):
    config = with_settings(small_config, "budget=1000h", "evaluations=1")
    dataset = load_dataset(config.corpus)
    session = loop.begin(config, dataset)
    session.step(0.0)
    stored = session.full_checkpoint({})
    stored.progress["seconds"] = 900 * 3600.0
    later = loop.begin(config, dataset)
    later.restore(stored)
    assert later.progress() == pytest.approx(0.9, abs=1e-4)


def test_a_run_is_extended_by_a_larger_budget_and_says_what_the_schedule_does(small_config, view, folder):
    loop.train(small_config, view, folder / "run")
    run = loop.resume(view, folder / "run", ["evaluations=8"], "80 steps")
    assert checkpoint.load(run.last).metrics["step"] == 80
    assert "the learning rate now follows the new budget" in view.text()
    later = [one for one in records(run, "training") if one["step"] > 40]
    assert [one["learning_rate"] for one in later] == pytest.approx(
        [learning_rate_at((one["step"] - 0.5) / 80, small_config.training) for one in later]
    )


def test_a_budget_smaller_than_what_is_spent_ends_the_run_with_a_word_and_a_larger_one_goes_on(
    small_config, view, folder
):
    run = loop.train(small_config, view, folder / "run")
    before = checkpoint.load(run.last).weights
    loop.resume(view, run.folder, [], "10 steps")
    assert "at step 40, 400% of 10 steps (before: 40 steps); it is finished, and --budget with a larger" in view.text()
    assert "follows the new budget" not in view.text()
    assert all(torch.equal(tensor, before[name]) for name, tensor in checkpoint.load(run.last).weights.items())
    assert checkpoint.load(loop.resume(view, run.folder, [], "50 steps").last).metrics["step"] == 50


def test_a_finished_run_resumed_as_it_is_says_so_and_changes_nothing(small_config, view, folder):
    run = loop.train(small_config, view, folder / "run")
    before = checkpoint.load(run.last).weights
    loop.resume(view, folder / "run", [], None)
    assert "it is finished, and --budget with a larger one extends it" in view.text()
    assert all(torch.equal(tensor, before[name]) for name, tensor in checkpoint.load(run.last).weights.items())


def test_a_resumed_run_refuses_a_change_that_would_make_it_another(small_config, view, folder):
    loop.train(small_config, view, folder / "run")
    with pytest.raises(ConfigError, match=r"model.hidden_size, training.seed: cannot change in a resumed run"):
        loop.resume(view, folder / "run", ["hidden_size=14", "seed=3"], None)


def test_a_resumed_run_refuses_another_text_under_the_same_name(small_config, view, folder, text_file):
    loop.train(small_config, view, folder / "run")
    text_file.write_text(text_file.read_text(encoding="utf-8").replace("makes", "gives"), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"no longer the text"):
        loop.resume(view, folder / "run", [], None)


def test_a_text_that_was_moved_is_gone_on_with_where_it_is_now(small_config, view, folder, text_file):
    loop.train(small_config, view, folder / "run")
    text_file.rename(folder / "moved.txt")
    with pytest.raises(TextError, match="if it was moved, name where it is now: charrnn train --resume --set source="):
        loop.resume(view, folder / "run", [], "50 steps")
    run = loop.resume(view, folder / "run", ["source=moved.txt"], "50 steps")
    assert load_config(run.config).corpus.sources == ["moved.txt"]
    assert checkpoint.step_of(run.last) == 50


def test_the_log_tells_what_the_figures_of_each_sitting_hang_on(small_config, view, folder):
    loop.train(small_config, view, folder / "run")
    run = loop.resume(view, folder / "run", ["engine=written"], "50 steps")
    start, resume = (one for one in records(run, "event") if one["event"] in ("start", "resume"))
    assert [one["placement"]["engine"] for one in (start, resume)] == ["torch", "written"]
    assert {one["placement"]["dtype"] for one in (start, resume)} == {"float32"}
    assert resume["config"]["training"]["budget"] == "50 steps"
    assert start["charrnn"] == __version__


def test_windows_that_the_memory_cannot_hold_are_refused(small_config, monkeypatch):
    needed = memory.window_bytes(small_config, 40, Shape(4, 11))
    monkeypatch.setattr(memory, "machine_memory", lambda: 10 * needed)
    loop.prepare(small_config)
    for wide in ("batch_size=200", "seq_length=400"):
        with pytest.raises(ConfigError, match=r"training.batch_size = \d+, training.seq_length = \d+: windows of"):
            loop.prepare(with_settings(small_config, wide))


def test_what_samples_need_is_compiled_before_the_clock_runs(small_config, monkeypatch):
    asked = Mock()
    monkeypatch.setattr(loop, "usable_kernels", lambda *which: asked(monkeypatch.setattr(loop, "Session", Mock())))
    loop.prepare(with_settings(small_config, "samples=0"))
    assert not asked.called
    loop.prepare(small_config)
    assert asked.called
    assert loop.Session.called


def test_a_run_is_never_overwritten(small_config, view, folder):
    loop.train(small_config, view, folder / "run")
    with pytest.raises(ConfigError, match=r"holds a run already"):
        loop.train(small_config, view, folder / "run")


def test_resuming_where_there_is_no_run_is_an_error(folder, view):
    with pytest.raises(CheckpointError, match=r"no run in runs"):
        loop.resume(view, None, [], None)
    with pytest.raises(CheckpointError, match=r"no last.safetensors there"):
        loop.resume(view, folder / "nothing", [], None)


def test_a_loss_that_is_not_finite_stops_before_the_weights_move(small_config, folder):
    session = loop.begin(small_config, load_dataset(small_config.corpus))
    session.step(0.5)
    before = {name: tensor.clone() for name, tensor in session.network.state_dict().items()}
    with torch.no_grad():
        session.network.readout.bias[3] = math.nan
        before["readout.bias"][3] = math.nan
    with pytest.raises(Diverged, match=r"^the loss is no longer finite after step 1 \(nan\)$"):
        session.step(0.5)
    for name, tensor in session.network.state_dict().items():
        assert torch.equal(tensor.nan_to_num(7), before[name].nan_to_num(7))


def test_steps_that_the_host_does_not_wait_for_are_the_same_steps(small_config, folder):
    reports = []
    for waits in (True, False):
        session = loop.begin(with_settings(small_config, "clip_norm=0.5"), load_dataset(small_config.corpus))
        session.waits = waits
        for _ in range(70):
            session.step(0.5)
        reports.append((session.report(), session.network.state_dict()))
    (waited, weights), (unwaited, other_weights) = reports
    for key in ("step", "nats_per_char", "grad_norm", "clipped_share"):
        assert waited[key] == unwaited[key]
    assert 0 < waited["clipped_share"] < 1
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


@pytest.mark.parametrize("settings", [["cell=lstm"], ["cell=gru", "partitioning=random"]], ids=str)
def test_the_step_that_a_gpu_captures_is_the_same_step(settings, small_config, folder):
    """Here without the capture, which only a GPU has; what it would capture runs as it is."""
    weights = []
    for graph in ("true", "false"):
        config = with_settings(small_config, f"cuda_graph={graph}", *settings)
        session = loop.begin(config, load_dataset(small_config.corpus))
        for _ in range(session.minibatches.windows_in(0) + 3):
            session.step(0.5)
        assert (session._captured is not None) == (graph == "true")
        weights.append(session.network.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_loss_that_is_not_finite_moves_no_weights_though_the_host_sees_it_later(optimizer, small_config, folder):
    config = with_settings(small_config, f"optimizer={optimizer}")
    session = loop.begin(config, load_dataset(small_config.corpus))
    session.waits = False
    session.step(0.5)
    with torch.no_grad():
        session.network.readout.bias[3] = math.nan
    before = {name: tensor.clone() for name, tensor in session.network.state_dict().items()}
    session.step(0.5)
    session.step(0.5)
    for name, tensor in session.network.state_dict().items():
        assert torch.equal(tensor.nan_to_num(7), before[name].nan_to_num(7))
    for use in (session.report, session.model_checkpoint, session.approve):
        session._unread = [torch.tensor([math.nan, 1.0])]
        with pytest.raises(Diverged, match="the loss is no longer finite"):
            use()


def test_clipped_steps_are_counted(small_config, folder):
    always = loop.begin(with_settings(small_config, "clip_norm=1e-6"), load_dataset(small_config.corpus))
    never = loop.begin(with_settings(small_config, "clip_norm=1e6"), load_dataset(small_config.corpus))
    for session, share in ((always, 1.0), (never, 0.0)):
        for _ in range(3):
            session.step(0.5)
        assert session.report()["clipped_share"] == share


def test_the_state_is_carried_within_an_epoch_and_reset_where_the_stream_wraps(small_config, folder):
    session = loop.begin(small_config, load_dataset(small_config.corpus))
    seen = []
    ordinary = session.network.hidden
    session.network.hidden = lambda ids, state=None, execution=None: (  # type: ignore[method-assign]
        seen.append(state is not None) or ordinary(ids, state, execution)
    )
    windows = session.minibatches.windows_in(0)
    for _ in range(windows + 2):
        session.step(0.1)
    assert seen == [False] + [True] * (windows - 1) + [False, True]


def test_a_sample_prefix_with_foreign_characters_is_shown_whole_and_read_as_far_as_it_is_known(
    small_config, view, folder
):
    loop.train(with_settings(small_config, "sample_prefix='3 Ω'"), view, folder / "foreign")
    loop.train(with_settings(small_config, "sample_prefix='3 '"), view, folder / "known")
    foreign, known = view.samples[:2], view.samples[2:]
    assert [sample.replace("Ω", "", 1) for sample in foreign] == known
    assert foreign[0].startswith("3 Ω")


def test_without_validation_text_the_last_model_is_the_one_there_is(small_config, view, folder):
    run = loop.train(with_settings(small_config, "validation=0"), view, folder / "run")
    assert not run.best.exists()
    assert run.last.exists()
    assert view.evaluations == []
    assert ("", f"charrnn evaluate {run.folder} --split training") in view.said


@pytest.mark.parametrize("text", ["ab", "a", "", "aaaaaaaaaaaaaaaaaaaa", "ab\n" * 9])
@pytest.mark.parametrize("partitioning", ["sequential", "random"])
def test_the_shortest_texts_train_or_say_why_not(text, partitioning, small_config, view, folder, text_file):
    text_file.write_text(text, encoding="utf-8")
    config = with_settings(small_config, f"partitioning={partitioning}", "validation=0.3", "budget=3 epochs")
    if len(text) >= 4:
        assert loop.train(config, view, folder / "run").last.exists()
        return
    with pytest.raises(TextError, match=r"table.txt|training split|min_count"):
        loop.train(config, view, folder / "run")


def test_a_min_count_above_every_count_is_refused(small_config, view, folder):
    with pytest.raises(TextError, match=r"no character of the training text occurs corpus.min_count = 9999 times"):
        loop.train(with_settings(small_config, "min_count=9999"), view, folder / "run")


def test_at_level_byte_a_sample_is_read_as_a_whole(small_config, view, folder, tmp_path):
    """Its characters of several bytes are not cut where one piece of it ends and another begins."""
    text = tmp_path / "bytes.txt"
    text.write_text("€é" * 500, encoding="utf-8")
    settings = ("corpus.level=byte", "budget=150 steps", "learning_rate=3e-2", "sample_length=60", "samples=1")
    run = loop.train(with_settings(small_config, f"corpus.source={text}", *settings), view, folder / "bytes")
    (sample,) = view.samples
    drawn = charrnn.load(run.last).ids("", 60, seed=0)
    expected = bytes(int(ids_B[0]) for ids_TB in drawn for ids_B in ids_TB).decode("utf-8", "replace")
    assert sample == expected
    assert sample.count("€") > 5


@pytest.mark.parametrize("name", ["config.yaml", "samples.txt", "metrics.jsonl"])
def test_a_folder_with_a_file_of_the_users_is_not_written_into(name, small_config, view, folder):
    (folder / name).write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"holds a run already .{name}."):
        loop.train(small_config, view, folder)
    assert (folder / name).read_text(encoding="utf-8") == "mine"


def test_a_run_killed_before_its_first_evaluation_can_be_resumed(small_config, view, folder, monkeypatch):
    monkeypatch.setattr(Session, "step", lambda self, progress: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception, match="killed"):
        loop.train(small_config, view, folder / "run")
    monkeypatch.undo()
    assert loop.resume(view, folder / "run", [], None).best.exists()


def test_a_validation_loss_that_is_not_finite_is_not_saved(small_config, view, folder, monkeypatch):
    ordinary = Session.step

    def ruin(self: Session, progress: float) -> None:
        ordinary(self, progress)
        if self.step_count == 20:
            with torch.no_grad():
                self.network.readout.bias.fill_(math.nan)

    monkeypatch.setattr(Session, "step", ruin)
    with pytest.raises(TrainingError, match=r"validation loss is no longer finite after step 20 .*--init-from"):
        loop.train(small_config, view, folder / "run")
    for path in (Run(folder / "run").best, Run(folder / "run").last):
        assert all(tensor.isfinite().all() for tensor in checkpoint.load(path).weights.values())


def test_training_goes_on_from_another_models_weights_and_vocabulary(small_config, view, folder, text_file):
    first = loop.train(small_config, view, folder / "first")
    other = folder / "other.txt"
    other.write_text("Zebras times 3 makes 12.\n" * 40, encoding="utf-8")
    config = with_settings(small_config, f"source={other}", "budget=1 steps", "learning_rate=1e-9")
    second = loop.train(config, view, folder / "second", init_from=first.best)
    one, another = checkpoint.load(first.best), checkpoint.load(second.last)
    assert one.vocabulary == another.vocabulary
    torch.testing.assert_close(one.weights["rnn.weight_hh_l0"], another.weights["rnn.weight_hh_l0"])
    assert "outside the vocabulary" in view.text()  # Z and b were never seen


def test_what_is_open_of_the_network_is_that_of_the_weights_and_dropout_may_be_another(small_config, view, folder):
    first = loop.train(small_config, view, folder / "first")
    source = f"source={small_config.corpus.source}"
    open_ones = load_config(settings=[source, "budget=1 steps", "precision=float32", "engine=torch", "dropout=0.3"])
    second = loop.train(open_ones, view, folder / "second", init_from=first.best)
    stored = checkpoint.load(second.last)
    assert (stored.config.model.hidden_size, stored.config.model.dropout) == (13, 0.3)
    assert stored.network().config.dropout == 0.3
    assert loop.prepare(open_ones, first.best).network.config.dropout == 0.3
    base = cli._base_of(second.best)  # --init-from
    assert (base.model.hidden_size, base.model.dropout) == (13, 0)
    assert base.left_to_recipe()[:2] == ["model.dropout", "model.weight_dropout"]
    auto = ["cell=auto", "num_layers=auto", "hidden_size=auto", "dropout=auto"]
    at_auto = load_config(settings=[source, *auto], base=Config(model=stored.config.model))
    assert at_auto.left_to_recipe()[0] == "model.dropout"
    assert at_auto.model.hidden_size == 13
    with pytest.raises(ConfigError, match=r"say too which text: charrnn train TEXT"):
        loop.prepare(load_config(settings=["budget=1 steps"]), first.best)
    rarer = loop.prepare(with_settings(open_ones, "min_count=20"), first.best)
    assert f"corpus.min_count = 20 has no say: the vocabulary is that of {first.best}" in rarer.dataset.notes
    with pytest.raises(ConfigError, match=r"model\.cell, model\.hidden_size: cannot differ from .*first"):
        loop.prepare(with_settings(small_config, "cell=gru", "hidden_size=14"), first.folder)


@pytest.mark.parametrize(
    "settings",
    [["cell=rnn", "activation=relu"], ["input=embedding", "embedding_size=5"], ["level=byte"]],
    ids=lambda settings: settings[0],
)
def test_a_configuration_that_says_nothing_of_the_network_starts_from_any_weights(settings, small_config, view, folder):
    first = loop.train(with_settings(small_config, *settings, "budget=1 steps"), view, folder / "first")
    bare = load_config(settings=[f"source={small_config.corpus.source}", "precision=float32", "engine=torch"])
    session = loop.prepare(bare, first.last)
    assert session.config.model.model_dump(exclude={"dropout", "weight_dropout"}) == first_model(first)
    assert session.config.corpus.level == checkpoint.load(first.last).config.corpus.level


def first_model(run: Run) -> dict[str, Any]:
    return checkpoint.load(run.last).config.model.model_dump(exclude={"dropout", "weight_dropout"})


@pytest.mark.parametrize("budget", ["0.000001s", "0.001 epochs"])
def test_the_smallest_budget_is_one_step_and_an_evaluation(budget, small_config, view, folder):
    run = loop.train(with_settings(small_config, f"budget={budget}"), view, folder / "run")
    assert [found["step"] for found in records(run, "evaluation")] == [1]
    assert [report["step"] for report in records(run, "training")] == [1]
    loop.resume(view, run.folder, [], None)
    assert checkpoint.load(run.last).metrics["step"] == 1


def test_a_run_whose_time_ran_out_before_it_could_be_resumed_still_gets_its_evaluation(
    small_config, view, folder, monkeypatch
):
    interrupt_at(monkeypatch, 7)
    with pytest.raises(Interrupted):
        loop.train(with_settings(small_config, "budget=1h"), view, folder / "run")
    run = Run(folder / "run")
    stored = checkpoint.load(run.last, with_training=True)
    stored.progress["seconds"] = 3600 - 60
    checkpoint.save(run.last, stored)

    def slow(session: Session) -> list[tuple[str, str]]:
        session._seconds_before += 61
        return []

    monkeypatch.setattr(loop.planning, "headline", slow)
    loop.resume(view, run.folder, [], None)
    assert records(run, "evaluation")[-1]["step"] == checkpoint.load(run.best).metrics["step"] == 8


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signal")
def test_what_nohup_protects_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with caught_signals() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert signals.caught is None
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with caught_signals() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert signals.caught == signal.SIGHUP
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["step-7.safetensors", "good.safetensors"])
def test_a_folder_with_any_checkpoint_is_no_place_for_a_new_run(name, small_config, view, folder):
    (folder / name).touch()
    with pytest.raises(ConfigError, match=f"holds a run already \\({name}\\)"):
        loop.train(small_config, view, folder)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("engine", FASTER)
def test_every_engine_follows_the_reference_through_hundreds_of_steps(engine, cell, small_config, folder):
    losses = []
    for name in ("reference", engine):
        settings = (f"cell={cell}", f"engine={name}", "precision=float64", "num_layers=2", "hidden_size=7")
        config = with_settings(small_config, *settings)
        session = loop.begin(config, load_dataset(config.corpus))
        figures = []
        for step in range(200):
            session.step(step / 200)
            figures.append(session.report()["nats_per_char"])
        losses.append(figures)
    assert losses[0][-1] < 0.8 * losses[0][0]
    assert losses[1] == pytest.approx(losses[0], abs=1e-9)


def test_a_sample_takes_no_more_of_a_short_budget_than_its_share(small_config, view, folder, monkeypatch):
    monkeypatch.setattr(loop, "_SAMPLE_SECONDS", 0.01)
    for budget in ("1s", "5 steps"):
        settings = (f"budget={budget}", "samples=1", "sample_length=500000", "evaluations=1")
        run = loop.train(with_settings(small_config, *settings), view, folder / budget)
        (sample,) = records(run, "sample")
        assert (0 < len(sample["text"]) < 500000) == (budget == "1s")


def test_a_prefix_that_cannot_be_encoded_is_said_at_the_start(small_config, view, folder):
    config = load_config(flags={"corpus.level": "byte", "training.sample_prefix": "\ud800"}, base=small_config)
    with pytest.raises(TextError, match=r"training\.sample_prefix: U\+D800"):
        loop.train(config, view, folder / "run")


def test_bfloat16_is_not_kept_where_the_machine_has_none(small_config, monkeypatch):
    before = PlacementRecord(device="cpu", engine="torch", dtype="bfloat16")
    settings = {
        "auto": with_settings(small_config, "precision=auto"),
        "said": with_settings(small_config, "precision=bfloat16"),
    }
    monkeypatch.setattr(loop, "has_bfloat16", lambda device: False)
    assert loop._stored_placement(before, settings["auto"]) is None
    assert loop._stored_placement(before, settings["said"]) is not None
    monkeypatch.setattr(loop, "has_bfloat16", lambda device: True)
    assert loop._stored_placement(before, settings["auto"]) is not None
    assert loop._differences(before, before.model_copy(update={"dtype": "float32"})) == "in bfloat16"


def test_the_head_of_a_run_names_the_readouts_own_learning_rate(small_config):
    for settings, said in (
        (("learning_rate=0.01",), "adamw 0.01 (W_hq 0.03), "),
        (("learning_rate=0.01", "readout_rate=1"), "adamw 0.01, "),
        (("learning_rate=0.01", "optimizer=sgd"), "sgd 0.01, "),
    ):
        session = loop.prepare(with_settings(small_config, *settings))
        assert said in dict(loop.planning.headline(session))["training"]


def test_the_recipes_words_say_how_often_the_text_will_be_read(small_config, monkeypatch):
    monkeypatch.setattr("charrnn.training.recipe._measured_speed", lambda *arguments: 1e9)
    session = loop.prepare(load_config(settings=[f"source={small_config.corpus.source}", "budget=2.5 epochs"]))
    assert ", about 2.5 epochs, " in session.recipe
