"""Commands with hostile options, texts and surroundings: they work, or leave with 1 or 2 and a word that helps."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import charrnn
from charrnn.config import load_config
from charrnn.errors import ConfigError, TextError
from charrnn.training import loop, memory
from charrnn.training.runs import Run
from tests.conftest import SMALL, SilentView
from tests.test_cli import SMALL_ARGUMENTS, no_traceback, on_a_terminal, process, run

not_on_windows = pytest.mark.skipif(os.name == "nt", reason="there is no such thing on Windows")

UNUSUAL = "\x1b[31m\U0001f468\u200d\U0001f469 e\u0301 \u202e\u05e9\u05dc\u05d5\u05dd\u202c \u6f22\u5b57\x07\x9b\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over a text of escape sequences, emoji, combining marks, right-to-left letters and ideographs."""
    folder = tmp_path_factory.mktemp("hostile")
    text = folder / "text.txt"
    text.write_text(UNUSUAL * 100, encoding="utf-8")
    return loop.train(load_config(flags={**SMALL, "corpus.source": str(text)}), SilentView(), folder / "run")


@pytest.fixture
def here(trained: Run, folder: Path) -> Path:
    """A folder that holds `run`, a text, and things that are none."""
    (folder / "run").symlink_to(trained.folder, target_is_directory=True)
    (folder / "text.txt").write_text("to be or not to be\n" * 100, encoding="utf-8")
    (folder / "binary").write_bytes(bytes(range(256)))
    (folder / "list.yaml").write_text("- a\n", encoding="utf-8")
    (folder / "empty").touch()
    (folder / "folder").mkdir()
    return folder


def refused(*arguments: str, message: str, code: int = 2, input: bytes | None = None) -> None:
    done = run(*arguments, input=input)
    assert (done.exit_code, type(done.exception)) == (code, SystemExit), done.exception
    assert message in " ".join(re.sub("[│\n]", " ", done.stderr).split())
    assert "\x1b" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--length", "-1"], "length = -1"),
        (["--length", "x"], "Invalid value for '--length' / '-n'"),
        (["--seed", "-1"], "seed = -1"),
        (["--seed", str(2**64)], "seed = 18446744073709551616"),
        (["--temperature", "inf"], "temperature = inf"),
        (["--top-k", "-1"], "top-k = -1"),
        (["--top-p", "0"], "top-p = 0.0"),
        (["--top-p", "nan"], "top-p = nan"),
        (["--min-p", "nan"], "min-p = nan"),
        (["--samples", str(10**9)], "samples = 1000000000 of length = 3: expected at most 100,000 texts"),
        (["--samples", str(10**30)], "expected at most 100,000 texts"),
        (["--samples", "2", "--length", str(10**12)], "100,000,000 characters in all"),
        *((["--device", name], f"device {name}: not to be had here") for name in ("meta", "nonsense", "hpu", "cpu:-1")),
        *(
            (["--device", name], f"device {name}: not to be had here")
            for name in ("mkldnn", "cuda:999", "privateuseone")
        ),
        (["--device", ""], "device : not to be had here (no such kind); expected auto, cpu, cuda or mps"),
        (["--device", "a\x1b[31m"], "device a\\x1b[31m: not to be had here"),
        (["--prefix-file", ""], "--prefix-file : "),
        (["--prefix-file", "folder"], "--prefix-file folder: "),
        (["--prefix-file", "nowhere\x1b"], "--prefix-file nowhere\\x1b: No such file"),
        (["--prefix-file", "binary"], "--prefix-file binary: not UTF-8 at byte 128"),
        (["--prefix-file", "a\0b"], "--prefix-file a\\x00b: embedded null byte"),
        (["--on-unknown", ""], "'' is not"),
    ],
)
def test_an_option_of_sample_out_of_all_bounds_is_named(here, options, message):
    refused("sample", "run", "-n", "3", *options, message=message)


