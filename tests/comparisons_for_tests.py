"""Comparisons made by hand from the accuracies of each seed: what reports and plots are tested on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gradreg.study.compare import Comparison, final_runs, summarize
from gradreg.study.config import SETTINGS, Setting


def setting(methods: Sequence[str], seeds: int) -> Setting:
    """The digits' setting with the baseline and these methods only."""
    known = {method.name: method for method in SETTINGS["digits"].methods}
    return replace(SETTINGS["digits"], seeds=seeds, methods=tuple(known[name] for name in ("baseline", *methods)))


def comparison(
    accuracies: Mapping[str, Sequence[float]],
    *,
    costs: Mapping[str, float] | None = None,
    weight: float = 0.1,
) -> Comparison:
    """A comparison of methods with these accuracies, one for each seed; the baseline first."""
    _, *names = accuracies
    chosen = setting(names, len(accuracies["baseline"]))
    weights = dict.fromkeys(names, weight)
    results = {
        run: {"test_accuracy": accuracies[method.name][run.seed], "jacobian_norm": 2.5}
        for run, method in final_runs(chosen, weights).items()
    }
    return summarize(chosen, weights, results, costs or {name: 1.0 + (name in names) for name in accuracies})
