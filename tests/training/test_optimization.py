"""The schedule, the optimizer's groups, clipping."""

import math

import pytest
import torch
from torch import nn

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.model.network import CharRNN
from charrnn.training.optimization import (
    clip_gradient,
    learning_rate_at,
    make_optimizer,
    set_learning_rate,
    take_into_average,
)


def training(**options: object) -> TrainingConfig:
    return TrainingConfig(**{"learning_rate": 0.1, "warmup": 0.2, "final_learning_rate": 0.02, **options})


@pytest.mark.parametrize(("schedule", "middle"), [("wsd", 0.1), ("cosine", 0.06), ("linear", 0.06), ("constant", 0.1)])
def test_the_learning_rate_rises_in_the_warm_up_and_ends_where_the_schedule_says(schedule, middle):
    config = training(schedule=schedule, **({"final_learning_rate": 0.0} if schedule == "constant" else {}))
    assert learning_rate_at(0.0, config) == 0
    assert learning_rate_at(0.1, config) == pytest.approx(0.05)
    assert learning_rate_at(0.2, config) == pytest.approx(0.1)
    assert learning_rate_at(0.6, config) == pytest.approx(middle)
    assert learning_rate_at(1.0, config) == pytest.approx(0.1 if schedule == "constant" else 0.02)
    assert learning_rate_at(1.7, config) == learning_rate_at(1.0, config)


def test_the_cosine_stands_above_the_line_before_the_middle_and_below_it_after():
    cosine, linear = training(schedule="cosine"), training(schedule="linear")
    assert learning_rate_at(0.4, cosine) > learning_rate_at(0.4, linear)
    assert learning_rate_at(0.8, cosine) < learning_rate_at(0.8, linear)


def test_wsd_stays_up_until_its_cooldown_and_falls_along_a_line():
    config = training(schedule="wsd", cooldown=0.25)
    assert learning_rate_at(0.3, config) == learning_rate_at(0.75, config) == 0.1
    assert learning_rate_at(0.8, config) == pytest.approx(0.02 + 0.8 * 0.08)
    assert learning_rate_at(0.95, config) == pytest.approx(0.02 + 0.2 * 0.08)


def test_without_warm_up_the_first_step_has_the_full_learning_rate():
    assert learning_rate_at(0.0, training(warmup=0.0)) == pytest.approx(0.1)


def network() -> CharRNN:
    return CharRNN(ModelConfig(hidden_size=5), 11).initialise(0)


def test_weight_decay_pulls_on_matrices_and_leaves_biases_alone():
    made = network()
    optimizer = make_optimizer(
        made, training(weight_decay=0.5, learning_rate=0.1, final_learning_rate=0.0, readout_rate=1.0)
    )
    before = {name: parameter.detach().clone() for name, parameter in made.named_parameters()}
    for parameter in made.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in made.named_parameters():
        shrunk = before[name] * (1 - 0.1 * 0.5) if parameter.dim() > 1 else before[name]
        torch.testing.assert_close(parameter.detach(), shrunk)


def test_the_readouts_weights_learn_at_a_rate_of_their_own():
    made = network()
    optimizer = make_optimizer(
        made, training(readout_rate=3.0, learning_rate=0.01, final_learning_rate=0.0, weight_decay=0.0)
    )
    for rate in (0.01, 0.002):
        before = {name: parameter.detach().clone() for name, parameter in made.named_parameters()}
        for parameter in made.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        for name, parameter in made.named_parameters():
            wanted = rate * (3 if name == "readout.weight" else 1)
            torch.testing.assert_close(before[name] - parameter.detach(), torch.full_like(parameter, wanted))
        set_learning_rate(optimizer, 0.002)


def test_the_moments_decay_as_configured():
    made = network()
    optimizer = make_optimizer(made, training(betas=(0.25, 0.75)))
    for parameter in made.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    optimizer.step()
    for parameter in made.parameters():
        torch.testing.assert_close(optimizer.state[parameter]["exp_avg"], torch.full_like(parameter, 0.75 * 2))
        torch.testing.assert_close(optimizer.state[parameter]["exp_avg_sq"], torch.full_like(parameter, 0.25 * 4))


def test_a_new_learning_rate_keeps_the_moments():
    made = network()
    optimizer = make_optimizer(made, training())
    for parameter in made.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moments = [optimizer.state[parameter]["exp_avg"].clone() for parameter in made.parameters()]
    set_learning_rate(optimizer, 0.001)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.001, 0.003, 0.001])
    for parameter, moment in zip(made.parameters(), moments, strict=True):
        assert torch.equal(optimizer.state[parameter]["exp_avg"], moment)


def test_sgd_is_the_books_plain_update():
    made = network()
    optimizer = make_optimizer(made, training(optimizer="sgd", weight_decay=0.0))
    before = made.readout.weight.detach().clone()
    for parameter in made.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    optimizer.step()
    torch.testing.assert_close(made.readout.weight.detach(), before - 0.1 * 2.0)


@pytest.mark.parametrize("theta", [0.5, 100.0, None])
def test_clipping_scales_all_gradients_by_theta_over_the_norm_and_only_when_above(theta):
    """g <- min(1, theta / ||g||) g with the norm over all parameters together."""
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2))]
    gradients = [torch.tensor([1.0, -2.0, 3.0]), torch.tensor([[4.0, 0.0], [0.0, -5.0]])]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    norm = math.sqrt(1 + 4 + 9 + 16 + 25)
    assert clip_gradient(parameters, theta).item() == pytest.approx(norm)
    scale = min(1.0, theta / norm) if theta else 1.0
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient * scale, rtol=1e-5, atol=0)


def test_an_average_weighs_the_steps_by_a_power_of_their_age_and_has_the_mean_age_that_was_asked_for():
    steps, age = 50, 0.125
    averaged, moving = (nn.Linear(1, 1, dtype=torch.float64).requires_grad_(False) for _ in range(2))
    for step in range(1, steps + 1):
        moving.weight.fill_(step)
        moving.bias.fill_(float(step == 20))
        take_into_average(averaged, moving, step, age)
    power = 1 / age - 1
    assert averaged.bias.item() == pytest.approx((20**power - 19**power) / steps**power)
    assert (steps - averaged.weight.item()) / steps == pytest.approx(age, abs=1 / steps)
