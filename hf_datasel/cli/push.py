"""`hf-datasel push`"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hf_datasel.cli.parsing import DatasetArguments, parse, show_progress_messages
from hf_datasel.cli.report import RunArguments, run_folder
from hf_datasel.errors import ConfigError, PublishError

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
    from hf_datasel.publish import push_selections
    from hf_datasel.publish.report import read_results
    from hf_datasel.publish.run import read_run

    folder = run_folder(arguments.selection)
    if not arguments.repo_id or not isinstance(arguments.repo_id, str):
        raise ConfigError("No repository is named. Pass --repo_id NAMESPACE/NAME, or put it into the config file.")
    selections, training = read_run(folder)
    results = read_results(str(arguments.results)) if arguments.results else []
    with reaching_the_hub():
        before = _head(arguments.repo_id, arguments.revision)
        info = push_selections(
            selections,
            arguments.repo_id,
            dataset_arguments.load(),
            private=arguments.private,
            revision=arguments.revision,
            commit_message=arguments.commit_message,
            config_name=arguments.config_name,
            results=results,
            training=training,
        )
    if info.oid == before:
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


def _head(repo_id: str, revision: str | None) -> str | None:
    """Commit that the branch is at, or None for a repository or a branch that is not there yet."""
    from huggingface_hub.errors import RevisionNotFoundError

    from hf_datasel.publish.access import sign_in
    from hf_datasel.publish.hub import Hub

    hub = Hub(repo_id, revision=revision)
    sign_in(hub)
    try:
        return hub.snapshot().commit if hub.is_private() is not None else None
    except RevisionNotFoundError:
        return None
