"""How scores run: batching, models, distributed processes, endpoints and the store of results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel._lazy import lazy_imports

if TYPE_CHECKING:
    from hf_datasel.scoring.base import Columns as Columns, ModelScore as ModelScore, Score as Score
    from hf_datasel.scoring.contamination import (
        ContaminatedRows as ContaminatedRows,
        contaminated_rows as contaminated_rows,
    )
    from hf_datasel.scoring.cost import Cost as Cost, measure_cost as measure_cost
    from hf_datasel.scoring.distributed import Processes as Processes
    from hf_datasel.scoring.score_rows import score as score
    from hf_datasel.scoring.score_tables import ScoreTables as ScoreTables
    from hf_datasel.scoring.shards import Shard as Shard, ShardedScores as ShardedScores, score_table as score_table
    from hf_datasel.scoring.store import ScoreStore as ScoreStore

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
