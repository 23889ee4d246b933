"""The command that makes the selection again, and what it leaves open."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypedDict

import yaml

from hf_datasel import selectors
from hf_datasel.cards.score_values import group_column
from hf_datasel.cards.section import CardSource, Section
from hf_datasel.cards.sections.usage import revision_argument
from hf_datasel.hub.markdown import Markdown, code, fence, text
from hf_datasel.side_effects import side_effects
from hf_datasel.spec import compact, describe_outside, is_importable, outside_names

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts, Parent

__all__ = ["SECTION", "ReproduceFacts", "as_command", "as_yaml", "recipe"]

_COMMIT = re.compile(r"(.+)@([0-9a-f]{40})")
_SENTENCE = 400  # characters


class ReproduceFacts(TypedDict):
    """How to make the selection again.

    Attributes:
        command: Subcommand of `hf-datasel` that runs the recipe: `"select"` or `"train"`.
        recipe: Keys and values of the YAML file.
        unsettled: What the command leaves open, a sentence each; empty if it runs as it is.
        versions: Package -> version.
    """

    command: str
    recipe: dict[str, Any]
    unsettled: list[str]
    versions: dict[str, str]


# -- facts -----------------------------------------------------------------------------------------------------------
def _compute(source: CardSource) -> ReproduceFacts:
    command, keys, unsettled = recipe(source.provenance, source.parent)
    unsettled = list(dict.fromkeys([*unsettled, *_computed_columns(source.provenance)]))
    return {
        "command": command,
        "recipe": keys,
        "unsettled": unsettled,
        "versions": dict(source.provenance["versions"]),
    }


def recipe(provenance: Mapping[str, Any], parent: Parent) -> tuple[str, dict[str, Any], list[str]]:
    """Return the subcommand, the recipe, and sentences about what the recipe leaves open.

    Args:
        provenance: Provenance of the selection; of the last round if there are several.
        parent: The dataset, with its name on the Hub.
    """
    keys, unsettled = _dataset(parent)
    if mapping := parent.get("columns"):
        keys["columns"] = dict(mapping)
    if "training" in provenance:
        keys |= provenance["training"]["settings"]
        unsettled += [_as_sentence(clause) for clause in provenance["training"]["in_python"]]
        return "train", keys, unsettled + _files(provenance) + _unverified_columns(provenance)
    keys |= _selector(provenance)
    tokens = provenance.get("tokens")
    budget = {"selection_tokens": tokens["budget"]} if tokens else {"selection_size": provenance["budget"]}
    keys |= {**budget, "seed": provenance["seed"]}
    model = provenance.get("model")
    if model is not None and "resolved" not in model:
        unsettled.append("The model was an object in a Python program: pass it to `select` as `model=`.")
    elif model is not None:
        keys |= _model(model, keys)
    unsettled += _import_hints(outside_names(provenance["selector"]))
    unsettled += _interruption(provenance) + _local_models(provenance) + _files(provenance)
    return "select", keys, unsettled + _unverified_columns(provenance)


def as_yaml(keys: Mapping[str, Any], command: str, file: str) -> str:
    """Return the recipe as the content of a file, with a comment on how to run it.

    Args:
        keys: Keys and values of the recipe.
        command: Subcommand of `hf-datasel`.
        file: Name of the file.
    """
    body = yaml.safe_dump(dict(keys), sort_keys=False, allow_unicode=True, width=110)
    trust = " --trust_config" if side_effects(keys) else ""
    return f"# Run: hf-datasel {command} --config {file}{trust}\n{body}"


def as_command(keys: Mapping[str, Any], command: str) -> str:
    """Return the recipe as one shell command, with a key on each line.

    Args:
        keys: Keys and values of the recipe.
        command: Subcommand of `hf-datasel`.
    """
    lines = [f"hf-datasel {command}", *(f"--{key} {_argument(value)}" for key, value in keys.items())]
    return " \\\n  ".join(lines)


def _argument(value: Any) -> str:
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return " ".join(shlex.quote(str(item)) for item in value)
    if isinstance(value, dict | list):
        return shlex.quote(json.dumps(value, ensure_ascii=False))
    return str(value).lower() if isinstance(value, bool) else shlex.quote(str(value))


def _dataset(parent: Parent) -> tuple[dict[str, Any], list[str]]:
    rows = f"{parent['rows']:,} rows and the id {parent['id'][:16]}…"
    if len(parent["sources"]) > 1:
        return {"dataset_name": "PATH"}, [
            f"The pool is a mixture of {', '.join(parent['sources'])}: combine them to a dataset with {rows}, save "
            "it, and replace PATH with its file or folder."
        ]
    if parent["name"] is None:
        return {"dataset_name": "PATH"}, [
            f"The dataset is not on the Hub: replace PATH with the file or folder of a dataset with {rows}."
        ]
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
        "The pool is not the parent dataset as it is on the Hub: rows were filtered, reordered or read from some of "
        f"its files. It has {rows}."
    ]


def _selector(provenance: Mapping[str, Any]) -> dict[str, Any]:
    spec = compact(provenance["selector"])
    name, settings = spec["selector"], {key: value for key, value in spec.items() if key != "selector"}
    keys = {"selector": name} | ({"allow_imports": True} if outside_names(spec) else {})
    settings = _with_revisions(settings, dict(_commits(provenance["scores"])))
    return keys | ({"selector_kwargs": settings} if settings else {})


def _commits(specs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield ((setting, model on the Hub), commit that was used), as far as scores record it."""
    for spec in specs:
        for key, resolved in spec.items():
            setting = key.removeprefix("resolved_")
            match = _COMMIT.fullmatch(str(resolved)) if setting != key else None
            if match is not None and match[1] == spec.get(setting):
                yield (setting, match[1]), match[2]


