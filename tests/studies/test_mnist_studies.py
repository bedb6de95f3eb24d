"""The paper's tables and figures on MNIST: what each trains, against the paper's numbers written out."""

import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sweeps_for_tests import Here, results

from gradreg.data.dataset import Dataset
from gradreg.models import LeNet5
from gradreg.studies import _mnist
from gradreg.studies._paper import PROTOCOLS, SCALES
from gradreg.study.collect import collect
from gradreg.study.config import Model, Penalty, Run, Split, StudyError, Technique, digest, stack_kind
from gradreg.study.execute import Outcome
from gradreg.study.files import load_study, names
from gradreg.study.grid import Grid, Study, final_runs, put
from gradreg.study.report import cells, header, markdown
from gradreg.study.search import progress, tuning_runs
from gradreg.study.stacked import Member, StackedTraining
from gradreg.study.store import Store
from gradreg.study.sweep import Sweep
from gradreg.study.work import Task, work

NAMES = ("table1", "table2", "table3", "table6", "table8", "figure1", "figure5", "combination")
# What the paper leaves for later.
FUTURE = ("semisupervised", "hidden")
# Neither in the paper nor asked for by it.
OWN = ("autoweight",)
# Group, name: mean and standard deviation that the paper prints, network, weight decay, penalties in words.
CELLS: dict[str, dict[tuple[str, str], tuple[float, float, str, float, str]]] = {
    "table1": {
        ("small MNIST, no weight decay", "Baseline"): (97.25, 0.22, "lenet5", 0.0, ""),
        ("small MNIST, no weight decay", "SpectReg"): (97.69, 0.11, "lenet5", 0.0, "SpectReg(0.03)"),
        ("small MNIST, weight decay 0.0005", "Baseline"): (97.40, 0.15, "lenet5", 0.0005, ""),
        ("small MNIST, weight decay 0.0005", "SpectReg"): (97.73, 0.13, "lenet5", 0.0005, "SpectReg(0.05)"),
    },
    "table2": {
        ("neither", "Baseline"): (96.99, 0.15, "lenet5-plain", 0.0005, ""),
        ("neither", "SpectReg"): (97.59, 0.13, "lenet5-plain", 0.0005, "SpectReg(0.01)"),
        ("neither", "DoubleBack"): (97.56, 0.24, "lenet5-plain", 0.0005, "DoubleBack(50)"),
        ("batch normalization", "Baseline"): (96.89, 0.23, "lenet5-batchnorm", 0.0005, ""),
        ("batch normalization", "SpectReg"): (96.94, 0.27, "lenet5-batchnorm", 0.0005, "SpectReg(0.001)"),
        ("batch normalization", "DoubleBack"): (96.89, 0.22, "lenet5-batchnorm", 0.0005, "DoubleBack(0.001)"),
        ("dropout", "Baseline"): (97.29, 0.19, "lenet5", 0.0005, ""),
        ("dropout", "SpectReg"): (97.65, 0.14, "lenet5", 0.0005, "SpectReg(0.01)"),
        ("dropout", "DoubleBack"): (97.98, 0.12, "lenet5", 0.0005, "DoubleBack(50)"),
        ("each alone", "dropout"): (97.29, 0.19, "lenet5", 0.0005, ""),
        ("each alone", "batch normalization"): (96.89, 0.23, "lenet5-batchnorm", 0.0005, ""),
        ("each alone", "SpectReg"): (97.59, 0.13, "lenet5-plain", 0.0005, "SpectReg(0.01)"),
        ("each alone", "DoubleBack"): (97.56, 0.24, "lenet5-plain", 0.0005, "DoubleBack(50)"),
    },
    # The printed 0.01 multiplies a sum over 50 examples.
    "table3": {
        ("without confidence penalty", "Baseline"): (97.39, 0.11, "lenet5", 0.0005, ""),
        ("without confidence penalty", "SpectReg"): (97.79, 0.12, "lenet5", 0.0005, "SpectReg(0.03)"),
        ("without confidence penalty", "DoubleBack"): (97.89, 0.12, "lenet5", 0.0005, "DoubleBack(50)"),
        ("without confidence penalty", "ConfidencePenalty"): (97.57, 0.15, "lenet5", 0.0005, "ConfidencePenalty(0.5)"),
        ("with confidence penalty", "Baseline"): (97.57, 0.15, "lenet5", 0.0005, "ConfidencePenalty(0.5)"),
        ("with confidence penalty", "SpectReg"): (
            *(97.89, 0.12, "lenet5", 0.0005),
            "SpectReg(0.03) + ConfidencePenalty(0.5)",
        ),
        ("with confidence penalty", "DoubleBack"): (
            *(98.07, 0.09, "lenet5", 0.0005),
            "DoubleBack(10) + ConfidencePenalty(0.5)",
        ),
    },
    "table6": {
        ("", "SpectReg"): (97.79, 0.12, "lenet5", 0.0005, "SpectReg(0.03)"),
        ("", "JacReg"): (97.63, 0.15, "lenet5", 0.0005, "JacReg(1)"),
        ("", "FrobReg"): (97.76, 0.13, "lenet5", 0.0005, "FrobReg(0.03)"),
    },
}
# Training size: weights of DoubleBack, SpectReg, JacReg, and of the confidence penalty times 50.
TABLE8 = {
    500: (50, 0.03, 0.3, 0.5),
    1000: (50, 0.03, 0.03, 0.5),
    2000: (50, 0.03, 1, 0.5),
    3000: (20, 0.03, 1, 0.5),
    4000: (20, 0.03, 1, 0.5),
    5000: (20, 0.003, 1, 5.0),
    10000: (5, 0.01, 1, 5.0),
    15000: (2, 0.01, 1, 0.5),
    20000: (2, 0.001, 0.3, 1.5),
}
METHODS = ("DoubleBack", "SpectReg", "JacReg", "ConfidencePenalty")


