"""`hf-datasel score`: add score columns to a dataset."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from hf_datasel.atomic import write_file
from hf_datasel.cli.arguments import (
    DatasetArguments,
    allow_local_imports,
    as_dict,
    log_to_stderr,
    names_and_settings,
    parse,
)
from hf_datasel.cli.output_folder import create_output_folder
from hf_datasel.cli.tables import column_table, numeric_columns, value_counts
from hf_datasel.cli.terminal import print_next_steps
from hf_datasel.errors import ConfigError, ScoreError, did_you_mean
from hf_datasel.scoring.progress import map_progress_disabled, only_drawn_bars
from hf_datasel.spec import changed_settings, spec_name

__all__ = ["ScoreArguments", "run"]


@dataclass
class ScoreArguments:
    """Settings of scoring: scores, model and output folder."""

    scores: list[str] = field(
        default_factory=lambda: ["ifd"],
        metadata={
            "help": "Names of scores; `hf-datasel list` shows them. In a config file each may have its settings, and "
            "a name may occur twice: [loss, {ifd: {convention: iterit, column_prefix: iterit_}}]."
        },
    )
    scores_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Settings by name of the score, such as {"ifd": {"convention": "iterit"}}.'}
    )
    allow_imports: bool = field(
        default=False,
        metadata={"help": "Permit scores outside hf_datasel, as module:Class, also of the current folder."},
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Model that computes the scores: Hub id or folder."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a Hub model."})
    dtype: str | None = field(
        default=None, metadata={"help": "dtype of the model's weights, as in from_pretrained; auto by default."}
    )
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": 'Further arguments of from_pretrained, such as {"quantization_config": {"load_in_4bit": true}}.'
        },
    )
    scoring_tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of padded tokens in a scoring batch; by default 1,024 on a CPU, else 16,384."
        },
    )
    num_proc: int | None = field(default=None, metadata={"help": "Number of processes that tokenize the rows."})
    shard: str | None = field(
        default=None,
        metadata={
            "help": "Score only this shard, INDEX/NUMBER such as 0/64, counted from 0, and write its scores to "
            "OUTPUT_DIR/scores. Shards may run in any order, on any machines. Without --shard, the command then reads "
            "these files, scores what is missing, and writes scored.parquet."
        },
    )
    overwrite: bool = field(
        default=False,
        metadata={
            "help": "Replace columns of the dataset that have the name of a score's column; without it only columns "
            "that hf-datasel has written are computed again."
        },
    )
    output_dir: str = field(default="outputs/score", metadata={"help": "Folder for scored.parquet."})
    store: str | None = field(
        default=None,
        metadata={
            "help": "Folder that stores computed batches, so that an interrupted run continues where it stopped, and "
            "only new rows are computed in later runs; OUTPUT_DIR/store by default."
        },
    )
    repo_id: str | None = field(
        default=None, metadata={"help": "Also push the scored dataset to this dataset repository on the Hub."}
    )
    private: bool | None = field(
        default=None,
        metadata={"help": "Whether a new repository is private; by default, if the origin of the rows is unknown."},
    )
    public: bool = field(
        default=False, metadata={"help": "Publish in a public repository also if the origin of the rows is unknown."}
    )
    allow_secrets: bool = field(
        default=False,
        metadata={
            "help": "Publish rows with text that has the shape of a key or token. Values of secret environment "
            "variables are never published."
        },
    )


def run(argv: Sequence[str]) -> None:
    """Score a dataset and write it as Parquet; print the distribution of each score."""
    dataset_arguments, arguments = parse((DatasetArguments, ScoreArguments), argv, "score")
    log_to_stderr()
    allow_local_imports(arguments.allow_imports)
    from hf_datasel.scoring.distributed import Processes
    from hf_datasel.scoring.score_rows import score
    from hf_datasel.scoring.shards import Shard, ShardedScores
    from hf_datasel.scoring.store.store import ScoreStore

    shard = None if arguments.shard is None else Shard.parse(arguments.shard)
    if shard is not None and arguments.repo_id is not None:
        raise ConfigError("A shard is not published. Pass --repo_id without --shard, once all shards are scored.")
    folder = create_output_folder(arguments.output_dir)
    scores = _scores(arguments)
    store = ScoreStore(arguments.store or folder / "store")
    with only_drawn_bars(), store.temporary_columns(Processes.current()):
        dataset = dataset_arguments.load()
        private = _check_hub(dataset, arguments)
        model = arguments.model_name_or_path
        options: dict[str, Any] = {
            "scoring_tokens_per_batch": arguments.scoring_tokens_per_batch,
            "on_summary": print,
            "store": store,
            "columns": dataset_arguments.mapping,
            "overwrite": arguments.overwrite,
            "num_proc": arguments.num_proc,
        }
        sharded = ShardedScores(dataset, scores, folder, model, **options)
        try:
            if shard is not None:
                _score_shard(sharded, shard)
                return
            scored = sharded.gather()
            if scored is None:
                scored = score(dataset, scores, model, **options)
        except KeyboardInterrupt:
            print(
                f"\nInterrupted. Computed batches are in {store.folder}: run the same command again to continue.",
                file=sys.stderr,
            )
            raise
        if Processes.current().is_main_process:
            _write_results(scored, scores, folder, arguments, private)


def _score_shard(sharded: Any, shard: Any) -> None:
    """Score a shard, and print where its scores are."""
    from hf_datasel.scoring.distributed import Processes

    is_new, rows, total = sharded.score(shard), shard.rows(len(sharded.dataset)), len(sharded.dataset)
    if Processes.current().is_main_process:
        state = "Written to" if is_new else "Nothing to compute: the scores are in"
        print(f"{state} {sharded.path(shard)} (rows {rows.start:,} to {rows.stop - 1:,} of {total:,}).")
        print("Once all shards are scored, run the same command without --shard to write scored.parquet.")
        command = f"hf-datasel select --dataset_name {sharded.path(shard).parent} --selector NAME"
        print(f"Or select by the scores alone: {command}")


def _write_results(
    scored: Any, scores: Sequence[Any], folder: Path, arguments: ScoreArguments, private: bool | None
) -> None:
    """Write the file and histograms, print the table, and push to the Hub if a repository is named."""
    names = list(dict.fromkeys(f"{score.column_prefix}{name}" for score in scores for name in score.columns()))
    _write_parquet(scored, folder)
    print(column_table(scored, names))
    has_plots = _write_histograms(scored, names, folder)
    plots = ", with histograms next to it" if has_plots else ""
    print(f"Written to {folder / 'scored.parquet'}{plots}.")
    ranked = [name for name, values in numeric_columns(scored, names).items() if not value_counts(values)]
    ranked.sort(key=lambda name: name not in map(spec_name, scores))  # loss before cluster_distance
    if settings := _next_selection(scores, ranked):
        print_next_steps(["select", "--dataset_name", str(folder / "scored.parquet"), *settings])
    if arguments.repo_id is not None:
        _push(scored, names, folder, arguments.repo_id, private, arguments.allow_secrets)


def _next_selection(scores: Sequence[Any], ranked: Sequence[str]) -> list[str]:
    """Return flags of a selection by one of the columns that rows can be ranked by; empty if there is none.

    Args:
        scores: The scores.
        ranked: Columns with enough different values, the first one preferred.
    """
    flaws = [score for score in scores if score.is_flaw]
    of_flaws = {f"{score.column_prefix}{name}" for score in flaws for name in score.columns()}
    if by := next((name for name in ranked if name not in of_flaws), None):
        return ["--selector", "top", "--selector_kwargs", json.dumps({"by": by})]
    if by := next((score.value_column for score in flaws if score.value_column in ranked), None):
        keeps = {"filters": [{"filter": "in_range", "by": by, "high": 0.5}], "then": {"selector": "all"}}
        return ["--selector", "chain", "--selector_kwargs", json.dumps(keeps)]
    return []


def _scores(arguments: ScoreArguments) -> list[Any]:
    """Return the scores with their settings and, for those that run the command's model, how to load it."""
    from hf_datasel.scores import get_score
    from hf_datasel.scoring.base import with_parts

    kwargs = as_dict(arguments.scores_kwargs, "scores_kwargs")
    scores = names_and_settings(arguments.scores, "scores")
    if not scores:
        raise ConfigError("scores is empty: name at least one; `hf-datasel list` shows them.")
    names = [name for name, _ in scores]
    unknown = [name for name in kwargs if name not in names]
    if unknown:
        raise ConfigError(
            f"scores_kwargs names {unknown[0]!r}, which is not among scores {names}.{did_you_mean(unknown[0], names)}"
        )
    loading = {
        "revision": arguments.model_revision,
        "dtype": arguments.dtype,
        "model_init_kwargs": as_dict(arguments.model_init_kwargs, "model_init_kwargs") or None,
    }
    built = []
    for name, settings in scores:
        settings = {**as_dict(kwargs.get(name), f"scores_kwargs[{name!r}]"), **settings}
        built.append(get_score(name, settings, arguments.allow_imports))
    built = with_parts([_with_loading(score, loading) for score in built])
    without = [spec_name(score) for score in built if _needs_model(score)]
    if without and arguments.model_name_or_path is None:
        verb = "has" if len(without) == 1 else "have"
        raise ConfigError(
            f"{', '.join(without)} {verb} no model to run. Pass --model_name_or_path MODEL, or put it into the config "
            "file."
        )
    return built


