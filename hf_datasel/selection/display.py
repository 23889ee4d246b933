"""What selectors and their settings are called: as people write them, with the methods and scores within."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from hf_datasel import scores
from hf_datasel.selectors import available
from hf_datasel.spec import spec_name

__all__ = ["compact", "in_words", "method_name", "models_of"]


def method_name(spec: Mapping[str, Any]) -> str:
    """A method as people write it; somebody else's selector by the name of its class.

    >>> method_name({"selector": "km_random"}), method_name({"selector": "top", "by": {"score": "reward"}})
    ('kM-Random', 'Top by reward')
    >>> method_name({"selector": "within", "method": {"selector": "superfiltering"}, "groups": "cluster_id"})
    'Superfiltering within clusters'
    >>> method_name({"selector": "chain", "filters": [{"filter": "in_range"}], "then": {"selector": "iterit"}})
    'IterIT after filters'
    """
    name = str(spec["selector"])
    if name == "top" and "by" in spec:
        by = spec["by"]
        return f"Top by {by['score'] if isinstance(by, Mapping) else by}"
    if name == "within" and "method" in spec:
        groups = spec.get("groups", "cluster_id")
        clusters = isinstance(groups, Mapping) or groups.endswith("cluster_id")
        return f"{method_name(spec['method'])} within {'clusters' if clusters else f'each {groups}'}"
    if name == "chain" and "then" in spec:
        return f"{method_name(spec['then'])} after filters"
    kind = available().get(name)
    return (kind.title or kind.__name__) if kind is not None else name.rpartition(":")[2] or name


def in_words(value: Any) -> Any:
    """A setting that is a score, a selector, filters or weights by name in a few words; any other one as it is.

    >>> in_words({"score": "reward", "model": "them/judge", "max_length": 512})
    'reward of them/judge (max_length=512)'
    >>> in_words({"alpaca": 0.7, "gsm8k": 0.3})
    'alpaca: 0.7, gsm8k: 0.3'
    >>> in_words([{"filter": "in_range", "by": {"score": "length"}, "low": 10}, {"filter": "no_near_copies"}])
    'in_range (by=length, low=10), no_near_copies'
    """
    if isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
        return ", ".join(str(in_words(each)) for each in value)
    if not isinstance(value, Mapping):
        return value
    if "selector" in value:
        inner = {
            key: each for key, each in compact(value).items() if key not in ("selector", "method", "groups", "then")
        }
        return f"{method_name(value)}{_in_brackets(inner)}"
    if "filter" in value:
        return f"{value['filter']}{_in_brackets({key: each for key, each in value.items() if key != 'filter'})}"
    if "score" in value:
        models = models_of(value)
        named = f" of {' and '.join(models)}" if models else ""
        inner = {key: each for key, each in value.items() if key != "score" and not _is_model(key)}
        return f"{value['score']}{named}{_in_brackets(inner)}"
    return ", ".join(f"{key}: {in_words(each)}" for key, each in value.items())


def _in_brackets(settings: Mapping[str, Any]) -> str:
    said = ", ".join(f"{key}={in_words(each)}" for key, each in settings.items() if each not in (None, "", (), [], {}))
    return f" ({said})" if said else ""


def models_of(spec: Mapping[str, Any]) -> list[str]:
    """The models that the settings of a score name, each once."""
    return list(dict.fromkeys(str(each) for key, each in spec.items() if _is_model(key) and each))


def _is_model(key: str) -> bool:
    return (key == "model" or key.endswith("_model")) and not key.startswith("resolved_")


def compact(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A selector's spec without what the selector takes by default, also in the selectors within."""
    kind = available().get(str(spec["selector"]))
    usual = {} if kind is None else {each.name: each for each in fields(kind)}
    kept = {key: value for key, value in spec.items() if key not in usual or not _is_default(value, usual[key])}
    return {
        key: compact(value) if isinstance(value, Mapping) and "selector" in value else value
        for key, value in kept.items()
    }


def _is_default(value: Any, field: Field[Any]) -> bool:
    default = field.default
    if default is MISSING:
        return False
    if is_dataclass(default) and isinstance(value, Mapping):
        settings = {key: each for key, each in value.items() if key != "score"}
        return value.get("score") == spec_name(default) and (scores.by_name(value["score"], settings) == default)
    return bool(value == (list(default) if isinstance(default, tuple) else default))
