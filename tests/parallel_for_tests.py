"""What torchrun starts in `test_parallel`: penalties on two processes; each process writes down what it found.

torchrun --nproc-per-node 2 tests/parallel_for_tests.py OUT
"""

import pickle
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from cases_for_tests import Equal, Outcome, Refused, everywhere
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import gradreg as gr

ENGINES = {
    "DoubleBackward": gr.DoubleBackward(),
    "ForwardMode": gr.ForwardMode(),
    "FiniteDifference": gr.FiniteDifference(1e-4, central=True),
}
PRESETS: dict[str, Callable[[gr.Engine], list[gr.Penalty]]] = {
    "SpectReg": lambda engine: [gr.SpectReg(0.1, engine=engine)],
    "SpectReg, sphere, of a part": lambda engine: [gr.SpectReg(0.1, sphere=True, fraction=0.5, engine=engine)],
    "DoubleBack": lambda engine: [gr.DoubleBack(3.0, engine=engine)],
    "JacReg": lambda engine: [gr.JacReg(1.0, engine=engine)],
    "FrobReg": lambda engine: [gr.FrobReg(0.1, engine=engine)],
    "all of them": lambda engine: [
        *(gr.SpectReg(0.1, engine=engine), gr.DoubleBack(3.0, engine=engine), gr.JacReg(1.0, engine=engine)),
        *(gr.ConfidencePenalty(0.5), gr.LabelSmoothing(0.1)),
    ],
}
PARTS = (slice(0, 4), slice(4, 8))
WITHOUT_JACOBIAN = [gr.ConfidencePenalty(0.5), gr.LabelSmoothing(0.1)]
RANDOM = {"SpectReg", "SpectReg, sphere, of a part", "all of them"}


class Net(nn.Module):
    """Two dense layers, and parameters that no step uses."""

    def __init__(self, *, unused: bool = False, normalized: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Linear(16, 8), nn.Linear(8, 3)
        self.norm = nn.BatchNorm1d(8) if normalized else nn.Identity()
        if unused:
            self.unused = nn.Parameter(torch.ones(3))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.first(x))))


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 16, dtype=torch.float64, generator=Generator().manual_seed(5)), torch.arange(8) % 3


def total(model: Any, part: slice, penalties: list[gr.Penalty], rank: int) -> Tensor:
    """The objective on a part of the batch, with the process's own generator."""
    x, y = data()
    objective = gr.Objective(F.cross_entropy, *penalties)
    return objective(model, x[part], y[part], generator=Generator().manual_seed(rank)).total


def gradient(model: nn.Module) -> Tensor:
    """What backward left, sharded or not, and the state as before."""
    found = []
    for parameter in model.parameters():
        grad: Any = parameter.grad
        grad = torch.zeros(parameter.shape, dtype=parameter.dtype) if grad is None else grad
        found.append((grad.full_tensor() if hasattr(grad, "full_tensor") else grad).flatten())
    model.zero_grad()
    return torch.cat(found)


@dataclass(frozen=True)
class Setting:
    """How the net is spread over the processes.

    Attributes:
        wrap: of the net.
        unused, normalized: of the net.
        parts: of the batch, one for each process; losses are weighted by their sizes.
        call: what is given to the penalties in place of the model.
        whole: a context in which parameters and gradients can be read.
        presets: which are tried.
        outcomes: for each engine.
    """

    wrap: Callable[[nn.Module], nn.Module]
    outcomes: tuple[Outcome, Outcome, Outcome]
    unused: bool = False
    normalized: bool = False
    parts: tuple[slice, slice] = PARTS
    call: Callable[[nn.Module], Any] = lambda model: model
    whole: Callable[[nn.Module], AbstractContextManager[Any]] = nullcontext
    presets: tuple[str, ...] = tuple(PRESETS)

    def net(self) -> Net:
        return Net(unused=self.unused, normalized=self.normalized)


