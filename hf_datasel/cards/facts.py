"""Facts of a selection: the plain values that a card or a report is rendered from, stored in facts.json.

What several sections of a page read is defined here; what one section reads is defined in that section's module.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from hf_datasel.analysis.near_duplicates import TextDuplicateCounts
from hf_datasel.scoring.cost import Cost

__all__ = [
    "FORMAT",
    "Cost",
    "DataConfig",
    "Facts",
    "Harness",
    "Method",
    "Parent",
    "Result",
    "ResultCost",
    "ResultTask",
    "RoundFacts",
    "RoundStep",
    "TokenCount",
    "TrainingRun",
]

FORMAT = 2
"""Version of facts.json."""


class Parent(TypedDict):
    """The dataset that rows were selected from.

    Attributes:
        name: Name on the Hub, or None.
        revision: Commit on the Hub, or None.
        config: Configuration on the Hub, or None.
        split: Split on the Hub, or None.
        changed: Whether the pool differs from the split on the Hub, for example because it was filtered or reordered.
        id: sha256 of the content of the rows in order.
        rows: Number of rows.
        format: Row format: `"alpaca"`, `"prompt-completion"`, `"messages"` ...
        columns: Names of the columns of the row format and those of the dataset, if the selection was made with them.
        looked_up: Whether the card of the dataset was read from the Hub.
        sources: Names of all datasets on the Hub that the rows come from; several for a mixture.
        metadata: Metadata that the card inherits from the card of the dataset: `license`, `license_name`,
            `license_link`, `language`, `task_categories`, and `license_as_written` instead of `license` for a licence
            that is not an identifier of the Hub. Keys that the dataset's card lacks are absent.
    """

    name: str | None
    revision: str | None
    config: str | None
    split: str | None
    changed: bool
    id: str
    rows: int
    format: str
    columns: NotRequired[dict[str, str]]
    looked_up: bool
    sources: list[str]
    metadata: dict[str, Any]


class Method(TypedDict):
    """The selector, together with the selectors and filters inside it.

    Attributes:
        selector: Name of the selector in specs.
        name: Name as people write it.
        about: Description.
        settings: Settings of the selector that have an effect, and those settings of the training run that the
            selection depends on and that differ from their defaults.
        citation: BibTeX, or "".
    """

    selector: str
    name: str
    about: str
    settings: dict[str, Any]
    citation: str


class TokenCount(TypedDict):
    """A budget in tokens, and the number of tokens of the selected rows."""

    budget: int
    selected: int


class RoundStep(TypedDict):
    """Role of a round in a run of several rounds.

    Attributes:
        kind: Kind of the round, as in `RoundPlan`: `"warm-up"` and `"growing"` differ from independent selections.
        rounds: Planned number of rounds of the run.
        epochs: Planned number of epochs over the rows of the round.
        restart: Whether training in this round started again from the base model.
        warmed: Whether a warm-up came before.
        selected_before: Number of its rows that were selected in an earlier round.
    """

    kind: str
    rounds: int
    epochs: float
    restart: bool
    warmed: bool
    selected_before: int


class TargetFacts(TypedDict):
    """Rows of a target task.

    Args:
        rows: Number of target rows; None if they are not known.
        sha256: Digest of the target rows and their subtasks; None if they are not known.
        copies: Number of rows to select from that repeat a target row; None if there was no text to compare.
        kept: Whether these rows could be selected.
    """

    rows: int | None
    sha256: str | None
    copies: int | None
    kept: bool


class RoundFacts(TypedDict):
    """One selection: the only one, or that of one round.

    Attributes:
        config: Configuration of the published dataset that holds its rows, such as `"round-0"`.
        round: Number of the round, from 0.
        step: Role of the round in the run; None for a single round, or if it is not recorded.
        rows: Number of selected rows.
        budget: Number of requested rows; with a budget in tokens, the number of rows that fit into it.
        tokens: The budget in tokens, or None.
        interrupted: Whether the selection was interrupted, so that rows are missing.
        rows_scored: Number of rows that were scored for this selection; 0 if only columns were read.
        seconds: Time of scoring and selecting, or None.
        cost: Cost of scoring and selecting, if it was recorded, with what was reused of other selections.
        model: Model of the scores: `name`, and `resolved`, or `global_step` of the run, `steps` since the base weights
            and `dtype`; None without a model.
        reused: Number of rows whose losses were reused from training.
        reuses_priors: Whether losses without the prompt are those of the first round, if any are.
        columns_unverified: Columns of the dataset that the selection used and whose computation is not recorded.
        not_eligible: Number of rows that cannot be trained on, by reason.
        exclusions: Number of excluded rows, by reason.
        duplicate_groups: What was compared (`"text"`, `"prompt"` or `"response"`) -> size of a group of
            near-duplicates -> number of such groups, if such rows were excluded. One row of each is kept.
        target: Number and digest of the rows of the target task, and how many rows repeat them, for methods that have
            such rows.
        text_duplicates: Number of selected rows that nearly repeat one selected before them, if that was counted.
        weights: Lowest (`min`), highest (`max`) and `mean` weight of the selected rows, if they have any.
        means: Score -> mean over the scored rows and over the selected rows, without scores that only filters read.
    """

    config: str
    round: int
    step: RoundStep | None
    rows: int
    budget: int
    tokens: TokenCount | None
    interrupted: bool
    rows_scored: int
    seconds: float | None
    cost: NotRequired[Cost]
    model: dict[str, Any] | None
    reused: int
    reuses_priors: NotRequired[bool]
    columns_unverified: list[str]
    not_eligible: dict[str, int]
    exclusions: dict[str, int]
    duplicate_groups: NotRequired[dict[str, dict[str, int]]]
    target: NotRequired[TargetFacts]
    text_duplicates: NotRequired[TextDuplicateCounts]
    weights: NotRequired[dict[str, float]]
    means: dict[str, tuple[float, float]]


class DataConfig(TypedDict):
    """A configuration of the published dataset.

    Attributes:
        name: Name for `load_dataset(repo_id, name)`.
        holds: `"rows"` or `"scores"`.
        splits: Split -> number of rows.
        files: Split -> pattern of its Parquet files in the repository.
        bytes: Size of all its files.
        default: Whether `load_dataset(repo_id)` loads it.
    """

    name: str
    holds: str
    splits: dict[str, int]
    files: dict[str, str]
    bytes: int
    default: bool


class ResultTask(TypedDict):
    """The task that a result was measured on; every key is optional.

    Attributes:
        name: Name of the task, such as `"gsm8k_cot"`.
        version: Version of the task.
        shots: Number of examples in the prompt.
        template: Name or digest of the prompt template.
        metric: Name of the metric in the harness.
        filter: Name of the filter that extracts the answer.
        limit: Number of questions that were used, or their share if it is less than 1.
        weighting: Of held-out rows `"rows"` for the mean of the values of single rows, `"bytes"` for all bytes.
    """

    name: NotRequired[str]
    version: NotRequired[str]
    shots: NotRequired[int]
    template: NotRequired[str]
    metric: NotRequired[str]
    filter: NotRequired[str]
    limit: NotRequired[float]
    weighting: NotRequired[str]


class Harness(TypedDict):
    """The package that evaluated, such as `lm_eval`, and its version."""

    name: str
    version: str


class ResultCost(TypedDict):
    """Cost of the runs behind a result by phase, means over the runs; every key is optional."""

    selecting: NotRequired[Cost]
    training: NotRequired[Cost]
    evaluation: NotRequired[Cost]


class Result(TypedDict):
    """An evaluation result of models trained on the selected rows, or of models to compare with.

    The first five keys are required. The others describe several training runs and their comparison.

    Attributes:
        trained_on: `"this selection"`, `"random rows"`, `"the whole pool"`, `"untrained"` ...;
            `"random at equal cost"` for random rows with the cost of the dearest method.
        metric: `"exact match"`, `"loss"` ...; `"average"` for the mean over several tasks.
        dataset: Name of the evaluation dataset; its id for a dataset on the Hub.
        value: Value of the metric, the mean over the runs.
        note: Further information, such as the range over seeds, or "".
        versus: `trained_on` of the results that `difference`, `low`, `high` and `p` compare with: `"random rows"`.
        difference: Difference of `value` to that of `versus`, in the unit of `value`.
        low: Lower end of the interval of the difference, which holds for all compared methods at once.
        high: Upper end of the interval.
        confidence: Confidence level of the interval, between 0 and 1.
        p: p value of the difference, adjusted for all compared methods.
        higher_is_better: Whether higher values of the metric are better; True if it is missing.
        sd: Standard deviation between the runs, in the unit of `value`.
        runs: Number of finished runs.
        planned: Number of planned runs.
        items: Number of questions or held-out rows that every run was evaluated on.
        values: Value of each run, in the order of their seeds.
        task: The task.
        harness: The package that evaluated.
        cost: Cost by phase.
        compared: Number of methods that the interval and p hold for at once, also those that no result is of.
        detectable: True difference that is seen in 80 % of such experiments, in the unit of `value`.
    """

    trained_on: str
    metric: str
    dataset: str
    value: float
    note: str
    versus: NotRequired[str]
    difference: NotRequired[float]
    low: NotRequired[float]
    high: NotRequired[float]
    confidence: NotRequired[float]
    p: NotRequired[float]
    higher_is_better: NotRequired[bool]
    sd: NotRequired[float]
    runs: NotRequired[int]
    planned: NotRequired[int]
    items: NotRequired[int]
    values: NotRequired[list[float]]
    task: NotRequired[ResultTask]
    harness: NotRequired[Harness]
    cost: NotRequired[ResultCost]
    compared: NotRequired[int]
    detectable: NotRequired[float]


class TrainingRun(TypedDict):
    """The training run that selected the rows.

    Attributes:
        model: Name of the trained model.
        settings: Settings that differ from their defaults.
        steps: Number of optimizer steps.
        epochs: Number of epochs over the rows of the rounds.
        loss: (step, training loss) as logged.
        eval_loss: (step, evaluation loss) as logged.
        selection_time_share: Share of the wall time that scoring and selecting took, 0 to 1, or None.
        costs: Cost of the run by phase: `"selecting"`, `"training"`, and `"evaluation"` if there was one while it
            trained. Absent if it was not recorded.
    """

    model: str
    settings: dict[str, Any]
    steps: int
    epochs: float
    loss: list[tuple[int, float]]
    eval_loss: list[tuple[int, float]]
    selection_time_share: float | None
    costs: NotRequired[dict[str, Cost]]


class Facts(TypedDict):
    """Everything that a page shows.

    Attributes:
        format_version: Version of this structure, `FORMAT`.
        title: Title of the page.
        repo_id: Repository that the selection is published in, or None.
        revision: Branch that it is published on, or None for the main one.
        publication: Name of this selection in the repository, `"default"` by default.
        images: URL prefix of the images; "" for files next to the page.
        parent: The dataset that rows were selected from.
        method: The selector.
        scores: Specs of the computed scores, each with `about`, its description, and `citation`.
        seed: Random seed.
        rounds: One selection, or one for each round; the last is the final one.
        configs: Configurations of the published dataset; empty for a local page.
        training: The training run that selected, or None.
        items: Paths in the repository of the files with the result of every question; missing without any.
        sections: Name of a section -> its own facts, of the type that its module defines.
    """

    format_version: int
    title: str
    repo_id: str | None
    revision: str | None
    publication: str
    images: str
    parent: Parent
    method: Method
    scores: list[dict[str, Any]]
    seed: int
    rounds: list[RoundFacts]
    configs: list[DataConfig]
    training: TrainingRun | None
    items: NotRequired[list[str]]
    sections: dict[str, Any]
