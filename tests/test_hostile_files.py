"""Files and folders that are closed, endless, vanishing or no files at all: a word that names them, and an end."""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from charrnn import waiting
from charrnn.config import load_config
from charrnn.limits import longest_text
from charrnn.training import checkpoint, loop
from charrnn.training.runs import Run
from tests.conftest import SMALL, SilentView
from tests.test_cli import SMALL_ARGUMENTS, no_traceback, on_a_terminal, process, run
from tests.test_hostile import not_on_windows, refused

TEXT = "to be or not to be\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("files")
    (folder / "text.txt").write_text(TEXT * 40, encoding="utf-8")
    config = load_config(flags={**SMALL, "corpus.source": str(folder / "text.txt")})
    return loop.train(config, SilentView(), folder / "run")


@pytest.fixture
def here(trained: Run, folder: Path) -> Path:
    """A folder that holds a text and a copy of `run`."""
    (folder / "text.txt").write_text(TEXT * 40, encoding="utf-8")
    shutil.copytree(trained.folder, folder / "run")
    return folder


# ---- permissions

CAN_PASS_OVER_THEM = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: what makes root free of permissions (linux/capability.h)."""


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Sets(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


@contextlib.contextmanager
def without(capabilities: int) -> Iterator[None]:
    """This thread may do less meanwhile, as if it were not root's."""
    libc, header, sets = ctypes.CDLL(None, use_errno=True), _Header(0x20080522, 0), (_Sets * 2)()
    assert libc.capget(ctypes.byref(header), sets) == 0
    before = sets[0].effective
    sets[0].effective = before & ~capabilities
    assert libc.capset(ctypes.byref(header), sets) == 0
    try:
        yield
    finally:
        sets[0].effective = before
        assert libc.capset(ctypes.byref(header), sets) == 0


@pytest.fixture
def permissions_hold(here: Path) -> Iterator[None]:
    """Permission bits mean something, also where root runs the tests; afterwards everything may be deleted."""
    if os.name == "nt" or (os.geteuid() == 0 and not sys.platform.startswith("linux")):
        pytest.skip("nobody can be kept out here")
    with without(CAN_PASS_OVER_THEM) if os.geteuid() == 0 else contextlib.nullcontext():
        yield
        for folder, _, _ in os.walk(here):
            os.chmod(folder, 0o755)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


CLOSED = [
    (0o000, "text.txt", ["train", "text.txt"], 1, "text.txt cannot be read: permission denied"),
    (0o000, "text.txt", ["corpora", "describe", "text.txt"], 1, "text.txt cannot be read: permission denied"),
    (0o000, "text.txt", ["evaluate", "run", "--text", "text.txt"], 1, "text.txt cannot be read: permission denied"),
    (0o000, "text.txt", ["sample", "run", "--prefix-file", "text.txt"], 2, "--prefix-file text.txt: Permission denied"),
    (0o000, "text.txt", ["config", "-c", "text.txt"], 2, "text.txt: cannot read the configuration: Permission denied"),
    (0o000, "run", ["train", "run"], 1, "run cannot be read: permission denied"),
    (0o000, "run", ["train", "run/*.jsonl"], 1, "run cannot be read: permission denied"),
    (0o000, "run", ["train", "run/*/*.txt"], 1, "run cannot be read: permission denied"),
    (0o000, "run", ["train", "**/*.txt"], 1, "run cannot be read: permission denied"),
    (0o444, "run", ["train", "run/*.jsonl"], 1, "run/metrics.jsonl cannot be read: permission denied"),
    (0o000, "run", ["train", "run/a"], 1, "run/a cannot be read: permission denied"),
    (0o000, "run", ["sample", "run"], 1, "run: Permission denied; name a run's folder or a .safetensors file"),
    (0o000, "run", ["sample", "run/best.safetensors"], 1, "run/best.safetensors: Permission denied; name"),
    (0o000, "run", ["train", "text.txt", "--init-from", "run"], 1, "run: Permission denied; name"),
    (0o000, "run", ["train", "--resume", "--run", "run"], 1, "run: Permission denied; name"),
    (
        0o000,
        "run",
        ["train", "text.txt", "--run", "run"],
        2,
        "cannot make the run's folder run: Permission denied; --r",
    ),
    (0o555, "run", ["train", "text.txt", "--run", "run/in"], 2, "folder run/in: Permission denied; --run DIR names"),
    (0o555, ".", ["train", "text.txt"], 2, "cannot make the run's folder runs: Permission denied; --run DIR names"),
    (0o555, "run", ["train", "--resume", "--run", "run"], 1, "cannot write run/config.yaml: Permission denied; the e"),
    (0o444, "run/.lock", ["train", "--resume", "--run", "run"], 1, "cannot lock run/.lock: Permission denied"),
    (0o000, "run/last.safetensors", ["train", "--resume", "--run", "run"], 1, "last.safetensors: cannot be read: Perm"),
    (0o000, "run/best.safetensors", ["sample", "run"], 1, "run/best.safetensors: cannot be read: Permission denied"),
    (0o444, "run/metrics.jsonl", ["train", "--resume", "--run", "run"], 1, "cannot write run/metrics.jsonl: Permissi"),
    (0o444, "run/samples.txt", ["train", "--resume", "--run", "run"], 1, "cannot write run/samples.txt: Permission d"),
]


