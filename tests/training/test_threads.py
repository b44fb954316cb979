"""How many threads take a step: the faster number, asked again and again, and only where time decides."""

import time

import pytest
import torch

from charrnn.training import loop, threads
from charrnn.training.threads import Threads, restored_threads
from tests.conftest import SilentView
from tests.training.test_loop import with_settings


class Machine:
    """One whose steps take as long as it is said for each number of threads, by a clock of its own."""

    def __init__(self, monkeypatch, seconds: dict[int, float]) -> None:
        self.seconds, self.now, self.count = seconds, 0.0, max(seconds)
        self.used: list[int] = []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(torch, "set_num_threads", self.set)
        monkeypatch.setattr(torch, "get_num_threads", lambda: self.count)

    def set(self, count: int) -> None:
        self.count = count

    def steps(self, chosen: Threads, number: int, choosing: bool = True) -> None:
        for _ in range(number):
            with chosen.for_a_step(choosing):
                self.used.append(self.count)
                self.now += self.seconds[self.count]

    def share(self, count: int, last: int) -> float:
        """Of the last so many steps, those that were taken with a number of threads."""
        return self.used[-last:].count(count) / last


@pytest.mark.parametrize(
    ("seconds", "fastest"),
    [
        ({2: 1.0, 1: 1.5}, 2),
        ({2: 1.0, 1: 0.6}, 1),
        ({8: 1.0, 4: 0.8, 2: 0.7, 1: 0.9}, 2),
        ({8: 1.0, 4: 1.1, 2: 0.2, 1: 0.1}, 8),  # a hill between: not crossed
        ({6: 1.0, 3: 0.9, 1: 0.8}, 1),
    ],
    ids=str,
)
def test_the_fastest_number_takes_nearly_all_steps(monkeypatch, seconds, fastest):
    machine, chosen = Machine(monkeypatch, seconds), Threads(max(seconds))
    machine.steps(chosen, 3000)
    assert chosen.count == fastest
    assert machine.share(fastest, 2000) > 0.95
    assert machine.count == fastest  # outside of steps too


def test_from_many_threads_to_few_it_is_not_far(monkeypatch):
    """A container's share of two cores on a machine of 64: all threads wait for those that are not run."""
    machine, chosen = Machine(monkeypatch, {64: 32.0, 32: 16.0, 16: 8.0, 8: 4.0, 4: 2.0, 2: 1.0, 1: 1.5}), Threads(64)
    machine.steps(chosen, 100)
    assert chosen.count == 2


def test_a_step_that_fails_decides_no_duel(monkeypatch):
    """Else the side with fewer steps would have needed less time."""
    machine, chosen = Machine(monkeypatch, {2: 1.0, 1: 1.1}), Threads(2)
    machine.steps(chosen, 2)
    for _ in range(200):
        if machine.used[-1] == 1:
            with pytest.raises(ValueError, match="diverged"), chosen.for_a_step(choosing=True):
                raise ValueError("diverged")
        machine.steps(chosen, 1)
    assert chosen.count == 2


@pytest.mark.parametrize("after", [3000, 2 * threads._STEPS + 3])
def test_where_there_is_no_choice_any_more_all_take_the_steps(after, monkeypatch):
    """Even from amid a duel."""
    machine, chosen = Machine(monkeypatch, {2: 1.0, 1: 0.6}), Threads(2)
    machine.steps(chosen, after)
    machine.steps(chosen, 10, choosing=False)
    assert machine.share(2, 10) == 1
    assert chosen.count == 2


def test_what_is_fastest_may_change(monkeypatch):
    machine, chosen = Machine(monkeypatch, {2: 1.0, 1: 1.5}), Threads(2)
    for two, steps, fastest in ((1.0, 3000, 2), (9.0, 30, 1), (1.0, 3000, 2)):  # what slows a step is met at once
        machine.seconds[2] = two
        machine.steps(chosen, steps)
        assert chosen.count == fastest
    assert machine.share(2, 1000) > 0.95


def test_a_machine_that_is_slower_with_any_number_is_not_asked_all_the_time(monkeypatch):
    machine, chosen = Machine(monkeypatch, {2: 1.0, 1: 1.5}), Threads(2)
    machine.steps(chosen, 1000)
    machine.seconds = {2: 5.0, 1: 8.0}
    machine.steps(chosen, 3000)
    assert machine.share(2, 2900) > 0.95


def test_a_first_step_that_takes_long_is_held_against_nobody(monkeypatch):
    machine, chosen = Machine(monkeypatch, {2: 100.0, 1: 1.5}), Threads(2)
    machine.steps(chosen, 1)
    machine.seconds[2] = 1.0
    machine.steps(chosen, 2 * threads._STEPS)
    assert machine.used == [2, *[1] * threads._STEPS, *[2] * threads._STEPS]
    assert chosen.count == 2


def test_one_thread_has_no_rival(monkeypatch):
    machine, chosen = Machine(monkeypatch, {1: 1.0}), Threads(1)
    machine.steps(chosen, 100)
    assert set(machine.used) == {1}


def test_a_step_that_fails_leaves_the_number_as_it_was(monkeypatch):
    machine, chosen = Machine(monkeypatch, {2: 1.0, 1: 1.5}), Threads(2)
    machine.steps(chosen, 2)
    machine.seconds[1] = None  # which cannot be added to the time
    with pytest.raises(TypeError):
        machine.steps(chosen, 1)
    assert (machine.used[-1], machine.count) == (1, 2)
    machine.seconds[1] = 1.5
    machine.steps(chosen, 1000)
    assert chosen.count == 2


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        (["budget=1s"], True),
        (["budget=1s", "threads=2"], False),
        (["budget=30 steps"], False),
        (["budget=1h, 30 steps"], False),
    ],
    ids=str,
)
def test_only_a_run_that_time_ends_chooses(small_config, view, folder, monkeypatch, settings, asked):
    duels = []
    monkeypatch.setattr(Threads, "_begin_duel", lambda self: duels.append(self))
    with restored_threads():
        torch.set_num_threads(2)
        loop.train(with_settings(small_config, *settings), view, folder / "run")
    assert bool(duels) == asked


def test_a_limit_of_threads_holds_and_ends_with_the_run(small_config, folder):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    seen = []

    class Watching(SilentView):
        def update(self, progress, report):
            seen.append(torch.get_num_threads())

    try:
        loop.train(with_settings(small_config, "threads=2", "budget=5 steps"), Watching(), folder / "run")
        assert set(seen) == {2}
        assert torch.get_num_threads() == 3
        loop.resume(Watching(), folder / "run", ["threads=64"], "10 steps")
        assert set(seen) == {2, 3}
    finally:
        torch.set_num_threads(before)
