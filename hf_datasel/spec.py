"""Identity of scores, selectors and filters: their names and settings as JSON, and objects from these.

A class of this package is named by its module (`"iterit"`), any other class by module and class (`"my_lab:Mine"`).
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import math
import os
import pkgutil
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from types import FunctionType, ModuleType
from typing import Any, ClassVar, Literal, cast

from hf_datasel.errors import ConfigError, did_you_mean

__all__ = [
    "HasSpec",
    "Kind",
    "build",
    "changed_settings",
    "compact",
    "current_name",
    "default_of",
    "describe_outside",
    "description",
    "find_class",
    "from_name",
    "from_spec",
    "import_class",
    "import_function",
    "interned",
    "is_importable",
    "list_classes",
    "name_and_settings",
    "object_key",
    "outside_names",
    "spec_name",
    "summary",
    "to_spec",
    "upgraded",
    "without_tokens",
]

Kind = Literal["score", "selector", "filter"]
"""What an object is; the key under which its spec holds its name."""

_KINDS: tuple[Kind, ...] = ("score", "selector", "filter")
_PACKAGES = {"score": "hf_datasel.scores", "selector": "hf_datasel.selectors", "filter": "hf_datasel.selectors"}
_BASES = {"score": "Score", "selector": "Selector", "filter": "RowFilter"}
_FORMER_NAMES: dict[str, dict[str, str]] = {
    "score": {"promptloss": "prompt_loss", "rewardgap": "reward_gap", "deita": "deita_score"},
    "filter": {"no_near_copies": "no_near_duplicates"},
}
"""Former names in recipes, selections and stores of earlier versions, and current names."""
_FORMER_VALUES: dict[str, dict[str, dict[str, str]]] = {
    "iterit": {"candidates": {"paper": "filtered"}},
}
"""Values of settings in records of earlier versions, and the values of today: name -> setting -> value -> value."""
_FUNCTION_SETTINGS = ("verifier",)
"""Settings that may name a function outside this package, as `module:function`."""
_SECRETS = ("token", "use_auth_token")
"""Arguments of `from_pretrained` that no record may hold."""


class HasSpec:
    """Base of scores, selectors and filters, which are frozen dataclasses whose fields are their settings.

    Attributes:
        spec_kind: What the class is: `"score"`, `"selector"` or `"filter"`.
    """

    spec_kind: ClassVar[Kind]

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = interned(self.__dict__)
        return state


def interned(value: Any) -> Any:
    """Return settings in which equal texts are one object, so that equal objects are pickled to equal bytes.

    `datasets` recognizes the results of a function by the bytes that it is pickled to.

    Args:
        value: A setting, or settings in a dict, list or tuple.
    """
    if type(value) is str:
        return sys.intern(value)
    if type(value) is dict:
        return {interned(key): interned(item) for key, item in value.items()}
    return type(value)(map(interned, value)) if type(value) in (list, tuple) else value


# -- from objects to specs --------------------------------------------------------------------------------------------
def spec_name(value: object) -> str:
    """Return the name of a score, selector or filter: its module for ours, `module:Class` for any other.

    A private class of this package has the name of the public class that it is derived from.
    """
    for cls in type(value).__mro__:
        module = cls.__module__
        if cls.__name__.startswith("_") and module.startswith("hf_datasel."):
            continue
        if module.startswith(("hf_datasel.scores.", "hf_datasel.selectors.")):
            return module.rsplit(".", 1)[-1]
        return f"{module}:{cls.__qualname__}"
    raise TypeError(f"{value!r} is an instance of private classes only.")


def to_spec(value: HasSpec) -> dict[str, Any]:
    """Return name and settings as plain JSON values, which `from_spec` reads.

    Of a selector all settings are included; of a score or filter those that differ from their defaults.

    >>> from hf_datasel.scores import Loss
    >>> to_spec(Loss(reduction="sum"))
    {'score': 'loss', 'reduction': 'sum'}
    """
    everything = value.spec_kind == "selector"
    settings = _values(value) if everything else changed_settings(value)
    return {value.spec_kind: spec_name(value), **{name: _as_json(setting, name) for name, setting in settings.items()}}


def object_key(value: object) -> str:
    """Return a text that is equal for equal settings of the same class alone, for caches within a process."""
    return f"{type(value).__module__}.{value!r}"


def changed_settings(value: Any, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings of a dataclass, by name, that differ from their defaults.

    Args:
        value: An instance of a dataclass.
        values: Its settings by name, by default its attributes.
    """
    values = _values(value) if values is None else values
    defaults = {field.name: default_of(field) for field in fields(value) if field.init}
    return {name: values[name] for name, default in defaults.items() if name in values and values[name] != default}


