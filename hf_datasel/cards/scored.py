"""Publishing scored datasets on the Hub, with a card section about their score columns."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_datasel.cards.push import check_access
from hf_datasel.cards.sections.method import describe_score, score_settings
from hf_datasel.hub.card_yaml import settled_defaults, split_card, to_yaml
from hf_datasel.hub.markdown import Markdown, code, table, text
from hf_datasel.hub.repository import Hub, Snapshot
from hf_datasel.hub.retry import call_hub
from hf_datasel.scoring.column_provenance import provenance_of
from hf_datasel.scoring.numbers import is_identifier
from hf_datasel.selection.provenance import without_paths

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["push_scored"]

_INHERITED = ("license", "license_name", "license_link", "language", "task_categories")
_SCORES_SECTION = re.compile(r"\n*<!-- hf_datasel scores -->.*<!-- end of hf_datasel scores -->\n*", re.DOTALL)


def push_scored(
    dataset: Dataset,
    repo_id: str,
    columns: Sequence[str],
    histograms: Path | None = None,
    *,
    private: bool | None = None,
    token: str | None = None,
    allow_secrets: bool = False,
) -> str:
    """Publish a dataset with its score columns, and describe in its card how each was computed.

    Args:
        dataset: The dataset with the columns.
        repo_id: `"name"` or `"namespace/name"`; created if it does not exist. Other text of its card is preserved.
        columns: Names of the score columns.
        histograms: Folder with an image `COLUMN.png` for each column; columns without an image are skipped.
        private: Whether a new repository is private; by default, if rows of unknown origin would become public.
        token: Access token; the token of the login by default.
        allow_secrets: Whether to publish text with the shape of keys and tokens.

    Returns:
        URL of the repository.

    Raises:
        PublishError: The token may not write, rows of a private or gated dataset would become public, or there are
            secrets in them.
    """
    hub = Hub(repo_id, token)
    private, metadata = check_access(hub, dataset, private)
    scan = hub.secret_scan(allow_secrets)
    scan.check_rows(dataset)
    pictures = {name: histograms / f"{name}.png" for name in columns} if histograms is not None else {}
    pictures = {name: path for name, path in pictures.items() if path.is_file()}
    section = _section(dataset, columns, list(pictures))
    scan.check_texts({"README.md": section})
    call_hub(lambda: dataset.push_to_hub(hub.repo_id, private=private, token=token))
    with tempfile.TemporaryDirectory() as drafts:

        def build(current: Snapshot) -> tuple[dict[str, Path], set[str]]:
            card = Path(drafts) / "README.md"
            before = _SCORES_SECTION.sub("", _with_metadata(current.card or "", metadata)).rstrip()
            card.write_text(f"{before}\n\n{section}", encoding="utf-8", newline="")
            scan.check_files({"README.md": card})
            return {"README.md": card, **{f"histograms/{path.name}": path for path in pictures.values()}}, set()

        hub.commit(build, "Describe how the scores were computed")
    return hub.url


def _with_metadata(card: str, inherited: Mapping[str, Any]) -> str:
    """Return the card with licence, languages and tasks of the parents, where it does not say them itself.

    The dataset, and no longer a score store in the repository, is its default.
    """
    metadata, body = split_card(card)
    added = {key: value for key, value in inherited.items() if key not in metadata and key in _INHERITED}
    if metadata.get("configs"):
        added["configs"] = settled_defaults(metadata["configs"])
    updated = {**metadata, **added}
    return to_yaml(updated) + body if updated != metadata else card


def _section(dataset: Dataset, columns: Sequence[str], pictures: Sequence[str]) -> str:
    parts = ["<!-- hf_datasel scores -->", "## Scores", _quantiles(dataset, columns)]
    for spec, names in _origins(dataset, columns):
        shown = without_paths(describe_score(spec, None))
        parts.append(f"### {', '.join(code(name) for name in names)}\n\n{score_settings(shown)}")
    parts += [f"![Histogram of {text(name)}](histograms/{name}.png)" for name in pictures]
    return "\n\n".join([*parts, "<!-- end of hf_datasel scores -->"]) + "\n"


def _quantiles(dataset: Dataset, columns: Sequence[str]) -> Markdown:
    rows = []
    for name in columns:
        values = None if is_identifier(name) else _numbers(dataset, name)
        if values is not None and not np.isnan(values).all():
            cells = np.nanquantile(values, [0, 0.25, 0.5, 0.75, 1])
            rows.append([code(name), f"{int(np.isnan(values).sum()):,}", *(f"{cell:.4g}" for cell in cells)])
    return table(["column", "null", "min", "25 %", "median", "75 %", "max"], rows)


def _origins(dataset: Dataset, columns: Sequence[str]) -> list[tuple[Mapping[str, Any], list[str]]]:
    """Return each spec once, with the columns that it has computed."""
    origins: dict[str, tuple[Mapping[str, Any], list[str]]] = {}
    for name in columns:
        values = _numbers(dataset, name)
        spec = None if values is None else provenance_of(name, values)
        if spec is not None:
            origins.setdefault(json.dumps(spec, sort_keys=True, default=str), (spec, []))[1].append(name)
    return list(origins.values())


def _numbers(dataset: Dataset, name: str) -> np.ndarray | None:
    """Return a column as float64 with NaN for null, or None if it is not numeric."""
    column = dataset.select_columns([name]).with_format("arrow")[:].column(name)
    if not pa.types.is_floating(column.type) and not pa.types.is_integer(column.type):
        return None
    return np.asarray(column.cast("double", safe=False).to_numpy(), dtype=np.float64)
