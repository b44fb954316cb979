"""Steps that run in a process of their own, so that what charrnn does to its process speeds up nobody else.

`charrnn train` tells the C library to keep freed memory (training/memory.py) and PyTorch to use large pages (cli.py),
which no plain PyTorch program does, and which would change its speed in the same process too.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import torch

from charrnn.limits import LARGE_PAGES


class Elsewhere:
    """Steps taken in a child process, one at a time, at the parent's word; it starts with the first, or before.

    make: a function of a module, called with `arguments` in the child; returns the steps by name.
    """

    def __init__(self, make: Callable[..., Mapping[str, Callable[[], object]]], *arguments: Any) -> None:
        self._made_by = (make, arguments)
        self._connection: Connection | None = None

    def start(self) -> None:
        """Start the process unless it has been, and wait until it is ready. Raises RuntimeError if it never is."""
        if self._connection is None:
            self._connection = self._started()
            self._ask("")

    def step(self, name: str) -> None:
        """Take a step. Raises RuntimeError with what it raised there, or if the process is gone."""
        self.start()
        self._ask(name)

    def _ask(self, name: str) -> None:
        assert self._connection is not None
        try:
            self._connection.send(name)
            problem = self._connection.recv()
        except (EOFError, OSError):
            raise RuntimeError("the process of plain PyTorch has ended") from None
        if problem is not None:
            raise RuntimeError(problem)

    def _started(self) -> Connection:
        """The child ends when this end of the connection does."""
        context = multiprocessing.get_context("spawn")
        own, other = context.Pipe()
        arguments = (other, torch.get_num_threads(), *self._made_by)
        ours = os.environ.pop(LARGE_PAGES, None)  # what the command line asks of PyTorch is not a plain program's
        try:
            context.Process(target=_serve, args=arguments, daemon=True).start()
        finally:
            if ours is not None:
                os.environ[LARGE_PAGES] = ours
        other.close()
        return own


def _serve(
    connection: Connection,
    threads: int,
    make: Callable[..., Mapping[str, Callable[[], object]]],
    arguments: tuple[Any, ...],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is answered by whoever holds the other end
    torch.set_num_threads(threads)
    steps = make(*arguments)
    while True:
        try:
            name = connection.recv()
        except EOFError:
            return
        try:
            if name:
                steps[name]()
            connection.send(None)
        except RuntimeError as error:
            connection.send(str(error))