def built(name: str, scale: str | None = None, protocol: str | None = None, *overrides: str) -> Study:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        return load_study(name, store, scale=scale, protocol=protocol, overrides=overrides).study


def words(run: Run) -> str:
    return " + ".join(map(str, run.penalties))


# --- what is trained --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CELLS)
def test_table_has_the_papers_cells_with_their_weights(name: str) -> None:
    study = built(name)
    found = {}
    for arm in study.arms:
        assert arm.reported is not None
        assert arm.search is None
        numbers = (arm.reported.mean, arm.reported.sd)
        network, decay = arm.run.model.name, arm.run.optimizer.weight_decay
        found[arm.group, arm.name] = (*numbers, network, decay, words(arm.run))
        assert arm.run.split.train_size == 2000
    assert found == CELLS[name]
    assert study.correction == ("bonferroni" if name == "table6" else "holm")
    assert study.pairs == (name != "table1")


@pytest.mark.parametrize("name", ["table8", "figure1"])
def test_training_sizes_have_the_weights_of_table_8(name: str) -> None:
    study = built(name)
    assert list(study.groups()) == [f"training points {size}" for size in TABLE8]
    for size, (group, arms) in zip(TABLE8, study.groups().items(), strict=True):
        assert [arm.name for arm in arms] == ["Baseline", *METHODS], group
        assert {arm.run.split.train_size for arm in arms} == {size}
        weights = [arm.run.penalties[0].weight for arm in arms[1:]]
        assert weights == list(TABLE8[size])
        reported = [arm.reported and arm.reported.mean for arm in arms]
        assert reported == ([97.39, 97.89, 97.79, 97.63, 97.57] if size == 2000 else [None] * 5)
        assert [arm.reported_weight for arm in arms[1:]] == (weights if name == "table8" else [None] * 4)


def test_search_of_table_8_spans_the_papers_intervals() -> None:
    for arm in built("table8").arms:
        if arm.name == "Baseline":
            assert arm.search is None
            continue
        assert isinstance(arm.search, Grid)
        ((path, weights),) = arm.search.values
        assert path == "weight"
        assert list(weights) == sorted(set(map(float, weights)))
        ends = {"DoubleBack": (0.0003, 100), "ConfidencePenalty": (0.0001 * 50, 50)}.get(arm.name, (0.0001, 1))
        assert (weights[0], weights[-1]) == ends
        assert arm.reported_weight in weights