@pytest.mark.parametrize(("mode", "path", "arguments", "code", "message"), CLOSED)
def test_what_may_not_be_read_or_written_is_named_with_the_reason_and_nothing_is_changed(
    mode, path, arguments, code, message, here, permissions_hold
):
    before = everything(here)
    os.chmod(path, mode)
    try:
        refused(*arguments, message=message, code=code)
    finally:
        os.chmod(path, 0o755)
    changed = {name for name, content in everything(here).items() if before.get(name) != content}
    assert changed <= {"run/.lock"}  # signed by whoever tried


@pytest.mark.parametrize("path", ["run", "run/x.png"])
def test_a_plot_that_may_not_be_written_is_named(path, here, permissions_hold):
    pytest.importorskip("matplotlib")
    Path("run/x.png").touch()
    os.chmod(path, 0o555 if path == "run" else 0o444)
    name = "run/y.png" if path == "run" else path
    refused("plot", "run", "-o", name, message=f"--output {name}: Permission denied", code=2)


def test_a_run_that_may_only_be_read_is_sampled_from_and_evaluated(here, permissions_hold):
    for path in Path("run").iterdir():
        path.chmod(0o444)
    Path("run").chmod(0o555)
    assert len(run("sample", "run", "-n", "3").stdout) == 3
    assert run("evaluate", "run", "--json").exit_code == 0


def test_a_folder_closed_while_a_run_trains_leaves_its_last_checkpoint(here, permissions_hold, monkeypatch):
    ordinary = loop.Trainer.save

    def save(self: loop.Trainer) -> None:
        if self.session.step_count == 20:
            self.run.folder.chmod(0o555)
        ordinary(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "save", save)
        done = run("train", "text.txt", "--run", "new", *SMALL_ARGUMENTS)
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (
        1,
        "charrnn: cannot write new/last.safetensors: Permission denied; the earlier file of that name is untouched",
    )
    Path("new").chmod(0o755)
    assert checkpoint.load(Path("new/last.safetensors"), with_training=True).metrics["step"] == 18
    assert run("train", "--resume", "--run", "new").exit_code == 0


# ---- more than there is

HUGE = [
    (["train", "huge"], 1, "huge is too long: "),
    (["corpora", "describe", "huge"], 1, "huge is too long: "),
    (["evaluate", "run", "--text", "huge"], 1, "huge is too long: "),
    (["sample", "run", "--prefix-file", "huge"], 2, "--prefix-file huge: over 16,777,216 bytes; its end will do"),
    (["config", "--config", "huge"], 2, "huge: too large for a configuration (over 1,000,000 bytes); is it your text"),
    (["sample", "huge"], 1, "huge: not a checkpoint, or a damaged one"),
    (["train", "text.txt", "--init-from", "huge"], 1, "huge: not a checkpoint, or a damaged one"),
]


@not_on_windows
@pytest.mark.parametrize(("arguments", "code", "message"), HUGE)
def test_a_file_that_claims_more_than_the_memory_is_refused_at_once(arguments, code, message, here):
    """A sparse one: nothing of it is on the disk."""
    Path("huge").touch()
    try:
        os.truncate("huge", max(longest_text() + 1, 5 << 30))
    except OSError:
        pytest.skip("the file system has no such files")
    started = time.process_time()
    refused(*arguments, message=message, code=code)
    assert time.process_time() - started < 10


# ---- no files at all


