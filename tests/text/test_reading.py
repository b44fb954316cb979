"""What charrnn.text.reading promises: every source, encoding and line end, and errors that say where."""

import codecs
import io
import os
import re
import sys
import threading
from encodings.aliases import aliases
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charrnn.errors import CharrnnError, ConfigError, TextError
from charrnn.limits import longest_text, machine_memory
from charrnn.text import reading
from charrnn.text.reading import Text, read_paths
from charrnn.text.vocabulary import Vocabulary

not_on_windows = pytest.mark.skipif(sys.platform == "win32", reason="there are no such files on Windows")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(path: str, content: bytes | str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content.encode() if isinstance(content, str) else content)


def link(at: str, target: str) -> None:
    Path(at).parent.mkdir(parents=True, exist_ok=True)
    try:
        Path(at).symlink_to(target, target_is_directory=True)
    except OSError:
        pytest.skip("this user may not make links")


def read_bytes(raw: bytes, **options: str) -> Text:
    return read_paths(["-"], stdin=io.BytesIO(raw), **options)


# Decoding


@given(st.text(min_size=1).filter(lambda text: text[0] != "\ufeff"))
def test_any_text_in_utf8_comes_back_when_line_ends_are_kept(text: str) -> None:
    assert read_bytes(text.encode(), newlines="keep").content == text


@given(st.binary(min_size=1))
@example(b"\xef\xbb\xbfa\r\n\r\x00")
def test_any_bytes_come_back_untouched_at_level_byte(raw: bytes) -> None:
    text = read_bytes(raw, level="byte", encoding="no such", newlines="normalise")
    assert text == Text(raw, "standard input", ())


@given(st.binary(min_size=1, max_size=40))
@example(b"one\r\ntwo\rthr\xe9")
@example(b"\xef\xbb\xbf\n\xff")
@example(b"\xf0\x9f\x98")
def test_any_bytes_either_decode_or_the_error_names_line_and_offset(raw: bytes) -> None:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        line = len((raw[: error.start].decode() + ".").replace("\r\n", "\n").replace("\r", "\n").split("\n"))
        where = f", line {line}, byte {error.start} (counted from 0): 0x{raw[error.start]:02x} is not utf-8"
        with pytest.raises(TextError, match=re.escape(where)):
            read_bytes(raw)
    else:
        assert read_bytes(b"." + raw, newlines="keep").content == "." + raw.decode()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # unicode_escape's own, about unknown escapes
@given(st.sampled_from(sorted(set(aliases.values()))), st.binary(max_size=12))
@example("utf_8_sig", b"\xef\xbb\xbfab\xff")
@example("utf_7", b"+2AA-")
@example("utf_16", b"\xff\xfea")
def test_bytes_in_any_encoding_give_text_or_an_error_of_ours(encoding: str, raw: bytes) -> None:
    try:
        content = read_bytes(raw, encoding=encoding, newlines="keep").content
    except CharrnnError:
        return
    assert isinstance(content, str)
    assert content.encode()  # no half of a surrogate pair, which would fail only when a checkpoint is written


def test_an_offset_behind_a_mark_counts_from_the_start_of_the_file() -> None:
    with pytest.raises(TextError, match=r"line 1, byte 5 \(counted from 0\): 0xff"):
        read_bytes(b"\xef\xbb\xbfab\xff", encoding="utf-8-sig")


def test_half_a_surrogate_pair_is_refused_with_its_line() -> None:
    with pytest.raises(TextError, match=r"standard input, line 2: U\+D800 is half a surrogate pair"):
        read_bytes(b"a\n+2AA-", encoding="utf-7")


GERMAN = "Über allen Gipfeln ist Ruh, in allen Wipfeln spürest du kaum einen Hauch\n"
RUSSIAN = "Я помню чудное мгновенье\n"


