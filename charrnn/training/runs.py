"""The folder of a run: made, locked, written into, and a checkpoint found in it."""

import contextlib
import errno
import itertools
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from charrnn.errors import CheckpointError, ConfigError

RUNS = Path("runs")
"""Where runs go, in the working folder."""


class Run:
    """runs/<name>/: config.yaml, metrics.jsonl, samples.txt, best.safetensors, last.safetensors, step-<n>.safetensors.

    Beside them .lock and, until the run is finished, good.safetensors: what diverging training goes back to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.metrics = folder / "metrics.jsonl"
        self.samples = folder / "samples.txt"
        self.best = folder / "best.safetensors"
        self.last = folder / "last.safetensors"
        self.good = folder / "good.safetensors"

    @classmethod
    def new(cls, folder: Path | None, label: str, option: str = "--run") -> "Run":
        """Make the folder of a new run: the given one, or runs/<date>-<time>-<label>.

        option: of the command, that names it. Raises ConfigError if it holds a run already: a run is never
        overwritten.
        """
        try:
            if folder is None:
                return cls(_make_unused(RUNS / f"{datetime.now():%Y%m%d-%H%M%S}-{_slug(label)}"))
            run = cls(folder)
            run.refuse_if_used(option)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot make the run's folder {folder or RUNS}: {error.strerror}; {option} DIR names another place"
            ) from None
        return run

    def refuse_if_used(self, option: str = "--run") -> None:
        """Raise ConfigError if there is a run in the folder."""
        resumable = "--resume goes on with it, " if option == "--run" and self.last.exists() else ""
        for file in (self.last, self.best, self.good, self.metrics, self.config, self.samples, *self.steps().values()):
            if file.exists():
                raise ConfigError(
                    f"{self.folder} holds a run already ({file.name}); {resumable}{option} DIR names another"
                )

    @contextmanager
    def locked(self) -> Iterator[str]:
        """Keep every other process from changing the run meanwhile; what killed processes left behind is cleared.

        The lock is the operating system's, on the open file .lock, and ends with the process that holds it, however
        that ends: a lock file that lies about means nothing. It is not deleted, since two processes could then hold
        locks on two files of one name. Yields a note, empty unless the file system knows no locks. Raises
        CheckpointError that names the holder if there is one.
        """
        path = self.folder / ".lock"
        lock = FileLock(path, timeout=0, preserve_lock_file=True)  # else a file takes the place of a lock, see _acquire
        note = _acquire(lock, self.folder, path)
        try:
            if not note:
                _sign(path)
                self._clear_leftovers()
            yield note
        finally:
            lock.release()  # of no effect where there is none

    def _clear_leftovers(self) -> None:
        """Delete the half-written files of processes that were killed."""
        for leftover in self.folder.glob(".*.tmp"):
            if re.fullmatch(r"\.(config\.yaml|[\w-]+\.safetensors)\.\d+\.tmp", leftover.name):
                with contextlib.suppress(OSError):
                    leftover.unlink()

    def step(self, number: int) -> Path:
        """The checkpoint kept of a step."""
        return self.folder / f"step-{number}.safetensors"

    def steps(self) -> dict[int, Path]:
        """The checkpoints kept of single steps, by their number."""
        found = ((re.fullmatch(r"step-(\d+)", path.stem), path) for path in self.folder.glob("step-*.safetensors"))
        return {int(match[1]): path for match, path in found if match}

    @classmethod
    def existing(cls, folder: Path | None) -> "Run":
        """The run in a folder, by default the newest of runs/. Raises CheckpointError if there is none."""
        run = cls(folder or newest_run())
        with _looking(run.folder):
            if not run.last.exists():
                raise CheckpointError(f"{run.folder}: no last.safetensors there, so there is no run to go on with")
        return run


def newest_run() -> Path:
    """The run under runs/ whose checkpoint is the newest. Raises CheckpointError if there is none."""
    with _looking(RUNS):
        checkpoints = [path for name in ("last", "best") for path in RUNS.glob(f"*/{name}.safetensors")]
        if not checkpoints:
            raise CheckpointError(
                f"no run in {RUNS}/ of this folder; `charrnn train` makes one, or name a run or checkpoint"
            )
        return max(checkpoints, key=lambda path: path.stat().st_mtime).parent


def find_checkpoint(path: Path | None) -> Path:
    """The checkpoint meant by a file, by a run's folder, or by nothing (the newest run): its best, else its last.

    Raises CheckpointError if there is none.
    """
    path = path or newest_run()
    with _looking(path):
        if path.is_file():
            return path
        run = Run(path)
        for candidate in (run.best, run.last):
            if candidate.is_file():
                return candidate
        reason = "no best.safetensors or last.safetensors in it" if path.is_dir() else "no such file or folder"
    raise CheckpointError(f"{path}: {reason}; name a run's folder or a .safetensors file")


@contextmanager
def _looking(place: Path) -> Iterator[None]:
    """Raises CheckpointError where the system does not let us look."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{place}: {error.strerror}; name a run's folder or a .safetensors file") from None


