"""A word for whoever waits for a pipe into which nobody writes."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 3.0
"""Of silence, after which a person wonders."""


@contextmanager
def told_if_slow(message: str) -> Iterator[None]:
    """Say something once on stderr if what is done meanwhile takes longer than SECONDS."""
    timer = threading.Timer(SECONDS, _tell, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _tell(message: str) -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # nobody listens any more
            print(f"note: {message}", file=sys.stderr, flush=True)
