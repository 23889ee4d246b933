"""The model a score runs on, and how work on it is planned, shared, kept and shown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from hf_datasel.scoring.batching import Batches, length_of_positions, plan_batches, remaining
from hf_datasel.scoring.distributed import Ranks
from hf_datasel.scoring.eval_mode import inference
from hf_datasel.scoring.logprobs import Forwards, Reduction, SummedNLL
from hf_datasel.scoring.models import Loading, Models
from hf_datasel.scoring.progress import Progress

if TYPE_CHECKING:
    from hf_datasel.tokens import Sequences

__all__ = ["ModelContext", "Output", "Seen", "Table"]


class Table(Protocol):
    """Where results are kept: what `hf_datasel.scoring.store.store` offers for one spec."""

    def fill(self, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Put known results into `values`, and say which are known: bool of shape (len(keys),)."""

    def append(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Keep results."""

    def close(self) -> None:
        """End what this process writes."""

    def compact(self) -> None:
        """Put what all processes have written in order."""


class Seen(Protocol):
    """Losses that are known before the model runs: what `hf_datasel.training.loss_cache` offers."""

    def summed(self, sequences: Sequences) -> np.ndarray | None:
        """What `SummedNLL` gives for these sequences, float64 with NaN where it is not known; None: for none is it."""


class Tables(Protocol):
    """A score store."""

    def table(self, spec: Mapping[str, Any], width: int, dtype: np.dtype[Any]) -> Table:
        """The results under one spec."""


@dataclass(frozen=True)
class Output:
    """What is computed for each item: so many numbers, and, for the score store, by what.

    Attributes:
        width: numbers an item.
        spec: name, version and settings of the computation, as JSON has them; None keeps it out of the store. What
            the model is gets added.
        dtype: of the numbers.
        known: results that are there already, instead of those in the store, (items, width); NaN where one is not.
    """

    width: int
    spec: Mapping[str, Any] | None = None
    dtype: type[np.floating[Any]] = np.float64
    known: np.ndarray | None = None


class ModelContext:
    """A live model for the length of one scoring call. Two scores that need the same forward pass share it.

    Args:
        model: on its device; None for scores that run none. Its mode, weights and the random state stay as they are.
        tokens_per_batch: upper bound on the padded tokens of a batch; by default 1,024 on a CPU, where more was
            slower, and 16,384 elsewhere.
        autocast: compute in this dtype instead of the weights' own.
        progress: show a progress bar where the output is a terminal.
        loading: of a model that is loaded by name, instead of `model`. The results of a live one are not kept.
        store: where results are kept.
        models: where models are loaded by name.
        ranks: the processes that share the work, all of which have to ask for it; this one alone by default.
        seen: losses of a live model that are known from its training.
    """

    def __init__(
        self,
        model: Any = None,
        tokens_per_batch: int | None = None,
        autocast: torch.dtype | None = None,
        progress: bool = True,
        *,
        loading: Loading | None = None,
        store: Tables | None = None,
        models: Models | None = None,
        ranks: Ranks | None = None,
        seen: Seen | None = None,
    ):
        self.autocast = autocast
        self.progress = progress
        self.loading = loading
        self.store = store
        self.models = Models() if models is None else models
        self.ranks = Ranks() if ranks is None else ranks
        self.seen = seen
        self._model = model
        self._description: dict[str, Any] | None = None
        self._asked_tokens = tokens_per_batch
        self._forwards: Forwards | None = None
        self._wanted: dict[Sequences, list[Reduction]] = {}
        self._found: dict[tuple[Sequences, Reduction], np.ndarray] = {}
        self._seen_rows: dict[tuple[Sequences, Reduction], list[int]] = {}
        """Output rows whose results were known from training."""
        self._reused: set[int] = set()
        """Those of them that were asked for since the last description."""

    @property
    def model(self) -> Any:
        """The model. One that is loaded by name is loaded when it is first asked for."""
        if self._model is None and self.loading is not None:
            self._model = self.models.get(self.loading)
            self._description = self._described()
        return self._model

    @property
    def identity(self) -> dict[str, Any] | None:
        """What the model is, as its loading says; None for a live one."""
        return None if self.loading is None else self.loading.identity()

    @property
    def device(self) -> torch.device:
        """Where the model takes its input."""
        if self.model is None:
            return torch.device("cpu")
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def tokens_per_batch(self) -> int:
        """Upper bound on the padded tokens of a batch."""
        return self._asked_tokens or (1024 if self.device.type == "cpu" else 16384)

    def describe(self) -> dict[str, Any]:
        """What, besides the weights, decides the numbers that were asked for since this was called last.

        A model that was let go is not loaded again for it.
        """
        reused, self._reused = len(self._reused), set()
        described = self._described() if self._description is None else self._description
        return {**described, **({"reused_training_loss": reused} if reused else {})}

    def _described(self) -> dict[str, Any]:
        adapters = getattr(self.model, "active_adapters", None) if hasattr(self.model, "peft_config") else None
        return {
            "model": self.model.config.name_or_path,
            "adapters": list(adapters) if isinstance(adapters, list) else adapters,
            "weights_dtype": str(self._weights_dtype()),
            "autocast": None if self.autocast is None else str(self.autocast),
            "tokens_per_batch": self.tokens_per_batch,
        }

    def other(self, loading: Loading) -> ModelContext:
        """The same, with a model loaded by name. One that this context has loaded is let go until it is needed."""
        if self.loading is not None:
            self._model, self._forwards = None, None
        return ModelContext(
            None,
            self._asked_tokens,
            self.autocast,
            self.progress,
            loading=loading,
            store=self.store,
            models=self.models,
            ranks=self.ranks,
        )

    def without_model(self) -> ModelContext:
        """The same, for work that takes no model here, and no tokens of one."""
        return ModelContext(progress=self.progress, store=self.store, models=self.models, ranks=self.ranks)

    # -- passes over token sequences ----------------------------------------------------------------------------------
    def announce(self, sequences: Sequences, reduction: Reduction) -> None:
        """Say that a score is going to ask for this, so that the first pass over the sequences computes it too."""
        wanted = self._wanted.setdefault(sequences, [])
        if reduction not in wanted and (sequences, reduction) not in self._found:
            wanted.append(reduction)

    def reduced(
        self, sequences: Sequences, reduction: Reduction, label: str, nulls: Counter[str] | None = None
    ) -> np.ndarray:
        """What a forward pass over the sequences is reduced to: shape (sequences, numbers).

        The pass computes all that was announced for these sequences; a second one is run for what was not.

        Args:
            sequences: what the model reads.
            reduction: what is taken from each.
            label: for the progress bar.
            nulls: rows that are left out, by reason, for the progress bar.
        """
        asked = sequences, reduction
        if asked not in self._found:
            self.announce(sequences, reduction)
            wanted = self._wanted.pop(sequences)
            if self._forwards is None:
                self._forwards = Forwards(self.model)
            forwards = self._forwards
            known = self.seen.summed(sequences) if self.seen is not None and wanted == [SummedNLL()] else None
            if known is not None:
                self._seen_rows[asked] = sequences.owner[_complete(known)].tolist()
            outputs = [Output(forwards.width(each), each.spec(), each.dtype, known) for each in wanted]
            found = self.run_many(
                lambda batch: forwards(sequences.fetch(batch), wanted),
                sequences.lengths,
                outputs,
                label=label,
                keys=sequences.digests,
                nulls=nulls,
            )
            self._found.update({(sequences, each): values for each, values in zip(wanted, found, strict=True)})
        self._reused.update(self._seen_rows.get(asked, []))
        return self._found[asked]

    def mean_nll(self, sequences: Sequences, rows: int, label: str, nulls: Counter[str] | None = None) -> np.ndarray:
        """Mean NLL in nats over the scored tokens of each of `rows` output rows, float64; NaN where there is none."""
        total, tokens = self.summed_nll(sequences, rows, label, nulls)
        mean: np.ndarray = np.divide(total, tokens, out=np.full(rows, np.nan), where=tokens > 0)
        return mean

    def summed_nll(
        self, sequences: Sequences, rows: int, label: str, nulls: Counter[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Summed NLL in nats and number of scored tokens of each of `rows` output rows, float64."""
        found = self.reduced(sequences, SummedNLL(), label, nulls)
        total = np.bincount(sequences.owner, weights=found[:, 0], minlength=rows)
        tokens = np.bincount(sequences.owner, weights=found[:, 1], minlength=rows)
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
    ) -> np.ndarray:
        """Numbers for each item: in batches by length, dealt to all processes, from the store where they are known.

        Args:
            compute: takes the positions of a batch (int64), and gives its numbers, (len(batch), width). An item whose
                numbers are all NaN is not kept in the store, so that it is tried again.
            lengths: tokens of each item, int64.
            width: numbers an item.
            label: for the progress bar.
            keys: 16 bytes for each item, uint8 of shape (items, 16), that stand for all that decides its numbers
                besides `spec` and the model: a digest of its tokens or its text.
            spec: name, version and settings of the computation, as JSON has them.
            dtype: of the numbers.
            unit: what an item is called.
            batch_size: upper bound on the items of a batch.
            nulls: items left out, by reason, for the progress bar; `compute` may add to it.
            gradients: compute with gradients. The model is in evaluation mode either way.

        Returns:
            Shape (items, width); the same for every process, however many there are.

        Raises:
            ModelError: an item does not fit into the memory of the device, even alone.
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
        )[0]

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
    ) -> list[np.ndarray]:
        """As `run`, for several results at once: `compute` gives one array an output."""
        ranks = self.ranks
        values = [np.zeros((len(lengths), each.width), dtype=each.dtype) for each in outputs]
        batch_size = 1 if self._takes_rows_alone(lengths) else batch_size
        batches = plan_batches(lengths, self.tokens_per_batch, batch_size)
        tables = [self._table(each) if keys is not None else None for each in outputs]
        digests = keys() if keys is not None and any(table is not None for table in tables) else None
        done = self._filled(outputs, tables, digests, values)
        if done.any():
            label = f"{label} ({int(done.sum()):,} known)"
            batches = remaining(batches, done, lengths, self.tokens_per_batch, batch_size)
        mine = batches[ranks.index :: ranks.size]
        runner = Batches(lengths, compute)
        rows, tokens = sum(len(each) for each in mine), sum(int(lengths[each].sum()) for each in mine)
        shown = self.progress and ranks.is_first and bool(mine)
        quiet = inference(self.model, gradients) if self.model is not None else nullcontext()
        kind = self.device.type
        try:
            with Progress(label, rows, tokens, nulls if nulls is not None else Counter(), shown, unit) as bar, quiet:
                for batch in mine:
                    with torch.autocast(kind, dtype=self.autocast, enabled=self.autocast is not None):
                        for part, results in runner.results(batch):
                            for numbers, table, result in zip(values, tables, results, strict=True):
                                numbers[part] = result
                                if table is not None and digests is not None:
                                    kept = part[~np.isnan(numbers[part]).all(axis=1)]
                                    table.append(digests[kept], numbers[kept])
                            bar.advance(len(part), int(lengths[part].sum()))
        finally:
            for table in tables:
                if table is not None:
                    table.close()
        found = [ranks.total(each) for each in values]  # every process has closed its tables once these are there
        for table in tables:
            if table is not None and ranks.is_first:
                table.compact()
        return found

    def _filled(
        self, outputs: list[Output], tables: list[Table | None], digests: np.ndarray | None, values: list[np.ndarray]
    ) -> np.ndarray:
        """For which items all results are known: bool of shape (items,). The first process puts them into `values`."""
        known = np.zeros(len(values[0]), dtype=np.uint8)
        if any(each.known is None and table is None for each, table in zip(outputs, tables, strict=True)):
            return known.astype(bool)
        if self.ranks.is_first:
            known[:] = 1
            for each, table, numbers in zip(outputs, tables, values, strict=True):
                if each.known is not None:
                    numbers[:] = each.known
                    known &= _complete(each.known)
                elif table is not None and digests is not None:
                    known &= table.fill(digests, numbers)
            for numbers in values:
                numbers[known == 0] = 0
        return self.ranks.of_first(known).astype(bool)

    def _takes_rows_alone(self, lengths: np.ndarray) -> bool:
        """Whether a row has other numbers in a batch with a longer one, since positions follow the longest."""
        if self.model is None:
            return False
        within = length_of_positions(self.model.config)
        return within is not None and bool((lengths > within).any())

    def _table(self, output: Output) -> Table | None:
        live = self.loading is None and self.model is not None
        if self.store is None or output.spec is None or output.known is not None or live:
            return None
        spec = {**output.spec, **({} if self.loading is None else self._of_model())}
        return self.store.table(json.loads(json.dumps(spec)), output.width, np.dtype(output.dtype))

    def _of_model(self) -> dict[str, Any]:
        return {
            "model": self.identity,
            "weights_dtype": str(self._weights_dtype()),
            "autocast": None if self.autocast is None else str(self.autocast),
        }

    def _weights_dtype(self) -> torch.dtype:
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        dtype: torch.dtype = model.dtype
        return dtype


def _complete(values: np.ndarray) -> np.ndarray:
    """Rows without a NaN: bool of shape (rows,)."""
    complete: np.ndarray = ~np.isnan(values).any(axis=1)
    return complete
