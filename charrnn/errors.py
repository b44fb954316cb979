"""What can go wrong, as few kinds of exception as callers need to tell apart.

Each message says where, what came, what was wanted and what to do. The command line prints it without a
traceback and leaves with the kind's `exit_code`.
"""

import os
import shlex
import subprocess
import sys


class CharrnnError(Exception):
    """Any error that charrnn raises on purpose."""

    exit_code = 1


class ConfigError(CharrnnError):
    """A configuration, an option or a combination of them that cannot work."""

    exit_code = 2


def quoted(word: object) -> str:
    """A word of a command that somebody is to copy, as this system's shell takes it for one word."""
    return subprocess.list2cmdline([str(word)]) if os.name == "nt" else shlex.quote(str(word))


def missing(package: str, what: str) -> ConfigError:
    """The error where an extra is not installed: `what` needs it, and how to get it into the running Python."""
    return ConfigError(f"{what} needs {package}: {quoted(sys.executable)} -m pip install {package}")


class TextError(CharrnnError):
    """A text that cannot be read, decoded, encoded or cut into minibatches."""


class CheckpointError(CharrnnError):
    """A checkpoint or run that is missing, damaged or of another kind."""


class TrainingError(CharrnnError):
    """A training run that cannot go on, as when its loss is no longer finite."""


class Interrupted(CharrnnError):
    """A training run stopped from outside by a signal, after saving.

    `exit_code` is 128 + the signal's number, as a shell reports it: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
