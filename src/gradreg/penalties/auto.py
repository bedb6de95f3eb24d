"""`engine="auto"`: the first engine that works, found at a penalty's first batch."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from gradreg._checks import COMPILED, UnsupportedOperationError
from gradreg._types import Model, Parts
from gradreg.jacobian._fast_modes import suits
from gradreg.jacobian.engine import DoubleBackward, Engine, FiniteDifference, ForwardMode
from gradreg.jacobian.linearization import Linearization
from gradreg.jacobian.magnitude import Magnitude

ENGINES: tuple[Engine, ...] = (DoubleBackward(), ForwardMode(), FiniteDifference())
"""All engines in the order in which they are to be preferred: exact ones first."""

_log = logging.getLogger("gradreg")


def refuse_to_unmake(engine: Engine, model: Model) -> None:
    """Forward mode through a compiled model makes torch run its code uncompiled from then on, in the whole process.

    Raises:
        UnsupportedOperationError: this engine would do that; it is not to be tried.
    """
    if isinstance(engine, ForwardMode) and not suits(model):
        remedy = (
            "Use engine=gr.FiniteDifference(), or pass the module that is not compiled and compile the whole step: "
            "gr.CompiledObjective"
        )
        raise UnsupportedOperationError(
            "engine=ForwardMode() was not tried: once forward mode has gone through a model compiled by torch.compile, "
            f"torch runs it uncompiled. {remedy}.",
            COMPILED,
            remedy,
        )


class Auto(Engine):
    """In the place of an engine until one is chosen; copies of a penalty share it, so that they choose once.

    Attributes:
        chosen: the engine, once there is one.
    """

    def __init__(self) -> None:
        self.chosen: Engine | None = None

    repeats = True

    def choose(self, attempt: Callable[[Engine], None], what: str) -> None:
        """Chooses the first engine with which an attempt succeeds, and logs which and why.

        Args:
            attempt: ``attempt(engine)`` raises where the engine does not work.
            what: the penalty and the model, in words.

        Raises:
            UnsupportedOperationError: none works.
            Exception: what the first engine raised, where that is no missing derivative.
        """
        failures: dict[str, Exception] = {}
        for engine in ENGINES:
            try:
                attempt(engine)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                if not failures and not isinstance(error, UnsupportedOperationError):
                    raise
                failures[type(engine).__name__] = error
                continue
            self.chosen = engine
            exact = not isinstance(engine, FiniteDifference)
            why = ["it is exact" if exact else "it is not exact, least of all on nets with kinks; see gradreg.probe"]
            why += [f"{name} fails: {str(e.__cause__ or e).partition(chr(10))[0]}" for name, e in failures.items()]
            _log.log(
                logging.INFO if exact else logging.WARNING,
                "%s: engine='auto' chose %s(): %s",
                what,
                type(engine).__name__,
                "; ".join(why),
            )
            return
        reasons = " ".join(f"{name}: {error}" for name, error in failures.items())
        raise UnsupportedOperationError(f"{what}: engine='auto' found no engine that works. {reasons}")

    def measure_row(self, at: Linearization, row: Tensor, magnitude: Magnitude, given: Parts | None) -> Tensor:
        """By the chosen engine."""
        return self._decided.measure_row(at, row, magnitude, given)

    def column(self, at: Linearization, direction: Parts) -> Tensor:
        """By the chosen engine."""
        return self._decided.column(at, direction)

    @property
    def _decided(self) -> Engine:
        assert self.chosen is not None, "engine='auto' has not chosen yet"
        return self.chosen

    def __repr__(self) -> str:
        return "'auto'"
