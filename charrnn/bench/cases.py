"""What is measured: a configuration and the size of its vocabulary, and the arithmetic of its figures."""

import math
from dataclasses import dataclass

from charrnn.config import Config, ModelConfig, TrainingConfig
from charrnn.errors import ConfigError
from charrnn.model.cells import Cell
from charrnn.text.vocabulary import Vocabulary

DEFAULT_VOCABULARY = 66
"""V of tiny Shakespeare with the unknown character, a usual size for English text."""

_LARGEST_VOCABULARY = 50_000

SIZES = ((2, 128, 50, 50), (2, 256, 32, 64), (2, 512, 64, 64), (3, 1024, 32, 64))
"""The default grid: L, H, B, T. The first is the default of char-rnn and its descendants."""


@dataclass(frozen=True)
class Case:
    """One configuration to be measured with V = vocabulary.size symbols; the corpus it names is not read."""

    config: Config
    vocabulary: Vocabulary

    @property
    def label(self) -> str:
        """The case in a line."""
        model, training = self.config.model, self.config.training
        return (
            f"{model.cell} {model.num_layers}x{model.hidden_size}, batch {training.batch_size} x "
            f"{training.seq_length} steps, {self.vocabulary.size} symbols"
        )

    @property
    def characters_per_step(self) -> int:
        """B * T."""
        return self.config.training.batch_size * self.config.training.seq_length

    @property
    def gate_rows(self) -> int:
        """G * H, the rows of each of a layer's weight matrices."""
        return Cell(self.config.model.cell).gates * self.config.model.hidden_size

    @property
    def flops_per_character(self) -> int:
        """Of training: 6 for each weight that is multiplied, 2 forward, 4 backward; layer 1's one-hot product too."""
        return 6 * multiplied_weights(self.config.model, self.vocabulary.size)

    def weight_bytes(self, quantized: bool = False) -> int:
        """Bytes of weights read to draw a character in one lane: float32, or the hidden layers' in int8."""
        model, size = self.config.model, self.vocabulary.size
        hidden = touched_weights(model, size) - self.gate_rows - size * model.hidden_size
        return 4 * touched_weights(model, size) - (3 * hidden if quantized else 0)


def multiplied_weights(model: ModelConfig, vocabulary_size: int) -> int:
    """Elements of the matrices: W_xh and W_hh of each layer, W_hq.

    W_xh of layer 1 counts whole, as the book multiplies it by one-hot rows, though the fast engines gather a row. An
    embedding is a table and counts nothing; layer 1 then multiplies its vectors.
    """
    hidden_size, rows = model.hidden_size, Cell(model.cell).gates * model.hidden_size
    inputs = (model.embedding_size or vocabulary_size) + (model.num_layers - 1) * hidden_size
    return rows * (inputs + model.num_layers * hidden_size) + vocabulary_size * hidden_size


def touched_weights(model: ModelConfig, vocabulary_size: int) -> int:
    """Elements read for one character: one row for layer 1's input, W_xh of the layers above, every W_hh, W_hq."""
    hidden_size, rows = model.hidden_size, Cell(model.cell).gates * model.hidden_size
    above = (model.num_layers - 1) * hidden_size
    return rows * (1 + above + model.num_layers * hidden_size) + vocabulary_size * hidden_size


def grid(base: Config, vocabulary: Vocabulary) -> list[Case]:
    """Each cell at each of SIZES; all else, the device above all, from `base`."""
    return [Case(_resized(base, cell, *size), vocabulary) for size in SIZES for cell in ("rnn", "gru", "lstm")]


def _resized(base: Config, cell: str, num_layers: int, hidden_size: int, batch_size: int, seq_length: int) -> Config:
    model = ModelConfig.model_validate({"cell": cell, "num_layers": num_layers, "hidden_size": hidden_size})
    sizes = {"batch_size": batch_size, "seq_length": seq_length}
    training = TrainingConfig.model_validate({**base.training.model_dump(), **sizes})
    return Config(corpus=base.corpus, model=model, training=training)


def made_up_vocabulary(size: int | None, level: str) -> Vocabulary:
    """A vocabulary of `size` symbols, the unknown character among them; of the 256 bytes at level byte.

    Raises ConfigError for a size that no such vocabulary has.
    """
    if level == "byte":
        if size not in (None, 256):
            raise ConfigError(f"vocabulary = {size}: expected 256, the number of bytes, with corpus.level = byte")
        return Vocabulary("byte")
    size = DEFAULT_VOCABULARY if size is None else size
    if not 2 <= size <= _LARGEST_VOCABULARY:
        raise ConfigError(f"vocabulary = {size}: expected a whole number from 2 to {_LARGEST_VOCABULARY:,}")
    return Vocabulary("character", "".join(chr(0x21 + index) for index in range(size - 1)))


def checked_seconds(seconds: float) -> float:
    """The time for one case. Raises ConfigError if it is none."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"seconds = {seconds}: expected a number above 0, the time to spend on each case")
    return seconds
