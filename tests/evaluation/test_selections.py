"""Selectors that `evaluate_selections` cannot hand to the runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from hf_datasel.errors import ConfigError
from hf_datasel.evaluation import evaluate_selections
from hf_datasel.rounds.selector import Selector
from hf_datasel.selectors import Chain, InRange


@dataclass(frozen=True)
class Mine(Selector):
    """The first rows."""

    def select(self, context):
        return np.arange(context.budget)


@pytest.mark.parametrize("wrap", [lambda own: own, lambda own: Chain([InRange("length", low=1)], own)])
def test_a_class_of_the_script_itself_is_refused_also_inside_others(wrap, pool_rows, tmp_path, monkeypatch):
    monkeypatch.setattr(Mine, "__module__", "__main__")
    with pytest.raises(ConfigError, match=r"methods\['mine'\]: Mine is defined in the script or notebook itself"):
        evaluate_selections(
            pool_rows, {"mine": wrap(Mine())}, model="unused", train={}, suite=["quick"], output_dir=tmp_path / "out"
        )
