"""Card of a score store on the Hub: names of its configurations, and what they contain."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from hf_datasel.hub.card_yaml import STORE_FILES
from hf_datasel.hub.markdown import Markdown, code, link, table, text
from hf_datasel.hub.parents import Parents

__all__ = ["config_names", "folder_of", "store_configs", "store_page"]

_RESULTS = {
    "nll": ("loss", "sum of the losses of tokens in nats, and number of the tokens: `Loss`, `IFD`, `PromptLoss`"),
    "log_perplexity": ("self-reward", "mean loss of the tokens in nats: `RewardGap`"),
    "states": ("embedding", "hidden states, pooled over tokens: `Embedding`"),
    "text_states": ("text-embedding", "embedding of the text: `Embedding`"),
    "endpoint_vectors": ("endpoint-embedding", "embedding of the text: `Embedding`"),
    "next_token": ("ratings", "log-probability of each rating in nats: `SelectIT`, `DeitaScore`"),
    "reward": ("reward", "reward of the response: `Reward`, `RewardGap`"),
    "judge": ("judge", "rating of a judge, and its status: `Judge`, `RewardGap`"),
    "answers": ("answers", "token ids of a generated answer: `RewardGap`, `PassRate`, `InsTag`"),
    "endpoint_answers": ("endpoint-answers", "status and UTF-8 bytes of a generated answer: `RewardGap`, `InsTag`"),
    "one_shot_wins": ("nuggets", "number of tasks that the row helps with: `Nuggets`"),
    "influence": ("influence", "cosines with the gradients of a target task: `Influence`"),
}
"""Name of a computation in specs -> its name in configurations, and what the column `values` contains."""

_HUB_MODEL = re.compile(r"([\w.-]+(?:/[\w.-]+)?)@([0-9a-f]{7,40})")


def config_names(specs: Mapping[str, Mapping[str, Any]], existing: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Return a name for the configuration of each table: what is stored, and the model.

    Of several tables with one name, a later one has its settings in its name too, or else a part of its digest. Names
    that the card has given are kept, but for those that are the names of folders, as earlier versions wrote them.

    Args:
        specs: Folder of the table -> its spec.
        existing: Configurations of the card: name -> patterns of their files.

    Returns:
        Folder of the table -> name of the configuration.
    """
    names = {folder: name for name, patterns in existing.items() if (folder := folder_of(patterns)) and name != folder}
    taken = {name for name, patterns in existing.items() if folder_of(patterns) != name}
    for folder in sorted(specs):
        if folder not in names:
            names[folder] = next(name for name in _candidates(folder, specs[folder]) if name not in taken)
            taken.add(names[folder])
    return {folder: names[folder] for folder in specs}


def folder_of(patterns: Collection[str]) -> str | None:
    """Return the folder of a store that a configuration loads; None for other configurations."""
    match = STORE_FILES.fullmatch(next(iter(patterns))) if len(patterns) == 1 else None
    return match[1] if match else None


def store_configs(names: Mapping[str, str], default: str | None) -> list[dict[str, Any]]:
    """Return the configurations of the tables, as in the metadata of a card.

    Args:
        names: Folder of each table -> name of its configuration.
        default: Folder of the table that is loaded by default; None for none.
    """
    configs = []
    for folder, name in sorted(names.items(), key=lambda item: item[1]):
        entry: dict[str, Any] = {"config_name": name, "data_files": f"{folder}/*.parquet"}
        configs.append(entry | ({"default": True} if folder == default else {}))
    return configs


def store_page(
    repo_id: str, specs: Mapping[str, Mapping[str, Any]], names: Mapping[str, str], parents: Parents
) -> str:
    """Return the page of a store.

    Args:
        repo_id: Name of the repository.
        specs: Folder of each table -> its spec.
        names: Folder of each table -> name of its configuration.
        parents: Where the rows come from.
    """
    by_name = sorted(specs, key=lambda folder: names[folder])
    model = next((match[1] for folder in by_name if (match := _HUB_MODEL.match(_model(specs[folder])))), "...")
    rows = [
        [code(names[folder]), _contents(spec), _model_text(spec), code(_dtype(spec) or "-"), code(folder)]
        for folder in by_name
        for spec in [specs[folder]]
    ]
    return _PAGE.format(
        repo_id=repo_id,
        model=model,
        parents=_origin(parents),
        config=names[by_name[0]],
        tables=table(["configuration", "values", "model", "data type", "folder"], rows),
    )


_PAGE = """# Score store

Outputs of models for dataset rows: losses, ratings, embeddings and generated answers. {parents}

```python
from hf_datasel import score
from hf_datasel.scores import IFD
from hf_datasel.scoring import ScoreStore

store = ScoreStore.from_hub("{repo_id}", "scores")
scored = score(dataset, [IFD()], model="{model}", store=store)  # no forward pass for rows in the store
```

{tables}

`load_dataset("{repo_id}", "{config}")` loads one configuration. The column `values` has the numbers of an entry, and
`key` a hash of the token ids, or of the text, that the model read, so the rows themselves cannot be recovered; `score`
matches them with rows. `spec.json` in each folder names everything that determines the numbers.
"""


def _origin(parents: Parents) -> str:
    names = [link(name) for name in parents.names]
    if not names:
        return "It is unknown which dataset the rows come from."
    return f"The rows come from {' and '.join(names)}{'' if parents.complete else ', and from elsewhere'}."


def _candidates(folder: str, spec: Mapping[str, Any]) -> list[str]:
    parts = [_RESULTS.get(spec["computed"], (str(spec["computed"]).replace("_", "-"), ""))[0]]
    if model := _model(spec):
        match = _HUB_MODEL.match(model)
        parts.append(match[1].split("/")[-1] if match else "local" if isinstance(spec.get("model"), dict) else model)
    settings = [spec.get(key) for key in ("part", "pooling", "label", "max_tokens", "tokens", "temperature")]
    plain = [str(value) for value in settings if isinstance(value, str | int | float)]
    plain.append(f"v{spec.get('version')}")
    names = [parts, [*parts, _dtype(spec)], [*parts, _dtype(spec), *plain], [*parts, folder.rsplit("-", 1)[1]]]
    return [re.sub(r"[^\w.]+", "-", "-".join(filter(None, name))).strip("-.")[:96] for name in names] + [folder]


def _model(spec: Mapping[str, Any]) -> str:
    """Return the weights of a model, or the name of a model behind an endpoint; empty for neither."""
    model = spec.get("model")
    return str((model.get("weights") or model.get("digest") or "") if isinstance(model, dict) else model or "")


def _model_text(spec: Mapping[str, Any]) -> Markdown:
    model = _model(spec)
    if match := _HUB_MODEL.match(model):
        return Markdown(f"{link(match[1], '')} at {code(match[2][:7])}")
    return text("in a local folder, or in memory") if isinstance(spec.get("model"), dict) else text(model or "none")


def _dtype(spec: Mapping[str, Any]) -> str:
    return str(spec.get("weights_dtype") or "").removeprefix("torch.")


def _contents(spec: Mapping[str, Any]) -> Markdown:
    computed = str(spec["computed"])
    return Markdown(_RESULTS[computed][1]) if computed in _RESULTS else code(computed)
