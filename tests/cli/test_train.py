"""What `hf-datasel train` leaves, and what it says to what it cannot do."""

from __future__ import annotations

import pytest

from hf_datasel.cli import main

ON_CPU = ["--use_cpu", "true", "--bf16", "false"]


@pytest.fixture
def command(rows_file, tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--dataset_name", str(rows_file), "--model_name_or_path", str(tiny_model_dir), "--selector", "random"]
    words += ["--max_length", "64", "--report_to", "none", "--disable_tqdm", "true"]
    return ["train", *words, "--selection_size", "4", "--num_train_epochs", "1"]


@pytest.mark.parametrize("inside", [True, False])
def test_the_model_card_names_the_folder(inside, command, tmp_path):
    place = "outputs/small" if inside else str(tmp_path / "outputs" / "small")
    assert main([*command, *ON_CPU, "--output_dir", place, "--save_strategy", "no"]) == 0
    card = (tmp_path / "outputs" / "small" / "README.md").read_text(encoding="utf-8")
    assert "\n# Model Card for small\n" in card
    assert f'model="{"outputs/small" if inside else "small"}"' in card
    assert "None" not in card


@pytest.mark.parametrize(
    ("there", "message"),
    [
        (None, "There is no run in 'run'. Leave resume_from_checkpoint out to start one."),
        ("run", "There is no run in 'run'."),
        ("run/selections/round-0", "'run' holds no checkpoint: its run ended before the first one was saved."),
    ],
)
def test_resuming_what_is_not_there(there, message, command, tmp_path, capsys):
    if there:
        (tmp_path / there).mkdir(parents=True)
    assert main([*command, *ON_CPU, "--output_dir", "run", "--resume_from_checkpoint", "true"]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "run").exists() == bool(there)


def test_the_model_is_asked_for_before_the_gpu(rows_file, command, monkeypatch, capsys):
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: False)
    assert main(["train", "--dataset_name", str(rows_file)]) == 2
    assert capsys.readouterr().err == (
        "hf-datasel train: error: No model is named. Pass --model_name_or_path, or put it into the config file.\n"
    )
    monkeypatch.setattr("transformers.training_args.is_torch_cuda_available", lambda: False)
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "There is no GPU here" in said
    assert said.endswith("To train on the CPU add --use_cpu true --bf16 false.\n")
    monkeypatch.setattr("transformers.training_args.is_torch_cuda_available", lambda: True)
    assert main(command) == 2
    assert "cannot train in bf16, which is the default. Add --bf16 false --fp16 true." in capsys.readouterr().err


def test_a_file_has_no_test_split_and_the_way_out_works(command, tmp_path, capsys):
    evaluated = [*command, *ON_CPU, "--output_dir", "run", "--eval_strategy", "epoch"]
    assert main(evaluated) == 2
    said = capsys.readouterr().err
    assert "eval_strategy='epoch' needs rows to evaluate on, and the split 'test' of " in said
    assert "Name another, --dataset_test_split NAME; or" in said
    way = ["--dataset_train_split", "train[10%:]", "--dataset_test_split", "train[:10%]"]
    assert f"{way[0]} '{way[1]}' {way[2]} '{way[3]}'" in said
    assert main([*evaluated, *way]) == 0
    assert "eval_loss" in (tmp_path / "run" / "trainer_state.json").read_text()


def test_no_epochs_are_refused_in_words(command, capsys):
    assert main([*command, *ON_CPU, "--output_dir", "run", "--num_train_epochs", "0"]) == 2
    assert capsys.readouterr().err.endswith("hf-datasel train: error: num_train_epochs=0 has to be above 0.\n")
