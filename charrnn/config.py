"""Every option of charrnn: its type, unit, default and check, and how the four sources of options combine.

Defaults < YAML file < `--set key=value` < dedicated flags. All problems are found before anything is reported, and
each is named with its place, its value and what was expected. The models are frozen: a resolved configuration is a
value, saved in the run and in every checkpoint.
"""

import difflib
import json
import math
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from charrnn.errors import ConfigError
from charrnn.waiting import told_if_slow

LARGEST_FILE = 1_000_000
"""Bytes of a YAML file above which it is taken for something else."""

_MOST_KEYS = 200
"""Keys above which it is no configuration: each unknown one costs a search for its like."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?\s*[smhd]\s*)+")
_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(epochs?|steps?)")


def parse_duration(text: str) -> float:
    """Seconds meant by `90s`, `5m`, `1.5h` or `1h30m`. Raises ValueError for anything else, and for zero."""
    compact = text.strip().lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])", compact) if _DURATION.fullmatch(compact) else []
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 < seconds < math.inf:
        raise ValueError("a time such as 90s, 5m, 2h or 1h30m")
    return seconds


_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
"""20,000 is one number: a limit ends in its unit, so a comma between digits never parts two of them."""

_BUDGET = "a time (90s, 5m, 2h), a number of epochs (30 epochs) or of steps (20000 steps), above zero"

Unit = Literal["seconds", "epochs", "steps"]


@dataclass(frozen=True)
class Budget:
    """How long to train: a limit in one unit or more; the run ends with whichever is reached first."""

    seconds: float | None = None
    epochs: float | None = None
    steps: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read `2m`, `30 epochs`, `20000 steps`, or several of them: `10m, 30 epochs`, `5m or 20000 steps`.

        Raises ValueError that says what was expected, and of several limits which one is wrong.
        """
        plain = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text.lower())
        parts = re.split(r",|\bor\b", plain)
        limits: dict[str, float] = {}
        for part in parts:
            unit, amount = _parse_limit(part, f"; {_short(part.strip())} of several is none" * (len(parts) > 1))
            if unit in limits:
                raise ValueError(
                    f"of several limits at most one of time, one of epochs and one of steps, not two {unit}"
                )
            limits[unit] = amount
        return cls(**limits)

    @property
    def limits(self) -> dict[Unit, float]:
        """The amounts by their unit."""
        every: dict[Unit, float | None] = {"seconds": self.seconds, "epochs": self.epochs, "steps": self.steps}
        return {unit: amount for unit, amount in every.items() if amount is not None}

    def shares(self, spent: Mapping[Unit, float]) -> dict[Unit, float]:
        """What share of each limit is spent; the largest is the progress of the run, and 1 its end."""
        return {unit: spent[unit] / amount for unit, amount in self.limits.items()}


def _parse_limit(text: str, problem: str = "") -> tuple[Unit, float]:
    """The unit and amount of one limit. Raises ValueError that says what was expected, and then the problem."""
    counted = _COUNT.fullmatch(text.strip().lower())
    if not counted:
        try:
            return "seconds", parse_duration(text)
        except ValueError:
            raise ValueError(_BUDGET + problem) from None
    amount, unit = float(counted[1]), counted[2].rstrip("s") + "s"
    if not 0 < amount < math.inf or (unit == "steps" and not amount.is_integer()):
        raise ValueError(_BUDGET + problem)
    return ("epochs" if unit == "epochs" else "steps"), amount


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number")
    return value


def _checked_by(parse: Callable[[str], object]) -> BeforeValidator:
    def check(value: object) -> str:
        parse(str(value))
        return str(value)

    return BeforeValidator(check)


def _budget(value: object) -> str:
    """The text of a budget, whose limits YAML may list one by one. Raises ValueError if it is none."""
    listed = isinstance(value, list) and value and all(isinstance(limit, str) for limit in value)
    text = ", ".join(value) if isinstance(value, list) and listed else str(value)
    Budget.parse(text)
    return text


def _one_or_more_texts(value: object) -> object:
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise ValueError("a named corpus, a file, a folder, a glob, - for standard input, or a list of these")
    return value


