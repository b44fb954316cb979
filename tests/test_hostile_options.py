"""Every option that is a number, of every command and of the configuration, with numbers that nobody means.

The options are found, not listed, so that a new one is tried by itself.
"""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer

from charrnn import cli
from charrnn.bench import measuring
from charrnn.config import Config, load_config
from charrnn.errors import ConfigError, TextError, TrainingError
from charrnn.training import loop
from charrnn.training.runs import Run
from tests.conftest import SMALL, SilentView
from tests.test_cli import run

NUMBERS = [
    *("0", "-1", "-0.0", "0.5", "1e-300", "5e-324", "nan", "-nan", "inf", "-inf", "1e308", "1e400", str(2**31)),
    *(str(2**63 - 1), str(2**63), str(10**30), "-" + str(10**30), "9" * 400, "9" * 5000),
]
WORDS = ["", " ", "x", "0x10", "1_000", "1,000", "²", "١٢", "\x1b[31m", "true", "null", "[1]", "{}", "1e", "--"]


def numeric_options(app: typer.Typer = cli.app, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each command's name with each of its options that takes a number."""
    for group in app.registered_groups:
        yield from numeric_options(group.typer_instance, (*above, str(group.name)))
    for command in app.registered_commands:
        assert command.callback is not None
        for name, hint in get_type_hints(command.callback, include_extras=True).items():
            plain = get_args(hint)[0] if get_args(hint) else hint
            if {int, float} & {plain, *get_args(plain)}:
                yield (*above, command.name or command.callback.__name__), "--" + name.replace("_", "-")


NEEDED: dict[tuple[str, ...], list[str]] = {
    ("sample",): ["run"],
    ("evaluate",): ["run"],
    ("bench",): ["--set", "hidden_size=3"],
    ("grid",): ["text.txt", "--vary", "seed=0,1", "--set", "hidden_size=3"],
}
"""What else a command is told, so that it would work with a good number."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("options")
    text = folder / "text.txt"
    text.write_text("to be or not to be\n" * 40, encoding="utf-8")
    return loop.train(load_config(flags={**SMALL, "corpus.source": str(text)}), SilentView(), folder / "run")


@pytest.fixture
def here(trained: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `run`, in which nothing takes long: a text of 10**30 characters ends after three."""
    from charrnn import trained as model

    (folder / "run").symlink_to(trained.folder, target_is_directory=True)
    (folder / "text.txt").write_text("to be or not to be\n" * 40, encoding="utf-8")
    ordinary = model.generate
    monkeypatch.setattr(model, "generate", lambda *args, **options: itertools.islice(ordinary(*args, **options), 3))
    monkeypatch.setattr(measuring, "measure", lambda case, place, seconds: {"seconds": seconds})
    monkeypatch.setattr("charrnn.bench.report.tables", lambda found, label: [])
    monkeypatch.setattr("charrnn.grid.running.train_all", lambda grid, width, say: None)
    monkeypatch.setattr("charrnn.grid.report.refuse_failed", lambda grid: None)
    return folder


def test_the_options_that_are_numbers_are_found():
    known = {(("sample",), "--temperature"), (("sample",), "--top-k"), (("evaluate",), "--lanes")}
    assert known < set(numeric_options())


@pytest.mark.parametrize(
    ("command", "option"),
    [*numeric_options()],
    ids=lambda value: " ".join([value] if isinstance(value, str) else value),
)
def test_any_number_works_or_is_refused_with_2_by_the_name_of_its_option(command, option, here):
    assert command in NEEDED, "say what this command needs beside its numbers"
    needed = [*NEEDED[command], *(["--dynamic"] if option.startswith("--dynamic-") else [])]
    for number in NUMBERS + WORDS:
        done = run(*command, *needed, f"{option}={number}")
        assert done.exception is None or type(done.exception) is SystemExit, (number, done.exception)
        if done.exit_code:
            assert done.exit_code == 2, (number, done.stderr)
            message = done.stderr.replace("'", "")
            assert option in message or f"{option.strip('-')} = " in message.splitlines()[0], (number, message)
            assert "\x1b" not in done.stderr
            assert done.stdout == ""


def numeric_keys() -> list[str]:
    """Every key of the configuration that takes a number."""
    schema = Config.model_json_schema()
    sections = [(name, schema["$defs"][field["$ref"].rpartition("/")[2]]) for name, field in top(schema)]
    return [
        f"{section}.{key}"
        for section, part in sections
        for key, field in part["properties"].items()
        if {"integer", "number"} & {kind.get("type") for kind in [field, *field.get("anyOf", [])]}
    ]


def top(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, field["allOf"][0] if "allOf" in field else field) for name, field in schema["properties"].items()]


def test_the_keys_that_are_numbers_are_found():
    known = {"model.hidden_size", "model.embedding_size", "training.clip_norm", "corpus.validation"}
    assert known < set(numeric_keys())


def configured(key: str, number: str, base: Config) -> Config | None:
    """The base with a number under a key, or None if that is refused as it should be."""
    needed = ["input=embedding", "embedding_size=3"] if key == "model.embedding_size" else []
    try:
        return load_config(settings=[*needed, f"{key}={number}"], base=base)
    except ConfigError as error:
        problem = error
    assert str(problem).startswith(f"--set {key}: ") or key.partition(".")[2] in str(problem)
    return None


@pytest.mark.parametrize("key", numeric_keys())
def test_any_number_of_the_configuration_trains_or_is_refused_by_its_name(key, small_config, folder, view):
    base = load_config(settings=["budget=3 steps", "evaluations=1", "samples=1"], base=small_config)
    for word in WORDS:
        configured(key, word, base)
    for index, number in enumerate(NUMBERS):
        config = configured(key, number, base)
        with contextlib.suppress(TextError, TrainingError):  # no text left, or a loss that explodes
            assert config is None or loop.train(config, view, folder / str(index)).last.exists()
