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
    told = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    speeds = [line["chars_per_second"] for line in told if line["type"] == "training"]
    fifth = len(speeds) // 5
    before, after = undisturbed(speeds[fifth : 2 * fifth]), undisturbed(speeds[-fifth:])
    print(
        f"\n{budget}: {first / 1024:.0f} -> {last / 1024:.0f} MiB, {max(files)} files, {before:,} -> {after:,} chars/s"
    )
    assert last <= 1.05 * first
    assert max(files) <= statistics.median(files) + 3  # one that is being written, its folder, the lock
    assert after >= 0.9 * before


class Use(NamedTuple):
    """What a process holds."""

    kilobytes: int
    files: int


def use_so_far(pid: int) -> Use | None:
    """None once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        kilobytes = int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
        return Use(kilobytes, len(os.listdir(f"/proc/{pid}/fd")))
    except (OSError, StopIteration):
        return None


def undisturbed(speeds: list[int]) -> int:
    """The median of the fastest tenth: of moments in which no other program wanted the machine."""
    return statistics.median_high(sorted(speeds)[-max(len(speeds) // 10, 1) :])
