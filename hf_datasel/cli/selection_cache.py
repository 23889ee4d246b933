"""Cache of the selections that `hf-datasel compare` makes, in its output folder."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_datasel.atomic import write_file
from hf_datasel.cli.methods import Method
from hf_datasel.errors import DataselError, SelectionError
from hf_datasel.formats.digest import column_digest

if TYPE_CHECKING:
    from hf_datasel.selection import Selection

__all__ = ["SelectionCache"]

_RECORD = "made_from.json"


class SelectionCache:
    """Saved selections, each with a record of everything it depends on.

    A selection is reused if its record is equal to that of the requested one. The record holds the selector with its
    settings, the content of models, files and code that these name, the seed, the budget, the dataset, the values of
    the columns that were read, and the version of hf_datasel.

    Args:
        folder: Output folder of the comparison; each selection has a folder in it.
        dataset: Rows to select from.
        shared: Part of the record that is the same for all methods: dataset id, budget and model.

    Attributes:
        folders: Folder of each selection loaded or saved so far, by name of its method.
    """

    def __init__(self, folder: Path, dataset: Any, shared: Mapping[str, Any]):
        self.folder, self.dataset, self.shared = folder, dataset, shared
        self.folders: dict[str, Path] = {}
        self._methods: dict[str, dict[str, Any]] = {}
        self._digests: dict[str, str] = {}

    def load(self, method: Method) -> Selection | None:
        """Return the saved selection of a method, or None if there is none to reuse."""
        from hf_datasel.selection import Selection

        # Resolved before the selection and not when it is saved, since weights may be overwritten in the meantime.
        self._methods[method.name] = {"selector": method.selector.spec(), "resolved": _resolve(method.selector)}
        for path in sorted(self.folder.glob(f"*/{_RECORD}")):
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                is_of_selection = record.pop("selection") == _selection_digest(path.parent)
                if is_of_selection and record == self._record(method, record["columns"]):
                    selection = Selection.load(path.parent)
                    selection.dataset = self.dataset  # the record contains the id of the dataset
                    self.folders[method.name] = path.parent
                    return selection
            except (OSError, ValueError, LookupError, TypeError, AttributeError):  # not written by this class
                continue
        return None

    def save(self, method: Method, selection: Selection) -> None:
        """Save the selection of a method that `load` did not find.

        Raises:
            SelectionError: Its folder cannot be written to.
        """
        folder = self._new_folder(method.name)
        selection.save(folder)
        provenance = selection.provenance
        columns = [*provenance["columns_unverified"], *provenance["columns_verified"]]
        columns += ["num_tokens"] if "tokens" in self.shared else []  # a budget of tokens may be counted in it
        record = {**self._record(method, columns), "selection": _selection_digest(folder)}
        write_file(folder / _RECORD, json.dumps(record, indent=1), SelectionError)
        self.folders[method.name] = folder

    def unused_folders(self) -> list[str]:
        """Return the names of the folders with selections of earlier comparisons."""
        used = self.folders.values()
        return sorted(path.parent.name for path in self.folder.glob(f"*/{_RECORD}") if path.parent not in used)

    def _record(self, method: Method, columns: Sequence[str]) -> Any:
        from hf_datasel import __version__

        digests = {name: self._digest(name) for name in sorted({*columns})}
        record = {**self._methods[method.name], "seed": method.seed, **self.shared}
        return json.loads(json.dumps({**record, "columns": digests, "version": __version__}, default=str))

    def _digest(self, name: str) -> str:
        """Return the digest of a column's values, which the id of the dataset does not cover."""
        if name not in self._digests:
            self._digests[name] = column_digest(self.dataset, name) if name in self.dataset.column_names else ""
        return self._digests[name]

    def _new_folder(self, name: str) -> Path:
        """Return a folder named after the method that no other selection of this comparison uses."""
        stem = re.sub(r"[^a-z0-9=.]+", "-", name.lower()).strip("-.")[:80] or "method"
        used, count = {*self.folders.values(), self.folder / "plots"}, 1
        while (folder := self.folder / (stem if count == 1 else f"{stem}-{count}")) in used:
            count += 1
        return folder


def _selection_digest(folder: Path) -> str:
    """Return a digest of a saved selection: a record beside another selection was written for an earlier one."""
    return hashlib.sha256((folder / "selection.json").read_bytes()).hexdigest()


def _resolve(value: Any) -> Any:
    """Return what a setting refers to beyond its own value: model weights, files, and code outside hf_datasel."""
    from hf_datasel.rounds.ifd_selector import IFDSelector
    from hf_datasel.rounds.selector import RowFilter, Selector
    from hf_datasel.scoring.base import Score
    from hf_datasel.selectors import RankedSelector

    if isinstance(value, Mapping):
        return {str(key): _resolve(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_resolve(item) for item in value]
    if isinstance(value, Selector | RowFilter):
        settings = {field.name: getattr(value, field.name) for field in fields(value)}
        settings |= {"source": value.source} if isinstance(value, IFDSelector) else {}
        settings |= {"ranks_by": value.ranks_by} if isinstance(value, RankedSelector) else {}
        return {"code": _code_digests(value), **{name: _resolve(setting) for name, setting in settings.items()}}
    if isinstance(value, Score):
        try:
            _, (_, _, identity) = value.__reduce__()  # some scores resolve a name there and not in their spec
            return {"code": _code_digests(value), "identity": identity, **value.spec()}
        except DataselError:  # it cannot be computed, so that no selection depends on it
            return None
    return None


def _code_digests(value: object) -> dict[str, str]:
    """Return a digest of each source file of a class outside hf_datasel and the standard library, by module."""
    modules = {base.__module__ for base in type(value).__mro__}
    library = {"hf_datasel", *sys.stdlib_module_names}
    outside = sorted(module for module in modules if module.partition(".")[0] not in library)
    files = {module: getattr(sys.modules.get(module), "__file__", None) for module in outside}
    return {
        module: hashlib.blake2b(Path(file).read_bytes(), digest_size=16).hexdigest()
        for module, file in files.items()
        if file is not None
    }