@pytest.mark.parametrize(
    ("raw", "encoding", "advice"),
    [
        ((GERMAN + "\x80").encode("latin-1"), "utf-8", "it may be cp1252: try --set corpus.encoding=cp1252"),
        ((GERMAN + "\x81").encode("latin-1"), "utf-8", "it may be latin-1: try --set corpus.encoding=latin-1"),
        (GERMAN.encode("utf-16"), "utf-8", "it looks like utf-16: try --set corpus.encoding=utf-16"),
        (GERMAN.encode("utf-32"), "utf-8", "it looks like utf-32: try --set corpus.encoding=utf-32"),
        (GERMAN.encode("utf-16-le"), "utf-8", "it looks like utf-16-le: try --set corpus.encoding=utf-16-le"),
        (GERMAN.encode("utf-16-be"), "utf-8", "it looks like utf-16-be: try --set corpus.encoding=utf-16-be"),
        (GERMAN.encode("utf-32-le"), "utf-8", "it looks like utf-32-le: try --set corpus.encoding=utf-32-le"),
        (GERMAN.encode("utf-32-be"), "ascii", "it looks like utf-32-be: try --set corpus.encoding=utf-32-be"),
        (GERMAN.encode(), "ascii", "it is valid utf-8: try --set corpus.encoding=utf-8"),
        (GERMAN.encode("utf-8-sig"), "ascii", "it looks like utf-8: try --set corpus.encoding=utf-8"),
        (RUSSIAN.encode("cp1251"), "utf-8", "find out its encoding and say it, as in --set corpus.encoding=cp1251"),
        (b"a\x81" + GERMAN.encode("cp1252"), "cp1252", "it may be latin-1: try --set corpus.encoding=latin-1"),
        (RUSSIAN.encode() + b"\xff", "utf-8", "the rest is utf-8, so this place is damaged"),
        (GERMAN.encode("utf-16")[:-1], "utf-16", "the rest is utf-16, so this place is damaged"),
        (
            b"\x89PNG\r\n\x1a\n\0\0\0\r",
            "utf-8",
            "it looks like a binary file: leave it out .* corpus.level=byte",
        ),
        (bytes(range(1, 0x90)), "utf-8", "it looks like a binary file"),
        (b"words enough, but one NUL\0 and \xff", "utf-8", "it looks like a binary file"),
        (GERMAN.encode("utf-16-le")[:-1], "utf-16", "the rest is utf-16, so this place is damaged"),
        (
            GERMAN.encode("utf-8-sig") + b"\xff",
            "utf-8-sig",
            "the rest is utf-8-sig, so this place is damaged",
        ),
    ],
)
def test_advice_on_what_does_not_decode(raw: bytes, encoding: str, advice: str) -> None:
    with pytest.raises(TextError, match=f"is not {encoding} .*; {advice}"):
        read_bytes(raw, encoding=encoding)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16", "utf-16-le", "utf-32-be", "utf-8"])
def test_the_encoding_that_was_advised_reads_the_text(encoding: str) -> None:
    assert read_bytes(GERMAN.encode(encoding), encoding=encoding).content == GERMAN


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf8x", "'utf8x' is not an encoding that Python knows; try utf8"),
        ("latin-7x", "try latin7"),
        ("klingon", "try utf-8, utf-16, cp1252, latin-1"),
        ("", "'' is not an encoding"),
        ("utf-8\0", r"'utf-8\\x00' is not an encoding"),
        ("hex", "'hex' is a codec, but not an encoding of text files"),
        ("rot13", "'rot13' is a codec"),
        ("idna", "'idna' is a codec"),
    ],
)
def test_an_encoding_that_is_none_is_a_configuration_error(encoding: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"corpus.encoding=.*{message}"):
        read_bytes(b"text", encoding=encoding)


def test_a_wrong_encoding_is_found_before_a_stream_is_used_up() -> None:
    stream = io.BytesIO(b"text")
    with pytest.raises(ConfigError, match=r"corpus\.encoding"):
        read_paths(["-"], encoding="utf8x", stdin=stream)
    assert stream.read() == b"text"


@pytest.mark.parametrize("option", ["level", "newlines"])
def test_an_unknown_choice_is_a_configuration_error_that_lists_them(option: str) -> None:
    with pytest.raises(ConfigError, match=f"corpus.{option}=word is unknown; it is one of "):
        read_bytes(b"text", **{option: "word"})


# Marks and line ends


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
    ],
)
def test_a_byte_order_mark_is_removed_and_noted(mark: bytes, encoding: str) -> None:
    text = read_bytes(mark + "aé".encode(encoding), encoding=encoding)
    assert text.content == "aé"
    assert text.notes == ("removed the byte order mark at the start of standard input",)


