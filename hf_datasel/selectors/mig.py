"""MIG: rows with a high quality that add most information to a graph of labels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from hf_datasel.errors import ConfigError, check_option
from hf_datasel.rounds.cache import take_rows
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.labels import (
    RowLabels,
    candidate_labels,
    check_labels,
    describe_labels,
    labels_name,
    mean_vectors,
    read_labels,
)
from hf_datasel.rounds.selector import Selector, check_number, check_quality, check_source, column_name
from hf_datasel.strategies.information_gain import Phi, information_gain, label_graph, propagation_matrix

if TYPE_CHECKING:
    from hf_datasel.scores import Cluster, Embedding, InsTag
    from hf_datasel.scoring.base import Score

__all__ = ["MIG"]


@dataclass(frozen=True)
class MIG(Selector):
    """Rows selected one at a time by the information that they add to a graph of labels: new labels, and quality.

    A row brings its quality to each of its labels, tags or a cluster, and each label spreads it to similar labels.
    What a label has already counts less and less: `phi` is concave. Each step takes the row with the highest gain, so
    that rows with many labels, a high quality and labels that few selected rows have come first. Rows without a label
    are never selected.

    Cost: no model beyond those of the quality, the labels and their vectors; seconds for 100,000 rows.

    Reference: Chen et al. 2025 (2504.13835), Algorithm 1. The order of rows is that of the authors' code with its
    defaults, which are those of the paper: cosines of 0.9 or more, weight 1, x ** 0.8, and a quality that is not
    divided by the number of labels. Paper and code differ in one place: Eq. 10 multiplies the slopes of phi by the
    propagation matrix A, the code by its transpose, which makes it the gradient of Eq. 8; so does this selector.
    There, labels are InsTag tags embedded by `intfloat/e5-mistral-7b-instruct`, and the quality is Deita's, in the
    code the mean over turns: `DeitaScore(turns="mean")`. Rows without a label, which the code selects last, are
    excluded. Clusters as labels, means of vectors and `min_count` are specific to this library.

    Args:
        quality: Name of a numeric column with numbers of 0 or more, or a score such as `DeitaScore(turns="mean")`.
        labels: Column of tags (lists of texts, or texts) or of cluster numbers, `InsTag(...)`, or `Cluster(k=...)`,
            which is fitted to `vectors` if it has no centroids.
        vectors: What the similarity of labels is computed from. `Embedding(...)` embeds the text of each tag. With a
            column of vectors, and for clusters, the vector of a label is the mean of those of its rows. None connects
            no labels, and a `Cluster` is fitted to the column `embedding` then.
        sim_threshold: Cosine similarity, above 0 and up to 1, from which two labels are connected.
        prop_weight: Weight of the connections; 0 connects no labels.
        phi_type: `"pow"` is x ** phi_b, `"exp"` is 1 - exp(-phi_alpha x).
        phi_alpha: Rate of `"exp"`.
        phi_a: Offset in the slope of `"pow"`, phi_b (x + phi_a) ** (phi_b - 1).
        phi_b: Exponent of `"pow"`, above 0 and up to 1; 1 counts only the quality.
        norm: Whether the quality of a row is divided by the number of its labels.
        min_count: Labels of fewer rows are ignored.
    """

    quality: str | Score = field(kw_only=True)
    labels: str | InsTag | Cluster = "tags"
    vectors: str | Embedding | None = "embedding"
    sim_threshold: float = 0.9
    prop_weight: float = 1.0
    phi_type: Literal["pow", "exp"] = "pow"
    phi_alpha: float = 1.0
    phi_a: float = 1e-6
    phi_b: float = 0.8
    norm: bool = False
    min_count: int = 1

    nested: ClassVar[bool] = True
    citation = (
        "@inproceedings{chen2025mig, title={MIG: Automatic Data Selection for Instruction Tuning by Maximizing "
        "Information Gain in Semantic Space}, author={Chen, Yicheng and Li, Yining and Hu, Kai and Ma, Zerun and Ye, "
        "Haochen and Chen, Kai}, booktitle={Findings of ACL}, year={2025}}"
    )

    def __post_init__(self) -> None:
        check_source(self, "quality")
        check_labels(self, "labels", ("InsTag", "Cluster"))
        if self.vectors is not None:
            check_source(self, "vectors", "Embedding")
        check_number(self, "sim_threshold", 0, 1, exclude_low=True)
        check_number(self, "prop_weight", 0)
        check_option(f"MIG(phi_type={self.phi_type!r})", self.phi_type, ("pow", "exp"))
        check_number(self, "phi_alpha", 0, exclude_low=True)
        check_number(self, "phi_a", 0, exclude_low=True)
        check_number(self, "phi_b", 0, 1, exclude_low=True)
        check_number(self, "min_count", 1, integer=True)
        if not isinstance(self.norm, bool):
            raise ConfigError(f"MIG(norm={self.norm!r}): it has to be true or false.")

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows in the order in which the greedy algorithm selects them."""
        labels = read_labels(context, self.labels, self.vectors)
        embedding = self._label_embedding(labels)
        quality = context.values(self.quality)
        rows = context.candidates(quality, np.arange(len(quality)), name=column_name(self.quality))
        check_quality(self, column_name(self.quality), quality[rows])
        vectors: np.ndarray | None = None
        if self.vectors is not None and self.prop_weight and embedding is None:
            vectors = context.vectors(self.vectors)
            rows = context.candidates(take_rows(vectors, rows), rows, name=column_name(self.vectors))
        rows, labels = candidate_labels(context, labels, rows, self.min_count, labels_name(self.labels))
        if embedding is not None and labels.names:
            vectors = context.text_vectors(labels.names, embedding)
        elif vectors is not None:
            vectors = mean_vectors(labels, rows, vectors)
        graph = None if vectors is None else label_graph(vectors, self.sim_threshold)
        propagation = None if graph is None else propagation_matrix(graph, self.prop_weight)
        phi = Phi(self.phi_type, self.phi_alpha, self.phi_a, self.phi_b)
        budget = min(context.budget, len(rows))
        return context.pick(
            rows,
            lambda progress: information_gain(
                labels.matrix, quality[rows], budget, propagation, phi, self.norm, progress
            ),
        )

    def unused_settings(self) -> tuple[str, ...]:
        """Return the settings of the graph if it connects no labels, and those of the other `phi_type`."""
        unused = ["phi_alpha"] if self.phi_type == "pow" else ["phi_a", "phi_b"]
        if self.vectors is None or not self.prop_weight:
            unused += ["sim_threshold"] if self.vectors is not None else ["sim_threshold", "prop_weight"]
        return tuple(unused)

    def _label_embedding(self, labels: RowLabels) -> Embedding | None:
        """Return what embeds the text of labels; None if their vectors are means, or if they are not connected."""
        if self.vectors is None or isinstance(self.vectors, str) or not labels.are_texts or not self.prop_weight:
            return None
        if self.vectors.model is None:
            raise ConfigError(
                "MIG embeds the text of labels with a model of its own: name it, as in vectors=Embedding('name or "
                "path')."
            )
        return replace(self.vectors, part="both", column_prefix="")

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return a sentence on the labels of the row, and on how many selected rows have each."""
        labels = read_labels(context, self.labels, self.vectors)
        return describe_labels(context, labels, selected, row, self.min_count, labels_name(self.labels))
