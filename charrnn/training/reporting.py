"""What a run says of itself: metrics.jsonl always; on a terminal Rich's live bar, elsewhere plain lines.

Everything for people goes to stderr; stdout is left to data. One object knows one run's files, and one of two
consoles knows how to show the same things.
"""

import contextlib
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from charrnn.errors import CheckpointError, missing, quoted
from charrnn.training.evaluation import Evaluation, Score
from charrnn.training.runs import Run

_PLAIN_SECONDS = 10.0
"""Without a terminal, a line of training figures at most this often."""

_CONTROLS = (
    {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
    | {0x7F: 0x2421}
    | dict.fromkeys(range(128, 160), 65533)
)


def harmless(text: str) -> str:
    """Text for a terminal: control characters, with which a text could take it over, shown as pictures of them."""
    return text.translate(_CONTROLS).encode("utf-8", "replace").decode()


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3:05, 1:02:03."""
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(number: int, thing: str) -> str:
    """1 thread, 2 threads."""
    return f"{number} {thing}{'s' * (number != 1)}"


class View(Protocol):
    """How a run is shown to a person."""

    def say(self, label: str, text: str) -> None:
        """A fact about the run, said once."""

    def update(self, progress: float, report: dict[str, Any] | None) -> None:
        """How far the run is, and the latest training figures."""

    def evaluated(self, step: int, progress: float, evaluation: Evaluation, is_best: bool) -> None:
        """A figure on the held-out text."""

    def sample(self, step: int, text: str) -> None:
        """What the model writes by now."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def _evaluation_line(step: int, progress: float, evaluation: Evaluation, is_best: bool) -> str:
    return (
        f"{min(progress, 1):4.0%}  step {step:,}  validation {evaluation.nats_per_char:.4f} nats/char = "
        f"{evaluation.bits_per_char:.3f} bits, perplexity {evaluation.perplexity:.2f}{'  best' if is_best else ''}"
    )


class LiveView:
    """A bar at the foot of a terminal, everything else scrolling above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._best: float | None = None
        """Of the whole run, and so unknown in a later sitting until it is surpassed."""
        self._validation: float | None = None
        self._report: dict[str, Any] | None = None
        self._started = time.perf_counter()
        self._first_progress: float | None = None
        columns = (BarColumn(10), TaskProgressColumn(), TextColumn("{task.fields[figures]}"))
        self._progress = Progress(*columns, console=console, transient=True, refresh_per_second=4)
        self._task = self._progress.add_task("training", total=1.0, figures="")

    def say(self, label: str, text: str) -> None:
        self._console.print(Text.assemble((f"{label:<10} ", "bold"), harmless(text)))

    def update(self, progress: float, report: dict[str, Any] | None) -> None:
        if self._first_progress is None:
            self._first_progress, self._started = progress, time.perf_counter()
            self._progress.start()
        self._report = report or self._report
        if not self._progress.finished:
            self._progress.update(self._task, completed=min(progress, 1.0), figures=self._figures(progress))

    def _figures(self, progress: float) -> str:
        """The figures, the most wanted first, as many as the terminal is wide enough for."""
        elapsed = time.perf_counter() - self._started
        parts = [f"{duration(self._seconds_left(progress, elapsed))} left"]
        if self._report:
            train = Score(self._report["nats_per_char"], 1)
            parts.append(f"train {train.nats_per_char:.3f} nats = {train.bits_per_char:.2f} bits")
            if self._validation is None:
                parts.append(f"perplexity {train.perplexity:.2f}")
        if self._validation is not None:
            best = "" if self._best is None else f" best {self._best:.3f}"
            parts.append(f"val {self._validation:.3f}{best}")
        if self._report:
            parts += [f"{self._report['chars_per_second']:,} chars/s", f"epoch {self._report['epoch']:.2f}"]
        parts.append(f"{duration(elapsed)} gone")
        line, room = parts[0], self._console.width - 18  # the bar and the percentage
        for part in parts[1:]:
            line = f"{line} · {part}" if len(line) + 3 + len(part) <= room else line
        return line

    def _seconds_left(self, progress: float, elapsed: float) -> float:
        done = progress - (self._first_progress or 0.0)
        return elapsed / done * (1 - progress) if done > 0 else math.inf

    def evaluated(self, step: int, progress: float, evaluation: Evaluation, is_best: bool) -> None:
        self._validation = evaluation.nats_per_char
        self._best = self._validation if is_best else self._best
        line = _evaluation_line(step, progress, evaluation, is_best)
        self._console.print(Text(line, style="green" if is_best else ""))

    def sample(self, step: int, text: str) -> None:
        self._console.print(Text(f"── sample at step {step:,} ", style="dim"))
        self._console.print(Text(harmless(text), style="cyan"))
        self._console.print(Text("──", style="dim"))

    def close(self) -> None:
        self._progress.stop()


class PlainView:
    """Whole lines, no cursor tricks: for files, pipes and dumb terminals."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last_line = -math.inf

    def _print(self, text: str) -> None:
        try:
            print(text, file=self._stream, flush=True)
        except UnicodeEncodeError:  # a console of another encoding
            encoding = self._stream.encoding
            print(text.encode(encoding, "backslashreplace").decode(encoding), file=self._stream, flush=True)

    def say(self, label: str, text: str) -> None:
        self._print(f"{label:<10} {harmless(text)}")

    def update(self, progress: float, report: dict[str, Any] | None) -> None:
        soon = time.perf_counter() - self._last_line < _PLAIN_SECONDS
        if report is None or (soon and progress < 1):
            return
        self._last_line = time.perf_counter()
        train = Score(report["nats_per_char"], 1)
        self._print(
            f"{min(progress, 1):4.0%}  step {report['step']:,}  epoch {report['epoch']:.2f}  "
            f"train {train.nats_per_char:.4f} nats/char = {train.bits_per_char:.3f} bits, "
            f"perplexity {train.perplexity:.2f}  {report['chars_per_second']:,} chars/s"
        )

    def evaluated(self, step: int, progress: float, evaluation: Evaluation, is_best: bool) -> None:
        self._print(_evaluation_line(step, progress, evaluation, is_best))

    def sample(self, step: int, text: str) -> None:
        self._print(f"-- sample at step {step:,}\n{harmless(text)}\n--")

    def close(self) -> None:
        pass


def make_view() -> View:
    """Live on a terminal that can be drawn on, plain elsewhere; Rich obeys NO_COLOR and TERM=dumb."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveView(console)
    return PlainView(sys.stderr if sys.stderr is not None else io.StringIO())


def say_if_heard(view: View) -> Callable[[str, str], None]:
    """A view's `say`, without an error where nobody can read it any more (a closed pipe, a full disk)."""

    def say(label: str, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            view.say(label, text)

    return say


@dataclass
class Reporter:
    """One run's voice: every figure goes to metrics.jsonl and to the view."""

    run: Run
    view: View
    tensorboard: Any = None
    _files: dict[str, io.FileIO] = field(default_factory=dict)

    def open(self, written: Mapping[str, int] | None = None, tensorboard: bool = False, step: int = 0) -> None:
        """Start metrics.jsonl and samples.txt, or go on with those whose first bytes the checkpoint vouches for.

        step: where the checkpoint stands, beyond which TensorBoard's events no longer count.
        """
        for path in (self.run.metrics, self.run.samples):
            self._files[path.name] = _opened(path, (written or {}).get(path.name, 0))
        if tensorboard:
            self._start_events(step)

    def close(self) -> None:
        """Close the files and leave the terminal as it was."""
        self._show(lambda view: view.close())
        for file in self._files.values():
            with contextlib.suppress(OSError):  # all that was to be written has been, or has been told of
                file.close()
        if self.tensorboard is not None:
            self._close_events()

    def written(self) -> dict[str, int]:
        """The length in bytes of each log, for the checkpoint: what a resumed run finds beyond it is cut off.

        They are on the disk then, so that no checkpoint outlives in a power cut what it vouches for.
        """
        for file in self._files.values():
            with contextlib.suppress(OSError):  # some file systems cannot
                os.fsync(file.fileno())
        return {name: file.tell() for name, file in self._files.items()}

    def rewind(self, written: Mapping[str, int], step: int) -> None:
        """Cut the logs to what a checkpoint of that step vouches for. Raises CheckpointError if they cannot be."""
        try:
            for name, file in self._files.items():
                file.truncate(written.get(name, 0))
                file.seek(0, io.SEEK_END)
        except OSError as error:
            raise CheckpointError(f"cannot cut the logs of {self.run.folder} back: {error.strerror}") from None
        if self.tensorboard is not None:
            self._close_events()
            self._start_events(step)

    def _start_events(self, step: int) -> None:
        """A new file of TensorBoard's events, which says that those after a step in earlier ones are void."""
        writer = require_tensorboard()
        try:
            self.tensorboard = writer(str(self.run.folder), purge_step=step + 1)
        except OSError as error:
            self._train_on_without_events(error)

    def _close_events(self) -> None:
        with contextlib.suppress(OSError):
            self.tensorboard.close()

    def _train_on_without_events(self, error: OSError) -> None:
        self.tensorboard = None
        self.say("note", f"TensorBoard's events cannot be written any more ({error.strerror}); training goes on")

    def say(self, label: str, text: str) -> None:
        """A fact for the person only."""
        self._show(lambda view: view.say(label, text))

    def progress(self, progress: float) -> None:
        """How far the run is."""
        self._show(lambda view: view.update(progress, None))

    def _show(self, tell: Callable[[View], None]) -> None:
        """Tell the view; if nobody can read it any more (a closed terminal, a full disk), train on unheard."""
        try:
            tell(self.view)
        except (OSError, ValueError):
            self.view = PlainView(io.StringIO())

    def event(self, name: str, text: str, **values: Any) -> None:
        """Something that happened: start, resume, rollback, stop. Logged and said."""
        self._write("event", {"event": name, **values})
        self._show(lambda view: view.say(name, text))

    def training(self, progress: float, report: dict[str, Any]) -> None:
        """A report of training."""
        self._write("training", report)
        self._scalars("training", report)
        self._show(lambda view: view.update(progress, report))

    def evaluated(self, where: Mapping[str, Any], progress: float, evaluation: Evaluation, is_best: bool) -> None:
        """An evaluation on the validation split. where: its step, epoch and seconds."""
        figures = {"split": "validation", **where, **evaluation.to_json(), "best": is_best}
        self._write("evaluation", figures)
        self._scalars("validation", figures)
        self._show(lambda view: view.evaluated(where["step"], progress, evaluation, is_best))

    def sample(self, step: int, text: str) -> None:
        """A sample: shown, logged, and appended to samples.txt as it is."""
        self._write("sample", {"step": step, "text": text})
        self._append(self.run.samples.name, f"== step {step}\n{text}\n")
        self._show(lambda view: view.sample(step, text))

    def _write(self, kind: str, record: Mapping[str, Any]) -> None:
        self._append(self.run.metrics.name, json.dumps({"type": kind, **record}) + "\n")

    def _append(self, name: str, text: str) -> None:
        """Write to a log. Raises CheckpointError where the file system refuses; a resume cuts off the torn line."""
        rest = memoryview(text.encode("utf-8", "replace"))
        try:
            while rest:  # a disk may take a part and refuse the rest
                rest = rest[self._files[name].write(rest) :]
        except OSError as error:
            path = self.run.folder / name
            raise CheckpointError(
                f"cannot write {path}: {error.strerror}; once it can be written, charrnn train --resume --run "
                f"{quoted(self.run.folder)} goes on from the last checkpoint"
            ) from None

    def _scalars(self, group: str, figures: dict[str, Any]) -> None:
        if self.tensorboard is None:
            return
        try:
            for name, value in figures.items():
                if isinstance(value, int | float) and name not in ("step", "best"):
                    self.tensorboard.add_scalar(f"{group}/{name}", value, figures["step"])
        except OSError as error:
            self._train_on_without_events(error)


def _opened(path: Path, length: int) -> io.FileIO:
    """A log to append to, of which the first `length` bytes are kept. Raises CheckpointError if it cannot be written.

    Without a buffer, which at closing would try again to write what was refused.
    """
    try:
        if path.exists():
            os.truncate(path, min(length, path.stat().st_size))
        return path.open("ab", buffering=0)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from None


def require_tensorboard() -> Any:
    """TensorBoard's writer. Raises ConfigError where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise missing("tensorboard", "training.tensorboard") from None
    return SummaryWriter
