"""A run in progress: everything that one step changes, and all of it in a checkpoint and back."""

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from charrnn.config import Budget, Config, Unit
from charrnn.errors import CheckpointError
from charrnn.model.cells import State
from charrnn.model.engines import build_of
from charrnn.model.network import CharRNN, detached
from charrnn.text.dataset import Dataset
from charrnn.text.minibatches import Minibatches, Position, Shape, Window
from charrnn.training.capture import LossOfTensors, captured
from charrnn.training.checkpoint import Checkpoint
from charrnn.training.divergence import Diverged, Watch
from charrnn.training.optimization import (
    clip_gradient,
    learning_rate_at,
    make_optimizer,
    set_learning_rate,
    skip_unless_finite,
    take_into_average,
)
from charrnn.training.placement import Placement, on_device
from charrnn.training.progress import (
    Evaluated,
    PlacementRecord,
    PositionRecord,
    SessionRecord,
    TallyRecord,
    WatchRecord,
    retained,
)

_UNREAD = 64
"""Steps whose losses a GPU may keep to itself before the host asks for them."""


@dataclass
class Tally:
    """Sums since the last report."""

    nats: float = 0.0
    characters: int = 0
    steps: int = 0
    clipped: int = 0
    seconds: float = 0.0
    """Spent in steps, so that evaluations and samples do not slow the reported speed."""
    last_norm: float = 0.0


