"""Tries one thing more or less at a time, on one core, beside a run that has all else the same.

python results/trials.py TEXT [--only NAME]... [--seeds 0,1,2]    trains, evaluates, appends to trials.jsonl
python results/trials.py --tables                                 prints the table of results/README.md

TEXT is a file of The Time Machine or of tiny Shakespeare, whose name picks the base: what the recipe takes for so many
epochs, but for training.readout_rate, which these trials led to: W_hq learns at the rate of the others unless a trial
says otherwise. What charrnn offers is an option here; what it does not is written out below, for the LSTM of one layer,
step by step under autograd. So the seconds tell the cost of the options alone. A run reads a fixed number of
characters, not for a fixed time, and nothing is chosen by its validation loss.
"""

import argparse
import copy
import json
import math
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.bench import machine
from charrnn.config import Config, load_config
from charrnn.model.dropout import dropout
from charrnn.model.engines import ENGINES, Execution
from charrnn.model.network import CharRNN, detached
from charrnn.text.dataset import Dataset, load_dataset
from charrnn.text.minibatches import Minibatches, Position, Shape, Window, gather, lane_bounds
from charrnn.training.evaluation import evaluate, quick_lanes
from charrnn.training.optimization import clip_gradient, learning_rate_at, take_into_average

TRIALS = Path(__file__).parent / "trials.jsonl"

BASES: dict[str, dict[str, Any]] = {
    "timemachine": {
        "training.budget": "4 epochs",
        "model.hidden_size": 256,
        "model.dropout": 0.1,
        "model.weight_dropout": 0.05,
        "training.learning_rate": 0.0195,
    },
    "tinyshakespeare": {
        "training.budget": "1 epochs",
        "model.hidden_size": 192,
        "training.learning_rate": 0.026,
    },
}
"""By text, beside 32 lanes x 32 steps and the defaults: wsd, betas 0.5 and 0.99, weight decay 0.01, warm-up 0.02."""


# ---- networks that charrnn does not have: an LSTM of one layer, unless it says otherwise


class Stepwise(CharRNN):
    """The LSTM's equations (10.1.1 to 10.1.4) with places at which others differ."""

    def hidden(self, ids_TB, state, execution):
        (weights,) = self.rnn.layers()
        W_hh = weights.weight_hh
        if self.training and self.config.weight_dropout:
            W_hh = dropout(W_hh, self.config.weight_dropout)
        H, C = (tensor[0] for tensor in state or self.zero_state(ids_TB.shape[1]))
        self.start(H)
        X_TBD = self.embedding(ids_TB) if self.embedding else functional.one_hot(ids_TB, self.vocabulary_size).float()
        outputs = []
        for X, sums in zip(X_TBD, self.input_sums(X_TBD, weights), strict=True):
            H, C = self.step(X, sums, H, C, weights._replace(weight_hh=W_hh))
            outputs.append(H)
        H_TBH = torch.stack(outputs)
        dropped = self.training and self.config.dropout
        return dropout(H_TBH, self.config.dropout) if dropped else H_TBH, (H[None], C[None])

    def start(self, H: Tensor) -> None:
        """Draw what is drawn once a window."""

    def input_sums(self, X_TBD, weights):
        return functional.linear(X_TBD, weights.weight_ih, weights.bias_ih + weights.bias_hh)

    def step(self, X, sums, H, C, weights):
        i, f, g, o = (sums + self.recurrent(X, H) @ weights.weight_hh.T).chunk(4, dim=-1)
        I, F = self.gates(torch.sigmoid(i), torch.sigmoid(f))
        C_t = self.kept(C, F * C + I * self.candidate(torch.tanh(g)), "C")
        return self.kept(H, torch.sigmoid(o) * torch.tanh(C_t), "H"), C_t

    def recurrent(self, X: Tensor, H: Tensor) -> Tensor:
        """What W_hh is multiplied with."""
        return H

    def gates(self, I: Tensor, F: Tensor) -> tuple[Tensor, Tensor]:
        return I, F

    def candidate(self, C_tilde: Tensor) -> Tensor:
        return C_tilde

    def kept(self, old: Tensor, new: Tensor, which: str) -> Tensor:
        return new


class CappedInputGate(Stepwise):
    """I = min(I, 1 - F), Melis et al. 2018."""

    def gates(self, I, F):
        return torch.minimum(I, 1 - F), F


