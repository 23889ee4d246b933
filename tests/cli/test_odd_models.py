"""Models of somebody else that cannot be loaded or rendered: one sentence, and no code of theirs runs."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_datasel.cli import main

TRAINING = ["--use_cpu", "true", "--bf16", "false", "--report_to", "none", "--disable_tqdm", "true"]


class RunsCode:
    """Object whose pickle creates a file when it is loaded."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def pickled(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps({"a": RunsCode(model / "ran")}))


def saved_with_torch(model: Path) -> None:
    (model / "model.safetensors").unlink()
    torch.save({"a": RunsCode(model / "ran")}, model / "pytorch_model.bin")


def truncated(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])


def config(**changes: Any) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        file = model / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def file(name: str, content: str) -> Callable[[Path], None]:
    return lambda model: (model / name).write_text(content) and None


def template(content: str) -> Callable[[Path], None]:
    return file("chat_template.jinja", content)


@pytest.fixture
def run(tmp_path: Path, tiny_model_dir: Path, rows_file: Path) -> Callable[..., int]:
    """Give a function that runs a command with a changed copy of a small model."""

    def with_model(command: str, change: Callable[[Path], None]) -> int:
        model = tmp_path / "model"
        shutil.copytree(tiny_model_dir, model)
        change(model)
        method = ["--selector", "random", "--selection_size", "2"] if command == "train" else ["--scores", "ifd"]
        words = ["--dataset_name", str(rows_file), "--output_dir", str(tmp_path / "out"), *method]
        words += ["--model_name_or_path", str(model), *(TRAINING if command == "train" else [])]
        code = main([command, *words])
        assert not (model / "ran").exists()
        return code

    return with_model


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("command", ["score", "train"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(pickled, "its weights are a pickle that contains more than tensors", id="pickle"),
        pytest.param(saved_with_torch, "its weights are a pickle that contains more than tensors", id="torch"),
        pytest.param(truncated, "Error while deserializing header", id="truncated"),
        pytest.param(config(vocab_size=100), "its weights have other shapes than its config", id="vocabulary"),
        pytest.param(config(model_type="nosuch"), "has model type `nosuch`", id="unknown type"),
        pytest.param(file("config.json", "[]"), "cannot be loaded: ", id="config is a list"),
        pytest.param(file("tokenizer.json", "[" * 100_000), "maximum recursion depth exceeded", id="nested tokenizer"),
    ],
)
def test_model_cannot_be_loaded(run, capsys, command, change, message):
    assert run(command, change) == 2
    output = capsys.readouterr().err.splitlines()[-1]
    assert output.startswith(f"hf-datasel {command}: error: The ")
    assert message in output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{% for number in range(1000000000) %}{{ number }}{% endfor %}", "Range too big"),
        (
            "{{ ''.__class__.__mro__[1].__subclasses__() }}",
            "access to attribute '__class__' of 'str' object",
        ),
        ("{% macro loop() %}{{ loop() }}{% endmacro %}{{ loop() }}", "maximum recursion depth exceeded"),
        ("{{ raise_exception('\x1b[31mno') }}", "\\x1b[31mno"),
    ],
)
def test_hostile_template(run, capsys, content, message):
    assert run("score", template(content)) == 0
    output = capsys.readouterr()
    assert message in output.out
    assert "template_error" in output.out
    assert "\x1b" not in output.out + output.err
