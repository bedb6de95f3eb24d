"""From plain data (JSON, TOML, the command line) to runs and studies: everything that is wrong is said at once."""

import math
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from gradreg.study.config import Run, Scalar, StudyError, out_of_range
from gradreg.study.grid import Grid, Range, Tpe
from gradreg.study.suggest import unknown

T = TypeVar("T")

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def structure(value: Any, kind: type[T], what: str) -> T:
    """Plain data as a dataclass.

    Args:
        value: dicts, lists and scalars.
        kind: a dataclass.
        what: the data is called in messages, such as "the study mine.toml".

    Raises:
        StudyError: names every unknown key, with the nearest that is known, every value of a wrong type and every key
            that is missing.

    Example:
        >>> from gradreg.study.config import Split
        >>> structure({"train_size": 100, "validation_size": 400}, Split, "the split")
        Split(train_size=100, validation_size=400, test_size=0, balanced=True, unlabelled=0)
    """
    import cattrs

    try:
        return _converter().structure(value, kind)
    except cattrs.BaseValidationError as error:
        problems = cattrs.transform_error(error, path="", format_exception=_words)
        raise StudyError(f"{what} has {_listed([_placed(p) for p in problems])}") from error
    except (StudyError, TypeError) as error:  # of the whole, such as that it is no table
        raise StudyError(f"{what}: {error}") from error


def checked(run: Run, what: str) -> Run:
    """The run, if each of its values has the type of its field and lies in its range; see `structure`."""
    found = structure(run.as_dict(), Run, what)
    if wrong := out_of_range(found):
        raise StudyError(f"{what} has {_listed(wrong)}")
    return found


def _listed(problems: list[str]) -> str:
    if len(problems) == 1:
        return f"a mistake: {problems[0]}"
    return f"{len(problems)} mistakes:\n" + "\n".join(f"  - {problem}" for problem in problems)


def _placed(problem: str) -> str:
    """ "message @ .run.split" as cattrs says it, place first."""
    message, _, place = problem.rpartition(" @ ")
    place = place.removeprefix(".").replace("['", ".").replace("']", "").removeprefix(".")
    return f"{place}: {message}" if place else message


def _words(error: BaseException, kind: Any) -> str:
    """What went wrong with one value."""
    import cattrs

    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        known = [field.name for field in fields(error.cl)]
        return "; ".join(unknown(word, known) for word in sorted(error.extra_fields))
    if isinstance(error, KeyError):
        return "is missing"
    if isinstance(error, (StudyError, TypeError, ValueError)):
        return str(error)
    return f"{type(error).__name__}: {error}"


@cache
def _converter() -> Any:
    import cattrs
    from cattrs.gen import make_dict_structure_fn

    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for kind in (int, float, bool, str):
        converter.register_structure_hook(kind, lambda value, kind: _scalar(value, (kind,)))
    converter.register_structure_hook_func(_is_scalars, lambda value, kind: _scalar(value, get_args(kind)))
    converter.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _literal)
    converter.register_structure_hook_func(
        lambda kind: get_origin(kind) in (UnionType, Union) and Tpe in get_args(kind) and Grid in get_args(kind),
        lambda value, _: _search(value, converter),
    )
    converter.register_structure_hook_func(
        lambda kind: get_origin(kind) in (UnionType, Union) and Range in get_args(kind),
        lambda value, _: _values(value, converter),
    )

    def strict(kind: Any) -> Any:
        inner = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)
        required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]

        def hook(value: Any, _: Any) -> Any:
            if not isinstance(value, dict):
                raise TypeError(f"got {value!r}; expected a table with {', '.join(required) or 'its fields'}")
            return inner(value, kind)

        return hook

    converter.register_structure_hook_factory(is_dataclass, strict)
    return converter


def _is_scalars(kind: Any) -> bool:
    """A union of scalars, None perhaps among them."""
    return get_origin(kind) in (UnionType, Union) and set(get_args(kind)) <= {*get_args(Scalar), type(None)}


def _scalar(value: Any, kinds: tuple[Any, ...]) -> Any:
    """A value of one of these types as it is; a whole number where a number is wanted as a float."""
    for kind in kinds:
        if kind is type(None) and value is None:
            return None
        # True is an int to Python, to nobody else.
        if isinstance(value, kind) and (kind is bool) == isinstance(value, bool):
            if kind is float and not math.isfinite(value):
                break
            return value
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    raise TypeError(f"got {value!r}; expected {' or '.join(_WORDS[kind] for kind in kinds if kind in _WORDS)}")


def _literal(value: Any, kind: Any) -> Any:
    words = get_args(kind)
    if value in words:
        return value
    if isinstance(value, str):
        raise ValueError(unknown(value, map(str, words)))
    raise ValueError(f"got {value!r}; expected one of {', '.join(map(str, words))}")


def _search(value: Any, converter: Any) -> Grid | Tpe | None:
    """How a search is kept in JSON: a grid has values, Optuna's ranges."""
    if value is None:
        return None
    if not isinstance(value, dict) or not ({"values", "ranges"} & set(value)):
        raise TypeError(f"got {value!r}; expected a table with values (a grid) or ranges (Optuna)")
    return converter.structure(value, Tpe if "ranges" in value else Grid)


def _values(value: Any, converter: Any) -> Any:
    """What a search tries of one hyper-parameter: a list, or a range from low to high."""
    if isinstance(value, dict):
        return converter.structure(value, Range)
    if not isinstance(value, list) or not value:
        raise TypeError(f"got {value!r}; expected a list of values, or a table with low and high")
    return converter.structure(value, tuple[Scalar, ...])
