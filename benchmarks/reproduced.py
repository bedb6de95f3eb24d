"""What of the paper's studies is in a store so far: a table in Markdown, and each seed's numbers as CSV.

`gradreg run` reports a study when all of its runs are done; this also shows a part, with the number of seeds. Arms
whose weights are searched are left out. For example:
python benchmarks/reproduced.py table2 table3 table6 --csv docs/results/mnist.csv
"""

import argparse
import csv
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gradreg.study.files import load_study
from gradreg.study.grid import Arm, Study, final_runs
from gradreg.study.store import Store

NUMBERS = ("jacobian_norm", "half_squared_norm", "train_loss", "seconds")
FACTS = ("device", "processor", "torch", "commit", "stacked")


def rows(study: Study, store: Store) -> Iterator[dict[str, Any]]:
    """A row for each final run that is done."""
    for arm in study.arms:
        if arm.search is not None:
            continue
        for run in final_runs(arm, (), study.seeds):
            files = store.files(run)
            if (result := files.result()) is None:
                continue
            facts = files.environment() or {}
            yield {
                "study": study.name,
                "group": arm.group,
                "arm": arm.name,
                "seed": run.seed,
                "key": run.key,
                **{f"{part}_{run.metric.key}": run.metric.of(result, part) for part in ("test", "validation")},
                **{name: result.get(name, "") for name in NUMBERS},
                **{name: facts.get(name, "") for name in FACTS},
            }


def table(study: Study, found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Lines of Markdown: mean (sample standard deviation) of the metric on test points, beside the paper's."""
    yield f"\n**{study.title}**\n"
    metric = study.arms[0].run.metric
    yield f"| group | arm | seeds | test {metric.header} | paper | difference |\n|---|---|---:|---:|---:|---:|"
    for arm in study.arms:
        values = [row[f"test_{metric.key}"] for row in found if (row["group"], row["arm"]) == (arm.group, arm.name)]
        yield f"| {arm.group} | {arm.name} | {len(values)} | {' | '.join(cells(arm, values))} |"


def cells(arm: Arm, values: Sequence[float]) -> tuple[str, str, str]:
    ours = f"{statistics.mean(values):.2f} ({statistics.stdev(values):.2f})" if len(values) > 1 else ""
    if arm.reported is None:
        return ours, "", ""
    spread = "" if arm.reported.sd is None else f" ({arm.reported.sd:.2f})"
    difference = f"{statistics.mean(values) - arm.reported.mean:+.2f}" if ours else ""
    return ours, f"{arm.reported.mean:.2f}{spread}", difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+")
    parser.add_argument("--scale", default="paper")
    parser.add_argument("--protocol", help="default: the study's own")
    parser.add_argument("--set", nargs="*", default=[], metavar="PATH=VALUE", help="as in gradreg run")
    parser.add_argument("--store", type=Path, default=Path("runs"))
    parser.add_argument("--csv", type=Path, metavar="FILE", help="each seed's numbers")
    options = parser.parse_args()
    store = Store(options.store)
    every: list[dict[str, Any]] = []
    for name in options.studies:
        given = {"scale": options.scale, "protocol": options.protocol, "overrides": options.set}
        study = load_study(name, store, **given).study
        found = list(rows(study, store))
        print("\n".join(table(study, found)))
        every += found
    if options.csv is not None and every:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(every[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(every)


if __name__ == "__main__":
    main()
