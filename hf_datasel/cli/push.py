"""`hf-datasel push`: publish a selection or a training run on the Hub."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.cli.arguments import DatasetArguments, log_to_stderr, parse, record_columns
from hf_datasel.cli.report import RunArguments, run_folder
from hf_datasel.errors import ConfigError, PublishError
from hf_datasel.scoring.progress import map_progress_disabled, only_drawn_bars
from hf_datasel.selection.display import method_name

if TYPE_CHECKING:
    from hf_datasel.hub.repository import Hub, PushPlan, Snapshot
    from hf_datasel.selection import Selection

__all__ = ["PushArguments", "hub_errors", "is_private", "run"]


@dataclass
class PushArguments(RunArguments):
    """Settings of the repository on the Hub."""

    repo_id: str | None = field(
        default=None,
        metadata={
            "help": "Dataset repository on the Hub, created if it does not exist. The token is that of `hf auth "
            "login`, or HF_TOKEN in the environment. There is no flag for it, since shells "
            "save the command line in their history."
        },
    )
    private: bool | None = field(
        default=None,
        metadata={
            "help": "Whether a new repository is private; by default, if the origin of the rows is unknown. An "
            "existing repository is not changed."
        },
    )
    public: bool = field(
        default=False,
        metadata={
            "help": "Publish in a public repository also if the origin of the rows is unknown. Rows of a private or "
            "gated dataset are never published in one."
        },
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, created if it does not exist."})
    commit_message: str | None = field(
        default=None, metadata={"help": "Commit message; by default it names the selection."}
    )
    allow_secrets: bool = field(
        default=False,
        metadata={
            "help": "Publish rows with text that has the shape of a key or token. Values of secret environment "
            "variables are never published."
        },
    )
    items: str | None = field(
        default=None,
        metadata={
            "help": "Folder with the result of every question behind --results: Parquet files that hf-datasel wrote. "
            "They are published in evaluation/, so that others can compute the results again."
        },
    )
    hub_model_id: str | None = field(
        default=None,
        metadata={
            "help": 'Model repository on the Hub that gets the --results of "this selection", too: in the metadata of '
            "its card, and in .eval_results/ for datasets on the Hub."
        },
    )
    model_run: int | None = field(
        default=None,
        metadata={"help": "Index of the run, from 0, that --hub_model_id is the model of; needed for several runs."},
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "Print which files would go where, their sizes and who could see them, and upload nothing."},
    )
    config_name: str | None = field(
        default=None, metadata={"help": "Name of the configuration, to publish several selections in one repository."}
    )


def run(argv: Sequence[str]) -> None:
    """Publish a selection, or all rounds of a training run, and print its URL."""
    dataset_arguments, arguments = parse((DatasetArguments, PushArguments), argv, "push")
    log_to_stderr()
    from hf_datasel.cards.build import read_run
    from hf_datasel.cards.push import plan_push, push_selections
    from hf_datasel.cards.report import read_results
    from hf_datasel.training import model_results, push_model_results

    folder = run_folder(arguments.selection)
    _check_name(arguments.repo_id)
    selections, training = read_run(folder)
    record_columns(selections, dataset_arguments.mapping)
    results = read_results(str(arguments.results)) if arguments.results else []
    if arguments.hub_model_id is not None:
        model_results(results, run=arguments.model_run)  # raises before anything is published
    with hub_errors(), only_drawn_bars():
        dataset = dataset_arguments.load(selections[-1].columns)
        selections[-1].check(dataset)
    with hub_errors(), map_progress_disabled():
        hub, before = _snapshot(arguments.repo_id, arguments.revision)
        if before is not None and (replaced := _replaced(hub, before, selections, arguments.config_name)):
            print(f"Replaces {replaced}, in {hub.repo_id}; pass another --config_name to keep both.")
        options: dict[str, Any] = {
            "private": is_private(arguments.private, arguments.public),
            "revision": arguments.revision,
            "config_name": arguments.config_name,
            "allow_secrets": arguments.allow_secrets,
            "results": results,
            "items": arguments.items,
            "training": training,
        }
        if arguments.dry_run:
            print(_plan_text(plan_push(selections, arguments.repo_id, dataset, **options)))
            return
        message = arguments.commit_message
        info = push_selections(selections, arguments.repo_id, dataset, commit_message=message, **options)
    if before is not None and info.oid == before.commit:
        print(f"Nothing has changed, and nothing was uploaded: {info.repo_url}")
    else:
        print(f"Published: {info.repo_url} (commit {info.oid[:12]})")
    if arguments.hub_model_id is not None:
        with hub_errors(), map_progress_disabled():
            info = push_model_results(arguments.hub_model_id, results, run=arguments.model_run)
        print(f"Results of the model: {info.commit_url}")


def _plan_text(plan: PushPlan) -> str:
    """Return the files of a push with their sizes, where they would go, and who could see them."""
    seen = {True: "private", False: "public", None: "public or private by the default of the namespace"}
    state = "new, " if plan.is_new else ""
    uploaded = [file for file in plan.files if file.change in ("new", "changed")]
    width = max(len(file.path) for file in plan.files)
    lines = [f"Would publish in {plan.url} ({state}{seen[plan.private]}), branch {plan.revision or 'main'}:"]
    lines += [f"  {file.path:<{width}}  {file.size:>13,} bytes  {file.change}" for file in plan.files]
    total = sum(file.size for file in uploaded)
    lines.append(f"{len(uploaded)} files to upload, {total:,} bytes. Nothing was uploaded.")
    return "\n".join(lines)


def is_private(private: bool | None, public: bool) -> bool | None:
    """Return whether a new repository is private, from the two flags; None if neither is set.

    Raises:
        ConfigError: They contradict each other.
    """
    if private and public:
        raise ConfigError("--private true and --public contradict each other. Remove one of them.")
    return False if public else private


@contextlib.contextmanager
def hub_errors() -> Iterator[None]:
    """Turn network errors and HTTP errors of the Hub into `PublishError`."""
    from huggingface_hub.errors import HfHubHTTPError

    transport: type[Exception] = HfHubHTTPError.__bases__[0]  # base class in the HTTP library of this version
    try:
        yield
    except (transport, ConnectionError, TimeoutError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PublishError(f"The Hub cannot be reached, or refused the request: {line}") from error


def _check_name(repo_id: object) -> None:
    """Raise `ConfigError` for an invalid repository name, before the login is checked."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not repo_id or not isinstance(repo_id, str):
        raise ConfigError("No repository is named. Pass --repo_id NAMESPACE/NAME, or put it into the config file.")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError(f"repo_id={repo_id!r} is not a valid repository name: {error}") from error


