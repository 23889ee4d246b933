"""`hf-datasel train`"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_datasel.cli.arguments import as_dict, import_from_here, output_folder, parse, show_progress_messages
from hf_datasel.errors import ConfigError, FormatError

__all__ = ["TrainArguments", "run"]

_NO_MODEL = "No model is named. Pass --model_name_or_path, or put it into the config file."


@dataclass
class TrainArguments:
    """What the command has beside TRL's own keys."""

    allow_imports: bool = field(
        default=False,
        metadata={"help": "Permit a selector outside hf_datasel, as module:Class, also of the current folder."},
    )
    dataset_revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a Hub dataset."})


def run(argv: Sequence[str]) -> None:
    """`trl sft`, with `SelectiveSFTTrainer`: the same keys, and those of `SelectiveSFTConfig`."""
    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments

    from hf_datasel.training import SelectiveSFTConfig

    kinds = (ScriptArguments, SelectiveSFTConfig, ModelConfig, DatasetMixtureConfig, TrainArguments)
    try:
        script, config, model, mixture, ours = parse(kinds, argv, "train", needed={"model_name_or_path": _NO_MODEL})
    except ConfigError as error:
        raise _without_gpu(error) from error
    show_progress_messages()
    import_from_here(ours.allow_imports)
    train(script, config, model, mixture, ours)


def train(script: Any, config: Any, model: Any, mixture: Any, ours: TrainArguments) -> Any:
    """Train and save; returns the trainer. Prints what each round chose."""
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
        raise ConfigError("push_selection publishes the selections with the model: add push_to_hub.")
    selector = _own_selector(config, ours.allow_imports)
    resume = config.resume_from_checkpoint
    resume = True if str(resume).lower() == "true" else resume
    _check_resume(resume, config.output_dir)
    output_folder(config.output_dir)
    check_model_exists(model.model_name_or_path, model.model_revision)  # before the dataset is loaded
    train_rows, eval_rows = _datasets(script, config, mixture, ours.dataset_revision)
    trainer = SelectiveSFTTrainer(
        model=model.model_name_or_path,
        args=config,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        quantization_config=get_quantization_config(model),
        peft_config=get_peft_config(model),
        selector=selector,
    )
    trainer.train(resume_from_checkpoint=resume)
    trainer.accelerator.print(rounds_table(trainer.selections))
    trainer.save_state()
    if config.push_to_hub:
        pushed = trainer.push_to_hub()  # saves the model, too
        trainer.accelerator.print(f"Model pushed: {getattr(pushed, 'repo_url', trainer.hub_model_id)}")
    else:
        trainer.save_model(config.output_dir)
        trainer.create_model_card(model_name=Path(config.output_dir).absolute().name)
    trainer.accelerator.print(f"Model and selections written to {config.output_dir}.")
    return trainer


def _without_gpu(error: ConfigError) -> ConfigError:
    """What transformers says of bf16 where no GPU does it, as the flags that help."""
    if "bf16" not in str(error) or "use_cpu" not in str(error):
        return error
    if "Ampere" in str(error):
        return ConfigError("The GPU here cannot train in bf16, which is the default. Add --bf16 false --fp16 true.")
    return ConfigError(
        "There is no GPU here, which is what is trained on, in bf16, unless something else is said. To train on the "
        "CPU add --use_cpu true --bf16 false."
    )


def _check_resume(resume: Any, folder: str) -> None:
    from hf_datasel.training.checkpoints import last_whole

    if isinstance(resume, str) and not Path(resume).is_dir():
        raise ConfigError(f"resume_from_checkpoint={resume!r}: there is no such folder.")
    if resume is not True:
        return
    if not Path(folder).is_dir() or not any(Path(folder).iterdir()):
        raise ConfigError(f"There is no run in {folder!r}. Leave resume_from_checkpoint out to start one.")
    if last_whole(folder) is None:
        raise ConfigError(
            f"{folder!r} holds no checkpoint: its run ended before the first one was saved. Leave "
            "resume_from_checkpoint out to start anew."
        )


def _datasets(script: Any, config: Any, mixture: Any, revision: str | None) -> tuple[Any, Any]:
    from trl import get_dataset

    from hf_datasel.formats import load_pool

    if script.dataset_streaming:
        raise ConfigError("dataset_streaming: a streaming dataset has no row numbers to select by. Leave it out.")
    wants_eval = config.eval_strategy != "no"
    if mixture.datasets:
        both = get_dataset(mixture)
        return both[script.dataset_train_split], both[script.dataset_test_split] if wants_eval else None
    if not script.dataset_name:
        raise ConfigError("No dataset is named. Pass --dataset_name FILE-OR-HUB-ID, or put it into the config file.")
    name, subset = script.dataset_name, script.dataset_config
    rows = load_pool(name, script.dataset_train_split, subset, revision)
    if not wants_eval:
        return rows, None
    try:
        return rows, load_pool(name, script.dataset_test_split, subset, revision)
    except FormatError as error:
        raise ConfigError(
            f"eval_strategy={_value(config.eval_strategy)!r} needs rows to evaluate on, and the split "
            f"{script.dataset_test_split!r} of {name!r} cannot be had. Name another, --dataset_test_split NAME; or "
            "keep a part of the rows for it, --dataset_train_split 'train[10%:]' --dataset_test_split 'train[:10%]'; "
            f"or leave eval_strategy out. ({error})"
        ) from error


def _value(setting: Any) -> str:
    return str(getattr(setting, "value", setting))


def _own_selector(config: Any, allow_imports: bool) -> Any:
    """A selector that is somebody's own, or has such within, made here because the trainer imports none by name."""
    from hf_datasel.selectors import by_name

    if ":" not in config.selector and not allow_imports:
        return None
    selector = by_name(config.selector, as_dict(config.selector_kwargs, "selector_kwargs"), allow_imports)
    config.selector = type(config).__dataclass_fields__["selector"].default
    config.selector_kwargs = None
    return selector


def rounds_table(selections: Sequence[Any]) -> str:
    """What each round scored and chose, and its Jaccard similarity with each round before."""
    if not selections:
        return "No round was chosen in this run."
    found = dict.fromkeys(name for each in selections for name in each.score_columns)
    means = [name for name in found if not name.endswith(("cluster_id", "cluster_distance"))]
    head = f"{'round':>5}{'scored':>9}{'chosen':>9}" + "".join(f"{'mean ' + name:>{_wide(name)}}" for name in means)
    lines = [f"{head}  overlap with rounds before"]
    for at, selection in enumerate(selections):
        values = [_mean(selection, name) for name in means]
        overlaps = " ".join(f"{selection.overlap(other):.3f}" for other in selections[:at])
        cells = "".join(_cell(value, _wide(name)) for name, value in zip(means, values, strict=True))
        provenance = selection.provenance
        lines.append(
            f"{provenance['round']:>5}{provenance['rows_scored']:>9,}{len(selection.indices):>9,}{cells}  {overlaps}"
        )
    return "\n".join(lines)


def _cell(value: float, width: int) -> str:
    return f"{'' if np.isnan(value) else f'{value:.4f}':>{width}}"


def _mean(selection: Any, name: str) -> float:
    if name not in selection.table.column_names:
        return float("nan")
    return float(np.nanmean(selection.scores(name)[selection.indices]))


def _wide(name: str) -> int:
    return max(18, len(name) + 7)
