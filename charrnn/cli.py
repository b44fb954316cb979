"""The commands: parse, call, print. Whatever needs torch is imported inside them, so that --help stays quick."""

import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer

from charrnn import __version__
from charrnn.errors import CharrnnError, ConfigError, TextError, quoted
from charrnn.limits import LARGE_PAGES, container_cores

if TYPE_CHECKING:
    from charrnn.bench.report import Table
    from charrnn.text.reading import Text
    from charrnn.trained import TrainedModel
    from charrnn.training.evaluation import Evaluation

app = typer.Typer(
    name="charrnn",
    help="Train character-level recurrent language models, and let them write.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
corpora_app = typer.Typer(help="Texts to train on.", no_args_is_help=True)
app.add_typer(corpora_app, name="corpora")

_debug = False


class Split(Enum):
    """Parts of a corpus that `evaluate` can read."""

    training = "training"
    validation = "validation"
    test = "test"


class OnUnknown(Enum):
    """What becomes of a prefix's characters that the model does not know."""

    error = "error"
    skip = "skip"
    replace = "replace"


class Quantize(Enum):
    """Whether hidden layers are sampled from and evaluated with int8 weights."""

    none = "none"
    int8 = "int8"
    auto = "auto"


class Axis(Enum):
    """Along which learning curves run."""

    seconds = "seconds"
    steps = "steps"
    epochs = "epochs"


class Level(Enum):
    """What one step predicts."""

    character = "character"
    byte = "byte"


def _path(said: str | Path) -> Path:
    """A path that was said: an empty one, as of a shell's variable that is not set, would mean the working folder."""
    text = os.fspath(said)  # Typer parses the members of a list twice
    if not text or "\0" in text:
        raise typer.BadParameter(f"{text!r} is no path; name a file or a folder, or leave the option out")
    return Path(text)


ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", parser=_path, metavar="FILE", help="A YAML configuration.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY=VALUE", help="Set one of the options that `charrnn config` lists; may be repeated."
    ),
]
Texts = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TEXT",
        help="Files, folders, globs, named corpora, or - for standard input.",
        show_default="the configuration's, else python",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        "-b",
        metavar="BUDGET",
        help="How long: 90s, 5m, 2h, '30 epochs', '20000 steps'; of several ('5m, 30 epochs') the first to be reached.",
        show_default="the configuration's, else 2m",
    ),
]
Model = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN|CHECKPOINT", parser=_path, help="A run's folder or a .safetensors file (default: the newest run)."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto (cuda where there is one, else cpu).")]
Quantized = Annotated[
    Quantize,
    typer.Option(
        help="int8: with int8 weights; auto: if that is faster and the validation loss rises by < 0.003 nats."
    ),
]


def main() -> None:
    """The entry point. Typer answers Ctrl-C with exit code 130 and a closed pipe (`| head`) with 1, both quietly."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console of another encoding gets \\u escapes, not a traceback
            stream.reconfigure(errors="backslashreplace")
    # PyTorch, once it is loaded, then asks Linux for large pages for large tensors: LSTM 2 x 512, 64 x 64, bfloat16,
    # forward and backward 131 -> 121 ms on 2 Zen 5 cores.
    os.environ.setdefault(LARGE_PAGES, "1")
    cores = container_cores()
    if cores is not None and cores < (os.cpu_count() or 1):  # PyTorch would take a thread for each of the machine's
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    app()


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Errors of ours, of the system and for want of memory become a message on stderr and an exit code.

    Not with --debug; and a bug keeps its traceback.
    """

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except CharrnnError as error:
            if _debug:
                raise
            _die(str(error), error.exit_code)
        except BrokenPipeError:
            raise
        except (OSError, MemoryError, RuntimeError) as error:
            known = isinstance(error, (OSError, MemoryError, RecursionError)) or "memory" in str(error)
            if _debug or not known:
                raise
            _die(f"{type(error).__name__}: {_first_line(error)} (charrnn --debug ... shows where)", 1)

    return run


def _first_line(error: Exception) -> str:
    line = str(error).partition("\n")[0]
    if isinstance(error, MemoryError) or "memory" in line:
        return f"{line or 'out of memory'}; a smaller model, batch, window or text, or fewer samples, take less"
    return line


