"""Checkpoints: moments of parameters, learning rates, and errors."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from hf_datasel.errors import ModelError
from hf_datasel.formats import Pool, convert_pool
from hf_datasel.scoring.models import Loading, tokenizer_identity
from hf_datasel.scoring.optimizer_checkpoints import Checkpoint, CheckpointGradients
from hf_datasel.scoring.runner import ModelRunner
from hf_datasel.tokens.sequences import Sequence

OPTIMIZERS = {"adapter": "adamw_torch_fused", "model": "adamw_torch"}


@pytest.fixture(scope="module", params=list(OPTIMIZERS))
def trained(request, tmp_path_factory, tiny_model_dir, pool_rows):
    """Return a checkpoint after three steps, and the optimizer's moments by parameter name."""
    folder = tmp_path_factory.mktemp(request.param)
    config = SFTConfig(
        output_dir=str(folder),
        max_steps=3,
        per_device_train_batch_size=4,
        logging_steps=1,
        save_steps=3,
        adam_beta2=0.95,
        weight_decay=0.1,
        optim=OPTIMIZERS[request.param],
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=str(tiny_model_dir),
        args=config,
        train_dataset=convert_pool(Pool(pool_rows.select(range(8))), chat_template=True),
        peft_config=LoraConfig(r=2, target_modules=["q_proj", "down_proj"]) if request.param == "adapter" else None,
    )
    trainer.train()
    state = trainer.optimizer.optimizer.state if hasattr(trainer.optimizer, "optimizer") else trainer.optimizer.state
    live = {name.removeprefix("base_model.model."): state[item] for name, item in trainer.model.named_parameters()}
    return str(folder / "checkpoint-3"), {name: item for name, item in live.items() if item}


@pytest.fixture
def point(trained, tmp_path):
    """Return a copy of the checkpoint to modify."""
    shutil.copytree(trained[0], tmp_path / "checkpoint-3")
    return tmp_path / "checkpoint-3"


@pytest.fixture
def model(trained):
    return AutoModelForCausalLM.from_pretrained(trained[0])


def test_moments_equal_those_of_the_optimizer(trained, model):
    folder, live = trained
    result = Checkpoint(folder).moments(model)
    assert list(result) == [name for name, _ in model.named_parameters() if name in live]
    assert len(result) == len(live)
    for name, moments in result.items():
        assert moments.betas == (0.9, 0.95)
        assert torch.equal(moments.first, live[name]["exp_avg"].flatten())
        assert torch.equal(moments.second, live[name]["exp_avg_sq"].flatten())


def test_trained_parameters(trained, model, tiny_model_dir):
    folder, live = trained
    assert set(Checkpoint(folder).trained_parameters(model)) == set(live)
    if Checkpoint(folder).is_adapter:
        wrapped = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), folder)
        assert set(Checkpoint(folder).trained_parameters(wrapped)) == {f"base_model.model.{name}" for name in live}
        assert len(Checkpoint(folder).moments(wrapped)) == len(live)


def test_tokenizer(point, tiny_model_dir):
    own = tokenizer_identity(Checkpoint(str(point)).tokenizer())
    assert own == tokenizer_identity(Checkpoint(str(tiny_model_dir)).tokenizer())
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (point / file).unlink()
    if Checkpoint(str(point)).is_adapter:
        assert tokenizer_identity(Checkpoint(str(point)).tokenizer()) == own
    else:
        with pytest.raises(ModelError, match=r"tokenizer of .* cannot be loaded"):
            Checkpoint(str(point)).tokenizer()


def history(point, epoch, *logged):
    """Write a trainer state with these epochs and learning rates."""
    entries = [{"epoch": index, "learning_rate": rate} for index, rate in logged] + [
        {"epoch": epoch, "eval_loss": 1.0}
    ]
    (point / "trainer_state.json").write_text(json.dumps({"epoch": epoch, "log_history": entries}))
    return Checkpoint(str(point))


