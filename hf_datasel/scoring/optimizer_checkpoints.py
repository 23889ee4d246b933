"""Training checkpoints: the optimizer and learning rate beside the weights, and gradients of rows at them."""

from __future__ import annotations

import functools
import json
import logging
import pickle
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_datasel.errors import ModelError
from hf_datasel.scoring.gradients import Moments, RowGradients
from hf_datasel.scoring.models import Loading, load_tokenizer
from hf_datasel.scoring.random_projection import FeatureStore, Projection
from hf_datasel.scoring.runner import ModelContext
from hf_datasel.tokens import Sequences

__all__ = ["Checkpoint", "CheckpointRows"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A folder that `Trainer` saved: an adapter or a whole model, `optimizer.pt` and `trainer_state.json`."""

    folder: str

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder).expanduser()

    @property
    def is_adapter(self) -> bool:
        """Whether the weights are those of an adapter."""
        return (self.path / "adapter_config.json").is_file()

    def digest(self) -> str:
        """A digest of the optimizer's state."""
        stat = self._file("optimizer.pt").stat()
        return _file_digest(str(self.path / "optimizer.pt"), stat.st_ino, stat.st_size, stat.st_mtime_ns)

    def tokenizer(self) -> Any:
        """The tokenizer that was saved with it, else that of the adapter's base model."""
        if self.is_adapter and not (self.path / "tokenizer_config.json").is_file():
            base = json.loads((self.path / "adapter_config.json").read_text(encoding="utf-8"))
            return load_tokenizer(base["base_model_name_or_path"], base.get("revision"))
        return load_tokenizer(str(self.path))

    def learning_rate(self, before: Checkpoint | None = None) -> float:
        """The mean of the learning rates that were logged in the epoch before the checkpoint.

        Where none was, it is the mean of those at the beginning and the end of that epoch, as the schedulers have
        them that were saved there: exact, to half a step, for a learning rate that is constant or falls linearly.

        Args:
            before: the checkpoint before this one, for the beginning; without one that is an epoch before, only the
                first epoch's is known.

        Raises:
            ModelError: it cannot be told, or is 0.
        """
        file = self._file("trainer_state.json")
        end, logged = self._history()
        rates = [rate for epoch, rate in logged if -1 + 1e-6 < epoch - end <= 1e-6] or self._at_ends(before)
        if not rates or not sum(rates) > 0:
            found = "no learning rate" if not rates else "only learning rates of 0"
            raise ModelError(
                f"{str(file)!r} has {found} for the epoch before the checkpoint, which says how much the checkpoint "
                "counts. Pass learning_rates=(...), one a checkpoint, or train with a lower logging_steps."
            )
        return float(np.mean(rates))

    def _history(self) -> tuple[float, list[tuple[float, float]]]:
        """The epoch of the checkpoint, and those at which learning rates were logged, with the rates."""
        file = self._file("trainer_state.json")
        try:
            state = json.loads(file.read_text(encoding="utf-8"))
            logged = [each for each in state["log_history"] if each.get("learning_rate") is not None]
            return float(state["epoch"]), [(float(each["epoch"]), float(each["learning_rate"])) for each in logged]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{str(file)!r} is not what Trainer writes: {error!r}.") from error

    def _at_ends(self, before: Checkpoint | None) -> list[float]:
        """Learning rates at the beginning and the end of the epoch before the checkpoint; empty where unknown."""
        end, begin = self._history()[0], 0.0 if before is None else before._history()[0]
        first, last = (self if before is None else before)._scheduled(), self._scheduled()
        if abs(end - begin - 1) > 1e-6 or first is None or last is None:
            return []
        _say_that_none_was_logged(self.folder)
        return [first[0 if before is None else 1], last[1]]

    def _scheduled(self) -> tuple[float, float] | None:
        """The learning rate that the schedule is of, and the one that it has come to; None where that is not saved."""
        try:
            state = torch.load(self.path / "scheduler.pt", map_location="cpu", weights_only=True)
            return float(state["base_lrs"][0]), float(state["_last_lr"][0])
        except (OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, pickle.UnpicklingError):
            return None

    def trained(self, model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
        """The parameters that were trained, in the order in which the model has them.

        They are those of the active adapter, or all of them where there is none.
        """
        names: dict[str, torch.nn.Parameter] = dict(model.named_parameters())
        if not self.is_adapter:
            return names
        config: Mapping[str, Any] = getattr(model, "peft_config", {})
        return {name: each for name, each in names.items() if set(name.split(".")) & set(config)}

    def moments(self, model: torch.nn.Module) -> dict[str, Moments]:
        """Adam's state of each parameter that was trained, on the CPU.

        `Trainer` numbers the parameters with weight decay first and those without after them. A parameter that no
        gradient ever reached has no state, and gets zeros, with which Adam begins.

        Raises:
            ModelError: the optimizer is not Adam or AdamW, or was of other parameters.
        """
        file = self._file("optimizer.pt")
        groups, states = self._read(file)
        trained = self.trained(model)
        names = self._numbered(model, list(trained), groups)
        found = {}
        for name, number, betas in names:
            state = states.get(number)
            shape = trained[name].shape
            if state is None:
                state = {"exp_avg": torch.zeros(shape), "exp_avg_sq": torch.zeros(shape)}
            first, second = state.get("exp_avg"), state.get("exp_avg_sq")
            if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
                raise ModelError(self._not_adam(file, f"its state holds {sorted(map(str, state))}"))
            if first.shape != shape or second.shape != shape:
                raise ModelError(
                    f"{str(file)!r} has moments of shape {tuple(first.shape)} for {name}, which is of shape "
                    f"{tuple(shape)}: the optimizer was of other parameters, or in another order. Only those of "
                    "Trainer's own AdamW, with all of the adapter or all of the model trained, can be read."
                )
            found[name] = Moments(first.float().flatten(), second.float().flatten(), betas)
        return {name: found[name] for name in trained}

    def _numbered(
        self, model: torch.nn.Module, trained: list[str], groups: list[dict[str, Any]]
    ) -> list[tuple[str, int, tuple[float, float]]]:
        """Each trained parameter's name, its number in the optimizer, and the betas of its group."""
        from transformers import Trainer

        numbers = [(int(at), tuple(map(float, group["betas"]))) for group in groups for at in group["params"]]
        with_decay = set(Trainer.get_decay_parameter_names(None, model))
        split = [[name for name in trained if (name in with_decay) == decays] for decays in (True, False)]
        sizes = [len(group["params"]) for group in groups if group["params"]]
        if len(sizes) == 1:  # one group for all has them in the model's order
            split = [trained]
        if [len(each) for each in split if each] != sizes:
            raise ModelError(
                f"The optimizer of {self.folder!r} has groups of {sizes} parameters, and the checkpoint has "
                f"{[len(each) for each in split if each]} that {'an adapter' if self.is_adapter else 'the model'} "
                "trains with and without weight decay, so that its moments cannot be told apart. Only those of "
                "Trainer's own AdamW, with all of the adapter or all of the model trained, can be read."
            )
        ordered = [name for each in split for name in each]
        return [(name, at, (betas[0], betas[1])) for name, (at, betas) in zip(ordered, numbers, strict=True)]

    def _read(self, file: Path) -> tuple[list[dict[str, Any]], dict[int, dict[str, Any]]]:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            groups, states = list(state["param_groups"]), dict(state["state"])
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
            line = str(error).strip().split("\n")[0]
            raise ModelError(self._not_adam(file, f"it cannot be read ({type(error).__name__}: {line})")) from error
        if not all("betas" in group for group in groups):
            raise ModelError(self._not_adam(file, "it has no betas"))
        if not states:
            raise ModelError(self._not_adam(file, "it holds no state: no step was taken before it was saved"))
        return groups, states

    def _not_adam(self, file: Path, found: str) -> str:
        return (
            f"{str(file)!r} is not the state of Adam or AdamW in full precision: {found}. Influence needs the moments "
            "of optim='adamw_torch' or 'adamw_torch_fused'; warm up with one of these."
        )

    def _file(self, name: str) -> Path:
        """A file of the checkpoint, which has to be there."""
        if not self.path.is_dir():
            raise ModelError(
                f"There is no folder {self.folder!r}. Checkpoints are local folders that Trainer saved, such as "
                "'outputs/checkpoint-100'."
            )
        file = self.path / name
        if not file.is_file():
            raise ModelError(
                f"{self.folder!r} has no {name}. Influence needs checkpoints that Trainer saved with their optimizer, "
                "in one file: train with save_only_model=False, and without DeepSpeed or FSDP."
            )
        return file


class CheckpointRows:
    """Projected gradients of rows at a checkpoint.

    Args:
        loading: of the model of a checkpoint's folder.
        context: by which it is loaded.
        dim: numbers that a gradient is projected to.
        seed: of the projection.
        label: for the progress bar.
        folder: where Adam's steps are kept, in float16; None keeps none.
    """

    def __init__(
        self, loading: Loading, context: ModelContext, dim: int, seed: int, label: str, folder: str | None = None
    ):
        self.folder = folder
        self.loading = loading
        self.context = context.other(loading)
        self.label = label
        checkpoint, model = Checkpoint(loading.name), self.context.model
        self.rows = RowGradients(model, checkpoint.trained(model))
        self.device = self.rows.device
        self.moments = [each.to(self.device) for each in checkpoint.moments(model).values()]
        self.projection = Projection(self.rows.size, dim, seed)
        self._common = {"version": 1, "projection": self.projection.spec()}
        self._steps_spec = {**self._common, "optimizer": checkpoint.digest()}

    def spec(self) -> dict[str, Any]:
        """What decides the gradients of given tokens, as JSON has it."""
        precision = {"weights_dtype": str(self.context.model.dtype), "autocast": str(self.context.autocast)}
        return {**self._common, "model": self.loading.identity(), **precision}

    def plain(self, sequences: Sequences) -> np.ndarray:
        """The projected gradient of each row: float32 of shape (rows, numbers)."""
        spec = {"computed": "validation_gradients", **self._common}
        return self._run(
            lambda batch: self._projected(sequences, batch), sequences, None, spec, " validation", Counter()
        )

    def cosines(
        self, sequences: Sequences, targets: np.ndarray, spec: Mapping[str, Any], nulls: Counter[str]
    ) -> np.ndarray:
        """Products of each row's projected Adam step, at length 1, with some directions: (rows, directions).

        Args:
            sequences: the rows.
            targets: the directions, float32 of shape (directions, numbers).
            spec: what decides them.
            nulls: rows that are left out, by reason, for the progress bar.
        """
        directions = torch.from_numpy(targets).to(self.device)
        kept = None
        if self.folder is not None:
            whole = {"computed": "adam_steps", **self._steps_spec, **self.spec()}
            kept = FeatureStore(self.folder, whole, self.projection.dim, sequences.digests())

        def steps(batch: np.ndarray) -> torch.Tensor:
            found = self._projected(sequences, batch, self.moments)
            return found.div_(found.norm(dim=1, keepdim=True))

        def compute(batch: np.ndarray) -> torch.Tensor:
            if kept is None:
                return steps(batch)
            found = kept.completed(batch, lambda missing: steps(missing).half().cpu().numpy())
            return torch.from_numpy(found).to(self.device).float()

        more = {"computed": "influence", **self._steps_spec, **spec, "rounded": kept is not None}
        try:
            return self._run(compute, sequences, directions, more, "", nulls)
        finally:
            if kept is not None:
                kept.close()

    def _run(
        self,
        compute: Callable[[np.ndarray], torch.Tensor],
        sequences: Sequences,
        towards: torch.Tensor | None,
        spec: dict[str, Any],
        what: str,
        nulls: Counter[str],
    ) -> np.ndarray:
        @torch.no_grad()  # but for the passes themselves
        def numbers(batch: np.ndarray) -> np.ndarray:
            found = compute(batch)
            with torch.autocast(self.device.type, enabled=False):
                return (found if towards is None else found @ towards.T).cpu().numpy()

        with self.rows.active():
            return self.context.run(
                numbers,
                sequences.lengths,
                self.projection.dim if towards is None else len(towards),
                label=f"{self.label}{what}",
                keys=sequences.digests,
                spec=spec,
                dtype=np.float32,
                batch_size=self.rows.at_once,
                nulls=nulls,
                gradients=True,
            )

    def _projected(
        self, sequences: Sequences, batch: np.ndarray, moments: list[Moments] | None = None
    ) -> torch.Tensor:
        rows = sequences.fetch(batch)
        with torch.enable_grad():
            given = self.rows(rows)
        steps = given if moments is None else (each.feature(part) for each, part in zip(moments, given, strict=True))
        found = self.projection(steps)
        found[[at for at, row in enumerate(rows) if not len(row.scored)]] = torch.nan  # no loss, but moments
        return found


@functools.lru_cache(maxsize=64)
def _say_that_none_was_logged(folder: str) -> None:
    """Once a checkpoint, which is read several times."""
    logger.warning(
        "No learning rate was logged in the epoch before %s: it counts with the mean of those at the beginning and "
        "the end of that epoch. A lower logging_steps says it exactly.",
        folder,
    )


@functools.lru_cache(maxsize=64)
def _file_digest(file: str, *stat: int) -> str:
    """Hash of a file's bytes; remembered for as long as inode, size and time stay the same."""
    import xxhash

    whole = xxhash.xxh3_128()
    with open(file, "rb") as opened:
        while block := opened.read(1 << 22):
            whole.update(block)
    return whole.hexdigest()
