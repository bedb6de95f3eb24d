"""The package as a whole: imports point downwards only, extras stay out of ``import gradreg``, everything is explained.

The import graph is read from the sources with ast, lazy imports within functions included.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from inspect import isclass
from itertools import pairwise
from pathlib import Path

import pytest

import gradreg

ROOT = Path(gradreg.__file__).parent
LONGEST_FILE = 450
EXTRAS = {
    *("numpy", "scipy", "sklearn", "matplotlib", "rich", "tyro", "pooch", "tqdm"),
    *("PIL", "optuna", "jinja2", "markupsafe", "cattrs", "ray"),
    *("skorch", "lightning", "pytorch_lightning", "lightning_fabric", "transformers", "accelerate"),
}

# From the bottom up. Each entry is a module, or a folder with all its modules. A module may import from the layers
# below its own, and from its own folder as long as that makes no circle; not from a neighbour in the same layer. The
# lowest layer counts as one folder.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("gradreg._checks", "gradreg._peak", "gradreg._random", "gradreg._timing", "gradreg._tree", "gradreg._types"),
    ("gradreg.jacobian", "gradreg.models", "gradreg.data", "gradreg.convert"),
    ("gradreg.penalties", "gradreg.metrics"),
    ("gradreg.objective",),
    ("gradreg._traced", "gradreg.mixup"),
    ("gradreg.sam",),
    ("gradreg.auto_weight", "gradreg.compiled", "gradreg.probing"),
    ("gradreg.integrations",),
    ("gradreg",),  # the public names: the package's __init__ alone
    ("gradreg.study",),
    ("gradreg.studies",),
    ("gradreg.commands",),
    ("gradreg.cli",),
    ("gradreg.__main__",),
)


# Studies, selection and tables are plain data: importing these never waits for torch, nor does a command that finds all
# runs done. What trains imports torch within its functions.
WITHOUT_TORCH = (
    *("gradreg", "gradreg.cli", "gradreg.study.config", "gradreg.study.grid", "gradreg.study.select"),
    *("gradreg.study.store", "gradreg.study.summary", "gradreg.study.verdict", "gradreg.study.report"),
    *("gradreg.study.tables", "gradreg.study.search", "gradreg.study.execute", "gradreg.study.work"),
    *("gradreg.study.cost", "gradreg.study.sweep", "gradreg.study.stacks"),
    *("gradreg.study.html", "gradreg.study.function_figures", "gradreg.study.saliency", "gradreg.studies.table7"),
)


# --- the import graph -------------------------------------------------------------------------------------------------


def name_of(path: Path) -> str:
    parts = ("gradreg", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache
def parsed(module: str) -> ast.Module:
    return ast.parse(SOURCES[module].read_text())


def imports(tree: ast.AST, known: Iterable[str]) -> Iterator[str]:
    """The modules that a source imports: those of ``known`` by their full names, others by their first names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the full name of the module, not a relative import"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name if name in known else str(node.module) for name in inside]
        else:
            continue
        for name in found:
            if name.split(".")[0] == "gradreg":
                assert name in known, f"line {node.lineno}: there is no module {name}"
                yield name
            else:
                yield name.split(".")[0]


@cache
def imported(module: str) -> frozenset[str]:
    return frozenset(imports(parsed(module), SOURCES))


def entry_of(module: str) -> str:
    """The entry of `LAYERS` that a module belongs to: its own, or its folder's."""
    entries = [entry for layer in LAYERS for entry in layer]
    owners = [entry for entry in entries if module == entry or (module.startswith(f"{entry}.") and entry != "gradreg")]
    assert len(owners) == 1, f"{module} belongs to {owners or 'no layer'}: put it into LAYERS once"
    return owners[0]


def height(entry: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if entry in layer)


def upward(module: str, below: Iterable[str]) -> list[str]:
    """The imports of a module that its layer does not allow, in words."""
    own = entry_of(module)
    others = [name for name in below if name.split(".")[0] == "gradreg" and entry_of(name) != own]
    return [
        f"{module} (layer {height(own)}) imports {name} (layer {height(entry_of(name))})"
        for name in others
        if height(entry_of(name)) >= max(height(own), 1)
    ]