def test_a_byte_order_mark_inside_a_text_is_a_character() -> None:
    assert read_bytes("a\ufeffb".encode()).content == "a\ufeffb"


@given(st.text("\r\na", min_size=1))
def test_normalised_line_ends_are_those_of_universal_newlines(text: str) -> None:
    content = read_bytes(text.encode()).content
    assert content == io.StringIO(text, newline=None).read()


def test_turned_line_ends_are_counted() -> None:
    put("a", "1\r\n2\r\n")
    put("b", "1\r2\r\n3\n")
    put("c", "1\n")
    assert read_paths(["a", "b", "c"]).notes == (
        "turned 3 CRLF into LF in 2 of 3 files",
        "turned 1 lone CR into LF in 1 of 3 files",
    )


def test_kept_line_ends_are_not_spoken_of() -> None:
    assert read_bytes(b"1\r\n2\r3", newlines="keep") == Text("1\r\n2\r3", "standard input", ())


def test_nul_characters_are_noted_as_perhaps_utf16() -> None:
    text = read_bytes("ab\n".encode("utf-16-le"))
    assert text.content == "a\0b\0\n\0"
    assert [note for note in text.notes if "utf-16-le" in note and "NUL characters in standard input" in note]


# Joining


@given(st.lists(st.text("a\n", max_size=3), min_size=1, max_size=5).filter(any))
def test_each_file_begins_on_a_new_line_and_no_line_is_added_elsewhere(contents: list[str]) -> None:
    collector = reading.Collector(level="character", newlines="normalise")
    for number, content in enumerate(contents):
        put(f"{number}.txt", content)
        collector.add_source(f"{number}.txt", "utf-8")
    full = [content for content in contents if content]
    ended = [content if content.endswith("\n") else content + "\n" for content in full[:-1]]
    assert collector.text().content == "".join([*ended, full[-1]])


def test_an_added_line_end_is_noted() -> None:
    put("a", "1")
    put("b", "2")
    assert read_paths(["a", "b"]) == Text(
        "1\n2", "a + b", ("ended the last line of 1 of 2 files, so that the next begins on a new one",)
    )


def test_a_kept_lone_cr_ends_a_line_too() -> None:
    put("a", "1\r")
    put("b", "2")
    assert read_paths(["a", "b"], newlines="keep").content == "1\r2"


def test_files_are_joined_without_a_gap_at_level_byte() -> None:
    put("a", b"\xff1")
    put("b", b"\xef\xbb\xbf2")
    assert read_paths(["a", "b"], level="byte").content == b"\xff1\xef\xbb\xbf2"


def test_what_is_named_twice_is_read_once_lest_it_stand_in_training_and_held_out_text(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"one\n")
    (folder / "b.txt").write_bytes(b"two\n")
    text = read_paths(["b.txt", ".", "./b.txt", "a.txt"])
    assert text.content == "two\none\n"
    assert any("3 were named again" in note for note in text.notes)


def test_a_run_in_a_folder_is_no_part_of_its_text(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"one\n")
    run = folder / "runs" / "first"
    run.mkdir(parents=True)
    for name in ("config.yaml", "metrics.jsonl", "best.safetensors"):
        (run / name).write_bytes(b"\xff")
    grid = folder / "runs" / "grid"
    (grid / "configs").mkdir(parents=True)
    for name in ("grid.json", "grid.png", "configs/a.yaml"):
        (grid / name).write_bytes(b"\xff")
    assert read_paths(["."]).content == "one\n"
    assert read_paths(["**/*"]).content == "one\n"


def test_a_single_file_is_not_copied_again_to_join_it(monkeypatch: pytest.MonkeyPatch) -> None:
    put("a", "content")
    whole = "content " * 100
    monkeypatch.setattr(reading, "decode", lambda raw, where, encoding: whole)
    assert read_paths(["a"]).content is whole


@pytest.mark.parametrize("level", reading.LEVELS)
def test_nothing_in_all_sources_is_an_error_that_names_them(level: str) -> None:
    put("a", "")
    put("b", "")
    with pytest.raises(TextError, match=r"a \+ b is empty"):
        read_paths(["a", "b"], level=level)


