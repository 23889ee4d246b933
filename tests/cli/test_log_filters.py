"""What is left out of the terminal, and what is not."""

from __future__ import annotations

import logging
import warnings

import datasets
import pytest

from hf_datasel.cli import main

CLUTTER = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please make",
    "transformers.tokenization_utils_base": "Token indices sequence length is longer than the specified maximum %s",
}


@pytest.fixture
def heard():
    """Give what is logged by the two libraries."""
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append(record.getMessage())

    handler = Keep()
    for name in CLUTTER:
        logging.getLogger(name).addHandler(handler)
    yield records
    for name in CLUTTER:
        logging.getLogger(name).removeHandler(handler)


def noise(argv):
    for name, message in CLUTTER.items():
        logging.getLogger(name).warning(message, "no kernels")
        logging.getLogger(name).warning("Something real.")
    warnings.warn("`gradient_checkpointing` is deprecated and will be removed in v6.", FutureWarning, stacklevel=1)
    warnings.warn("`something` is deprecated.", FutureWarning, stacklevel=1)


def test_known_messages_are_left_out_and_others_come_through(heard, monkeypatch):
    monkeypatch.setattr("hf_datasel.cli.env.run", noise)
    with pytest.warns(FutureWarning) as warned:
        assert main(["env"]) == 0
    assert [str(each.message) for each in warned] == ["`something` is deprecated."]
    assert heard == ["Something real."] * 2


def test_afterwards_all_is_as_before(heard, monkeypatch):
    monkeypatch.setattr("hf_datasel.cli.env.run", lambda argv: None)
    filters = list(warnings.filters)
    assert main(["env"]) == 0
    assert warnings.filters == filters
    for name, message in CLUTTER.items():
        logging.getLogger(name).warning(message, "no kernels")
    assert len(heard) == 2


def test_a_log_file_of_a_choice_has_no_progress_bars(rows_file, tmp_path, capfd):
    command = ["select", "--dataset_name", str(rows_file), "--selector", "longest", "--save_subset"]
    assert main([*command, "--output_dir", str(tmp_path / "out")]) == 0
    printed = capfd.readouterr()
    assert "Written to" in printed.out
    assert printed.err == ""
    assert not datasets.are_progress_bars_disabled()
