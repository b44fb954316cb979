"""The commands, as a person or a script uses them."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from charrnn import __version__, cli
from charrnn.config import load_config
from charrnn.training import checkpoint, loop
from charrnn.training.dynamic import Adaptation
from charrnn.training.runs import Run
from tests.conftest import SMALL, SilentView

SMALL_ARGUMENTS = [argument for key, value in SMALL.items() for argument in ("--set", f"{key}={value}")]


def run(*arguments: str, input: bytes | None = None) -> Result:
    """A command within this process."""
    return CliRunner().invoke(cli.app, list(arguments), input=input)


def process(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    """A command as a process of its own."""
    command = [sys.executable, "-m", "charrnn", *arguments]
    return subprocess.run(command, capture_output=True, timeout=120, **options)  # type: ignore[call-overload,no-any-return]


def no_traceback(stderr: str) -> bool:
    return "Traceback" not in stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over a text with an accent in it, made once."""
    folder = tmp_path_factory.mktemp("trained")
    text = folder / "text.txt"
    text.write_text("Un café, deux cafés, trois thés.\n" * 80, encoding="utf-8")
    config = load_config(flags={**SMALL, "corpus.source": str(text), "corpus.test": 0.1})
    return loop.train(config, SilentView(), folder / "run")


# ---- train


def test_train_prints_the_runs_folder_on_stdout_and_all_else_on_stderr(text_file):
    done = process("train", str(text_file), "--run", "here", *SMALL_ARGUMENTS)
    assert done.returncode == 0
    assert done.stdout.decode().splitlines() == ["here"]
    messages = done.stderr.decode()
    for part in ("corpus", "model", "hardware", "validation", "best", "sample at step 40", "charrnn sample here"):
        assert part in messages
    assert "\x1b" not in messages  # no cursor tricks without a terminal


def test_train_names_new_runs_by_time_and_text_and_the_newest_is_found(text_file, folder):
    first = run("train", str(text_file), *SMALL_ARGUMENTS)
    second = run("train", str(text_file), *SMALL_ARGUMENTS)
    runs = sorted(path.name for path in (folder / "runs").iterdir())
    assert len(runs) == 2
    assert all(name.endswith(("table-txt", "table-txt-2")) for name in runs)
    assert [first.exit_code, second.exit_code] == [0, 0]
    newest = json.loads(run("evaluate", "--json").stdout)["checkpoint"]
    assert newest == str(Path(second.stdout.strip()) / "best.safetensors")


def test_dry_run_prints_the_plan_and_writes_nothing(text_file, folder):
    done = run("train", str(text_file), "--dry-run", "--budget", "3 epochs", *SMALL_ARGUMENTS)
    assert done.exit_code == 0
    for part in (
        "2,430 training, 270 validation",
        "layer 1",
        "weight_hh 52 x 13",
        "readout",
        "windows",
        "MiB",
        "expected",
    ):
        assert part in done.stderr
    assert done.stdout == ""
    assert [path.name for path in folder.iterdir()] == ["table.txt"]


def test_dry_run_expects_the_limit_that_is_reached_first(text_file, folder):
    for budget, first in (
        ("10h, 3 epochs", "epochs"),
        ("9 epochs or 2 steps", "steps"),
        ("0.001s, 9 epochs", "seconds"),
    ):
        done = run("train", str(text_file), "--dry-run", *SMALL_ARGUMENTS, "--budget", budget)
        assert f"; the limit in {first} comes first" in done.stderr
    done = run("train", str(text_file), "--dry-run", *SMALL_ARGUMENTS, "--budget", "9 epochs, 2 steps")
    assert "expected   0 s, 2 steps, 0.0 epochs, evaluations not counted; the limit in steps" in done.stderr


