"""Configurations made to break the reading of them: a Config or a ConfigError with its place comes out, soon."""

import functools
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charrnn.config import Config, load_config
from charrnn.errors import ConfigError

KEYS = [(section, key) for section, values in Config().model_dump().items() for key in values]
VALID = [
    Config().to_yaml(),
    "corpus:\n  source: [a, b]\n  validation: 0.2\nmodel:\n  cell: gru\ntraining:\n  betas: [0.5, 0.6]\n",
    "model: {cell: rnn, activation: relu}\ntraining: {budget: 30 epochs, clip_norm: null, sample_prefix: 'a: b'}\n",
]

SECONDS = 5.0
"""For one configuration, on a machine that others use too; the slowest takes a hundredth of it."""

scalars = st.sampled_from(
    [
        *("0", "-1", "1e400", "-0.0", ".inf", "-.inf", ".nan", "9" * 25, "9" * 4500, "-" + "9" * 400, "1e-400", "0x7f"),
        *("0o17", "0b1", "1_000", "190:20:30", "1:60.5", "true", "yes", "off", "null", "~", "''", "[]", "{}", "[[[]]]"),
        *("2001-12-14", "2001-12-14t21:59:43.10-05:00", "9999-99-99", "!!binary aGVsbG8=", "!!binary '*'", "!!set {a}"),
        *("!!omap [a: 1]", "!!pairs [a: 1]", "!!timestamp x", "!!int x", "!!python/object/apply:os.abort []", "!x y"),
        *("&a b", "*a", "&a [*a]", "{a: b}", "[a, 1, null]", "a: b", "- a", "|\n   a\n", ">-\n   a", '"\\x00\\e[31m"'),
        *('"\\ud800"', '"\\U0010ffff"', "\u202ea\u0301", "\U0001f600", "\x85", "\u2028", "\ufeff", "\ufffe", "@", "`"),
        *(
            "1e3",
            "30 epochs",
            "5m",
            "9" * 400 + " steps",
            "0.0s",
            "'{'",
            '"',
            "'",
            "%",
            "? a",
            "<<",
            "=",
            "1" + ":00" * 99,
        ),
    ]
) | st.text(max_size=8)
names = st.sampled_from([*(key for _, key in KEYS), "corpus", "model", "training", "<<", "? [a]", "1", "", "\x1b", "é"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Sections, most of them ours, with keys, most of them ours, and values of every kind; some of it twice."""
    lines = []
    ours = st.sampled_from(["corpus", "model", "training"])
    for section in draw(st.lists(ours, max_size=2, unique=True) | st.lists(ours | names, max_size=3)):
        lines.append(f"{section}:{draw(st.sampled_from([*[''] * 20, ' &a', ' !!map', ' 3', ' {a: 1}', ' *a']))}")
        of_section = [key for owner, key in KEYS if owner == section]
        keys = st.sampled_from(of_section * 5 + ["1", "<<", "é"]) if of_section else names
        lines += [f"  {key}: {value}" for key, value in draw(st.lists(st.tuples(keys, scalars), max_size=2))]
    return "\n".join(lines)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """The bytes of a valid configuration with some taken out, doubled, or others put in."""
    raw = draw(st.sampled_from(VALID)).encode()
    for _ in range(draw(st.integers(1, 4))):
        start, length = draw(st.integers(0, len(raw))), draw(st.integers(0, 12))
        piece = raw[start : start + length]
        raw = raw[:start] + draw(st.sampled_from([b"", piece * 2]) | st.binary(max_size=6)) + raw[start + length :]
    return raw


known = st.sampled_from([key for _, key in KEYS] + [".".join(pair) for pair in KEYS])
set_texts = st.lists(st.tuples(known, scalars).map("=".join), min_size=1, max_size=2) | st.lists(
    st.tuples(known | names | st.text(max_size=5), scalars).map("=".join) | st.text(max_size=8), min_size=1, max_size=4
)


def outcome(read: Callable[[], Config]) -> Config | str:
    """The Config, or what the ConfigError says, soon."""
    started = time.process_time()
    try:
        result: Config | str = read()
    except ConfigError as error:
        result = str(error)
    assert time.process_time() - started < SECONDS
    return result


def check(result: Config | str, place: str) -> str:
    """An error names its place in each line; a Config comes back from its own YAML."""
    if isinstance(result, str):
        assert all(re.match(place, line) for line in result.split("\n")), result
        assert len(result) < 20_000
        return result
    Path("again.yaml").write_bytes(result.to_yaml().encode())
    assert load_config("again.yaml") == result
    return ""


def check_file(content: str | bytes) -> str:
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    Path("c.yaml").write_bytes(raw)
    return check(outcome(lambda: load_config("c.yaml")), r"c\.yaml(:\d+)?: .")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fuzzed(examples: int, strategy: Any) -> Callable[[Any], Any]:
    """A test with so many examples in the usual suite, and forty times as many in the slow one."""

    def decorate(test: Callable[[Any], None]) -> Callable[[int], None]:
        @pytest.mark.parametrize("count", [examples, pytest.param(40 * examples, marks=pytest.mark.slow)])
        @functools.wraps(test, assigned=("__name__", "__doc__"))
        def run(count: int) -> None:
            suppressed = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

            @settings(deadline=None, max_examples=count, suppress_health_check=suppressed)
            @given(strategy)
            def one(content: Any) -> None:
                test(content)

            one()

        del run.__wrapped__  # type: ignore[attr-defined]  # pytest would look for its arguments
        return run

    return decorate


@fuzzed(250, documents())
def test_any_document_gives_a_config_or_an_error_with_its_place(text: str) -> None:
    check_file(text)


@fuzzed(200, damaged())
def test_any_damage_to_a_valid_file_gives_a_config_or_an_error_with_its_place(raw: bytes) -> None:
    check_file(raw)


@fuzzed(250, set_texts)
def test_any_settings_give_a_config_or_an_error_with_its_place(texts: list[str]) -> None:
    check(outcome(lambda: load_config(settings=texts)), "--set ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("".join(f"hidden_siz{n}: 1\n" for n in range(8_000)), "c.yaml:201: over 200 keys, which is no configuration"),
        ("model:\n" + "".join(f"  k{n}: 1\n" for n in range(8_000)), "c.yaml:201: over 200 keys"),
        ("corpus: {source: [" + "[], " * 10_000 + "]}", "corpus.source = [[], [], "),
        ("training: {betas: [" + "1, " * 10_000 + "]}", "expected a list of two numbers"),
        ("k" * 1000 + ": 1", "unknown key 'kkkkk"),
        ("training: {device: [" + "x" * 500_000 + "]}", "training.device = ['xxx"),
        ("x" * 500_000, "c.yaml:1: expected sections"),
        ("[" * 200_000, "nested too deeply"),
        ("- " * 200_000, "c.yaml"),
        ("? " * 200_000, "c.yaml"),
        ("&a " * 200_000, "c.yaml:1: not valid YAML"),
        ("a: " * 100_000, "c.yaml:1: not valid YAML"),
        ("!" * 400_000, "c.yaml"),
        ('"' + "\\x00" * 100_000, "c.yaml"),
        ("\n" * 900_000 + "x", "c.yaml:900001: expected sections"),
    ],
    ids=range(15),
)
def test_a_large_file_is_refused_soon_and_in_few_words(content: str, message: str) -> None:
    assert message in check_file(content)


def test_a_key_that_would_disturb_a_terminal_is_shown_escaped() -> None:
    Path("c.yaml").write_text('"\\e[31m\\n": 1\nmodel: {"\\a": 1, "\\a": 2}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^c\.yaml:2: 'model\.\\x07' is said twice$"):
        load_config("c.yaml")
    with pytest.raises(ConfigError, match=r"^--set '\\x1b\[31m': unknown key '\\x1b\[31m' \(known"):
        load_config(settings=["\x1b[31m=1"])
