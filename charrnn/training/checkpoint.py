"""One safetensors file holds all there is to know of a model, and of the run that makes it. Nothing is pickled.

Tensors: the weights under the network's own names (`rnn.weight_ih_l0`, `readout.weight`, ...); under `training/`, in
a checkpoint that training can go on from, the optimizer's moments, the random state and the carried hidden state.
Metadata, as JSON under `charrnn`: format number, charrnn's version, the resolved configuration, the vocabulary, what
the text was, the metrics so far, and under `progress` the counters and the position in the data. Beside it two
checksums: of the model with that JSON, and of the training state, so that sampling need not read the latter.

A file is not trusted: whatever is in it, reading it gives a Checkpoint or a CheckpointError, and takes no more memory
than in proportion to its size.
"""

import hashlib
import json
import math
import stat
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
from charrnn.training.runs import write_whole

FORMAT = 3
"""Raised by one whenever an older charrnn could not read the file rightly, or a newer one expects more of it.

1: without checksums. 2: with them. 3: the weights may be averages, with the network's own among the training state."""

TRAINING = "training/"
"""Prefix of the tensors that only training needs."""

_LONGEST_HEADER = 1 << 24
"""Characters of the JSON. A vocabulary of all of Unicode takes 13 million."""

_MOST_CONTAINERS = 10_000
"""Brackets that the JSON may open; ours opens some twenty. Empty lists grow twentyfold in memory when read."""


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
        with torch.device("meta"):  # a configuration may ask for more than the machine has
            wanted = {
                name: tuple(p.shape) for name, p in CharRNN(self.config.model, self.vocabulary.size).named_parameters()
            }
        found = {name: tuple(tensor.shape) for name, tensor in self.weights.items()}
        for name in sorted(wanted.keys() | found.keys()):
            shapes = [side.get(name, "nothing") for side in (wanted, found)]
            if shapes[0] != shapes[1]:
                raise CheckpointError(
                    f"the weights do not fit the model: {name[:100]}: expected {shapes[0]}, got {shapes[1]}"
                )
        network = CharRNN(self.config.model, self.vocabulary.size).to(_checked_dtype(self.weights))
        network.load_state_dict(self.weights)
        network.by_equations = self.config.training.engine == "reference"
        return network.to(device)


def _checked_dtype(weights: Mapping[str, Tensor]) -> torch.dtype:
    """The one precision of a network's weights. Raises CheckpointError for mixed ones, and for what is no number."""
    dtypes = {tensor.dtype for tensor in weights.values()}
    if dtypes not in ({torch.float32}, {torch.float64}):
        shown = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise CheckpointError(f"the weights are damaged: expected floating point numbers of 32 or 64 bits, got {shown}")
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"the weights are damaged: {name} holds what is no finite number")
    return dtypes.pop()


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all; what stood under the name stays until the new file is on the disk.

    Raises CheckpointError where the file system refuses, or for weights that could not be loaded again.
    """
    weights = {name: _plain(tensor) for name, tensor in checkpoint.weights.items()}
    training = {TRAINING + name: _plain(tensor) for name, tensor in checkpoint.training.items()}
    try:
        _checked_dtype(weights)
        header = _to_header(checkpoint)
        model_sum = _checksum(header, weights)
        metadata = {"charrnn": header, "sha256": model_sum, "sha256_training": _checksum(model_sum, training)}
        content = serialize({**weights, **training}, metadata=metadata)
    except (CheckpointError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is not written: {error}") from None
    write_whole(path, content)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _to_header(checkpoint: Checkpoint) -> str:
    header = {
        "format": FORMAT,
        "charrnn": __version__,
        "config": checkpoint.config.model_dump(mode="json"),
        "vocabulary": checkpoint.vocabulary.to_json(),
        "corpus": checkpoint.corpus,
        "metrics": checkpoint.metrics,
        "progress": checkpoint.progress,
    }
    return json.dumps(header, allow_nan=False)


def _checksum(before: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of a text of one line and of tensors: their names, types, shapes and bytes."""
    digest = hashlib.sha256(f"{before}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load(path: Path, with_training: bool = False) -> Checkpoint:
    """Read a checkpoint onto the CPU; `with_training` also the state that training goes on from.

    Raises CheckpointError for a file that is missing, damaged, no checkpoint of charrnn's, or of a newer format.
    """
    try:
        _refuse_unreadable(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            header = _read_header(metadata)
            names = [name for name in file.keys() if with_training or not name.startswith(TRAINING)]  # noqa: SIM118
            tensors = {name: file.get_tensor(name).clone() for name in names}  # no longer mapped from the file
        weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINING)}
        training = {name: tensor for name, tensor in tensors.items() if name.startswith(TRAINING)}
        _verify(header, metadata, weights, training if with_training else None)
        return _from_header(header, weights, training)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except _UNREADABLE as error:
        raise CheckpointError(f"{path}: not a checkpoint, or a damaged one: {_short(error)}") from None


