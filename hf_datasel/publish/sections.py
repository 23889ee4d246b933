"""What each section of a page says, worked out from the facts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from hf_datasel.publish.facts import Choice, Facts
from hf_datasel.publish.markdown import Markdown, code, fence, link, table, text
from hf_datasel.publish.recipe import as_command

__all__ = ["SECTIONS"]

_REASONS = {
    "empty_response": ("without a response", "there is nothing to train on"),
    "empty_prompt": ("without a prompt", "there is nothing to answer"),
    "prompt_fills_window": ("with too long a prompt", "nothing of the response is left after truncation"),
    "no_label_after_truncation": ("with too long a prompt", "nothing of the response is left after truncation"),
    "no_response_token": ("without a response token", "the response has no token of its own"),
    "turn_order": ("with turns out of order", "no conversation has its turns in that order"),
    "response_not_found": ("whose response is not found", "the chat template hides where it ends"),
}

_INNER = ("score", "tokens", "computed", "resolved_model")
"""Parts of a score's spec that only a program reads; they are in selection.json."""


def _headline(facts: Facts) -> Markdown:
    last, rounds, method = facts["choices"][-1], len(facts["choices"]), text(facts["method"]["name"])
    rows = f"{last['rows']:,} of the {facts['parent']['rows']:,} rows of {_parent(facts)}"
    if rounds > 1:
        return Markdown(f"{rows}, chosen anew before each of {rounds} rounds of training by {method}.")
    return Markdown(f"{rows}, chosen by {method}.")


def _gist(facts: Facts) -> Markdown:
    about = facts["method"]["about"]
    return text(about, limit=1_000)


def _parent(facts: Facts) -> Markdown:
    name, revision = facts["parent"]["name"], facts["parent"]["revision"]
    if name is None:
        return Markdown("a dataset that is not on the Hub")
    at = f" (revision {code(revision[:12])})" if revision else ""
    return Markdown(f"{link(name)}{at}")


def _summary(facts: Facts) -> Markdown:
    parent, last = facts["parent"], facts["choices"][-1]
    share = last["rows"] / parent["rows"]
    kept = f"{last['rows']:,} rows, {share:.1%} of the pool"
    if len(facts["choices"]) > 1:
        kept += f", in each of {len(facts['choices'])} rounds" if _equal_rounds(facts) else " in the last round"
    rows: list[tuple[str, object]] = [("kept", kept), ("from", _from(facts)), ("by", _by(facts))]
    for column, (scored, chosen) in list(last["means"].items())[:1]:
        rows.append(("mean", Markdown(f"{code(column)} {chosen:.4g} of the rows kept, {scored:.4g} of those scored")))
    out = _left_out_counts(last)
    rows.append(("ruled out", ", ".join(f"{n:,} {_short_reason(name)}" for name, n in out.most_common(3)) or "no row"))
    rows.append(("licence", _licence(facts)))
    return table(["", ""], [(Markdown(f"**{name}**"), value) for name, value in rows])


def _equal_rounds(facts: Facts) -> bool:
    return len({each["rows"] for each in facts["choices"]}) == 1


def _from(facts: Facts) -> Markdown:
    parent = facts["parent"]
    place = ", ".join(code(each) for each in (parent["config"], parent["split"]) if each not in (None, "default"))
    return Markdown(f"{_parent(facts)}{f', {place}' if place else ''}, {parent['rows']:,} rows")


def _by(facts: Facts) -> Markdown:
    model = facts["choices"][-1]["model"]
    with_model = f" with {_model(model)}" if model else ""
    return Markdown(f"{text(facts['method']['name'])}{with_model}, seed {facts['seed']}")


def _model(model: Mapping[str, Any]) -> Markdown:
    step = f", as it is after {model['global_step']:,} steps of training" if model.get("global_step") else ""
    return Markdown(f"{code(model['name'])}{step}")


def _licence(facts: Facts) -> str:
    metadata = facts["parent"]["metadata"]
    if "license" not in metadata:
        return "not stated by the parent, so not stated here"
    named = metadata["license"] if isinstance(metadata["license"], str) else ", ".join(metadata["license"])
    return f"{metadata.get('license_name', named)}, as the parent has it"


def _load(facts: Facts) -> Markdown:
    if facts["repo_id"] is None or not facts["configs"]:
        return Markdown("")
    chosen = [each for each in facts["configs"] if each["holds"] == "rows"]
    name = "" if chosen[-1]["default"] else f', "{chosen[-1]["name"]}"'
    lines = [
        "from datasets import load_dataset",
        "",
        f'rows = load_dataset("{facts["repo_id"]}"{name}, split="train")  # best first',
    ]
    return fence("\n".join(lines), "python")


def _configs(facts: Facts) -> Markdown:
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


