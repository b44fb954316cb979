"""How well a network predicts a text, defined once.

The text is read in order, every character but the first is predicted once, and the state is carried from the first
to the last. The figure is the sum of nats over the number of predicted characters.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from charrnn.model.cells import State
from charrnn.model.engines import Execution
from charrnn.model.network import CharRNN, loss_sum
from charrnn.model.stepper import Stepper
from charrnn.text.minibatches import gather, lane_bounds
from charrnn.text.vocabulary import UNKNOWN, Ids, Vocabulary

PRIMING = 1000
"""Characters read before a lane's first prediction, where a stream is cut into lanes."""

_WINDOW = 256
"""Steps of one call; bounds the memory of the logits and changes no figure."""


@dataclass(frozen=True)
class Evaluation:
    """Sums over one text; every figure is derived from them."""

    nats: float
    characters: int
    """Predicted characters: all but the first."""
    bytes: int
    """Bytes of the predicted characters in UTF-8."""
    unknown: int
    """Predicted characters outside the vocabulary, each scored as the one unknown character."""
    unigram_nats_per_char: float
    """Entropy of the text's own character frequencies: what knowing these alone would reach."""
    uniform_nats_per_char: float
    """ln V: what knowing nothing reaches."""
    lanes: int = 1

    @property
    def nats_per_char(self) -> float:
        """-1/n sum ln p, the book's cross-entropy (9.3)."""
        return self.nats / self.characters

    @property
    def bits_per_char(self) -> float:
        """The same in bits."""
        return self.nats_per_char / math.log(2)

    @property
    def perplexity(self) -> float:
        """Exp of the nats per character (9.3)."""
        return math.exp(min(self.nats_per_char, 700))

    @property
    def bits_per_byte(self) -> float:
        """Bits over the text's bytes in UTF-8; comparable across vocabularies where none is unknown to either."""
        return self.nats / math.log(2) / self.bytes

    def to_json(self) -> dict[str, Any]:
        """The figures under the names that metrics.jsonl and `evaluate --json` use."""
        names = ("nats_per_char", "bits_per_char", "perplexity", "bits_per_byte", "characters", "unknown")
        more = ("unigram_nats_per_char", "uniform_nats_per_char", "lanes")
        return {name: getattr(self, name) for name in names + more}


@torch.no_grad()
def evaluate(
    network: CharRNN,
    vocabulary: Vocabulary,
    ids: Ids,
    execution: Execution | None = None,
    lanes: int = 1,
    num_bytes: int | None = None,
    quantized: bool = False,
) -> Evaluation:
    """Evaluate a network on one stream of at least two ids.

    lanes: 1 is the definition. More lanes cut the stream into as many contiguous parts, read side by side, each
    primed with the PRIMING characters before it: many times faster, and off by less than the network remembers
    after so many characters (a test holds the difference below 1e-4 nats). num_bytes: of the predicted characters in
    UTF-8, where the ids cannot tell because some are unknown. quantized: step by step with int8 weights, as they are
    sampled with. The network's mode is restored, and no random state is
    touched.
    """
    execution = execution or Execution(dtype=network.readout.weight.dtype)
    was_training = network.training
    network.eval()
    try:
        nats = _summed_nats(network, ids, execution, lanes, quantized)
    finally:
        network.train(was_training)
    counts = np.bincount(ids[1:], minlength=vocabulary.size)
    return Evaluation(
        nats=nats,
        characters=len(ids) - 1,
        bytes=int(counts @ vocabulary.bytes_per_id()) if num_bytes is None else num_bytes,
        unknown=int(counts[UNKNOWN]) if vocabulary.level == "character" else 0,
        unigram_nats_per_char=entropy(counts),
        uniform_nats_per_char=math.log(vocabulary.size),
        lanes=lanes,
    )


def quick_lanes(length: int) -> int:
    """Lanes for an evaluation during training: as many as leave each at least twice its priming, at most 64."""
    return max(1, min(64, length // (2 * PRIMING)))


def entropy(counts: np.ndarray[Any, np.dtype[np.int64]]) -> float:
    """Nats per symbol of a distribution given by its counts."""
    shares = counts[counts > 0] / counts.sum()
    return abs(float((shares * np.log(shares)).sum()))


def _summed_nats(network: CharRNN, ids: Ids, execution: Execution, lanes: int, quantized: bool) -> float:
    bounds = lane_bounds(len(ids) - 1, lanes)
    starts_B, ends_B = bounds[:-1], bounds[1:]
    state = _primed_state(network, ids, execution, starts_B)
    stepper = Stepper(network, state, lanes, quantized=True) if quantized else None
    nats = 0.0  # in double precision on the host: not every device has it
    longest = int((ends_B - starts_B).max())
    for start in range(0, longest, _WINDOW):
        steps = min(_WINDOW, longest - start)
        inputs_TB, targets_TB = (_on(part, network) for part in gather(ids, starts_B + start, ends_B, steps))
        if stepper is not None:
            nats += loss_sum(torch.stack([stepper.step(ids_B) for ids_B in inputs_TB]), targets_TB).item()
        else:
            window_nats, state = network.loss(inputs_TB, targets_TB, state, execution)
            nats += window_nats.item()
    return nats


def _primed_state(network: CharRNN, ids: Ids, execution: Execution, starts_B: np.ndarray[Any, Any]) -> State:
    """Zero for the first lane; for each other, what reading the characters before it leaves."""
    first = network.zero_state(1, execution.dtype)
    if len(starts_B) == 1:
        return first
    priming = min(PRIMING, int(starts_B[1]))
    state = network.zero_state(len(starts_B) - 1, execution.dtype)
    for start in range(0, priming, _WINDOW):
        steps = min(_WINDOW, priming - start)
        inputs_TB, _ = gather(ids, starts_B[1:] - priming + start, starts_B[1:], steps)
        _, state = network.hidden(_on(inputs_TB, network), state, execution)
    return tuple(torch.cat([zero, primed], dim=1) for zero, primed in zip(first, state, strict=True))


def _on(batch: np.ndarray[Any, Any], network: CharRNN) -> Tensor:
    return torch.from_numpy(batch).to(network.device)
