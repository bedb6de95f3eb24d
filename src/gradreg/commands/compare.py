"""`gradreg compare`: from a data set to a table, a report, a trained network and one sentence."""

import shlex
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from gradreg.commands.common import Doing, do, positive, show
from gradreg.studies import (
    _own,
    cifar10,
    cifar10_jpeg,
    cifar100,
    digits,
    mnist,
    tinyimagenet,
    tinyimagenet_sub100,
)
from gradreg.studies._methods import arms, methods
from gradreg.studies._sizes import sized_methods, sized_run, sized_study
from gradreg.study.config import Model, Run, StudyError
from gradreg.study.files import Loaded, data_notes, kept_studies
from gradreg.study.grid import Study
from gradreg.study.own_data import check_apart, own_data
from gradreg.study.source import code_hash
from gradreg.study.store import Store, write_atomically
from gradreg.study.summary import Row, Summary
from gradreg.study.verdict import better, call, known

BUILT_IN = {
    "digits": digits,
    "mnist": mnist,
    "cifar10": cifar10,
    "cifar10-jpeg": cifar10_jpeg,
    "cifar100": cifar100,
    "tinyimagenet": tinyimagenet,
    "tinyimagenet-sub100": tinyimagenet_sub100,
}


@dataclass(frozen=True, kw_only=True)
class Compare(Doing):
    """Compare gradient regularizers on a data set with few labels.

    Trains the baseline and each method: weights are chosen on a validation split, then every method is trained on the
    same new training subsets and initializations, one per seed, and tested once. Ends with a table, a report, the
    trained network of the recommended configuration, and one sentence that says what to use. Finished runs are kept
    and not repeated.
    """

    data: tyro.conf.Positional[str]
    """digits: scikit-learn's handwritten digits, no download. mnist, cifar10, cifar100, tinyimagenet: from
    $GRADREG_DATA, else downloaded. cifar10-jpeg, tinyimagenet-sub100: copies that have to be there. Or your own: a
    folder with a folder of images per class (or train/, val/, test/ of these), a .zip of it, an .npz of X and y."""
    model: str | None = None
    """Network: lenet5, small-cnn, convnet, resnet, mlp, or module:factory of your own. Default: by the data's shape."""
    image_size: int | None = None
    """Side of the squares that your own images are made to. Default: kept where all have one size of at most 64."""
    train_size: int | None = None
    """Number of labelled training points. Default: 100 (digits), 2000 (mnist, cifar10), 20000 (cifar100), 10000
    (tinyimagenet), else all that are left."""
    unlabelled: int = 0
    """Number of further training points whose inputs alone are used, by the penalties that need no labels: each is then
    the mean over labelled and unlabelled inputs of a step, as many of these as of those."""
    seeds: int | None = None
    """Number of final runs of each method. Default: 10 (digits), else 5."""
    tuning_seeds: int | None = None
    """Number of runs for each weight on the validation split. Default: 2 (digits), else 1."""
    unbalanced: bool = False
    """Draw --train-size points at random rather than the same number of each class."""
    steps: int | None = None
    """Optimizer steps of a run. Default: 200 (digits), 2000 (mnist, cifar, tinyimagenet; the paper has more), else by
    size."""
    batch_size: int | None = None
    """Examples in a step. Default: 20 (digits), else 50, or less for few points."""
    learning_rate: float | None = None
    """Of Adam, at the start. Default: 0.003 (digits), 0.001 (mnist, cifar, tinyimagenet), else 0.001 for lenet5 and
    0.003 for others."""
    methods: tuple[str, ...] = ()
    """Methods beside the baseline, by name: doubleback spectreg frobreg jacreg confidencepenalty, and their relatives:
    docs/gallery.md; spectreg=0.03 fixes the weight and skips its search; all takes every one. Default: these five for
    digits and mnist; else those of them that cost the same for any number of classes (not frobreg, jacreg)."""
    scale: Literal["paper", "quick", "smoke"] = "paper"
    """paper: the steps and seeds that are named above. quick: half of the steps, 3 seeds, 1 tuning seed. smoke: 5
    steps, to see that everything runs."""


def run_compare(options: Compare) -> None:
    """Runs the comparison, and shows and keeps what it found."""
    console = Console()
    check_apart(Path(options.data).expanduser(), options.store)
    store = Store(options.store)
    for name in ("train_size", "seeds", "tuning_seeds", "steps", "batch_size"):
        if (value := getattr(options, name)) is not None:
            positive(value, "--" + name.replace("_", "-"))
    if options.unlabelled < 0:
        raise StudyError(f"--unlabelled got {options.unlabelled}; expected a whole number >= 0.")
    if options.learning_rate is not None and not options.learning_rate > 0:
        raise StudyError(f"--learning-rate got {options.learning_rate}; expected a number > 0.")
    if options.unbalanced and options.train_size is None:
        raise StudyError(
            "--unbalanced is for a draw of --train-size points; without it training takes all that are left."
        )
    loaded = _built_in(options) if options.data in BUILT_IN else _own_study(options, store, console)
    summary = do(loaded, options, _command(options), console)
    folder = store.study(loaded.study.name)
    best = recommended(summary)
    try:
        show(summary, folder, console)
    finally:
        if best is not None:
            _hand_over(best, store, folder, console)


def recommended(summary: Summary) -> Row | None:
    """The row to use: the best of those that beat the baseline beyond chance, else the baseline; None without runs."""
    (group,) = summary.groups
    found = max(better(group), key=lambda row: row.gain, default=group.rows[0])
    return found if known(found) else None