# Behind the bounds: before them it would hide the type from pydantic, whose JSON Schema then names no bound.
_NotBool = BeforeValidator(_not_bool)
BudgetText = Annotated[str, BeforeValidator(_budget)]
DurationText = Annotated[str, _checked_by(parse_duration)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _refuse_idle(section: _Section, key: str, why: str) -> None:
    """Raise ValueError for an option that others leave without effect, if it is not its default."""
    value, default = getattr(section, key), type(section).model_fields[key].default
    if value != default:
        raise ValueError(f"{key} left at {_yaml_of(default)} {why}, not {_yaml_of(value)}")


def _yaml_of(value: object) -> str:
    return str(list(value) if isinstance(value, tuple) else value)


class CorpusConfig(_Section):
    """The text, and which part of it is held out."""

    source: Annotated[str | list[str], BeforeValidator(_one_or_more_texts)] = "python"
    """A named corpus, a file, a folder, a glob, - for standard input, or a list of these."""
    encoding: str = "utf-8"
    """Encoding of the files: utf-8, cp1252, latin-1, ..."""
    newlines: Literal["normalise", "keep"] = "normalise"
    """normalise turns CRLF and CR into LF; keep leaves them."""
    level: Literal["character", "byte"] = "character"
    """What one step predicts: a code point, or a byte of the files as they are."""
    max_characters: Annotated[int, Field(ge=1), _NotBool] | None = None
    """Only the first so many characters (bytes, at level byte) of the text; null for all of it."""
    min_count: Annotated[int, Field(ge=1), _NotBool] = 1
    """Characters rarer than this in the training text become the unknown character."""
    validation: Annotated[FiniteFloat, Field(ge=0, lt=1), _NotBool] = 0.1
    """The share of the text, after the training text, that is held out to choose the best checkpoint."""
    test: Annotated[FiniteFloat, Field(ge=0, lt=1), _NotBool] = 0.0
    """The share of the text, at its end, that no training run looks at; `charrnn evaluate --split test` reads it."""

    @model_validator(mode="after")
    def _check(self) -> "CorpusConfig":
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation + test below 1, so that some text is left to train on, not {self.validation} + {self.test}"
            )
        if self.level == "byte":
            for key in ("encoding", "newlines", "min_count"):
                _refuse_idle(self, key, "at level byte, which takes every byte as it is")
        return self

    @property
    def sources(self) -> list[str]:
        """`source` as a list."""
        return [self.source] if isinstance(self.source, str) else self.source


class ModelConfig(_Section):
    """The recurrent network: L = num_layers hidden layers of H = hidden_size units."""

    cell: Literal["rnn", "gru", "lstm"] = "lstm"
    """The kind of the hidden layers."""
    num_layers: Annotated[int, Field(ge=1, le=64), _NotBool] = 1
    """L, the number of hidden layers."""
    hidden_size: Annotated[int, Field(ge=1, le=65536), _NotBool] = 256
    """H, the units of each hidden layer."""
    activation: Literal["tanh", "relu"] = "tanh"
    """phi of the book; cell rnn only."""
    input: Literal["one-hot", "embedding"] = "one-hot"
    """What layer 1 reads: one-hot rows, as in the book, or learned vectors of embedding_size."""
    embedding_size: Annotated[int, Field(ge=1, le=65536), _NotBool] | None = None
    """Size of the learned vectors; with input embedding only."""
    dropout: Annotated[FiniteFloat, Field(ge=0, lt=1), _NotBool] = 0.0
    """Share of units dropped between layers and before the readout (Zaremba et al. 2014), never across time."""
    weight_dropout: Annotated[FiniteFloat, Field(ge=0, lt=1), _NotBool] = 0.0
    """Share of W_hh dropped, drawn anew for each window (DropConnect; Wan et al. 2013, Merity et al. 2018)."""

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        if self.activation != "tanh" and self.cell != "rnn":
            raise ValueError(
                f"activation tanh, not {self.activation}: cell {self.cell} has its own, only cell rnn takes another"
            )
        if (self.input == "embedding") != (self.embedding_size is not None):
            raise ValueError(
                "embedding_size together with input embedding, and only then, "
                f"not input {self.input} with embedding_size {self.embedding_size}"
            )
        return self


