"""The contenders of training: our own step by every engine and precision, and the ways in which others write it."""

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from charrnn.bench.cases import Case
from charrnn.bench.elsewhere import Elsewhere
from charrnn.bench.plain import (
    PerCharacterNetwork,
    PlainNetwork,
    PlainState,
    per_character_loss,
    window_loss,
    without_graph,
)
from charrnn.bench.timing import Contender
from charrnn.config import Config
from charrnn.model.engines import ENGINES, Execution, can_run
from charrnn.model.network import CharRNN
from charrnn.text.dataset import Dataset
from charrnn.text.minibatches import Minibatches, Position, Shape
from charrnn.training.memory import keep_freed_memory
from charrnn.training.placement import Placement
from charrnn.training.session import Session

PLAIN = "plain PyTorch, float32"
AUTOCAST = "plain PyTorch, bfloat16 autocast"
PER_CHARACTER = "one call per character, float32"

_PLAIN_PRECISIONS = {PLAIN: "float32", AUTOCAST: "bfloat16", PER_CHARACTER: "float32"}

_WINDOWS = 9
"""Of B * T characters in the made-up text. Window 0 of an epoch is shortened at random, so 1 to 8 are used in turn."""

_LEARNING_RATE = 1e-3
"""torch.optim.Adam's default: the weights move, and noise that cannot be learnt makes no configuration diverge."""


@dataclass(frozen=True)
class TrainingContender(Contender):
    """engine: of ours, None for others. Each step trains on B * T characters."""

    engine: str | None
    precision: str
    start: Callable[[], object] = lambda: None
    """What comes before the first step and is no part of it."""


def precisions(config: Config) -> list[str]:
    """Those that are measured: the one that is asked for, or both in which a run may come to train by itself."""
    asked = config.training.precision
    return ["float32", "bfloat16"] if asked == "auto" else [asked]


def contenders(case: Case, device: torch.device) -> list[TrainingContender]:
    """All ways to train, those first that matter most if time runs out; `reference` last, which is slow on purpose."""
    dataset = made_up_text(case)
    keep_freed_memory()  # as `charrnn train` does
    others = _others(case, dataset, device)
    ours = _ours(case, dataset, device)
    return [
        others[0],
        *(contender for contender in ours if contender.engine != "reference"),
        *others[1:],
        *(contender for contender in ours if contender.engine == "reference"),
    ]


def _ours(case: Case, dataset: Dataset, device: torch.device) -> list[TrainingContender]:
    network = CharRNN(case.config.model, case.vocabulary.size).initialise(case.config.training.seed)
    return [
        TrainingContender(
            f"charrnn {engine}, {precision}",
            own_step(case, dataset, network, device, engine, precision),
            engine,
            precision,
        )
        for precision in precisions(case.config)
        for engine in ENGINES
        if can_run(Execution(engine, getattr(torch, precision)), device)
    ]


def _others(case: Case, dataset: Dataset, device: torch.device) -> list[TrainingContender]:
    """In float32, to which all are compared, and in bfloat16 if that is measured.

    On a CPU they run in a process of their own; on a GPU that would cost memory and change nothing.
    """
    wanted = {"float32", *precisions(case.config)}
    named = {name: precision for name, precision in _PLAIN_PRECISIONS.items() if precision in wanted}
    if device.type != "cpu":
        steps = plain_steps(case, dataset, device)
        return [TrainingContender(name, steps[name], None, precision) for name, precision in named.items()]
    process = Elsewhere(plain_steps, case, dataset, device)
    return [
        TrainingContender(name, functools.partial(process.step, name), None, precision, process.start)
        for name, precision in named.items()
    ]


def plain_steps(case: Case, dataset: Dataset, device: torch.device) -> dict[str, Callable[[], object]]:
    """The training steps of others, by name."""

    def whole_windows(autocast: torch.dtype | None) -> PlainTraining:
        network = PlainNetwork(case.config.model, case.vocabulary.size)
        return PlainTraining(network, window_loss, case, dataset, device, autocast)

    each = PerCharacterNetwork(case.config.model, case.vocabulary.size)
    per_character = PlainTraining(each, per_character_loss, case, dataset, device, clips=False)
    return {
        PLAIN: whole_windows(None).step,
        AUTOCAST: whole_windows(torch.bfloat16).step,
        PER_CHARACTER: per_character.step,
    }


def made_up_text(case: Case) -> Dataset:
    """Random ids whose frequencies fall as 1 / rank, about as those of letters do (Zipf), for `_WINDOWS` windows."""
    size = case.vocabulary.size
    frequencies = 1 / np.arange(1, size + 1)
    drawn = np.random.default_rng(0).choice(
        size, size=_WINDOWS * case.characters_per_step + 1, p=frequencies / frequencies.sum()
    )
    ids = drawn.astype(case.vocabulary.dtype)
    return Dataset("random", case.vocabulary, ids, ids[:0], ids[:0], "", (), {})


def own_step(
    case: Case, dataset: Dataset, network: CharRNN, device: torch.device, engine: str, precision: str
) -> Callable[[], None]:
    """The very step that `charrnn train` takes, with a copy of the network."""
    dtype = torch.float64 if precision == "float64" else torch.float32
    placement = Placement(device, Execution(engine, getattr(torch, precision)), "measured")
    rates = {"learning_rate": _LEARNING_RATE, "final_learning_rate": 0.0}
    training = case.config.training.model_copy(update=rates)
    config = case.config.model_copy(update={"training": training})
    own = copy.deepcopy(network).to(device, dtype).train()
    session = Session(config, dataset, own, placement, position=Position(0, 1))

    def step() -> None:
        if session.position.index not in range(1, _WINDOWS):  # a full window again
            session.position = Position(0, 1)
        session.step(0.5)

    return step


@dataclass
class PlainTraining:
    """A training step as one writes it with torch.nn: loss, backward, clip, optimizer; the state carried, detached."""

    network: nn.Module
    loss: Callable[..., Any]
    case: Case
    dataset: Dataset
    device: torch.device
    autocast: torch.dtype | None = None
    clips: bool = True
    """As the configuration says; char-rnn.pytorch does not clip."""
    state: PlainState = None

    def __post_init__(self) -> None:
        self.network.to(self.device).train()
        kind = {"adamw": torch.optim.Adam, "sgd": torch.optim.SGD}[self.case.config.training.optimizer]
        self.optimizer = kind(self.network.parameters(), lr=_LEARNING_RATE)
        self._windows = windows(self.case, self.dataset, self.device)

    def step(self) -> Tensor:
        """Train on the next window; its loss, in nats per character, still on the device."""
        inputs_TB, targets_TB = next(self._windows)
        with self._precision():
            loss, state = self.loss(self.network, inputs_TB, targets_TB, self.state)
        self.optimizer.zero_grad()
        loss.backward()
        clip_norm = self.case.config.training.clip_norm
        if self.clips and clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), clip_norm)
        self.optimizer.step()
        self.state = without_graph(state)
        return loss.detach()  # type: ignore[no-any-return]

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None)


def windows(case: Case, dataset: Dataset, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """(T, B) inputs and targets for ever: the same windows from the same place as ours, so that data costs the same."""
    training = case.config.training
    shape = Shape(training.batch_size, training.seq_length)
    minibatches = Minibatches(dataset.training, shape, training.partitioning, training.seed)
    for index in itertools.cycle(range(1, _WINDOWS)):
        window = minibatches.window(Position(0, index))
        yield torch.from_numpy(window.inputs_TB).to(device), torch.from_numpy(window.targets_TB).to(device)
