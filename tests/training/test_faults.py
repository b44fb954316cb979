"""Whatever happens to the process or to the disk, nothing that was saved is lost."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from charrnn.config import Config
from charrnn.errors import CheckpointError
from charrnn.model import engines
from charrnn.model.compiling import compiler_here
from charrnn.training import checkpoint, loop, runs, signals
from charrnn.training.loop import Trainer
from charrnn.training.progress import Evaluated, retained
from charrnn.training.runs import Run
from charrnn.training.session import Session
from tests.conftest import SilentView
from tests.training.test_loop import assert_same_tensors, with_settings, without_time

KEEPING = ("keep=2", "evaluations=30", "checkpoint_every=0.02s", "dropout=0.2", "num_layers=2")
"""All that a run can leave behind, and many checkpoints."""


def files(run: Run) -> set[str]:
    return {path.name for path in run.folder.iterdir()}


def assert_same_run(one: Run, other: Run) -> None:
    """Two runs that nothing but the clock tells apart."""
    assert files(one) == files(other)
    for path in one.folder.glob("*.safetensors"):
        assert_same_tensors(path, other.folder / path.name)
        stored, again = (checkpoint.load(run.folder / path.name, with_training=True) for run in (one, other))
        assert stored.metrics["step"] == again.metrics["step"]
        timed = dict.fromkeys(("seconds", "evaluation_seconds", "tally", "written"), 0)
        progress = [{**x.progress, **timed} for x in (stored, again)]
        assert progress[0] == progress[1]
    assert without_time(one) == without_time(other)
    assert one.samples.read_bytes() == other.samples.read_bytes()


# ---- killed between any two changes of the disk


class Killed(BaseException):
    """Stands for SIGKILL where the moment has to be exact."""


def killed_at(monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """From the moment-th renaming or deletion on, nothing reaches the disk any more."""
    done = [0]

    def stopping(ordinary: Callable[..., Any]) -> Callable[..., Any]:
        def change(*arguments: Any, **options: Any) -> Any:
            done[0] += 1
            if done[0] > moment:
                raise Killed
            return ordinary(*arguments, **options)

        return change

    monkeypatch.setattr(os, "replace", stopping(os.replace))
    monkeypatch.setattr(Path, "unlink", stopping(Path.unlink))


@pytest.mark.parametrize("keep_by", ["best", "newest"])
def test_a_run_killed_between_any_two_changes_of_the_disk_becomes_the_run_it_would_have_been(
    keep_by, small_config, view, folder, monkeypatch
):
    settings = ("budget=6 steps", f"keep_by={keep_by}", "keep=1", "evaluations=3", "learning_rate=0.3", "samples=1")
    config = with_settings(small_config, *settings)
    whole = loop.train(config, view, folder / "whole")
    survived = 0
    # The first three: config.yaml, its temporary name, last. Every other moment here, the rest with the other keep_by.
    for moment in range(3 + (keep_by == "newest"), 200, 2):
        with monkeypatch.context() as patch:
            killed_at(patch, moment)
            try:
                loop.train(config, view, folder / "parts")
                break
            except Killed:
                pass
        parts = loop.resume(view, folder / "parts", [], None)
        assert_same_run(whole, parts)
        shutil.rmtree(parts.folder)
        survived += 1
    assert survived > 7


def test_best_is_never_newer_than_last_so_a_time_budget_cannot_lose_it(small_config, view, folder, monkeypatch):
    """What a kill between the two leaves: `last` knows of the best model, which is in `last` itself."""
    with monkeypatch.context() as patch:
        ordinary = runs.write_whole

        def write(path: Path, content: bytes) -> None:
            if path.name == "best.safetensors":
                raise Killed
            ordinary(path, content)

        patch.setattr(checkpoint, "write_whole", write)
        with pytest.raises(Killed):
            loop.train(small_config, view, folder / "run")
    run = Run(folder / "run")
    last = checkpoint.load(run.last, with_training=True)
    assert last.progress["best_step"] == last.progress["step"] == 10
    assert not run.best.exists()
    monkeypatch.setattr(Session, "step", lambda self, progress: pytest.fail("enough seen"))
    with pytest.raises(pytest.fail.Exception):
        loop.resume(view, run.folder, [], None)
    best = checkpoint.load(run.best)
    assert best.metrics["step"] == 10
    assert best.metrics["validation"]["nats_per_char"] == last.progress["best_nats_per_char"]


def test_half_written_files_of_killed_processes_are_cleared_and_those_of_users_are_not(small_config, view, folder):
    run = loop.train(small_config, view, folder / "run")
    for name in (".best.safetensors.123.tmp", ".step-7.safetensors.9.tmp", ".config.yaml.4.tmp", ".mine.5.tmp"):
        (run.folder / name).write_bytes(b"half")
    before = files(run)
    loop.resume(view, run.folder, [], None)
    assert before - files(run) == {".best.safetensors.123.tmp", ".step-7.safetensors.9.tmp", ".config.yaml.4.tmp"}


# ---- killed for real


def command(*arguments: str, threads: int = 1, **options: Any) -> "subprocess.Popen[bytes]":
    """A command as a process of its own, with as many threads as the tests' process."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    everything = [sys.executable, "-m", "charrnn", *arguments]
    return subprocess.Popen(everything, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, **options)


