"""The command that makes a selection again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import yaml

from hf_datasel import selectors
from hf_datasel.cards.facts import Parent
from hf_datasel.selection.display import compact

__all__ = ["as_command", "as_yaml", "recipe"]

_COMMIT = re.compile(r"(.+)@([0-9a-f]{40})")


def recipe(provenance: Mapping[str, Any], parent: Parent) -> tuple[str, dict[str, Any], list[str]]:
    """Command, keys and values of its recipe, and what the recipe alone does not settle (nothing, at best).

    Args:
        provenance: of the selection; of the last round where there are several.
        parent: the dataset, under the name it has on the Hub.
    """
    keys, missing = _dataset(parent)
    if "training" in provenance:
        keys |= provenance["training"]["settings"]
        missing += provenance["training"]["in_python"]
        return "train", keys, missing + _columns(provenance)
    keys |= _selector(provenance)
    counted = provenance.get("tokens")
    budget = {"selection_size": provenance["budget"]} if not counted else {"selection_tokens": counted["budget"]}
    keys |= {**budget, "seed": provenance["seed"]}
    model = provenance.get("model")
    if model is not None and "resolved" not in model:
        missing.append("the model was an object in a Python program: pass `model=` to `select` as it was there")
    elif model is not None:
        keys |= _model(model, keys)
    return "select", keys, missing + _cut_short(provenance) + _local_models(provenance) + _columns(provenance)


def as_yaml(keys: Mapping[str, Any], command: str, file: str) -> str:
    """The recipe as the content of a file, which says how to run it."""
    body = yaml.safe_dump(dict(keys), sort_keys=False, allow_unicode=True, width=110)
    return f"# Run: hf-datasel {command} --config {file}\n{body}"


def as_command(keys: Mapping[str, Any], command: str) -> str:
    """The recipe as one command, a key a line."""
    lines = [f"hf-datasel {command}"]
    for key, value in keys.items():
        if isinstance(value, list) and not any(isinstance(each, dict | list) for each in value):
            given = " ".join(shlex.quote(str(each)) for each in value)
        elif isinstance(value, dict | list):
            given = shlex.quote(json.dumps(value, ensure_ascii=False))
        else:
            given = str(value).lower() if isinstance(value, bool) else shlex.quote(str(value))
        lines.append(f"--{key} {given}")
    return " \\\n  ".join(lines)


def _dataset(parent: Parent) -> tuple[dict[str, Any], list[str]]:
    if len(parent["sources"]) > 1:
        return {"dataset_name": "PATH"}, [
            f"the pool is a mixture of {', '.join(parent['sources'])}: it has {parent['rows']:,} rows, and its id is "
            f"{parent['id'][:16]}…; put it together again, save it, and put its file or folder in the place of PATH"
        ]
    if parent["name"] is None:
        about = f"the dataset is not on the Hub: it has {parent['rows']:,} rows, and its id is {parent['id'][:16]}…"
        return {"dataset_name": "PATH"}, [f"{about}; put its file or folder in the place of PATH"]
    keys = {"dataset_name": parent["name"]}
    if parent["config"] not in (None, "default"):
        keys["dataset_config"] = parent["config"]
    if parent["split"] not in (None, "train"):
        keys["dataset_train_split"] = parent["split"]
    if parent["revision"] is not None:
        keys["dataset_revision"] = parent["revision"]
    if not parent["changed"]:
        return keys, []
    return keys, [
        "the pool is not the parent as it is on the Hub: rows were filtered, reordered or taken from some files "
        f"before; it has {parent['rows']:,} rows, and its id is {parent['id'][:16]}…"
    ]


def _selector(provenance: Mapping[str, Any]) -> dict[str, Any]:
    spec = compact(provenance["selector"])
    name, settings = spec["selector"], {key: value for key, value in spec.items() if key != "selector"}
    keys = {"selector": name} | ({"allow_imports": True} if _needs_imports(spec) else {})
    settings = _pinned(settings, dict(_commits(provenance["scores"])))
    return keys | ({"selector_kwargs": settings} if settings else {})


def _needs_imports(spec: Mapping[str, Any]) -> bool:
    """Whether the selector, or one or a filter within, is somebody else's."""
    theirs = spec.get("selector", "all") not in selectors.available() or ":" in str(spec.get("filter"))
    return theirs or any(_needs_imports(each) for each in _inside(spec))


