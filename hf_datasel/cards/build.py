"""From selections, or the output folder of a run, to the facts of a page."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hf_datasel.analysis.near_duplicates import TextDuplicateCounts, text_duplicates_among
from hf_datasel.cards.facts import FORMAT, DataConfig, Facts, Parent, RoundFacts, TrainingRun
from hf_datasel.cards.results import check_results
from hf_datasel.cards.round_wording import round_step
from hf_datasel.cards.score_values import score_means
from hf_datasel.cards.section import CardSource
from hf_datasel.cards.sections import SECTIONS
from hf_datasel.cards.sections.method import describe_method, describe_score, reused_losses, reuses_priors
from hf_datasel.cards.sections.training import training_facts
from hf_datasel.errors import PublishError
from hf_datasel.hub.card_yaml import combined_metadata
from hf_datasel.hub.parents import Parents, parents_of, recorded_parents
from hf_datasel.scoring.cost import Cost, total_cost
from hf_datasel.selection import Selection
from hf_datasel.selection.provenance import without_paths

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["PublishTarget", "check_together", "config_names", "gather", "read_run"]

_TRAINER_STATE = "trainer_state.json"
_MAX_COMPARED_TEXTS = 200_000
"""Number of selected rows up to which near-duplicates among them are counted: 50,000 short rows took 3.6 CPU s."""


@dataclass(frozen=True)
class PublishTarget:
    """Where a page is published.

    Args:
        repo_id: Dataset repository, or None for a local page.
        revision: Branch, or None for the main one.
        publication: Name of the selection in the repository.
        images: URL prefix of the images.
    """

    repo_id: str | None = None
    revision: str | None = None
    publication: str = "default"
    images: str = ""


def gather(
    selections: Sequence[Selection],
    dataset: Dataset | None = None,
    *,
    title: str,
    target: PublishTarget | None = None,
    metadata: Mapping[str, Any] | None = None,
    parents: Parents | None = None,
    changed: bool | None = None,
    configs: Sequence[DataConfig] = (),
    results: Sequence[Mapping[str, Any]] = (),
    training: TrainingRun | None = None,
) -> Facts:
    """Compute the facts of one selection, or of the rounds of one run.

    Args:
        selections: One selection, or one for each round in order.
        dataset: The dataset that rows were selected from. Without it, facts that need its text (response lengths,
            baselines) are missing.
        title: Title of the page.
        target: Where the page is published; a local page by default.
        metadata: Metadata of the parent's card, as `inherited_metadata` returns it; None if it was not looked up.
        parents: Where the rows come from; by default as the dataset shows it, else as the selections record it.
        changed: Whether the dataset differs from its parent on the Hub; by default what the dataset itself shows.
        configs: Configurations of the published dataset.
        results: Evaluation results of models trained on the rows.
        training: The training run that selected.

    Raises:
        PublishError: There are no selections, they do not belong together, or a result is not valid.
    """
    check_together(selections)
    checked_results = check_results([_without_path(result) for result in results], "results")
    target = target or PublishTarget()
    provenance = without_paths(selections[-1].provenance)
    parent = _parent(provenance, parents or _parents(provenance, dataset), metadata)
    parent["changed"] = parent["changed"] if changed is None else changed
    names = config_names(selections, target.publication)
    rounds = [_round_facts(selection, name) for selection, name in zip(selections, names, strict=True)]
    is_published = target.repo_id is not None
    source = CardSource(selections, dataset, provenance, parent, rounds, checked_results, is_published)
    if (counts := _text_duplicates(source)) is not None:
        rounds[-1]["text_duplicates"] = counts
    return {
        "format_version": FORMAT,
        "title": title,
        "repo_id": target.repo_id,
        "revision": target.revision,
        "publication": target.publication,
        "images": target.images,
        "parent": parent,
        "method": describe_method(provenance["selector"], (provenance.get("training") or {}).get("settings")),
        "scores": [describe_score(spec, provenance.get("model")) for spec in provenance["scores"]],
        "seed": provenance["seed"],
        "rounds": rounds,
        "configs": list(configs),
        "training": cast(TrainingRun, without_paths(training)) if training is not None else None,
        "sections": {section.name: section.compute(source) for section in SECTIONS if section.compute is not None},
    }


def config_names(selections: Sequence[Selection], publication: str = "default") -> list[str]:
    """Return the name of the published configuration of each selection.

    Args:
        selections: One selection, or one for each round.
        publication: Name of the selection in the repository.
    """
    if len(selections) == 1:
        return [publication]
    prefix = "" if publication == "default" else f"{publication}-"
    return [f"{prefix}round-{selection.provenance['round']}" for selection in selections]


def check_together(selections: Sequence[Selection]) -> None:
    """Raise if selections cannot be shown on one page: they have to be the rounds of one run.

    Args:
        selections: One selection, or several.

    Raises:
        PublishError: There is none, or they are of different datasets, of different selectors, or of the same round.
    """
    if not selections:
        raise PublishError("There is no selection to show or publish.")
    first = selections[0].provenance
    for selection in selections[1:]:
        if selection.provenance["dataset"]["id"] != first["dataset"]["id"]:
            raise PublishError("The selections are from different datasets, so they cannot be on one page.")
        if selection.provenance["selector"] != first["selector"]:
            raise PublishError(
                "The selections are by different selectors or settings. Several selections on one page have to be the "
                "rounds of one run; publish other selections one by one, each with its own config_name."
            )
    rounds = [selection.provenance["round"] for selection in selections]
    if len(set(rounds)) < len(rounds):
        raise PublishError(f"Two selections are of the same round: {rounds}.")


def read_run(folder: str | os.PathLike[str]) -> tuple[list[Selection], TrainingRun | None]:
    """Read the selections of a run in order, and the facts of its training, if its log exists.

    Args:
        folder: `output_dir` of a run, with the log in it or in its last checkpoint; or a single saved selection.

    Raises:
        PublishError: The folder is neither, or its log cannot be read.
        SelectionError: A selection in it cannot be read.
    """
    path = Path(folder)
    if (path / "selection.json").is_file():
        return [Selection.load(path)], None
    rounds = _numbered_folders(path / "selections", "round")
    if not rounds:
        raise PublishError(
            f"{str(path)!r} holds no selection: there is neither a selection.json nor a folder selections/round-0.",
            hint="Pass the output_dir of SelectiveSFTTrainer, or the folder of Selection.save.",
            cli_hint="Pass the output_dir of hf-datasel train or hf-datasel select.",
        )
    selections = [Selection.load(folder) for folder in rounds]
    states = [path / _TRAINER_STATE]
    states += [folder / _TRAINER_STATE for folder in reversed(_numbered_folders(path, "checkpoint"))]
    state = next((file for file in states if file.is_file()), None)
    if state is None:
        return selections, None
    try:
        content = json.loads(state.read_text(encoding="utf-8"))
        end = {"step": content["global_step"], "epoch": content["epoch"]}  # later than what was logged last
        facts = training_facts([*content["log_history"], end], selections[-1].provenance)
        costs = path / "cost.json"
        if costs.is_file():
            facts["costs"] = json.loads(costs.read_text(encoding="utf-8"))
        return selections, facts
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PublishError(f"{str(state)!r} is not the log of a training run: {error!r}") from error


def _without_path(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a result whose evaluation dataset is named without its folder, if it is a local file."""
    if not isinstance(result, Mapping) or not isinstance(result.get("dataset"), str):
        return result
    return {**result, "dataset": without_paths({"name": result["dataset"]})["name"]}


