"""Compute several scores for a whole dataset: `hf_datasel.score`."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_datasel._lazy import pc
from hf_datasel.errors import ScoreError, reason_counts
from hf_datasel.formats import Pool
from hf_datasel.formats.mapping import rename_dataset
from hf_datasel.hub.parents import parents_of
from hf_datasel.scoring.base import Columns, Score, is_number_list, with_parts
from hf_datasel.scoring.column_provenance import is_computed, provenance_of_columns, record_provenance
from hf_datasel.scoring.cost import log_cost, measure_cost
from hf_datasel.scoring.distributed import Processes
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.models import Models, check_model_exists
from hf_datasel.scoring.progress import only_drawn_bars
from hf_datasel.scoring.store.fit_cache import fit_with_cache
from hf_datasel.scoring.store.store import ScoreStore
from hf_datasel.scoring.vector_files import ColumnFiles
from hf_datasel.scoring.windows import compute_group
from hf_datasel.spec import from_name, spec_name

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["check_own_columns", "checked_scores", "replace_columns", "score", "summary"]

logger = logging.getLogger(__name__)


@only_drawn_bars()
def score(
    dataset: Dataset,
    scores: Score | str | Mapping[str, Any] | Sequence[Score | str | Mapping[str, Any]],
    model: Any = None,
    processing_class: PreTrainedTokenizerBase | None = None,
    scoring_tokens_per_batch: int | None = None,
    on_summary: Callable[[str], Any] | None = None,
    store: ScoreStore | str | os.PathLike[str] | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    overwrite: bool = False,
    num_proc: int | None = None,
) -> Dataset:
    """Add the columns of one or more scores to a dataset.

    Rows are computed in batches of similar length over the whole dataset, or, from 100,000 rows on, over windows of at
    most 65,536 rows: while one is computed, the next one is tokenized, so that the first batch does not wait for the
    last row, and the tokens of two windows are in memory. Scores that need the same forward pass share it. A score
    that reads the column of another one, such as `Cluster`, is computed after it, whatever their order in `scores`.
    Under `accelerate launch` or `torchrun` every process must call this: it shards batches across processes, results
    equal those of one process, and every process gets all of them. What it cost is logged at the level INFO, and `with
    hf_datasel.scoring.measure_cost()` measures it.

    Args:
        dataset: Rows in any supported format. Their order and the other columns do not change.
        scores: Scores, or names of scores of this package with or without settings: `[Length(), "loss", {"ifd":
            {"model": "gpt2"}}]`.
        model: Model of the scores that name none: a name or path, or a causal LM together with `processing_class`.
        processing_class: Tokenizer of the causal LM.
        scoring_tokens_per_batch: Maximum number of padded tokens in a batch: by default 1,024 on a CPU, 16,384 on
            other devices. A batch that does not fit into the memory of the device is split.
        on_summary: Function called with a one-line summary of each score. By default the summaries of scores with null
            rows are logged.
        store: Folder that every batch is written to as soon as it is computed. A run that was killed continues where
            it stopped, and only the new rows of a dataset that has grown are computed. The state of scores that are
            fitted (`Cluster`) is written to it too.
        columns: Names of the columns of a row format, or `role` and `content` of messages, and the names that the
            dataset has for them: `{"prompt": "question", "completion": "answer"}`.
        overwrite: Whether a column of the dataset that no score of hf_datasel is known to have written may be replaced
            by a new one of the same name. Columns of an earlier call are replaced in any case. `Dataset.map` cannot
            know, and replaces every column.
        num_proc: Number of processes that tokenize the rows, as in `Dataset.map`; the results are the same for any
            number. By default it is this process, or another one in windows, where processes can be forked. Under a
            launcher the main process starts them, and the others read its tokens from the cache of `datasets`.

    Returns:
        The dataset with the new columns, float32 in most cases. A row without a score is null, with a reason in
        another column.

    Raises:
        ScoreError: Two scores write different values into one column, or one that the dataset has of its own; or a
            score has no model.
        FormatError: The columns are not in a supported format, or `columns` does not fit them.
        ModelError: A model cannot be loaded or run.
    """
    scores = checked_scores(scores)
    if scoring_tokens_per_batch is not None and (
        type(scoring_tokens_per_batch) is not int or scoring_tokens_per_batch < 1
    ):
        raise ScoreError(f"scoring_tokens_per_batch={scoring_tokens_per_batch!r} has to be an int above 0.")
    if num_proc is not None and (type(num_proc) is not int or num_proc < 1):
        raise ScoreError(f"num_proc={num_proc!r} has to be an int above 0, or None.")
    if len(Pool(dataset, columns)) == 0:
        raise ScoreError("The dataset is empty, so that there is nothing to score.")
    if not overwrite:
        check_own_columns(dataset, scores)
    score_store = store if isinstance(store, ScoreStore) or store is None else ScoreStore(store)
    _check_inputs(scores, model, score_store, len(dataset))
    processes, models = Processes.current(), Models()
    for each in scores:
        Engine(Pool(dataset, columns), model, processing_class, models=models).check_max_length(each)
    if score_store is not None and processes.is_main_process:
        score_store.add_parents(parents_of(dataset).with_state())
    files = ColumnFiles.for_dataset(dataset, score_store)
    computed, recorded = dict[int, Columns](), set[str]()
    data = dataset
    with measure_cost() as meter:
        for stage in _stages(scores):
            engine = Engine(
                Pool(data, columns),
                model,
                processing_class,
                scoring_tokens_per_batch,
                store=score_store,
                models=models,
                column_files=files,
                num_proc=num_proc,
            )
            fitted = {index: _fitted(scores[index], data, columns, score_store, processes) for index in stage}
            for group in engine.group_by_model(list(fitted.values())):
                indices = [index for index in stage if fitted[index] in group]
                columns_of = compute_group(engine, [fitted[index] for index in indices])
                for index, score_columns in zip(indices, columns_of, strict=True):
                    computed[index] = score_columns
                    spec = engine.describe(fitted[index])
                    for name in score_columns.keys() - recorded:  # the first of two scores that write the same column
                        is_value = name == fitted[index].value_column
                        if not (is_value and is_number_list(score_columns[name].type)):  # embeddings are too large
                            record_provenance(name, score_columns[name], spec)
                    recorded.update(computed[index])
                    if processes.is_main_process:
                        line = summary(fitted[index], computed[index], engine.messages)
                        _report(line, computed[index], on_summary)
            data = _with_columns(data, [computed[index] for index in stage], files)
    log_cost(f"Scoring {len(dataset):,} rows", meter.cost)
    return _with_columns(dataset, [computed[index] for index in range(len(scores))], files)


def checked_scores(scores: Any) -> list[Score]:
    """Return the scores as a list, with those that are named or given as settings built.

    Args:
        scores: As in `score`.

    Raises:
        ScoreError: It is no score, or two scores write different values into one column.
    """
    named = [scores] if isinstance(scores, Score | str | type | Mapping) else scores
    if not isinstance(named, Iterable) or not (named := list(named)):
        raise ScoreError(f"scores has to be a score, or a list with at least one, such as [IFD()], and is {scores!r}.")
    listed: list[Any] = [from_name(value, "score") for value in named]
    for value in listed:
        if not isinstance(value, Score):
            hint = f" Write {value.__name__}()." if isinstance(value, type) and issubclass(value, Score) else ""
            raise ScoreError(f"scores has to hold scores such as IFD(), and holds {value!r}.{hint}")
    listed = with_parts(listed) if any(value.parts for value in listed) else listed
    _check_columns(listed)
    return listed


def _check_inputs(scores: Sequence[Score], model: Any, store: ScoreStore | None, rows: int) -> None:
    """Raise an error for models and files that do not exist, before hours of work on the first scores."""
    for score in scores:
        score.spec()
        score.check(rows)
        if score.needs_fit and store is None:
            name = type(score).__name__
            raise ScoreError(
                f"{name} is not fitted, which needs the whole dataset. Pass store=FOLDER, where the fitted state is "
                f"saved, or use the score that {name}(...).fit(dataset, path) returns."
            )
    if isinstance(model, str | os.PathLike) and any(score.needs_tokenizer for score in scores):
        check_model_exists(os.fspath(model))


def check_own_columns(dataset: Dataset, scores: Sequence[Score]) -> None:
    """Raise an error if a score would replace a column of the user.

    A column was written by hf_datasel if its values are those of a score in this process or of a file next to which
    `hf-datasel score` recorded them; so were all columns of a score whose value was. Or the dataset has all columns
    that the score writes, with their types: its reasons too.

    Args:
        dataset: The dataset to score.
        scores: The scores to compute.

    Raises:
        ScoreError: Names the column, and how to keep it.
    """
    for score in scores:
        written = {f"{score.column_prefix}{name}": dtype for name, dtype in score.columns().items()}
        present = [name for name in written if name in dataset.column_names]
        is_earlier_result = len(written) > 1 and all(
            name in present and _same_type(dataset.data.column(name).type, dtype) for name, dtype in written.items()
        )
        if is_earlier_result or _wrote_value(score, dataset):
            continue
        prefix = {spec_name(score): {"column_prefix": "my_"}}
        for name in present:
            if not is_computed(name, dataset.data.column(name)):
                raise ScoreError(
                    f"{type(score).__name__} writes column {name!r}, and the dataset has a column of this name that "
                    "is no known result of a score.",
                    hint=f"Keep it with {type(score).__name__}(..., column_prefix='my_'), rename it, or replace it "
                    "with overwrite=True.",
                    cli_hint=f"Keep it with --scores_kwargs '{json.dumps(prefix)}', rename it, or replace it with "
                    "--overwrite.",
                )


def _wrote_value(score: Score, dataset: Dataset) -> bool:
    """Return whether a dataset has the value of a score, perhaps of one with other settings."""
    if score.value_column not in dataset.column_names:
        return False
    specs = provenance_of_columns(pa.table({score.value_column: dataset.data.column(score.value_column)}))
    return specs.get(score.value_column, {}).get("score") == spec_name(score)


def _same_type(existing: pa.DataType, written: pa.DataType) -> bool:
    if pa.types.is_string(written):
        return bool(pa.types.is_string(existing) or pa.types.is_large_string(existing))
    if pa.types.is_list(written):
        types = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
        is_list = any(is_type(existing) for is_type in types)
        return is_list and (_same_type(existing.value_type, written.value_type) or _are_vectors(existing, written))
    return bool(existing == written)


def _are_vectors(*lists: pa.DataType) -> bool:
    """Return whether lists hold floating-point numbers, in whichever precision."""
    return all(pa.types.is_floating(dtype.value_type) for dtype in lists)


def _stages(scores: Sequence[Score]) -> list[list[int]]:
    """Return the indices of the scores in stages: a score that reads the column of another comes in a later one."""
    written = [{f"{score.column_prefix}{name}" for name in score.columns()} for score in scores]
    remaining, stages = list(range(len(scores))), list[list[int]]()
    while remaining:
        missing = {
            index: set().union(*(written[other] for other in remaining if other != index)) for index in remaining
        }
        stage = [index for index in remaining if not missing[index] & set(scores[index].reads)] or remaining
        stages.append(stage)
        remaining = [index for index in remaining if index not in stage]
    return stages


def _fitted(
    score: Score, data: Dataset, columns: Mapping[str, str] | None, store: ScoreStore | None, processes: Processes
) -> Score:
    """Return the score, fitted on the main process if it has to be and there is a store."""
    if store is None or not score.needs_fit:
        return score
    folder, data = store.folder, rename_dataset(data, columns)
    return processes.run_on_main_process(lambda: fit_with_cache(folder, score, data))


def _with_columns(dataset: Dataset, parts: Sequence[Columns], files: ColumnFiles) -> Dataset:
    from datasets import Dataset

    columns = {name: values for part in parts for name, values in part.items()}
    mapped = {name: files.dataset(name, column) for name, column in columns.items()}
    new: list[Dataset] = []
    for is_mapped, names in groupby(columns, lambda name: mapped[name] is not None):
        in_memory = {name: columns[name] for name in names}
        new += [mapped[name] for name in in_memory] if is_mapped else [Dataset(pa.table(in_memory))]
    return replace_columns(dataset, new) if new else dataset


def replace_columns(dataset: Dataset, new: Sequence[Dataset]) -> Dataset:
    """Return a dataset with the columns of others, which replace those of the same name.

    Args:
        dataset: The dataset.
        new: Datasets with new columns for the same rows.
    """
    from datasets import concatenate_datasets

    names = {name for part in new for name in part.column_names}
    info = dataset.info.copy()  # tells where the rows come from
    info.features = None
    others = dataset.select_columns([name for name in dataset.column_names if name not in names])
    return concatenate_datasets([others, *new], info=info, split=dataset.split, axis=1)


def _report(line: str, columns: Columns, on_summary: Callable[[str], Any] | None) -> None:
    if on_summary is not None:
        on_summary(line)
    elif any(column.null_count for column in columns.values()):
        logger.warning(line)


def summary(score: Score, columns: Columns, messages: Mapping[str, str] | None = None) -> str:
    """Return one line with the number of rows that have the score, and of those without by reason.

    Args:
        score: The score.
        columns: Its columns, with the prefix.
        messages: What the first row with a reason shows about it, by reason. The line contains it, with the numbers of
            the first rows that have the reason.
    """
    is_text = {name: pa.types.is_string(column.type) for name, column in columns.items()}
    name = min(columns, key=is_text.__getitem__)  # the first one that is null without a value; texts are ""
    nulls, rows = columns[name].null_count, len(columns[name])
    line = f"{name}: {rows - nulls:,} of {rows:,} rows scored"
    reasons = next((columns[column] for column in columns if column.endswith("_reason")), None)
    if not nulls or reasons is None:
        return line if not nulls else f"{line}, {nulls:,} without a value"
    details = {}
    for reason, message in (messages or {}).items():
        first = np.flatnonzero(pc.equal(reasons, reason).to_numpy(zero_copy_only=False))[:4].tolist()
        numbers = ", ".join([*map(str, first[:3]), *["..."] * (len(first) > 3)])
        details[reason] = f"{'row' if len(first) == 1 else 'rows'} {numbers}: {message}"
    counts = reason_counts(Counter(reason for reason in reasons.to_pylist() if reason), details)
    return f"{line}, {nulls:,} without: {counts}"


def _check_columns(scores: Sequence[Score]) -> None:
    writers: dict[str, tuple[Score, Hashable]] = {}
    for score in scores:
        for name in score.columns():
            column, identity = f"{score.column_prefix}{name}", score.column_identity(name)
            first, first_identity = writers.setdefault(column, (score, identity))
            if first_identity != identity:
                raise ScoreError(f"{score} and {first} both write {column!r}. Give one of them a column_prefix.")