def _print(name: object) -> None:
    """A line on stdout with a name in it, which on a terminal shall not take it over."""
    from charrnn.text.reading import shown

    # Without `color`, what looks like a colour is cut out.
    typer.echo(shown(str(name)) if _on_terminal(sys.stdout) else name, color=True)


def _on_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads it; one that is closed (`>&-`) is None."""
    return stream is not None and stream.isatty()


def _die(message: str, code: int) -> NoReturn:
    from charrnn.text.reading import shown

    for line in message.splitlines():
        # A name in it may hold what would take over a terminal.
        typer.echo(f"charrnn: {shown(line)}", err=True)
    sys.exit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"charrnn {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version
    global _debug
    _debug = debug


@app.command()
@_command
def train(
    texts: Texts = None,
    config: ConfigFile = None,
    settings: Settings = None,
    budget: Budget = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=_path, help="Folder for the run (default: a new one, runs/DATE-TIME-TEXT)."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in DIR (default: the newest).")] = False,
    init_from: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN|CHECKPOINT",
            parser=_path,
            help="Start from another model's weights and vocabulary; TEXT says what to train on.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, measure, and stop.")] = False,
) -> None:
    """Train a model. Messages go to stderr; stdout gets the run's folder."""
    if resume:
        given = {"TEXT": texts, "--config": config, "--init-from": init_from, "--dry-run": dry_run}
        _refuse_with_resume([name for name, value in given.items() if value])
        from charrnn.training import loop
        from charrnn.training.reporting import make_view

        _print(loop.resume(make_view(), run, settings or [], budget).folder)
        return
    from charrnn.config import is_configuration, load_config

    if texts and len(texts) == 1 and config is None and is_configuration(texts[0]):
        raise ConfigError(f"{texts[0]} is a configuration, not a text: charrnn train --config {quoted(texts[0])}")
    base = _base_of(init_from) if init_from else None
    flags = {"corpus.source": texts or None, "training.budget": budget}
    resolved = load_config(config, settings or (), flags, base)
    from charrnn.training import loop, planning
    from charrnn.training.reporting import make_view

    view = make_view()
    if not dry_run:
        _print(loop.train(resolved, view, run, init_from).folder)
        return
    if run is not None:
        raise ConfigError("--dry-run writes nothing, so it goes without --run")
    for label, text in planning.dry_run(loop.prepare(resolved, init_from)):
        view.say(label, text)


def _refuse_with_resume(given: list[str]) -> None:
    if given:
        raise ConfigError(f"--resume goes on with a run as it is; it cannot be combined with {', '.join(given)}")


def _base_of(init_from: Path) -> Any:
    """The defaults, with the model section of a checkpoint, but for what is in no weight, and its level."""
    from charrnn.config import IN_NO_WEIGHT, Config, CorpusConfig, ModelConfig
    from charrnn.training import checkpoint
    from charrnn.training.runs import find_checkpoint

    stored = checkpoint.load(find_checkpoint(init_from)).config
    model = ModelConfig(**stored.model.model_dump(exclude=set(IN_NO_WEIGHT)))
    return Config(model=model, corpus=CorpusConfig(level=stored.corpus.level))


