"""What the model card says of the rows, and of what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_datasel.rounds.selector import Selector
from hf_datasel.selection import Selection
from hf_datasel.selection.display import compact, in_words
from hf_datasel.selection.provenance import without_paths

__all__ = ["extend_card", "measured", "training_data"]

_BEFORE = "## Training procedure"
_ABOUT = 1_000  # characters
_NO_BASE = "[None](https://huggingface.co/None)"
_NO_PLACE = 'model="None"'
_METRICS = {"loss": ("loss", "Loss"), "mean_token_accuracy": ("accuracy", "Mean token accuracy")}


def extend_card(
    path: Path, *, section: str, datasets: Sequence[str], results: Sequence[EvalResult], name: str
) -> None:
    """Add to the card that TRL has written: what it trained on and was measured on, in its metadata and its text."""
    card = ModelCard.load(path)
    data = card.data.to_dict()
    data.pop("licence", None)  # TRL's placeholder
    if tags := data.get("tags"):
        data["tags"] = sorted(tags)
    if datasets:
        data["datasets"] = list(dict.fromkeys(datasets))
    if results:
        data |= {"model_name": name, "eval_results": [_plain(each) for each in results]}
    place = path.parent.name if path.is_absolute() else path.parent.as_posix()
    known = card.text.replace(_NO_BASE, "a model that is not on the Hub").replace(_NO_PLACE, f'model="{place}"')
    before, found, after = known.partition(_BEFORE)
    text = f"{before}{section}\n\n{found}{after}" if found else f"{before.rstrip()}\n\n{section}\n"
    ModelCard(f"---\n{ModelCardData(**data).to_yaml()}\n---\n{text}").save(path)


def measured(
    log_history: Sequence[Mapping[str, Any]], rows: Mapping[str, Mapping[str, str]], step: int | None = None
) -> list[EvalResult]:
    """Loss and accuracy of the last evaluation on each set of rows.

    Args:
        log_history: of the trainer.
        rows: beginning of the metrics' names -> name, configuration, split and revision of the rows on the Hub, as far
            as they are known.
        step: take the last evaluation after this step instead.
    """
    found = []
    for prefix, known in rows.items():
        entries = [each for each in log_history if f"{prefix}_loss" in each and step in (None, each.get("step"))]
        for metric, (kind, name) in _METRICS.items():
            last = entries[-1] if entries else {}
            value = last.get(
                f"{prefix}_{metric}", last.get(f"eval_{metric}")
            )  # of several sets, only losses have names
            if value is None or not math.isfinite(value):
                continue
            of = prefix.removeprefix("eval").removeprefix("_")
            title = known.get("name") or (f"evaluation set {of}" if of else "evaluation set")
            found.append(
                EvalResult(
                    task_type="text-generation",
                    dataset_type=title,
                    dataset_name=title,
                    metric_type=kind,
                    metric_value=float(value),
                    dataset_config=known.get("config"),
                    dataset_split=known.get("split"),
                    dataset_revision=known.get("revision"),
                    metric_name=name,
                )
            )
    return found


def training_data(
    selections: Sequence[Selection],
    parent: Mapping[str, str],
    pool_rows: int,
    selector: Selector,
    published_at: str | None,
    share: float | None = None,
    run: Mapping[str, Any] | None = None,
) -> str:
    """The section of the card that says how the training rows were chosen.

    Args:
        selections: one a round.
        parent: where the pool is on the Hub, as far as it is known.
        pool_rows: rows of the pool.
        selector: that chose.
        published_at: repository of the selections, if they are published.
        share: of the run's wall time that choosing took, once the run is over.
        run: settings of the run that differ from their defaults.
    """
    from hf_datasel.cards.methods import method
    from hf_datasel.cards.reuse import reused, say_reused
    from hf_datasel.hub.markdown import code, fence, link, text

    run = run or {}
    source = link(parent["name"]) if "name" in parent else "a dataset that is not on the Hub"
    place = ", ".join(
        str(code(parent[key])) for key in ("config", "split") if parent.get(key) not in (None, "default")
    )
    commit = f" at revision {code(parent['revision'][:12])}" if "revision" in parent else ""
    chosen_by = method(without_paths(selector.spec()), run)
    parts = [
        "## Training data",
        f"The rows that this model was trained on were chosen by {text(chosen_by['name'])} from {pool_rows:,} rows of "
        f"{source}{f' ({place})' if place else ''}{commit}. {text(chosen_by['about'], limit=_ABOUT)}".rstrip(),
        _settings(selector, run),
        _rounds(selections, pool_rows, published_at),
    ]
    if said := say_reused([reused(each.provenance["scores"]) for each in selections]):
        parts.append(said)
    if share is not None:
        parts.append(f"Choosing took {share:.1%} of the wall time of the run.")
    if chosen_by["citation"]:
        parts += [f"Cite {text(chosen_by['name'])} as:", fence(chosen_by["citation"], "bibtex")]
    return "\n\n".join(str(each) for each in parts)


def _settings(selector: Selector, run: Mapping[str, Any]) -> str:
    from hf_datasel.cards.methods import of_choosing
    from hf_datasel.hub.markdown import code

    spec = compact(without_paths(selector.spec())) | of_choosing(run)
    changed = {key: in_words(value) for key, value in spec.items() if key != "selector"}
    if not changed:
        return "All its settings are its defaults."
    return (
        f"Settings that differ from its defaults: {', '.join(f'{code(k)} = {code(v)}' for k, v in changed.items())}."
    )


def _rounds(selections: Sequence[Selection], pool_rows: int, published_at: str | None) -> str:
    from hf_datasel.cards.build import config_names
    from hf_datasel.cards.course import course, grows, label, step_of
    from hf_datasel.hub.markdown import code, link, table

    if not selections:
        return "No rows have been chosen yet."
    choices = [
        {"round": each.provenance["round"], "rows": len(each.indices), "step": step_of(each.provenance)}
        for each in selections
    ]
    places = config_names(selections) if published_at else [_folder(each) for each in selections]
    rows, growing = [], grows(choices)
    for at, (each, place) in enumerate(zip(selections, places, strict=True)):
        shared = _new(each) if growing else _overlap(selections, at)
        scored, chosen = f"{each.provenance['rows_scored']:,}", f"{len(each.indices):,}"
        rows.append((label(choices[at]), scored, chosen, shared, f"{each.provenance['seconds']:.3g}", code(place)))
    compared = "new rows" if growing else "overlap with the round before (Jaccard)"
    head = ["round", "rows scored", "rows chosen", compared, "seconds"]
    if published_at:
        where = (
            f"The chosen rows, their numbers and their scores are in {link(published_at)}, a configuration a round."
        )
        head.append("configuration")
    else:
        where = "The numbers of the chosen rows and their scores are in this repository, a folder a round."
        head.append("folder")
    said = f"{_how_many(choices, pool_rows)} {course(choices)}".rstrip()
    return f"{said}\n\n{table(head, rows)}\n\n{where}"


def _how_many(choices: Sequence[Mapping[str, Any]], pool_rows: int) -> str:
    """How many rows were chosen, and in how many rounds."""
    from hf_datasel.cards.course import anew, from_to, grows, warmups

    count, warm_up = len(choices), warmups(choices)
    if grows(choices) and count > 1:
        return f"{choices[-1]['rows']:,} of the {pool_rows:,} rows were chosen in {count} rounds."
    if warm_up and count == len(warm_up):
        return f"{warm_up[-1]['rows']:,} of the {pool_rows:,} rows were chosen for a warm-up."
    share = from_to([each["rows"] for each in anew(choices)])
    times = f"in each of {count - len(warm_up)} rounds" if count - len(warm_up) > 1 else "in one choice"
    before = f", after a warm-up on {warm_up[-1]['rows']:,}" if warm_up else ""
    return f"{share} of the {pool_rows:,} rows were chosen {times}{before}."


def _new(selection: Selection) -> str:
    return f"{len(selection.indices) - selection.provenance['chosen_before']:,}"


def _overlap(selections: Sequence[Selection], at: int) -> str:
    """The Jaccard similarity with the round before, where that is there."""
    follows = at > 0 and selections[at - 1].provenance["round"] == selections[at].provenance["round"] - 1
    return f"{selections[at].overlap(selections[at - 1]):.3f}" if follows else ""


def _folder(selection: Selection) -> str:
    return f"selections/round-{selection.provenance['round']}"


def _plain(result: EvalResult) -> EvalResult:
    """With a plain number, where a metric gave one of NumPy's."""
    value = result.metric_value
    return replace(result, metric_value=value.item()) if hasattr(value, "item") else result
