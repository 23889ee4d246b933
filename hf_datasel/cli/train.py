"""`hf-datasel train`: train a model on rows that a selector selects with the model being trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.cli.arguments import DatasetArguments, allow_local_imports, as_dict, log_to_stderr, parse
from hf_datasel.cli.output_folder import create_output_folder
from hf_datasel.cli.terminal import print_next_steps
from hf_datasel.errors import ConfigError, DataselError, FormatError

if TYPE_CHECKING:
    from hf_datasel.selection import Selection

__all__ = ["TrainArguments", "run"]

_NO_MODEL = "No model is named. Pass --model_name_or_path, or put it into the config file."


@dataclass
class TrainArguments:
    """Settings of the command that TRL does not have.

    Args:
        allow_imports: Whether a selector may be a class outside hf_datasel.
        dataset_revision: Commit, branch or tag of a Hub dataset.
    """

    allow_imports: bool = field(
        default=False,
        metadata={"help": "Permit a selector outside hf_datasel, as module:Class, also from the current folder."},
    )
    dataset_revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a Hub dataset."})


def run(argv: Sequence[str]) -> None:
    """Run `trl sft` with `SelectiveSFTTrainer`; it takes the same keys, and those of `SelectiveSFTConfig`."""
    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments

    from hf_datasel.training import SelectiveSFTConfig

    kinds = (ScriptArguments, SelectiveSFTConfig, ModelConfig, DatasetMixtureConfig, TrainArguments)
    try:
        required = {"model_name_or_path": _NO_MODEL}
        script, config, model, mixture, own = parse(kinds, argv, "train", required=required, first=_own_keys())
    except ConfigError as error:
        raise _with_precision_flags(error) from error
    log_to_stderr()
    allow_local_imports(own.allow_imports)
    train(script, config, model, mixture, own)


def _own_keys() -> set[str]:
    """Return the keys that `trl sft` does not have, and those that every run needs."""
    from hf_datasel.training import SelectiveSFTConfig

    own = {*vars(SelectiveSFTConfig)["__annotations__"], *vars(TrainArguments)["__annotations__"]}
    return own | {"model_name_or_path", "dataset_name", "output_dir", "num_train_epochs"}


def train(script: Any, config: Any, model: Any, mixture: Any, own: TrainArguments) -> Any:
    """Train and save a model, print a table of the rounds, and return the trainer."""
    from trl import get_peft_config, get_quantization_config

    from hf_datasel.scoring.models import check_model_exists
    from hf_datasel.training import SelectiveSFTTrainer

    if model.model_name_or_path is None:
        raise ConfigError(_NO_MODEL)
    config.model_init_kwargs = {
        "revision": model.model_revision,
        "trust_remote_code": config.trust_remote_code,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(config.model_init_kwargs or {}),
    }
    if config.push_selection and not config.push_to_hub:
        raise ConfigError("push_selection publishes the selections with the model. Add --push_to_hub.")
    selector = _imported_selector(config, own.allow_imports)
    resume = config.resume_from_checkpoint
    resume = True if str(resume).lower() == "true" else resume
    _check_resume(resume, config.output_dir)
    create_output_folder(config.output_dir)
    check_model_exists(model.model_name_or_path, model.model_revision)  # before the dataset is loaded
    train_dataset, eval_dataset = _load_datasets(script, config, mixture, own.dataset_revision)
    with _model_errors(model.model_name_or_path):
        trainer = SelectiveSFTTrainer(
            model=model.model_name_or_path,
            args=config,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            quantization_config=get_quantization_config(model),
            peft_config=get_peft_config(model),
            selector=selector,
        )
    trainer.train(resume_from_checkpoint=resume)
    trainer.accelerator.print(rounds_table(trainer.selections))
    trainer.save_state()
    if config.push_to_hub:
        pushed = trainer.push_to_hub()  # which also saves the model
        trainer.accelerator.print(f"Model pushed: {getattr(pushed, 'repo_url', trainer.hub_model_id)}")
    else:
        trainer.save_model(config.output_dir)
        trainer.create_model_card(model_name=Path(config.output_dir).absolute().name)
    trainer.accelerator.print(f"Model and selections written to {config.output_dir}.")
    if trainer.accelerator.is_main_process:
        _print_next_steps(script, config, own)
    return trainer


def _print_next_steps(script: Any, config: Any, own: TrainArguments) -> None:
    """Print the commands that most runs are followed by."""
    steps = [["eval", "--model_name_or_path", config.output_dir, "--suite", "quick"]]
    if script.dataset_name:
        rows = DatasetArguments(
            script.dataset_name, script.dataset_config, script.dataset_train_split, own.dataset_revision
        )
        selections = ["--selection", config.output_dir, *rows.flags()]
        steps += [["report", *selections], ["push", *selections, "--repo_id", "NAMESPACE/NAME", "--dry_run"]]
    print_next_steps(*steps)


def _with_precision_flags(error: ConfigError) -> ConfigError:
    """Return the error of transformers about bf16 without a suitable GPU, with the flags that solve it."""
    if "bf16" not in str(error) or "use_cpu" not in str(error):
        return error
    if "Ampere" in str(error):
        return ConfigError("This GPU cannot train in bf16, which is the default. Add --bf16 false --fp16 true.")
    return ConfigError(
        "There is no GPU, but training runs on one in bf16 by default. To train on the CPU add --use_cpu true --bf16 "
        "false."
    )


@contextmanager
def _model_errors(name: str) -> Iterator[None]:
    """Raise `ModelError` for an error of `from_pretrained`; all others are raised as they are."""
    from hf_datasel.scoring.models import loading_errors

    try:
        yield
    except DataselError:
        raise
    except Exception as error:  # of any kind: see `loading_errors`
        if not any(frame.f_code.co_name == "from_pretrained" for frame, _ in walk_tb(error.__traceback__)):
            raise
        with loading_errors(f"The model {name!r}"):
            raise


def _check_resume(resume: Any, folder: str) -> None:
    """Raise if there is nothing to resume from, before the dataset is loaded."""
    from hf_datasel.training.checkpoint_files import check_run_exists

    if isinstance(resume, str) and not Path(resume).is_dir():
        raise ConfigError(f"resume_from_checkpoint={resume!r}: there is no such folder.")
    if resume is True:
        check_run_exists(folder)


def _load_datasets(script: Any, config: Any, mixture: Any, revision: str | None) -> tuple[Any, Any]:
    """Return the training dataset, and the evaluation dataset if one is needed."""
    from trl import get_dataset

    from hf_datasel.formats import load_pool

    if script.dataset_streaming:
        raise ConfigError("dataset_streaming: the rows of a streaming dataset have no numbers. Remove it.")
    evaluates = config.eval_strategy != "no"
    if mixture.datasets:
        splits = get_dataset(mixture)
        return splits[script.dataset_train_split], splits[script.dataset_test_split] if evaluates else None
    if not script.dataset_name:
        raise ConfigError("No dataset is named. Pass --dataset_name FILE-OR-HUB-ID, or put it into the config file.")
    name, subset = script.dataset_name, script.dataset_config
    mapping = as_dict(config.columns, "columns") or None
    rows = load_pool(name, script.dataset_train_split, subset, revision, mapping)
    if not evaluates:
        return rows, None
    try:
        return rows, load_pool(name, script.dataset_test_split, subset, revision, mapping)
    except FormatError as error:
        strategy = str(getattr(config.eval_strategy, "value", config.eval_strategy))
        raise ConfigError(
            f"eval_strategy={strategy!r} needs rows to evaluate on, but the split {script.dataset_test_split!r} of "
            f"{name!r} cannot be loaded. Name another one with --dataset_test_split NAME; or set a part of the rows "
            "apart with --dataset_train_split 'train[10%:]' --dataset_test_split 'train[:10%]'; or remove "
            f"eval_strategy. ({error})"
        ) from error


def _imported_selector(config: Any, allow_imports: bool) -> Any:
    """Return the selector of the config if it may import code outside the package, which the trainer never does.

    The config is then reset, so that the selector is not passed twice.
    """
    from hf_datasel.selectors import get_selector

    if ":" not in config.selector and not allow_imports:
        return None
    selector = get_selector(config.selector, as_dict(config.selector_kwargs, "selector_kwargs"), allow_imports)
    config.selector = type(config).__dataclass_fields__["selector"].default
    config.selector_kwargs = None
    return selector


def rounds_table(selections: Sequence[Selection]) -> str:
    """Return a table of the rounds: rows scored and selected, mean scores, and overlap with each earlier round."""
    from hf_datasel.scoring.numbers import is_identifier

    if not selections:
        return "No round was selected in this run."
    columns = dict.fromkeys(name for selection in selections for name in selection.score_columns)
    names = [name for name in columns if not name.endswith("cluster_distance") and not is_identifier(name)]
    titles = "".join(f"{'mean ' + name:>{_width(name)}}" for name in names)
    lines = [f"{'round':>5}{'scored':>9}{'selected':>9}{titles}  overlap with earlier rounds"]
    for index, selection in enumerate(selections):
        means = "".join(_cell(_mean(selection, name), _width(name)) for name in names)
        overlaps = " ".join(f"{selection.overlap(earlier):.3f}" for earlier in selections[:index])
        provenance = selection.provenance
        lines.append(
            f"{provenance['round']:>5}{provenance['rows_scored']:>9,}{len(selection.indices):>9,}{means}  {overlaps}"
        )
    return "\n".join(lines)


def _cell(value: float, width: int) -> str:
    return f"{'' if np.isnan(value) else f'{value:.4f}':>{width}}"


def _mean(selection: Selection, name: str) -> float:
    if name not in selection.table.column_names:
        return float("nan")
    return float(np.nanmean(selection.scores(name)[selection.indices]))


def _width(name: str) -> int:
    return max(18, len(name) + 7)
