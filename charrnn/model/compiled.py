"""Forward and backward through time in C: the `compiled` engine, where there is a compiler for it.

kernels.c is compiled for this machine the first time that it is wanted, and kept in the user's cache. What it does not
do, the products over all steps at once, is PyTorch's. Suffixes: T steps, B lanes, H units, K = G * H the gates' sums
side by side.
"""

import atexit
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from charrnn.errors import ConfigError
from charrnn.model.bptt import input_gradients, recurrent_gradient, through_layers
from charrnn.model.cells import Cell, Drop, State, Weights
from charrnn.waiting import told_if_slow

_SOURCE = Path(__file__).with_name("kernels.c")

_FLAGS = ("-O3", "-fno-math-errno", "-shared", "-fPIC")

_TOOLS_OF_MACOS = ("/Library/Developer/CommandLineTools", "/Applications/Xcode.app")

_PRECISIONS = {torch.float32: (), torch.float64: ("-DDOUBLE",)}

_CELLS = {("rnn", "tanh"): 0, ("rnn", "relu"): 1, ("gru", "tanh"): 2, ("lstm", "tanh"): 3}
"""As kernels.c numbers them."""


def compiled(
    x: Tensor, state: State, layers: Sequence[Weights], cell: Cell, drop: Drop | None = None
) -> tuple[Tensor, State]:
    """The stack of layers by kernels.c; the signature is that of every engine, see engines.py.

    Raises ConfigError off the CPU, in bfloat16, and where nothing can be compiled.
    """
    kernels = kernels_for(layers[0].weight_hh.dtype, layers[0].weight_hh.device)
    how = (kernels, cell, torch.is_grad_enabled())

    def layer(x: Tensor, before: State, weights: Weights) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = _Layer.apply(*how, x, *weights, *before)  # type: ignore[no-untyped-call]
        return outputs

    return through_layers(layer, x, state, layers, drop)


