"""Find the command, run it, and turn a refusal into one line on stderr."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

from hf_datasel.cli.log_filters import without_clutter
from hf_datasel.cli.wording import in_flags
from hf_datasel.errors import DataselError, did_you_mean

__all__ = ["main"]

COMMANDS = {
    "list": "selectors, filters and scores, with their settings",
    "score": "add score columns to a dataset",
    "select": "choose rows once, with a fixed model or from columns",
    "train": "fine-tune on rows that are chosen again every epoch",
    "explain": "why rows were taken, or were not",
    "compare": "what selections or methods choose, side by side",
    "report": "a page about a selection or a training run, in one file",
    "push": "publish a selection or a training run on the Hub",
    "env": "versions and devices, for a bug report",
}
_WITHOUT_KEYS = ("list", "env")
_HELP = (["-h"], ["--help"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it went well, 2 with one line on stderr if what was asked cannot be, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        print(f"hf-datasel {importlib.metadata.version('hf-datasel')}")
        return 0
    name, rest = arguments[0], arguments[1:]
    try:
        if name not in COMMANDS:
            raise DataselError(
                f"There is no command {name!r}.{did_you_mean(name, COMMANDS)} There are {', '.join(COMMANDS)}."
            )
        if name in _WITHOUT_KEYS and rest in _HELP:
            print(f"usage: hf-datasel {name}\n\n{COMMANDS[name]}")
            return 0
        with without_clutter():
            importlib.import_module(f"hf_datasel.cli.{name}").run(rest)
        _leave_others()
    except DataselError as error:
        command = f"hf-datasel {name}" if name in COMMANDS else "hf-datasel"
        print(f"{command}: error: {in_flags(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"hf-datasel {name}: interrupted.", file=sys.stderr)
        return 130
    return 0


def _usage() -> str:
    lines = [f"  {name:<8} {about}" for name, about in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hf-datasel COMMAND [--config FILE.yaml] [--KEY VALUE ...]",
            "",
            *lines,
            "",
            "hf-datasel COMMAND --help shows a command's keys. Keys are the same in a file and on the command line.",
        ]
    )


def _leave_others() -> None:
    """Close the process group of a launcher: its threads may abort a process that ends without that."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