def _needs_model(score: Any) -> bool:
    """Return whether a score runs the model of the command."""
    return bool(score.needs_tokenizer) and getattr(score, "model", "") is None


def _with_loading(score: Any, loading: Mapping[str, Any]) -> Any:
    """Return the score with the command's loading settings, if it runs the command's model and sets none itself."""
    if score.parts:
        return replace(
            score, by=tuple(_with_loading(part, loading) if part in score.parts else part for part in score.by)
        )
    if not score.needs_tokenizer or getattr(score, "model", "") is not None:
        return score
    unset = {field.name for field in fields(score)} - changed_settings(score).keys()
    return replace(score, **{key: value for key, value in loading.items() if key in unset and value is not None})


def _write_parquet(scored: Any, folder: Path) -> None:
    """Write the rows and the provenance of their columns."""
    import pyarrow.parquet as pq

    from hf_datasel.hub.parents import parents_of, write_parquet
    from hf_datasel.scoring.column_provenance import write_provenance

    target = folder / "scored.parquet"
    columns_before = pq.read_schema(target).names if target.is_file() else []
    if missing := [name for name in columns_before if name not in scored.column_names]:
        print(f"Replaces {target.name} of an earlier run, which also had {', '.join(missing)}.")
    with map_progress_disabled():
        parents = parents_of(scored).with_state()
        write_file(target, lambda file: write_parquet(scored, file, parents), ScoreError)
    write_provenance(folder / "scored.origins.json", scored.data.table, parents.record())


