"""`SFTTrainer` that selects its training rows with the model as it is at that moment."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import os
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from huggingface_hub import EvalResult
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PredictionOutput
from trl import SFTTrainer

from hf_datasel.cards.facts import TrainingRun
from hf_datasel.cards.push import check_push, push_selections
from hf_datasel.cards.sections.training import training_facts
from hf_datasel.errors import PublishError
from hf_datasel.hub.parents import parents_of
from hf_datasel.hub.secrets import SecretScan
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.run import check_budget
from hf_datasel.scoring.cost import Cost, Parameters
from hf_datasel.scoring.eval_mode import preserve_rng_state
from hf_datasel.selection import Selection
from hf_datasel.selection.provenance import without_paths
from hf_datasel.tokens.row_tokenizer import RowTokenizer
from hf_datasel.tokens.tool_calls import conversion_options
from hf_datasel.tokens.training import check_chat_template
from hf_datasel.tokens.valid_rows import RowRenderer, prepare_valid_rows, prepare_valid_stream
from hf_datasel.training.arguments import (
    SelectorLike,
    check_labels,
    check_processing_class,
    evaluation_rows,
    prepare_arguments,
)
from hf_datasel.training.checkpoint_files import (
    check_checkpoint,
    last_complete_checkpoint,
    remove_stale_files,
    save_digests,
)
from hf_datasel.training.checkpoint_state import (
    CarriedState,
    CheckpointCallback,
    SelectionState,
    check_resume_supported,
    load_selections,
    restore_dtypes,
    save_selection,
)
from hf_datasel.training.config import SelectiveSFTConfig, data_seed
from hf_datasel.training.loss_cache import LossCache
from hf_datasel.training.model_card import card_results, evaluation_results, extend_card, training_data_section
from hf_datasel.training.order import RoundOrder
from hf_datasel.training.private_names import check_private_names
from hf_datasel.training.restart import BaseWeights, OptimizerSnapshot
from hf_datasel.training.round_data import TokenizedPool, release_dataloader, token_settings
from hf_datasel.training.round_selection import RoundRunner, model_state, round_logs
from hf_datasel.training.row_weights import RowFactors
from hf_datasel.training.run_config import run_settings
from hf_datasel.training.run_cost import COST_JSON, RunCost
from hf_datasel.training.run_identity import check_length, check_models, run_identity
from hf_datasel.training.samplers import begin_epoch, seeded
from hf_datasel.training.schedule import (
    Schedule,
    build_schedule,
    planned_rounds,
    requested_by,
    rows_per_round,
    scale_lr_lambda,
    updates_per_pass,
)
from hf_datasel.training.sharding import check_restarts
from hf_datasel.training.tracking import alert_of_same_rows, log_selected_rows

__all__ = ["SelectiveSFTTrainer"]

logger = logging.getLogger(__name__)


class SelectiveSFTTrainer(SFTTrainer):
    """`trl.SFTTrainer` that trains each round on the rows a selector selects with the current model.

    Takes the arguments of `SFTTrainer` and a `selector`. `train_dataset` is the pool, in any supported row format,
    rows that are tokenized already (`input_ids` with `labels`, `completion_mask`, `assistant_masks` or none of them),
    rows whose text is in the column `dataset_text_field`, and rows that `formatting_func` turns into text. Scores and
    selectors that need a text or a response which such rows do not have are refused when the trainer is built.

    Until the first selection, `trainer.train_dataset` contains as many rows as the first round trains on (the first
    ones of the pool), so that its length gives the number of steps. From the first step of a round on it contains the
    rows of that round, in the order of the pool, or in `selection_order`; with `packing` or `shuffle_dataset`, packed
    and shuffled.

    With the whole pool selected (`All()`), weights and logs equal those of `SFTTrainer` bit for bit. It differs in:

    - Refused: streaming pools, `with_transform`, images and multimodal processors, `skip_prepare_dataset`, a
      `formatting_func` for rows with columns that `SFTTrainer` trains on instead, and prompt-learning adapters (prompt
      tuning, prefix tuning, p-tuning) together with scores of the model in training, because virtual tokens come
      before every row.
    - Chat templates receive mappings in tools, calls and messages without nulls (arguments of calls in JSON text keep
      theirs), arguments as mappings if they take them, numbers of `Json` columns as they are written, and content
      parts as one text. `SFTTrainer` renders what the columns hold, for example a null for each argument that only
      tools of other rows have. Assistant turns that loss flags exclude get no labels.
    - Rows that cannot be rendered end a run of `SFTTrainer`. Here they are excluded, and so are rows with an empty
      response or an empty text.
    - `state.log_history` has an entry for each selection, without a loss. The first one comes before the first step.
    - `packing`: rows are packed as `SFTTrainer` packs them, and not truncated before. Scores read the first
      `max_length` tokens of a row, since no packed sequence is longer: `packing_strategy="bfd"` trains on exactly
      these, and the other strategies also on the rest of the row, as other sequences.
    - `selection_order`: rows are trained on in the order of the selection, or of a column or score.
    - `train_sampling_strategy="group_by_length"`: the sampler has a seed for each epoch, so that a run can be resumed,
      and the order of batches differs from that of `SFTTrainer`.
    - Callbacks: `control.should_epoch_stop` ends the pass over the rows of the current round. With a selector that
      reselects, the next epoch begins with a selection.

    Selecting does not influence training otherwise: `SFTTrainer` gives the same weights when it trains on the same
    rows. Resuming from any checkpoint gives the weights of an uninterrupted run, and does not score the current round
    again. If rounds restart from the base model, its trainable weights are stored in `output_dir/_base_weights`, which
    is not pushed.

    Each selection is appended to `trainer.selections` and saved to `output_dir/selections/round-K`. Per round the
    trainer logs `selection_round`, `selection_rows_scored`, `selection_rows`, `selection_rows_excluded` (rows of the
    pool that cannot be trained on: malformed, not rendered by the chat template, or without a label),
    `selection_<score>_mean`, `selection_overlap` (Jaccard similarity with the previous round), `selection_seconds` and
    `selection_time_share`.

    When training ends, `output_dir/cost.json` holds what the run cost (see `hf_datasel.scoring.Cost`), across all
    checkpoints that it was resumed from: `selecting`, the sum of its rounds, `training`, and `evaluation` if there was
    one while it trained.

    `push_to_hub` pushes the model as TRL does, with a card that says how its rows were selected, and with
    `push_selection=True` in `args` the selections as well. The metadata of the card contains the last evaluation.
    Other results, for example of `evaluate`, can be appended to `trainer.evaluation_results`:

        accuracy = evaluate.load("accuracy").compute(predictions=predictions, references=references)["accuracy"]
        trainer.evaluation_results.append(
            EvalResult("text-generation", "openai/gsm8k", "GSM8K", "accuracy", accuracy)
        )

    Args:
        *args: Positional arguments of `SFTTrainer`. Its `args` may be an `SFTConfig`, which means the default
            selection.
        selector: A selector such as `IterIT(decay=0.1)`, its name (`"iterit"`), or its name with settings
            (`{"iterit": {"decay": 0.1}}`); by default the one that `args` names.
        **kwargs: Keyword arguments of `SFTTrainer`.

    Attributes:
        selections: The selection of each round, in order.
        evaluation_results: Results to add to the metadata of the model card.
        costs: Cost of the last complete run by phase, as in `cost.json`.

    Raises:
        ConfigError: Settings that contradict each other; a pool that has no row numbers or tokens (streaming, images,
            `skip_prepare_dataset`); a `max_length` that leaves no label; evaluation datasets without rows; or
            unsupported versions of TRL and transformers.
        FormatError: Rows in no supported format, none that can be trained on, or rows without what a score reads.
    """

    _tag_names = ["trl", "sft", "hf_datasel"]  # noqa: RUF012 (declared so by TRL)

    args: SelectiveSFTConfig
    data_collator: Any
    train_dataset: Any
    lr_scheduler: Any
    _budget: int
    _identity: dict[str, Any]
    _saved_state: SelectionState  # of the checkpoint that the run resumes from
    _data: TokenizedPool
    _carried: CarriedState
    _losses: LossCache
    _factors: RowFactors
    _runner: RoundRunner
    _base_weights: BaseWeights
    _has_base_weights: bool
    _optimizer_snapshot: OptimizerSnapshot | None
    _checkpoint_callback: CheckpointCallback
    _current_round: int
    _loader: Any  # of the current round
    _sampler: Any  # of that dataloader
    _selection_seconds: float
    _train_start: float
    _parameters: Parameters
    _run_cost: RunCost | None  # while the model trains

    def __init__(self, *args: Any, selector: SelectorLike | None = None, **kwargs: Any) -> None:
        check_private_names(type(self))
        self.selections: list[Selection] = []
        self.evaluation_results: list[EvalResult] = []
        self.costs: dict[str, Cost] = {}
        self._run_cost = None
        self._evaluated: dict[str, dict[str, str]] = {}  # prefix of metrics -> origin of the rows, of `evaluate`
        self._published_at: str | None = None  # repository of the selections of this run
        self._candidates: Dataset | None = None
        self._template_errors: dict[int, str] = {}  # pool row -> error
        self._schedule = Schedule((), [])
        prepared = prepare_arguments(SFTTrainer, self, args, kwargs, selector)
        arguments, self._pool, self._selector, self._run_config, self._text_function = prepared
        config: SelectiveSFTConfig = arguments["args"]
        self._check_push(config)
        user_values = config.user_values()
        super().__init__(**arguments)
        self.args.mark_derived(user_values)
        assert self._candidates is not None
        self._budget = rows_per_round(self.args, len(self._pool))
        for row, error in list(self._template_errors.items())[:1]:
            self._pool.mark(list(self._template_errors), "template_error")
            self._pool.mark([row], "template_error", error)
        settings = token_settings(self.args, self.completion_only_loss)
        self._data = TokenizedPool(self._pool, self._candidates, self._tokenizer, self.args, settings)
        self._data.warn_of_exclusions()
        self._data.check_tokens(self.model)
        self._carried = CarriedState()
        self._losses = LossCache(self, lambda: self._schedule)
        self._factors = RowFactors(self, self._selector.sets_weights())
        self._runner = RoundRunner(self._selector, self._data, self._losses, self.args, self.accelerator)
        self._base_weights = BaseWeights(self.args.output_dir)
        self._has_base_weights = False
        self._optimizer_snapshot = None
        self._loader = None
        self._current_round = -1
        self._sampler = None
        self._selection_seconds = 0.0
        self._train_start = time.perf_counter()
        plan = self._planned_rounds(self.args.num_train_epochs)  # raises before anything starts
        check_restarts(plan, self.accelerator, self.model, type(self._selector).__name__)
        self._runner.check_scores(self.model, plan)
        self.train_dataset = self._data.first_rows(plan[0].budget)
        self._checkpoint_callback = CheckpointCallback(self._needs_checkpoint)
        self.add_callback(self._checkpoint_callback)

    # -- overrides, in the order in which training calls them -------------------------------------------------------
    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, packing: bool, formatting_func: Any, dataset_name: str
    ) -> Any:
        """Override `SFTTrainer._prepare_dataset` to tokenize the pool without shuffling or packing it.

        Rows that cannot be rendered or tokenized are excluded, and turns that loss flags exclude get no labels. Rounds
        are shuffled and packed separately, in `TokenizedPool.dataset`. `use_liger_kernel` is off here because some
        versions of TRL then drop the text columns, which scores need.
        """
        check_processing_class(processing_class)  # loaded with the model if none was passed
        is_pool = dataset_name == "train" and self._candidates is None
        plain = copy.copy(args)
        plain.dataset_text_field = "text"  # the column that rows of plain text are converted to
        if is_pool:
            plain.shuffle_dataset = plain.packing = plain.use_liger_kernel = False
            if packing:  # it cuts long rows itself, and keeps those without a label
                plain.max_length = None
        whole = copy.copy(plain)
        whole.max_length, whole.shuffle_dataset, whole.use_liger_kernel = None, False, False

        def prepare(rows: Any, truncate: bool) -> Any:
            options = (plain, packing and not is_pool) if truncate else (whole, False)
            return super(SelectiveSFTTrainer, self)._prepare_dataset(
                rows, RowTokenizer(processing_class), *options, formatting_func, dataset_name
            )

        if "input_ids" in (dataset.column_names or next(iter(dataset), {})):
            rows, errors = prepare(dataset, True), dict[int, str]()
            if isinstance(dataset, IterableDataset):
                return rows
        else:
            settings = token_settings(args, self.completion_only_loss)
            renderer = RowRenderer(self._tokenizer, settings, self.chat_template)
            if isinstance(dataset, IterableDataset):
                return prepare_valid_stream(dataset, prepare, renderer)
            check_chat_template(dataset, self._tokenizer)
            rows, errors = prepare_valid_rows(dataset, prepare, renderer)
        check_labels(rows, len(dataset) - len(errors), args, "train_dataset" if is_pool else dataset_name)
        if is_pool:
            self._candidates, self._template_errors = rows, errors
        elif errors:
            logger.warning(
                "The %s dataset: %d of %d rows are not used, since they cannot be rendered or tokenized. The first "
                "error: %s", dataset_name, len(errors), len(dataset), next(iter(errors.values())),
            )  # fmt: skip
        return rows

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Override `Trainer.train` to start the selection again, and to resume from a complete checkpoint only.

        Args:
            resume_from_checkpoint: Folder of a checkpoint, or True for the last complete one in `output_dir`. If the
                run in `output_dir` was killed before it had saved one, training begins again, with a warning. Without
                it, rows are selected again in every call.
            *args: Further arguments of `Trainer.train`.
            **kwargs: Further keyword arguments of `Trainer.train`.

        Raises:
            ResumeError: There is nothing to resume from; or the checkpoint is incomplete, damaged, or of a run with
                other rows, models or settings. The message says what differs.
        """
        self._selection_seconds = 0.0
        self._train_start = time.perf_counter()
        self._published_at = None
        self._has_base_weights = False
        # Trainer counts steps on a dataset that is as long as that of the first round
        self.train_dataset = self._data.first_rows(self._planned_rounds(self.args.num_train_epochs)[0].budget)
        model = self.accelerator.unwrap_model(self.model)
        self._dtypes = {name: weight.dtype for name, weight in model.named_parameters()}
        self._identity = self._run_identity(model)
        self._parameters = Parameters.of(model)
        self.costs = {}
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
        elif resume_from_checkpoint:
            check_checkpoint(resume_from_checkpoint)
        if resume_from_checkpoint:
            check_resume_supported(self.args.world_size, self.args.device)
            self._saved_state = self._load_state(resume_from_checkpoint)  # raises before the weights are loaded
        if self.args.should_save:  # a run that is killed while it selects the first rows can begin again
            (Path(self.args.output_dir) / "selections").mkdir(parents=True, exist_ok=True)
            (Path(self.args.output_dir) / COST_JSON).unlink(missing_ok=True)
        try:
            with self._losses.hooked(model), self._factors.training(model):
                output = super().train(resume_from_checkpoint, *args, **kwargs)
            assert self._run_cost is not None
            self.costs = self._run_cost.finish(self.args.output_dir)
        except BaseException:  # the message of the error begins on a line of its own
            for callback in self.callback_handler.callbacks:
                if isinstance(bar := getattr(callback, "training_bar", None), tqdm):
                    bar.close()
            raise
        finally:
            self._run_cost = None
            if self._loader is not None and self._loader.num_workers:
                release_dataloader(self, self._loader)
                self._loader = None  # its workers end now, and not when garbage is collected, which would take seconds
        return output

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Override `Trainer._get_train_sampler` to train in `selection_order`, and to seed `LengthGroupedSampler`.

        Without a seed it differs between processes and cannot be resumed.
        """
        is_ordered, seed = self._runner.order is not None, data_seed(self.args)
        self._sampler = seeded(super()._get_train_sampler(train_dataset), is_ordered, seed)
        return self._sampler

    def get_train_dataloader(self) -> Any:
        """Override `Trainer.get_train_dataloader` to name the rows of batches in rounds whose rows have factors."""
        with self._factors.loading():
            return super().get_train_dataloader()

    def set_initial_training_values(self, args: Any, dataloader: Any) -> tuple[Any, ...]:
        """Override `Trainer.set_initial_training_values` to count the steps and epochs of all rounds.

        `Trainer` multiplies those of one dataset, while rounds may differ in size.
        """
        if self._loader is not None:  # auto_find_batch_size starts again, maybe from the middle of a later round
            dataloader = self._counting_loader(self._planned_rounds(args.num_train_epochs)[0].budget)
        self.selections, self._current_round, self._loader = [], -1, None
        values = list(super().set_initial_training_values(args, dataloader))
        self._schedule = build_schedule(args, self._planned_rounds, self._count_updates, updates=values[1])
        # a bounded run has as many rounds as it takes, each of which may be shorter than planned
        values[0], values[6] = self._schedule.epochs, self._schedule.max_steps
        values[3] = values[6] * values[4] if self._schedule.bounded else self._schedule.num_samples
        return tuple(values)

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None,
        trial: Any,
    ) -> tuple[int, int]:
        """Override `Trainer._init_training_state` to resume the rounds of a checkpoint.

        `Trainer` computes the position in the run from epochs of equal length. It is replaced by the actual one.
        """
        position: tuple[int, int] = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        self.state.num_train_epochs = self._schedule.epochs
        self._carried = CarriedState()
        self._losses.clear()
        self._factors.initial_losses = None if resume_from_checkpoint is None else self._saved_state.initial_losses
        parallel = getattr(self.accelerator, "parallelism_config", None)
        shared_by = 1 if parallel is None else parallel.non_data_parallel_size
        earlier = {} if resume_from_checkpoint is None else self._saved_state.costs
        self._run_cost = RunCost(self._parameters, self.args.device, shared_by, earlier)
        if resume_from_checkpoint is None:
            self._store_base_weights(None, None)
            return position
        restore_dtypes(self.accelerator.unwrap_model(self.model), self._dtypes)
        saved = copy.deepcopy(self._saved_state)  # auto_find_batch_size may begin again
        self._schedule.restore(saved.records)
        self._store_base_weights(resume_from_checkpoint, saved.base)
        self._carried = saved.carried
        self._losses.restore(saved.losses)
        self.state.max_steps = self._schedule.max_steps
        self.selections = load_selections(
            self.args.output_dir, resume_from_checkpoint, saved, self._pool, self.args.should_save
        )
        if len(self._schedule.records) < len(self._schedule.plan):
            self._carried.check_checkpoints()
        resumed = self._schedule.position(self.state.global_step, saved.pass_ended)
        batches = 0 if self.args.ignore_data_skip else resumed.update * self.args.gradient_accumulation_steps
        return resumed.epoch, batches

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Override `Trainer.create_scheduler` to compute the learning rate from the progress through the rounds.

        A round may be shorter or longer than planned, and where rounds restart from the base model the learning rate
        restarts as well.
        """
        is_new = self.lr_scheduler is None
        if self._schedule.restarts and optimizer is None:
            if self._optimizer_snapshot is None:
                own = None if is_new else self.lr_scheduler
                self._optimizer_snapshot = OptimizerSnapshot(self.optimizer, own, self.accelerator.scaler)
            num_training_steps = self._schedule.segment_updates
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if is_new and isinstance(scheduler, LambdaLR):
            scheduler.lr_lambdas = [
                scale_lr_lambda(lambda: self._schedule, lr_lambda) for lr_lambda in scheduler.lr_lambdas
            ]
        return scheduler

    def _run_epoch(self, **kwargs: Any) -> None:
        """Override `Trainer._run_epoch` to train on the rows of the current round, which it selects if it begins."""
        epoch = kwargs["epoch"]
        index, number = self._schedule.round_of(epoch)
        if kwargs["train_dataloader"] is not self._loader:
            release_dataloader(self, kwargs["train_dataloader"])  # created before the rows were known
        finished = self.state.global_step >= self.state.max_steps  # resumed from the end of a run
        if finished or (index != self._current_round and not self._begin_round(index)):
            self.control.should_training_stop = True
            return
        self._schedule.begin_pass(index, number, self.state.global_step)
        self.state.max_steps = self._schedule.max_steps
        updates, batches = self._schedule.records[index].per_pass, len(self._loader)
        updates_in_pass = self._schedule.updates_in_pass(index, number)
        is_last = not self._schedule.bounded and epoch + 1 == self._schedule.epochs
        if updates_in_pass < updates and not is_last:  # a part of an epoch; max_steps ends the last one of a run
            updates, batches = updates_in_pass, updates_in_pass * self.args.gradient_accumulation_steps
        begin_epoch(self._sampler, self._loader, self._schedule.records[index].order, data_seed(self.args), epoch)
        kwargs |= {
            "train_dataloader": self._loader,
            "steps_in_epoch": batches,
            "num_update_steps_per_epoch": updates,
        }
        super()._run_epoch(**kwargs)
        self._checkpoint_callback.requested = False
        stopped = self.control.should_training_stop and self.state.global_step < self.state.max_steps
        if stopped and self._schedule.round_plan(index).kind == "warm-up":
            logger.warning(
                "A callback stopped training in round %d, which is a warm-up: no rows were selected after it, and the "
                "model is the warmed-up one. To continue, resume from the last checkpoint without that callback.",
                index,
            )

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Override `SFTTrainer.training_step` to count tokens, record the losses of rows and apply their factors."""
        if self._run_cost is not None:
            self._run_cost.count("training", inputs)
        with self._losses.recording(), self._factors.step(inputs, num_items_in_batch):
            return super().training_step(model, inputs, num_items_in_batch)

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        """Override `SFTTrainer.prediction_step` to count its tokens while the model trains."""
        if self._run_cost is not None:
            self._run_cost.count("evaluation", inputs)
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Override `SFTTrainer.log` to add the share of the time of selecting to the last entry of a run."""
        if runtime := logs.get("train_runtime"):
            logs["selection_time_share"] = round(self._selection_seconds / runtime, 4)
        super().log(logs, start_time)

    def evaluate(
        self,
        eval_dataset: Dataset | dict[str, Dataset] | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Override `SFTTrainer.evaluate` to accept rows in any supported format.

        The origin of the rows is recorded for the model card.
        """
        if isinstance(eval_dataset, Dataset):
            self._evaluated[metric_key_prefix] = parents_of(eval_dataset).only
        elif not isinstance(eval_dataset, Mapping):
            self._evaluated.pop(metric_key_prefix, None)
        rows = self._evaluation_rows(eval_dataset)
        with nullcontext() if self._run_cost is None else self._run_cost.evaluating():
            metrics: dict[str, float] = super().evaluate(rows, ignore_keys, metric_key_prefix)
        return metrics

    def predict(
        self, test_dataset: Dataset, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Override `Trainer.predict` to accept rows in any supported format, in their order and without packing.

        Rows that could not be trained on, and rows that `max_length` leaves without a label, have no prediction.
        """
        rows = self._evaluation_rows(test_dataset)
        if isinstance(rows, Dataset | IterableDataset) and "input_ids" not in (rows.column_names or []):
            ordered = copy.copy(self.args)
            ordered.shuffle_dataset = False
            rows = self._prepare_dataset(rows, self.processing_class, ordered, False, None, "test")
        collator = self.data_collator
        if getattr(collator, "padding_free", False):  # it concatenates the rows of a batch
            self.data_collator = dataclasses.replace(collator, padding_free=False)
        try:
            return super().predict(rows, ignore_keys, metric_key_prefix)
        finally:
            self.data_collator = collator

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Override `Trainer.save_model` to save the state of the selection beside the weights."""
        checkpoint = output_dir if _internal_call else None
        if checkpoint is not None and self.args.should_save:
            remove_stale_files(checkpoint)
        super().save_model(output_dir, _internal_call)
        if checkpoint is not None:  # all processes save
            if self._checkpoint_callback.requested and checkpoint not in self._carried.checkpoints:
                self._carried.checkpoints.append(checkpoint)
            self._losses.gather()
            if self._run_cost is not None:
                self._run_cost.gather()
        if self.args.should_save and self._schedule.records:
            records = self._schedule.records
            carried = self._carried
            if len(records) == len(self._schedule.plan):  # no later round reads the checkpoints
                carried = dataclasses.replace(carried, checkpoints=[])
            SelectionState(
                self._current_identity(),
                records,
                carried,
                losses=self._losses.arrays(),
                pass_ended=self.control.should_epoch_stop,
                base=self._base_weights.digest if self._has_base_weights else None,
                plan=[dataclasses.asdict(round_plan) for round_plan in self._schedule.plan],
                selections=[selection.provenance for selection in self.selections],
                costs=self.costs if self._run_cost is None else self._run_cost.known_costs,
                initial_losses=self._factors.initial_losses,
            ).save(output_dir or self.args.output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Override `Trainer._save_checkpoint` to add the digests of all files.

        They are written after the state of the trainer, which is the last file, and before the checkpoint is pushed
        and earlier checkpoints are deleted.
        """
        save_state = self.state.save_to_json

        def save_state_and_digests(json_path: str) -> None:
            save_state(json_path)
            save_digests(Path(json_path).parent)

        self.state.save_to_json = save_state_and_digests
        try:
            super()._save_checkpoint(model, trial)
        finally:
            del self.state.save_to_json

    def _save_rng_state(self, output_dir: str) -> None:
        """Override `Trainer._save_rng_state` to wait until every process has written its files."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Override `Trainer._save` to leave tokens out of training_args.bin, which is pushed with the model."""
        with self.args.hidden_secrets():
            super()._save(output_dir, state_dict)

    # -- overrides for the Hub ----------------------------------------------------------------------------------------
    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Override `Trainer._push_from_checkpoint` to leave tokens out of training_args.bin, which it writes again."""
        with self.args.hidden_secrets():
            super()._push_from_checkpoint(checkpoint_folder)

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """Override `Trainer.init_hf_repo` to silence a warning of `huggingface_hub` about data files.

        The scores of the selections are data files that belong into the repository of the model.
        """
        warnings.filterwarnings("ignore", r"It seems that you are about to commit a data file \(selections/round-")
        super().init_hf_repo(*args, **kwargs)

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        """Override `create_model_card` of TRL to add the selection, the datasets and the evaluation results."""
        parent = self._run_config.parent.get("name")
        super().create_model_card(model_name, dataset_name or parent, tags)
        path = Path(self.args.output_dir) / "README.md"
        if not self.is_world_process_zero() or not path.is_file():
            return
        section = training_data_section(
            self.selections,
            self._run_config.parent,
            len(self._pool),
            self._selector,
            self._published_at,
            time_share=training_facts(self.state.log_history, {})["selection_time_share"],
            run=run_settings(self.args),
            costs=self.costs,
        )
        extend_card(
            path,
            section=section,
            datasets=[name for name in (dataset_name, parent, self._published_at) if name is not None],
            results=self._results(),
            name=model_name or os.path.basename(self.hub_model_id or os.path.abspath(self.args.output_dir)),
        )

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Override `Trainer.push_to_hub` to publish the selections as well, if `push_selection` is on.

        They are pushed to a dataset repository of their own. The model is pushed also if that fails.

        Args:
            commit_message: As for `Trainer.push_to_hub`.
            blocking: As for `Trainer.push_to_hub`.
            token: As for `Trainer.push_to_hub`.
            revision: As for `Trainer.push_to_hub`.
            private: Whether new repositories are private; by default as `hub_private_repo` says.
            **kwargs: Further keyword arguments of `Trainer.push_to_hub`.

        Raises:
            PublishError: The selections cannot be published. The model has been pushed nevertheless.
        """
        if self.hub_model_id is None:
            if private is not None:  # an argument of init_hf_repo only in some versions of transformers
                self.args.hub_private_repo = private
            self.init_hf_repo(token=token if token is not None else self.args.hub_token)
        problem = None
        if self.args.push_selection:
            self.save_model(_internal_call=True)  # before anything that may take long or fail
        if self.args.push_selection and self.is_world_process_zero():
            try:
                self._push_selections(token, private)
            except Exception as error:  # any error: the trained model is more important
                problem = error
        try:
            pushed = super().push_to_hub(commit_message, blocking, token, revision, **kwargs)
        except Exception as error:
            if problem is not None:
                error.add_note(f"The selections were not published either: {problem}")
            raise
        if problem is not None:
            raise problem
        return pushed

    # -- rounds -------------------------------------------------------------------------------------------------------
    def _planned_rounds(self, num_epochs: float) -> tuple[RoundPlan, ...]:
        eligible = self._data.eligible
        plan = planned_rounds(self._selector, self.args, self._budget, num_epochs, int(eligible.sum()))
        for round_plan in plan:
            requested = requested_by(self.args, round_plan.budget, len(self._pool))
            check_budget(round_plan.budget, self._pool, eligible, requested, self._selector.shortfall_hint)
        return plan

    def _counting_loader(self, size: int) -> Any:
        """Return a dataloader of so many rows, to count its batches."""
        before = self.train_dataset
        with preserve_rng_state():
            self.train_dataset = self._data.first_rows(size)
            loader = self.get_train_dataloader()
            release_dataloader(self, loader)
        self.train_dataset = before
        return loader

    def _count_updates(self, size: int) -> int:
        return updates_per_pass(len(self._counting_loader(size)), self.args.gradient_accumulation_steps)

    def _begin_round(self, index: int) -> bool:
        """Make a round the current one: select its rows if it has not begun yet, and create its dataloader."""
        is_new = index == len(self._schedule.records)
        record = None if is_new else self._schedule.records[index]
        rows, order, weights = self._select(index) if record is None else (record.rows, record.order, record.weights)
        if rows.size == 0:
            logger.warning("Round %d: there are no rows left to train on, so training ends here.", index)
            return False
        self._factors.begin_round(rows, weights, len(self._pool))
        with preserve_rng_state():
            self.train_dataset = self._data.dataset(rows if order is None else order.rows, order is not None)
            if self._loader is not None:
                release_dataloader(self, self._loader)
            self._loader = None
            self._loader = self.get_train_dataloader()
        self.callback_handler.train_dataloader = self._loader
        self._current_round = index
        if is_new:
            per_pass = updates_per_pass(len(self._loader), self.args.gradient_accumulation_steps)
            self._schedule.begin(rows, per_pass, self.state.global_step, order, weights)
            self.state.max_steps = self._schedule.max_steps
            if self._schedule.round_plan(index).restart and index:
                self._restart()
        return True

    def _select(self, index: int) -> tuple[np.ndarray, RoundOrder | None, np.ndarray | None]:
        """Select the rows of a round that begins now, their order and their weights; save and log the selection."""
        assert self._run_cost is not None
        with self._run_cost.selecting() as meter, preserve_rng_state():
            rows, order, context = self._runner.run(index, self._schedule, self._carried, self.model, self.optimizer)
            trained = rows if len(self._schedule.plan) == 1 and not self._schedule.repeats else self._data.rows
            self._factors.record_initial_losses(partial(self._runner.label_losses, self.model), trained)
        seconds = meter.cost["wall_seconds"]
        self._selection_seconds += seconds
        if rows.size:
            model = self.accelerator.unwrap_model(self.model)
            selection = Selection.from_round(
                context,
                self._selector,
                rows,
                seconds=seconds,
                cost=meter.cost,
                model=model_state(model, self._schedule, self.state.global_step),
                training=self._run_config.provenance(self.args, model.config),
            )
            selection.provenance = without_paths(selection.provenance)  # it may be pushed with the model
            previous = self._schedule.records[-1].rows if self._schedule.records else None
            share = self._selection_seconds / (time.perf_counter() - self._train_start)
            # not SFTTrainer.log, which would flush the training metrics accumulated so far
            logs = round_logs(context, selection, previous, seconds, share)
            Trainer.log(self, logs)
            if self.is_world_process_zero():  # after the log, which starts the trackers
                log_selected_rows(self.args.report_to, context, selection, self.args.log_selected_rows)
                alert_of_same_rows(self.args.report_to, index, logs.get("selection_overlap"))
            self.selections.append(selection)
            if self.args.should_save:
                save_selection(selection, self.args.output_dir, index)
        return rows, order, context.record.weights_of(rows)

    def _needs_checkpoint(self) -> bool:
        """Return whether the current round needs a checkpoint after each epoch."""
        return self._schedule.round_plan(self._current_round).checkpoints

    def _restart(self) -> None:
        """Restore the base weights, and restart the optimizer and the learning rate."""
        assert self._optimizer_snapshot is not None
        self._base_weights.restore(self.accelerator.unwrap_model(self.model))
        self._optimizer_snapshot.restore(self.optimizer, self.lr_scheduler, self.accelerator.scaler)
        if not self._optimizer_snapshot.has_scheduler:
            self.lr_scheduler = None
            self.create_scheduler(self._schedule.segment_updates)
            self.callback_handler.lr_scheduler = self.lr_scheduler
        # the best model is one of the training that continues, not of that before the restart
        self.state.best_metric = self.state.best_global_step = self.state.best_model_checkpoint = None

    def _store_base_weights(self, checkpoint: str | None, digest: str | None) -> None:
        """Store the weights that later rounds restart from, once per run."""
        if self._schedule.restarts_ahead and not self._has_base_weights:
            model = self.accelerator.unwrap_model(self.model)
            self._base_weights.store(model, self.accelerator, self.args.should_save, checkpoint, digest)
            self._has_base_weights = True

    # -- resuming -----------------------------------------------------------------------------------------------------
    def _run_identity(self, model: Any) -> dict[str, Any]:
        sizes, objects = (self._budget, self.get_total_train_batch_size(self.args)), self._run_config.objects
        return run_identity(self.args, self._pool, self._data.digest, self._selector, sizes, model, objects)

    def _current_identity(self) -> dict[str, Any]:
        """Return the identity of the run with the batch size as it is now: `auto_find_batch_size` lowers it."""
        return {**self._identity, "rows_per_update": self.get_total_train_batch_size(self.args)}

    def _load_state(self, checkpoint: str) -> SelectionState:
        """Return the state of the selection in a checkpoint, or raise if the checkpoint belongs to another run."""
        path, state = Path(checkpoint), TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        if self.args.auto_find_batch_size and state.train_batch_size is not None:
            self._train_batch_size = state.train_batch_size  # as Trainer does it before the first step
        identity = self._current_identity()
        saved = SelectionState.load(path, identity, self._pool.dataset)
        updates = self._count_updates(self._planned_rounds(self.args.num_train_epochs)[0].budget)
        schedule = build_schedule(self.args, self._planned_rounds, self._count_updates, updates)
        rounds = len(saved.records)
        check_length(path, saved.identity, identity, saved.plan, schedule, rounds, state.global_step)
        check_models(path, saved.identity, identity, rounds < len(schedule.plan) or schedule.repeats)
        return saved

    # -- evaluation and the Hub ---------------------------------------------------------------------------------------
    def _evaluation_rows(self, rows: Any) -> Any:
        return evaluation_rows(rows, conversion_options(self.processing_class), self.args, self._text_function)

    def _results(self) -> list[EvalResult]:
        """Return the results of the last (or the best) evaluation, and those that the user appended."""
        evaluated = {prefix: rows for prefix, rows in self._evaluated.items() if prefix.startswith("eval")}
        best = self.state.best_global_step if self.args.load_best_model_at_end else None
        origins = self._run_config.evaluation | evaluated
        return [*evaluation_results(self.state.log_history, origins, best), *self.evaluation_results]

    def _check_push(self, config: SelectiveSFTConfig) -> None:
        """Raise if settings contain secrets, or the selections could not be published, before any work is done."""
        if config.push_to_hub and config.process_index == 0:
            settings = without_paths({**self._run_config.keys, **run_settings(config)})
            SecretScan(config.hub_token).check_texts({"the settings of the run": json.dumps(settings, default=str)})
        if config.push_selection and config.push_to_hub and config.process_index == 0:
            model = config.hub_model_id or Path(config.output_dir).absolute().name
            repo_id = config.selection_repo_id or f"{model}-selection"
            check_push(repo_id, self._pool.dataset, private=config.hub_private_repo, token=config.hub_token)

    def _training_facts(self) -> TrainingRun:
        facts = training_facts(self.state.log_history, self.selections[-1].provenance)
        return {**facts, "costs": self.costs} if self.costs else facts

    def _push_selections(self, token: str | None, private: bool | None) -> None:
        if not self.selections:
            raise PublishError("No rows have been selected yet, so there is no selection to publish. Train first.")
        self._published_at = None
        published = push_selections(
            self.selections,
            self.args.selection_repo_id or f"{self.hub_model_id}-selection",
            self._pool.dataset,
            private=private if private is not None else self.args.hub_private_repo,
            token=token if token is not None else self.args.hub_token,
            results=card_results(self._results()),
            training=self._training_facts(),
        )
        self._published_at = published.repo_url.repo_id