@pytest.mark.parametrize(
    "options",
    [
        *(["--temperature", value] for value in ("0", "5e-324", "1e-300", "1e300")),
        *(["--top-k", value] for value in ("1", "99999", str(10**30))),
        *(["--top-p", value] for value in ("1e-300", "1")),
        *(["--min-p", value] for value in ("0", "1")),
        ["--seed", str(2**63 - 1)],
        ["--device", "auto"],
        ["--prefix-file", "empty"],
    ],
)
def test_extreme_options_within_their_bounds_work(here, options):
    done = run("sample", "run", "--length", "3", *options)
    assert (done.exit_code, len(done.stdout)) == (0, 3), done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        # empty paths, folders for files, files for folders
        (["sample", ""], 2, "'' is no path; name a file or a folder, or leave the option out"),
        (["plot", ""], 2, "'' is no path"),
        (["plot", "run", "-o", ""], 2, "'' is no path"),
        (["config", "--config", ""], 2, "'' is no path"),
        (["train", "text.txt", "--run", ""], 2, "'' is no path"),
        (["train", "text.txt", "--init-from", ""], 2, "'' is no path"),
        (["sample", "a\0b"], 2, "'a\\x00b' is no path"),
        (["sample", "folder"], 1, "folder: no best.safetensors"),
        (["sample", "text.txt"], 1, "text.txt: not a checkpoint"),
        (["sample", "n" * 5000], 1, "File name too long"),
        (["train", "text.txt", "--run", "text.txt"], 2, "cannot make the run's folder text.txt"),
        (["train", "--resume", "--run", "text.txt"], 1, "text.txt: no last.safetensors"),
        (["train", "text.txt", "--init-from", "binary"], 1, "binary: not a checkpoint"),
        (["train", ""], 2, "corpus.source = ['']: expected a named corpus"),
        (["train", "folder"], 1, "the folder folder holds no file"),
        (["evaluate", "run", "--text", ""], 1, "no file or folder ''"),
        (["evaluate", "run", "--text", "binary"], 1, "binary, line 3, byte 128"),
        (["evaluate", "run", "--text", "empty"], 1, "empty is empty"),
        # options
        (["evaluate", "run", "--lanes", "0"], 2, "lanes = 0"),
        (["evaluate", "run", "--lanes", str(-(10**30))], 2, "lanes = -1000"),
        (["evaluate", "run", "--window", "0"], 2, "window = 0: expected a whole number from 1 to 1,000,000"),
        (["evaluate", "run", "--window", "9", "--dynamic"], 2, "window and dynamic: windows start from zero"),
        (["evaluate", "run", "--window", "9", "--lanes", "2"], 2, "window with lanes = 2: windows are read side by"),
        (["evaluate", "run", "--dynamic", "--lanes", "2"], 2, "dynamic with lanes = 2: the weights go along one"),
        (["evaluate", "run", "--dynamic-rate", "1"], 2, "--dynamic-rate is of --dynamic, which was not given"),
        (["evaluate", "run", "--dynamic-decay", "1"], 2, "--dynamic-decay is of --dynamic, which was not given"),
        (["evaluate", "run", "--dynamic", "--dynamic-rate", "nan"], 2, "dynamic-rate = nan: expected a number of 0"),
        (["evaluate", "run", "--dynamic", "--dynamic-decay", "-1"], 2, "dynamic-decay = -1: expected a number of 0"),
        (["evaluate", "run", "--device", "meta"], 2, "device meta: not to be had here (no such kind)"),
        (["evaluate", "run", "--encoding", "utf-8"], 2, "--encoding is of another text"),
        (["evaluate", "run", "--text", "text.txt", "--split", "test"], 1, "text.txt is not the text that"),
        (["evaluate", "run", "--text", "text.txt", "--encoding", "x\x1b"], 2, "--encoding 'x\\x1b' is not"),
        (["train", "text.txt", "--budget", ""], 2, "--budget: training.budget = ''"),
        (["train", "text.txt", "--budget", "1e9 years"], 2, "--budget: training.budget = '1e9 years'"),
        (["train", "text.txt", "--budget", "9" * 400 + "s"], 2, "--budget: training.budget = '999"),
        (["train", "text.txt", "-s", "device=meta"], 2, "device meta: not to be had here"),
        (["train", "text.txt", "-s", "device=xla:\x07"], 2, "device xla:\\x07: not to be had here"),
        (["train", "text.txt", "-s", "max_characters=1"], 1, "the training split of text.txt has 0 characters"),
        (["train", "text.txt", "-s", "min_count=" + "9" * 30], 1, "corpus.min_count = 999"),
        (["config", "-s", "="], 2, "--set =: expected key=value"),
        (["config", "-s", "=x"], 2, "--set =x: expected key=value"),
        (["config", "-s", "seed=a: b"], 2, "--set seed: training.seed = 'a: b': expected a whole number"),
        (["config", "-s", "\x1b=1"], 2, "unknown key '\\x1b'"),
        (["config", "--schema", "-s", "seed=1"], 2, "--schema is the same for every configuration"),
        (["config", "--config", "binary"], 2, "binary: not a YAML file: byte 128"),
        (["config", "--config", "list.yaml"], 2, "list.yaml:1: expected sections"),
        (["config", "--config", "folder"], 2, "folder: cannot read the configuration"),
        (["corpora", "fetch", ""], 2, "no known corpus is called ''"),
        (["corpora", "fetch", "\x1b[31m"], 2, "no known corpus is called '\\x1b[31m'"),
        (["corpora", "describe", "\x1b[31m"], 1, "the glob \\x1b[31m matches no file"),
        (
            ["corpora", "describe", "text.txt", "--level", "byte", "--encoding", "utf-8"],
            2,
            "--encoding utf-8: at level b",
        ),
        (["plot", "run", "-o", "curves"], 2, "--output curves: expected a name that ends in .png, .svg, .pdf"),
        (["plot", "run", "-o", "folder"], 2, "--output folder: expected a name that ends in"),
        (["plot", "run", "-o", "x.pgf"], 2, "--output x.pgf: expected a name that ends in"),
        (["plot", "run", "-o", "nowhere/x.png"], 2, "--output nowhere/x.png: "),
        (["plot", "folder"], 1, "metrics.jsonl: No such file or directory; name the folder of a run"),
        (["bench", "--device", "meta"], 2, "device meta: not to be had here"),
        (["bench", "--seconds", "nan"], 2, "seconds = nan"),
    ],
)
def test_a_hostile_argument_is_refused_in_words(here, arguments, code, message):
    if arguments[0] == "plot":
        pytest.importorskip("matplotlib")
    refused(*arguments, message=message, code=code)


