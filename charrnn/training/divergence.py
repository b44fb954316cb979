"""When training has gone wrong: a figure that is no number any more, a loss that explodes, a loss that jumps.

What is found is raised as Diverged; the loop answers it by going back to the last good state.
"""

from dataclasses import dataclass

from charrnn.errors import TrainingError

_MEMORY = 20
"""Reports over which the running mean and spread of the loss reach back, and that there must be before a jump."""

_SPREADS = 10.0
"""A jump is so many mean deviations above the mean: 8 standard deviations of a normal distribution."""

_JUMP = 1.0
"""Nats per character a jump has at least, however quiet the loss was: a perplexity 2.7 times as large."""

_LASTING = 5
"""Reports in a row, one in a hundred of a run's, that a jump lasts."""

_CALM = 0.5
"""Nats per character above the lowest running mean, up to which a state is good to go back to."""


class Diverged(TrainingError):
    """Training that has gone wrong in a way that a lower learning rate may mend.

    jumped_at: the step before a jump of the loss, for it to be known again; None for other troubles.
    """

    def __init__(self, message: str, jumped_at: int | None = None) -> None:
        super().__init__(message)
        self.jumped_at = jumped_at


@dataclass
class Watch:
    """Sees the mean training loss of each report, and tells noise from ruin.

    An explosion: a loss above `explosion` times the first report's, or times ln V if that is more. What guesses
    blindly has ln V, so a network that starts from another's weights at a low loss may well pass a bad page.

    A jump: five reports in a row that are a nat and ten mean deviations above the running mean. The deviations cover
    the noise, which is large where few characters make a report; the fall of the loss in the first part of a run
    counts as deviation too, so nothing is a jump there. The nat covers late, quiet times. The five reports cover a
    hard window or the zero state at the start of an epoch. A long foreign document in a stream of one lane can still
    look like this; but it comes again at the same step when it is met with half the learning rate, and is then taken
    for what it is, as the running mean begins anew.
    """

    first: float | None = None
    """Nats per character, as are the other losses."""
    mean: float = 0.0
    spread: float = 0.0
    """Mean absolute deviation from the running mean: unlike a variance, no outlier makes it infinite."""
    reports: int = 0
    """How many the mean and the spread were made of."""
    lowest: float | None = None
    """The lowest running mean there was."""
    last: float | None = None
    """The last report's loss."""
    high: int = 0
    """How many in a row have been too high by now."""
    high_since: int = 0
    """The step before the first of them."""
    jumped_at: int | None = None
    """The step before the jump that was last rolled back."""

    def see(self, loss: float, explosion: float | None, uniform: float, start: int, step: int) -> None:
        """Take the mean loss of the steps after `start` up to `step`. uniform: ln V.

        Raises Diverged, unless `explosion` is None.
        """
        self.first = loss if self.first is None else self.first
        self.last = loss
        if explosion is not None:
            self._refuse_explosion(loss, explosion, max(self.first, uniform), step)
        if explosion is None or not self._is_high(loss):
            self.high = 0
            self._learn(loss)
            return
        self.high_since = self.high_since if self.high else start
        self.high += 1
        if self.high >= _LASTING:
            self._judge(loss, step - start, step)

    def calm(self, loss: float | None = None) -> bool:
        """Whether a loss, by default the last report's, is about as low as it has been: no sign of trouble to come.

        While a loss climbs towards an explosion, the weights are bad already, and to go back to them would be in vain.
        """
        loss = self.last if loss is None else loss
        return loss is None or self.lowest is None or loss <= self.lowest + _CALM

    def clear(self) -> None:
        """Forget a suspicion: the model has just been proven good."""
        self.high = 0

    def _is_high(self, loss: float) -> bool:
        return self.reports >= _MEMORY and loss > self.mean + max(_JUMP, _SPREADS * self.spread)

    def _refuse_explosion(self, loss: float, explosion: float, beginning: float, step: int) -> None:
        if loss > explosion * beginning:
            raise Diverged(
                f"the training loss exploded to {loss:.4g} nats/char by step {step:,}, above {explosion:g} times the "
                f"{beginning:.4g} where it began"
            )

    def _learn(self, loss: float) -> None:
        """Running averages, over all reports at first and then over about the last _MEMORY."""
        self.reports += 1
        weight = 1 / min(self.reports, _MEMORY)
        deviation = abs(loss - self.mean) if self.reports > 1 else 0.0
        self.mean += weight * (loss - self.mean)
        self.spread += weight * (deviation - self.spread)
        self.lowest = self.mean if self.lowest is None else min(self.lowest, self.mean)

    def _judge(self, loss: float, interval: int, step: int) -> None:
        """Raise Diverged for a jump, unless it is the one that came at this place before."""
        if self.jumped_at is None or abs(self.high_since - self.jumped_at) > interval:
            raise Diverged(
                f"the training loss jumped from about {self.mean:.4g} to {loss:.4g} nats/char and stayed up until "
                f"step {step:,}",
                self.high_since,
            )
        self.high, self.reports, self.mean, self.spread, self.lowest = 0, 0, 0.0, 0.0, None
