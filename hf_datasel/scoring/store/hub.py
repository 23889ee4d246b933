"""A score store on the Hub: what one computed, others need not compute again."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitInfo

from hf_datasel.errors import PublishError
from hf_datasel.hub.permissions import sign_in
from hf_datasel.hub.repository import Hub, Snapshot
from hf_datasel.scoring.store.store import ScoreStore

__all__ = ["pull_store", "push_store"]

_OURS = re.compile(r"[a-z_]+-[0-9a-f]{16}/(spec\.json|part-[0-9a-f]{16}\.parquet)")

_CARD = """---
{metadata}---

# Scores by content

What models made of rows: sums of losses, ratings, vectors. Each entry stands under a digest of the very tokens, or the
text, that the model read, so no row can be told from it. `spec.json` in each folder says which model and which
computation it was.

```python
from hf_datasel import score
from hf_datasel.scores import IFD, ScoreStore

store = ScoreStore.from_hub("{repo_id}", "scores")
scored = score(dataset, [IFD()], model="{model}", store=store)  # no pass for rows that are known
```

{tables}
"""


def push_store(
    store: ScoreStore, repo_id: str, *, private: bool | None = None, token: str | None = None
) -> CommitInfo:
    """Add what a store holds to a dataset repository, in one commit; see `ScoreStore.push_to_hub`."""
    tables = store.tables()
    if not tables:
        raise PublishError(f"The store at {str(store.folder)!r} holds no scores yet.")
    hub = Hub(repo_id, token)
    sign_in(hub)
    hub.create(private)

    with tempfile.TemporaryDirectory() as drafts:

        def build(now: Snapshot) -> tuple[dict[str, Path], set[str]]:
            files = {path: store.folder / path for path in _files(store)}
            card = Path(drafts) / "README.md"
            if now.card is None or "# Scores by content" in now.card:
                known = {path.split("/")[0] for path in now.files if _OURS.fullmatch(path)}
                card.write_text(_card(repo_id, tables, known), encoding="utf-8")
                files["README.md"] = card
            return files, set()

        return hub.commit(build, f"Add scores: {sum(each['rows'] for each in tables):,} entries")


def pull_store(
    repo_id: str, folder: str | Path, *, revision: str | None = None, token: str | None = None
) -> ScoreStore:
    """The store of a repository, added to a local one; see `ScoreStore.from_hub`."""
    hub = Hub(repo_id, token, revision)
    paths = [path for path in hub.pin() if _OURS.fullmatch(path)]
    if not paths:
        raise PublishError(f"{repo_id!r} holds no scores: there is no folder with spec.json and Parquet parts in it.")
    store = ScoreStore(folder)
    for path in paths:
        target = store.folder / path
        if not target.is_file():
            target.parent.mkdir(exist_ok=True)
            draft = target.with_suffix(".tmp")
            shutil.copyfile(hub.download(path), draft)
            draft.replace(target)
    return store


def _files(store: ScoreStore) -> list[str]:
    found = [path.relative_to(store.folder).as_posix() for path in store.folder.glob("*/*") if path.is_file()]
    return sorted(path for path in found if _OURS.fullmatch(path))


def _card(repo_id: str, tables: list[dict[str, Any]], known: set[str]) -> str:
    names = sorted({each["folder"] for each in tables} | known)
    configs = [{"config_name": name, "data_files": f"{name}/*.parquet"} for name in names]
    metadata = yaml.safe_dump({"tags": ["hf_datasel", "scores"], "configs": configs}, sort_keys=False)
    lines = [f"- `{each['folder']}`: {each['rows']:,} entries, {_about(each)}" for each in tables]
    return _CARD.format(metadata=metadata, repo_id=repo_id, model="...", tables="\n".join(lines))


def _about(table: Mapping[str, Any]) -> str:
    model = table.get("model", {})
    weights = model.get("weights", "") if isinstance(model, dict) else str(model)
    return json.dumps({"computed": table["computed"], "weights": weights, "dtype": table.get("weights_dtype", "")})