def test_flags_override_settings_and_settings_override_the_file(text_file, folder):
    Path("my.yaml").write_text("model: {hidden_size: 5, num_layers: 2}\ntraining: {budget: 1h}\n", encoding="utf-8")
    done = run("train", str(text_file), "-c", "my.yaml", *SMALL_ARGUMENTS, "--budget", "2 steps", "--run", "here")
    assert done.exit_code == 0
    config = load_config("here/config.yaml")
    assert (config.model.hidden_size, config.model.num_layers, config.training.budget) == (13, 2, "2 steps")


def test_a_text_is_read_from_standard_input(folder):
    done = process("train", "-", "--run", "here", *SMALL_ARGUMENTS, input=b"to be or not to be, that is it\n" * 90)
    assert done.returncode == 0
    assert b"2,511 training" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "nowhere.txt"], 1, "nowhere.txt"),
        (["train", "tabel.txt"], 1, "table.txt"),
        (["train", "--config", "nowhere.yaml"], 2, "nowhere.yaml: cannot read the configuration"),
        (["train", "--set", "model.cell=lsmt"], 2, "did you mean lstm?"),
        (["train", "--set", "hiden_size=3"], 2, "did you mean model.hidden_size?"),
        (["train", "--budget", "soon"], 2, "--budget: training.budget = 'soon': expected a time (90s, 5m, 2h)"),
        (["train", "--set", "device=tpu"], 2, "device tpu: not to be had here"),
        (["train", "--resume"], 1, "no run in runs"),
        (
            ["train", "--resume", "table.txt"],
            2,
            "--resume goes on with a run as it is; it cannot be combined with TEXT",
        ),
        (["train", "run.yaml"], 2, "run.yaml is a configuration, not a text: charrnn train --config run.yaml"),
        (["evaluate", "--encoding", "cp1252"], 2, "it goes with --text alone"),
        (["corpora", "describe", "latin.txt"], 1, "it may be cp1252: try --encoding cp1252"),
        (["corpora", "describe", "latin.txt", "--encoding", "utf-61"], 2, "--encoding 'utf-61' is not an encoding"),
        (["train", "--init-from", "nowhere.safetensors"], 1, "nowhere.safetensors: no such file or folder"),
        (["train", "table.txt", "--set", "encoding=utf-61"], 2, "utf-61"),
        (["sample"], 1, "no run in runs"),
        (["sample", "nowhere"], 1, "nowhere: no such file or folder"),
        (["sample", "table.txt"], 1, "table.txt: not a checkpoint, or a damaged one"),
        (["sample", "."], 1, "no best.safetensors or last.safetensors in it"),
        (["evaluate"], 1, "no run in runs"),
        (["config", "--set", "x"], 2, "--set x: expected key=value"),
        (["corpora", "fetch", "shakespear"], 2, "tinyshakespeare"),
        (["corpora", "describe", "nowhere.txt"], 1, "nowhere.txt"),
        (["nonsense"], 2, "nonsense"),
        (["train", "--nonsense"], 2, "--nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_gives_one_message_and_its_exit_code(arguments, code, message, text_file):
    Path("run.yaml").write_text("model:\n  cell: gru\ntraining: {budget: 1 steps}\n", encoding="utf-8")
    Path("latin.txt").write_bytes("Zweite Größe\n".encode("latin-1"))
    done = run(*arguments)
    assert done.exit_code == code
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_a_mistake_in_a_real_process_shows_no_traceback_but_debug_does(folder):
    plain = process("train", "nowhere.txt")
    assert plain.returncode == 1
    assert plain.stderr.decode().startswith("charrnn: ")
    assert no_traceback(plain.stderr.decode())
    assert "Traceback" in process("--debug", "train", "nowhere.txt").stderr.decode()


def test_a_file_in_another_encoding_is_named_with_the_place_and_the_way_out(folder):
    Path("latin.txt").write_bytes("Erste Zeile\nZweite Größe\n".encode("latin-1"))
    done = run("train", "latin.txt")
    assert done.exit_code == 1
    for part in ("latin.txt", "line 2", "0xf6", "corpus.encoding="):
        assert part in done.stderr


def test_all_mistakes_of_a_file_are_reported_together_with_their_lines(folder):
    Path("bad.yaml").write_text(
        "model:\n  cel: gru\n  hidden_size: many\ntraining:\n  clip_norm: -1\n", encoding="utf-8"
    )
    done = run("train", "--config", "bad.yaml")
    assert done.exit_code == 2
    lines = done.stderr.splitlines()
    assert any("bad.yaml:2: unknown key model.cel (did you mean cell?)" in line for line in lines)
    assert any("bad.yaml:3: model.hidden_size = 'many': expected a whole number" in line for line in lines)
    assert any("bad.yaml:5: training.clip_norm = -1: expected a number greater than 0" in line for line in lines)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a process")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_first_and_the_run_goes_on_from_there(number, code, text_file, folder):
    arguments = ["train", str(text_file), "--run", "here", *SMALL_ARGUMENTS, "--budget", "10h"]
    command = [sys.executable, "-m", "charrnn", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as training:
        assert training.stderr is not None
        for line in training.stderr:
            if b"hardware" in line:
                break
        training.send_signal(number)
        rest = training.stderr.read().decode()
    assert training.returncode == code
    assert no_traceback(rest)
    assert "charrnn train --resume --run here" in rest
    step = checkpoint.load(Run(Path("here")).last).metrics["step"]
    resumed = run("train", "--resume", "--run", "here", "--budget", f"{step + 5} steps")
    assert resumed.exit_code == 0
    assert checkpoint.load(Run(Path("here")).last).metrics["step"] == step + 5
    assert resumed.stdout.strip() == "here"


# ---- sample


def sample(trained: Run, *arguments: str, input: bytes | None = None) -> Result:
    return run("sample", str(trained.folder), *arguments, input=input)


def test_what_quantize_auto_came_to_is_said_beside_the_text_not_in_it(trained):
    options = ["sample", str(trained.folder), "--prefix", "Un", "--length", "30", "--seed", "1"]
    plain, found = run(*options), run(*options, "--quantize", "auto")
    assert found.exit_code == 0
    assert found.stdout == plain.stdout
    assert "float32 weights: 676 of W_hh, and int8 is faster from " in found.stderr
    assert run("evaluate", str(trained.folder), "--quantize", "auto").exit_code == 0


def test_sample_prints_the_prefix_and_exactly_the_asked_characters_and_nothing_else(trained):
    done = process("sample", str(trained.folder), "--prefix", "Un café", "--length", "50", "--seed", "1")
    assert done.returncode == 0
    assert done.stderr == b""
    text = done.stdout.decode("utf-8")
    assert text.startswith("Un café")
    assert len(text) == len("Un café") + 50


def test_the_same_seed_gives_the_same_text_alone_and_in_a_batch(trained):
    alone = sample(trained, "--seed", "5", "-n", "80").stdout
    assert sample(trained, "--seed", "5", "-n", "80").stdout == alone
    several = sample(trained, "--seed", "5", "-n", "80", "--samples", "3", "--separator", "@@").stdout
    assert several.split("@@")[0] == alone
    assert len(several.split("@@")) == 3
    assert sample(trained, "--seed", "6", "-n", "80").stdout != alone


def test_without_a_seed_each_text_is_another(trained):
    assert sample(trained, "-n", "80").stdout != sample(trained, "-n", "80").stdout


def test_greedy_text_needs_no_seed_to_be_the_same(trained):
    assert sample(trained, "-n", "80", "-t", "0").stdout == sample(trained, "-n", "80", "--temperature", "0").stdout


def test_the_prefix_comes_from_a_file_or_from_standard_input_as_it_is(trained, tmp_path):
    path = tmp_path / "prefix.txt"
    path.write_bytes(b"deux\n")
    from_file = sample(trained, "--prefix-file", str(path), "--seed", "1", "-n", "9").stdout
    assert from_file.startswith("deux\n")
    assert sample(trained, "--prefix-file", "-", "--seed", "1", "-n", "9", input=b"deux\n").stdout == from_file


def test_a_prefix_from_a_file_is_read_as_the_training_text_was(trained, tmp_path):
    path = tmp_path / "prefix.txt"
    path.write_bytes(b"\xef\xbb\xbfdeux\r\nUn\r")
    done = sample(trained, "--prefix-file", str(path), "-n", "0")
    assert done.stdout == "deux\nUn\n"


def test_a_configuration_is_printed_in_utf_8_whatever_the_locale(folder):
    command = [sys.executable, "-m", "charrnn", "config", "--set", "sample_prefix=Größe Я"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    printed = subprocess.run(command, capture_output=True, env=environment, timeout=120, check=True).stdout
    Path("c.yaml").write_bytes(printed)
    assert load_config("c.yaml").training.sample_prefix == "Größe Я"


class Terminal(io.StringIO):
    """As far as a writer can tell."""

    def isatty(self) -> bool:
        return True


def test_half_a_character_at_the_end_is_shown_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    with cli._stdout() as write:
        write(b"a\xc3")
        write(b"\xa4\xc3")
    assert sys.stdout.getvalue() == "aä\N{REPLACEMENT CHARACTER}\n"


def test_no_terminal_is_seen_where_a_stream_is_closed():
    assert not cli._on_terminal(None)
    assert cli._on_terminal(Terminal())
    assert not cli._on_terminal(io.StringIO())


def test_an_empty_prefix_is_allowed(trained):
    assert len(sample(trained, "--prefix", "", "-n", "7").stdout) == 7
    assert len(sample(trained, "-n", "7").stdout) == 7
    assert sample(trained, "--prefix", "Un", "-n", "0").stdout == "Un"


def test_an_unknown_character_of_the_prefix_is_named_with_its_position_or_dealt_with_as_told(trained):
    done = sample(trained, "--prefix", "cafй", "-n", "5")
    assert done.exit_code == 1
    assert "'\\u0439' (U+0439) at position 3" in done.stderr
    skipped, replaced = (sample(trained, "-p", "cafй", "-n", "5", "--on-unknown", how) for how in ("skip", "replace"))
    assert skipped.stdout.startswith("cafй")
    assert replaced.stdout.startswith("cafй")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "-1"], "temperature = -1.0: expected"),
        (["--temperature", "nan"], "temperature = nan: expected"),
        (["--top-k", "0"], "top-k = 0: expected"),
        (["--top-p", "2"], "top-p = 2.0: expected"),
        (["--min-p", "-1"], "min-p = -1.0: expected"),
        (["--length", "-1"], "length = -1: expected"),
        (["--seed", "-1"], "seed = -1: expected"),
        (["--samples", "0"], "samples = 0: expected"),
        (["--prefix", "a", "--prefix-file", "b"], "only one of them"),
        (["--prefix-file", "nowhere"], "--prefix-file nowhere"),
        (["--on-unknown", "guess"], "guess"),
        (["--device", "tpu"], "device tpu"),
    ],
)
def test_sampling_options_out_of_range_are_refused_with_2(arguments, message, trained):
    done = sample(trained, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_a_closed_pipe_ends_quietly(trained):
    command = f"{sys.executable} -m charrnn sample {trained.folder} -n 200000 | head -c 10"
    done = subprocess.run(command, shell=True, capture_output=True, timeout=120)
    assert len(done.stdout) == 10
    assert done.stderr == b""


def test_a_full_disk_is_an_error_and_no_traceback(trained):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "charrnn", "sample", str(trained.folder), "-n", "20"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=120)
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert no_traceback(done.stderr.decode())


