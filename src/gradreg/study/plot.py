"""The picture of a comparison: every seed, the mean and its interval for each method."""

from pathlib import Path

import matplotlib as mpl

from gradreg.study.compare import Comparison

BASELINE, METHOD, POINT = "#8a8f98", "#2b6cb0", "#1a202c"


def save_plot(comparison: Comparison, path: Path) -> None:
    """Draws test accuracy by method as a PNG.

    A bar ends at the mean over the seeds, its line spans the 95 % confidence interval of that mean, a dot is a seed.
    """
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = list(reversed(comparison.rows))
    setting = comparison.setting
    with plt.rc_context({"font.size": 10.5, "font.family": "DejaVu Sans"}):
        figure, axes = plt.subplots(figsize=(8, 0.62 * len(rows) + 1.5), dpi=150)
        lowest = min(min(row.points) for row in rows)
        highest = max(max(row.points) for row in rows)
        room = max(highest - lowest, 0.1)
        left = lowest - 0.15 * room
        for position, row in enumerate(rows):
            first = row is comparison.rows[0]
            color = BASELINE if first else METHOD
            mean = row.accuracy.mean
            axes.barh(position, mean - left, left=left, height=0.62, color=color, alpha=0.35 if first else 0.55)
            if row.accuracy.sd == row.accuracy.sd:  # not for one seed
                ends = [[mean - row.accuracy.low], [row.accuracy.high - mean]]
                axes.errorbar(mean, position, xerr=ends, color=POINT, capsize=4, lw=1.6, zorder=3)
            spread = [position + 0.2 * ((i % 5) - 2) / 2 for i in range(len(row.points))]
            axes.plot(row.points, spread, "o", color=color, ms=3.6, mec="white", mew=0.5, zorder=2)
            axes.text(highest + 0.05 * room, position, f"{mean:.2f} %", va="center", color=POINT)
        axes.axvline(comparison.rows[0].accuracy.mean, color=BASELINE, lw=1, ls="--", zorder=1)
        labels = [r.method.label if r.weight is None else f"{r.method.label}({r.weight:g})" for r in rows]
        axes.set_yticks(range(len(rows)), labels)
        axes.set_xlim(left, highest + 0.28 * room)
        axes.set_xlabel(
            f"test accuracy, %   (bar: mean of {setting.seeds} seeds, line: its 95 % interval, dot: one seed)"
        )
        axes.set_title(
            f"{setting.data}, {setting.train_size} labels: accuracy with gradient regularization", loc="left", pad=10
        )
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.tight_layout()
        figure.savefig(path, facecolor="white")
        plt.close(figure)