def default_of(field: Field[Any]) -> Any:
    """Return the default of a dataclass field, `MISSING` if it has none."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def summary(cls: type) -> str:
    """Return the first paragraph of a class's own docstring, on one line; empty if it has none."""
    text = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
    return "" if text.startswith(f"{cls.__name__}(") else text  # the signature, which dataclass puts there


def description(cls: type) -> dict[str, str]:
    """Return what a class says of itself: `about`, the first paragraph of its docstring, and its `citation`.

    A class outside this package never takes the citation of a class of ours that it is derived from.
    """
    ours = cls.__module__.startswith("hf_datasel.")
    bases = (base for base in cls.__mro__ if "citation" in vars(base))
    citations = [vars(base)["citation"] for base in bases if ours or not base.__module__.startswith("hf_datasel.")]
    return {"about": summary(cls), "citation": next(iter(citations), "")}


def _values(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _as_json(value: Any, name: str = "") -> Any:
    """Return a setting as recipes write it; `name` is that of the setting."""
    if isinstance(value, HasSpec):
        nested: dict[str, Any] = to_spec(value) if value.spec_kind == "score" else cast(Any, value).spec()
        return nested
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return without_tokens(name, value)


def without_tokens(name: str, value: Any) -> Any:
    """Return the value of a setting without tokens, if it holds arguments of `from_pretrained`.

    Args:
        name: Name of the setting.
        value: Its value.

    >>> without_tokens("model_init_kwargs", {"token": "hf_...", "attn_implementation": "sdpa"})
    {'attn_implementation': 'sdpa'}
    """
    if name.endswith("_init_kwargs") and value:
        return {key: value[key] for key in value if key not in _SECRETS}
    return value


# -- reading specs without building objects ---------------------------------------------------------------------------
def compact(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a selector's spec without the settings that are at their defaults, also in the selectors within."""
    name = str(spec["selector"])
    cls = find_class("selector", name) if name in _names("selector") else None
    defaults = (
        {}
        if cls is None
        else {field.name: _as_json(default_of(field), field.name) for field in fields(cast(Any, cls))}
    )
    return {
        key: compact(value) if isinstance(value, Mapping) and "selector" in value else value
        for key, value in spec.items()
        if key not in defaults or _as_json(value) != defaults[key]
    }


def outside_names(spec: Any) -> list[str]:
    """Return the names, in a spec and in the specs within it, of classes and functions that are not of this package.

    >>> outside_names({"selector": "top", "by": {"score": "my_scores:Mine"}})
    ['my_scores:Mine']
    """
    if isinstance(spec, list | tuple):
        names = [name for item in spec for name in outside_names(item)]
    elif isinstance(spec, Mapping):
        own = [str(spec[key]) for key in (*_KINDS, *_FUNCTION_SETTINGS) if ":" in str(spec.get(key, ""))]
        names = own + [name for value in spec.values() for name in outside_names(value)]
    else:
        names = []
    return list(dict.fromkeys(names))


def describe_outside(names: Sequence[str]) -> list[str]:
    """Return a phrase about importing each of these names outside this package, for cards and recipes."""
    return [
        f"{name} is code outside hf_datasel: its module has to be installed, or in the current folder"
        if is_importable(name)
        else f"{name.rpartition(':')[2].rpartition('.')[2]} is defined in the program itself, which others cannot "
        "import: put it into a module"
        for name in names
    ]


def is_importable(name: str) -> bool:
    """Return whether other programs can import a class of this name: not if a program or function defines it."""
    return not name.startswith("__main__:") and "<locals>" not in name


def current_name(kind: Kind, name: str) -> str:
    """Return today's name for one in a record, which may hold a former name or the name of a class of ours.

    >>> current_name("score", "RewardGap"), current_name("score", "my_scores:Loss")
    ('reward_gap', 'my_scores:Loss')
    """
    if ":" in name or name in _names(kind):
        return name
    return _FORMER_NAMES.get(kind, {}).get(name.lower(), name.lower())


def upgraded(spec: Any) -> Any:
    """Return a spec of an earlier version, or a list of them, with current names and values, also in nested specs."""
    if isinstance(spec, list | tuple):
        return [upgraded(item) for item in spec]
    if not isinstance(spec, Mapping):
        return spec
    kind = next((key for key in _KINDS if isinstance(spec.get(key), str)), None)
    named: dict[str, Any] = {}
    if kind is not None:
        named[kind] = name = current_name(kind, spec[kind])
        for key, values in _FORMER_VALUES.get(name, {}).items():
            if spec.get(key) in values:
                named[key] = values[spec[key]]
    return {key: named[key] if key in named else upgraded(value) for key, value in spec.items()}


# -- from specs to objects --------------------------------------------------------------------------------------------
def from_spec(spec: Mapping[str, Any], kind: Kind, allow_imports: bool = False) -> Any:
    """Return the score, selector or filter of a spec such as `{"score": "ifd", "model": "gpt2"}`.

    Args:
        spec: Name and settings, which may be specs themselves.
        kind: What it is a spec of.
        allow_imports: Whether classes outside this package may be imported.

    Raises:
        ConfigError: There is no such class or setting, a setting is missing or has a value it cannot have, or an
            import is not permitted.
    """
    settings = {key: value for key, value in spec.items() if key != kind}
    return build(kind, cast(str, spec.get(kind)), settings, allow_imports)


def from_name(value: Any, kind: Kind) -> Any:
    """Return the score, selector or filter that Python code names: by a text, with settings, or by the object itself.

    Args:
        value: A name (`"ifd"`), a name with settings (`{"ifd": {"model": "gpt2"}}`), a spec, or an object, which is
            returned unchanged.
        kind: What is named.

    Raises:
        ConfigError: As `from_spec` does; also for `"module:Class"`, whose class can be imported and passed.
    """
    if not isinstance(value, str | Mapping):
        return value
    name, settings = name_and_settings(value, kind)
    if ":" in name:
        module, _, cls = name.partition(":")
        raise ConfigError(
            f"{kind.capitalize()} {name!r} is code outside hf_datasel: in Python import its class and pass an "
            f"instance of it (from {module} import {cls})."
        )
    for key in _FUNCTION_SETTINGS:
        if ":" in str(settings.get(key, "")):
            raise ConfigError(
                f"{name} with {key}={settings[key]!r} is code outside hf_datasel: in Python pass an instance of "
                f"{find_class(kind, name).__name__}."
            )
    return build(kind, name, settings)


def name_and_settings(value: Any, kind: Kind) -> tuple[str, dict[str, Any]]:
    """Return name and settings from a name, a mapping of one name to its settings, or a spec.

    >>> name_and_settings({"ifd": {"model": "gpt2"}}, "score")
    ('ifd', {'model': 'gpt2'})
    >>> name_and_settings({"score": "ifd", "model": "gpt2"}, "score")
    ('ifd', {'model': 'gpt2'})

    Raises:
        ConfigError: The value is none of these.
    """
    if isinstance(value, str):
        return value, {}
    if isinstance(value, Mapping) and isinstance(value.get(kind), str):
        return value[kind], {key: setting for key, setting in value.items() if key != kind}
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, settings),) = value.items()
        if isinstance(name, str) and isinstance(settings, Mapping | None):
            return name, dict(settings or {})
    raise ConfigError(f"{value!r} has to be the name of a {kind}, or a mapping of one name to its settings.")


