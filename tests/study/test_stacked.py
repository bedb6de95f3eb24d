"""Many runs at once: each comes out as by itself, to rounding."""

import io
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs_for_tests import BASELINE as WHOLE
from runs_for_tests import SIN, numbers, with_dropout
from sweeps_for_tests import Here, sweep, toml

from gradreg import _random
from gradreg.cli import main
from gradreg.commands.common import Doing
from gradreg.study.config import Model, Penalty, Run, StudyError, Technique
from gradreg.study.grid import put
from gradreg.study.profile import MEASURES
from gradreg.study.source import code_hash
from gradreg.study.stacked import Member, StackedTraining
from gradreg.study.stacked_graph import Numbers, StepGraphs
from gradreg.study.stacked_loop import train_stacked
from gradreg.study.stacked_model import StackedModel, StackError, Windows
from gradreg.study.stacks import StackExecutor, Stacks, stack_size
from gradreg.study.store import Store
from gradreg.study.train import StoppedError, Training, Watch, dataset, train
from gradreg.study.work import Task

BASELINE = put(WHOLE, {"schedule.steps": 8, "protocol.measure": "validation"})
DIGITS = dataset("digits")
EXACT_NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.Softplus(), nn.Dropout2d(0.2), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(64, 24), nn.Tanh(), nn.Dropout(0.4), nn.Linear(24, classes),
        ).double()

    def forward(self, x):
        return self.layers(x.double())
"""
COUNTING_NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes, features):
        super().__init__()
        self.layer = nn.Linear(features, classes)

    def forward(self, x):
        return torch.nn.functional.dropout(self.layer(x.flatten(1)), 0.5, self.training)
"""
CASES = {
    "no penalty": (),
    "SpectReg": (Penalty("SpectReg", 0.1),),
    "DoubleBack": (Penalty("DoubleBack", 5.0),),
    "ConfidencePenalty + SpectReg": (Penalty("ConfidencePenalty", 0.5), Penalty("SpectReg", 0.1)),
    "FrobReg": (Penalty("FrobReg", 0.03),),
    "lazy, on the sphere": (Penalty("SpectReg", 0.03, (("every", 4), ("samples", 2), ("sphere", True))),),
    "ramp": (Penalty("SpectReg", 0.1, (("ramp", 10),)),),
    "probe for the batch": (Penalty("SpectReg", 0.01, (("side", "input"), ("per", "batch"))),),
    "FiniteDifference": (Penalty("SpectReg", 0.1, (("engine", "FiniteDifference"), ("step", 0.1))),),
    "ForwardMode": (Penalty("SpectReg", 0.1, (("engine", "ForwardMode"),)),),
    "L1DoubleBack": (Penalty("L1DoubleBack", 0.3),),
    "DataGrad": (Penalty("DataGrad", 0.3, (("step", 0.1),)),),
    "RightReasons": (Penalty("RightReasons", 0.01),),
    "top classes": (Penalty("JacobianPenalty", 0.1, (("projection", "TopK"), ("k", 2))),),
    "random class": (Penalty("JacobianPenalty", 0.1, (("projection", "RandomClass"),)),),
    "tangents with random signs": (Penalty("TangentProp", 0.01, (("samples", 1),)),),
    "every tangent, over a step": (Penalty("TangentProp", 0.01, (("engine", "FiniteDifference"), ("step", 1.0))),),
    "ForwardMode, nothing drawn": (Penalty("DoubleBack", 0.1, (("engine", "ForwardMode"),)),),
}


def own(folder: Path, source: str, run: Run = BASELINE) -> Run:
    """A run of a network of this source."""
    (folder / "own.py").write_text(source)
    name = f"{folder / 'own.py'}:Net"
    return replace(run, model=Model(name, code_hash(name)))


def varied(run: Run, count: int = 3) -> list[Run]:
    """Runs of other seeds, with other weights."""
    terms = [tuple(replace(p, weight=p.weight * (1 + i)) for p in run.penalties) for i in range(count)]
    return [replace(run, seed=10 + i, penalties=terms[i]) for i in range(count)]


def distance(one: Training, other: Training) -> float:
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


def compared(runs: list[Run], **others: Any) -> float:
    """The largest difference between parameters or buffers of runs that were stacked and that were not."""
    return max(differences(runs, **others))


