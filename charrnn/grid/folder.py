"""A grid on disk: a folder with one of a run for each combination, and grid.json, which says what came of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from charrnn.config import Config, load_config
from charrnn.errors import CheckpointError, ConfigError
from charrnn.grid.combinations import Combination
from charrnn.text.dataset import load_dataset
from charrnn.training.runs import RUNS, Run, write_whole

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

    def __init__(self, folder: Path, record: Record, configs: dict[str, Config]) -> None:
        self.folder = folder
        self.record = record
        self.configs = configs

    @classmethod
    def create(
        cls, folder: Path | None, vary: list[str], combinations: Sequence[Combination], jobs: int | None
    ) -> "Grid":
        """A new grid in the given folder, or in runs/<date>-<time>-grid-<text>, once its texts are seen to be usable.

        Raises ConfigError if the folder holds a grid or a run already, TextError for a text that cannot be read or
        has too little to train or to validate on.
        """
        if folder is not None and (folder / _FILE).exists():
            raise ConfigError(f"{folder} holds a grid already; --resume goes on with it, --output DIR names another")
        configs = {one.name: one.config for one in combinations}
        outcomes = [Outcome(name=one.name, values=one.values) for one in combinations]
        texts = _texts(configs.values())
        made = Run.new(folder, f"grid-{next(iter(texts.values()))}").folder
        grid = cls(made, Record(vary=vary, jobs=jobs, texts=list(texts), runs=outcomes), configs)
        (made / "configs").mkdir(exist_ok=True)
        for name, config in configs.items():
            write_whole(grid.config(name), config.to_yaml().encode())
        grid.write()
        return grid

    @classmethod
    def existing(cls, folder: Path | None) -> "Grid":
        """The grid in a folder, by default the newest of runs/. Raises CheckpointError if there is none to go on with.

        A configuration that was changed is a ConfigError, a text a CheckpointError, unless all runs are finished.
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
        if grid.unfinished() and list(_texts(grid.configs.values())) != record.texts:
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


def _texts(configs: Iterable[Config]) -> dict[str, str]:
    """The names of the texts by their SHA-256. Raises ConfigError or TextError for one that no grid can be run on."""
    names = {}
    for corpus in {config.corpus.model_dump_json(): config.corpus for config in configs}.values():
        if "-" in corpus.sources:
            raise ConfigError("corpus.source -: a grid reads its text once for each run; put it into a file, name that")
        dataset = load_dataset(corpus)
        for split in ("training", "validation"):
            dataset.split(split)
        names[dataset.fingerprint] = dataset.name
    return names


def _newest() -> Path:
    """The grid under runs/ that was written last. Raises CheckpointError if there is none."""
    files = list(RUNS.glob(f"*/{_FILE}"))
    if not files:
        raise CheckpointError(f"no grid in {RUNS}/ of this folder; `charrnn grid` makes one, or name it with --output")
    return max(files, key=lambda path: path.stat().st_mtime).parent
