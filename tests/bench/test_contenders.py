"""The contenders do the work that they are named for."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from charrnn.bench import machine, sampling, training
from charrnn.bench.cases import Case, made_up_vocabulary
from charrnn.bench.machine import (
    LARGE,
    Product,
    description,
    multiplication,
    onednn_multiplication,
    products,
    reading,
    synchroniser,
)
from charrnn.bench.plain import PerCharacterNetwork, PlainNetwork, per_character_loss, window_loss
from charrnn.bench.training import PlainTraining
from charrnn.config import load_config
from charrnn.model import engines
from charrnn.model.compiling import compiler_here
from charrnn.model.network import CharRNN

CPU = torch.device("cpu")
TINY = {
    "model.num_layers": 2,
    "model.hidden_size": 5,
    "training.batch_size": 3,
    "training.seq_length": 11,
    "training.device": "cpu",
}


def case(vocabulary: int = 7, **options: object) -> Case:
    flags = {**TINY, **{key.replace("__", "."): value for key, value in options.items()}}
    return Case(load_config(flags=flags), made_up_vocabulary(vocabulary, "character"))


# ---- training


@pytest.mark.parametrize(
    "options",
    [
        {"model__cell": "rnn"},
        {"model__cell": "rnn", "model__activation": "relu", "training__partitioning": "random"},
        {"model__cell": "gru", "model__input": "embedding", "model__embedding_size": 4},
        {"model__cell": "lstm", "model__dropout": 0.5},
        {"model__cell": "lstm", "model__num_layers": 1, "model__dropout": 0.5},
    ],
    ids=str,
)
def test_every_way_to_train_does_its_steps(options):
    tiny = case(**options)
    for contender in training.contenders(tiny, CPU):
        for _ in range(2):
            contender.step()


def test_every_engine_and_precision_is_there_and_the_others_ways(monkeypatch):
    monkeypatch.setattr(engines, "usable_kernels", lambda dtype, device: dtype != torch.bfloat16 or None)
    names = [contender.name for contender in training.contenders(case(), CPU)]
    assert names == [
        "plain PyTorch, float32",
        "charrnn written, float32",
        "charrnn torch, float32",
        "charrnn compiled, float32",
        "charrnn written, bfloat16",
        "charrnn torch, bfloat16",
        "plain PyTorch, bfloat16 autocast",
        "one call per character, float32",
        "charrnn reference, float32",
        "charrnn reference, bfloat16",
    ]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_a_precision_that_is_asked_for_is_the_only_one_beside_the_plain_float32(precision):
    found = training.contenders(case(training__precision=precision), CPU)
    assert {contender.precision for contender in found if contender.engine is not None} == {precision}
    others = [contender.name for contender in found if contender.engine is None]
    assert others == [training.PLAIN, *[training.AUTOCAST] * (precision == "bfloat16"), training.PER_CHARACTER]


def test_float64_is_measured_where_the_configuration_asks_for_it():
    assert training.precisions(case().config) == ["float32", "bfloat16"]
    contenders = training.contenders(case(training__precision="float64"), CPU)
    double = [contender for contender in contenders if contender.precision == "float64"]
    assert {contender.engine for contender in double} == {
        "reference",
        "written",
        "torch",
        *["compiled"] * bool(compiler_here()),
    }
    for contender in double:
        contender.step()


@pytest.mark.parametrize("partitioning", ["sequential", "random"])
def test_every_window_is_full_however_long_it_goes_on(partitioning, monkeypatch):
    seen = []
    forward = training.Session._forward
    monkeypatch.setattr(
        training.Session, "_forward", lambda self, window: seen.append(window.inputs_TB.shape) or forward(self, window)
    )
    tiny = case(training__partitioning=partitioning)
    network = CharRNN(tiny.config.model, 7).initialise(0)
    step = training.own_step(tiny, training.made_up_text(tiny), network, CPU, "torch", "float32")
    for _ in range(25):
        step()
    assert seen == [(11, 3)] * 25
    windows = training.windows(tiny, training.made_up_text(tiny), CPU)
    assert {next(windows)[0].shape for _ in range(25)} == {(11, 3)}


def test_our_step_moves_its_own_copy_of_the_weights_and_carries_the_state():
    tiny = case()
    network = CharRNN(tiny.config.model, 7).initialise(0)
    before = [parameter.clone() for parameter in network.parameters()]
    sessions = []
    original = training.Session.__post_init__

    def remembered(self: training.Session) -> None:
        original(self)
        sessions.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Session, "__post_init__", remembered)
        step = training.own_step(tiny, training.made_up_text(tiny), network, CPU, "written", "float32")
    step()
    assert all(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))
    own = sessions[0].network.parameters()
    assert not any(torch.equal(old, new) for old, new in zip(before, own, strict=True))
    assert sessions[0].state is not None
    assert sessions[0].state[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("kind", "loss", "autocast"),
    [
        (PlainNetwork, window_loss, None),
        (PlainNetwork, window_loss, torch.bfloat16),
        (PerCharacterNetwork, per_character_loss, None),
    ],
)
def test_the_others_ways_learn_a_repetitive_text(kind, loss, autocast):
    torch.manual_seed(0)
    tiny = case(model__hidden_size=23)
    ids = np.resize(np.array([1, 2, 3, 4], dtype=np.uint8), training._WINDOWS * 33 + 1)
    dataset = dataclasses.replace(training.made_up_text(tiny), training=ids)
    trainer = PlainTraining(kind(tiny.config.model, 7), loss, tiny, dataset, CPU, autocast)
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.02  # enough for 30 steps to show it
    losses = [float(trainer.step()) for _ in range(30)]
    assert losses[0] == pytest.approx(np.log(7), abs=0.4)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_one_call_per_character_computes_the_same_loss_and_gradients_as_whole_windows(cell):
    torch.manual_seed(0)
    model = case(model__cell=cell).config.model
    each, whole = PerCharacterNetwork(model, 7), PlainNetwork(model, 7)
    weights = each.state_dict()
    embedding_VH = weights.pop("embedding.weight")
    weights["rnn.weight_ih_l0"] = weights["rnn.weight_ih_l0"] @ embedding_VH.T  # an embedding and W_xh as one matrix
    whole.load_state_dict(weights)
    inputs_TB, targets_TB = torch.randint(7, (2, 11, 3))
    state_each = state_whole = None
    for _ in range(2):  # the second window with the state that the first left
        loss_each, state_each = per_character_loss(each, inputs_TB, targets_TB, state_each)
        loss_whole, state_whole = window_loss(whole, inputs_TB, targets_TB, state_whole)
    torch.testing.assert_close(loss_each, loss_whole)
    torch.autograd.backward([loss_each, loss_whole])
    for name in ("readout.weight", "rnn.weight_hh_l0", "rnn.weight_ih_l1"):
        torch.testing.assert_close(each.get_parameter(name).grad, whole.get_parameter(name).grad)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_the_plain_network_is_ours_under_the_same_weights(cell):
    model = case(model__cell=cell).config.model
    ours, plain = CharRNN(model, 7).initialise(3), PlainNetwork(model, 7)
    plain.load_state_dict(ours.state_dict())
    ids_TB = torch.randint(7, (11, 3), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(ids_TB)[0], plain(ids_TB)[0])


def test_the_made_up_text_holds_rare_and_common_symbols():
    ids = training.made_up_text(case(training__batch_size=300)).training
    counts = np.bincount(ids, minlength=7)
    assert (np.diff(counts) < 0).all()
    assert counts[-1] > 0


# ---- sampling


def test_every_way_to_sample_draws_ids_in_every_lane():
    tiny = case()
    contenders = sampling.contenders(tiny, CPU)
    quantized = sampling.can_sample_quantized(CharRNN(tiny.config.model, 3))
    ours = ["charrnn, float32", *["charrnn, int8"] * quantized]
    assert [contender.name for contender in contenders] == [
        f"{name}, batch {lanes}" for lanes in (1, 16, 64) for name in (*ours, "torch.nn per character, float32")
    ]
    for contender in contenders:
        contender.step()
        assert contender.characters == 8 * contender.lanes


def test_both_loops_draw_from_the_networks_distribution():
    tiny = case(vocabulary=3)
    network, plain = CharRNN(tiny.config.model, 3).initialise(0), PlainNetwork(tiny.config.model, 3)
    for parameter in [*network.parameters(), *plain.parameters()]:
        torch.nn.init.zeros_(parameter)
    bias = torch.tensor([-100.0, 2.0, 0.0])
    network.readout.bias.data.copy_(bias)
    plain.readout.bias.data.copy_(bias)
    expected = functional.softmax(bias, dim=0)[1].item()
    torch.manual_seed(0)
    for loop in (sampling.own_loop(tiny, network, 64), sampling.plain_loop(plain, 64, CPU)):
        drawn = np.concatenate([np.asarray(next(loop)) for _ in range(7)])
        assert drawn.shape == (56, 64)
        assert (drawn == 1).mean() == pytest.approx(expected, abs=0.03)


# ---- the machine


def test_the_products_are_those_of_a_step_and_large_ones():
    found = products(case(model__cell="gru"), CPU)
    assert found[:2] == [("recurrent", Product(3, 5, 15)), ("window", Product(33, 5, 15))]
    assert [product for shape, product in found if shape == "large"] == list(LARGE)
    assert Product(3, 5, 15).flops == 2 * 3 * 5 * 15


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_product_is_computed_in_its_precision(dtype):
    result = multiplication(Product(3, 5, 7), dtype, CPU)()
    assert isinstance(result, torch.Tensor)
    assert result.shape == (3, 7)
    assert result.dtype == dtype
    assert result.abs().sum() > 0


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_onednn_computes_the_same_product():
    torch.manual_seed(0)
    expected = multiplication(Product(3, 5, 7), torch.float32, CPU)()
    torch.manual_seed(0)
    result = onednn_multiplication(Product(3, 5, 7), torch.float32, CPU)()
    assert isinstance(result, torch.Tensor)
    torch.testing.assert_close(result.to_dense(), expected)
    found = {
        (contender.precision, contender.library)
        for contender in machine.contenders(case(), CPU, ["float32", "bfloat16"])
    }
    assert found == {("float32", "torch.mm"), ("float32", "oneDNN"), ("bfloat16", "torch.mm")}


def test_reading_passes_over_every_byte():
    assert float(reading(4 * 1001, CPU)()) == 1001  # type: ignore[arg-type]


def test_the_machine_is_described():
    found = description(CPU)
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads() == 1
    torch.set_num_threads(2)
    assert [description(CPU, threads)["threads"] for threads in (None, 1, 3)] == [2, 1, 2]
    assert found["cpu"]
    assert found["gpu"] is None
    synchroniser(CPU)()