class Zoneout(Stepwise):
    """A unit keeps its old value with probability p, in evaluation the mean of both; Krueger et al. 2017."""

    def __init__(self, *shape: Any, p: Mapping[str, float]) -> None:
        super().__init__(*shape)
        self.p = p

    def kept(self, old, new, which):
        p = self.p[which]
        return torch.where(torch.rand_like(old) < p, old, new) if self.training else p * old + (1 - p) * new


class RecurrentDropout(Stepwise):
    """H_{t-1} dropped on its way to W_hh, by one mask for a window; Gal and Ghahramani 2016."""

    def __init__(self, *shape: Any, p: float) -> None:
        super().__init__(*shape)
        self.p = p

    def start(self, H):
        self.mask = dropout(torch.ones_like(H), self.p) if self.training else torch.ones_like(H)

    def recurrent(self, X, H):
        return H * self.mask


class CandidateDropout(Stepwise):
    """The candidate dropped, anew at each step; Semeniuta et al. 2016."""

    def __init__(self, *shape: Any, p: float) -> None:
        super().__init__(*shape)
        self.p = p

    def candidate(self, C_tilde):
        return dropout(C_tilde, self.p) if self.training else C_tilde


class LayerNorm(Stepwise):
    """Norms of W_xh x, of W_hh h and of C_t on its way to H_t; Ba et al. 2016, equations 20 to 22."""

    def __init__(self, *shape: Any) -> None:
        super().__init__(*shape)
        H = self.config.hidden_size
        self.of_x, self.of_h, self.of_c = (nn.LayerNorm(n) for n in (4 * H, 4 * H, H))

    def input_sums(self, X_TBD, weights):
        return self.of_x(functional.linear(X_TBD, weights.weight_ih)) + weights.bias_ih + weights.bias_hh

    def step(self, X, sums, H, C, weights):
        i, f, g, o = (sums + self.of_h(H @ weights.weight_hh.T)).chunk(4, dim=-1)
        C_t = torch.sigmoid(f) * C + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(self.of_c(C_t)), C_t


class Multiplicative(Stepwise):
    """M = (W_mx x) o (W_mh h) in the place of h; Krause et al. 2016."""

    def __init__(self, *shape: Any) -> None:
        super().__init__(*shape)
        H = self.config.hidden_size
        self.W_mx, self.W_mh = (nn.Parameter(torch.empty(n, H)) for n in (self.vocabulary_size, H))

    def initialise(self, seed):
        random = torch.Generator().manual_seed(seed + 1000)
        with torch.no_grad():
            self.W_mx.normal_(generator=random)
        nn.init.orthogonal_(self.W_mh, generator=random)
        return super().initialise(seed)

    def recurrent(self, X, H):
        return (X @ self.W_mx) * (H @ self.W_mh)


class Mogrifier(Stepwise):
    """Rounds of x = 2 sigmoid(Q h) o x and h = 2 sigmoid(R x) o h before the gates; Melis et al. 2020."""

    def __init__(self, *shape: Any, rounds: int = 4) -> None:
        super().__init__(*shape)
        E, H = self.config.embedding_size, self.config.hidden_size
        self.Q = nn.ParameterList(torch.empty((E, H) if n % 2 == 0 else (H, E)) for n in range(rounds))

    def initialise(self, seed):
        random = torch.Generator().manual_seed(seed + 1000)
        with torch.no_grad():
            for Q in self.Q:
                Q.normal_(0, 0.1, generator=random)
        return super().initialise(seed)

    def step(self, X, sums, H, C, weights):
        for n, Q in enumerate(self.Q):
            if n % 2 == 0:
                X = 2 * torch.sigmoid(H @ Q.T) * X
            else:
                H = 2 * torch.sigmoid(X @ Q.T) * H
        return super().step(X, self.input_sums(X, weights), H, C, weights)


class OneMask(CharRNN):
    """Dropout of the outputs with one mask for a window; Gal and Ghahramani 2016."""

    def hidden(self, ids_TB, state, execution):
        H_TBH, state = super().hidden(ids_TB, state, execution)
        return H_TBH * dropout(torch.ones_like(H_TBH[:1]), 0.1) if self.training else H_TBH, state


