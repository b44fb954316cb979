"""From the configuration's text to encoded splits: read, cut, count the vocabulary on the training part, encode."""

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from charrnn.config import CorpusConfig
from charrnn.errors import ConfigError, TextError
from charrnn.text import corpora
from charrnn.text.reading import Text, is_stream, shown
from charrnn.text.vocabulary import UNKNOWN, Ids, Vocabulary

SplitName = Literal["training", "validation", "test"]


@dataclass(frozen=True)
class Dataset:
    """The three contiguous parts of one text as ids, in the order they stand in it, and their vocabulary."""

    name: str
    vocabulary: Vocabulary
    training: Ids
    validation: Ids
    test: Ids
    fingerprint: str
    """SHA-256 of the whole text in UTF-8 (its bytes at level "byte"), by which a resumed run knows it again."""
    notes: tuple[str, ...]
    predicted_bytes: dict[str, int]
    """By split, the bytes in UTF-8 of all characters but the first: those that an evaluation predicts."""

    def split(self, name: SplitName) -> Ids:
        """The ids of a split. Raises TextError if the configuration left it empty."""
        ids: Ids = getattr(self, name)
        if len(ids) < 2:
            raise TextError(
                f"the {name} split of {self.name} has {len(ids)} characters, too few to predict one from another; "
                f"corpus.validation and corpus.test set the shares"
            )
        return ids


def split_bounds(length: int, validation: float, test: float) -> tuple[int, int]:
    """Where training ends and validation ends: training is the first part, rounded down, test the last.

    The shares are taken as the decimals they are written as: in floats, text8 cut 90/5/5 would lose a character.
    """
    held_out, last = Fraction(str(validation)) + Fraction(str(test)), Fraction(str(test))
    return int(length * (1 - held_out)), int(length * (1 - last))


def load_dataset(config: CorpusConfig, vocabulary: Vocabulary | None = None) -> Dataset:
    """Read and encode the corpus. `vocabulary` is a checkpoint's, where training goes on from one."""
    text = corpora.load(config.sources, level=config.level, encoding=config.encoding, newlines=config.newlines)
    return encode_text(text, config, vocabulary)


def read_again(config: CorpusConfig, vocabulary: Vocabulary) -> Dataset:
    """The dataset that a run was trained on, read from where it was then.

    Raises TextError, with advice on a text that came from standard input, was named relative to another folder, or was
    moved.
    """
    if {"-", "/dev/stdin"} & {*config.sources} and sys.stdin is not None and sys.stdin.isatty():
        raise TextError(f"the text is not here: {_ON_STDIN}")
    try:
        return load_dataset(config, vocabulary)
    except TextError as error:
        moved = [_MOVED] if any(map(_is_gone, config.sources)) else []
        raise TextError("; ".join([str(error), *where_it_was(config), *moved])) from error


_ON_STDIN = "the run's came from standard input, so give the same again: charrnn ... < FILE"


def _is_gone(source: str) -> bool:
    return source not in corpora.KNOWN and source != "-" and not os.path.lexists(os.path.expanduser(source))


_MOVED = (
    "if it was moved, name where it is now: charrnn train --resume --set source=FILE, or charrnn evaluate --split "
    "validation --text FILE"
)


def where_it_was(config: CorpusConfig) -> list[str]:
    """What to know about a text that is not found, or not the same, where a run once found it: one clause at most."""
    if "-" in config.sources:
        return [_ON_STDIN]
    pipes = [name for name in config.sources if is_stream(name)]
    if pipes:
        return [f"the run's came through the pipe {shown(pipes[0])}, so give the same again there"]
    relative = [name for name in config.sources if name not in corpora.KNOWN and not os.path.isabs(name)]
    if not relative or relative[0].startswith("~"):
        return []
    return [f"{shown(relative[0])} is relative to the folder in which the run was started: go there first"]


def encode_text(text: Text, config: CorpusConfig, vocabulary: Vocabulary | None = None) -> Dataset:
    """Cut a text into its splits and encode them.

    The vocabulary is counted on the training part alone, so the held-out text has no say in it; its characters that
    the training part lacks become the unknown character, and are scored as such. Raises ConfigError if a vocabulary
    is given that is not of the configuration's level.
    """
    if vocabulary and vocabulary.level != config.level:
        raise ConfigError(
            f"corpus.level = {config.level!r}: expected {vocabulary.level!r}, the level of the given model's vocabulary"
        )
    content = text.content[: config.max_characters]
    train_end, validation_end = split_bounds(len(content), config.validation, config.test)
    vocabulary = vocabulary or Vocabulary.of(content, config.min_count, train_end)
    ids = vocabulary.encode(content, on_unknown="replace", what=text.name)
    return Dataset(
        name=text.name,
        vocabulary=vocabulary,
        training=ids[:train_end],
        validation=ids[train_end:validation_end],
        test=ids[validation_end:],
        fingerprint=fingerprint_of(content),
        notes=(*text.notes, *_unknown_notes(ids, train_end, vocabulary)),
        predicted_bytes={
            "training": utf8_length(content, 1, train_end),
            "validation": utf8_length(content, train_end + 1, validation_end),
            "test": utf8_length(content, validation_end + 1, len(content)),
        },
    )


_CHUNK = 1 << 22
"""Characters encoded at a time, so that no second copy of a text is in memory."""


def _utf8(content: str | bytes, start: int, end: int) -> Iterator[bytes]:
    """A part of a text in UTF-8, or of bytes, piece by piece."""
    for at in range(start, end, _CHUNK):
        piece = content[at : min(at + _CHUNK, end)]
        yield piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece


def utf8_length(content: str | bytes, start: int, end: int) -> int:
    """Bytes of a part of a text in UTF-8, or of bytes."""
    return sum(map(len, _utf8(content, start, end)))


def fingerprint_of(content: str | bytes) -> str:
    """SHA-256, in hexadecimal, of a text in UTF-8, or of bytes."""
    digest = hashlib.sha256()
    for piece in _utf8(content, 0, len(content)):
        digest.update(piece)
    return digest.hexdigest()


def _unknown_notes(ids: Ids, train_end: int, vocabulary: Vocabulary) -> list[str]:
    if vocabulary.level == "byte":
        return []
    counts = {
        "training": int((ids[:train_end] == UNKNOWN).sum()),
        "held-out": int((ids[train_end:] == UNKNOWN).sum()),
    }
    return [
        f"{count:,} characters of the {part} text are outside the vocabulary and read as the unknown character"
        for part, count in counts.items()
        if count
    ]