def read_until(process: "subprocess.Popen[bytes]", word: bytes) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if word in line:
            return


def arguments_of(config: Config) -> list[str]:
    """`--set` for all that differs from the defaults."""
    plain, ours = Config().model_dump(mode="json"), config.model_dump(mode="json")
    changed = [(f"{s}.{k}", v) for s in ours for k, v in ours[s].items() if plain[s][k] != v]
    return [argument for key, value in changed for argument in ("--set", f"{key}={json.dumps(value)}")]


def kill_and_resume(config: Config, folder: Path, kills: int, seed: int) -> tuple[Run, int]:
    """A run of processes that are killed at random moments, finished by one that is not; and how many were killed."""
    chance, run, killed = random.Random(seed), Run(folder), 0
    while True:
        started = run.last.exists()
        what = ["--resume"] if started else arguments_of(config)
        if not started and folder.exists():
            shutil.rmtree(folder)  # killed before there was anything to go on from
        with command("train", *what, "--run", str(folder)) as process:
            read_until(process, b"hardware")
            if killed < kills:
                time.sleep(chance.uniform(0, 0.35))
                process.kill()
            messages = process.stderr.read() if process.stderr else b""
        if process.returncode == 0:
            return run, killed
        assert process.returncode == -signal.SIGKILL, messages
        killed += 1
        for path in folder.glob("*.safetensors"):
            assert checkpoint.load(path, with_training=True).network()


BUDGETS = ("400 steps", "7 epochs")

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")


@POSIX_ONLY
def test_a_killed_run_becomes_bit_for_bit_the_run_it_would_have_been(small_config, view, folder):
    """Once, as every start of a process takes a second or two."""
    config = with_settings(small_config, *KEEPING, "budget=7 epochs")
    whole = loop.train(config, view, folder / "whole")
    parts, killed = kill_and_resume(config, folder / "parts", kills=1, seed=8)
    assert killed == 1
    assert_same_run(whole, parts)


@POSIX_ONLY
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_run_killed_dozens_of_times_becomes_bit_for_bit_the_run_it_would_have_been(
    budget, seed, small_config, view, folder
):
    config = with_settings(small_config, *KEEPING, f"budget={budget}", f"seed={seed}")
    whole = loop.train(config, view, folder / "whole")
    parts, killed = kill_and_resume(config, folder / "parts", kills=12, seed=seed)
    print(f"{budget}: survived {killed} kills")
    assert_same_run(whole, parts)


