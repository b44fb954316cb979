"""From logits to a character."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from charrnn.errors import ConfigError
from charrnn.sampling.choosing import Choosing, choose

# Probabilities 0.4, 0.3, 0.2, 0.1 in an order that is not sorted.
LOGITS = np.log(np.array([[0.2, 0.4, 0.1, 0.3]]))
EVENLY = (np.arange(1000) + 0.5) / 1000


def shares(how: Choosing, logits: np.ndarray = LOGITS) -> list[float]:
    """How often each id is chosen over evenly spread uniform numbers: its probability, to a thousandth."""
    chosen = choose(np.repeat(logits, 1000, axis=0), EVENLY, how)
    return [float((chosen == index).mean()) for index in range(logits.shape[1])]


def test_characters_are_drawn_with_their_softmax_probabilities():
    assert shares(Choosing()) == pytest.approx([0.2, 0.4, 0.1, 0.3], abs=0.002)


def test_temperature_divides_the_logits():
    expected = np.array([0.2, 0.4, 0.1, 0.3]) ** 2
    assert shares(Choosing(temperature=0.5)) == pytest.approx(list(expected / expected.sum()), abs=0.002)


def test_temperature_zero_takes_the_most_probable_and_the_first_of_equals():
    assert shares(Choosing(temperature=0)) == [0, 1, 0, 0]
    assert choose(np.array([[1.0, 3.0, 3.0]]), np.array([0.99]), Choosing(temperature=0))[0] == 1


@pytest.mark.parametrize("how", [Choosing(), Choosing(0), Choosing(2.0, top_k=2, top_p=0.9, min_p=0.1)], ids=str)
@pytest.mark.parametrize("strange", [math.nan, math.inf])
def test_of_logits_that_are_no_numbers_the_excluded_one_is_not_drawn(strange, how):
    logits_BV = np.array([[-math.inf, strange, 1.0, 2.0], [-math.inf, 1.0, strange, strange], [-math.inf, 1, 2, 3]])
    drawn_B = choose(logits_BV, np.full(3, 0.5), how)
    assert list(drawn_B[:2]) == [1, 2]
    assert drawn_B[2] == choose(logits_BV[2:], np.full(1, 0.5), how)[0] > 1


def test_a_tiny_temperature_does_not_overflow():
    for temperature in (1e-30, 1e-310):
        assert shares(Choosing(temperature=temperature), LOGITS * 100) == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Choosing(top_k=1), [0, 1, 0, 0]),
        (Choosing(top_k=2), [0, 4 / 7, 0, 3 / 7]),
        (Choosing(top_k=99), [0.2, 0.4, 0.1, 0.3]),
        (Choosing(top_p=0.4), [0, 1, 0, 0]),
        (Choosing(top_p=0.65), [0, 4 / 7, 0, 3 / 7]),
        (Choosing(top_p=0.75), [2 / 9, 4 / 9, 0, 3 / 9]),
        (Choosing(top_p=1.0), [0.2, 0.4, 0.1, 0.3]),
        (Choosing(top_p=1e-9), [0, 1, 0, 0]),
        (Choosing(min_p=0.6), [0, 4 / 7, 0, 3 / 7]),
        (Choosing(min_p=0.0), [0.2, 0.4, 0.1, 0.3]),
        (Choosing(min_p=1.0), [0, 1, 0, 0]),
        (Choosing(top_k=3, top_p=0.7), [0, 4 / 7, 0, 3 / 7]),  # of 0.9: 0.4 / 0.9 < 0.7, 0.7 / 0.9 > 0.7
        (Choosing(top_k=3, min_p=0.6), [0, 4 / 7, 0, 3 / 7]),
    ],
    ids=str,
)
def test_filters_keep_the_probable_characters_and_renormalise(how, expected):
    assert shares(how) == pytest.approx(expected, abs=0.002)


def test_each_lane_has_its_own_number_and_its_own_logits():
    logits = np.log(np.array([[0.9, 0.1], [0.1, 0.9], [0.5, 0.5]]))
    assert list(choose(logits, np.array([0.5, 0.5, 0.75]), Choosing())) == [0, 1, 1]


rows = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 12)),
    elements=st.floats(-80, 80, width=32) | st.just(-math.inf),
)


@given(
    logits=rows,
    seed=st.integers(0, 9),
    temperature=st.sampled_from([0, 1e-6, 0.7, 1.0, 50.0]),
    top_k=st.none() | st.integers(1, 15),
    top_p=st.none() | st.floats(1e-6, 1),
    min_p=st.none() | st.floats(0, 1),
)
def test_a_forbidden_character_is_never_chosen_and_something_always_is(logits, seed, temperature, top_k, top_p, min_p):
    logits[:, 0] = 1.0  # at least one character is allowed
    uniforms = np.random.default_rng(seed).random(len(logits))
    chosen = choose(logits, uniforms, Choosing(temperature, top_k, top_p, min_p))
    assert chosen.shape == (len(logits),)
    assert all(np.isfinite(logits[lane, index]) for lane, index in enumerate(chosen))


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(1.0, 0.0)])
def test_the_extreme_uniform_numbers_choose_characters_that_can_be(uniform):
    logits = np.array([[-np.inf, 0.0, 0.0, -np.inf]])
    assert choose(logits, np.array([uniform]), Choosing())[0] in (1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature = -1.0: expected"),
        ({"temperature": math.nan}, "temperature = nan: expected"),
        ({"temperature": math.inf}, "temperature = inf: expected"),
        ({"top_k": 0}, "top-k = 0: expected"),
        ({"top_p": 0.0}, "top-p = 0.0: expected"),
        ({"top_p": 1.5}, "top-p = 1.5: expected"),
        ({"top_p": math.nan}, "top-p = nan: expected"),
        ({"min_p": -0.1}, "min-p = -0.1: expected"),
        ({"min_p": 1.1}, "min-p = 1.1: expected"),
    ],
)
def test_values_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        Choosing(**options)