def differences(runs: list[Run], **others: Any) -> list[float]:
    """That of each run; what the runs measured is compared too."""
    alone = [train(run, DIGITS) for run in runs]
    stacked = train_stacked(runs, DIGITS, **others)
    found = []
    for (result, training), ended in zip(alone, stacked, strict=True):
        assert ended.result is not None
        assert ended.member is not None
        assert set(result) == set(ended.result)
        assert ended.result["train_loss"] == pytest.approx(result["train_loss"], rel=1e-3)
        if "half_squared_norm" in result:
            assert ended.result["half_squared_norm"] == pytest.approx(result["half_squared_norm"], rel=1e-4)
        assert ended.result["validation_accuracy"] == pytest.approx(result["validation_accuracy"], abs=0.6)
        found.append(distance(training, ended.member.training))
    return found


@pytest.mark.parametrize("name", CASES)
def test_stacked_runs_are_the_runs_by_themselves(name: str, tmp_path: Path) -> None:
    """In float64 with dropout, seeds, subsets and weights of each run's own, over 32 steps."""
    run = replace(own(tmp_path, EXACT_NET, put(BASELINE, {"schedule.steps": 32})), penalties=CASES[name])
    assert compared(varied(run)) < (1e-5 if "Difference" in name else 1e-7)


def test_stacked_runs_take_the_same_measures() -> None:
    run = put(BASELINE, {"protocol.measure": "test", "protocol.profile_points": 20, "protocol.norm_points": 5})
    runs = varied(run, 2)
    for one, ended in zip(runs, train_stacked(runs, DIGITS), strict=True):
        alone, _ = train(one, DIGITS)
        assert ended.result is not None
        assert set(alone) == set(ended.result)
        for measure in MEASURES:
            step = 5.0 if measure.key.endswith("accuracy") else 0.0  # of one point in twenty
            assert ended.result[measure.key] == pytest.approx(alone[measure.key], rel=1e-3, abs=step)


@pytest.mark.parametrize("preset", ["FrobReg", "SpectReg", "DoubleBack"])
def test_regression_is_stacked_as_well(preset: str) -> None:
    """With the squared error for a loss, also within DoubleBack, and its factor."""
    run = replace(SIN, penalties=(Penalty(preset, 0.1),), loss_factor=25.0)
    runs = [put(r, {"schedule.steps": 12, "protocol.measure": "validation"}) for r in varied(run)]
    alone = [train(run, dataset("sin")) for run in runs]
    for (result, training), ended in zip(alone, train_stacked(runs, dataset("sin")), strict=True):
        assert ended.result is not None
        assert ended.member is not None
        assert ended.result["validation_mse"] == pytest.approx(result["validation_mse"], rel=1e-3)
        assert distance(training, ended.member.training) < 1e-4


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_stacked_runs_are_equal_in_single_precision_over_a_few_steps(optimizer: str) -> None:
    """To 1e-5, more only where a weight larger by a millionth moves a run: Adam magnifies the rounding of gradients."""
    runs = varied(put(replace(BASELINE, penalties=CASES["SpectReg"]), {"optimizer.name": optimizer}))
    bounds = []
    for run in runs:
        near = put(run, {"weight": run.penalties[0].weight * (1 + 1e-6)})
        bounds.append(max(1e-5, 3 * distance(train(run, DIGITS)[1], train(near, DIGITS)[1])))
    assert bounds.count(1e-5) >= 2  # else nothing is shown
    assert all(found < bound for found, bound in zip(differences(runs), bounds, strict=True))


def test_runs_of_other_numbers_of_training_points_are_stacked(tmp_path: Path) -> None:
    run = replace(own(tmp_path, EXACT_NET), penalties=CASES["SpectReg"])
    sizes = (60, 200, 15)  # the last has fewer than a batch
    assert compared([put(r, {"split.train_size": size}) for r, size in zip(varied(run), sizes, strict=True)]) < 1e-7


def test_batch_normalization_has_statistics_of_each_run(tmp_path: Path) -> None:
    """By SGD: the bias in front has a gradient of rounding errors alone, which Adam would make into whole steps."""
    run = replace(with_dropout(tmp_path / "nets", BASELINE), penalties=CASES["SpectReg"])
    assert compared(varied(put(run, {"optimizer.name": "sgd"}))) < 1e-4


