"""How much memory this machine has, so that what cannot fit is refused before the system kills the process."""

import os

LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""The environment variable by which PyTorch asks Linux for large pages for large tensors."""

_UNTOLD = 1 << 36
"""Bytes assumed where the system does not tell (Windows): more than most have, so that nothing is refused wrongly."""


def machine_memory() -> int:
    """Bytes of this machine's physical memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _UNTOLD


def longest_text() -> int:
    """Bytes of a text above which it is not read: a sixth of the memory.

    While a text is decoded and turned into ids, two bytes are held of each, and five where a single character beyond
    U+FFFF makes Python keep them all in four.
    """
    return machine_memory() // 6
