"""Where a run stands, as its checkpoint says it: read strictly, since a file is not to be trusted."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from charrnn.errors import CheckpointError

Count = Annotated[int, Field(ge=0, le=2**53)]
"""Exact as a float too, since shares of a budget are."""

Amount = Annotated[float, Field(ge=0)]


class _Strict(BaseModel):
    """No number for a text, no truth value for a number, nothing infinite. What a newer charrnn adds is ignored."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class Evaluated(_Strict):
    """The model of a step, and its validation loss."""

    step: Count
    nats_per_char: Amount


class PlacementRecord(_Strict):
    """What decides the last bits of the numbers; those that are None were not recorded."""

    device: str
    engine: Literal["reference", "written", "torch", "compiled"]
    dtype: Literal["float32", "bfloat16", "float64"]
    build: str | None = None
    """Of engine compiled."""
    torch: str | None = None
    threads: Count | None = None


class PositionRecord(_Strict):
    """The next window: see `charrnn.text.minibatches.Position`."""

    epoch: Count
    index: Count


class TallyRecord(_Strict):
    """The sums since the last report: see `charrnn.training.session.Tally`."""

    nats: Amount
    characters: Count
    steps: Count
    clipped: Count
    seconds: Amount
    last_norm: Amount


class WatchRecord(_Strict):
    """What the loss was lately: see `charrnn.training.divergence.Watch`."""

    first: Amount | None = None
    mean: Amount = 0.0
    spread: Amount = 0.0
    reports: Count = 0
    lowest: Amount | None = None
    last: Amount | None = None
    high: Count = 0
    high_since: Count = 0
    jumped_at: Count | None = None


class SessionRecord(_Strict):
    """All of a session but its tensors. What has a default is missing in checkpoints of earlier versions."""

    step: Count
    position: PositionRecord
    seconds: Amount
    best_nats_per_char: Amount | None
    best_step: Count | None = None
    kept: list[Evaluated] = []
    """Of `training.keep`, the oldest first."""
    since_best: Count = 0
    """Evaluations since the best one."""
    end: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the budget, see `charrnn.training.session.Session`."""
    good_step: Count | None = None
    """Of the last state that was taken for good, which is in good.safetensors."""
    rollbacks: Count = 0
    evaluation_seconds: Amount = 0.0
    watch: WatchRecord = WatchRecord()
    tally: TallyRecord
    written: dict[str, Count]
    """Bytes of each log; what a resumed run finds beyond them is cut off."""
    placement: PlacementRecord

    @classmethod
    def read(cls, stored: dict[str, Any]) -> "SessionRecord":
        """The progress in a checkpoint. Raises CheckpointError that names what is missing or of another kind."""
        try:
            return cls.model_validate(stored)
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors()[:5]]
            raise CheckpointError(
                f"the checkpoint cannot be gone on from: progress.{'; '.join(problems)[:500]}"
            ) from None


def retained(evaluated: Iterable[Evaluated], keep: int, keep_by: Literal["best", "newest"]) -> list[Evaluated]:
    """Those `keep` models that stay, the oldest first; of two equally good ones the older."""
    by_step = sorted({one.step: one for one in evaluated}.values(), key=lambda one: one.step)
    if keep_by == "newest":
        return by_step[len(by_step) - keep :] if keep < len(by_step) else by_step
    chosen = sorted(by_step, key=lambda one: one.nats_per_char)[:keep]
    return sorted(chosen, key=lambda one: one.step)
