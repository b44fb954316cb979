"""What charrnn.text.dataset promises: exact contiguous splits, and a vocabulary that held-out text has no say in."""

import hashlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from charrnn.config import CorpusConfig
from charrnn.errors import ConfigError, TextError
from charrnn.text.dataset import Dataset, encode_text, load_dataset, split_bounds
from charrnn.text.reading import Text
from charrnn.text.vocabulary import REPLACEMENT, UNKNOWN, Vocabulary

patient = settings(deadline=None, max_examples=50)  # other processes may slow an example down

hundredths = st.integers(0, 99).map(lambda share: share / 100)
shares = hundredths | st.floats(0, 1, exclude_max=True)


def encode(content: str | bytes, vocabulary: Vocabulary | None = None, **options: object) -> Dataset:
    level = "character" if isinstance(content, str) else "byte"
    config = CorpusConfig.model_validate({"level": level, **options})
    return encode_text(Text(content, "poem.txt", ("a note",)), config, vocabulary)


def parts(dataset: Dataset) -> list[np.ndarray]:
    return [dataset.training, dataset.validation, dataset.test]


# Splits


@pytest.mark.parametrize(
    ("length", "validation", "test", "sizes"),
    [
        (1_115_394, 0.1, 0.0, (1_003_854, 111_540, 0)),  # tiny Shakespeare
        (100_000_000, 0.05, 0.05, (90_000_000, 5_000_000, 5_000_000)),  # text8
        (10, 0.1, 0.0, (9, 1, 0)),
        (10, 0.1, 0.1, (8, 1, 1)),
        (10, 0.3, 0.0, (7, 3, 0)),
        (10, 0.2, 0.1, (7, 2, 1)),
        (10, 0.0, 0.1, (9, 0, 1)),
        (10, 0.0, 0.0, (10, 0, 0)),
        (1, 0.1, 0.0, (0, 1, 0)),
        (0, 0.1, 0.1, (0, 0, 0)),
    ],
)
def test_splits_have_the_sizes_that_their_shares_say(length, validation, test, sizes):
    train_end, validation_end = split_bounds(length, validation, test)
    assert (train_end, validation_end - train_end, length - validation_end) == sizes


@patient
@given(st.integers(0, 10**12), shares, shares)
@example(10**12, 0.9999999999999999, 5e-17)
@example(10**12, 0.0, 5e-324)
def test_no_split_is_negative_or_loses_a_character_and_each_is_its_share_rounded(length, validation, test):
    assume(validation + test < 1)
    train_end, validation_end = split_bounds(length, validation, test)
    assert 0 <= train_end <= validation_end <= length
    assert abs(validation_end - train_end - length * Fraction(validation)) < 1.001
    assert abs(length - validation_end - length * Fraction(test)) < 1.001
    if validation == 0:
        assert train_end == validation_end
    if test == 0:
        assert validation_end == length


