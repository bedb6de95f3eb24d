"""Runs on a real Ray cluster of a head and two nodes: results are those of this process, whatever dies meanwhile."""

import errno
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("ray", reason="the ray executor needs ray")

from gradreg.data.dataset import DataError, Dataset
from gradreg.data.pack import content_hash, save_pack
from gradreg.study import ray_executor, ray_worker, store
from gradreg.study.config import Data, Model, Optimizer, Penalty, Protocol, Run, Schedule, Split, StudyError
from gradreg.study.execute import Outcome
from gradreg.study.ray_executor import RayExecutor
from gradreg.study.ray_keeper import Keeper
from gradreg.study.store import RunFiles, Store
from gradreg.study.train import dataset, train
from gradreg.study.work import Answer, Task, work

RUN = Run(
    Data("digits"),
    Split(100, 100, 200),
    Model("mlp"),
    Optimizer(3e-3),
    Schedule(40, 20),
    (Penalty("SpectReg", 0.01),),
    protocol=Protocol(norm_points=20, profile_points=20),
)
# A few seconds of training.
LONG = replace(RUN, schedule=Schedule(4000, 20), penalties=(), seed=7)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        found.add_node(num_cpus=1)
        found.add_node(num_cpus=1)
        try:
            yield found
        finally:
            found.shutdown()


@pytest.fixture(scope="module")
def connected(cluster: Any) -> Iterator[Any]:
    """This process as a driver, so that not every test connects anew."""
    import ray

    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    yield cluster
    ray.shutdown()


def run_all(tasks: Sequence[Task], tick: Callable[[Sequence[Task]], None] = lambda _: None) -> dict[Run, Outcome[Task]]:
    found = {outcome.item.run: outcome for outcome in RayExecutor()(deque(tasks), tick)}
    assert set(found) == {task.run for task in tasks}
    return found


def same(found: Any, run: Run, data: Dataset | None = None) -> None:
    """The answer is what training in this process gives, bit for bit."""
    assert isinstance(found, Answer)
    assert found.state == "done", found
    assert found.result is not None
    expected, _ = train(run, data or dataset(run.data.name))
    assert {**found.result, "seconds": 0} == {**expected, "seconds": 0, "complete": True}


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def own_data() -> Dataset:
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(120) % 2
    x = torch.randn(120, 6, generator=generator) + y[:, None]
    found = Dataset("mine", x, y, ("a", "b"))
    return replace(found, content=content_hash(found))


def test_runs_give_what_they_give_here_and_failures_leave_the_others_alone(connected: Any, tmp_path: Path) -> None:
    kept, data = Store(tmp_path), own_data()
    save_pack(data, kept.pack(data.content))
    mine = replace(RUN, data=Data("mine", data.content), split=Split(40, 20, 40))
    plain = [replace(RUN, seed=seed) for seed in range(3)]
    (tmp_path / "file").touch()
    held, bad = replace(RUN, seed=5), replace(RUN, penalties=(Penalty("SpectReg", 1e39),))
    full = replace(bad, seed=1)
    # The log of a run that fails goes to a device that is always full, and so does all that would be kept after it.
    kept.files(full).folder.mkdir()
    (kept.files(full).folder / "log.txt").symlink_to("/dev/full")
    ticks: list[int] = []
    with kept.files(held).claim() as claimed:
        assert claimed
        runs = [held, bad, full, *plain, mine]
        found = run_all(
            [*[Task(run, tmp_path) for run in runs], Task(LONG, tmp_path / "file")],
            lambda running: ticks.append(len(running)),
        )
    error = found.pop(LONG).error
    assert error is not None
    assert error.startswith("StudyError: the store got ")
    assert "\x1b" not in error
    assert all(outcome.error is None for outcome in found.values())
    assert found[held].result == Answer("elsewhere")
    assert found[bad].result.state == "failed"
    assert found[bad].result.error.startswith("the loss became")
    failure = kept.files(bad).failure()
    assert failure is not None
    assert "StudyError: the loss became" in failure["log"]
    assert found[full].result.state == "storage"
    assert kept.files(full).failure() is None
    for run in plain:
        same(found[run].result, run)
    same(found[mine].result, mine, data)
    # All that a local run keeps is there, and says where it ran.
    files = kept.files(plain[0])
    assert {"result.json", "config.json", "environment.json", "metrics.jsonl", "model.pt"} <= set(
        os.listdir(files.folder)
    )
    environment = files.environment()
    assert environment is not None
    assert environment["pid"] != os.getpid()
    assert environment["torch"] == torch.__version__
    assert [line["step"] for line in files.metrics()] == [20, 40]
    assert max(ticks) == 2
    # Claims are free again: a local process finds the results.
    assert work(Task(plain[0], tmp_path)) == found[plain[0]].result


