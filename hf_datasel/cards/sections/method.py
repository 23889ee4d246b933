"""The selector and the computed scores: descriptions, settings and citations."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from hf_datasel.cards.section import Section
from hf_datasel.cards.selector_traits import selector_of
from hf_datasel.hub.markdown import Markdown, code, table, text
from hf_datasel.selection.display import describe_setting, method_name
from hf_datasel.selection.provenance import without_paths
from hf_datasel.spec import Kind, current_name, description, is_importable, list_classes

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts, Method

__all__ = [
    "REUSED_PRIORS",
    "SECTION",
    "describe_method",
    "describe_reused_losses",
    "describe_score",
    "reused_losses",
    "reuses_priors",
    "score_settings",
    "selection_settings",
]

_EVERY_EPOCH = ", reselected every epoch"
"""End of the description of a selector that selects again during training, for the default settings of a run."""
_SELECTION_SETTINGS = (
    "reselection_strategy",
    "reselection_steps",
    "selection_schedule",
    "selection_order",
    "scoring_dtype",
    "reuse_training_loss",
)
_HIDDEN = ("score", "about", "citation", "tokens", "computed")
"""Parts of a score's spec that are shown elsewhere, or that only a program reads; selection.json has them all."""
REUSED_PRIORS = (
    "In later rounds the losses without the prompt (`loss_prior`) are those of the first round instead of the current "
    "model, which is an approximation."
)
_ABOUT = 2_000  # characters
_ABOUT_SCORE = 400


# -- facts -----------------------------------------------------------------------------------------------------------
def describe_method(spec: Mapping[str, Any], run: Mapping[str, Any] | None) -> Method:
    """Return the facts of a selector, together with the selectors and filters inside it.

    Args:
        spec: Spec of the selector, without local paths.
        run: Settings of the training run that differ from their defaults; None for a selection without training.
    """
    specs = _nested_specs(spec)
    described = [(part, entry) for part in specs if (entry := _describe(part))["about"]]
    about = [
        f"{entry['about'] if part is spec else _described_part(part, entry['about'])}{_filters(part)}"
        for part, entry in described
        if ":" in str(part.get("filter", ":"))  # what other filters keep is said in a few words
    ]
    selector = selector_of(spec)
    hidden = ("selector", *(selector.unused_settings() if selector is not None else ()))
    cited = sorted(described, key=lambda item: "filter" in item[0])
    return {
        "selector": str(spec["selector"]),
        "name": method_name(spec),
        "about": " ".join(sentence.replace(_EVERY_EPOCH, _reselection(run)) for sentence in about),
        "settings": {key: value for key, value in spec.items() if key not in hidden} | selection_settings(run or {}),
        "citation": "\n\n".join(dict.fromkeys(entry["citation"] for _, entry in cited if entry["citation"])),
    }


def selection_settings(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a training run that its rows and their order depend on, without local paths."""
    return without_paths({name: run[name] for name in _SELECTION_SETTINGS if run.get(name) is not None})


def describe_score(spec: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Return the spec of a score with its description (`about`) and its citation.

    Args:
        spec: Spec of the score. A score outside hf_datasel has recorded its description in it.
        model: Model of the selection; None if it used none, so that the score names its own.
    """
    computed = spec.get("computed") or {}
    used = {"model": computed["model"]} if model is None and not spec.get("model") and computed.get("model") else {}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in spec.items()}
    return {**plain, **used, "score": current_name("score", str(spec.get("score", ""))), **_describe(spec)}


