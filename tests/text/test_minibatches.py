"""What charrnn.text.minibatches promises: every target once an epoch, in order, and a place one can come back to."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from charrnn.errors import TextError
from charrnn.text.minibatches import (
    IGNORE,
    Minibatches,
    Position,
    Shape,
    Window,
    fitting_shape,
    gather,
    lane_bounds,
)

patient = settings(deadline=None, max_examples=50)  # other processes may slow an example down

lengths = st.integers(2, 300)
shapes = st.builds(Shape, st.integers(1, 40), st.integers(1, 40))
partitionings = st.sampled_from(["sequential", "random"])
seeds = st.integers(0, 2**63 - 1)
epochs = st.integers(0, 5)


def places(length: int) -> np.ndarray:
    """A stream in which every id is its own position, so that a target says which it is."""
    return np.arange(length, dtype=np.uint32)


def used(window: Window) -> np.ndarray:
    return window.targets_TB != IGNORE


def same(left: Window, right: Window) -> bool:
    inputs = np.array_equal(left.inputs_TB, right.inputs_TB)
    return inputs and np.array_equal(left.targets_TB, right.targets_TB) and left.starts == right.starts


def walk(batches: Minibatches, start: Position, steps: int) -> list[Window]:
    windows = []
    for _ in range(steps):
        windows.append(batches.window(start))
        start = batches.after(start)
    return windows


# Both partitionings


@patient
@given(lengths, shapes, partitionings, seeds, epochs)
@example(2, Shape(1, 1), "sequential", 0, 0)
@example(2, Shape(7, 5), "random", 0, 0)
@example(8, Shape(7, 1), "sequential", 0, 0)
def test_every_target_is_used_exactly_once_an_epoch(length, shape, partitioning, seed, epoch):
    windows = list(Minibatches(places(length), shape, partitioning, seed).epoch(epoch))
    targets = np.concatenate([window.targets_TB[used(window)] for window in windows])
    assert sorted(targets.tolist()) == list(range(1, length))
    assert sum(window.num_targets for window in windows) == length - 1


@patient
@given(lengths, shapes, partitionings, seeds, epochs)
def test_each_input_is_the_character_before_its_target(length, shape, partitioning, seed, epoch):
    for window in Minibatches(places(length), shape, partitioning, seed).epoch(epoch):
        assert (window.inputs_TB + 1 == window.targets_TB)[used(window)].all()
        assert window.inputs_TB.min() >= 0  # a step without a target has some input that the network can read
        assert window.inputs_TB.max() < length


@patient
@given(lengths, shapes, partitionings, seeds, epochs)
def test_no_window_is_empty_or_larger_than_asked_for(length, shape, partitioning, seed, epoch):
    for window in Minibatches(places(length), shape, partitioning, seed).epoch(epoch):
        steps, lanes = window.targets_TB.shape
        assert window.inputs_TB.shape == window.targets_TB.shape
        assert window.inputs_TB.dtype == window.targets_TB.dtype == np.int64
        assert 1 <= steps <= shape.seq_length
        assert 1 <= lanes <= shape.batch_size
        assert window.num_targets >= 1


@patient
@given(lengths, shapes, partitionings, seeds, epochs)
def test_a_lane_reads_on_without_a_gap_until_its_end_and_is_ignored_only_behind_it(
    length, shape, partitioning, seed, epoch
):
    for window in Minibatches(places(length), shape, partitioning, seed).epoch(epoch):
        assert (np.diff(used(window).astype(int), axis=0) <= 0).all()
        assert (np.diff(window.targets_TB, axis=0) == 1)[used(window)[1:]].all()


# Sequential


@patient
@given(lengths, shapes, seeds, epochs)
def test_sequential_windows_go_on_where_the_last_ended_so_that_the_state_can_be_carried(length, shape, seed, epoch):
    windows = list(Minibatches(places(length), shape, "sequential", seed).epoch(epoch))
    lanes_TB = np.concatenate([window.targets_TB for window in windows])
    columns = [lane[lane != IGNORE] for lane in lanes_TB.T]
    assert all((np.diff(lane) == 1).all() for lane in columns)
    assert np.concatenate(columns).tolist() == list(range(1, length))  # lane after lane, the text in its order
    sizes = [len(lane) for lane in columns]
    assert max(sizes) - min(sizes) <= 1
    # Only the very last step of the epoch may lack targets, where the lanes are not all of one length.
    assert (lanes_TB[:-1] != IGNORE).all()


@patient
@given(lengths, shapes, seeds, epochs)
def test_sequential_state_starts_from_zero_at_the_first_window_only(length, shape, seed, epoch):
    starts = [window.starts for window in Minibatches(places(length), shape, "sequential", seed).epoch(epoch)]
    assert starts == [True] + [False] * (len(starts) - 1)


@patient
@given(lengths, shapes, seeds, epochs)
def test_sequential_windows_but_the_first_and_the_last_are_full(length, shape, seed, epoch):
    batches = Minibatches(places(length), shape, "sequential", seed)
    windows = list(batches.epoch(epoch))
    fitted = (batches.shape.seq_length, batches.shape.batch_size)
    assert all(window.targets_TB.shape == fitted for window in windows[1:-1])
    assert all(window.targets_TB.shape[1] == batches.shape.batch_size for window in windows)


# Random


@patient
@given(lengths, shapes, seeds, epochs)
def test_random_windows_always_start_from_zero(length, shape, seed, epoch):
    assert all(window.starts for window in Minibatches(places(length), shape, "random", seed).epoch(epoch))


@patient
@given(lengths, shapes, seeds, epochs)
def test_random_lanes_are_full_but_those_at_the_ends_of_the_text(length, shape, seed, epoch):
    batches = Minibatches(places(length), shape, "random", seed)
    windows = list(batches.epoch(epoch))
    lanes = [lane[lane != IGNORE] for window in windows for lane in window.targets_TB.T]
    short = [lane for lane in lanes if len(lane) < batches.shape.seq_length]
    assert all(lane[0] == 1 or lane[-1] == length - 1 for lane in short)
    assert all(window.targets_TB.shape[1] == batches.shape.batch_size for window in windows[:-1])


def test_random_windows_are_shuffled():
    windows = Minibatches(places(1001), Shape(4, 10), "random").epoch(0)
    firsts = np.concatenate([window.inputs_TB[0] for window in windows])
    assert firsts.tolist() != sorted(firsts)


# Position


@patient
@given(lengths, shapes, partitionings, seeds, st.integers(0, 60), st.integers(0, 60))
def test_a_new_object_at_a_saved_position_goes_on_with_the_very_same_windows(
    length, shape, partitioning, seed, before, behind
):
    whole = Minibatches(places(length), shape, partitioning, seed)
    position = Position()
    for _ in range(before):
        position = whole.after(position)
    expected = walk(whole, Position(), before + behind)[before:]
    resumed = walk(Minibatches(places(length), shape, partitioning, seed), position, behind)
    assert all(map(same, resumed, expected))
    assert len(resumed) == len(expected)


@patient
@given(lengths, shapes, partitionings, seeds, st.randoms(use_true_random=False))
def test_a_window_does_not_depend_on_what_was_asked_before(length, shape, partitioning, seed, random):
    batches = Minibatches(places(length), shape, partitioning, seed)
    positions = [Position(epoch, index) for epoch in range(3) for index in range(batches.windows_in(epoch))]
    straight = {position: batches.window(position) for position in positions}
    random.shuffle(positions)
    assert all(same(batches.window(position), straight[position]) for position in positions)


@patient
@given(lengths, shapes, partitionings, seeds)
def test_after_walks_through_all_windows_of_each_epoch_in_turn(length, shape, partitioning, seed):
    batches = Minibatches(places(length), shape, partitioning, seed)
    expected = [Position(epoch, index) for epoch in range(3) for index in range(batches.windows_in(epoch))]
    position, walked = Position(), []
    for _ in expected:
        walked.append(position)
        position = batches.after(position)
    assert walked == expected
    assert position == Position(3, 0)


@patient
@given(lengths, shapes, partitionings, seeds)
def test_epochs_done_rises_with_every_window_and_is_whole_between_epochs(length, shape, partitioning, seed):
    batches = Minibatches(places(length), shape, partitioning, seed)
    positions = [Position(epoch, index) for epoch in range(3) for index in range(batches.windows_in(epoch))]
    done = [batches.epochs_done(position) for position in positions]
    assert all(left < right for left, right in pairwise(done))
    assert [batches.epochs_done(Position(epoch)) for epoch in range(3)] == [0, 1, 2]


def test_epochs_done_is_one_half_in_the_middle():
    batches = Minibatches(places(41), Shape(1, 1))
    assert batches.windows_in(2) == 40
    assert batches.epochs_done(Position(2, 20)) == 2.5


@pytest.mark.parametrize("partitioning", ["sequential", "random"])
def test_each_epoch_is_cut_at_other_places_and_each_seed_too(partitioning):
    def cuts(seed: int, epoch: int) -> frozenset[int]:
        windows = Minibatches(places(5001), Shape(3, 97), partitioning, seed).epoch(epoch)
        return frozenset(int(place) for window in windows for place in window.inputs_TB[0])

    assert len({cuts(0, epoch) for epoch in range(8)}) >= 7
    assert len({cuts(seed, 0) for seed in range(8)}) >= 7


@pytest.mark.parametrize("partitioning", ["sequential", "random"])
def test_the_first_cut_takes_every_place_from_1_to_T_in_some_epoch(partitioning):
    batches = Minibatches(places(101), Shape(1, 5), partitioning)
    first = set()
    for epoch in range(60):
        lanes = [lane for window in batches.epoch(epoch) for lane in window.targets_TB.T]
        first |= {int((lane != IGNORE).sum()) for lane in lanes if lane[0] == 1}
    assert first == {1, 2, 3, 4, 5}


def test_different_seeds_and_epochs_shuffle_differently():
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        windows = Minibatches(places(1001), Shape(1, 1), "random", seed).epoch(epoch)
        return tuple(int(window.inputs_TB[0, 0]) for window in windows)

    assert len({order(seed, epoch) for seed in (0, 1, 2**63 - 1) for epoch in (0, 1)}) == 6
    assert order(3, 4) == order(3, 4)


def test_the_stream_is_not_changed():
    ids = places(50)
    ids.flags.writeable = False
    for partitioning in ("sequential", "random"):
        assert sum(window.num_targets for window in Minibatches(ids, Shape(3, 4), partitioning).epoch(0)) == 49


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_an_unsigned_id_never_turns_into_the_ignored_target(dtype):
    highest = np.iinfo(dtype).max
    ids = np.full(8, highest, dtype=dtype)
    windows = list(Minibatches(ids, Shape(3, 4)).epoch(0))
    assert {int(target) for window in windows for target in window.targets_TB.flat} <= {int(highest), IGNORE}
    assert sum(window.num_targets for window in windows) == 7


# Short texts


@patient
@given(st.integers(1, 10**9), st.builds(Shape, st.integers(1, 10**6), st.integers(1, 10**6)))
@example(1, Shape(10**6, 10**6))
def test_a_fitting_shape_gives_each_lane_a_whole_window_and_is_not_smaller_than_it_need_be(num_targets, wanted):
    shape = fitting_shape(num_targets, wanted)
    assert num_targets // shape.batch_size >= shape.seq_length >= 1
    assert shape.batch_size in {wanted.batch_size >> halvings for halvings in range(21)}
    if shape.batch_size > 1:
        assert shape.seq_length == wanted.seq_length
    else:
        assert shape.seq_length == min(wanted.seq_length, num_targets)
    if shape.batch_size < wanted.batch_size:  # one halving fewer would not have fitted
        halvings = wanted.batch_size.bit_length() - shape.batch_size.bit_length()
        assert num_targets // (wanted.batch_size >> (halvings - 1)) < wanted.seq_length


@pytest.mark.parametrize(
    ("num_targets", "wanted", "fitted"),
    [
        (64, Shape(8, 8), Shape(8, 8)),
        (63, Shape(8, 8), Shape(4, 8)),
        (16, Shape(8, 8), Shape(2, 8)),
        (15, Shape(8, 8), Shape(1, 8)),
        (7, Shape(8, 8), Shape(1, 7)),
        (1, Shape(8, 8), Shape(1, 1)),
        (20, Shape(7, 10), Shape(1, 10)),
        (30, Shape(7, 10), Shape(3, 10)),
    ],
)
def test_lanes_are_halved_before_windows_are_shortened(num_targets, wanted, fitted):
    assert fitting_shape(num_targets, wanted) == fitted
    assert Minibatches(places(num_targets + 1), wanted).shape == fitted


@pytest.mark.parametrize("partitioning", ["sequential", "random"])
def test_two_characters_are_enough(partitioning):
    (window,) = Minibatches(places(2), Shape(32, 64), partitioning).epoch(0)
    assert (window.inputs_TB.tolist(), window.targets_TB.tolist(), window.starts) == ([[0]], [[1]], True)


@pytest.mark.parametrize("length", [0, 1])
def test_fewer_than_two_characters_are_refused(length):
    with pytest.raises(
        TextError, match="the training text has fewer than 2 characters, so there is nothing to predict"
    ):
        Minibatches(places(length), Shape(2, 3))


# Lanes


@patient
@given(st.integers(0, 10**6), st.integers(1, 1000))
def test_lane_bounds_cover_everything_in_lanes_that_differ_by_at_most_one(num_targets, lanes):
    bounds = lane_bounds(num_targets, lanes)
    sizes = np.diff(bounds)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, num_targets, lanes + 1)
    assert sizes.max() - sizes.min() <= 1
    assert (np.diff(sizes) <= 0).all()  # the longer lanes come first


@patient
@given(st.integers(2, 50), st.integers(1, 20), st.data())
def test_gather_reads_from_each_start_to_each_end(length, steps, data):
    starts = data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=5))
    ends = [data.draw(st.integers(start, length - 1)) for start in starts]
    assume(all(end <= length - 1 for end in ends))
    inputs_TB, targets_TB = gather(places(length), np.array(starts), np.array(ends), steps)
    for lane, (start, end) in enumerate(zip(starts, ends, strict=True)):
        count = min(end - start, steps)
        assert inputs_TB[:count, lane].tolist() == list(range(start, start + count))
        assert targets_TB[:, lane].tolist() == [*range(start + 1, start + count + 1), *[IGNORE] * (steps - count)]
