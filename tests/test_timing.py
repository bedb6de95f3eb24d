"""Calls in turn, with a clock of our own, and quartiles."""

import pytest

from gradreg._timing import Spread, in_turn, spread


def test_quartiles_are_interpolated() -> None:
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(3.0, 2.0, 4.0, 1.0)
    assert spread([1.0, 2.0]) == Spread(1.5, 1.25, 1.75, 1.0)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0, 7.0)


def test_no_values_have_no_spread() -> None:
    with pytest.raises(ValueError, match=r"^spread got no values; expected at least one\.$"):
        spread([])


def test_calls_take_turns_and_warm_rounds_do_not_count() -> None:
    calls: list[str] = []
    found = in_turn({name: lambda name=name: calls.append(name) for name in "ab"}, 2, warm=1)
    assert "".join(calls) == "ab" * 3
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 2, "b": 2}


def test_seconds_are_read_before_and_after_each_call() -> None:
    clock = iter([0.0, 100.0, 200.0, 201.0, 300.0, 350.0])
    assert in_turn({"a": lambda: None}, 2, warm=1, clock=lambda: next(clock)) == {"a": [1.0, 50.0]}


def test_slow_calls_are_counted_three_times_once_the_time_is_up() -> None:
    """The time is up in the second repeat, which does not count, and after many repeats that do."""
    now, calls = 0.0, 0

    def slow(seconds: float) -> None:
        nonlocal now, calls
        calls += 1
        now += seconds

    assert in_turn({"a": lambda: slow(7.0)}, 25, within=10.0, clock=lambda: now) == {"a": [7.0] * 3}
    assert calls == 2 + 3
    assert in_turn({"a": lambda: slow(1.0)}, 25, within=10.5, clock=lambda: now) == {"a": [1.0] * 8}
    assert in_turn({"a": lambda: slow(1.0)}, 5, within=100.0, clock=lambda: now) == {"a": [1.0] * 5}


def test_a_period_is_run_as_a_whole_and_counts_as_its_mean() -> None:
    calls: list[str] = []
    now = 0.0

    def lazy() -> None:
        nonlocal now
        calls.append("lazy")
        now += 8.0 if calls.count("lazy") % 4 == 1 else 2.0

    def other() -> None:
        nonlocal now
        calls.append("other")
        now += 1.0

    steps = {"lazy": lazy, "other": other}
    found = in_turn(steps, 2, warm=0, periods={"lazy": 4}, clock=lambda: now)
    assert found == {"lazy": [3.5, 3.5], "other": [1.0, 1.0]}
    assert calls == (["lazy"] * 4 + ["other"]) * 2
