"""Training, from a configuration to a finished run."""

import contextlib
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from charrnn import __version__
from charrnn.config import IN_NO_WEIGHT, RESUMABLE, Budget, Config, ModelConfig, changed_keys, load_config
from charrnn.errors import CheckpointError, ConfigError, Interrupted, TextError, TrainingError, quoted
from charrnn.model.compiling import usable_kernels
from charrnn.model.engines import Execution, can_run
from charrnn.model.network import CharRNN
from charrnn.sampling.generation import generate
from charrnn.text.dataset import Dataset, load_dataset, read_again, where_it_was
from charrnn.text.minibatches import Shape, fitting_shape
from charrnn.training import checkpoint, planning, recipe
from charrnn.training.checkpoint import Checkpoint
from charrnn.training.divergence import Diverged
from charrnn.training.evaluation import Evaluation, evaluate, quick_lanes
from charrnn.training.memory import keep_freed_memory, memory_apart, refuse_larger_than_memory
from charrnn.training.placement import Placement, choose_device, choose_placement, has_bfloat16, refuse_float64
from charrnn.training.progress import PlacementRecord, SessionRecord
from charrnn.training.reporting import Reporter, View, require_tensorboard
from charrnn.training.runs import Run, find_checkpoint, give_second_name, write_whole
from charrnn.training.session import Session
from charrnn.training.signals import Signals, caught_signals
from charrnn.training.threads import Threads, limit_threads, restored_threads

_REPORTS = 500
"""Training reports in metrics.jsonl over a whole budget."""

_SAFE_POINTS = 20
"""States over a whole budget that can be rolled back to, beside those that are evaluated: a twentieth is done again."""

_ALMOST = 1 - 1e-6
"""Of the budget: where a run stands whose time ran out before its first step, or between two sittings. It takes a step
and is evaluated, as at every end."""

_EVALUATION_SHARE = 0.05
"""Of a time budget, what evaluations may take before some are skipped."""

_SAMPLE_SECONDS = 1.0
"""That a sample may take whatever the budget."""


