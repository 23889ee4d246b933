"""Entry point of `hf-datasel`: run a command and print its errors as one line."""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from hf_datasel.cli.examples import examples_text
from hf_datasel.cli.log_filters import filter_log_messages
from hf_datasel.cli.output_folder import no_empty_folders
from hf_datasel.cli.terminal import printable, printable_stdout
from hf_datasel.errors import ConfigError, DataselError, did_you_mean
from hf_datasel.scoring.progress import quiet

__all__ = ["main"]

COMMANDS = {
    "list": "list selectors, filters and scores, or what one of them does and its settings",
    "score": "add score columns to a dataset",
    "select": "select rows once, with a fixed model or by columns of the dataset",
    "train": "fine-tune on rows that are selected again every epoch",
    "explain": "explain why rows were selected, or were not",
    "browse": "write a page with all rows, their scores and what became of them",
    "compare": "compare selections, or what several methods select",
    "eval": "evaluate a model on held-out rows and benchmarks",
    "bench": "train and evaluate several methods, and compare them with random rows",
    "report": "write a page about a selection or a training run",
    "push": "publish a selection or a training run on the Hub",
    "env": "print versions and devices, for a bug report",
}
_WITHOUT_FLAGS = ("env",)
_VERBOSITY = {"--quiet": logging.ERROR, "--verbose": logging.INFO}
"""Flags of every command, and the level from which on messages are printed."""
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of a full disk or a folder that cannot be written to, such as the one of a library's cache."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Name of the command and its arguments; by default those of the process.

    Returns:
        The exit code: 0 for success, 2 after an error, which is printed to stderr as one line, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        print(f"hf-datasel {importlib.metadata.version('hf-datasel')}")
        return 0
    name, *flags = arguments
    try:
        if name not in COMMANDS:
            raise DataselError(
                f"There is no command {name!r}.{did_you_mean(name, COMMANDS)} There are {', '.join(COMMANDS)}."
            )
        if name in _WITHOUT_FLAGS and flags in (["-h"], ["--help"]):
            print(f"usage: hf-datasel {name}\n\n{COMMANDS[name]}\n\n{examples_text(name)}")
            return 0
        with filter_log_messages(), printable_stdout(), no_empty_folders(), _verbosity(flags):
            importlib.import_module(f"hf_datasel.cli.{name}").run(flags)
        _destroy_process_group()
    except DataselError as error:
        command = f"hf-datasel {name}" if name in COMMANDS else "hf-datasel"
        print(printable(f"{command}: error: {error.cli_message}"), file=sys.stderr)
        return 2
    except BrokenPipeError:  # nobody reads on, as in hf-datasel list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(f"hf-datasel {name}: interrupted.", file=sys.stderr)
        return 130
    except Exception as error:
        if not (reason := _refusal(error)):
            raise
        print(printable(f"hf-datasel {name}: error: {reason}"), file=sys.stderr)
        return 2
    return 0


@contextmanager
def _verbosity(flags: list[str]) -> Iterator[None]:
    """Remove `--quiet` and `--verbose` from the flags, and log and show progress as they say.

    Raises:
        ConfigError: Both are there.
    """
    levels = [flag for flag in _VERBOSITY if flag in flags]
    if len(levels) > 1:
        raise ConfigError("--quiet and --verbose exclude each other. Pass one of them.")
    flags[:] = [flag for flag in flags if flag not in _VERBOSITY]
    if not levels:
        yield
        return
    logger = logging.getLogger("hf_datasel")
    level = logger.level
    logger.setLevel(_VERBOSITY[levels[0]])
    try:
        with quiet() if levels == ["--quiet"] else nullcontext():
            yield
    finally:
        logger.setLevel(level)


def _refusal(error: Exception) -> str:
    """Return a message for an error of a full disk or a folder that cannot be written to; "" for others."""
    number = error.errno if isinstance(error, OSError) else None
    if match := re.search(r"\(os error (\d+)\)", str(error)):  # from safetensors and tokenizers
        number = int(match[1])
    if number not in _REFUSED:
        return ""
    file = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    return f"{os.strerror(number)}{file}. Make room, or use folders that can be written to."


def _usage() -> str:
    lines = [f"  {name:<8} {description}" for name, description in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hf-datasel COMMAND [--config FILE.yaml] [--KEY VALUE ...]",
            "",
            *lines,
            "",
            "hf-datasel COMMAND --help lists the keys of a command. They are the same in a file and as flags.",
            "Every command takes --quiet (no progress and no warnings) and --verbose (also what scoring costs).",
        ]
    )


def _destroy_process_group() -> None:
    """Destroy the process group of a launcher, whose threads may otherwise abort the process at its end."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
