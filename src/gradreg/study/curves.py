"""The curves of finished runs for TensorBoard, where that is installed."""

import importlib.util
from pathlib import Path

from gradreg.study.config import StudyError
from gradreg.study.store import Store
from gradreg.study.summary import Summary


def require_tensorboard() -> None:
    """Looks whether TensorBoard is there, before anything is trained.

    Raises:
        StudyError: it is not installed.
    """
    try:
        found = importlib.util.find_spec("tensorboard")
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise StudyError("--tensorboard needs TensorBoard: pip install tensorboard")


def write_curves(summary: Summary, store: Store) -> Path:
    """Writes the metrics of every final run as scalars, one TensorBoard run for each.

    Args:
        summary: whose runs.
        store: where their metrics are.

    Returns:
        The directory for ``tensorboard --logdir``.

    Raises:
        StudyError: TensorBoard is not installed.
    """
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    folder = store.directory / "tensorboard" / summary.study.name
    for row in summary.rows:
        for run in row.runs:
            # By the run's key: another weight that is selected later has curves of its own.
            where = folder / row.arm.id.replace(" ", "-").replace("/", "-") / f"seed-{run.seed}-{run.key[:6]}"
            if where.exists() or store.result(run) is None:
                continue
            lines = store.files(run).metrics()
            with SummaryWriter(str(where)) as writer:
                for line in lines:
                    for name, value in line.items():
                        if name not in ("step", "seconds"):
                            writer.add_scalar(name, value, line["step"])
    return folder
