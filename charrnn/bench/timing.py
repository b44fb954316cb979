"""Contenders that take turns on one machine within a given time, and the median of what each took.

A machine's speed drifts (other work, heat, clocks). Where contenders take turns every one meets the same drift, so
their ratios hold where figures measured one after the other would not.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

TOO_SLOW = "too slow: stopped after one step"
NOT_REACHED = "not measured: no time left (--seconds)"

_SLOW_SHARE = 0.25
"""A first step that takes more than this share of the whole time is a contender's last."""

_WARMING_SHARE = 0.5
"""First steps are begun within this share of the time; the rest is for repeats of those that were."""

_FAIR_REPEATS = 3
"""Repeats that every contender gets before the quick ones get more: the fewest whose median ignores an outlier."""

_SLICES = 7
"""Repeats for which each contender's equal share of the time is meant, if its steps are short enough."""

Clock = Callable[[], float]
"""Seconds since some moment, as time.perf_counter tells them."""


@dataclass(frozen=True)
class Contender:
    """A name, and one step of the work to be timed."""

    name: str
    step: Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """What was measured of a contender."""

    seconds: float | None
    """Of one step, the median over the repeats; None if there is no figure."""
    repeats: int
    """Of one or more steps each; a first step, which sets kernels up, only counts where there is nothing else."""
    note: str = ""
    """Why it was not measured as the others were."""


@dataclass(frozen=True)
class Stopwatch:
    """A clock that reads when the device has done all it was told, for which `synchronise` waits."""

    synchronise: Callable[[], None]
    clock: Clock

    def seconds_per_step(self, step: Callable[[], object], times: int) -> float:
        """Seconds of one step, the mean of several in a row between two moments at which the device is idle."""
        self.synchronise()
        start = self.clock()
        for _ in range(times):
            step()
        self.synchronise()
        return (self.clock() - start) / times


@dataclass
class _Runner:
    contender: Contender
    first: float
    steps: int = 1
    seconds: list[float] = field(default_factory=list)
    spent: float = 0.0

    def turn(self, stopwatch: Stopwatch, slice_seconds: float) -> None:
        """Do some steps, as many as lately fitted in a slice of time, and keep what one took.

        One step more goes before, unkept: caches, clocks and threads are still another contender's then (the first
        step after another's was seen to take up to 2.5 times as long). A single step that should have been many is not
        kept either: the stopwatch is part of it.
        """
        self.spent += stopwatch.seconds_per_step(self.contender.step, 1)
        per_step = stopwatch.seconds_per_step(self.contender.step, self.steps)
        fitting = max(1, int(slice_seconds / max(per_step, 1e-9)))
        self.spent += per_step * self.steps
        if self.steps > 1 or fitting == 1:
            self.seconds.append(per_step)
        self.steps = fitting

    def timing(self) -> Timing:
        if not self.seconds:
            return Timing(self.first, 1, "one step: no time left for more")
        return Timing(statistics.median(self.seconds), len(self.seconds))


def take_turns(contenders: Sequence[Contender], seconds: float, stopwatch: Stopwatch) -> dict[str, Timing]:
    """Time the contenders in turns for about `seconds` in all; a Timing for every one, by name.

    First each does one step, as far as half the time allows. Then whoever has fewest repeats (up to three), and of
    those whoever has used least time, is next. Time is checked between repeats: a step that has begun is finished.
    """
    started = stopwatch.clock()
    timings: dict[str, Timing] = {}
    runners = []
    for contender in contenders:
        in_time = stopwatch.clock() < started + _WARMING_SHARE * seconds
        found = _first_step(contender, seconds, stopwatch) if in_time else Timing(None, 0, NOT_REACHED)
        if isinstance(found, Timing):
            timings[contender.name] = found
        else:
            runners.append(found)
    timings |= _race(runners, started + seconds, stopwatch)
    return {contender.name: timings[contender.name] for contender in contenders}


def _first_step(contender: Contender, seconds: float, stopwatch: Stopwatch) -> Timing | _Runner:
    """A contender that has warmed up, or the Timing of one that goes no further."""
    try:
        first = stopwatch.seconds_per_step(contender.step, 1)
    except RuntimeError as error:  # such as a precision that the device lacks, or memory; the others can go on
        return _failed(error)
    if first > _SLOW_SHARE * seconds:
        return Timing(first, 1, TOO_SLOW)
    return _Runner(contender, first)


def _failed(error: RuntimeError) -> Timing:
    return Timing(None, 0, f"failed: {str(error).partition(chr(10))[0]}")


def _race(runners: Sequence[_Runner], deadline: float, stopwatch: Stopwatch) -> dict[str, Timing]:
    """Turns until the deadline; the timings by name."""
    slice_seconds = max(deadline - stopwatch.clock(), 0.0) / (_SLICES * max(len(runners), 1))
    running, failed = list(runners), {}
    while running and stopwatch.clock() < deadline:
        runner = min(running, key=lambda runner: (min(len(runner.seconds), _FAIR_REPEATS), runner.spent))
        try:
            runner.turn(stopwatch, slice_seconds)
        except RuntimeError as error:  # such as the end of another process, for want of memory
            running.remove(runner)
            failed[runner.contender.name] = _failed(error)
    return {runner.contender.name: runner.timing() for runner in runners} | failed
