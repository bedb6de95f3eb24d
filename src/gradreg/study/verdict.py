"""What a study says, in a sentence: what to use and how sure that is, or what is still missing. No torch here."""

import math

from gradreg.study.config import Scalar
from gradreg.study.metric import Metric
from gradreg.study.statistics import paired
from gradreg.study.summary import Group, Row, Summary, is_known

SIGNIFICANT = 0.05


def verdict(summary: Summary) -> str:
    """The sentences of `verdicts` in one line."""
    return " ".join(verdicts(summary))


def verdicts(summary: Summary) -> list[str]:
    """What to use, and how sure that is: one sentence; with several groups a leading one, then one for each group.

    The leading sentence stands alone where all groups agree. Runs that are missing are named first, and nothing is
    called better on fewer than two seeds.
    """
    seeds = summary.study.seeds
    incomplete = _incomplete(summary)
    lead = f"{incomplete}; so far, " if incomplete else ""
    if len(summary.groups) == 1:
        (group,) = summary.groups
        sentence = _sentence(summary, group, _where(group))
        if len(known(group.rows[0])) == 0 or seeds < 2:
            lead = f"{incomplete}. " if incomplete else ""
        return [_after(lead, sentence)]
    if seeds < 2:
        return [f"{incomplete}. " * bool(incomplete) + _one_seed()]
    best = {group.name: max(found, key=_gain) for group in summary.groups if (found := better(group))}
    names = {row.arm.name for row in best.values()}
    if len(best) == len(summary.groups) and len(names) == 1:
        gains = [row.gain for row in best.values()]
        least = max(row.p for row in best.values() if row.p is not None)
        return [
            f"{lead}{names.pop()} is the best in each of the {len(best)} groups: by {_range(summary.metric, gains)} "
            f"over the baseline, {corrected_p(summary)} {_at_most(least)} in each."
        ]
    compared = [group for group in summary.groups if any(_is_tested(row) for row in group.rows[1:])]
    if len(compared) == len(summary.groups) and not best:
        return [
            _after(
                lead,
                f"No method beats the baseline beyond chance in any of the {len(compared)} groups, over {seeds} seeds: "
                "keep the baseline, or run more seeds.",
            )
        ]
    count = f"{len(best)} of {len(summary.groups)} groups"
    first = _after(lead, f"A method beats the baseline beyond chance in {count}.")
    if not compared:
        first = f"{incomplete}. " * bool(incomplete) + f"{len(summary.groups)} groups, each on its own:"
    return [first, *(_sentence(summary, group, "") for group in summary.groups)]


def better(group: Group) -> list[Row]:
    """The rows that beat their baseline beyond chance, after the correction."""
    return [row for row in group.rows[1:] if _is_tested(row) and (row.p or 0.0) < SIGNIFICANT and row.gain > 0]


def known(row: Row) -> list[float]:
    """The values on test points that are there."""
    return [point for point in row.points if point is not None]


def counts(summary: Summary) -> tuple[int, int, int]:
    """How many final runs the study asks for, how many of them are missing, and how many failed.

    An arm of which nothing could be selected lacks all of its runs: missing, or failed where all of its tuning failed.
    """
    asked = missing = failed = 0
    for row in summary.rows:
        asked += summary.study.seeds
        if row.selected and row.runs:
            missing += row.missing + summary.study.seeds - len(row.points)
            failed += sum(seed is not None for seed, _ in row.failures)
        elif row.failures:
            failed += summary.study.seeds
        else:
            missing += summary.study.seeds
    return asked, missing, failed


def call(row: Row) -> str:
    """A row by its name and what was selected: "SpectReg(0.03)"."""
    if not row.selected:
        return row.arm.name
    run = row.runs[0] if row.runs else row.arm.run
    auto = "auto" if run.technique.auto_weight else ""
    terms = [
        f"{term.preset}({', '.join([auto or number(term.weight), *(f'{k}={number(v)}' for k, v in term.options)])})"
        for term in run.penalties
    ]
    terms += [f"{name}({number(value)})" for name, value in run.technique.shown.items()]
    label = ", ".join(filter(None, [" + ".join(terms), *others(row)]))
    name = row.arm.name.removesuffix("(auto)").rstrip()  # which the label says
    return label if label.startswith(name) else f"{row.arm.name} ({label})" if label else row.arm.name


def others(row: Row) -> list[str]:
    """What was selected beside weights: "learning_rate=0.001"."""
    return [
        f"{path.rsplit('.', 1)[-1]}={number(value)}"
        for path, value in row.values
        if path != "weight" and not path.endswith(".weight") and not path.startswith("technique.")
    ]


def interval(row: Row) -> str:
    """The difference in words, with its interval where there is one."""
    assert row.difference is not None
    d, change = row.difference, row.metric.change
    ends = "" if math.isnan(d.low) else f" (95 % interval {change(d.low)} to {change(d.high)})"
    return f"{change(d.mean)} {row.metric.noun}{ends}"