CHOICES = {
    "cell": ("rnn", "gru", "lstm"),
    "partitioning": ("sequential", "random"),
    "engine": ("torch", "written", "reference", *["compiled"] * bool(compiler_here())),
    "precision": ("float32", "bfloat16", "float64"),
    "dropout": ("0", "0.3"),
    "num_layers": ("1", "2"),
    "keep": ("0", "1", "3"),
    "keep_by": ("best", "newest"),
    "patience": ("null", "2", "4"),
    "optimizer": ("adamw", "sgd"),
    "schedule": ("wsd", "cosine", "linear", "constant"),
    "evaluations": ("4", "15", "30"),
    "checkpoint_every": ("60s", "0.02s"),
    "learning_rate": ("0.01", "0.3", "3"),  # the last one explodes
    "clip_norm": ("1", "null"),
    "budget": ("120 steps", "3 epochs", "90 steps or 1000h", "2.5 epochs, 9999 steps"),
    "level": ("character", "byte"),
}
"""What a run may be made of, that its resume has to get right."""


@POSIX_ONLY
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_a_run_of_any_kind_killed_again_and_again_becomes_the_run_it_would_have_been(seed, small_config, view, folder):
    """The same in one process that forks, at random moments: a longer series made 125 such runs of some 400 kills."""
    chance = random.Random(seed)
    drawn = [f"{key}={chance.choice(values)}" for key, values in CHOICES.items()]
    config = with_settings(small_config, *drawn, "rollbacks=50", f"seed={seed}")
    whole = loop.train(config, view, folder / "whole")
    parts, killed = kill_and_resume(config, folder / "parts", kills=4, seed=seed)
    print(f"{drawn}: survived {killed} kills")
    assert_same_run(whole, parts)


@POSIX_ONLY
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_second_signal_leaves_at_once_with_the_checkpoint_before(number, code, small_config, folder):
    """In the middle of a step that takes long: the first alone would wait for its end and save."""
    slow = ("engine=reference", "batch_size=1", "seq_length=2400", "hidden_size=64", "num_layers=4", "budget=10h")
    with command("train", *arguments_of(with_settings(small_config, *slow)), "--run", "here") as process:
        read_until(process, b"hardware")
        while not Run(Path("here")).last.exists():
            time.sleep(0.02)
        time.sleep(0.1)
        before = Run(Path("here")).last.read_bytes()
        process.send_signal(number)
        read_until(process, b"once more leaves at once")
        process.send_signal(number)  # at once again, as a supervisor does, and then
        time.sleep(1.1 * signals._SAME_SIGNAL)
        assert process.poll() is None
        process.send_signal(number)
        messages = process.stderr.read().decode() if process.stderr else ""
    assert process.returncode == code
    assert "Traceback" not in messages
    assert "saving" not in messages
    assert Run(Path("here")).last.read_bytes() == before
    assert checkpoint.load(Run(Path("here")).last, with_training=True).network()


def test_a_second_ctrl_c_in_the_middle_of_saving_leaves_the_checkpoint_before(small_config, view, folder, monkeypatch):
    """The first asks to stop after the step, the second comes while the file is on its way to the disk."""
    ordinary = os.fsync

    def interrupted(descriptor: int) -> None:
        ordinary(descriptor)
        if saves.pop():
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.01)
            signal.raise_signal(signal.SIGINT)

    config = with_settings(small_config, "evaluations=1", "checkpoint_every=0.0001s")
    saves = [True, *[False] * 10]
    monkeypatch.setattr(os, "fsync", interrupted)
    monkeypatch.setattr(signals, "_SAME_SIGNAL", 0.001)
    with pytest.raises(KeyboardInterrupt):
        loop.train(config, view, folder / "run")
    monkeypatch.undo()
    run = Run(folder / "run")
    assert checkpoint.load(run.last, with_training=True).metrics["step"] < 10
    assert not [name for name in files(run) if name.endswith(".tmp")]
    assert loop.resume(view, run.folder, [], None).best.exists()