@not_on_windows
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "/dev/zero"], 1, "/dev/zero is a character device"),
        (["evaluate", "run", "--text", "/dev/urandom"], 1, "/dev/urandom is a character device"),
        (["corpora", "describe", "/dev/null"], 1, "/dev/null is a character device"),
        (["config", "--config", "/dev/zero"], 2, "/dev/zero: too large for a configuration"),
        (["sample", "/dev/zero"], 1, "/dev/zero: no such file"),
        (
            ["sample", "run", "--prefix-file", "/dev/zero"],
            2,
            "--prefix-file /dev/zero: over 16,777,216 bytes; its end will do",
        ),
    ],
)
def test_a_device_without_end_is_refused(here, arguments, code, message):
    refused(*arguments, message=message, code=code)


def test_usage_shows_single_brackets():
    for command, usage in {"train": "[TEXT]...", "sample": "[RUN|CHECKPOINT]", "plot": "[RUN]..."}.items():
        shown = run(command, "--help").stdout
        assert f"[OPTIONS] {usage}" in shown
        assert "[[" not in shown


def test_an_error_without_a_text_is_told_too(here, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("charrnn.text.corpora.load", fail)
    refused("corpora", "describe", "text.txt", message="MemoryError: out of memory; a smaller model, batch", code=1)


def test_a_network_larger_than_the_memory_is_refused_before_it_is_made(here, monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: 1 << 30)
    message = "model.hidden_size = 65536, model.num_layers = 64: 2,181,"
    refused("train", "text.txt", "-s", "num_layers=64", "-s", "hidden_size=65536", message=message)
    refused("train", "text.txt", "-s", "hidden_size=8500", message="GiB to train; expected at most the 1.0 GiB of this")


# ---- prefixes


def test_any_prefix_of_known_characters_is_given_back_as_it_is(here):
    for prefix in (UNUSUAL, UNUSUAL * 50, "\x1b\x9b\x07"):
        done = process_sample("--prefix", prefix, "-n", "5")
        assert done.startswith(prefix)
        assert len(done) == len(prefix) + 5


def process_sample(*arguments: str) -> str:
    done = run("sample", "run", *arguments)
    assert done.exit_code == 0, done.stderr
    return done.stdout_bytes.decode("utf-8")


def test_unknown_characters_of_a_prefix_are_shown_harmlessly(here):
    refused("sample", "run", "-p", "\x1b\0", message="prefix: '\\x00' (U+0000) at position 1", code=1)
    refused("sample", "run", "-p", "\ud800", message="prefix: '\\ud800' (U+D800) at position 0", code=1)


@pytest.mark.parametrize("options", [[], ["--samples", "2"]])
def test_half_a_surrogate_pair_that_is_skipped_still_cannot_be_printed(here, options):
    message = "prefix: U+D800 at position 1 is half a surrogate pair, which has no bytes in UTF-8"
    refused("sample", "run", "-p", "e\ud800", "--on-unknown", "skip", *options, message=message, code=1)


def test_a_prefix_of_thirty_thousand_characters_is_read(here):
    Path("prefix").write_text(UNUSUAL * 1000, encoding="utf-8")
    done = process_sample("--prefix-file", "prefix", "-n", "1")
    assert len(done) == 1000 * len(UNUSUAL) + 1


# ---- the Python API


def test_load_takes_auto_for_a_device_and_refuses_what_is_none(trained):
    assert len(charrnn.load(trained.folder, device="auto").sample(length=3)) == 3
    for device in ("meta", "nonsense", ""):
        with pytest.raises(ConfigError, match=f"device {device}: not to be had here"):
            charrnn.load(trained.folder, device=device)


# ---- texts that are no longer where they were


def test_a_run_from_another_folder_says_what_its_text_is_relative_to(folder, monkeypatch):
    Path("text.txt").write_text("to be or not to be\n" * 100, encoding="utf-8")
    loop.train(load_config(flags={**SMALL, "corpus.source": "text.txt"}), SilentView(), folder / "run")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    advice = "text.txt is relative to the folder in which the run was started: go there first"
    refused("evaluate", str(folder / "run"), message=advice, code=1)
    refused("train", "--resume", "--run", str(folder / "run"), "-b", "50 steps", message=advice, code=1)
    Path("text.txt").write_text("another text of the same name\n" * 100, encoding="utf-8")
    refused("evaluate", str(folder / "run"), message=f"would not be held out; {advice}; --text FILE", code=1)
    refused("train", "--resume", "--run", str(folder / "run"), message=f"{advice}; --init-from", code=1)


def test_a_run_from_standard_input_says_how_to_give_it_its_text_again(folder, monkeypatch):
    text = b"to be or not to be\n" * 100
    assert run("train", "-", "--run", "run", *SMALL_ARGUMENTS, input=text).exit_code == 0
    advice = "the run's came from standard input, so give the same again: charrnn ... < FILE"
    refused("evaluate", "run", message=advice, code=1, input=b"")
    refused("evaluate", "run", message=advice, code=1, input=b"another")
    refused("train", "--resume", "--run", "run", message=advice, code=1, input=b"")
    assert json.loads(run("evaluate", "run", "--json", input=text).stdout)["split"] == "validation"
    assert run("train", "--resume", "--run", "run", "-b", "50 steps", input=text).exit_code == 0

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())  # nobody knows that it waits for a text
    with pytest.raises(TextError, match=f"the text is not here: {advice}"):
        charrnn.load("run").evaluate_split("validation")


