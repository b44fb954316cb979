"""The C of this folder as a library: compiled for this machine the first time that it is wanted, and kept.

kernels.c is the `compiled` engine's, see compiled.py; steps.c is for sampling, see compiled_stepper.py.
"""

import atexit
import contextlib
import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from charrnn.errors import ConfigError
from charrnn.model.cells import Cell
from charrnn.waiting import told_if_slow

_HEADERS, _SOURCES = ("vectors.h", "products.h"), ("kernels.c", "steps.c")

_FLAGS = ("-O3", "-fno-fast-math", "-fno-math-errno", "-shared", "-fPIC")
"""-fno-fast-math: vectors.h adds what such mathematics would take away again, and some compilers, or CC, ask for it."""

_TOOLS_OF_MACOS = ("/Library/Developer/CommandLineTools", "/Applications/Xcode.app")

_PRECISIONS = {torch.float32: (), torch.float64: ("-DDOUBLE",)}

CELLS = {("rnn", "tanh"): 0, ("rnn", "relu"): 1, ("gru", "tanh"): 2, ("lstm", "tanh"): 3}
"""As vectors.h numbers them."""


_COMPILING = threading.Lock()
"""Of two threads that need the kernels first, one waits for what the other compiles."""


class Kernels:
    """The functions of the library for one precision."""

    def __init__(self, path: Path) -> None:
        self.build = path.stem.split("-")[1]
        """Of which compiler, options and source; another may round otherwise."""
        self._library = library = ctypes.CDLL(str(path))
        library.units_of_a_vector.restype = library.numbers_of_a_row.restype = ctypes.c_int64
        library.numbers_of_a_row.argtypes = [ctypes.c_int64]
        whole, number, place = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
        library.forward.argtypes = [whole, whole, *[number] * 3, *[place] * 8]
        library.backward.argtypes = [whole, whole, *[number] * 3, *[place] * 11]
        library.cross_entropy.argtypes = [whole, number, number, place, number, whole, place, place]
        library.cross_entropy.restype = library.vectors_kept.restype = number
        library.vectors_kept.argtypes = [whole]
        library.step.argtypes = [place, whole, place]
        library.draw.argtypes = [place, whole, number, place, ctypes.c_double, number, place, place]
        for function in (library.forward, library.backward, library.step, library.draw):
            function.restype = None
        self.units = int(library.units_of_a_vector())
        """Of a panel."""
        self.has_int8 = bool(library.has_int8())
        """Whether `step` goes with int8 weights."""
        self.has_threads = bool(library.has_threads())
        """Whether more than one is of use to it."""
        self.step: Any = library.step
        self.draw: Any = library.draw

    def cross_entropy(self, logits_NV: Tensor, targets_N: Tensor, ignored: int, with_gradient: bool) -> Tensor:
        """The nats of the targets that are not `ignored`, summed; the logits give way to their gradient.

        Raises IndexError for targets outside of the vocabulary.
        """
        assert logits_NV.is_contiguous()
        assert targets_N.dtype == torch.int64
        (N, V), targets_N = logits_NV.shape, targets_N.contiguous()
        nats_N = logits_NV.new_empty(N, dtype=torch.float64)
        places = (targets_N.data_ptr(), ignored, with_gradient, logits_NV.data_ptr(), nats_N.data_ptr())
        if self._library.cross_entropy(torch.get_num_threads(), N, V, *places):
            least, most = targets_N.min(), targets_N.max()
            raise IndexError(f"targets from {least} to {most}: expected ids from 0 to {V - 1}, or {ignored}")
        return nats_N.sum().to(logits_NV.dtype)

    def row_of(self, length: int) -> int:
        """How far apart rows of so many numbers lie in what a product reads several lanes of."""
        return int(self._library.numbers_of_a_row(length))

    def rows(self, like: Tensor, steps: int, lanes: int, length: int) -> Tensor:
        """(steps, lanes, length) to be filled in, its rows as far apart as the products want them."""
        return like.new_empty(steps, lanes, self.row_of(length))[..., :length]

    def kept(self, like: Tensor, cell: Cell, steps: int, lanes: int, hidden_size: int) -> Tensor | None:
        """Room for what the backward pass needs of a window beside its hidden states; of an RNN nothing."""
        panels = -(-hidden_size // self.units)
        count = self._library.vectors_kept(CELLS[cell.name, cell.activation])
        return like.new_empty(steps, panels, lanes, count, self.units) if count else None

    def packed(self, w_hh: Tensor) -> Tensor:
        """Room to lay out W_hh (K, H) in whole panels."""
        K, H = w_hh.shape
        return w_hh.new_empty(-(-H // self.units) * self.units * K)

    def run(self, name: str, cell: Cell, sizes: tuple[int, int, int], *tensors: Tensor | None) -> None:
        """Call a function with its tensors in its own order, all of one precision but the ids."""
        assert len({tensor.dtype for tensor in tensors if tensor is not None} - {torch.int64}) == 1
        numbers = (CELLS[cell.name, cell.activation], torch.get_num_threads(), *sizes)
        places = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
        getattr(self._library, name)(*numbers, *places)


def kernels_for(dtype: torch.dtype, device: torch.device) -> Kernels:
    """The kernels for a precision, compiled if they have not been. Raises ConfigError where there can be none."""
    if device.type != "cpu" or dtype not in _PRECISIONS:
        name = str(dtype).removeprefix("torch.")
        raise ConfigError(f"engine compiled: for float32 and float64 on the CPU, not {name} on {device.type}")
    with _COMPILING:
        kernels = _compiled(dtype)
    if isinstance(kernels, str):
        raise ConfigError(f"engine compiled: {kernels}")
    return kernels


def usable_kernels(dtype: torch.dtype, device: torch.device) -> Kernels | None:
    """The same, None where there can be none."""
    try:
        return kernels_for(dtype, device)
    except ConfigError:
        return None


@lru_cache(maxsize=len(_PRECISIONS))
def _compiled(dtype: torch.dtype) -> Kernels | str:
    """The kernels, or why there are none."""
    compiler = compiler_here()
    if compiler is None:
        return "there is no C compiler here (cc, gcc, clang, or what CC names; on Windows none will do yet)"
    reasons = []
    try:
        for flags in _variants():
            found = _made(compiler, (*_FLAGS, *flags, *_PRECISIONS[dtype]))
            if isinstance(found, Kernels):
                return found
            reasons.append(found)
    except subprocess.TimeoutExpired as error:  # with other options it would hang too
        return str(error)
    return f"{' '.join(compiler)}: {reasons[0]}"


def compiler_here() -> tuple[str, ...] | None:
    """The command of the first C compiler to be found: what CC names, with its options, or cc, gcc, clang.

    On macOS a cc is there before the tools are, and asks whether to install them.
    """
    if os.name == "nt":
        return None
    if sys.platform == "darwin" and not any(Path(tools).exists() for tools in _TOOLS_OF_MACOS):
        return None
    try:
        named = shlex.split(os.environ.get("CC", ""))
    except ValueError:  # a quotation that does not end
        named = []
    for words in (named, ["cc"], ["gcc"], ["clang"]):
        found = shutil.which(words[0]) if words else None
        if found:
            return found, *words[1:]
    return None


def _variants() -> list[tuple[str, ...]]:
    """Options for this CPU and for several threads, then for one, and the same for any CPU of its kind.

    On macOS for one thread alone: another OpenMP than the one that PyTorch brings ends the process.
    """
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")
    for_this_cpu = "-march=native" if x86 else "-mcpu=native"
    threads: list[tuple[str, ...]] = [()] if sys.platform == "darwin" else [("-fopenmp",), ()]
    return [(*cpu, *several) for cpu in ((for_this_cpu,), ()) for several in threads]


def _made(compiler: tuple[str, ...], flags: tuple[str, ...]) -> Kernels | str:
    """The kernels, or what the compiler or the loader said in their place."""
    try:
        return _loaded(_library(compiler, flags, _cache()))
    except (OSError, AttributeError, subprocess.CalledProcessError) as error:
        said: str = getattr(error, "stderr", None) or str(error)
        return next((line for line in said.splitlines() if "error" in line), said.strip() or type(error).__name__)


def _loaded(library: Path) -> Kernels:
    try:
        return Kernels(library)
    except OSError:  # such as of a home folder that holds no programs
        elsewhere = _passing_folder() / library.name
        if elsewhere == library:
            raise
        if not elsewhere.exists():  # to write into a library that is in use ends the process
            shutil.copyfile(library, elsewhere)
        return Kernels(elsewhere)


def _library(compiler: tuple[str, ...], flags: tuple[str, ...], cache: Path | None) -> Path:
    """The compiled kernels, from the cache if they are in there, else put into it if there is one.

    They are told apart by their source, the options and all that the compiler defines for this machine, so that a home
    folder that several machines share holds one for each. A name ends in the file's own checksum, for to load a damaged
    one may end the process.
    """
    defined = _said([*compiler, *flags, "-dM", "-E", "-x", "c", os.devnull])
    flags = (*flags, *_flags_of(defined))
    sources = [path.read_bytes() for path in _files(*_HEADERS, *_SOURCES)]
    name = f"kernels-{_checksum(*compiler[1:], *flags, defined, *platform.libc_ver(), *sources)}"
    for path in cache.glob(f"{name}-*.so") if cache else ():
        if path.stem == f"{name}-{_checksum(path.read_bytes())}":
            return path
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    keeps = cache is not None and os.access(cache, os.W_OK)
    once = "which is done once" if keeps else "for this process alone, since ~/.cache cannot hold them"
    with told_if_slow(f"compiling the kernels for this CPU, {once}"):
        built = _passing_folder() / f"{name}.so"
        _said([*compiler, *flags, "-o", str(built), "-x", "c", *map(str, _files(*_SOURCES)), "-lm"])
    built = built.replace(built.with_stem(f"{name}-{_checksum(built.read_bytes())}"))
    return _kept(built, cache) if cache else built


def _flags_of(defined: str) -> tuple[str, ...]:
    """Options that one compiler needs and others do not know, by what it defines."""
    if "__INTEL_LLVM_COMPILER" in defined:
        return ("-fp-model=precise",)
    gcc = re.search(r"#define __GNUC__ (\d+)", defined)
    if gcc and int(gcc[1]) >= 8 and "__clang__" not in defined:
        # For some CPUs GCC rounds a product before it is added where one sum is held, and not where several are: then a
        # text drawn alone would differ from the same one among others.
        return ("--param=avoid-fma-max-bits=0",)
    return ()


def _kept(built: Path, cache: Path) -> Path:
    """Where the library lies in the cache, or where it was built if there is no room."""
    try:
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            return Path(shutil.copyfile(built, Path(folder) / built.name)).replace(cache / built.name)
    except OSError:
        return built


def _files(*names: str) -> list[Path]:
    return [Path(__file__).with_name(name) for name in names]


def _checksum(*parts: str | bytes) -> str:
    whole = b"\0".join(part.encode() if isinstance(part, str) else part for part in parts)
    return hashlib.sha256(whole).hexdigest()[:32]


def _said(command: list[str]) -> str:
    """What a command prints. Raises subprocess.SubprocessError if it fails or takes five minutes."""
    environment = {**os.environ, "LC_ALL": "C"}  # so that an error is called one
    return subprocess.run(
        command,
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        timeout=300,
    ).stdout


def _cache() -> Path | None:
    """A folder of the user's cache that nobody else can put libraries into, if there is one.

    Not the one that corpora are fetched into, which others may be allowed to share.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "charrnn-kernels"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve()  # so that no link is turned to another place between this look and the next
        found = folder.stat()
        if found.st_uid == os.geteuid() and not found.st_mode & 0o022:
            return folder
    except (OSError, RuntimeError):  # RuntimeError: nobody's home
        pass
    return None


@lru_cache(maxsize=1)
def _passing_folder() -> Path:
    """One that ends with the process."""
    folder = tempfile.mkdtemp(prefix="charrnn-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
