"""How well a network predicts a text, defined once.

The text is read in order, every character but the first is predicted once, and the state is carried from the first
to the last. The figure is the sum of nats over the number of predicted characters.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from charrnn.model.cells import State
from charrnn.model.engines import Execution
from charrnn.model.network import CharRNN, loss_sum
from charrnn.model.stepper import stepper_for
from charrnn.text.minibatches import gather, lane_bounds
from charrnn.text.vocabulary import UNKNOWN, Ids, Vocabulary

PRIMING = 1000
"""Characters read before a lane's first prediction, where a stream is cut into lanes."""

_STEPS = 256
"""Of one call at most; changes no figure."""

_CHARACTERS = 4096
"""Of one call. Four times as many, as large as no training step, kept breaking new room out of the heap: an LSTM of
1 x 992 grew from 1,134 to 1,209 MB of resident memory between its 4th and its 20th minute."""

_LOGITS = 2**22
"""Of one call where steps are taken one by one and their logits kept for the loss: 16 MB in float32."""

_COUNTED = 2**22
"""Ids counted at a time."""

_WINDOWS_AT_ONCE = 64
"""Windows read side by side where each starts from zero; bounds memory and changes no figure."""


@dataclass(frozen=True)
class Score:
    """The nats of one text's predicted characters, and how many these are; every figure is derived from them."""

    nats: float
    characters: int
    """Predicted characters: all but the first."""

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
        """Exp of the nats per character (9.3), which a float holds up to 709 of them."""
        return math.exp(min(self.nats_per_char, 709))


@dataclass(frozen=True)
class Windowed(Score):
    """What came of windows that each start from zero state."""

    window: int


@dataclass(frozen=True)
class Dynamic(Score):
    """What came of dynamic evaluation, see dynamic.py."""

    segment: int
    rate: float
    decay: float

    def to_json(self) -> dict[str, Any]:
        """The figures, and the options they were made with."""
        names = ("nats_per_char", "bits_per_char", "perplexity", "segment", "rate", "decay")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Tempered(Score):
    """What came of the temperature that suits the validation text best, see temperature.py."""

    temperature: float


