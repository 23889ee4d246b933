"""Pure functions from arrays (scores, vectors, texts, cluster ids) to ordered positions in those arrays.

Each module holds one family of algorithms and is loaded on first access: `strategies.top.top(...)`,
`strategies.ngram.ngram_greedy(...)`. They use only numpy, scipy and the standard library, keep no state and read no
files.
"""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType


def __dir__() -> list[str]:
    return sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))


def __getattr__(name: str) -> ModuleType:
    # Without this, `strategies.top` works only after hf_datasel.strategies.top has been imported.
    if name not in __dir__():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__dir__())}")
    return import_module(f"{__name__}.{name}")
