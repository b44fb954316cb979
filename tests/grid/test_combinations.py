"""Every combination of some options' values, or one error that names all that is wrong with them."""

import itertools

import pytest

from charrnn.config import load_config
from charrnn.errors import ConfigError
from charrnn.grid.combinations import DEFAULT, combine, label


def test_by_default_the_grid_is_that_of_the_paper():
    keys, combined = combine(DEFAULT)
    assert keys == ["model.cell", "model.num_layers", "model.hidden_size"]
    sizes = itertools.product(("rnn", "gru", "lstm"), (1, 2, 3), (64, 128, 256, 512))
    assert [one.name for one in combined] == [f"{cell}-{layers}-{units}" for cell, layers, units in sizes]


def test_each_combination_is_what_set_would_have_made_of_it(folder):
    (folder / "base.yaml").write_text("model: {hidden_size: 7, num_layers: 2}\n", encoding="utf-8")
    flags = {"training.budget": "5 steps"}
    _, combined = combine(["seed=3,4", "hidden_size=5,6"], folder / "base.yaml", ["dropout=0.1"], flags)
    expected = [
        load_config(folder / "base.yaml", ["dropout=0.1", f"hidden_size={units}", f"seed={seed}"], flags)
        for units, seed in itertools.product((5, 6), (3, 4))
    ]
    assert [one.config for one in combined] == expected


@pytest.mark.parametrize(
    ("vary", "names"),
    [
        (["hidden_size=3,5"], ["hidden_size-3", "hidden_size-5"]),
        (["hidden_size=3", "cell=gru"], ["gru-hidden_size-3"]),
        (["training.seed=1", "hidden_size=3", "num_layers=2", "model.cell=rnn"], ["rnn-2-3-seed-1"]),
        (["learning_rate=1e-3,0.1"], ["learning_rate-0.001", "learning_rate-0.1"]),
        (["clip_norm=1,null"], ["clip_norm-1.0", "clip_norm-null"]),
        (["engine=auto,torch"], ["engine-auto", "engine-torch"]),
        (["betas=[0.9, 0.99],[0.8, 0.9]"], ["betas-0.9-0.99", "betas-0.8-0.9"]),
        (['budget=1m,"2m, 3 epochs"'], ["budget-1m", "budget-2m-3-epochs"]),
        (
            ["sample_prefix=a/b,a.b,A.B,a&b"],
            ["sample_prefix-a-b", "sample_prefix-a.b", "sample_prefix-A.B-2", "sample_prefix-a-b-2"],
        ),
    ],
)
def test_names_say_what_differs_and_are_told_apart_on_every_file_system(vary, names):
    found = [one.name for one in combine(vary)[1]]
    assert found[: len(names)] == names
    assert len({name.casefold() for name in found}) == len(found)


def test_a_name_is_no_longer_than_file_systems_allow():
    (one,) = combine([f"sample_prefix={'long ' * 100}"])[1]
    assert len(one.name) <= 150
    assert label({}) == ""


@pytest.mark.parametrize(
    ("vary", "settings", "message"),
    [
        (["seed"], [], "--vary seed: expected KEY=V1,V2,..., such as hidden_size=64,128"),
        (["=1"], [], "--vary =1: expected KEY=V1,V2"),
        (["seed="], [], "--vary seed = '': expected values apart by commas"),
        (["seed=1,[2"], [], r"--vary seed = '1,\[2': expected values apart by commas"),
        (["hiden_size=1"], [], r"--vary hiden_size: unknown key hiden_size \(did you mean model.hidden_size\?\)"),
        (["model.seed=1"], [], r"unknown key model.seed \(did you mean training.seed\?\)"),
        (["cell=rnn", "model.cell=gru"], [], "--vary model.cell: given twice; name all its values in one"),
        (["learning_rate=1e-3,0.001"], [], "--vary training.learning_rate = 0.001, 0.001: expected each value once"),
        (["seed=1,2"], ["training.seed=3"], "training.seed: given by --set training.seed and varied by --vary"),
        (["seed=1,2"], ["training={seed: 3}"], "training.seed: given by --set training and varied by --vary"),
        (["cell=lsmt"], [], r"--vary model.cell: model.cell = 'lsmt': .* \(did you mean lstm\?\)$"),
        (["cell=lsmt,gru", "seed=1,2"], [], r"'lsmt': .* \(with model.cell=lsmt training.seed=1 and 1 more\)$"),
        (["cell=rnn,gru", "activation=tanh,relu"], [], r"cell gru has its own, .* \(with model.cell=gru model.activ"),
        ([f"seed={','.join(map(str, range(1001)))}"], [], "--vary: 1,001 combinations; expected at most 1,000"),
    ],
)
def test_what_cannot_be_varied_is_refused_by_name(vary, settings, message):
    with pytest.raises(ConfigError, match=message):
        combine(vary, None, settings)


def test_all_that_is_wrong_is_said_once_and_together():
    with pytest.raises(ConfigError) as caught:
        combine(["cell=lsmt,gru", "seed=x,1"], None, ["hidden_size=many"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert [("hidden_size" in line, "lsmt'" in line, "'x'" in line).index(True) for line in sorted(lines)] == [0, 1, 2]