@dataclass(frozen=True)
class Evaluation(Score):
    """The figures of the definition, and apart from them what other protocols give where they were asked for."""

    bytes: int
    """Bytes of the predicted characters in UTF-8."""
    unknown: int
    """Predicted characters outside the vocabulary, each scored as the one unknown character."""
    unigram_nats_per_char: float
    """Entropy of the text's own character frequencies: what knowing these alone would reach."""
    uniform_nats_per_char: float
    """ln V: what knowing nothing reaches."""
    lanes: int = 1
    windowed: Windowed | None = None
    dynamic: Dynamic | None = None
    tempered: Tempered | None = None

    @property
    def bits_per_byte(self) -> float:
        """Bits over the text's bytes in UTF-8; comparable across vocabularies where none is unknown to either."""
        return self.nats / math.log(2) / self.bytes

    def to_json(self) -> dict[str, Any]:
        """The figures under the names that metrics.jsonl and `evaluate --json` use."""
        names = ("nats_per_char", "bits_per_char", "perplexity", "bits_per_byte", "characters", "unknown")
        more = ("unigram_nats_per_char", "uniform_nats_per_char", "lanes")
        return {name: getattr(self, name) for name in names + more} | self._other_protocols()

    def _other_protocols(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.windowed is not None:
            found |= {"window": self.windowed.window, "nats_per_char_in_windows": self.windowed.nats_per_char}
        if self.dynamic is not None:
            found |= {"dynamic": self.dynamic.to_json()}
        if self.tempered is not None:
            temperature, nats_per_char = self.tempered.temperature, self.tempered.nats_per_char
            found |= {"temperature": temperature, "nats_per_char_at_temperature": nats_per_char}
        return found


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
    counts = _counts(ids[1:], vocabulary.size)
    nats = summed_nats(network, ids, execution or network.own_execution, lanes, quantized)
    return Evaluation(
        nats=nats,
        characters=len(ids) - 1,
        bytes=int(counts @ vocabulary.bytes_per_id()) if num_bytes is None else num_bytes,
        unknown=int(counts[UNKNOWN]) if vocabulary.level == "character" else 0,
        unigram_nats_per_char=entropy(counts),
        uniform_nats_per_char=math.log(vocabulary.size),
        lanes=lanes,
    )


def evaluate_in_windows(network: CharRNN, ids: Ids, window: int) -> Windowed:
    """The stream cut into consecutive windows of `window` predicted characters, each read from zero state.

    It is what a network without a memory beyond its context is measured by; its figure is worse than that of the
    carried state. The last window may be shorter, so that every character but the first is predicted once.
    """
    execution = network.own_execution
    targets = len(ids) - 1
    starts = np.arange(0, targets, window)
    nats = 0.0
    with evaluating(network):
        for first in range(0, len(starts), _WINDOWS_AT_ONCE):
            starts_B = starts[first : first + _WINDOWS_AT_ONCE]
            state = network.zero_state(len(starts_B), execution.dtype)
            nats += _nats(network, ids, starts_B, np.minimum(starts_B + window, targets), state, execution)
    return Windowed(nats, targets, window)


def quick_lanes(length: int) -> int:
    """Lanes for an evaluation during training: as many as leave each at least twice its priming, at most 64."""
    return max(1, min(64, length // (2 * PRIMING)))


def _counts(ids: Ids, vocabulary_size: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """How often each id occurs; by parts, since each takes eight bytes on the way."""
    counts = np.zeros(vocabulary_size, dtype=np.int64)
    for start in range(0, len(ids), _COUNTED):
        counts += np.bincount(ids[start : start + _COUNTED], minlength=vocabulary_size)
    return counts


def entropy(counts: np.ndarray[Any, np.dtype[np.int64]]) -> float:
    """Nats per symbol of a distribution given by its counts."""
    shares = counts[counts > 0] / counts.sum()
    return abs(float((shares * np.log(shares)).sum()))


@contextmanager
def evaluating(network: CharRNN) -> Iterator[None]:
    """A network without dropout and without gradients; afterwards in the mode it was in."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)


def summed_nats(network: CharRNN, ids: Ids, execution: Execution, lanes: int, quantized: bool = False) -> float:
    """Nats over all ids but the first; the arguments are those of `evaluate`."""
    bounds = lane_bounds(len(ids) - 1, lanes)
    with evaluating(network):
        state = primed_state(network, ids, execution, bounds[:-1])
        return _nats(network, ids, bounds[:-1], bounds[1:], state, execution, quantized)


def pieces(
    network: CharRNN, ids: Ids, starts_B: np.ndarray[Any, Any], ends_B: np.ndarray[Any, Any], steps: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """inputs_TB and targets_TB of lanes of a stream, piece by piece in order, on the network's device.

    steps: of a piece; by default as many as go into one call. Targets from a lane's end on are IGNORE.
    """
    steps = steps or min(_STEPS, max(_CHARACTERS // len(starts_B), 1))
    longest = int((ends_B - starts_B).max())
    for start in range(0, longest, steps):
        batch = gather(ids, starts_B + start, ends_B, min(steps, longest - start))
        inputs_TB, targets_TB = (torch.from_numpy(part).to(network.device) for part in batch)
        yield inputs_TB, targets_TB


def primed_state(network: CharRNN, ids: Ids, execution: Execution, starts_B: np.ndarray[Any, Any]) -> State:
    """Zero for the first lane; for each other, what reading the characters before it leaves."""
    first = network.zero_state(1, execution.dtype)
    if len(starts_B) == 1:
        return first
    priming = min(PRIMING, int(starts_B[1]))
    state = network.zero_state(len(starts_B) - 1, execution.dtype)
    for inputs_TB, _ in pieces(network, ids, starts_B[1:] - priming, starts_B[1:]):
        _, state = network.hidden(inputs_TB, state, execution)
    return tuple(torch.cat([zero, primed], dim=1) for zero, primed in zip(first, state, strict=True))


def _nats(
    network: CharRNN,
    ids: Ids,
    starts_B: np.ndarray[Any, Any],
    ends_B: np.ndarray[Any, Any],
    state: State,
    execution: Execution,
    quantized: bool = False,
) -> float:
    stepper, steps = None, None
    if quantized:
        stepper = stepper_for(network, state, len(starts_B), quantized=True)
        steps = max(_LOGITS // (len(starts_B) * network.vocabulary_size), 1)
    nats = 0.0  # in double precision on the host: not every device has it
    for inputs_TB, targets_TB in pieces(network, ids, starts_B, ends_B, steps):
        if stepper is not None:
            logits_TBV = torch.stack([stepper.step(ids_B).clone() for ids_B in inputs_TB])
            nats += loss_sum(logits_TBV, targets_TB).item()
        else:
            piece_nats, state = network.loss(inputs_TB, targets_TB, state, execution)
            nats += piece_nats.item()
    return nats
