"""SVG to be set into a page: drawn by matplotlib in reserved colours, which become the page's own (CSS variables)."""

import re
from html import escape
from io import BytesIO
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Colours that nothing else is drawn in, and the CSS variables that take their place.
INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"}
SERIES = tuple(f"#0a0a{number:02x}" for number in range(1, 9))
VARIABLES |= {color: f"--c{number}" for number, color in enumerate(SERIES)}
# The baseline's is the first of each; told apart by form as well as by colour.
MARKERS = "osD^vPXh"

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gradreg",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.labelsize": 11,
    "axes.unicode_minus": True,
    # Names of arms are the user's: a "$" in them is a dollar.
    "text.parse_math": False,
    # Numbers in full: nothing would show an offset or a power of ten that stands apart from them.
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-9, 12),
    "path.simplify": True,
}
POINTS_PER_INCH = 72


def color(index: int) -> str:
    """The reserved colour of the arm at a position of its group."""
    return SERIES[0] if index == 0 else SERIES[1 + (index - 1) % (len(SERIES) - 1)]


def marker(index: int) -> str:
    """Its marker: from the ninth arm on, colours and markers meet in new pairs."""
    return MARKERS[0] if index == 0 else MARKERS[1:][(index - 1 + (index - 1) // (len(SERIES) - 1)) % 7]


def canvas(width: float, height: float, margins: tuple[float, float, float, float]) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, in points; margins: left, right, top, bottom."""
    left, right, top, bottom = margins
    figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH), dpi=POINTS_PER_INCH)
    FigureCanvasSVG(figure)
    box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes(box)
    return figure, axes


def style() -> Any:
    """The context to draw in."""
    return rc_context(STYLE)


def inline(figure: Figure, name: str, title: str) -> str:
    """The figure as an ``<svg>`` element: its ids begin with ``name``, its colours are CSS variables."""
    file = BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue().decode()
    text = text[text.index("<svg") :]
    # Its style sheet would hold for the whole page.
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns:xlink="[^"]*"', "", text).replace("xlink:href", "href")
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    text = _named_ids(text, name, {one or two for one, two in used})
    # Written in one piece or in several, by the version of matplotlib.
    text = re.sub(r"font: (?:(bold|italic) )?([0-9.]+)px [^;\"]*", _font, text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    # A hundredth of a point is finer than any screen; numbers between the tags are text.
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(?<=\d\.\d\d)\d+", "", tag.group(0)), text)
    text = re.sub(r"#(?:0[1-4]){3}|#0a0a0[1-8]", _variable, text)
    text = re.sub(r"\n\s*", "\n", text)
    head = re.search(r'viewBox="([^"]+)"', text)
    assert head is not None
    label = escape(title, quote=True)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{head.group(1)}" width="100%" role="img" '
        f'style="stroke-linejoin: round; stroke-linecap: butt" aria-label="{label}"><title>{label}</title>'
    )
    return opening + text[text.index(">") + 1 :].strip()


def _named_ids(text: str, name: str, used: set[str]) -> str:
    """Only the ids that something refers to, with the figure's name before them."""
    text = re.sub(
        r' id="([^"]+)"', lambda found: f' id="{name}-{found.group(1)}"' if found.group(1) in used else "", text
    )
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)


def _font(found: re.Match[str]) -> str:
    weight = f"font-weight: {found.group(1)}; " if found.group(1) == "bold" else ""
    return f"{weight}font-size: {found.group(2)}px; font-family: inherit"


def _variable(found: re.Match[str]) -> str:
    return f"var({VARIABLES[found.group(0)]})" if found.group(0) in VARIABLES else found.group(0)
