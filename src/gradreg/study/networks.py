"""Networks by name: built in, or the user's own as ``module:factory``, tried on two examples before any training."""

import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from gradreg.models import MLP, ConvNet, LeNet5, Regularization, ResNet, ResNet18, SmallCNN
from gradreg.study.config import StudyError
from gradreg.study.source import file_hash, parted, source_file
from gradreg.study.suggest import unknown

Shape = tuple[int, ...]

# What a network is made by, which inputs it fits, and these in words.
_Kind = tuple[Callable[[Shape, int], nn.Module], Callable[[Shape], bool], str]


def _lenet(regularization: Regularization) -> _Kind:
    return lambda shape, classes: LeNet5(regularization, classes=classes), lambda s: s == (1, 28, 28), "(1, 28, 28)"


def _small(regularization: Regularization) -> _Kind:
    return (
        lambda shape, classes: SmallCNN(classes=classes, regularization=regularization),
        lambda shape: shape == (1, 8, 8),
        "(1, 8, 8)",
    )


_IMAGES: tuple[Callable[[Shape], bool], str] = (
    lambda shape: len(shape) == 3 and min(shape[1:]) >= 8,
    "(channels, height, width) with sides of at least 8",
)
# By name.
BUILT_IN: dict[str, _Kind] = {
    "lenet5": _lenet("dropout"),
    "lenet5-batchnorm": _lenet("batchnorm"),
    "lenet5-batch-statistics": _lenet("batch-statistics"),
    "lenet5-plain": _lenet("none"),
    "small-cnn": _small("none"),
    "small-cnn-dropout": _small("dropout"),
    "small-cnn-batchnorm": _small("batchnorm"),
    "convnet": (lambda shape, classes: ConvNet(shape[0], (shape[1], shape[2]), classes), *_IMAGES),
    "resnet": (lambda shape, classes: ResNet(shape[0], classes), *_IMAGES),
    "resnet-width8": (lambda shape, classes: ResNet(shape[0], classes, width=8), *_IMAGES),
    "resnet-width16": (lambda shape, classes: ResNet(shape[0], classes, width=16), *_IMAGES),
    "resnet18": (lambda shape, classes: ResNet18(shape[0], classes), *_IMAGES),
    "resnet18-width16": (lambda shape, classes: ResNet18(shape[0], classes, width=16), *_IMAGES),
    "mlp": (lambda shape, classes: MLP(math.prod(shape), classes), lambda shape: True, "of any shape"),
    "mlp-5x64": (lambda shape, classes: MLP(math.prod(shape), classes, 64, 5), lambda shape: True, "of any shape"),
}
_ACCEPTED = (
    "def factory(*, classes, shape, channels, size, features), each of these only where it wants it: the number of "
    "classes; the shape of an input; an image's channels and side; the numbers in an input"
)
# The hash of the source that each of the user's modules was imported from in this process.
_imported: dict[str, str] = {}


def network(name: str, shape: Shape, classes: int) -> nn.Module:
    """Makes a network, with weights drawn from torch's global generator.

    Args:
        name: of a built-in network, such as "lenet5" (with dropout), "lenet5-batchnorm", "lenet5-batch-statistics",
            "lenet5-plain" (see `LeNet5`), "convnet", "resnet" or "mlp" (`BUILT_IN` has all); or ``module:factory``, as
            in ``mynet:build`` or ``nets/mynet.py:Net``: a function or a class that gives a network. It is called with
            those of ``classes``, ``shape``, ``channels``, ``size`` and ``features`` that it names (with ``**kwargs``
            also ``classes`` and ``shape``).
        shape: of one input: (C, H, W) or (D,).
        classes: number of outputs, also of a regression.

    Raises:
        StudyError: there is no such network, it cannot be made, or it does not give (2, classes) for two inputs.

    Example:
        >>> network("mlp", (20,), 3)(torch.randn(5, 20)).shape
        torch.Size([5, 3])
    """
    model = untried(name, shape, classes)
    if ":" in name:
        _try(model, name, shape, classes)
    return model


def untried(name: str, shape: Shape, classes: int) -> nn.Module:
    """Makes a network as `network` does, but takes one of any outputs: nothing is run through it.

    Args:
        name, shape, classes: see `network`.

    Raises:
        StudyError: there is no such network, or it cannot be made.
    """
    if ":" in name:
        return _made(name, shape, classes)
    if name not in BUILT_IN:
        raise StudyError(
            f"there is no network of that name: {unknown(name, BUILT_IN)} (or module:factory for your own)."
        )
    make, fits, wanted = BUILT_IN[name]
    if not fits(shape):
        other = next(other for other, (_, also, _) in BUILT_IN.items() if also(shape))
        raise StudyError(f"the network {name!r} takes inputs {wanted}, but these are {shape}; write {other!r}.")
    return make(shape, classes)