def _hand_over(row: Row, store: Store, folder: Path, console: Console) -> None:
    """Copies the network of the best validation accuracy among the row's seeds, and says how to load it."""
    results = {run: found for run in row.runs if (found := store.result(run)) is not None}
    run = max(results, key=lambda run: (results[run]["validation_accuracy"], -run.seed))
    trained = store.files(run).folder / "model.pt"
    if not _is_whole(trained):
        console.print(
            f"\nthe trained network of {call(row)}, {trained}, is missing or damaged: delete {trained.parent} and give "
            "the same command again.",
            highlight=False,
        )
        return
    write_atomically(folder / "model.pt", trained.read_bytes())
    console.print(
        f"\ntrained network of {call(row)}, seed {run.seed} (the best of its seeds on validation points): "
        f"{folder / 'model.pt'}\n",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        "    from gradreg.study.trained import load\n"
        f'    classifier = load("{folder / "model.pt"}")\n'
        "    classifier.predict(images)  # float images in [0, 1], or features, as the data set has them",
        highlight=False,
        soft_wrap=True,
    )


def _is_whole(path: Path) -> bool:
    """Whether a trained network is there with all its bytes, by the checksums of the archive that it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _built_in(options: Compare) -> Loaded:
    """The data set's setting with the options put in."""
    module = BUILT_IN[options.data]
    if options.image_size is not None:
        raise StudyError(f"--image-size is for your own images; {options.data} has one size.")
    run: Run = module.RUN
    size = options.train_size or run.split.train_size
    split = replace(run.split, train_size=size, balanced=not options.unbalanced)
    run = _with(replace(run, split=split), options)
    words = options.methods or getattr(module, "USUAL", ())
    chosen = sized_methods(methods(words, module.GRIDS, run, getattr(module, "MORE_GRIDS", None)), options.scale)
    study = _with_seeds(replace(module.STUDY, arms=arms(run, chosen, options.unlabelled)), options)
    return Loaded(study, data_notes(study))


def _own_study(options: Compare, store: Store, console: Console) -> Loaded:
    path = Path(options.data).expanduser()
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        if options.data == "sin":
            raise StudyError("compare is about classifiers, and sin is a regression: gradreg run table7.")
        raise StudyError(
            f"there is no data set {options.data!r}: expected {', '.join(BUILT_IN)}, or the path of your own folder of "
            "class folders, .zip or .npz."
        )
    if options.unlabelled and options.train_size is None:
        raise StudyError(
            "--unlabelled takes points that training leaves; without --train-size, training takes all of your own data."
        )
    with console.status(f"reading {path}"):
        facts = own_data(path, store, image_size=options.image_size)
    run = _own.own_run(
        facts,
        model=options.model,
        train_size=options.train_size,
        steps=options.steps,
        batch_size=options.batch_size,
        balanced=options.train_size is not None and not options.unbalanced,
    )
    run = _with(run, options)
    chosen = sized_methods(methods(options.methods, _own.GRIDS, run, _own.MORE_GRIDS), options.scale)
    shape = " x ".join(map(str, facts.shape))
    validation, test = facts.validation or run.split.validation_size, facts.test or run.split.test_size
    sizes = f"{run.split.train_size} training, {validation} validation, {test} test points"
    console.print(
        f"[bold]{facts.name}[/bold]: {facts.points} points of {facts.classes} classes, {shape}; "
        f"{sizes}; {run.model.name}, {run.schedule.steps} steps of "
        f"{run.schedule.batch_size}",
        highlight=False,
    )
    study = _with_seeds(_own.own_study(facts, run, chosen, options.unlabelled), options)
    for other in kept_studies(store):
        if other.name == study.name and other.arms[0].run.data != run.data:  # of another folder of the same name
            study = replace(study, name=f"{study.name}-{facts.content[:6]}")
    notes = facts.notes
    if options.train_size is None:
        notes = (*notes, _own.ALL_POINTS)
    return Loaded(study, notes)


def _with(run: Run, options: Compare) -> Run:
    """The run with the options put in that mean the same for every data set."""
    name = options.model or run.model.name
    run = sized_run(run, options.scale)
    schedule = replace(
        run.schedule,
        steps=options.steps or run.schedule.steps,
        batch_size=options.batch_size or run.schedule.batch_size,
    )
    rate = options.learning_rate or run.optimizer.learning_rate
    return replace(
        run,
        model=Model(name, code_hash(name)),
        schedule=schedule,
        optimizer=replace(run.optimizer, learning_rate=rate),
    )


def _with_seeds(study: Study, options: Compare) -> Study:
    study = sized_study(study, options.scale)
    return replace(study, seeds=options.seeds or study.seeds, tuning_seeds=options.tuning_seeds or study.tuning_seeds)


def _command(options: Compare) -> str:
    """What repeats the comparison."""
    words = ["gradreg", "compare", options.data]
    for name in ("model", "image_size", "train_size", "seeds", "tuning_seeds", "steps", "batch_size", "learning_rate"):
        if (value := getattr(options, name)) is not None:
            words += ["--" + name.replace("_", "-"), str(value)]
    words += ["--unlabelled", str(options.unlabelled)] if options.unlabelled else []
    words += ["--unbalanced"] if options.unbalanced else []
    words += ["--methods", *options.methods] if options.methods else []
    words += ["--scale", options.scale] if options.scale != "paper" else []
    words += ["--store", str(options.store)] if options.store != Path("runs") else []
    return shlex.join(words)
