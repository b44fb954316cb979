"""What the README tells a reader to type works."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import charrnn
from charrnn import cli
from charrnn.config import load_config

ROOT = Path(charrnn.__file__).parents[1]
README = ROOT / "README.md"

if not README.exists():
    pytest.skip("an installed charrnn has no README beside it", allow_module_level=True)

QUICK = [
    "--set",
    "training.batch_size=4",
    "--set",
    "training.sample_length=20",
    "--set",
    "precision=float32",
    "--set",
    "engine=torch",
]
TEXT = "Once upon a time there was a text. It was read again and again, until somebody knew it by heart.\n" * 30


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("charrnn ")]


def quickened(command: list[str]) -> list[str]:
    """The command with its training shortened to a few steps; a resumed run may only change its budget."""
    if command[0] not in ("train", "grid"):
        return command
    if "--budget" in command:
        at = command.index("--budget") + 1
        command = [*command[:at], "3 steps", *command[at + 1 :]]
    elif "--resume" not in command:
        command = [*command, "--budget", "2 steps"]
    return command if "--resume" in command else command + QUICK


def test_every_command_of_the_readme_runs_in_the_order_in_which_it_stands(folder, monkeypatch):
    monkeypatch.setattr("charrnn.training.recipe._measured_speed", lambda *arguments: 1e9)
    shutil.copytree(ROOT / "configs", "configs")
    Path("my.txt").write_text(TEXT, encoding="utf-8")
    Path("opening.txt").write_text(TEXT[:50], encoding="utf-8")
    assert len(commands()) > 15
    for command in commands():
        done = CliRunner().invoke(cli.app, quickened(command))
        assert done.exit_code == 0, f"charrnn {shlex.join(command)}: {done.stderr}"


def test_the_readmes_python_runs(folder, capsys):
    Path("my.txt").write_text(TEXT, encoding="utf-8")
    command = ["train", "my.txt", "--run", "runs/my-run", "--budget", "2 steps", "--set", "hidden_size=256"]
    assert CliRunner().invoke(cli.app, command + QUICK).exit_code == 0
    assert len(blocks("python")) == 2
    for block in blocks("python"):
        exec(compile(block, str(README), "exec"), {})
    assert capsys.readouterr().out.startswith("Once")


def test_every_setting_that_the_readme_names_can_be_made():
    text = README.read_text(encoding="utf-8")
    found = [code for code in re.findall(r"`(--set [^`]+)`", text) if not re.search(r"=(N|FILE)\b|KEY|key=value", code)]
    assert len(found) > 5
    for code in found:
        load_config(settings=[part for part in shlex.split(code) if part != "--set"])


def test_the_readmes_configuration_loads(folder):
    (block,) = blocks("yaml")
    Path("my.yaml").write_text(block, encoding="utf-8")
    assert load_config("my.yaml").training.learning_rate == 4e-3


def test_make_train_and_make_test_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    made = [line.split()[1] for block in blocks("sh") for line in block.splitlines() if line.startswith("make ")]
    assert made == ["train", "test"]
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in made)


def test_every_file_that_the_readme_names_exists():
    text = README.read_text(encoding="utf-8")
    named = re.findall(r"\b(charrnn/[\w/]+\.py|configs/\w+\.yaml)\b", text)
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []
