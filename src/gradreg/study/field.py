"""All that was measured of each method in one table: the metric with its p, the measures, the cost. No torch here."""

import math
from collections.abc import Iterable

from gradreg.study.profile import meaning
from gradreg.study.summary import Group, Row, Summary
from gradreg.study.verdict import known, p_text

MISSING = "X"


def field_header(summary: Summary) -> tuple[tuple[str, str], ...]:
    """Names and units of the columns of `field`, and which is better; () where a study has no such measures."""
    found = summary.measures
    if not found:
        return ()
    better = "higher" if summary.metric.higher else "lower"
    return (
        ("method", ""),
        (summary.metric.header, better),
        (corrected(summary), ""),
        *((measure.header, measure.better) for measure in found),
        ("cost", "lower"),
    )


def field(summary: Summary, group: Group, *, spread: bool = True) -> list[tuple[str, ...]]:
    """The rows of a group with all that was measured of them, in the order of `field_header`.

    Args:
        summary: of the study.
        group: one of its groups.
        spread: with the standard deviations.
    """

    def short(text: str) -> str:
        return text if spread else text.partition(" ")[0]

    return [
        (
            row.arm.name,
            short(score(summary, row)),
            MISSING if row.difference is None and row is not group.rows[0] else p_text(row.p),
            *(
                MISSING if row.score is None else short(measure.cell(row.measured(measure), len(known(row))))
                for measure in summary.measures
            ),
            MISSING if row.cost is None else f"{row.cost:.2f}x",
        )
        for row in group.rows
    ]


def measures(summary: Summary) -> list[str]:
    """What the columns of `field` are."""
    if not summary.measures:
        return []
    points = spread(p for arm in summary.study.arms if (p := arm.run.protocol.profile_points) > 0)
    over = "mean (sample standard deviation) over the seeds" if summary.study.seeds > 1 else "of one seed"
    return [
        f"measures: {over}, on the first {points} test points; higher, lower: which is better; "
        + meaning(summary.measures)
    ]


def score(summary: Summary, row: Row) -> str:
    """Mean and sample standard deviation, with the number of seeds where it is not what was asked for."""
    if row.score is None:
        return MISSING
    spread = "" if math.isnan(row.score.sd) else f" ({row.metric.text(row.score.sd)})"
    count = len(known(row))
    return f"{row.metric.text(row.score.mean)}{spread}" + ("" if count == summary.study.seeds else f" n={count}")


def spread(values: Iterable[int], unit: str = "") -> str:
    """The one value, or the smallest and the largest: "100 labels", "100 to 1000 labels"."""
    found = sorted(set(values))
    return f"{found[0]}{unit}" if len(found) == 1 else f"{found[0]} to {found[-1]}{unit}"


def corrected(summary: Summary) -> str:
    """The name of the column of p."""
    return "Bonf. p" if summary.study.correction == "bonferroni" else "Holm p"
