"""Turns, by a clock that only moves when a contender works: no test here depends on how fast anything is."""

import pytest

from charrnn.bench.timing import NOT_REACHED, TOO_SLOW, Contender, Stopwatch, take_turns


class World:
    """A clock, and contenders that each take a known time for a step."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def contender(self, name: str, seconds: float, first: float | None = None) -> Contender:
        left = [seconds if first is None else first]

        def step() -> None:
            self.now += left.pop() if left else seconds
            self.order.append(name)

        return Contender(name, step)

    def stopwatch(self) -> Stopwatch:
        return Stopwatch(lambda: None, lambda: self.now)


def test_every_contender_is_timed_and_the_time_is_kept():
    world = World()
    timings = take_turns([world.contender("a", 0.5), world.contender("b", 0.25)], 20, world.stopwatch())
    assert list(timings) == ["a", "b"]
    assert (timings["a"].seconds, timings["b"].seconds) == (0.5, 0.25)
    assert min(timing.repeats for timing in timings.values()) >= 3
    assert world.now == pytest.approx(20, abs=3)


def test_a_contender_that_fails_later_is_left_out_and_the_others_go_on():
    world, left = World(), [None] * 5

    def step() -> None:
        world.now += 0.1
        if not left:
            raise RuntimeError("the process has ended\nfor want of memory")
        left.pop()

    timings = take_turns([Contender("a", step), world.contender("b", 0.1)], 20, world.stopwatch())
    assert (timings["a"].seconds, timings["a"].note) == (None, "failed: the process has ended")
    assert timings["b"].seconds == pytest.approx(0.1)


def test_turns_are_interleaved():
    world = World()
    take_turns([world.contender("a", 1), world.contender("b", 1)], 12, world.stopwatch())
    assert "".join(world.order) == "ab" + "aabb" * 2 + "aa"


def test_the_step_that_follows_another_contenders_is_not_kept():
    """Each first step after the other's takes three times as long, as the caches are the other's."""
    world, last = World(), []

    def contender(name: str) -> Contender:
        def step() -> None:
            world.now += 1.0 if last == [name] else 3.0
            last[:] = [name]

        return Contender(name, step)

    timings = take_turns([contender("a"), contender("b")], 60, world.stopwatch())
    assert [timing.seconds for timing in timings.values()] == [1.0, 1.0]


def test_a_first_step_that_sets_things_up_does_not_count():
    world = World()
    timings = take_turns([world.contender("a", 0.01, first=2.0)], 20, world.stopwatch())
    assert timings["a"].seconds == pytest.approx(0.01)


def test_a_quick_contender_does_many_steps_in_each_repeat():
    world = World()
    timings = take_turns([world.contender("quick", 0.001), world.contender("slow", 1)], 20, world.stopwatch())
    assert timings["quick"].repeats < 20
    assert world.order.count("quick") > 1000
    assert timings["slow"].repeats >= 3


def test_a_slow_contender_gets_three_repeats_before_quick_ones_get_more_time():
    world = World()
    contenders = [world.contender("slow", 4), world.contender("a", 0.5), world.contender("b", 0.5)]
    assert take_turns(contenders, 40, world.stopwatch())["slow"].repeats == 3


def test_one_that_takes_a_quarter_of_the_time_is_stopped_after_a_step_and_says_so():
    world = World()
    timings = take_turns([world.contender("slow", 5.1), world.contender("a", 1)], 20, world.stopwatch())
    assert (timings["slow"].seconds, timings["slow"].repeats, timings["slow"].note) == (5.1, 1, TOO_SLOW)
    assert world.order.count("slow") == 1
    assert timings["a"].repeats > 3


def test_one_that_half_the_time_does_not_reach_has_no_figure_and_the_others_have_repeats():
    world = World()
    contenders = [world.contender(name, 4) for name in "abc"]
    timings = take_turns(contenders, 16.5, world.stopwatch())
    assert timings["c"].seconds == 4
    timings = take_turns(contenders, 16, world.stopwatch())
    assert (timings["c"].seconds, timings["c"].repeats, timings["c"].note) == (None, 0, NOT_REACHED)
    assert (timings["a"].repeats, timings["b"].repeats) == (1, 1)


def test_where_time_allows_no_repeat_the_first_step_is_the_figure_and_that_is_said():
    world = World()
    timings = take_turns([world.contender("a", 1), world.contender("b", 3.5, first=2)], 8.2, world.stopwatch())
    assert (timings["a"].seconds, timings["a"].note) == (1, "")
    tired = World()
    timings = take_turns([tired.contender("a", 1), tired.contender("b", 9, first=1)], 4.5, tired.stopwatch())
    assert (timings["b"].seconds, timings["b"].repeats) == (9, 1)
    late = World()
    timings = take_turns([late.contender("a", 9, first=1), late.contender("b", 1)], 4.5, late.stopwatch())
    assert (timings["b"].seconds, timings["b"].repeats) == (1, 1)
    assert timings["b"].note.startswith("one step")


def test_one_that_the_device_cannot_run_is_named_with_the_reason_and_the_others_go_on():
    def broken() -> None:
        raise RuntimeError("no such precision here\nand a long story")

    world = World()
    timings = take_turns([Contender("broken", broken), world.contender("a", 1)], 8, world.stopwatch())
    assert timings["broken"].seconds is None
    assert timings["broken"].note == "failed: no such precision here"
    assert timings["a"].seconds == 1


def test_the_device_is_waited_for_before_and_after_each_repeat():
    waits: list[None] = []
    world = World()
    stopwatch = Stopwatch(lambda: waits.append(None), lambda: world.now)
    stopwatch.seconds_per_step(world.contender("a", 1).step, 5)
    assert len(waits) == 2