@dataclass
class Trainer:
    """A session, where it is kept and told of, and the time spent on looking rather than learning."""

    session: Session
    run: Run
    reporter: Reporter
    signals: Signals
    threads: Threads
    last_evaluation_seconds: float = 0.0
    saved_at: float = field(default_factory=time.perf_counter)
    last_evaluation: Evaluation | None = None

    def loop(self) -> None:
        """Steps until the budget is spent or patience is; whenever they lead astray, back and on more slowly."""
        session = self.session
        progress = 1.0 if session.was_over else min(session.progress(), _ALMOST)
        progress = self._with_patience_as_it_is(progress)
        while progress < 1 and not session.out_of_patience():
            progress = self._advanced_or_rolled_back(progress)

    def _advanced_or_rolled_back(self, progress: float) -> float:
        try:
            return self.advance(progress)
        except Diverged as trouble:
            self.roll_back(trouble)
            # Of a time budget nothing comes back; the end of it, with its evaluation, is still to be passed.
            return self._with_patience_as_it_is(min(progress, self.session.progress()))

    def _with_patience_as_it_is(self, progress: float) -> float:
        """Of a state that was saved with more of it than there is now, the cooldown begins. The progress."""
        if self.session.out_of_patience() and self.session.cooldown_is_to_come():
            return self._lost_patience(progress)
        return progress

    def advance(self, before: float) -> float:
        """One step; at evenly spread points of the budget report, evaluate and sample; save; stop. The new progress."""
        session, training = self.session, self.session.config.training
        # The learning rate of the step's middle: that of its start would waste the first step, of its end the last.
        with self.threads.for_a_step(choosing=self._free_to_choose_threads()):
            session.step(session.progress(ahead=0.5))
        progress = session.progress()
        self.reporter.progress(progress)
        if _passed(before, progress, _REPORTS):
            self.report(progress)
        evaluating = _passed(before, progress, training.evaluations) and self._worth_evaluating(progress)
        if evaluating:
            self.evaluate(progress)
        if session.enters_cooldown(before, progress):
            session.since_best = 0
        if evaluating and session.out_of_patience():
            progress = self._lost_patience(progress)
        if _passed(before, progress, training.samples):
            self.reporter.sample(session.step_count, self.sample())
        self._save_if_due(evaluating or _passed(before, progress, _SAFE_POINTS))
        if self.signals.caught is not None:
            self.stop(self.signals.caught)
        return progress

    def _free_to_choose_threads(self) -> bool:
        """Only where time decides anyway: else a run would not become the same again, nor one resumed the same."""
        session = self.session
        on_cpu = session.placement.device.type == "cpu"
        return on_cpu and session.config.training.threads is None and session.led_by_time()

    def report(self, progress: float) -> None:
        """Tell the figures since the last report. Raises Diverged if they are those of a training gone wrong."""
        start = self.session.step_count - self.session.tally.steps
        report = self.session.report()
        self.reporter.training(progress, {**report, "threads": self.threads.count})
        self.session.judge(report["nats_per_char"], start)

    @memory_apart()
    def evaluate(self, progress: float) -> None:
        """Evaluate on the validation text, and note whether it is the best so far; `save` then keeps it."""
        session, started = self.session, time.perf_counter()
        ids = session.dataset.validation
        vocabulary, execution = session.dataset.vocabulary, session.placement.execution
        num_bytes = session.dataset.predicted_bytes["validation"]
        found = evaluate(session.model, vocabulary, ids, execution, quick_lanes(len(ids)), num_bytes)
        session.refuse_non_finite("validation loss", found.nats_per_char)
        is_best = session.rank(found.nats_per_char)
        session.latest["validation"] = found.to_json()
        self.last_evaluation = found
        self.reporter.evaluated(session.counters(), progress, found, is_best)
        self.last_evaluation_seconds = time.perf_counter() - started
        session.evaluation_seconds += self.last_evaluation_seconds

    def _lost_patience(self, progress: float) -> float:
        """Bring the cooldown forward, or if it has begun or there is none, say that this is the end. The progress."""
        session, end, count = self.session, self.session.end, self.session.since_best
        text = f"after {count} evaluations without a new best, at step {session.step_count:,}"
        if session.bring_cooldown_forward(progress):
            text = f"the learning rate falls from here on, {text}"
            self.reporter.event("cooldown", text, step=session.step_count, evaluations=count)
        else:
            self.reporter.event("stopped early", text, step=session.step_count, evaluations=count)
        return progress * end / session.end

    def expected_seconds(self) -> float:
        """What the next evaluation will take: as long as the last, or at a third of a step's cost a character."""
        if self.last_evaluation is not None:
            return self.last_evaluation_seconds
        speed = self.session.latest.get("training", {}).get("chars_per_second", 0)
        return len(self.session.dataset.validation) / (3 * speed) if speed else 0.0

    @memory_apart()
    def sample(self) -> str:
        """What the model writes after the configured prefix, of which it reads the characters that it knows.

        A shipped configuration with another text should train, not fail for want of a letter in its prefix.
        """
        session, training = self.session, self.session.config.training
        vocabulary = session.dataset.vocabulary
        prefix = vocabulary.encode(training.sample_prefix, on_unknown="skip")
        drawn: list[int] = []
        started = time.perf_counter()
        for ids_TB in generate(session.model, vocabulary, prefix, training.sample_length, seed=training.seed):
            drawn += ids_TB[:, 0].tolist()
            longest = max(_SAMPLE_SECONDS, _EVALUATION_SHARE * session.seconds)
            if session.led_by_time() and time.perf_counter() - started > longest:
                break  # a short budget is for training
        return training.sample_prefix + vocabulary.decode(drawn)

    @memory_apart()
    def save(self) -> None:
        """Write last.safetensors, and then what it speaks of: good, best, and the models kept of single steps.

        In this order a killed run's `last` is never older than the others, and a resume, which saves first, makes
        good what the kill prevented. Raises Diverged in place of saving weights that are not finite.
        """
        self.session.refuse_non_finite_weights()
        checkpoint.save(self.run.last, self.session.full_checkpoint(self.reporter.written()))
        if self.session.good_step == self.session.step_count:
            give_second_name(self.run.last, self.run.good)
        self._keep_models()
        self.saved_at = time.perf_counter()

    def _save_if_due(self, safe_point: bool) -> None:
        """Save at safe points, and when the last time was long ago.

        Only where time decides anyway is a state that the clock chose one to roll back to: else a run that is
        interrupted and resumed would not become the one it would have been.
        """
        late = time.perf_counter() - self.saved_at > self.session.config.training.checkpoint_seconds
        if safe_point or (late and self.session.led_by_time()):
            self.session.approve()
        if safe_point or late:
            self.save()

    def roll_back(self, trouble: Diverged) -> None:
        """Go back to the last good state with half the learning rate. Raises TrainingError after too many times."""
        session, run, step = self.session, self.run, self.session.step_count
        stored = self._good_state(trouble)
        session.roll_back(stored, trouble)
        given_up = session.rollbacks >= session.config.training.rollbacks
        session.rollbacks += not given_up
        # First the checkpoint, with its lengths of the logs, and then the logs: a kill between them leaves both whole.
        checkpoint.save(run.last, session.full_checkpoint(stored.progress["written"]))
        self.reporter.rewind(stored.progress["written"], session.step_count)
        if given_up:
            raise TrainingError(self._last_words(trouble))
        self.reporter.event(
            "rollback",
            f"{trouble}; back to step {session.step_count:,} with the learning rate times {session.rate_factor:g}"
            f"{'' if trouble.jumped_at is None else '; should it jump there again, it is left to the text'}",
            step=step,
            to_step=session.step_count,
            cause=str(trouble),
            rollbacks=session.rollbacks,
            rate_factor=session.rate_factor,
        )
        self.save()

    def _good_state(self, trouble: Diverged) -> Checkpoint:
        """What there is to go back to. Raises TrainingError if it cannot be read."""
        try:
            return checkpoint.load(self.run.good, with_training=True)
        except CheckpointError as error:
            raise TrainingError(f"{trouble}, and there is no going back: {error}. {self._saved()}") from None

    def _last_words(self, trouble: Diverged) -> str:
        """Why training ends, what is saved, and what to change."""
        session = self.session
        rate = session.rate_factor * session.config.training.learning_rate
        return (
            f"{trouble}; given up after training.rollbacks = {session.rollbacks}, each with half the learning rate. "
            f"{self._saved()}. A new run with a training.learning_rate below {rate:g}, a smaller training.clip_norm or "
            f"training.precision=float32 usually mends this; --init-from {self.model_path()} starts it from these "
            f"weights. --resume goes on with --set rollbacks={2 * session.rollbacks + 1}, or if nothing was wrong with "
            f"--set explosion=null"
        )

    def _saved(self) -> str:
        """The checkpoints that there are, with their steps."""
        paths = [path for path in (self.run.best, self.run.last) if path.exists()]
        return "Saved: " + " and ".join(f"{path} (step {checkpoint.step_of(path)})" for path in paths)

    def model_path(self) -> Path:
        """The checkpoint that a person wants: the best, if anything was evaluated, or the last."""
        return self.run.best if self.run.best.exists() else self.run.last

    def _keep_models(self) -> None:
        """Write the models that are kept of this step, and delete those of earlier steps that no longer are."""
        session, run = self.session, self.run
        kept = {one.step: run.step(one.step) for one in session.kept}
        due = [run.best] if session.best_step == session.step_count else []
        due += [kept[session.step_count]] if session.step_count in kept else []
        for path in due:
            if checkpoint.step_of(path) != session.step_count:
                checkpoint.save(path, session.model_checkpoint())
        for step, path in run.steps().items():
            if step not in kept:
                with contextlib.suppress(OSError):  # open in another program, on Windows; the next save tries again
                    path.unlink(missing_ok=True)

    def stop(self, signal_number: int) -> None:
        """Save and leave, told to by a signal."""
        name, step = signal.Signals(signal_number).name, self.session.step_count
        self.reporter.event("stopped", f"{name} at step {step:,}; saving {self.run.last}", signal=name, step=step)
        self.save()
        raise Interrupted(f"go on with: charrnn train --resume --run {quoted(self.run.folder)}", signal_number)

    def _worth_evaluating(self, progress: float) -> bool:
        if len(self.session.dataset.validation) < 2:
            return False
        session = self.session
        cheap = session.evaluation_seconds + self.expected_seconds() <= _EVALUATION_SHARE * session.seconds
        return progress >= 1 or not session.led_by_time() or cheap