def _means(facts: Facts) -> Markdown:
    means = facts["choices"][-1]["means"]
    if not means:
        return Markdown("No score was computed for this choice.")
    rows = [(code(name), f"{scored:.4g}", f"{chosen:.4g}") for name, (scored, chosen) in means.items()]
    return table(["score", "mean of the rows scored", "mean of the rows chosen"], rows)


def _rounds(facts: Facts) -> Markdown:
    if len(facts["choices"]) < 2:
        return Markdown("")
    columns = list(facts["choices"][-1]["means"])
    overlap = facts["overlap"]
    rows = []
    for at, each in enumerate(facts["choices"]):
        shared = "" if at == 0 or overlap is None else f"{overlap['matrix'][at - 1][at]:.3f}"
        means = [f"{each['means'][name][1]:.4g}" if name in each["means"] else "" for name in columns]
        rows.append((str(each["round"]), f"{each['rows_scored']:,}", f"{each['rows']:,}", *means, shared))
    head = [
        "round",
        "scored",
        "chosen",
        *(f"mean {name}" for name in columns),
        "Jaccard with the round before",
    ]
    return table(head, rows)


def _settings(facts: Facts) -> Markdown:
    return _table_of(facts["method"]["settings"]) or Markdown("It has no settings.")


def _scores(facts: Facts) -> Markdown:
    parts = []
    for spec in facts["scores"]:
        shown = {key: value for key, value in spec.items() if key not in _INNER}
        parts.append(f"{code(spec.get('score', 'score'))}\n\n{_table_of(shown)}")
    return Markdown("\n\n".join(dict.fromkeys(parts)))


def _table_of(settings: Mapping[str, Any]) -> Markdown:
    """What is set; a setting that is null or empty says nothing."""
    rows = [(code(name), code(value)) for name, value in settings.items() if value not in (None, "")]
    return table(["setting", "value"], rows) if rows else Markdown("")


def _left_out_counts(choice: Choice) -> Counter[str]:
    return Counter(choice["not_eligible"]) + Counter(choice["left_out"])


def _short_reason(name: str) -> str:
    return _REASONS[name][0] if name in _REASONS else name.replace(">=", "≥")


def _long_reason(name: str) -> str:
    if name in _REASONS:
        return _REASONS[name][1]
    above = re.fullmatch(r"with (\w+) >= (.+)", name)
    if above:
        return f"{above[1]} has to be below {above[2]} for this method"
    return "there is no value to rank it by" if name.startswith("without ") else ""


def _left_out(facts: Facts) -> Markdown:
    last = facts["choices"][-1]
    counts = _left_out_counts(last)
    lines = []
    if counts:
        rows = [(f"{n:,}", code(name), _long_reason(name)) for name, n in counts.most_common()]
        lines.append("Rows that no ranking could have taken:")
        lines.append(table(["rows", "reason", "meaning"], rows))
    else:
        lines.append("No row was ruled out: every one could be chosen.")
    if last["rows"] < last["budget"]:
        lines.append(f"{last['budget']:,} rows were asked for, and only {last['rows']:,} could be chosen.")
    after = _candidates(facts, last) - last["rows"]
    if after > 0:
        scored = last["rows_scored"]
        among = f" of the {scored:,} scored in this round" if 0 < scored < facts["parent"]["rows"] else ""
        lines.append(f"The other {after:,} rows{among} could have been chosen, and came after those that were.")
    return Markdown("\n\n".join(lines))


def _candidates(facts: Facts, choice: Choice) -> int:
    """Rows that could have been chosen."""
    pool = facts["parent"]["rows"]
    whole = choice["rows_scored"] in (0, pool)
    considered = pool - sum(choice["not_eligible"].values()) if whole else choice["rows_scored"]
    return considered - sum(choice["left_out"].values())


def _results(facts: Facts) -> Markdown:
    if not facts["results"]:
        return Markdown(
            "Nothing was measured: no model trained on these rows was evaluated when this page was made. That a score "
            "is high does not show that training on the row helps. Compare with as many random rows before you rely "
            "on it."
        )
    rows = [
        (each["trained_on"], each["metric"], each["dataset"], f"{each['value']:.4g}", each["note"])
        for each in facts["results"]
    ]
    return table(["trained on", "metric", "measured on", "value", "note"], rows)


def _training(facts: Facts) -> Markdown:
    training = facts["training"]
    if training is None:
        return Markdown("")
    loss = f", ending at a training loss of {training['loss'][-1][1]:.4g}" if training["loss"] else ""
    held_out = f" and a loss of {training['eval_loss'][-1][1]:.4g} on held-out rows" if training["eval_loss"] else ""
    return Markdown(
        f"{code(training['model'])} was trained for {training['steps']:,} steps over {training['epochs']:g} epochs of "
        f"these rows{loss}{held_out}."
    )


