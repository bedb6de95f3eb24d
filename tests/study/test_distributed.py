"""Several processes train what one would: real processes under torchrun, and their parts by themselves."""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from distributed_for_tests import Case, Outcome, data_of, train_case
from runs_for_tests import BASELINE, numbers
from torch import Tensor, nn

import gradreg as gr
from gradreg.study.config import Data, Model, Penalty, Run, Split, StudyError, Technique
from gradreg.study.distributed import Group, LostProcessError, SharedTraining, rank_and_world, train_distributed
from gradreg.study.grid import put
from gradreg.study.shares import Share, check_batch, check_network, share_dropout, share_penalty
from gradreg.study.source import code_hash
from gradreg.study.terms import build_penalty
from gradreg.study.train import Training, Watch, dataset, divide, finish, train

# In double precision, where the order of a sum hardly shows.
NETS = """
import torch
from torch import nn


class Double(nn.Sequential):
    def forward(self, x):
        return super().forward(x.double())


def dropout(classes):
    return Double(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Dropout2d(0.2), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.3, inplace=True), nn.Linear(96, 32), nn.ReLU(inplace=True), nn.Dropout(0.4), nn.Linear(32, classes)
    ).double()


def unused(classes):
    net = dropout(classes)
    net.scale = nn.Parameter(torch.ones(3))
    return net


def single(classes):
    return nn.Sequential(*dropout(classes).float())


def batchnorm(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(64))

    def forward(self, x):
        if self.training:
            self.centre = 0.9 * self.centre + 0.1 * x.detach().mean(0)
        return x


def centred(classes):
    return nn.Sequential(nn.Flatten(), Centred(), nn.Linear(64, classes))
"""
PENALTIES: dict[str, tuple[Penalty, ...]] = {
    "none": (),
    "SpectReg": (Penalty("SpectReg", 0.1),),
    "SpectReg sphere": (Penalty("SpectReg", 0.1, (("sphere", True), ("samples", 2))),),
    "SpectReg per batch": (Penalty("SpectReg", 0.1, (("per", "batch"),)),),
    "DoubleBack": (Penalty("DoubleBack", 30.0),),
    "JacReg": (Penalty("JacReg", 1.0),),
    "FrobReg": (Penalty("FrobReg", 0.03),),
    "ConfidencePenalty": (Penalty("ConfidencePenalty", 0.5),),
    "LabelSmoothing": (Penalty("LabelSmoothing", 0.11),),
    "several": (Penalty("SpectReg", 0.03), Penalty("DoubleBack", 10.0), Penalty("SpectReg", 0.05)),
}
TESTS = Path(__file__).parents[1]
STEPS = 30


