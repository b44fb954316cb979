"""Prime the network with a prefix, then draw one character after another.

Lane n of a seed draws from its own stream of uniform numbers, Philox keyed by (seed, n), one number a character. So
the same seed gives the same text whether it is streamed or not, and alone or in a batch. Without steps.c the products
of a batch are rounded in another order, though; in float32 that tips about one draw in a million, and the texts part
there.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch

from charrnn.model.cells import State
from charrnn.model.compiled_stepper import CompiledStepper
from charrnn.model.network import CharRNN
from charrnn.model.stepper import Stepper, stepper_for
from charrnn.sampling.choosing import Choices, Choosing, Floats, choose
from charrnn.text.vocabulary import UNKNOWN, Ids, Vocabulary
from charrnn.training.evaluation import evaluating

_BLOCK = 512
"""Uniform numbers drawn at a time, steps of the prefix read at a time."""

_UNNOTICED = 0.01
"""Seconds, about, after which a reader of the stream gets the next characters."""

_Draw = Callable[[Floats], Choices]
"""(T, B) uniform numbers -> (T, B) ids drawn by them, and read."""


def generate(
    network: CharRNN,
    vocabulary: Vocabulary,
    prefix: Ids,
    length: int,
    how: Choosing | None = None,
    seed: int = 0,
    lanes: Sequence[int] = (0,),
    quantized: bool = False,
    at_once: int | None = None,
) -> Iterator[Choices]:
    """Yield (T, B) ids, `length` rows in all: what follows the prefix in each lane.

    The unknown character is never drawn. lanes: which of the seed's streams of random numbers; range(8) draws eight
    samples as one batch. An empty prefix begins as after a line's end, which is where texts begin, or from the zero
    state if the vocabulary has none. quantized: draw with int8 weights, see stepper_for; the prefix is read with the
    network's own. at_once: the most that T may be, which changes no character; by default T grows as long as a reader
    would not notice.
    """
    how = how or Choosing()
    ids = prefix if len(prefix) else _line_end(vocabulary)
    stepper, logits_BV = _primed(network, ids, len(lanes), quantized)
    excluded = UNKNOWN if vocabulary.level == "character" else None
    if isinstance(stepper, CompiledStepper) and how == Choosing(how.temperature):
        draw: _Draw = partial(stepper.draw, temperature=how.temperature, excluded=excluded)
    else:
        draw = _one_by_one(stepper, logits_BV, how, excluded)
    left_TB, growing = np.empty((0, len(lanes))), 1
    uniforms = _uniforms(seed, lanes)
    while length > 0:
        left_TB = left_TB if len(left_TB) else next(uniforms)
        started = time.perf_counter()
        ids_TB = draw(left_TB[: min(at_once or growing, length)])
        is_quick = time.perf_counter() - started < _UNNOTICED / 2
        growing = min(2 * growing, _BLOCK) if is_quick else max(growing // 2, 1)
        length, left_TB = length - len(ids_TB), left_TB[len(ids_TB) :]
        yield ids_TB


def _one_by_one(stepper: Stepper, logits_BV: torch.Tensor, how: Choosing, excluded: int | None) -> _Draw:
    """By any stepper, in whatever way `how` asks for."""

    def draw(uniforms_TB: Floats) -> Choices:
        nonlocal logits_BV
        ids_TB = np.empty(uniforms_TB.shape, dtype=np.int64)
        for ids_B, uniforms_B in zip(ids_TB, uniforms_TB, strict=True):
            scores_BV = logits_BV.cpu().numpy()
            if excluded is not None:
                scores_BV[:, excluded] = -np.inf
            ids_B[:] = choose(scores_BV, uniforms_B, how)
            logits_BV = stepper.step(ids_B)
        return ids_TB

    return draw


@torch.no_grad()
def _primed(network: CharRNN, ids: Ids, lanes: int, quantized: bool) -> tuple[Stepper, torch.Tensor]:
    """A stepper that has read the prefix in every lane, and the logits of what follows.

    The prefix is read once, by the engine, whatever the number of lanes, so all start from the very same state.
    """
    state: State = network.zero_state(1, network.readout.weight.dtype)
    with evaluating(network):
        for start in range(0, len(ids) - 1, _BLOCK):
            window_TB = torch.from_numpy(ids[start : min(start + _BLOCK, len(ids) - 1)].astype(np.int64))[:, None]
            _, state = network.hidden(window_TB.to(network.device), state, None)
    stepper = stepper_for(network, state, lanes, quantized)
    if not len(ids):
        return stepper, stepper.logits()
    return stepper, stepper.step(np.full(lanes, ids[-1], dtype=np.int64))


def _line_end(vocabulary: Vocabulary) -> Ids:
    return vocabulary.encode("\n", on_unknown="skip")


def _uniforms(seed: int, lanes: Sequence[int]) -> Iterator[Floats]:
    """(_BLOCK, B) uniform numbers in [0, 1), each lane's own, for ever."""
    generators = [np.random.Generator(np.random.Philox(key=[seed, lane])) for lane in lanes]
    while True:
        yield np.stack([generator.random(_BLOCK) for generator in generators], axis=1)
