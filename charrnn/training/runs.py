"""The folder of a run, and finding a checkpoint in one."""

import re
from datetime import datetime
from pathlib import Path

from charrnn.errors import CheckpointError, ConfigError

RUNS = Path("runs")
"""Where runs go, in the working folder."""


class Run:
    """runs/<name>/: config.yaml, metrics.jsonl, samples.txt, best.safetensors, last.safetensors."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.metrics = folder / "metrics.jsonl"
        self.samples = folder / "samples.txt"
        self.best = folder / "best.safetensors"
        self.last = folder / "last.safetensors"

    @classmethod
    def new(cls, folder: Path | None, label: str) -> "Run":
        """Make the folder of a new run: the given one, or runs/<date>-<time>-<label>.

        Raises ConfigError if it holds a run already: a run is never overwritten.
        """
        folder = folder or _unused(RUNS / f"{datetime.now():%Y%m%d-%H%M%S}-{_slug(label)}")
        run = cls(folder)
        for file in (run.last, run.best, run.metrics, run.config, run.samples):
            if file.exists():
                raise ConfigError(
                    f"{folder} holds a run already ({file.name}); --resume goes on with it, --run DIR names another"
                )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the run's folder {folder}: {error.strerror}") from None
        return run

    @classmethod
    def existing(cls, folder: Path | None) -> "Run":
        """The run in a folder, by default the newest of runs/. Raises CheckpointError if there is none."""
        run = cls(folder or newest_run())
        if not run.last.exists():
            raise CheckpointError(f"{run.folder}: no last.safetensors there, so there is no run to go on with")
        return run


def newest_run() -> Path:
    """The run under runs/ whose checkpoint is the newest. Raises CheckpointError if there is none."""
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
    if path.is_file():
        return path
    run = Run(path)
    for candidate in (run.best, run.last):
        if candidate.is_file():
            return candidate
    reason = "no best.safetensors or last.safetensors in it" if path.is_dir() else "no such file or folder"
    raise CheckpointError(f"{path}: {reason}; name a run's folder or a .safetensors file")


def _slug(label: str) -> str:
    return re.sub(r"[^\w]+", "-", label).strip("-")[:40] or "text"


def _unused(folder: Path) -> Path:
    """The folder, or where two runs start in one second, its first free numbered sibling."""
    candidate, number = folder, 2
    while candidate.exists():
        candidate, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return candidate
