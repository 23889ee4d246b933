"""Methods to compare: selectors with their seeds, from the command line or a config file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from hf_datasel.cli.arguments import names_and_settings
from hf_datasel.errors import ConfigError

if TYPE_CHECKING:
    from hf_datasel.rounds.selector import Selector

__all__ = ["Method", "parse_methods"]


@dataclass(frozen=True)
class Method:
    """A selector and its seed, under a name that is unique in the comparison.

    Args:
        name: Name shown in the comparison, such as "Top by ifd".
        selector: The selector.
        seed: Random seed passed to `select`.
    """

    name: str
    selector: Selector
    seed: int


def parse_methods(methods: Sequence[Any], seed: int, allow_imports: bool) -> list[Method]:
    """Return the methods that a list of names, or of names with their settings, describes.

    Args:
        methods: Such as `["random", {"random": {"seed": 1}}, {"top": {"by": "ifd"}}]`.
        seed: Random seed of the methods without a seed of their own.
        allow_imports: Whether selectors outside hf_datasel are permitted.

    Raises:
        ConfigError: If a name or setting is unknown, or a seed is invalid.
    """
    from hf_datasel.analysis.unique_names import selection_names
    from hf_datasel.selectors import get_selector

    selectors, seeds = [], []
    for name, settings in names_and_settings(methods, "methods"):
        method_seed = seed
        if "seed" in settings and not _has_seed_setting(name):
            settings = dict(settings)
            method_seed = settings.pop("seed")
        if type(method_seed) is not int or method_seed < 0:
            raise ConfigError(f"methods[{name!r}]: seed={method_seed!r} has to be an int of at least 0.")
        selectors.append(get_selector(name, settings, allow_imports))
        seeds.append(method_seed)
    records = [
        {"selector": selector.spec(), "seed": method_seed}
        for selector, method_seed in zip(selectors, seeds, strict=True)
    ]
    return [Method(*method) for method in zip(selection_names(records), selectors, seeds, strict=True)]


def _has_seed_setting(name: str) -> bool:
    """Return whether `seed` is a setting of the selector itself; for selectors outside hf_datasel, assume it is."""
    from hf_datasel.selectors import list_selectors

    selector_type = list_selectors().get(name)
    return selector_type is None or "seed" in [field.name for field in fields(selector_type)]