@patient
@given(st.integers(0, 10**6), st.integers(0, 99), st.integers(0, 99))
def test_shares_in_hundredths_are_exact(length, validation, test):
    assume(validation + test < 100)
    expected = (length * (100 - validation - test) // 100, length * (100 - test) // 100)
    assert split_bounds(length, validation / 100, test / 100) == expected


@patient
@given(st.text(min_size=1) | st.binary(min_size=1), hundredths, hundredths)
def test_the_splits_are_the_text_in_its_order(content, validation, test):
    assume(validation + test < 1)
    dataset = encode(content, validation=validation, test=test)
    whole = dataset.vocabulary.encode(content, on_unknown="replace")
    assert np.concatenate(parts(dataset)).tolist() == whole.tolist()
    train_end, validation_end = split_bounds(len(content), validation, test)
    assert [len(part) for part in parts(dataset)] == [
        train_end,
        validation_end - train_end,
        len(content) - validation_end,
    ]
    if isinstance(content, str):
        assert dataset.vocabulary == Vocabulary.of(content[:train_end])


def test_training_comes_first_then_validation_then_test():
    dataset = encode("aaaaaaaabc" * 10, validation=0.1, test=0.1)
    decoded = [dataset.vocabulary.decode(part) for part in parts(dataset)]
    assert decoded == ["aaaaaaaabc" * 8, "aaaaaaaabc", "aaaaaaaabc"]
    assert [dataset.split("training"), dataset.split("validation"), dataset.split("test")] == [
        pytest.approx(part) for part in parts(dataset)
    ]


@pytest.mark.parametrize(
    ("content", "name", "count"),
    [("abcdefghij", "test", 0), ("abcdefghij", "validation", 1), ("ab", "training", 1), ("", "training", 0)],
)
def test_a_split_too_small_to_predict_from_is_refused_by_name(content, name, count):
    message = rf"the {name} split of poem\.txt has {count} characters, too few .* corpus\.validation and corpus\.test"
    with pytest.raises(TextError, match=message):
        encode(content).split(name)


def test_a_split_of_two_characters_is_enough():
    assert len(encode("a" * 20).split("validation")) == 2


def test_what_lies_behind_max_characters_has_no_say():
    for part, more in (("ab" * 50, "z"), (b"ab" * 50, b"z")):
        cut, short = encode(part + more, max_characters=100), encode(part)
        assert [ids.tolist() for ids in parts(cut)] == [ids.tolist() for ids in parts(short)]
        assert (cut.vocabulary, cut.fingerprint, cut.notes) == (short.vocabulary, short.fingerprint, short.notes)


# The vocabulary


def test_a_character_of_the_held_out_text_alone_is_unknown_and_noted():
    dataset = encode("abcabcabca" + "zab" + "zzz", validation=3 / 16, test=3 / 16)
    assert dataset.vocabulary == Vocabulary.of("abc")
    assert dataset.validation.tolist() == [UNKNOWN, 1, 2]
    assert dataset.vocabulary.decode(dataset.test) == REPLACEMENT * 3
    assert dataset.notes == (
        "a note",
        "4 characters of the held-out text are outside the vocabulary and read as the unknown character",
    )


def test_a_character_rarer_than_min_count_in_the_training_text_is_unknown_and_noted():
    # The second x is in the held-out text, which does not count.
    dataset = encode("aaaxbbbbb" + "x", min_count=2)
    assert dataset.vocabulary.characters == "ab"
    assert dataset.vocabulary.decode(dataset.training) == f"aaa{REPLACEMENT}bbbbb"
    assert dataset.notes[1:] == (
        "1 characters of the training text are outside the vocabulary and read as the unknown character",
        "1 characters of the held-out text are outside the vocabulary and read as the unknown character",
    )


def test_where_every_character_is_known_there_is_nothing_to_note():
    assert encode("ab" * 50).notes == ("a note",)


def test_a_given_vocabulary_is_used_as_it_is():
    given_one = Vocabulary.of("bcd")
    dataset = encode("abcabcabca", given_one, min_count=3)
    assert dataset.vocabulary is given_one
    assert dataset.training.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert "3 characters of the training text" in dataset.notes[1]


def test_a_given_vocabulary_may_know_no_character_at_all():
    dataset = encode("abcabcabca", Vocabulary.of(""))
    assert dataset.vocabulary.size == 1
    assert not dataset.training.any()


@pytest.mark.parametrize(
    ("content", "vocabulary", "message"),
    [
        ("äää", Vocabulary("byte"), r"corpus\.level = 'character': expected 'byte', the level of the given model's"),
        (b"abc", Vocabulary.of("abc"), r"corpus\.level = 'byte': expected 'character', the level of the given model's"),
    ],
)
def test_a_vocabulary_of_the_other_level_is_refused(content, vocabulary, message):
    with pytest.raises(ConfigError, match=message):
        encode(content, vocabulary)


def test_at_level_byte_the_ids_are_the_bytes():
    raw = bytes(range(256)) + b"\xff\x00" * 10
    dataset = encode(raw)
    assert (dataset.vocabulary.level, dataset.vocabulary.size) == ("byte", 256)
    assert b"".join(part.tobytes() for part in parts(dataset)) == raw
    assert len(dataset.training) == 248
    assert dataset.notes == ("a note",)


# The fingerprint


def test_the_fingerprint_is_the_sha256_of_the_text_in_utf8():
    assert encode("äh").fingerprint == hashlib.sha256("äh".encode()).hexdigest()
    assert encode("äh".encode()).fingerprint == encode("äh").fingerprint


@settings(patient, max_examples=30)
@given(st.text(st.characters() | st.sampled_from("\ud800\udfff")), st.text(st.characters(), min_size=1), st.integers(0))
@example("a\ud800", "\ud800", 1)
def test_the_fingerprint_changes_with_the_text_and_with_nothing_else(text, more, place):
    changed = text[: place % (len(text) + 1)] + more + text[place % (len(text) + 1) :]
    assert encode(changed).fingerprint != encode(text).fingerprint
    assert encode(text, validation=0.3, min_count=4).fingerprint == encode(text).fingerprint


# From the configuration's files


@pytest.mark.parametrize("level", ["character", "byte"])
def test_a_dataset_is_read_as_its_configuration_says(tmp_path: Path, level):
    raw = "où\r\n".encode("latin-1") * 10
    path = tmp_path / "lines.txt"
    path.write_bytes(raw)
    encoding = {"encoding": "latin-1"} if level == "character" else {}
    config = CorpusConfig.model_validate({"source": str(path), "level": level, **encoding})
    dataset = load_dataset(config)
    content = "où\n" * 10 if level == "character" else raw
    assert dataset.name == "lines.txt"
    assert dataset.fingerprint == hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
    assert len(dataset.training) == len(content) * 9 // 10
    assert dataset.vocabulary.decode_bytes(dataset.training[:3]) == (
        "où\n".encode() if level == "character" else raw[:3]
    )


def test_newlines_and_several_sources_are_as_the_configuration_says(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(f"{name}\r\n".encode())
    options = {"source": [str(tmp_path / "b"), str(tmp_path / "a")], "newlines": "keep", "validation": 0}
    dataset = load_dataset(CorpusConfig.model_validate(options))
    assert dataset.vocabulary.decode(dataset.training) == "b\r\na\r\n"


def test_load_dataset_goes_on_from_a_given_vocabulary(tmp_path: Path):
    (tmp_path / "a").write_text("abab", encoding="utf-8")
    dataset = load_dataset(CorpusConfig(source=str(tmp_path / "a"), validation=0), Vocabulary.of("bc"))
    assert dataset.training.tolist() == [0, 1, 0, 1]