def test_no_source_at_all_is_an_error() -> None:
    with pytest.raises(TextError, match="the corpus is empty"):
        read_paths([])


def test_an_empty_file_among_others_is_noted() -> None:
    put("a", "")
    put("b", "2")
    assert read_paths(["a", "b"]) == Text("2", "a + b", ("there is nothing in 1 of 2 files",))


def test_one_string_is_one_source_and_not_its_letters() -> None:
    put("ab", "text")
    assert read_paths("ab").content == "text"


@pytest.mark.parametrize(
    ("sources", "name"),
    [
        (["sub/a.txt"], "a.txt"),
        (["sub"], "2 files of sub"),
        (["sub/"], "2 files of sub"),
        (["sub/a*"], "1 file of sub/a*"),
        (["sub/a.txt", "sub/b.txt", "sub", "sub", "sub"], "a.txt + b.txt + 2 files of sub + 2 more"),
    ],
)
def test_a_text_is_named_after_its_sources(sources: list[str], name: str) -> None:
    put("sub/a.txt", "1")
    put("sub/b.txt", "2")
    assert read_paths(sources).name == name


# Folders and globs


def test_a_folder_is_read_in_the_order_of_the_parts_of_its_paths() -> None:
    for path in ["f/b.txt", "f/a.txt", "f/a/z.txt", "f/a-b/y.txt", "f/B/x"]:
        put(path, path + "\n")
    assert str(read_paths(["f"]).content).split() == [
        "f/B/x",
        "f/a/z.txt",
        "f/a-b/y.txt",
        "f/a.txt",
        "f/b.txt",
    ]


def test_hidden_files_and_folders_are_left_out_unless_named() -> None:
    for path in ["f/a", "f/.b", "f/.git/c", "f/d/.e"]:
        put(path, path + "\n")
    assert read_paths(["f"]).content == "f/a\n"
    assert read_paths(["f/**"]).content == "f/a\n"
    assert read_paths(["f/.git", "f/.b"]).content == "f/.git/c\nf/.b\n"


@pytest.mark.parametrize("source", ["f", "f/**", "f/**/*", "**/*"])
def test_links_that_lead_round_in_a_circle_are_followed_once(source: str) -> None:
    put("f/sub/a", "a\n")
    link("f/sub/up", "..")
    link("f/sub/here", ".")
    link("f/sub/self", "self")
    assert read_paths([source]).content == "a\n"


@pytest.mark.parametrize("source", ["f", "f/*", "f/**", "**/*"])
def test_a_file_that_links_lead_to_is_read_once(source: str) -> None:
    put("f/b", "b\n")
    link("f/a", "b")
    link("f/c", "b")
    text = read_paths([source])
    assert (text.content, text.name[:7]) == ("b\n", "1 file ")


def test_of_several_names_of_a_folder_the_first_in_order_counts() -> None:
    put("f/z/bad", b"\xff")
    for number in range(9, -1, -1):
        link(f"f/a{number}", "z")
    with pytest.raises(TextError, match=rf"^{re.escape(os.path.join('f', 'a0', 'bad'))}, line 1"):
        read_paths(["f"])


def test_linked_files_and_folders_from_elsewhere_are_read() -> None:
    put("far/a", "a\n")
    put("b", "b\n")
    link("f/folder", "../far")
    link("f/file", "../b")
    assert read_paths(["f"]).content == "b\na\n"


def test_what_is_no_file_in_a_folder_is_left_out_and_noted() -> None:
    put("f/a", "a\n")
    link("f/lost", "nowhere")
    assert read_paths(["f"]).notes == (
        f"left out 1 that are not regular files or lead nowhere, first {os.path.join('f', 'lost')}",
    )


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("f/*.txt", ["f/b.txt"]),
        ("f/?.md", ["f/c.md"]),
        ("f/[bc].*", ["f/b.txt", "f/c.md"]),
        ("*/*/*.txt", ["f/s/a.txt"]),
        ("f/**/*.txt", ["f/b.txt", "f/s/a.txt", "f/s/t/a.txt"]),
        ("f/**", ["f/b.txt", "f/c.md", "f/s/a.txt", "f/s/t/a.txt"]),
        ("**/a.txt", ["f/s/a.txt", "f/s/t/a.txt"]),
        ("**/s/**/a.txt", ["f/s/a.txt", "f/s/t/a.txt"]),
        ("f/**/t/*", ["f/s/t/a.txt"]),
    ],
)
def test_a_glob_matches_files_at_the_depth_it_says(here: Path, pattern: str, expected: list[str]) -> None:
    for path in ["f/s/t/a.txt", "f/s/a.txt", "f/b.txt", "f/c.md"]:
        put(path, path + "\n")
    assert str(read_paths([pattern]).content).split() == expected
    assert str(read_paths([str(here / pattern)]).content).split() == expected


