"""Beginning of a page: one sentence, the description of the method, and a table of the main facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_datasel.cards.result_wording import describe_result
from hf_datasel.cards.round_wording import (
    counted,
    describe_selecting,
    independent_rounds,
    is_growing,
    joined,
    number_range,
    round_label,
    steps_before_selection,
    warm_up_rounds,
)
from hf_datasel.cards.section import Section
from hf_datasel.cards.sections.exclusions import short_reason
from hf_datasel.hub.markdown import Markdown, code, link, table, text
from hf_datasel.selection.display import model_names

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts, RoundFacts

__all__ = ["SECTION"]

_MAX_LISTED = 4  # rounds that are listed one by one
_MAX_REASONS = 10
_EXCLUDED = 1_000  # characters
_ABOUT = 1_000  # characters


def _text(facts: Facts, own: None) -> str:
    return f"**{_headline(facts)}**\n\n{text(facts['method']['about'], limit=_ABOUT)}\n\n{_summary(facts)}"


def _headline(facts: Facts) -> str:
    last, method = facts["rounds"][-1], text(facts["method"]["name"])
    counts = [last["rows"]] if last["interrupted"] else [part["rows"] for part in independent_rounds(facts["rounds"])]
    rows = f"{number_range(counts)} of the {facts['parent']['rows']:,} rows of {_parent(facts)}"
    interrupted = f" (interrupted: {last['budget']:,} rows were requested)" if last["interrupted"] else ""
    return f"{rows}, {describe_selecting(facts['rounds'], method)}{interrupted}."


def _parent(facts: Facts) -> str:
    parent = facts["parent"]
    if len(parent["sources"]) > 1:
        return f"a mixture of {joined([link(name) for name in parent['sources']])}"
    if parent["name"] is None:
        return "a dataset that is not on the Hub"
    revision = f" (revision {code(parent['revision'][:12])})" if parent["revision"] else ""
    return f"{'a modified copy of ' if parent['changed'] else ''}{link(parent['name'])}{revision}"


def _summary(facts: Facts) -> Markdown:
    last = facts["rounds"][-1]
    rows: list[tuple[str, object]] = [
        ("rows", _rows(facts)),
        ("pool", _pool(facts)),
        *([("columns", _columns(facts["parent"]["columns"]))] if facts["parent"].get("columns") else []),
        ("method", _method(facts)),
    ]
    if result := describe_result(facts["sections"].get("evaluation") or []):
        rows.append(("result", result))
    of_last_round = len(facts["rounds"]) > 1 and last["rows_scored"] and not is_growing(facts["rounds"])
    for column, (scored, selected) in list(last["means"].items())[:1]:
        mean = f"{code(column)} {selected:.4g} of the selected rows, {scored:.4g} of the scored rows"
        rows.append(("mean score", Markdown(f"{mean}{' in the last round' if of_last_round else ''}")))
    if weights := last.get("weights"):
        rows.append(("row weights", _weights(weights, of_last_round=len(facts["rounds"]) > 1)))
    rows += [("excluded", _excluded(facts)), ("licence", _licence(facts))]
    return table(["", ""], [(Markdown(f"**{name}**"), value) for name, value in rows])


def _weights(weights: Mapping[str, float], of_last_round: bool) -> Markdown:
    """Return the range of the weights, and what they are for."""
    last_round = " in the last round" if of_last_round else ""
    return Markdown(
        f"{weights['min']:.3g} to {weights['max']:.3g}, mean {weights['mean']:.3g}{last_round} "
        f"({code('selection_weight')}): training multiplies the losses of a row by its weight"
    )


def _rows(facts: Facts) -> str:
    last = facts["rounds"][-1]
    rows = f"{counted(last['rows'], 'row')}, {last['rows'] / facts['parent']['rows']:.1%} of the pool"
    if len(facts["rounds"]) > 1:
        rows += _in_rounds(facts["rounds"])
    if last["tokens"]:
        rows += f"; {last['tokens']['selected']:,} of at most {last['tokens']['budget']:,} tokens"
    if last["interrupted"]:
        rows += f"; interrupted, {last['budget']:,} rows were requested"
    return rows


def _in_rounds(rounds: Sequence[RoundFacts]) -> str:
    if is_growing(rounds):
        return f", added in {len(rounds)} rounds"
    if warm_ups := warm_up_rounds(rounds):
        return f"; {warm_ups[-1]['rows']:,} for the warm-up"
    sizes = [part["rows"] for part in rounds]
    if len(set(sizes)) == 1:
        return f", in each of {len(rounds)} rounds"
    return f" in the last round; {number_range(sizes)} rows in each of {len(rounds)} rounds"


def _pool(facts: Facts) -> Markdown:
    parent = facts["parent"]
    names = [code(name) for name in (parent["config"], parent["split"]) if name not in (None, "default")]
    return Markdown(", ".join([_parent(facts), *names, f"{parent['rows']:,} rows"]))


def _columns(mapping: Mapping[str, str]) -> Markdown:
    return Markdown(", ".join(f"{code(column)} is read as {code(name)}" for name, column in mapping.items()))


def _method(facts: Facts) -> Markdown:
    model = facts["rounds"][-1]["model"]
    if model:
        steps = steps_before_selection(facts["rounds"])
        trained = f" after {counted(steps, 'step')} of training" if steps else ""
        models = [f"{code(model['name'])}{trained}"]
    else:
        models = [code(name) for name in dict.fromkeys(name for spec in facts["scores"] for name in model_names(spec))]
    with_models = f" with {joined(models)}" if models else ""
    return Markdown(f"{text(facts['method']['name'])}{with_models}, seed {facts['seed']}")


def _licence(facts: Facts) -> str:
    metadata, parent = facts["parent"]["metadata"], facts["parent"]
    if "license_as_written" in metadata:
        return f"as stated by the parent dataset, without an identifier of the Hub: {metadata['license_as_written']}"
    if "license" not in metadata:
        if not parent["sources"]:
            return "unknown: the parent dataset is not on the Hub"
        unstated = "not stated by the parent dataset"
        return unstated if parent["looked_up"] else "that of the parent dataset, which was not looked up for this page"
    identifiers: Any = metadata["license"]
    licence = identifiers if isinstance(identifiers, str) else ", ".join(identifiers)
    return f"{metadata.get('license_name', licence)}, as for the parent dataset"


def _excluded(facts: Facts) -> Markdown:
    rounds, highest = facts["rounds"], Counter[str]()
    for part in rounds:
        highest |= Counter(part["exclusions"])
    is_same = all(part["exclusions"] == rounds[0]["exclusions"] for part in rounds)
    not_eligible = Counter(rounds[-1]["not_eligible"]).most_common()
    parts = [f"{count:,} {short_reason(reason)}" for reason, count in not_eligible]
    parts += [_excluded_by_round(rounds, reason) for reason, _ in highest.most_common()]
    if len(parts) > _MAX_REASONS:
        counts = [count for _, count in [*not_eligible, *highest.most_common()]][_MAX_REASONS:]
        rows = f" ({counted(sum(counts), 'row')})" if is_same else ""
        parts[_MAX_REASONS:] = [f"and {counted(len(counts), 'more reason')}{rows}"]
    return text((", " if is_same else "; ").join(parts) or "no rows", limit=_EXCLUDED)


def _excluded_by_round(rounds: Sequence[RoundFacts], reason: str) -> str:
    counts = [part["exclusions"].get(reason, 0) for part in rounds]
    if len(set(counts)) == 1:
        return f"{counts[0]:,} {short_reason(reason)}"
    if len(rounds) > _MAX_LISTED:
        return f"{number_range(counts)} {short_reason(reason)} in each of {len(rounds)} rounds"
    labels = joined([round_label(part) for part in rounds])
    return f"{joined([f'{count:,}' for count in counts])} {short_reason(reason)} in rounds {labels}"


SECTION = Section("overview", "", _text)
