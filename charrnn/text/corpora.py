"""Named corpora: one that every Python brings with it, and others fetched on request and checked by SHA-256.

Nothing is downloaded except by `fetch`; `load` reads what is here and says how to get what is not.
"""

import hashlib
import os
import re
import sys
import sysconfig
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any, BinaryIO

from charrnn.errors import ConfigError, TextError
from charrnn.text.reading import Collector, Text, codec_name, nearest, shown

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Corpus:
    """A text with a name of its own; always UTF-8."""

    name: str
    description: str
    licence: str
    url: str | None = None
    """Where `fetch` gets it; None for the one that needs no fetching."""
    file: str | None = None
    """The file it lands in, within `folder()`."""
    size: int | None = None
    """Bytes in that file, where they never change."""
    sha256: str | None = None
    """Of that file, where it never changes; else its first fetch records it."""
    member: str | None = None
    """The file's name within the zip that lies at `url`, if it is one."""
    text_of: Callable[[bytes], bytes] | None = None
    """What is read of that file, if not all."""


_ENCLOSED = re.compile(rb"^\*\*\* ?START OF [^\n]*\n(.*?)^\*\*\* ?END OF ", re.MULTILINE | re.DOTALL)
"""What stands between the lines by which Project Gutenberg marks off its header and its licence."""


def _without_licence(raw: bytes) -> bytes:
    """The book alone: the licence is as long as a tenth of a short one, which would be validated on nothing else."""
    found = _ENCLOSED.search(raw)
    return found[1].strip() + b"\n" if found else raw


def _gutenberg(name: str, title: str, number: int) -> Corpus:
    return Corpus(
        name=name,
        description=f"{title}, from Project Gutenberg (#{number}), read without its header and licence",
        licence="public domain in the USA; the file as a whole under the Project Gutenberg License",
        url=f"https://www.gutenberg.org/files/{number}/{number}-0.txt",
        file=f"{name}.txt",
        text_of=_without_licence,
    )


_WIKIPEDIA = "GNU Free Documentation License, Wikipedia's in 2006"

