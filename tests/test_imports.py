"""Imports go one way, and `import hf_datasel` costs nothing."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hf_datasel

PACKAGE = Path(hf_datasel.__file__).parent
ORDER = (
    "_lazy < errors < atomic < memory < side_effects < spec < formats < tokens < strategies < hub < scoring < scores"
    " < rounds < selectors < selection < analysis < cards < training < evaluation < testing < cli"
)
RANK = {part: rank for rank, group in enumerate(ORDER.split(" < ")) for part in group.split(", ")}
# Selection.push_to_hub and Selection.from_hub import cards inside the method.
EXEMPT = {("selection", "cards")}


def imports(tree: ast.AST, package: str, inside: bool = False) -> Iterator[tuple[str, int, bool]]:
    """Yield (absolute dotted name, line, is inside a function) of every import in a tree."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from ((f"{module}.{alias.name}", node.lineno, inside) for alias in node.names)
        else:
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(node, package, inside or is_function)


def wrong_imports(source: str, module: str, is_package: bool = False) -> list[str]:
    """Describe every import of `module` (dotted, with hf_datasel) that goes against ORDER."""
    layer = module.split(".")[1]
    package = module if is_package else module.rpartition(".")[0]
    wrong = []
    for name, line, inside in imports(ast.parse(source), package):
        top, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if top != "hf_datasel" or target in (layer, "__version__") or (inside and (layer, target) in EXEMPT):
            continue
        if target not in RANK:
            wrong.append(f"{module}:{line} imports {name}: not a module of the order, import it from where it lives")
        elif RANK[target] >= RANK[layer]:
            wrong.append(f"{module}:{line} imports {name}, but the order is {ORDER}")
    return wrong


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    assert module.split(".")[1] in RANK, f"{module} has no place in the order: {ORDER}"
    assert wrong_imports(path.read_text(encoding="utf-8"), module, is_package) == []


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("hf_datasel.selection", "import hf_datasel.training", 1),
        ("hf_datasel.selection", "from hf_datasel.cards import push", 1),
        ("hf_datasel.selection", "class A:\n    def push(self):\n        from hf_datasel.cards import push", 0),
        ("hf_datasel.selection", "def push():\n    import hf_datasel.training", 1),
        ("hf_datasel.scores.ifd", "from ..selectors import base", 1),
        ("hf_datasel.scores.ifd", "from . import base\nfrom .base import Score\nfrom .. import errors", 0),
        ("hf_datasel.scores.ifd", "from hf_datasel import strategies", 0),
        ("hf_datasel.scores.ifd", "from hf_datasel import score", 1),
        ("hf_datasel.testing", "import hf_datasel.training, hf_datasel.rounds.selector", 0),
        ("hf_datasel.cli.train", "import hf_datasel.training, torch", 0),
    ],
)
def test_the_check_itself(module, source, found):
    assert len(wrong_imports(source, module)) == found


# -- no circles -------------------------------------------------------------------------------------------------------
def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def import_graph(sources: dict[str, str], packages: set[str]) -> dict[str, set[str]]:
    """Return the modules that each module imports, also inside functions, but not for type checkers alone.

    Args:
        sources: Source code by module name.
        packages: Those of them that are packages. A name that a package imports lazily counts as its module's.
    """
    trees = {name: ast.parse(source) for name, source in sources.items()}
    lazy = {
        f"{package}.{name.rpartition('.')[2]}": name.rpartition(".")[0]
        for package in packages
        for node in trees[package].body
        if is_type_checking(node)
        for name, _, _ in imports(node, package)
    }
    graph = {}
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if hasattr(node, "body") and isinstance(node.body, list):
                node.body = [child for child in node.body if not is_type_checking(child)] or [ast.Pass()]
        package = module if module in packages else module.rpartition(".")[0]
        names = [name for name, _, _ in imports(tree, package)]
        targets = (name if name in sources else lazy.get(name, name.rpartition(".")[0]) for name in names)
        graph[module] = {target for target in targets if target in sources}
    return graph


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules that import themselves over others."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        new = set(graph[start])
        while new:
            found |= new
            new = {target for name in new for target in graph[name]} - found
        return found

    return sorted(name for name in graph if name in reached(name))


