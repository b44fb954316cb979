"""The Python API."""

import re
from dataclasses import replace

import pytest
import torch

import charrnn
from charrnn import trained
from charrnn.config import load_config
from charrnn.errors import CheckpointError, ConfigError, TextError
from charrnn.model.products import can_quantize
from charrnn.sampling.choosing import Choosing
from charrnn.training import checkpoint, loop
from charrnn.training.dynamic import Adaptation
from tests.conftest import has_int8


@pytest.fixture
def model(small_config, view, folder):
    return charrnn.load(loop.train(small_config, view, folder / "run").folder)


def test_load_takes_a_run_a_file_or_the_newest_run(small_config, view, folder):
    run = loop.train(small_config, view)
    for path in (run.folder, str(run.folder), run.best, None):
        assert charrnn.load(path).path.resolve() == run.best.resolve()
    assert charrnn.load(run.last).path == run.last


def test_sample_gives_the_prefix_and_exactly_length_characters(model):
    text = model.sample(prefix="3 times", length=50, temperature=0.8, seed=4)
    assert text.startswith("3 times")
    assert len(text) == 57
    assert model.sample(prefix="3 times", length=50, temperature=0.8, seed=4) == text


def test_sample_stream_and_batch_give_the_same_text(model):
    how = Choosing(top_k=5)
    text = model.sample("3", 40, seed=2, top_k=5)
    assert "3" + "".join(model.stream("3", 40, how, seed=2)) == text
    assert model.samples(4, "3", 40, how, seed=2)[0] == text


def test_evaluate_gives_figures_for_any_text(model):
    found = model.evaluate("3 times 4 makes 12, as everybody knows.\n")
    assert found.characters == 39
    assert found.nats_per_char < found.uniform_nats_per_char


def test_other_protocols_stand_beside_a_figure_that_they_do_not_touch(model):
    text = "3 times 4 makes 12, as everybody knows.\n" * 10
    plain = model.evaluate(text)
    assert (plain.windowed, plain.dynamic, plain.tempered) == (None, None, None)
    windowed = model.evaluate(text, window=7, tune_temperature=True)
    dynamic = model.evaluate(text, dynamic=Adaptation(segment=10, rate=0.002))
    for found in (windowed, dynamic):
        assert plain.to_json().items() <= found.to_json().items()
    assert windowed.windowed.window == 7
    assert windowed.windowed.nats_per_char > plain.nats_per_char
    assert (dynamic.dynamic.segment, dynamic.dynamic.rate, dynamic.dynamic.decay) == (10, 0.002, Adaptation.decay)
    assert dynamic.dynamic.nats_per_char < plain.nats_per_char
    assert model.evaluate(text, dynamic=True).dynamic.rate == Adaptation.rate
    assert model.evaluate(text) == plain


def test_the_temperature_is_tuned_on_the_validation_split_whatever_is_evaluated(model):
    found = [model.evaluate_split("training", tune_temperature=True), model.evaluate("12 times", tune_temperature=True)]
    own = model.evaluate_split("validation", tune_temperature=True)
    assert {other.tempered.temperature for other in found} == {own.tempered.temperature}
    assert own.tempered.nats < own.nats


def test_what_needs_the_text_the_model_was_trained_on_says_so_where_it_is_gone(model, text_file):
    text_file.write_text("another text altogether, by now", encoding="utf-8")
    for options in ({"dynamic": True}, {"tune_temperature": True}):
        with pytest.raises(TextError, match=r"not the text that .* dynamic and tune_temperature, which need that text"):
            model.evaluate("3 times", **options)
    text_file.unlink()
    with pytest.raises(TextError, match="no file or folder"):
        model.evaluate("3 times", dynamic=True)
    assert model.evaluate("3 times", window=3).windowed.characters == 6


def test_errors_are_charrnns_own(model, folder):
    with pytest.raises(TextError, match="at least 2"):
        model.evaluate("x")
    with pytest.raises(TextError, match="prefix: '#'"):
        model.sample("#")
    with pytest.raises(ConfigError, match="temperature"):
        model.sample("3", temperature=-1)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        charrnn.load(folder / "nowhere")


