"""The command `hf-datasel train`: the files that it writes, and its error messages."""

from __future__ import annotations

import pytest

from hf_datasel.cli import main

ON_CPU = ["--use_cpu", "true", "--bf16", "false"]


@pytest.fixture
def command(rows_file, tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--dataset_name", str(rows_file), "--model_name_or_path", str(tiny_model_dir), "--selector", "random"]
    flags += ["--max_length", "64", "--report_to", "none", "--disable_tqdm", "true"]
    return ["train", *flags, "--selection_size", "4", "--num_train_epochs", "1"]


@pytest.mark.parametrize("relative", [True, False])
def test_model_card_names_the_folder(relative, command, tmp_path):
    folder = "outputs/small" if relative else str(tmp_path / "outputs" / "small")
    assert main([*command, *ON_CPU, "--output_dir", folder, "--save_strategy", "no"]) == 0
    card = (tmp_path / "outputs" / "small" / "README.md").read_text(encoding="utf-8")
    assert "\n# Model Card for small\n" in card
    assert f'model="{"outputs/small" if relative else "small"}"' in card
    assert "None" not in card


@pytest.mark.parametrize(
    ("existing", "message"),
    [
        (None, "There is no run in 'run'. Remove resume_from_checkpoint to start one."),
        ("run", "There is no run in 'run'."),
        ("run/selection_state.json", "The run in 'run' has saved its model, but has no checkpoint."),
    ],
)
def test_resume_without_checkpoint(existing, message, command, tmp_path, capsys):
    if existing:
        (tmp_path / "run").mkdir()
    if existing and existing != "run":
        (tmp_path / existing).touch()
    assert main([*command, *ON_CPU, "--output_dir", "run", "--resume_from_checkpoint", "true"]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "run").exists() == bool(existing)


def test_a_run_without_a_complete_checkpoint_begins_again(command, tmp_path, capsys):
    (tmp_path / "run" / "checkpoint-1").mkdir(parents=True)
    assert main([*command, *ON_CPU, "--output_dir", "run", "--resume_from_checkpoint", "true"]) == 0
    output = capsys.readouterr().err
    assert "run/checkpoint-1 is incomplete: the run ended while it was being saved. It is skipped." in output
    assert "Training begins again." in output
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_resume_with_another_learning_rate(command, tmp_path, capsys):
    saved = [*command, *ON_CPU, "--output_dir", "run", "--save_strategy", "steps", "--save_steps", "1"]
    assert main(saved) == 0
    capsys.readouterr()
    assert main([*saved, "--learning_rate", "0.5", "--resume_from_checkpoint", "true"]) == 2
    message = capsys.readouterr().err
    assert (
        "belongs to another run: arguments differ (learning_rate: 2e-05 in the checkpoint, 0.5 in this run)" in message
    )
    assert "start a new run with another --output_dir" in message


def test_missing_model_before_missing_gpu(rows_file, command, monkeypatch, capsys):
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: False)
    assert main(["train", "--dataset_name", str(rows_file)]) == 2
    assert capsys.readouterr().err == (
        "hf-datasel train: error: No model is named. Pass --model_name_or_path, or put it into the config file.\n"
    )
    monkeypatch.setattr("transformers.training_args.is_torch_cuda_available", lambda: False)
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "There is no GPU" in message
    assert message.endswith("To train on the CPU add --use_cpu true --bf16 false.\n")
    monkeypatch.setattr("transformers.training_args.is_torch_cuda_available", lambda: True)
    assert main(command) == 2
    assert "cannot train in bf16, which is the default. Add --bf16 false --fp16 true." in capsys.readouterr().err


def test_file_without_test_split(command, tmp_path, capsys):
    evaluated = [*command, *ON_CPU, "--output_dir", "run", "--eval_strategy", "epoch"]
    assert main(evaluated) == 2
    message = capsys.readouterr().err
    assert "eval_strategy='epoch' needs rows to evaluate on, but the split 'test' of " in message
    assert "Name another one with --dataset_test_split NAME; or" in message
    splits = ["--dataset_train_split", "train[10%:]", "--dataset_test_split", "train[:10%]"]
    assert f"{splits[0]} '{splits[1]}' {splits[2]} '{splits[3]}'" in message
    assert main([*evaluated, *splits]) == 0
    assert "eval_loss" in (tmp_path / "run" / "trainer_state.json").read_text()


def test_zero_epochs(command, capsys):
    assert main([*command, *ON_CPU, "--output_dir", "run", "--num_train_epochs", "0"]) == 2
    assert capsys.readouterr().err.endswith("hf-datasel train: error: num_train_epochs=0 has to be above 0.\n")