@restored_threads()
def train(config: Config, view: View, folder: Path | None = None, init_from: Path | None = None) -> Run:
    """Train a new network from a configuration, or from another checkpoint's weights; returns the finished run.

    Raises Interrupted after SIGINT or SIGTERM, once everything is saved.
    """
    if config.training.tensorboard:
        require_tensorboard()
    if folder is not None:  # before anything is read and measured; what else speaks against it is said when it is made
        with contextlib.suppress(OSError):
            Run(folder).refuse_if_used()
    session = prepare(config, init_from)
    run = Run.new(folder, session.dataset.name)
    with run.locked() as note:
        run.refuse_if_used()  # another process may have been here between the look and the lock
        config = session.config  # with nothing left open
        write_whole(run.config, config.to_yaml().encode())
        with _reporter(run, view, note) as reporter:
            reporter.open(tensorboard=config.training.tensorboard)
            reporter.event("start", f"{run.folder}", recipe=session.recipe, **_circumstances(session))
            return _run(session, run, reporter)


@restored_threads()
def resume(view: View, folder: Path | None, settings: list[str], budget: str | None) -> Run:
    """Go on with a run where its last checkpoint stands; returns the finished run.

    settings and budget may change what does not make it another run. Raises ConfigError that names any other change,
    CheckpointError if the run or its text is not there any more.
    """
    run = Run.existing(folder)
    with run.locked() as note:
        stored = checkpoint.load(run.last, with_training=True)
        session = _restored(stored, run, settings, budget)
        config = session.config
        write_whole(run.config, config.to_yaml().encode())
        with _reporter(run, view, note) as reporter:
            reporter.open(stored.progress["written"], config.training.tensorboard, session.step_count)
            said = _resumed(session, stored, run)
            reporter.event("resume", said, step=session.step_count, **_circumstances(session))
            return _run(session, run, reporter)


