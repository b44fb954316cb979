"""One file, whole or not at all, and nothing in it is trusted."""

import json
import os
import pickle
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from charrnn.config import Config, ModelConfig
from charrnn.errors import CheckpointError
from charrnn.model.network import CharRNN
from charrnn.text.vocabulary import Vocabulary
from charrnn.training import checkpoint
from charrnn.training.checkpoint import Checkpoint

VOCABULARY = Vocabulary.of("Größe 9\n€😀")


def make(**options: object) -> Checkpoint:
    config = Config(model=ModelConfig(**{"hidden_size": 5, **options}))
    network = CharRNN(config.model, VOCABULARY.size).initialise(0)
    return Checkpoint(
        config=config,
        vocabulary=VOCABULARY,
        weights=dict(network.state_dict()),
        corpus={"name": "x"},
        metrics={"step": 3},
        training={"random/cpu": torch.get_rng_state(), "state/0": torch.randn(1, 2, 5).bfloat16()},
        progress={"step": 3},
    )


def test_what_is_saved_is_what_is_loaded(tmp_path):
    saved = make(num_layers=2, cell="gru")
    checkpoint.save(tmp_path / "a.safetensors", saved)
    loaded = checkpoint.load(tmp_path / "a.safetensors", with_training=True)
    assert (loaded.config, loaded.vocabulary) == (saved.config, saved.vocabulary)
    assert (loaded.corpus, loaded.metrics, loaded.progress) == (saved.corpus, saved.metrics, saved.progress)
    for one, other in ((saved.weights, loaded.weights), (saved.training, loaded.training)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)


def test_a_model_is_loaded_without_the_training_state(tmp_path):
    checkpoint.save(tmp_path / "a.safetensors", make())
    assert checkpoint.load(tmp_path / "a.safetensors").training == {}


def test_any_safetensors_reader_finds_the_weights_under_torch_nns_names(tmp_path):
    checkpoint.save(tmp_path / "a.safetensors", make(cell="lstm"))
    tensors = load_file(tmp_path / "a.safetensors")
    module = torch.nn.LSTM(VOCABULARY.size, 5)
    module.load_state_dict({name[4:]: tensor for name, tensor in tensors.items() if name.startswith("rnn.")})
    assert tensors["readout.weight"].shape == (VOCABULARY.size, 5)


def test_saving_leaves_no_temporary_file_and_ordinary_permissions(tmp_path):
    checkpoint.save(tmp_path / "a.safetensors", make())
    (tmp_path / "plain").write_text("")
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "plain"}
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.safetensors", "plain")]
    assert modes[0] == modes[1]


def test_a_failed_write_leaves_the_older_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, make())
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*untouched"):
        checkpoint.save(path, replace(make(), metrics={"step": 4}))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_flushed_can_be_written_into(tmp_path, monkeypatch):
    """Some file systems cannot, and who may write a folder may not read it."""

    def refused(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    checkpoint.save(tmp_path / "a.safetensors", make())
    assert checkpoint.load(tmp_path / "a.safetensors").metrics == make().metrics


def test_a_vanished_folder_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot write .*gone"):
        checkpoint.save(tmp_path / "gone" / "a.safetensors", make())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing.safetensors: no such checkpoint"):
        checkpoint.load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 100, (10**15).to_bytes(8, "little") + b"{}" * 50])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"not a checkpoint, or a damaged one"):
        checkpoint.load(path)


def test_a_truncated_file_is_refused_wherever_it_is_cut(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, make())
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            checkpoint.load(path, with_training=True)


def test_a_pickle_is_never_opened(tmp_path):
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError):
        checkpoint.load(path)
    torch.save({"a": Trap()}, path)
    with pytest.raises(CheckpointError):
        checkpoint.load(path)
    assert not (tmp_path / "sprung").exists()


def test_no_code_of_ours_pickles():
    package = Path(checkpoint.__file__).parents[1]
    for source in package.rglob("*.py"):
        text = source.read_text(encoding="utf-8")
        assert not any(word in text for word in ("import pickle", "torch.load", "torch.save", "allow_pickle"))


def rewritten(path: Path, **changes: object) -> Path:
    """The checkpoint as format 1 had it, without checksums, and with some values of its header changed."""
    saved = make()
    checkpoint.save(path, saved)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["charrnn"])
    header.update({"format": 1, **changes})
    save_file(load_file(path), path, metadata={"charrnn": json.dumps(header)})
    return path


def test_a_newer_format_is_refused_with_the_versions(tmp_path):
    path = rewritten(tmp_path / "a.safetensors", format=99, charrnn="7.0")
    with pytest.raises(CheckpointError, match=r"format 99, written by charrnn 7.0; .* install a newer one"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": None},
        {"config": {"model": {"cell": "transformer"}}},
        {"config": None},
        {"config": []},
        {"vocabulary": {"level": "character", "characters": "aa"}},
        {"vocabulary": 3},
        {"metrics": None},
        {"progress": 3},
    ],
    ids=str,
)
def test_a_damaged_header_is_refused(tmp_path, changes):
    path = rewritten(tmp_path / "a.safetensors", **changes)
    with pytest.raises(CheckpointError, match=r"damaged"):
        checkpoint.load(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of charrnn's"):
        checkpoint.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("readout.bias", torch.zeros(3), r"readout.bias: expected \(\d+,\), got \(3,\)"),
        ("readout.bias", None, r"readout.bias: expected \(\d+,\), got nothing"),
        ("extra", torch.zeros(3), r"extra: expected nothing, got \(3,\)"),
        ("readout.bias", torch.zeros(VOCABULARY.size, dtype=torch.int64), "expected floating point"),
    ],
)
def test_weights_that_do_not_fit_are_named(name, tensor, message):
    stored = make()
    weights = {**stored.weights, name: tensor}
    if tensor is None:
        del weights[name]
    with pytest.raises(CheckpointError, match=message):
        replace(stored, weights=weights).network()