def _numbered_folders(folder: Path, name: str) -> list[Path]:
    """Return the folders `name-0`, `name-1` ... in the order of their numbers."""
    matches = [(re.fullmatch(rf"{name}-(\d+)", path.name), path) for path in folder.glob(f"{name}-*") if path.is_dir()]
    return [path for _, path in sorted((int(match[1]), path) for match, path in matches if match)]


def _parents(provenance: Mapping[str, Any], dataset: Dataset | None) -> Parents:
    """Return where the rows come from, with the licence that is recorded."""
    recorded = recorded_parents(provenance["dataset"])
    parents = recorded if dataset is None else parents_of(dataset)
    earlier = {(parent["name"], parent["revision"]): parent for parent in recorded.datasets}
    datasets = [{**earlier.get((parent["name"], parent["revision"]), {}), **parent} for parent in parents.datasets]
    return Parents(tuple(datasets), parents.complete) if datasets else recorded


def _parent(provenance: Mapping[str, Any], parents: Parents, metadata: Mapping[str, Any] | None) -> Parent:
    recorded, source = provenance["dataset"], parents.only
    if metadata is None and parents.datasets and all("private" in parent for parent in parents.datasets):
        licences = [{"license": parent["license"]} for parent in parents.datasets if "license" in parent]
        metadata = combined_metadata(licences)
    parent: Parent = {
        "name": source.get("name"),
        "revision": source.get("revision"),
        "config": source.get("config"),
        "split": source.get("split"),
        "changed": bool(source.get("changed")),
        "id": recorded["id"],
        "rows": recorded["rows"],
        "format": recorded["format"],
        "sources": parents.names,
        "looked_up": metadata is not None,
        "metadata": dict(metadata or {}),
    }
    if recorded.get("columns"):
        parent["columns"] = recorded["columns"]
    return parent


def _text_duplicates(source: CardSource) -> TextDuplicateCounts | None:
    """Count near-duplicates among the selected rows; None without text, or if they are not to be counted."""
    is_filtered = "duplicate_groups" in source.rounds[-1]
    if source.pool is None or source.pool.format == "tokenized" or is_filtered:
        return None
    rows = source.last.indices
    return text_duplicates_among(source.pool, rows) if 1 < len(rows) <= _MAX_COMPARED_TEXTS else None


def _round_facts(selection: Selection, config: str) -> RoundFacts:
    provenance = without_paths(selection.provenance)
    tokens, seconds = provenance.get("tokens"), provenance.get("seconds")
    costs: list[Cost] = [provenance[key] for key in ("cost", "cost_reused") if key in provenance]
    facts: RoundFacts = {
        "config": config,
        "round": provenance["round"],
        "step": round_step(provenance),
        "rows": len(selection.indices),
        "budget": provenance["budget"],
        "tokens": {"budget": tokens["budget"], "selected": tokens["selected"]} if tokens else None,
        "interrupted": bool(provenance.get("interrupted")),
        "rows_scored": provenance["rows_scored"],
        "seconds": None if seconds is None else round(float(seconds), 1),
        "model": provenance.get("model"),
        "reused": reused_losses(provenance["scores"]),
        "columns_unverified": list(provenance["columns_unverified"]),
        "not_eligible": dict(provenance["not_eligible"]),
        "exclusions": dict(provenance["exclusions"]),
        "means": score_means(selection),
    }
    if reuses_priors(provenance["scores"]):
        facts["reuses_priors"] = True
    if "weights" in provenance:
        facts["weights"] = provenance["weights"]
    if "duplicate_groups" in (notes := provenance.get("notes", {})):
        facts["duplicate_groups"] = notes["duplicate_groups"]
    if "target" in notes:
        facts["target"] = notes["target"]
    return {**facts, "cost": total_cost(costs)} if costs else facts
