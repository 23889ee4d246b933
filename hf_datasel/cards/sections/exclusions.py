"""Rows that could not be selected, and why."""

from __future__ import annotations

import re
import sys
from collections import Counter
from typing import TYPE_CHECKING

from hf_datasel.cards.section import Section
from hf_datasel.cards.selector_traits import draws_rows, has_filters, scores_shortlist
from hf_datasel.hub.markdown import code, table, text
from hf_datasel.scoring.contamination import describe_questions
from hf_datasel.strategies.min_hash import miss_probability

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts

__all__ = ["SECTION", "long_reason", "short_reason"]

_QUESTIONS = 2_000  # characters
_GROUP_SIZES = ((2, 3, "2"), (3, 10, "3 to 9"), (10, 100, "10 to 99"), (100, sys.maxsize, "100 or more"))
"""Lowest size of a group, the size from which on it is larger, and the label."""
_REASONS = {
    "empty_response": ("without a response", "there is nothing to train on"),
    "empty_prompt": ("without a prompt", "there is nothing to answer"),
    "prompt_fills_window": ("with too long a prompt", "no token of the response is left after truncation"),
    "no_label_after_truncation": ("with too long a prompt", "no token of the response is left after truncation"),
    "no_prompt_token": ("with a prompt of one token", "there is no context to predict it from"),
    "no_response_token": ("without a response token", "the response has no token of its own"),
    "no_response": ("without a turn of the assistant", "there is nothing to train on"),
    "no_trained_response": ("whose responses are masked", "loss flags exclude every turn of the assistant"),
    "no_prompt": ("without a prompt", "chosen and rejected answer share no beginning"),
    "missing_content": ("with a message without content", "its text is in another key"),
    "empty_text": ("without text", "there is nothing to train on"),
    "wrong_type": ("with a value of the wrong type", "text or a list of messages is needed"),
    "unknown_role": ("with an unknown role", "a message has no role, or one that is not known"),
    "invalid_json": ("with invalid JSON", "messages, tools or arguments cannot be read"),
    "unsupported_flag": ("with a loss flag other than 0 and 1", "the loss covers a turn or does not"),
    "template_error": (
        "that cannot be rendered",
        "the chat template or the tokenizer raises an error for the row, or does not render its tool calls",
    ),
    "response_not_found": ("whose response is not found", "the chat template hides where the response ends"),
}
"""Reason as recorded -> how it follows a number of rows, and what it means."""
_HIGH_VALUES = {
    "refusal": "the response begins like a refusal",
    "repetition": "the response repeats its own lines, sentences or words",
    "url_share": "the response is little more than links",
    "link_phrases": "the response points to a link that it does not have",
    "duplicate_rows": "other rows have nearly the same text",
}
"""Column of a score -> what a value above a bound means."""


def short_reason(name: str) -> str:
    """Return a reason in words that follow a number of rows."""
    return _REASONS[name][0] if name in _REASONS else name.replace(">=", "≥")


def long_reason(name: str) -> str:
    """Return what a reason means, or "" for a reason that another library has recorded."""
    if name in _REASONS:
        return _REASONS[name][1]
    bound = re.fullmatch(r"with (\w+) (>=|<) (.+)", name)
    if bound and bound[2] == ">=" and bound[1] in _HIGH_VALUES:
        return _HIGH_VALUES[bound[1]]
    if bound:
        return f"{bound[1]} has to be {'below' if bound[2] == '>=' else 'at least'} {bound[3]} for this method"
    if re.fullmatch(r"with only .+ of fewer than \d+ rows", name):
        return "labels of so few rows are ignored (min_count)"
    if name.startswith("near-duplicates "):
        return "a near-duplicate of the row is kept"
    if name.startswith("below the highest "):
        return "a filter keeps the rows with the highest values"
    if name.startswith("in no "):
        return f"rows are selected within each {name.removeprefix('in no ')}"
    if name.startswith("exact duplicates by "):
        return "a row with the same words is kept"
    if name.startswith("in language ") or name == "in another language":
        return "the most probable language of the row is another one"
    if name == "copies of target rows":
        return "a test on the target would be trained on"
    if name.startswith("contaminated with "):
        return "the row repeats part of an evaluation question"
    return "there is no value to rank the row by" if name.startswith("without ") else ""


def _text(facts: Facts, own: None) -> str:
    parts = (_shortlist, _table, _duplicates, _repeats, _questions, _target, _shortfall, _other_rows)
    return "\n\n".join(filter(None, (part(facts) for part in parts)))


def _shortlist(facts: Facts) -> str:
    if not scores_shortlist(facts):
        return ""
    filtered = "the rows that filters excluded, " if has_filters(facts) else ""
    return (
        f"{facts['rounds'][-1]['rows_scored']:,} of the {facts['parent']['rows']:,} rows were scored in the last "
        f"round: those that an earlier round had ranked highest. The table counts these rows, {filtered}and the rows "
        "that can never be selected."
    )


