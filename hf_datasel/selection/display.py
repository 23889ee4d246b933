"""Display of selectors and their settings in messages, reports and cards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hf_datasel.errors import ConfigError
from hf_datasel.selectors import get_filter, list_selectors
from hf_datasel.spec import compact

__all__ = ["describe_setting", "method_name", "model_names"]


def method_name(spec: Mapping[str, Any]) -> str:
    """Return the name of a method for readers; of a selector outside this package the name of its class.

    >>> method_name({"selector": "km_random"}), method_name({"selector": "top", "by": {"score": "reward"}})
    ('kM-Random', 'Top by reward')
    >>> method_name({"selector": "top", "by": {"score": "mix", "by": ["ifd", {"score": "reward"}]}})
    'Top by a mix of ifd and reward'
    >>> method_name({"selector": "within", "method": {"selector": "superfiltering"}, "groups": "cluster_id"})
    'Superfiltering within clusters'
    >>> method_name({"selector": "weighted", "method": {"selector": "random"}, "by": "quality"})
    'Random weighted by quality'
    >>> method_name({"selector": "chain", "filters": [{"filter": "in_range"}], "then": {"selector": "iterit"}})
    'IterIT after filters'
    >>> method_name({"selector": "closest", "by": "pass_rate", "target": 0.5})
    'Closest to 0.5 by pass_rate'
    """
    name = str(spec["selector"])
    if name == "top" and "by" in spec:
        return f"Top by {_score_name(spec['by'])}"
    if name == "closest" and "by" in spec:
        return f"Closest to {spec['target']:g} by {_score_name(spec['by'])}"
    if name == "within" and "method" in spec:
        groups = spec.get("groups", "cluster_id")
        clusters = isinstance(groups, Mapping) or groups.endswith("cluster_id")
        return f"{method_name(spec['method'])} within {'clusters' if clusters else f'each {groups}'}"
    if name == "weighted" and "method" in spec:
        by = spec["by"]
        return f"{method_name(spec['method'])} weighted by {by['score'] if isinstance(by, Mapping) else by}"
    if name == "chain" and "then" in spec:
        return f"{method_name(spec['then'])} after filters"
    selector_class = list_selectors().get(name)
    if selector_class is None:
        return re.split("[:.]", name)[-1] or name
    return selector_class.title or selector_class.__name__


def _score_name(source: str | Mapping[str, Any]) -> str:
    """Return the name of a column or score, and of a mix the names of what it mixes."""
    if isinstance(source, str):
        return source
    if source["score"] != "mix":
        return str(source["score"])
    *names, last = map(_score_name, source["by"])
    return f"a mix of {', '.join(names)} and {last}" if names else f"a mix of {last}"


def describe_setting(value: Any) -> Any:
    """Return a short text for a setting that is a score, a selector, filters or weights; any other value unchanged.

    >>> describe_setting({"score": "reward", "model": "them/judge", "max_length": 512})
    'reward of them/judge (max_length=512)'
    >>> describe_setting({"alpaca": 0.7, "gsm8k": 0.3})
    'alpaca: 0.7, gsm8k: 0.3'
    >>> describe_setting([{"filter": "in_range", "by": {"score": "length"}, "low": 10}])
    'response_words >= 10'

    Args:
        value: Setting as plain JSON values.
    """
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        return ", ".join(str(describe_setting(item)) for item in value)
    if not isinstance(value, Mapping):
        return value
    if value.get("selector") == "chain" and "then" in value:
        return f"{describe_setting(value['then'])} after filters: {describe_setting(value['filters'])}"
    if "selector" in value:
        return f"{method_name(value)}{_in_brackets(compact(value), ('selector', 'method', 'groups', 'then'))}"
    if "filter" in value:
        return _describe_filter(value)
    if "score" in value:
        models = model_names(value)
        of_models = f" of {' and '.join(models)}" if models else ""
        return f"{value['score']}{of_models}{_in_brackets(value, ('score', *filter(_is_model, value)))}"
    return ", ".join(f"{key}: {describe_setting(item)}" for key, item in value.items())


def _describe_filter(spec: Mapping[str, Any]) -> str:
    """Return what a filter says that it keeps; its name and settings if it needs classes outside this package."""
    try:
        return get_filter(spec["filter"], {key: value for key, value in spec.items() if key != "filter"}).describe()
    except ConfigError:
        return f"{spec['filter']}{_in_brackets(spec, ('filter',))}"


def _in_brackets(settings: Mapping[str, Any], skip: tuple[str, ...]) -> str:
    texts = [
        f"{key}={describe_setting(value)}"
        for key, value in settings.items()
        if key not in skip and value not in (None, "", (), [], {})
    ]
    return f" ({', '.join(texts)})" if texts else ""


def model_names(spec: Mapping[str, Any]) -> list[str]:
    """Return the models that the settings of a score name, each once."""
    return list(dict.fromkeys(str(value) for key, value in spec.items() if _is_model(key) and value))


def _is_model(key: str) -> bool:
    return (key == "model" or key.endswith("_model")) and not key.startswith("resolved_")
