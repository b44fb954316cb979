"""The recipe: what it chooses from the work, the text and the budget, and that whatever is said stands."""

import json
import random

import pytest
import torch

from charrnn.config import AUTO, RECIPE, Budget, Config, load_config
from charrnn.errors import ConfigError
from charrnn.text.dataset import load_dataset
from charrnn.trained import TrainedModel
from charrnn.training import checkpoint, loop, recipe
from charrnn.training.recipe import Grounds, choose

KEYS = {f"{section}.{key}" for section, key in RECIPE}


def grounds(budget: str = "1m", speed: float = 2e10, characters: int = 1_000_000) -> Grounds:
    limits = Budget.parse(budget)
    return Grounds(limits, speed * (limits.seconds or 600), characters, 66)


def chosen(*settings: str, **conditions: object) -> dict[str, object]:
    return choose(load_config(settings=settings), grounds(**conditions))


def test_everything_is_chosen_when_nothing_is_said():
    assert chosen().keys() == KEYS


@pytest.mark.parametrize("better", [{"budget": "1h"}, {"speed": 1e12}], ids=str)
def test_more_time_and_a_faster_machine_buy_a_larger_network_and_longer_windows(better):
    few, many = chosen(), chosen(**better)
    assert many["model.hidden_size"] * many["model.num_layers"] > few["model.hidden_size"]
    assert many["training.seq_length"] > few["training.seq_length"]
    assert many["training.learning_rate"] <= few["training.learning_rate"]


def test_a_short_text_takes_a_smaller_network_and_more_dropout_than_a_long_one():
    short, long = chosen(budget="20m", characters=50_000), chosen(budget="20m", characters=10**7)
    assert short["model.hidden_size"] < long["model.hidden_size"]
    assert short["model.dropout"] > long["model.dropout"] == 0
    assert short["model.weight_dropout"] > long["model.weight_dropout"] == 0


def test_where_a_character_costs_more_by_a_large_vocabulary_the_network_is_smaller():
    widths = [
        choose(Config(), Grounds(Budget.parse("1m"), 6e11, 10**6, size))["model.hidden_size"]
        for size in (66, 500, 6_174, 20_000)
    ]
    assert widths == [224, 192, 96, 64]


def test_what_is_said_stands_and_the_rest_follows_it():
    found = chosen("hidden_size=64", "training.batch_size=7", budget="5m")
    assert found.keys() == KEYS - {"model.hidden_size", "training.batch_size"}
    assert found["model.num_layers"] == 1
    assert found["model.dropout"] > chosen(budget="5m")["model.dropout"]  # a smaller network reads the text more often
    assert found["training.learning_rate"] > chosen(budget="5m")["training.learning_rate"]


def test_the_learning_rate_is_one_for_the_cell_and_the_optimizer():
    rates = [
        chosen(*settings, "hidden_size=256")["training.learning_rate"]
        for settings in (
            ("cell=rnn", "activation=relu"),
            ("cell=rnn",),
            ("cell=gru",),
            ("cell=lstm",),
            ("optimizer=sgd",),
        )
    ]
    assert rates == sorted(set(rates))
    assert rates[-1] == 1


def test_the_readout_learns_faster_than_the_others_in_narrow_networks_alone():
    rates = [chosen(f"hidden_size={units}")["training.readout_rate"] for units in (64, 320, 400, 480, 2048)]
    assert rates == [3, 3, pytest.approx(1.9), 1, 1]
    assert chosen("optimizer=sgd")["training.readout_rate"] == Config().training.readout_rate  # any other is refused


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("budget", ["1s", "1m", "300d", "3 epochs", "100000 epochs", "1 steps", "90s, 5 epochs"])
@pytest.mark.parametrize("characters", [1, 1000, 10**9])
def test_the_choice_is_a_valid_configuration_for_any_budget_and_text(cell, budget, characters):
    config = load_config(settings=[f"cell={cell}"], flags={"training.budget": budget})
    found = load_config(flags=choose(config, grounds(budget, characters=characters)), base=config)
    assert not found.left_to_recipe()
    assert found.model.cell == cell


def test_of_several_limits_the_first_to_be_reached_decides_how_often_the_text_is_read():
    once = chosen(budget="1h, 1 epochs")
    assert once["model.dropout"] == 0 < chosen(budget="1h")["model.dropout"]


@pytest.mark.parametrize("budget", ["3 epochs", "1h, 3 epochs"])
def test_windows_are_as_short_as_the_few_readings_want_them(budget):
    found = chosen(budget=budget, characters=90_000)
    assert (found["training.batch_size"], found["training.seq_length"]) == (32, 32)
    assert chosen(budget="1h", characters=90_000)["training.seq_length"] > 32


