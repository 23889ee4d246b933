"""Models whose weights are split over the processes: what is refused, and what goes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate.utils import DistributedType

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.scores import IFD, Length, Loss
from hf_datasel.training.sharding import check_restarts, sharding_name, with_sharding_check

LAYER = torch.nn.Linear(2, 2)


def accelerator(kind: DistributedType, stage: int | None = None, **axes: bool) -> Any:
    plugin = None if stage is None else SimpleNamespace(zero_stage=stage)
    config = SimpleNamespace(**axes) if axes else None
    return SimpleNamespace(
        distributed_type=kind, state=SimpleNamespace(deepspeed_plugin=plugin), parallelism_config=config
    )


WHOLE = [
    accelerator(DistributedType.NO),
    accelerator(DistributedType.MULTI_CPU),
    accelerator(DistributedType.MULTI_GPU),
    accelerator(DistributedType.MULTI_GPU, tp_enabled=False, cp_enabled=False, sp_enabled=False),
    accelerator(DistributedType.DEEPSPEED, stage=1),
    accelerator(DistributedType.DEEPSPEED, stage=2),
]
FSDP = accelerator(DistributedType.FSDP)
ZERO_3 = accelerator(DistributedType.DEEPSPEED, stage=3)
SPLIT = [
    (FSDP, "FSDP"),
    (ZERO_3, "ZeRO stage 3"),
    (accelerator(DistributedType.MEGATRON_LM), "Megatron"),
    (accelerator(DistributedType.MULTI_GPU, tp_enabled=True), "tensor parallelism"),
    (accelerator(DistributedType.MULTI_GPU, cp_enabled=True), "context parallelism"),
    (accelerator(DistributedType.DEEPSPEED, stage=1, sp_enabled=True), "sequence parallelism"),
]


class Computed:
    """Gives a column of ones, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, Any]] = []

    def __call__(self, score: Any, indices: np.ndarray | None) -> dict[str, pa.Array]:
        self.asked.append((score, indices))
        return {"ones": pa.array([1.0, 1.0])}


@pytest.mark.parametrize("where", WHOLE)
def test_whole_weights_are_scored_with(where):
    compute = Computed()
    assert sharding_name(where, LAYER) is None
    assert with_sharding_check(compute, where, LAYER)(IFD(), None)["ones"].to_pylist() == [1.0, 1.0]
    assert compute.asked == [(IFD(), None)]


@pytest.mark.parametrize(("where", "named"), SPLIT)
@pytest.mark.parametrize("score", [IFD(), Loss()])
def test_sharded_model_scores(where, named, score):
    compute = Computed()
    checked = with_sharding_check(compute, where, LAYER)
    with pytest.raises(ConfigError, match=f"{type(score).__name__} cannot be computed while training with .*{named}"):
        checked(score, np.array([0, 1]))
    with pytest.raises(ConfigError, match=rf"hf_datasel\.score\(dataset, {type(score).__name__}\(\.\.\.\)\)"):
        checked(score, None)
    assert compute.asked == []


@pytest.mark.parametrize("where", [where for where, _ in SPLIT])
def test_scores_without_model(where):
    compute = Computed()
    rows = np.array([1, 0])
    assert "ones" in with_sharding_check(compute, where, LAYER)(Length(), rows)
    assert compute.asked == [(Length(), rows)]


def test_models_loaded_by_name():
    compute = Computed()
    with_sharding_check(compute, FSDP, LAYER)(Loss("gpt2"), None)
    assert compute.asked == [(Loss("gpt2"), None)]
    with pytest.raises(ConfigError, match="with DeepSpeed ZeRO stage 3: no process has all weights"):
        with_sharding_check(compute, ZERO_3, LAYER)(Loss("gpt2"), None)


AGAIN = (RoundPlan(4, 1.0), RoundPlan(8, 1.0, restart=True))


@pytest.mark.parametrize(("where", "named"), [*SPLIT, (accelerator(DistributedType.DEEPSPEED, stage=2), "DeepSpeed")])
def test_restarts_with_sharding(where, named):
    with pytest.raises(ConfigError, match=f"DiverseEvol restarts rounds .* with .*{named}"):
        check_restarts(AGAIN, where, LAYER, "DiverseEvol")
    check_restarts(AGAIN[:1], where, LAYER, "DiverseEvol")


@pytest.mark.parametrize("where", WHOLE[:4])
def test_restarts_without_sharding(where):
    check_restarts(AGAIN, where, LAYER, "DiverseEvol")


def test_dtensors_are_detected():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        from torch.distributed.fsdp import fully_shard

        layer = torch.nn.Linear(2, 2)
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        fully_shard(layer, mesh=mesh)
        assert sharding_name(WHOLE[0], layer) == "tensor parallelism or a DistributedConfig"
    finally:
        torch.distributed.destroy_process_group()
