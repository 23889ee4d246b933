"""The selection inside a checkpoint, and those of earlier rounds beside it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import ResumeError
from hf_datasel.formats.digest import column_digest
from hf_datasel.selection import Selection
from hf_datasel.training.config import public
from hf_datasel.training.schedule import RoundRecord

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "Memory",
    "SelectionState",
    "places_digest",
    "save_selection",
    "saved_selections",
    "tokens_digest",
]

logger = logging.getLogger(__name__)

_VERSION = 3
_JSON, _ARRAYS = "selection_state.json", "selection_state.npz"


@dataclass
class Memory:
    """What choices leave for later ones.

    Attributes:
        arrays: the selector's own.
        checkpoints: that the plan asked for, in order.
        columns: of the pool that they relied on, by name, and the digest of each.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    checkpoints: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)

    def check_checkpoints(self) -> None:
        """See that they are still there.

        Raises:
            ResumeError: one is gone.
        """
        for each in self.checkpoints:
            if not Path(each).is_dir():
                raise ResumeError(f"{each!r} is gone, and a later round reads it. Put it back, or start anew.")


@dataclass
class SelectionState:
    """What training needs to go on exactly where it was.

    Attributes:
        identity: of what the run trains on and selects with; another one is refused.
        records: the rounds that have begun.
        memory: of the choices.
        losses: that rows had while they were trained on, where they are kept.
        pass_ended: whether a callback had ended the pass over the rows, which is not at its end.
        base: digest of the weights that later rounds begin from, where some do.
    """

    identity: dict[str, Any]
    records: list[RoundRecord]
    memory: Memory
    losses: dict[str, np.ndarray] = field(default_factory=dict)
    pass_ended: bool = False
    base: str | None = None

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the state beside a checkpoint's weights. Row numbers are stored by difference, which packs well."""
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {f"state/{name}": values for name, values in self.memory.arrays.items()}
        arrays |= {f"losses/{name}": values for name, values in self.losses.items()}
        for index, record in enumerate(self.records):
            arrays[f"rows/{index}"] = np.diff(record.rows, prepend=0)
        with (path / _ARRAYS).open("wb") as file:
            np.savez_compressed(file, **arrays)
        rounds = [{name: value for name, value in vars(each).items() if name != "rows"} for each in self.records]
        content = {
            "version": _VERSION,
            "identity": self.identity,
            "rounds": rounds,
            "checkpoints": [os.path.relpath(each, path.parent) for each in self.memory.checkpoints],
            "columns": self.memory.columns,
            "pass_ended": self.pass_ended,
            "base": self.base,
        }
        (path / _JSON).write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: str | os.PathLike[str], identity: dict[str, Any], pool: Dataset) -> SelectionState:
        """Read the state of a checkpoint, and refuse one that belongs to another run.

        Args:
            directory: the checkpoint.
            identity: of this run.
            pool: its rows.

        Raises:
            ResumeError: no state is there, or it is of another pool, selector or version, or of other values in a
                column that was relied on; says what differs.
        """
        path = Path(directory)
        if not (path / _JSON).is_file() or not (path / _ARRAYS).is_file():
            raise ResumeError(
                f"{str(path)!r} has no {_JSON}: it was not written by SelectiveSFTTrainer. Start without "
                "resume_from_checkpoint, or pass the checkpoint's folder as the model."
            )
        content = json.loads((path / _JSON).read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise ResumeError(
                f"{str(path)!r} was written by another version of hf_datasel (state {content['version']})."
            )
        wanted = json.loads(json.dumps(identity, default=str))
        differs = [name for name in wanted if content["identity"].get(name) != wanted[name]]
        if "selector" in differs and "places" in differs:
            differs.remove("places")
        if differs:
            said = _difference(differs[0], content["identity"].get(differs[0]), wanted[differs[0]])
            raise ResumeError(f"{str(path)!r} belongs to another run: {', '.join(differs)} differ ({said}).")
        columns = content["columns"]
        for name in columns:
            if name not in pool.column_names or column_digest(pool, name) != columns[name]:
                found = "holds other values here" if name in pool.column_names else "is gone"
                raise ResumeError(
                    f"{str(path)!r} belongs to another run: rows were chosen there by column {name!r}, which {found}."
                )
        with np.load(path / _ARRAYS) as stored:
            rows = [np.cumsum(stored[f"rows/{index}"]) for index in range(len(content["rounds"]))]
            arrays, losses = (
                {name.removeprefix(part): stored[name] for name in stored if name.startswith(part)}
                for part in ("state/", "losses/")
            )
        records = [RoundRecord(rows[index], **each) for index, each in enumerate(content["rounds"])]
        checkpoints = [os.path.normpath(path.parent / each) for each in content["checkpoints"]]
        memory = Memory(arrays, checkpoints, columns)
        return cls(content["identity"], records, memory, losses, content["pass_ended"], content["base"])


def _difference(name: str, was: Any, now: Any) -> str:
    """How a part of an identity differs from that of the run a checkpoint is of, in a few words."""
    if name == "tokens":
        return "the same rows have other tokens or labels here"
    if name == "places":
        return "a model or file of the selector is in another folder here"
    if not isinstance(was, dict) or not isinstance(now, dict):
        return f"{was} there, {now} here"
    if name == "pool":
        same = was["rows"] == now["rows"]
        return "other rows" if same else f"another dataset: {was['rows']:,} rows there, {now['rows']:,} here"
    if was.get("selector") != now.get("selector"):
        return f"{was.get('selector')} there, {now.get('selector')} here"
    return "; ".join(_settings_that_differ(was, now))


def _settings_that_differ(was: dict[str, Any], now: dict[str, Any], within: str = "") -> list[str]:
    """The settings of the same selector that differ, also those of the scores and selectors within."""
    said = []
    for key in (key for key in {**was, **now} if was.get(key) != now.get(key)):
        before, after = was.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            said += _settings_that_differ(before, after, f"{within}{key}.")
        else:
            said.append(f"{within}{key}: {before} there, {after} here")
    return said


def places_digest(spec: dict[str, Any]) -> str:
    """Digest of a selector with the folders that its models and files are in, which are not to be read."""
    return hashlib.sha256(json.dumps(public(spec), sort_keys=True, default=str).encode()).hexdigest()


def tokens_digest(prepared: Dataset) -> str:
    """Sha256 over the token ids and labels of all rows in order."""
    digest = hashlib.sha256()
    view = prepared.select_columns(["input_ids", "labels"]).with_format("arrow")
    for table in view.iter(batch_size=10_000):
        for name in ("input_ids", "labels"):
            lists = table.column(name).combine_chunks()
            digest.update(np.asarray(lists.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64).tobytes())
            digest.update(np.asarray(lists.flatten().to_numpy(zero_copy_only=False), dtype=np.int64).tobytes())
    return digest.hexdigest()


def save_selection(selection: Selection, output_dir: str, index: int) -> None:
    """Save a round, and remove later ones that an earlier run left in the same place."""
    selection.save(_folder(output_dir, index))
    while (later := _folder(output_dir, index := index + 1)).joinpath("selection.json").is_file():
        shutil.rmtree(later)


def saved_selections(output_dir: str, records: list[RoundRecord]) -> list[Selection]:
    """Selections of earlier rounds, as far as they are still there."""
    found = []
    for index, record in enumerate(records):
        folder = _folder(output_dir, index)
        if (folder / "selection.json").is_file():
            selection = Selection.load(folder)
            if np.array_equal(selection.indices, record.rows):
                found.append(selection)
                continue
        logger.warning("%s is gone or of another run: trainer.selections lacks round %d.", folder, index)
    return found


def _folder(output_dir: str, index: int) -> Path:
    return Path(output_dir) / "selections" / f"round-{index}"