def build(kind: Kind, name: str, settings: Mapping[str, Any] | None = None, allow_imports: bool = False) -> Any:
    """Return the score, selector or filter of a name and settings, as `from_spec` does."""
    if not isinstance(name, str) or not isinstance(settings, Mapping | None):
        raise ConfigError(
            f"The name of a {kind} has to be a text and its settings a mapping, and they are {name!r}, {settings!r}."
        )
    cls: Any = find_class(kind, name, allow_imports)
    values = {key: _built(value, allow_imports) for key, value in (settings or {}).items()}
    options = [field.name for field in fields(cls) if field.init]
    for key in values:
        if key not in options:
            hint = did_you_mean(str(key), options) or _setting_of_score(cls, key)
            raise ConfigError(f"{name} has no setting {key!r}.{hint} It has {options}.")
    for key in _FUNCTION_SETTINGS:
        if ":" in str(values.get(key, "")) and not allow_imports:
            raise _not_permitted(f"{name} with {key}={values[key]!r}")
    required = [field.name for field in fields(cls) if field.init and default_of(field) is MISSING]
    if missing := [key for key in required if key not in values]:
        raise ConfigError(f"{name} needs the setting {missing[0]!r}:", *_where_to_pass(kind, name, cls, missing[0]))
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{name} cannot be made from {values}: {error}") from error
    except ConfigError as error:
        hint = next(filter(None, (_misspelt_key(value, key) for key, value in values.items())), "")
        if not hint:
            raise
        raise ConfigError(str(error), hint) from None


