"""What charrnn.text.vocabulary promises: what was seen comes back exactly, and what was not is named or marked."""

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charrnn.errors import CheckpointError, TextError
from charrnn.text import vocabulary as module
from charrnn.text.vocabulary import REPLACEMENT, UNKNOWN, Vocabulary

patient = settings(deadline=None, max_examples=50)  # other processes may slow an example down

# Hypothesis leaves halves of surrogate pairs out unless asked.
ODD = "\0\r\n\x7f\x80\u0301\u07ff\u0800\ud800\udbff\udc00\udfff\ue000\ufeff\ufffd\uffff\U00010000\U0001f600\U0010ffff"
texts = st.text(st.characters() | st.sampled_from(ODD))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of a few characters are read in several chunks."""
    monkeypatch.setattr(module, "_CHUNK", 3)


def points(text: str) -> list[int]:
    return [ord(character) for character in text]


# Characters


@patient
@given(texts)
@example("")
@example(ODD)
@example("e\u0301 \U0001f468\u200d\U0001f469\u200d\U0001f467 \ud83d\ude00")
def test_a_text_whose_characters_were_all_seen_comes_back_exactly(text):
    vocabulary = Vocabulary.of(text)
    ids = vocabulary.encode(text)
    assert len(ids) == len(text)
    assert UNKNOWN not in ids
    # Compared as code points: two surrogates in a row are not to become one character.
    assert points(vocabulary.decode(ids)) == points(text)


@patient
@given(texts, st.data())
def test_a_vocabulary_encodes_every_text_of_its_characters_and_any_order_of_its_ids_decodes(text, data):
    vocabulary = Vocabulary.of(text)
    ids = data.draw(st.lists(st.integers(1, max(1, vocabulary.size - 1)), max_size=9 if text else 0))
    assert vocabulary.encode(vocabulary.decode(ids)).tolist() == ids


@patient
@given(texts, st.randoms(use_true_random=False))
def test_characters_are_sorted_by_code_point_distinct_and_the_same_for_any_order_of_the_text(text, random):
    vocabulary = Vocabulary.of(text)
    assert points(vocabulary.characters) == sorted(set(points(text)))
    assert vocabulary.size == len(set(text)) + 1
    shuffled = "".join(random.sample(text, len(text)))
    assert Vocabulary.of(shuffled) == vocabulary
    assert hash(Vocabulary.of(shuffled)) == hash(vocabulary)


def test_the_ids_are_those_of_the_docstring():
    vocabulary = Vocabulary.of("banana")
    assert vocabulary.characters == "abn"
    assert vocabulary.encode("banana").tolist() == [2, 1, 3, 1, 3, 1]
    assert vocabulary.decode([3, 0, 1]) == f"n{REPLACEMENT}a"


@pytest.mark.parametrize(
    ("min_count", "characters"), [(0, "\nabc"), (1, "\nabc"), (2, "\nab"), (3, "a"), (4, "a"), (5, "")]
)
def test_characters_rarer_than_min_count_are_left_out(min_count, characters):
    assert Vocabulary.of("aab\nc\nbaa", min_count).characters == characters


@pytest.mark.usefixtures("small_chunks")
def test_a_text_read_in_several_chunks_is_counted_and_encoded_as_one():
    text = "aabbaxyzaab"
    vocabulary = Vocabulary.of(text, 3)
    assert vocabulary.characters == "ab"
    assert vocabulary.encode(text, "replace").tolist() == [1, 1, 2, 2, 1, 0, 0, 0, 1, 1, 2]
    with pytest.raises(TextError, match=r"'x' \(U\+0078\) at position 5 \(and 2 more unknown\)"):
        vocabulary.encode(text)


# The unknown character


def test_the_unknown_character_is_id_0_and_shown_as_u_fffd():
    assert UNKNOWN == 0
    assert Vocabulary.of("ab").decode([0]) == "\ufffd"
    assert Vocabulary.of("").size == 1


def test_a_text_may_hold_u_fffd_itself_which_is_not_the_unknown_character():
    vocabulary = Vocabulary.of("a\ufffd")
    assert vocabulary.encode("\ufffda").tolist() == [2, 1]
    assert Vocabulary.of("a").encode("\ufffd", "replace").tolist() == [UNKNOWN]


@patient
@given(texts, texts)
@example("a", "\U0010ffffa\ufffd")
@example("\U0010ffff", "\U0010ffffa")
def test_replace_marks_and_skip_drops_exactly_the_characters_that_were_not_seen(seen, text):
    vocabulary = Vocabulary.of(seen)
    replaced = "".join(character if character in seen else REPLACEMENT for character in text)
    kept = "".join(character for character in text if character in seen)
    assert points(vocabulary.decode(vocabulary.encode(text, "replace"))) == points(replaced)
    assert (vocabulary.encode(text, "replace") == UNKNOWN).tolist() == [character not in seen for character in text]
    assert points(vocabulary.decode(vocabulary.encode(text, "skip"))) == points(kept)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abz", "prefix: 'z' (U+007A) at position 2 is not among the 3 characters the model was trained on: \\nab"),
        ("é", "prefix: '\\xe9' (U+00E9) at position 0 is not among the 3 characters"),
        ("a\U0001f600", "prefix: '\\U0001f600' (U+1F600) at position 1 is not among"),
        ("a\ud800", "prefix: '\\ud800' (U+D800) at position 1 is not among"),
        ("a\0b\0\0", "prefix: '\\x00' (U+0000) at position 1 (and 2 more unknown) is not among"),
        ("a" * 1234 + "!", "at position 1,234 is not among"),
    ],
)
def test_an_unknown_character_is_named_with_its_code_point_and_position(text, message):
    with pytest.raises(TextError, match=re.escape(message)):
        Vocabulary.of("ab\n").encode(text, what="prefix")


def test_a_message_shows_the_beginning_of_a_large_vocabulary_only():
    many = "".join(map(chr, range(0x4E00, 0x5E00)))
    with pytest.raises(
        TextError, match=r"among the 4,096 characters the model was trained on: 一.*\.\.\.; on_unknown"
    ) as caught:
        Vocabulary.of(many).encode("a")
    assert len(str(caught.value)) < 300


def test_bytes_are_refused_by_a_vocabulary_of_characters():
    with pytest.raises(TextError, match="poem: bytes given to a vocabulary of characters; decode them first"):
        Vocabulary.of("a").encode(b"a", what="poem")


# Bytes


@patient
@given(st.binary())
@example(bytes(range(256)))
def test_any_bytes_come_back_at_level_byte(raw):
    vocabulary = Vocabulary.of(raw)
    ids = vocabulary.encode(raw)
    assert (vocabulary.level, vocabulary.size) == ("byte", 256)
    assert ids.tolist() == list(raw)
    assert vocabulary.decode_bytes(ids) == raw
    assert vocabulary.decode(ids) == raw.decode("utf-8", "replace")


def test_the_vocabulary_of_bytes_is_the_same_for_every_text_and_min_count():
    assert Vocabulary.of(b"") == Vocabulary.of(b"abc", min_count=9)
    assert Vocabulary.of(b"") != Vocabulary.of("")


def test_bytes_that_are_no_utf8_are_shown_as_u_fffd():
    vocabulary = Vocabulary("byte")
    assert vocabulary.decode(np.frombuffer(b"a\xff\xe2\x82b", dtype=np.uint8)) == "a\ufffd\ufffdb"


@patient
@given(st.text())
def test_a_text_at_level_byte_stands_for_its_utf8(text):
    vocabulary = Vocabulary("byte")
    assert vocabulary.encode(text).tolist() == list(text.encode())
    assert vocabulary.decode(vocabulary.encode(text)) == text


@patient
@given(st.binary())
def test_undecodable_bytes_of_a_command_line_come_back_at_level_byte(raw):
    argument = raw.decode("utf-8", "surrogateescape")
    assert Vocabulary("byte").encode(argument).tolist() == list(raw)


def test_half_a_surrogate_pair_that_stands_for_no_byte_is_named_at_level_byte():
    with pytest.raises(TextError, match=r"prefix: U\+D800 at position 1 is half a surrogate pair"):
        Vocabulary("byte").encode("a\ud800", what="prefix")


@patient
@given(texts)
def test_decoded_bytes_of_characters_are_their_utf8(text):
    vocabulary = Vocabulary.of(text)
    assert vocabulary.decode_bytes(vocabulary.encode(text)) == text.encode("utf-8", "surrogatepass")


# Sizes


@patient
@given(texts)
@example(ODD)
def test_bytes_per_id_are_the_lengths_in_utf8(text):
    vocabulary = Vocabulary.of(text)
    lengths = [
        len(chr(point).encode("utf-8", "surrogatepass")) for point in points(REPLACEMENT + vocabulary.characters)
    ]
    assert vocabulary.bytes_per_id().tolist() == lengths
    total = vocabulary.bytes_per_id()[vocabulary.encode(text)].sum()
    assert total == len(text.encode("utf-8", "surrogatepass"))


def test_bytes_per_id_are_1_at_level_byte():
    assert Vocabulary("byte").bytes_per_id().tolist() == [1] * 256


@pytest.mark.parametrize(
    ("count", "dtype"),
    [(0, "uint8"), (1, "uint8"), (255, "uint8"), (256, "uint16"), (65535, "uint16"), (65536, "uint32")],
)
def test_ids_have_the_smallest_type_that_holds_them(count, dtype):
    text = "".join(map(chr, range(0x10000, 0x10000 + count)))
    vocabulary = Vocabulary.of(text)
    assert vocabulary.encode(text).dtype == vocabulary.dtype == dtype
    assert vocabulary.encode(text).tolist() == list(range(1, count + 1))


def test_every_code_point_there_is_fits():
    everything = "".join(map(chr, range(0x110000)))
    vocabulary = Vocabulary.of(everything)
    assert vocabulary.size == 0x110001
    assert vocabulary.encode("\U0010ffff\0").tolist() == [0x110000, 1]
    assert points(vocabulary.decode([0x110000, 1])) == [0x10FFFF, 0]


# What a checkpoint keeps


@patient
@given(st.text())
@example("\0\U0010ffff\ufffd\u2028")
def test_a_vocabulary_comes_back_from_the_json_of_a_checkpoint(text):
    vocabulary = Vocabulary.of(text)
    again = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert again == vocabulary
    assert again.encode(text).tolist() == vocabulary.encode(text).tolist()


@patient
@given(texts)
def test_whatever_of_makes_from_json_takes(text):
    assert Vocabulary.from_json(Vocabulary.of(text).to_json()) == Vocabulary.of(text)


def test_a_vocabulary_of_bytes_comes_back():
    assert Vocabulary.from_json(Vocabulary("byte").to_json()) == Vocabulary("byte")


SHAPE = "the vocabulary is damaged: expected a level and its characters"
ORDER = "the vocabulary is damaged: its characters are not distinct and in order"


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({}, SHAPE),
        ({"level": "character"}, SHAPE),
        ({"characters": "abc"}, SHAPE),
        ({"level": "word", "characters": "abc"}, SHAPE),
        ({"level": None, "characters": "abc"}, SHAPE),
        ({"level": ["character"], "characters": "abc"}, SHAPE),
        ({"level": "character", "characters": None}, SHAPE),
        ({"level": "character", "characters": 7}, SHAPE),
        ({"level": "character", "characters": ["a", "b"]}, SHAPE),
        ({"level": "character", "characters": b"ab"}, SHAPE),
        ({"level": "byte", "characters": "ab"}, SHAPE),
        ([], SHAPE),
        (["character", "ab"], SHAPE),
        ("character", SHAPE),
        (None, SHAPE),
        (7, SHAPE),
        ({"level": "character", "characters": "aa"}, ORDER),
        ({"level": "character", "characters": "abcb"}, ORDER),
        ({"level": "character", "characters": "ba"}, ORDER),
        ({"level": "character", "characters": "\U00010000\uffff"}, ORDER),
    ],
)
def test_a_damaged_vocabulary_is_refused(stored: Any, message):
    with pytest.raises(CheckpointError, match=message):
        Vocabulary.from_json(stored)


def test_a_vocabulary_equals_nothing_but_a_vocabulary():
    assert Vocabulary.of("ab") != "ab"
    assert Vocabulary.of("ab") != Vocabulary.of("abc")


@pytest.mark.parametrize("length", [0, 1, 5, 7, 100])
def test_of_a_texts_beginning_only_that_is_counted(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 3)
    text = "abcabdxyz"
    assert Vocabulary.of(text, 2, min(length, len(text))).characters == Vocabulary.of(text[:length], 2).characters
