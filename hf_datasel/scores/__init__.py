"""Scores: numbers for rows, as callables for `Dataset.map` and as arguments of `score`."""

from hf_datasel.scores.base import Columns, ModelScore, Score
from hf_datasel.scores.engine import score
from hf_datasel.scores.ifd import IFD
from hf_datasel.scores.length import Length
from hf_datasel.scores.loss import Loss

__all__ = ["IFD", "Columns", "Length", "Loss", "ModelScore", "Score", "score"]