class TrainingConfig(_Section):
    """How the network is trained."""

    recipe: Literal["auto", "none"] = "auto"
    """auto chooses each option left at auto, by the text, the machine and the budget; none takes fixed values."""
    budget: BudgetText = "2m"
    """How long: a time (90s, 5m, 2h), `30 epochs`, `20000 steps`, or several, as `10m, 30 epochs`: the first to end."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000), _NotBool] = 32
    """B, the lanes of a minibatch: places in the text that are read side by side."""
    seq_length: Annotated[int, Field(ge=1, le=1_000_000), _NotBool] = 32
    """T, the steps of a window, through which the gradient flows back."""
    partitioning: Literal["sequential", "random"] = "sequential"
    """sequential carries the state from window to window; random shuffles windows and starts each from zero."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """adamw (Loshchilov and Hutter 2019), or sgd, plain stochastic gradient descent: the book's with weight_decay 0."""
    learning_rate: Annotated[FiniteFloat, Field(gt=0), _NotBool] = 8e-3
    """The highest learning rate."""
    betas: tuple[
        Annotated[FiniteFloat, Field(ge=0, lt=1), _NotBool], Annotated[FiniteFloat, Field(ge=0, lt=1), _NotBool]
    ] = (0.5, 0.99)
    """adamw's beta1 and beta2, the decay rates of the means of gradients and of squares; a small beta1 is best."""
    readout_rate: Annotated[FiniteFloat, Field(gt=0, le=1000), _NotBool] = 3.0
    """adamw's learning rate of the readout's weights W_hq, as a multiple of learning_rate."""
    weight_decay: Annotated[FiniteFloat, Field(ge=0), _NotBool] = 0.01
    """Decoupled decay of the matrices, per step and times the learning rate; biases are left alone."""
    warmup: Annotated[FiniteFloat, Field(ge=0, lt=1), _NotBool] = 0.02
    """Share of the budget in which the learning rate rises from almost zero."""
    schedule: Literal["wsd", "cosine", "linear", "constant"] = "wsd"
    """How the learning rate falls to final_learning_rate; wsd (warm-up, stable, decay) leaves it up until cooldown."""
    cooldown: Annotated[FiniteFloat, Field(gt=0, le=1), _NotBool] = 0.4
    """Share of the budget, at its end, in which wsd's learning rate falls along a line."""
    final_learning_rate: Annotated[FiniteFloat, Field(ge=0), _NotBool] = 0.0
    """Where the schedule ends."""
    clip_norm: Annotated[FiniteFloat, Field(gt=0), _NotBool] | None = 1.0
    """theta of the book: the gradient's largest global norm; null for no clipping."""
    averaging: Annotated[FiniteFloat, Field(ge=0, le=0.5), _NotBool] = 0.0
    """Evaluate, sample and keep averaged weights whose mean age is this share of the steps so far; 0 for the latest."""
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """Precision of the products; auto takes bfloat16 where the hardware has it and a trial shows it faster, else
    float32."""
    engine: Literal["auto", "reference", "written", "torch", "compiled"] = "auto"
    """What runs the layers: reference, the readable equations, by which the model is sampled and evaluated too;
    written, their gradients by hand; torch, PyTorch's kernels; compiled, C compiled for this CPU where there is a
    compiler; auto, whichever is fastest in a trial on the CPU, and torch on a GPU."""
    cuda_graph: bool = False
    """On a GPU, capture forward and backward once and replay them; nothing elsewhere. Not measured yet, hence off."""
    threads: Annotated[int, Field(ge=1, le=1024), _NotBool] | None = None
    """At most so many threads of the CPU; null for all, or while time is the budget for as many as prove fastest."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes cuda where there is one."""
    explosion: Annotated[FiniteFloat, Field(gt=1), _NotBool] | None = 3.0
    """Roll back at a training loss of so many times the first, or one that jumps and stays up; null for never."""
    rollbacks: Annotated[int, Field(ge=0), _NotBool] = 3
    """How often to go back to the last good state with half the learning rate before giving up."""
    patience: Annotated[int, Field(ge=1), _NotBool] | None = None
    """Evaluations in a row without a new best after which training stops, or wsd's cooldown begins; null for never."""
    seed: Annotated[int, Field(ge=0, lt=2**63), _NotBool] = 0
    """Seeds the initial weights, the order of the windows, dropout and the samples on the way."""
    evaluations: Annotated[int, Field(ge=1, le=1_000_000), _NotBool] = 20
    """How often to evaluate on the validation text, evenly spread; a time budget skips some that would be costly."""
    samples: Annotated[int, Field(ge=0, le=1_000_000), _NotBool] = 4
    """How often to print a sample, evenly spread."""
    sample_prefix: str = ""
    """What the samples continue."""
    sample_length: Annotated[int, Field(ge=1, le=1_000_000), _NotBool] = 300
    """Characters of a sample."""
    checkpoint_every: DurationText = "60s"
    """The longest time between two writings of last.safetensors; every evaluation writes it too."""
    keep: Annotated[int, Field(ge=0, le=1000), _NotBool] = 0
    """How many evaluated models to keep as step-<number>.safetensors beside best and last; to sample, not to resume."""
    keep_by: Literal["best", "newest"] = "best"
    """Which of them: those with the lowest validation loss, or the latest; the others are deleted."""
    tensorboard: bool = False
    """Also write the metrics as TensorBoard events into the run (needs the extra charrnn[tensorboard])."""

    @model_validator(mode="after")
    def _check(self) -> "TrainingConfig":
        is_open = self.recipe == "auto" and "learning_rate" not in self.model_fields_set
        if self.final_learning_rate > self.learning_rate and not is_open:
            raise ValueError(
                f"final_learning_rate at most learning_rate, not {self.final_learning_rate} and {self.learning_rate}"
            )
        if self.optimizer == "sgd":
            _refuse_idle(self, "betas", "with optimizer sgd, which has no moments")
            _refuse_idle(self, "readout_rate", "with optimizer sgd, which has one rate for all")
        if self.schedule != "wsd":
            _refuse_idle(self, "cooldown", f"with schedule {self.schedule}, which has none")
        elif self.warmup + self.cooldown > 1:
            raise ValueError(f"warmup + cooldown at most 1, not {self.warmup} + {self.cooldown}")
        if self.schedule == "constant":
            _refuse_idle(self, "final_learning_rate", "with schedule constant, which ends at learning_rate")
        return self

    @property
    def checkpoint_seconds(self) -> float:
        """`checkpoint_every` in seconds."""
        return parse_duration(self.checkpoint_every)


