"""Unknown words, answered with the nearest known one."""

import difflib
from collections.abc import Iterable


def unknown(word: str, known: Iterable[str]) -> str:
    """A sentence about a word that is not known, with the nearest one that is."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    # Of a path, such as "schedule.steps", the last part is what people remember.
    ends = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
    last = word.rsplit(".", 1)[-1]
    if last in ends and "." not in word:
        near = [ends[last]]
    best = near or [ends[end] for end in difflib.get_close_matches(last, ends, n=1, cutoff=0.7)]
    if best:
        return f"{word!r} is not known; did you mean {best[0]!r}?"
    return f"{word!r} is not known; expected one of {', '.join(known)}"
