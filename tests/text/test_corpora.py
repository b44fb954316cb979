"""What charrnn.text.corpora promises: nothing unverified, nothing fetched unasked, nothing fetched twice."""

import hashlib
import io
import json
import logging.handlers
import math
import re
import socket
import sys
import sysconfig
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charrnn.errors import ConfigError, TextError
from charrnn.text import corpora
from charrnn.text.corpora import KNOWN, describe, fetch, folder, load, provenance
from charrnn.text.reading import Text

BOOK = "The Time Traveller (for so it will be convenient…)\n".encode()
SHARED = Path(__file__).resolve().parents[3] / "shared" / "corpora"


@dataclass
class Server:
    """A web server of this machine's own: `pages` by path, and the paths asked for so far."""

    address: str = ""
    pages: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    cut: int = 0
    """Bytes that each answer promises beyond what it sends."""


@pytest.fixture
def server() -> Iterator[Server]:
    site = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            page = site.pages.get(self.path)
            self.send_response(404 if page is None else 200)
            self.send_header("Content-Length", str(len(page or b"") + site.cut))
            self.end_headers()
            self.wfile.write(page or b"")

        def log_message(self, *_: object) -> None:
            """Say nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        site.address = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, args=[0.01])
        thread.start()
        yield site
        http.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an empty data folder; no proxy stands before this machine's own server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "*")
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def in_folder(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def zipped(name: str, content: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme", "not this")
        file.writestr(name, content)
    return archive.getvalue()


def change(monkeypatch: pytest.MonkeyPatch, name: str, **fields: Any) -> None:
    monkeypatch.setitem(KNOWN, name, replace(KNOWN[name], **fields))


# The list


def test_every_known_corpus_says_what_it_is_and_where_it_lands() -> None:
    assert next(iter(KNOWN)) == "python"
    fetched = [corpus for corpus in KNOWN.values() if corpus.file]
    assert [name for name in KNOWN if not KNOWN[name].file] == ["python"]
    assert len({corpus.file for corpus in fetched}) == len(fetched)
    for name, corpus in KNOWN.items():
        assert name == corpus.name
        assert corpus.description
        assert corpus.licence
    for corpus in fetched:
        assert re.match(r"https?://\S+\.(txt|zip)$", str(corpus.url))
        assert bool(corpus.member) == str(corpus.url).endswith(".zip")


def test_a_checksum_is_known_of_the_texts_that_never_change() -> None:
    assert [name for name, corpus in KNOWN.items() if corpus.sha256] == ["tinyshakespeare", "text8", "enwik8"]


@pytest.mark.skipif(not (SHARED / "tinyshakespeare.txt").exists(), reason="the text is not on this machine")
def test_the_known_checksum_is_of_the_file_whose_sha1_is_published() -> None:
    content = (SHARED / "tinyshakespeare.txt").read_bytes()
    corpus = KNOWN["tinyshakespeare"]
    assert hashlib.sha1(content).hexdigest() == "04486597058d11dcc2c556b1d0433891eb639d2e"
    assert (hashlib.sha256(content).hexdigest(), len(content)) == (corpus.sha256, corpus.size)


def test_corpora_lie_in_data_where_there_is_such_a_folder_else_in_the_cache(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pooch.os_cache", lambda project: Path("cache") / project)
    assert folder() == here
    here.rmdir()
    assert folder() == Path("cache") / "charrnn"


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_of_a_book_of_gutenbergs_the_book_is_read(here: Path, newline: bytes) -> None:
    lines = [
        b"The Project Gutenberg eBook of The Time Machine",
        b"*** START OF THE PROJECT GUTENBERG EBOOK THE TIME MACHINE ***",
        b"",
        *BOOK.splitlines(),
        b"***",
        b"The End",
        b"",
        b"*** END OF THE PROJECT GUTENBERG EBOOK THE TIME MACHINE ***",
        b"THE FULL PROJECT GUTENBERG LICENSE",
    ]
    (here / "timemachine.txt").write_bytes(b"\xef\xbb\xbf" + newline.join(lines))
    book = f"{BOOK.decode()}***\nThe End\n"
    assert load(["timemachine"]).content == book
    assert load(["timemachine"], level="byte").content == book.encode().replace(b"\n", newline)[: -len(newline)] + b"\n"
    assert "THE FULL" in str(load(["data/timemachine.txt"]).content)


def test_a_book_without_its_marks_is_read_whole(here: Path) -> None:
    (here / "mobydick.txt").write_bytes(b"Call me Ishmael.\n*** START OF THE STORY\n")
    assert load(["mobydick"]).content == "Call me Ishmael.\n*** START OF THE STORY\n"


# Fetching


def test_a_fetched_text_is_whole_and_its_checksum_recorded_like_sha256sum(here: Path, server: Server) -> None:
    server.pages["/35-0.txt"] = BOOK
    path = fetch("timemachine", url=f"{server.address}/35-0.txt")
    assert path == here / "timemachine.txt"
    assert path.read_bytes() == BOOK
    record = f"{hashlib.sha256(BOOK).hexdigest()}  timemachine.txt\n".encode()
    assert (here / "timemachine.txt.sha256").read_bytes() == record
    assert in_folder(here) == ["timemachine.txt", "timemachine.txt.sha256"]
    assert "could not be verified: none is published" in provenance("timemachine")


def test_a_text_is_fetched_from_its_own_address(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.pages["/own"] = BOOK
    change(monkeypatch, "timemachine", url=f"{server.address}/own")
    fetch("timemachine")
    assert server.asked == ["/own"]


def test_a_text_lands_in_the_folder_given_which_is_made(tmp_path: Path, server: Server) -> None:
    server.pages["/b"] = BOOK
    path = fetch("timemachine", folder=tmp_path / "new" / "deep", url=f"{server.address}/b")
    assert path == tmp_path / "new" / "deep" / "timemachine.txt"


def test_a_text_that_is_here_is_not_fetched_again(server: Server) -> None:
    server.pages["/b"] = BOOK
    first = fetch("timemachine", url=f"{server.address}/b")
    server.pages["/b"] = b"revised"
    assert fetch("timemachine", url=f"{server.address}/b") == first
    assert server.asked == ["/b"]
    assert first.read_bytes() == BOOK


def test_a_known_checksum_verifies(here: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.pages["/t"] = BOOK
    change(monkeypatch, "tinyshakespeare", sha256=hashlib.sha256(BOOK).hexdigest(), size=len(BOOK))
    fetch("tinyshakespeare", url=f"{server.address}/t")
    assert in_folder(here) == ["tinyshakespeare.txt"]
    assert provenance("tinyshakespeare") == "tinyshakespeare is verified: its SHA-256 is the known one"


def test_a_download_with_a_wrong_checksum_is_refused_and_not_kept(here: Path, server: Server) -> None:
    server.pages["/t"] = BOOK
    expected, got = KNOWN["tinyshakespeare"].sha256, hashlib.sha256(BOOK).hexdigest()
    with pytest.raises(
        TextError,
        match=rf"/t is not tinyshakespeare.txt: expected SHA-256 {expected} \(known to charrnn\), got {got}; "
        rf"nothing was kept; try again later, or get it elsewhere and put it at {re.escape(str(here))}",
    ):
        fetch("tinyshakespeare", url=f"{server.address}/t")
    assert in_folder(here) == []


def test_a_text_revised_since_its_checksum_was_recorded_is_refused(here: Path, server: Server) -> None:
    server.pages["/b"] = BOOK
    fetch("timemachine", url=f"{server.address}/b").unlink()
    server.pages["/b"] = b"revised"
    with pytest.raises(TextError, match=r"if the text was revised, delete .*\.txt\.sha256 and fetch again"):
        fetch("timemachine", url=f"{server.address}/b")
    assert in_folder(here) == ["timemachine.txt.sha256"]
    (here / "timemachine.txt.sha256").unlink()
    assert fetch("timemachine", url=f"{server.address}/b").read_bytes() == b"revised"


def test_a_zip_gives_its_member_alone(here: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.pages["/text8.zip"] = zipped("text8", b"anarchism originated")
    change(monkeypatch, "text8", size=20, sha256=None)
    path = fetch("text8", url=f"{server.address}/text8.zip")
    assert path.read_bytes() == b"anarchism originated"
    assert in_folder(here) == ["text8", "text8.sha256"]


def test_what_a_zip_holds_is_verified(here: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.pages["/text8.zip"] = zipped("text8", b"anarchism originated")
    with pytest.raises(TextError, match=rf"expected SHA-256 {KNOWN['text8'].sha256} \(known to charrnn\)"):
        fetch("text8", url=f"{server.address}/text8.zip")
    change(monkeypatch, "text8", size=20, sha256=hashlib.sha256(b"anarchism originated").hexdigest())
    fetch("text8", url=f"{server.address}/text8.zip")
    assert in_folder(here) == ["text8"]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (b"no zip", "could not be fetched from .*: File is not a zip file; download .* by hand, unzip it"),
        (zipped("text9", b"x"), r"there is no text8 in the zip; .* put the file text8 at .*text8$"),
        (zipped("text8", b"20 characters of it.").replace(b"20 char", b"99 char"), "Bad CRC-32"),
        (zipped("text8", b"20 characters of it.")[:90], "could not be fetched"),
        (zipped("text8", b"half of it"), "is not text8: expected 20 bytes, got 10; nothing was kept"),
    ],
    ids=["no zip", "another name", "another content", "cut off", "too short"],
)
def test_a_damaged_zip_is_refused_and_not_kept(
    here: Path, server: Server, monkeypatch: pytest.MonkeyPatch, page: bytes, message: str
) -> None:
    server.pages["/text8.zip"] = page
    change(monkeypatch, "text8", size=20, sha256=None)
    with pytest.raises(TextError, match=message):
        fetch("text8", url=f"{server.address}/text8.zip")
    assert in_folder(here) == []


def test_a_web_page_in_place_of_the_text_is_refused(here: Path, server: Server) -> None:
    server.pages["/b"] = b"\n <!DOCTYPE html><title>Welcome to our hotel</title>"
    with pytest.raises(TextError, match="it is a web page, perhaps of a network that wants a login first"):
        fetch("timemachine", url=f"{server.address}/b")
    assert in_folder(here) == []


def test_a_text_that_the_server_lacks_can_be_put_there_by_hand(here: Path, server: Server) -> None:
    at = re.escape(str(here / "timemachine.txt"))
    with pytest.raises(
        TextError,
        match=f"timemachine could not be fetched from {server.address}/gone: 404 .*; "
        f"download that address by hand, put it at {at}$",
    ):
        fetch("timemachine", url=f"{server.address}/gone")
    (here / "timemachine.txt").write_bytes(BOOK)
    assert fetch("timemachine", url=f"{server.address}/gone").read_bytes() == BOOK
    assert server.asked == ["/gone"]
    assert load(["timemachine"]).content == BOOK.decode()
    assert re.search("was put at .* by hand", provenance("timemachine"))


def test_a_download_that_breaks_off_is_refused_and_not_kept(here: Path, server: Server) -> None:
    server.pages["/b"] = BOOK
    server.cut = 1
    with pytest.raises(TextError, match="timemachine could not be fetched"):
        fetch("timemachine", url=f"{server.address}/b")
    assert in_folder(here) == []


def test_without_a_network_the_address_and_the_place_are_named(here: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/text8.zip"
        at = re.escape(str(here / "text8"))
        with pytest.raises(
            TextError,
            match=f"from {url}: .*; download that address by hand, unzip it and put the file text8 at {at}$",
        ):
            fetch("text8", url=url)
    assert in_folder(here) == []


@pytest.mark.parametrize("url", ["no-address", "file:///etc/hosts", "http://", "gopher://127.0.0.1/"])
def test_an_address_that_is_none_is_an_error(here: Path, url: str) -> None:
    with pytest.raises(TextError, match=f"could not be fetched from {url}: "):
        fetch("timemachine", url=url)
    assert in_folder(here) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TextError, match=r"timemachine cannot be put at .*file.timemachine\.txt: "):
        fetch("timemachine", folder=tmp_path / "file", url="http://127.0.0.1:9/")


def test_fetching_is_silent_unless_asked(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    server.pages["/b"] = BOOK * 20_000
    fetch("timemachine", url=f"{server.address}/b")
    assert capfd.readouterr() == ("", "")
    fetch("timemachine", url=f"{server.address}/b", folder=Path("other"), progress=True)
    out, err = capfd.readouterr()
    first, *tenths = err.splitlines()
    assert (out, first) == ("", f"fetching timemachine from {server.address}/b")
    assert tenths == [f"timemachine: {tenth * 10} % of 1.1 MB" for tenth in range(1, 11)]


def test_progress_of_one_piece_ends_at_a_hundred(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    server.pages["/b"] = BOOK
    fetch("timemachine", url=f"{server.address}/b", progress=True)
    assert capfd.readouterr().err.splitlines()[1:] == ["timemachine: 100 % of 0.0 MB"]


def test_pooch_is_silent_for_us_but_not_for_others(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    said = logging.handlers.BufferingHandler(capacity=100)
    monkeypatch.setattr(pooch.get_logger(), "handlers", [said])
    server.pages["/b"] = BOOK
    fetch("timemachine", url=f"{server.address}/b")
    assert said.buffer == []
    pooch.get_logger().info("for others")
    assert [record.getMessage() for record in said.buffer] == ["for others"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_others_may_read_what_was_fetched(server: Server) -> None:
    server.pages["/b"] = BOOK
    assert fetch("timemachine", url=f"{server.address}/b").stat().st_mode & 0o777 == 0o644


def test_an_unknown_corpus_cannot_be_fetched_and_the_nearest_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no known corpus is called 'text9'; .* did you mean text8\?"):
        fetch("text9")


def test_the_embedded_corpus_needs_no_fetching() -> None:
    with pytest.raises(ConfigError, match="the corpus python needs no fetching"):
        fetch("python")


# What lies on disk


@pytest.fixture
def fetched(server: Server) -> Path:
    server.pages["/b"] = BOOK
    return fetch("timemachine", url=f"{server.address}/b")


def test_a_file_changed_since_it_was_fetched_is_refused(fetched: Path) -> None:
    expected = hashlib.sha256(BOOK).hexdigest()
    assert load(["timemachine"]).content == BOOK.decode()
    fetched.write_bytes(BOOK + b"changed")
    message = rf"is not timemachine: expected SHA-256 {expected} \(recorded in .*\), got .*; delete it and"
    for use in (fetch, provenance, load):
        with pytest.raises(TextError, match=message):
            use("timemachine")
    assert fetched.read_bytes() == BOOK + b"changed"


def test_a_file_put_there_by_hand_is_held_to_a_known_checksum(here: Path) -> None:
    (here / "tinyshakespeare.txt").write_bytes(b"First Citizen:\n")
    for use in (fetch, provenance, load):
        with pytest.raises(TextError, match=r"\.txt is not tinyshakespeare: expected SHA-256 86c4"):
            use("tinyshakespeare")


@pytest.mark.parametrize("record", [b"", b"\n", b"abc  timemachine.txt\n", b"z" * 64, b"\xff\xfe"])
def test_a_damaged_record_is_an_error_that_says_so(fetched: Path, record: bytes) -> None:
    fetched.with_name("timemachine.txt.sha256").write_bytes(record)
    with pytest.raises(TextError, match=r"\.sha256 does not hold the SHA-256 of timemachine\.txt"):
        load(["timemachine"])


def test_a_record_as_other_tools_write_it_is_understood(fetched: Path) -> None:
    digest = hashlib.sha256(BOOK).hexdigest().upper()
    fetched.with_name("timemachine.txt.sha256").write_text(f"{digest} *timemachine.txt\r\n")
    assert load(["timemachine"]).content == BOOK.decode()


# Loading


def test_python_is_the_source_of_the_standard_librarys_top_level_modules_in_order() -> None:
    text = load(["python"], level="byte")
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    assert text.content == b"".join(module.read_bytes() for module in modules)
    assert len(modules) > 100
    assert text.name == "python"
    assert re.match(rf"python is the source of {len(modules)} modules of Python 3\.\d+\.\d+", text.notes[0])


def test_python_is_utf8_whatever_the_users_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "os.py").write_bytes("# é\r\n".encode())
    (tmp_path / "a.py").write_bytes(b"import os")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "b.txt").write_bytes(b"no module")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert load(["python"], encoding="utf-16").content == "import os\n# é\n"


def test_a_python_without_its_source_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "python311.zip"))
    with pytest.raises(TextError, match=r"came without the source .* no os\.py in .*python311\.zip; name"):
        load(["python"])


@pytest.mark.parametrize(("name", "size"), [("text8", "100.0 MB, "), ("timemachine", "")])
def test_loading_never_downloads_but_says_how(
    here: Path, server: Server, monkeypatch: pytest.MonkeyPatch, name: str, size: str
) -> None:
    server.pages["/b"] = BOOK
    change(monkeypatch, name, url=f"{server.address}/b")
    how = f"`charrnn corpora fetch {name}` gets it ({size}{KNOWN[name].licence}) and puts it at {here / name}"
    with pytest.raises(TextError, match=re.escape(how)):
        load([name])
    assert server.asked == []
    assert in_folder(here) == []


def test_a_known_corpus_wins_over_a_file_of_its_name_and_a_note_says_so(fetched: Path) -> None:
    Path("timemachine").write_text("mine")
    text = load(["timemachine"])
    assert text.content == BOOK.decode()
    assert "timemachine is the known corpus; write ./timemachine for what has that name here" in text.notes
    assert load(["./timemachine"]).content == "mine"
    Path("text8").mkdir()
    with pytest.raises(TextError, match=r"has not been fetched.*; write \./text8 for what has that name"):
        load(["text8"])


def test_the_users_encoding_is_for_the_users_files_only(fetched: Path) -> None:
    for name in ("mine", "more"):
        Path(name).write_bytes("déjà vu".encode("latin-1"))
    text = load(["mine", "timemachine", "more"], encoding="latin-1")
    assert text.content == "déjà vu\n" + BOOK.decode() + "déjà vu"
    assert text.name == "mine + timemachine + more"
    assert text.notes == (
        provenance("timemachine"),
        "ended the last line of 1 of 3 files, so that the next begins on a new one",
    )


def test_level_and_line_ends_hold_for_known_corpora_too(here: Path) -> None:
    (here / "mobydick.txt").write_bytes(b"\xef\xbb\xbfCall me\r\nIshmael")
    assert load(["mobydick"]).content == "Call me\nIshmael"
    assert load(["mobydick"], newlines="keep").content == "Call me\r\nIshmael"
    assert load(["mobydick"], level="byte").content == b"\xef\xbb\xbfCall me\r\nIshmael"


def test_standard_input_goes_through(fetched: Path) -> None:
    assert load(["-", "timemachine"], stdin=io.BytesIO(b"piped")).content == "piped\n" + BOOK.decode()


def test_an_empty_file_beside_a_corpus_is_no_error(fetched: Path) -> None:
    Path("empty").touch()
    assert load(["empty", "timemachine"]).content == BOOK.decode()


def test_a_source_that_is_neither_names_the_nearest_of_both() -> None:
    Path("tinyshakespear.txt").touch()
    with pytest.raises(
        TextError,
        match=r"no file or folder tinyshakespere; did you mean tinyshakespear\.txt\?; "
        "the nearest known corpus is tinyshakespeare",
    ):
        load(["tinyshakespere"])


def test_one_name_is_one_source_and_not_its_letters(fetched: Path) -> None:
    assert load("timemachine").name == "timemachine"


# Describing


def test_a_description_counts_what_is_there() -> None:
    assert describe(Text("abba\n\nça va\n…", "poem", ())) == {
        "name": "poem",
        "level": "character",
        "characters": 13,
        "utf8_bytes": 16,
        "lines": 4,
        "longest_line": 5,
        "distinct_characters": 7,
        "characters_once": 4,
        "most_common": [("a", 4), ("\n", 3), ("b", 2), (" ", 1), ("v", 1), ("ç", 1), ("…", 1)],
        "rarest": [(" ", 1), ("v", 1), ("ç", 1), ("…", 1), ("b", 2), ("\n", 3), ("a", 4)],
        "bits_per_char": pytest.approx(2.5654, abs=1e-4),
    }


def test_a_description_of_bytes_speaks_of_bytes() -> None:
    assert describe(Text(b"\xff\n\xff\xff", "bytes", ())) == {
        "name": "bytes",
        "level": "byte",
        "bytes": 4,
        "lines": 2,
        "longest_line": 2,
        "distinct_bytes": 2,
        "bytes_once": 1,
        "most_common": [("0xff", 3), ("0x0a", 1)],
        "rarest": [("0x0a", 1), ("0xff", 3)],
        "bits_per_byte": pytest.approx(2 - 0.75 * math.log2(3)),
    }


@settings(max_examples=40)  # each counts all 1.1 million code points
@given(st.text(st.characters() | st.sampled_from("ab\n"), min_size=1, max_size=40), st.integers(1, 7))
@example("\n", 1)
@example("ab\nc", 3)
@example("a\nbcd\ne", 2)
@example("\U0010ffff\ud800", 1)
def test_a_description_is_that_of_plain_counting_in_chunks_of_any_size(content: str, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(corpora, "_CHUNK", chunk)
        found = describe(Text(content, "text", ()))
    counts = Counter(content)
    lines = content.removesuffix("\n").split("\n")
    assert found["characters"] == len(content)
    assert found["utf8_bytes"] == len(content.encode("utf-8", "surrogatepass"))
    assert (found["lines"], found["longest_line"]) == (len(lines), max(map(len, lines)))
    assert found["distinct_characters"] == len(counts)
    assert found["characters_once"] == sum(count == 1 for count in counts.values())
    assert found["most_common"] == sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:10]
    assert found["rarest"] == sorted(counts.items(), key=lambda pair: (pair[1], pair[0]))[:10]
    shares = [count / len(content) for count in counts.values()]
    assert found["bits_per_char"] == pytest.approx(-sum(share * math.log2(share) for share in shares))


@pytest.mark.parametrize("content", ["aaaa", "über\n", b"\x00\xff", ""])
def test_a_description_can_be_written_as_json(content: str | bytes) -> None:
    written = json.dumps(describe(Text(content, "text", ())), allow_nan=False)
    assert json.loads(written)["name"] == "text"
    assert "-0.0" not in written


def test_an_encoding_that_is_none_is_refused_though_it_has_no_say_in_known_corpora() -> None:
    with pytest.raises(ConfigError, match="is not an encoding that Python knows"):
        load(["python"], encoding="klingon")
