"""`SFTTrainer` whose model card and push say how its rows were chosen."""

from __future__ import annotations

import copy
import dataclasses
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from huggingface_hub import EvalResult
from transformers.trainer_utils import PredictionOutput
from trl import SFTTrainer

from hf_datasel.errors import PublishError
from hf_datasel.formats import Pool
from hf_datasel.rounds.selector import Selector
from hf_datasel.selection import Selection
from hf_datasel.selection.provenance import origin
from hf_datasel.training.arguments import evaluation_rows
from hf_datasel.training.config import SelectiveSFTConfig
from hf_datasel.training.model_card import extend_card, measured, training_data
from hf_datasel.training.run_config import Record, changed_settings

__all__ = ["PublishingSFTTrainer"]


class PublishingSFTTrainer(SFTTrainer):
    """What `SelectiveSFTTrainer` does beside training: the model card, and the push to the Hub."""

    args: SelectiveSFTConfig
    data_collator: Any
    selections: list[Selection]
    evaluation_results: list[EvalResult]
    _pool: Pool
    _selector: Selector
    _record: Record
    _published_at: str | None = None
    """Repository of the selections of this run, once they are published."""

    def __init__(self, **arguments: Any) -> None:
        self.evaluation_results = []
        self._evaluated_by_hand: dict[str, dict[str, str]] = {}
        super().__init__(**arguments)

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """As `Trainer.init_hf_repo`; the scores among the selections are meant to be in the model's repository."""
        warnings.filterwarnings("ignore", r"It seems that you are about to commit a data file \(selections/round-")
        super().init_hf_repo(*args, **kwargs)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As `Trainer.push_to_hub`; with `push_selection`, the selections too, in a dataset repository of their own.

        Args:
            private: whether repositories that are made are private, by default as `hub_private_repo` says.
            commit_message, blocking, token, revision, **kwargs: as for `Trainer.push_to_hub`.

        Raises:
            PublishError: the selections cannot be published. The model has been pushed then.
        """
        if self.hub_model_id is None:
            if private is not None:  # not every version of transformers takes it as an argument
                self.args.hub_private_repo = private
            self.init_hf_repo(token=token if token is not None else self.args.hub_token)
        problem = None
        if self.args.push_selection:
            self.save_model(_internal_call=True)  # before anything that may take long or fail
        if self.args.push_selection and self.is_world_process_zero():
            try:
                self._push_selections(token, private)
            except Exception as error:  # whatever it is, the trained model comes first
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

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """As `Trainer._save`, but for the tokens, which would be pushed with the model in training_args.bin."""
        with self.args.without_secrets():
            super()._save(output_dir, state_dict)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As `Trainer._push_from_checkpoint`, which writes training_args.bin anew, but for the tokens in it."""
        with self.args.without_secrets():
            super()._push_from_checkpoint(checkpoint_folder)

    def _push_selections(self, token: str | None, private: bool | None) -> None:
        from hf_datasel.cards.push import push_selections
        from hf_datasel.cards.run import training_facts

        if not self.selections:
            raise PublishError("No rows have been chosen yet, so that there is no selection to publish: train first.")
        self._published_at = None
        done = push_selections(
            self.selections,
            self.args.selection_repo_id or f"{self.hub_model_id}-selection",
            self._pool.dataset,
            private=private if private is not None else self.args.hub_private_repo,
            token=token if token is not None else self.args.hub_token,
            results=[
                {
                    "trained_on": "this selection",
                    "metric": each.metric_name or each.metric_type,
                    "dataset": f"{each.dataset_name}{f' ({each.dataset_split})' if each.dataset_split else ''}",
                    "value": float(each.metric_value),
                    "note": "",
                }
                for each in self._measured()
                if isinstance(each.metric_value, int | float)
            ],
            training=training_facts(self.state.log_history, self.selections[-1].provenance),
        )
        self._published_at = done.repo_url.repo_id

    def _check_push(self, config: SelectiveSFTConfig) -> None:
        """Find out whether the selections could be published, before any work is done."""
        if not (config.push_selection and config.push_to_hub) or config.process_index != 0:
            return
        from hf_datasel.cards.push import check_push

        model = config.hub_model_id or Path(config.output_dir).absolute().name
        repo_id = config.selection_repo_id or f"{model}-selection"
        check_push(repo_id, self._pool.dataset, private=config.hub_private_repo, token=config.hub_token)

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        """As TRL's, and how the training rows were chosen, the datasets, and what was measured."""
        from hf_datasel.cards.run import training_facts

        parent = self._record.parent.get("name")
        super().create_model_card(model_name, dataset_name or parent, tags)
        path = Path(self.args.output_dir) / "README.md"
        share = training_facts(self.state.log_history, {})["selecting"]
        if not self.is_world_process_zero() or not path.is_file():
            return
        extend_card(
            path,
            section=training_data(
                self.selections,
                self._record.parent,
                len(self._pool),
                self._selector,
                self._published_at,
                share,
                changed_settings(self.args),
            ),
            datasets=[each for each in (dataset_name, parent, self._published_at) if each is not None],
            results=self._measured(),
            name=model_name or os.path.basename(self.hub_model_id or os.path.abspath(self.args.output_dir)),
        )

    def _measured(self) -> list[EvalResult]:
        by_hand = {name: rows for name, rows in self._evaluated_by_hand.items() if name.startswith("eval")}
        best = self.state.best_global_step if self.args.load_best_model_at_end else None
        return [*measured(self.state.log_history, self._record.evaluation | by_hand, best), *self.evaluation_results]

    def evaluate(
        self,
        eval_dataset: Dataset | dict[str, Dataset] | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """As `SFTTrainer.evaluate`, on rows in any supported format; remembers which rows its metrics are of."""
        if isinstance(eval_dataset, Dataset):
            self._evaluated_by_hand[metric_key_prefix] = origin(eval_dataset)
        elif not isinstance(eval_dataset, Mapping):
            self._evaluated_by_hand.pop(metric_key_prefix, None)
        rows = self._evaluation_rows(eval_dataset)
        metrics: dict[str, float] = super().evaluate(rows, ignore_keys, metric_key_prefix)
        return metrics

    def predict(
        self, test_dataset: Dataset, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """As `Trainer.predict`, on rows in any supported format too: in their order, and neither packed nor shuffled.

        Rows that could not be trained on, and those of which `max_length` leaves no label, get no prediction.
        """
        rows = self._evaluation_rows(test_dataset)
        if isinstance(rows, Dataset | IterableDataset) and "input_ids" not in (rows.column_names or []):
            in_order = copy.copy(self.args)
            in_order.shuffle_dataset = False
            rows = self._prepare_dataset(rows, self.processing_class, in_order, False, None, "test")
        collator = self.data_collator
        if getattr(collator, "padding_free", False):  # it makes one line of the rows of a batch
            self.data_collator = dataclasses.replace(collator, padding_free=False)
        try:
            return super().predict(rows, ignore_keys, metric_key_prefix)
        finally:
            self.data_collator = collator

    def _evaluation_rows(self, rows: Any) -> Any:
        chat = self.processing_class.chat_template is not None
        return evaluation_rows(rows, chat, self.args.dataset_text_field)
