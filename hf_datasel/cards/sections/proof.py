"""What the choice is worth, how to make it again, and what it cannot tell."""

from __future__ import annotations

import json
import re

from hf_datasel.cards.course import from_to, grows, restarts, warmups
from hf_datasel.cards.facts import Facts, Training
from hf_datasel.cards.recipe import as_command
from hf_datasel.cards.sections.overview import revision_argument
from hf_datasel.cards.sections.reasons import first_drawn, is_drawn
from hf_datasel.hub.markdown import Markdown, code, fence, table, text
from hf_datasel.selection.display import models_of

__all__ = ["citation", "command", "cost", "limits", "missing", "rebuild", "results", "training", "versions"]


def results(facts: Facts) -> Markdown:
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


def training(facts: Facts) -> Markdown:
    training = facts["training"]
    if training is None:
        return Markdown("")
    model, again = code(training["model"]), max(restarts(facts["choices"]), default=0)
    whole = f"{_counted(training['steps'], 'step')} over {_counted(training['epochs'], 'epoch')}"
    end = _ending(training, again)
    if not again:
        return Markdown(f"{model} was trained for {whole}{_of_rows(facts)}{end}.")
    before = "of the warm-up" if warmups(facts["choices"]) else "of earlier rounds"
    steps = training["steps"] - again
    if steps <= 0:
        return Markdown(f"{model} was trained for {whole}, all of them {before}, and on these rows not yet.")
    return Markdown(
        f"{model} was trained on these rows for {_counted(steps, 'step')}, from the base model again{end}. The whole "
        f"run took {whole}, those {before} included."
    )


def _ending(training: Training, again: int) -> str:
    """The last losses of the model that training ended with.

    Args:
        again: step after which it began again from the base model. A training loss is a mean since the one logged
            before, which may have been another model's.
    """
    losses, evaluations = training["loss"], [each for each in training["eval_loss"] if each[0] > again]
    since = losses[-2][0] if len(losses) > 1 else 0
    ends = [f"a training loss of {losses[-1][1]:.4g}"] if losses and since >= again else []
    ends += [f"a loss of {evaluations[-1][1]:.4g} on held-out rows"] if evaluations else []
    return f", ending at {' and '.join(ends)}" if ends else ""


def _of_rows(facts: Facts) -> str:
    """Which rows the epochs of a run were of."""
    if warmups(facts["choices"]):
        return ", those of the warm-up included"
    return " in all its rounds together" if grows(facts["choices"]) else " of these rows"


def _counted(count: float, noun: str) -> str:
    return f"{count:,g} {noun}{'' if count == 1 else 's'}"


def command(facts: Facts) -> Markdown:
    return fence(as_command(facts["recipe"], facts["command"]), "bash")


def missing(facts: Facts) -> Markdown:
    if not facts["not_in_recipe"]:
        return Markdown("")
    return Markdown(
        "What the command does not settle:\n\n" + "\n".join(f"- {_with_code(each)}" for each in facts["not_in_recipe"])
    )


def _with_code(sentence: str) -> Markdown:
    """A sentence of ours, in which what stands between backticks is code."""
    parts = sentence.split("`")
    return Markdown("".join(code(part) if at % 2 else _spaced(part) for at, part in enumerate(parts)))


def _spaced(part: str) -> str:
    """Text with the spaces that it begins and ends with."""
    inner = part.strip()
    return f"{' ' * part.startswith(' ')}{text(inner, limit=400)}{' ' * part.endswith(' ')}" if inner else part


def rebuild(facts: Facts) -> Markdown:
    parent, repo = facts["parent"], facts["repo_id"]
    if repo is None or parent["changed"]:  # what has changed since it was loaded has other row numbers
        return Markdown("")
    chosen = [each for each in facts["configs"] if each["holds"] == "rows"]
    config = "" if not chosen or chosen[-1]["default"] else f", config_name={json.dumps(chosen[-1]['name'])}"
    if parent["name"] is None:
        lines = ["from hf_datasel import Selection, load_pool", "", 'pool = load_pool("PATH")']
    else:
        named = json.dumps(parent["name"])
        if parent["config"] not in (None, "default"):
            named += f", {json.dumps(parent['config'])}"
        at = f", revision={json.dumps(parent['revision'])}" if parent["revision"] else ""
        pool = f"pool = load_dataset({named}, split={json.dumps(parent['split'] or 'train')}{at})"
        lines = ["from datasets import load_dataset", "from hf_datasel import Selection", "", pool]
    lines.append(f"rows = Selection.from_hub({json.dumps(repo)}{config}{revision_argument(facts)}).apply(pool)")
    return fence("\n".join(lines), "python")


