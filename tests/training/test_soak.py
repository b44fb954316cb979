"""An hour of training with all that goes with it: memory, open files and speed stay as they are.

pytest -m slow tests/training/test_soak.py        CHARRNN_SOAK=10m in the environment for a shorter one
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from charrnn.config import parse_duration


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's figures from /proc")
def test_a_long_run_keeps_its_memory_its_open_files_and_its_speed(text_file, folder):
    budget = os.environ.get("CHARRNN_SOAK", "1h")
    text_file.write_text(text_file.read_text(encoding="utf-8") * 40, encoding="utf-8")
    settings = ["evaluations=1000", "samples=1000", "checkpoint_every=2s", "keep=3", "hidden_size=64", "dropout=0.1"]
    command = [sys.executable, "-m", "charrnn", "train", str(text_file), "--run", "run", "--budget", budget]
    command += [part for setting in settings for part in ("--set", setting)]
    figures = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(parse_duration(budget) / 100)
            if Path("run/metrics.jsonl").exists():
                figures.append(use_so_far(process.pid))
    assert process.returncode == 0
    steady = [figure for figure in figures if figure is not None][10:]  # the first tenth fills caches
    memory, files = [use.kilobytes for use in steady], [use.files for use in steady]
    quarter = len(steady) // 4
    first, last = statistics.median(memory[:quarter]), statistics.median(memory[-quarter:])
    before, after = speed(steady[:quarter]), speed(steady[-quarter:])
    print(
        f"\n{budget}: {first / 1024:.0f} -> {last / 1024:.0f} MiB, {max(files)} files, "
        f"{before:,.0f} -> {after:,.0f} steps a CPU second, {steady[-1].steps:,} steps"
    )
    assert last <= 1.05 * first
    assert max(files) <= statistics.median(files) + 3  # one that is being written, its folder, the lock
    assert after >= 0.9 * before


class Use(NamedTuple):
    """What a process holds, and what it has done."""

    kilobytes: int
    files: int
    cpu_seconds: float
    """Other programs that want the machine make a second longer, but not a CPU second."""
    steps: int


def use_so_far(pid: int) -> Use | None:
    """None once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        kilobytes = int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        seconds = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        return Use(kilobytes, len(os.listdir(f"/proc/{pid}/fd")), seconds, steps_so_far())
    except (OSError, StopIteration):
        return None


def steps_so_far() -> int:
    told = Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    reports = (json.loads(line) for line in reversed(told) if '"type": "training"' in line)
    return int(next(reports, {"step": 0})["step"])


def speed(uses: list[Use]) -> float:
    return (uses[-1].steps - uses[0].steps) / (uses[-1].cpu_seconds - uses[0].cpu_seconds)