def _snapshot(repo_id: str, revision: str | None) -> tuple[Hub, Snapshot | None]:
    """Return the repository and the snapshot of its branch; None for a new repository or branch."""
    from huggingface_hub.errors import RevisionNotFoundError

    from hf_datasel.hub.permissions import sign_in
    from hf_datasel.hub.repository import Hub

    hub = Hub(repo_id, revision=revision)
    sign_in(hub)
    try:
        return hub, hub.snapshot() if hub.is_private() is not None else None
    except RevisionNotFoundError:
        return hub, None


def _replaced(hub: Hub, now: Snapshot, selections: Sequence[Selection], config_name: str | None) -> str:
    """Return a description of the selection that a push replaces; "" if there is none, or it is the same."""
    from huggingface_hub.errors import RevisionNotFoundError

    from hf_datasel.cards.build import config_names
    from hf_datasel.cards.repository_files import is_config_of, selection_folders
    from hf_datasel.hub.repository import Hub

    try:
        hub.api.dataset_info(hub.repo_id, revision=hub.revision)
    except RevisionNotFoundError:  # the branch will be created, and replaces nothing
        return ""
    publication = config_name or "default"
    published = [name for name in selection_folders(list(now.files)) if is_config_of(name, publication)]
    if not published:
        return ""
    pinned = Hub(hub.repo_id, revision=now.commit)
    files = {name: pinned.download(f"selections/{name}/indices.npy") for name in published}
    last = max(published, key=lambda name: (len(name), name))
    record_file = pinned.download(f"selections/{last}/selection.json")
    try:
        rows = {name: np.load(file, allow_pickle=False) for name, file in files.items()}
        method = method_name(json.loads(record_file.read_text(encoding="utf-8"))["selector"])
    except (ValueError, EOFError, LookupError, TypeError, AttributeError):
        return "a selection whose files are damaged"
    names = config_names(selections, publication)
    new_rows = {name: selection.indices for name, selection in zip(names, selections, strict=True)}
    if rows.keys() == new_rows.keys() and all(np.array_equal(rows[name], new_rows[name]) for name in new_rows):
        return ""
    rounds = f"{len(published)} rounds, the last of " if len(published) > 1 else ""
    return f"{method}, {rounds}{rows[last].size:,} rows"
