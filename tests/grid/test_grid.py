"""A grid as a whole: trained side by side, each run as if alone; stopped, gone on with, and reported."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from charrnn import cli
from charrnn.config import Config, load_config
from charrnn.errors import CheckpointError, ConfigError
from charrnn.grid import folder as folders
from charrnn.grid import running
from charrnn.grid.combinations import combine
from charrnn.grid.folder import Grid, Outcome
from charrnn.grid.running import Width
from charrnn.training import checkpoint, loop
from charrnn.training.reporting import say_if_heard
from charrnn.training.runs import Run
from tests.conftest import SMALL, SilentView
from tests.training.test_loop import assert_same_tensors, without_time

SETTINGS = [argument for key, value in SMALL.items() for argument in ("--set", f"{key}={value}")]
TEXT = "".join(f"{n} times {m} makes {n * m}, as everybody knows.\n" for n in range(3, 12) for m in range(2, 10))

RECIPE_NONE = [f"{key}={value}" for key, value in SMALL.items()]

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")


def run(*arguments: str) -> Result:
    """`charrnn grid` within this process; its children are processes of their own."""
    return CliRunner().invoke(cli.app, ["grid", *arguments])


@pytest.fixture
def text(folder: Path) -> str:
    Path("table.txt").write_text(TEXT, encoding="utf-8")
    return "table.txt"


@pytest.mark.parametrize(
    ("budgets", "jobs", "needed"), [(["5m"], 2, "5:00"), (["1m"] * 3, 2, "2:00"), (["1m", "1m", "2m"], 2, "3:00")]
)
def test_the_time_that_is_foretold_is_that_of_the_busiest_job(budgets, jobs, needed, folder):
    configs = {str(name): load_config(flags={"training.budget": budget}) for name, budget in enumerate(budgets)}
    last = Path("last.safetensors")
    grid = SimpleNamespace(
        configs=configs,
        unfinished=lambda: list(configs),
        record=SimpleNamespace(runs=configs),
        folder="here",
        run=lambda name: SimpleNamespace(last=last),
    )
    assert f" each, about {needed} in all" in running._plan(grid, Width(jobs, 1))
    last.touch()  # some of it is spent
    assert "in all" not in running._plan(grid, Width(jobs, 1))


# ---- with the processes that people get


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Four runs, two at a time, half of which must diverge."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "table.txt").write_text(TEXT, encoding="utf-8")
    vary = ["--vary", "cell=rnn,gru", "--vary", "learning_rate=1e-2,1e30"]
    options = [*SETTINGS, "--set", "rollbacks=0", "--output", str(folder / "grid"), "--jobs", "2"]
    return folder / "grid", run(str(folder / "table.txt"), *vary, *options)


GOOD = ["rnn-learning_rate-0.01", "gru-learning_rate-0.01"]
BAD = ["rnn-learning_rate-1e+30", "gru-learning_rate-1e+30"]


def test_a_run_of_a_grid_is_bit_for_bit_the_run_that_train_makes_of_its_configuration(done, view, tmp_path):
    for name in GOOD:
        ours = Run(done[0] / name)
        config = load_config(ours.config)
        assert f"{config.model.cell}-learning_rate-{config.training.learning_rate}" == name
        alone = loop.train(config, view, tmp_path / name)
        for path in (alone.last, alone.best):
            assert_same_tensors(path, ours.folder / path.name)
        assert without_time(alone) == without_time(ours)
        assert alone.samples.read_bytes() == ours.samples.read_bytes()


def test_a_run_that_fails_is_marked_with_its_reason_and_the_others_finish(done):
    folder, result = done
    assert result.exit_code == 1
    assert "charrnn: 2 of 4 runs failed" in result.stderr
    runs = {outcome.name: outcome for outcome in Grid.existing(folder).record.runs}
    assert {name: outcome.status for name, outcome in runs.items()} == {
        **dict.fromkeys(GOOD, "finished"),
        **dict.fromkeys(BAD, "failed"),
    }
    for name in BAD:
        assert "given up after training.rollbacks = 0" in runs[name].reason
        assert runs[name].nats_per_char is None
        assert f"failed     {name}, " in result.stderr


def test_the_table_and_grid_json_hold_every_combination_with_the_figures_of_its_run(done):
    folder, result = done
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if "learning_rate" in line}
    assert list(rows)[:2] in (GOOD, GOOD[::-1])
    assert rows.keys() == {*GOOD, *BAD}
    found = json.loads((folder / "grid.json").read_text(encoding="utf-8"))
    assert found["vary"] == ["model.cell", "training.learning_rate"]
    for outcome in (one for one in found["runs"] if one["name"] in GOOD):
        stored = checkpoint.load(folder / outcome["name"] / "last.safetensors", with_training=True)
        assert outcome["nats_per_char"] == stored.progress["best_nats_per_char"]
        assert outcome["steps"] == 40
        assert outcome["parameters"] == sum(tensor.numel() for tensor in stored.weights.values())
        assert outcome["values"]["training.learning_rate"] == 0.01
        assert (outcome["engine"], outcome["precision"]) == ("torch", "float32")
        shown = [f"{outcome['nats_per_char']:.4f}", f"{outcome['parameters']:,}"]
        assert rows[outcome["name"]][:2] == shown


def test_events_are_plain_lines_on_stderr_and_the_runs_own_words_in_their_logs(done):
    folder, result = done
    lines = result.stderr.splitlines()
    assert lines[0].startswith("grid       4 of 4 runs to train, 2 at a time with 1 thread each")
    assert [line.split()[0] for line in lines].count("started") == 4
    assert sum("; 2 of 4 finished" in line for line in lines) >= 1
    assert "\x1b" not in result.stderr
    assert "sample" not in result.stderr
    log = (folder / GOOD[0] / "train.log").read_text(encoding="utf-8")
    assert "sample at step 40" in log
    assert "\x1b" not in log


def test_a_run_of_a_grid_is_one_for_the_other_commands(done):
    sampled = CliRunner().invoke(cli.app, ["sample", str(done[0] / GOOD[0]), "--prefix", "3", "-n", "5"])
    assert (sampled.exit_code, len(sampled.stdout.strip("\n"))) == (0, 6)


def wait_until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@POSIX_ONLY
def test_ctrl_c_saves_every_run_and_a_resume_ends_bit_for_bit_where_they_would_have(text, view):
    """As from a terminal: the signal goes to every process of the group."""
    options = [*SETTINGS, "--set", "budget=300 steps", "--set", "evaluations=2"]
    arguments = ["grid", text, "--vary", "seed=1,2", *options, "--jobs", "2", "--output", "here"]
    command = [sys.executable, "-m", "charrnn", *arguments]
    runs = [Run(Path("here") / name) for name in ("seed-1", "seed-2")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, env=environment) as process:
        wait_until(lambda: all(run.last.exists() and run.metrics.read_bytes().count(b"\n") > 2 for run in runs))
        groups = [os.getpgid(int((run.folder / ".lock").read_text(encoding="utf-8").split()[1])) for run in runs]
        os.killpg(process.pid, signal.SIGINT)
        messages = process.stderr.read().decode() if process.stderr else ""
    assert process.pid not in groups, "the children would be told twice, and leave unsaved"
    assert process.returncode == 130
    assert messages.splitlines()[-1] == "charrnn: go on with: charrnn grid --resume --output here"
    assert "Traceback" not in messages
    assert "failed" not in outcomes("here").values()
    stopped = [run for run in runs if 0 < checkpoint.load(run.last).metrics["step"] < 300]
    assert stopped
    for one in stopped:
        step = checkpoint.load(one.last).metrics["step"]
        assert f"SIGINT at step {step:,}; saving" in (one.folder / "train.log").read_text(encoding="utf-8")
    resumed = run("--resume", "--output", "here")
    assert resumed.exit_code == 0, resumed.stderr
    assert all(f"resumed    {one.folder.name}" in resumed.stderr for one in stopped)
    for one in stopped:
        alone = loop.train(load_config(one.config), view, Path("alone") / one.folder.name)
        assert_same_tensors(alone.last, one.last)
        assert without_time(alone) == without_time(one)


def test_what_the_recipe_chooses_is_chosen_once_for_all_runs(text, monkeypatch):
    """A speed measured anew for every run would give runs that only a seed should tell apart different networks."""
    speeds = iter([1e8, 1e9, 1e10, 1e11])
    monkeypatch.setattr("charrnn.training.recipe._measured_speed", lambda *arguments: next(speeds))
    keys, combined = combine(["seed=0,1,2", "cell=gru,lstm"], None, ["corpus.source=table.txt", "budget=10s"])
    made = Grid.create(Path("here"), keys, combined, jobs=1, threads=1)
    assert not any(config.left_to_recipe() for config in made.configs.values())
    models = {config.model.cell: set() for config in made.configs.values()}
    for name, config in made.configs.items():
        models[config.model.cell].add(config.model.model_dump_json())
        assert load_config(made.config(name)) == config
    assert [len(found) for found in models.values()] == [1, 1]
    assert next(speeds) == 1e10
    assert [note.partition(":")[0] for note in made.notes] == ["gru", "lstm"]


def test_a_grid_that_cuts_one_text_differently_can_be_gone_on_with(text):
    keys, combined = combine(["validation=0.1,0.2", "min_count=1,2"], None, ["corpus.source=table.txt", *RECIPE_NONE])
    Grid.create(Path("here"), keys, combined, jobs=1, threads=1)
    assert len(Grid.existing(Path("here")).unfinished()) == 4


def test_a_run_without_reports_is_a_failure_with_a_reason(text, view):
    made = loop.train(load_config(settings=["source=table.txt"], flags=SMALL), view, Path("run"))
    for kind, reason in ((b"event", "no reports of training"), (b"training", "a damaged log")):
        made.metrics.write_bytes(b'{"type": "' + kind + b'"}\n')
        with pytest.raises(CheckpointError, match=reason):
            running.figures(made)


# ---- with processes that only seem to train


class FakeChildren:
    """Stands for the grid's subprocess.Popen: what would train a run says a word and leaves with an exit code."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: str = "") -> None:
        self.code = code or "print('charrnn: no such luck'); raise SystemExit(1)"
        self.commands: list[list[str]] = []
        self.environments: list[dict[str, str]] = []
        self.alive: list[subprocess.Popen[bytes]] = []
        self.most = 0
        self.ordinary = subprocess.Popen
        monkeypatch.setattr(running, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": self}))

    def __call__(self, command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        self.commands.append(["charrnn", *command[command.index("train") :]])
        self.environments.append(options["env"])
        self.alive = [child for child in self.alive if child.poll() is None]
        self.alive.append(self.ordinary([sys.executable, "-c", self.code], **options))
        self.most = max(self.most, len(self.alive))
        return self.alive[-1]


def outcomes(folder: str) -> dict[str, str]:
    return {outcome.name: outcome.status for outcome in Grid.existing(Path(folder)).record.runs}


def test_no_more_runs_at_a_time_than_asked_for_and_each_has_its_share_of_the_threads(text, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    children = FakeChildren(monkeypatch, "import time; time.sleep(0.3); raise SystemExit(1)")
    assert run(text, "--vary", "seed=1,2,3,4,5", "--jobs", "3", "--output", "here").exit_code == 1
    assert (len(children.commands), children.most) == (5, 3)
    assert {environment["OMP_NUM_THREADS"] for environment in children.environments} == {"2"}


@pytest.mark.parametrize(
    ("cores", "device", "runs", "jobs", "expected"),
    [
        (8, "cpu", 36, None, Width(8, 1)),
        (8, "cpu", 2, None, Width(2, 4)),
        (8, "cpu", 36, 3, Width(3, 2)),
        (2, "cpu", 36, 5, Width(5, 1)),
        (8, "meta", 36, None, Width(1, 8)),
        (8, "meta", 36, 2, Width(2, 4)),
    ],
)
def test_by_default_a_run_has_a_core_of_its_own_and_a_gpu_one_run(cores, device, runs, jobs, expected, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    monkeypatch.setattr(running, "choose_device", lambda wanted: torch.device(device))
    assert Width.of([Config()] * runs, jobs) == expected


def test_a_resume_skips_what_is_finished_goes_on_with_what_has_begun_and_starts_the_rest(done, text, monkeypatch):
    """The run that was killed before it saved anything has a folder with a configuration in it, and starts anew."""
    shutil.copytree(done[0], "here")
    grid = Grid.existing(Path("here"))
    grid.note(BAD[1], status="unfinished", reason="")
    begun, killed = grid.run(BAD[0]), grid.run(BAD[1])
    for path in killed.folder.glob("*.safetensors"):
        path.unlink()
    children = FakeChildren(monkeypatch)
    again = run("--resume", "--output", "here")
    assert children.commands == [
        ["charrnn", "train", "--resume", "--run", str(begun.folder)],
        ["charrnn", "train", "--config", str(grid.config(BAD[1])), "--run", str(killed.folder)],
    ]
    assert not killed.config.exists()
    assert again.exit_code == 1
    assert outcomes("here") == {**dict.fromkeys(GOOD, "finished"), **dict.fromkeys(BAD, "failed")}
    assert {one.reason for one in Grid.existing(Path("here")).record.runs} == {"", "no such luck"}


def test_a_finished_grid_is_shown_again_by_resume_without_its_text(done, monkeypatch, folder):
    shutil.copytree(done[0], "runs/old")
    for name in BAD:
        Grid.existing(Path("runs/old")).note(name, status="finished", nats_per_char=9.0)
    children = FakeChildren(monkeypatch)
    monkeypatch.setattr(
        "charrnn.grid.folder.load_dataset", lambda corpus: pytest.fail("nothing is left to train on it")
    )
    shown = run("--resume", "--json")
    assert shown.exit_code == 0
    assert [one["status"] for one in json.loads(shown.stdout)["runs"]] == ["finished"] * 4
    assert not children.commands


def test_a_child_that_dies_without_a_word_is_marked_with_how_it_ended(text, monkeypatch):
    FakeChildren(monkeypatch, "import os; print('half a', flush=True); os._exit(7)")
    result = run(text, "--vary", "seed=1", "--output", "here")
    assert result.exit_code == 1
    assert "failed     seed-1, exit code 7; its last line: half a; 0 of 1 finished" in result.stderr


def test_a_child_that_ends_well_but_leaves_no_run_is_a_failure(text, monkeypatch):
    FakeChildren(monkeypatch, "pass")
    assert run(text, "--vary", "seed=1", "--output", "here").exit_code == 1
    assert "no such checkpoint" in Grid.existing(Path("here")).record.runs[0].reason


def test_a_grid_that_nobody_hears_any_more_trains_on(done, text):
    """As behind `| head`."""
    shutil.copytree(done[0], "here")
    grid, said = Grid.existing(Path("here")), []

    class Unheard(SilentView):
        def say(self, label: str, text: str) -> None:
            said.append(label)
            raise BrokenPipeError

    trainer = running._Trainer(grid, Width(1, 1), say_if_heard(Unheard()))
    trainer.waiting = [GOOD[0]]
    grid.note(GOOD[0], status="unfinished")
    trainer.loop()
    assert said == ["resumed", "finished"]
    assert outcomes("here")[GOOD[0]] == "finished"


@POSIX_ONLY
def test_a_second_ctrl_c_leaves_no_child_behind(text, monkeypatch):
    """The children take no notice of the first."""
    stubborn = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('.', flush=True); time.sleep(60)"
    )
    children = FakeChildren(monkeypatch, stubborn)
    logs = [Path("here") / name / "train.log" for name in ("seed-1", "seed-2")]
    ordinary = time.sleep

    def interrupted(seconds: float) -> None:
        ordinary(seconds)
        if all(log.exists() and log.stat().st_size for log in logs):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(running.time, "sleep", interrupted)
    result = run(text, "--vary", "seed=1,2", "--jobs", "2", "--output", "here")
    assert result.exit_code == 130
    assert [child.poll() for child in children.alive] == [-signal.SIGKILL] * 2
    assert outcomes("here") == {"seed-1": "unfinished", "seed-2": "unfinished"}


def test_two_processes_do_not_work_on_one_grid(done, text, monkeypatch):
    shutil.copytree(done[0], "here")
    children = FakeChildren(monkeypatch)
    with Run(Path("here")).locked():
        refused = run("--resume", "--output", "here")
    assert refused.exit_code == 1
    assert "here is in use by process" in refused.stderr
    with Run(Path("here") / BAD[0]).locked():
        Run(Path("here") / BAD[0]).last.unlink()
        refused = run("--resume", "--output", "here")
    assert f"{BAD[0]} is in use by process" in refused.stderr
    assert len(children.commands) == 1


# ---- what is refused


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--vary", "cell=lsmt"], 2, "did you mean lstm?"),
        (["--vary", "hiden_size=3"], 2, "unknown key hiden_size (did you mean model.hidden_size?)"),
        (["--set", "hidden_size=3"], 2, "model.hidden_size: given by --set hidden_size and varied by --vary"),
        (["--vary", "budget=1m,2m", "--budget", "3m"], 2, "training.budget: given by --budget and varied by --vary"),
        (["--jobs", "0"], 2, "--jobs 0: expected a whole number of 1 or more"),
        (["--set", "device=tpu"], 2, "device tpu: not to be had here"),
        (["--set", "validation=0"], 1, "the validation split of table.txt has 0 characters, too few"),
        (["--vary", "validation=0.1,0.0001"], 1, "the validation split of table.txt has 1 characters, too few"),
        (["nowhere.txt"], 1, "nowhere.txt"),
        (["--resume"], 2, "--resume goes on with a run as it is; it cannot be combined with TEXT"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_refused_before_anything_is_made(arguments, code, message, text):
    refused = run(text, *arguments)
    assert refused.exit_code == code
    assert message in " ".join(refused.stderr.split())
    assert refused.stdout == ""
    assert [path.name for path in Path.cwd().iterdir()] == [text]


def test_standard_input_is_refused_since_every_run_would_read_it(folder):
    refused = run("-")
    assert refused.exit_code == 2
    assert "put it into a file" in refused.stderr


@POSIX_ONLY
def test_a_pipe_is_refused_since_every_run_would_read_it(folder):
    os.mkfifo("pipe")
    for source in ("pipe", "/dev/stdin", "/dev/fd/63"):
        refused = run(source, "--vary", "seed=1,2")
        assert refused.exit_code == 2
        assert f"corpus.source {source}: a grid reads its text once for each run" in " ".join(refused.stderr.split())


def test_runs_import_nothing_of_the_folder_they_are_started_in(folder, monkeypatch):
    Path("types.py").write_text("raise SystemExit('not this one')", encoding="utf-8")
    started = subprocess.run([sys.executable, *running._charrnn(), "--version"], capture_output=True, text=True)
    assert (started.returncode, started.stdout) == (0, f"charrnn {running.charrnn.__version__}\n")
    monkeypatch.chdir(Path(running.charrnn.__file__).parents[1])
    assert running._charrnn() == ["-m", "charrnn"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_text_whose_name_is_no_unicode_can_be_gone_through(folder):
    name = os.fsdecode(b"caf\xe9.txt")
    Path(name).write_text(TEXT, encoding="utf-8")
    done = run(name, "--vary", "seed=1", "--budget", "2 steps", *SETTINGS, "--output", "here")
    assert done.exit_code == 0, done.stderr


def test_names_of_runs_are_ones_that_a_grid_is_read_by_again(text):
    _, combinations = combine(["source=a\u00bd.txt,b\u00e4.txt"], settings=RECIPE_NONE)
    assert [one.name for one in combinations] == ["source-a-.txt", "source-b\u00e4.txt"]
    for one in combinations:
        Outcome(name=one.name, values={})


def test_a_grid_or_run_that_is_there_is_not_overwritten(done, text):
    shutil.copytree(done[0], "here")
    for folder, message in (
        ("here", "holds a grid already; --resume goes on"),
        (f"here/{GOOD[0]}", "holds a run already (last.safetensors); --output DIR names another"),
        ("here/grid.json/deeper", "--output DIR names another place"),
    ):
        refused = run(text, "--output", folder)
        assert refused.exit_code == 2
        assert message in refused.stderr


def two_runs(text: str) -> list:
    return combine(["seed=0,1"], settings=RECIPE_NONE, flags={"corpus.source": text})[1]


def test_of_two_grids_that_begin_in_one_folder_only_one_does(text, monkeypatch):
    chosen = folders._chosen

    def and_meanwhile(configs: dict[str, Config], threads: int) -> Any:
        monkeypatch.setattr(folders, "_chosen", chosen)
        Grid.create(Path("here"), [], two_runs(text), 1, 1)
        return chosen(configs, threads)

    monkeypatch.setattr(folders, "_chosen", and_meanwhile)
    with pytest.raises(ConfigError, match="here holds a grid already"):
        Grid.create(Path("here"), [], two_runs(text), 1, 1)


def test_what_cannot_be_read_of_one_run_is_that_runs_failure(text):
    grid, said = Grid.create(Path("here"), [], two_runs(text), 1, 1), []
    trainer = running._Trainer(grid, Width(1, 1), lambda label, text: said.append((label, text)))
    name = trainer.waiting[0]
    trainer.children = [running.Child(name, SimpleNamespace(poll=lambda: 1, returncode=1), 0)]  # type: ignore[arg-type]
    trainer.collect()  # its train.log was deleted
    (failed,) = [run for run in grid.record.runs if run.status == "failed"]
    assert failed.name == name
    assert "No such file" in failed.reason
    assert said[0][0] == "failed"


@POSIX_ONLY
def test_when_the_grids_own_file_cannot_be_written_its_runs_are_told_to_save(text, monkeypatch):
    grid = Grid.create(Path("here"), [], two_runs(text), 1, 1)
    trainer, told = running._Trainer(grid, Width(1, 1), lambda label, text: None), []
    child = SimpleNamespace(poll=lambda: 0, returncode=0, send_signal=told.append, wait=lambda: 0, kill=lambda: None)
    trainer.waiting, trainer.children = [], [running.Child("a", child, 0), running.Child("b", child, 0)]  # type: ignore
    monkeypatch.setattr(grid, "note", lambda *names, **found: (_ for _ in ()).throw(CheckpointError("disk full")))
    with pytest.raises(CheckpointError, match="disk full"):
        trainer.loop()
    assert told == [signal.SIGTERM]


def test_a_grid_that_cannot_be_gone_on_with_is_refused_with_the_reason(done, text):
    assert "no grid in runs/ of this folder" in run("--resume").stderr
    assert "name the folder of a grid" in run("--resume", "--output", "nowhere").stderr
    shutil.copytree(done[0], "here")
    record = json.loads(Path("here/grid.json").read_text(encoding="utf-8"))
    Path("here/grid.json").write_text(json.dumps({**record, "texts": ["another"]}), encoding="utf-8")
    assert "its text has changed since it began" in run("--resume", "--output", "here").stderr
    record["runs"][0]["name"] = "../elsewhere"
    for damaged in ("", "{}", json.dumps(record), "[" * 10_000):
        Path("here/grid.json").write_text(damaged, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"grid\.json: a damaged grid: "):
            Grid.existing(Path("here"))
