"""What has to be equal in a run that resumes from a checkpoint of another one, and how to say what differs."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import ModelError, ResumeError
from hf_datasel.formats.digest import column_digest
from hf_datasel.scoring.models import model_identity
from hf_datasel.selection.provenance import without_paths
from hf_datasel.spec import spec_name, upgraded
from hf_datasel.training.config import SelectiveSFTConfig, data_seed, without_secrets
from hf_datasel.training.order import SelectionOrder
from hf_datasel.training.run_config import EVALUATION, NOT_OF_THE_RUN, plain

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_datasel.formats import Pool
    from hf_datasel.rounds.selector import Selector
    from hf_datasel.scoring.base import Score
    from hf_datasel.training.schedule import Schedule

__all__ = ["check_columns", "check_identity", "check_length", "check_models", "run_identity", "tokens_digest"]

logger = logging.getLogger(__name__)

_LENGTH = ("num_train_epochs", "max_steps")
"""Fields that a resumed run may change as far as its rounds permit."""
_ROUNDING = (
    "activation_", "gradient_accumulation_steps", "gradient_checkpointing", "per_device_train_batch_size",
    "tf32", "torch_compile", "use_cache", "use_cpu", "use_liger_kernel",
)  # fmt: skip
"""Prefixes of the fields that say how an update is computed; they change the weights by rounding and dropout only."""
_IN_OTHER_PARTS = (
    "chat_template_path", "columns", "data_seed", "dataset_", "model_init_kwargs", "packing", "reselection_",
    "reuse_training_loss", "scoring_", "seed", "selection_", "selector", "trust_remote_code",
)  # fmt: skip
"""Prefixes of the fields that other parts of an identity cover: the tokens of the rows, the model, the selector."""
_FREE = (
    *NOT_OF_THE_RUN, *EVALUATION, "accelerator_config", "auto_find_batch_size", "dataloader_multiprocessing",
    "dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory", "dataloader_prefetch_factor",
    "ddp_", "debug", "deepspeed", "enable_jit_checkpoint", "fsdp", "full_determinism", "ignore_data_skip",
    "include_num_input_tokens_seen", "parallelism_config", "remove_unused_columns",
    "restore_callback_states_from_checkpoint", "save_", "score_store", "skip_memory_metrics",
    "torch_empty_cache_steps",
)  # fmt: skip
"""Prefixes of the fields that do not decide the weights, or by which a user changes the machine or what is exact."""


def run_identity(
    args: SelectiveSFTConfig,
    pool: Pool,
    digest: str,
    selector: Selector,
    sizes: tuple[int, int],
    model: Any,
    in_python: Mapping[str, Any],
) -> dict[str, Any]:
    """Return everything that has to be equal in a run that resumes from a checkpoint of this one.

    Args:
        args: Config of the run.
        pool: The rows.
        digest: Digest of the tokens of the rows.
        selector: Selector of the run.
        sizes: Number of rows per round, without a schedule, and per optimizer update.
        model: The unwrapped model, before it is trained.
        in_python: Functions and optimizers that were passed to the trainer, described by argument.
    """
    order = SelectionOrder.of(args.selection_order)
    return {
        "pool": {"id": pool.id, "rows": len(pool)},
        "tokens": digest,
        "selector": without_paths(selector.spec()),  # checkpoints may be pushed with the model
        "rows_per_round": args.selection_schedule or sizes[0],
        "selection_order": _order(args.selection_order),
        "reselection": [args.reselection_strategy, args.reselection_steps],
        "packing": args.packing and args.packing_strategy,
        "rows_per_update": sizes[1],
        "scoring": [args.scoring_dtype, args.scoring_tokens_per_batch],
        "reuse_training_loss": args.reuse_training_loss,
        "seed": [args.seed, data_seed(args)],
        "model": _describe_model(model),
        "arguments": _arguments(args),
        "in_python": dict(in_python),
        "selector_models": _models_of(selector.scores() if order is None else (*selector.scores(), *order.scores())),
    }


def _arguments(args: SelectiveSFTConfig) -> dict[str, Any]:
    """Return the fields of a config that decide the weights, as plain values."""
    names = [field.name for field in fields(args) if not field.name.startswith((*_FREE, *_IN_OTHER_PARTS))]
    return {name: _plain_or_text(without_secrets(getattr(args, name))) for name in names}


def _plain_or_text(value: Any) -> Any:
    try:
        return plain(value)
    except TypeError:
        return f"a {type(value).__name__}"


def _describe_model(model: Any) -> dict[str, Any]:
    """Return the weights that training begins with, as a digest or a commit, and the settings of the model."""
    config = model.config
    adapters = dict(getattr(model, "peft_config", None) or {})
    described: dict[str, Any] = {
        "weights": _base_identity(config),
        "dtype": str(model.dtype),
        "adapters": sorted(adapters),
    }
    for name, value in config.to_dict().items():
        # not use_cache, which the trainer changes
        if isinstance(value, bool | int | float | None) and not name.startswith("_") and name != "use_cache":
            described[f"config.{name}"] = value
    if (quantization := getattr(config, "quantization_config", None)) is not None:
        described["quantization"] = _plain_or_text(quantization)
    for name, adapter in adapters.items():
        described |= {f"{name}.{key}": value for key, value in _describe_adapter(adapter).items()}
    return described


def _base_identity(config: Any) -> str | None:
    """Return the digest of the files or the commit that a model was loaded from; None if it was created in Python."""
    name = str(getattr(config, "name_or_path", "") or "")
    if name and any((Path(name).expanduser() / file).is_file() for file in ("config.json", "adapter_config.json")):
        return model_identity(name)
    commit = getattr(config, "_commit_hash", None)
    return f"{name}@{commit}" if name and commit else None


def _describe_adapter(adapter: Any) -> dict[str, Any]:
    """Return the settings of an adapter without those that name its base model or say whether it is trained."""
    names = ("base_model_name_or_path", "revision", "auto_mapping", "inference_mode", "peft_version")
    settings = adapter.to_dict()
    return {name: _plain_or_text(value) for name, value in settings.items() if name not in names}


def _order(setting: Any) -> Any:
    return without_paths(setting) if isinstance(setting, Mapping) else setting


def _models_of(scores: Iterable[Score]) -> list[list[str | None]]:
    """Return what the models and files of scores are now: name of the score, and digests or commits.

    A score that no round computes may name a model that does not exist, which has None.
    """
    models: list[list[str | None]] = []
    for score in scores:
        try:
            resolved = score.__reduce__()[1][2]  # what `datasets` hashes, since some names are resolved only there
        except ModelError:
            resolved = None
        models.append([spec_name(score), resolved])
    return models


def tokens_digest(tokens: Dataset) -> str:
    """Return the SHA-256 of the token ids and labels of all rows in order."""
    digest = hashlib.sha256()
    view = tokens.select_columns(["input_ids", "labels"]).with_format("arrow")
    for table in view.iter(batch_size=10_000):
        for name in ("input_ids", "labels"):
            lists = table.column(name).combine_chunks()
            digest.update(np.asarray(lists.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64).tobytes())
            digest.update(np.asarray(lists.flatten().to_numpy(zero_copy_only=False), dtype=np.int64).tobytes())
    return digest.hexdigest()


# -- comparison -------------------------------------------------------------------------------------------------------
def check_identity(path: Path, saved: dict[str, Any], identity: dict[str, Any], writer: str) -> None:
    """Raise if a checkpoint belongs to another run.

    Parts that the release of the checkpoint did not record are not compared, nor are settings that only one of two
    releases has. `check_models` and `check_length` compare what depends on the rounds.

    Args:
        path: Folder of the checkpoint.
        saved: Identity in the checkpoint.
        identity: Identity of this run.
        writer: Release that wrote the checkpoint; empty if it is this one.

    Raises:
        ResumeError: Names what differs, with both values, and what to do.
    """
    current = json.loads(json.dumps(identity, default=str))
    # by the names of this version; releases before a setting trained in random order and without a step filter
    saved = {"selection_order": "random", **saved, "selector": upgraded(saved.get("selector"))}
    if "arguments" in saved:
        saved["arguments"] = {"step_filter": None, **saved["arguments"]}
    differences = {
        name: text
        for name in current
        if name in saved and name != "selector_models" and (text := _difference(name, saved[name], current[name]))
    }
    if differences:
        described = "; ".join(differences.values())
        raise ResumeError(
            f"{str(path)!r} belongs to another run: {', '.join(differences)} differ ({described}).{writer}",
            "Resume it with the settings of the checkpoint; or start a new run with another output_dir and without "
            "resume_from_checkpoint, from the weights of the checkpoint if you pass its folder as the model.",
            "Resume it with the settings of the checkpoint; or start a new run with another --output_dir and without "
            "--resume_from_checkpoint, from the weights of the checkpoint with --model_name_or_path FOLDER.",
        )
    if "arguments" not in saved:
        logger.warning(
            "%s was written by a release that recorded no training arguments and no digests of models and files: "
            "whether they are equal in this run is not checked.", path,
        )  # fmt: skip
        return
    for name, before, now in _changed(saved["arguments"], current["arguments"]):
        if name.startswith(_ROUNDING):
            logger.warning(
                "%s: %s is %s in the checkpoint and %s in this run. The resumed run trains on the same rows, but its "
                "weights do not equal those of an uninterrupted one exactly.", path, name, before, now,
            )  # fmt: skip


def check_columns(path: Path, columns: Mapping[str, str], pool: Dataset) -> None:
    """Raise if a column that a selection relied on has other values now.

    Args:
        path: Folder of the checkpoint.
        columns: Digest of each column by name.
        pool: Rows of this run.

    Raises:
        ResumeError: Names the column.
    """
    for name, digest in columns.items():
        if name not in pool.column_names or column_digest(pool, name) != digest:
            now = "has other values now" if name in pool.column_names else "no longer exists"
            raise ResumeError(
                f"{str(path)!r} belongs to another run: its rows were selected or ordered by column {name!r}, which "
                f"{now}."
            )


def check_models(path: Path, saved: dict[str, Any], identity: dict[str, Any], selects_again: bool) -> None:
    """Raise if a model or file of the selector has other content now and a later round reads it.

    Args:
        path: Folder of the checkpoint.
        saved: Identity in the checkpoint.
        identity: Identity of this run.
        selects_again: Whether a round that has not begun yet selects rows. If none does, the checkpoint holds the rows
            of all rounds, and a changed model is only worth a warning.

    Raises:
        ResumeError: Names the scores.
    """
    before, now = saved.get("selector_models"), [list(pair) for pair in identity["selector_models"]]
    if before is None or before == now:
        return
    changed = dict.fromkeys(name for name, value in now if [name, value] not in before)
    names = ", ".join(changed) or "a score"
    if selects_again:
        raise ResumeError(
            f"{str(path)!r}: a model or file that {names} reads has changed since the checkpoint was saved, and later "
            "rounds would select with it.",
            "Restore it, or start without resume_from_checkpoint.",
        )
    logger.warning(
        "%s: a model or file that %s reads has changed since the checkpoint was saved. The rows of all rounds have "
        "been selected before, so that it is not read again.", path, names,
    )  # fmt: skip


def check_length(
    path: Path,
    saved: dict[str, Any],
    identity: dict[str, Any],
    plan: Sequence[Mapping[str, Any]],
    schedule: Schedule,
    rounds: int,
    global_step: int,
) -> None:
    """Raise if this run is longer or shorter in a way that the rounds of the checkpoint do not permit.

    The rounds that have ended have to be those of this run, and the round of the checkpoint may only become longer
    or shorter.

    Args:
        path: Folder of the checkpoint.
        saved: Identity in the checkpoint.
        identity: Identity of this run.
        plan: Planned rounds of the run of the checkpoint.
        schedule: Schedule of this run, before it begins.
        rounds: Number of rounds that have begun.
        global_step: Updates of the checkpoint.

    Raises:
        ResumeError: Names the setting, with both values.
    """
    if "arguments" not in saved:
        return
    changes = [change for change in _changed(saved["arguments"], identity["arguments"]) if change[0] in _LENGTH]
    if not changes:
        return
    described = "; ".join(f"{name}: {before} in the checkpoint, {now} in this run" for name, before, now in changes)
    before = [dict(plan[min(index, len(plan) - 1)]) for index in range(rounds)]
    now = [asdict(schedule.round_plan(index)) for index in range(rounds)]
    if before:  # the last one may have another length
        before[-1]["epochs"] = now[-1]["epochs"]
    if before != now:
        raise ResumeError(
            f"{str(path)!r} cannot be continued in a run of another length ({described}): the rounds before it would "
            "have been others. Use the length of the checkpoint, or start without resume_from_checkpoint."
        )
    if global_step > schedule.max_steps:
        raise ResumeError(
            f"{str(path)!r} has {global_step:,} updates, more than the {schedule.max_steps:,} of this run "
            f"({described}). Resume from an earlier checkpoint, or start without resume_from_checkpoint."
        )
    logger.warning(
        "%s: %s. The learning rate of the remaining updates is that of the new length, so that the weights do not "
        "equal those of a run that began with it.", path, described,
    )  # fmt: skip


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return name and values of the settings that both have and that differ."""
    return [(name, before[name], now[name]) for name in now if name in before and before[name] != now[name]]