def test_a_file_whose_name_looks_like_a_glob_is_that_file() -> None:
    put("a[1].txt", "brackets")
    put("a1.txt", "glob")
    assert read_paths(["a[1].txt"]).content == "brackets"


def test_a_folder_whose_name_looks_like_a_glob_can_be_searched() -> None:
    put("[f]/s/a.txt", "brackets")
    put("f/s/a.txt", "glob")
    assert read_paths(["[[]f]/**/*.txt"]).content == "brackets"


def test_a_tilde_stands_for_the_home_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here / "home"))
    monkeypatch.setenv("USERPROFILE", str(here / "home"))
    put("home/a", "at home")
    assert read_paths(["~/a"]).content == "at home"


# Streams


def test_a_dash_is_the_standard_input_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Über\r\n".encode())))
    assert read_paths(["-"]) == Text("Über\n", "standard input", ("turned 1 CRLF into LF in standard input",))


def test_a_closed_standard_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(TextError, match="standard input is closed"):
        read_paths(["-"])


def test_standard_input_cannot_be_named_twice() -> None:
    with pytest.raises(TextError, match="standard input is named twice"):
        read_paths(["-", "-"], stdin=io.BytesIO(b"text"))


@not_on_windows
def test_a_named_pipe_is_read_as_a_stream() -> None:
    os.mkfifo("pipe")
    content = "line\n" * 100_000  # more than a pipe holds
    writer = threading.Thread(target=Path("pipe").write_text, args=[content], daemon=True)
    writer.start()
    assert read_paths(["pipe"]).content == content
    writer.join()


@not_on_windows
@pytest.mark.parametrize("again", ["-", "{path}"])
def test_a_pipe_of_the_shell_cannot_be_named_twice(again: str) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"from a command")
    os.close(write_end)
    path = f"/dev/fd/{read_end}"
    with os.fdopen(read_end, "rb") as stream, pytest.raises(TextError, match="is named twice"):
        read_paths([path, again.format(path=path)], stdin=stream)


@not_on_windows
def test_a_pipe_of_the_shell_is_read_under_its_own_name() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"from a command")
    os.close(write_end)
    path = f"/dev/fd/{read_end}"
    with os.fdopen(read_end, "rb"):
        assert read_paths([path]) == Text("from a command", path, ())


@not_on_windows
def test_a_device_is_refused() -> None:
    with pytest.raises(TextError, match=r"/dev/zero is a character device; name a file, a folder or a pipe"):
        read_paths(["/dev/zero"])


# What cannot be read


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("poem.txt", r"no file or folder poem\.txt; did you mean poems\.txt\?"),
        ("POEMS.TX", r"did you mean poems\.txt\?"),
        ("book/chapter2", r"did you mean book.chapter1\?"),
        ("bok/chapter1", r"no file or folder bok/chapter1; did you mean book\?"),
        ("bok/deep/chapter1", r"did you mean book\?"),
        ("poems.txt/a", "no file or folder poems.txt/a"),
        ("wholly other", "no file or folder wholly other$"),
        ("", "no file or folder ''"),
        ("a\0b", r"no file or folder a\\x00b"),
        ("https://example.org/poems.txt", "addresses are not read, so download it first"),
        ("*.md", r"the glob \*\.md matches no file"),
        ("**/*.md", r"the glob \*\*/\*\.md matches no file"),
        ("a\0/*", r"the glob a\\x00/\* matches no file"),
        ("bo*", r"the glob bo\* matches no file"),
        ("empty", "the folder empty holds no file to read"),
    ],
)
def test_a_source_that_is_not_there_is_named_with_the_nearest_name(source: str, message: str) -> None:
    put("poems.txt", "text")
    put("book/chapter1", "text")
    put("empty/.hidden", "text")
    with pytest.raises(TextError, match=message):
        read_paths([source])


