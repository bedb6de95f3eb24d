"""What the paper's studies have in common: the scales and protocols that they come in, and how they are called."""

from gradreg.study.config import StudyError

SCALES = ("paper", "quick", "smoke")
PROTOCOLS = ("paper", "scripts")


def called(name: str, scale: str, protocol: str) -> str:
    """The name of a study at a scale and by a protocol, which names its report: "table4", "table4-quick-scripts".

    Args:
        name: of the study at the paper's scale and by the paper's text.
        scale: "paper", "quick" or "smoke".
        protocol: "paper", the text; "scripts", the published scripts where these differ.

    Raises:
        StudyError: another scale or protocol.
    """
    for option, value, known in (("--scale", scale, SCALES), ("--protocol", protocol, PROTOCOLS)):
        if value not in known:
            raise StudyError(f"{option} got {value!r}; expected one of {', '.join(known)}.")
    return "-".join([name, *(word for word in (scale, protocol) if word != "paper")])
