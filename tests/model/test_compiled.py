"""The C kernels: compiled once, where there is a compiler, for vectors of any width; refused elsewhere."""

import ctypes
import errno
import os
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.errors import ConfigError
from charrnn.model import compiling
from charrnn.model.compiled_stepper import CompiledStepper
from charrnn.model.engines import Execution
from charrnn.model.network import CharRNN
from charrnn.model.stepper import stepper_for
from charrnn.model.tensor_stepper import TensorStepper
from charrnn.text.minibatches import Shape
from charrnn.training.placement import choose_placement
from tests.model.test_engines import CELLS, IDS

CPU = torch.device("cpu")
COMPILER = shlex.join(compiling.compiler_here() or ())

pytestmark = pytest.mark.skipif(not COMPILER, reason="there is no C compiler here")


@pytest.fixture
def anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing has been compiled yet in this process, and the cache is an empty one of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiling, "_FLAGS", ("-O1", *compiling._FLAGS[1:]))  # which takes half the time
    compiling._compiled.cache_clear()
    yield tmp_path / "charrnn-kernels"
    compiling._compiled.cache_clear()


def compiler(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a compiler into CC that does what a shell script does."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv("CC", str(path))


def losses_and_gradients(
    cell, execution: Execution, hidden_size: int, lanes: int, num_layers: int
) -> list[torch.Tensor]:
    config = ModelConfig(
        cell=cell.name, activation=cell.activation, hidden_size=hidden_size, num_layers=num_layers, weight_dropout=0
    )
    network = CharRNN(config, 11).initialise(0)
    generator = torch.Generator().manual_seed(1)
    ids_TB = torch.randint(11, (5, lanes), generator=generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    network.to(execution.dtype)
    nats, state = network.loss(ids_TB[:-1], ids_TB[1:], None, execution)
    nats, state = network.loss(ids_TB[1:], ids_TB[:-1], state, execution)
    return [nats, *state, *torch.autograd.grad(nats + state[-1].sum(), list(network.parameters()))]


def assert_agrees(cell, dtype: torch.dtype, hidden_size: int, lanes: int, num_layers: int = 1) -> None:
    sizes = (hidden_size, lanes, num_layers)
    expected = losses_and_gradients(cell, Execution("reference", torch.float64), *sizes)
    found = losses_and_gradients(cell, Execution("compiled", dtype), *sizes)
    tolerance = 1e-11 if dtype == torch.float64 else 2e-5
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        assert (one.double() - other).norm() <= tolerance * other.norm()


@torch.no_grad()
def assert_steps_agree(cell, lanes: int = 13) -> None:
    """Those of steps.c, with the window's."""
    config = ModelConfig(cell=cell.name, activation=cell.activation, hidden_size=37, num_layers=2)
    network = CharRNN(config, 19).initialise(0)
    ids_TB = torch.arange(5 * lanes).view(5, lanes) % 19
    expected_TBV, _ = network(ids_TB)
    stepper = stepper_for(network, network.zero_state(1), lanes)
    assert isinstance(stepper, CompiledStepper)
    for ids_B, expected_BV in zip(ids_TB, expected_TBV, strict=True):
        torch.testing.assert_close(stepper.step(ids_B), expected_BV, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("hidden_size", [1, 16, 17, 131])
@pytest.mark.parametrize("cell", CELLS, ids=IDS)
def test_any_number_of_units_and_lanes_agrees_with_the_equations(cell, hidden_size, dtype):
    for lanes in (1, 6, 13, 67):
        assert_agrees(cell, dtype, hidden_size, lanes)
    assert_agrees(cell, dtype, hidden_size, lanes=3, num_layers=3)


@pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith(("AVX2", "AVX512")), reason="a CPU without these vectors"
)
@pytest.mark.parametrize(("machine", "units"), [("x86-64", 4), ("haswell", 8)])
def test_narrower_vectors_give_the_same(machine, units, anew, monkeypatch):
    monkeypatch.setattr(compiling, "_variants", lambda: [(f"-march={machine}", "-fopenmp")])
    for cell in CELLS:
        assert_agrees(cell, torch.float32, hidden_size=37, lanes=13)
        assert_steps_agree(cell)
    assert compiling._compiled(torch.float32).units == units


@pytest.mark.parametrize("lanes", [1, 6, 65])
@pytest.mark.parametrize("cell", CELLS, ids=IDS)
def test_the_number_of_threads_changes_no_bit(cell, lanes):
    """But of the gradient of W_hh, which is PyTorch's product."""
    network = CharRNN(ModelConfig(cell=cell.name, activation=cell.activation, hidden_size=83), 7).initialise(0)
    ids_TB = torch.arange(40 * lanes).view(40, lanes) % 7
    weights = network.rnn.layers()[0]
    found = []
    for threads in (1, 2, 3, 9):
        torch.set_num_threads(threads)
        H_TBH, state = network.hidden(ids_TB, None, Execution("compiled"))
        wanted = (weights.weight_ih, weights.bias_ih, weights.weight_hh)
        *same, near = torch.autograd.grad(H_TBH.square().sum() + state[-1].sum(), wanted)
        found.append(([H_TBH, *state, *same], near))
    for same, near in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(same, found[0][0], strict=True))
        torch.testing.assert_close(near, found[0][1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("cell", CELLS, ids=IDS)
def test_without_gradients_the_values_are_the_same(cell):
    network = CharRNN(ModelConfig(cell=cell.name, activation=cell.activation, hidden_size=19), 7).initialise(0)
    ids_TB = torch.arange(24).view(8, 3) % 7
    with_gradients, _ = network.hidden(ids_TB, None, Execution("compiled"))
    with torch.no_grad():
        without, _ = network.hidden(ids_TB, None, Execution("compiled"))
    assert torch.equal(with_gradients, without)


@pytest.mark.parametrize("cell", CELLS, ids=IDS)
def test_what_is_no_number_is_not_hidden_and_what_is_large_is_bounded(cell):
    network = CharRNN(ModelConfig(cell=cell.name, activation=cell.activation, hidden_size=19), 7).initialise(0)
    ids_TB = torch.zeros(3, 2, dtype=torch.int64)
    with torch.no_grad():
        network.rnn.layers()[0].weight_ih.mul_(1e30)
        large, _ = network.hidden(ids_TB, None, Execution("compiled"))
        network.rnn.layers()[0].weight_ih[4, 0] = torch.nan
        spoilt, _ = network.hidden(ids_TB, None, Execution("compiled"))
    assert cell.activation == "relu" or large.abs().max() <= 1
    assert spoilt[0, :, 4].isnan().all()
    assert spoilt[1:].isnan().all()


def test_other_precisions_and_devices_are_refused():
    with pytest.raises(ConfigError, match="engine compiled: for float32 and float64 on the CPU, not bfloat16 on cpu"):
        choose_placement(
            CharRNN(ModelConfig(hidden_size=5), 7), TrainingConfig(engine="compiled", precision="bfloat16"), Shape(2, 3)
        )
    with pytest.raises(ConfigError, match="not float32 on meta"):
        compiling.kernels_for(torch.float32, torch.device("meta"))


def test_without_a_compiler_auto_does_without_and_the_engine_is_refused(anew, monkeypatch):
    monkeypatch.setattr(compiling, "compiler_here", lambda: None)
    network = CharRNN(ModelConfig(hidden_size=5), 7).initialise(0)
    assert choose_placement(network, TrainingConfig(precision="float32"), Shape(2, 3)).execution.engine in (
        "written",
        "torch",
    )
    with pytest.raises(ConfigError, match="engine compiled: there is no C compiler here"):
        choose_placement(network, TrainingConfig(engine="compiled"), Shape(2, 3))


def test_what_a_compiler_says_is_passed_on(anew, tmp_path, monkeypatch):
    compiler(tmp_path, "echo 'kernels.c:1:1: error: no vectors for you' >&2; exit 1", monkeypatch)
    with pytest.raises(ConfigError, match=r"engine compiled: .*compiler: kernels.c:1:1: error: no vectors for you"):
        compiling.kernels_for(torch.float32, CPU)


def test_a_compiler_without_openmp_will_do(anew, tmp_path, monkeypatch):
    script = f'case "$*" in *-fopenmp*) echo "error: unsupported option" >&2; exit 1;; *) exec {COMPILER} "$@";; esac'
    compiler(tmp_path, script, monkeypatch)
    assert_agrees(CELLS[3], torch.float32, hidden_size=37, lanes=13)
    assert_steps_agree(CELLS[3], lanes=8)
    network = CharRNN(ModelConfig(hidden_size=5), 7)
    assert isinstance(stepper_for(network, network.zero_state(1), lanes=9), TensorStepper)
    library = next(anew.iterdir()).read_bytes()
    assert b"GOMP_" not in library
    assert b"__kmpc_" not in library


def test_the_cache_spares_the_second_process_the_compiler(anew, tmp_path, monkeypatch):
    counter = tmp_path / "counter"
    script = f'case "$*" in *" -E "*) ;; *) echo one >> {counter};; esac; exec {COMPILER} "$@"'
    compiler(tmp_path, script, monkeypatch)
    for _ in range(2):
        compiling.kernels_for(torch.float32, CPU)
        compiling._compiled.cache_clear()  # as in another process
    assert counter.read_text(encoding="utf-8") == "one\n"
    assert [path.suffix for path in anew.iterdir()] == [".so"]
    assert stat.S_IMODE(anew.stat().st_mode) == 0o700


def test_a_damaged_library_is_compiled_again(anew):
    options = (*compiling._FLAGS, *compiling._variants()[0])
    library = compiling._library(compiling.compiler_here(), options, compiling._cache())
    whole = library.read_bytes()
    library.write_bytes(whole[:-1])
    assert compiling.usable_kernels(torch.float32, CPU)
    assert [len(path.read_bytes()) for path in anew.iterdir()] == [len(whole)]


def test_the_compiler_is_what_cc_names_with_its_options_and_else_the_first_there_is(tmp_path, monkeypatch):
    compiler(tmp_path, "true", monkeypatch)
    monkeypatch.setenv("CC", f"{tmp_path}/compiler -m64")
    assert compiling.compiler_here() == (f"{tmp_path}/compiler", "-m64")
    for named in ("there-is-no-such-compiler", "gcc -DX='a"):
        monkeypatch.setenv("CC", named)
        assert compiling.compiler_here()[0].endswith(("cc", "clang"))


def test_other_options_in_cc_are_another_build(anew, monkeypatch):
    """Though the compiler defines nothing else for them."""
    builds = set()
    for named in (COMPILER, f"{COMPILER} -ffp-contract=off"):
        monkeypatch.setenv("CC", named)
        builds.add(compiling.kernels_for(torch.float32, CPU).build)
        compiling._compiled.cache_clear()
    assert len(builds) == 2


def test_a_cache_from_which_nothing_can_be_loaded_is_done_without(anew, monkeypatch):
    """As in a home folder that holds no programs (noexec)."""
    load = ctypes.CDLL

    def loads_elsewhere(path: str) -> ctypes.CDLL:
        if Path(path).parent == anew:
            raise OSError("failed to map segment from shared object")
        return load(path)

    monkeypatch.setattr(ctypes, "CDLL", loads_elsewhere)
    commands, said = [], compiling._said
    monkeypatch.setattr(compiling, "_said", lambda command: commands.append(command) or said(command))
    for _ in range(2):
        assert compiling.kernels_for(torch.float32, CPU).has_threads == (sys.platform != "darwin")
        compiling._compiled.cache_clear()
    assert sum("-E" not in command for command in commands) == 1


def test_of_threads_that_need_the_kernels_first_one_compiles_them(anew, monkeypatch):
    made, compiling_now = compiling._made, []

    def alone(*arguments: Any) -> Any:
        compiling_now.append(True)
        time.sleep(0.05)
        assert len(compiling_now) == 1
        try:
            return made(*arguments)
        finally:
            compiling_now.pop()

    monkeypatch.setattr(compiling, "_made", alone)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: compiling.kernels_for(torch.float32, CPU), range(2))
    assert first is second


def test_a_compiler_that_hangs_is_not_asked_again(anew, tmp_path, monkeypatch):
    compiler(tmp_path, f"echo one >> {tmp_path}/counter; sleep 60", monkeypatch)
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **options: run(command, **{**options, "timeout": 0.2}))
    with pytest.raises(ConfigError, match="timed out"):
        compiling.kernels_for(torch.float32, CPU)
    assert (tmp_path / "counter").read_text(encoding="utf-8") == "one\n"


def test_ids_outside_of_the_vocabulary_are_refused_before_they_reach_the_memory():
    network = CharRNN(ModelConfig(hidden_size=5), 7).initialise(0)
    for wrong in (-1, 7):
        for steps in (1, 9):  # a window of fewer ids than the vocabulary, and one of more
            with pytest.raises(IndexError, match=r"expected 0 to 6"):
                network.hidden(torch.tensor([[0, wrong]] * steps), None, Execution("compiled"))


def test_where_nobody_is_at_home_the_cache_is_a_passing_one(anew, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", lambda path: (_ for _ in ()).throw(RuntimeError("no home")))
    assert compiling.usable_kernels(torch.float32, CPU)
    assert not anew.exists()


def test_a_cache_that_can_only_be_read_is_read(anew, monkeypatch):
    compiling.kernels_for(torch.float32, CPU)
    compiling._compiled.cache_clear()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    commands, said = [], compiling._said
    monkeypatch.setattr(compiling, "_said", lambda command: commands.append(command) or said(command))
    assert compiling.usable_kernels(torch.float32, CPU)
    assert all("-E" in command for command in commands)


@pytest.mark.parametrize(
    ("machine", "first"), [("amd64", "-march=native"), ("x86_64", "-march=native"), ("riscv64", "-mcpu=native")]
)
def test_where_the_compiler_knows_no_options_for_this_cpu_those_for_any_do(machine, first, monkeypatch):
    monkeypatch.setattr(compiling.platform, "machine", lambda: machine)
    variants = compiling._variants()
    assert variants[0][0] == first
    assert variants[-1] == ()


def test_a_cache_that_others_may_write_to_is_not_trusted(anew, tmp_path):
    anew.mkdir()
    anew.chmod(0o777)
    assert compiling.usable_kernels(torch.float32, CPU)
    assert not list(anew.iterdir())


def test_a_cache_without_room_is_done_without(anew, monkeypatch):
    def full(**options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compiling.tempfile, "TemporaryDirectory", full)
    assert compiling.usable_kernels(torch.float32, CPU)
    assert not list(anew.iterdir())


def test_fast_mathematics_are_not_taken_from_cc(anew, monkeypatch):
    """They would fold what `exponential` adds and takes away again."""
    monkeypatch.setenv("CC", f"{COMPILER} -ffast-math")
    assert_agrees(CELLS[3], torch.float32, hidden_size=37, lanes=3)


def test_the_compiler_rounds_one_sum_as_it_does_several(anew, monkeypatch):
    """Of CPUs for which GCC would else not; other compilers do not know the option."""
    wanted = "--param=avoid-fma-max-bits=512"
    if subprocess.run([*shlex.split(COMPILER), wanted, "-E", "-x", "c", "/dev/null"], capture_output=True).returncode:
        pytest.skip("not GCC")
    monkeypatch.setenv("CC", f"{COMPILER} {wanted}")
    monkeypatch.setattr(compiling, "_FLAGS", ("-O3", *compiling._FLAGS[1:]))  # at -O1 it does so anyway
    network = CharRNN(ModelConfig(cell="rnn", hidden_size=83), 7).initialise(0)
    alone = stepper_for(network, network.zero_state(1), 1)
    several = stepper_for(network, network.zero_state(1), 3)
    for character in (0, 3, 5, 6):
        one = alone.step(torch.tensor([character]))
        assert torch.equal(one.expand(3, -1), several.step(torch.tensor([character] * 3)))


@pytest.mark.parametrize("cell", CELLS, ids=IDS)
def test_a_state_of_one_lane_stands_for_all(cell):
    """Rather than for what lies behind it in memory."""
    network = CharRNN(ModelConfig(cell=cell.name, activation=cell.activation, hidden_size=19), 7).initialise(0)
    ids_TB = torch.arange(24).view(8, 3) % 7
    one, _ = network.hidden(ids_TB, network.zero_state(1), Execution("compiled"))
    each, _ = network.hidden(ids_TB, network.zero_state(3), Execution("compiled"))
    assert torch.equal(one, each)
