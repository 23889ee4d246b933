"""`SFTTrainer` that chooses its training rows with the model as it is at that moment."""

from __future__ import annotations

import copy
import logging
import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTTrainer, pack_dataset

from hf_datasel.rounds.context import RoundPlan
from hf_datasel.rounds.run import check_budget
from hf_datasel.rounds.selector import Selector
from hf_datasel.scoring.eval_mode import preserved_rng
from hf_datasel.selection import Selection
from hf_datasel.selection.provenance import without_paths
from hf_datasel.tokens import Prepared
from hf_datasel.training.arguments import check_private_names, check_tokenizer, mixed_seed, prepared_arguments
from hf_datasel.training.checkpoint_state import Memory, SelectionState, places_digest, saved_selections, tokens_digest
from hf_datasel.training.checkpoints import KeepCheckpoints, cast_back, last_whole, set_epoch
from hf_datasel.training.choosing import ChoosingSFTTrainer
from hf_datasel.training.loss_cache import TrainingLosses
from hf_datasel.training.planning import asked_for, planned_rounds, rows_per_round
from hf_datasel.training.restart import Base, FreshOptimizer
from hf_datasel.training.schedule import Schedule, following, updates_in, updates_of
from hf_datasel.training.sharding import check_restarts

__all__ = ["SelectiveSFTTrainer"]

logger = logging.getLogger(__name__)