class _Layer(torch.autograd.Function):
    """(kernels, cell, whether a backward pass may come, x, the weights, state) -> H_TBH and the last state."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: "_Kernels",
        cell: Cell,
        with_gradient: bool,
        x: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor,
        b_hh: Tensor,
        *before: Tensor,
    ) -> tuple[Tensor, ...]:
        (T, B), (K, H) = x.shape[:2], w_hh.shape
        H_TBH = kernels.rows(w_hh, T + 1, B, H)
        H_TBH[0] = before[0]
        C_TBH = w_hh.new_empty(T + 1, B, H) if cell.name == "lstm" else None
        if C_TBH is not None:
            C_TBH[0] = before[1]
        gates_TBK = w_hh.new_empty(T, B, K) if with_gradient and cell.name != "rnn" else None
        hidden_n_TBH = w_hh.new_empty(T, B, H) if with_gradient and cell.name == "gru" else None
        # b_hh belongs to the sums, but of a GRU's n to the part from H, which the reset gate multiplies.
        shared = K - H if cell.name == "gru" else K
        bias_K = torch.cat([b_ih[:shared] + b_hh[:shared], b_ih[shared:]])
        ids_TB = _ids(x, w_ih.shape[1])
        x = x if ids_TB is None else ids_TB
        table = functional.linear(x, w_ih, bias_K) if ids_TB is None else (w_ih.T + bias_K).contiguous()
        b_n, w_hh = b_hh[shared:].contiguous(), w_hh.contiguous()
        kernels.run("forward", cell, (T, B, H), ids_TB, table, w_hh, b_n, ..., H_TBH, C_TBH, gates_TBK, hidden_n_TBH)
        ctx.save_for_backward(x, w_ih, w_hh, H_TBH, C_TBH, gates_TBK, hidden_n_TBH)
        ctx.kernels, ctx.cell = kernels, cell
        return H_TBH[1:], *(states_TBH[-1].clone() for states_TBH in (H_TBH, C_TBH) if states_TBH is not None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dH_TBH: Tensor, *dstate: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, H_TBH, C_TBH, gates_TBK, hidden_n_TBH = ctx.saved_tensors
        (T, B), (K, H) = x.shape[:2], w_hh.shape
        dstate = tuple(tensor_BH.clone(memory_format=torch.contiguous_format) for tensor_BH in dstate)
        dH_BH, dC_BH = dstate if len(dstate) == 2 else (dstate[0], None)
        ids_TB = None if x.is_floating_point() else x
        dtable_VK = None if ids_TB is None else w_ih.new_zeros(w_ih.shape[1], K)
        dsums_TBK = ctx.kernels.rows(w_hh, T, B, K)
        dn_TBH = None if hidden_n_TBH is None else torch.empty_like(hidden_n_TBH)
        known = (ids_TB, w_hh, ..., H_TBH, C_TBH, gates_TBK, hidden_n_TBH, dH_TBH.contiguous())
        ctx.kernels.run("backward", ctx.cell, (T, B, H), *known, dH_BH, dC_BH, dsums_TBK, dn_TBH, dtable_VK)
        if dtable_VK is not None:
            dx, dw_ih, db_ih = None, dtable_VK.T, dtable_VK.sum(0)
        else:
            from_inputs_TBK = dsums_TBK if dn_TBH is None else torch.cat([dsums_TBK[..., : K - H], dn_TBH], dim=2)
            dx, dw_ih, db_ih = input_gradients(x, w_ih, from_inputs_TBK)
        db_hh = db_ih if dn_TBH is None else torch.cat([db_ih[: K - H], dsums_TBK[..., K - H :].sum((0, 1))])
        return None, None, None, dx, dw_ih, recurrent_gradient(dsums_TBK, H_TBH[:-1]), db_ih, db_hh, *dstate


def _ids(x: Tensor, vocabulary_size: int) -> Tensor | None:
    """As the kernels read them, which check nothing; None for vectors."""
    if x.is_floating_point():
        return None
    low, high = torch.aminmax(x)
    if low < 0 or high >= vocabulary_size:
        raise IndexError(f"ids from {low} to {high}; expected 0 to {vocabulary_size - 1}")
    return x.to(torch.int64).contiguous()


class _Kernels:
    """The functions of kernels.c for one precision."""

    def __init__(self, path: Path) -> None:
        self.build = path.stem.split("-")[1]
        """Of which compiler, options and source; another may round otherwise."""
        self._library = library = ctypes.CDLL(str(path))
        library.units_of_a_vector.restype = library.numbers_of_a_row.restype = ctypes.c_int64
        library.numbers_of_a_row.argtypes = [ctypes.c_int64]
        numbers = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64]
        library.forward.argtypes = numbers + [ctypes.c_void_p] * 9
        library.backward.argtypes = numbers + [ctypes.c_void_p] * 13
        library.forward.restype = library.backward.restype = None
        self._units = int(library.units_of_a_vector())

    def rows(self, like: Tensor, steps: int, lanes: int, length: int) -> Tensor:
        """(steps, lanes, length) to be filled in, its rows as far apart as the products want them."""
        return like.new_empty(steps, lanes, self._library.numbers_of_a_row(length))[..., :length]

    def run(self, name: str, cell: Cell, sizes: tuple[int, int, int], *tensors: Tensor | EllipsisType | None) -> None:
        """Call a function with its tensors in its own order; ... stands for the room to lay out W_hh."""
        H = sizes[2]
        whole = -(-H // self._units) * self._units
        like = next(tensor for tensor in tensors if isinstance(tensor, Tensor) and tensor.is_floating_point())
        packed = like.new_empty(whole * cell.gates * H)
        numbers = (_CELLS[cell.name, cell.activation], torch.get_num_threads(), *sizes)
        placed = [packed if tensor is ... else tensor for tensor in tensors]
        assert {tensor.dtype for tensor in placed if tensor is not None} <= {like.dtype, torch.int64}
        function = getattr(self._library, name)
        function(*numbers, *(None if tensor is None else tensor.data_ptr() for tensor in placed))


# ---- compiling


def kernels_for(dtype: torch.dtype, device: torch.device) -> _Kernels:
    """The kernels for a precision, compiled if they have not been. Raises ConfigError where there can be none."""
    if device.type != "cpu" or dtype not in _PRECISIONS:
        name = str(dtype).removeprefix("torch.")
        raise ConfigError(f"engine compiled: for float32 and float64 on the CPU, not {name} on {device.type}")
    kernels = _compiled(dtype)
    if isinstance(kernels, str):
        raise ConfigError(f"engine compiled: {kernels}")
    return kernels


def can_compile(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernels are to be had there in that precision; they are compiled to find out."""
    try:
        kernels_for(dtype, device)
    except ConfigError:
        return False
    return True