# ---- streams that are closed


@not_on_windows
@pytest.mark.parametrize(
    ("command", "codes"),
    [
        ("evaluate run --json | true", {0, 1}),
        ("config | true", {0, 1}),
    ],
)
def test_a_closed_pipe_ends_quietly(here, command, codes):
    script = f"{sys.executable} -m charrnn {command}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=120)
    assert done.stderr == b""
    assert done.returncode in codes
    assert done.stdout == b""


@not_on_windows
@pytest.mark.parametrize(
    ("arguments", "closed", "code", "message"),
    [
        ("sample run --prefix-file -", "<&-", 2, b"--prefix-file -: standard input is closed"),
        ("sample run -n 3", ">&-", 2, b"standard output is closed"),
    ],
)
def test_a_closed_standard_stream_is_named(here, arguments, closed, code, message):
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m charrnn {arguments} {closed}"], capture_output=True, timeout=120
    )
    assert done.returncode == code
    assert message in done.stderr + done.stdout
    assert no_traceback((done.stderr + done.stdout).decode())


# ---- a text that would take over a terminal


@not_on_windows
def test_escape_sequences_that_were_learnt_are_harmless_on_a_terminal_and_raw_in_a_pipe(here):
    arguments = ["sample", "run", "-p", "\x1b[31m\x9b", "-n", "300", "--seed", "1"]
    piped = process(*arguments)
    raw = piped.stdout.decode("utf-8")
    drawn = raw.removeprefix("\x1b[31m\x9b")
    assert (piped.returncode, len(drawn)) == (0, 300)
    assert {"\x1b", "\x07", "\x9b"} <= set(drawn)  # the model has learnt them
    shown = on_a_terminal(*arguments)
    assert not {"\x1b", "\x07", "\x9b"} & set(shown)
    assert shown.startswith("␛[31m\ufffd")
    same = raw.replace("\x1b", "␛").replace("\x07", "␇").replace("\x9b", "\ufffd")
    assert shown.replace("\r\n", "\n") == same + "\n"
