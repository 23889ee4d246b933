"""Runs the model of a score: plans batches, distributes them over processes, and stores the results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from hf_datasel._lazy import torch
from hf_datasel.scoring.batching import BatchRunner, plan_batches, remaining_batches, static_rope_length
from hf_datasel.scoring.cost import CostMeter, Parameters, device_name, peak_memory, record_cost
from hf_datasel.scoring.distributed import Processes
from hf_datasel.scoring.eval_mode import eval_mode
from hf_datasel.scoring.first_round import FirstRoundLosses
from hf_datasel.scoring.logprobs import LogprobRunner, PooledStates, Reduction, SummedNLL
from hf_datasel.scoring.models import Loading, Models, check_tokens
from hf_datasel.scoring.outputs import KnownLosses, Output, ResultStore, ResultTable, is_complete
from hf_datasel.scoring.progress import Progress
from hf_datasel.scoring.vector_files import ColumnFiles

if TYPE_CHECKING:
    from hf_datasel.tokens import Sequences
    from hf_datasel.tokens.sequences import RaggedArray

__all__ = ["ModelRunner", "Output"]

_RunBatch: TypeAlias = Callable[[np.ndarray], Generator[tuple[np.ndarray, list[np.ndarray]], None, None]]
"""Function of the indices of a batch that yields a part of them and one array per output."""

_REUSED: dict[Reduction, str] = {
    SummedNLL(): "reused_training_loss",
    SummedNLL(of_first_round=True): "reused_prior_loss",
}
"""Names of the numbers of rows whose losses were reused, in records."""


class ModelRunner:
    """Runs a model for the scores of one call. Scores that need the same forward pass share it.

    The weights of the model, its mode and the RNG state are the same after each call as before.

    Args:
        model: Model on its device; None for scores that run no model.
        tokens_per_batch: Maximum number of padded tokens in a batch. By default 1,024 on a CPU, where larger batches
            were slower, and 16,384 on other devices.
        autocast: Data type to run the model in with autocast; None runs it in the data type of its weights.
        progress: Whether to show a progress bar if stderr is a terminal.
        loading: Model to load by name, instead of `model`.
        store: Score store for the results. Those of gradients are stored of a model loaded by name only, because an
            optimizer may take part in them.
        models: Cache of models loaded by name.
        processes: Processes that share the work; all of them have to make the same calls. By default this one alone.
        training_losses: Losses of `model` that are known from its training.
        first_round_losses: Losses of earlier rounds; those that are computed first are added to them.
        column_files: Files of columns of vectors; results that are too large for memory are in the same folder.
    """

    def __init__(
        self,
        model: Any = None,
        tokens_per_batch: int | None = None,
        autocast: torch.dtype | None = None,
        progress: bool = True,
        *,
        loading: Loading | None = None,
        store: ResultStore | None = None,
        models: Models | None = None,
        processes: Processes | None = None,
        training_losses: KnownLosses | None = None,
        first_round_losses: FirstRoundLosses | None = None,
        column_files: ColumnFiles | None = None,
    ):
        self.autocast = autocast
        self.progress = progress
        self.loading = loading
        self.store = store
        self.models = Models() if models is None else models
        self.processes = Processes() if processes is None else processes
        self.training_losses = training_losses
        self.first_round_losses = first_round_losses
        self.column_files = ColumnFiles() if column_files is None else column_files
        self._model = model
        self._description: dict[str, Any] | None = None
        self._identity: dict[str, Any] | None = None
        self._tokens_per_batch = tokens_per_batch
        self._logprobs: LogprobRunner | None = None
        self._pending: dict[Sequences, list[Reduction]] = {}
        self._results: dict[tuple[Sequences, Reduction], np.ndarray] = {}
        self._known_rows: dict[tuple[Sequences, Reduction], list[int]] = {}
        """Rows whose losses were known without a forward pass."""
        self._reused_rows: dict[Reduction, set[int]] = {}
        """Those among them that were requested since the last call of `describe`."""
        self._counted_tokens: int | None = None
        """Tokens that the function of the batch in progress has counted, if it counts them."""

    @property
    def model(self) -> Any:
        """The model, loaded at the first access if it is loaded by name; None for scores that run no model."""
        if self._model is None and self.loading is not None:
            self._model = self.models.get(self.loading)
            if self.store is not None and self.processes.is_main_process:
                self.store.add_model(self.loading.identity(), self._model)
            self._description = self._describe_model()
        return self._model

    @property
    def identity(self) -> dict[str, Any] | None:
        """Identity of the weights and how they are loaded; of a loaded model with a store, that in the store."""
        if self.loading is not None:
            return self.loading.identity()
        if self._identity is None and self._model is not None and self.store is not None:
            self._identity = self.processes.run_on_main_process(partial(self.store.identity_of, self._model))
        return self._identity

    @property
    def device(self) -> torch.device:
        """Device of the model's input."""
        if self.model is None:
            return torch.device("cpu")
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def tokens_per_batch(self) -> int:
        """Maximum number of padded tokens in a batch."""
        return self._tokens_per_batch or (1024 if self.device.type == "cpu" else 16384)

    def describe(self) -> dict[str, Any]:
        """Return what determines the results requested since the last call, apart from the weights.

        A model that has been released is not loaded again for this.
        """
        reused, self._reused_rows = self._reused_rows, {}
        description = self._describe_model() if self._description is None else self._description
        return {**description, **{_REUSED[reduction]: len(rows) for reduction, rows in reused.items() if rows}}

    def _describe_model(self) -> dict[str, Any]:
        adapters = getattr(self.model, "active_adapters", None) if hasattr(self.model, "peft_config") else None
        return {
            "model": self.model.config.name_or_path,
            "adapters": list(adapters) if isinstance(adapters, list) else adapters,
            "weights_dtype": str(self._weights_dtype()),
            "autocast": None if self.autocast is None else str(self.autocast),
            "tokens_per_batch": self.tokens_per_batch,
        }

    def with_model(self, loading: Loading) -> ModelRunner:
        """Return a runner with the same settings for a model loaded by name.

        A model that this runner has loaded by name is released until it is needed again.

        Args:
            loading: The model to load.
        """
        if self.loading is not None:
            self._model, self._logprobs = None, None
        return ModelRunner(
            None,
            self._tokens_per_batch,
            self.autocast,
            self.progress,
            loading=loading,
            store=self.store,
            models=self.models,
            processes=self.processes,
            column_files=self.column_files,
        )

    def without_model(self) -> ModelRunner:
        """Return a runner with the same progress bar, store and processes for work that runs no model."""
        return ModelRunner(
            progress=self.progress,
            store=self.store,
            models=self.models,
            processes=self.processes,
            column_files=self.column_files,
        )

    # -- forward passes over token sequences --------------------------------------------------------------------------
    def announce(self, sequences: Sequences, reduction: Reduction) -> None:
        """Announce a reduction that a score will request, so that the first pass over the sequences computes it too.

        Args:
            sequences: Token sequences.
            reduction: What is computed from the forward pass of each sequence.
        """
        pending = self._pending.setdefault(sequences, [])
        if reduction not in pending and (sequences, reduction) not in self._results:
            pending.append(reduction)

    def reduce(
        self, sequences: Sequences, reduction: Reduction, label: str, nulls: Counter[str] | None = None
    ) -> np.ndarray:
        """Compute a reduction of the forward pass over each sequence.

        One pass computes all reductions that were announced for these sequences.

        Args:
            sequences: Token sequences.
            reduction: What is computed from the forward pass of each sequence.
            label: Label of the progress bar.
            nulls: Number of rows without a sequence by reason, for the progress bar.

        Returns:
            Array of shape (sequences, width of the reduction).
        """
        key = sequences, reduction
        if key not in self._results:
            self.announce(sequences, reduction)
            self._run_reductions(sequences, self._pending.pop(sequences), label, nulls)
        self._reused_rows.setdefault(reduction, set()).update(self._known_rows.get(key, []))
        return self._results[key]

    def release(self) -> None:
        """Free the results of earlier calls."""
        self._results.clear()
        self._known_rows.clear()

    def check_tokens(self, tokens: Sequences | RaggedArray) -> None:
        """Raise an error before any work if the model cannot read some of the tokens.

        Args:
            tokens: Token ids that the model will read.

        Raises:
            ModelError: An id has no embedding, or a row has more tokens than the model has embeddings of positions.
        """
        if len(tokens):
            check_tokens(self.model, int(tokens.lengths.max()), tokens.highest_id)

    def _run_reductions(
        self, sequences: Sequences, reductions: list[Reduction], label: str, nulls: Counter[str] | None
    ) -> None:
        self.check_tokens(sequences)
        if self._logprobs is None:
            self._logprobs = LogprobRunner(self.model)
        logprobs, known, cached = self._logprobs, self._known_losses(reductions), None
        if known is not None and (cached := known.summed(sequences)) is not None:
            self._known_rows[sequences, reductions[0]] = sequences.owner[is_complete(cached)].tolist()
        results = self.run_many(
            lambda batch: logprobs(sequences.fetch(batch), reductions),
            sequences.lengths,
            [Output(logprobs.width(reduction), reduction.spec(), reduction.dtype, cached) for reduction in reductions],
            label=label,
            keys=sequences.digests,
            nulls=nulls,
            part=logprobs.causal.base_model if all(isinstance(each, PooledStates) for each in reductions) else None,
        )
        for reduction, result in zip(reductions, results, strict=True):
            self._results[sequences, reduction] = result
        if isinstance(known, FirstRoundLosses):
            known.add(sequences, results[0])

    def _known_losses(self, reductions: list[Reduction]) -> KnownLosses | None:
        """Return the losses that may hold the results of these reductions."""
        if reductions == [SummedNLL()]:
            return self.training_losses
        return self.first_round_losses if reductions == [SummedNLL(of_first_round=True)] else None

    def mean_nll(
        self,
        sequences: Sequences,
        rows: int,
        label: str,
        nulls: Counter[str] | None = None,
        of_first_round: bool = False,
    ) -> np.ndarray:
        """Compute the mean negative log-likelihood of the scored tokens of each row.

        Args:
            sequences: Token sequences; `sequences.owner` is the row of each.
            rows: Number of rows.
            label: Label of the progress bar.
            nulls: Number of rows without a sequence by reason, for the progress bar.
            of_first_round: As in `SummedNLL`.

        Returns:
            Nats per token, float64 of shape (rows,); NaN for a row without scored tokens.
        """
        total, tokens = self.summed_nll(sequences, rows, label, nulls, of_first_round)
        mean: np.ndarray = np.divide(total, tokens, out=np.full(rows, np.nan), where=tokens > 0)
        return mean

    def summed_nll(
        self,
        sequences: Sequences,
        rows: int,
        label: str,
        nulls: Counter[str] | None = None,
        of_first_round: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute the summed negative log-likelihood and the number of the scored tokens of each row.

        Args:
            sequences: Token sequences; `sequences.owner` is the row of each.
            rows: Number of rows.
            label: Label of the progress bar.
            nulls: Number of rows without a sequence by reason, for the progress bar.
            of_first_round: As in `SummedNLL`.

        Returns:
            Nats and number of tokens, each float64 of shape (rows,).
        """
        sums = self.reduce(sequences, SummedNLL(of_first_round), label, nulls)
        total = np.bincount(sequences.owner, weights=sums[:, 0], minlength=rows)
        tokens = np.bincount(sequences.owner, weights=sums[:, 1], minlength=rows)
        return total, tokens

    # -- any other work -----------------------------------------------------------------------------------------------
    def run(
        self,
        compute: Callable[[np.ndarray], Any],
        lengths: np.ndarray,
        width: int,
        *,
        label: str,
        keys: Callable[[], np.ndarray] | None = None,
        spec: Mapping[str, Any] | None = None,
        dtype: type[np.floating[Any]] = np.float64,
        unit: str = "row",
        batch_size: int | None = None,
        nulls: Counter[str] | None = None,
        gradients: bool = False,
        part: torch.nn.Module | None = None,
    ) -> np.ndarray:
        """Compute numbers for each item in batches by length, on all processes, with results from the store.

        Args:
            compute: Function of the indices of a batch (int64) that returns its numbers, of shape (batch, width).
                An item whose numbers are all NaN is not stored, so the next run computes it again.
            lengths: Number of tokens of each item, int64.
            width: Numbers per item.
            label: Label of the progress bar.
            keys: Function that returns 16 bytes per item, uint8 of shape (items, 16), which identify everything that
                determines its numbers other than `spec` and the model: a digest of its tokens or its text.
            spec: Name, version and settings of the computation, as JSON.
            dtype: Data type of the numbers.
            unit: Name of an item in the progress bar.
            batch_size: Maximum number of items in a batch.
            nulls: Number of excluded items by reason, for the progress bar; `compute` may add to it.
            gradients: Whether gradients are computed. The model is in eval mode in either case.
            part: Part of the model that runs, for the FLOPs; by default all of it.

        Returns:
            Array of shape (items, width). It is the same on every process and for any number of processes.

        Raises:
            ModelError: A single item does not fit into the memory of the device.
        """
        return self.run_many(
            lambda batch: [np.asarray(compute(batch))],
            lengths,
            [Output(width, spec, dtype)],
            label=label,
            keys=keys,
            unit=unit,
            batch_size=batch_size,
            nulls=nulls,
            gradients=gradients,
            part=part,
        )[0]

    def run_as_completed(
        self,
        compute: Callable[[np.ndarray], Generator[tuple[np.ndarray, np.ndarray], None, None]],
        num_items: int,
        width: int,
        *,
        label: str,
        keys: Callable[[], np.ndarray],
        spec: Mapping[str, Any],
        dtype: type[np.floating[Any]] = np.float64,
        nulls: Counter[str] | None = None,
    ) -> np.ndarray:
        """Compute numbers for each item, and store each result as soon as there is one.

        Each process gets an equal share of the items that are not stored, in one batch if `tokens_per_batch` permits
        so many items: for work that divides itself, such as requests to an endpoint and continuous batching.

        Args:
            compute: Function of the indices of some items that yields a part of them and its numbers, of shape
                (part, width), in any order; each item once.
            num_items: Number of items.
            width: As in `run`.
            label: As in `run`.
            keys: As in `run`.
            spec: As in `run`.
            dtype: As in `run`.
            nulls: As in `run`.

        Returns:
            As in `run`.
        """

        def run_batch(batch: np.ndarray) -> Generator[tuple[np.ndarray, list[np.ndarray]], None, None]:
            with closing(compute(batch)) as parts:
                for part, results in parts:
                    yield part, [results]

        ones, outputs = np.ones(num_items, dtype=np.int64), [Output(width, spec, dtype)]
        return self._run(run_batch, ones, outputs, label=label, keys=keys, evenly=True, nulls=nulls)[0]

    def run_many(
        self,
        compute: Callable[[np.ndarray], list[np.ndarray]],
        lengths: np.ndarray,
        outputs: list[Output],
        *,
        label: str,
        keys: Callable[[], np.ndarray] | None = None,
        unit: str = "row",
        batch_size: int | None = None,
        nulls: Counter[str] | None = None,
        gradients: bool = False,
        part: torch.nn.Module | None = None,
    ) -> list[np.ndarray]:
        """Compute several outputs at once, as `run` computes one.

        Args:
            compute: Function of the indices of a batch that returns one array per output.
            lengths: As in `run`.
            outputs: The outputs.
            label: As in `run`.
            keys: As in `run`.
            unit: As in `run`.
            batch_size: As in `run`.
            nulls: As in `run`.
            gradients: As in `run`.
            part: As in `run`.

        Returns:
            One array per output, of shape (items, width of the output).
        """
        return self._run(
            BatchRunner(lengths, compute).run,
            lengths,
            outputs,
            label=label,
            keys=keys,
            unit=unit,
            batch_size=batch_size,
            nulls=nulls,
            gradients=gradients,
            part=part,
        )

    def count_tokens(self, tokens: int) -> None:
        """Report the tokens that the model processed for a batch, where they are not the `lengths` of its items.

        Args:
            tokens: Number of tokens without padding. Several calls for a batch add up.
        """
        self._counted_tokens = (self._counted_tokens or 0) + tokens

    def _run(
        self,
        run_batch: _RunBatch,
        lengths: np.ndarray,
        outputs: list[Output],
        *,
        label: str,
        keys: Callable[[], np.ndarray] | None,
        unit: str = "row",
        batch_size: int | None = None,
        nulls: Counter[str] | None = None,
        gradients: bool = False,
        part: torch.nn.Module | None = None,
        evenly: bool = False,
    ) -> list[np.ndarray]:
        processes = self.processes
        values = [self.column_files.zeros((len(lengths), output.width), output.dtype) for output in outputs]
        if evenly:
            batch_size = self._share(len(lengths))
        elif self._must_run_rows_alone(lengths):
            batch_size = 1
        batches = plan_batches(lengths, self.tokens_per_batch, batch_size)
        tables = [self._table(output, gradients) if keys is not None else None for output in outputs]
        digests = keys() if keys is not None and any(table is not None for table in tables) else None
        is_cached = self._fill(outputs, tables, digests, values)
        if is_cached.any():
            label = f"{label} ({int(is_cached.sum()):,} cached)"
            batch_size = self._share(int((~is_cached).sum())) if evenly else batch_size
            batches = remaining_batches(batches, is_cached, lengths, self.tokens_per_batch, batch_size)
        batches = batches[processes.process_index :: processes.num_processes]
        num_rows, num_tokens = sum(map(len, batches)), sum(int(lengths[batch].sum()) for batch in batches)
        shown = self.progress and processes.is_main_process and bool(batches)
        nulls = Counter() if nulls is None else nulls
        mode = eval_mode(self.model, gradients) if self.model is not None else nullcontext()
        try:
            with Progress(label, num_rows, num_tokens, nulls, shown, unit) as bar, mode:
                num_tokens = self._run_batches(batches, run_batch, lengths, values, tables, digests, bar)
        finally:
            for table in tables:
                if table is not None:
                    table.close()
        values = [processes.all_reduce(array) for array in values]  # after this every process has closed its tables
        self._record_cost(num_tokens, self.model if part is None else part, gradients)
        for table in tables:
            if table is not None and processes.is_main_process:
                table.compact()
        return values

    def _share(self, num_items: int) -> int:
        """Return how many items each process gets: at least one."""
        return max(-(-num_items // self.processes.num_processes), 1)

    def _run_batches(
        self,
        batches: list[np.ndarray],
        run_batch: _RunBatch,
        lengths: np.ndarray,
        values: list[np.ndarray],
        tables: list[ResultTable | None],
        digests: np.ndarray | None,
        bar: Progress,
    ) -> int:
        """Run the batches of this process, write the results into `values` and the tables, and count the tokens."""
        device_type, num_tokens = self.device.type, 0
        for batch in batches:
            autocast = torch.autocast(device_type, dtype=self.autocast, enabled=self.autocast is not None)
            with autocast, closing(run_batch(batch)) as parts:
                self._counted_tokens = None
                for part, results in parts:
                    part_tokens = int(lengths[part].sum())
                    own_tokens = 0 if self.model is None else part_tokens
                    num_tokens += own_tokens if self._counted_tokens is None else self._counted_tokens
                    self._counted_tokens = None
                    for array, table, result in zip(values, tables, results, strict=True):
                        array[part] = result
                        if table is not None and digests is not None:
                            stored = part[~np.isnan(array[part]).all(axis=1)]
                            table.append(digests[stored], array[stored])
                    bar.advance(len(part), part_tokens)
        return num_tokens

    def _record_cost(self, num_tokens: int, module: torch.nn.Module | None, gradients: bool) -> None:
        """Record the tokens of all processes, and the FLOPs of a model that processed them here."""
        tokens, peaks = zip(*self.processes.gather_object((num_tokens, peak_memory() or 0)), strict=True)
        cost = CostMeter(sum(tokens), sum(tokens) if gradients else 0, peak_memory=max(peaks))
        if module is not None:
            cost.flops = Parameters.of(module).flops(cost.tokens_forward, cost.tokens_backward)
            cost.device = device_name(self.device)
        record_cost(cost)

    def _fill(
        self,
        outputs: list[Output],
        tables: list[ResultTable | None],
        digests: np.ndarray | None,
        values: list[np.ndarray],
    ) -> np.ndarray:
        """Return for which items all results are cached, bool; the main process writes these into `values`."""
        is_cached = np.zeros(len(values[0]), dtype=np.uint8)
        if any(output.cached is None and table is None for output, table in zip(outputs, tables, strict=True)):
            return is_cached.astype(bool)
        if self.processes.is_main_process:
            is_cached[:] = 1
            for output, table, array in zip(outputs, tables, values, strict=True):
                if output.cached is not None:
                    is_known = is_complete(output.cached)
                    array[is_known] = output.cached[is_known]  # the others stay 0, for the sum over all processes
                    is_cached &= is_known
                elif table is not None and digests is not None:
                    is_cached &= table.fill(digests, array)
            for array in values if len(values) > 1 else ():  # an item may have only some of its results
                array[is_cached == 0] = 0
        return self.processes.broadcast(is_cached).astype(bool)

    def _must_run_rows_alone(self, lengths: np.ndarray) -> bool:
        """Return whether the length of a batch changes the positions, so that rows cannot share one."""
        if self.model is None:
            return False
        limit = static_rope_length(self.model.config)
        return limit is not None and bool((lengths > limit).any())

    def _table(self, output: Output, gradients: bool) -> ResultTable | None:
        has_optimizer = gradients and self.loading is None
        if self.store is None or output.spec is None or output.cached is not None or has_optimizer:
            return None
        spec = {**output.spec, **({} if self.model is None else self._model_spec())}
        return self.store.table(json.loads(json.dumps(spec)), output.width, np.dtype(output.dtype))

    def _model_spec(self) -> dict[str, Any]:
        return {
            "model": self.identity,
            "weights_dtype": str(self._weights_dtype()),
            "autocast": None if self.autocast is None else str(self.autocast),
        }

    def _weights_dtype(self) -> torch.dtype:
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        dtype: torch.dtype = model.dtype
        return dtype
