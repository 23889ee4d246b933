"""`hf-datasel score`"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from hf_datasel.cli.arguments import (
    DatasetArguments,
    as_dict,
    bars_on_terminals,
    check_no_commas,
    output_folder,
    parse,
    show_progress_messages,
)
from hf_datasel.cli.log_filters import no_bars
from hf_datasel.cli.tables import column_table, numeric_columns
from hf_datasel.errors import ConfigError

__all__ = ["ScoreArguments", "run"]


@dataclass
class ScoreArguments:
    """What to compute, with which model, and where it goes."""

    scores: list[str] = field(
        default_factory=lambda: ["ifd"],
        metadata={
            "help": "Names of scores; `hf-datasel list` shows them. In a config file each may carry its settings, and "
            "a name may come twice: [loss, {ifd: {convention: iterit, column_prefix: iterit_}}]."
        },
    )
    scores_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Settings by score, such as {"ifd": {"convention": "iterit"}}.'}
    )
    model_name_or_path: str | None = field(default=None, metadata={"help": "Model that scores: Hub id or folder."})
    model_revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a Hub model."})
    dtype: str | None = field(default=None, metadata={"help": "Of the weights, as in from_pretrained; auto if unset."})
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": 'More arguments of from_pretrained, such as {"quantization_config": {"load_in_4bit": true}}.'
        },
    )
    scoring_tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Upper bound on the padded tokens of a scoring batch; by default 1,024 on a CPU, else 16,384."
        },
    )
    output_dir: str = field(default="outputs/score", metadata={"help": "Folder for scored.parquet."})
    store: str | None = field(
        default=None,
        metadata={
            "help": "Folder that keeps every batch, so that a run that was killed goes on where it was, and rows that "
            "were added are all that is scored; by default OUTPUT_DIR/store."
        },
    )
    repo_id: str | None = field(
        default=None, metadata={"help": "Also push the scored dataset to this dataset repository on the Hub."}
    )
    private: bool | None = field(default=None, metadata={"help": "Whether a new repository is private."})


def run(argv: Sequence[str]) -> None:
    """Score a dataset and write it as Parquet; print a line and the distribution of each score."""
    dataset_arguments, arguments = parse((DatasetArguments, ScoreArguments), argv, "score")
    show_progress_messages()
    from hf_datasel.scoring.distributed import Ranks
    from hf_datasel.scoring.score_rows import score
    from hf_datasel.scoring.store.store import ScoreStore

    folder = output_folder(arguments.output_dir)
    scores = _scores(arguments)
    store = ScoreStore(arguments.store or folder / "store")
    with bars_on_terminals():
        dataset = dataset_arguments.load()
        _check_hub(dataset, arguments)
        try:
            scored = score(
                dataset,
                scores,
                arguments.model_name_or_path,
                tokens_per_batch=arguments.scoring_tokens_per_batch,
                on_summary=print,
                store=store,
            )
        except KeyboardInterrupt:
            print(
                f"\nStopped. What was computed is in {store.folder}: the same command goes on from there.",
                file=sys.stderr,
            )
            raise
        if Ranks.current().is_first:
            _finish(scored, scores, folder, arguments)


def _finish(scored: Any, scores: Sequence[Any], folder: Path, arguments: ScoreArguments) -> None:
    names = list(dict.fromkeys(f"{each.column_prefix}{name}" for each in scores for name in each.columns()))
    _write(scored, folder)
    print(column_table(scored, names))
    drawn = _draw(scored, names, folder)
    print(f"Written to {folder / 'scored.parquet'}{', with a histogram a column beside it' if drawn else ''}.")
    if arguments.repo_id is not None:
        _push(scored, names, folder, arguments.repo_id, arguments.private)


def _scores(arguments: ScoreArguments) -> list[Any]:
    from hf_datasel.scores import by_name

    by_score = as_dict(arguments.scores_kwargs, "scores_kwargs")
    named = _named(arguments.scores)
    unknown = [name for name in by_score if name not in [each for each, _ in named]]
    if unknown:
        listed = [each for each, _ in named]
        raise ConfigError(f"scores_kwargs names {unknown[0]!r}, which is not among scores {listed}.")
    loading = {
        "revision": arguments.model_revision,
        "dtype": arguments.dtype,
        "model_init_kwargs": as_dict(arguments.model_init_kwargs, "model_init_kwargs") or None,
    }
    return [
        _with_loading(by_name(name, {**as_dict(by_score.get(name), f"scores_kwargs[{name!r}]"), **own}), loading)
        for name, own in named
    ]


def _with_loading(score: Any, loading: Mapping[str, Any]) -> Any:
    """A score that runs the model of the command line also loads it as the command line says, where it is silent."""
    if not score.needs_tokenizer or score.model is not None:
        return score
    settings = score.settings()
    unset = {each.name for each in fields(score) if settings[each.name] == each.default}
    return replace(score, **{key: value for key, value in loading.items() if key in unset and value is not None})


def _named(scores: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Names and settings, from a list of names and of mappings with one name each."""
    if not isinstance(scores, list):
        raise ConfigError(f"scores has to be a list of names, and is {scores!r}.")
    if not scores:
        raise ConfigError("scores is empty: name at least one; `hf-datasel list` shows them.")
    found: list[tuple[str, Mapping[str, Any]]] = []
    for each in scores:
        if isinstance(each, str):
            check_no_commas(each, "scores")
            found.append((each, {}))
            continue
        if not isinstance(each, dict) or len(each) != 1:
            raise ConfigError(f"scores holds {each!r}: it has to be a name, or a name and its settings.")
        ((name, settings),) = each.items()
        found.append((str(name), as_dict(settings, f"scores[{name!r}]")))
    return found


