"""The memory and the cores there are, of the machine or of the container that it is used through.

What cannot fit in memory is refused before the system kills the process; threads beyond the cores would wait for each
other at every step.
"""

import math
import os
from pathlib import Path

LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""The environment variable by which PyTorch asks Linux for large pages for large tensors."""

_UNTOLD = 1 << 36
"""Bytes assumed where the system does not tell (Windows): more than most have, so that nothing is refused wrongly."""


_CONTAINER = Path("/sys/fs/cgroup")
"""Where Linux says what a container may take (control groups, version 2)."""


def machine_memory() -> int:
    """Bytes of this machine's physical memory, or of the part that a container may take."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        physical = _UNTOLD
    return min([physical, *_numbers_of("memory.max")])


def container_cores() -> int | None:
    """Cores that a container may keep busy, rounded up; None without a limit."""
    match _numbers_of("cpu.max"):  # microseconds in each period of so many
        case [quota, period] if period:
            return max(1, math.ceil(quota / period))
    return None


def _numbers_of(name: str) -> list[int]:
    """What a file of the container's says, without "max", which is no limit."""
    try:
        return [int(word) for word in (_CONTAINER / name).read_text(encoding="ascii").split() if word.isdigit()]
    except (OSError, ValueError):
        return []


def longest_text() -> int:
    """Bytes of a text above which it is not read: a sixth of the memory.

    While a text is decoded and turned into ids, two bytes are held of each, and five where a single character beyond
    U+FFFF makes Python keep them all in four.
    """
    return machine_memory() // 6
