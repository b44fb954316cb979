"""How many threads of the CPU take a training step, found out from the steps themselves.

Threads share every product of a step and wait for each other after it. While the machine is left alone, more are
faster; once another program, or another guest of the same host, wants a core, they wait for the one that was stopped,
and a single thread can be twice as fast as two. That comes and goes, so it is asked again and again.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_STEPS = 6
"""Of each of two numbers of threads in a duel, one after the other: with turns after every step two threads took 10 to
30 % longer on two cores than by themselves, and would have lost duels for it."""

_UNCOUNTED = 2
"""Of them, in which the kernels are set up and threads wake."""

_REST = 20.0
"""Times a duel's length until the next one, doubled after each that changes nothing. After one that does, the next in
the same direction follows at once."""

_LONGEST_REST = 160.0
"""Until which it is doubled."""

_SLOW = 1.3
"""Times as long as in the last duel: when steps take so much longer, something has changed, and rest is over."""


class Threads:
    """All threads at first; from time to time a duel with half or twice as many, whose winner is kept.

    A number of threads rounds sums in its own order, so this is for runs that are not to be repeated bit for bit.
    """

    def __init__(self, most: int) -> None:
        self._counts = [most]
        while self._counts[-1] > 1:
            self._counts.append(self._counts[-1] // 2)
        self._at, self._towards = 0, 1
        self._turns: list[int] = []
        self._seconds: dict[int, list[float]] = {}
        self._rest, self._resting = _REST, 0.0
        self._usual, self._lately = math.inf, _none_lately()
        self._begun = False

    @property
    def count(self) -> int:
        """The number of threads outside of duels."""
        return self._counts[self._at]

    @contextmanager
    def for_a_step(self, choosing: bool) -> Iterator[None]:
        """Take the step within by the best number known, or in a duel by one whose turn it is.

        choosing: whether there is a choice (any more); without one, all threads take it.
        """
        if not choosing:
            self._at, self._turns, self._seconds = 0, [], {}
            _use(self.count)
            yield
            return
        if not self._turns and self._begun and len(self._counts) > 1 and self._rested():
            self._begin_duel()
        at = self._turns.pop() if self._turns else self._at
        _use(self._counts[at])
        started = time.perf_counter()
        try:
            yield
        except BaseException:
            self._turns, self._seconds = [], {}  # a step without a time decides no duel
            raise
        finally:
            _use(self.count)
        seconds = time.perf_counter() - started
        self._begun = True  # the first step of a run is like no other, and in no duel
        if not self._seconds:
            self._resting -= seconds
            self._lately.append(seconds)
            return
        self._seconds[at].append(seconds)
        if not self._turns:
            self._end_duel()

    def _rested(self) -> bool:
        return self._resting <= 0 or statistics.median(self._lately) > _SLOW * self._usual

    def _begin_duel(self) -> None:
        if not 0 <= self._at + self._towards < len(self._counts):
            self._towards = -self._towards
        rival = self._at + self._towards
        self._turns = [self._at] * _STEPS + [rival] * _STEPS
        self._seconds = {self._at: [], rival: []}

    def _end_duel(self) -> None:
        lengths = {at: sum(seconds[_UNCOUNTED:]) for at, seconds in self._seconds.items()}
        fastest = min(lengths, key=lengths.__getitem__)
        better = fastest != self._at
        if better:
            self._at, self._rest = fastest, _REST
        else:
            self._towards, self._rest = -self._towards, min(2 * self._rest, _LONGEST_REST)
        # Of 64 threads where 2 would be best, each of five halvings would otherwise wait for twenty slow duels.
        goes_on = better and 0 <= self._at + self._towards < len(self._counts)
        self._resting = 0.0 if goes_on else self._rest * sum(lengths.values())
        self._usual, self._lately = lengths[fastest] / (_STEPS - _UNCOUNTED), _none_lately()
        self._seconds = {}


def _none_lately() -> deque[float]:
    """Seconds of the latest steps, before there were any."""
    return deque([0.0] * _STEPS, maxlen=_STEPS)


def _use(count: int) -> None:
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def limit_threads(most: int | None) -> None:
    """Let PyTorch use no more than so many; None changes nothing."""
    if most is not None:
        _use(min(most, torch.get_num_threads()))


@contextmanager
def restored_threads() -> Iterator[None]:
    """Leave PyTorch's number of threads afterwards as it was before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
