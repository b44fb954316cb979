"""A trained model as one object, for Python and for the commands that take a checkpoint."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from charrnn.config import Config
from charrnn.errors import ConfigError, TextError
from charrnn.model.network import CharRNN
from charrnn.model.stepper import require_quantizable, worth_quantizing
from charrnn.sampling.choosing import Choosing
from charrnn.sampling.generation import generate
from charrnn.text.dataset import Dataset, SplitName, fingerprint_of, read_again, utf8_length, where_it_was
from charrnn.text.reading import is_stream
from charrnn.text.vocabulary import Ids, OnUnknown, Vocabulary, utf8_of
from charrnn.training import checkpoint
from charrnn.training.dynamic import Adaptation
from charrnn.training.evaluation import Evaluation, evaluate, quick_lanes
from charrnn.training.placement import choose_device, refuse_float64
from charrnn.training.protocols import Protocols
from charrnn.training.runs import find_checkpoint

__all__ = ["QUANTIZATION_TOLERANCE", "Quantize", "TrainedModel"]

Quantize = Literal["none", "int8", "auto"]

QUANTIZATION_TOLERANCE = 0.003
"""Nats per character."""

_QUANTIZATION_CHARACTERS = 20_000
"""Of the validation text, enough to tell such a difference: both ways of sampling read the very same characters."""

_MOST_SAMPLES = 100_000
"""Texts drawn as one batch: each takes 4 kB of random numbers, and logits and a state."""

_MOST_CHARACTERS = 100_000_000
"""Of a batch: their ids take 8 bytes each until the last is drawn."""


@dataclass(frozen=True)
class TrainedModel:
    """A network in evaluation mode with its vocabulary and where it came from. `charrnn.load` makes one."""

    path: Path
    network: CharRNN
    vocabulary: Vocabulary
    config: Config
    metrics: dict[str, Any]
    """Step, epoch, seconds and losses when the checkpoint was written."""
    corpus: dict[str, Any]
    """Name, length and fingerprint of the text it was trained on."""
    quantized: bool = False
    """Whether it samples and is evaluated with int8 weights."""
    quantization: str = ""
    """What `quantize="auto"` came to, in words."""

    @classmethod
    def load(cls, path: Path | None = None, device: str = "cpu", quantize: Quantize = "none") -> "TrainedModel":
        """The model of a run's folder, a checkpoint file, or of the newest run, on cpu, cuda, mps, or auto.

        Raises CheckpointError, or ConfigError for a device that is not to be had.
        quantize: "int8" takes int8 weights in the hidden layers, several times as fast where these are large; raises
        ConfigError where they cannot be had. "auto" takes them where that is faster and they move the loss of
        the run's own validation text by less than QUANTIZATION_TOLERANCE.
        """
        _require("quantize", quantize, get_args(Quantize))
        place = choose_device(str(device))
        found = find_checkpoint(path)
        stored = checkpoint.load(found)
        refuse_float64(place, stored.config.training.precision == "float64")
        network = stored.network(place).eval().requires_grad_(False)
        model = cls(found, network, stored.vocabulary, stored.config, stored.metrics, stored.corpus)
        if quantize == "int8":
            require_quantizable(network)
            return replace(model, quantized=True)
        return model._quantized_if_harmless() if quantize == "auto" else model

    def _quantized_if_harmless(self) -> "TrainedModel":
        recurrent = sum(weights.weight_hh.numel() for weights in self.network.rnn.layers())
        least = worth_quantizing(self.network)
        if recurrent < least:
            return replace(
                self, quantization=f"float32 weights: {recurrent:,} of W_hh, and int8 is faster from {least:,} on"
            )
        try:
            require_quantizable(self.network)
            if any(is_stream(source) for source in self.config.corpus.sources):
                raise TextError("its text came through a pipe, so there is none to measure what int8 would cost")
            ids = self._own_text("validation").split("validation")[:_QUANTIZATION_CHARACTERS]
            lanes = quick_lanes(len(ids))
            before, after = (
                evaluate(self.network, self.vocabulary, ids, lanes=lanes, quantized=quantized).nats_per_char
                for quantized in (False, True)
            )
        except (ConfigError, TextError) as error:
            return replace(self, quantization=f"float32 weights: {error}")
        harmless = after - before < QUANTIZATION_TOLERANCE
        figures = f"int8 moves the loss of {len(ids):,} characters of the validation text by {after - before:+.4f} nats"
        return replace(self, quantized=harmless, quantization=f"{'int8' if harmless else 'float32'} weights: {figures}")

    def sample(
        self,
        prefix: str = "",
        length: int = 500,
        temperature: float = 1.0,
        seed: int = 0,
        *,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        on_unknown: OnUnknown = "error",
    ) -> str:
        """The prefix and `length` characters (bytes, at level "byte") that follow it; the same seed, the same text.

        temperature 0 is greedy. on_unknown: what becomes of a character of the prefix that the model does not know.
        Raises TextError for such a character, ConfigError for options out of range.
        """
        how = Choosing(temperature, top_k, top_p, min_p)
        return prefix + "".join(self.stream(prefix, length, how, seed, on_unknown=on_unknown))

    def samples(
        self,
        count: int,
        prefix: str = "",
        length: int = 500,
        how: Choosing | None = None,
        seed: int = 0,
        on_unknown: OnUnknown = "error",
    ) -> list[str]:
        """`count` texts drawn as one batch, each the prefix and what follows; the first is what `sample` gives."""
        columns = self._columns(count, prefix, length, how, seed, on_unknown)
        return [prefix + self.vocabulary.decode(column) for column in columns]

    def samples_bytes(
        self, count: int, prefix: str, length: int, how: Choosing | None, seed: int, on_unknown: OnUnknown = "error"
    ) -> list[bytes]:
        """The same in UTF-8, or at level "byte" the very bytes drawn."""
        columns = self._columns(count, prefix, length, how, seed, on_unknown)
        beginning = utf8_of(prefix, "prefix")
        return [beginning + self.vocabulary.decode_bytes(column) for column in columns]

    def stream(
        self,
        prefix: str = "",
        length: int = 500,
        how: Choosing | None = None,
        seed: int = 0,
        on_unknown: OnUnknown = "error",
    ) -> Iterator[str]:
        """What follows the prefix, piece by piece as it is drawn; joined, what `sample` gives after the prefix."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for piece in self.stream_bytes(prefix, length, how, seed, on_unknown):
            yield decoder.decode(piece)
        yield decoder.decode(b"", final=True)

    def stream_bytes(
        self, prefix: str, length: int, how: Choosing | None, seed: int, on_unknown: OnUnknown = "error"
    ) -> Iterator[bytes]:
        """The same in UTF-8, or at level "byte" the very bytes drawn. Options are checked at once."""
        drawn = self.ids(prefix, length, how, seed, on_unknown=on_unknown)
        return (self.vocabulary.decode_bytes(ids_T1[:, 0]) for ids_T1 in drawn)

    def _columns(
        self, count: int, prefix: str, length: int, how: Choosing | None, seed: int, on_unknown: OnUnknown
    ) -> Ids:
        if count < 1:
            raise ConfigError(f"samples = {count}: expected a whole number of 1 or more")
        if count > _MOST_SAMPLES or count * length > _MOST_CHARACTERS:
            raise ConfigError(
                f"samples = {count} of length = {length}: expected at most {_MOST_SAMPLES:,} texts and "
                f"{_MOST_CHARACTERS:,} characters in all, which are held in memory; draw fewer, with several seeds"
            )
        drawn = self.ids(prefix, length, how, seed, range(count), on_unknown)
        ids_BT: Ids = np.concatenate([np.empty((0, count), np.int64), *drawn]).T.astype(self.vocabulary.dtype)
        return ids_BT

    def ids(
        self,
        prefix: str | bytes,
        length: int,
        how: Choosing | None = None,
        seed: int = 0,
        lanes: "range | list[int]" = range(1),
        on_unknown: OnUnknown = "error",
    ) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
        """(T, B) ids, `length` rows in all: the drawn characters of all lanes, as numbers."""
        if length < 0:
            raise ConfigError(f"length = {length}: expected a whole number of 0 or more")
        if not 0 <= seed < 2**63:
            raise ConfigError(f"seed = {seed}: expected a whole number from 0 to 2**63 - 1")
        _require("on_unknown", on_unknown, get_args(OnUnknown))
        prompt = self.vocabulary.encode(prefix, on_unknown, what="prefix")
        return generate(self.network, self.vocabulary, prompt, length, how, seed, lanes, self.quantized)

    def evaluate(
        self,
        text: str | bytes,
        lanes: int = 1,
        *,
        window: int | None = None,
        dynamic: Adaptation | bool = False,
        tune_temperature: bool = False,
    ) -> Evaluation:
        """How well the model predicts a text of at least two characters: see `charrnn.training.evaluation`.

        Characters it does not know are read and scored as the unknown character, and counted. What is asked for beside
        stands apart from the model's own figures: window: `.windowed`, of windows of so many steps that start from
        zero; dynamic: `.dynamic`, of weights that learn from the text, see `charrnn.training.dynamic`;
        tune_temperature: `.tempered`, at the softmax temperature that suits the run's validation text best. The last
        two read the text the model was trained on again, and raise TextError if it is gone.
        """
        protocols = self._protocols(lanes, window, dynamic, tune_temperature)
        own = self._own_text() if protocols.needs_own_text else None
        ids = self.vocabulary.encode(text, on_unknown="replace")
        return self._evaluate_ids(ids, lanes, utf8_length(text, 1, len(text)), protocols, own)

    def evaluate_split(
        self,
        split: SplitName,
        lanes: int = 1,
        *,
        window: int | None = None,
        dynamic: Adaptation | bool = False,
        tune_temperature: bool = False,
        source: str | None = None,
    ) -> Evaluation:
        """The same for a split of the text the model was trained on, read again from where it was.

        source: where it is now, if it was moved. Of the validation split the temperature suits the very text it was
        chosen by. Raises TextError if that text is gone or is no longer the same.
        """
        _require("split", split, get_args(SplitName))
        protocols = self._protocols(lanes, window, dynamic, tune_temperature)
        own = self._own_text(split, source)
        return self._evaluate_ids(own.split(split), lanes, own.predicted_bytes[split], protocols, own)

    def _protocols(
        self, lanes: int, window: int | None, dynamic: Adaptation | bool, tune_temperature: bool
    ) -> Protocols:
        adaptation = dynamic if isinstance(dynamic, Adaptation) else Adaptation() if dynamic else None
        protocols = Protocols(window, adaptation, tune_temperature)
        protocols.require(lanes, self.quantized, self.network.by_equations)
        return protocols

    def was_trained_on(self, text: str | bytes) -> bool:
        """Whether a text is the one of which a part trained the model."""
        return fingerprint_of(text) == self.corpus.get("sha256")

    def _own_text(self, split: SplitName | None = None, source: str | None = None) -> Dataset:
        """The text the model was trained on, a split of which is to be evaluated, or which is needed beside another."""
        corpus = self.config.corpus if source is None else self.config.corpus.model_copy(update={"source": source})
        dataset = read_again(corpus, self.vocabulary)
        if dataset.fingerprint != self.corpus.get("sha256"):
            raise TextError(
                f"{dataset.name} is not the text that {self.path} was trained on (its SHA-256 differs), so "
                + "; ".join(
                    [
                        f"its {split} split would not be held out"
                        if split
                        else "dynamic and tune_temperature, which need that text, are not to be had",
                        *where_it_was(corpus),
                        "--text FILE evaluates any text" if split else "without them any text can be evaluated",
                    ]
                )
            )
        return dataset

    def _evaluate_ids(
        self, ids: Ids, lanes: int, num_bytes: int, protocols: Protocols, own: Dataset | None
    ) -> Evaluation:
        if len(ids) < 2:
            raise TextError(f"a text of {len(ids)} characters: at least 2 are needed to predict one from another")
        if lanes < 1:
            raise ConfigError(f"lanes = {lanes}: expected a whole number of 1 or more")
        # At level "byte" a text's first character may be several ids: all but the first id are predicted.
        num_bytes = len(ids) - 1 if self.vocabulary.level == "byte" else num_bytes
        lanes = min(lanes, quick_lanes(len(ids)))
        beside = protocols.found(self.network, ids, lanes, own)
        found = evaluate(self.network, self.vocabulary, ids, lanes=lanes, num_bytes=num_bytes, quantized=self.quantized)
        return replace(found, **beside)


def _require(name: str, value: object, choices: tuple[object, ...]) -> None:
    """What a type checker would say, for those who use none."""
    if value not in choices:
        raise ConfigError(f"{name} = {value!r}: expected one of {', '.join(map(str, choices))}")