def p_text(p: float | None) -> str:
    """A p value; "-" where there is none."""
    if p is None or math.isnan(p):
        return "-"
    if p < 0.001:
        return "< 0.001"
    # What is below the threshold never reads as at it.
    return f"{p:.4f}" if p < SIGNIFICANT and f"{p:.3f}" == f"{SIGNIFICANT:.3f}" else f"{p:.3f}"


def number(value: Scalar) -> str:
    """A value of a hyper-parameter: as it was written, or three digits of one that nobody wrote."""
    if isinstance(value, (bool, str, int)):
        return str(value)
    digits = f"{value:g}".partition("e")[0].replace(".", "").lstrip("-0")
    return f"{value:g}" if len(digits) < 5 else f"{value:.3g}"


def corrected_p(summary: Summary) -> str:
    """What the p values are called: "Holm-corrected p"."""
    return f"{summary.study.correction.capitalize()}-corrected p"


def first_line(text: str) -> str:
    """The first line of a reason that says something."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")


def _sentence(summary: Summary, group: Group, where: str) -> str:
    """What one group says; ``where`` is named for a study of one group, the group for others."""
    baseline, *others = group.rows
    seeds = summary.study.seeds
    with_, lead = (f"With {where}, ", "") if where else ("", f"{group.name}: ")
    if baseline.score is None:
        return f"{lead}{'N' if where else 'n'}othing can be compared while the baseline has no result."
    if not others:
        at = f" with {where}" if where else ""
        return (
            f"{lead}{'T' if where else 't'}he baseline reaches {_reached(summary.metric, baseline.score.mean)}{at}; "
            "there was nothing to compare it with."
        )
    if seeds < 2:
        return _one_seed()
    tested = [row for row in others if _is_tested(row)]
    if not tested:
        return (
            f"{lead}{'N' if where else 'n'}o method has two seeds in common with the baseline, so nothing can be said "
            "of which is better."
        )
    found = better(group)
    if not found:
        top = max(tested, key=_gain)
        return (
            f"{lead}{with_}no method beats the baseline beyond chance over {seeds} seeds (the best, {call(top)}, by "
            f"{interval(top)}): keep the baseline, or run more seeds."
        )
    best = max(found, key=_gain)
    cost = "" if best.cost is None else f", at {best.cost:.1f}x the time per step{_cheaper(best, found)}"
    return (
        f"{lead}{with_}use {call(best)}: {interval(best)} {'over' if summary.metric.higher else 'against'} the "
        f"baseline's {summary.metric.whole(baseline.score.mean)}, {corrected_p(summary)} {p_text(best.p)}{cost}."
    )


def _gain(row: Row) -> float:
    return row.gain


def _range(metric: Metric, gains: list[float]) -> str:
    """From the least to the greatest gain: "+0.20 to +0.50 points"."""
    ends = [metric.gain(end) for end in (min(gains), max(gains))]
    return f"{metric.change(ends[0])} to {metric.change(ends[1])} {metric.noun}"


def _reached(metric: Metric, value: float) -> str:
    return metric.whole(value) if metric.higher else f"{metric.name} {metric.whole(value)}"


def _after(lead: str, sentence: str) -> str:
    """A sentence that goes on after a comma begins small."""
    return lead + (sentence[0].lower() + sentence[1:] if lead.endswith(", ") else sentence)


def _one_seed() -> str:
    return "One seed says nothing about which is better; ask for more with --seeds."


def _incomplete(summary: Summary) -> str:
    """How many runs are missing and failed, in words; empty where all are there."""
    asked, missing, failed = counts(summary)
    if missing:
        return f"{missing} of {asked} runs {_are(missing)} missing" + (f" and {failed} failed" if failed else "")
    return f"{failed} of {asked} runs failed" if failed else ""


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _where(group: Group) -> str:
    run = group.rows[0].arm.run
    return f"{run.split.train_size} {run.metric.examples} of {run.data.name}"


def _is_tested(row: Row) -> bool:
    """Whether the row has a p value: two seeds or more in common with the baseline."""
    return is_known(row.p) and row.difference is not None and not math.isnan(row.difference.low)


def _at_most(p: float) -> str:
    return p_text(p) if p < 0.001 else f"at most {p_text(p)}"


def _cheaper(best: Row, found: list[Row]) -> str:
    """Names the cheapest method that cannot be told from the best one, where it saves a tenth of the time or more."""
    costs = {row.arm.name: row.cost for row in found if row.cost is not None}
    alike = [row for row in found if row.arm.name in costs and (row is best or _is_alike(best, row))]
    cheapest = min(alike, key=lambda row: costs[row.arm.name])
    if costs[cheapest.arm.name] > 0.9 * costs[best.arm.name]:
        return ""
    metric = best.metric
    loss, less = metric.change(best.gain - cheapest.gain).lstrip("+"), "less" if metric.higher else "more"
    return f"; {call(cheapest)}, at {cheapest.cost:.1f}x, cannot be told from it ({loss} {metric.noun} {less})"


def _is_alike(best: Row, other: Row) -> bool:
    both = [(a, b) for a, b in zip(best.points, other.points, strict=False) if a is not None and b is not None]
    return len(both) > 1 and paired([a for a, _ in both], [b for _, b in both]).p > SIGNIFICANT