def cycle(graph: dict[str, Iterable[str]]) -> str:
    """A cycle of a graph in words, empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " <- ".join(error.args[1])
    return ""


def closure(start: str) -> set[str]:
    """A module and the modules of gradreg that it needs, in turn; not the package's __init__ that Python runs first."""
    found, waiting = set(), [start]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting.extend(name for name in imported(module) if name in SOURCES)
    return found


def test_every_entry_of_the_layers_is_there() -> None:
    assert [entry for layer in LAYERS for entry in layer if entry not in SOURCES] == []


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_downwards(module: str) -> None:
    assert upward(module, imported(module)) == []


def test_no_imports_go_in_a_circle() -> None:
    assert cycle({module: [name for name in imported(module) if name in SOURCES] for module in SOURCES}) == ""


def test_the_rules_find_what_breaks_them() -> None:
    """The checks above on imports that are not allowed."""
    lazy = (
        "def f():\n    from gradreg import convert\n    from gradreg.study import report\n    import torch.nn as nn\n"
    )
    assert list(imports(ast.parse(lazy), SOURCES)) == ["gradreg.convert", "gradreg.study.report", "torch"]
    assert list(imports(ast.parse("from gradreg import SpectReg"), SOURCES)) == ["gradreg"]
    with pytest.raises(AssertionError, match="no module"):
        list(imports(ast.parse("import gradreg.nowhere"), SOURCES))
    with pytest.raises(AssertionError, match="relative"):
        list(imports(ast.parse("from .. import convert"), SOURCES))
    assert upward("gradreg.jacobian.dense", ["gradreg.jacobian.site", "gradreg._checks", "torch"]) == []
    assert upward("gradreg.jacobian.dense", ["gradreg.penalties.base"]) == [
        "gradreg.jacobian.dense (layer 1) imports gradreg.penalties.base (layer 2)"
    ]
    assert len(upward("gradreg.models", ["gradreg.jacobian.site"])) == 1  # a neighbour
    assert len(upward("gradreg.metrics", ["gradreg", "gradreg.penalties.base"])) == 2
    assert len(upward("gradreg._tree", ["gradreg._checks", "gradreg.jacobian.site"])) == 1
    with pytest.raises(AssertionError, match="no layer"):
        upward("gradreg.new", [])
    assert cycle({"a": ["b"], "b": ["c"], "c": ["a"]})
    assert cycle({"a": ["b", "c"], "b": ["c"]}) == ""


def test_the_graph_is_not_empty() -> None:
    """So that a folder moved away does not leave tests that look at nothing."""
    assert "gradreg.penalties.base" in imported("gradreg.objective")
    assert "gradreg.objective" in imported("gradreg")
    assert "gradreg._checks" in imported("gradreg.convert")
    assert "torch" in imported("gradreg.objective")
    assert closure("gradreg.study.report") >= {"gradreg.study.summary", "gradreg.study.select", "gradreg.study.config"}
    for lower, upper in pairwise(("gradreg._types", "gradreg.jacobian.site", "gradreg.penalties.base", "gradreg")):
        assert height(entry_of(lower)) < height(entry_of(upper))


# --- what an import brings along --------------------------------------------------------------------------------------