class Layers(CharRNN):
    """Several layers without dropout between them."""

    def hidden(self, ids_TB, state, execution):
        state = state or self.zero_state(ids_TB.shape[1])
        x, outputs, finals = ids_TB, [], []
        for l, weights in enumerate(self.rnn.layers()):
            p = self.config.weight_dropout if self.training else 0
            weights = weights._replace(weight_hh=dropout(weights.weight_hh, p)) if p else weights
            part = tuple(tensor[l : l + 1] for tensor in state)
            H_TBH, final = ENGINES[execution.engine](x, part, [weights], self.cell, None)
            finals.append(final)
            outputs.append(H_TBH)
            x = H_TBH
        H_TBH = self.read(outputs)
        dropped = self.training and self.config.dropout
        state = tuple(torch.cat(tensors) for tensors in zip(*finals, strict=True))
        return dropout(H_TBH, self.config.dropout) if dropped else H_TBH, state

    def read(self, outputs: list[Tensor]) -> Tensor:
        """What the readout reads."""
        return outputs[-1]


class SumOfOutputs(Layers):
    """The readout reads the sum of all layers' outputs, Graves 2013; with two layers that is a residual connection."""

    def read(self, outputs):
        return torch.stack(outputs).sum(0)


class Tied(CharRNN):
    """The readout's weights are those of the embedding, Press and Wolf 2017; inputs start with a variance of 1."""

    def initialise(self, seed):
        super().initialise(seed)
        scale = math.sqrt(self.config.hidden_size) / 2  # of READOUT_STD
        self.embedding.weight = self.readout.weight
        self.embedding.register_forward_hook(lambda module, ids, X: scale * X)
        return self


# ---- initial weights


def as_in_torch(network: CharRNN) -> None:
    """All of U(-1/sqrt(H), 1/sqrt(H)), which is what torch.nn.LSTM and a Linear of so many inputs start from."""
    bound = 1 / math.sqrt(network.config.hidden_size)
    for parameter in network.parameters():
        nn.init.uniform_(parameter, -bound, bound)


def input_scale(factor: float, network: CharRNN) -> None:
    network.rnn.layers()[0].weight_ih.mul_(factor)


def readout_scale(factor: float, network: CharRNN) -> None:
    network.readout.weight.mul_(factor)


def recurrent_normal(network: CharRNN) -> None:
    """W_hh of the variance that the orthogonal one has, Glorot and Bengio 2010."""
    weight = network.rnn.layers()[0].weight_hh
    weight.normal_(0, 1 / math.sqrt(weight.shape[1]))


def forget_bias(value: float, network: CharRNN) -> None:
    """Gers et al. 2000; Jozefowicz et al. 2015 take 1."""
    H = network.config.hidden_size
    network.rnn.layers()[0].bias_ih[H : 2 * H] = value


# ---- optimizers of W_hh