def test_convolutions_as_products_with_windows_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU; with stride and padding, in float64, with a second derivative."""
    source = EXACT_NET.replace(
        "nn.Conv2d(1, 4, 3, padding=1)", "nn.Conv2d(1, 4, (3, 2), stride=(1, 1), padding=(1, 0))"
    )
    source = source.replace("nn.MaxPool2d(2)", "nn.Conv2d(4, 4, 3, stride=2, padding=1, bias=False)")
    run = replace(own(tmp_path, source, put(BASELINE, {"schedule.steps": 8})), penalties=CASES["SpectReg"])
    built = StackedModel.__init__
    products: list[Any] = []
    product = Windows._product

    def init(self: StackedModel, models: Any) -> None:
        built(self, models)
        self.windows = True

    def note(self: Windows, *args: Any) -> Any:
        products.append(product(self, *args))
        return products[-1]

    monkeypatch.setattr(StackedModel, "__init__", init)
    monkeypatch.setattr(Windows, "_product", note)
    assert compared(varied(run)) < 1e-7
    assert len(products) >= 2 * 8
    assert all(isinstance(found, torch.Tensor) for found in products)


def test_windows_leave_what_they_cannot_do() -> None:
    x, weight = torch.randn(2, 4, 9, 9), torch.randn(6, 4, 3, 3)
    for mode, options in (
        (Windows(3), {"dilation": 2}),
        (Windows(3), {"padding": "same"}),
        (Windows(3), {"groups": 2, "weight": weight[:, :2]}),
        (Windows(3, limit=10_000), {}),
    ):
        given = {"weight": weight, **options}
        expected = torch.nn.functional.conv2d(x, **given)
        with mode:
            assert torch.equal(torch.nn.functional.conv2d(x, **given), expected)


def test_numbers_of_a_graph_are_those_that_a_step_draws() -> None:
    """The memory that a graph reads is filled with what each run's generator would have given."""
    members = [Member.of(run, DIGITS, "cpu") for run in varied(replace(BASELINE, penalties=CASES["SpectReg"]))]
    stack = StackedTraining(members)
    states = [member.training.projections.get_state() for member in members]
    index = torch.arange(3 * 20)
    with _random.recorded() as drawn:
        first = stack._objective(stack.x[index], stack.y[index])
    assert [generator for _, generator in drawn] == [member.training.projections for member in members]
    for member, state in zip(members, states, strict=True):
        member.training.projections.set_state(state)
    numbers = Numbers(drawn, torch.device("cpu"))
    for again in range(2):
        numbers.fill()
        with _random.handed_out(numbers.draws, numbers.views):
            found = stack._objective(stack.x[index], stack.y[index])
        assert torch.equal(found.total, first.total) == (again == 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("name", CASES)
def test_steps_replayed_on_a_gpu_are_those_of_the_runs_alone(name: str, tmp_path: Path) -> None:
    run = replace(own(tmp_path, EXACT_NET, put(BASELINE, {"schedule.steps": 32})), penalties=CASES[name])
    runs = varied(run)
    alone = [train(run, DIGITS, device="cuda")[1] for run in runs]
    recorded: list[Any] = []
    record = StepGraphs._record

    def note(self: StepGraphs, *args: Any) -> Any:
        recorded.append(record(self, *args))
        return recorded[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepGraphs, "_record", note)
        stacked = train_stacked(runs, DIGITS, device="cuda")
    assert len(recorded) >= 3  # the learning rate falls twice
    for expected, ended in zip(alone, stacked, strict=True):
        assert ended.member is not None
        assert distance(expected, ended.member.training) < (1e-5 if "Difference" in name else 1e-7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
def test_checkpoint_of_a_stack_on_a_gpu_goes_on_alone(tmp_path: Path) -> None:
    run = replace(own(tmp_path, EXACT_NET, put(BASELINE, {"schedule.steps": 20})), penalties=CASES["SpectReg"])
    runs = varied(run)
    keepers = [Keeping() for _ in runs]
    with pytest.raises(StoppedError):
        train_stacked(runs, DIGITS, device="cuda", watches=[Watch(keeper, stop=stopping(9)) for keeper in keepers])
    for run, keeper in zip(runs, keepers, strict=True):
        expected = train(run, DIGITS, device="cuda")[1]
        assert distance(train(run, DIGITS, device="cuda", start=keeper.checkpoints[0])[1], expected) < 1e-7


class Keeping:
    """A keeper in memory."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.checkpoints: list[bytes] = []

    def note(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def beat(self, step: int, steps: int) -> None:
        pass

    def save_checkpoint(self, content: bytes) -> None:
        self.checkpoints.append(content)


def stopping(after: int) -> Any:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > after

    return stop


@pytest.mark.parametrize("technique", [Technique(mixup=0.2), Technique(sam=0.05)], ids=str)
def test_techniques_are_not_stacked(technique: Technique) -> None:
    with pytest.raises(StackError, match=r"takes a batch or a step of one run at a time.*without --stack"):
        train_stacked(varied(replace(BASELINE, technique=technique)), DIGITS)


def test_unlabelled_inputs_are_not_stacked() -> None:
    run = put(replace(BASELINE, penalties=CASES["SpectReg"]), {"split.unlabelled": 50})
    with pytest.raises(StackError, match=r"takes labelled examples alone, and no unlabelled inputs; .*without --stack"):
        train_stacked(varied(run), DIGITS)
    tasks = [Task(each, Path("runs")) for each in varied(run, 2)]
    assert [len(Stacks(deque(tasks), 2).popleft()) for _ in range(2)] == [1, 1]


@pytest.mark.parametrize(
    ("penalty", "message"),
    [
        (Penalty("SpectralNorm", 0.01), r"SpectralNorm\(0.01, iterations=5\) looks at more than each example"),
        (Penalty("LayerwiseFrobenius", 0.01), "LayerwiseFrobenius.* looks at more than each example by itself"),
        (
            Penalty("GradientPenalty", 0.01, (("projection", "TopK"),)),
            "GradientPenalty.* looks at more than each example by itself",
        ),
        (
            Penalty("SpectReg", 0.01, (("site", "layers.1"),)),
            r"SpectReg.*site=Hidden\('layers.1'\).* looks at activations within the network",
        ),
        (
            Penalty("JacobianPenalty", 0.01, (("projection", "TopSingular"),)),
            "the projection TopSingular of 'jacobianpenalty' cannot be drawn for several runs",
        ),
    ],
    ids=lambda value: value.preset if isinstance(value, Penalty) else "",
)
def test_penalties_that_look_at_more_than_an_example_are_not_stacked(penalty: Penalty, message: str) -> None:
    with pytest.raises(StackError, match=message):
        train_stacked(varied(replace(BASELINE, penalties=(penalty,))), DIGITS)


def test_checkpoints_go_from_a_stack_to_a_run_alone_and_back(tmp_path: Path) -> None:
    runs = varied(replace(own(tmp_path, EXACT_NET, put(BASELINE, {"schedule.steps": 20})), penalties=CASES["SpectReg"]))
    whole = [train(run, DIGITS)[1] for run in runs]
    keepers = [Keeping() for _ in runs]
    watches = [Watch(keeper, stop=stopping(9)) for keeper in keepers]
    with pytest.raises(StoppedError, match="stopped after step 9 of 20"):
        train_stacked(runs, DIGITS, watches=watches)
    for run, keeper, expected in zip(runs, keepers, whole, strict=True):
        (content,) = keeper.checkpoints
        assert len(content) < 100_000  # of one run, not of the stack
        assert torch.load(io.BytesIO(content), weights_only=True)["step"] == 9
        assert distance(train(run, DIGITS, start=content)[1], expected) < 1e-7
    alone = [Keeping() for _ in runs]
    for run, keeper in zip(runs, alone, strict=True):
        with pytest.raises(StoppedError):
            train(run, DIGITS, watch=Watch(keeper, stop=stopping(9)))
    ended = train_stacked(runs, DIGITS, starts=[keeper.checkpoints[0] for keeper in alone])
    for end, expected in zip(ended, whole, strict=True):
        assert end.member is not None
        assert distance(end.member.training, expected) < 1e-7


def test_run_that_diverges_is_taken_out_and_spoils_no_other() -> None:
    runs = varied(replace(put(BASELINE, {"schedule.steps": 45}), penalties=(Penalty("DoubleBack", 1.0),)))
    runs[1] = replace(runs[1], penalties=(Penalty("DoubleBack", 1e39),))
    told: list[tuple[int, StudyError]] = []
    keepers = [Keeping() for _ in runs]
    ended = train_stacked(
        runs, DIGITS, watches=[Watch(keeper) for keeper in keepers], failed=lambda i, error: told.append((i, error))
    )
    ((place, error),) = told
    assert place == 1
    assert str(error).startswith("the loss became")
    assert "by step 20; use a smaller weight" in str(error)
    assert ended[1].error is error
    for i in (0, 2):
        member = ended[i].member
        assert member is not None
        assert distance(member.training, train(runs[i], DIGITS)[1]) < 1e-3
        assert [line["step"] for line in keepers[i].lines] == [20, 40, 45]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((("fraction", 0.5),), "takes a random part of a batch, .*; write every=2 in place of the fraction, or train"),
        ((("engine", "FiniteDifference"),), "takes its step from the norms of the whole batch, .*; give it a step"),
    ],
)
def test_penalties_that_cannot_be_stacked_are_refused(options: Any, message: str) -> None:
    with pytest.raises(StackError, match=message):
        train_stacked(varied(replace(BASELINE, penalties=(Penalty("SpectReg", 0.1, options),))), DIGITS)


def test_networks_that_cannot_be_stacked_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"the stacked network fails .*; train these runs by themselves, without"):
        train_stacked(varied(own(tmp_path, COUNTING_NET)), DIGITS)
    options = (("engine", "FiniteDifference"), ("step", 0.1))
    run = replace(with_dropout(tmp_path / "nets", BASELINE), penalties=(Penalty("SpectReg", 0.1, options),))
    with pytest.raises(StackError, match="runs the network again with the batch statistics of its first run"):
        train_stacked(varied(run), DIGITS)


def test_runs_that_differ_in_more_than_seeds_and_weights_are_refused() -> None:
    for other in (put(BASELINE, {"optimizer.learning_rate": 0.1}), replace(BASELINE, penalties=CASES["SpectReg"])):
        members = [Member.of(run, DIGITS, "cpu") for run in (BASELINE, other)]
        with pytest.raises(StackError, match="in nothing but seeds, numbers of training points and penalty weights"):
            StackedTraining(members)


# --- studies ----------------------------------------------------------------------------------------------------------


def test_study_in_stacks_finds_what_it_finds_without(tmp_path: Path) -> None:
    path = toml(tmp_path / "study")
    alone, stacked = Store(tmp_path / "alone"), Store(tmp_path / "stacked")
    expected = sweep(path, alone, Here())
    found = sweep(path, stacked, StackExecutor(1, 3))
    assert found.done == expected.done
    assert not found.failed
    for run in expected.done:
        one, other = numbers(alone.result(run)), numbers(stacked.result(run))
        assert other == pytest.approx(one, rel=1e-3)
        assert (stacked.files(run).environment() or {})["stacked"] > 1
        assert (stacked.files(run).folder / "model.pt").exists() == (alone.files(run).folder / "model.pt").exists()


def test_command_trains_alone_what_cannot_be_stacked_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = toml(tmp_path / "study", steps=10, search="{ weight = [0.1] }")
    (tmp_path / "study" / "nets.py").write_text(COUNTING_NET.replace("class Net", "class build"))
    main(["run", str(path), "--store", str(tmp_path / "runs"), "--stack", "3", "--jobs", "1"])
    assert "SpectReg" in capsys.readouterr().out
    store = Store(tmp_path / "runs")
    every = [store.find(key) for key in store.keys()]  # noqa: SIM118
    assert len(every) >= 4
    assert all(files.result() is not None for files in every)
    assert not any("stacked" in (files.environment() or {}) for files in every)
    # Once refused, others of the kind are not tried in a stack.
    told = [files for files in every if "not stacked: the stacked network" in (files.folder / "log.txt").read_text()]
    assert len(told) >= 2


def test_queue_makes_stacks_of_one_kind_and_leaves_the_refused_alone() -> None:
    runs = [*varied(BASELINE, 2), *varied(replace(BASELINE, penalties=CASES["SpectReg"]), 3)]
    tasks = [Task(run, Path("runs")) for run in (runs[0], runs[2], runs[1], *runs[3:])]
    stacks = Stacks(deque(tasks), 2)
    assert [len(Stacks(deque(Task(run, Path("runs")) for run in varied(BASELINE, 9)), 4).popleft())] == [3]
    first = stacks.popleft()
    assert [task.run for task in first] == [runs[0], runs[1]]
    assert len(stacks) == 3
    assert [task.run for task in stacks.popleft()] == [runs[2], runs[3]]
    stacks.alone.append(first[0])
    assert stacks.popleft() == (first[0],)
    assert len(stacks.popleft()) == 1
    assert not len(stacks)


def test_runs_are_stacked_on_a_gpu_where_nothing_else_is_asked_for() -> None:
    assert [stack_size(0, "cpu"), stack_size(0, "cuda"), stack_size(4, "cpu"), stack_size(1, "cuda")] == [1, 32, 4, 1]


@pytest.mark.parametrize(
    ("doing", "message"),
    [
        (Doing(stack=-1), r"--stack got -1; expected a number of runs >= 1, or 0"),
        (
            Doing(stack=3, executor="ray"),
            r"--stack got 3, but on a Ray cluster each run trains by itself; leave",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(doing: Doing, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        doing.chosen_executor()
