"""Reading of config files: YAML with the keys of a command, from the user or from somebody else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hf_datasel.errors import ConfigError, did_you_mean
from hf_datasel.side_effects import side_effects

__all__ = ["TRUST_FLAGS", "check_trusted", "read_config", "set_variables", "suggested_key"]

TRUST_FLAGS = ("--trust_config", "--trust-config")
"""Spellings of the flag that permits what a file does besides computing."""

_SELECTORS = ("selector", "selectors")
"""What other commands call the `methods` of a command that has several."""

_MAX_VALUES = 100_000
"""Number of keys and values that a file may have, with aliases replaced by what they stand for."""


def read_config(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Return the keys and values of a config file.

    Args:
        path: The file.
        keys: Names of the keys that the command has.

    Raises:
        ConfigError: The file cannot be read, is not YAML, has too many values, or has an unknown key or a key twice.
    """
    text = _read_text(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_nodes(node, path)  # before aliases are replaced
        content = yaml.safe_load(text)
    except ConfigError:
        raise
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply.") from error
    except ValueError as error:  # such as a date with a 13th month
        raise ConfigError(f"{path} has a value that cannot be read: {error}.") from error
    if not isinstance(content, dict):
        kind = {list: "a list", type(None): "nothing"}.get(type(content), repr(content))
        raise ConfigError(f"{path} has to contain keys and values, such as selector: random, and contains {kind}.")
    for key in content:
        if key not in keys and key != "env":
            raise ConfigError(f"{path}: unknown key {key!r}.{suggested_key(str(key), keys)}")
    return content


def suggested_key(name: str, keys: Sequence[str]) -> str:
    """Return the key of a command that an unknown one stands for, as `did_you_mean` does.

    >>> suggested_key("selectors", ["methods", "selections"])
    " Did you mean 'methods'?"

    Args:
        name: The unknown key.
        keys: Names of the keys that the command has.
    """
    key = name.lstrip("-")
    if key in _SELECTORS and (methods := name.replace(key, "methods")) in keys:
        return f" Did you mean {methods!r}?"
    return did_you_mean(name, keys)


def check_trusted(content: Mapping[str, Any], file: str) -> None:
    """Raise if a config file does what the user has to agree to.

    Args:
        content: Keys and values of the file, without those that flags replace.
        file: Name of the file, for the message.

    Raises:
        ConfigError: Names all that the file would do.
    """
    if effects := side_effects(content):
        *first, last = effects
        listed = f"{', '.join(first)}, and {last}" if first else last
        raise ConfigError(f"{file} {listed}. If you trust the file, permit it with {TRUST_FLAGS[0]}.")


def set_variables(variables: Any, file: str) -> None:
    """Set the environment variables of a config file, as TRL's parser does.

    Args:
        variables: Value of the key `env`.
        file: Name of the file, for the message.

    Raises:
        ConfigError: The value is no mapping.
    """
    if not isinstance(variables, dict):
        raise ConfigError(f"{file}: env has to be a mapping of variables, such as {{HF_HOME: cache}}.")
    for name, value in variables.items():
        os.environ[str(name)] = str(value)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"Cannot read {str(path)!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start:,}). Save it as UTF-8.") from error


def _check_nodes(node: yaml.Node | None, path: Path) -> None:
    """Raise `ConfigError` for a mapping with a key twice, an alias inside what it stands for, and too many values.

    YAML's reader would silently use the last value of a key, and copy what an alias stands for again and again.
    """
    sizes: dict[yaml.Node, int] = {}
    open_nodes: set[yaml.Node] = set()

    def size(node: yaml.Node) -> int:
        if node in open_nodes:
            raise ConfigError(f"{path}, line {node.start_mark.line + 1}: the value contains itself by an alias.")
        if node in sizes or isinstance(node, yaml.ScalarNode):
            return sizes.get(node, 1)
        open_nodes.add(node)
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, path)
        items = node.value if isinstance(node, yaml.SequenceNode) else [item for pair in node.value for item in pair]
        sizes[node] = 1 + sum(map(size, items))
        open_nodes.remove(node)
        return sizes[node]

    if node is not None and (count := size(node)) > _MAX_VALUES:
        raise ConfigError(f"{path} has {count:,} values when its aliases are replaced; it may have {_MAX_VALUES:,}.")


def _check_keys(node: yaml.MappingNode, path: Path) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line = key.start_mark.line + 1
        if key.value in lines and key.tag != "tag:yaml.org,2002:merge":
            raise ConfigError(
                f"{path}, line {line}: duplicate key {key.value!r}, first in line {lines[key.value]}. "
                "Remove one of them."
            )
        lines[key.value] = line