class SelectiveSFTTrainer(ChoosingSFTTrainer):
    """`trl.SFTTrainer` that trains each round on the rows a selector chooses with the current model.

    Takes what `SFTTrainer` takes, and a `selector`. `train_dataset` is the pool, in any supported row format; from the
    first step of a round on, `trainer.train_dataset` is that round's rows, in dataset order. Choosing leaves training
    untouched: the same rows train the same weights, whether they were chosen here or given. Resuming from any
    checkpoint gives the weights of an uninterrupted run, and does not score the round under way again. Where rounds
    begin from the base model again, its trainable weights are kept in `output_dir/_base_weights`, which is not pushed.

    Each finished choice is in `trainer.selections`, and saved to `output_dir/selections/round-K`. Per round the
    trainer logs `selection_round`, `selection_rows_scored`, `selection_rows`, `selection_<score>_mean`,
    `selection_overlap` (Jaccard with the round before), `selection_seconds` and `selection_time_share`.

    `push_to_hub` pushes the model as TRL does, with a card that says how its rows were chosen, and with
    `push_selection=True` in `args` the selections too. The card's metadata holds the last evaluation; append to
    `trainer.evaluation_results` what else was measured, for example with `evaluate`:

        accuracy = evaluate.load("accuracy").compute(predictions=predictions, references=references)["accuracy"]
        trainer.evaluation_results.append(
            EvalResult("text-generation", "openai/gsm8k", "GSM8K", "accuracy", accuracy)
        )

    Args:
        selector: such as `IterIT(decay=0.1)`; by default the one that `args` names.
        *args, **kwargs: as for `SFTTrainer`. `args` may be an `SFTConfig`, which means the default selection.

    Raises:
        ConfigError: settings that contradict each other, a pool that cannot be numbered (streaming, images,
            `formatting_func`, `skip_prepare_dataset`), or versions of TRL and transformers that do not fit.
        FormatError: rows in no supported format, or none that can be trained on.
    """

    _tag_names = ["trl", "sft", "hf_datasel"]  # noqa: RUF012 (TRL's own declaration)

    lr_scheduler: Any
    _budget: int
    _entered: int
    _base_kept: bool
    _keep: KeepCheckpoints

    def __init__(self, *args: Any, selector: Selector | None = None, **kwargs: Any) -> None:
        check_private_names(type(self))
        self._candidates: Dataset | None = None
        self._schedule = Schedule((), [])
        self.selections: list[Selection] = []
        arguments, self._pool, self._selector, self._record = prepared_arguments(
            SFTTrainer, self, args, kwargs, selector
        )
        self._check_push(arguments["args"])
        given = arguments["args"].given()
        super().__init__(**arguments)
        self.args.settle(given)
        assert self._candidates is not None
        self._budget = rows_per_round(self.args, len(self._pool))
        self._eligible = np.zeros(len(self._pool), dtype=bool)
        self._prepared = Prepared(self._candidates, self._tokenizer, self._token_settings())
        self._eligible[self._prepared.rows] = True
        self._tokens_digest: str | None = None
        self._memory = Memory()
        self._losses = TrainingLosses(self, lambda: self._schedule)
        self._base_kept = False
        self._fresh_optimizer: FreshOptimizer | None = None
        self._loader: Any = None
        self._entered = -1
        self._length_generator: torch.Generator | None = None
        self._selection_seconds = 0.0
        self._train_start = time.perf_counter()
        plan = self._planned_rounds(self.args.num_train_epochs)  # one that cannot be is refused before anything starts
        check_restarts(plan, self.accelerator, self.model, type(self._selector).__name__)
        self._keep = KeepCheckpoints(self._asked_to_keep)
        self.add_callback(self._keep)

    # ---- the pool ----

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, packing: bool, formatting_func: Any, dataset_name: str
    ) -> Any:
        if dataset_name != "train" or self._candidates is not None:
            return super()._prepare_dataset(dataset, processing_class, args, packing, formatting_func, dataset_name)
        check_tokenizer(processing_class)  # loaded with the model, where none was given
        plain = copy.copy(args)
        plain.shuffle_dataset = plain.packing = plain.use_liger_kernel = False
        if packing and args.packing_strategy != "bfd":  # these split long rows where the others cut them
            plain.max_length = None
        self._candidates = super()._prepare_dataset(
            dataset, processing_class, plain, False, formatting_func, dataset_name
        )
        return self._candidates

    def _rows_dataset(self, rows: np.ndarray) -> Dataset:
        """The tokenised rows of these pool rows, in dataset order, shuffled and packed as `SFTTrainer` would."""
        assert self._candidates is not None
        subset = self._candidates.select(np.flatnonzero(np.isin(self._prepared.rows, rows)))
        if not self.args.packing:
            return subset.shuffle(seed=self.args.seed) if self.args.shuffle_dataset else subset
        subset = subset.select_columns(["input_ids", "labels"])
        if self.args.shuffle_dataset:
            subset = subset.shuffle(seed=self.args.seed)
        packed = pack_dataset(subset, self.args.max_length, self.args.packing_strategy, {"keep_in_memory": True})
        return packed.shuffle(seed=self.args.seed) if self.args.shuffle_dataset else packed

    # ---- the plan ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As `SFTTrainer.train`; every call selects anew, unless it resumes. True: from the last whole checkpoint."""
        self._selection_seconds = 0.0
        self._train_start = time.perf_counter()
        self._published_at = None
        self._base_kept = False
        first = self._planned_rounds(self.args.num_train_epochs)[0].budget
        self.train_dataset = self._rows_dataset(np.flatnonzero(self._eligible)[:first])  # as long as the first round
        model = self.accelerator.unwrap_model(self.model)
        self._dtypes = {name: each.dtype for name, each in model.named_parameters()}
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_whole(self.args.output_dir) or True  # of none at all Trainer speaks
        with self._losses.watching(model):
            return super().train(resume_from_checkpoint, *args, **kwargs)

    def _planned_rounds(self, num_epochs: float) -> tuple[RoundPlan, ...]:
        plan = planned_rounds(self._selector, self.args, self._budget, num_epochs, int(self._eligible.sum()))
        for each in plan:
            asked = asked_for(self.args, each.budget, len(self._pool))
            check_budget(each.budget, self._pool, self._eligible, asked)
        return plan

    def set_initial_training_values(self, args: Any, dataloader: Any) -> tuple[Any, ...]:
        """Steps and epochs of the whole run: those of its rounds, each counted on a dataloader of its size."""
        if self._loader is not None:  # a smaller batch size starts over, maybe in the middle of a later round
            dataloader = self._loader_of(self._planned_rounds(args.num_train_epochs)[0].budget)
        self.selections, self._entered, self._loader = [], -1, None
        values = list(super().set_initial_training_values(args, dataloader))
        self._schedule = self._new_schedule(args, values[1])
        # where the run is bounded the rounds are as many as it takes, and each may turn out shorter than planned
        values[0], values[6] = self._schedule.epochs, self._schedule.max_steps
        values[3] = values[6] * values[4] if self._schedule.bounded else self._schedule.rows
        return tuple(values)

    def _new_schedule(self, args: Any, updates: int) -> Schedule:
        """The planned rounds, none of which has begun.

        Args:
            updates: of a pass over the rows of the first round.
        """
        epochs = args.num_train_epochs if args.max_steps <= 0 else max(math.ceil(args.max_steps / updates), 1)
        plan, every = self._planned_rounds(epochs), args.reselection_steps
        if every is not None:
            total = args.max_steps if args.max_steps > 0 else updates_in(updates, epochs)
            return Schedule(plan, [every], total, every)
        per_pass = {} if args.packing else {plan[0].budget: updates}
        for size in {each.budget for each in plan} - set(per_pass):
            per_pass[size] = updates_of(len(self._loader_of(size)), self.args.gradient_accumulation_steps)
        planned = [updates_in(per_pass[each.budget], each.epochs) for each in plan]
        return Schedule(plan, planned, args.max_steps if args.max_steps > 0 else None)

    def _loader_of(self, size: int) -> Any:
        """A dataloader of so many rows, to count with."""
        before = self.train_dataset
        with preserved_rng():
            self.train_dataset = self._rows_dataset(np.flatnonzero(self._eligible)[:size])
            loader = self.get_train_dataloader()
            self._forget(loader)
        self.train_dataset = before
        return loader

    # ---- resuming ----

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None,
        trial: Any,
    ) -> tuple[int, int]:
        at: tuple[int, int] = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        self.state.num_train_epochs = self._schedule.epochs
        self._memory = Memory()
        self._losses.forget()
        if resume_from_checkpoint is None:
            self._keep_base(None)
            return at
        cast_back(self.accelerator.unwrap_model(self.model), self._dtypes)
        state = SelectionState.load(resume_from_checkpoint, self._run_identity(), self._pool.dataset)
        self._schedule.restore(state.records)
        self._keep_base(resume_from_checkpoint, state.base)
        self._memory = state.memory
        self._losses.restore(state.losses)
        self._update_max_steps()
        self.selections = saved_selections(self.args.output_dir, state.records)
        if len(self._schedule.records) < len(self._schedule.plan):
            self._memory.check_checkpoints()
        position = self._schedule.position(self.state.global_step, state.pass_ended)
        skipped = 0 if self.args.ignore_data_skip else position.update * self.args.gradient_accumulation_steps
        return position.epoch, skipped

    def _keep_base(self, resume_from_checkpoint: str | None, digest: str | None = None) -> None:
        """Keep the weights that later rounds restart from, once a run."""
        if not self._schedule.restarts_ahead or self._base_kept:
            return
        base = Base(self.args.output_dir)
        theirs = None if resume_from_checkpoint is None else Base.beside(resume_from_checkpoint, digest)
        self.accelerator.wait_for_everyone()  # all of them have looked at what one may replace
        if self.args.should_save and theirs is not None:
            base.take_over(theirs)
        elif self.args.should_save:
            base.save(self.accelerator.unwrap_model(self.model))
        self._base_kept = True
        self.accelerator.wait_for_everyone()

    def _run_identity(self) -> dict[str, Any]:
        """What has to be equal for a checkpoint to be gone on from."""
        assert self._candidates is not None
        if self._tokens_digest is None:
            self._tokens_digest = tokens_digest(self._candidates)
        return {
            "pool": {"id": self._pool.id, "rows": len(self._pool)},
            "tokens": self._tokens_digest,
            "selector": without_paths(self._selector.spec()),  # it is pushed with the model
            "places": places_digest(self._selector.spec()),
            "rows_per_round": self.args.selection_schedule or self._budget,
            "reselection": [self.args.reselection_strategy, self.args.reselection_steps],
            "packing": self.args.packing and self.args.packing_strategy,
            "rows_per_update": self.get_total_train_batch_size(self.args),
            "scoring": [self.args.scoring_dtype, self.args.scoring_tokens_per_batch],
            "reuse_training_loss": self.args.reuse_training_loss,
            "seed": [self.args.seed, self._data_seed()],
        }

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer.save_model`, and the state of the selection beside the weights."""
        if _internal_call and output_dir is not None:
            self._clear(output_dir)
        super().save_model(output_dir, _internal_call)
        if _internal_call and output_dir is not None:  # a checkpoint, by all processes
            if self._keep.asked and output_dir not in self._memory.checkpoints:
                self._memory.checkpoints.append(output_dir)
            self._losses.gather()
        if self.args.should_save and self._schedule.records:
            base = Base(self.args.output_dir).digest if self._base_kept else None
            records, losses, ended = self._schedule.records, self._losses.arrays(), self.control.should_epoch_stop
            later = len(records) < len(self._schedule.plan)
            memory = self._memory if later else replace(self._memory, checkpoints=[])  # nothing reads them any more
            state = SelectionState(self._run_identity(), records, memory, losses, ended, base)
            state.save(output_dir or self.args.output_dir)

    # ---- the rounds ----

    def _run_epoch(self, **kwargs: Any) -> None:
        epoch = kwargs["epoch"]
        index, number = self._schedule.round_of(epoch)
        if kwargs["train_dataloader"] is not self._loader:
            self._forget(kwargs["train_dataloader"])  # made before the rows were known
        finished = self.state.global_step >= self.state.max_steps  # resumed from the end of a run
        if finished or (index != self._entered and not self._enter(index)):
            self.control.should_training_stop = True
            return
        self._schedule.begin_pass(index, number, self.state.global_step)
        self._update_max_steps()
        record = self._schedule.records[index]
        updates, batches = record.per_pass, len(self._loader)
        within = self._schedule.updates_in_pass(index, number)
        last = not self._schedule.bounded and epoch + 1 == self._schedule.epochs
        if within < updates and not last:  # a part of an epoch; the very last one is ended by max_steps
            updates, batches = within, within * self.args.gradient_accumulation_steps
        if self._length_generator is not None:
            self._length_generator.manual_seed(mixed_seed(self._data_seed(), epoch))
        set_epoch(self._loader, epoch)
        kwargs |= {
            "train_dataloader": self._loader,
            "steps_in_epoch": batches,
            "num_update_steps_per_epoch": updates,
        }
        super()._run_epoch(**kwargs)
        self._keep.asked = False
        stopped = self.control.should_training_stop and self.state.global_step < self.state.max_steps
        if stopped and self._schedule.round_plan(index).kind == "warm-up":
            logger.warning(
                "A callback stopped training in round %d, a warm-up: no rows were chosen, and the model is the one "
                "warmed up. To go on, resume from the last checkpoint without that callback.",
                index,
            )

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """As `SFTTrainer.training_step`; the losses of its rows may be read."""
        with self._losses.reading():
            return super().training_step(*args, **kwargs)

    def _asked_to_keep(self) -> bool:
        """Whether the plan asks for a checkpoint after each epoch of the round under way."""
        return self._schedule.round_plan(self._entered).checkpoints

    def _enter(self, index: int) -> bool:
        """Make a round the current one: choose its rows if it has not begun yet, and build its dataloader."""
        known = index < len(self._schedule.records)
        rows = self._schedule.records[index].rows if known else self._select(index)
        if rows.size == 0:
            logger.warning("Round %d: no row is left to train on, so that training ends here.", index)
            return False
        with preserved_rng():
            self.train_dataset = self._rows_dataset(rows)
            if self._loader is not None:
                self._forget(self._loader)
            self._loader = None
            self._loader = self.get_train_dataloader()
        self.callback_handler.train_dataloader = self._loader
        self._entered = index
        if not known:
            per_pass = updates_of(len(self._loader), self.args.gradient_accumulation_steps)
            self._schedule.begin(rows, per_pass, self.state.global_step)
            self._update_max_steps()
            if self._schedule.round_plan(index).restart and index:
                self._restart()
        return True

    def _restart(self) -> None:
        """Begin again from the base model, with the optimizer and the learning rate as they were then."""
        assert self._fresh_optimizer is not None
        Base(self.args.output_dir).restore(self.accelerator.unwrap_model(self.model))
        self._fresh_optimizer.restore(self.optimizer, self.lr_scheduler, self.accelerator.scaler)
        if not self._fresh_optimizer.has_scheduler:
            self.lr_scheduler = None
            self.create_scheduler(self._schedule.segment_updates)
            self.callback_handler.lr_scheduler = self.lr_scheduler
        # the best model is that of the training that goes on, and not of one that was given up
        self.state.best_metric = self.state.best_global_step = self.state.best_model_checkpoint = None

    def _data_seed(self) -> int:
        return int(self.args.seed if self.args.data_seed is None else self.args.data_seed)

    # ---- what the loop looks at ----

    def _update_max_steps(self) -> None:
        self.state.max_steps = self._schedule.max_steps

    def _forget(self, loader: Any) -> None:
        """The accelerator keeps every dataloader it prepared, and with it that loader's workers."""
        self.accelerator._dataloaders[:] = [each for each in self.accelerator._dataloaders if each is not loader]
        if self.callback_handler.train_dataloader is loader:
            self.callback_handler.train_dataloader = None

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """As `Trainer.create_scheduler`, with the learning rate a function of progress through the rounds."""
        created = self.lr_scheduler is None
        if self._schedule.restarts and optimizer is None:
            own = None if created else self.lr_scheduler
            scaler = self.accelerator.scaler
            self._fresh_optimizer = self._fresh_optimizer or FreshOptimizer(self.optimizer, own, scaler)
            num_training_steps = self._schedule.segment_updates
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if created and isinstance(scheduler, LambdaLR):
            scheduler.lr_lambdas = [following(lambda: self._schedule, each) for each in scheduler.lr_lambdas]
        return scheduler

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(train_dataset)
        self._length_generator = None
        if isinstance(sampler, LengthGroupedSampler):  # unseeded, it differs between ranks and cannot be resumed
            sampler.generator = self._length_generator = torch.Generator()
            self._length_generator.manual_seed(self._data_seed())
        return sampler