def test_a_byte_model_reads_and_writes_any_text(small_config, view, folder):
    from charrnn.config import load_config

    config = load_config(settings=["level=byte"], base=small_config)
    model = charrnn.load(loop.train(config, view, folder / "bytes").folder)
    text = model.sample("Ω unseen €", 30, seed=1)
    assert text.startswith("Ω unseen €")
    assert len(b"".join(model.stream_bytes("Ω", 30, None, 1))) == 30
    assert "".join(model.stream("Ω unseen €", 30, seed=1)) == text.removeprefix("Ω unseen €")
    assert model.evaluate("Ω€").characters == 4


def test_choices_that_there_are_not_are_refused(model):
    for call, message in (
        (lambda: charrnn.load(model.path, quantize="INT8"), "quantize = 'INT8': expected one of none, int8, auto"),
        (lambda: model.sample("é", on_unknown="ignore"), "on_unknown = 'ignore': expected one of error, skip, replace"),
        (lambda: model.evaluate_split("valid"), "split = 'valid': expected one of training, validation, test"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()
    assert charrnn.load(model.path, device=torch.device("cpu")).sample("3", 5, seed=1) == model.sample("3", 5, seed=1)


needs_int8 = pytest.mark.skipif(not (can_quantize() or has_int8()), reason="no fast products of int8 here")


@needs_int8
def test_an_int8_model_samples_and_is_evaluated_with_int8_weights(model):
    quantized = charrnn.load(model.path, quantize="int8")
    text = "3 times 4 makes 12, as everybody knows.\n"
    before, after = model.evaluate(text).nats_per_char, quantized.evaluate(text).nats_per_char
    assert before != after
    assert after == pytest.approx(before, abs=0.05)
    drawn = quantized.sample("3", 40, seed=2)
    assert quantized.samples(3, "3", 40, seed=2)[0] == drawn
    assert charrnn.load(model.path, quantize="int8").sample("3", 40, seed=2) == drawn


@needs_int8
def test_an_int8_evaluation_is_the_same_however_few_logits_are_held_at_once(model, monkeypatch):
    quantized = charrnn.load(model.path, quantize="int8")
    text = "3 times 4 makes 12, as everybody knows.\n"
    at_once = quantized.evaluate(text).nats
    monkeypatch.setattr("charrnn.training.evaluation._LOGITS", 1)
    assert quantized.evaluate(text).nats == pytest.approx(at_once, rel=1e-6)


@needs_int8
@pytest.mark.parametrize("options", [{"window": 9}, {"dynamic": True}, {"tune_temperature": True}], ids=str)
def test_other_protocols_are_of_the_weights_as_they_were_trained(options, model):
    (name,) = options
    with pytest.raises(ConfigError, match=f"quantize with {name}: it is for the weights as they are trained"):
        charrnn.load(model.path, quantize="int8").evaluate("3 times", **options)


@needs_int8
@pytest.mark.parametrize(("tolerance", "taken"), [(10.0, True), (-10.0, False)])
def test_auto_takes_int8_where_the_validation_loss_hardly_moves(tolerance, taken, model, monkeypatch):
    monkeypatch.setattr(trained, "worth_quantizing", lambda network: 0)
    monkeypatch.setattr(trained, "QUANTIZATION_TOLERANCE", tolerance)
    found = charrnn.load(model.path, quantize="auto")
    assert found.quantized == taken
    assert re.match(
        rf"{'int8' if taken else 'float32'} weights: int8 moves the loss of 270 .* nats", found.quantization
    )


def test_auto_leaves_small_models_and_those_without_their_text_as_they_are(model, text_file, monkeypatch):
    found = charrnn.load(model.path, quantize="auto")
    assert not found.quantized
    assert re.match(r"float32 weights: [0-9,]+ of W_hh, and int8 is faster from [0-9,]+ on", found.quantization)
    monkeypatch.setattr(trained, "worth_quantizing", lambda network: 0)
    text_file.write_text("another text altogether, by now", encoding="utf-8")
    found = charrnn.load(model.path, quantize="auto")
    assert not found.quantized
    assert "is not the text that" in found.quantization


@needs_int8
def test_auto_reads_no_pipe_since_what_comes_through_it_is_for_another(model, monkeypatch):
    monkeypatch.setattr(trained, "worth_quantizing", lambda network: 0)
    stored = checkpoint.load(model.path)
    piped = replace(stored, config=load_config(settings=["source=-"], base=stored.config))
    checkpoint.save(model.path, piped)
    found = charrnn.load(model.path, quantize="auto")
    assert not found.quantized
    assert found.quantization.startswith("float32 weights: its text came through a pipe")
