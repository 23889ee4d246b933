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

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import CommitInfo, HfFileSystem
from huggingface_hub.errors import HfHubHTTPError

from hf_datasel.atomic import write_file
from hf_datasel.errors import PublishError, ScoreError
from hf_datasel.hub.card_parts import has_part, new_card, updated_card
from hf_datasel.hub.card_yaml import combined_metadata, data_configs, default_config, is_data_file
from hf_datasel.hub.parents import PARENTS_FILE, Parents, merged_parents, read_parents, write_parents
from hf_datasel.hub.permissions import parents_metadata, sign_in, visibility
from hf_datasel.hub.repository import Hub, Snapshot
from hf_datasel.hub.retry import call_hub, error_line
from hf_datasel.scoring.store.card import config_names, folder_of, store_configs, store_page

if TYPE_CHECKING:
    from hf_datasel.scoring.store.store import ScoreStore

__all__ = ["pull_store", "push_store"]

_STORE_FILE = re.compile(r"[a-z_]+-[0-9a-f]{16}/(spec\.json|part-[0-9a-f]{16}\.parquet)")
_PARQUET_FILE = re.compile(r"[a-z_]+-[0-9a-f]{16}/part-[0-9a-f]{16}\.parquet")
_MODEL_FILE = re.compile(r"models/[0-9a-f]{32}\.json")

_CARD_PART = "scores"
"""Name of the generated part of the card; no selection can have it."""
_PART_OF_EARLIER_VERSIONS = re.compile(r"^# Score store$.*?(?=^<!-- hf_datasel: |\Z)", re.DOTALL | re.MULTILINE)
_LICENCE = ("license", "license_name", "license_link", "language")


def push_store(
    store: ScoreStore, repo_id: str, *, private: bool | None = None, token: str | None = None
) -> CommitInfo:
    """Add the entries of a store to a dataset repository, in one commit; see `ScoreStore.push_to_hub`."""
    tables = store.tables()
    if not tables:
        raise PublishError(f"The store at {str(store.folder)!r} holds no scores yet.")
    hub = Hub(repo_id, token)
    sign_in(hub)
    private, metadata = visibility(hub, store.parents, private)
    scan = hub.secret_scan()
    scan.check_files({path: store.folder / path for path in _files(store)})
    hub.create(private)

    with tempfile.TemporaryDirectory() as drafts:

        def build(current: Snapshot) -> tuple[dict[str, Path], set[str]]:
            files = {path: store.folder / path for path in _files(store)}
            files |= {name: Path(drafts) / name for name in (PARENTS_FILE, "README.md")}
            is_first = not any(map(_STORE_FILE.fullmatch, current.files))
            earlier = Parents() if is_first else _published_parents(hub, current)
            parents = merged_parents([store.parents, *([] if is_first else [earlier])])
            write_parents(files[PARENTS_FILE], parents)
            others = tuple(parent for parent in earlier.datasets if parent["name"] not in store.parents.names)
            of_parents = combined_metadata([metadata, parents_metadata(hub, Parents(others))])
            card = _card(hub, current, tables, parents, of_parents)
            files["README.md"].write_text(card, encoding="utf-8", newline="")
            scan.check_files({"README.md": files["README.md"]})
            return files, _superseded(hub, current, store)

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


def _card(
    hub: Hub, current: Snapshot, tables: list[dict[str, Any]], parents: Parents, of_parents: Mapping[str, Any]
) -> str:
    """Return the card with a configuration for each table; other text and configurations are preserved.

    Raises:
        PublishError: The repository holds another dataset, which could no longer be loaded.
    """
    existing = data_configs(current.card)
    other_data = [path for path in current.files if is_data_file(path) and not _is_own(path)]
    if other_data and not existing:
        raise PublishError(
            f"{hub.repo_id!r} holds another dataset ({other_data[0]}) without configurations in its card, so it could "
            "no longer be loaded. Use another repo_id."
        )
    specs = _published_specs(hub, current) | {table["folder"]: table for table in tables}
    names = config_names(specs, existing)
    store_names = {name for name, patterns in existing.items() if folder_of(patterns) in specs}
    default = folder_of(existing.get(default_config(current.card) or "", ()))
    if default not in specs:
        largest = max(tables, key=lambda table: (table["rows"], table["folder"]))["folder"]
        default = None if existing.keys() - store_names else largest
    card_metadata = {key: value for key, value in of_parents.items() if key in _LICENCE}
    if parents.names:
        card_metadata["source_datasets"] = parents.names
    card_metadata |= {"tags": ["hf_datasel", "scores"], "configs": store_configs(names, default)}
    page = store_page(hub.repo_id, specs, names, parents)
    if current.card is None:
        return new_card(_CARD_PART, page, card_metadata)
    is_earlier = not has_part(current.card, _CARD_PART)
    card = _PART_OF_EARLIER_VERSIONS.sub("", current.card) if is_earlier else current.card
    return updated_card(card, _CARD_PART, page, card_metadata, store_names)


def _published_specs(hub: Hub, current: Snapshot) -> dict[str, dict[str, Any]]:
    """Return the specs of the tables in a repository: folder -> spec."""
    pinned = Hub(hub.repo_id, hub.token, current.commit)
    folders = [path.split("/")[0] for path in current.files if _STORE_FILE.fullmatch(path) and path.endswith(".json")]
    specs = {}
    for folder in folders:
        try:
            spec = json.loads(pinned.download(f"{folder}/spec.json").read_text(encoding="utf-8"))
            if not isinstance(spec, dict) or spec.get("computed") != folder.rsplit("-", 1)[0]:
                raise ValueError("it is not the spec of its folder")
        except ValueError as error:
            raise PublishError(
                f"{folder}/spec.json of {hub.repo_id!r} is damaged: {error}. Delete the folder."
            ) from error
        specs[folder] = spec
    return specs


def _superseded(hub: Hub, current: Snapshot, store: ScoreStore) -> set[str]:
    """Return the Parquet files in a repository all of whose entries are in files of the store, which has merged them.

    Raises:
        PublishError: A file cannot be read.
    """
    superseded = set()
    for path in filter(_PARQUET_FILE.fullmatch, current.files):
        local = sorted((store.folder / path).parent.glob("*.parquet"))
        if local and store.folder / path not in local:
            own = pa.chunked_array([chunk for file in local for chunk in _keys(file).chunks], pa.binary())
            if pc.all(pc.is_in(_published_keys(hub, current, path), own)).as_py():
                superseded.add(path)
    return superseded


def _published_keys(hub: Hub, current: Snapshot, path: str) -> pa.ChunkedArray:
    """Return the keys of a file in a repository, without downloading its values."""
    files = HfFileSystem(endpoint=hub.api.endpoint, token=hub.token)

    def read() -> pa.ChunkedArray:
        with files.open(f"datasets/{hub.repo_id}/{path}", revision=current.commit) as file:
            return _keys(file)

    try:
        return call_hub(read)
    except (HfHubHTTPError, OSError, pa.ArrowException) as error:
        raise PublishError(f"Cannot read {path} of {hub.repo_id!r}: {error_line(error)}") from error


def _keys(file: Any) -> pa.ChunkedArray:
    return pq.read_table(file, columns=["key"]).column("key")


def _is_own(path: str) -> bool:
    return bool(_STORE_FILE.fullmatch(path) or _MODEL_FILE.fullmatch(path)) or path == PARENTS_FILE
