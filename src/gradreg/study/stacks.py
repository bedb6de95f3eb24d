"""Which runs are trained at once, and by which worker. No torch here."""

from collections.abc import Hashable
from dataclasses import replace

from gradreg.study.config import Run


def kind(run: Run) -> Hashable:
    """What runs of one stack have in common: all but the seed and by how much a penalty's weight is above 0."""
    penalties = tuple(replace(penalty, weight=float(penalty.weight > 0)) for penalty in run.penalties)
    return replace(run, penalties=penalties, seed=0)
