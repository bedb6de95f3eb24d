"""The user's own data in a store: read once, kept as one file, known again by its files' names, sizes and times."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gradreg.data.fingerprint import quick_fingerprint
from gradreg.study.config import Data, Run, StudyError
from gradreg.study.store import Store, write_atomically


@dataclass(frozen=True)
class Facts:
    """What a study has to know of a data set without reading it.

    Attributes:
        name: of the data set.
        content: hash of what it holds, by which it is kept.
        notes: a sentence about each thing that was decided while it was read.
        shape: of one input.
        classes: number of classes.
        points: training points, and those that validation and test points are drawn from where there are no own ones.
        smallest: training points of the smallest class.
        validation, test: points of its own validation and test sets; 0 where there is none.
    """

    name: str
    content: str
    notes: tuple[str, ...]
    shape: tuple[int, ...]
    classes: int
    points: int
    smallest: int
    validation: int
    test: int


def own_data(path: Path, store: Store, *, image_size: int | None = None) -> Facts:
    """Reads the user's own data into the store, unless it is there.

    Args:
        path: a folder, a .zip or an .npz; see `gradreg.data.own.read_own`.
        store: where it is kept, for the processes that train.
        image_size: side of the squares that images are made to.

    Raises:
        DataError: it cannot be read; says what to do.
    """
    check_apart(path, store.directory)
    known = store.directory / "data" / f"{quick_fingerprint(path, image_size)}.json"
    found = _read(known)
    if found is not None and store.pack(found.content).exists():
        return found
    from gradreg.data.own import read_own, save_pack

    own = read_own(path, image_size=image_size)
    data = own.dataset
    counts = data.y.bincount(minlength=len(data.classes))
    facts = Facts(
        name=data.name,
        content=data.content,
        notes=own.notes,
        shape=tuple(data.x.shape[1:]),
        classes=len(data.classes),
        points=len(data.y),
        smallest=int(counts.min()),
        validation=0 if data.validation_y is None else len(data.validation_y),
        test=0 if data.test_y is None else len(data.test_y),
    )
    save_pack(data, store.pack(data.content))
    write_atomically(known, json.dumps(asdict(facts), indent=1))
    return facts


def check_apart(path: Path, directory: Path) -> None:
    """Refuses a store within the user's own data, where its files would become a class.

    Raises:
        StudyError: says what to write instead.
    """
    if path.is_dir() and directory.resolve().is_relative_to(path.resolve()):
        raise StudyError(
            f"the store {directory} lies within the data {path}, and would be read as a class; give --store another "
            "place, as in --store ../runs, or give the command in another folder."
        )


def with_content(run: Run, known: dict[str, Facts]) -> Run:
    """The run with the hash of its data, where that is one's own."""
    facts = known.get(run.data.name)
    return run if facts is None else replace(run, data=Data(run.data.name, facts.content))


def _read(path: Path) -> Facts | None:
    from gradreg.study.structure import structure

    try:
        return structure(json.loads(path.read_text()), Facts, str(path))
    except (OSError, ValueError, StudyError):
        return None