def _write(scored: Any, folder: Path) -> None:
    """The file as a whole or not at all: a run may be killed here too. Beside it, where its columns come from."""
    import pyarrow.parquet as pq

    from hf_datasel.scoring.column_provenance import write_origins

    target = folder / "scored.parquet"
    before = pq.read_schema(target).names if target.is_file() else []
    if gone := [name for name in before if name not in scored.column_names]:
        print(f"The {target.name} that was there is replaced. It had {', '.join(gone)} too, which this run lacks.")
    draft = folder / "scored.parquet.tmp"
    with no_bars():
        scored.to_parquet(draft)
    draft.replace(target)
    write_origins(folder / "scored.origins.json", scored.data.table)


def _draw(scored: Any, names: list[str], folder: Path) -> bool:
    """A histogram of each column of numbers, as numbers and, where matplotlib is installed, as a picture.

    Pictures of the file that was there before go.
    """
    from hf_datasel.analysis import distribution, draw_scores

    for name in _drawn_before(folder):
        (folder / "histograms" / f"{name}.png").unlink(missing_ok=True)
    columns = {name: values for name, values in numeric_columns(scored, names).items() if values.size}
    found = {name: distribution(name, {"scored": values}) for name, values in columns.items()}
    (folder / "histograms.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    if importlib.util.find_spec("matplotlib") is None:
        return False
    (folder / "histograms").mkdir(exist_ok=True)
    for name, summary in found.items():
        draw_scores(summary, f"{name} of {columns[name].size:,} rows").savefig(folder / "histograms" / f"{name}.png")
    return bool(found)


def _drawn_before(folder: Path) -> list[str]:
    """Columns that an earlier run drew here: those of the histograms.json that it wrote."""
    try:
        found = json.loads((folder / "histograms.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [name for name in found if name == Path(name).name] if isinstance(found, dict) else []


def _check_hub(dataset: Any, arguments: ScoreArguments) -> None:
    """Whether the rows can be published, before any of them is scored."""
    if arguments.repo_id is None:
        return
    from hf_datasel.cards.push import check_access
    from hf_datasel.cli.push import reaching_the_hub
    from hf_datasel.hub.repository import Hub

    with reaching_the_hub():
        check_access(Hub(arguments.repo_id), dataset, arguments.private)


def _push(scored: Any, names: list[str], folder: Path, repo_id: str, private: bool | None) -> None:
    from hf_datasel.cards.scored import push_scored
    from hf_datasel.cli.push import reaching_the_hub

    with reaching_the_hub():
        print(f"Published: {push_scored(scored, repo_id, names, folder / 'histograms', private=private)}")