def _slug(label: str) -> str:
    return re.sub(r"[^\w]+", "-", label).strip("-")[:40] or "text"


def _make_unused(folder: Path) -> Path:
    """Make the folder, or where runs start in one second, its first free numbered sibling."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    candidates = itertools.chain([folder], (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2)))
    while True:
        candidate = next(candidates)
        with contextlib.suppress(FileExistsError):
            candidate.mkdir()
            return candidate


# ---- the lock


_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems without locks, of a network as a rule, answer."""


def _acquire(lock: FileLock, folder: Path, path: Path) -> str:
    """Take a run's lock; a note if the file system knows none. Raises CheckpointError if it is held or refused.

    filelock must not take the existence of a file for a lock then: that of a killed process would hold for ever.
    """
    try:
        lock.acquire()
    except Timeout:
        raise CheckpointError(
            f"{folder} is in use by {_holder(path)}; two processes cannot train one run: wait for it, or stop it first"
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise CheckpointError(f"cannot lock {path}: {error.strerror}") from None
        return f"{folder} cannot be locked ({error}); see that no other process trains this run"
    return ""


def _sign(path: Path) -> None:
    """Write into the lock file who holds it, for the message to others. Windows lets nobody write a locked byte."""
    with contextlib.suppress(OSError):
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:200].strip() or "another process"
    except OSError:
        return "another process"


# ---- writing


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: to a temporary name beside it, to the disk, then renamed over it.

    Raises CheckpointError where the file system refuses; what stood under the name is then still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _rename(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        before = "; the earlier file of that name is untouched" if os.path.exists(path) else ""
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}{before}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # renamed by now, unless something went wrong or a second Ctrl-C came


def give_second_name(path: Path, name: Path) -> None:
    """Let a file, which is never changed but only replaced whole, be found under another name too.

    By a link, which takes no room, or where the file system has none by a copy. Raises CheckpointError where it
    refuses both.
    """
    temporary = name.with_name(f".{name.name}.{os.getpid()}.tmp")
    try:
        os.link(path, temporary)
        _rename(temporary, name)
        _flush_folder(name.parent)
    except OSError:
        write_whole(name, path.read_bytes())
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # POSIX leaves it where both are names of one file already


_PATIENCE = (0.05, 0.2, 0.75) if os.name == "nt" else ()
"""Seconds to wait before trying again to rename over a file that another program reads, which Windows refuses."""


def _rename(temporary: Path, path: Path) -> None:
    for seconds in _PATIENCE:
        with contextlib.suppress(PermissionError):
            os.replace(temporary, path)
            return
        time.sleep(seconds)
    os.replace(temporary, path)


def _flush_folder(folder: Path) -> None:
    """Fsync a folder, so that a power cut cannot undo a renaming in it, where that can be had.

    Windows has no handle of a folder to flush, some file systems refuse, and who may write a folder may not read it.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