def test_the_logs_are_on_the_disk_before_a_checkpoint_vouches_for_them(small_config, view, folder, monkeypatch):
    flushed, ordinary = [], os.fsync

    def noted(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_ino)
        ordinary(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    run = loop.train(small_config, view, folder / "run")
    logs = [path.stat().st_ino for path in (run.metrics, run.samples)]
    at = len(flushed) - 1 - flushed[::-1].index(run.last.stat().st_ino)
    assert flushed[at - 2 : at] == logs


# ---- a disk that refuses


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses to make any file larger (EFBIG; Python ignores SIGXFSZ)."""
    resource = pytest.importorskip("resource")  # not on Windows
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_refused_at_any_byte_leaves_the_older_one_and_no_rubbish(small_config, view, folder):
    run = loop.train(small_config, view, folder / "run")
    before, there = run.last.read_bytes(), files(run)
    stored = checkpoint.load(run.last, with_training=True)
    for size in [*range(1, 20), *range(20, len(before), len(before) // 60)]:
        with largest_file(size), pytest.raises(CheckpointError, match=r"cannot write .*last.*File too large; the ear"):
            checkpoint.save(run.last, stored)
        assert run.last.read_bytes() == before
        assert files(run) == there


@pytest.mark.parametrize("beyond", [300, 2_000])
def test_a_log_that_is_refused_stops_the_run_with_a_word_and_a_resume_makes_it_whole(
    beyond, small_config, view, folder
):
    """The samples make the log longer than the checkpoint, so that it is the log that is refused."""
    config = with_settings(small_config, "sample_length=1500", "samples=20", "hidden_size=3")
    whole = loop.train(config, view, folder / "whole")
    size = whole.last.stat().st_size + beyond
    with largest_file(size), pytest.raises(CheckpointError, match=r"cannot write .*(jsonl|txt): File too large; once"):
        loop.train(config, view, folder / "parts")
    parts = loop.resume(view, folder / "parts", [], None)
    assert_same_run(whole, parts)


def test_a_disk_full_from_the_beginning_is_said(small_config, view, folder):
    with largest_file(500), pytest.raises(CheckpointError, match=r"cannot write .*config.yaml: File too large$"):
        loop.train(small_config, view, folder / "run")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB of its own, twice what a run takes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """A file that takes all of a disk but `leave` bytes."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    os.truncate(ballast, max(0, ballast.stat().st_size - leave))
    return ballast


def test_a_full_disk_stops_the_run_with_a_word_and_a_resume_makes_it_whole(small_disk, small_config, view, folder):
    config = with_settings(small_config, *KEEPING, "sample_length=900")
    whole = loop.train(config, view, folder / "whole")
    resumed = 0
    for pages in range(6, 48, 10):
        ballast, parts = fill(small_disk, pages * 4096), Run(small_disk / "parts")
        try:
            loop.train(config, view, parts.folder)
            assert pages > 20
        except CheckpointError as error:
            assert "No space left on device" in str(error)  # noqa: PT017
            ballast.unlink()
        if parts.last.exists():
            assert checkpoint.load(parts.last, with_training=True).network()
            resumed += loop.resume(view, parts.folder, [], None).best.exists()
            assert_same_run(whole, parts)
        shutil.rmtree(parts.folder, ignore_errors=True)
        ballast.unlink(missing_ok=True)
    assert resumed > 1


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder whose files are open")
def test_a_run_whose_folder_vanishes_ends_with_a_word(small_config, view, folder, monkeypatch):
    ordinary = Session.step

    def step(self: Session, progress: float) -> None:
        ordinary(self, progress)
        if self.step_count == 15:
            shutil.rmtree(folder / "run")

    monkeypatch.setattr(Session, "step", step)
    with pytest.raises(CheckpointError, match=r"cannot write .*last.safetensors: No such file or directory$"):
        loop.train(small_config, view, folder / "run")


@contextlib.contextmanager
def forbidden(run: Run) -> Iterator[None]:
    """Nobody may write into the run's folder, and root, who may do anything, is somebody else meanwhile."""
    root = os.geteuid() == 0
    run.folder.parent.chmod(0o755)
    run.folder.chmod(0o555)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        run.folder.chmod(0o755)


@POSIX_ONLY
def test_a_folder_that_may_not_be_written_to_is_said(small_config, view, folder, text_file, monkeypatch):
    """The path is relative, for the folders above may be closed to whom root becomes."""
    run = Run(Path("run"))
    loop.train(small_config, view, run.folder)
    (run.folder / ".lock").unlink()
    with forbidden(run), pytest.raises(CheckpointError, match=r"cannot lock run/.lock: Permission denied"):
        loop.resume(view, run.folder, [], "80 steps")
    ordinary, during = Trainer.save, Run(Path("during"))

    def save(self: Trainer) -> None:
        with forbidden(during) if self.session.step_count == 20 else contextlib.nullcontext():
            ordinary(self)

    monkeypatch.setattr(Trainer, "save", save)
    with pytest.raises(CheckpointError, match=r"cannot write during/last.safetensors: Permission denied; the earlier"):
        loop.train(small_config, view, during.folder)
    assert checkpoint.load(during.last).metrics["step"] == 18  # a twentieth of the budget earlier


@POSIX_ONLY
def test_a_refused_disk_shows_no_traceback_and_exits_with_1(small_config, folder):
    run = loop.train(small_config, SilentView(), folder / "run")
    before = run.last.read_bytes()

    def limited() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))

    with command("train", "--resume", "--run", "run", "--budget", "80 steps", preexec_fn=limited) as process:
        messages = process.stderr.read().decode() if process.stderr else ""
    assert process.returncode == 1
    assert "charrnn: cannot write run" in messages
    assert "Traceback" not in messages
    assert run.last.read_bytes() == before


