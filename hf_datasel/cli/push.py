"""`hf-datasel push`"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.cli.arguments import DatasetArguments, bars_on_terminals, parse, show_progress_messages
from hf_datasel.cli.log_filters import no_bars
from hf_datasel.cli.report import RunArguments, run_folder
from hf_datasel.errors import ConfigError, PublishError
from hf_datasel.selection.display import method_name

if TYPE_CHECKING:
    from hf_datasel.hub.repository import Hub, Snapshot
    from hf_datasel.selection import Selection

__all__ = ["PushArguments", "reaching_the_hub", "run"]


@dataclass
class PushArguments(RunArguments):
    """Where on the Hub it goes."""

    repo_id: str | None = field(
        default=None,
        metadata={
            "help": "Dataset repository on the Hub; made if it is not there. The token is that of `hf auth login`, or "
            "HF_TOKEN in the environment: there is no flag for it, because a command line stays in the history."
        },
    )
    private: bool | None = field(
        default=None,
        metadata={"help": "Whether a new repository is private; an existing one stays as it is."},
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, made if it is not there."})
    commit_message: str | None = field(default=None, metadata={"help": "By default it says what was chosen."})
    config_name: str | None = field(
        default=None, metadata={"help": "Puts the selection beside others in the repository, under this name."}
    )


def run(argv: Sequence[str]) -> None:
    """Publish a selection, or all rounds of a training run, and print where it is."""
    dataset_arguments, arguments = parse((DatasetArguments, PushArguments), argv, "push")
    show_progress_messages()
    from hf_datasel.cards import push_selections
    from hf_datasel.cards.report import read_results
    from hf_datasel.cards.run import read_run

    folder = run_folder(arguments.selection)
    _check_name(arguments.repo_id)
    selections, training = read_run(folder)
    results = read_results(str(arguments.results)) if arguments.results else []
    with reaching_the_hub(), bars_on_terminals():
        dataset = dataset_arguments.load()
        selections[-1].check(dataset)
    with reaching_the_hub(), no_bars():
        hub, before = _there(arguments.repo_id, arguments.revision)
        if before is not None and (replaced := _replaced(hub, before, selections, arguments.config_name)):
            print(f"Replaces {replaced}, in {hub.repo_id}; another --config_name puts it beside that.")
        info = push_selections(
            selections,
            arguments.repo_id,
            dataset,
            private=arguments.private,
            revision=arguments.revision,
            commit_message=arguments.commit_message,
            config_name=arguments.config_name,
            results=results,
            training=training,
        )
    if before is not None and info.oid == before.commit:
        print(f"Nothing is new, and nothing was uploaded: {info.repo_url}")
    else:
        print(f"Published: {info.repo_url} (commit {info.oid[:12]})")


@contextlib.contextmanager
def reaching_the_hub() -> Iterator[None]:
    """One line for a Hub that gives no answer or an unexpected one."""
    from huggingface_hub.errors import HfHubHTTPError

    transport: type[Exception] = HfHubHTTPError.__bases__[0]  # of whichever HTTP library this version is built on
    try:
        yield
    except (transport, ConnectionError, TimeoutError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PublishError(f"The Hub cannot be reached, or does not do what was asked: {line}") from error


def _check_name(repo_id: object) -> None:
    """Refuse what no repository can be called, before anybody has to be logged in."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not repo_id or not isinstance(repo_id, str):
        raise ConfigError("No repository is named. Pass --repo_id NAMESPACE/NAME, or put it into the config file.")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError(f"repo_id={repo_id!r} is no name for a repository: {error}") from error


def _there(repo_id: str, revision: str | None) -> tuple[Hub, Snapshot | None]:
    """The repository, and what is on the branch; None for a repository or a branch that is not there yet."""
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
    """In a few words the choice that a push takes the place of; "" where there is none, or it is the same."""
    from huggingface_hub.errors import RevisionNotFoundError

    from hf_datasel.cards.build import config_names
    from hf_datasel.cards.repository_files import belongs_config, selection_folders
    from hf_datasel.hub.repository import Hub

    try:
        hub.api.dataset_info(hub.repo_id, revision=hub.revision)
    except RevisionNotFoundError:  # a branch that will be made, and replaces nothing
        return ""
    publication = config_name or "default"
    there = [name for name in selection_folders(list(now.files)) if belongs_config(name, publication)]
    if not there:
        return ""
    pinned = Hub(hub.repo_id, revision=now.commit)
    rows = {name: np.load(pinned.download(f"selections/{name}/indices.npy"), allow_pickle=False) for name in there}
    ours = {name: each.indices for name, each in zip(config_names(selections, publication), selections, strict=True)}
    if rows.keys() == ours.keys() and all(np.array_equal(rows[name], ours[name]) for name in ours):
        return ""
    last = max(there, key=lambda name: (len(name), name))
    about = json.loads(pinned.download(f"selections/{last}/selection.json").read_text(encoding="utf-8"))
    rounds = f"{len(there)} rounds, the last of " if len(there) > 1 else ""
    return f"{method_name(about['selector'])}, {rounds}{len(rows[last]):,} rows"
