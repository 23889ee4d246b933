"""Format of saved and published selections: its version, and the upgrade of earlier ones."""

from __future__ import annotations

from typing import Any

from hf_datasel.errors import SelectionError
from hf_datasel.spec import upgraded

__all__ = ["FORMAT_VERSION", "upgrade_provenance"]

FORMAT_VERSION = 2
"""Version of the keys in `selection.json`. Raise it when a key changes, and extend `upgrade_provenance`."""

_RENAMED_IN_2 = {
    "chosen": "selected",
    "left_out": "exclusions",
    "chosen_before": "selected_before",
    "columns_known": "columns_verified",
}


def upgrade_provenance(provenance: Any, source: str) -> dict[str, Any]:
    """Return the provenance of a saved selection with the keys and names of the current format.

    Args:
        provenance: Content of a `selection.json`.
        source: Folder or repository that it was read from, for messages.

    Raises:
        SelectionError: It is no provenance of a selection, or a later version of hf_datasel wrote it.
    """
    version = provenance.get("format_version") if isinstance(provenance, dict) else None
    if not isinstance(version, int):
        raise SelectionError(f"The selection.json in {source} is no record of a selection.")
    if version > FORMAT_VERSION:
        raise SelectionError(
            f"The selection in {source} has format_version {version}, written by {_writer(provenance)}, and this "
            f"version of hf_datasel reads up to {FORMAT_VERSION}. Upgrade hf_datasel to read it."
        )
    current = _from_1(provenance) if version == 1 else provenance
    return current | {key: upgraded(current[key]) for key in ("selector", "scores") if key in current}


def _writer(provenance: dict[str, Any]) -> str:
    packages = provenance.get("versions")
    version = packages.get("hf-datasel") if isinstance(packages, dict) else None
    return f"hf_datasel {version}" if version else "a later version of hf_datasel"


def _from_1(provenance: dict[str, Any]) -> dict[str, Any]:
    renamed = {_RENAMED_IN_2.get(key, key): value for key, value in provenance.items()}
    if "tokens" in renamed:
        renamed["tokens"] = {_RENAMED_IN_2.get(key, key): value for key, value in renamed["tokens"].items()}
    if "plan" in renamed:
        renamed["plan"] = [
            {**step, "kind": "selection"} if step.get("kind") == "choice" else step for step in renamed["plan"]
        ]
    return {**renamed, "format_version": FORMAT_VERSION}