@app.command()
@_command
def sample(
    model: Model = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", "-p", help="What the text begins with; else nothing.")
    ] = None,
    prefix_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Read the prefix from a UTF-8 file, or - for stdin.")
    ] = None,
    length: Annotated[
        int, typer.Option("--length", "-n", help="Characters (bytes, at level byte) to draw after the prefix.")
    ] = 500,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="Divides the logits: below 1 safer, above 1 wilder, 0 greedy.")
    ] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Only the K most probable characters.")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Nucleus sampling: only the most probable characters whose probabilities sum to P."),
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Only characters at least P times as probable as the most probable one.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same text; else a new one each time.")] = None,
    samples: Annotated[int, typer.Option("--samples", "-N", help="How many texts, drawn as one batch.")] = 1,
    separator: Annotated[
        str, typer.Option(help="Printed between several texts.", show_default="----- between empty lines")
    ] = "\n\n-----\n\n",
    on_unknown: Annotated[
        OnUnknown, typer.Option(help="What becomes of a prefix's characters the model does not know.")
    ] = OnUnknown.error,
    quantize: Quantized = Quantize.none,
    device: Device = "cpu",
) -> None:
    """Print the prefix and what the model writes after it, and nothing else, on stdout."""
    if prefix is not None and prefix_file is not None:
        raise ConfigError("--prefix and --prefix-file: only one of them")
    if samples < 1:
        raise ConfigError(f"samples = {samples}: expected a whole number of 1 or more")
    beginning = _read_prefix(prefix_file) if prefix_file is not None else prefix or ""
    trained = _load(model, device, quantize)
    if prefix_file is not None and trained.config.corpus.newlines == "normalise" and trained.vocabulary.level != "byte":
        beginning = beginning.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")  # as it read its text
    from charrnn.sampling.choosing import Choosing
    from charrnn.text.vocabulary import utf8_of

    how = Choosing(temperature, top_k, top_p, min_p)
    seed = int.from_bytes(os.urandom(4), "little") if seed is None else seed
    with _stdout() as write:
        if samples > 1:
            for number, text in enumerate(
                trained.samples_bytes(samples, beginning, length, how, seed, on_unknown.value)
            ):
                write((utf8_of(separator, "separator") if number else b"") + text)
        else:
            drawn = trained.stream_bytes(beginning, length, how, seed, on_unknown=on_unknown.value)
            write(utf8_of(beginning, "prefix"))
            for piece in drawn:
                write(piece)


def _read_prefix(name: str) -> str:
    """A prefix as it stands in a UTF-8 file or on stdin: no newline is added or taken away."""
    from charrnn.text.reading import shown
    from charrnn.waiting import told_if_slow

    if name == "-" and sys.stdin is None:
        raise ConfigError("--prefix-file -: standard input is closed; pipe a text into it, or name a file")
    try:
        with (
            told_if_slow(f"the prefix {shown(name)} is being read until its end"),
            nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb") as file,
        ):
            raw = file.read(_LONGEST_PREFIX + 1)
        if len(raw) > _LONGEST_PREFIX:
            raise ConfigError(f"--prefix-file {name}: over {_LONGEST_PREFIX:,} bytes; its end will do")
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--prefix-file {name}: not UTF-8 at byte {error.start}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(f"--prefix-file {name}: {getattr(error, 'strerror', None) or error}") from None


_LONGEST_PREFIX = 1 << 24
"""Bytes of a prefix: several books. Reading it takes time and memory in proportion."""


@contextmanager
def _stdout() -> Iterator[Callable[[bytes], None]]:
    """A writer of UTF-8 to stdout: harmless and at once on a terminal, raw and buffered into a pipe or file."""
    if sys.stdout is None:
        raise ConfigError("standard output is closed, so nothing can be printed")
    if not _on_terminal(sys.stdout):

        def write_raw(piece: bytes) -> None:
            sys.stdout.buffer.write(piece)

        yield write_raw
        sys.stdout.buffer.flush()
        return
    import codecs

    from charrnn.training.reporting import harmless

    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(piece: bytes) -> None:
        sys.stdout.write(harmless(decoder.decode(piece)))
        sys.stdout.flush()

    yield write
    sys.stdout.write(harmless(decoder.decode(b"", final=True)) + "\n")