def in_a_fresh_process(script: str) -> object:
    """What a script prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_importing_gradreg_brings_nothing_until_a_name_is_used_and_then_torch_alone() -> None:
    """In a fresh process, against what torch brings along by itself."""
    script = (
        "import json, sys\n"
        "start = set(sys.modules)\n"
        "import gradreg\n"
        "alone = set(sys.modules) - start\n"
        "import torch\n"
        "before = set(sys.modules)\n"
        "for name in gradreg.__all__: getattr(gradreg, name)\n"
        "print(json.dumps([gradreg.__file__, *map(sorted, (alone, before, set(sys.modules) - before))]))"
    )
    found = in_a_fresh_process(script)
    assert isinstance(found, list)
    file, alone, before, brought = found
    assert Path(file).parent == ROOT
    assert {name.split(".")[0] for name in alone} - sys.stdlib_module_names == {"gradreg"}
    packages = {name.split(".")[0] for name in brought}
    assert packages - sys.stdlib_module_names == {"gradreg"}
    assert EXTRAS & packages == set()
    # torch takes these two where they are installed.
    assert EXTRAS & {name.split(".")[0] for name in before} <= {"tqdm", "numpy"}
    assert {name for name in brought if name.startswith("gradreg.")} == closure("gradreg") - {"gradreg"} | {
        "gradreg.jacobian",
        "gradreg.penalties",
        "gradreg.probing",
    }


def brings_torch(modules: Iterable[str]) -> list[str]:
    """The first of some modules whose import brings torch, if any, in a fresh process."""
    script = (
        "import importlib, json, sys\n"
        f"for module in {list(modules)}:\n"
        "    importlib.import_module(module)\n"
        "    if 'torch' in sys.modules: break\n"
        "print(json.dumps([module] if 'torch' in sys.modules else []))"
    )
    found = in_a_fresh_process(script)
    assert isinstance(found, list)
    return found


def test_what_reads_results_does_not_wait_for_torch() -> None:
    assert brings_torch(module for module in WITHOUT_TORCH if module in SOURCES) == []
    assert brings_torch(["gradreg.study.config", "gradreg.study.train"]) == ["gradreg.study.train"]


def test_what_import_gradreg_runs_names_no_package_but_torch() -> None:
    """The same rule in the sources, lazy imports included."""
    for module in sorted(closure("gradreg")):
        others = {name for name in imported(module) if name not in SOURCES}
        assert others - sys.stdlib_module_names <= {"torch"}, module


# --- documentation and size -------------------------------------------------------------------------------------------


def public_definitions(tree: ast.AST, owner: str) -> Iterator[tuple[str, ast.AST]]:
    """Public classes and functions of a module, and the public methods of its public classes."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if not node.name.startswith("_"):
                yield f"{owner}.{node.name}", node
                if isinstance(node, ast.ClassDef):
                    yield from public_definitions(node, f"{owner}.{node.name}")
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            yield from public_definitions(node, owner)


def undocumented(tree: ast.Module, module: str) -> list[str]:
    named: list[tuple[str, ast.AST]] = [(module, tree), *public_definitions(tree, module)]
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [name for name, node in named if isinstance(node, kinds) and not (ast.get_docstring(node) or "").strip()]


@pytest.mark.parametrize("module", SOURCES)
def test_every_module_class_and_function_has_a_docstring(module: str) -> None:
    assert undocumented(parsed(module), module) == []


def test_a_missing_docstring_is_found() -> None:
    source = 'class A:\n    """A."""\n    def f(self): ...\n    def _g(self): ...\nif 1:\n    def h(): ...\n'
    assert undocumented(ast.parse(source), "m") == ["m", "m.A.f", "m.h"]


@pytest.mark.parametrize("name", gradreg.__all__)
def test_every_public_name_is_there_with_a_docstring_of_its_own(name: str) -> None:
    found = getattr(gradreg, name)
    text = (found.__dict__.get("__doc__") if isclass(found) else found.__doc__) or ""
    assert text.strip()
    assert not text.startswith(f"{name}(")  # what dataclass writes by itself


def names_for_type_checkers() -> dict[str, str]:
    """What `gradreg/__init__.py` imports for type checkers alone: each name with the module that it is from."""
    (block,) = [
        node
        for node in parsed("gradreg").body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            inside = f"{node.module}.{alias.name}"
            found[alias.asname or alias.name] = inside if inside in SOURCES else str(node.module)
    return found


def test_public_names_are_listed_once_and_come_from_where_type_checkers_see_them() -> None:
    """The list, the imports that type checkers read, and the tables that are used at run time say the same."""
    assert len(set(gradreg.__all__)) == len(gradreg.__all__)
    used = {**gradreg._HOME, **gradreg._MODULES}
    assert len(used) == len(gradreg._HOME) + len(gradreg._MODULES) == sum(map(len, gradreg._HOMES.values())) + 3
    assert used == names_for_type_checkers()
    assert set(used) == set(gradreg.__all__)
    assert set(gradreg.__all__) <= set(dir(gradreg))


def test_names_that_are_not_public_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="module 'gradreg' has no attribute 'SpektReg'"):
        gradreg.SpektReg  # noqa: B018
    assert not hasattr(gradreg, "_nothing")


def test_no_source_file_is_too_long() -> None:
    lengths = {module: len(path.read_text().splitlines()) for module, path in SOURCES.items()}
    assert {module: length for module, length in lengths.items() if length > LONGEST_FILE} == {}