class Config(_Section):
    """The whole configuration."""

    corpus: CorpusConfig = CorpusConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()

    def left_to_recipe(self) -> list[str]:
        """The dotted keys that nobody has said and a recipe is to choose."""
        said = {"model": self.model.model_fields_set, "training": self.training.model_fields_set}
        chosen = RECIPE if self.training.recipe == "auto" else ()
        return [f"{section}.{key}" for section, key in chosen if key not in said[section]]

    def to_yaml(self, explained: bool = False) -> str:
        """The configuration as YAML that `load_config` reads back to an equal one.

        explained: with each option's meaning in a comment above it.
        """
        values = self.model_dump(mode="json")
        for section, _, key in (name.partition(".") for name in self.left_to_recipe()):
            values[section][key] = AUTO
        if not explained:
            return _to_yaml(values)
        lines: list[str] = []
        for name, options in values.items():
            section = getattr(self, name)
            lines += [f"# {section.__doc__}", f"{name}:"]
            for key, value in options.items():
                meaning = type(section).model_fields[key].description or ""
                lines += [f"  # {line}" for line in textwrap.wrap(meaning, 100)]
                lines += [*textwrap.indent(_to_yaml({key: value}), "  ").splitlines(), ""]
        return "\n".join(lines)


def _to_yaml(values: Mapping[str, Any]) -> str:
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


AUTO = "auto"
"""What a key is set to, or left at, whose value is the recipe's to choose."""

