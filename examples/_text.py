"""Real text without a download: sentences of docstrings of Python's standard library, by what they are about.

The text is that of the Python that runs, so numbers differ a little from version to version.
"""

import ast
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Generator, Tensor

TOPICS = {
    "asynchronous": ["asyncio"],
    "email": ["email"],
    "numbers": ["_pydecimal.py", "fractions.py", "statistics.py", "random.py"],
    "files": ["pathlib.py", "os.py", "shutil.py", "tempfile.py", "zipfile.py", "tarfile.py", "posixpath.py"],
    "web": ["http", "urllib"],
    "importing": ["importlib", "pkgutil.py", "inspect.py", "ast.py"],
}
PADDING, UNKNOWN, MASK = 0, 1, 2
LENGTH = 24


@dataclass(frozen=True)
class Text:
    """Sentences as word numbers (N, 24), padded with 0, and their topics (N,)."""

    ids: Tensor
    y: Tensor
    words: int


@cache
def load() -> Text:
    """All sentences of four words or more; those that occur in two topics are left out."""
    by_topic = [dict.fromkeys(s for name in names for s in sentences(name)) for names in TOPICS.values()]
    often = Counter(s for found in by_topic for s in found)
    rows = [(s.split(), topic) for topic, found in enumerate(by_topic) for s in found if often[s] == 1]
    counts = Counter(word for row, _ in rows for word in row)
    numbers = {word: i for i, word in enumerate(sorted(w for w, n in counts.items() if n > 2), start=MASK + 1)}
    ids = torch.zeros(len(rows), LENGTH, dtype=torch.int64)
    for i, (row, _) in enumerate(rows):
        kept = [numbers.get(word, UNKNOWN) for word in row[:LENGTH]]
        ids[i, : len(kept)] = torch.tensor(kept)
    return Text(ids, torch.tensor([topic for _, topic in rows]), len(numbers) + MASK + 1)


def sentences(name: str) -> Iterator[str]:
    """Of the docstrings of a module or a package, in lower case, words alone."""
    path = Path(sysconfig.get_path("stdlib")) / name
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path] * path.exists():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                    for sentence in re.split(r"(?<=[.!?])\s+", "" if ">>>" in paragraph else paragraph):
                        words = re.findall(r"[a-z]+", sentence.lower())
                        if len(words) >= 4:
                            yield " ".join(words)


def split(text: Text, per_topic: int, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A training set drawn by the seed, and 200 test sentences a topic that are the same for all seeds."""
    fixed, drawn = Generator().manual_seed(0), Generator().manual_seed(seed)
    train, test = [], []
    for topic in range(len(TOPICS)):
        rows = (text.y == topic).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=fixed)]
        test.append(rows[:200])
        pool = rows[200:]
        train.append(pool[torch.randperm(len(pool), generator=drawn)[:per_topic]])
    a, b = torch.cat(train), torch.cat(test)
    return (text.ids[a], text.y[a]), (text.ids[b], text.y[b])