def test_names_that_are_no_paths_are_offered_too() -> None:
    collector = reading.Collector(level="character", newlines="keep", known=["python", "text8"])
    with pytest.raises(TextError, match=r"the nearest known corpus is python$"):
        collector.add_source("pyhton", "utf-8")
    with pytest.raises(TextError, match=r"the known corpora are python, text8$"):
        collector.add_source("wholly other", "utf-8")


def test_a_link_to_nothing_is_named_with_what_it_leads_to() -> None:
    link("lost", "nowhere")
    with pytest.raises(TextError, match=r"lost is a link to .*nowhere, which does not exist"):
        read_paths(["lost"])


@pytest.mark.parametrize("source", ["f/a", "f", "f/*"])
def test_a_file_that_may_not_be_read_is_named(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    put("f/a", "text")
    monkeypatch.setattr(reading, "open", refuse, raising=False)  # root may read whatever its mode
    with pytest.raises(TextError, match=r"^f.a cannot be read: permission denied$"):
        read_paths([source])


@pytest.mark.parametrize("source", ["f", "f/**"])
def test_a_folder_that_may_not_be_listed_is_named(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    put("f/sub/a", "text")
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(TextError, match=r"^f.sub cannot be read: permission denied$"):
        read_paths([source])


def test_the_error_in_one_file_of_many_names_that_file() -> None:
    put("f/a", "good\n")
    put("f/b", b"good\nbad \xff\n")
    with pytest.raises(TextError, match=rf"^{re.escape(os.path.join('f', 'b'))}, line 2, byte 9 "):
        read_paths(["f"])


@not_on_windows
def test_a_name_with_control_characters_is_shown_escaped() -> None:
    put("a\x1b[31m\n", "1")
    assert read_paths(["a\x1b[31m\n"]).name == r"a\x1b[31m\n"


# Texts of every kind and size


UNUSUAL = [
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1ee\U0001f1f8",  # joined emoji, a flag
    "e\u0301 \u00e9 \u0915\u094d\u0937\u093f",  # combining marks, composed and not
    "\u05e9\u05dc\u05d5\u05dd \u202eabc\u202c \u0627\u0644\u0633\u0644\u0627\u0645",  # right to left
    "\u6f22\u5b57\u4eee\u540d \U00020000",  # CJK, also beyond the first plane
    "a\0b\x1b[31m\x07\x7f\x85\u2028\u2029\ufeff\uffff\U0010ffff",
]


@pytest.mark.parametrize("content", UNUSUAL)
def test_unusual_characters_go_through_files_and_the_vocabulary_unchanged(content: str) -> None:
    put("text", content)
    text = read_paths(["text"])
    assert text.content == content
    assert isinstance(text.content, str)
    vocabulary = Vocabulary.of(text.content)
    assert vocabulary.decode(vocabulary.encode(text.content)) == content
    assert vocabulary.decode_bytes(vocabulary.encode(text.content)) == content.encode()


VALID = "aß漢\U0001f600".encode()


@given(
    st.integers(0, 200), st.sampled_from([b"\xff", b"\xc3", b"\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf"])
)
def test_an_invalid_byte_in_any_position_is_named_by_its_offset(before: int, wrong: bytes) -> None:
    raw = VALID * 30
    start = len(raw[:before].decode("utf-8", "ignore").encode())  # at a character's start
    with pytest.raises(TextError, match=rf"standard input, line 1, byte {start} \(counted from 0\): 0x"):
        read_bytes(raw[:start] + wrong + raw[start:])


def test_half_surrogate_pairs_written_as_utf8_are_refused() -> None:
    raw = 'ok\n{"x": "\ud83d"}'.encode("utf-8", "surrogatepass")
    with pytest.raises(TextError, match=r"line 2, byte 10 .* 0xed is not utf-8"):
        read_bytes(raw)
    assert read_bytes(raw, level="byte").content == raw


def test_a_line_of_a_million_characters_is_read() -> None:
    put("long", "x" * 1_000_000 + "\ny")
    assert read_paths(["long"]).content == "x" * 1_000_000 + "\ny"


@pytest.mark.parametrize("count", [2000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_small_files_are_read_in_order(count: int) -> None:
    for folder in range(10):
        Path(f"many/{folder}").mkdir(parents=True)
    for number in range(count):
        Path(f"many/{number % 10}/{number:06}").write_bytes(b"%d\n" % number)
    text = read_paths(["many"])
    assert text.name == f"{count:,} files of many"
    assert text.content == "".join(f"{number}\n" for last in range(10) for number in range(last, count, 10))


def test_a_file_that_disappears_between_listing_and_reading_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        put(f"folder/{name}", "text")
    content_of = reading._content_of

    def read_and_remove(path: str) -> bytes:
        Path("folder/b").unlink(missing_ok=True)
        return content_of(path)

    monkeypatch.setattr(reading, "_content_of", read_and_remove)
    with pytest.raises(TextError, match=r"there is no file or folder folder.b"):
        read_paths(["folder"])


def test_a_file_that_grows_while_it_is_read_ends_where_it_ended_when_it_was_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise one that grows faster than it is read would never end."""

    class Growing(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            with Path("log").open("ab") as log:
                log.write(b"more")
            return super().read(-1 if size is None else size)

    put("log", "text\n")
    monkeypatch.setattr(reading, "open", lambda path, mode, buffering: Growing(path), raising=False)
    assert read_paths(["log"]).content == "text\n"


def test_a_file_that_comes_in_pieces_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system gives one of more than 2 GiB."""

    class Slow(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, 3))

    put("text", "to be or not to be\n")
    monkeypatch.setattr(reading, "open", lambda path, mode, buffering: Slow(path), raising=False)
    assert read_paths(["text"]).content == "to be or not to be\n"


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="there is no /proc here")
def test_a_file_that_tells_no_size_is_read() -> None:
    assert "Linux" in str(read_paths(["/proc/version"]).content)


@not_on_windows
def test_a_file_that_claims_more_than_the_memory_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("sparse").touch()
    os.truncate("sparse", 4 << 30)
    monkeypatch.setattr(reading, "longest_text", lambda: (4 << 30) - 1)
    with pytest.raises(TextError, match=r"sparse is too long: 4,294,967,296 bytes, of which .*; take a part of it"):
        read_paths(["sparse"])


def test_a_sixth_of_the_machines_memory_is_the_limit() -> None:
    assert longest_text() == machine_memory() // 6
    assert 1 << 28 <= machine_memory() <= 1 << 50


class Endless(io.RawIOBase):
    """What never ends."""

    given = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        assert size > 0, "all of it was asked for"
        self.given += size
        return b"y\n" * (size // 2)


def test_a_stream_without_end_is_refused_when_it_has_filled_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = Endless()
    monkeypatch.setattr(reading, "longest_text", lambda: 5_000_000)
    with pytest.raises(TextError, match=r"standard input is too long: over 5,000,000 bytes, .* take a part of it"):
        read_paths(["-"], stdin=endless)  # type: ignore[arg-type]
    assert endless.given < 5_000_000 + 2 * reading._PIECE


@not_on_windows
def test_a_device_without_end_behind_a_redirection_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "longest_text", lambda: 5_000_000)
    with open("/dev/zero", "rb") as zeros, pytest.raises(TextError, match="is too long: over 5,000,000 bytes"):
        read_paths([f"/dev/fd/{zeros.fileno()}"])


def test_files_that_are_too_long_together_are_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("x" * 60, encoding="utf-8")
    monkeypatch.setattr(reading, "longest_text", lambda: 120)
    assert len(read_paths([str(tmp_path)]).content) == 121
    monkeypatch.setattr(reading, "longest_text", lambda: 119)
    with pytest.raises(TextError, match="the text of all files together is too long: over 119 bytes"):
        read_paths([str(tmp_path)])


def test_a_stream_of_exactly_the_limit_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "longest_text", lambda: 3_000_000)
    assert read_bytes(b"x" * 3_000_000).content == "x" * 3_000_000