def test_learning_rate_is_the_mean_of_the_epoch(point):
    assert history(point, 2.0, (0.5, 8.0), (1.0, 6.0), (1.5, 4.0), (2.0, 2.0)).learning_rate() == 3.0
    assert history(point, 1.0, (0.5, 8.0), (1.0, 6.0)).learning_rate() == 7.0
    assert history(point, 0.25, (0.1, 8.0), (0.2, None)).learning_rate() == 8.0
    assert history(point, 2.0, (1.5, 1.0), (2.0, 0.0)).learning_rate() == 0.5


@pytest.mark.parametrize(
    ("logged", "match"),
    [
        ([(0.5, 8.0)], r"has no learning rate for the epoch before the checkpoint.*lower logging_steps"),
        ([], "has no learning rate"),
        ([(1.5, 0.0)], "has only learning rates of 0.*Pass learning_rates="),
    ],
)
def test_unknown_learning_rate(point, logged, match):
    with pytest.raises(ModelError, match=match):
        history(point, 2.0, *logged).learning_rate()


@pytest.fixture(scope="module")
def epochs(tmp_path_factory, tiny_model_dir, pool_rows):
    """Return a function that trains three epochs of eight steps and returns the checkpoints of their ends."""

    def run(**logging):
        folder = tmp_path_factory.mktemp("epochs")
        config = SFTConfig(
            output_dir=str(folder),
            num_train_epochs=3,
            per_device_train_batch_size=1,
            save_strategy="epoch",
            learning_rate=0.0024,
            report_to="none",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            **logging,
        )
        data = convert_pool(Pool(pool_rows.select(range(8))), chat_template=True)
        adapter = LoraConfig(r=2, target_modules=["q_proj"])
        SFTTrainer(model=str(tiny_model_dir), args=config, train_dataset=data, peft_config=adapter).train()
        return [Checkpoint(str(folder / f"checkpoint-{step}")) for step in (8, 16, 24)]

    return run


def rates(points):
    return [point.learning_rate(before) for point, before in zip(points, [None, *points[:-1]], strict=True)]


def test_learning_rates_of_a_run(epochs, caplog):
    # it decays from 0.0024 to 0.0001 over 24 steps
    assert rates(epochs(logging_steps=1)) == pytest.approx([0.00205, 0.00125, 0.00045])
    assert not caplog.text


@pytest.mark.parametrize("logging", [{"logging_steps": 20}, {"logging_strategy": "no"}])
def test_learning_rate_from_schedulers(epochs, caplog, logging):
    points = epochs(**logging)
    result = rates(points)
    assert rates(points) == result, "which is not said twice"
    assert result[:2] == pytest.approx([0.002, 0.0012])
    logged = "logging_steps" in logging  # at step 20, in the last epoch
    assert result[2] == pytest.approx(0.0005 if logged else 0.0004)
    assert caplog.text.count("No learning rate was logged in the epoch before") == (2 if logged else 3)
    with pytest.raises(ModelError, match=r"has no learning rate .*Pass learning_rates="):
        points[1].learning_rate()
    (points[0].path / "scheduler.pt").unlink()
    with pytest.raises(ModelError, match=r"checkpoint-8.*has no learning rate .*lower logging_steps"):
        points[0].learning_rate()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"epoch": 1, "log_history": [3]}'])
def test_invalid_trainer_state(point, content):
    (point / "trainer_state.json").write_text(content)
    with pytest.raises(ModelError, match="is not what Trainer writes"):
        Checkpoint(str(point)).learning_rate()


def test_digest(point):
    before = Checkpoint(str(point)).digest()
    (point / "trainer_state.json").write_text("{}")
    assert Checkpoint(str(point)).digest() == before
    changed(point, lambda state: state["state"][0]["exp_avg"].add_(1))
    assert Checkpoint(str(point)).digest() != before


class Given:
    """Sequences from a list."""

    def __init__(self, *rows):
        self.rows = rows
        self.lengths = np.array([len(item.ids) for item in rows])
        self.highest_id = max(int(item.ids.max()) for item in rows)

    def __len__(self):
        return len(self.rows)

    def fetch(self, index):
        return [self.rows[item] for item in index]

    def digests(self):
        return np.arange(16 * len(self.rows), dtype=np.uint8).reshape(-1, 16)


