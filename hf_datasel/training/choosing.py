"""`SFTTrainer` that can ask a selector for the rows of a round, with its model as it is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, ADAPTER_WEIGHTS_NAME

from hf_datasel.formats.digest import column_digest
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.run import run_round
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.eval_mode import preserved_rng
from hf_datasel.selection import Selection
from hf_datasel.selection.provenance import without_paths
from hf_datasel.tokens import Prepared, TokenSettings
from hf_datasel.training.checkpoint_state import Memory, save_selection
from hf_datasel.training.logs import round_logs
from hf_datasel.training.loss_cache import TrainingLosses
from hf_datasel.training.planning import asked_for
from hf_datasel.training.publishing import PublishingSFTTrainer
from hf_datasel.training.schedule import Schedule
from hf_datasel.training.sharding import checked_compute

__all__ = ["ChoosingSFTTrainer"]


class ChoosingSFTTrainer(PublishingSFTTrainer):
    """What `SelectiveSFTTrainer` does at the beginning of a round: scoring, choosing, recording, logging."""

    _prepared: Prepared
    _eligible: np.ndarray
    _schedule: Schedule
    _memory: Memory
    _losses: TrainingLosses
    """Of the rows trained on since the last choice, where they are reused."""
    _selection_seconds: float
    _train_start: float

    def _select(self, index: int) -> np.ndarray:
        """The rows of a round that begins now: chosen, recorded and logged."""
        start = time.perf_counter()
        with preserved_rng():
            self._losses.gather()
            if self._memory.checkpoints:
                self.accelerator.wait_for_everyone()  # the first process may still be writing the last one
            round = self._round(index)
            if not index and len(self._schedule.plan) > 1:
                self._selector.check_later(round)
            asked = asked_for(self.args, round.budget, len(self._pool))
            chosen = run_round(self._selector, round, strict=self._only_choice(index), asked=asked)
            rows, self._memory.arrays = self._from_main_process(chosen, round.state)
            round.logs |= self._losses.logs()
            self._losses.forget()
            for name in round.columns_used:
                if name not in self._memory.columns:
                    self._memory.columns[name] = column_digest(self._pool.dataset, name)
        seconds = time.perf_counter() - start
        self._selection_seconds += seconds
        if rows.size:
            more = {"seconds": seconds, "model": self._model_now(), "training": self._run_now()}
            selection = Selection.from_round(round, self._selector, rows, **more)
            selection.provenance = without_paths(selection.provenance)  # it may be pushed with the model
            self._report(round, selection, seconds)
            self.selections.append(selection)
            if self.args.should_save:
                save_selection(selection, self.args.output_dir, index)
        return rows

    def _only_choice(self, index: int) -> bool:
        """Whether nothing but warm-ups was chosen before, so that training has nothing to fall back on."""
        return all(each.kind == "warm-up" for each in self._schedule.plan[:index])

    def _round(self, index: int) -> Round:
        engine = self._engine()
        return Round(
            index=index,
            rows=self._pool,
            eligible=self._eligible,
            budget=self._schedule.round_plan(index).budget,
            compute=checked_compute(engine.compute, self.accelerator, self.model),
            describe=engine.describe,
            seed=self.args.seed,
            plan=self._schedule.plan,
            chosen=self._chosen_before(),
            checkpoints=[Path(each) for each in self._memory.checkpoints if Path(each).is_dir()],
            state=self._memory.arrays,
            shown=self.accelerator.is_main_process and not self.args.disable_tqdm,
        )

    def _chosen_before(self) -> np.ndarray:
        """Rows of all rounds that have begun, each once, in the order of their first choice."""
        earlier = [each.rows for each in self._schedule.records]
        rows = np.concatenate([np.empty(0, dtype=np.int64), *earlier])
        _, first = np.unique(rows, return_index=True)
        chosen: np.ndarray = rows[np.sort(first)]
        return chosen

    def _token_settings(self) -> TokenSettings:
        return TokenSettings(
            max_length=self.args.max_length,
            truncation_mode=self.args.truncation_mode,
            completion_only_loss=self.completion_only_loss,
            assistant_only_loss=self.args.assistant_only_loss,
            dataset_num_proc=self.args.dataset_num_proc,
        )

    def _engine(self) -> Engine:
        """Scores with the model as it is now, on the tokens that it is trained on."""
        autocast = getattr(torch, self.args.scoring_dtype) if self.args.scoring_dtype else None
        model, budget = self.accelerator.unwrap_model(self.model), self.args.scoring_tokens_per_batch
        settings = self._prepared.settings
        progress = not self.args.disable_tqdm
        return Engine(
            self._pool,
            model,
            self._tokenizer,
            budget,
            autocast,
            settings,
            self._prepared,
            progress,
            seen=self._losses,
            optimizer=self.optimizer,
        )

    def _from_main_process(
        self, rows: np.ndarray, state: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The choice of the first process, for all of them."""
        if self.accelerator.num_processes == 1:
            return rows, state
        from accelerate.utils import broadcast_object_list

        rows, state = broadcast_object_list([rows, state])
        return rows, state

    def _clear(self, checkpoint: str) -> None:
        """Remove what an earlier run left where a checkpoint is about to be saved, and would be taken for its own.

        That is an adapter beside a whole model, and the state that says that a checkpoint is whole.
        """
        if self.args.should_save:
            for name in (ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, ADAPTER_WEIGHTS_NAME, TRAINER_STATE_NAME):
                (Path(checkpoint) / name).unlink(missing_ok=True)

    def _model_now(self) -> dict[str, Any]:
        """The model that chooses; `steps` are its updates since the base weights, which a restart puts back."""
        model, schedule = self.accelerator.unwrap_model(self.model), self._schedule
        again = [each.start for at, each in enumerate(schedule.records) if at and schedule.round_plan(at).restart]
        return {
            "name": model.config.name_or_path,
            "global_step": self.state.global_step,
            "steps": self.state.global_step - max(again, default=0),
            "dtype": str(model.dtype),
        }

    def _run_now(self) -> dict[str, Any]:
        return self._record.provenance(self.args, self.accelerator.unwrap_model(self.model).config)

    def _report(self, round: Round, selection: Selection, seconds: float) -> None:
        """Log the round through the trainer's callbacks, without flushing the training metrics gathered so far."""
        share = self._selection_seconds / (time.perf_counter() - self._train_start)
        before = self._schedule.records[-1].rows if self._schedule.records else None
        Trainer.log(self, round_logs(round, selection, before, seconds, share))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`; the last line of a run says what share of its time went into selecting."""
        if runtime := logs.get("train_runtime"):
            logs["selection_time_share"] = round(self._selection_seconds / runtime, 4)
        super().log(logs, start_time)
