"""One safetensors file holds all there is to know of a model, and of the run that makes it. Nothing is pickled.

Tensors: the weights under the network's own names (`rnn.weight_ih_l0`, `readout.weight`, ...); under `training/`, in
a checkpoint that training can go on from, the optimizer's moments, the random state and the carried hidden state.
Metadata, as JSON: format number, charrnn's version, the resolved configuration, the vocabulary, what the text was,
the metrics so far, and under `progress` the counters and the position in the data.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from charrnn import __version__
from charrnn.config import Config, config_from_json
from charrnn.errors import CheckpointError, ConfigError
from charrnn.model.network import CharRNN
from charrnn.text.vocabulary import Vocabulary

FORMAT = 1
"""Raised by one whenever an older charrnn could not read the file rightly."""

TRAINING = "training/"
"""Prefix of the tensors that only training needs."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds."""

    config: Config
    vocabulary: Vocabulary
    weights: dict[str, Tensor]
    corpus: dict[str, Any] = field(default_factory=dict)
    """Name, size and fingerprint of the text."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Where the run stood: step, epoch, seconds, training and validation figures."""
    training: dict[str, Tensor] = field(default_factory=dict)
    """Optimizer, random and hidden state; empty in a checkpoint that is only a model."""
    progress: dict[str, Any] = field(default_factory=dict)
    """Counters and position that go with `training`."""

    def network(self, device: torch.device | str = "cpu") -> CharRNN:
        """The network with these weights, on a device. Raises CheckpointError if they do not fit the configuration."""
        network = CharRNN(self.config.model, self.vocabulary.size)
        wanted = {name: (tuple(p.shape), p.dtype) for name, p in network.state_dict().items()}
        found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in self.weights.items()}
        for name in sorted(wanted.keys() | found.keys()):
            shapes = [tuple(side[name][0]) if name in side else "nothing" for side in (wanted, found)]
            if shapes[0] != shapes[1]:
                raise CheckpointError(
                    f"the weights do not fit the model: {name}: expected {shapes[0]}, got {shapes[1]}"
                )
        if any(not tensor.dtype.is_floating_point for tensor in self.weights.values()):
            raise CheckpointError("the weights are damaged: expected floating point numbers")
        if next(iter(self.weights.values())).dtype == torch.float64:
            network.double()
        network.load_state_dict(self.weights)
        return network.to(device)


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all: to a temporary name beside it, to the disk, then renamed over it.

    Raises CheckpointError where the file system refuses; what stood under the name is then still there.
    """
    header = {
        "format": FORMAT,
        "charrnn": __version__,
        "config": checkpoint.config.model_dump(mode="json"),
        "vocabulary": checkpoint.vocabulary.to_json(),
        "corpus": checkpoint.corpus,
        "metrics": checkpoint.metrics,
        "progress": checkpoint.progress,
    }
    tensors = {**checkpoint.weights, **{TRAINING + name: tensor for name, tensor in checkpoint.training.items()}}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(serialize(tensors, metadata={"charrnn": json.dumps(header)}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write {path}: {error}; an earlier checkpoint of that name is untouched"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)  # renamed by now, unless something went wrong or a second Ctrl-C came


def load(path: Path, with_training: bool = False) -> Checkpoint:
    """Read a checkpoint onto the CPU; `with_training` also the state that training goes on from.

    Raises CheckpointError for a file that is missing, damaged, no checkpoint of charrnn's, or of a newer format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(path, file.metadata())
            names = [name for name in file.keys() if with_training or not name.startswith(TRAINING)]  # noqa: SIM118
            tensors = {name: file.get_tensor(name).clone() for name in names}  # no longer mapped from the file
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint, or a damaged one: {error}") from None
    try:
        return Checkpoint(
            config=config_from_json(json.dumps(header["config"])),
            vocabulary=Vocabulary.from_json(header["vocabulary"]),
            weights={name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINING)},
            corpus=dict(header["corpus"]),
            metrics=dict(header["metrics"]),
            training={name.removeprefix(TRAINING): t for name, t in tensors.items() if name.startswith(TRAINING)},
            progress=dict(header["progress"]),
        )
    except (ConfigError, CheckpointError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: a damaged checkpoint: {error}") from None


def _header(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    if not metadata or "charrnn" not in metadata:
        raise CheckpointError(f"{path}: a safetensors file, but not a checkpoint of charrnn's")
    header = json.loads(metadata["charrnn"])
    if not isinstance(header, dict) or not isinstance(header.get("format"), int):
        raise CheckpointError(f"{path}: a damaged checkpoint: its header has no format number")
    if header["format"] > FORMAT:
        raise CheckpointError(
            f"{path}: format {header['format']}, written by charrnn {header.get('charrnn')}; this is charrnn "
            f"{__version__}, which reads up to format {FORMAT}; install a newer one"
        )
    return header


def _flush_folder(folder: Path) -> None:
    """Fsync a folder, so that a power cut cannot undo a renaming in it. Windows has no handle of a folder to flush."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