def on_a_terminal(*arguments: str) -> str:
    """What a command draws on a terminal of its own."""
    import pty  # not on Windows

    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200", "LINES": "50"}
    started = subprocess.Popen(
        [sys.executable, "-m", "charrnn", *arguments], stdout=terminal, stderr=terminal, stdin=terminal, env=environment
    )
    os.close(terminal)
    drawn = bytearray()

    def read() -> None:
        while True:
            try:
                piece = os.read(controller, 65536)
            except OSError:  # Linux says so at the end
                return
            if not piece:
                return
            drawn.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    assert started.wait(timeout=120) == 0
    reader.join(timeout=10)
    os.close(controller)
    return drawn.decode("utf-8")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pty")
def test_on_a_terminal_a_text_is_streamed_and_is_the_same_as_in_a_pipe(trained):
    streamed = on_a_terminal("sample", str(trained.folder), "-p", "Un", "-n", "60", "--seed", "3")
    assert streamed.replace("\r\n", "\n") == sample(trained, "-p", "Un", "-n", "60", "--seed", "3").stdout + "\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pty")
def test_on_a_terminal_training_draws_a_bar_with_the_figures(text_file):
    drawn = on_a_terminal("train", str(text_file), "--run", "here", *SMALL_ARGUMENTS, "--budget", "3s")
    for part in ("━", "left", "bits", "val", "best", "chars/s", "sample at step"):
        assert part in drawn