@lru_cache(maxsize=len(_PRECISIONS))
def _compiled(dtype: torch.dtype) -> _Kernels | str:
    """The kernels, or why there are none."""
    compiler = compiler_here()
    if compiler is None:
        return "there is no C compiler here (cc, gcc, clang, or what CC names; on Windows none will do yet)"
    reasons = []
    for flags in _variants():
        found = _made(compiler, (*_FLAGS, *flags, *_PRECISIONS[dtype]))
        if isinstance(found, _Kernels):
            return found
        reasons.append(found)
    return f"{' '.join(compiler)}: {reasons[0]}"


def compiler_here() -> tuple[str, ...] | None:
    """The command of the first C compiler to be found: what CC names, with its options, or cc, gcc, clang.

    On macOS a cc is there before the tools are, and asks whether to install them.
    """
    if os.name == "nt":
        return None
    if sys.platform == "darwin" and not any(Path(tools).exists() for tools in _TOOLS_OF_MACOS):
        return None
    for words in (shlex.split(os.environ.get("CC", "")), ["cc"], ["gcc"], ["clang"]):
        found = shutil.which(words[0]) if words else None
        if found:
            return found, *words[1:]
    return None


def _variants() -> list[tuple[str, ...]]:
    """Options for this CPU and for several threads, and then for one.

    On macOS for one alone: another OpenMP than the one that PyTorch brings ends the process.
    """
    x86 = platform.machine() in ("x86_64", "AMD64", "i386", "i686")
    for_this_cpu = "-march=native" if x86 else "-mcpu=native"
    return [(for_this_cpu, "-fopenmp")] * (sys.platform != "darwin") + [(for_this_cpu,)]


def _made(compiler: tuple[str, ...], flags: tuple[str, ...]) -> _Kernels | str:
    """The kernels, or what the compiler or the loader said in their place."""
    try:
        return _Kernels(_library(compiler, flags))
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        said = said.decode(errors="replace") if isinstance(said, bytes) else said
        return next((line for line in said.splitlines() if "error" in line), said.strip() or type(error).__name__)


def _library(compiler: tuple[str, ...], flags: tuple[str, ...]) -> Path:
    """The compiled kernels, from the cache if they are in there.

    They are told apart by their source and by all that the compiler defines for this machine, so that a home folder
    that several machines share holds one for each. A name ends in the file's own checksum, for to load a damaged one
    may end the process.
    """
    defined = _said([*compiler, *flags, "-dM", "-E", "-x", "c", os.devnull])
    name = f"kernels-{_checksum(*flags, defined, _SOURCE.read_text(encoding='utf-8'))}"
    cache = _cache()
    for path in cache.glob(f"{name}-*.so"):
        if path.stem == f"{name}-{_checksum(path.read_bytes())}":
            return path
        path.unlink()
    with (
        tempfile.TemporaryDirectory(dir=cache) as folder,
        told_if_slow("compiling the kernels for this CPU, which is done once"),
    ):
        unfinished = Path(folder) / "kernels.so"
        _said([*compiler, *flags, "-o", str(unfinished), "-x", "c", str(_SOURCE)])
        return unfinished.replace(cache / f"{name}-{_checksum(unfinished.read_bytes())}.so")


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


def _cache() -> Path:
    """A folder that nobody else can put libraries into: the user's cache, or where there is none a passing one."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "charrnn"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if found.st_uid == os.geteuid() and not found.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: nobody's home
        pass
    return _passing_folder()


@lru_cache(maxsize=1)
def _passing_folder() -> Path:
    """One that ends with the process."""
    folder = tempfile.mkdtemp(prefix="charrnn-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
