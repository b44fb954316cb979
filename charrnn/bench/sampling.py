"""The contenders of sampling: `charrnn sample`'s own generator, and a loop that calls torch.nn for each character."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from charrnn.bench.cases import Case
from charrnn.bench.plain import PlainNetwork
from charrnn.bench.timing import Contender
from charrnn.errors import ConfigError
from charrnn.model.network import CharRNN
from charrnn.model.stepper import require_quantizable
from charrnn.sampling.generation import generate

LANES = (1, 16, 64)
"""Texts drawn as one batch."""

OURS: dict[str, dict[str, Any]] = {"charrnn, float32": {}, "charrnn, int8": {"quantized": True}}
"""Our ways to sample: name -> what `generate` is given besides."""

PLAIN = "torch.nn per character, float32"

_STEPS = 8
"""Characters a lane to a step of a contender; the stopwatch puts together as many steps as fit its slices."""

_ENDLESS = 2**40
"""Characters: more than any time allows. The weights are laid out and the prefix read once, before the clock runs."""


@dataclass(frozen=True)
class SamplingContender(Contender):
    """Each step draws `characters` characters in all lanes together."""

    lanes: int
    is_ours: bool
    weight_bytes: int
    """Of weights touched to draw a character in one lane."""

    @property
    def characters(self) -> int:
        """Drawn by a step."""
        return _STEPS * self.lanes


def contenders(case: Case, device: torch.device) -> list[SamplingContender]:
    """Ours and the plain loop, at each number of lanes."""
    network = CharRNN(case.config.model, case.vocabulary.size).initialise(case.config.training.seed).to(device).eval()
    plain = PlainNetwork(case.config.model, case.vocabulary.size).to(device).eval()
    found = []
    for lanes in LANES:
        for name, options in OURS.items():
            quantized = options.get("quantized", False)
            if quantized and not can_sample_quantized(network):
                continue
            step = partial(next, own_loop(case, network, lanes, **options))
            found.append(SamplingContender(f"{name}, batch {lanes}", step, lanes, True, case.weight_bytes(quantized)))
        step = partial(next, plain_loop(plain, lanes, device))
        found.append(SamplingContender(f"{PLAIN}, batch {lanes}", step, lanes, False, case.weight_bytes()))
    return found


def can_sample_quantized(network: CharRNN) -> bool:
    """Whether this network and machine go with int8 weights."""
    try:
        require_quantizable(network)
    except ConfigError:
        return False
    return True


def own_loop(case: Case, network: CharRNN, lanes: int, **options: Any) -> Iterator[Any]:
    """(_STEPS, B) ids for ever, as `charrnn sample` draws them."""
    prefix = np.ones(1, dtype=case.vocabulary.dtype)
    options = {"lanes": range(lanes), "at_once": _STEPS, **options}
    return generate(network, case.vocabulary, prefix, _ENDLESS, **options)


def plain_loop(network: PlainNetwork, lanes: int, device: torch.device) -> Iterator[Tensor]:
    """(_STEPS, B) ids for ever: one-hot rows, a call of torch.nn for one time step, softmax, one draw, the ids out."""
    ids_B = torch.ones(lanes, dtype=torch.int64, device=device)
    state = None
    while True:
        drawn = []
        for _ in range(_STEPS):
            with torch.no_grad():
                logits_1BV, state = network(ids_B[None], state)
                probabilities_BV = torch.softmax(logits_1BV[0], dim=-1)
                ids_B = torch.multinomial(probabilities_BV, num_samples=1)[:, 0]
            drawn.append(ids_B.cpu())
        yield torch.stack(drawn)
