"""Several scores over a whole dataset: `hf_datasel.score`."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hf_datasel.errors import ScoreError, reason_counts
from hf_datasel.formats import Pool
from hf_datasel.scoring.base import Columns, Score
from hf_datasel.scoring.column_provenance import remember
from hf_datasel.scoring.distributed import Ranks
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.models import Models, check_model_exists
from hf_datasel.scoring.store.fit_cache import fitted_in
from hf_datasel.scoring.store.store import ScoreStore

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["score", "summary"]

logger = logging.getLogger(__name__)


def score(
    dataset: Dataset,
    scores: Score | Sequence[Score],
    model: Any = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    tokens_per_batch: int | None = None,
    on_summary: Callable[[str], Any] | None = None,
    store: ScoreStore | str | os.PathLike[str] | None = None,
) -> Dataset:
    """Add the columns of several scores to a dataset, in length-sorted batches over all of it.

    Scores that need the same forward pass share it, and scores that read another one's column, such as `Cluster`, come
    after it, whatever their order here. Under `accelerate launch` or `torchrun` every process calls this: the batches
    are dealt to all of them, and each gets the whole result.

    Args:
        dataset: rows in any supported format; order and other columns stay as they are.
        scores: what to compute.
        model: for scores that name none: a name or path, or a live causal LM together with `tokenizer`.
        tokenizer: of a live `model`.
        tokens_per_batch: upper bound on the padded tokens of a batch; by default 1,024 on a CPU, else 16,384. A batch
            that does not fit into the memory of the device is split.
        on_summary: called with one line a score; by default the lines of scores with nulls are logged.
        store: a folder where every batch is kept as soon as it is computed, so that a run that was killed goes on
            where it was, and of a dataset that grew only what is new is computed. Scores that have to be fitted
            (`Cluster`) put what they learn there too.

    Returns:
        The dataset with the new columns: float32, null with a reason where a row has no score.

    Raises:
        ScoreError: two scores write different numbers into one column, one has no model, or a store is given with a
            live model, of which nothing says which weights it has.
        FormatError: the columns make no supported format.
        ModelError: a model cannot be loaded or scored.
    """
    listed = _checked(scores)
    if tokens_per_batch is not None and (type(tokens_per_batch) is not int or tokens_per_batch < 1):
        raise ScoreError(f"tokens_per_batch={tokens_per_batch!r} has to be an int above 0.")
    if len(Pool(dataset)) == 0:
        raise ScoreError("The dataset is empty, so that there is nothing to score.")
    kept = _store(store, model)
    _check_inputs(listed, model, kept, len(dataset))
    ranks, models, found, remembered = Ranks.current(), Models(), dict[int, Columns](), set[str]()
    data = dataset
    for stage in _stages(listed):
        engine = Engine(Pool(data), model, tokenizer, tokens_per_batch, store=kept, models=models)
        ready = {at: _fitted(listed[at], data, kept, ranks) for at in stage}
        for group in engine.by_model(list(ready.values())):
            engine.announce(group)
            for at in [at for at in stage if ready[at] in group]:
                found[at] = engine.compute(ready[at])
                spec = engine.describe(ready[at])
                for name in found[at].keys() - remembered:  # of two scores that write the same column, the first
                    remember(name, found[at][name], spec)
                remembered.update(found[at])
                if ranks.is_first:
                    _report(summary(ready[at], found[at]), found[at], on_summary)
        data = _joined(data, [found[at] for at in stage])
    return _joined(dataset, [found[at] for at in range(len(listed))])


def _checked(scores: Score | Sequence[Score]) -> list[Score]:
    listed = [scores] if isinstance(scores, Score | str | type) else list(scores)
    for each in listed:
        if not isinstance(each, Score):
            made = f" Write {each.__name__}()." if isinstance(each, type) and issubclass(each, Score) else ""
            raise ScoreError(f"scores has to hold scores such as IFD(), and holds {each!r}.{made}")
    _check_columns(listed)
    return listed


def _check_inputs(scores: Sequence[Score], model: Any, store: ScoreStore | None, rows: int) -> None:
    """Refuse models and files that are not there, before hours of work on the scores that come first."""
    for each in scores:
        each.spec()
        each.check(rows)
        if each.needs_fit and store is None:
            name = type(each).__name__
            raise ScoreError(
                f"{name} is not fitted: it has to see the whole dataset first. Pass store=FOLDER, where it keeps what "
                f"it learns, or take what {name}(...).fit(dataset, path) returns."
            )
    if isinstance(model, str | os.PathLike) and any(each.needs_tokenizer for each in scores):
        check_model_exists(os.fspath(model))


def _store(store: ScoreStore | str | os.PathLike[str] | None, model: Any) -> ScoreStore | None:
    if store is None:
        return None
    if model is not None and not isinstance(model, str | os.PathLike):
        raise ScoreError(
            f"A store keeps scores under the model's name and files, and this is a live {type(model).__name__}. Save "
            "it and pass its folder, or leave store out."
        )
    return store if isinstance(store, ScoreStore) else ScoreStore(store)


def _stages(scores: Sequence[Score]) -> list[list[int]]:
    """The numbers of the scores, those that read another one's column in a later list than that one."""
    writes = [{f"{each.column_prefix}{name}" for name in each.columns()} for each in scores]
    left, stages = list(range(len(scores))), list[list[int]]()
    while left:
        pending = {at: set().union(*(writes[other] for other in left if other != at)) for at in left}
        stage = [at for at in left if not pending[at] & set(scores[at].reads)] or left
        stages.append(stage)
        left = [at for at in left if at not in stage]
    return stages


def _fitted(score: Score, data: Dataset, store: ScoreStore | None, ranks: Ranks) -> Score:
    """The score, fitted where it has to be and there is a folder for it: by the first process, for all of them."""
    if store is None or not score.needs_fit:
        return score
    folder = store.folder
    return ranks.made_by_first(lambda: fitted_in(folder, score, data))


def _joined(dataset: Dataset, parts: Sequence[Columns]) -> Dataset:
    from datasets import Dataset, concatenate_datasets

    columns = {name: values for part in parts for name, values in part.items()}
    if not columns:
        return dataset
    kept = [name for name in dataset.column_names if name not in columns]
    return concatenate_datasets([dataset.select_columns(kept), Dataset(pa.table(columns))], axis=1)


def _report(line: str, columns: Columns, on_summary: Callable[[str], Any] | None) -> None:
    if on_summary is not None:
        on_summary(line)
    elif any(column.null_count for column in columns.values()):
        logger.warning(line)


def summary(score: Score, columns: Columns) -> str:
    """One line: how many rows have the score, and how many have none, by reason."""
    name = next(iter(columns))
    nulls, rows = columns[name].null_count, len(columns[name])
    line = f"{name}: {rows - nulls:,} of {rows:,} rows scored"
    reasons = next((columns[column] for column in columns if column.endswith("_reason")), None)
    if not nulls or reasons is None:
        return line if not nulls else f"{line}, {nulls:,} without a value"
    counts = Counter(reason for reason in reasons.to_pylist() if reason)
    return f"{line}, {nulls:,} without: {reason_counts(counts)}"


def _check_columns(scores: Sequence[Score]) -> None:
    owners: dict[str, tuple[Score, Hashable]] = {}
    for each in scores:
        for name in each.columns():
            full, meaning = f"{each.column_prefix}{name}", each.meaning(name)
            other, others = owners.setdefault(full, (each, meaning))
            if others != meaning:
                raise ScoreError(f"{each} and {other} both write {full!r}. Give one of them a column_prefix.")