def fully_sharded(model: nn.Module, processes: int = 2) -> nn.Module:
    """FSDP2, each layer and the whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (processes,))
    for layer in (model.first, model.last):  # type: ignore[attr-defined]
        fully_shard(layer, mesh=mesh)  # type: ignore[arg-type]
    return fully_shard(model, mesh=mesh)  # type: ignore[return-value]


def first_fsdp(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)


def read_first_fsdp(model: nn.Module) -> AbstractContextManager[Any]:
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel.summon_full_params(model, with_grads=True)


FEW = ("FrobReg", "all of them")
SAME = Equal("a single process")
STATIC = Refused("DistributedDataParallel(static_graph=True) does not average gradients", "Leave static_graph out")
FREED = "frees the parameters after the first backward pass, so a double backward, which engine=DoubleBackward() needs"
SETTINGS = {
    "DistributedDataParallel": Setting(DistributedDataParallel, everywhere(SAME)),
    "the same, find_unused_parameters=True": Setting(
        lambda model: DistributedDataParallel(model, find_unused_parameters=True), everywhere(SAME), unused=True
    ),
    "the same, parts of different size, weighted": Setting(
        DistributedDataParallel, everywhere(SAME), parts=(slice(0, 5), slice(5, 8)), presets=FEW
    ),
    "the same, batch normalization by each process": Setting(
        DistributedDataParallel, everywhere(Equal("a single process that normalizes each part")), normalized=True,
        presets=("SpectReg", "FrobReg"),
    ),
    "the same, static_graph=True": Setting(
        lambda model: DistributedDataParallel(model, static_graph=True), everywhere(STATIC), presets=("SpectReg",)
    ),
    "the same, behind a function as the model": Setting(
        lambda model: DistributedDataParallel(model, static_graph=True), everywhere(STATIC), presets=("SpectReg",),
        call=lambda model: lambda x: model(x) * 1,
    ),
    "FSDP2 (`fully_shard`)": Setting(
        fully_sharded, (Refused(f"fully_shard (FSDP) {FREED}", "Use engine=gr.ForwardMode()"), SAME, SAME), presets=FEW
    ),
    "FSDP1 (`FullyShardedDataParallel`)": Setting(
        first_fsdp,
        (
            Refused(f"FullyShardedDataParallel (FSDP) {FREED}", "Use engine=gr.FiniteDifference()"),
            Refused("cannot carry the tangents of forward mode", "Use torch.distributed.fsdp.fully_shard"),
            SAME,
        ),
        whole=read_first_fsdp, presets=("SpectReg", "DoubleBack"),
    ),
}  # fmt: skip


def found(setting: Setting, preset: list[gr.Penalty], rank: int) -> Tensor | str:
    """The gradient after the second of two steps, or the error's message."""
    model, part = setting.wrap(setting.net()), setting.parts[rank]
    share = 2 * (part.stop - part.start) / 8
    try:
        for _ in range(2):
            model.zero_grad()
            (share * total(setting.call(model), part, preset, rank)).backward()
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    with setting.whole(model):
        return gradient(model)


def accumulated(rank: int) -> Tensor:
    """Two backward passes a step, the first without an exchange of gradients."""
    model = DistributedDataParallel(Net())
    for number in (0, 1):
        start = 4 * rank + 2 * number
        with model.no_sync() if number == 0 else nullcontext():
            (total(model, slice(start, start + 2), [gr.FrobReg(0.1)], 0) / 2).backward()
    return gradient(model)


TRAININGS: dict[str, tuple[Callable[[nn.Module], nn.Module], gr.Engine]] = {
    "DistributedDataParallel": (DistributedDataParallel, gr.DoubleBackward()),
    "FSDP2": (fully_sharded, gr.ForwardMode()),
}


def steps(model: nn.Module, parts: list[tuple[int, slice]], engine: gr.Engine) -> Tensor:
    """The parameters after a few steps of Adam with DoubleBack and SpectReg.

    Args:
        model: the net.
        parts: those that this process takes in a step, with the rank whose random rows each gets.
        engine: of the penalties.
    """
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(15):
        for rank, part in parts:
            penalties = PRESETS["all of them"](engine)
            (total(model, part, penalties, 2 * step + rank) / len(parts)).backward()
        optimizer.step()
        optimizer.zero_grad()
    found = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]  # type: ignore[operator]
    return torch.cat([parameter.detach().flatten() for parameter in found])


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    results: dict[Any, Any] = {}
    for name, setting in SETTINGS.items():
        for preset in setting.presets:
            for engine, kind in ENGINES.items():
                results[name, preset, engine] = found(setting, PRESETS[preset](kind), rank)
                dist.barrier()
    results["without a Jacobian"] = found(SETTINGS["the same, static_graph=True"], WITHOUT_JACOBIAN, rank)
    results["accumulated"] = accumulated(rank)
    for name, (wrap, engine) in TRAININGS.items():
        results[name, "trained"] = steps(wrap(Net()), [(rank, PARTS[rank])], engine)
    (Path(sys.argv[1]) / f"{rank}.pickle").write_bytes(pickle.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
