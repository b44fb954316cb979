"""The Python API."""

import pytest

import charrnn
from charrnn.errors import CheckpointError, ConfigError, TextError
from charrnn.sampling.choosing import Choosing
from charrnn.training import loop


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
    assert len(list(model.stream_bytes("Ω", 30, None, 1))) == 30
    assert "".join(model.stream("Ω unseen €", 30, seed=1)) == text.removeprefix("Ω unseen €")
    assert model.evaluate("Ω€").characters == 4