def _circumstances(session: Session) -> dict[str, Any]:
    """What a sitting's figures hang on, for its log."""
    return {
        "config": session.config.model_dump(mode="json"),
        "placement": session.placement_record().model_dump(),
        "charrnn": __version__,
    }


def _restored(stored: Checkpoint, run: Run, settings: list[str], budget: str | None) -> Session:
    """The session of a run's last checkpoint, with what may change changed."""
    config = load_config(settings=settings, flags={"training.budget": budget}, base=stored.config)
    refused = [key for key in changed_keys(stored.config, config) if key not in RESUMABLE]
    if refused:
        raise ConfigError(
            f"{', '.join(refused)}: cannot change in a resumed run; those that can are {', '.join(sorted(RESUMABLE))}"
        )
    dataset = read_again(config.corpus, stored.vocabulary)
    _refuse_without_validation(config, dataset, changed_keys(stored.config, config))
    if dataset.fingerprint != stored.corpus.get("sha256"):
        raise CheckpointError(
            f"{dataset.name} is no longer the text that {run.folder} was trained on (its SHA-256 differs); "
            + "".join(f"{clause}; " for clause in where_it_was(config.corpus))
            + f"--init-from {run.last} starts a new run from these weights"
        )
    before = SessionRecord.read(stored.progress).placement
    _set_up(config)
    session = begin(config, dataset, stored, _stored_placement(before, config))
    session.restore(stored)
    times = _times_as_spent(Budget.parse(stored.config.training.budget), session)
    if times < 1:
        session.since_best, session.end = 0, 1.0  # the learning rate rises again: there is new reason for patience
    else:
        session.end = min(1.0, times * session.end)  # a cooldown that was brought forward ends where it would have
    # A time budget's clock may have passed its end while a signal was obeyed, with the last step still to come.
    under_way = session.led_by_time() and run.good.exists()
    session.was_over = session.progress() >= 1 and not under_way
    return session


def _times_as_spent(before: Budget, session: Session) -> float:
    """How many times as large a share of a session's budget is spent as of the one before; less than 1 of a larger."""
    spent = session.spent()
    of_before, of_now = (max(budget.shares(spent).values()) for budget in (before, session.budget))
    return of_now / of_before if of_before else 1.0


