"""Prime the network with a prefix, then draw one character after another.

Lane n of a seed draws from its own stream of uniform numbers, Philox keyed by (seed, n), one number a character. So
the same seed gives the same text whether it is streamed or not, and alone or in a batch. In a batch the products are
rounded in another order, though; in float32 that tips about one draw in a million, and the texts part there.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from charrnn.model.cells import State
from charrnn.model.network import CharRNN
from charrnn.model.stepper import Stepper
from charrnn.sampling.choosing import Choosing, Floats, choose
from charrnn.text.vocabulary import UNKNOWN, Ids, Vocabulary

_BLOCK = 512
"""Uniform numbers drawn at a time, steps of the prefix read at a time."""


def generate(
    network: CharRNN,
    vocabulary: Vocabulary,
    prefix: Ids,
    length: int,
    how: Choosing | None = None,
    seed: int = 0,
    lanes: Sequence[int] = (0,),
    quantized: bool = False,
) -> Iterator[npt.NDArray[np.int64]]:
    """Yield (B,) ids `length` times: what follows the prefix in each lane. The unknown character is never drawn.

    lanes: which of the seed's streams of random numbers; range(8) draws eight samples as one batch. An empty prefix
    begins as after a line's end, which is where texts begin, or from the zero state if the vocabulary has none.
    quantized: draw with int8 weights, see Stepper; the prefix is read with the network's own.
    """
    how = how or Choosing()
    ids = prefix if len(prefix) else _line_end(vocabulary)
    stepper, logits_BV = _primed(network, ids, len(lanes), quantized)
    uniforms = _uniforms(seed, lanes)
    for left in range(length - 1, -1, -1):
        scores_BV = logits_BV.cpu().numpy()
        if vocabulary.level == "character":
            scores_BV[:, UNKNOWN] = -np.inf
        chosen_B = choose(scores_BV, next(uniforms), how)
        yield chosen_B
        if left:
            logits_BV = stepper.step(chosen_B)


@torch.no_grad()
def _primed(network: CharRNN, ids: Ids, lanes: int, quantized: bool) -> tuple[Stepper, torch.Tensor]:
    """A stepper that has read the prefix in every lane, and the logits of what follows.

    The prefix is read once, by the engine, whatever the number of lanes, so all start from the very same state.
    """
    was_training = network.training
    network.eval()
    state: State = network.zero_state(1, network.readout.weight.dtype)
    for start in range(0, len(ids) - 1, _BLOCK):
        window_TB = torch.from_numpy(ids[start : min(start + _BLOCK, len(ids) - 1)].astype(np.int64))[:, None]
        _, state = network.hidden(window_TB.to(network.device), state, None)
    network.train(was_training)
    stepper = Stepper(network, state, lanes, quantized)
    if not len(ids):
        return stepper, stepper.logits()
    return stepper, stepper.step(np.full(lanes, ids[-1], dtype=np.int64))


def _line_end(vocabulary: Vocabulary) -> Ids:
    return vocabulary.encode("\n", on_unknown="skip")


def _uniforms(seed: int, lanes: Sequence[int]) -> Iterator[Floats]:
    """(B,) uniform numbers in [0, 1), one for each lane, for ever."""
    generators = [np.random.Generator(np.random.Philox(key=[seed, lane])) for lane in lanes]
    while True:
        yield from np.stack([generator.random(_BLOCK) for generator in generators], axis=1)