@not_on_windows
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["corpora", "describe", "pipe"], "pipe is being read until whoever writes into it ends"),
        (["config", "--config", "pipe"], "pipe is being read until its end"),
        (["sample", "run", "-n", "1", "--prefix-file", "pipe"], "the prefix pipe is being read until its end"),
    ],
)
def test_a_pipe_without_a_writer_is_waited_for_with_a_word(arguments, word, here, monkeypatch):
    """A writer who comes late, after the word."""
    monkeypatch.setattr(waiting, "SECONDS", 0.05)
    os.mkfifo("pipe")
    said, ordinary = threading.Event(), waiting._tell
    messages = []

    def tell(message: str) -> None:
        messages.append(message)
        ordinary(message)
        said.set()

    def write() -> None:
        said.wait(20)
        Path("pipe").write_text("model: {}" if "--config" in arguments else "to be\n", encoding="utf-8")

    monkeypatch.setattr(waiting, "_tell", tell)
    writer = threading.Thread(target=write)
    writer.start()
    done = run(*arguments)
    writer.join()
    assert done.exit_code == 0
    assert messages == [word]
    assert f"note: {word}\n" in done.stderr  # not as an error, which begins with charrnn:


def test_what_is_read_soon_is_read_without_a_word(monkeypatch, capfd):
    monkeypatch.setattr(waiting, "SECONDS", 0.2)
    with waiting.told_if_slow("slow"):
        pass
    time.sleep(0.5)
    assert capfd.readouterr().err == ""


@not_on_windows
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["sample", "pipe"], 1, "pipe: no such file or folder; name a run's folder or a .safetensors file"),
        (["train", "--resume", "--run", "run"], 1, "run/last.safetensors: not a file"),
        (["sample", "loop"], 1, "loop: no such file or folder; name"),
        (["train", "loop"], 1, "loop cannot be read: too many levels of symbolic links"),
        (["train", "text.txt", "--run", "loop"], 2, "cannot make the run's folder loop: File exists; --run DIR names"),
        (["config", "-c", "loop"], 2, "loop: cannot read the configuration: Too many levels of symbolic links"),
        (["train", "round"], 1, "the folder round holds no file to read"),
        (["train", "round/**/*.txt"], 1, "matches no file"),
    ],
)
def test_a_pipe_for_a_checkpoint_and_links_that_lead_round_are_refused(arguments, code, message, here):
    os.mkfifo("pipe")
    Path("run/last.safetensors").unlink()
    os.mkfifo("run/last.safetensors")
    Path("loop").symlink_to("loop")
    Path("round").mkdir()
    Path("round/again").symlink_to("../round", target_is_directory=True)
    refused(*arguments, message=message, code=code)


# ---- a reader that goes away


@not_on_windows
@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("sample run -N 3 -n 3000 | true", 0),
        ("config --schema | head -1", 2),
        ("corpora describe text.txt | true", 0),
        ("train --resume --run run 2>/dev/null | true", 0),
        ("train --resume --run run 2>&1 | true", 0),
    ],
)
def test_a_reader_that_goes_away_is_no_error_to_speak_of(command, printed, here):
    script = f"{sys.executable} -m charrnn {command}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=120)
    assert done.stderr == b""
    assert len(done.stdout) == printed
    assert done.returncode in {0, 1}


# ---- names that would take over a terminal

EVIL = "\x1b]0;x\x07\x1b[31m\x9b"


@not_on_windows
@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--resume", "--run", EVIL],
        ["evaluate", EVIL, "--text", f"{EVIL}.txt"],
        ["corpora", "describe", f"{EVIL}.txt"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_escape_sequences_of_names_are_harmless_on_a_terminal(arguments, here):
    Path("run").rename(EVIL)
    Path("text.txt").rename(f"{EVIL}.txt")
    shown = on_a_terminal(*arguments)
    assert not [part for part in ("\x1b]0;x", "x\x07\x1b[31m", "\x07", "\x9b") if part in shown]
    assert r"\x1b]0;x\x07\x1b[31m\x9b" in shown


@not_on_windows
def test_the_name_of_a_run_is_raw_in_a_pipe(here):
    Path("run").rename(EVIL)
    done = process("train", "--resume", "--run", EVIL)
    assert done.stdout.decode() == f"{EVIL}\n"
    assert no_traceback(done.stderr.decode())
    assert "\x1b" not in done.stderr.decode()