@app.command()
@_command
def evaluate(
    model: Model = None,
    split: Annotated[
        Split | None,
        typer.Option(help="Which split of the run's own text.", show_default="validation"),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Another text, whole; - for standard input. With --split, where the run's own text lies now.",
        ),
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Encoding of --text.", show_default="utf-8")] = None,
    lanes: Annotated[
        int,
        typer.Option(help="1 reads the text as one stream; up to 64 are faster, and differ by less than 0.0001 nats."),
    ] = 1,
    window: Annotated[
        int | None, typer.Option(metavar="N", help="Also in windows of N steps, each from zero state.")
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Also with weights that learn from the text after predicting it.")
    ] = False,
    dynamic_rate: Annotated[
        float | None, typer.Option(help="The learning rate of --dynamic.", show_default="0.001")
    ] = None,
    dynamic_decay: Annotated[
        float | None, typer.Option(help="How strongly --dynamic pulls back.", show_default="0.003")
    ] = None,
    tune_temperature: Annotated[
        bool, typer.Option("--tune-temperature", help="Also at the temperature that suits the validation text best.")
    ] = False,
    quantize: Quantized = Quantize.none,
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """How well a model predicts a text: every character predicted once, in order, with the state carried.

    Options that say "also" add another figure under a name of its own.
    """
    if encoding is not None and (text is None or split is not None):
        raise ConfigError("--encoding is of another text, and the run knows its own text's; it goes with --text alone")
    asked: dict[str, Any] = {
        "window": window,
        "dynamic": _adaptation(dynamic, dynamic_rate, dynamic_decay),
        "tune_temperature": tune_temperature,
    }
    if quantize is Quantize.auto and any(asked.values()):
        raise ConfigError(
            "--quantize auto: the figures that are asked for beside are of the weights as they are trained"
        )
    trained = _load(model, device, quantize)
    if text is not None and split is None:
        corpus = trained.config.corpus
        other = _read([text], corpus.level, encoding, corpus.newlines, ["encoding"])
        if trained.was_trained_on(other.content):
            typer.echo("the model was trained on this text; --split validation evaluates what was held out", err=True)
        found, kind, what = trained.evaluate(other.content, lanes, **asked), "text", other.name
    else:
        wanted = split or Split.validation
        found = trained.evaluate_split(wanted.value, lanes, source=text, **asked)
        kind, what = "split", wanted.value
    if as_json:
        record = {**found.to_json(), kind: what, "checkpoint": str(trained.path)}
        typer.echo(json.dumps(record))
    else:
        _print_evaluation(trained, found, what, on_validation=(kind, what) == ("split", "validation"))


def _adaptation(wanted: bool, rate: float | None, decay: float | None) -> Any:
    """The charrnn.training.dynamic.Adaptation that was asked for, or False."""
    given: dict[str, Any] = {name: value for name, value in (("rate", rate), ("decay", decay)) if value is not None}
    if not wanted:
        if given:
            raise ConfigError(f"--dynamic-{next(iter(given))} is of --dynamic, which was not given")
        return False
    from charrnn.training.dynamic import Adaptation

    if _on_terminal(sys.stderr):
        typer.echo("dynamic evaluation adapts the weights every few characters: a long text takes minutes", err=True)
    return Adaptation(**given)


def _as_options(text: str, *names: str) -> str:
    """What is said of reading a text, with a command's options in the place of a configuration's keys."""
    for name in names:
        text = re.sub(rf"(--set )?corpus\.{name}=", f"--{name} ", text)
    return text


def _read(texts: list[str], level: str, encoding: str | None, newlines: str, options: list[str]) -> "Text":
    """A text that is no run's; what there is to say about it goes to stderr. options: see `_as_options`."""
    from charrnn.text import corpora

    if encoding is not None and level == "byte":
        raise ConfigError(f"--encoding {encoding}: at level byte a text is taken as it is; leave the option out")
    try:
        text = corpora.load(texts, level=level, encoding=encoding or "utf-8", newlines=newlines)
    except (ConfigError, TextError) as error:
        raise type(error)(_as_options(str(error), *options)) from None
    for note in text.notes:
        typer.echo(_as_options(note, *options), err=True)
    return text


def _print_evaluation(trained: "TrainedModel", found: "Evaluation", what: str, on_validation: bool) -> None:
    _print(f"{trained.path} on {what}, {found.characters:,} characters predicted")
    rows = [
        ("nats per character", found.nats_per_char, "ln of the perplexity"),
        ("bits per character", found.bits_per_char, ""),
        ("perplexity", found.perplexity, ""),
        ("bits per byte", found.bits_per_byte, "of the text in UTF-8"),
        ("  letter frequencies alone", found.unigram_nats_per_char, "nats per character of this text's unigrams"),
        ("  knowing nothing", found.uniform_nats_per_char, "nats per character, ln V"),
    ]
    for name, value, meaning in [*rows, *_rows_apart(found, on_validation)]:
        typer.echo(f"{name:<28}{value:>9.4f}  {meaning}".rstrip())
    if found.unknown:
        typer.echo(f"{found.unknown:,} characters are unknown to the model, and are scored as one unknown character")


def _rows_apart(found: "Evaluation", on_validation: bool) -> list[tuple[str, float, str]]:
    """Nats per character by other protocols, as rows of the table."""
    rows = []
    if found.windowed is not None:
        rows.append(("in windows", found.windowed.nats_per_char, f"of {found.windowed.window} steps from zero state"))
    if found.dynamic is not None:
        how = f"segments of {found.dynamic.segment}, rate {found.dynamic.rate:g}, decay {found.dynamic.decay:g}"
        rows.append(("dynamic", found.dynamic.nats_per_char, f"weights that learn on the way: {how}"))
    if found.tempered is not None:
        own = ", which is this very text" if on_validation else ""
        how = f"temperature {found.tempered.temperature:.4f}, tuned on the validation text{own}"
        rows.append(("at another temperature", found.tempered.nats_per_char, how))
    return rows


@app.command()
@_command
def plot(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN", parser=_path, help="Runs' folders; else the newest.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", parser=_path, help="A .png, .svg or .pdf.")
    ] = Path("curves.png"),
    axis: Annotated[Axis, typer.Option(help="Along which the curves run.")] = Axis.seconds,
) -> None:
    """Draw the learning curves of runs into a file (needs matplotlib)."""
    from charrnn.insight import plotting
    from charrnn.training.runs import Run, newest_run

    plotting.plot_curves([Run(folder) for folder in runs or [newest_run()]], output, axis.value)
    _print(output)


