"""What cheaper forms of a penalty keep of its accuracy: the table of docs/performance.md, from the results kept there.

The results are those of `gradreg run shortcuts`; this pairs the runs of each form with those of the penalty at every
step and with those of the baseline.
"""

import json
import statistics
from pathlib import Path

from scipy import stats

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "shortcuts.json"
BASELINE, REFERENCES = "Baseline", ("SpectReg(0.03)", "DoubleBack(50)")


def paired(values: dict[str, float], others: dict[str, float]) -> str:
    """Mean difference over the seeds that both have, with its 95 % confidence interval (Student's t)."""
    differences = [values[seed] - others[seed] for seed in values if seed in others]
    if len(differences) < 2:
        return f"- ({len(differences)} pairs)"
    mean, error = statistics.mean(differences), stats.sem(differences)
    half = stats.t.ppf(0.975, len(differences) - 1) * error
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}] ({len(differences)} pairs)"


def main() -> None:
    kept = json.loads(RESULTS.read_text())
    print(", ".join(kept[key] for key in ("command", "machine", "date", "commit")))
    print("| form | seeds | test accuracy, % | difference to every step | to the baseline |\n|---|---:|---:|---:|---:|")
    by_form = kept["test_accuracy_by_seed"]
    for form, values in by_form.items():
        found = list(values.values())
        shown = f"{statistics.mean(found):.2f} ({statistics.stdev(found):.2f})"
        whole = next((by_form[name] for name in REFERENCES if form != name and form.startswith(name[:9])), None)
        own = "-" if whole is None else paired(values, whole)
        base = "-" if form == BASELINE else paired(values, by_form[BASELINE])
        print(f"| {form} | {len(found)} | {shown} | {own} | {base} |")


if __name__ == "__main__":
    main()