# ---- two processes, one run

HOLD = """
import sys, time
from pathlib import Path
from charrnn.training.runs import Run
with Run(Path("run")).locked():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(small_config: Config, view: Any, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Another process that holds the lock of a finished run."""
    loop.train(small_config, view, folder / "run")
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"held"
        yield process
        process.kill()


def test_a_run_in_use_is_refused_by_name_and_untouched(holder, view, folder):
    before = {path.name: path.read_bytes() for path in (folder / "run").iterdir()}
    who = "another process" if os.name == "nt" else f"process {holder.pid} on "
    with pytest.raises(CheckpointError, match=rf"run is in use by {who}.*; two processes cannot train one run"):
        loop.resume(view, folder / "run", ["evaluations=7"], "90 steps")
    assert {path.name: path.read_bytes() for path in (folder / "run").iterdir()} == before


def test_the_lock_of_a_killed_process_means_nothing(holder, view, folder):
    holder.kill()
    holder.wait()
    assert (folder / "run" / ".lock").exists()
    assert loop.resume(view, folder / "run", [], "50 steps").best.exists()


def test_the_lock_is_given_back_after_an_error(small_config, view, folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Session, "step", lambda self, progress: pytest.fail("now"))
        with pytest.raises(pytest.fail.Exception):
            loop.train(small_config, view, folder / "run")
    loop.resume(view, folder / "run", [], None)
    with Run(folder / "run").locked() as note:
        assert note == ""


def test_a_folder_given_to_two_new_runs_goes_to_the_first(small_config, view, folder, monkeypatch):
    """Both have looked and found it empty before either holds the lock."""
    run = Run.new(folder / "run", "x")
    monkeypatch.setattr(Run, "new", lambda *arguments: run)
    loop.train(small_config, view)
    before = run.last.read_bytes()
    with pytest.raises(Exception, match=r"holds a run already"):
        loop.train(small_config, view)
    assert run.last.read_bytes() == before
    with run.locked(), pytest.raises(CheckpointError, match=r"in use by"):
        loop.train(small_config, view)


def test_runs_that_start_in_one_second_get_folders_of_their_own(folder, monkeypatch):
    """As when each looks before any has made its folder."""
    monkeypatch.setattr(Path, "exists", lambda self: False)
    names = {Run.new(None, "text").folder.name for _ in range(5)}
    assert len(names) == 5


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_where_the_file_system_knows_no_locks_training_goes_on_with_a_word(
    number, small_config, view, folder, monkeypatch
):
    fcntl = pytest.importorskip("fcntl")

    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    assert loop.train(small_config, view, folder / "run").best.exists()
    assert "cannot be locked" in view.text()
    assert os.strerror(number) in view.text()


# ---- which models of single steps stay


def test_the_kept_are_the_best_or_the_newest_and_older_ones_win_a_draw():
    every = [Evaluated(step=n, nats_per_char=loss) for n, loss in [(1, 3.0), (2, 1.0), (3, 2.0), (4, 1.0), (5, 2.0)]]

    def steps(keep: int, by: Any) -> list[int]:
        return [one.step for one in retained(every, keep, by)]

    assert [steps(n, "best") for n in (0, 1, 2, 3, 9)] == [[], [2], [2, 4], [2, 3, 4], [1, 2, 3, 4, 5]]
    assert [steps(n, "newest") for n in (0, 1, 3, 9)] == [[], [5], [3, 4, 5], [1, 2, 3, 4, 5]]