def _with_revisions(settings: Mapping[str, Any], commits: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Return settings with the commit of each model that has no revision, also in the specs inside them."""

    def nested(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [nested(item) for item in value]
        return _with_revisions(value, commits) if isinstance(value, Mapping) else value

    pinned: dict[str, Any] = {}
    for key, value in settings.items():
        pinned[key] = nested(value)
        revision = f"{key.removesuffix('model')}revision"
        if isinstance(value, str) and (key, value) in commits and not settings.get(revision):
            pinned[revision] = commits[key, value]
    return pinned


def _model(model: Mapping[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
    commit = _COMMIT.fullmatch(model["resolved"])
    cls = selectors.list_selectors().get(keys["selector"])
    settings = {field.name for field in fields(cls)} if cls is not None else set()
    counts_tokens = "selection_tokens" in keys
    if commit is None or not {"model", "revision"} <= settings or counts_tokens:
        return {"model_name_or_path": model["name"]}
    return {"selector_kwargs": {**keys.get("selector_kwargs", {}), "model": commit[1], "revision": commit[2]}}


# -- facts: what the command leaves open -----------------------------------------------------------------------------
def _as_sentence(clause: str) -> str:
    """Return a clause with a capital letter, unless it begins with a name, and a period."""
    first = clause.split(" ", 1)[0]
    return f"{clause[:1].upper() + clause[1:] if first.isalpha() else clause}{'' if clause.endswith('.') else '.'}"


def _import_hints(names: Sequence[str]) -> list[str]:
    """Return what it takes to import scores, selectors and filters outside hf_datasel."""
    return [_as_sentence(hint) for hint in describe_outside(names)]


def _interruption(provenance: Mapping[str, Any]) -> list[str]:
    if not provenance.get("interrupted"):
        return []
    return [
        f"The selection was interrupted after {provenance['selected']:,} of {provenance['budget']:,} rows: the "
        "command makes the complete selection."
    ]


def _local_models(provenance: Mapping[str, Any]) -> list[str]:
    return [
        f"{name!r} is a model in a local folder ({digest}): replace it with the path of the folder."
        for name, digest in dict(_resolved_models(provenance)).items()
        if digest.startswith("files:")
    ]


def _resolved_models(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (name, identity) of each model that was used."""
    model = provenance.get("model") or {}
    if model.get("name"):
        yield model["name"], str(model.get("resolved"))
    for spec in provenance["scores"]:
        for key, resolved in spec.items():
            setting = spec.get(key.removeprefix("resolved_"))
            if key.startswith("resolved_") and setting and resolved:
                names, digests = ([value] if isinstance(value, str) else list(value) for value in (setting, resolved))
                yield from ((str(name), str(digest)) for name, digest in zip(names, digests, strict=False))


def _files(provenance: Mapping[str, Any]) -> list[str]:
    """Return sentences about the local files that settings of the selector and of scores name, and about verifiers."""
    scores, own = provenance["scores"], provenance.get("files", ())
    sentences = [f"{_describe_file(file)}: replace it with its path." for file in own]
    for spec in scores:
        name, identity = spec.get("score"), str(spec.get("resolved_verifier"))
        files = [file for file in spec.get("resolved_files", ()) if file not in own]
        sentences += [f"{_describe_file(file)}, which the settings of {name} name." for file in files]
        if identity.startswith("sha256:"):
            digest = identity.removeprefix("sha256:")
            sentences.append(f"The source code of {spec['verifier']} has the sha256 {digest}.")
    return list(dict.fromkeys(sentences))


def _describe_file(file: Mapping[str, Any]) -> str:
    if "files" not in file:
        return f"{file['path']!r} is a local file (sha256 {file['sha256']})"
    number = f"{file['files']:,} file{'s' * (file['files'] != 1)}"
    return f"{file['path']!r} is local, with {number} (sha256 {file['sha256']} of what `sha256sum` prints for them)"


def _unverified_columns(provenance: Mapping[str, Any]) -> list[str]:
    return [
        f"Column {name!r} has to be in the dataset. How it was computed is not recorded."
        for name in provenance["columns_unverified"]
    ]


def _computed_columns(provenance: Mapping[str, Any]) -> list[str]:
    """Return sentences about columns of scores that were computed before the selection."""
    columns = provenance["columns_verified"]
    sentences = [
        f"Column {name!r} has to be in the dataset: compute it with `hf-datasel score` and the settings shown above."
        for name in columns
    ]
    if columns:
        hinted = outside_names(provenance["selector"])
        outside = [name for name in outside_names(provenance["scores"]) if name not in hinted]
        sentences += _import_hints(outside)
        sentences += [
            f"Compute {name} with `hf-datasel score --scores {name} --allow_imports`."
            for name in outside
            if is_importable(name) and any(spec.get("score") == name for spec in provenance["scores"])
        ]
    if group_column(provenance["selector"]) in columns:
        vectors = [str(spec.get("column")) for spec in provenance["scores"] if spec.get("score") == "cluster"]
        sentences += [
            f"The clusters are of the vectors in column {name!r}. How these were computed is not recorded."
            for name in dict.fromkeys(vectors)
        ]
    return sentences


# -- text ------------------------------------------------------------------------------------------------------------
def _text(facts: Facts, own: ReproduceFacts) -> str:
    parts = [str(fence(as_command(own["recipe"], own["command"]), "bash"))]
    if own["unsettled"]:
        items = "\n".join(f"- {_with_code(sentence)}" for sentence in own["unsettled"])
        parts.append(f"The command alone is not sufficient:\n\n{items}")
    if published := _published_rows(facts):
        parts.append(f"Or load the published row numbers, without scoring:\n\n{published}")
    versions = ", ".join(f"{text(name)} {text(version)}" for name, version in own["versions"].items())
    parts.append(f"Versions: {versions}. Id of the pool: {code(facts['parent']['id'])}.")
    return "\n\n".join(parts)


def _with_code(sentence: str) -> Markdown:
    """Return a sentence as Markdown, in which the text between backticks is code."""
    parts = sentence.split("`")
    return Markdown("".join(code(part) if index % 2 else _escaped(part) for index, part in enumerate(parts)))


def _escaped(part: str) -> str:
    """Return escaped text with its leading and trailing space."""
    inner = part.strip()
    if not inner:
        return part
    return f"{' ' * part.startswith(' ')}{text(inner, limit=_SENTENCE)}{' ' * part.endswith(' ')}"


def _published_rows(facts: Facts) -> str:
    """Return the Python code that applies the published row numbers to the parent dataset, or ""."""
    parent, repo_id = facts["parent"], facts["repo_id"]
    if repo_id is None or parent["changed"]:  # a changed pool has other row numbers
        return ""
    configs = [config for config in facts["configs"] if config["holds"] == "rows"]
    config = "" if not configs or configs[-1]["default"] else f", config_name={json.dumps(configs[-1]['name'])}"
    if parent["name"] is None:
        mapping = f", columns={json.dumps(parent['columns'], ensure_ascii=False)}" if parent.get("columns") else ""
        lines = ["from hf_datasel import Selection, load_pool", "", f'pool = load_pool("PATH"{mapping})']
    else:
        arguments = json.dumps(parent["name"])
        if parent["config"] not in (None, "default"):
            arguments += f", {json.dumps(parent['config'])}"
        revision = f", revision={json.dumps(parent['revision'])}" if parent["revision"] else ""
        pool = f"pool = load_dataset({arguments}, split={json.dumps(parent['split'] or 'train')}{revision})"
        lines = ["from datasets import load_dataset", "from hf_datasel import Selection", "", pool]
    lines.append(f"rows = Selection.from_hub({json.dumps(repo_id)}{config}{revision_argument(facts)}).apply(pool)")
    return fence("\n".join(lines), "python")


SECTION = Section("reproduce", "Reproduce", _text, compute=_compute, facts_type=ReproduceFacts)
