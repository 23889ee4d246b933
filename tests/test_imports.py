"""Imports go one way, and `import hf_datasel` costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hf_datasel

PACKAGE = Path(hf_datasel.__file__).parent
ORDER = (
    "_lazy < errors < spec < formats < tokens < strategies < hub < scoring < scores < rounds < selectors < selection"
    " < analysis < cards < training < evaluation < testing < cli"
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


@pytest.mark.parametrize("name", hf_datasel.__all__)
def test_public_names_resolve(name):
    assert getattr(hf_datasel, name) is not None
    assert name in dir(hf_datasel)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        hf_datasel.nonsense  # noqa: B018
