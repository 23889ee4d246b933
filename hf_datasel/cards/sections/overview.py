"""What a page begins with: what was kept, from what, and how to load it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from hf_datasel.cards.course import anew, from_to, grows, how_chosen, label, trained_before, warmups
from hf_datasel.cards.facts import Choice, Facts
from hf_datasel.cards.sections.reasons import is_ranked, short_reason
from hf_datasel.hub.markdown import Markdown, code, fence, link, table, text
from hf_datasel.selection.display import models_of

__all__ = ["columns", "configs", "gist", "headline", "load", "revision_argument", "summary"]

_LISTED = 4  # rounds that are gone through one by one


def headline(facts: Facts) -> Markdown:
    last, how = facts["choices"][-1], how_chosen(facts["choices"], text(facts["method"]["name"]))
    kept = f"{last['rows']:,}" if last["interrupted"] else from_to([each["rows"] for each in anew(facts["choices"])])
    rows = f"{kept} of the {facts['parent']['rows']:,} rows of {_parent(facts)}"
    cut = f": the beginning of a choice of {last['budget']:,}, which was interrupted" if last["interrupted"] else ""
    return Markdown(f"{rows}, {how}{cut}.")


def gist(facts: Facts) -> Markdown:
    about = facts["method"]["about"]
    return text(about, limit=1_000)


def _parent(facts: Facts) -> Markdown:
    name, revision = facts["parent"]["name"], facts["parent"]["revision"]
    if len(facts["parent"]["sources"]) > 1:
        return Markdown(f"a mixture of {' and '.join(link(each) for each in facts['parent']['sources'])}")
    if name is None:
        return Markdown("a dataset that is not on the Hub")
    at = f" (revision {code(revision[:12])})" if revision else ""
    return Markdown(f"{'a changed copy of ' if facts['parent']['changed'] else ''}{link(name)}{at}")


def summary(facts: Facts) -> Markdown:
    parent, last = facts["parent"], facts["choices"][-1]
    share = last["rows"] / parent["rows"]
    kept = f"{last['rows']:,} rows, {share:.1%} of the pool"
    if len(facts["choices"]) > 1:
        kept += _in_rounds(facts)
    if last["tokens"]:
        kept += f"; {last['tokens']['chosen']:,} tokens, of {last['tokens']['budget']:,} at most"
    if last["interrupted"]:
        kept += f"; interrupted, of {last['budget']:,} asked for"
    rows: list[tuple[str, object]] = [("kept", kept), ("from", _from(facts)), ("by", _by(facts))]
    several = len(facts["choices"]) > 1 and last["rows_scored"] and not grows(facts["choices"])
    lately = " in the last round" if several else ""
    for column, (scored, chosen) in list(last["means"].items())[:1]:
        mean = f"{code(column)} {chosen:.4g} of the rows kept, {scored:.4g} of those scored{lately}"
        rows.append(("mean", Markdown(mean)))
    rows.append(("ruled out", _ruled_out(facts)))
    rows.append(("licence", _licence(facts)))
    return table(["", ""], [(Markdown(f"**{name}**"), value) for name, value in rows])


def _in_rounds(facts: Facts) -> str:
    choices = facts["choices"]
    if grows(choices):
        return f", added in {len(choices)} rounds"
    if warm_up := warmups(choices):
        return f"; {warm_up[-1]['rows']:,} for the warm-up"
    sizes = [each["rows"] for each in choices]
    if len(set(sizes)) == 1:
        return f", in each of {len(choices)} rounds"
    return f" in the last round; {from_to(sizes)} rows in each of {len(choices)} rounds"


def _from(facts: Facts) -> Markdown:
    parent = facts["parent"]
    place = ", ".join(code(each) for each in (parent["config"], parent["split"]) if each not in (None, "default"))
    return Markdown(f"{_parent(facts)}{f', {place}' if place else ''}, {parent['rows']:,} rows")


def _by(facts: Facts) -> Markdown:
    model = facts["choices"][-1]["model"]
    names = [_model(model["name"], trained_before(facts["choices"]))] if model else []
    if not names:
        names = [code(name) for name in dict.fromkeys(each for spec in facts["scores"] for each in models_of(spec))]
    with_models = f" with {' and '.join(names)}" if names else ""
    return Markdown(f"{text(facts['method']['name'])}{with_models}, seed {facts['seed']}")


def _model(name: str, steps: int) -> Markdown:
    after = f", as it is after {steps:,} step{'' if steps == 1 else 's'} of training" if steps else ""
    return Markdown(f"{code(name)}{after}")


def _licence(facts: Facts) -> str:
    metadata = facts["parent"]["metadata"]
    if "license_as_written" in metadata:
        return f"as the parent has it, in words that are no identifier of a licence: {metadata['license_as_written']}"
    if "license" not in metadata:
        if not facts["parent"]["sources"]:
            return "not known, since the parent is not on the Hub"
        stated = "not stated by the parent, so not stated here"
        return stated if facts["parent"]["looked_up"] else "that of the parent, which was not looked up for this page"
    named = metadata["license"] if isinstance(metadata["license"], str) else ", ".join(metadata["license"])
    return f"{metadata.get('license_name', named)}, as the parent has it"


def _ruled_out(facts: Facts) -> str:
    choices = facts["choices"]
    parts = [f"{n:,} {short_reason(name)}" for name, n in Counter(choices[-1]["not_eligible"]).most_common(3)]
    most: Counter[str] = Counter()
    for each in choices:
        most |= Counter(each["left_out"])
    parts += [_by_round(choices, name) for name, _ in most.most_common(3)]
    same = all(each["left_out"] == choices[0]["left_out"] for each in choices)
    return (", " if same else "; ").join(parts) or "no row"


def _by_round(choices: Sequence[Choice], reason: str) -> str:
    """How many rows each round left out for a reason."""
    counts = [each["left_out"].get(reason, 0) for each in choices]
    if len(set(counts)) == 1:
        return f"{counts[0]:,} {short_reason(reason)}"
    if len(choices) > _LISTED:
        return f"{from_to(counts)} {short_reason(reason)} in each of {len(choices)} rounds"
    rounds = _and([label(each) for each in choices])
    return f"{_and([f'{each:,}' for each in counts])} {short_reason(reason)} in rounds {rounds}"


def _and(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def load(facts: Facts) -> Markdown:
    if facts["repo_id"] is None or not facts["configs"]:
        return Markdown("")
    chosen = [each for each in facts["configs"] if each["holds"] == "rows"]
    name = "" if chosen[-1]["default"] else f", {json.dumps(chosen[-1]['name'])}"
    repo = json.dumps(facts["repo_id"])
    lines = [
        "from datasets import load_dataset",
        "",
        f'rows = load_dataset({repo}{name}, split="train"{revision_argument(facts)}){_order(facts)}',
    ]
    return fence("\n".join(lines), "python")


def _order(facts: Facts) -> str:
    return "  # best first" if is_ranked(facts) else ""


def columns(facts: Facts) -> Markdown:
    """What is in the published tables."""
    rank = "`selection_rank` (0 is best)" if is_ranked(facts) else "`selection_rank` (in order of choice)"
    lines = [
        f"Each row has the columns of the parent, its scores as far as there are any, {rank} and `selection_round`."
    ]
    if facts["choices"][-1]["means"]:
        lines.append(
            "The scores of every row of the pool, with its row number and a hash of its content but no text, are "
            "there to select from again without scoring."
        )
    return Markdown(" ".join(lines))


def revision_argument(facts: Facts) -> str:
    """Argument for the branch that the page is about."""
    return f", revision={json.dumps(facts['revision'])}" if facts["revision"] else ""


def configs(facts: Facts) -> Markdown:
    about = {"rows": "chosen rows", "scores": "scores of the whole pool, no text"}
    return table(
        ["configuration", "holds", "rows", "size"],
        [
            (
                Markdown(f"{code(each['name'])}{' (default)' if each['default'] else ''}"),
                about[each["holds"]],
                f"{max(each['splits'].values()):,}",
                _size(each["bytes"]),
            )
            for each in facts["configs"]
        ],
    )


def _size(count: int) -> str:
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:,.1f} {unit}"
    return f"{count} bytes"
