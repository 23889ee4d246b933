"""Checkpoints of `Trainer`: the optimizer's state and the learning rate, and gradients of rows at a checkpoint."""

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

from hf_datasel._lazy import torch
from hf_datasel.errors import ModelError
from hf_datasel.scoring.gradients import AdamMoments, RowGradients
from hf_datasel.scoring.models import Loading, load_tokenizer
from hf_datasel.scoring.random_projection import FeatureStore, RandomProjection
from hf_datasel.scoring.runner import ModelRunner
from hf_datasel.tokens import Sequences

__all__ = ["Checkpoint", "CheckpointGradients"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of `Trainer`: an adapter or a full model with `optimizer.pt` and `trainer_state.json`.

    Args:
        folder: Folder of the checkpoint.
    """

    folder: str

    @property
    def path(self) -> Path:
        """Path of the folder."""
        return Path(self.folder).expanduser()

    @property
    def is_adapter(self) -> bool:
        """Whether the weights are those of an adapter."""
        return (self.path / "adapter_config.json").is_file()

    def digest(self) -> str:
        """Return a digest of the optimizer's state."""
        stat = self._file("optimizer.pt").stat()
        return _file_digest(str(self.path / "optimizer.pt"), stat.st_ino, stat.st_size, stat.st_mtime_ns)

    def tokenizer(self) -> Any:
        """Return the tokenizer saved in the checkpoint, or that of the adapter's base model."""
        if self.is_adapter and not (self.path / "tokenizer_config.json").is_file():
            config = json.loads((self.path / "adapter_config.json").read_text(encoding="utf-8"))
            return load_tokenizer(config["base_model_name_or_path"], config.get("revision"))
        return load_tokenizer(str(self.path))

    def learning_rate(self, before: Checkpoint | None = None) -> float:
        """Return the mean of the learning rates logged in the epoch before the checkpoint.

        If none was logged, it is the mean of the learning rates at the start and at the end of that epoch, from the
        schedulers saved there. This is exact, to half a step, for a learning rate that is constant or decays linearly.

        Args:
            before: Previous checkpoint, for the start of the epoch. Without a checkpoint one epoch before, only the
                start of the first epoch is known.

        Raises:
            ModelError: The learning rate is unknown or 0.
        """
        file = self._file("trainer_state.json")
        end, logged = self._history()
        rates = [rate for epoch, rate in logged if -1 + 1e-6 < epoch - end <= 1e-6] or self._rates_at_ends(before)
        if not rates or not sum(rates) > 0:
            problem = "no learning rate" if not rates else "only learning rates of 0"
            raise ModelError(
                f"{str(file)!r} has {problem} for the epoch before the checkpoint, which is the weight of the "
                "checkpoint. Pass learning_rates=(...), one per checkpoint, or train with a lower logging_steps."
            )
        return float(np.mean(rates))

    def _history(self) -> tuple[float, list[tuple[float, float]]]:
        """Return the epoch of the checkpoint, and the (epoch, learning rate) of each log entry."""
        file = self._file("trainer_state.json")
        try:
            state = json.loads(file.read_text(encoding="utf-8"))
            entries = [entry for entry in state["log_history"] if entry.get("learning_rate") is not None]
            rates = [(float(entry["epoch"]), float(entry["learning_rate"])) for entry in entries]
            return float(state["epoch"]), rates
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{str(file)!r} is not what Trainer writes: {error!r}.") from error

    def _rates_at_ends(self, before: Checkpoint | None) -> list[float]:
        """Return the learning rates at the start and the end of the epoch before the checkpoint, [] if unknown."""
        end, start = self._history()[0], 0.0 if before is None else before._history()[0]
        first, last = (self if before is None else before)._scheduled_rates(), self._scheduled_rates()
        if abs(end - start - 1) > 1e-6 or first is None or last is None:
            return []
        _warn_no_rate_logged(self.folder)
        return [first[0 if before is None else 1], last[1]]

    def _scheduled_rates(self) -> tuple[float, float] | None:
        """Return the base and the current learning rate of the saved scheduler, None if there is none."""
        try:
            state = torch.load(self.path / "scheduler.pt", map_location="cpu", weights_only=True)
            return float(state["base_lrs"][0]), float(state["_last_lr"][0])
        except (OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, pickle.UnpicklingError):
            return None

    def trained_parameters(self, model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
        """Return the parameters that were trained: those of the active adapter, or all of them without an adapter.

        Args:
            model: Model of the checkpoint.

        Returns:
            The parameters by name, in the order of the model.
        """
        parameters: dict[str, torch.nn.Parameter] = dict(model.named_parameters())
        if not self.is_adapter:
            return parameters
        adapters: Mapping[str, Any] = getattr(model, "peft_config", {})
        return {name: value for name, value in parameters.items() if set(name.split(".")) & set(adapters)}

    def moments(self, model: torch.nn.Module) -> dict[str, AdamMoments]:
        """Read Adam's state of each trained parameter.

        `Trainer` numbers the parameters with weight decay first and those without after them. A parameter that never
        had a gradient has no state; its moments are zeros, the initial state of Adam.

        Args:
            model: Model of the checkpoint.

        Returns:
            The state by parameter name, on the CPU.

        Raises:
            ModelError: The optimizer is not Adam or AdamW, or was created for other parameters.
        """
        file = self._file("optimizer.pt")
        groups, states = self._read(file)
        trained = self.trained_parameters(model)
        moments = {}
        for name, number, betas in self._numbered(model, list(trained), groups):
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
                    f"{tuple(shape)}: the optimizer was created for other parameters, or in another order. Only the "
                    "state of Trainer's own AdamW can be read, with all of the adapter or all of the model trained."
                )
            moments[name] = AdamMoments(first.float().flatten(), second.float().flatten(), betas)
        return {name: moments[name] for name in trained}

    def _numbered(
        self, model: torch.nn.Module, trained: list[str], groups: list[dict[str, Any]]
    ) -> list[tuple[str, int, tuple[float, float]]]:
        """Return the name of each trained parameter, its number in the optimizer, and the betas of its group."""
        from transformers import Trainer

        numbers = [(int(number), tuple(map(float, group["betas"]))) for group in groups for number in group["params"]]
        with_decay = set(Trainer.get_decay_parameter_names(None, model))
        split = [[name for name in trained if (name in with_decay) == decays] for decays in (True, False)]
        sizes = [len(group["params"]) for group in groups if group["params"]]
        if len(sizes) == 1:  # a single group has the parameters in the order of the model
            split = [trained]
        if [len(names) for names in split if names] != sizes:
            raise ModelError(
                f"The optimizer of {self.folder!r} has groups of {sizes} parameters, and the checkpoint has "
                f"{[len(names) for names in split if names]} that {'an adapter' if self.is_adapter else 'the model'} "
                "trains with and without weight decay, so that its moments cannot be assigned. Only the state of "
                "Trainer's own AdamW can be read, with all of the adapter or all of the model trained."
            )
        ordered = [name for names in split for name in names]
        return [(name, number, (betas[0], betas[1])) for name, (number, betas) in zip(ordered, numbers, strict=True)]

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

    def _not_adam(self, file: Path, problem: str) -> str:
        return (
            f"{str(file)!r} is not the state of Adam or AdamW in full precision: {problem}. Influence needs the "
            "moments of optim='adamw_torch' or 'adamw_torch_fused': train the checkpoints with one of these."
        )

    def _file(self, name: str) -> Path:
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


class CheckpointGradients:
    """Projected gradients of rows at a checkpoint.

    Args:
        loading: Model of the checkpoint.
        runner: Runner that loads the model.
        dim: Numbers per projected gradient.
        seed: Random seed of the projection.
        label: Label of the progress bar.
        folder: Folder where Adam's updates are stored in float16; None stores none.
    """

    def __init__(
        self, loading: Loading, runner: ModelRunner, dim: int, seed: int, label: str, folder: str | None = None
    ):
        self.folder = folder
        self.loading = loading
        self.runner = runner.with_model(loading)
        self.label = label
        checkpoint, model = Checkpoint(loading.name), self.runner.model
        self.gradients = RowGradients(model, checkpoint.trained_parameters(model))
        self.device = self.gradients.device
        self.moments = [moments.to(self.device) for moments in checkpoint.moments(model).values()]
        self.projection = RandomProjection(self.gradients.size, dim, seed)
        self._common = {"version": 1, "projection": self.projection.spec()}
        self._update_spec = {**self._common, "optimizer": checkpoint.digest()}

    def spec(self) -> dict[str, Any]:
        """Return everything but the tokens that determines the gradients, as JSON."""
        precision = {"weights_dtype": str(self.runner.model.dtype), "autocast": str(self.runner.autocast)}
        return {**self._common, "model": self.loading.identity(), **precision}

    def plain(self, sequences: Sequences) -> np.ndarray:
        """Compute the projected gradient of each row.

        Args:
            sequences: Token sequences of the rows.

        Returns:
            Float32 of shape (rows, projected dimension).
        """
        spec = {"computed": "validation_gradients", **self._common}
        return self._run(
            lambda batch: self._projected(sequences, batch), sequences, None, spec, " validation", Counter()
        )

    def cosines(
        self, sequences: Sequences, targets: np.ndarray, spec: Mapping[str, Any], nulls: Counter[str]
    ) -> np.ndarray:
        """Compute the inner products of each row's projected and normalized Adam update with some directions.

        Args:
            sequences: Token sequences of the rows.
            targets: The directions, float32 of shape (directions, projected dimension).
            spec: Everything that determines the directions.
            nulls: Number of rows without a sequence by reason, for the progress bar.

        Returns:
            Float32 of shape (rows, directions).
        """
        directions = torch.from_numpy(targets).to(self.device)
        store = None
        if self.folder is not None:
            full_spec = {"computed": "adam_steps", **self._update_spec, **self.spec()}
            store = FeatureStore(self.folder, full_spec, self.projection.dim, sequences.digests())

        def updates(batch: np.ndarray) -> torch.Tensor:
            projected = self._projected(sequences, batch, self.moments)
            return projected.div_(projected.norm(dim=1, keepdim=True))

        def compute(batch: np.ndarray) -> torch.Tensor:
            if store is None:
                return updates(batch)
            self.runner.count_tokens(0)  # rows whose updates are stored are not run
            features = store.read_or_compute(batch, lambda missing: updates(missing).half().cpu().numpy())
            return torch.from_numpy(features).to(self.device).float()

        full = {"computed": "influence", **self._update_spec, **spec, "rounded": store is not None}
        try:
            return self._run(compute, sequences, directions, full, "", nulls)
        finally:
            if store is not None:
                store.close()

    def _run(
        self,
        compute: Callable[[np.ndarray], torch.Tensor],
        sequences: Sequences,
        directions: torch.Tensor | None,
        spec: dict[str, Any],
        label: str,
        nulls: Counter[str],
    ) -> np.ndarray:
        @torch.no_grad()  # except for the passes themselves
        def numbers(batch: np.ndarray) -> np.ndarray:
            features = compute(batch)
            with torch.autocast(self.device.type, enabled=False):
                return (features if directions is None else features @ directions.T).cpu().numpy()

        self.runner.check_tokens(sequences)
        with self.gradients.active():
            return self.runner.run(
                numbers,
                sequences.lengths,
                self.projection.dim if directions is None else len(directions),
                label=f"{self.label}{label}",
                keys=sequences.digests,
                spec=spec,
                dtype=np.float32,
                batch_size=self.gradients.max_batch_size,
                nulls=nulls,
                gradients=True,
            )

    def _projected(
        self, sequences: Sequences, batch: np.ndarray, moments: list[AdamMoments] | None = None
    ) -> torch.Tensor:
        """Project the gradients of rows, or with moments their Adam updates; NaN for a row without scored tokens."""
        rows = sequences.fetch(batch)
        with torch.enable_grad():
            gradients = self.gradients(rows)
        self.runner.count_tokens(int(sequences.lengths[batch].sum()))
        if moments is None:
            projected = self.projection(gradients)
        else:
            pairs = zip(moments, gradients, strict=True)
            projected = self.projection(state.update_direction(gradient) for state, gradient in pairs)
        # Without scored tokens the gradient is 0, but the moments are not.
        projected[[index for index, row in enumerate(rows) if not len(row.scored)]] = torch.nan
        return projected


@functools.lru_cache(maxsize=64)
def _warn_no_rate_logged(folder: str) -> None:
    """Log a warning, once per checkpoint, which is read several times."""
    logger.warning(
        "No learning rate was logged in the epoch before %s: its weight is the mean of the learning rates at the "
        "start and the end of that epoch. With a lower logging_steps it is exact.",
        folder,
    )


@functools.lru_cache(maxsize=64)
def _file_digest(file: str, *stat: int) -> str:
    """Hash the bytes of a file; cached as long as inode, size and time stay the same."""
    import xxhash

    digest = xxhash.xxh3_128()
    with open(file, "rb") as opened:
        while block := opened.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