def test_figure_5_has_weights_about_the_phase_transition_for_each_weight_decay() -> None:
    groups = built("figure5").groups()
    assert [arms[0].run.optimizer.weight_decay for arms in groups.values()] == [0, 0.0005, 0.005]
    for arms in groups.values():
        weights = [arm.run.penalties[0].weight for arm in arms[1:]]
        assert words(arms[0].run) == ""
        assert weights == [0.1, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
        assert [arm.name for arm in arms[1:]] == [words(arm.run) for arm in arms[1:]]
        assert len({arm.run.optimizer for arm in arms}) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", NAMES)
def test_paper_scale_is_the_papers_protocol(name: str, protocol: str) -> None:
    study = built(name, "paper", protocol)
    assert study.name == (name if protocol == "paper" else f"{name}-scripts")
    assert study.seeds == 10
    for arm in study.arms:
        run = arm.run
        assert (run.data.name, run.schedule.steps, run.schedule.batch_size) == ("mnist", 10000, 50)
        assert (run.schedule.milestones, run.schedule.factor) == ((0.5, 0.75), 0.1)
        assert (run.optimizer.name, run.optimizer.learning_rate) == ("adam", 0.001)
        assert (run.split.validation_size, run.split.test_size) == (10000, 0)  # 0: the official test set
        assert run.split.balanced == (protocol == "paper")
        normal = "lenet5-batchnorm" if protocol == "paper" else "lenet5-batch-statistics"
        assert run.model.name in ("lenet5", "lenet5-plain", normal)
        rows = [penalty.options for penalty in run.penalties if penalty.preset == "SpectReg"]
        assert rows == [() if protocol == "paper" else (("per", "batch"),)] * len(rows)
        # TangentProp is not the paper's.
        assert all(not p.options for p in run.penalties if p.preset not in ("SpectReg", "TangentProp"))
    assert "0.1 cannot be meant" in study.about
    assert "50 times the paper's" in study.about
    assert ("the first of a shuffle" in study.about) == (protocol == "scripts")


@pytest.mark.parametrize("name", [*NAMES, *FUTURE, *OWN])
def test_smaller_scales_ask_the_same_with_less(name: str) -> None:
    sizes = []
    for scale in SCALES:
        study = built(name, scale)
        assert study.name == (name if scale == "paper" else f"{name}-{scale}")
        whole = {(arm.group, arm.name): words(arm.run) for arm in built(name).arms}
        assert {(arm.group, arm.name): words(arm.run) for arm in study.arms}.items() <= whole.items()
        sizes.append(sum(arm.run.schedule.steps for arm in study.arms) * study.seeds)
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", FUTURE)
def test_future_work_has_the_papers_training(name: str, protocol: str) -> None:
    study = built(name, "paper", protocol)
    common = {
        replace(arm.run, split=Split(1, 1), penalties=()) for arm in [*study.arms, *built("table6", "paper").arms]
    }
    assert len(common) == 1
    rows = {("per", "batch")} if protocol == "scripts" else set()
    for arm in study.arms[1:]:
        (term,) = arm.run.penalties
        assert {option for option in term.options if option[0] != "site"} == (
            set() if term.preset == "DoubleBack" else rows
        )
        assert isinstance(arm.search, Grid)
        ((path, weights),) = arm.search.values
        assert path == "weight"
        assert term.weight in weights


def test_unlabelled_inputs_are_all_that_are_left_and_for_one_arm_alone() -> None:
    study = built("semisupervised")
    splits = {arm.name: arm.run.split for arm in study.arms}
    assert {split.train_size for split in splits.values()} == {100}
    assert {name: split.unlabelled for name, split in splits.items()} == {
        "Baseline": 0,
        "SpectReg, labelled inputs": 0,
        "SpectReg, labelled + unlabelled": 60000 - 10000 - 100,
        "DoubleBack": 0,
    }
    one, other = (arm for arm in study.arms if arm.run.penalties and arm.run.penalties[0].preset == "SpectReg")
    assert (one.run.penalties, one.search) == (other.run.penalties, other.search)
    assert "10000 at the paper's scale), which is generous" in study.about


def test_hidden_stages_are_each_layer_of_lenet_before_the_last() -> None:
    """By the shapes of what they return, in the order of the forward pass, which is that of the study."""
    study = built("hidden")
    assert {arm.run.split.train_size for arm in study.arms} == {2000}
    terms = [arm.run.penalties[0] for arm in study.arms[1:]]
    assert terms[0] == Penalty("SpectReg", 0.03)
    sites = [dict(term.options)["site"] for term in terms[1:]]
    assert sites[-1] == ",".join(map(str, sites[:-1]))
    model, shapes = LeNet5(), {}
    for name, layer in model.named_modules():
        layer.register_forward_hook(lambda _, x, z, name=name: shapes.update({name: tuple(z.shape[1:])}))
    model(torch.zeros(1, 1, 28, 28))
    assert [shapes[str(site)] for site in sites[:-1]] == [(6, 14, 14), (16, 5, 5), (120,), (84,)]


def test_weights_that_move_stand_beside_the_papers() -> None:
    """The searched arms are those of figure 1, whose runs are taken as they are."""
    arms = {(arm.group, arm.name): arm for arm in built("autoweight").arms}
    figure = {(arm.group, arm.name): arm for arm in built("figure1").arms}
    assert {group for group, _ in arms} == {"training points 500", "training points 2000"}
    for (group, name), arm in arms.items():
        if not name.endswith("(auto)"):
            assert arm == figure[group, name]
            continue
        (searched,) = arms[group, name.removesuffix("(auto)")].run.penalties
        (moving,) = arm.run.penalties
        assert (moving, arm.run.technique.auto_weight) == (replace(searched, weight=1.0), 0.35)
        assert replace(arm.run, penalties=(searched,), technique=Technique()) == figure[group, name[:-6]].run
    assert sum(name.endswith("(auto)") for _, name in arms) == 8


def test_all_sizes_and_readings_have_names_of_their_own() -> None:
    every = [
        built(name, scale, protocol).name
        for name in (*NAMES, *FUTURE, *OWN)
        for scale in SCALES
        for protocol in PROTOCOLS
    ]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("name", [*NAMES, *FUTURE, *OWN])
def test_unknown_sizes_and_readings_are_answered_with_what_is(name: str) -> None:
    with pytest.raises(StudyError, match=r"--scale: 'papre' is not known; did you mean 'paper'\? Expected one of pa"):
        built(name, "papre")
    with pytest.raises(StudyError, match=r"--protocol: 'script' is not known; did you mean 'scripts'\? Expected one"):
        built(name, "paper", "script")


def test_training_size_that_the_table_lacks_is_refused() -> None:
    from gradreg.studies._paper import Asked
    from gradreg.studies.table8 import arms

    with pytest.raises(StudyError, match="table 8 got 600 training points; expected one of 500, 1000, 2000"):
        arms(Asked(), 10, 600, searched=True)


def test_weights_of_a_sum_over_the_batch_become_those_of_its_mean() -> None:
    assert [_mnist.on_mean(weight) for weight in (0.01, 0.0003, 0.03)] == [0.5, 0.015, 1.5]
    assert _mnist.confidence(0.01) == Penalty("ConfidencePenalty", 0.5)


def test_studies_that_were_there_before_keep_their_runs() -> None:
    """What is in stores is found again: the keys as they were before these studies came, but for final measures."""

    def keys(name: str) -> list[str]:
        return [put(arm.run, {"protocol.profile_points": 0}).key for arm in built(name).arms]

    found = {name: digest(keys(name)) for name in ("digits", "mnist", "shortcuts")}
    assert built("shortcuts").arms[0].run.protocol.profile_points == 0
    assert found == {"digits": "b97445f3a052755a", "mnist": "3dc3723f9d06d5c1", "shortcuts": "e1e9661eeaa76cf6"}


# --- from end to end --------------------------------------------------------------------------------------------------


class Guarded(Dataset):
    """A data set that hands out the labels of its test points only when it is told that it may."""

    allowed = True

    def __getattribute__(self, name: str) -> object:
        if name == "test_y" and not Guarded.allowed:
            raise AssertionError("test labels were read before selection")
        return super().__getattribute__(name)


class Watchful(Here):
    """Does runs in this process; test labels are there for final runs of what has been selected alone."""

    def __init__(self, study: Study, store: Store):
        super().__init__()
        self.study, self.store = study, store

    def __call__(self, queue: deque[Task], tick: Callable[[Sequence[Task]], None]) -> Iterator[Outcome[Task]]:
        while queue:
            task = queue.popleft()
            self.given.append(task.run)
            self.open(task)
            answer = work(task)
            Guarded.allowed = True
            yield Outcome(task, answer)

    def open(self, task: Task) -> None:
        """Decides before a run begins."""
        selected = set()
        for arm in self.study.arms:
            values = progress(arm, self.study, self.store).values
            if values is not None:
                selected |= set(final_runs(arm, values, self.study.seeds))
        Guarded.allowed = task.run in selected


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dataset]:
    """Random digits in place of MNIST."""
    draw = torch.Generator().manual_seed(0)
    data = Guarded(
        name="mnist",
        x=torch.rand(6200, 1, 28, 28, generator=draw),
        y=torch.arange(6200) % 10,
        classes=tuple("0123456789"),
        test_x=torch.rand(40, 1, 28, 28, generator=draw),
        test_y=torch.arange(40) % 10,
    )
    from gradreg.study import train

    monkeypatch.setattr(train, "dataset", lambda name, pack=None: data)
    yield data
    Guarded.allowed = True


