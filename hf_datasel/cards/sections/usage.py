"""How to load the published rows, and the configurations and columns of the published dataset."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hf_datasel.cards.section import Section
from hf_datasel.cards.selector_traits import is_ranked
from hf_datasel.hub.markdown import Markdown, code, fence, table

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts

__all__ = ["SECTION", "revision_argument"]


def revision_argument(facts: Facts) -> str:
    """Return the argument for the branch of the page, `""` for the main one."""
    return f", revision={json.dumps(facts['revision'])}" if facts["revision"] else ""


def _text(facts: Facts, own: None) -> str:
    if facts["repo_id"] is None or not facts["configs"]:
        return ""
    parts = [_code(facts), _configs(facts), _columns(facts), _weighted_training(facts)]
    return "\n\n".join(part for part in parts if part)


def _code(facts: Facts) -> Markdown:
    last = [config for config in facts["configs"] if config["holds"] == "rows"][-1]
    arguments = [json.dumps(facts["repo_id"])] + ([] if last["default"] else [json.dumps(last["name"])])
    comment = "  # best first" if is_ranked(facts) else ""
    lines = [
        "from datasets import load_dataset",
        "",
        f'rows = load_dataset({", ".join(arguments)}, split="train"{revision_argument(facts)}){comment}',
    ]
    return fence("\n".join(lines), "python")


def _configs(facts: Facts) -> Markdown:
    content = {"rows": "selected rows", "scores": "scores of the whole pool, no text"}
    return table(
        ["configuration", "content", "rows", "size"],
        [
            (
                Markdown(f"{code(config['name'])}{' (default)' if config['default'] else ''}"),
                content[config["holds"]],
                f"{max(config['splits'].values()):,}",
                _size(config["bytes"]),
            )
            for config in facts["configs"]
        ],
    )


def _columns(facts: Facts) -> str:
    rank = "`selection_rank` (0 is best)" if is_ranked(facts) else "`selection_rank` (in order of selection)"
    columns = (
        f"Each row has the columns of the parent dataset, its scores if there are any, {rank}"
        f"{', `selection_weight`' if facts['rounds'][-1].get('weights') else ''} and `selection_round`."
    )
    scores = next((config["name"] for config in facts["configs"] if config["holds"] == "scores"), None)
    if not facts["sections"].get("distributions") or scores is None:
        return columns
    return (
        f"{columns} The configuration {code(scores)} has the scores of every row of the pool, with its row number and "
        "a hash of its content but no text, so another selection can be made without scoring again."
    )


def _weighted_training(facts: Facts) -> str:
    """Return how to train with the weights of the rows, if they have any."""
    if not facts["rounds"][-1].get("weights"):
        return ""
    lines = [
        "from hf_datasel import SelectiveSFTTrainer",
        "from hf_datasel.selectors import All, Weighted",
        "",
        'selector = Weighted(All(), by="selection_weight")',
        "trainer = SelectiveSFTTrainer(..., train_dataset=rows, selector=selector)",
    ]
    ignored = "`SFTTrainer` ignores `selection_weight`. To multiply the losses of each row by its weight:"
    return f"{ignored}\n\n{fence(chr(10).join(lines), 'python')}"


def _size(count: int) -> str:
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:,.1f} {unit}"
    return f"{count} bytes"


SECTION = Section("usage", "Usage", _text)