@app.command()
@_command
def grid(
    texts: Texts = None,
    config: ConfigFile = None,
    settings: Settings = None,
    budget: Budget = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=V1,V2,...",
            help="An option of the configuration and its values; may be repeated.",
            show_default="three: cell=rnn,gru,lstm num_layers=1,2,3 hidden_size=64,128,256,512",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", parser=_path, help="Folder for the grid (default: a new one in runs/)."
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", metavar="N", help="Runs at a time (default: one a core, or one on a GPU)."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the grid in DIR (default: the newest).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Train every combination of some options' values, each as a run of its own, and compare them.

    Several run at a time, each on its share of the cores. With a budget of time
    they share the machine, so another number of --jobs gives other figures; with
    steps or epochs only the rounding changes. Ctrl-C saves all; --resume skips
    what is finished and goes on with the rest. The table goes to stdout, and into
    DIR grid.json and, with matplotlib, grid.png.
    """
    from charrnn.grid import combinations, folder, picture, report, running
    from charrnn.training.reporting import make_view, say_if_heard

    if resume:
        given = {"TEXT": texts, "--config": config, "--set": settings, "--budget": budget, "--vary": vary}
        _refuse_with_resume([name for name, value in given.items() if value])
        found = folder.Grid.existing(output)
        width = running.Width.of(found.configs.values(), found.record.jobs if jobs is None else jobs)
    else:
        flags = {"corpus.source": texts or None, "training.budget": budget}
        keys, combined = combinations.combine(vary or combinations.DEFAULT, config, settings or (), flags)
        width = running.Width.of([one.config for one in combined], jobs)
        found = folder.Grid.create(output, keys, combined, jobs, width.threads)
    say = say_if_heard(make_view())
    running.train_all(found, width, say)
    say("picture", picture.draw(found))
    if as_json:
        typer.echo(found.record.model_dump_json())
    else:
        for table in report.tables(found.record):
            _print_table(table)
    report.refuse_failed(found)


@app.command()
@_command
def bench(
    config: ConfigFile = None,
    settings: Settings = None,
    seconds: Annotated[
        float, typer.Option(help="To spend on each configuration's training; sampling takes a quarter more.")
    ] = 20.0,
    vocabulary: Annotated[
        int | None, typer.Option(help="V, the symbols of the made-up text; 66 unless given, 256 at level byte.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, mps, or auto.", show_default="the configuration's, else auto")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure training and sampling beside plain PyTorch and this machine's limits.

    One configuration if --config or --set is given, else each cell at four sizes, which takes minutes. Every
    engine is measured, and float32 and bfloat16 unless one precision is set; the corpus is not read.
    """
    from charrnn.bench import cases, machine, measuring, report
    from charrnn.config import load_config
    from charrnn.training.placement import choose_device, refuse_float64

    cases.checked_seconds(seconds)
    base = load_config(config, settings or (), {"training.device": device})
    symbols = cases.made_up_vocabulary(vocabulary, base.corpus.level)
    chosen = [cases.Case(base, symbols)] if config or settings else cases.grid(base, symbols)
    place = choose_device(base.training.device)
    refuse_float64(place, base.training.precision == "float64")
    found: dict[str, Any] = {"machine": machine.description(place, base.training.threads), "cases": []}
    if not as_json:
        typer.echo(report.machine_line(found["machine"]))
    for case in chosen:
        typer.echo(f"measuring {case.label} ...", err=True)
        found["cases"].append(measuring.measure(case, place, seconds))
        for table in [] if as_json else report.tables(found["cases"][-1], case.label):
            _print_table(table)
    if as_json:
        typer.echo(json.dumps(found))


def _print_table(table: "Table") -> None:
    """Drawn by Rich on a terminal, else in plain aligned lines."""
    if not _on_terminal(sys.stdout):
        typer.echo(f"\n{table.aligned()}")
        return
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Drawn

    drawn = Drawn(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column, heading in enumerate(table.headings):
        is_text = table.is_text(column)
        # A word a line, so that 80 columns hold the figures.
        drawn.add_column(heading if is_text else heading.replace(" ", "\n"), justify="left" if is_text else "right")
    for row in table.rows:
        drawn.add_row(*map(escape, row))
    console = Console()
    console.print(f"\n{table.title}", style="bold", markup=False, highlight=False)
    console.print(drawn)


@app.command(name="config")
@_command
def show_config(
    config: ConfigFile = None,
    settings: Settings = None,
    explain: Annotated[bool, typer.Option("--explain", help="With each option's meaning above it.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="The JSON Schema of configurations, for editors.")] = False,
) -> None:
    """Print the resolved configuration as YAML, or what can be configured as a JSON Schema."""
    from charrnn.config import json_schema, load_config

    if schema and (config or settings or explain):
        raise ConfigError("--schema is the same for every configuration; it goes without other options")
    if schema:
        typer.echo(json.dumps(json_schema(), indent=2))
        return
    text = load_config(config, settings or ()).to_yaml(explained=explain)
    if sys.stdout is None or _on_terminal(sys.stdout):
        typer.echo(text, nl=False)
    else:  # a configuration is UTF-8, whatever the locale's encoding is
        sys.stdout.buffer.write(text.encode("utf-8"))
        sys.stdout.buffer.flush()


@corpora_app.command("list")
@_command
def list_corpora() -> None:
    """The named corpora: what they are, from where, under which licence."""
    from charrnn.text import corpora

    for corpus in corpora.KNOWN.values():
        typer.echo(f"{corpus.name:<16}{corpus.description}")
        if corpus.url:
            typer.echo(f"{'':<16}{corpus.url}")
        checked = "checked by a known SHA-256" if corpus.sha256 else "its SHA-256 is recorded on the first fetch"
        typer.echo(f"{'':<16}{corpus.licence}{'; ' + checked if corpus.url else ''}")


@corpora_app.command()
@_command
def fetch(name: Annotated[str, typer.Argument(help="A named corpus; see `charrnn corpora list`.")]) -> None:
    """Download a named corpus into data/ if there is such a folder, else into your cache; print where it is."""
    from charrnn.text import corpora

    path = corpora.fetch(name, progress=_on_terminal(sys.stderr))
    typer.echo(corpora.provenance(name), err=True)
    _print(path)


@corpora_app.command()
@_command
def describe(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT", help="As for `charrnn train`.")],
    encoding: Annotated[str | None, typer.Option(help="Encoding of the files.", show_default="utf-8")] = None,
    level: Annotated[Level, typer.Option(help="Characters or bytes.")] = Level.character,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Count what is in a text: characters, lines, the rarest and the most common, the entropy."""
    from charrnn.text import corpora

    found = corpora.describe(_read(texts, level.value, encoding, "normalise", ["encoding", "level"]))
    if as_json:
        typer.echo(json.dumps(found))
        return
    for key, value in found.items():
        typer.echo(f"{key.replace('_', ' '):<32}{value}")


def _load(model: Path | None, device: str, quantize: Quantize) -> "TrainedModel":
    from charrnn.trained import TrainedModel

    trained = TrainedModel.load(model, device, quantize.value)
    if trained.quantization:
        typer.echo(trained.quantization, err=True)
    return trained
