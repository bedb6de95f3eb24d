"""How long calls take that are run in turn, in one process, so that a busy moment of the machine falls on all alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The median of some values between their first and third quartile, and the least of them.

    On a machine that others use too, the least is the nearest to what an idle one would show.
    """

    median: float
    low: float
    high: float
    least: float


def spread(values: Sequence[float]) -> Spread:
    """Median, quartiles (interpolated between neighbours) and the least of some values.

    Raises:
        ValueError: no values.

    Example:
        >>> spread([4.0, 1.0, 2.0, 3.0, 5.0])
        Spread(median=3.0, low=2.0, high=4.0, least=1.0)
    """
    if not values:
        raise ValueError("spread got no values; expected at least one.")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high, min(values))


def in_turn(
    steps: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    warm: int = 3,
    within: float = float("inf"),
    periods: Mapping[str, int] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call by name: each repeat makes every call once, in the order given.

    Args:
        steps: what is called.
        repeats: how many times each is counted.
        warm: repeats before, which do not count: the first steps allocate.
        within: seconds after which each further repeat counts, and none begins once three have (or all).
        periods: for calls whose cost comes round every k calls (a lazy penalty), that k. A repeat then makes k calls
            and counts their mean.
        clock: gives seconds; on a device that works on its own, one that waits for it first.

    Example:
        >>> list(in_turn({"sum": lambda: sum(range(9)), "nothing": lambda: None}, 5))
        ['sum', 'nothing']
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    spent, counted = 0.0, 0
    for repeat in range(warm + repeats):
        late = spent > within
        if late and counted >= min(3, repeats):
            break
        counts = late or repeat >= warm
        counted += counts
        for name, step in steps.items():
            calls = (periods or {}).get(name, 1)
            begin = clock()
            for _ in range(calls):
                step()
            elapsed = clock() - begin
            spent += elapsed
            if counts:
                seconds[name].append(elapsed / calls)
    return seconds
