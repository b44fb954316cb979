"""The runs of a grid as processes of their own, several at a time: started, told to stop, and what came of them."""

import heapq
import os
import signal
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import charrnn
from charrnn.config import Budget, Config
from charrnn.errors import CheckpointError, ConfigError, Interrupted, quoted
from charrnn.grid.folder import Grid
from charrnn.insight.plotting import read_metrics
from charrnn.training import checkpoint
from charrnn.training.placement import choose_device
from charrnn.training.progress import SessionRecord
from charrnn.training.reporting import counted, duration, harmless
from charrnn.training.runs import Run
from charrnn.training.signals import caught_signals

Say = Callable[[str, str], None]
"""Tells a person a label and a text."""

_POLL_SECONDS = 0.1

_SURROUNDINGS = {
    "TERM": "dumb",  # since FORCE_COLOR would have a log drawn as on a terminal
    "PYTHONIOENCODING": "utf-8:backslashreplace",  # as the log is read again, where the system has another encoding
}

_LONGEST_REASON, _SHOWN_REASON = 1000, 200
"""Characters of why a run failed: in grid.json, and in the line that tells of it."""


@dataclass(frozen=True)
class Width:
    """How many runs at a time, and the threads of each."""

    jobs: int
    threads: int

    @classmethod
    def of(cls, configs: Iterable[Config], jobs: int | None) -> "Width":
        """As many as were asked for, else one for each core, or one in all on other devices than the CPU.

        Networks of this size gain little from a second thread, so a core of its own for each run is the most that a
        machine gives. Raises ConfigError for a number below 1 or a device that is not to be had.
        """
        if jobs is not None and jobs < 1:
            raise ConfigError(f"--jobs {jobs}: expected a whole number of 1 or more")
        devices = [choose_device(config.training.device).type for config in configs]
        cores = torch.get_num_threads()
        wanted = jobs or (cores if set(devices) == {"cpu"} else 1)
        at_once = min(wanted, len(devices))
        return cls(at_once, max(1, cores // at_once))


@dataclass
class Child:
    """A process that trains one run."""

    name: str
    process: "subprocess.Popen[bytes]"
    log_start: int
    """Bytes of the log that were there before."""


def train_all(grid: Grid, width: Width, say: Say) -> None:
    """Train what is not finished yet: start it, or go on with it where it stands. A run that fails is noted.

    Raises Interrupted after SIGINT or SIGTERM, once every run has saved; CheckpointError while another process
    works on this grid.
    """
    with Run(grid.folder).locked() as note:
        if note:
            say("note", note)
        for text in grid.notes:
            say("recipe", text)
        say("grid", _plan(grid, width))
        _Trainer(grid, width, say).loop()


def _plan(grid: Grid, width: Width) -> str:
    waiting = grid.unfinished()
    seconds = [Budget.parse(grid.configs[name].training.budget).seconds for name in waiting]
    ends = [0.0] * width.jobs
    for one in seconds:
        heapq.heapreplace(ends, ends[0] + (one or 0))  # by whichever is free first
    new = waiting and not any(grid.run(name).last.exists() for name in waiting)
    lasting = f", about {duration(max(ends))} in all" if new and None not in seconds else ""
    each = counted(width.threads, "thread")
    return (
        f"{len(waiting)} of {len(grid.record.runs)} runs to train, {width.jobs} at a time with {each} each{lasting}, "
        f"in {grid.folder}, each with its train.log"
    )


class _Trainer:
    def __init__(self, grid: Grid, width: Width, say: Say) -> None:
        self.grid, self.width, self.say = grid, width, say
        self.waiting = grid.unfinished()
        self.children: list[Child] = []
        self.told: int | None = None
        """The signal that the children were told to stop by."""

    def loop(self) -> None:
        """Keep as many children at work as there may be, until all is done or a signal asks to stop."""
        with caught_signals() as signals:
            try:
                while self.children or (self.waiting and self.told is None):
                    if signals.caught != self.told:
                        self.tell(signals.caught)
                    self.fill()
                    time.sleep(_POLL_SECONDS)
                    self.collect()
            except (CheckpointError, OSError):  # of the grid's own files: the runs can save theirs
                if os.name != "nt":
                    self.tell(signal.SIGTERM)
                    for child in self.children:
                        child.process.wait()
                raise
            finally:
                for child in self.children:  # a second Ctrl-C, or an error of ours
                    child.process.kill()
                    child.process.wait()
        if self.told is not None and self.grid.unfinished():
            raise Interrupted(f"go on with: charrnn grid --resume --output {quoted(self.grid.folder)}", self.told)

    def fill(self) -> None:
        """Start what there is room for."""
        while self.waiting and self.told is None and len(self.children) < self.width.jobs:
            name = self.waiting.pop(0)
            try:
                self.start(name)
            except (CheckpointError, OSError) as error:
                self.fail(name, str(error))

    def start(self, name: str) -> None:
        """Start or go on with a run in a process of its own. Raises CheckpointError while another one trains it."""
        run, log = self.grid.run(name), self.grid.log(name)
        run.folder.mkdir(exist_ok=True)
        goes_on = run.last.exists()
        if not goes_on:
            _clear(run)
        what = ["--resume"] if goes_on else ["--config", str(self.grid.config(name))]
        self.grid.note(name, status="unfinished", reason="")
        with log.open("ab") as file:
            before = file.tell()
            process = subprocess.Popen(
                [sys.executable, *_charrnn(), "train", *what, "--run", str(run.folder)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_SURROUNDINGS, "OMP_NUM_THREADS": str(self.width.threads)},
                # Out of reach of a terminal's Ctrl-C, which would come twice: at the second a run leaves unsaved.
                start_new_session=os.name != "nt",
            )
        self.children.append(Child(name, process, before))
        self.say("resumed" if goes_on else "started", name)

    def tell(self, number: int | None) -> None:
        """Pass a signal on. On Windows, where that would end a process unsaved, the console has told the children."""
        assert number is not None
        self.told = number
        if os.name != "nt":
            for child in self.children:
                child.process.send_signal(number)

    def collect(self) -> None:
        """Note what came of the children that have ended."""
        for child in [child for child in self.children if child.process.poll() is not None]:
            self.children.remove(child)
            try:
                self.ended(child, child.process.returncode)
            except (CheckpointError, OSError) as error:
                self.fail(child.name, str(error))

    def ended(self, child: Child, code: int) -> None:
        """Note what came of one. Raises CheckpointError if it left no run whose figures can be read."""
        if code == 0:
            found = figures(self.grid.run(child.name))
            if found["nats_per_char"] is None:
                raise CheckpointError(f"{self.grid.run(child.name).folder}: it was never evaluated")
            self.grid.note(child.name, status="finished", **found)
            self.say("finished", f"{child.name}, {found['nats_per_char']:.4f} nats/char; {self._progress()}")
        elif self.told is not None and code in (128 + self.told, -self.told):
            self.say("stopped", child.name)
        else:
            self.fail(child.name, _last_words(self.grid.log(child.name), child.log_start, code))

    def fail(self, name: str, reason: str) -> None:
        """Note that a run failed, and why."""
        self.grid.note(name, status="failed", reason=reason[:_LONGEST_REASON])
        self.say("failed", f"{name}, {textwrap.shorten(reason, _SHOWN_REASON)}; {self._progress()}")

    def _progress(self) -> str:
        return f"{self.grid.count('finished')} of {len(self.grid.record.runs)} finished"


def _charrnn() -> list[str]:
    """Python's arguments for the command line, which imports nothing from this folder, in which a types.py may lie.

    Unless charrnn itself is there. Not by PYTHONSAFEPATH, which Python has from 3.11 on.
    """
    if Path(charrnn.__file__).parents[1] == Path.cwd():
        return ["-m", "charrnn"]
    return ["-c", "import sys; sys.path = [*filter(None, sys.path)]; from charrnn.cli import main; main()"]


def _clear(run: Run) -> None:
    """Delete what a run left behind that was killed before it saved anything to go on from.

    Raises CheckpointError if it is at work after all: its grid was killed and it was not.
    """
    with run.locked():
        for path in (run.config, run.metrics, run.samples):
            path.unlink(missing_ok=True)


def figures(run: Run) -> dict[str, Any]:
    """What a finished run came to, by the names of Outcome's fields. Raises CheckpointError if it cannot be read."""
    stored = checkpoint.load(run.last)
    progress = SessionRecord.read(stored.progress)
    try:
        speed = statistics.median(one["chars_per_second"] for one in read_metrics(run)["training"])
    except (KeyError, TypeError, statistics.StatisticsError):
        raise CheckpointError(f"{run.metrics}: no reports of training in it") from None
    return {
        "nats_per_char": progress.best_nats_per_char,
        "best_step": progress.best_step,
        "steps": progress.step,
        "seconds": round(progress.seconds, 3),
        "chars_per_second": speed,
        "parameters": sum(tensor.numel() for tensor in stored.weights.values()),
        "engine": progress.placement.engine,
        "precision": progress.placement.dtype,
    }


def _last_words(log: Path, start: int, code: int) -> str:
    """Why a process ended: its error's message, or else its last line and its exit code or signal."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode("utf-8", "replace").splitlines()
    said = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    if said:
        return harmless(" ".join(said))
    ended = f"exit code {code}" if code >= 0 else f"ended by signal {-code}"
    return harmless("; its last line: ".join([ended, *[line for line in lines if line.strip()][-1:]]))


_ERROR = "charrnn: "
"""What the command line begins an error's message with."""
