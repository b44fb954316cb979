"""Files, folders, globs and standard input -> one text; whatever is wrong is named by file, line and byte.

At level "character" bytes are decoded strictly, so that a wrong encoding stops here, with advice, rather than
being learnt. At level "byte" they pass untouched. Only the standard library is needed.
"""

import codecs
import difflib
import functools
import glob
import io
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from encodings.aliases import aliases
from typing import BinaryIO

from charrnn.errors import ConfigError, TextError
from charrnn.limits import longest_text
from charrnn.waiting import told_if_slow

LEVELS = ("character", "byte")
NEWLINES = ("normalise", "keep")

_END_OF_INPUT = "Ctrl-Z and Enter" if os.name == "nt" else "Ctrl-D"

_MAGIC = re.compile(r"[*?[]")
_SEPARATORS = re.compile(r"[/\\]" if os.sep == "\\" else "/")
# What redirections and a shell's <(command) turn into: read, whatever device stands behind.
_DESCRIPTOR = re.compile(r"/dev/(stdin|fd/\d+)|/proc/self/fd/\d+")

# Text encodings to Python, but of host names, or of nothing: no file is written in them.
_NOT_FOR_FILES = frozenset({"idna", "punycode", "undefined"})
# The only ones whose strict decoding can give half a surrogate pair, which no file of UTF-8 can hold.
_GIVE_SURROGATES = frozenset({"utf-7", "unicode-escape", "raw-unicode-escape"})
_SURROGATE = re.compile("[\ud800-\udfff]")

# UTF-32-LE's mark begins with UTF-16-LE's, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Which bytes of each four are mostly NUL in Latin text without a mark.
_NULS: dict[tuple[bool, ...], str] = {
    (False, True, False, True): "utf-16-le",
    (True, False, True, False): "utf-16-be",
    (False, True, True, True): "utf-32-le",
    (True, True, True, False): "utf-32-be",
}
_ASCII = bytes(range(0x80))
_TEXT_BYTES = bytes([*b"\b\t\n\f\r\x1b", *range(0x20, 0x7F), *range(0x80, 0x100)])
_SAMPLE = 1 << 16
"""Bytes that a guess looks at: enough to tell, and no wait on a large file."""
_PIECE = 1 << 20
"""Bytes of a stream read at a time."""
_BINARY_SHARE = 0.1
"""The share of control bytes above which it is no text."""
_WESTERN_SHARE = 0.3
"""The share of bytes above 0x7f up to which it may be Western: French has under 0.1, Russian over 0.7."""


_RUN_FILES = {"config.yaml", "metrics.jsonl"}
"""What every run's folder holds."""


@dataclass(frozen=True)
class Text:
    """A text to learn from, and what there is to say about how it was read."""

    content: str | bytes
    """A str at level "character", bytes at level "byte"."""
    name: str
    """How messages call it: "poems.txt", "12 files of poems"."""
    notes: tuple[str, ...]
    """One for each thing that was done to it or is worth saying."""


def read_paths(
    sources: Sequence[str],
    *,
    level: str = "character",
    encoding: str = "utf-8",
    newlines: str = "normalise",
    stdin: BinaryIO | None = None,
) -> Text:
    """Read files, folders, globs (`**` for any depth) and "-" (standard input), joined in the order given.

    A folder gives every regular file beneath it and a glob every one it matches, each once, sorted by the
    parts of its path, hidden ones left out. At level "character" each file is decoded, loses a byte order
    mark, has CRLF and lone CR turned into LF unless `newlines` is "keep", and begins on a new line. At level
    "byte" files are joined as they are; `encoding` and `newlines` have no say.

    Raises:
        ConfigError: an unknown level, encoding or newlines.
        TextError: a source that is missing, unreadable, of the wrong kind or not in `encoding`, or no text.
    """
    collector = Collector(level=level, newlines=newlines, stdin=stdin)
    for source in [sources] if isinstance(sources, str) else sources:
        collector.add_source(source, encoding)
    return collector.text()


def is_stream(source: str) -> bool:
    """Whether a source can be read only once: standard input, a pipe, or what a shell's <(command) becomes."""
    if source == "-":
        return True
    path = _expanded(source)
    try:
        return bool(_DESCRIPTOR.fullmatch(path)) or stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