SMALL = ("schedule.steps=2", "split.validation_size=20", "protocol.norm_points=2", "schedule.batch_size=10", "seeds=1")


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("name", "protocol"), [*((name, "paper") for name in (*NAMES, *FUTURE, *OWN)), ("table2", "scripts")]
)
def test_study_runs_from_end_to_end_at_smoke_scale(name: str, protocol: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    study = load_study(name, store, scale="smoke", protocol=protocol, overrides=SMALL).study
    executor = Watchful(study, store)
    done = Sweep(study, store, seconds={})
    done.go(executor)
    assert not done.failed
    summary = collect(study, store, command="")
    assert all(row.missing == 0 and row.score is not None for row in summary.rows)
    assert all(norm is not None and norm > 0 for row in summary.rows for norm in row.half_squared_norms)
    text = markdown(summary)
    group, row = summary.groups[-1], summary.groups[-1].rows[-1]
    shown = dict(zip(header(summary), cells(summary, group, row), strict=True))
    if name in CELLS:
        mean, sd, *_ = CELLS[name][group.name, row.arm.name]
        assert shown["paper"] == f"{mean:.2f} ({sd:.2f})"
        assert shown["ours - paper"].startswith("-")
    if name == "table8":
        assert shown["weight"].endswith(", paper 0.5")
        assert len(executor.given) == len(set(executor.given)) == 10 + 2 * (3 + 3 + 3 + 3)
    if name == "table6":
        assert len(group.pairs) == 3
        assert "| SpectReg | JacReg |" in text
    if name == "semisupervised":
        assert {run.split.unlabelled for run in executor.given} == {0, 500}
    if name == "hidden":
        assert "features.2,features.5,classifier.2,classifier.4" in str(executor.given[-1])
    assert results(tmp_path).keys() == {run.key for run in executor.given}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_kind_of_run_can_be_stacked(protocol: str, images: Dataset) -> None:
    """Two seeds of each, as a GPU gets them; a stack tries its first step against that of the run alone."""
    kinds: dict[Run, Run] = {}
    for name in NAMES:
        study = built(name, "smoke", protocol, *SMALL, "split.train_size=50", "schedule.batch_size=4")
        kinds |= {stack_kind(run): run for arm in study.arms for run in final_runs(arm, (), 1)}
    normal = "-batchnorm" if protocol == "paper" else "-batch-statistics"
    assert {run.model for run in kinds.values()} == {Model(f"lenet5{more}") for more in ("", "-plain", normal)}
    for run in kinds.values():
        two = [Member.of(replace(run, seed=seed), images, "cpu") for seed in (0, 1)]
        assert len(StackedTraining(two).members) == 2


# --- test labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_no_study_tunes_on_test_points_or_on_seeds_of_its_final_runs(name: str, tmp_path: Path) -> None:
    study = load_study(name, Store(tmp_path)).study
    for arm in study.arms:
        tuned = tuning_runs(arm, study, Store(tmp_path))
        assert (arm.search is None) == (not tuned)
        assert all(run.protocol.measure == "validation" for run in tuned)
        final = final_runs(arm, (), study.seeds)
        assert not {run.seed for run in tuned} & {run.seed for run in final}
        assert not {run.key for run in tuned} & {run.key for run in final}


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("name", ["mnist", "shortcuts"])
def test_study_with_a_search_reads_test_labels_only_after_selection(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    scale = "smoke" if name == "shortcuts" else None
    study = load_study(name, store, scale=scale, overrides=(*SMALL, "split.train_size=50")).study
    executor = Watchful(study, store)
    done = Sweep(study, store, seconds={})
    done.go(executor)
    assert not done.failed
    assert {run.protocol.measure for run in executor.given} == {"validation", "test"}


@pytest.mark.usefixtures("images")
def test_labels_that_are_read_too_early_are_seen(tmp_path: Path) -> None:
    """That the guard works: a final run before anything is selected."""
    store = Store(tmp_path)
    study = load_study("table8", store, scale="smoke", overrides=SMALL).study
    early = final_runs(study.arms[1], (("weight", 50.0),), 1)[0]
    Watchful(study, store).open(Task(early, tmp_path))
    answer = work(Task(early, tmp_path))
    assert answer.state == "failed"
    assert "test labels were read before selection" in answer.error


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FUTURE, "sinstrong"])
def test_page_on_future_work_has_the_command(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "future-work.md").read_text()
    assert f"    gradreg run {name}\n" in page


@pytest.mark.parametrize("name", NAMES)
def test_page_has_the_command_and_the_number_of_runs(name: str, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reproduction.md").read_text()
    assert f"    gradreg run {name}\n" in page
    study = built(name)
    # Of a searched arm the weights are open, so that its runs are no other arm's.
    final = {(arm.search and arm.name, run) for arm in study.arms for run in final_runs(arm, (), study.seeds)}
    tuning = {run for arm in study.arms for run in tuning_runs(arm, study, Store(tmp_path))}
    kinds = {stack_kind(run) for run in tuning | {run for _, run in final}}
    assert f"| {name} | {len(final)} | {len(tuning)} | {len(kinds)} |" in page