RECIPE = (
    *(("model", key) for key in ("cell", "num_layers", "hidden_size", "dropout", "weight_dropout")),
    *(("training", key) for key in ("batch_size", "seq_length", "learning_rate", "readout_rate")),
)
"""Sections and keys that charrnn.training.recipe chooses."""

IN_NO_WEIGHT = frozenset({"dropout", "weight_dropout"})
"""Of the model section, what another run with the same weights may have otherwise."""


def json_schema() -> dict[str, Any]:
    """The JSON Schema of configurations."""
    schema = Config.model_json_schema()
    for section, key in RECIPE:
        options = schema["$defs"][Config.model_fields[section].annotation.__name__]["properties"]  # type: ignore[union-attr]
        about = {name: options[key].pop(name) for name in ("title", "description", "default")}
        options[key] = {"anyOf": [{"const": AUTO}, options[key]], **about, "default": AUTO}
    return schema


RESUMABLE = frozenset(
    f"training.{key}"
    for key in ("budget", "device", "evaluations", "samples", "sample_prefix", "sample_length", "checkpoint_every")
) | {
    *("training.engine", "training.threads", "training.keep", "training.keep_by", "training.tensorboard"),
    *("training.explosion", "training.rollbacks", "training.patience"),
    "corpus.source",  # where the text is; that it is the same one is seen by its SHA-256
}
"""Keys that a resumed run may change; every other one would make it a different run."""


# ---- reading YAML with the place of every value

Key = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number and refuses aliases, which a configuration of this size never needs."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            problem = "aliases (*name) are not supported; what begins with * needs quotes"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            if node.tag == "tag:yaml.org,2002:int" and re.search(r"^[-+]?0[0-9_]+$|:", node.value):
                raise ValueError("to YAML of base 8, or 60")  # 010 would be 8, and 1:30 90
            return super().construct_object(node, deep=deep)
        # What PyYAML's own constructors let through for such as 2001-99-99, 0x_ and !!bool maybe.
        except (ValueError, LookupError, AttributeError, OverflowError):
            problem = f"{_short(node.value)} is not a valid {node.tag.rpartition(':')[2]}; quote it if it is a text"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes every text which `_Loader` would read as something else."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # YAML 1.1 folds these line breaks where a text is not in double quotes.
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)

# YAML 1.1 asks for a dot and a signed exponent; 1e-3, 4E5 and 2.5e3 are numbers to everybody else.
for _either in (_Loader, _Dumper):
    _either.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)[eE][-+]?\d+\Z"), list("-+0123456789.")
    )

_QUOTES = {
    "mapping values": "; a text with a colon in it needs quotes",
    "sequence entries": "; - alone needs quotes",
    "expected alphabetic": "; what begins with * or & needs quotes",
}
"""What to do about some of PyYAML's complaints."""

_UNREADABLE = (yaml.YAMLError, RecursionError, ValueError, OverflowError)
"""What PyYAML raises for a text that is no YAML."""


@dataclass(frozen=True)
class _Settings:
    """Nested values of a configuration, and for each key the place where it was said."""

    values: dict[str, Any]
    places: dict[Key, str]

    def merged(self, other: "_Settings") -> "_Settings":
        """These settings with the other's on top."""
        return _Settings(_merge(self.values, other.values), {**self.places, **other.places})


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        # `training:` with everything under it commented out changes nothing.
        merged[key] = _merge(old, value or {}) if isinstance(old, dict) and isinstance(value, dict | None) else value
    return merged


def _nested(key: Key, value: object) -> dict[str, Any]:
    for part in reversed(key):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def _parse_yaml(text: str, name: str) -> _Settings:
    """Values and places of a YAML document. Raises ConfigError with the line for what is not a plain mapping."""
    places: dict[Key, str] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None or node.tag == "tag:yaml.org,2002:null":
            return _Settings({}, {})
        if not isinstance(node, yaml.MappingNode):
            line = node.start_mark.line + 1
            raise ConfigError(f"{name}:{line}: expected sections corpus:, model: and training:, got {_short(text)}")
        values = _construct(loader, node, (), name, places)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        said = error.problem or error.context
        advice = next((text for what, text in _QUOTES.items() if what in str(said)), "")
        raise ConfigError(f"{place}: not valid YAML: {said}{advice}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{name}:{line}: not valid YAML: U+{error.character:04X} is not allowed") from None
    except _UNREADABLE as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigError(f"{name}: not valid YAML: {problem}") from None
    return _Settings(values, places)


