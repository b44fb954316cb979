"""Characters (code points) or bytes to ids and back, without loss."""

import itertools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from charrnn.errors import CheckpointError, TextError

UNKNOWN = 0
"""The id of the unknown character; a character vocabulary always has one, a byte vocabulary needs none."""

REPLACEMENT = "\ufffd"
"""How the unknown character is shown: Unicode's own replacement character."""

Ids = npt.NDArray[np.unsignedinteger[Any]]
OnUnknown = Literal["error", "skip", "replace"]

_CHUNK = 1 << 22
"""Characters encoded at a time, so that the four bytes each takes on the way stay small."""


class Vocabulary:
    """The V symbols a network knows.

    At level "character" id 0 is the unknown character and ids 1, 2, ... are `characters` in code point order.
    At level "byte" the ids are the 256 byte values. `Vocabulary.of` counts a text; `from_json` reads a checkpoint's.
    """

    def __init__(self, level: Literal["character", "byte"], characters: str = "") -> None:
        self.level = level
        self.characters = characters
        self.size = 256 if level == "byte" else len(characters) + 1
        self.dtype = np.min_scalar_type(self.size - 1)
        self._points = np.concatenate([[ord(REPLACEMENT)], _code_points(characters)]).astype("<u4")
        self._id_of_point = np.zeros(int(self._points.max()) + 2, dtype=self.dtype)
        self._id_of_point[self._points[1:]] = np.arange(1, len(self._points))

    @classmethod
    def of(cls, text: str | bytes, min_count: int = 1, length: int | None = None) -> "Vocabulary":
        """The vocabulary of a training text: every character that occurs at least `min_count` times, sorted.

        length: of the text's beginning that is trained on, if not all of it is.
        """
        if isinstance(text, bytes):
            return cls("byte")
        counts = np.zeros(0x110000, dtype=np.int64)
        length = len(text) if length is None else length
        for start in range(0, length, _CHUNK):
            found = np.bincount(_code_points(text[start : min(start + _CHUNK, length)]))
            counts[: len(found)] += found
        return cls("character", "".join(map(chr, np.flatnonzero(counts >= max(min_count, 1)))))

    def encode(self, text: str | bytes, on_unknown: OnUnknown = "error", what: str = "text") -> Ids:
        """The ids of a text, in the smallest unsigned type that holds them.

        on_unknown: what becomes of a character the vocabulary lacks: a TextError that names it and its position in
        `what`, nothing ("skip"), or the unknown character ("replace"). A str at level "byte" stands for its UTF-8.
        """
        if self.level == "byte":
            return np.frombuffer(utf8_of(text, what) if isinstance(text, str) else text, dtype=np.uint8)
        if isinstance(text, bytes):
            raise TextError(f"{what}: bytes given to a vocabulary of characters; decode them first")
        ids = np.empty(len(text), dtype=self.dtype)
        for start in range(0, len(text), _CHUNK):
            points = _code_points(text[start : start + _CHUNK])
            ids[start : start + _CHUNK] = self._id_of_point[np.minimum(points, len(self._id_of_point) - 1)]
        if on_unknown == "replace":
            return ids
        unknown = np.flatnonzero(ids == UNKNOWN)
        if len(unknown) and on_unknown == "error":
            raise TextError(self._unknown_message(text, int(unknown[0]), len(unknown), what))
        return np.delete(ids, unknown)

    def decode(self, ids: npt.ArrayLike) -> str:
        """The text of some ids; the unknown character as U+FFFD, bytes that are no UTF-8 too."""
        if self.level == "byte":
            return self.decode_bytes(ids).decode("utf-8", "replace")
        return self._points[np.asarray(ids, dtype=np.int64)].tobytes().decode("utf-32-le", "surrogatepass")

    def decode_bytes(self, ids: npt.ArrayLike) -> bytes:
        """The bytes of some ids: themselves at level "byte", else the text's UTF-8."""
        if self.level == "byte":
            return np.asarray(ids, dtype=np.uint8).tobytes()
        return self.decode(ids).encode("utf-8", "surrogatepass")

    def bytes_per_id(self) -> npt.NDArray[np.int64]:
        """(V,) the UTF-8 bytes that each id stands for; the unknown character counts as U+FFFD's three."""
        if self.level == "byte":
            return np.ones(256, dtype=np.int64)
        points = self._points
        return 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)

    def to_json(self) -> dict[str, str]:
        """What a checkpoint keeps."""
        return {"level": self.level, "characters": self.characters}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Vocabulary":
        """The vocabulary of a checkpoint. Raises CheckpointError if it is not one that `of` could have made."""
        level, characters = (
            stored.get(key) if isinstance(stored, Mapping) else None for key in ("level", "characters")
        )
        if level not in ("character", "byte") or not isinstance(characters, str) or (level == "byte" and characters):
            raise CheckpointError("the vocabulary is damaged: expected a level and its characters")
        if any(left >= right for left, right in itertools.pairwise(characters)):
            raise CheckpointError("the vocabulary is damaged: its characters are not distinct and in order")
        return cls(level, characters)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.level, self.characters))

    def _unknown_message(self, text: str, position: int, count: int, what: str) -> str:
        character = text[position]
        more = f" (and {count - 1:,} more unknown)" if count > 1 else ""
        return (
            f"{what}: {character!a} (U+{ord(character):04X}) at position {position:,}{more} is not among the "
            f"{len(self.characters):,} characters the model was trained on: {_shown(self.characters)}; "
            f"on_unknown skip (--on-unknown skip) leaves such characters out"
        )


def utf8_of(text: str, what: str) -> bytes:
    """The UTF-8 of a text, in which U+DC80 to U+DCFF stand for single bytes, as in the arguments of a command.

    Raises TextError for any other half of a surrogate pair.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X} at position {error.start:,}"
        raise TextError(f"{what}: {half} is half a surrogate pair, which has no bytes in UTF-8") from None


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint32, copy=False)


def _shown(characters: str) -> str:
    shown = "".join(character if character.isprintable() else repr(character)[1:-1] for character in characters)
    return shown if len(shown) <= 120 else shown[:117] + "..."
