"""Values read from JSON, checked against the type that they should have."""

from __future__ import annotations

import math
import types
from collections.abc import Collection, Mapping
from typing import Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from hf_datasel.errors import PublishError, did_you_mean

__all__ = ["checked", "checked_keys", "type_name"]


def checked(value: Any, expected: Any, name: str) -> Any:
    """Return a value with its keys in the order of its type, and tuples where JSON has lists.

    Args:
        value: Value as read from JSON.
        expected: Its type: a plain type, a `TypedDict`, or a list, tuple, dict or optional of these.
        name: Where the value is, for messages.

    Raises:
        PublishError: The value is not of this type; `name` says where it is.
    """
    origin, arguments = get_origin(expected), get_args(expected)
    if expected is Any:
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else checked(value, arguments[0], name)
    if expected is float and value is None:
        return math.nan
    plain = dict if is_typeddict(expected) else origin or expected
    if not _is_instance(value, plain) or (plain is tuple and len(value) != len(arguments)):
        required = f"a list of {len(arguments)}" if plain is tuple else _TYPE_NAMES[plain]
        raise PublishError(f"{name} has to be {required}, not {type_name(value)}.")
    if is_typeddict(expected):
        hints = get_type_hints(expected, include_extras=True)
        optional = {key: get_args(hint)[0] for key, hint in hints.items() if get_origin(hint) is NotRequired}
        return checked_keys(value, hints | optional, name, optional)
    if plain is dict:
        return {key: checked(item, arguments[1], f"{name}[{key!r}]") for key, item in value.items()}
    if plain is list:
        return [checked(item, arguments[0], f"{name}[{index}]") for index, item in enumerate(value)]
    if plain is tuple:
        pairs = enumerate(zip(value, arguments, strict=True))
        return tuple(checked(item, part, f"{name}[{index}]") for index, (item, part) in pairs)
    return value


def checked_keys(
    value: Mapping[str, Any], expected: Mapping[str, Any], name: str, optional: Collection[str] = ()
) -> dict[str, Any]:
    """Return an object with its keys in the order of the expected ones.

    Args:
        value: The object.
        expected: Key -> type of its value.
        name: Where the object is, for messages.
        optional: Keys that may be missing.

    Raises:
        PublishError: A key is unknown or missing, or a value is not of its type.
    """
    for key in value:
        if key not in expected:
            raise PublishError(f"{name} has an unknown key {key!r}.{did_you_mean(str(key), expected)}")
    required = [key for key in expected if key not in optional]
    for key in required:
        if key not in value:
            raise PublishError(f"{name} has no {key!r}. It needs {', '.join(required)}.")
    return {key: checked(value[key], item, f"{name}[{key!r}]") for key, item in expected.items() if key in value}


_TYPE_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def _is_instance(value: Any, expected: type) -> bool:
    if isinstance(value, bool):
        return expected is bool
    if expected in (float, tuple):
        return isinstance(value, int | float if expected is float else list | tuple)
    return isinstance(value, expected)


def type_name(value: Any) -> str:
    """Return the name of a value's type in JSON, for messages."""
    return "null" if value is None else _TYPE_NAMES.get(type(value), type(value).__name__)
