"""What the examples print: each seed, means, and the difference paired by seed."""

from statistics import mean, stdev


def summarize(found: dict[str, list[float]], *, points: str = "test", note: str = "") -> None:
    """Prints accuracies in percent, one per seed, of the baseline (first) and of others.

    Args:
        found: accuracies by name.
        points: where they were measured.
        note: how the weight was chosen; printed last.
    """
    (baseline, before), *others = found.items()
    width = max(map(len, found))
    for name, values in found.items():
        each = " ".join(f"{value:.1f}" for value in values)
        print(f"{name:{width}}  {points} accuracy, % by seed: {each}   mean {mean(values):.2f}")
    for name, values in others:
        steps = [after - start for start, after in zip(before, values, strict=True)]
        spread = f" (standard deviation {stdev(steps):.2f})" if len(steps) > 1 else ""
        better = sum(step > 0 for step in steps)
        print(f"{name} - {baseline}: {mean(steps):+.2f}{spread}, better in {better} of {len(steps)} seeds")
    if note:
        print(note)