def _write_histograms(scored: Any, names: list[str], folder: Path) -> bool:
    """Write histograms of the numeric columns as JSON and, if matplotlib is installed, as images.

    There are no images of a single bar, or of two. Images of columns that an earlier run drew are removed.

    Returns:
        Whether images were written.
    """
    from hf_datasel.analysis import distribution, draw_scores
    from hf_datasel.analysis.plots.spreads import few_values

    columns = {name: values for name, values in numeric_columns(scored, names).items() if values.size}
    distributions = {name: distribution(name, {"scored": values}) for name, values in columns.items()}
    drawn_before, has_matplotlib = _columns_drawn_before(folder), importlib.util.find_spec("matplotlib") is not None
    write_file(folder / "histograms.json", json.dumps(distributions, indent=1), ScoreError)
    drawn = [name for name, summary in distributions.items() if has_matplotlib and not few_values(summary)]
    for name in drawn:
        figure = draw_scores(distributions[name], f"{name} of {columns[name].size:,} rows")
        write_file(folder / "histograms" / f"{name}.png", partial(figure.savefig, format="png"), ScoreError)
    for name in drawn_before.difference(drawn):
        (folder / "histograms" / f"{name}.png").unlink(missing_ok=True)
    return bool(drawn)


def _columns_drawn_before(folder: Path) -> set[str]:
    """Return the columns in the `histograms.json` of an earlier run; empty if there is none or it is not ours."""
    try:
        content = json.loads((folder / "histograms.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return {name for name in content if name == Path(name).name} if isinstance(content, dict) else set()


def _check_hub(dataset: Any, arguments: ScoreArguments) -> bool | None:
    """Raise `PublishError` before scoring if the rows cannot be pushed, and return whether that is done privately."""
    if arguments.repo_id is None:
        return None
    from hf_datasel.cards.push import check_access
    from hf_datasel.cli.push import hub_errors, is_private
    from hf_datasel.hub.repository import Hub

    hub = Hub(arguments.repo_id)
    with hub_errors():
        private, _ = check_access(hub, dataset, is_private(arguments.private, arguments.public))
    hub.secret_scan(arguments.allow_secrets).check_rows(dataset)
    return private


def _push(
    scored: Any, names: list[str], folder: Path, repo_id: str, private: bool | None, allow_secrets: bool
) -> None:
    from hf_datasel.cards.scored import push_scored
    from hf_datasel.cli.push import hub_errors

    with hub_errors():
        url = push_scored(scored, repo_id, names, folder / "histograms", private=private, allow_secrets=allow_secrets)
        print(f"Published: {url}")
