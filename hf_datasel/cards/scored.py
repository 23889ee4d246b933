"""A scored dataset on the Hub, with what its columns are and how they are spread."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_datasel.cards.build import described
from hf_datasel.cards.push import check_access
from hf_datasel.cards.sections.choice import score_settings
from hf_datasel.hub.markdown import Markdown, code, table, text
from hf_datasel.hub.repository import Hub, Snapshot
from hf_datasel.hub.retry import asked
from hf_datasel.scoring.column_provenance import origin_of
from hf_datasel.selection.provenance import without_paths

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["push_scored"]

_OURS = re.compile(r"\n*<!-- hf_datasel scores -->.*<!-- end of hf_datasel scores -->\n*", re.DOTALL)


def push_scored(
    dataset: Dataset,
    repo_id: str,
    columns: Sequence[str],
    histograms: Path | None = None,
    *,
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Publish a dataset with its score columns; the card says how each was computed.

    Args:
        dataset: with the columns.
        repo_id: `"name"` or `"namespace/name"`; made if it is not there. The text of its card stays.
        columns: that scores have written.
        histograms: folder with a picture `COLUMN.png` of each, as far as there are any.
        private: whether a new repository is private.
        token: by default the one that is logged in.

    Returns:
        The address of the repository.

    Raises:
        PublishError: the token may not write, or the rows come from a dataset whose rows may not be shown.
    """
    hub = Hub(repo_id, token)
    check_access(hub, dataset, private)
    asked(lambda: dataset.push_to_hub(hub.repo_id, private=private, token=token))
    pictures = {name: histograms / f"{name}.png" for name in columns} if histograms is not None else {}
    pictures = {name: path for name, path in pictures.items() if path.is_file()}
    section = _section(dataset, columns, list(pictures))
    with tempfile.TemporaryDirectory() as drafts:

        def build(now: Snapshot) -> tuple[dict[str, Path], set[str]]:
            card = Path(drafts) / "README.md"
            card.write_text(f"{_OURS.sub('', now.card or '').rstrip()}\n\n{section}", encoding="utf-8", newline="")
            return {"README.md": card, **{f"histograms/{path.name}": path for path in pictures.values()}}, set()

        hub.commit(build, "Say how the scores were computed")
    return hub.url


def _section(dataset: Dataset, columns: Sequence[str], pictures: Sequence[str]) -> str:
    parts = ["<!-- hf_datasel scores -->", "## Scores", _spread(dataset, columns)]
    for spec, names in _origins(dataset, columns):
        shown = without_paths(described(spec, None))
        parts.append(f"### {', '.join(code(each) for each in names)}\n\n{score_settings(shown)}")
    parts += [f"![How {text(name)} is spread over the rows](histograms/{name}.png)" for name in pictures]
    return "\n\n".join([*parts, "<!-- end of hf_datasel scores -->"]) + "\n"


def _spread(dataset: Dataset, columns: Sequence[str]) -> Markdown:
    rows = []
    for name in columns:
        values = _numbers(dataset, name)
        if values is not None and not np.isnan(values).all():
            cells = np.nanquantile(values, [0, 0.25, 0.5, 0.75, 1])
            rows.append([code(name), f"{int(np.isnan(values).sum()):,}", *(f"{cell:.4g}" for cell in cells)])
    return table(["column", "null", "min", "25 %", "median", "75 %", "max"], rows)


def _origins(dataset: Dataset, columns: Sequence[str]) -> list[tuple[Mapping[str, Any], list[str]]]:
    """The specs, each once, with the columns that they made."""
    found: dict[str, tuple[Mapping[str, Any], list[str]]] = {}
    for name in columns:
        values = _numbers(dataset, name)
        spec = None if values is None else origin_of(name, values)
        if spec is not None:
            found.setdefault(json.dumps(spec, sort_keys=True, default=str), (spec, []))[1].append(name)
    return list(found.values())


def _numbers(dataset: Dataset, name: str) -> np.ndarray | None:
    """Float64, NaN for null; None for a column of something else."""
    column = dataset.select_columns([name]).with_format("arrow")[:].column(name)
    if not pa.types.is_floating(column.type) and not pa.types.is_integer(column.type):
        return None
    return np.asarray(column.cast("double").to_numpy(), dtype=np.float64)
