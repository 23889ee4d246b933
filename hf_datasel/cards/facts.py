"""All that a card or a report says of a selection, as plain values: what they show is a function of these alone."""

from __future__ import annotations

from typing import Any, TypedDict

from hf_datasel.analysis.summaries import Distribution, EmbeddingMap, Overlaps
from hf_datasel.analysis.weights import ClusterWeights

__all__ = ["Choice", "DataConfig", "Facts", "Groups", "Method", "Parent", "Result", "Step", "TokenCount", "Training"]


class Parent(TypedDict):
    """The dataset that rows were chosen from.

    Attributes:
        name: on the Hub; None where it is not known.
        revision: commit on the Hub, or None.
        config: configuration on the Hub, or None.
        split: or None.
        changed: whether the pool visibly is not that split as it is on the Hub, but filtered, reordered or the like.
        id: sha256 over the content of its rows in order.
        rows: how many it has.
        format: of its rows: `"alpaca"`, `"prompt-completion"`, `"messages"` ...
        looked_up: whether the Hub was asked for its card.
        sources: names of all datasets on the Hub that its rows come from; several where it is a mixture.
        metadata: what its card says and ours carries over: `license`, `license_name`, `license_link`, `language`,
            `task_categories`, and `license_as_written` in the place of `license` where that is no identifier; a key
            that its card lacks is not here.
    """

    name: str | None
    revision: str | None
    config: str | None
    split: str | None
    changed: bool
    id: str
    rows: int
    format: str
    looked_up: bool
    sources: list[str]
    metadata: dict[str, Any]


class Method(TypedDict):
    """The selector: its name as people write it, what it does, settings, BibTeX ("" where there is none).

    Of a selector that works with another one, all of these are of both. Among the settings are those of the training
    run that the choice depends on, where they differ from their defaults.
    """

    name: str
    about: str
    settings: dict[str, Any]
    citation: str


class TokenCount(TypedDict):
    """A budget in tokens, and the tokens of the chosen rows."""

    budget: int
    chosen: int


class Step(TypedDict):
    """What a round is in a run of several.

    Attributes:
        kind: `"choice"`, `"warm-up"` or `"growing"`, as `RoundPlan` has it.
        rounds: of the run, as planned.
        epochs: passes over its rows, as planned.
        restart: whether its training began again from the base model.
        warmed: whether a warm-up came before.
        chosen_before: those of its rows that had been chosen in an earlier round.
    """

    kind: str
    rounds: int
    epochs: float
    restart: bool
    warmed: bool
    chosen_before: int


class Choice(TypedDict):
    """One selection: the only one, or that of one round.

    Attributes:
        config: configuration of the published dataset that holds its rows; `"round-0"`.
        round: its number, from 0.
        step: what the round is in the run; None where there is only one, or it is not recorded.
        rows: chosen.
        budget: rows that were asked for; of a budget in tokens, the rows that fit into it.
        tokens: that budget, or None where rows were asked for.
        interrupted: whether the rows are only the beginning of a choice, which was interrupted.
        rows_scored: by a model or otherwise for this choice; 0 where only columns were read.
        seconds: spent on scoring and choosing, or None.
        model: that scored: `name`, and `resolved`, or `global_step` of the run, `steps` since the base weights and
            `dtype`; None where no model did.
        reused: rows whose losses were taken from training.
        columns_unverified: columns of the parent that the choice relied on, without knowing how they were made.
        not_eligible: rows that cannot be trained on, by reason.
        left_out: rows that were no candidates, by reason.
        means: score -> mean over the rows scored and over those chosen.
    """

    config: str
    round: int
    step: Step | None
    rows: int
    budget: int
    tokens: TokenCount | None
    interrupted: bool
    rows_scored: int
    seconds: float | None
    model: dict[str, Any] | None
    reused: int
    columns_unverified: list[str]
    not_eligible: dict[str, int]
    left_out: dict[str, int]
    means: dict[str, tuple[float, float]]


