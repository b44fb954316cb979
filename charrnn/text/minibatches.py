"""A stream of ids cut into minibatches of B lanes and T steps, as the book's section 9.3 partitions sequences.

A window is a pure function of (seed, epoch, index), so the position in the data is two integers and resuming it is
exact. Every target, that is every id of the stream but the first, is used exactly once an epoch; what is left over
makes smaller windows, and lanes shorter than the others are filled with IGNORE.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from charrnn.errors import TextError
from charrnn.text.vocabulary import Ids

IGNORE = -100
"""The target of a step that has none; torch's cross_entropy skips it by default."""

Batch = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Position:
    """The next window: `index` of `epoch`, both counted from zero."""

    epoch: int = 0
    index: int = 0


@dataclass(frozen=True)
class Window:
    """inputs_TB and targets_TB; `starts` is true where the carried state must be zero before it."""

    inputs_TB: Batch
    targets_TB: Batch
    starts: bool

    @property
    def num_targets(self) -> int:
        """Targets that count: those that are not IGNORE."""
        return int(np.count_nonzero(self.targets_TB != IGNORE))


@dataclass(frozen=True)
class Shape:
    """B lanes of T steps."""

    batch_size: int
    seq_length: int


def fitting_shape(num_targets: int, wanted: Shape) -> Shape:
    """The wanted shape, or for a text too short for it a smaller one in which every lane has a whole window.

    Lanes are halved until each has T steps; one lane that is still too short shortens T. Raises TextError where
    there is no target at all.
    """
    if num_targets < 1:
        raise TextError("the training text has fewer than 2 characters, so there is nothing to predict")
    lanes = wanted.batch_size
    while lanes > 1 and num_targets // lanes < wanted.seq_length:
        lanes //= 2
    return Shape(lanes, min(wanted.seq_length, num_targets))


class Minibatches:
    """The windows of a stream of N ids, epoch after epoch.

    sequential: the stream is cut into B contiguous lanes, whose lengths differ by at most one, and window k+1 of a
    lane begins where window k ended, so the state can be carried; it starts from zero once an epoch.
    random: the stream is cut into windows of T, which are shuffled; B of them make a minibatch, and each starts from
    zero. In both the first window of the stream or lane has a random length of 1 to T, new each epoch, so that the
    gradient is cut at other places each time.
    """

    def __init__(
        self, ids: Ids, shape: Shape, partitioning: Literal["sequential", "random"] = "sequential", seed: int = 0
    ) -> None:
        self.ids = ids
        self.shape = fitting_shape(len(ids) - 1, shape)
        self.seed = seed
        self._cut = _Lanes if partitioning == "sequential" else _Shuffled
        self._epoch = (0, self._cut(ids, self.shape, self._generator(0)))

    def window(self, position: Position) -> Window:
        """The window at a position."""
        return self._cut_of(position.epoch).window(position.index)

    def after(self, position: Position) -> Position:
        """The position that follows: the next window, or the first of the next epoch."""
        last = position.index + 1 >= self.windows_in(position.epoch)
        return Position(position.epoch + 1) if last else replace(position, index=position.index + 1)

    def windows_in(self, epoch: int) -> int:
        """How many windows an epoch has; the random offset makes it differ by one or two."""
        return self._cut_of(epoch).num_windows

    def epochs_done(self, position: Position) -> float:
        """Epochs before a position, as a fraction: 2.5 half way through the third."""
        return position.epoch + position.index / self.windows_in(position.epoch)

    def epoch(self, epoch: int) -> Iterator[Window]:
        """All windows of one epoch, in order."""
        return (self.window(Position(epoch, index)) for index in range(self.windows_in(epoch)))

    def _cut_of(self, epoch: int) -> "_Lanes | _Shuffled":
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._cut(self.ids, self.shape, self._generator(epoch)))
        return self._epoch[1]

    def _generator(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch])


class _Lanes:
    """One epoch of sequential partitioning."""

    def __init__(self, ids: Ids, shape: Shape, random: np.random.Generator) -> None:
        self._ids = ids
        bounds = lane_bounds(len(ids) - 1, shape.batch_size)
        self._starts, self._ends = bounds[:-1], bounds[1:]
        self._first = int(random.integers(1, shape.seq_length + 1))
        self._seq_length = shape.seq_length
        self._longest = int((self._ends - self._starts).max())
        self.num_windows = 1 + -(-max(self._longest - self._first, 0) // shape.seq_length)

    def window(self, index: int) -> Window:
        start = 0 if index == 0 else self._first + (index - 1) * self._seq_length
        stop = min(self._first + index * self._seq_length, self._longest)
        inputs, targets = gather(self._ids, self._starts + start, self._ends, stop - start)
        return Window(inputs, targets, starts=index == 0)


class _Shuffled:
    """One epoch of random partitioning."""

    def __init__(self, ids: Ids, shape: Shape, random: np.random.Generator) -> None:
        self._ids = ids
        self._shape = shape
        num_targets = len(ids) - 1
        offset = int(random.integers(1, shape.seq_length + 1))
        starts = np.concatenate([[0], np.arange(offset, num_targets, shape.seq_length)])
        order = random.permutation(len(starts))
        self._starts = starts[order]
        self._ends = np.append(starts[1:], num_targets)[order]
        self.num_windows = -(-len(starts) // shape.batch_size)

    def window(self, index: int) -> Window:
        rows = slice(index * self._shape.batch_size, (index + 1) * self._shape.batch_size)
        steps = int((self._ends[rows] - self._starts[rows]).max())
        inputs, targets = gather(self._ids, self._starts[rows], self._ends[rows], steps)
        return Window(inputs, targets, starts=True)


def lane_bounds(num_targets: int, lanes: int) -> npt.NDArray[np.int64]:
    """(lanes + 1,) where each contiguous lane begins, and the end of the last; lengths differ by at most one."""
    shorter, longer = divmod(num_targets, lanes)
    lengths = np.full(lanes, shorter, dtype=np.int64)
    lengths[:longer] += 1
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def gather(ids: Ids, starts_B: npt.NDArray[np.int64], ends_B: npt.NDArray[np.int64], steps: int) -> tuple[Batch, Batch]:
    """(T, B) inputs and targets of lanes that start at `starts_B`; targets from `ends_B` on are IGNORE."""
    positions_TB = starts_B + np.arange(steps)[:, None]
    inside_TB = positions_TB < ends_B
    positions_TB = np.minimum(positions_TB, len(ids) - 2)
    inputs_TB = ids[positions_TB].astype(np.int64)
    targets_TB = np.where(inside_TB, ids[positions_TB + 1].astype(np.int64), IGNORE)
    return inputs_TB, targets_TB
