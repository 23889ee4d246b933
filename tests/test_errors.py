"""Errors: messages for Python and for the command line, and pickling."""

from __future__ import annotations

import copy
import pickle

import pytest

from hf_datasel.errors import ColumnError, DataselError, Interrupted, ShortfallError


def test_hints():
    error = DataselError("No model.", hint="Pass model=...", cli_hint="Pass --model_name_or_path NAME.")
    assert str(error) == "No model. Pass model=..."
    assert error.cli_message == "No model. Pass --model_name_or_path NAME."
    assert DataselError("No model.", "Load one.").cli_message == "No model. Load one."
    assert DataselError("No model.", "Pass model=...", cli_hint="").cli_message == "No model."
    assert DataselError("No model.").cli_message == str(DataselError("No model.")) == "No model."


@pytest.mark.parametrize(
    "error",
    [
        ColumnError("No column.", "Add it.", "Run score."),
        ShortfallError("Too few.", [3, 1], "Lower it.", "Run again."),
    ],
)
@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_pickle(error, copied):
    error.add_note("A note.")
    same = copied(error)
    assert type(same) is type(error)
    assert str(same) == str(error) == f"{error.args[0]}"
    assert vars(same) == vars(error)


def test_interrupted_pickle():
    assert pickle.loads(pickle.dumps(Interrupted([3, 1]))).selected == [3, 1]