def prepare(config: Config, init_from: Path | None = None) -> Session:
    """A new session with its text read, from fresh weights or another run's or checkpoint's; nothing is written."""
    if init_from and "source" not in config.corpus.model_fields_set:
        raise ConfigError(f"--init-from {init_from} says whose weights; say too which text: charrnn train TEXT ...")
    start = checkpoint.load(find_checkpoint(init_from)) if init_from else None
    config = _for_weights_of(start.config, config, init_from) if start else config
    dataset = load_dataset(config.corpus, start.vocabulary if start else None)
    if start and config.corpus.min_count not in (1, start.config.corpus.min_count):
        note = f"corpus.min_count = {config.corpus.min_count} has no say: the vocabulary is that of {init_from}"
        dataset = replace(dataset, notes=(*dataset.notes, note))
    _refuse_without_validation(config, dataset, ("training.patience", "training.keep"))
    _set_up(config)
    config, note = recipe.follow(config, dataset, choose_device(config.training.device))
    session = begin(config, dataset, start)
    session.recipe = note
    return session


def _for_weights_of(stored: Config, config: Config, where: Path | None) -> Config:
    """The configuration with what it leaves open of the network as it is stored.

    Raises ConfigError where it says otherwise; dropout may differ, since it is in no weight.
    """
    names = ModelConfig.model_fields.keys() - IN_NO_WEIGHT
    taken = {f"model.{name}": getattr(stored.model, name) for name in names - config.model.model_fields_set}
    if "level" not in config.corpus.model_fields_set:
        taken["corpus.level"] = stored.corpus.level
    config = load_config(flags=taken, base=config)
    differing = sorted(key for key in changed_keys(stored, config) if key in {f"model.{name}" for name in names})
    if differing:
        raise ConfigError(
            f"{', '.join(differing)}: cannot differ from {where}, whose weights it starts from; of the model section "
            f"dropout and weight_dropout can"
        )
    return config


def _refuse_without_validation(config: Config, dataset: Dataset, keys: Collection[str]) -> None:
    """Raise ConfigError for what evaluations decide, of these keys, if there will be none."""
    for key, none in (("training.patience", None), ("training.keep", 0)):
        value = getattr(config.training, key.partition(".")[2])
        if key in keys and value != none and len(dataset.validation) < 2:
            raise ConfigError(
                f"{key} = {value}: expected {'null' if none is None else none}, since it goes by evaluations "
                f"and corpus.validation = {config.corpus.validation:g} holds nothing out to evaluate on"
            )


def _set_up(config: Config) -> None:
    """What holds for the whole process, and has to before anything is measured."""
    keep_freed_memory()
    limit_threads(config.training.threads)
    refuse_float64(choose_device(config.training.device), config.training.precision == "float64")


def begin(
    config: Config, dataset: Dataset, stored: Checkpoint | None = None, placement: Placement | None = None
) -> Session:
    """A session at its start: the network made (or taken from a checkpoint), seeded and placed."""
    if dataset.vocabulary.level == "character" and not dataset.vocabulary.characters and len(dataset.training):
        raise TextError(
            f"{dataset.name}: no character of the training text occurs "
            f"corpus.min_count = {config.corpus.min_count} times or more, so there is nothing to learn"
        )
    dataset.vocabulary.encode(config.training.sample_prefix, on_unknown="skip", what="training.sample_prefix")
    torch.manual_seed(config.training.seed)
    device = choose_device(config.training.device)
    wanted = Shape(config.training.batch_size, config.training.seq_length)
    shape = fitting_shape(len(dataset.split("training")) - 1, wanted)
    refuse_larger_than_memory(config, dataset.vocabulary.size, shape, device)
    if stored:
        network = stored.network()
        network.config = config.model  # whose dropout may be another
    else:
        network = CharRNN(config.model, dataset.vocabulary.size).initialise(config.training.seed)
    network.by_equations = config.training.engine == "reference"
    network.to(device, torch.float64 if config.training.precision == "float64" else torch.float32)
    placement = placement or choose_placement(network, config.training, shape)
    if config.training.samples and not network.by_equations:
        usable_kernels(network.readout.weight.dtype, device)  # compiled now, not when the clock runs
    return Session(config, dataset, network, placement)


