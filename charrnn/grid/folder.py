"""A grid on disk: a folder with one of a run for each combination, and grid.json, which says what came of them."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from charrnn.config import Config, load_config
from charrnn.errors import CheckpointError, ConfigError
from charrnn.grid.combinations import Combination
from charrnn.text.dataset import Dataset, load_dataset
from charrnn.text.reading import is_stream
from charrnn.training import recipe
from charrnn.training.memory import keep_freed_memory
from charrnn.training.placement import choose_device, refuse_float64
from charrnn.training.runs import RUNS, Run, write_whole
from charrnn.training.threads import limit_threads, restored_threads

_FILE = "grid.json"


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Outcome(_Strict):
    """A run of the grid, and what came of it so far; figures are None until it is finished."""

    name: Annotated[str, Field(pattern=r"^\w[\w.+-]*$")]
    """Of its folder in the grid's."""
    values: dict[str, Any]
    """Of the varied keys."""
    status: Literal["unfinished", "finished", "failed"] = "unfinished"
    reason: str = ""
    """Why it failed."""
    nats_per_char: float | None = None
    """The best of its evaluations on the validation text."""
    best_step: int | None = None
    steps: int | None = None
    seconds: float | None = None
    chars_per_second: float | None = None
    """The median of its reports of training."""
    parameters: int | None = None
    engine: str | None = None
    precision: str | None = None


class Record(_Strict):
    """grid.json."""

    vary: list[str]
    """The dotted keys whose values differ from run to run."""
    jobs: int | None
    """Runs at a time, as --jobs said; None: as many as the machine allows."""
    texts: list[str]
    """SHA-256 of each text that is read, so that all runs read the same."""
    runs: list[Outcome]


class Grid:
    """DIR/: grid.json, grid.png, configs/<name>.yaml, and for each combination <name>/, a run with its train.log."""

    def __init__(self, folder: Path, record: Record, configs: dict[str, Config], notes: Sequence[str] = ()) -> None:
        self.folder = folder
        self.record = record
        self.configs = configs
        self.notes = notes
        """What the recipe chose, in words."""

    @classmethod
    def create(
        cls, folder: Path | None, vary: list[str], combinations: Sequence[Combination], jobs: int | None, threads: int
    ) -> "Grid":
        """A new grid in the given folder, or in runs/<date>-<time>-grid-<text>, once its texts are seen to be usable.

        threads: that each run will have. What is left to the recipe is chosen here, by one measured speed for each
        cell (alone on the machine, which several runs then share), so that runs differ in nothing but what is varied
        and what follows from it.

        Raises ConfigError if the folder holds a grid or a run already, TextError for a text that cannot be read or
        has too little to train or to validate on.
        """
        if folder is not None:  # before texts are read and machines measured
            _refuse_if_used(folder)
        configs = {one.name: one.config for one in combinations}
        outcomes = [Outcome(name=one.name, values=one.values) for one in combinations]
        texts, notes = _chosen(configs, threads)
        made = Run.new(folder, f"grid-{next(iter(texts.values()))}", "--output").folder
        grid = cls(made, Record(vary=vary, jobs=jobs, texts=list(texts), runs=outcomes), configs, notes)
        with Run(made).locked():
            _refuse_if_used(made)  # another process may have been here between the look and the lock
            (made / "configs").mkdir(exist_ok=True)
            for name, config in configs.items():
                write_whole(grid.config(name), config.to_yaml().encode())
            grid.write()
        return grid

    @classmethod
    def existing(cls, folder: Path | None) -> "Grid":
        """The grid in a folder, by default the newest of runs/. Raises CheckpointError if there is none to go on with.

        A configuration that cannot be read any more is a ConfigError, and a text that has changed is a CheckpointError
        unless all runs are finished.
        """
        path = (folder or _newest()) / _FILE
        try:
            record = Record.model_validate_json(path.read_bytes())
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}; name the folder of a grid") from None
        except ValidationError as error:
            raise CheckpointError(f"{path}: a damaged grid: {error.errors()[0]['msg']}") from None
        grid = cls(path.parent, record, {})
        grid.configs = {run.name: load_config(grid.config(run.name)) for run in record.runs}
        if grid.unfinished() and _fingerprints(grid.configs) != record.texts:
            raise CheckpointError(f"{grid.folder}: its text has changed since it began (its SHA-256 differs)")
        return grid

    def config(self, name: str) -> Path:
        """The configuration that a run is started with."""
        return self.folder / "configs" / f"{name}.yaml"

    def run(self, name: str) -> Run:
        """The run of a combination."""
        return Run(self.folder / name)

    def log(self, name: str) -> Path:
        """What a run says while it trains."""
        return self.folder / name / "train.log"

    @property
    def picture(self) -> Path:
        """What came of all runs, drawn."""
        return self.folder / "grid.png"

    def unfinished(self) -> list[str]:
        """The names of the runs that are still to be trained, those that failed among them."""
        return [run.name for run in self.record.runs if run.status != "finished"]

    def count(self, status: str) -> int:
        """How many runs are `unfinished`, `finished` or `failed`."""
        return sum(run.status == status for run in self.record.runs)

    def note(self, name: str, **changes: Any) -> None:
        """Write down what came of a run."""
        runs = [run.model_copy(update=changes) if run.name == name else run for run in self.record.runs]
        self.record = self.record.model_copy(update={"runs": runs})
        self.write()

    def write(self) -> None:
        """Write grid.json. Raises CheckpointError where the file system refuses."""
        write_whole(self.folder / _FILE, (self.record.model_dump_json(indent=1) + "\n").encode())


