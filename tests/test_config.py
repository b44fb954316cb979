"""What charrnn.config promises: who has the last word, every mistake named with its place, and nothing lost."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from charrnn.config import (
    RESUMABLE,
    Budget,
    Config,
    CorpusConfig,
    ModelConfig,
    TrainingConfig,
    changed_keys,
    config_from_json,
    load_config,
    parse_duration,
)
from charrnn.errors import ConfigError

SECTIONS = {"corpus": CorpusConfig, "model": ModelConfig, "training": TrainingConfig}
KEYS = [(section, key) for section, model in SECTIONS.items() for key in model.model_fields]

# Other processes may slow an example down, and a file written anew for each needs no new folder.
patient = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, so that the places in messages are short."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(content: str | bytes, **sources: Any) -> Config:
    """The Config of a file c.yaml that holds `content`."""
    Path("c.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    return load_config("c.yaml", **sources)


def load_or_refuse(content: str | bytes) -> str | Config:
    try:
        return load(content)
    except ConfigError as error:
        return str(error)


def value_of(config: Config, section: str, key: str) -> Any:
    return getattr(getattr(config, section), key)


# Sources and their precedence


def test_without_any_source_every_option_has_its_default():
    assert load_config() == Config()
    assert Config().corpus.source == "python"


def test_the_defaults_pass_their_own_checks():
    assert Config.model_validate(Config().model_dump()) == Config()


def test_defaults_yield_to_the_file_the_file_to_set_and_set_to_flags():
    file = "training:\n  batch_size: 2\n  seq_length: 2\n  seed: 2\n"
    config = load(file, settings=["training.seq_length=3", "training.seed=3"], flags={"training.seed": 4})
    training = config.training
    assert (training.batch_size, training.seq_length, training.seed) == (2, 3, 4)
    assert changed_keys(Config(), config) == ["training.batch_size", "training.seq_length", "training.seed"]


def test_of_two_settings_the_later_wins():
    assert load_config(settings=["seed=1", "training.seed=2"]).training.seed == 2


def test_a_flag_that_is_none_was_not_given():
    assert load("training: {budget: 3m}", flags={"training.budget": None}).training.budget == "3m"


def test_a_base_takes_the_place_of_the_defaults():
    base = Config(model=ModelConfig(hidden_size=7), training=TrainingConfig(betas=(0.5, 0.6), seed=5))
    config = load("training: {seed: 6}", base=base)
    assert changed_keys(base, config) == ["training.seed"]
    assert load_config(base=base) == base


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# words\n", "---\n", "model:\n  # cell: rnn\n", "{}", "model: {}", "\ufeff"]
)
def test_a_file_that_says_nothing_changes_nothing(text):
    base = Config(model=ModelConfig(hidden_size=7))
    assert load(text) == Config()
    assert load(text, base=base) == base


def test_a_setting_that_names_only_a_section_leaves_the_file_alone():
    assert load("model: {hidden_size: 7}", settings=["model="]).model.hidden_size == 7
    assert load("model: {hidden_size: 7}", settings=["model={num_layers: 3}"]).model == ModelConfig(
        hidden_size=7, num_layers=3
    )


# Values


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *[("1e-3", 1e-3), ("4E5", 4e5), (".5e-3", 5e-4), ("2.5e3", 2500.0), ("2.e3", 2000.0), ("+1e1", 10.0)],
        *[("1E+2", 100.0), ("1.0e-3", 1e-3), ("3", 3.0), ("0.25", 0.25), ("1e-300", 1e-300)],
    ],
)
def test_every_usual_way_to_write_a_number_is_a_number(text, number):
    assert load(f"training: {{learning_rate: {text}}}").training.learning_rate == number
    assert load_config(settings=[f"learning_rate={text}"]).training.learning_rate == number


def test_a_whole_number_may_have_an_exponent():
    assert load("training: {evaluations: 1e3}").training.evaluations == 1000


@pytest.mark.parametrize("text", ["1e3abc", "3e5-run.txt", "e5", "1e", "1e5.txt", "12e4f"])
def test_a_name_that_only_begins_like_a_number_is_a_text(text):
    assert load(f"corpus: {{source: {text}}}").corpus.source == text
    assert load_config(settings=[f"source={text}"]).corpus.source == text


def test_what_is_no_yaml_is_a_text_to_set():
    for text in ("*.txt", "a*", "[", "{", "@x", "%x", "`x", "?x", "a\tb", "=", "2001-99-99", "0x_", "a: b: c"):
        assert load_config(settings=[f"source={text}"]).corpus.source == text
    assert load_config(settings=["sample_prefix='3'"]).training.sample_prefix == "3"
    assert load_config(settings=['sample_prefix="a\\nb"']).training.sample_prefix == "a\nb"
    assert load_config(settings=["sample_prefix=a=b"]).training.sample_prefix == "a=b"


@pytest.mark.parametrize("text", ["ROMEO:", "ROMEO: ", "a: b", "a: b\nc: d", "C:\\text", "http://x: y"])
def test_a_text_with_a_colon_needs_no_quotes_in_set(text):
    assert load_config(settings=[f"sample_prefix={text}"]).training.sample_prefix == text
    assert load_config(settings=[f"source={text}"]).corpus.sources == [text]


def test_options_that_have_an_effect_are_not_refused_beside_those_that_have_none():
    load_config(settings=["level=byte", "encoding=utf-8", "min_count=1", "newlines=normalise"])
    load_config(settings=["optimizer=sgd", "betas=[0.5, 0.99]", "schedule=constant", "final_learning_rate=0"])
    load_config(settings=["betas=[0.5, 0.9]", "schedule=linear", "final_learning_rate=1e-4", "min_count=3"])


def test_a_free_text_of_set_keeps_what_yaml_would_cut():
    for text in ("Chapter 1 # intro", "Once ", " x"):
        assert load_config(settings=[f"sample_prefix={text}"]).training.sample_prefix == text
    for text in ("", "[Exit]", "1984", "Yes", "# Title", "null"):
        assert load_config(settings=[f"sample_prefix={text}"]).training.sample_prefix == text
    assert load_config(settings=["source=1984"]).corpus.sources == ["1984"]
    assert load_config(settings=["sample_prefix='it''s'"]).training.sample_prefix == "it's"
    assert load_config(settings=["source=[a, b]"]).corpus.sources == ["a", "b"]
    assert load_config(settings=["cell= gru "]).model.cell == "gru"


def test_numbers_of_set_with_zeros_before_them_are_the_numbers_they_look_like():
    assert [load_config(settings=[f"seed={text}"]).training.seed for text in ("010", "08", "0", "0x10")] == [
        10,
        8,
        0,
        16,
    ]


def test_a_lone_hyphen_of_set_is_standard_input():
    assert load_config(settings=["source=-"]).corpus.sources == ["-"]


def test_one_source_and_several_both_come_as_a_list():
    assert load_config(settings=["source=a.txt"]).corpus.sources == ["a.txt"]
    assert load_config(settings=["source=[a.txt, b]"]).corpus.sources == ["a.txt", "b"]


@pytest.mark.parametrize("null", ["null", "~", ""])
def test_null_switches_clipping_off(null):
    assert load(f"training:\n  clip_norm: {null}\n").training.clip_norm is None


def test_set_knows_every_option_by_its_full_name_and_by_its_own(here):
    values: dict[str, Any] = {"source": "x", "encoding": "x", "device": "x", "sample_prefix": "x", "budget": "7m"}
    values |= {"checkpoint_every": "7s", "betas": [0.5, 0.6], "activation": "tanh", "tensorboard": True}
    values |= {"embedding_size": None, "final_learning_rate": 1e-4, "explosion": 5.0, "rollbacks": 7}
    values |= {"cuda_graph": True}
    for section, key in KEYS:
        default = value_of(Config(), section, key)
        choices = get_args(SECTIONS[section].model_fields[key].annotation)
        others = [choice for choice in choices if isinstance(choice, str) and choice != default]
        value = values.get(key, others[0] if others else 0.5 if isinstance(default, float) else 3)
        extra = ["embedding_size=3"] if key == "input" else []
        short = load_config(settings=[*extra, f"{key}={json.dumps(value)}"])
        assert short == load_config(settings=[*extra, f"{section}.{key}={json.dumps(value)}"])
        if key not in ("activation", "embedding_size"):  # these cannot change alone
            assert f"{section}.{key}" in changed_keys(Config(), short), key


# Mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # unknown keys
        ("model:\n  hiden_size: 3", r"c.yaml:2: unknown key model.hiden_size (did you mean hidden_size?)"),
        ("modle: {cell: rnn}", r"c.yaml:1: unknown key modle (did you mean model?)"),
        ("hidden_size: 3", r"c.yaml:1: unknown key hidden_size (did you mean model.hidden_size?)"),
        ("\nxyzzy: 3", r"c.yaml:2: unknown key xyzzy (known: corpus, model, training)"),
        (
            "corpus: {q: 3}",
            "unknown key corpus.q (known: source, ",
        ),
        ("1: 2", "c.yaml:1: unknown key 1 (known"),
        ("? [a, b]\n: 3", "c.yaml:1: unknown key ['a', 'b'] (known"),
        # wrong types
        ("model: 3", "c.yaml:1: model = 3: expected a section with keys"),
        ("model: [hidden_size]", "c.yaml:1: model = ['hidden_size']: expected a section with keys"),
        ("model:\n  hidden_size: big", "c.yaml:2: model.hidden_size = 'big': expected a whole number"),
        (
            "model:\n  hidden_size: auto\ntraining:\n  recipe: none",
            "c.yaml:2: model.hidden_size = 'auto': expected a whole number where training.recipe = none",
        ),
        ("model:\n  hidden_size: 3.5", "c.yaml:2: model.hidden_size = 3.5: expected a whole number"),
        ("model:\n  hidden_size: [3]", "c.yaml:2: model.hidden_size = [3]: expected a whole number"),
        ("model:\n  hidden_size: {a: 3}", "c.yaml:2: model.hidden_size = {'a': 3}: expected a whole number"),
        ("model:\n  hidden_size:\n", "c.yaml:2: model.hidden_size = None: expected a whole number"),
        (
            "model:\n  hidden_size: 2001-01-01",
            "c.yaml:2: model.hidden_size = datetime.date(2001, 1, 1): expected a whole",
        ),
        ("model:\n  hidden_size: true", "c.yaml:2: model.hidden_size = True: expected a number"),
        ("model: {embedding_size: yes, input: embedding}", "model.embedding_size = True: expected a number"),
        ("training: {learning_rate: off}", "c.yaml:1: training.learning_rate = False: expected a number"),
        ("training: {clip_norm: true}", "c.yaml:1: training.clip_norm = True: expected a number"),
        ("training: {learning_rate: fast}", "training.learning_rate = 'fast': expected a number"),
        ("training: {betas: [0.9, true]}", "training.betas = True: expected a number"),
        ("training: {betas: [0.9]}", "training.betas = [0.9]: expected a list of two numbers"),
        ("training: {betas: [0.9, 0.9, 0.9]}", "training.betas = [0.9, 0.9, 0.9]: expected a list of two numbers"),
        ("training: {betas: 0.9}", "training.betas = 0.9: expected a list of two numbers"),
        ("training: {device: 3}", "c.yaml:1: training.device = 3: expected a text"),
        ("training: {tensorboard: 7}", "training.tensorboard = 7: expected true or false"),
        ("training: {tensorboard: maybe}", "training.tensorboard = 'maybe': expected true or false"),
        ("corpus: {source: []}", "c.yaml:1: corpus.source = []: expected a named corpus, a file, a folder, a glob"),
        ("corpus: {source: ''}", "c.yaml:1: corpus.source = '': expected a named corpus"),
        ("corpus: {source: [a, 3]}", "c.yaml:1: corpus.source = ['a', 3]: expected a named corpus"),
        ("training: {budget: 30}", "c.yaml:1: training.budget = 30: expected a time (90s, 5m, 2h), a number of epochs"),
        ("training: {budget: 0s}", "c.yaml:1: training.budget = '0s': expected a time (90s, 5m, 2h)"),
        ("training: {budget: [5]}", "c.yaml:1: training.budget = [5]: expected a time"),
        ("training: {budget: []}", "c.yaml:1: training.budget = []: expected a time"),
        ("training: {budget: [5m, soon]}", "above zero; 'soon' of several is none"),
        ("training: {explosion: 1}", "training.explosion = 1: expected a number greater than 1"),
        ("training: {patience: 0}", "training.patience = 0: expected a number greater than or equal to 1"),
        ("training: {rollbacks: -1}", "training.rollbacks = -1: expected a number greater than or equal to 0"),
        ("training: {checkpoint_every: 30}", "training.checkpoint_every = 30: expected a time such as 90s"),
        # out of range
        ("model: {hidden_size: 0}", "c.yaml:1: model.hidden_size = 0: expected a number greater than or equal to 1"),
        ("model: {num_layers: 65}", "model.num_layers = 65: expected a number less than or equal to 64"),
        ("model: {dropout: 1}", "model.dropout = 1: expected a number less than 1"),
        ("training: {learning_rate: 0}", "training.learning_rate = 0: expected a number greater than 0"),
        ("training: {learning_rate: -1e-3}", "training.learning_rate = -0.001: expected a number greater than 0"),
        ("training: {clip_norm: 0}", "training.clip_norm = 0: expected a number greater than 0"),
        ("training: {betas: [0.9, 1]}", "training.betas = 1: expected a number less than 1"),
        ("training: {seed: -1}", "training.seed = -1: expected a number greater than or equal to 0"),
        ("training: {seed: 9223372036854775808}", "training.seed = 9223372036854775808: expected a number less than"),
        ("corpus: {min_count: 0}", "corpus.min_count = 0: expected a number greater than or equal to 1"),
        ("corpus: {validation: .nan}", "c.yaml:1: corpus.validation = nan: expected a number"),
        ("corpus: {validation: 'nan'}", "c.yaml:1: corpus.validation = 'nan': expected a number"),
        ("training: {learning_rate: .inf}", "training.learning_rate = inf: expected a number"),
        ("training: {learning_rate: 1e400}", "training.learning_rate = inf: expected a number"),
        ("training: {clip_norm: .inf}", "training.clip_norm = inf: expected a number"),
        ("model: {hidden_size: 1e400}", "model.hidden_size = inf: expected a number"),
        # misspelt choices
        (
            "model:\n  cell: lstmm",
            "c.yaml:2: model.cell = 'lstmm': expected 'rnn', 'gru' or 'lstm' (did you mean lstm?)",
        ),
        ("model: {cell: LSTM}", "model.cell = 'LSTM': expected 'rnn', 'gru' or 'lstm' (did you mean lstm?)"),
        ("model: {cell: 3}", "model.cell = 3: expected 'rnn', 'gru' or 'lstm'"),
        ("model: {cell: {rnn: 3}}", "model.cell = {'rnn': 3}: expected 'rnn', 'gru' or 'lstm'"),
        ("model: {input: onehot}", "model.input = 'onehot': expected 'one-hot' or 'embedding' (did you mean one-hot?)"),
        # combinations
        (
            "model: {input: embedding}",
            "c.yaml:1: model: expected embedding_size together with input embedding, and only",
        ),
        ("model: {embedding_size: 3}", "and only then, not input one-hot with embedding_size 3"),
        ("model: {activation: relu}", "c.yaml:1: model: expected activation tanh, not relu: cell lstm has its own"),
        ("corpus: {validation: 0.5, test: 0.5}", "c.yaml:1: corpus: expected validation + test below 1, so that"),
        ("corpus: {validation: 0.2, test: 0.9}", "so that some text is left to train on, not 0.2 + 0.9"),
        (
            "training: {final_learning_rate: 2, learning_rate: 1}",
            "final_learning_rate at most learning_rate, not 2.0 and 1.0",
        ),
        # options that others leave without effect
        ("corpus: {level: byte, min_count: 2}", "c.yaml:1: corpus: expected min_count left at 1 at level byte, which"),
        ("corpus: {level: byte, encoding: latin-1}", "corpus: expected encoding left at utf-8 at level byte, which"),
        ("corpus: {level: byte, newlines: keep}", "corpus: expected newlines left at normalise at level byte, which"),
        (
            "training: {optimizer: sgd, betas: [0.9, 0.99]}",
            "c.yaml:1: training: expected betas left at [0.5, 0.99] with optimizer sgd, which has no moments, ",
        ),
        (
            "training: {schedule: constant, final_learning_rate: 1e-4}",
            "training: expected final_learning_rate left at 0.0 with schedule constant, which ends at learning_rate",
        ),
        # a colon in a text
        (
            "training:\n  sample_prefix: ROMEO: speak",
            "c.yaml:2: not valid YAML: mapping values are not allowed here; a ",
        ),
        (
            "training:\n  sample_prefix:\n    ROMEO: speak",
            "c.yaml:2: training.sample_prefix = {'ROMEO': 'speak'}: expected a text (a text with a colon in it",
        ),
        # not a mapping of mappings
        ("- model\n- corpus", "c.yaml:1: expected sections corpus:, model: and training:, got '- model"),
        ("\nmodel", "c.yaml:2: expected sections corpus:, model: and training:, got "),
        ("42", "c.yaml:1: expected sections corpus:, model: and training:, got '42'"),
        ("model: {cell: rnn}\n---\nmodel: {cell: gru}", "c.yaml:2: not valid YAML: but found another document"),
        # duplicates
        ("model:\n  cell: rnn\n  cell: gru", "c.yaml:3: model.cell is said twice"),
        ("model: {}\ncorpus: {}\nmodel: {}", "c.yaml:3: model is said twice"),
        ("model:\n  cell: rnn\n  'cell' : gru", "c.yaml:3: model.cell is said twice"),
        # what YAML can do and a configuration need not
        ("model: &m {cell: rnn}\ncorpus: *m", "c.yaml:2: not valid YAML: aliases (*name) are not supported"),
        ("corpus: &c\n  source: *c", "c.yaml:2: not valid YAML: aliases (*name) are not supported"),
        ("model:\n  <<: {cell: rnn}", "c.yaml:2: not valid YAML: could not determine a constructor for the tag"),
        ("model: !!python/object:os.system {}", "c.yaml:1: not valid YAML: tags such as tag:yaml.org,2002:python/obj"),
        ("model:\n  cell: !!python/object/apply:os.getcwd []", "c.yaml:2: not valid YAML: could not determine a const"),
        ("model:\n  cell: !!python/name:os.getcwd ''", "c.yaml:2: not valid YAML: could not determine a constructor"),
        ("!!python/dict {model: {}}", "c.yaml:1: not valid YAML: tags such as tag:yaml.org,2002:python/dict"),
        ("model: !mine {cell: rnn}", "c.yaml:1: not valid YAML: tags such as !mine are not supported"),
        # no YAML
        ("model:\n  cell: [rnn\n", "c.yaml:3: not valid YAML: expected ',' or ']'"),
        ("corpus: {}\n\tmodel: {}", "c.yaml:2: not valid YAML: found character '\\t' that cannot start any token"),
        ("model:\n  cell: rnn\n hidden_size: 3", "c.yaml:3: not valid YAML: expected <block end>"),
        (
            "model:\n  hidden_size: 0100",
            "c.yaml:2: not valid YAML: '0100' is not a valid int; quote it if it is a text",
        ),
        ("training:\n  budget: 1:30", "c.yaml:2: not valid YAML: '1:30' is not a valid int; quote it if it is a text"),
        ("corpus:\n  source: -", "sequence entries are not allowed here; - alone needs quotes"),
        ("corpus:\n  source: *.txt", "but found '.'; what begins with * or & needs quotes"),
        ("model:\n  hidden_size: 0x_", "c.yaml:2: not valid YAML: '0x_' is not a valid int; quote it if it is a text"),
        ("corpus:\n  source: 2001-99-99", "c.yaml:2: not valid YAML: '2001-99-99' is not a valid timestamp; quote it"),
        ("model:\n  cell: !!bool maybe", "c.yaml:2: not valid YAML: 'maybe' is not a valid bool"),
        ("model:\n  cell: !!int ''", "c.yaml:2: not valid YAML: '' is not a valid int"),
        ("model:\n  hidden_size: 1" + 180 * ":00" + ".5", "c.yaml:2: not valid YAML: '1:00:00"),
        ("model:\n  cell: !!timestamp now", "c.yaml:2: not valid YAML: 'now' is not a valid timestamp"),
        ("model:\n  seed: " + 5000 * "9", "c.yaml:2: not valid YAML: '999"),
        ('model:\n  cell: "\\UFFFFFFFF"', "c.yaml: not valid YAML: "),
        ("model: " + 1000 * "[", "c.yaml: not valid YAML: nested too deeply"),
        (1000 * "{a: ", "c.yaml: not valid YAML: nested too deeply"),
        # no text
        (b"\x89PNG\r\n\x1a\n", "c.yaml: not a YAML file: byte 0 is not valid UTF-8"),
        (b"model: \xff", "c.yaml: not a YAML file: byte 7 is not valid UTF-8"),
        (b"\nmodel: \x00", "c.yaml:2: not valid YAML: U+0000 is not allowed"),
        ("model: {}".encode("utf-16"), "c.yaml: not a YAML file: byte 0 is not valid UTF-8"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line_its_value_and_what_was_expected(text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(text)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("hidden_size=big", "--set hidden_size: model.hidden_size = 'big': expected a whole number"),
        ("model.hidden_size=big", "--set model.hidden_size: model.hidden_size = 'big': expected a whole number"),
        ("hiden_size=3", "--set hiden_size: unknown key hiden_size (did you mean model.hidden_size?)"),
        ("model.hiden_size=3", "--set model.hiden_size: unknown key model.hiden_size (did you mean hidden_size?)"),
        ("modle.cell=rnn", "--set modle.cell: unknown key modle (did you mean model?)"),
        ("model=3", "--set model: model = 3: expected a section with keys"),
        ("model={hiden_size: 3}", "--set model: unknown key model.hiden_size (did you mean hidden_size?)"),
        ("model={1: 3}", "--set model: unknown key model.1 (known"),
        ("model.hidden_size.x=3", "--set model.hidden_size.x: model.hidden_size = {'x': 3}: expected a whole number"),
        (".cell=rnn", "--set .cell: unknown key  (known: corpus, model, training)"),
        ("hidden_size=", "--set hidden_size: model.hidden_size = None: expected a whole number"),
        ("hidden_size=" + 1000 * "[", "--set hidden_size: model.hidden_size = '[[["),
        ("seed=" + 5000 * "9", "--set seed: training.seed = '999"),
        ("clip_norm=none", "training.clip_norm = 'none': expected a number, or null"),
        ("patience=0", "training.patience = 0: expected a number greater than or equal to 1, or null"),
        (
            "cell=!!python/object:os.system {}",
            "--set cell: model.cell = '!!python/object:os.system {}': expected 'rnn'",
        ),
        ("cell=lstmm", "model.cell = 'lstmm': expected 'rnn', 'gru' or 'lstm' (did you mean lstm?)"),
        ("input=embedding", "--set input: model: expected embedding_size together with input embedding"),
        ("hidden_size", "--set hidden_size: expected key=value, such as model.hidden_size=512"),
        ("=3", "--set =3: expected key=value, such as model.hidden_size=512"),
        ("", "--set : expected key=value, such as model.hidden_size=512"),
    ],
)
def test_a_mistake_in_set_is_named_with_the_option_its_value_and_what_was_expected(setting, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_config(settings=[setting])
    assert str(caught.value).startswith(f"--set {setting.split('=')[0]}")


def test_a_mistake_in_a_flag_is_named_by_the_flag():
    with pytest.raises(ConfigError, match=r"^--budget: training\.budget = 'soon': expected a time"):
        load_config(flags={"training.budget": "soon"})


def test_the_place_named_is_that_of_the_source_that_had_the_last_word():
    with pytest.raises(ConfigError, match=r"^--set hidden_size: model\.hidden_size = 'x'"):
        load("model:\n  hidden_size: 3", settings=["hidden_size=x"])
    with pytest.raises(ConfigError, match=r"^--set model: model\.hidden_size = 'x'"):
        load("model:\n  hidden_size: 3", settings=["model={hidden_size: x}"])
    with pytest.raises(ConfigError, match=r"^--hidden-size: model\.hidden_size = 'x'"):
        load("model:\n  hidden_size: 3", settings=["hidden_size=4"], flags={"model.hidden_size": "x"})
    with pytest.raises(ConfigError, match=r"^c\.yaml:2: model\.hidden_size = 'x'"):
        load("model:\n  hidden_size: x", settings=["num_layers=2"])


def test_all_problems_of_all_sources_are_reported_together_a_line_each():
    text = "model:\n  cell: lstmm\n  hidden_size: 0\n  zip: 1\ncorpus:\n  validation: 1.5\nnowhere: 3\n"
    with pytest.raises(ConfigError) as caught:
        load(text, settings=["seed=x", "lerning_rate=1"], flags={"training.budget": "soon"})
    places = sorted(line.split(": ")[0] for line in str(caught.value).splitlines())
    expected = ["--budget", "--set lerning_rate", "--set seed"] + [f"c.yaml:{line}" for line in (2, 3, 4, 6, 7)]
    assert places == expected


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_key_in_the_wrong_section_or_in_none_is_sent_to_the_right_one(section, key):
    for wrong in [other for other in SECTIONS if other != section]:
        with pytest.raises(ConfigError, match=rf"unknown key {wrong}\.{key} \(did you mean {section}\.{key}\?\)"):
            load(f"{wrong}: {{{key}: 1}}")
    with pytest.raises(ConfigError, match=rf"unknown key {key} \(did you mean {section}\.{key}\?\)"):
        load(f"{key}: 1")


def test_a_tag_never_runs_code():
    for tag in ("python/object/apply:pathlib.Path.touch", "python/object/new:pathlib.Path.touch"):
        assert isinstance(load_or_refuse(f"model: !!{tag} [ran]"), str)
        load_config(settings=[f"sample_prefix=!!{tag} [ran]"])
    assert [path.name for path in Path().iterdir()] == ["c.yaml"]


def test_nested_aliases_that_would_fill_the_memory_are_refused_at_once():
    laughs = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)
    )
    with pytest.raises(ConfigError, match=r"^c\.yaml:2: not valid YAML: aliases"):
        load(laughs)


def test_a_file_that_cannot_be_read_is_named_with_the_reason(here):
    with pytest.raises(ConfigError, match=r"^none\.yaml: cannot read the configuration: No such file"):
        load_config("none.yaml")
    with pytest.raises(ConfigError, match=r"cannot read the configuration: "):
        load_config(here)
    with pytest.raises(ConfigError, match="cannot read the configuration: embedded null byte"):
        load_config("a\0b")


def test_a_file_as_large_as_a_text_is_refused_unparsed(monkeypatch):
    def parse(*_: object) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr("charrnn.config._parse_yaml", parse)
    monkeypatch.setattr("charrnn.config.LARGEST_FILE", 1000)
    with pytest.raises(ConfigError, match=r"c\.yaml: too large for a configuration \(over 1,000 bytes\)"):
        load(b"\n" * 1001)


def test_a_file_of_the_largest_size_is_read(monkeypatch):
    monkeypatch.setattr("charrnn.config.LARGEST_FILE", 1000)
    said = b"\nmodel: {cell: gru}"
    assert load(b"#" * (1000 - len(said)) + said).model.cell == "gru"


def test_an_error_shows_the_beginning_of_a_long_value_only():
    message = load_or_refuse(f"training: {{device: [{'x' * 100_000}]}}")
    assert isinstance(message, str)
    assert len(message) < 200


# Whatever is written, ConfigError or a Config

WORDS = [*SECTIONS, *[key for _, key in KEYS], "!!bool", "!!int", "!!float", "!!timestamp", "!!python/name:x", "!!set"]
WORDS += [*":?-,[]{}#&*!|>'\"%@`=~<\n\t ", ": ", "\n  ", "- ", "<<: ", "---\n", "...\n", "%YAML 1.1\n", "0x", "1e", "_"]
WORDS += [
    "&a ",
    "*a",
    "null",
    "true",
    ".inf",
    "1:99",
    "2001-01-01",
    "2001-99-99",
    "\\U",
    "FFFFFFFF",
    "0001-01-01 00:00:00 +9",
]
yaml_like = st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=12).map("".join)


@patient
@given(yaml_like | st.sampled_from(WORDS).flatmap(lambda word: yaml_like.map(lambda text: f"model: {word} {text}")))
@example("model: !!int ''")
@example("0001-01-01 00:00:00 +9:00")
@example("training: {budget: " + 400 * "9" + " steps}")
def test_any_text_as_a_file_gives_a_config_or_a_config_error(text):
    assert isinstance(load_or_refuse(text.encode("utf-8", "surrogatepass")), Config | str)


@patient
@given(st.binary(max_size=40))
def test_any_bytes_as_a_file_give_a_config_or_a_config_error(raw):
    assert isinstance(load_or_refuse(raw), Config | str)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@patient
@given(st.lists(st.tuples(st.sampled_from(KEYS), json_like), max_size=5))
def test_any_values_of_known_keys_give_a_config_or_an_error_that_names_the_key(entries):
    values: dict[str, dict[str, Any]] = {}
    for (section, key), value in entries:
        values.setdefault(section, {})[key] = value
    result = load_or_refuse(yaml.safe_dump(values))
    if isinstance(result, str):
        assert all(re.match(r"c\.yaml:\d+: \w+", line) for line in re.split(r"\n(?=c\.yaml)", result))


@patient
@given(
    st.lists(st.text(max_size=20) | st.tuples(st.sampled_from([*WORDS, *map(".".join, KEYS)]), yaml_like).map("=".join))
)
@example(["seed=" + "[" * 1000])
@example(["budget=" + "9" * 400 + " steps"])
@example(["model={1: 2}"])
def test_any_texts_of_set_give_a_config_or_a_config_error(texts):
    try:
        result: object = load_config(settings=texts)
    except ConfigError as error:
        result = str(error)
    assert isinstance(result, Config) or str(result).startswith("--set")


# Round trips

shares = st.floats(0, 0.49)
sizes = st.integers(1, 65536)
texts = st.text(max_size=20) | st.sampled_from(
    ["1e-3", "1E5", ".5e-3", "yes", "~", "-", "=", "<<", "0x1", "1:30", "2001-01-01"]
)
rates = st.floats(0, allow_nan=False, allow_infinity=False, exclude_min=True)
durations = st.sampled_from(["90s", "5m", "1.5h", "1h30m", "2d", " 1 h 30 m "])
sources = texts.filter(bool) | st.lists(texts.filter(bool), min_size=1)
corpora = st.builds(
    CorpusConfig,
    source=sources,
    encoding=texts,
    newlines=st.sampled_from(["normalise", "keep"]),
    min_count=sizes,
    validation=shares,
    test=shares,
) | st.builds(CorpusConfig, source=sources, level=st.just("byte"), validation=shares)
networks = st.builds(
    ModelConfig,
    cell=st.sampled_from(["rnn", "gru", "lstm"]),
    num_layers=st.integers(1, 64),
    hidden_size=sizes,
    dropout=shares,
) | st.builds(
    ModelConfig, cell=st.just("rnn"), activation=st.just("relu"), input=st.just("embedding"), embedding_size=sizes
)
trainings = st.builds(
    TrainingConfig,
    budget=durations | st.sampled_from(["30 epochs", "0.5 epoch", "20000 steps", "5m, 3,000 steps"]),
    batch_size=sizes,
    partitioning=st.sampled_from(["sequential", "random"]),
    learning_rate=rates,
    betas=st.tuples(shares, shares),
    weight_decay=rates,
    clip_norm=st.none() | rates,
    device=texts,
    seed=st.integers(0, 2**63 - 1),
    sample_prefix=st.text() | texts,
    checkpoint_every=durations,
    tensorboard=st.booleans(),
)
configs = st.builds(Config, corpus=corpora, model=networks, training=trainings)


@patient
@given(configs)
@example(Config(training=TrainingConfig(sample_prefix="1e-3", device="4E5")))
@example(Config(training=TrainingConfig(sample_prefix="\x85a\u2028 b\u2029\r\n\n c\ufeff\0")))
@example(Config(corpus=CorpusConfig(source=["not utf-8 \udcff", "\U0001f600"])))
def test_a_config_as_yaml_is_read_back_to_an_equal_one(config):
    assert load(config.to_yaml()) == config


@patient
@given(configs)
def test_a_config_as_json_is_read_back_to_an_equal_one(config):
    assert config_from_json(json.dumps(config.model_dump(mode="json"))) == config


def test_a_stored_sgd_run_of_the_time_when_betas_had_another_default_is_read():
    stored = load_config(settings=["optimizer=sgd"]).model_dump(mode="json")
    stored["training"]["betas"] = [0.9, 0.99]
    assert config_from_json(json.dumps(stored)).training.optimizer == "sgd"


def test_the_yaml_of_a_config_names_every_option_and_keeps_letters_readable():
    text = Config(training=TrainingConfig(sample_prefix="Я")).to_yaml()
    assert [(section, key) for section, values in yaml.safe_load(text).items() for key in values] == KEYS
    assert "sample_prefix: Я\n" in text


def test_json_that_is_no_configuration_is_refused():
    for text in ("", "3", "null", "[]", '["ab"]', '"model"', "NaN", "[" * 100_000, "9" * 5000):
        with pytest.raises(ConfigError, match=r"^not a configuration: "):
            config_from_json(text)
    with pytest.raises(ConfigError, match=r"^unknown key model\.x"):
        config_from_json('{"model": {"x": 1}}')
    with pytest.raises(ConfigError, match=r"^model\.hidden_size = nan: expected a number"):
        config_from_json('{"model": {"hidden_size": NaN}}')


# Budgets and durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        ("1.5h", 5400),
        ("1h30m", 5400),
        (" 1H 30M ", 5400),
        ("5 m", 300),
    ],
)
def test_a_duration_is_read_in_seconds(text, seconds):
    assert parse_duration(text) == seconds
    assert Budget.parse(text) == Budget(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("30 epochs", Budget(epochs=30)),
        ("1 epoch", Budget(epochs=1)),
        ("0.5 epochs", Budget(epochs=0.5)),
        ("20000 steps", Budget(steps=20000)),
        ("1 step", Budget(steps=1)),
        (" 7Steps ", Budget(steps=7)),
        ("20,000 steps", Budget(steps=20000)),
        ("1,234,567 steps", Budget(steps=1234567)),
    ],
)
def test_a_budget_may_count_epochs_or_steps(text, budget):
    assert Budget.parse(text) == budget


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("10m, 30 epochs", Budget(seconds=600, epochs=30)),
        ("5m or 20000 steps", Budget(seconds=300, steps=20000)),
        ("5m,300 steps", Budget(seconds=300, steps=300)),
        ("20,000 steps,1h30m", Budget(seconds=5400, steps=20000)),
        ("1 h 30 m, 2 Epochs OR 3,000 Steps", Budget(seconds=5400, epochs=2, steps=3000)),
    ],
)
def test_a_budget_may_have_a_limit_in_every_unit(text, budget):
    assert Budget.parse(text) == budget
    assert load_config(settings=[f"budget={text}"]).training.budget == text


def test_yaml_may_list_the_limits_of_a_budget():
    assert load("training: {budget: [10m, 30 epochs]}").training.budget == "10m, 30 epochs"
    assert load("training:\n  budget:\n  - 5m\n").training.budget == "5m"


def test_the_share_of_every_limit_is_told():
    budget = Budget.parse("10m, 30 epochs")
    assert budget.shares({"seconds": 60, "epochs": 15, "steps": 7}) == {"seconds": 0.1, "epochs": 0.5}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("5m, soon", "'soon'"),
        ("5m,", "''"),
        (",5m", "''"),
        ("5m or", "''"),
        ("5m, 20,00 steps", "'20'"),
        ("20, 000 steps", "'20'"),
        ("5,30", "'5'"),
        ("0 steps, 5m", "'0 steps'"),
        ("5m, 0,000 steps", "'0000 steps'"),
    ],
)
def test_of_several_limits_the_wrong_one_is_named(text, wrong):
    with pytest.raises(ValueError, match=rf"above zero; {wrong} of several is none$"):
        Budget.parse(text)


@pytest.mark.parametrize(
    ("text", "unit"), [("5m, 10m", "seconds"), ("1 step, 2 steps", "steps"), ("1h, 30m", "seconds")]
)
def test_two_limits_in_one_unit_are_refused(text, unit):
    with pytest.raises(ValueError, match=rf"at most one of time, one of epochs and one of steps, not two {unit}$"):
        Budget.parse(text)


NO_DURATIONS = [
    "0s",
    "0h0m",
    "-1m",
    "abc",
    "30",
    "nan",
    "inf",
    "nan s",
    "infs",
    "",
    " ",
    "m",
    "5x",
    "1m 30",
    "1e3s",
    "1,5h",
    "3.s",
]
NO_DURATIONS += ["5m\n5", "²s", "9" * 400 + "s"]
NO_BUDGETS = [
    "1.5 steps",
    "0 steps",
    "0 epochs",
    "-1 epochs",
    "nan epochs",
    "inf steps",
    "1e3 steps",
    "steps",
    "3 stepss",
]
NO_BUDGETS += ["30 epochs 5m", "9" * 400 + " steps", "9" * 400 + " epochs"]


@pytest.mark.parametrize("text", NO_DURATIONS)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match=r"^a time such as 90s, 5m, 2h or 1h30m$"):
        parse_duration(text)


@pytest.mark.parametrize("text", NO_DURATIONS + NO_BUDGETS)
def test_what_is_no_budget_is_refused_with_all_that_would_be_one(text):
    expected = "a time (90s, 5m, 2h), a number of epochs (30 epochs) or of steps (20000 steps), above zero"
    with pytest.raises(ValueError, match=re.escape(expected)):
        Budget.parse(text)
    with pytest.raises(ConfigError, match=re.escape(expected)):
        load_config(flags={"training.budget": text})


@patient
@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_the_parts_of_a_duration_add_up(days, hours, minutes, seconds):
    text = f"{days}d{hours}h{minutes}m{seconds}s"
    assert parse_duration(text) == ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def test_checkpoint_seconds_are_checkpoint_every_in_seconds():
    assert load_config(settings=["checkpoint_every=1m30s"]).training.checkpoint_seconds == 90


# The models


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_option_is_documented_in_the_json_schema(section, key):
    schema = Config.model_json_schema()
    definition = schema["$defs"][schema["properties"][section]["$ref"].rpartition("/")[2]]
    assert definition["additionalProperties"] is False
    assert len(definition["properties"][key]["description"].split()) >= 3
    assert definition["properties"][key]["default"] == Config().model_dump(mode="json")[section][key]


def test_the_json_schema_has_the_bounds_under_its_own_names():
    definitions = Config.model_json_schema()["$defs"]
    layers = definitions["ModelConfig"]["properties"]["num_layers"]
    assert (layers["minimum"], layers["maximum"]) == (1, 64)
    assert definitions["CorpusConfig"]["properties"]["validation"]["exclusiveMaximum"] == 1
    assert definitions["TrainingConfig"]["properties"]["learning_rate"]["exclusiveMinimum"] == 0
    clipping = definitions["TrainingConfig"]["properties"]["clip_norm"]["anyOf"]
    assert clipping == [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]
    assert not re.search(r'"(ge|gt|le|lt)":', json.dumps(definitions))


def test_no_two_sections_share_a_name_so_that_short_names_are_clear():
    names = [key for _, key in KEYS]
    assert len(set(names)) == len(names)
    assert not set(names) & set(SECTIONS)


def test_configurations_are_frozen():
    config = Config()
    for owner, name, value in ((config, "model", ModelConfig()), (config.model, "hidden_size", 3)):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(owner, name, value)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Budget(steps=1).steps = 2  # type: ignore[misc]


def test_the_checks_hold_in_python_too():
    with pytest.raises(ValidationError, match="validation \\+ test below 1"):
        CorpusConfig(validation=0.6, test=0.4)
    with pytest.raises(ValidationError, match="extra_forbidden"):
        ModelConfig(hiden_size=3)  # type: ignore[call-arg]


def test_changed_keys_names_what_differs_and_nothing_else():
    old = Config()
    new = load_config(settings=["seed=1", "cell=gru", "source=[python]", "clip_norm=null"])
    assert changed_keys(old, new) == ["corpus.source", "model.cell", "training.clip_norm", "training.seed"]
    assert changed_keys(new, new) == []


def test_every_resumable_key_exists_and_those_that_make_the_run_are_not_among_them():
    assert {tuple(key.split(".")) for key in RESUMABLE} <= set(KEYS)
    assert "training.budget" in RESUMABLE
    assert not RESUMABLE & {"training.seed", "training.batch_size", "corpus.encoding", "model.hidden_size"}


def test_an_explained_configuration_is_the_same_with_the_meaning_of_every_option():
    config = load_config(settings=['sample_prefix="a\\n# b\\n"', "hidden_size=7", "source=[a.txt, b.txt]"])
    text = config.to_yaml(explained=True)
    assert load(text) == config
    said = " ".join(line.strip().removeprefix("# ") for line in text.splitlines())
    for section in (config.corpus, config.model, config.training):
        for field in type(section).model_fields.values():
            assert " ".join(field.description.split()) in " ".join(said.split())