def test_the_learning_rate_never_begins_below_where_it_is_to_end():
    assert chosen("final_learning_rate=0.01")["training.learning_rate"] > 0.01
    assert chosen("final_learning_rate=0.2")["training.learning_rate"] == 0.2
    assert chosen("final_learning_rate=0.2", "optimizer=sgd")["training.learning_rate"] == 1
    for settings in (["learning_rate=0.1"], ["recipe=none"]):
        with pytest.raises(ConfigError, match="final_learning_rate at most learning_rate"):
            load_config(settings=["final_learning_rate=0.2", *settings])


def test_auto_says_nothing_and_a_configuration_with_it_reads_back_to_itself(folder):
    config = load_config(settings=["hidden_size=auto", "learning_rate=auto", "num_layers=3"])
    assert set(config.left_to_recipe()) == KEYS - {"model.num_layers"}
    written = config.to_yaml()
    assert written.count(f" {AUTO}\n") == len(KEYS) - 1 + 4  # recipe, engine, precision and device are too
    (folder / "written.yaml").write_text(written, encoding="utf-8")
    again = load_config(folder / "written.yaml")
    assert again.to_yaml() == written
    assert again.left_to_recipe() == config.left_to_recipe()


def train(text_file, folder, view, name: str, *settings: str) -> loop.Run:
    small = ["hidden_size=13", "engine=torch", "precision=float32", "evaluations=2", "samples=0", "sample_length=1"]
    config = load_config(settings=[*small, *settings], flags={"corpus.source": str(text_file)})
    return loop.train(config, view, folder / name)


def test_a_run_says_and_keeps_what_was_chosen_and_goes_on_with_it(text_file, folder, view):
    run = train(text_file, folder, view, "run", "budget=20 steps")
    ((said,),) = [[text for label, text in view.said if label == "recipe"]]
    assert "batch_size, seq_length, dropout" in said
    assert json.loads(run.metrics.read_text(encoding="utf-8").partition("\n")[0])["recipe"] == said
    assert "hidden_size" not in said
    stored = checkpoint.load(run.last).config
    assert not stored.left_to_recipe()
    assert load_config(run.config) == stored
    assert AUTO not in {getattr(getattr(stored, section), key) for section, key in RECIPE}
    loop.resume(view, run.folder, [], "30 steps")
    assert checkpoint.load(run.last).config.training.learning_rate == stored.training.learning_rate


def test_without_a_recipe_the_fixed_values_stand(text_file, folder, view):
    run = train(text_file, folder, view, "run", "budget=2 steps", "recipe=none")
    stored = checkpoint.load(run.last).config
    for section, key in set(RECIPE) - {("model", "hidden_size")}:
        assert getattr(getattr(stored, section), key) == getattr(getattr(Config(), section), key)
    assert not [text for label, text in view.said if label == "recipe"]


def test_the_held_out_text_has_no_say_in_the_choice(text_file, monkeypatch):
    monkeypatch.setattr(recipe, "_measured_speed", lambda *arguments: 1e9)
    text = text_file.read_text(encoding="utf-8")
    choices = []
    for ending in (text[-270:], "z" * 270):
        text_file.write_text(text[:-270] + ending, encoding="utf-8")
        config = load_config(flags={"corpus.source": str(text_file)})
        choices.append(recipe.follow(config, load_dataset(config.corpus), torch.device("cpu")))
    assert choices[0] == choices[1]


def test_a_secret_in_the_held_out_text_is_not_known(folder, view):
    """A code of random digits stands in the held-out text alone, and a like one in the training text alone.

    A model that reads the training text often knows its code by heart; that of the held-out text costs what guessing
    digits costs. A loss far below that would be a leak.
    """
    draw = random.Random(0)
    known, secret = ("".join(draw.choice("0123456789") for _ in range(40)) for _ in range(2))
    lines = [f"{draw.choice(['red', 'blue', 'green'])} is number {draw.randrange(10)}.\n" for _ in range(200)]
    body = f"the code is {known}.\n" + "".join(lines[:180]) + f"the code is {known}.\n"
    held_out = "".join(lines[180:]) + f"the code is {secret}.\n"
    text = folder / "text.txt"
    text.write_text(body + held_out, encoding="utf-8")
    share = len(held_out) / len(body + held_out)
    run = train(text, folder, view, "run", f"validation={share}", "hidden_size=64", "budget=600 steps", "batch_size=2")
    model = TrainedModel.load(run.last)
    before = "blue is number 3.\nthe code is "

    def nats_per_digit(code: str) -> float:
        whole, beginning = model.evaluate(before + code), model.evaluate(before)
        return (whole.nats - beginning.nats) / len(code)

    assert nats_per_digit(known) < 1.0
    assert nats_per_digit(secret) > 2.0  # ln 10 = 2.30
