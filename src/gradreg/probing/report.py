"""What a probe found, as fields and in words."""

import math
import textwrap
from dataclasses import asdict, dataclass
from typing import Any

from gradreg.jacobian.engine import Engine
from gradreg.probing.coupling import Coupling
from gradreg.probing.layers import listed
from gradreg.probing.trial import Failure, Outcome

_WIDTH = 110


@dataclass(frozen=True)
class Cost:
    """What a step takes: forward pass, loss, penalty and the parameters' gradients; no optimizer.

    Attributes:
        seconds: of a step, the median.
        peak_bytes: the most that lives at once during a step, beyond what lived before it.
    """

    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class EngineReport(Outcome):
    """What came of an engine: see `Outcome`, and what its step costs.

    Attributes:
        cost: of a step; None if the engine does not work or costs were not asked for.
        time: relative to a plain step.
        memory: relative to a plain step.
    """

    cost: Cost | None = None
    time: float | None = None
    memory: float | None = None

    @property
    def works(self) -> bool:
        """Whether value and parameter gradient were obtained, are finite and, of an exact engine, right."""
        return self.failure is None


@dataclass(frozen=True)
class ProbeReport:
    """What a model supports: what `gradreg.probe` returns. ``print(report)`` shows it in words.

    Attributes:
        model: its class.
        parameters: how many numbers are trained.
        batch: examples in the batch.
        training: whether the model was in training mode.
        device: where it is.
        engines: a report for each engine, by the name of its class.
        coupling: whether the examples of a batch are coupled.
        plain: cost of a plain step; None if costs were not asked for.
        recommended: the engine to take; None if none works.
        reason: why.

    Example:
        >>> report = gr.probe(model, x, repeats=0)
        >>> report.engines["ForwardMode"].works, report.coupling.leak
        (True, 0.0)
    """

    model: str
    parameters: int
    batch: int
    training: bool
    device: str
    engines: dict[str, EngineReport]
    coupling: Coupling
    plain: Cost | None
    recommended: Engine | None
    reason: str

    def __str__(self) -> str:
        mode = "training" if self.training else "evaluation"
        blocks = [
            f"{self.model}: {self.parameters:,} parameters, {self.batch} example{'s' * (self.batch != 1)}, "
            f"{self.device}, {mode} mode",
            _table(self.engines),
        ]
        if self.plain is not None:
            blocks[-1] += (
                f"\nTime and memory are relative to a plain step: {1000 * self.plain.seconds:.3g} ms, "
                f"{self.plain.peak_bytes / 2**20:.3g} MiB."
            )
        sentences = [_failed(name, r.failure) for name, r in self.engines.items() if r.failure is not None]
        sentences += [str(self.coupling), f"Recommended: {self.reason}"]
        return "\n\n".join([*blocks, *map(_wrapped, sentences)])

    def record(self) -> dict[str, Any]:
        """All fields in plain numbers, lists and dicts, for JSON; engines as they are written, infinity as "inf"."""
        record = asdict(self)
        for name, report in self.engines.items():
            record["engines"][name] |= {"engine": f"gr.{report.engine!r}", "works": report.works}
        record["recommended"] = None if self.recommended is None else f"gr.{self.recommended!r}"
        return _in_json(record)


def _in_json(value: Any) -> Any:
    """JSON has no infinite numbers: these as text, which ``float`` reads."""
    if isinstance(value, dict):
        return {key: _in_json(part) for key, part in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _table(engines: dict[str, EngineReport]) -> str:
    rows = [["engine", "works", "value off by", "gradient off by", "time", "memory"]]
    for name, report in engines.items():
        errors = [_shown(error, "{:.1e}") for error in (report.value_error, report.gradient_error)]
        costs = [_shown(ratio, "{:.2f}x") for ratio in (report.time, report.memory)]
        rows.append([f"{name}()", "yes" if report.works else "no", *errors, *costs])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(cells)).rstrip()
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    )


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _failed(name: str, failure: Failure) -> str:
    where = f", in {listed(failure.layers)}" if failure.layers else ""
    tried = f" It works within {failure.setting}: this was tried." if failure.setting is not None else ""
    return f"{name}() does not work{where}: {failure.message}{tried}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