def reused_losses(specs: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of rows whose losses a selection reused from training, as its scores record it."""
    return max((int((spec.get("computed") or {}).get("reused_training_loss") or 0) for spec in specs), default=0)


def reuses_priors(specs: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether losses without the prompt are those of the first round, as a selection's scores record it."""
    return any((spec.get("computed") or {}).get("reused_prior_loss") for spec in specs)


def _describe(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return the description (`about`) and the citation of the class that a spec names.

    A class outside hf_datasel is described as the spec has recorded it, or as its module says if that is imported
    already. It is never imported for this.
    """
    kind = cast(Kind, next((key for key in ("score", "selector", "filter") if key in spec), "score"))
    name = current_name(kind, str(spec.get(kind, "")))
    if ":" not in name:
        cls = list_classes(kind).get(name)
        return description(cls) if cls is not None else {"about": "", "citation": ""}
    entry = {key: str(spec.get(key) or "") for key in ("about", "citation")}
    module, _, class_name = name.partition(":")
    cls = getattr(sys.modules.get(module), class_name, None) if is_importable(name) else None
    if isinstance(cls, type) and not entry["about"]:
        entry = description(cls)
    return {**entry, "about": f"{entry['about']} ({name} is not part of hf_datasel.)".strip()}


def _reselection(run: Mapping[str, Any] | None) -> str:
    """Return when a selector that selects again during training has selected, to replace `_EVERY_EPOCH`."""
    if run is None:
        return ""
    strategy, steps = run.get("reselection_strategy", "epoch"), run.get("reselection_steps")
    by_steps = ", reselected before every update" if steps == 1 else f", reselected every {steps} updates"
    return {"steps": by_steps, "no": ", selected once before training"}.get(strategy, _EVERY_EPOCH)


def _nested_specs(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the spec of a selector, and those of the selectors and filters inside it."""
    values = [part for value in spec.values() for part in (value if isinstance(value, list | tuple) else [value])]
    inner = [part for part in values if isinstance(part, Mapping) and ("selector" in part or "filter" in part)]
    return [spec, *(nested for part in inner for nested in _nested_specs(part))]


def _filters(spec: Mapping[str, Any]) -> str:
    """Return a sentence with what the filters of a selector keep; "" without filters."""
    return f" Its filters keep: {describe_setting(spec['filters'])}." if spec.get("filters") else ""


def _described_part(spec: Mapping[str, Any], about: str) -> str:
    """Return a sentence on a selector or filter inside another selector."""
    is_selector = "selector" in spec
    name = method_name(spec) if is_selector else f"The filter {spec['filter']}"
    if not about.startswith(("Rows ", "Of rows ")):  # of a class outside hf_datasel
        return f"{name}: {about}"
    return f"{name} {'selects' if is_selector else 'keeps'} {about[0].lower()}{about[1:]}"


# -- text ------------------------------------------------------------------------------------------------------------
def _text(facts: Facts, own: None) -> str:
    method = facts["method"]
    settings = {name: describe_setting(value) for name, value in method["settings"].items()}
    scores = [score_settings(spec) for spec in facts["scores"]]
    rounds = facts["rounds"]
    parts = [
        f"**{text(method['name'])}.** {text(method['about'], limit=_ABOUT)}".rstrip(),
        _settings_table(settings) or "This method has no settings.",
        "Computed scores:" if scores else "",
        *dict.fromkeys(scores),
        describe_reused_losses([part["reused"] for part in rounds]),
        REUSED_PRIORS if any(part.get("reuses_priors") for part in rounds) else "",
    ]
    return "\n\n".join(part for part in parts if part)


def describe_reused_losses(counts: Sequence[int]) -> str:
    """Return a sentence about losses that were reused from training, or "" without any.

    Args:
        counts: Number of rows with reused losses in each round.
    """
    rows = sum(counts)
    if not rows:
        return ""
    in_all = ", in all rounds together," if sum(map(bool, counts)) > 1 else ""
    subject = f"The losses of {rows:,} rows{in_all} were" if rows > 1 else "The loss of 1 row was"
    return (
        f"{subject} reused from the training steps of the previous round instead of being computed again, which is an "
        "approximation."
    )


def score_settings(spec: Mapping[str, Any]) -> Markdown:
    """Return the description of a score and a table of its settings.

    Args:
        spec: Spec of the score, as `describe_score` returns it.
    """
    shown = {key: value for key, value in spec.items() if key not in _HIDDEN and not key.startswith("resolved_")}
    about = f": {text(spec['about'], limit=_ABOUT_SCORE)}" if spec.get("about") else ""
    settings = _settings_table(shown)
    return Markdown(f"{code(spec.get('score') or 'score')}{about}" + (f"\n\n{settings}" if settings else ""))


def _settings_table(settings: Mapping[str, Any]) -> Markdown:
    """Return a table of the settings that are not null or empty."""
    rows = [(code(name), code(value)) for name, value in settings.items() if value not in (None, "", (), [], {})]
    return table(["setting", "value"], rows) if rows else Markdown("")


SECTION = Section("method", "Method", _text)