class Collector:
    """Takes sources one after another and joins them once, at the end."""

    def __init__(
        self,
        *,
        level: str,
        newlines: str,
        stdin: BinaryIO | None = None,
        known: Sequence[str] = (),
    ) -> None:
        """`known` are names other than paths that a missing source may be a misspelling of.

        Raises:
            ConfigError: an unknown level or newlines.
        """
        _check_choice("corpus.level", level, LEVELS)
        _check_choice("corpus.newlines", newlines, NEWLINES)
        self._by_character = level == "character"
        self._normalise = newlines == "normalise"
        self._stdin = stdin
        self._known = tuple(known)
        self._strings: list[str] = []
        self._bytes: list[bytes] = []
        self._names: list[str] = []
        self._files: list[str] = []
        self._skipped: list[str] = []
        self._streams: set[object] = set()
        self._read: set[str] = set()
        self._tally: Counter[str] = Counter()
        self._length = 0

    def add_source(self, source: str, encoding: str) -> None:
        """Add what one source names. Raises as `read_paths` does."""
        if source == "-":
            self._add_stdin(encoding)
            return
        path = _expanded(os.fspath(source))
        if os.path.isdir(path):
            self._add_folder(path, encoding)
        elif _MAGIC.search(path) and not os.path.lexists(path):
            self._add_glob(path, encoding)
        elif self._is_stream(path):
            with told_if_slow(f"{shown(path)} is being read until whoever writes into it ends"):
                self.add_files([path], _base_name(path), encoding)
        else:
            self.add_files([path], _base_name(path), encoding)

    def add_files(
        self, paths: Iterable[str], name: str, encoding: str, text_of: Callable[[bytes], bytes] | None = None
    ) -> None:
        """Add the files at `paths`, which messages call `name` as a whole. Raises as `read_paths` does.

        text_of: what is read of a file's bytes, if not all.
        """
        self._names.append(name)
        self._check_encoding(encoding)
        for path in paths:
            real = os.path.realpath(path)
            if real in self._read:
                self._tally["again"] += 1
                continue
            self._read.add(real)
            self._files.append(shown(path))
            raw = _content_of(path)
            self._length += len(raw)
            if self._length > longest_text():
                raise _too_long("the text of all files together", f"over {longest_text():,} bytes")
            content = self._decoded(text_of(raw) if text_of else raw, encoding)
            del raw  # makes room for the copies that follow
            self._add(content)

    def text(self) -> Text:
        """Join what was added. Raises TextError if that is nothing."""
        name = _joined_names(self._names)
        content = "".join(self._strings) if self._by_character else b"".join(self._bytes)
        if not content:
            raise TextError(f"{name or 'the corpus'} is empty: there is nothing to read")
        return Text(content, name, tuple(self._notes()))

    def _add_folder(self, path: str, encoding: str) -> None:
        files, others = _beneath(path)
        if not files:
            raise TextError(
                f"the folder {shown(path)} holds no file to read; hidden ones and charrnn's runs do not count"
            )
        self._skipped += others
        self.add_files(files, _counted(files, _base_name(path)), encoding)

    def _add_glob(self, pattern: str, encoding: str) -> None:
        files = _matching(pattern)
        if not files:
            _refuse_closed(pattern)
            raise TextError(f"the glob {shown(pattern)} matches no file; ** stands for folders of any depth")
        self.add_files(files, _counted(files, shown(pattern)), encoding)

    def _add_stdin(self, encoding: str) -> None:
        stream = self._stdin or getattr(sys.stdin, "buffer", None)
        if stream is None:
            raise TextError("standard input is closed; pipe a text into it, or name a file instead of -")
        self._once(_identity(stream), "standard input")
        self._check_encoding(encoding)
        self._names.append("standard input")
        self._files.append("standard input")
        try:
            with told_if_slow(f"standard input is being read until its end, which at a terminal is {_END_OF_INPUT}"):
                content = _content_of_stream(stream, "standard input")
            self._add(self._decoded(content, encoding))
        except OSError as error:
            raise TextError(f"standard input cannot be read: {error.strerror or error}") from error

    def _check_encoding(self, encoding: str) -> None:
        if self._by_character:
            codec_name(encoding)

    def _decoded(self, raw: bytes, encoding: str) -> str | bytes:
        return decode(raw, self._files[-1], encoding) if self._by_character else raw

    def _add(self, content: str | bytes) -> None:
        self._tally["empty"] += not content
        if isinstance(content, bytes):
            self._bytes.append(content)
            return
        content = self._normalised(self._without_mark(content))
        self._tally["nul"] += "\0" in content
        if content and self._strings and not self._strings[-1].endswith(("\n", "\r")):
            self._tally["unended"] += 1
            self._strings.append("\n")
        if content:
            self._strings.append(content)

    def _without_mark(self, content: str) -> str:
        if not content.startswith("\ufeff"):
            return content
        self._tally["marks"] += 1
        return content[1:]

    def _normalised(self, content: str) -> str:
        if not self._normalise or "\r" not in content:
            return content
        crlf = content.count("\r\n")
        content = content.replace("\r\n", "\n")
        lone = content.count("\r")
        self._tally.update(crlf=crlf, crlf_files=crlf > 0, cr=lone, cr_files=lone > 0)
        return content.replace("\r", "\n")

    def _is_stream(self, path: str) -> bool:
        """Whether it is no regular file, but a stream. Raises TextError for what is neither, or read already."""
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error, self._known) from error
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFIFO or (kind == stat.S_IFCHR and _DESCRIPTOR.fullmatch(path)):
            self._once((status.st_dev, status.st_ino), shown(path))
            return True
        if kind != stat.S_IFREG:
            what = _KINDS.get(kind, "a special file")
            raise TextError(f"{shown(path)} is {what}; name a file, a folder or a pipe")
        return False

    def _once(self, stream: object, name: str) -> None:
        if stream in self._streams:
            raise TextError(f"{name} is named twice, but a stream can be read only once; name it once")
        self._streams.add(stream)

    def _notes(self) -> Iterator[str]:
        count = self._tally
        if count["marks"]:
            yield f"removed the byte order mark at the start of {self._of(count['marks'])}"
        if count["crlf"]:
            yield f"turned {count['crlf']:,} CRLF into LF in {self._of(count['crlf_files'])}"
        if count["cr"]:
            yield f"turned {count['cr']:,} lone CR into LF in {self._of(count['cr_files'])}"
        if count["unended"]:
            yield f"ended the last line of {self._of(count['unended'])}, so that the next begins on a new one"
        if count["again"]:
            yield (
                f"read each file once, though {count['again']:,} were named again: a text that came twice would stand "
                "in the training and in the held-out part"
            )
        if count["nul"]:
            yield (
                f"there are NUL characters in {self._of(count['nul'])}; "
                "it may be UTF-16 (then try --set corpus.encoding=utf-16-le), or no text"
            )
        if count["empty"]:
            yield f"there is nothing in {self._of(count['empty'])}"
        if self._skipped:
            yield (
                f"left out {len(self._skipped):,} that are not regular files or lead nowhere, "
                f"first {shown(self._skipped[0])}"
            )

    def _of(self, count: int) -> str:
        total = len(self._files)
        return self._files[0] if total == 1 else f"{count:,} of {total:,} files"