def loaded(name: str) -> Any:
    """The object that ``module:name`` says.

    Args:
        name: as in ``mydata:batch`` or ``folder/mydata.py:batch``.

    Raises:
        StudyError: the module is not there, cannot be imported, or has no such name.
    """
    module = _module(name)
    _, called = parted(name)
    if not hasattr(module, called):
        public = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise StudyError(f"{name!r}: the module has no such name: {unknown(called, public)}.")
    return getattr(module, called)


def _module(name: str) -> ModuleType:
    """Imports the user's module, anew where its source has changed since."""
    path = source_file(name)
    given, _ = parted(name)
    source = file_hash(path)
    try:
        if not given.endswith(".py"):
            known = sys.modules.get(given)
            changed = known is not None and _imported.get(given, source) != source
            module = importlib.reload(known) if known is not None and changed else importlib.import_module(given)
            _imported[given] = source
            return module
        own = f"gradreg_network_{hashlib.sha256(f'{path}/{source}'.encode()).hexdigest()[:16]}"
        if own not in sys.modules:
            sys.modules[own] = _from_file(own, path)
        return sys.modules[own]
    except Exception as error:
        raise StudyError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error


def _from_file(own: str, path: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location(own, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.path.insert(0, str(path.parent))  # for what it imports from its own folder, as python FILE does
    sys.modules[own] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[own]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


def _made(name: str, shape: Shape, classes: int) -> nn.Module:
    module = _module(name)
    _, called = parted(name)
    factory = getattr(module, called, None)
    if factory is None:
        public = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise StudyError(f"the network {name!r}: the module has no such factory: {unknown(called, public)}.")
    if isinstance(factory, nn.Module) or not callable(factory):
        raise StudyError(
            f"the network {name!r} is an object of type {type(factory).__name__}, but each run trains a network of its "
            f"own; write {_ACCEPTED}."
        )
    arguments = _arguments(name, factory, shape, classes)
    try:
        model = factory(**arguments)
    except Exception as error:
        given = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise StudyError(f"the network {name!r}: {called}({given}) raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise StudyError(f"the network {name!r}: {called} returned {type(model).__name__}; expected a torch.nn.Module.")
    return model


def _arguments(name: str, factory: Callable[..., Any], shape: Shape, classes: int) -> dict[str, Any]:
    """The keywords that a factory is called with."""
    offered: dict[str, Any] = {"classes": classes, "shape": shape, "features": math.prod(shape)}
    if len(shape) == 3:
        offered["channels"] = shape[0]
        if shape[1] == shape[2]:
            offered["size"] = shape[1]
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError) as error:
        raise StudyError(f"the network {name!r} has no readable signature; write {_ACCEPTED}.") from error
    chosen: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            chosen |= {"classes": classes, "shape": shape}
        elif parameter.kind is parameter.VAR_POSITIONAL:
            continue
        elif parameter.kind is not parameter.POSITIONAL_ONLY and parameter.name in offered:
            chosen[parameter.name] = offered[parameter.name]
        elif parameter.default is parameter.empty:
            lacking = "which is not known here"
            if parameter.name in ("channels", "size"):
                lacking = f"which inputs of shape {shape} do not have (size is the side of square images)"
            raise StudyError(f"the network {name!r} wants {parameter.name!r}, {lacking}; write {_ACCEPTED}.")
    return chosen


def _try(model: nn.Module, name: str, shape: Shape, classes: int) -> None:
    """Two examples through the network, which leaves it and torch's generators as they were."""
    modes = {module: module.training for module in model.modules()}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    x = torch.zeros(2, *shape, device=device)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            z = model.eval()(x)
    except Exception as error:
        raise StudyError(
            f"the network {name!r} fails on inputs of shape {tuple(x.shape)}: {type(error).__name__}: {error}"
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training
    arrived = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else f"type {type(z).__name__}"
    if not isinstance(z, Tensor) or z.shape != (2, classes):
        raise StudyError(
            f"the network {name!r} gave an output of {arrived} for inputs of shape {tuple(x.shape)}; expected class "
            f"scores of shape {(2, classes)}: write a factory that takes classes, or a last layer of {classes} outputs."
        )