@pytest.mark.parametrize("tokens_per_batch", [1, 100])
def test_row_without_scored_tokens(trained, tokens_per_batch):
    ids = np.array([7, 8, 9, 10])
    rows = Given(
        Sequence(ids, np.array([2, 3])), Sequence(ids, np.array([], dtype=np.int64)), Sequence(ids, ids[:1] - 6)
    )
    runner = ModelRunner(None, tokens_per_batch, progress=False)
    points = CheckpointGradients(Loading(trained[0]), runner, dim=8, seed=0, label="rows")
    towards = np.eye(8, dtype=np.float32)
    for result in (points.plain(rows), points.cosines(rows, towards, {}, Counter())):
        assert np.isnan(result).all(axis=1).tolist() == [False, True, False]
        assert np.isfinite(result[[0, 2]]).all()
    np.testing.assert_allclose(np.linalg.norm(result[[0, 2]], axis=1), 1, rtol=1e-5)


# -- what is refused --------------------------------------------------------------------------------------------------
def changed(point, change):
    state = torch.load(point / "optimizer.pt", weights_only=True)
    change(state)
    torch.save(state, point / "optimizer.pt")


def renamed(state):
    """Store the moments as 8-bit bitsandbytes does."""
    for item in state["state"].values():
        item["state1"], item["state2"] = item.pop("exp_avg").to(torch.uint8), item.pop("exp_avg_sq").to(torch.uint8)


def swapped(state):
    state["state"][0], state["state"][1] = state["state"][1], state["state"][0]


def moved(state):
    first, second = state["param_groups"]
    second["params"].append(first["params"].pop())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (renamed, r"is not the state of Adam or AdamW in full precision.*'state1'.*optim='adamw_torch'"),
        (lambda state: [group.pop("betas") for group in state["param_groups"]], "it has no betas"),
        (lambda state: state["state"].clear(), "no step was taken"),
        (lambda state: state.pop("state"), r"it cannot be read \(KeyError"),
        (swapped, "has moments of shape .* in another order"),
        (moved, "groups of .* cannot be assigned"),
        (lambda state: state["param_groups"].pop(0), "groups of .* cannot be assigned"),
    ],
)
def test_unsupported_optimizers(point, model, change, match):
    changed(point, change)
    with pytest.raises(ModelError, match=match):
        Checkpoint(str(point)).moments(model)


def test_parameter_without_state(point, model):
    before = Checkpoint(str(point)).moments(model)
    changed(point, lambda state: state["state"].pop(0))
    result = Checkpoint(str(point)).moments(model)
    missing = [name for name in result if not torch.equal(result[name].first, before[name].first)]
    assert missing == [next(iter(result))]
    assert not result[missing[0]].first.any()


def test_single_parameter_group(point, model):
    before = Checkpoint(str(point)).moments(model)
    names = list(before)

    def in_one(state):
        state["param_groups"] = [{**state["param_groups"][0], "params": list(range(len(names)))}]
        for index, name in enumerate(names):
            shape = model.get_parameter(name).shape
            state["state"][index] = {
                "exp_avg": before[name].first.reshape(shape).clone(),
                "exp_avg_sq": before[name].second.reshape(shape).clone(),
            }

    changed(point, in_one)
    result = Checkpoint(str(point)).moments(model)
    assert all(torch.equal(result[name].first, before[name].first) for name in names)


def test_missing_or_damaged_files(point, model):
    full = (point / "optimizer.pt").read_bytes()
    for content in (b"", full[:1000], b"no such thing"):
        (point / "optimizer.pt").write_bytes(content)
        with pytest.raises(ModelError, match="it cannot be read"):
            Checkpoint(str(point)).moments(model)
    (point / "optimizer.pt").unlink()
    for what in (lambda item: item.moments(model), lambda item: item.digest()):
        with pytest.raises(ModelError, match=r"has no optimizer\.pt.*save_only_model=False"):
            what(Checkpoint(str(point)))
    with pytest.raises(ModelError, match="There is no folder 'org/name'"):
        Checkpoint("org/name").digest()
