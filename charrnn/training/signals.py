"""Signals that ask to stop: noted, so that training ends after a step and with everything saved."""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SAME_SIGNAL = 1.0
"""Seconds within which a second signal is the first once more.

Supervisors signal a process and then its group, and a terminal that closes does so twice.
"""


class Signals:
    """The number of the signal that asked to stop, once one has."""

    def __init__(self) -> None:
        self.caught: int | None = None
        self._first_at: dict[int, float] = {}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Note the first; a later one of its kind acts at once."""
        self.caught, now = number, time.monotonic()
        if number not in self._first_at:
            self._first_at[number] = now
            # After SIGHUP there may be nobody to tell; RuntimeError: the signal came while something was being told.
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                if sys.stderr is not None:
                    print("\nstopping after this step; once more leaves at once", file=sys.stderr)
        elif now - self._first_at[number] > _SAME_SIGNAL:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            signal.raise_signal(number)


@contextmanager
def caught_signals() -> Iterator[Signals]:
    """SIGINT, SIGTERM and a terminal's SIGHUP set a flag in place of stopping the process in the middle of a step."""
    signals = Signals()
    try:
        numbers = [signal.SIGINT, signal.SIGTERM]
        hung_up = getattr(signal, "SIGHUP", None)
        if hung_up is not None and signal.getsignal(hung_up) != signal.SIG_IGN:  # which is what nohup is for
            numbers.append(hung_up)
        before = {number: signal.signal(number, signals) for number in numbers}
    except ValueError:  # not the main thread: signals are its business
        before = {}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
