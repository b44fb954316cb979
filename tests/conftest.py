"""What several tests share: a small text, a small configuration, a view that says nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from charrnn.config import Config, load_config
from charrnn.model import stepper as steppers
from charrnn.model.compiling import compiler_here, usable_kernels

SMALL = {
    "training.recipe": "none",
    "model.hidden_size": 13,
    "training.batch_size": 4,
    "training.seq_length": 11,
    "training.budget": "40 steps",
    "training.evaluations": 4,
    "training.samples": 2,
    "training.sample_length": 20,
    "training.precision": "float32",
    "training.engine": "torch",
    "training.device": "cpu",
}
"""Settings that train in a blink, without a trial of what is fastest."""


torch.set_num_threads(1)
"""Networks of a few units gain nothing from a second thread, and lose when another process wants it."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Whatever a test does to their number, or says it to be, the next one has one."""
    yield
    torch.set_num_threads(1)


needs_compiler = pytest.mark.skipif(not compiler_here(), reason="there is no C compiler here")


def has_int8() -> bool:
    """Whether the C for int8 can be had here."""
    kernels = usable_kernels(torch.float32, torch.device("cpu"))
    return kernels is not None and kernels.has_int8


@pytest.fixture(params=["tensors", pytest.param("C", marks=needs_compiler)])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By which of the two `stepper_for` makes steppers."""
    if request.param == "tensors":
        monkeypatch.setattr(steppers, "usable_kernels", lambda dtype, device: None)
    return request.param


class SilentView:
    """A view that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.samples: list[str] = []
        self.evaluations: list[tuple[int, Any, bool]] = []

    def say(self, label: str, text: str) -> None:
        self.said.append((label, text))

    def update(self, progress: float, report: dict[str, Any] | None) -> None:
        pass

    def evaluated(self, step: int, progress: float, evaluation: Any, is_best: bool) -> None:
        self.evaluations.append((step, evaluation, is_best))

    def sample(self, step: int, text: str) -> None:
        self.samples.append(text)

    def close(self) -> None:
        pass

    def text(self) -> str:
        return "\n".join(f"{label}: {text}" for label, text in self.said)


@pytest.fixture
def view() -> SilentView:
    return SilentView()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def text_file(folder: Path) -> Path:
    """A text of 2,700 characters with some structure and some variety."""
    lines = [f"{n} times {m} makes {n * m}, as everybody knows.\n" for n in range(3, 12) for m in range(2, 10)]
    path = folder / "table.txt"
    path.write_text("".join(lines)[:2700], encoding="utf-8")
    return path


@pytest.fixture
def small_config(text_file: Path) -> Config:
    return load_config(flags={**SMALL, "corpus.source": str(text_file)})