def decode(raw: bytes, where: str, encoding: str) -> str:
    """Decode the whole content of the file called `where`, strictly.

    Raises:
        ConfigError: `encoding` is not the name of a text encoding.
        TextError: the bytes are not in it; gives the line (from 1), the byte (from 0) and what to try.
    """
    codec = codec_name(encoding)
    try:
        content = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise _undecodable(raw, where, encoding, error) from error
    if codec in _GIVE_SURROGATES and (half := _SURROGATE.search(content)):
        line = _line_number(content[: half.start()])
        raise TextError(f"{where}, line {line}: U+{ord(half[0]):04X} is half a surrogate pair, no character")
    return content


def codec_name(encoding: str) -> str:
    """Python's own name for a text encoding: "utf-8" for "UTF8".

    Raises:
        ConfigError: there is no such encoding, or it is not one that a text file can be in.
    """
    problem = "is not an encoding that Python knows"
    try:
        codec = codecs.lookup(encoding).name.replace("_", "-")
        if _is_for_text(encoding) and codec not in _NOT_FOR_FILES:
            return codec
        problem = "is a codec, but not an encoding of text files"
    except (LookupError, ValueError):  # ValueError: a NUL in the name
        pass
    near = _nearest_encodings(encoding) or ["utf-8", "utf-16", "cp1252", "latin-1"]
    raise ConfigError(f"corpus.encoding={encoding!r} {problem}; try {', '.join(near)}")


