"""A pipeline step of datatrove that scores a dataset in shards, with any of its executors."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_datasel.errors import ScoreError
from hf_datasel.formats import load_pool
from hf_datasel.scoring.base import Score
from hf_datasel.scoring.shards import Shard, ShardedScores

try:
    from datatrove.io import get_datafolder
    from datatrove.pipeline.base import PipelineStep
    from datatrove.utils.logging import logger
except ImportError as error:
    raise ImportError(
        "ScoreShards is a step of datatrove, which is not installed: pip install 'hf-datasel[scale]'."
    ) from error

__all__ = ["ScoreShards"]


class ScoreShards(PipelineStep):
    """Pipeline step of datatrove in which each task scores one shard of a dataset.

    Task 3 of 64 writes what `hf-datasel score --shard 3/64` writes: `scores/shard-00003-of-00064.parquet` in the
    output folder, a table without text. The step loads the rows itself, with their messages and tools, and so has no
    reader before it. datatrove does not start tasks that are marked as completed in its `logging_dir`. Of the others,
    one whose table exists computes nothing, and one that was killed continues from the store.

    Args:
        dataset_name: File, folder, glob or Hub id, as in `hf_datasel.load_pool`. Use absolute paths if tasks run on
            other machines.
        scores: As in `hf_datasel.score`.
        output_dir: Folder that the tables are written to; also a remote one, such as `hf://buckets/me/scores`.
        model: Name or path of the model of the scores that name none.
        split: Name of the split.
        config: Configuration of a Hub dataset.
        revision: Commit of a Hub dataset. Without it, tasks that start after a change read other rows.
        store: Folder of the score store, by default `store` in the output folder. That of a remote output folder is
            lost at the end of the task, so that a task that was killed starts again.
        **options: `columns`, `overwrite`, `scoring_tokens_per_batch` and `num_proc`, as in `ShardedScores`. Leave
            `num_proc` out with `RayPipelineExecutor` and with several workers of `LocalPipelineExecutor`, which cannot
            start processes.

    Raises:
        ScoreError: A score or the model is invalid.

    >>> from datatrove.executor import LocalPipelineExecutor
    >>> step = ScoreShards("tatsu-lab/alpaca", "ifd", "outputs/scores", "Qwen/Qwen3-0.6B")
    >>> LocalPipelineExecutor([step], tasks=64, workers=1, logging_dir="outputs/logs").run()  # doctest: +SKIP
    """

    type = "🎯 - SCORES"
    name = "hf_datasel"

    def __init__(
        self,
        dataset_name: str | os.PathLike[str],
        scores: Score | str | Mapping[str, Any] | Sequence[Score | str | Mapping[str, Any]],
        output_dir: str | os.PathLike[str],
        model: str | os.PathLike[str] | None = None,
        *,
        split: str = "train",
        config: str | None = None,
        revision: str | None = None,
        store: str | os.PathLike[str] | None = None,
        **options: Any,
    ):
        super().__init__()
        self.source = os.fspath(dataset_name), split, config, revision
        folder = os.fspath(output_dir)
        # absolute, because datatrove remembers relative folders by their names, also in another working directory
        self.output = get_datafolder(folder if "://" in folder else str(Path(folder).expanduser().absolute()))
        store = None if store is None else Path(store).expanduser().absolute()
        self.settings = {"scores": scores, "model": model, "store": store, **options}
        self._sharded(None, Path())  # errors in the settings are raised here, and not in every task

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Score one shard and write its table, unless it is there.

        Args:
            data: None, since this is the first step.
            rank: Index of the task, and of the shard.
            world_size: Number of tasks, and of shards.

        Raises:
            ScoreError: There is a step before this one; or as in `ShardedScores.score`.
            FormatError: As in `hf_datasel.load_pool`.
        """
        if data is not None:
            raise ScoreError("ScoreShards loads the rows itself. Make it the first step of its pipeline.")
        dataset = load_pool(*self.source, self.settings.get("columns"))
        shard = Shard(rank, world_size)
        with self._local_folder() as folder, self.track_time("shard"):
            sharded = self._sharded(dataset, folder)
            file = sharded.path(shard)
            remote = None if self.output.is_local() else file.relative_to(folder).as_posix()
            if remote is not None and self.output.isfile(remote):
                self.output.get(remote, str(file))
            is_new = sharded.score(shard)
            if remote is not None and is_new:
                self.output.put(str(file), remote)
        rows = len(shard.rows(len(dataset)))
        self.stat_update("rows" if is_new else "rows_scored_before", value=rows, unit="shard")

    def _sharded(self, dataset: Any, folder: Path) -> ShardedScores:
        settings = {**self.settings, "store": self.settings["store"] or folder / "store"}
        return ShardedScores(dataset, output_dir=folder, on_summary=logger.info, **settings)

    @contextmanager
    def _local_folder(self) -> Iterator[Path]:
        """Yield the output folder, or a temporary one if it is remote."""
        if self.output.is_local():
            yield Path(self.output.path)
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
