"""The command that makes a selection again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import yaml

from hf_datasel import selectors
from hf_datasel.publish.facts import Parent

__all__ = ["as_command", "as_yaml", "recipe"]


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
    keys |= _selector(provenance["selector"])
    keys |= {"selection_size": provenance["budget"], "seed": provenance["seed"]}
    model = provenance.get("model")
    if model is not None and "resolved" not in model:
        missing.append("the model was an object in a Python program: pass `model=` to `select` as it was there")
    elif model is not None:
        keys |= _model(model, keys)
    return "select", keys, missing + _local_models(provenance) + _columns(provenance)


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


def _selector(spec: Mapping[str, Any]) -> dict[str, Any]:
    name, settings = spec["selector"], {key: value for key, value in spec.items() if key != "selector"}
    kinds = selectors.available()
    if name not in kinds:
        keys: dict[str, Any] = {"selector": name, "allow_imports": True}
    else:
        keys = {"selector": name}
        defaults = {each.name: each.default for each in fields(kinds[name]) if each.default is not MISSING}
        settings = {key: value for key, value in settings.items() if key not in defaults or defaults[key] != value}
    return keys | ({"selector_kwargs": settings} if settings else {})


def _model(model: Mapping[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
    commit = re.fullmatch(r"(.+)@([0-9a-f]{40})", model["resolved"])
    kind = selectors.available().get(keys["selector"])
    takes = {each.name for each in fields(kind)} if kind is not None else set()
    if commit is None or not {"model", "revision"} <= takes:
        return {"model_name_or_path": model["name"]}
    return {"selector_kwargs": {**keys.get("selector_kwargs", {}), "model": commit[1], "revision": commit[2]}}


def _local_models(provenance: Mapping[str, Any]) -> list[str]:
    used = [provenance.get("model") or {}, *provenance["scores"]]
    names = {
        each.get("name") or each.get("model"): each.get("resolved") or each.get("resolved_model") for each in used
    }
    return [
        f"{name!r} is a model in a folder of one machine ({digest}): put the folder's path in its place"
        for name, digest in names.items()
        if name and str(digest).startswith("files:")
    ]


def _columns(provenance: Mapping[str, Any]) -> list[str]:
    return [
        f"column {name!r} has to be in the dataset: the choice relied on it, and how it was computed is not recorded"
        for name in provenance["columns_unverified"]
    ]