def shown(path: str) -> str:
    """`path` as it can be printed anywhere: control characters and undecoded bytes in it are escaped."""
    if path.isprintable():
        return path
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in path)


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The one of `candidates` that `name` most likely misspells, if any is close."""
    by_lower_case = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    return by_lower_case[close[0]] if close else None


# From names to files


def _beneath(folder: str) -> tuple[list[str], list[str]]:
    """The regular files beneath `folder`, as `_each_once` has them, and what is neither file nor folder."""
    found: dict[str, list[str]] = {"file": [], "other": []}
    for place, names in _walk(folder):
        for kind, paths in found.items():
            paths += [os.path.join(place, name) for name in names[kind]]
    return _each_once(found["file"]), sorted(found["other"])


def _matching(pattern: str) -> list[str]:
    """The regular files that a glob matches, as `_each_once` orders them."""
    return _each_once(path for path in _glob(pattern) if _is_file(path))


def _is_file(path: str) -> bool:
    """Whether it is a regular file. Raises TextError if that may not be known."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except PermissionError as error:
        raise _unreadable(path, error) from error
    except OSError:  # a link to nothing, or round in a circle
        return False


def _refuse_closed(pattern: str) -> None:
    """Raise TextError if the folder that a glob starts in may not be listed, which glob.glob keeps to itself."""
    start = os.path.dirname(_MAGIC.split(pattern)[0])
    try:
        os.scandir(start or os.curdir).close()
    except PermissionError as error:
        raise _unreadable(start, error) from error
    except (OSError, ValueError):  # there is no such folder
        pass


def _glob(pattern: str) -> Iterator[str]:
    """What `pattern` matches; `**` is walked here, as glob.glob's own would follow links round and round."""
    if "\0" in pattern:
        return
    parts = _SEPARATORS.split(pattern)
    if "**" not in parts:
        yield from glob.glob(pattern)
        return
    stars = parts.index("**")
    before = os.sep.join([*parts[:stars], ""])
    after = [part for part in parts[stars + 1 :] if part] or ["*"]
    for start in glob.glob(before) if before else [before]:
        for folder, _ in _walk(start):
            yield from _glob(os.path.join(glob.escape(folder), *after))


def _walk(top: str) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """`top` and the folders beneath, each once whatever links lead to it, with the `_names_in` it."""
    waiting, visited = [top], set()
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in visited:
            continue
        visited.add(real)
        names = _names_in(folder)
        if set(names["file"]) >= _RUN_FILES or ("grid.json" in names["file"] and "configs" in names["folder"]):
            continue  # a run or a grid of ours: what it says of a text is no part of the text
        yield folder, names
        # Sorted, so that of two names of one folder every machine takes the same.
        waiting += [os.path.join(folder, name) for name in sorted(names["folder"], reverse=True)]


