"""How the weights move: the optimizer, the learning rate's schedule, clipping; and what they come to on average."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from charrnn.config import TrainingConfig


def make_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The configured optimizer over the network's parameters; weight decay on matrices only, never on biases.

    With adamw the readout's weights learn at `readout_rate` times the rate of the others, as Yang et al. (2022) give
    each matrix a multiple of its own. fused: one kernel for all parameters, on CPU and CUDA.
    """
    parameters = dict(network.named_parameters())
    readout = parameters.pop("readout.weight")
    others = [parameter for parameter in parameters.values() if parameter.dim() > 1]
    biases = [parameter for parameter in parameters.values() if parameter.dim() <= 1]
    readout_rate = config.readout_rate if config.optimizer == "adamw" else 1.0
    groups = [
        {"params": others, "weight_decay": config.weight_decay, "times": 1.0},
        {"params": [readout], "weight_decay": config.weight_decay, "times": readout_rate},
        {"params": biases, "weight_decay": 0.0, "times": 1.0},
    ]
    fused = readout.device.type in ("cpu", "cuda")
    optimizer: torch.optim.Optimizer
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=config.learning_rate, fused=fused)
    else:
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=fused)
    set_learning_rate(optimizer, config.learning_rate)
    return optimizer


def learning_rate_at(progress: float, config: TrainingConfig) -> float:
    """The learning rate when `progress` (0 to 1) of the budget is spent.

    A linear rise over `warmup`, then the schedule from learning_rate to final_learning_rate, so it always ends where
    it should, whatever the budget's unit. wsd (Hu et al. 2024; Hägele et al. 2024) stays up and falls along a line in
    the last `cooldown` of the budget; the cosine is Loshchilov and Hutter's (2017), without restarts.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < config.warmup:
        return config.learning_rate * progress / config.warmup
    after = (progress - config.warmup) / (1 - config.warmup)
    share = {
        "wsd": min(1.0, (1 - progress) / config.cooldown),
        "cosine": 0.5 * (1 + math.cos(math.pi * after)),
        "linear": 1 - after,
        "constant": 1.0,
    }[config.schedule]
    return config.final_learning_rate + share * (config.learning_rate - config.final_learning_rate)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Change the learning rate, times each group's multiple, and nothing else: the moments stay."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["times"]


def skip_unless_finite(optimizer: torch.optim.Optimizer, *figures: Tensor) -> None:
    """Let the next step leave weights and moments alone unless all figures are finite, without the host looking.

    A fused optimizer's kernel reads `found_inf` on the device, as it does for torch.amp.GradScaler.
    """
    finite = torch.stack([torch.isfinite(figure) for figure in figures]).all()
    optimizer.found_inf = (~finite).to(torch.float32)  # type: ignore[attr-defined]


def clip_gradient(parameters: Iterable[nn.Parameter], clip_norm: float | None) -> Tensor:
    """G <- min(1, theta / ||g||) g over all parameters together (9.5.3). Returns ||g|| before clipping.

    clip_norm: theta; None only measures.
    """
    return nn.utils.clip_grad_norm_(parameters, math.inf if clip_norm is None else clip_norm)


@torch.no_grad()
def take_into_average(averaged: nn.Module, network: nn.Module, step: int, age: float) -> None:
    """Take the weights after a step, counted from 1, into their average over the run so far.

    A step's weights count for (step / steps so far)^(1/age - 2), the power function average of Karras et al. (2024):
    their mean age is the share `age` of the steps so far, so that no time constant has to fit the budget.
    """
    newest = 1 - (1 - 1 / step) ** (1 / age - 1)
    for mean, weight in zip(averaged.parameters(), network.parameters(), strict=True):
        mean.lerp_(weight, newest)
