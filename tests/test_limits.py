"""What a container may take of its machine."""

import os

import pytest

from charrnn import cli, limits


@pytest.fixture(autouse=True)
def _container(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "_CONTAINER", tmp_path)


@pytest.mark.parametrize(
    ("said", "cores"),
    [("200000 100000\n", 2), ("250000 100000\n", 3), ("1000 100000\n", 1), ("max 100000\n", None), ("", None)],
)
def test_cores_are_those_of_the_container(said, cores, tmp_path):
    (tmp_path / "cpu.max").write_text(said, encoding="ascii")
    assert limits.container_cores() == cores


@pytest.mark.parametrize(("said", "part"), [("1048576\n", 1048576), ("max\n", None), ("9" * 30, None)])
def test_memory_is_that_of_the_container_if_it_is_less(said, part, tmp_path):
    physical = limits.machine_memory()
    (tmp_path / "memory.max").write_text(said, encoding="ascii")
    assert limits.machine_memory() == (part or physical)
    assert limits.longest_text() == (part or physical) // 6


def test_where_there_is_no_container_nothing_is_limited():
    assert limits.container_cores() is None
    assert limits.machine_memory() > 2**20


@pytest.mark.parametrize(("cores", "set_before", "threads"), [(2, None, "2"), (2, "1", "1"), (9, None, None)])
def test_commands_take_no_more_threads_than_the_container_has_cores(cores, set_before, threads, monkeypatch):
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": set_before} if set_before else {})
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(cli, "container_cores", lambda: cores)
    monkeypatch.setattr(cli, "app", lambda: None)
    cli.main()
    assert os.environ.get("OMP_NUM_THREADS") == threads
