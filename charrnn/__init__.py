"""charrnn: character-level recurrent language models, trained and sampled from the command line or from Python.

The way of the data is the order of the packages:

    text       characters -> ids -> (T, B) windows
    model      windows -> one-hot rows -> L hidden layers -> logits; the equations are in model/cells.py
    training   logits -> loss -> clip -> step -> checkpoint
    sampling   a trained model -> text again
    config     every option; errors: what can go wrong; cli: the commands

In Python:

    >>> import charrnn
    >>> model = charrnn.load("runs/20261123-101500-python")     # doctest: +SKIP
    >>> model.sample(prefix="def ", length=200, seed=1)          # doctest: +SKIP
    >>> model.evaluate("def main(): pass").bits_per_char         # doctest: +SKIP
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from charrnn.trained import Quantize, TrainedModel

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(path: "str | Path | None" = None, device: str = "cpu", quantize: "Quantize" = "none") -> "TrainedModel":
    """A trained model from a run's folder or a checkpoint file; from the newest run under runs/ if none is named.

    Of a run the best checkpoint is taken. device: cpu, cuda, cuda:1, mps, or auto. quantize: "none", "int8" or "auto",
    see TrainedModel.load. Raises charrnn.errors.CheckpointError if there is none that can be read, ConfigError for a
    device that is not to be had.
    """
    from charrnn.trained import TrainedModel

    return TrainedModel.load(Path(path) if path is not None else None, device, quantize)