def versions(facts: Facts) -> Markdown:
    named = ", ".join(f"{text(name)} {text(version)}" for name, version in facts["versions"].items())
    return Markdown(f"Versions: {named}. Id of the pool's rows: {code(facts['parent']['id'])}.")


def cost(facts: Facts) -> Markdown:
    seconds = [each["seconds"] for each in facts["choices"] if each["seconds"] is not None]
    scored = sum(each["rows_scored"] for each in facts["choices"])
    lines = []
    if seconds:
        rounds = f" in {len(seconds)} rounds" if len(seconds) > 1 else ""
        lines.append(f"Scoring and choosing took {_duration(sum(seconds))}{rounds}")
        before = "its scores were there before, and are not counted" if facts["scores"] else "no row was scored"
        lines[-1] += f", for {scored:,} rows scored." if scored else f"; {before}."
    training = facts["training"]
    if training is not None and training["selecting"] is not None:
        lines.append(f"That is {training['selecting']:.0%} of the wall time of the run.")
    return Markdown(" ".join(lines) or "Not recorded.")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def limits(facts: Facts) -> Markdown:
    last, lines = facts["choices"][-1], []
    if last["model"] or any(models_of(spec) for spec in facts["scores"]):
        lines.append(
            "The scores are those of one model with one prompt format; another model would choose other rows."
        )
    if last["columns_unverified"]:
        named = ", ".join(code(each) for each in last["columns_unverified"])
        lines.append(f"The choice relies on {named} as the dataset had it. How it was computed is not recorded.")
    if is_drawn(facts):
        lines.append("The rows were drawn at random: another seed draws others.")
    elif first_drawn(facts):
        lines.append("The rows of the first round were drawn at random: another seed draws others, and so the rest.")
    if last["interrupted"]:
        lines.append(
            f"The choice was interrupted: these are {last['rows']:,} of the {last['budget']:,} rows asked for, and "
            "not what the method chooses when it comes to its end."
        )
    elif short := _short(facts):
        lines.append(short)
    if facts["parent"]["changed"]:
        lines.append(
            "The pool is not the parent as it is on the Hub: rows were filtered, changed, mixed or reordered before "
            "they were chosen from, and the row numbers are those of that pool."
        )
    elif facts["parent"]["name"] is None:
        lines.append("The parent is not on the Hub, so that nobody else can make this selection again from it.")
    lines += [
        "Rows are chosen, not corrected: mistakes, biases and private information of the parent may be among them. "
        "Nothing was checked for truth or safety.",
        "Selection is no substitute for more good data. On large pools random rows often do as well as published "
        "methods ([2410.09335](https://arxiv.org/abs/2410.09335)), and where a pool has little junk, training on all "
        "of it does better.",
    ]
    return Markdown("\n".join(f"- {each}" for each in lines))


def _short(facts: Facts) -> str:
    """How many rows fewer than asked for the rounds have; "" where each has all of them."""
    missing = [each["budget"] - each["rows"] for each in facts["choices"]]
    short = [each for each in missing if each > 0]
    if not short:
        return ""
    if len(missing) == 1:
        return f"The selection is {_counted(short[0], 'row')} short of what was asked for."
    rounds = f"Each of the {len(missing)} rounds" if len(short) == len(missing) else _these(facts, len(short))
    rows = f"{from_to(short)} row{'' if short == [1] * len(short) else 's'}"
    return f"{rounds} is {rows} short of what was asked for."


def _these(facts: Facts, short: int) -> str:
    """The rounds that are short, where not all are."""
    if short > 1:
        return f"Each of {short} of the {len(facts['choices'])} rounds"
    return next(f"Round {each['round']}" for each in facts["choices"] if each["rows"] < each["budget"])


def citation(facts: Facts) -> Markdown:
    named = [*facts["method"]["citation"].split("\n\n"), *(spec.get("citation", "") for spec in facts["scores"])]
    entries = [re.sub(r",\s+(?=\w+\s*=)", ",\n  ", entry) for entry in dict.fromkeys(named) if entry]
    closed = [re.sub(r"\}\}$", "}\n}", entry) for entry in entries]
    return fence("\n\n".join(closed), "bibtex") if closed else Markdown("")