def _construct(
    loader: _Loader, node: yaml.MappingNode, above: Key, name: str, places: dict[Key, str]
) -> dict[str, Any]:
    if node.tag != "tag:yaml.org,2002:map":
        raise yaml.MarkedYAMLError(problem=f"tags such as {node.tag} are not supported", problem_mark=node.start_mark)
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = str(loader.construct_object(key_node, deep=True))
        if key in values:
            raise ConfigError(f"{name}:{line}: {_plain('.'.join((*above, key)))} is said twice")
        here = (*above, key)
        if len(places) == _MOST_KEYS:
            raise ConfigError(f"{name}:{line}: over {_MOST_KEYS} keys, which is no configuration; is it your text?")
        places[here] = f"{name}:{line}"
        if isinstance(value_node, yaml.MappingNode):
            values[key] = _construct(loader, value_node, here, name, places)
        else:
            values[key] = loader.construct_object(value_node, deep=True)
    return values


def _read_file(path: Path) -> _Settings:
    try:
        with told_if_slow(f"{_plain(str(path))} is being read until its end"), path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot read the configuration: {reason}") from None
    if len(raw) > LARGEST_FILE:
        raise ConfigError(f"{path}: too large for a configuration (over {len(raw) - 1:,} bytes); is it your text?")
    try:
        return _parse_yaml(raw.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a YAML file: byte {error.start} is not valid UTF-8") from None


def is_configuration(path: str) -> bool:
    """Whether a file is YAML with sections of ours, and so hardly the text that somebody wants to train on."""
    if not path.lower().endswith((".yaml", ".yml")) or not os.path.isfile(path):
        return False
    try:
        values = _read_file(Path(path)).values
    except ConfigError:
        return False
    return bool(values) and values.keys() <= Config.model_fields.keys()


# ---- `--set key=value` and flags

_KEYS: tuple[Key, ...] = tuple(
    (section, key)
    for section, field in Config.model_fields.items()
    for key in field.annotation.model_fields  # type: ignore[union-attr]
)


def _full_key(text: str) -> Key:
    """The key meant by `model.hidden_size` or, as no two sections share a name, by `hidden_size`."""
    key = tuple(text.split("."))
    matches = [known for known in _KEYS if known[-len(key) :] == key]
    return matches[0] if matches else key


_TEXTS = {("corpus", "source"), ("training", "sample_prefix")}
"""Keys that take any text."""


def _parse_setting(setting: str) -> _Settings:
    key_text, equals, value_text = setting.partition("=")
    if not equals or not key_text.strip():
        raise ConfigError(f"--set {_plain(setting)}: expected key=value, such as model.hidden_size=512")
    key, place = _full_key(key_text.strip()), f"--set {_plain(key_text.strip())}"
    value = _parse_value(value_text)
    if key in _KEYS and isinstance(value, dict) and not value_text.lstrip().startswith("{"):
        value = value_text  # no option is a mapping: a text with a colon in it
    may_be_listed = key == ("corpus", "source") and isinstance(value, list)
    if key in _TEXTS and not may_be_listed and value_text.lstrip()[:1] not in tuple("\"'|>!&"):
        value = value_text  # with the spaces at its ends, what follows a #, and what YAML would make a number of
    names = value if isinstance(value, dict) else ()
    return _Settings(_nested(key, value), {key: place, **{(*key, str(name)): place for name in names}})


def parse_vary(option: str) -> tuple[str, list[object]]:
    """The dotted key and the values of a `--vary KEY=V1,V2,...`, which are read as YAML between brackets.

    So `"10m, 30 epochs"` in quotes and [0.9, 0.99] are one value each. Raises ConfigError that names the key.
    """
    key_text, equals, values_text = option.partition("=")
    if not equals or not key_text.strip():
        raise ConfigError(f"--vary {_plain(option)}: expected KEY=V1,V2,..., such as hidden_size=64,128")
    key, place = _full_key(key_text.strip()), f"--vary {_plain(key_text.strip())}"
    if key not in _KEYS:
        raise ConfigError(f"{place}: unknown key {_plain('.'.join(key))}{_nearest(key[-1], key[:-1])}")
    values = _parse_value(f"[{values_text}]")
    if not isinstance(values, list) or not values:
        raise ConfigError(
            f"{place} = {_short(values_text)}: expected values apart by commas, in quotes where they hold one"
        )
    return ".".join(key), values


def _parse_value(text: str) -> object:
    if text.strip() == "-":  # standard input; to YAML, a list of nothing
        return "-"
    try:
        return yaml.load(text, Loader=_Loader)
    except _UNREADABLE:
        return text


# ---- from settings to a Config, or to one error that names every problem


_FLAGS = {"corpus.source": "TEXT"}
"""Arguments of the command line that are called otherwise than the keys they set."""


def load_config(
    path: str | Path | None = None,
    settings: Iterable[str] = (),
    flags: Mapping[str, object] | None = None,
    base: Config | None = None,
    varied: Mapping[str, object] | None = None,
) -> Config:
    """Resolve the configuration.

    path: a YAML file. settings: `key=value` texts of `--set`. flags: full dotted keys to values of dedicated flags,
    None meaning not given. base: what stands in place of the defaults (a resumed run's own configuration).
    varied: full dotted keys to one of the values of their `--vary`; of these no other option may speak.
    Raises ConfigError that names every problem found, a line each.
    """
    merged = _Settings(base.model_dump(exclude_unset=True) if base else {}, {})
    if path is not None:
        merged = merged.merged(_read_file(Path(path)))
    for setting in settings:
        merged = merged.merged(_parse_setting(setting))
    for name, value in (flags or {}).items():
        if value is not None:
            key = tuple(name.split("."))
            merged = merged.merged(
                _Settings(_nested(key, value), {key: _FLAGS.get(name, f"--{key[-1].replace('_', '-')}")})
            )
    for name, value in (varied or {}).items():
        key = tuple(name.split("."))
        place = merged.places.get(key, "")
        if place.startswith("--") or place in _FLAGS.values():
            raise ConfigError(f"{name}: given by {place} and varied by --vary; only one of them")
        merged = merged.merged(_Settings(_nested(key, value), {key: f"--vary {name}"}))
    if base is not None:
        merged = merged.merged(_Settings({"model": _network_at_auto(merged.values, base)}, {}))
    return _validated(merged)


def _network_at_auto(values: Mapping[str, Any], base: Config) -> dict[str, Any]:
    """Of the network's size and kind, what is at auto as it was before: there is nothing to be chosen any more."""
    model = values.get("model")
    said = base.model_dump(exclude_unset=True).get("model", {})
    keys = ("cell", "num_layers", "hidden_size")
    return {key: said[key] for key in keys if key in said and isinstance(model, dict) and model.get(key) == AUTO}


def _validated(settings: _Settings) -> Config:
    for section in Config.model_fields:  # `training:` with everything under it commented out
        if settings.values.get(section, 0) is None:
            del settings.values[section]
    try:
        return Config.model_validate(_without_auto(settings.values))
    except ValidationError as error:
        problems = dict.fromkeys(_explain(problem, settings.places) for problem in error.errors())
        raise ConfigError("\n".join(problems)) from None


def _without_auto(values: dict[str, Any]) -> dict[str, Any]:
    """The values without those at auto that a recipe chooses; without a recipe auto is a value like another."""
    sections = {section: dict(said) if isinstance(said, dict) else said for section, said in values.items()}
    training = sections.get("training", {})
    if isinstance(training, dict) and training.get("recipe", AUTO) == AUTO:
        for section, key in RECIPE:
            said = sections.get(section)
            if isinstance(said, dict) and said.get(key) == AUTO:
                del said[key]
    return sections


def config_from_json(text: str) -> Config:
    """The Config in a checkpoint's metadata. Raises ConfigError if it is not one."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not a configuration: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"not a configuration: expected sections, got {_short(values)}")
    if len(values) + sum(len(section) for section in values.values() if isinstance(section, dict)) > _MOST_KEYS:
        raise ConfigError(f"not a configuration: over {_MOST_KEYS} keys")
    training = values.get("training")
    if isinstance(training, dict) and training.get("optimizer") == "sgd":
        training.pop("betas", None)  # without effect, and once of another default
    return _validated(_Settings(values, {}))


def changed_keys(old: Config, new: Config) -> list[str]:
    """The dotted keys whose values differ."""
    before, after = old.model_dump(), new.model_dump()
    return [f"{section}.{key}" for section, key in _KEYS if before[section][key] != after[section][key]]


def _explain(problem: Any, places: Mapping[Key, str]) -> str:
    """One line: place, key, value, what was expected, and the nearest name for a misspelt one."""
    # Pydantic's location holds the members of unions and lists behind the key; ours are two names deep.
    key = tuple(str(part) for part in problem["loc"][:2])
    beneath = (place for said, place in places.items() if said[: len(key)] == key)
    place = places.get(key) or next(beneath, None)
    prefix = f"{place}: " if place else ""
    dotted = _plain(".".join(key))
    if problem["type"] in ("extra_forbidden", "invalid_key"):
        return f"{prefix}unknown key {dotted}{_nearest(key[-1], key[:-1])}"
    if problem["type"] == "value_error" and len(key) == 1:  # of a whole section; the message holds the values
        return f"{prefix}{dotted}: expected {_expected(problem)}"
    advice = _nearest_choice(problem) or _quotes(problem, key) or _without_recipe(problem, key)
    return f"{prefix}{dotted} = {_short(problem['input'])}: expected {_expected(problem)}{advice}"


def _expected(problem: Any) -> str:
    context = problem.get("ctx", {})
    match problem["type"]:
        case "literal_error":
            return str(context["expected"])
        case "value_error":
            return str(context["error"])
        case "int_type" | "int_parsing" | "int_parsing_size" | "int_from_float":
            return "a whole number" + _or_null(problem)
        case "float_type" | "float_parsing" | "finite_number":
            return "a number" + _or_null(problem)
        case "string_type":
            return "a text"
        case "bool_type" | "bool_parsing":
            return "true or false"
        case "model_type" | "model_attributes_type":
            return "a section with keys"
        case "tuple_type" | "missing" | "too_long":  # betas
            return "a list of two numbers"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return "a number " + str(problem["msg"]).removeprefix("Input should be ") + _or_null(problem)
    return str(problem["msg"]).removeprefix("Input should be ")


def _or_null(problem: Any) -> str:
    """That null will do too, for an option that may be."""
    section, key = problem["loc"][:2]
    option = Config.model_fields[section].annotation.model_fields[key]  # type: ignore[union-attr]
    return ", or null" if type(None) in get_args(option.annotation) else ""


def _nearest(name: str, above: Key = ()) -> str:
    known = [key for section, key in _KEYS if above == (section,)] if above else list(Config.model_fields)
    meant = [f"{section}.{key}" for section, key in _KEYS if key == name]  # the right name in the wrong place
    meant += difflib.get_close_matches(name, known, n=1)
    meant += [".".join(key) for key in _KEYS if difflib.get_close_matches(name, [key[1]], n=1, cutoff=0.8)]
    return f" (did you mean {meant[0]}?)" if meant else f" (known: {', '.join(known)})"


def _nearest_choice(problem: Any) -> str:
    if problem["type"] != "literal_error" or not isinstance(problem["input"], str):
        return ""
    choices = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
    close = difflib.get_close_matches(problem["input"].lower(), choices, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _quotes(problem: Any, key: Key) -> str:
    is_mapping = len(key) == 2 and isinstance(problem["input"], dict)
    return " (a text with a colon in it needs quotes)" if is_mapping else ""


def _without_recipe(problem: Any, key: Key) -> str:
    if problem["input"] == AUTO and key in RECIPE:
        return " where training.recipe = none; --set recipe=auto has it chosen"
    return ""


def _plain(key: str) -> str:
    """A key as it is, unless it is long or would disturb a terminal."""
    return key if key.isprintable() and len(key) <= 60 else _short(key)


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