@pytest.mark.parametrize("keep_by", ["best", "newest"])
def test_kept_models_are_those_of_the_log_and_can_be_sampled_from(keep_by, small_config, view, folder):
    settings = ("keep=3", f"keep_by={keep_by}", "evaluations=8", "learning_rate=0.5", "schedule=constant")
    run = loop.train(with_settings(small_config, *settings), view, folder / "run")
    every = [Evaluated(step=step, nats_per_char=found.nats_per_char) for step, found, _ in view.evaluations]
    wanted = {one.step: one.nats_per_char for one in retained(every, 3, keep_by)}
    assert set(run.steps()) == set(wanted)
    for step, path in run.steps().items():
        stored = checkpoint.load(path)
        assert stored.network()
        assert (stored.metrics["step"], stored.metrics["validation"]["nats_per_char"]) == (step, wanted[step])


def test_a_resume_that_keeps_fewer_deletes_the_others(small_config, view, folder):
    run = loop.train(with_settings(small_config, "keep=4"), view, folder / "run")
    assert set(run.steps()) == {10, 20, 30, 40}
    loop.resume(view, run.folder, ["keep=1", "keep_by=newest"], None)
    assert set(run.steps()) == {40}


def test_another_version_of_torch_number_of_threads_device_or_engine_is_said(small_config, view, folder, monkeypatch):
    monkeypatch.setattr(engines, "usable_kernels", lambda dtype, device: None)
    run = loop.train(small_config, view, folder / "run")
    loop.resume(view, run.folder, [], None)
    assert "no longer bit for bit" not in view.text()
    stored = checkpoint.load(run.last, with_training=True)
    for change, words in (
        ({"torch": "1.0"}, "with torch 1.0"),
        ({"threads": 77}, "with 77 threads"),
        ({"device": "cuda"}, "on cuda"),
        ({"torch": "1.0", "threads": 77}, "with torch 1.0, with 77 threads"),
        ({"engine": "compiled"}, "with engine compiled"),
    ):
        placement = {**stored.progress["placement"], **change}
        checkpoint.save(run.last, replace(stored, progress={**stored.progress, "placement": placement}))
        loop.resume(view, run.folder, [], None)
        assert f"it ran {words} before, so it goes on, but no longer bit for bit as it would have" in view.text()


@POSIX_ONLY
def test_a_run_resumed_by_a_process_of_more_threads_goes_on_and_says_so(small_config, view, folder):
    loop.train(small_config, view, folder / "run")
    with command("train", "--resume", "--run", "run", "-b", "50 steps", threads=2) as process:
        messages = process.stderr.read().decode() if process.stderr else ""
    assert process.returncode == 0
    assert "it ran with 1 threads before, so it goes on, but no longer bit for bit" in messages
    assert checkpoint.load(Run(folder / "run").last).metrics["step"] == 50


@pytest.mark.parametrize("refusals", [2, 3])
def test_a_file_that_a_reader_holds_open_is_waited_for(refusals, tmp_path, monkeypatch):
    """As Windows refuses to rename over one: twice it is put up with here."""
    replace, tried = os.replace, []

    def refused(temporary: Path, path: Path) -> None:
        tried.append(path)
        if len(tried) <= refusals:
            raise PermissionError(13, "in use")
        replace(temporary, path)

    monkeypatch.setattr(runs, "_PATIENCE", (0.0, 0.0))
    monkeypatch.setattr(os, "replace", refused)
    path = tmp_path / "file"
    path.write_bytes(b"before")
    if refusals == 2:
        runs.write_whole(path, b"after")
        assert path.read_bytes() == b"after"
    else:
        with pytest.raises(CheckpointError, match="in use; the earlier file of that name is untouched"):
            runs.write_whole(path, b"after")
        assert path.read_bytes() == b"before"
