"""The machine and its limits: its matrix products and its memory's reading, measured like any other contender."""

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from charrnn import __version__
from charrnn.bench.cases import Case
from charrnn.bench.timing import Contender


@dataclass(frozen=True)
class Product:
    """A (rows, inner) matrix times an (inner, columns) one."""

    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        """A multiplication and an addition for each of the terms."""
        return 2 * self.rows * self.inner * self.columns


LARGE = (Product(2048, 2048, 2048), Product(4096, 1024, 4096))
"""Shapes at which a CPU's products are at their fastest; the best of them is taken."""

LARGE_ON_GPU = (*LARGE, Product(8192, 8192, 8192))
"""A GPU needs more work at once to be busy everywhere."""


@dataclass(frozen=True)
class GemmContender(Contender):
    """A product to be timed. shape: what it is to the case. library: what computes it."""

    shape: str
    product: Product
    precision: str
    library: str


def contenders(case: Case, device: torch.device, precisions: Sequence[str]) -> list[GemmContender]:
    """Every product of `products` in each precision, by each library that has it.

    Two libraries do a CPU's float32 products: torch.mm calls the BLAS that torch was built with, torch.nn.LSTM calls
    oneDNN. On an AMD EPYC with AVX-512 oneDNN was 2.2 times as fast as torch.mm (MKL), so either alone may be far from
    what the machine can do.
    """
    return [
        GemmContender(
            f"gemm {shape} {product.rows}x{product.inner}x{product.columns} {precision} {library}",
            make(product, getattr(torch, precision), device),
            shape,
            product,
            precision,
            library,
        )
        for precision in precisions
        for library, make in _libraries(device, precision).items()
        for shape, product in products(case, device)
    ]


def _libraries(
    device: torch.device, precision: str
) -> dict[str, Callable[[Product, torch.dtype, torch.device], Callable[[], object]]]:
    if device.type == "cpu" and precision == "float32" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return {"torch.mm": multiplication, "oneDNN": onednn_multiplication}
    return {"torch.mm": multiplication}


def products(case: Case, device: torch.device) -> list[tuple[str, Product]]:
    """The recurrent product of one time step, the input product of a whole window, and the large ones."""
    training, hidden_size = case.config.training, case.config.model.hidden_size
    large = LARGE_ON_GPU if device.type == "cuda" else LARGE
    return [
        ("recurrent", Product(training.batch_size, hidden_size, case.gate_rows)),
        ("window", Product(case.characters_per_step, hidden_size, case.gate_rows)),
        *(("large", product) for product in large),
    ]


def multiplication(product: Product, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """The product with its operands in place, the second stored transposed as a layer's weights are."""
    left = torch.randn(product.rows, product.inner, device=device).to(dtype)
    right = torch.randn(product.columns, product.inner, device=device).to(dtype)
    result = torch.empty(product.rows, product.columns, dtype=dtype, device=device)
    return lambda: torch.mm(left, right.T, out=result)


def onednn_multiplication(product: Product, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """The same by oneDNN, which torch.nn.functional.linear calls for tensors of its layout."""
    left = torch.randn(product.rows, product.inner, dtype=dtype, device=device).to_mkldnn()
    right = torch.randn(product.columns, product.inner, dtype=dtype, device=device).to_mkldnn()
    return lambda: functional.linear(left, right)


def reading(num_bytes: int, device: torch.device) -> Callable[[], object]:
    """One pass over a float32 buffer of that size, as a sum.

    The size matters: weights that fit a cache are read from it at every character, and the limit is then the cache's
    bandwidth. So the buffer is as large as the weights, and is read over and over as they are.
    """
    buffer = torch.ones(num_bytes // 4, device=device)
    result = torch.empty((), device=device)
    return lambda: torch.sum(buffer, dim=0, out=result)


def synchroniser(device: torch.device) -> Callable[[], None]:
    """A function that waits until the device has done all that it was told."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return lambda: None


def description(device: torch.device, threads: int | None = None) -> dict[str, Any]:
    """What the figures were measured on and with. threads: at most so many were used."""
    every = torch.get_num_threads()
    return {
        "device": str(device),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "threads": every if threads is None else min(threads, every),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "charrnn": __version__,
    }


def _cpu_name() -> str:
    """Linux alone names the model in a file; elsewhere what the platform module knows."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
