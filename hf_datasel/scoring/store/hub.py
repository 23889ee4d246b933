"""Score stores on the Hub: pushing a store to a dataset repository, and pulling it into a local folder."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import CommitInfo

from hf_datasel.atomic import write_file
from hf_datasel.errors import PublishError, ScoreError
from hf_datasel.hub.parents import PARENTS_FILE, Parents, merged_parents, read_parents, write_parents
from hf_datasel.hub.permissions import sign_in, visibility
from hf_datasel.hub.repository import Hub, Snapshot

if TYPE_CHECKING:
    from hf_datasel.scoring.store.store import ScoreStore

__all__ = ["pull_store", "push_store"]

_STORE_FILE = re.compile(r"[a-z_]+-[0-9a-f]{16}/(spec\.json|part-[0-9a-f]{16}\.parquet)")
_MODEL_FILE = re.compile(r"models/[0-9a-f]{32}\.json")

_TITLE = "# Score store"
_CARD = """---
{metadata}---

{title}

Outputs of models for dataset rows: sums of losses, ratings, embeddings and generated answers. The key of an entry is a
hash of the token ids, or of the text, that the model read, so the rows themselves cannot be recovered. `spec.json` in
each folder names the model and the computation.

```python
from hf_datasel import score
from hf_datasel.scores import IFD
from hf_datasel.scoring import ScoreStore

store = ScoreStore.from_hub("{repo_id}", "scores")
scored = score(dataset, [IFD()], model="{model}", store=store)  # no forward pass for rows in the store
```

{tables}
"""


def push_store(
    store: ScoreStore, repo_id: str, *, private: bool | None = None, token: str | None = None
) -> CommitInfo:
    """Add the entries of a store to a dataset repository, in one commit; see `ScoreStore.push_to_hub`."""
    tables = store.tables()
    if not tables:
        raise PublishError(f"The store at {str(store.folder)!r} holds no scores yet.")
    hub = Hub(repo_id, token)
    sign_in(hub)
    private, _ = visibility(hub, store.parents, private)
    hub.secret_scan().check_files({path: store.folder / path for path in _files(store)})
    hub.create(private)

    with tempfile.TemporaryDirectory() as drafts:

        def build(current: Snapshot) -> tuple[dict[str, Path], set[str]]:
            files = {path: store.folder / path for path in _files(store)}
            files[PARENTS_FILE] = Path(drafts) / PARENTS_FILE
            earlier = [_published_parents(hub, current)] if any(map(_STORE_FILE.fullmatch, current.files)) else []
            parents = merged_parents([store.parents, *earlier])
            write_parents(files[PARENTS_FILE], parents)
            card = Path(drafts) / "README.md"
            if current.card is None or _TITLE in current.card:
                folders = {path.split("/")[0] for path in current.files if _STORE_FILE.fullmatch(path)}
                card.write_text(_card(repo_id, tables, folders), encoding="utf-8")
                files["README.md"] = card
            return files, set()

        return hub.commit(build, f"Add scores: {sum(table['rows'] for table in tables):,} entries")


def pull_store(
    cls: type[ScoreStore], repo_id: str, folder: str | Path, *, revision: str | None = None, token: str | None = None
) -> ScoreStore:
    """Add the store of a repository to a local store of this class; see `ScoreStore.from_hub`."""
    hub = Hub(repo_id, token, revision)
    published = hub.pin()
    paths = [path for path in published if _STORE_FILE.fullmatch(path) or _MODEL_FILE.fullmatch(path)]
    if not any(map(_STORE_FILE.fullmatch, paths)):
        raise PublishError(f"{repo_id!r} holds no scores: there is no folder with spec.json and Parquet files in it.")
    store = cls(folder)
    store.add_parents(_published_parents(hub, hub.snapshot()))
    for path in paths:
        target = store.folder / path
        if not target.is_file():
            write_file(target, partial(shutil.copyfile, hub.download(path)), ScoreError)
    return store


def _published_parents(hub: Hub, current: Snapshot) -> Parents:
    """Return where the rows come from that the results in a repository are of."""
    if PARENTS_FILE not in current.files:
        return Parents()
    pinned = Hub(hub.repo_id, hub.token, current.commit)
    return read_parents(pinned.download(PARENTS_FILE))


def _files(store: ScoreStore) -> list[str]:
    paths = [path.relative_to(store.folder).as_posix() for path in store.folder.glob("*/*") if path.is_file()]
    return sorted(path for path in paths if _STORE_FILE.fullmatch(path) or _MODEL_FILE.fullmatch(path))


def _card(repo_id: str, tables: list[dict[str, Any]], existing_folders: set[str]) -> str:
    names = sorted({table["folder"] for table in tables} | existing_folders)
    configs = [{"config_name": name, "data_files": f"{name}/*.parquet"} for name in names]
    metadata = yaml.safe_dump({"tags": ["hf_datasel", "scores"], "configs": configs}, sort_keys=False)
    lines = [f"- `{table['folder']}`: {table['rows']:,} entries, {_description(table)}" for table in tables]
    return _CARD.format(metadata=metadata, title=_TITLE, repo_id=repo_id, model="...", tables="\n".join(lines))


def _description(table: Mapping[str, Any]) -> str:
    model = table.get("model", {})
    weights = model.get("weights", "") if isinstance(model, dict) else str(model)
    return json.dumps({"computed": table["computed"], "weights": weights, "dtype": table.get("weights_dtype", "")})