def _stored_placement(before: PlacementRecord, config: Config) -> Placement | None:
    """A resumed run's own engine and precision, if they are wanted and to be had: a new trial might differ."""
    device, execution = choose_device(config.training.device), Execution(before.engine, getattr(torch, before.dtype))
    # Of what was trained by the equations "auto" is a change: it leaves them.
    engines = (before.engine,) if before.engine == "reference" else (before.engine, "auto")
    wanted = before.device == device.type and config.training.engine in engines
    if config.training.precision == "auto" and execution.dtype == torch.bfloat16 and not has_bfloat16(device):
        wanted = False
    return Placement(device, execution, "as before") if wanted and can_run(execution, device) else None


def _differences(before: PlacementRecord, now: PlacementRecord) -> str:
    """What of the machine has changed since a checkpoint, as it was before; empty if nothing that matters has."""
    changed = []
    if before.device != now.device:
        changed.append(f"on {before.device}")
    elif before.engine != now.engine:
        changed.append(f"with engine {before.engine}")
    elif before.dtype != now.dtype:
        changed.append(f"in {before.dtype}")
    elif before.build not in (None, now.build):
        changed.append("with another build of engine compiled")
    if before.torch not in (None, now.torch):
        changed.append(f"with torch {before.torch[:40] if before.torch else ''}")
    if before.threads not in (None, now.threads) and now.device == "cpu":
        changed.append(f"with {before.threads} threads")
    return ", ".join(changed)


def _resumed(session: Session, stored: Checkpoint, run: Run) -> str:
    spent = session.progress() * session.end
    text = f"{run.folder} at step {session.step_count:,}, {spent:.0%} of {session.config.training.budget}"
    before = _differences(SessionRecord.read(stored.progress).placement, session.placement_record())
    if before:
        text += f"; it ran {before} before, so it goes on, but no longer bit for bit as it would have"
    if session.config.training.budget != stored.config.training.budget:
        text += f" (before: {stored.config.training.budget})"
        text += "; the learning rate now follows the new budget" if session.progress() < 1 else ""
    if session.was_over:
        text += "; it is finished, and --budget with a larger one extends it"
    elif session.out_of_patience() and not session.cooldown_is_to_come():
        text += (
            f"; it stopped early after {session.since_best} evaluations without a new best, and a larger --budget or "
            f"--set patience={2 * session.since_best} extends it"
        )
    return text


@contextmanager
def _reporter(run: Run, view: View, note: str) -> Iterator[Reporter]:
    """A run's voice, which is closed whatever happens. note: what the lock had to say."""
    reporter = Reporter(run, view)
    try:
        if note:
            reporter.say("note", note)
        yield reporter
    finally:
        reporter.close()


def _run(session: Session, run: Run, reporter: Reporter) -> Run:
    session.network.train()
    with caught_signals() as signals:
        for label, text in planning.headline(session):
            reporter.say(label, text)
        trainer = Trainer(session, run, reporter, signals, Threads(session.placement.threads))
        if not run.good.exists():
            session.good_step = session.step_count
        trainer.save()  # so that there is something to go on from whatever happens
        trainer.loop()
        trainer.save()
        with contextlib.suppress(OSError):  # open in another program, on Windows
            run.good.unlink(missing_ok=True)
    _closing_words(trainer)
    return run


def _closing_words(trainer: Trainer) -> None:
    session, run, say = trainer.session, trainer.run, trainer.reporter.say
    found = trainer.last_evaluation
    if found is not None:
        say(
            "validation",
            f"best {session.best_nats_per_char:.4f} nats/char; the text's letter frequencies alone give "
            f"{found.unigram_nats_per_char:.3f}, knowing nothing {found.uniform_nats_per_char:.3f}",
        )
    say(
        "finished",
        f"{session.step_count:,} steps, {session.epochs:.2f} epochs in {session.seconds:,.0f} s; model in "
        f"{trainer.model_path()}",
    )
    say("next", f'charrnn sample {quoted(run.folder)} --prefix "..."')
    nothing_held_out = len(session.dataset.validation) < 2
    say("", f"charrnn evaluate {quoted(run.folder)}{' --split training' if nothing_held_out else ''}")


def _passed(before: float, after: float, points: int) -> bool:
    """Whether one of `points` evenly spread points of the budget, the last at its end, lies in (before, after]."""
    rounding = 1e-9  # 3 steps of 30 are a tenth, whatever the quotient's last bit
    return int(before * points + rounding) < int(min(after, 1.0) * points + rounding)
