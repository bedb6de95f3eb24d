"""Weights that move against weights that are searched: paired differences, from comparisons that are done.

For example, after `gradreg compare digits --methods spectreg spectreg=auto`:
python benchmarks/auto_weight.py runs/studies/digits --csv docs/results/auto-weight.csv
"""

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from gradreg.study.statistics import paired

MOVING = "(auto)"
FIELDS = ("study", "group", "arm", "seed", "key", "test_accuracy")


def read(path: Path) -> list[dict[str, str]]:
    """The final runs of a study."""
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["test_accuracy"]]


def named(folder: Path) -> str:
    """A study by its title and, where that is one for all, its number of training points."""
    study = json.loads((folder / "study.json").read_text())
    study = study.get("study", study)
    sizes = {arm["run"]["split"]["train_size"] for arm in study["arms"]}
    return f"{study['title']}, {sizes.pop()} labels" if len(sizes) == 1 else study["title"]


def table(study: str, rows: list[dict[str, str]]) -> Iterator[str]:
    """A line of Markdown for each method that is there both ways."""
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in rows:
        found[row.get("group", ""), row["arm"]][row["seed"]] = float(row["test_accuracy"])
    for group, name in [(group, name) for group, name in found if (group, name + MOVING) in found]:
        pair = [found[group, name], found[group, name + MOVING]]
        seeds = sorted(pair[0].keys() & pair[1].keys(), key=int)
        searched, moving = ([arm[seed] for seed in seeds] for arm in pair)
        estimate = paired(moving, searched)
        mean, low, high = estimate.mean, estimate.low, estimate.high
        where = f"{study}, {group}" if group else study
        means = " | ".join(f"{sum(values) / len(seeds):.2f}" for values in (searched, moving))
        yield f"| {where} | {name} | {len(seeds)} | {means} | {mean:+.2f} [{low:+.2f}, {high:+.2f}] |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path, help="folders of studies, such as runs/studies/digits")
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()
    print("| data | method | seeds | searched | moving | difference |\n|---|---|---:|---:|---:|---:|")
    every = []
    for folder in given.studies:
        study, rows = named(folder), read(folder / "runs.csv")
        print("\n".join(table(study, rows)))
        every += [{**{name: row.get(name, "") for name in FIELDS}, "study": study} for row in rows]
    if given.csv is not None:
        with given.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(every)


if __name__ == "__main__":
    main()
