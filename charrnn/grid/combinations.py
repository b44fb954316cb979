"""From the values of a few keys to the configuration and the name of every combination of them."""

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charrnn.config import Config, load_config, parse_vary
from charrnn.errors import ConfigError

DEFAULT = ("cell=rnn,gru,lstm", "num_layers=1,2,3", "hidden_size=64,128,256,512")
"""The grid of Karpathy, Johnson and Fei-Fei (2015), "Visualizing and Understanding Recurrent Networks", table 1."""

CELL, LAYERS, UNITS, SEED = "model.cell", "model.num_layers", "model.hidden_size", "training.seed"

_MOST = 1000
"""Runs of a grid; with more of them somebody has misplaced a comma."""

_LONGEST_NAME = 150
"""Characters: file systems take 255 bytes, and temporary files add some."""


@dataclass(frozen=True)
class Combination:
    """One run of a grid: its folder's name, its configuration, and the varied keys' values as JSON has them."""

    name: str
    config: Config
    values: dict[str, Any]


def combine(
    vary: Iterable[str],
    path: Path | None = None,
    settings: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
) -> tuple[list[str], list[Combination]]:
    """The varied keys, in the order of the configuration, and every combination of the values of `--vary` options.

    The other arguments are those of `load_config`. Raises ConfigError that names every problem, and of those that only
    some combinations have, which.
    """
    values = _values(vary)
    choices = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
    configs: list[Config] = []
    problems: dict[str, list[str]] = {}
    for choice in choices:
        found = _loaded(path, settings, flags, choice)
        if isinstance(found, Config):
            configs.append(found)
        else:
            for line in found:
                problems.setdefault(line, []).append(
                    " ".join(f"{key}={text_of(value)}" for key, value in choice.items())
                )
    if problems:
        raise ConfigError("\n".join(_said_of(line, where, len(choices)) for line, where in problems.items()))
    found_values = [_as_loaded(config, choice) for config, choice in zip(configs, choices, strict=True)]
    for key, given in values.items():
        if len({text_of(found[key]) for found in found_values}) < len(given):
            raise ConfigError(f"--vary {key} = {', '.join(map(text_of, given))}: expected each value once")
    names = _told_apart(map(label, found_values))
    return list(values), [Combination(*one) for one in zip(names, configs, found_values, strict=True)]


def _as_loaded(config: Config, choice: Mapping[str, object]) -> dict[str, Any]:
    """The chosen values as a configuration took them, 1e-3 as 0.001; auto stays, whatever it stands for."""
    plain = config.model_dump(mode="json")
    paths = {key: key.partition(".") for key in choice}
    return {key: "auto" if choice[key] == "auto" else plain[section][name] for key, (section, _, name) in paths.items()}


def _loaded(
    path: Path | None, settings: Sequence[str], flags: Mapping[str, object] | None, choice: Mapping[str, object]
) -> Config | list[str]:
    """The configuration with a choice of the varied values, or what is wrong with it."""
    try:
        return load_config(path, settings, flags, varied=choice)
    except ConfigError as error:
        return str(error).splitlines()


def _values(vary: Iterable[str]) -> dict[str, list[object]]:
    """The values by their key, in the order of the configuration. Raises ConfigError."""
    found: dict[str, list[object]] = {}
    for option in vary:
        key, values = parse_vary(option)
        if key in found:
            raise ConfigError(f"--vary {key}: given twice; name all its values in one, such as {key}=V1,V2")
        found[key] = values
    number = math.prod(map(len, found.values()))
    if number > _MOST:
        raise ConfigError(f"--vary: {number:,} combinations; expected at most {_MOST:,}, each of which is a run")
    order = [f"{section}.{key}" for section, keys in Config().model_dump().items() for key in keys]
    return {key: found[key] for key in order if key in found}


def _said_of(line: str, where: list[str], everywhere: int) -> str:
    if len(where) == everywhere:
        return line
    return f"{line} (with {where[0]}{f' and {len(where) - 1} more' * (len(where) > 1)})"


def label(values: Mapping[str, Any]) -> str:
    """Values as a name that a folder can have: lstm-2-128, lstm-dropout-0.2-seed-1.

    A cell's name says what it is, and so do two sizes side by side; of other values the key is named too.
    """
    bare = {CELL, LAYERS, UNITS} if {LAYERS, UNITS} <= values.keys() else {CELL}
    parts = (
        _slug(value) if key in bare else f"{key.partition('.')[2]}-{_slug(value)}" for key, value in values.items()
    )
    return "-".join(parts)[:_LONGEST_NAME].strip("-.")


def _slug(value: Any) -> str:
    """What a folder may be called: letters and digits; of others like \u00bd it is not agreed what they are."""
    allowed = (char if char.isalpha() or char.isdecimal() or char in "_.+-" else " " for char in text_of(value))
    return "-".join("".join(allowed).split()).strip("-")


def text_of(value: Any) -> str:
    """A value as the configuration's YAML has it, in one line."""
    return value if isinstance(value, str) else json.dumps(value)


def _told_apart(names: Iterable[str]) -> Iterator[str]:
    """The names, numbered where two would be one on a file system that takes capitals for small letters."""
    taken: set[str] = set()
    for name in names:
        candidates = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        free = next(candidate for candidate in candidates if candidate.casefold() not in taken)
        taken.add(free.casefold())
        yield free