def _setting_of_score(cls: type[Any], key: str) -> str:
    """Return a hint if a setting of a class may be a score that has a setting with this name."""
    for score, score_class in list_classes("score").items():
        for field in fields(cls):
            is_type = re.search(rf"\b{score_class.__name__}\b", str(field.type))
            if is_type and key in [setting.name for setting in fields(score_class)]:
                return f" Write {field.name}: {{score: {score}, {key}: ...}}."
    return ""


def find_class(kind: Kind, name: str, allow_imports: bool = False) -> type[Any]:
    """Return the class of a name: of one of our modules, or of `module:Class`.

    Raises:
        ConfigError: There is no such class, or importing it is not permitted.
    """
    if ":" in name:
        return import_class(name, kind, allow_imports)
    current = _FORMER_NAMES.get(kind, {}).get(name, name)
    cls = _class_in(kind, current) if current in _names(kind) else None
    if cls is not None:
        return cls
    options = list(list_classes(kind))
    raise ConfigError(
        f"There is no {kind} {name!r}.{did_you_mean(name, options)} There are {', '.join(options)}. Your own is named "
        f"by its module and class, as in my_{kind}:Mine."
    )


def list_classes(kind: Kind) -> dict[str, type[Any]]:
    """Return the scores, selectors or filters of this package: module name -> class."""
    found = {name: _class_in(kind, name) for name in sorted(_names(kind))}
    return {name: cls for name, cls in found.items() if cls is not None}


@functools.cache
def _names(kind: Kind) -> frozenset[str]:
    """Return the names of the modules that hold our scores, or our selectors and filters."""
    package = importlib.import_module(_PACKAGES[kind])
    return frozenset(module.name for module in pkgutil.iter_modules(package.__path__))


def _class_in(kind: Kind, name: str) -> type[Any] | None:
    """Return the class of this kind that one of our modules is named for."""
    module = importlib.import_module(f"{_PACKAGES[kind]}.{name}")
    for value in vars(module).values():
        if _is_defined_in(module, value, kind) and value.__name__.lower() == name.replace("_", ""):
            return None if inspect.isabstract(value) else cast(type[Any], value)
    return None


def _is_defined_in(module: ModuleType, value: Any, kind: Kind) -> bool:
    return _is_of_kind(value, kind) and value.__module__ == module.__name__


def _is_of_kind(value: Any, kind: Kind) -> bool:
    return isinstance(value, type) and getattr(value, "spec_kind", None) == kind


def _built(value: Any, allow_imports: bool) -> Any:
    """Return a setting as objects take it: specs are built, lists are tuples."""
    if isinstance(value, Mapping):
        for kind in _KINDS:
            if isinstance(value.get(kind), str):
                return from_spec(value, kind, allow_imports)
    if isinstance(value, list):
        return tuple(_built(item, allow_imports) for item in value)
    return value


def _where_to_pass(kind: Kind, name: str, cls: type, setting: str) -> tuple[str, str]:
    """Return where a setting is passed in Python, and on the command line and in YAML."""
    in_python = f"pass {cls.__name__}({setting}=...), or {{{name!r}: {{{setting!r}: ...}}}}."
    if kind == "score":
        return in_python, f"scores_kwargs: {{{name}: {{{setting}: ...}}}}."
    if kind == "selector":
        config = f"in SelectiveSFTConfig, selector_kwargs={{{setting!r}: ...}}."
        return f"{in_python[:-1]}; {config}", "pass it in selector_kwargs."
    return f"pass {cls.__name__}({setting}=...).", "pass it beside filter."


def _misspelt_key(value: Any, setting: str) -> str:
    """Return a hint where a setting says {"scores": name, ...} for {"score": name, ...}, as recipes write it."""
    import yaml

    if isinstance(value, tuple):
        return next(filter(None, (_misspelt_key(item, setting) for item in value)), "")
    if not isinstance(value, Mapping):
        return ""
    for key, name in value.items():
        near = difflib.get_close_matches(str(key), _KINDS, n=1)
        if near and isinstance(name, str):
            corrected = {near[0] if other == key else other: value[other] for other in value}
            written = yaml.safe_dump(corrected, default_flow_style=True, sort_keys=False, width=math.inf).strip()
            return f"Did you mean {near[0]!r} for {key!r}, as in {setting}: {written}?"
    return ""