def _command(facts: Facts) -> Markdown:
    lines = as_command(facts["recipe"], facts["command"])
    return fence(f'pip install "hf-datasel=={facts["versions"].get("hf-datasel", "")}"\n{lines}', "bash")


def _missing(facts: Facts) -> Markdown:
    if not facts["not_in_recipe"]:
        return Markdown("")
    return Markdown(
        "What the command does not settle:\n\n" + "\n".join(f"- {_with_code(each)}" for each in facts["not_in_recipe"])
    )


def _with_code(sentence: str) -> Markdown:
    """A sentence of ours, in which what stands between backticks is code."""
    parts = sentence.split("`")
    return Markdown("".join(code(part) if at % 2 else text(part, limit=400) for at, part in enumerate(parts)))


def _rebuild(facts: Facts) -> Markdown:
    parent, repo = facts["parent"], facts["repo_id"]
    if repo is None:
        return Markdown("")
    chosen = [each for each in facts["configs"] if each["holds"] == "rows"]
    config = "" if not chosen or chosen[-1]["default"] else f', config_name="{chosen[-1]["name"]}"'
    named = f'"{parent["name"]}"' if parent["name"] else '"PATH"'
    if parent["config"] not in (None, "default"):
        named += f', "{parent["config"]}"'
    at = f', revision="{parent["revision"]}"' if parent["revision"] else ""
    lines = [
        "from datasets import load_dataset",
        "from hf_datasel import Selection",
        "",
        f'pool = load_dataset({named}, split="{parent["split"] or "train"}"{at})',
        f'rows = Selection.from_hub("{repo}"{config}).apply(pool)',
    ]
    return fence("\n".join(lines), "python")


def _versions(facts: Facts) -> Markdown:
    named = ", ".join(f"{text(name)} {text(version)}" for name, version in facts["versions"].items())
    return Markdown(f"Versions: {named}. Id of the pool's rows: {code(facts['parent']['id'])}.")


def _cost(facts: Facts) -> Markdown:
    seconds = [each["seconds"] for each in facts["choices"] if each["seconds"] is not None]
    scored = sum(each["rows_scored"] for each in facts["choices"])
    lines = []
    if seconds:
        rounds = f" in {len(seconds)} rounds" if len(seconds) > 1 else ""
        lines.append(f"Scoring and choosing took {_duration(sum(seconds))}{rounds}")
        lines[-1] += f", for {scored:,} rows scored." if scored else "; no row was scored."
    training = facts["training"]
    if training is not None and training["selecting"] is not None:
        lines.append(f"That is {training['selecting']:.0%} of the wall time of the run.")
    return Markdown(" ".join(lines) or "Not recorded.")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _limits(facts: Facts) -> Markdown:
    last, lines = facts["choices"][-1], []
    if last["model"] or any(spec.get("model") for spec in facts["scores"]):
        lines.append(
            "The scores are those of one model with one prompt format; another model would choose other rows."
        )
    if last["columns_unverified"]:
        named = ", ".join(code(each) for each in last["columns_unverified"])
        lines.append(f"The choice relies on {named} as the dataset had it. How it was computed is not recorded.")
    if last["rows"] < last["budget"]:
        lines.append(f"The selection is {last['budget'] - last['rows']:,} rows short of what was asked for.")
    if facts["parent"]["name"] is None:
        lines.append("The parent is not on the Hub, so that nobody else can make this selection again from it.")
    lines += [
        "Rows are chosen, not corrected: mistakes, biases and private information of the parent may be among them. "
        "Nothing was checked for truth or safety.",
        "Selection is no substitute for more good data. On large pools random rows often do as well as published "
        "methods ([2410.09335](https://arxiv.org/abs/2410.09335)), and where a pool has little junk, training on all "
        "of it does better.",
    ]
    return Markdown("\n".join(f"- {each}" for each in lines))


def _citation(facts: Facts) -> Markdown:
    entry = re.sub(r",\s+(?=\w+\s*=)", ",\n  ", facts["method"]["citation"])
    return fence(re.sub(r"\}\}$", "}\n}", entry), "bibtex") if entry else Markdown("")


SECTIONS: dict[str, Callable[[Facts], Markdown]] = {
    "headline": _headline,
    "gist": _gist,
    "summary": _summary,
    "load": _load,
    "configs": _configs,
    "means": _means,
    "rounds": _rounds,
    "settings": _settings,
    "scores": _scores,
    "left_out": _left_out,
    "results": _results,
    "training": _training,
    "command": _command,
    "missing": _missing,
    "rebuild": _rebuild,
    "versions": _versions,
    "cost": _cost,
    "limits": _limits,
    "citation": _citation,
}
