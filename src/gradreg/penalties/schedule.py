"""When a penalty is taken: every so many steps, and with a weight that rises."""

from collections.abc import Callable
from dataclasses import dataclass

from gradreg import _checks

Factor = Callable[[int], float]
"""From the number of a step, counted from 0, to what multiplies the weight at that step."""


@dataclass(frozen=True)
class Ramp:
    """A factor of the weight that moves in a straight line: ``start`` at step ``begin``, ``end`` after ``steps`` more.

    Args:
        steps: number of steps that the change takes, at least 1.
        start, end: the factor before and after, each >= 0.
        begin: the step at which the change begins, counted from 0.

    Raises:
        ValueError: numbers out of these ranges.

    Example:
        >>> gr.SpectReg(0.03, ramp=gr.Ramp(1000))                         # from 0 to 0.03 in 1000 steps
        >>> gr.SpectReg(0.03, ramp=gr.Ramp(500, start=1, end=0, begin=2000))    # and away again
    """

    steps: int
    start: float = 0.0
    end: float = 1.0
    begin: int = 0

    def __post_init__(self) -> None:
        _checks.positive_integer(self.steps, "steps", "Ramp")
        _checks.not_negative(self.start, "start", "Ramp")
        _checks.not_negative(self.end, "end", "Ramp")
        if self.begin != 0:
            _checks.positive_integer(self.begin, "begin", "Ramp")

    def __call__(self, step: int) -> float:
        """The factor at a step."""
        done = min(1.0, max(0.0, (step - self.begin) / self.steps))
        return self.start + (self.end - self.start) * done


@dataclass(frozen=True)
class Schedule:
    """When a penalty is taken, on how many examples, and how its weight moves.

    Every k steps with k times the weight, or on a part of each batch, the penalty has the same expectation as at every
    step on all of it.

    Args:
        every: steps from one to the next; step 0 has one.
        fraction: part of the batch, drawn anew each time.
        ramp: factor of the weight by step; a number n stands for ``Ramp(n)``.
        owner: named in error messages.

    Raises:
        TypeError, ValueError: see the checks of each.

    Example:
        >>> [Schedule(every=4).factor(step) for step in range(5)]
        [4.0, 0.0, 0.0, 0.0, 4.0]
    """

    every: int = 1
    fraction: float = 1.0
    ramp: Factor | int | None = None
    owner: str = "Schedule"

    def __post_init__(self) -> None:
        _checks.positive_integer(self.every, "every", self.owner)
        _checks.part(self.fraction, "fraction", self.owner)
        if isinstance(self.ramp, int):
            object.__setattr__(self, "ramp", Ramp(self.ramp))
        if self.ramp is not None and not callable(self.ramp):
            raise TypeError(
                f"{self.owner} got ramp={self.ramp!r}; expected a number of steps, gr.Ramp(1000), or a function from "
                "the step to a factor of the weight."
            )

    def factor(self, step: int | None) -> float:
        """What multiplies the weight at a step; 0 where the penalty is left out, 1 where there is no step to speak of.

        Raises:
            ValueError: a ramp that returned something negative or not finite.
        """
        if step is None:
            return 1.0
        if step % self.every:
            return 0.0
        if self.ramp is None:
            return float(self.every)
        assert callable(self.ramp)
        rise = float(self.ramp(step))
        _checks.not_negative(rise, f"ramp({step})", self.owner)
        return self.every * rise

    def __str__(self) -> str:
        shown = {"every": (self.every, 1), "fraction": (self.fraction, 1.0), "ramp": (self.ramp, None)}
        return ", ".join(f"{name}={value!r}" for name, (value, usual) in shown.items() if value != usual)