_CORPORA = (
    Corpus(
        name="python",
        description="the top-level modules of this Python's standard library, as source; needs no download",
        licence="Python Software Foundation License",
    ),
    Corpus(
        name="tinyshakespeare",
        description="scenes from Shakespeare's plays, 65 distinct characters, compiled by A. Karpathy",
        licence="public domain",
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        file="tinyshakespeare.txt",
        size=1_115_394,
        # Computed from the file whose published SHA-1 is 04486597058d11dcc2c556b1d0433891eb639d2e.
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    _gutenberg("timemachine", "The Time Machine by H. G. Wells", 35),
    _gutenberg("mobydick", "Moby-Dick by Herman Melville", 2701),
    _gutenberg("warandpeace", "War and Peace by Leo Tolstoy, translated by L. and A. Maude", 2600),
    Corpus(
        name="text8",
        description="English Wikipedia of March 2006 cleaned down to a-z and space, by M. Mahoney",
        licence=_WIKIPEDIA,
        url="http://mattmahoney.net/dc/text8.zip",
        file="text8",
        size=100_000_000,
        # Of the file whose published MD5 is 3bea1919949baf155f99411df5fada7e, as several projects that use it give it.
        sha256="6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7",
        member="text8",
    ),
    Corpus(
        name="enwik8",
        description="the first 100 MB of English Wikipedia's XML of March 2006, by M. Mahoney",
        licence=_WIKIPEDIA,
        url="http://mattmahoney.net/dc/enwik8.zip",
        file="enwik8",
        size=100_000_000,
        # Likewise, of the one whose published SHA-1 is 57b8363b814821dc9d47aa4d41f58733519076b2.
        sha256="2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
        member="enwik8",
    ),
)

KNOWN: dict[str, Corpus] = {corpus.name: corpus for corpus in _CORPORA}
"""The named corpora, in the order in which they are listed."""


def folder() -> Path:
    """Where fetched corpora lie: ./data where there is one, else the user's cache folder."""
    here = Path("data").absolute()
    if here.is_dir():
        return here
    import pooch

    return Path(pooch.os_cache("charrnn"))


def load(
    sources: Sequence[str],
    *,
    level: str = "character",
    encoding: str = "utf-8",
    newlines: str = "normalise",
    stdin: BinaryIO | None = None,
) -> Text:
    """Read what `sources` name, joined in their order: known corpora by name, all else as `read_paths` does.

    `encoding` is that of the user's own files; known corpora are UTF-8.

    Raises:
        ConfigError: an unknown level, encoding or newlines.
        TextError: as `read_paths`, or a known corpus that has not been fetched or is not what was fetched.
    """
    sources = [sources] if isinstance(sources, str) else sources
    if level == "character":
        codec_name(encoding)  # or it is said that there is none such, though only known corpora are read
    collector = Collector(level=level, newlines=newlines, stdin=stdin, known=tuple(KNOWN))
    notes: list[str] = []
    for source in sources:
        if source in KNOWN:
            notes += _add_known(collector, KNOWN[source])
        else:
            collector.add_source(source, encoding)
    text = collector.text()
    return replace(text, notes=(*notes, *text.notes))


def fetch(name: str, *, folder: Path | None = None, url: str | None = None, progress: bool = False) -> Path:
    """Download a known corpus into `folder`, unless it lies there already; verify it; return its path.

    Where no SHA-256 is known, the first download's is recorded beside the file, in `<file>.sha256` (as
    sha256sum writes it), and every later use is checked against that. A file put there by hand is used as it
    is, if it agrees with what is known. `url` takes the place of the corpus's own address; `progress` prints
    lines on stderr.

    Raises:
        ConfigError: no known corpus of that name, or the one that needs no fetching.
        TextError: it cannot be downloaded or written, or is not the file expected; then nothing is kept.
    """
    corpus = _fetchable(name)
    path = _path(corpus, folder)
    if path.exists():
        _check_sha256(corpus, path)
    else:
        _download(corpus, path, url or str(corpus.url), progress)
    return path


def provenance(name: str) -> str:
    """A note on how far the file of a fetched corpus is known to be the right one, after checking it.

    Raises:
        ConfigError: no known corpus of that name, or the one that needs no fetching.
        TextError: it is not here, or not the file expected.
    """
    corpus = _fetchable(name)
    return _check_sha256(corpus, _path(corpus, None))


def describe(text: Text) -> dict[str, Any]:
    """Count a text. Everything in the result can be written as JSON.

    At level "character": name, level, characters, utf8_bytes, lines, longest_line (characters, its LF not
    counted), distinct_characters, characters_once (those that occur once), most_common and rarest (up to ten
    pairs of a character and its count) and bits_per_char, the unigram entropy: what it costs a model that
    knows nothing but how frequent each character is. At level "byte" the keys say byte, and the pairs hold
    bytes as "0x0a".
    """
    counts, lengths = _count(text.content)
    if isinstance(text.content, str):
        unit, bits, show, extra = "character", "bits_per_char", chr, {"utf8_bytes": _utf8_bytes(counts)}
    else:
        unit, bits, show, extra = "byte", "bits_per_byte", "0x{:02x}".format, {}
    return {
        "name": text.name,
        "level": unit,
        f"{unit}s": len(text.content),
        **extra,
        "lines": len(lengths),
        "longest_line": int(lengths.max(initial=0)),
        f"distinct_{unit}s": int((counts > 0).sum()),
        f"{unit}s_once": int((counts == 1).sum()),
        "most_common": _first(counts, -counts, show),
        "rarest": _first(counts, counts, show),
        bits: _entropy(counts),
    }


# Reading


def _add_known(collector: Collector, corpus: Corpus) -> list[str]:
    """Add a known corpus and return what there is to say about it."""
    notes = []
    if os.path.lexists(corpus.name):
        notes.append(f"{corpus.name} is the known corpus; write ./{corpus.name} for what has that name here")
    if not corpus.file:
        files = _standard_library()
        collector.add_files(files, corpus.name, "utf-8")
        return [*notes, f"{corpus.name} is the source of {len(files)} modules of Python {python_version()}"]
    path = _path(corpus, None)
    if not path.exists():
        raise TextError(_not_here(corpus, path))
    notes.append(_check_sha256(corpus, path))
    collector.add_files([str(path)], corpus.name, "utf-8", corpus.text_of)
    return notes


def _standard_library() -> list[str]:
    """The top-level modules of the running Python's standard library, sorted.

    Raises:
        TextError: this Python came without their source.
    """
    place = Path(sysconfig.get_path("stdlib"))
    # os.py is the module by which Python itself recognises its library.
    if not (place / "os.py").is_file():
        raise TextError(
            f"this Python ({python_version()}) came without the source of its standard library: there is no "
            f"os.py in {shown(str(place))}; name a text of your own, or run "
            "`charrnn corpora fetch tinyshakespeare` and name that"
        )
    return sorted(str(file) for file in place.glob("*.py") if file.is_file())


def _not_here(corpus: Corpus, path: Path) -> str:
    size = f"{corpus.size / 1e6:,.1f} MB, " if corpus.size else ""
    here = f"; write ./{corpus.name} for what has that name here" if os.path.lexists(corpus.name) else ""
    return (
        f"the corpus {corpus.name} has not been fetched: `charrnn corpora fetch {corpus.name}` gets it "
        f"({size}{corpus.licence}) and puts it at {shown(str(path))}{here}"
    )


def _known(name: str) -> Corpus:
    if name in KNOWN:
        return KNOWN[name]
    near = nearest(name, KNOWN)
    did_you_mean = f"; did you mean {near}?" if near else ""
    raise ConfigError(f"no known corpus is called {name!r}; they are {', '.join(KNOWN)}{did_you_mean}")


def _fetchable(name: str) -> Corpus:
    corpus = _known(name)
    if not corpus.file:
        raise ConfigError(f"the corpus {name} needs no fetching: it is on this machine already")
    return corpus


def _path(corpus: Corpus, place: Path | None) -> Path:
    return (folder() if place is None else Path(place)).absolute() / str(corpus.file)


# Verifying


def _check_sha256(corpus: Corpus, path: Path) -> str:
    """Compare a file that is here with what is known of it, and say how much that is."""
    got, (expected, source) = _sha256(path), _expected(corpus, path)
    name = corpus.name
    if expected is None:
        return f"{name} was put at {shown(str(path))} by hand, and no SHA-256 is known to verify it by"
    if got != expected:
        raise TextError(
            f"{shown(str(path))} is not {name}: expected SHA-256 {expected} ({source}), got {got}; delete it "
            f"and run `charrnn corpora fetch {name}`, or, to use it as it is, move it and name its path"
        )
    if corpus.sha256 is None:
        return f"{name} is as first fetched (SHA-256 {got}), but could not be verified: none is published"
    return f"{name} is verified: its SHA-256 is the known one"


def _expected(corpus: Corpus, path: Path) -> tuple[str | None, str]:
    """The SHA-256 that the file at `path` should have, if there is one, and who says so."""
    record = _record_of(path)
    if corpus.sha256 or not record.exists():
        return corpus.sha256, "known to charrnn"
    try:
        digest = record.read_text(encoding="utf-8").split()[0]
        if len(bytes.fromhex(digest)) != hashlib.sha256().digest_size:
            raise ValueError(digest)
    except (OSError, ValueError, IndexError) as error:
        raise TextError(
            f"{shown(str(record))} does not hold the SHA-256 of {path.name} as sha256sum writes it; "
            f"restore it, or delete it to use {path.name} unchecked"
        ) from error
    return digest.lower(), f"recorded in {shown(str(record))} when first fetched"


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        reason = error.strerror or str(error)
        raise TextError(f"{shown(str(path))} cannot be read: {reason.lower()}") from error
    return digest.hexdigest()


# Downloading


def _download(corpus: Corpus, path: Path, url: str, progress: bool) -> None:
    """Download into a new folder beside `path`, so that only what was verified ever has the final name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=path.parent) as place:
            got = _retrieve(corpus, path, url, place, progress)
            digest = _check_download(corpus, path, url, got)
            got.chmod(0o644)  # pooch leaves the mode of a temporary file, closed to others
            os.replace(got, path)
        if corpus.sha256 is None:
            _record_of(path).write_text(f"{digest}  {path.name}\n", encoding="utf-8", newline="\n")
    except OSError as error:
        reason = error.strerror or str(error)
        raise TextError(f"{corpus.name} cannot be put at {shown(str(path))}: {reason.lower()}") from error


def _retrieve(corpus: Corpus, path: Path, url: str, place: str, progress: bool) -> Path:
    """Download `url` into the folder `place` and return the file that is the corpus there."""
    import pooch

    bar = _Progress(corpus.name, url) if progress else False
    try:
        with _silent(pooch.get_logger()):
            got = pooch.retrieve(
                url,
                known_hash=None,  # _check_download compares, for zipped ones too, and can say more
                fname="download",
                path=place,
                processor=pooch.Unzip(members=[corpus.member]) if corpus.member else None,
                downloader=pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16),
            )
    # OSError takes in requests' exceptions; the others are a damaged address or zip, or one of a kind not known here.
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise TextError(_by_hand(corpus, path, url, str(error))) from error
    if not corpus.member:
        return Path(got)
    if not got:
        raise TextError(_by_hand(corpus, path, url, f"there is no {corpus.member} in the zip"))
    return Path(got[0])


def _check_download(corpus: Corpus, path: Path, url: str, got: Path) -> str:
    """The SHA-256 of a download that is what was expected, as far as that is known."""
    digest, (expected, source) = _sha256(got), _expected(corpus, path)
    revised = ""
    if expected not in (None, digest):
        wrong = f"expected SHA-256 {expected} ({source}), got {digest}"
        if corpus.sha256 is None:
            revised = f"; if the text was revised, delete {shown(str(_record_of(path)))} and fetch again"
    elif corpus.size not in (None, got.stat().st_size):
        wrong = f"expected {corpus.size:,} bytes, got {got.stat().st_size:,}"
    elif _is_web_page(got):
        wrong = "it is a web page, perhaps of a network that wants a login first"
    else:
        return digest
    raise TextError(
        f"what came from {url} is not {path.name}: {wrong}; nothing was kept; try again later, or get it "
        f"elsewhere and put it at {shown(str(path))}{revised}"
    )


def _is_web_page(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(256).lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _by_hand(corpus: Corpus, path: Path, url: str, reason: str) -> str:
    what = f"unzip it and put the file {corpus.member}" if corpus.member else "put it"
    return (
        f"{corpus.name} could not be fetched from {url}: {reason}; "
        f"download that address by hand, {what} at {shown(str(path))}"
    )


@contextmanager
def _silent(logger: Any) -> Iterator[None]:
    """Keep pooch from writing its own words to stderr."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


class _Progress:
    """What pooch tells of a download, as a line on stderr for each tenth."""

    total = 0

    def __init__(self, name: str, url: str) -> None:
        self._name = name
        self._done = self._told = 0
        print(f"fetching {name} from {url}", file=sys.stderr)

    def update(self, size: int) -> None:
        self._done += size
        tenths = min(10, 10 * self._done // self.total) if self.total else 0
        if tenths > self._told:
            self._told = tenths
            print(f"{self._name}: {tenths * 10} % of {self.total / 1e6:,.1f} MB", file=sys.stderr)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        """Nothing is held open."""


# Counting

_CHUNK = 1 << 22
"""Characters counted at a time, so that the four bytes each takes meanwhile stay small."""


def _count(content: str | bytes) -> "tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]":
    """How often each code point (or byte) occurs, and the length of each line."""
    import numpy as np

    counts = np.zeros(0x110000 if isinstance(content, str) else 0x100, dtype=np.int64)
    ends = [np.array([-1])]
    for start in range(0, len(content), _CHUNK):
        points = _points(content[start : start + _CHUNK])
        found = np.bincount(points)
        counts[: len(found)] += found
        ends.append(np.flatnonzero(points == ord("\n")) + start)
    if content and content[-1:] not in ("\n", b"\n"):
        ends.append(np.array([len(content)]))
    return counts, np.diff(np.concatenate(ends)) - 1


def _points(chunk: str | bytes) -> "npt.NDArray[np.unsignedinteger[Any]]":
    import numpy as np

    if isinstance(chunk, bytes):
        return np.frombuffer(chunk, dtype=np.uint8)
    return np.frombuffer(chunk.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _first(
    counts: "npt.NDArray[np.int64]", order: "npt.NDArray[np.int64]", show: Callable[[int], str]
) -> list[tuple[str, int]]:
    """The ten first symbols that occur, by `order` and then by code point, each with its count."""
    occurring = counts.nonzero()[0]
    first = occurring[order[occurring].argsort(kind="stable")][:10]
    return [(show(int(symbol)), int(counts[symbol])) for symbol in first]


def _utf8_bytes(counts: "npt.NDArray[np.int64]") -> int:
    return int(sum(counts[first:].sum() for first in (0, 0x80, 0x800, 0x10000)))


def _entropy(counts: "npt.NDArray[np.int64]") -> float:
    """Of one symbol drawn with these counts, in bits."""
    import numpy as np

    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # + 0.0 turns the -0.0 of one symbol alone into 0.0
