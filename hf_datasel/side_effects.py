"""What settings do besides computing: hosts that rows are sent to, tokens, code from elsewhere, what is published."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

__all__ = ["side_effects"]

_CLASS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_KERNEL = re.compile(r"[^/:]+/[^/:]+(@[^/:]+)?(:[^/:]+)?")


def side_effects(settings: Mapping[str, Any]) -> list[str]:
    """Return what settings do that a reader has to agree to, as phrases whose subject is the settings.

    Settings inside settings count, also where they are written as JSON text.

    Args:
        settings: Keys of a config file, or the spec of a score, selector or filter.

    >>> side_effects({"scores": ["ifd"], "scores_kwargs": {"ifd": {"model_init_kwargs": {"trust_remote_code": True}}}})
    ['runs Python code from the repository of a model (trust_remote_code)']
    """
    effects = [_variables(settings["env"])] if settings.get("env") else []
    for mapping in _mappings(settings):
        effects += _effects(mapping)
    if _is_true(settings.get("allow_imports")):
        names = ", ".join(dict.fromkeys(_class_names(settings)))
        effects.append(f"imports classes outside hf_datasel{f': {names}' if names else ''} (allow_imports)")
    return list(dict.fromkeys(effects))


def _variables(env: Any) -> str:
    names = ", ".join(map(str, env)) if isinstance(env, Mapping) else str(env)
    return f"sets the environment variable{'s' if ',' in names else ''} {names} (env)"


def _effects(mapping: Mapping[Any, Any]) -> Iterator[str]:
    """Yield what the keys of one mapping do."""
    url, variable = mapping.get("base_url"), mapping.get("api_key_env")
    if url is not None:
        token = f" and the token in {variable}" if variable else ", and the token in OPENAI_API_KEY if there is one,"
        yield f"sends rows{token} to {_host(url)} (base_url)"
    elif variable:
        yield f"sends the token in {variable} to the Hub (api_key_env)"
    if _is_true(mapping.get("trust_remote_code")):
        yield "runs Python code from the repository of a model (trust_remote_code)"
    kernels = any(_KERNEL.fullmatch(text) for text in _texts(mapping.get("attn_implementation")))
    if kernels or any(_is_true(mapping.get(key)) for key in ("use_kernels", "allow_all_kernels")):
        yield "runs kernels from the Hub (attn_implementation, use_kernels)"
    if "weights_only" in mapping and not _is_only_true(mapping["weights_only"]):
        yield "loads pickles that can run code (weights_only)"
    if ":" in str(mapping.get("verifier", "")):
        yield f"calls the function {mapping['verifier']} (verifier)"
    if mapping.get("launcher"):
        yield "runs a command of its own (launcher)"
    if _is_true(mapping.get("allow_code_execution")):
        yield "runs programs that a model writes (allow_code_execution)"
    if _is_true(mapping.get("public")):
        yield "publishes rows even if their origin is unknown (public)"
    if _is_true(mapping.get("allow_secrets")):
        yield "publishes rows even if they seem to contain secrets (allow_secrets)"
    for key in ("token", "hub_token"):
        if mapping.get(key):
            yield f"uses a token of its own ({key})"


def _host(url: Any) -> str:
    """Return the scheme and host of an address, without the passwords and keys that it may contain."""
    try:
        parts = urlsplit(str(url))
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that is not valid"
    return f"{parts.scheme}://{parts.hostname or ''}{port}"


def _is_true(value: Any) -> bool:
    return str(value).strip().lower() not in ("none", "false", "no", "off", "0", "")


def _is_only_true(value: Any) -> bool:
    return str(value).strip().lower() == "true"


def _texts(value: Any) -> Iterator[str]:
    """Yield a text, and those in the mapping that gives each part of a model its own, also as JSON text."""
    if isinstance(value, str):
        yield value
    for mapping in _mappings(value):
        yield from (item for item in mapping.values() if isinstance(item, str))


def _mappings(value: Any) -> Iterator[Mapping[Any, Any]]:
    """Yield a mapping, and all mappings inside a value."""
    if isinstance(value, Mapping):
        yield value
        for item in value.values():
            yield from _mappings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _mappings(item)
    elif isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        try:
            yield from _mappings(json.loads(value))
        except (ValueError, RecursionError):  # it is refused where it is read
            return


def _class_names(value: Any) -> Iterator[str]:
    for mapping in _mappings(value):
        for key, item in mapping.items():
            items = item if isinstance(item, list) else [item]
            yield from (each for each in [key, *items] if isinstance(each, str) and _CLASS.fullmatch(each))