@dataclass
class Session:
    """The network, its optimizer, the place in the data, the carried state, the clock and the counters."""

    config: Config
    dataset: Dataset
    network: CharRNN
    placement: Placement
    recipe: str = ""
    """What was chosen for it, and on which grounds."""
    step_count: int = 0
    position: Position = field(default_factory=Position)
    state: State | None = None
    best_nats_per_char: float = math.inf
    best_step: int | None = None
    since_best: int = 0
    """Evaluations since the best one."""
    end: float = 1.0
    """Share of the budget at which training ends: less than all once the cooldown was brought forward."""
    was_over: bool = False
    """Whether nothing was left to be spent when the run was resumed."""
    kept: list[Evaluated] = field(default_factory=list)
    """The models that `training.keep` keeps."""
    good_step: int | None = None
    """Of the last state that was taken for good, to be rolled back to."""
    rollbacks: int = 0
    """Each of which halved the learning rate."""
    evaluation_seconds: float = 0.0
    """Of all that was spent, what evaluations took."""
    watch: Watch = field(default_factory=Watch)
    tally: Tally = field(default_factory=Tally)
    latest: dict[str, Any] = field(default_factory=dict)
    """The last training report and evaluation, for the checkpoint's metadata."""

    def __post_init__(self) -> None:
        training = self.config.training
        self.minibatches = Minibatches(
            self.dataset.split("training"),
            Shape(training.batch_size, training.seq_length),
            training.partitioning,
            training.seed,
        )
        self.budget = Budget.parse(training.budget)
        self.optimizer = make_optimizer(self.network, training)
        self.model = copy.deepcopy(self.network).eval() if training.averaging else self.network
        """What is evaluated, sampled from and kept: the averaged weights, or the network itself."""
        self.waits = self.network.device.type != "cuda"
        self._unread: list[Tensor] = []
        self._captured: LossOfTensors | None = None
        self._seconds_before = 0.0
        self._started = time.perf_counter()

    # ---- how far

    @property
    def seconds(self) -> float:
        """Time spent on this run so far, over all its sittings."""
        return self._seconds_before + time.perf_counter() - self._started

    @property
    def epochs(self) -> float:
        """Epochs so far, as a fraction."""
        return self.minibatches.epochs_done(self.position)

    def spent(self, ahead: float = 0.0) -> dict[Unit, float]:
        """What has been spent in each unit; `ahead`: in so many steps, as far as can be told, which time cannot."""
        epochs = self.epochs + ahead / self.minibatches.windows_in(self.position.epoch)
        return {"seconds": self.seconds, "epochs": epochs, "steps": self.step_count + ahead}

    def progress(self, ahead: float = 0.0) -> float:
        """The share of what is to be spent that is, of several limits the largest; 1 and above means done."""
        return max(self.budget.shares(self.spent(ahead)).values()) / self.end

    def led_by_time(self) -> bool:
        """Whether the budget's limit in seconds is the one that stands to be reached first."""
        shares = self.budget.shares(self.spent())
        return "seconds" in shares and shares["seconds"] == max(shares.values())

    def out_of_patience(self) -> bool:
        """Whether `training.patience` has run out."""
        patience = self.config.training.patience
        return patience is not None and self.since_best >= patience

    def enters_cooldown(self, before: float, after: float) -> bool:
        """Whether the learning rate of schedule wsd begins to fall between two shares of what is to be spent.

        There is new reason for patience then, since it is in the cooldown that the loss falls most.
        """
        training = self.config.training
        return training.schedule == "wsd" and before < 1 - training.cooldown <= after

    def cooldown_is_to_come(self) -> bool:
        """Whether it has not begun to fall."""
        return self.enters_cooldown(self.progress(), 1.0)

    def bring_cooldown_forward(self, progress: float) -> bool:
        """Let it fall from the step of that progress on, if it is still to; whether it is.

        A share of 1 - cooldown is then spent of what is to be, which is less than the budget.
        """
        up = 1 - self.config.training.cooldown
        if not self.enters_cooldown(progress, 1.0):
            return False
        self.end *= progress / up
        self.since_best = 0
        return True

    def counters(self) -> dict[str, float]:
        """Where the run is, as its log and its checkpoints say it."""
        return {"step": self.step_count, "epoch": round(self.epochs, 4), "seconds": round(self.seconds, 3)}

    # ---- one step

    def step(self, progress: float) -> None:
        """Take the next window forward and back, clip, and move the weights; `progress` sets the learning rate.

        Raises Diverged before the weights move if the loss or the gradient is not finite. On a GPU the host does not
        wait to see that: the device itself leaves the weights where they are, and a later `settle` raises.
        """
        started = time.perf_counter()
        window = self.minibatches.window(self.position)
        nats, state = self._forward(window)
        torch.autograd.backward(nats / window.num_targets)
        norm = clip_gradient(self.network.parameters(), self.config.training.clip_norm)
        self._unread.append(torch.stack([nats.detach(), norm.to(nats.dtype)]))
        if self.waits or len(self._unread) >= _UNREAD:
            self._read()
        if not self.waits:
            skip_unless_finite(self.optimizer, nats, norm)
        set_learning_rate(self.optimizer, self.rate_factor * learning_rate_at(progress, self.config.training))
        self.optimizer.step()
        self.optimizer.zero_grad()  # so that what comes between steps finds their room free
        self._keep(detached(state))
        self.position = self.minibatches.after(self.position)
        self.step_count += 1
        if self.model is not self.network:
            take_into_average(self.model, self.network, self.step_count, self.config.training.averaging)
        self.tally.characters += window.num_targets
        self.tally.steps += 1
        self.tally.seconds += time.perf_counter() - started

    def _forward(self, window: Window) -> tuple[Tensor, State]:
        device = self.network.device
        inputs_TB, targets_TB = (
            on_device(torch.from_numpy(ids), device) for ids in (window.inputs_TB, window.targets_TB)
        )
        before = None if window.starts else self.state
        execution, shape = self.placement.execution, self.minibatches.shape
        if not self.config.training.cuda_graph or inputs_TB.shape != (shape.seq_length, shape.batch_size):
            return self.network.loss(inputs_TB, targets_TB, before, execution)
        self._captured = self._captured or captured(self.network, execution, shape)
        before = before or self.network.zero_state(shape.batch_size, execution.dtype)
        nats, *state = self._captured(inputs_TB, targets_TB, *before)
        return nats, tuple(state)

    def _keep(self, state: State) -> None:
        """Copy the state to where the last one was.

        What lasts from step to step would else lie elsewhere after each, amid what the step frees, see memory_apart.
        """
        if self.state is None or self.state[0].shape != state[0].shape:
            self.state = tuple(tensor.clone() for tensor in state)
        else:
            for kept, tensor in zip(self.state, state, strict=True):
                kept.copy_(tensor)

    def settle(self) -> None:
        """Fetch the losses and norms of the steps since the last time from the device, and count them.

        What the device still computes meanwhile is a part of those steps' time. Raises Diverged for one that is not
        finite.
        """
        started = time.perf_counter()
        try:
            self._read()
        finally:
            self.tally.seconds += time.perf_counter() - started

    def _read(self) -> None:
        if not self._unread:
            return
        figures = torch.stack(self._unread).tolist()
        self._unread.clear()
        clip_norm = self.config.training.clip_norm
        for nats, norm in figures:
            self.refuse_non_finite("loss", nats)
            self.refuse_non_finite("gradient's norm", norm)
            self.tally.nats += nats
            self.tally.clipped += clip_norm is not None and norm > clip_norm
            self.tally.last_norm = norm

    @property
    def rate_factor(self) -> float:
        """What rollbacks have left of the schedule's learning rate."""
        return 0.5**self.rollbacks

    def refuse_non_finite(self, what: str, value: float) -> None:
        """Raise Diverged for a figure that is no longer a number."""
        if not math.isfinite(value):
            raise Diverged(f"the {what} is no longer finite after step {self.step_count:,} ({value})")

    def refuse_non_finite_weights(self) -> None:
        """Raise Diverged if a weight is no longer a number, as the last step may have left it without any loss yet."""
        for name, parameter in self.network.named_parameters():
            if not parameter.isfinite().all():
                raise Diverged(f"the weights {name} are no longer finite after step {self.step_count:,}")

    def report(self) -> dict[str, Any]:
        """The figures of training since the last report, and a new tally."""
        self.settle()
        tally, self.tally = self.tally, Tally()
        report = {
            **self.counters(),
            "nats_per_char": tally.nats / tally.characters,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "grad_norm": tally.last_norm,
            "clipped_share": tally.clipped / tally.steps,
            "chars_per_second": round(tally.characters / tally.seconds),
        }
        self.latest["training"] = report
        return report

    def judge(self, loss: float, start: int) -> None:
        """Take the mean loss, in nats per character, of the steps after `start`. Raises Diverged."""
        uniform = math.log(self.dataset.vocabulary.size)
        self.watch.see(loss, self.config.training.explosion, uniform, start, self.step_count)

    def approve(self) -> None:
        """Take the state as it is for good, if it is the best so far or the loss of late is calm. Raises Diverged."""
        self.settle()
        tally = self.tally
        if self.best_step == self.step_count:
            self.watch.clear()
            self.good_step = self.step_count
        elif self.watch.calm(tally.nats / tally.characters if tally.steps else None):
            self.good_step = self.step_count

    def rank(self, nats_per_char: float) -> bool:
        """Note the validation loss of the model as it is now; whether it is the best so far."""
        is_best = nats_per_char < self.best_nats_per_char
        self.since_best = 0 if is_best else self.since_best + 1
        if is_best:
            self.best_nats_per_char, self.best_step = nats_per_char, self.step_count
        evaluated = Evaluated(step=self.step_count, nats_per_char=nats_per_char)
        self.kept = retained([*self.kept, evaluated], self.config.training.keep, self.config.training.keep_by)
        return is_best

    # ---- into a checkpoint and back

    def model_checkpoint(self) -> Checkpoint:
        """The model alone: what sampling and evaluation need."""
        self.settle()
        return Checkpoint(
            config=self.config,
            vocabulary=self.dataset.vocabulary,
            weights=dict(self.model.state_dict()),
            corpus={
                "name": self.dataset.name,
                "characters": len(self.dataset.training) + len(self.dataset.validation) + len(self.dataset.test),
                "sha256": self.dataset.fingerprint,
            },
            metrics={**self.counters(), **self.latest},
        )

    def full_checkpoint(self, written: dict[str, int]) -> Checkpoint:
        """The model and all that training needs to go on as if it had never stopped.

        written: the length of each log, so that a resumed run can cut off what came after.
        """
        model = self.model_checkpoint()
        progress = SessionRecord(
            step=self.step_count,
            position=PositionRecord(**asdict(self.position)),
            seconds=self.seconds,
            best_nats_per_char=self.best_nats_per_char if math.isfinite(self.best_nats_per_char) else None,
            best_step=self.best_step,
            kept=self.kept,
            since_best=self.since_best,
            end=self.end,
            good_step=self.good_step,
            rollbacks=self.rollbacks,
            evaluation_seconds=self.evaluation_seconds,
            watch=WatchRecord(**asdict(self.watch)),
            tally=TallyRecord(**asdict(self.tally)),
            written=written,
            placement=self.placement_record(),
        )
        return replace(model, training=self._tensors(), progress=progress.model_dump())

    def placement_record(self) -> PlacementRecord:
        """What decides the last bits of this run's numbers."""
        return PlacementRecord.model_validate(
            {
                "device": self.placement.device.type,
                "engine": self.placement.execution.engine,
                "dtype": self.placement.execution.precision,
                "build": build_of(self.placement.execution),
                "torch": str(torch.__version__),
                "threads": self.placement.threads,
            }
        )

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"random/cpu": torch.get_rng_state()}
        if self.network.device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self.network.device)
        if self.network.device.type == "mps":
            tensors["random/mps"] = torch.mps.get_rng_state()
        for index, tensor in enumerate(self.state or ()):
            tensors[f"state/{index}"] = tensor
        moments = self.optimizer.state_dict()["state"]
        for index, name in enumerate(self._optimized_names()):
            for key, moment in moments.get(index, {}).items():
                if isinstance(moment, Tensor):
                    tensors[f"optimizer/{key}/{name}"] = moment
        if self.model is not self.network:
            tensors |= {f"network/{name}": parameter for name, parameter in self.network.named_parameters()}
        return tensors

    def _optimized_names(self) -> list[str]:
        """The parameters' names in the order in which the optimizer numbers them."""
        names = {parameter: name for name, parameter in self.network.named_parameters()}
        return [names[parameter] for group in self.optimizer.param_groups for parameter in group["params"]]

    def restore(self, stored: Checkpoint) -> None:
        """Go back to where a full checkpoint was made. Raises CheckpointError if something of it is missing or wrong.

        The session is of no use after such an error.
        """
        try:
            self._restore(SessionRecord.read(stored.progress), stored)
        except (TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"the checkpoint cannot be gone on from: {error}") from None

    def roll_back(self, stored: Checkpoint, trouble: Diverged) -> None:
        """Go back to a good state of this run and remember why, but keep the clock: lost time is spent too.

        Otherwise a run with a budget of time could go back for ever. Raises CheckpointError as `restore` does.
        """
        seconds, evaluation_seconds, end, since_best = self.seconds, self.evaluation_seconds, self.end, self.since_best
        self.restore(stored)
        self._seconds_before, self._started = seconds, time.perf_counter()
        self.evaluation_seconds = evaluation_seconds
        if stored.config.training.budget != self.config.training.budget:  # which began these two anew
            self.end, self.since_best = end, since_best
        self.good_step = self.step_count
        if trouble.jumped_at is not None:
            self.watch.jumped_at = trouble.jumped_at

    def _restore(self, progress: SessionRecord, stored: Checkpoint) -> None:
        tensors, device = stored.training, self.network.device
        self.optimizer.zero_grad()  # of a step that came to no end
        self.model.load_state_dict(stored.weights)
        if self.model is not self.network:
            shapes = {name: parameter.shape for name, parameter in self.network.named_parameters()}
            self.network.load_state_dict({n: _checked(tensors, f"network/{n}", shape) for n, shape in shapes.items()})
        self._unread.clear()
        self.step_count = progress.step
        self.position = Position(progress.position.epoch, progress.position.index)
        if self.position.index >= self.minibatches.windows_in(self.position.epoch):
            raise ValueError(f"no window {self.position.index} in an epoch of this text")
        self._seconds_before, self._started = progress.seconds, time.perf_counter()
        best = progress.best_nats_per_char
        self.best_nats_per_char, self.best_step = math.inf if best is None else best, progress.best_step
        self.kept = retained(progress.kept, self.config.training.keep, self.config.training.keep_by)
        self.since_best, self.end = progress.since_best, progress.end
        self.good_step, self.rollbacks = progress.good_step, progress.rollbacks
        self.evaluation_seconds = progress.evaluation_seconds
        self.watch = Watch(**progress.watch.model_dump())
        self.tally = Tally(**progress.tally.model_dump())
        self.latest = {key: _figures(key, stored.metrics[key]) for key in _LATEST if key in stored.metrics}
        self.state = self._stored_state(tensors) if self.step_count else None
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": self._stored_moments(tensors), "param_groups": groups})
        torch.set_rng_state(_taken(tensors, "random/cpu"))
        if device.type == "cuda" and "random/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random/cuda"], device)
        if device.type == "mps" and "random/mps" in tensors:
            torch.mps.set_rng_state(tensors["random/mps"])

    def _stored_state(self, tensors: Mapping[str, Tensor]) -> State:
        """The carried state. Of shuffled windows the last ones of an epoch are fewer, and nobody reads their state."""
        dtype = self.placement.execution.dtype  # another device may have brought another precision
        lanes = self.minibatches.shape.batch_size
        if self.config.training.partitioning == "random":
            lanes = min(lanes, *_taken(tensors, "state/0").shape[1:2])
        wanted = self.network.zero_state(lanes, dtype)
        return tuple(_checked(tensors, f"state/{index}", zeros.shape).to(zeros) for index, zeros in enumerate(wanted))

    def _stored_moments(self, tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """AdamW's moments, by the number of their parameter; plain gradient descent has none."""
        if self.config.training.optimizer != "adamw" or not self.step_count:
            return {}
        parameters, moments = dict(self.network.named_parameters()), {}
        for index, name in enumerate(self._optimized_names()):
            shape = parameters[name].shape
            shapes = {"step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape}
            found = {key: _checked(tensors, f"optimizer/{key}/{name}", shape) for key, shape in shapes.items()}
            if not (found["step"] >= 0) or not (found["exp_avg_sq"] >= 0).all():
                raise ValueError(f"the optimizer's mean of squares of {name} is negative")
            moments[index] = found
        return moments


_LATEST = ("training", "validation")


def _figures(kind: str, stored: object) -> dict[str, float]:
    """A report or evaluation in a checkpoint. Raises ValueError if it is not one."""
    if not isinstance(stored, dict) or not all(type(value) in (int, float) for value in stored.values()):
        raise ValueError(f"metrics.{kind} is no set of figures")
    return stored


def _taken(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor of the training state. Raises ValueError if it is missing."""
    if name not in tensors:
        raise ValueError(f"{name} is missing")
    return tensors[name]


def _checked(tensors: Mapping[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    """One of numbers. Raises ValueError if it is missing or of another kind."""
    tensor = _taken(tensors, name)
    if tensor.shape != shape or not tensor.is_floating_point() or tensor.isnan().any():
        raise ValueError(
            f"{name}: expected {tuple(shape)} numbers, got {tuple(tensor.shape)} of {tensor.dtype}, or NaN"
        )
    return tensor