class Groups(TypedDict):
    """The clusters, or other groups of rows, that the choice is spread over.

    Attributes:
        column: with the group of each row.
        pool: groups that rows of the pool are in.
        chosen: those of them that chosen rows are in.
        largest: share of the pool's rows that is in its largest group, 0 to 1.
        largest_chosen: share of the chosen rows that is in that group.
    """

    column: str
    pool: int
    chosen: int
    largest: float
    largest_chosen: float


class DataConfig(TypedDict):
    """A configuration of the published dataset.

    Attributes:
        name: for `load_dataset(repo_id, name)`.
        holds: `"rows"` or `"scores"`.
        splits: split -> number of rows.
        files: split -> pattern of its Parquet files in the repository.
        bytes: of all its files.
        default: whether it is what `load_dataset(repo_id)` gives.
    """

    name: str
    holds: str
    splits: dict[str, int]
    files: dict[str, str]
    bytes: int
    default: bool


class Result(TypedDict):
    """A measurement: of a model trained on the rows, or of what it is held against.

    Attributes:
        trained_on: `"this selection"`, `"random rows"`, `"whole pool"`, `"untrained"` ...
        metric: `"exact match"`, `"loss"` ...
        dataset: it was measured on.
        value: higher or lower is better as the metric has it.
        note: what else has to be known, such as the range over seeds; "" for nothing.
    """

    trained_on: str
    metric: str
    dataset: str
    value: float
    note: str


class Training(TypedDict):
    """A finished training run.

    Attributes:
        model: that was trained, as it was named.
        settings: of the run, where they differ from the defaults.
        steps: optimizer steps.
        epochs: passes over the rounds' rows.
        loss: (step, training loss) as logged.
        eval_loss: (step, loss on the evaluation set) as logged.
        selecting: share of the run's wall time spent on selecting, 0 to 1, or None.
    """

    model: str
    settings: dict[str, Any]
    steps: int
    epochs: float
    loss: list[tuple[int, float]]
    eval_loss: list[tuple[int, float]]
    selecting: float | None


class Facts(TypedDict):
    """Everything, in the order in which a reader meets it.

    Attributes:
        format_version: of these facts.
        title: of the page.
        repo_id: where the selection is published, or None.
        revision: branch that it is published on, or None for the main one.
        publication: name of this selection within the repository; "default" unless it shares it with others.
        images: what stands before the path of an image: "" for files beside the page.
        parent: the pool.
        method: the selector.
        scores: specs of the scores that were computed, each with `about`, what the score is in one sentence.
        choices: one, or one a round; the last is what is trained on in the end.
        recipe: keys and values of the YAML file that makes the selection again.
        command: `"select"` or `"train"`: what runs the recipe.
        not_in_recipe: why the recipe alone is not enough; empty where it is.
        seed: of everything random.
        configs: of the published dataset; empty for a local page.
        distributions: scores over the rows scored and those chosen; of several rounds, the first score in the last.
        rounds: the first score over the rounds, in groups `"round 0: scored"`, `"round 0: chosen"`,
            `"round 1: scored"` ...; empty unless there are several.
        lengths: response length in words over the pool, the chosen rows and baselines of the same size, or None.
        groups: that the last choice is spread over, or None where it knows of none.
        overlap: of the rounds and the baselines, or None; of rounds that grow, the last one stands for all.
        weights: of clusters, round by round, or None where they do not move.
        map: of embeddings, or None.
        results: measurements; empty where nothing was measured.
        training: the run that chose, or None.
        versions: package -> version.
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
    choices: list[Choice]
    recipe: dict[str, Any]
    command: str
    not_in_recipe: list[str]
    seed: int
    configs: list[DataConfig]
    distributions: list[Distribution]
    rounds: list[Distribution]
    lengths: Distribution | None
    groups: Groups | None
    overlap: Overlaps | None
    weights: ClusterWeights | None
    map: EmbeddingMap | None
    results: list[Result]
    training: Training | None
    versions: dict[str, str]