def _table(facts: Facts) -> str:
    last = facts["rounds"][-1]
    counts = [*Counter(last["not_eligible"]).most_common(), *Counter(last["exclusions"]).most_common()]
    if not counts:
        return "No rows were excluded."
    rows = [(f"{count:,}", code(reason), long_reason(reason)) for reason, count in counts]
    return f"Rows that could not be selected:\n\n{table(['rows', 'reason', 'meaning'], rows)}"


def _duplicates(facts: Facts) -> str:
    """Return sentences on the sizes of the groups of near-duplicates of text; "" without any."""
    sentences = []
    for noun, groups in facts["rounds"][-1].get("duplicate_groups", {}).items():
        counts = {int(size): count for size, count in groups.items()}
        bins = [
            f"{number:,} of {label} rows"
            for low, high, label in _GROUP_SIZES
            if (number := sum(count for size, count in counts.items() if low <= size < high))
        ]
        if bins:
            sentences.append(
                f"Groups of near-duplicates by {noun}, of each of which one row is kept: {', '.join(bins)}. The "
                f"largest has {max(counts):,} rows."
            )
    return str(text(" ".join(sentences), limit=_QUESTIONS)) if sentences else ""


def _repeats(facts: Facts) -> str:
    """Return sentences on selected rows that nearly repeat another one; "" where they were not counted."""
    counts = facts["rounds"][-1].get("text_duplicates")
    if counts is None:
        return ""
    repeats, rows, threshold = counts["near"] + counts["exact"], counts["rows"], counts["threshold"]
    missed = miss_probability(threshold, threshold, counts["num_perm"])
    if repeats:
        same_words = f", {counts['exact']:,} of them with the same words" if counts["exact"] else ""
        verb = "is a near-duplicate" if repeats == 1 else "are near-duplicates"
        found = (
            f"{repeats:,} of the {rows:,} selected rows ({100 * repeats / rows:.2g} %) {verb} of a row that ranks "
            f"higher{same_words}."
        )
    else:
        found = f"No near-duplicates were found among the {rows:,} selected rows."
    return (
        f"{found} Near-duplicates are rows whose {counts['ngram']}-grams of "
        f"words, of prompt and response together, have a Jaccard similarity of at least {threshold:g}, found by "
        f"MinHash with {counts['num_perm']:,} hash functions, which misses {100 * missed:.1g} % of the pairs at that "
        "similarity and fewer above it. The filter `no_text_duplicates` excludes such rows."
    )


def _questions(facts: Facts) -> str:
    """Return sentences on the evaluation questions that rows were compared with; "" without any."""
    specs = [spec for spec in facts["scores"] if spec.get("score") == "contamination"]
    sentences = [line for spec in specs for line in describe_questions(spec["resolved_questions"], spec["n"])]
    return str(text(" ".join(dict.fromkeys(sentences)), limit=_QUESTIONS)) if sentences else ""


def _target(facts: Facts) -> str:
    """Return sentences on rows that repeat rows of the target task; "" for methods without one."""
    target = facts["rounds"][-1].get("target")
    if target is None:
        return ""
    if target["rows"] is None:
        return "Rows that repeat target rows were not looked for: the column does not tell which rows these are."
    if target["copies"] is None:
        return "Rows that repeat target rows were not looked for: there was no text to compare."
    copies = target["copies"]
    found = "No row repeats" if not copies else "1 row repeats" if copies == 1 else f"{copies:,} rows repeat"
    outcome = "" if not copies else " It could be selected." if copies == 1 else " They could be selected."
    return (
        f"{found} one of the {target['rows']:,} target rows: with the words of its prompt, or with 8-grams that cover "
        f"more than 80 % of them.{outcome if target['kept'] else ''}"
    )


def _shortfall(facts: Facts) -> str:
    last = facts["rounds"][-1]
    if last["interrupted"]:
        return (
            f"The selection was interrupted after {last['rows']:,} of {last['budget']:,} rows; the other rows are "
            "missing."
        )
    if last["rows"] >= last["budget"]:
        return ""
    missing = f"{last['budget']:,} rows were requested, but only {last['rows']:,} could be selected."
    return f"In the last round, {missing}" if len(facts["rounds"]) > 1 else missing


def _other_rows(facts: Facts) -> str:
    """Return the sentence about rows that could have been selected; "" where their number is unknown."""
    last, is_shortlist = facts["rounds"][-1], scores_shortlist(facts)
    if is_shortlist and has_filters(facts):
        return ""
    considered = last["rows_scored"] if is_shortlist else facts["parent"]["rows"] - sum(last["not_eligible"].values())
    others = considered - sum(last["exclusions"].values()) - last["rows"]
    if others <= 0:
        return ""
    reason = "" if last["interrupted"] else " but were not drawn" if draws_rows(facts) else " but were ranked lower"
    return f"The other {others:,} rows could have been selected{reason}."


SECTION = Section("exclusions", "Excluded rows", _text)