def test_closing_keeps_checkpoints_and_leaves_nothing_behind(connected: Any, tmp_path: Path) -> None:
    kept = Store(tmp_path)
    endless = replace(LONG, schedule=Schedule(10**6, 20))
    outcomes = RayExecutor()(deque([Task(endless, tmp_path), Task(RUN, tmp_path)]), lambda _: None)
    next(outcomes)
    until(lambda: kept.files(endless).status().step > 0)
    outcomes.close()  # type: ignore[attr-defined]
    assert kept.files(endless).checkpoint() is not None
    assert kept.files(endless).failure() is None
    assert not kept.files(endless).locked()


def test_node_that_lacks_a_network_is_named_instead_of_failing_the_run(connected: Any, tmp_path: Path) -> None:
    run = replace(RUN, model=Model("a_module_nowhere:build", "0" * 16))
    with pytest.raises(StudyError, match=r"cannot do a run: .*must be on every machine"):
        list(RayExecutor()(deque([Task(run, tmp_path)]), lambda _: None))
    assert Store(tmp_path).files(run).failure() is None


def test_machine_with_another_gradreg_is_refused_and_no_run_is_blamed(connected: Any, tmp_path: Path) -> None:
    other = tmp_path / "other" / "gradreg"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("")
    node = connected.add_node(num_cpus=2, env_vars={"PYTHONPATH": str(other.parent)})
    kept = Store(tmp_path / "store")
    runs = [replace(LONG, seed=seed) for seed in range(4)]
    try:
        with pytest.raises(StudyError, match=r"has no gradreg for Ray .* pip install 'gradreg\[ray\]'"):
            list(RayExecutor()(deque([Task(run, kept.directory) for run in runs]), lambda _: None))
    finally:
        connected.remove_node(node)
    assert [run for run in runs if kept.files(run).failure()] == []


def test_cluster_without_a_gpu_is_not_waited_for_for_ever(
    connected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "PATIENCE_SECONDS", 0.5)
    with pytest.raises(StudyError, match="no machine with a GPU"):
        list(RayExecutor()(deque([Task(RUN, tmp_path, device="cuda")]), lambda _: None))


def test_killed_worker_costs_one_try_of_its_own_run_which_goes_on_from_its_checkpoint(
    connected: Any, tmp_path: Path
) -> None:
    kept = Store(tmp_path)
    files = kept.files(LONG)
    killed: list[int] = []

    def kill(running: Sequence[Task]) -> None:
        if not killed and LONG in {task.run for task in running} and files.checkpoint() is not None:
            environment = files.environment()
            assert environment is not None
            killed.append(environment["pid"])
            os.kill(environment["pid"], signal.SIGKILL)

    others = [replace(RUN, seed=seed) for seed in (10, 11, 12)]
    found = run_all([Task(run, tmp_path, checkpoint_seconds=0.2) for run in (LONG, *others)], kill)
    assert killed
    same(found[LONG].result, LONG)
    log = (files.folder / "log.txt").read_text()
    assert log.count("the process of this run died: WorkerCrashedError") == 1
    assert log.count("goes on from step") == 1
    environment = files.environment()
    assert environment is not None
    assert environment["pid"] != killed[0]
    steps = [line["step"] for line in files.metrics()]
    assert steps == sorted(set(steps))
    for run in others:
        same(found[run].result, run)
        assert "died" not in kept.files(run).log_tail()