class Muon:
    """Momentum, made orthogonal gate by gate with Newton-Schulz; Jordan et al. 2024, whose coefficients these are."""

    def __init__(self, weight: nn.Parameter, config: Config, learning_rate: float) -> None:
        self.weight, self.learning_rate, self.decay = weight, learning_rate, config.training.weight_decay
        self.momentum = torch.zeros_like(weight)

    @torch.no_grad()
    def step(self, share: float) -> None:
        G, size = self.weight.grad, self.weight.shape[1]
        self.momentum.mul_(0.95).add_(G)
        X = (G + 0.95 * self.momentum).view(-1, size, size)
        X = X / (X.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        for _ in range(5):
            A = X @ X.mT
            X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
        rate = self.learning_rate * share
        self.weight.mul_(1 - rate * self.decay).add_(X.reshape(self.weight.shape), alpha=-rate)


class Soap:
    """Adam in the eigenbasis of G^T G, renewed every 10 steps: the side of H of Vyas et al. 2025."""

    def __init__(self, weight: nn.Parameter, config: Config, factor: float) -> None:
        training = config.training
        self.weight, self.rate, self.decay = weight, factor * training.learning_rate, training.weight_decay
        self.betas, self.steps = training.betas, 0
        size = weight.shape[1]
        self.covariance, self.basis = torch.zeros(size, size), torch.eye(size)
        self.mean, self.square = torch.zeros_like(weight), torch.zeros_like(weight)

    @torch.no_grad()
    def step(self, share: float) -> None:
        G, (beta1, beta2) = self.weight.grad, self.betas
        self.covariance.lerp_(G.T @ G, 0.05 if self.steps else 1)
        if self.steps == 0:
            self.basis = torch.linalg.eigh(self.covariance)[1]
        self.steps += 1
        self.mean.lerp_(G, 1 - beta1)
        self.square.lerp_((G @ self.basis) ** 2, 1 - beta2)
        mean = self.mean @ self.basis / (1 - beta1**self.steps)
        move = mean / ((self.square / (1 - beta2**self.steps)).sqrt() + 1e-8)
        rate = self.rate * share
        self.weight.mul_(1 - rate * self.decay).add_(move @ self.basis.T, alpha=-rate)
        if self.steps % 10 == 0:
            self.basis = torch.linalg.qr(self.covariance @ self.basis)[0]


# ---- windows


Cut = Callable[[np.random.Generator, float, Shape], Shape]
"""From the share of the run that is over, the lanes and steps of the next window."""


def drawn_lengths(random: np.random.Generator, progress: float, shape: Shape) -> Shape:
    """T drawn for each window, as Merity et al. 2018 do: of a normal distribution about T, now and then about T / 2."""
    mean = shape.seq_length * (1.0 if random.random() < 0.95 else 0.5)
    return Shape(shape.batch_size, max(8, round(random.normal(mean, 5))))


def growing_steps(random: np.random.Generator, progress: float, shape: Shape) -> Shape:
    return Shape(shape.batch_size, shape.seq_length * (1, 2, 4)[min(int(3 * progress), 2)] // 2)


def growing_lanes(random: np.random.Generator, progress: float, shape: Shape) -> Shape:
    """A larger batch in place of a smaller rate; Smith et al. 2018."""
    return Shape(shape.batch_size * (1, 2, 4)[min(int(3 * progress), 2)] // 2, shape.seq_length)


def windows(config: Config, dataset: Dataset, cut: Cut | None) -> Iterator[Window]:
    """Without end."""
    ids, seed = dataset.training, config.training.seed
    shape = Shape(config.training.batch_size, config.training.seq_length)
    if cut is None:
        minibatches, position = Minibatches(ids, shape, seed=seed), Position()
        while True:
            yield minibatches.window(position)
            position = minibatches.after(position)
    random, total, done, at, lanes = np.random.default_rng(seed), characters(config, dataset), 0, 0, 0
    while True:
        now = cut(random, done / total, shape)
        if now.batch_size != lanes:
            lanes, at = now.batch_size, at * lanes // now.batch_size
            bounds, fresh = lane_bounds(len(ids) - 1, lanes), True
        steps = min(now.seq_length, int((bounds[1:] - bounds[:-1]).max()) - at)
        inputs, targets = gather(ids, bounds[:-1] + at, bounds[1:], steps)
        yield Window(inputs, targets, starts=fresh)
        done, at = done + inputs.size, at + steps
        fresh = at >= int((bounds[1:] - bounds[:-1]).max())
        at = 0 if fresh else at


# ---- a trial


@dataclass(frozen=True)
class Trial:
    """What is other than in the base."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 1.0
    """Times the base's learning rate."""
    network: Callable[..., CharRNN] = CharRNN
    change: Callable[[CharRNN], None] | None = None
    """The initial weights."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Learning rates of parameters whose names contain these, times that of the others."""
    own: Callable[[nn.Parameter, Config], Muon | Soap] | None = None
    """The optimizer of W_hh."""
    share: Callable[[float], float] | None = None
    """The schedule: share of the learning rate at a share of the run."""
    cut: Cut | None = None
    reset: float = 0.0
    """Probability with which a lane's state is set to zero before a window."""
    decay_all: bool = False
    average_from: float | None = None
    """The mean of the weights from this share of the run on is evaluated."""


def cooled_by_root(progress: float) -> float:
    """1 - sqrt over the last 40 %, which Hägele et al. 2024 prefer to the line."""
    return min(1.0, progress / 0.02, 1 - math.sqrt(max(0.0, (progress - 0.6) / 0.4)))


def one_cycle(progress: float) -> float:
    """Up along a line for 30 %, then down; Smith and Topin 2018."""
    return progress / 0.3 if progress < 0.3 else (1 - progress) / 0.7


TWO = {"model.num_layers": 2}
"""Of as many weights together, at the recipe's learning rate for them."""

READOUT = {"readout.weight": 3}

VECTORS = {"model.input": "embedding", "model.embedding_size": 64}

LIST = [
    Trial("base"),
    # the recipe's own parts
    Trial("no dropout of outputs", {"model.dropout": 0}),
    Trial("no dropout of W_hh", {"model.weight_dropout": 0}),
    Trial("neither", {"model.dropout": 0, "model.weight_dropout": 0}),
    Trial("beta1 0.9", {"training.betas": [0.9, 0.99]}),
    Trial("beta1 0.9, half the rate", {"training.betas": [0.9, 0.99]}, rate=0.5),
    Trial("beta1 0", {"training.betas": [0, 0.99]}),
    Trial("beta2 0.999", {"training.betas": [0.5, 0.999]}),
    Trial("beta2 0.95", {"training.betas": [0.5, 0.95]}),
    Trial("half the rate", rate=0.5),
    Trial("twice the rate", rate=2),
    # schedules
    Trial("cosine", {"training.schedule": "cosine"}),
    Trial("linear", {"training.schedule": "linear"}),
    Trial("cooldown by 1 - sqrt", share=cooled_by_root),
    Trial("one cycle", share=one_cycle),
    Trial("no warm-up", {"training.warmup": 0}),
    Trial("warm-up 0.1", {"training.warmup": 0.1}),
    Trial("no clipping", {"training.clip_norm": None}),
    # weight decay, averages
    Trial("no weight decay", {"training.weight_decay": 0}),
    Trial("weight decay 0.1", {"training.weight_decay": 0.1}),
    Trial("weight decay of biases too", decay_all=True),
    Trial("averaging 0.05", {"training.averaging": 0.05}),
    Trial("mean of the last tenth", average_from=0.9),
    # initial weights
    Trial("all weights as in torch.nn", change=as_in_torch),
    Trial("W_xh / 3", change=partial(input_scale, 1 / 3)),
    Trial("W_xh x 2", change=partial(input_scale, 2)),
    Trial("W_hq / 3", change=partial(readout_scale, 1 / 3)),
    Trial("W_hh normal", change=recurrent_normal),
    Trial("forget bias 0", change=partial(forget_bias, 0)),
    Trial("forget bias 2", change=partial(forget_bias, 2)),
    # learning rates of parts
    Trial("W_hh at half the rate", rates={"weight_hh": 0.5}),
    Trial("W_hh at twice the rate", rates={"weight_hh": 2}),
    Trial("W_hq at half the rate", rates={"readout.weight": 0.5}),
    Trial("W_hq at twice the rate", rates={"readout.weight": 2}),
    Trial("W_hq at 4 times the rate", rates={"readout.weight": 4}),
    Trial("W_xh at half the rate", rates={"weight_ih": 0.5}),
    Trial("W_xh at twice the rate", rates={"weight_ih": 2}),
    Trial("W_hh at half, W_hq at twice the rate", rates={"weight_hh": 0.5, "readout.weight": 2}),
    Trial("W_hh at half, W_hq at 4 times the rate", rates={"weight_hh": 0.5, "readout.weight": 4}),
    # beside training.readout_rate as narrow networks have it
    *(
        replace(
            trial, name=f"W_hq at 3 times the rate{trial.name and ', '}{trial.name}", rates=READOUT | dict(trial.rates)
        )
        for trial in (
            Trial(""),
            Trial("half the rate", rate=0.5),
            Trial("twice the rate", rate=2),
            Trial("linear", {"training.schedule": "linear"}),
            Trial("no warm-up", {"training.warmup": 0}),
            Trial("W_hh normal", change=recurrent_normal),
            Trial("forget bias 0", change=partial(forget_bias, 0)),
            Trial("W_hh at half the rate", rates={"weight_hh": 0.5}),
            Trial("W_xh at twice the rate", rates={"weight_ih": 2}),
            *(Trial(f"Muon at {rate}", own=partial(Muon, learning_rate=rate)) for rate in (0.02, 0.05)),
            Trial("layer normalisation", network=LayerNorm),
        )
    ),
    # optimizers of W_hh
    *(Trial(f"Muon at {rate}", own=partial(Muon, learning_rate=rate)) for rate in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)),
    Trial("SOAP", own=partial(Soap, factor=1)),
    Trial("SOAP at half the rate", own=partial(Soap, factor=0.5)),
    # windows
    Trial("drawn lengths", cut=drawn_lengths),
    Trial("growing steps", cut=growing_steps),
    Trial("growing lanes", cut=growing_lanes),
    Trial("state resets", reset=0.01),
    # networks
    *(
        Trial(f"embedding of 64{said}", VECTORS, rate=rate)
        for rate, said in ((1, ""), (0.4, ", 0.4 of the rate"), (0.2, ", 0.2 of the rate"))
    ),
    *(
        Trial(f"tied, {rate} of the rate", {**VECTORS, "model.embedding_size": None}, rate, Tied)
        for rate in (0.4, 0.2, 0.1)
    ),
    Trial("two layers", TWO),
    Trial("two layers, no dropout between", TWO, network=Layers),
    Trial("two layers, the same, their sum read", TWO, network=SumOfOutputs),
    Trial("two layers, second at half the rate", TWO, rates={"l1": 0.5}),
    Trial("two layers, second at twice the rate", TWO, rates={"l1": 2}),
    Trial("step by step", network=Stepwise),
    Trial("capped input gate", network=CappedInputGate),
    Trial("zoneout of C", network=partial(Zoneout, p={"C": 0.1, "H": 0})),
    Trial("zoneout of H", network=partial(Zoneout, p={"C": 0, "H": 0.05})),
    Trial("dropout of H_{t-1}", network=partial(RecurrentDropout, p=0.1)),
    Trial("dropout of the candidate", network=partial(CandidateDropout, p=0.1)),
    Trial("outputs' dropout by one mask", {"model.dropout": 0}, network=OneMask),
    Trial("layer normalisation", network=LayerNorm),
    *(Trial(f"multiplicative, {rate} of the rate", {}, rate, Multiplicative) for rate in (0.4, 0.2, 0.1)),
    *(Trial(f"mogrifier, {rate} of the rate", VECTORS, rate, Mogrifier) for rate in (0.4, 0.2)),
]


def configuration(text: Path, trial: Trial, seed: int) -> Config:
    base = BASES[text.stem]
    settings = {
        "corpus.source": str(text),
        "training.recipe": "none",
        "training.batch_size": 32,
        "training.seq_length": 32,
        **base,
        **trial.settings,
        "training.learning_rate": trial.rate * base["training.learning_rate"],
        "training.seed": seed,
    }
    if settings.get("model.embedding_size", 0) is None:
        settings["model.embedding_size"] = settings["model.hidden_size"]
    if settings.get("model.num_layers") == 2:
        settings["model.hidden_size"] = 16 * round(base["model.hidden_size"] / math.sqrt(3) / 16)
        settings["training.learning_rate"] = min(5 / settings["model.hidden_size"], 0.03)
    return load_config(flags=settings)


def is_the_base(trial: Trial, config: Config, base: Config) -> bool:
    """Whether it takes away what this text's base does not have."""
    return config == base and replace(trial, name=LIST[0].name, settings={}) == LIST[0]


def characters(config: Config, dataset: Dataset) -> int:
    """That the run reads."""
    return int(config.training.budget.split()[0]) * (len(dataset.training) - 1)


def train(trial: Trial, config: Config, dataset: Dataset) -> dict[str, Any]:
    """One run on one core."""
    training = config.training
    torch.manual_seed(training.seed)
    network = trial.network(config.model, dataset.vocabulary.size).initialise(training.seed)
    if trial.change:
        with torch.no_grad():
            trial.change(network)
    W_hh = network.rnn.layers()[0].weight_hh
    own = trial.own(W_hh, config) if trial.own else None
    groups = [group_of(trial, name, weight, config) for name, weight in network.named_parameters()]
    groups = [group for group in groups if own is None or group["params"][0] is not W_hh]
    optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, betas=training.betas, fused=True)
    share_at = trial.share or (lambda progress: learning_rate_at(progress, training) / training.learning_rate)
    # The mean of all weights from a share of the run on is of the mean age of half that time.
    age, average_from = (training.averaging, 0.0) if training.averaging else (0.5, trial.average_from)
    average, averaged = copy.deepcopy(network), 0
    execution, total = Execution("compiled"), characters(config, dataset)
    started, state, done, steps, nats_of_late = time.process_time(), None, 0, 0, 0.0
    network.train()
    for window in windows(config, dataset, trial.cut):
        progress = done / total
        if progress >= 1:
            break
        share = share_at(progress)
        inputs, targets = torch.from_numpy(window.inputs_TB), torch.from_numpy(window.targets_TB)
        state = None if window.starts else state
        if state is not None and trial.reset:
            going_on = (torch.rand(1, state[0].shape[1], 1) >= trial.reset).float()
            state = tuple(tensor * going_on for tensor in state)
        nats, state = network.loss(inputs, targets, state, execution)
        optimizer.zero_grad()
        W_hh.grad = None
        (nats / window.num_targets).backward()
        clip_gradient(network.parameters(), training.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * share * group["factor"]
        optimizer.step()
        if own:
            own.step(share)
        state, done, steps = detached(state), done + window.num_targets, steps + 1
        if average_from is not None and progress >= average_from:
            averaged += 1
            take_into_average(average, network, averaged, age)
        nats_of_late += (0.02 if steps > 1 else 1) * (nats.item() / window.num_targets - nats_of_late)
    seconds = time.process_time() - started
    found = evaluate(
        average if averaged else network,
        dataset.vocabulary,
        dataset.validation,
        execution,
        quick_lanes(len(dataset.validation)),
    )
    return {
        "nats_per_char": round(found.nats_per_char, 4),
        "training_nats_per_char": round(nats_of_late, 4),
        "steps": steps,
        "cpu_seconds": round(seconds, 1),
    }


def group_of(trial: Trial, name: str, weight: nn.Parameter, config: Config) -> dict[str, Any]:
    """A parameter of its own optimizer group; weight decay on matrices only, unless that is the trial."""
    factor = math.prod(factor for part, factor in trial.rates.items() if part in name)
    decayed = weight.dim() > 1 or trial.decay_all
    return {"params": [weight], "factor": factor, "weight_decay": config.training.weight_decay if decayed else 0.0}


# ---- results


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in TRIALS.read_text(encoding="utf-8").splitlines()] if TRIALS.exists() else []


def tables() -> str:
    """Medians over the seeds, what differs from the base, and the seconds of one core over the base's."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines():
        found.setdefault((line["trial"], line["text"]), []).append(line)
    rows = ["| trial | " + " | ".join(f"{text}, nats per character | | time" for text in BASES) + " |"]
    rows.append("| --- |" + " --- | --- | --- |" * len(BASES))
    for trial in LIST:
        if any((trial.name, text) in found for text in BASES):
            cells = [cell for text in BASES for cell in figures(found.get((trial.name, text)), found["base", text])]
            rows.append(f"| {trial.name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def figures(runs: list[dict[str, Any]] | None, base: list[dict[str, Any]]) -> list[str]:
    if not runs:
        return ["", "", ""]
    (nats, seconds), (usual, usual_seconds) = (
        [statistics.median(run[key] for run in some) for key in ("nats_per_char", "cpu_seconds")]
        for some in (runs, base)
    )
    each = sorted(run["nats_per_char"] for run in runs)
    spread = f" ({each[0]:.3f} to {each[-1]:.3f})" if len(each) > 1 else ""
    return [f"{nats:.3f}{spread}", f"{nats - usual:+.3f}", f"{seconds / usual_seconds:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", type=Path)
    parser.add_argument("--only", action="append", help="a trial's name; may be repeated; else all")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tables", action="store_true")
    options = parser.parse_args()
    if options.tables:
        print(tables())
        return
    if options.text is None or options.text.stem not in BASES:
        parser.error(f"expected a text whose name is one of {', '.join(BASES)}")
    unknown = set(options.only or []) - {trial.name for trial in LIST}
    if unknown:
        parser.error(f"no such trials: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=TRIALS.parent, capture_output=True, check=True, text=True
    ).stdout.strip()
    datasets: dict[str, Dataset] = {}
    for seed in map(int, options.seeds.split(",")):
        for trial in LIST:
            if options.only and trial.name not in options.only:
                continue
            config = configuration(options.text, trial, seed)
            if trial is not LIST[0] and is_the_base(trial, config, configuration(options.text, LIST[0], seed)):
                continue
            dataset = datasets.setdefault(options.text.stem, load_dataset(config.corpus))
            line = {"trial": trial.name, "text": options.text.stem, "seed": seed, **train(trial, config, dataset)}
            command = f'python results/trials.py {options.text.name} --only "{trial.name}" --seeds {seed}'
            with TRIALS.open("a", encoding="utf-8") as file:
                made = {"command": command, "commit": commit, "machine": machine.description(torch.device("cpu"))}
                file.write(json.dumps(line | made) + "\n")


if __name__ == "__main__":
    main()
