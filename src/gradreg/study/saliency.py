"""Where the baseline and the best method look: input gradients of their trained networks, as a picture.

torch is imported once there are trained networks of images.
"""

import io
import math
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gradreg.study.config import Run, StudyError
from gradreg.study.figures import short
from gradreg.study.store import Store
from gradreg.study.summary import Group, Row, Summary
from gradreg.study.verdict import call

if TYPE_CHECKING:
    from torch import Tensor

# At most so many classes are shown, by one image each.
CLASSES = 10
LABEL, CLASS = 24, 9  # letters of a name


def saliency(summary: Summary, store: Store, *, every: bool = False) -> bytes | None:
    """A PNG of test images, and below them the gradient of the label's score with respect to each, for some networks.

    The networks are those of seed 0 of the baseline and of the method with the best mean, of the first group; the
    images are the first of each class. Of grey images the sign is shown, of colours the largest absolute value.

    Args:
        summary: of a study whose final runs take the measures of `gradreg.study.profile`.
        store: of its runs.
        every: show every method, from the best mean to the worst, with its mean.

    Returns:
        None where there is nothing to show: no such measures, no two methods, no images, no trained networks.
    """
    rows = _shown(summary.groups[0], every)
    files = [store.files(row.runs[0]).folder / "model.pt" for row in rows]
    if len(rows) < 2 or not summary.measures or not all(file.exists() for file in files):
        return None
    from gradreg.data.dataset import DataError
    from gradreg.metrics import saliency as gradients
    from gradreg.study.trained import load

    try:
        networks = [load(file) for file in files]
        if len(networks[0].shape) != 3 or networks[0].shape[0] not in (1, 3):
            return None
        pictures, points, y = _examples(rows[0].runs[0], store)
        found = [gradients(trained.network, points, y) for trained in networks]
    # The report goes without the picture where data or networks are no longer what they were, or have no gradients.
    except (StudyError, DataError, OSError, ValueError, RuntimeError):
        return None
    classes = networks[0].classes
    names = [short(call(row), LABEL) for row in rows]
    if every:
        names = [f"{short(row.arm.name, LABEL)}\n{row.metric.whole(row.score.mean)}" for row in rows if row.score]
    return _drawn(pictures, found, names, [classes[label] for label in y.tolist()])


def _shown(group: Group, every: bool) -> list[Row]:
    """The baseline and the best method, or every method, where they have a result of seed 0."""
    there = [row for row in group.rows if row.points and row.points[0] is not None and row.score is not None]
    others = [row for row in there if row is not group.rows[0]]
    if not others or there[0] is not group.rows[0]:
        return []
    others.sort(key=lambda row: row.metric.gain(row.score.mean if row.score else 0.0), reverse=True)
    return [there[0], *(others if every else others[:1])]


def _examples(run: Run, store: Store) -> "tuple[Tensor, Tensor, Tensor]":
    """The first test image of each class: to look at, as a network takes it, and its label."""
    from gradreg.study.train import dataset, divide

    parts = divide(run, dataset(run.data.name, store.pack(run.data.content) if run.data.content else None))
    assert parts.test_x is not None
    assert parts.test_y is not None
    places = [int((parts.test_y == label).nonzero()[0]) for label in parts.test_y.unique()[:CLASSES]]
    x = parts.prepared(parts.test_x[places])
    shape = (-1, 1, 1)
    return (x * parts.std.reshape(shape) + parts.mean.reshape(shape)).clamp(0, 1), x, parts.test_y[places]


def _drawn(images: "Tensor", gradients: "list[Tensor]", names: list[str], classes: list[str]) -> bytes:
    """The images side by side, and the gradients below them; each row is one picture, since axes take time."""
    grey, count = images.shape[1] == 1, len(images)
    width = images.shape[3] + max(1, images.shape[3] // 8)  # with a gap
    with rc_context({"font.size": 8, "font.family": "DejaVu Sans", "text.parse_math": False}):
        figure = Figure(figsize=(1.9 + 0.75 * count, 0.3 + 0.75 * (1 + len(gradients))), dpi=130)
        FigureCanvasAgg(figure)
        rows = figure.subplots(1 + len(gradients), 1)
        rows[0].imshow(_strip(images, width), cmap="gray_r", vmin=0, vmax=1)
        for axes, found in zip(rows[1:], gradients, strict=True):
            shown = found if grey else found.abs().amax(1, keepdim=True)
            # Each on a scale of its own: gradients of a penalized network are smaller.
            most = shown.abs().amax((1, 2, 3), keepdim=True)
            low, colours = (-1, "RdBu_r") if grey else (0, "gray_r")
            axes.imshow(_strip(shown / most.clamp(min=1e-30), width), cmap=colours, vmin=low, vmax=1)
        for axes, name in zip(rows, ("test image", *names), strict=True):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            axes.set_ylabel(name, rotation=0, ha="right", va="center")
        for place, name in enumerate(classes):
            middle = place * width + (images.shape[3] - 1) / 2
            rows[0].annotate(short(name, CLASS), (middle, -1), ha="center", va="bottom", annotation_clip=False)
        left = 1.8 / figure.get_figwidth()
        figure.subplots_adjust(left=left, right=0.995, top=1 - 0.3 / figure.get_figheight(), bottom=0.01, hspace=0.1)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", facecolor="white")
        return buffer.getvalue()


def _strip(tiles: "Tensor", width: int) -> Any:
    """Pictures (B, C, H, W) side by side, each with a gap of nothing up to a width: (H, B width), or with colours."""
    missing = 1.0 if tiles.shape[1] == 3 else math.nan
    whole = tiles.new_full((*tiles.shape[:3], width), missing)
    whole[..., : tiles.shape[3]] = tiles
    side = whole.permute(2, 0, 3, 1).flatten(1, 2)
    return (side if tiles.shape[1] == 3 else side[..., 0]).numpy()