def _difference(name: str, before: Any, now: Any) -> str:
    """Describe how one part of an identity differs between a checkpoint and this run; empty if it does not."""
    if before == now:
        return ""
    if name == "tokens":
        return "the same rows have other tokens or labels in this run"
    if not isinstance(before, dict) or not isinstance(now, dict):
        return _values("", before, now)
    if name == "pool":
        if before["rows"] == now["rows"]:
            return "other rows"
        return f"another dataset: {before['rows']:,} rows in the checkpoint, {now['rows']:,} in this run"
    if name in ("arguments", "model"):  # not settings that only one of two versions of the libraries has
        changed = [change for change in _changed(before, now) if not change[0].startswith((*_ROUNDING, *_LENGTH))]
        return "; ".join(_values(*change) for change in changed)
    if name == "selector" and before.get("selector") != now.get("selector"):
        return _values("", before.get("selector"), now.get("selector"))
    return "; ".join(_changed_settings(before, now))


def _values(name: str, before: Any, now: Any) -> str:
    return f"{name}{': ' if name else ''}{before} in the checkpoint, {now} in this run"


def _changed_settings(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Describe the settings that differ, also those of inner scores, selectors and adapters."""
    changes = []
    for key in (key for key in {**before, **now} if before.get(key) != now.get(key)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += _changed_settings(old, new, f"{prefix}{key}.")
        else:
            changes.append(_values(f"{prefix}{key}", old, new))
    return changes