def _refuse_unreadable(path: Path) -> None:
    """Raise CheckpointError that says why a file cannot be read: to safetensors one that is closed is not there.

    A pipe would keep it waiting for ever.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError("not a file")
        path.open("rb").close()
    except FileNotFoundError:
        raise CheckpointError("no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}") from None


_UNREADABLE = (
    *(OSError, SafetensorError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, OverflowError),
    MemoryError,
)
"""What safetensors, torch and json raise for files that are not theirs; RuntimeError includes RecursionError."""


def step_of(path: Path) -> int | None:
    """The step at which a checkpoint was made, from its header alone; None if there is no such file or no telling."""
    try:
        _refuse_unreadable(path)
        with safe_open(path, framework="pt") as file:
            step = _read_header(file.metadata() or {})["metrics"]["step"]
    except (CheckpointError, *_UNREADABLE):
        return None
    return step if isinstance(step, int) else None


def _read_header(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The JSON of a file's metadata. Raises CheckpointError, or ValueError or RecursionError for what is no JSON."""
    text = metadata.get("charrnn")
    if text is None:
        raise CheckpointError("a safetensors file, but not a checkpoint of charrnn's")
    if len(text) > _LONGEST_HEADER or text.count("[") + text.count("{") > _MOST_CONTAINERS:
        raise CheckpointError(f"a damaged checkpoint: its header is not to be believed ({len(text):,} characters)")
    header = json.loads(text, parse_constant=_finite, parse_float=_finite)
    number = header.get("format") if isinstance(header, dict) else None
    if type(number) is not int or number < 1:
        raise CheckpointError("a damaged checkpoint: its header has no format number")
    if number > FORMAT:
        raise CheckpointError(
            f"format {number}, written by charrnn {str(header.get('charrnn'))[:40]}; this is charrnn {__version__}, "
            f"which reads up to format {FORMAT}; install a newer one"
        )
    return dict(header)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _verify(
    header: Mapping[str, Any],
    metadata: Mapping[str, str],
    weights: dict[str, Tensor],
    training: dict[str, Tensor] | None,
) -> None:
    """Raise CheckpointError if the checksums, which files of format 1 may lack, are not those of the content."""
    expected = [metadata.get("sha256"), metadata.get("sha256_training")]
    if header["format"] == 1 and expected == [None, None]:
        return
    found = [_checksum(metadata["charrnn"], weights), expected[1]]
    if training is not None:
        found[1] = _checksum(str(found[0]), training)
    if found != expected:
        raise CheckpointError("a damaged checkpoint: its content does not fit its checksum")


def _from_header(header: Mapping[str, Any], weights: dict[str, Tensor], training: dict[str, Tensor]) -> Checkpoint:
    try:
        return Checkpoint(
            config=config_from_json(json.dumps(header["config"])),
            vocabulary=Vocabulary.from_json(header["vocabulary"]),
            weights=weights,
            corpus=dict(header["corpus"]),
            metrics=dict(header["metrics"]),
            training={name.removeprefix(TRAINING): tensor for name, tensor in training.items()},
            progress=dict(header["progress"]),
        )
    except (ConfigError, CheckpointError, *_UNREADABLE) as error:
        raise CheckpointError(f"a damaged checkpoint: {_short(error)}") from None


def _short(error: BaseException) -> str:
    """The first lines of a message that may quote megabytes of a file."""
    text = str(error) if str(error) else type(error).__name__
    return text if len(text) <= 500 else f"{text[:497]}..."