def test_no_module_imports_itself_over_others():
    paths = sorted(PACKAGE.rglob("*.py"))
    packages = {module_name(path) for path in paths if path.stem == "__init__"}
    graph = import_graph({module_name(path): path.read_text(encoding="utf-8") for path in paths}, packages)
    for module, targets in graph.items():
        layer = module.split(".")[1] if "." in module else ""
        targets -= {each for each in targets if (layer, each.split(".")[1] if "." in each else "") in EXEMPT}
    assert circles(graph) == []


def test_the_check_for_circles_itself():
    sources = {
        "p": "",
        "p.a": "from p.b import x",
        "p.b": "def f():\n    from p import a",
        "p.c": "if TYPE_CHECKING:\n    from p.d import y\nimport p.a",
        "p.d": "import p.c",
    }
    assert circles(import_graph(sources, {"p"})) == ["p.a", "p.b"]
    over_a_package = {
        "p": "if TYPE_CHECKING:\n    from p.a import x as x",
        "p.a": "import p.b",
        "p.b": "from p import x",
    }
    assert circles(import_graph(over_a_package, {"p"})) == ["p.a", "p.b"]


# -- methods ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("package", ["scores", "selectors"])
def test_methods_only(package):
    """Each module of the folder defines one public score, selector or filter, which has the name of the module."""
    kinds = ("score",) if package == "scores" else ("selector", "filter")
    for path in sorted((PACKAGE / package).glob("*.py")):
        if path.stem == "__init__":
            continue
        module = importlib.import_module(f"hf_datasel.{package}.{path.stem}")
        found = [
            name
            for name, value in vars(module).items()
            if isinstance(value, type)
            and value.__module__ == module.__name__
            and not name.startswith("_")
            and getattr(value, "spec_kind", None) in kinds
        ]
        assert [name.lower() for name in found] == [path.stem.replace("_", "")], f"{path.name} defines {found}"


def test_strategies_need_numpy_and_scipy_only():
    allowed = set(sys.stdlib_module_names) | {"numpy", "scipy", "hf_datasel"}
    for path in (PACKAGE / "strategies").rglob("*.py"):
        for name, line, _ in imports(ast.parse(path.read_text(encoding="utf-8")), "hf_datasel.strategies"):
            assert name.split(".")[0] in allowed, f"{path.name}:{line} imports {name}"


def test_import_loads_nothing_heavy():
    code = (
        "import sys, hf_datasel\n"
        "print(*sorted({'torch', 'trl', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


AVX512_BF16 = """
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "bitsandbytes.backends.cpu.ops":
            sys.modules["bitsandbytes.functional"].has_avx512bf16 = lambda: True

sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    "code",
    [
        "import hf_datasel.training",
        "from datasets import Dataset\n"
        "from hf_datasel import SelectiveSFTTrainer, score\n"
        "from hf_datasel.scores import Loss\n"
        "score(Dataset.from_dict({'prompt': ['Name a fruit.'], 'completion': [' A cherry.']}), Loss(sys.argv[1]))",
    ],
    ids=["package", "trainer and score"],
)
@pytest.mark.slow
def test_no_warning_about_4bit_kernels_on_a_cpu(code, tiny_text_model_dir):
    """As on a CPU with AVX512-BF16, where bitsandbytes looks for an optional kernel when it is imported."""
    command = [sys.executable, "-c", f"{AVX512_BF16}\n{code}", str(tiny_text_model_dir)]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert "gemm_4bit" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "from hf_datasel.selectors import Random",
        "from hf_datasel.scores import Loss",
        "from hf_datasel.cli import main; main(['list'])",
    ],
)
def test_methods_load_no_model_library(code):
    heavy = {"torch", "trl", "transformers", "datasets", "scipy", "sklearn", "accelerate"}
    code = f"import sys\n{code}\nprint(*sorted({heavy} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stderr.split() == []


@pytest.mark.parametrize("name", hf_datasel.__all__)
def test_public_names_resolve(name):
    assert getattr(hf_datasel, name) is not None
    assert name in dir(hf_datasel)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        hf_datasel.nonsense  # noqa: B018
