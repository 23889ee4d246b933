"""`hf-datasel score`"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_datasel.cli.parsing import DatasetArguments, as_dict, output_folder, parse, show_progress_messages
from hf_datasel.errors import ConfigError

__all__ = ["ScoreArguments", "run"]


@dataclass
class ScoreArguments:
    """What to compute, with which model, and where it goes."""

    scores: list[str] = field(
        default_factory=lambda: ["ifd"], metadata={"help": "Names of scores; `hf-datasel list` shows them."}
    )
    scores_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Settings by score, such as {"ifd": {"convention": "iterit"}}.'}
    )
    model_name_or_path: str | None = field(default=None, metadata={"help": "Model that scores: Hub id or folder."})
    model_revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a Hub model."})
    scoring_tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Upper bound on the padded tokens of a scoring batch; by default 2,048 on a CPU, else 16,384."
        },
    )
    output_dir: str = field(default="outputs/score", metadata={"help": "Folder for scored.parquet."})


def run(argv: Sequence[str]) -> None:
    """Score a dataset and write it as Parquet; print a line and the quantiles of each score."""
    dataset_arguments, arguments = parse((DatasetArguments, ScoreArguments), argv, "score")
    show_progress_messages()
    from hf_datasel.scores import by_name, score

    folder = output_folder(arguments.output_dir)
    if not isinstance(arguments.scores, list):
        raise ConfigError(f"scores has to be a list of names, and is {arguments.scores!r}.")
    settings = as_dict(arguments.scores_kwargs, "scores_kwargs")
    unknown = [name for name in settings if name not in arguments.scores]
    if unknown:
        raise ConfigError(f"scores_kwargs names {unknown[0]!r}, which is not among scores {arguments.scores}.")
    settings = {name: as_dict(value, f"scores_kwargs[{name!r}]") for name, value in settings.items()}
    model = {"model": arguments.model_name_or_path, "revision": arguments.model_revision}
    scores = [by_name(name, settings.get(name), defaults=model) for name in arguments.scores]
    scored = score(
        dataset_arguments.load(), scores, tokens_per_batch=arguments.scoring_tokens_per_batch, on_summary=print
    )
    path = folder / "scored.parquet"
    scored.to_parquet(path)
    names = [f"{each.column_prefix}{name}" for each in scores for name in each.columns()]
    print(quantile_table(scored, list(dict.fromkeys(names))))
    print(f"Written to {path}.")


def quantile_table(dataset: Any, names: list[str]) -> str:
    """Minimum, quartiles and maximum of each numeric column, as text."""
    lines = [f"{'column':<18}{'min':>10}{'25 %':>10}{'median':>10}{'75 %':>10}{'max':>10}"]
    for name in names:
        if getattr(dataset.features[name], "dtype", "string") == "string":  # reasons, and vectors, which have no dtype
            continue
        values = dataset.data.column(name).to_numpy().astype(np.float64)
        values = values[~np.isnan(values)]
        cells = np.quantile(values, [0, 0.25, 0.5, 0.75, 1]) if values.size else [np.nan] * 5
        lines.append(f"{name:<18}" + "".join(f"{cell:>10.4g}" for cell in cells))
    return "\n".join(lines)