def shortened(run: Run, steps: int = STEPS) -> Run:
    return put(run, {"schedule.steps": steps, "protocol.norm_points": 20})


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Runs of the networks above."""
    path = tmp_path_factory.mktemp("nets") / "nets.py"
    path.write_text(NETS)

    def of(factory: str, penalties: tuple[Penalty, ...] = (), steps: int = STEPS) -> Run:
        name = f"{path}:{factory}"
        return replace(shortened(BASELINE, steps), model=Model(name, code_hash(name)), penalties=penalties)

    return of


def torchrun(cases: dict[str, Case], folder: Path) -> list[dict[str, Outcome]] | str:
    """What each of two processes got; the error output where they fail."""
    (folder / "cases.pickle").write_bytes(pickle.dumps(cases))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(TESTS / "distributed_for_tests.py"), str(folder / "cases.pickle"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode != 0:
        return done.stderr
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def cases(nets: Callable[..., Run]) -> dict[str, Case]:
    lenet = replace(shortened(BASELINE, 4), data=Data("noise"), model=Model("lenet5"), split=Split(100, 50, 50))
    stopping = nets("dropout", PENALTIES["several"], 60)
    half = train_case(Case(stopping, stopping_rank=0, after=3), 0).checkpoints[0]
    return {
        **{name: Case(nets("dropout", penalties)) for name, penalties in PENALTIES.items()},
        "sgd": Case(put(nets("dropout", PENALTIES["several"]), {"optimizer.name": "sgd"})),
        "unused": Case(nets("unused", PENALTIES["SpectReg"])),
        "single precision": Case(nets("single", PENALTIES["SpectReg"])),
        "lenet5": Case(replace(lenet, penalties=PENALTIES["SpectReg"])),
        "small-cnn": Case(replace(shortened(BASELINE), penalties=PENALTIES["DoubleBack"])),
        "stopped": Case(stopping, stopping_rank=1, after=2),
        "continued": Case(stopping, start=half),
        "nan": Case(put(shortened(BASELINE), {"optimizer.learning_rate": 1e30})),
        "odd batch": Case(put(shortened(BASELINE), {"schedule.batch_size": 21})),
        "batchnorm": Case(nets("batchnorm")),
        "statistics": Case(nets("centred")),
    }


@pytest.fixture(scope="module")
def outcomes(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Outcome]]:
    """What two processes got of each case."""
    found = torchrun(cases, tmp_path_factory.mktemp("two"))
    assert not isinstance(found, str), found
    return found


def difference(a: dict[str, Tensor] | None, b: dict[str, Tensor] | None) -> float:
    """The largest, of parameters and buffers with the same names."""
    assert a is not None
    assert b is not None
    assert list(a) == list(b)
    return max((a[name] - b[name]).abs().max().item() for name in a)


# --- the same parameters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PENALTIES, "sgd", "unused", "continued"])
def test_two_processes_train_the_parameters_of_one(
    name: str, cases: dict[str, Case], outcomes: list[dict[str, Outcome]], record_property: Callable[..., None]
) -> None:
    first, second = outcomes[0][name], outcomes[1][name]
    alone, training = train(cases[name].run, data_of(cases[name].run))
    found = difference(first.state, training.model.state_dict())
    record_property("difference", found)
    print(f"{name}: {found:.2g}")
    assert found < 1e-12
    assert difference(first.state, second.state) == 0
    assert numbers(first.result) == pytest.approx(numbers(alone), rel=1e-9)
    assert first.result == second.result


@pytest.mark.parametrize(("name", "tolerance"), [("single precision", 1e-5), ("lenet5", 1e-5), ("small-cnn", 1e-5)])
def test_single_precision_differs_by_rounding(
    name: str, tolerance: float, cases: dict[str, Case], outcomes: list[dict[str, Outcome]]
) -> None:
    alone = train(cases[name].run, data_of(cases[name].run))[1].model.state_dict()
    found = difference(outcomes[0][name].state, alone)
    print(f"{name}: {found:.2g}")
    assert found < tolerance
    assert difference(outcomes[0][name].state, outcomes[1][name].state) == 0


class Accumulating(Training):
    """One process that adds up the gradients of two shares."""

    def advance(self, chosen: Tensor) -> gr.Result:
        torch_state, projections = torch.get_rng_state(), self.projections.get_state()
        for share in (Share(0, 2), Share(1, 2)):
            torch.set_rng_state(torch_state)
            self.projections.set_state(projections)
            self.objective = gr.Objective(F.cross_entropy, *map(build_penalty, self.run.penalties))
            share_dropout(self.model, share)
            for penalty in self.objective.penalties.values():
                share_penalty(penalty, share)
            part = share.of(chosen)
            result = self.objective(self.model, self.x[part], self.y[part], generator=self.projections)
            (result.total / 2).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self.step += 1
        return result  # pyright: ignore[reportPossiblyUnboundVariable]


@pytest.mark.parametrize("name", ["single precision", "lenet5", "small-cnn"])
def test_all_that_differs_is_the_order_of_the_sum(
    name: str, cases: dict[str, Case], outcomes: list[dict[str, Outcome]]
) -> None:
    run, data = cases[name].run, data_of(cases[name].run)
    training = Accumulating(run, divide(run, data), 10)
    finish(training, None, Watch())
    assert difference(outcomes[0][name].state, training.model.state_dict()) == 0


def test_only_the_first_process_notes_metrics_and_they_are_those_of_the_whole_batch(
    cases: dict[str, Case], outcomes: list[dict[str, Outcome]]
) -> None:
    alone = train_case(cases["several"], 0)
    assert len(alone.lines) == 2
    assert [{**a, "seconds": 0} for a in outcomes[0]["several"].lines] == [
        pytest.approx({**b, "seconds": 0}, rel=1e-6) for b in alone.lines
    ]
    assert outcomes[1]["several"].lines == []


# --- stops and errors -------------------------------------------------------------------------------------------------


def test_any_process_stops_all_and_one_process_goes_on_from_their_checkpoint(
    cases: dict[str, Case], outcomes: list[dict[str, Outcome]]
) -> None:
    first, second = outcomes[0]["stopped"], outcomes[1]["stopped"]
    assert first.error.startswith("StoppedError: stopped after step")
    assert first.error == second.error
    assert (len(first.checkpoints), len(second.checkpoints)) == (1, 0)
    run = cases["stopped"].run
    _, whole = train(run, data_of(run))
    _, continued = train(run, data_of(run), start=first.checkpoints[0])
    assert difference(continued.model.state_dict(), whole.model.state_dict()) < 1e-12


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", "the loss became nan by step 20"),
        ("odd batch", "write batch_size=20 or 22, or start 1 of them"),
        ("batchnorm", "BatchNorm1d .* takes its means and variances from the batch"),
        ("statistics", "keeps statistics of the batch in '1.centre'"),
    ],
)
def test_all_processes_end_with_the_same_error(name: str, message: str, outcomes: list[dict[str, Outcome]]) -> None:
    assert outcomes[0][name].error == outcomes[1][name].error
    with pytest.raises(StudyError, match=message):
        raise StudyError(outcomes[0][name].error)


def test_a_lost_process_is_no_failure_of_the_run(nets: Callable[..., Run], tmp_path: Path) -> None:
    begin = time.monotonic()
    found = torchrun({"lost": Case(nets("dropout", steps=100000), dying_rank=1, after=2)}, tmp_path)
    assert isinstance(found, str)
    assert LostProcessError.__name__ in found
    assert time.monotonic() - begin < 60


def test_a_process_alone_trains_as_ever() -> None:
    run = shortened(BASELINE, 5)
    assert rank_and_world() == (0, 1)
    result, training = train_distributed(run, data_of(run))
    alone, expected = train(run, data_of(run))
    assert numbers(result) == numbers(alone)
    assert difference(training.model.state_dict(), expected.model.state_dict()) == 0


# --- shares -----------------------------------------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x,
    "batch innermost": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "strided": lambda x: x.repeat_interleave(2, -1)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Dropout(0.3), (6, 50)),
        (nn.Dropout(0.0), (6, 50)),
        (nn.Dropout(1.0), (6, 50)),
        (nn.Dropout(0.5, inplace=True), (6, 3, 5, 4)),
        (nn.Dropout(0.3), (6, 40, 3)),
        (nn.Dropout1d(0.3), (6, 40, 3)),
        (nn.Dropout1d(0.3), (6, 40)),
        (nn.Dropout2d(0.3), (6, 40, 3, 5)),
        (nn.Dropout3d(0.3), (6, 40, 3, 5, 2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("world", [1, 2, 3])
def test_shares_of_a_mask_are_the_mask(layer: nn.Module, shape: tuple[int, ...], layout: str, world: int) -> None:
    x = LAYOUTS[layout](torch.randn(shape))
    torch.manual_seed(3)
    expected, after = type(layer)(layer.p, layer.inplace)(x.clone()), torch.get_rng_state()  # type: ignore[arg-type]
    found = []
    for rank in range(world):
        own = nn.Sequential(type(layer)(layer.p, layer.inplace))  # type: ignore[arg-type]
        share_dropout(own, Share(rank, world))
        torch.manual_seed(3)
        found.append(own(Share(rank, world).of(x).clone()))
        assert torch.equal(torch.get_rng_state(), after)
        assert torch.equal(own.eval()(x), x)
    assert torch.equal(torch.cat(found), expected)


def test_one_example_does_not_tell_how_a_batch_lies_in_memory() -> None:
    model = nn.Sequential(nn.Dropout(0.5))
    share_dropout(model, Share(1, 2))
    assert model(torch.randn(1, 8, 3)).shape == (1, 8, 3)
    with pytest.raises(StudyError, match="cannot tell how a whole batch would lie"):
        model(torch.randn(8, 1, 3).transpose(0, 1))


@pytest.mark.parametrize(
    "projection", [gr.Normal(2), gr.Sphere(per="batch"), gr.Rademacher(side="input"), gr.RandomClass()]
)
@pytest.mark.parametrize("engine", [gr.DoubleBackward(), gr.ForwardMode(), gr.FiniteDifference(step=0.1)])
def test_shares_of_a_penalty_have_its_mean(projection: gr.Projection, engine: gr.Engine) -> None:
    x = torch.randn(6, 4, dtype=torch.float64)
    layers = nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)
    model = nn.Sequential(*layers).double()

    def value(own: nn.Module, part: Tensor, share: Share) -> float:
        penalty = gr.JacobianPenalty(1.0, projection=projection, engine=engine)
        share_penalty(penalty, share)
        torch.manual_seed(1)
        return penalty(own, part, generator=torch.Generator().manual_seed(2)).item()

    shares = [Share(rank, 3) for rank in range(3)]
    whole = value(model, x, Share(0, 1))
    found = []
    for share in shares:
        share_dropout(model, share)
        found.append(value(model, share.of(x), share))
    assert sum(found) / 3 == pytest.approx(whole, rel=1e-9)


class Own(gr.Penalty):
    def value(self, seen: gr.Seen) -> Tensor:
        return seen.outputs.sum()


@pytest.mark.parametrize(
    ("penalty", "message"),
    [
        (gr.SpectReg(1.0, fraction=0.5), r"fraction=0\.5\), which several processes cannot draw .* write every=2"),
        (gr.JacobianPenalty(1.0, projection=gr.TopSingular()), "TopSingular of 'jacobianpenalty' cannot be divided"),
        (Own(1.0, "own"), "Own is not known to be a mean"),
        (gr.SpectralNorm(1.0), "SpectralNorm is not known to be a mean"),
        (gr.LayerwiseFrobenius(1.0), "LayerwiseFrobenius is not known to be a mean"),
        (gr.GradientPenalty(1.0), "GradientPenalty is not known to be a mean"),
        (gr.TangentProp(1.0), "the projection Tangents of 'tangentprop' cannot be divided"),
    ],
)
def test_penalties_that_cannot_be_divided(penalty: gr.Penalty, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        share_penalty(penalty, Share(0, 2))


@pytest.mark.parametrize("technique", [Technique(mixup=0.2), Technique(sam=0.05), Technique(auto_weight=0.3)], ids=str)
def test_techniques_cannot_be_divided(technique: Technique) -> None:
    run = replace(BASELINE, technique=technique)
    with pytest.raises(
        StudyError, match=r"^(Mixup\(0.2\)|SAM\(0.05\)|AutoWeight\(0.3\)) mixes the examples of a batch, or follows"
    ):
        SharedTraining(run, divide(run, dataset("digits")), 10, Group(0, 2, "cpu"))


def test_unlabelled_inputs_are_not_divided() -> None:
    run = put(replace(BASELINE, penalties=(Penalty("SpectReg", 0.1),)), {"split.unlabelled": 50})
    with pytest.raises(StudyError, match=r"unlabelled inputs are not divided among .* write split.unlabelled=0, or"):
        SharedTraining(run, divide(run, dataset("digits")), 10, Group(0, 2, "cpu"))


class Of(nn.Module):
    """A network of a function."""

    def __init__(self, function: Callable[[Tensor], Tensor], *layers: nn.Module):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def sequences() -> nn.Module:
    drop = nn.Dropout(0.5)
    return Of(lambda x: drop(x.transpose(0, 1)).transpose(0, 1), drop)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.BatchNorm1d(8), "BatchNorm1d .* Use nn.GroupNorm"),
        (nn.InstanceNorm1d(8, track_running_stats=True), "InstanceNorm1d .* track_running_stats=False"),
        (nn.Sequential(nn.AlphaDropout(0.5)), "AlphaDropout \\('0'\\) draws random numbers"),
        (nn.RReLU(), "RReLU .* draws random numbers"),
        (nn.LSTM(8, 8, 2, dropout=0.5), "LSTM .* dropout of its own"),
        (nn.MultiheadAttention(8, 2, dropout=0.5), "MultiheadAttention .* dropout of its own"),
        (Of(lambda x: F.dropout(x, 0.5)), "draws random numbers in forward"),
        (Of(lambda x: x - x.mean(0)), "depends on the others of the batch"),
        (sequences(), "the dropout layer 'layers.0' gets an input of shape \\(8, 2\\)"),
    ],
)
def test_networks_that_cannot_be_divided(model: nn.Module, message: str) -> None:
    before = {module: module.training for module in model.modules()}, torch.get_rng_state()
    with pytest.raises(StudyError, match=message):
        check_network(model, torch.randn(5, 8))
    assert {module: module.training for module in model.modules()} == before[0]


def test_networks_that_can_be_divided_are_left_as_found() -> None:
    model = nn.Sequential(
        nn.Linear(8, 8), nn.Dropout(0.5), nn.LayerNorm(8), nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3))
    )
    model[0].eval()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    state = torch.get_rng_state()
    check_network(model, torch.randn(5, 8, generator=torch.Generator().manual_seed(0)))
    assert [layer.training for layer in model] == [False, True, True, True]
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("batch", "world", "words"), [(50, 4, "48 or 52, or start 2"), (3, 4, "=4, or start 3")])
def test_batches_that_cannot_be_divided(batch: int, world: int, words: str) -> None:
    check_batch(batch * world, world)
    with pytest.raises(StudyError, match=words):
        check_batch(batch, world)