def _refuse_if_used(folder: Path) -> None:
    if (folder / _FILE).exists():
        raise ConfigError(f"{folder} holds a grid already; --resume goes on with it, --output DIR names another")


def _chosen(configs: dict[str, Config], threads: int) -> tuple[dict[str, str], list[str]]:
    """Choose what the configurations leave open. The names of the texts by their SHA-256, and what was chosen."""
    keep_freed_memory()  # as the runs will
    texts, notes, speeds = {}, dict[str, None](), dict[Hashable, float]()
    several = len({config.model.cell for config in configs.values()}) > 1
    for dataset, names in _datasets(configs):
        texts[dataset.fingerprint] = dataset.name
        for name in names:
            config = configs[name]
            with restored_threads():
                limit_threads(min(threads, config.training.threads or threads))
                device = choose_device(config.training.device)
                refuse_float64(device, config.training.precision == "float64")
                configs[name], note = recipe.follow(config, dataset, device, speeds)
            if note:
                notes[f"{config.model.cell}: {note}" if several else note] = None
    return texts, list(notes)


def _fingerprints(configs: Mapping[str, Config]) -> list[str]:
    """The SHA-256 of each text, several of which may be cut from one differently."""
    return list(dict.fromkeys(dataset.fingerprint for dataset, _ in _datasets(configs)))


def _datasets(configs: Mapping[str, Config]) -> Iterator[tuple[Dataset, list[str]]]:
    """Each text once, with the names of its runs. Raises ConfigError or TextError for one no grid can be run on."""
    sharing: dict[str, list[str]] = {}
    for name, config in configs.items():
        sharing.setdefault(repr(config.corpus), []).append(name)
    for names in sharing.values():
        corpus = configs[names[0]].corpus
        for source in filter(is_stream, corpus.sources):
            raise ConfigError(
                f"corpus.source {source}: a grid reads its text once for each run; put it into a file, name that"
            )
        dataset = load_dataset(corpus)
        for split in ("training", "validation"):
            dataset.split(split)
        yield dataset, names


def _newest() -> Path:
    """The grid under runs/ that was written last. Raises CheckpointError if there is none."""
    files = list(RUNS.glob(f"*/{_FILE}"))
    if not files:
        raise CheckpointError(f"no grid in {RUNS}/ of this folder; `charrnn grid` makes one, or name it with --output")
    return max(files, key=lambda path: path.stat().st_mtime).parent
