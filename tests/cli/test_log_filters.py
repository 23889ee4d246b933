"""Log messages and warnings that the terminal hides, and those that it shows."""

from __future__ import annotations

import logging
import warnings

import datasets
import pytest

from hf_datasel.cli import main

CLUTTER = {
    "transformers.tokenization_utils_base": "Token indices sequence length is longer than the specified maximum %s",
}


@pytest.fixture
def messages():
    """Give what is logged by these loggers."""
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


def log_noise(argv):
    for name, message in CLUTTER.items():
        logging.getLogger(name).warning(message, "no kernels")
        logging.getLogger(name).warning("Something real.")
    warnings.warn("`gradient_checkpointing` is deprecated and will be removed in v6.", FutureWarning, stacklevel=1)
    warnings.warn("`something` is deprecated.", FutureWarning, stacklevel=1)


def test_known_messages_are_dropped(messages, monkeypatch):
    monkeypatch.setattr("hf_datasel.cli.env.run", log_noise)
    with pytest.warns(FutureWarning) as warned:
        assert main(["env"]) == 0
    assert [str(item.message) for item in warned] == ["`something` is deprecated."]
    assert messages == ["Something real."]


def test_filters_are_removed(messages, monkeypatch):
    monkeypatch.setattr("hf_datasel.cli.env.run", lambda argv: None)
    filters = list(warnings.filters)
    assert main(["env"]) == 0
    assert warnings.filters == filters
    for name, message in CLUTTER.items():
        logging.getLogger(name).warning(message, "no kernels")
    assert len(messages) == 1


def test_no_progress_bars_in_a_log_file(rows_file, tmp_path, capfd):
    command = ["select", "--dataset_name", str(rows_file), "--selector", "longest", "--save_subset"]
    assert main([*command, "--output_dir", str(tmp_path / "out")]) == 0
    printed = capfd.readouterr()
    assert "Written to" in printed.out
    assert printed.err == ""
    assert not datasets.are_progress_bars_disabled()


def test_quiet_and_verbose(rows_file, tmp_path, capsys):
    select = ["select", "--dataset_name", str(rows_file), "--selector", "all", "--selection_size", "3", "--overwrite"]
    score = ["score", "--dataset_name", str(rows_file), "--scores", "length"]
    cost = "INFO: Scoring 24 rows took"
    folder = ["--output_dir", str(tmp_path / "out")]
    for flags, warns, tells in (([], True, False), (["--quiet"], False, False), (["--verbose"], True, True)):
        assert main([*select, *flags, *folder]) == 0
        assert ("WARNING: All always selects" in capsys.readouterr().err) is warns
        assert main([*score, *flags, *folder]) == 0
        printed = capsys.readouterr()
        assert (cost in printed.err) is tells
        assert "Written to" in printed.out
    assert logging.getLogger("hf_datasel").level == logging.NOTSET
    assert main([*select, "--quiet", "--verbose"]) == 2
    assert "--quiet and --verbose exclude each other" in capsys.readouterr().err
