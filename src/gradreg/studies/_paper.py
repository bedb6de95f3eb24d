"""What the studies of the paper are asked for on the command line: a size, and a reading of what was done."""

from collections.abc import Iterable
from dataclasses import dataclass

from gradreg.study.config import StudyError
from gradreg.study.suggest import unknown

SCALES = ("paper", "quick", "smoke")
PROTOCOLS = ("paper", "scripts")


@dataclass(frozen=True)
class Asked:
    """A size and a reading; the first of each is the default.

    Attributes:
        scale: "paper", the paper's steps and its 10 seeds; "quick", minutes on two cores; "smoke", seconds.
        protocol: "paper", the paper's text; "scripts", what its published scripts do where they differ.
    """

    scale: str = SCALES[0]
    protocol: str = PROTOCOLS[0]

    def __post_init__(self) -> None:
        for option, value, known in (("scale", self.scale, SCALES), ("protocol", self.protocol, PROTOCOLS)):
            if value not in known:
                raise StudyError(f"--{option}: {unknown(value, known)} Expected one of {', '.join(known)}.")

    @property
    def is_scripts(self) -> bool:
        """Whether the reading is that of the scripts."""
        return self.protocol == "scripts"

    def name(self, study: str) -> str:
        """A study's name, of its own for each size and reading, so that no report takes another's place."""
        return "-".join([study, *_others((self.protocol, PROTOCOLS[0]), (self.scale, SCALES[0]))])

    def title(self, text: str) -> str:
        """A study's title, with the size and the reading where they are not the paper's."""
        others = _others((f"protocol of the {self.protocol}", "protocol of the paper"), (self.scale, SCALES[0]))
        return f"{text} ({', '.join(others)})" if others else text


def _others(*pairs: tuple[str, str]) -> Iterable[str]:
    """Those that are not their defaults."""
    return [value for value, default in pairs if value != default]