def _inside(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The settings of scores, selectors and filters that are settings themselves, or in a list of them."""
    found = [part for each in settings.values() for part in (each if isinstance(each, list | tuple) else [each])]
    return [each for each in found if isinstance(each, Mapping)]


def _commits(specs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[tuple[str, str], str]]:
    """(setting, model of the Hub) -> the commit that was run, as far as scores record it."""
    for spec in specs:
        for key, resolved in spec.items():
            setting = key.removeprefix("resolved_")
            found = _COMMIT.fullmatch(str(resolved)) if setting != key else None
            if found is not None and found[1] == spec.get(setting):
                yield (setting, found[1]), found[2]


def _pinned(settings: Mapping[str, Any], commits: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Settings with the commit beside each model that is named without one, also in the scores within."""

    def inner(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [inner(each) for each in value]
        return _pinned(value, commits) if isinstance(value, Mapping) else value

    pinned: dict[str, Any] = {}
    for key, value in settings.items():
        pinned[key] = inner(value)
        revision = f"{key.removesuffix('model')}revision"
        if isinstance(value, str) and (key, value) in commits and not settings.get(revision):
            pinned[revision] = commits[key, value]
    return pinned


def _model(model: Mapping[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
    commit = _COMMIT.fullmatch(model["resolved"])
    kind = selectors.available().get(keys["selector"])
    takes = {each.name for each in fields(kind)} if kind is not None else set()
    if commit is None or not {"model", "revision"} <= takes or "selection_tokens" in keys:  # it counts tokens, too
        return {"model_name_or_path": model["name"]}
    return {"selector_kwargs": {**keys.get("selector_kwargs", {}), "model": commit[1], "revision": commit[2]}}


def _cut_short(provenance: Mapping[str, Any]) -> list[str]:
    if not provenance.get("interrupted"):
        return []
    return [
        f"the choice was interrupted after {provenance['chosen']:,} of {provenance['budget']:,} rows: the command "
        "makes the whole of it"
    ]


def _local_models(provenance: Mapping[str, Any]) -> list[str]:
    return [
        f"{name!r} is a model in a folder of one machine ({digest}): put the folder's path in its place"
        for name, digest in dict(_models(provenance)).items()
        if digest.startswith("files:")
    ] + [f"{name!r} is a file of one machine: put its path in its place" for name in _files(provenance["selector"])]


def _models(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each model that was run, and what its name stood for."""
    model = provenance.get("model") or {}
    if model.get("name"):
        yield model["name"], str(model.get("resolved"))
    for spec in provenance["scores"]:
        for key, resolved in spec.items():
            named = spec.get(key.removeprefix("resolved_"))
            if key.startswith("resolved_") and named and resolved:
                names, digests = ([each] if isinstance(each, str) else list(each) for each in (named, resolved))
                yield from ((str(name), str(each)) for name, each in zip(names, digests, strict=False))


def _files(settings: Mapping[str, Any]) -> list[str]:
    """Files that the settings name, also those of the scores and selectors within."""
    found = [str(settings[key]) for key in ("centroids", "anchor_file") if settings.get(key)]
    return found + [name for each in _inside(settings) for name in _files(each)]


def _columns(provenance: Mapping[str, Any]) -> list[str]:
    return [
        f"column {name!r} has to be in the dataset: the choice relied on it, and how it was computed is not recorded"
        for name in provenance["columns_unverified"]
    ]
