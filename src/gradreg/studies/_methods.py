"""What the comparisons have in common: the methods, and how an arm is made of each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gradreg.study.config import Penalty, Run, StudyError
from gradreg.study.grid import Arm, Grid
from gradreg.study.suggest import unknown

# By their name on the command line: the preset.
METHODS = {
    "doubleback": "DoubleBack",
    "spectreg": "SpectReg",
    "frobreg": "FrobReg",
    "jacreg": "JacReg",
    "confidencepenalty": "ConfidencePenalty",
}


@dataclass(frozen=True)
class Method:
    """A method of a comparison: a preset, and the weights to search; a single one needs no search."""

    preset: str
    weights: tuple[float, ...]


def methods(words: Sequence[str], grids: Mapping[str, tuple[float, ...]]) -> list[Method]:
    """The methods that are named; all of the grids where none is.

    Args:
        words: names, or "spectreg=0.03", which fixes the weight.
        grids: weights to search, by name.

    Raises:
        StudyError: an unknown name, a weight that is none, a name twice.
    """
    found = []
    for word in words or grids:
        name, equals, weight = word.partition("=")
        if name not in METHODS:
            raise StudyError(f"--methods: {unknown(name, METHODS)} Expected such names, or spectreg=0.03.")
        weights = (_weight(word, weight),) if equals else grids[name]
        found.append(Method(METHODS[name], weights))
    named = [method.preset for method in found]
    for preset in named:
        if named.count(preset) > 1:
            raise StudyError(f"--methods names {preset} {named.count(preset)} times; expected each method once.")
    return found


def arms(run: Run, chosen: Sequence[Method]) -> tuple[Arm, ...]:
    """The baseline, then each method."""
    found = [Arm("Baseline", run)]
    for method in chosen:
        penalty = Penalty(method.preset, float(method.weights[0]))
        search = Grid((("weight", tuple(map(float, method.weights))),)) if len(method.weights) > 1 else None
        found.append(Arm(method.preset, replace(run, penalties=(penalty,)), search))
    return tuple(found)


def _weight(word: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise StudyError(f"--methods got {word!r}; expected a weight > 0, as in {word.partition('=')[0]}=0.03.")
    return number