# ---- evaluate


def test_evaluate_prints_one_json_object_with_the_figures(trained):
    done = process("evaluate", str(trained.folder), "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["split"] == "validation"
    assert found["checkpoint"] == str(trained.best)
    keys = {"nats_per_char", "bits_per_char", "perplexity", "bits_per_byte", "characters"}
    assert keys < found.keys()
    logged = [json.loads(line) for line in trained.metrics.read_text(encoding="utf-8").splitlines()]
    best = min(line["nats_per_char"] for line in logged if line["type"] == "evaluation")
    assert found["nats_per_char"] == pytest.approx(best, abs=1e-4)


def test_every_split_and_any_other_text_can_be_evaluated(trained, tmp_path):
    characters = {}
    for split in ("training", "validation", "test"):
        found = json.loads(run("evaluate", str(trained.last), "--split", split, "--json").stdout)
        characters[split] = found["characters"]
    assert sum(characters.values()) + 3 == 80 * 33
    other = tmp_path / "other.txt"
    other.write_text("Un café? Ja!\n", encoding="utf-8")
    found = json.loads(run("evaluate", str(trained.folder), "--text", str(other), "--json").stdout)
    assert found["characters"] == 12
    assert found["unknown"] == 3  # ? J !
    assert found["text"] == "other.txt"
    assert "split" not in found


def test_what_there_is_to_say_of_another_text_is_said_beside_its_figures(trained, tmp_path):
    other = tmp_path / "other.txt"
    other.write_bytes("Un café\r\n".encode("cp1252"))
    refused = run("evaluate", str(trained.folder), "--text", str(other))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "try --encoding cp1252" in refused.stderr
    done = run("evaluate", str(trained.folder), "--text", str(other), "--encoding", "cp1252", "--json")
    assert json.loads(done.stdout)["characters"] == 7
    assert f"turned 1 CRLF into LF in {other}" in done.stderr
    own = run("evaluate", str(trained.folder), "--text", str(trained.folder.parent / "text.txt"))
    assert "the model was trained on this text; --split validation evaluates what was held out" in own.stderr


def test_a_text_that_was_moved_is_known_again(trained, tmp_path):
    text, moved = trained.folder.parent / "text.txt", tmp_path / "moved.txt"
    before = json.loads(run("evaluate", str(trained.folder), "--json").stdout)
    text.rename(moved)
    try:
        lost = run("evaluate", str(trained.folder))
        found = run("evaluate", str(trained.folder), "--split", "validation", "--text", str(moved), "--json")
    finally:
        moved.rename(text)
    assert "if it was moved, name where it is now" in lost.stderr
    assert json.loads(found.stdout) == before
    other = tmp_path / "other.txt"
    other.write_text("Un café.\n", encoding="utf-8")
    refused = run("evaluate", str(trained.folder), "--split", "test", "--text", str(other))
    assert "other.txt is not the text that" in refused.stderr


def test_evaluate_shows_people_the_entropies_beside(trained):
    done = run("evaluate", str(trained.folder))
    assert done.exit_code == 0
    for part in ("nats per character", "perplexity", "letter frequencies alone", "knowing nothing"):
        assert part in done.stdout


def test_other_protocols_are_reported_apart(trained):
    plain = json.loads(run("evaluate", str(trained.folder), "--json").stdout)
    window = json.loads(run("evaluate", str(trained.folder), "--window", "5", "--json").stdout)
    assert plain.items() < window.items()
    assert window["window"] == 5
    assert window["nats_per_char_in_windows"] > plain["nats_per_char"]
    options = ("--dynamic", "--dynamic-rate", "0.002", "--tune-temperature")
    both = json.loads(run("evaluate", str(trained.folder), *options, "--json").stdout)
    assert plain.items() < both.items()
    assert both["dynamic"].keys() == {"nats_per_char", "bits_per_char", "perplexity", "segment", "rate", "decay"}
    assert (both["dynamic"]["rate"], both["dynamic"]["decay"]) == (0.002, Adaptation.decay)
    assert both["nats_per_char_at_temperature"] < plain["nats_per_char"]
    assert both["temperature"] > 0
    other = json.loads(
        run("evaluate", str(trained.folder), "--text", str(trained.config), "--dynamic", "--json").stdout
    )
    assert other["dynamic"]["nats_per_char"] < other["nats_per_char"]


def test_people_are_told_what_the_other_protocols_are(trained):
    shown = run("evaluate", str(trained.folder), "--dynamic", "--tune-temperature").stdout
    assert "weights that learn on the way: segments of 20, rate 0.001, decay 0.003" in shown
    assert "tuned on the validation text, which is this very text" in shown
    shown = run("evaluate", str(trained.folder), "--split", "test", "--window", "5", "--tune-temperature").stdout
    assert "of 5 steps from zero state" in shown
    assert "tuned on the validation text\n" in shown


def test_the_help_of_evaluate_names_the_defaults_that_are_taken():
    shown = run("evaluate", "--help").stdout
    for value in (Adaptation.rate, Adaptation.decay):
        assert f"[default: ({value})]" in shown


def test_evaluating_a_split_of_a_text_that_has_changed_is_refused(trained, tmp_path):
    import shutil

    shutil.copytree(trained.folder, tmp_path / "run")
    text = trained.folder.parent / "text.txt"
    before = text.read_bytes()
    text.write_bytes(before + b"!")
    try:
        done = run("evaluate", str(tmp_path / "run"))
    finally:
        text.write_bytes(before)
    assert done.exit_code == 1
    assert "is not the text that" in done.stderr


# ---- config, corpora


def test_config_prints_yaml_that_loads_to_itself(folder):
    printed = run("config", "--set", "cell=gru", "--set", "budget=7 epochs").stdout
    Path("again.yaml").write_text(printed, encoding="utf-8")
    assert run("config", "--config", "again.yaml").stdout == printed
    assert load_config("again.yaml").model.cell == "gru"


def test_config_prints_a_json_schema_with_every_option_described():
    schema = json.loads(run("config", "--schema").stdout)
    for section in ("CorpusConfig", "ModelConfig", "TrainingConfig"):
        for option in schema["$defs"][section]["properties"].values():
            assert option["description"]


def test_corpora_are_listed_with_licence_and_address():
    listed = run("corpora", "list").stdout
    for part in ("python", "tinyshakespeare", "timemachine", "text8", "enwik8", "https://", "SHA-256"):
        assert part in listed


def test_a_text_is_described(text_file):
    found = json.loads(run("corpora", "describe", str(text_file), "--json").stdout)
    assert found["characters"] == 2700
    assert "characters" in run("corpora", "describe", str(text_file)).stdout


def test_the_version_is_printed():
    assert run("--version").stdout.strip() == f"charrnn {__version__}"


def test_quantize_auto_goes_with_the_usual_figure_alone(trained):
    result = run("evaluate", str(trained.folder), "--quantize", "auto", "--window", "9")
    assert result.exit_code == 2
    assert "--quantize auto" in result.stderr