def _names_in(folder: str) -> dict[str, list[str]]:
    """The names in `folder` that are not hidden, by kind: "file", "folder", "other"."""
    names: dict[str, list[str]] = {"file": [], "folder": [], "other": []}
    try:
        with os.scandir(folder or os.curdir) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    names[_kind_of(entry)].append(entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from error
    return names


def _kind_of(entry: os.DirEntry[str]) -> str:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # a link round in a circle, or to where we may not look: the notes tell of it
        return "other"


def _each_once(paths: Iterable[str]) -> list[str]:
    """`paths` sorted by their parts; of several that lead to one file, the first."""
    # realpath asks the system about every part of a path, so it is asked about each folder only once.
    real_folder = functools.lru_cache(maxsize=None)(os.path.realpath)
    once: dict[str, str] = {}
    for path in sorted(paths, key=_SEPARATORS.split):
        folder, name = os.path.split(path)
        real = os.path.realpath(path) if os.path.islink(path) else os.path.join(real_folder(folder), name)
        once.setdefault(real, path)
    return list(once.values())


def _content_of(path: str) -> bytes:
    try:
        # Unbuffered: one allocation of the file's size, and no buffer for each of 100,000 small files.
        with open(path, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or not status.st_size:  # Linux's /proc tells no sizes
                return _content_of_stream(file, shown(path))
            if status.st_size > longest_text():
                raise _too_long(shown(path), f"{status.st_size:,} bytes")
            return _first_bytes(file, status.st_size)
    except OSError as error:
        raise _unreadable(path, error) from error


def _first_bytes(file: io.FileIO, size: int) -> bytes:
    """As much as a file held when it was opened: one that grows faster than it is read has no end."""
    pieces = []
    while size and (piece := file.read(size)):  # the system gives 2 GiB at a time
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _content_of_stream(stream: BinaryIO | io.FileIO, name: str) -> bytes:
    """All that comes, unless it comes without end. Raises TextError then."""
    content, limit = io.BytesIO(), longest_text()
    while piece := stream.read(_PIECE):
        content.write(piece)
        if content.tell() > limit:
            raise _too_long(name, f"over {limit:,} bytes")
    return content.getvalue()


def _too_long(name: str, size: str) -> TextError:
    return TextError(
        f"{name} is too long: {size}, of which a text and its ids would fill this machine's memory; take a part of it"
    )


def _identity(stream: BinaryIO) -> object:
    """What two names of one stream have in common."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError, AttributeError):  # not a stream of the system: BytesIO
        return "-"
    return status.st_dev, status.st_ino


def _expanded(path: str) -> str:
    return os.path.expanduser(path) if path.startswith("~") and not os.path.lexists(path) else path


def _base_name(path: str) -> str:
    return path if _DESCRIPTOR.fullmatch(path) else shown(os.path.basename(os.path.abspath(path)) or path)


def _counted(files: Sequence[str], name: str) -> str:
    return f"{len(files):,} file{'s' * (len(files) != 1)} of {name}"


def _joined_names(names: Sequence[str]) -> str:
    more = len(names) - 3
    return " + ".join([*names[:3], f"{more} more"] if more > 0 else names)


# What is wrong with them

_KINDS = {stat.S_IFCHR: "a character device", stat.S_IFBLK: "a block device", stat.S_IFSOCK: "a socket"}


def _check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{option}={value} is unknown; it is one of {', '.join(choices)}")


def _unreadable(path: str, error: OSError | ValueError, known: Sequence[str] = ()) -> TextError:
    if isinstance(error, FileNotFoundError | NotADirectoryError | ValueError):
        return _missing(path, known)
    reason = (error.strerror or str(error)).lower()
    return TextError(f"{shown(path) or os.curdir} cannot be read: {reason}")


def _missing(path: str, known: Sequence[str]) -> TextError:
    if os.path.islink(path):
        return TextError(f"{shown(path)} is a link to {shown(os.readlink(path))}, which does not exist")
    clauses = [f"there is no file or folder {shown(path) or repr(path)}"]
    if any(ord(char) < 32 for char in path):
        clauses.append("in YAML a \\ within double quotes begins a control character, so use single quotes, or /")
    if "://" in path:
        clauses.append("addresses are not read, so download it first")
    if near := _nearest_path(path):
        clauses.append(f"did you mean {shown(near)}?")
    if known:
        name = nearest(path, known)
        named = f"nearest known corpus is {name}" if name else f"known corpora are {', '.join(known)}"
        clauses.append(f"the {named}")
    return TextError("; ".join(clauses))


def _nearest_path(path: str) -> str | None:
    """`path` up to its first part that does not exist, with the nearest name there in its place."""
    missing = path.rstrip("/" + os.sep)
    while (folder := os.path.dirname(missing)) not in ("", missing) and not os.path.isdir(folder):
        missing = folder
    try:
        near = nearest(os.path.basename(missing), os.listdir(folder or os.curdir))
    except (OSError, ValueError):  # no advice about a folder that may not be listed
        return None
    return os.path.join(folder, near) if near else None


def _undecodable(raw: bytes, where: str, encoding: str, error: UnicodeDecodeError) -> TextError:
    # A codec that steps over a mark first, as utf-8-sig does, counts from behind it.
    at = error.start + len(raw) - len(error.object)
    line = _line_number(raw[:at].decode(encoding, "replace"))
    return TextError(
        f"{where}, line {line}, byte {at} (counted from 0): 0x{raw[at : at + 1].hex()} is not {encoding} "
        f"({error.reason}); {_advice(raw, at, encoding)}"
    )


def _line_number(before: str) -> int:
    return 1 + before.count("\n") + before.count("\r") - before.count("\r\n")


def _advice(raw: bytes, at: int, encoding: str) -> str:
    """What to do about the byte `at`, which is not in `encoding`: the surest guess that its file allows."""
    head, around = raw[:_SAMPLE], raw[max(0, at - _SAMPLE // 2) : at + _SAMPLE // 2]
    unicode = _marked(head) or _by_nuls(head)
    if unicode and not _same(unicode, encoding):
        return f"it looks like {unicode}: try --set corpus.encoding={unicode}"
    if unicode or (_same("utf-8", encoding) and _mostly_utf8(around)):
        return f"the rest is {encoding}, so this place is damaged: repair it or --set corpus.level=byte"
    if _looks_binary(head):
        return (
            "it looks like a binary file: leave it out (a glob, as FOLDER/**/*.txt, takes only some files), "
            "or learn its bytes with --set corpus.level=byte"
        )
    if _decodes(raw, "utf-8"):
        return "it is valid utf-8: try --set corpus.encoding=utf-8"
    return _advice_on_high_bytes(raw, around)


def _advice_on_high_bytes(raw: bytes, around: bytes) -> str:
    """Of encodings of one byte a character only Western ones are told, by how few bytes are above ASCII."""
    if len(around.translate(None, _ASCII)) <= _WESTERN_SHARE * len(around):
        guess = "cp1252" if _decodes(raw, "cp1252") else "latin-1"
        return f"it may be {guess}: try --set corpus.encoding={guess}"
    return (
        "find out its encoding and say it, as in --set corpus.encoding=cp1251 (Cyrillic), shift_jis or gb18030, "
        "or learn its bytes with --set corpus.level=byte"
    )


def _marked(head: bytes) -> str | None:
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def _by_nuls(head: bytes) -> str | None:
    lanes = (head[lane::4] for lane in range(4))
    return _NULS.get(tuple(2 * lane.count(0) > len(lane) for lane in lanes))


def _looks_binary(head: bytes) -> bool:
    return b"\0" in head or len(head.translate(None, _TEXT_BYTES)) > _BINARY_SHARE * len(head)


def _mostly_utf8(around: bytes) -> bool:
    """Whether far more characters above ASCII decode than fail to: one damaged byte in a file of UTF-8."""
    content = around.decode("utf-8", "replace")
    wrong = content.count("\ufffd")
    return len(re.sub("[\0-\x7f]+", "", content)) - wrong > 4 * wrong


def _decodes(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _same(one: str, other: str) -> bool:
    """Whether two names are of one codec, utf-16 being one with utf-16-le and utf-8 with utf-8-sig."""
    shorter, longer = sorted((codec_name(one), codec_name(other)), key=len)
    return longer == shorter or longer.startswith(shorter + "-")


def _is_for_text(encoding: str) -> bool:
    """Whether a codec turns bytes into str; Python tells only when it has to."""
    try:
        b"a".decode(encoding)
    except LookupError:
        return False
    except UnicodeError:  # utf-16 wants two bytes
        pass
    return True


def _nearest_encodings(encoding: str) -> list[str]:
    """Up to three names, of different codecs, that `encoding` may be a misspelling of."""
    codec_of = aliases | {codec: codec for codec in aliases.values()}
    close = difflib.get_close_matches(encoding.lower().replace("-", "_"), codec_of, n=12)
    once: dict[str, str] = {}
    for name in filter(_is_for_text, close):
        once.setdefault(codec_of[name], name.replace("_", "-"))
    return list(once.values())[:3]