# -- classes outside this package -------------------------------------------------------------------------------------
def import_class(name: str, kind: Kind, allow_imports: bool) -> type[Any]:
    """Return the score, selector or filter class of a name such as `"my_selector:Mine"`.

    Args:
        name: A module that can be imported, and a class in it.
        kind: What the class has to be.
        allow_imports: Whether the user has permitted the import.

    Raises:
        ConfigError: Imports are not permitted; there is no such module or class, in which case the message says where
            it was looked for; or the class is of another kind.
    """
    subject = f"{kind.capitalize()} {name!r}"
    if not allow_imports:
        raise _not_permitted(subject)
    module_name, _, class_name = name.partition(":")
    module = _import_module(module_name, subject, class_name, f"my_{kind}:Mine")
    if not hasattr(module, class_name):
        if not is_importable(name):
            raise ConfigError(
                f"{subject} was defined in the program that was run, and others cannot import it. Put the class into "
                f"a module and name it by that, as in my_{kind}:{class_name.rpartition('.')[2]}."
            )
        near = did_you_mean(
            class_name, [value.__name__ for value in vars(module).values() if _is_defined_in(module, value, kind)]
        )
        raise ConfigError(f"{subject} cannot be imported: {_location(module)} has no {class_name!r}.{near}")
    cls: Any = getattr(module, class_name)
    if not _is_of_kind(cls, kind):
        raise ConfigError(f"{name!r} is not a subclass of {_PACKAGES[kind]}.{_BASES[kind]}.")
    annotations = vars(cls).get("__annotations__", {})
    settings = [key for key, annotation in annotations.items() if "ClassVar" not in str(annotation)]
    if settings and "__dataclass_fields__" not in vars(cls):
        raise ConfigError(f"{name!r} has settings ({', '.join(settings)}): put @dataclass(frozen=True) above it.")
    return cast(type[Any], cls)


def import_function(name: str) -> FunctionType:
    """Return the function of a name such as `"my_checks:same_answer"`, which importing its module may run code for.

    Args:
        name: A module that can be imported, or `__main__` for the program itself, and a function in it.

    Raises:
        ConfigError: There is no such module or function, or it is not a function written in Python.
    """
    module_name, _, function_name = name.partition(":")
    subject = f"Function {name!r}"
    module = _import_module(module_name, subject, function_name, "my_checks:same_answer")
    if not hasattr(module, function_name):
        near = did_you_mean(function_name, [key for key, value in vars(module).items() if inspect.isfunction(value)])
        raise ConfigError(f"{subject} cannot be imported: {_location(module)} has no {function_name!r}.{near}")
    function = getattr(module, function_name)
    if not isinstance(function, FunctionType):
        raise ConfigError(f"{name!r} is not a function written in Python, but a {type(function).__name__}.")
    return function


def _not_permitted(subject: str) -> ConfigError:
    return ConfigError(
        f"{subject} is code outside hf_datasel.",
        "Permit it with allow_imports if you trust it.",
        "Permit it with --allow_imports if you trust it.",
    )


def _import_module(name: str, subject: str, class_name: str, example: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{subject} cannot be imported: {name!r} is no module. It is named as in {example}.")
    importlib.invalidate_caches()  # its file may be newer than the folder as Python knows it
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        absent = name == missing or name.startswith(f"{missing}.")
        if absent and name.endswith(".py"):
            raise ConfigError(
                f"{subject} names a file. Leave .py out: {name.removesuffix('.py')}:{class_name}."
            ) from error
        more = _where_looked(missing) if absent else ""
        raise ConfigError(f"{subject} cannot be imported: {error}.{more}") from error
    except (ImportError, SyntaxError) as error:
        raise ConfigError(f"{subject} cannot be imported: {error}.") from error


def _where_looked(name: str) -> str:
    """Return where a missing module was looked for, and the nearest name there."""
    parent, _, last = name.rpartition(".")
    package = getattr(sys.modules.get(parent), "__path__", None)
    if parent and package is None:  # a class of a module, with a dot before it
        return did_you_mean(name, [parent])
    here = os.getcwd()
    folders: Sequence[str] = list(package) if package is not None else [here]
    near = [module.name for module in pkgutil.iter_modules(folders)]
    looked = f"{did_you_mean(last, near)} Looked for {last}.py or a folder {last}"
    if package is not None:
        return f"{looked} in {', '.join(folders)}."
    if here in [os.path.abspath(folder) for folder in sys.path]:
        return f"{looked} in the current folder {here} and among the installed packages."
    return f"{looked} among the installed packages, and not in the current folder {here}."


def _location(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or f"module {module.__name__!r}")