def test_run_whose_processes_always_die_is_given_up_and_more_can_be_added(connected: Any, tmp_path: Path) -> None:
    kept, killed = Store(tmp_path), set()
    files = kept.files(LONG)

    def kill(running: Sequence[Task]) -> None:
        environment = files.environment()
        if LONG in {task.run for task in running} and environment and environment["pid"] not in killed:
            killed.add(environment["pid"])
            os.kill(environment["pid"], signal.SIGKILL)

    queue = deque([Task(LONG, tmp_path), Task(RUN, tmp_path)])
    # In a search, a run goes on from where a shorter one ended.
    first = replace(RUN, seed=20, schedule=replace(RUN.schedule, until=20))
    queue.append(Task(first, tmp_path, keep_checkpoint=True))
    later = Task(replace(RUN, seed=20), tmp_path, start=first.key)
    found = {}
    for outcome in RayExecutor()(queue, kill):
        found[outcome.item.run] = outcome
        if outcome.item.run == first:
            queue.append(later)
    assert found[LONG].result is None
    assert found[LONG].error.startswith("its process died 2 times (WorkerCrashedError")
    assert not files.locked()
    same(found[RUN].result, RUN)
    same(found[first].result, first)
    same(found[later.run].result, later.run)
    assert "goes on from step 20 of 40" in kept.files(later.run).log_tail()


def test_data_set_that_cannot_be_read_is_its_machines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Dataset:
        raise DataError("no connection")

    monkeypatch.setattr("gradreg.study.train.dataset", missing)
    assert ray_worker.problem(RUN) == "the data set 'digits' cannot be read: no connection"
    assert ray_worker.problem(replace(RUN, data=Data("mine", "0" * 16))) == ""


def test_keeper_listens_to_nobody_who_was_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper, task = Keeper(), Task(RUN, tmp_path)
    assert keeper.open("a", task).value.answer is None
    assert keeper.open("b", task).value.answer == Answer("elsewhere")
    assert keeper.do("a", "beat", 1, 40).error == ""
    keeper.release("a", "of old age")
    assert keeper.do("a", "save_checkpoint", b"late").refused
    assert keeper.open("a", task).refused
    assert keeper.open("c", task).value.answer is None
    files = Store(tmp_path).files(RUN)
    assert files.checkpoint() is None
    assert "of old age" in files.log_tail()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(store, "write_atomically", full)
    assert keeper.do("c", "save_checkpoint", b"new").errno == errno.ENOSPC
    keeper.stop()
    assert keeper.do("c", "note", {"step": 1}).stop
    assert keeper.open("d", replace(task, run=LONG)).value.answer.state == "stopped"
    keeper.release("c")
    assert not RunFiles(files.folder).locked()


def test_without_ray_and_without_a_cluster_errors_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = deque([Task(RUN, tmp_path)])
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr(ray_executor, "CONNECT_SECONDS", 3.0)
    begin = time.monotonic()
    with pytest.raises(StudyError, match=r"cluster at '127.0.0.1:1' does not answer: nothing within 3 seconds"):
        list(RayExecutor("127.0.0.1:1")(queue, lambda _: None))
    assert time.monotonic() - begin < 10
    with pytest.raises(StudyError, match="write 'auto'"):
        list(RayExecutor("ray://127.0.0.1:1")(queue, lambda _: None))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(StudyError, match=r"the ray executor needs ray: pip install 'gradreg\[ray\]'"):
        list(RayExecutor()(queue, lambda _: None))
    assert len(queue) == 1


def test_ctrl_c_in_a_terminal_keeps_checkpoints(cluster: Any, tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import sys
        from collections import deque
        from dataclasses import replace
        from pathlib import Path
        from gradreg.study.config import *
        from gradreg.study.ray_executor import RayExecutor
        from gradreg.study.work import Task

        run = Run(Data("digits"), Split(100, 100, 200), Model("mlp"), Optimizer(3e-3), Schedule(10**6, 20))
        try:
            list(RayExecutor(sys.argv[1])(deque([Task(run, Path(sys.argv[2]))]), lambda _: None))
        except KeyboardInterrupt:
            print("interrupted", run.key)
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", program, cluster.address, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    kept = Store(tmp_path)
    until(lambda: kept.keys() and kept.find(kept.keys()[0]).status().step > 0)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    files = kept.find(out.split()[1])
    assert files.checkpoint() is not None
    assert not files.locked()
