"""Parsing of flags and YAML keys with TRL's parser, and helpers that several commands share."""

from __future__ import annotations

import argparse
import copy
import glob
import json
import logging
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from trl import TrlParser

from hf_datasel.cli.config_file import TRUST_FLAGS, check_trusted, read_config, set_variables, suggested_key
from hf_datasel.cli.examples import EXAMPLES_TITLE, examples_text
from hf_datasel.cli.terminal import printable
from hf_datasel.errors import ConfigError, check_option

if TYPE_CHECKING:
    from hf_datasel.selection import Selection

__all__ = [
    "DatasetArguments",
    "allow_local_imports",
    "as_dict",
    "check_no_commas",
    "dataset_title",
    "log_to_stderr",
    "names_and_settings",
    "parse",
    "record_columns",
    "selector_and_settings",
]

_CONFIG_FLAG = "--config"
_TRUST_HELP = (
    "Permit what the config file does besides computing: send rows or tokens to an address (base_url, api_key_env), "
    "run code from the Hub or from pickles (trust_remote_code, attn_implementation, use_kernels, weights_only), "
    "import classes (allow_imports), use a token of its own, publish what is not published otherwise (public, "
    "allow_secrets), and set environment variables (env). Only on the command line."
)


@dataclass
class DatasetArguments:
    """The dataset, with the keys of TRL's scripts."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "File, folder, glob (in quotes) or Hub id of the dataset."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to use."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a Hub dataset."})
    columns: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Names of the columns of a row format, or role and content of messages, and the names that the "
            'dataset has for them, such as {"prompt": "question", "completion": "answer"}.'
        },
    )

    @property
    def mapping(self) -> dict[str, Any] | None:
        """`columns` as a mapping; None if it is not set."""
        return as_dict(self.columns, "columns") or None

    def flags(self) -> list[str]:
        """Return the flags that name the same dataset for another command."""
        flags = []
        for setting in fields(self):
            value = getattr(self, setting.name)
            if value not in (None, setting.default):
                flags += [f"--{setting.name}", value if isinstance(value, str) else json.dumps(value)]
        return flags

    def load(self, recorded: Mapping[str, str] | None = None) -> Any:
        """Load the dataset.

        Args:
            recorded: Mapping of columns that a saved selection was made with, if `columns` is not set.

        Raises:
            ConfigError: If `dataset_name` is not set.
        """
        from hf_datasel.formats import load_pool

        if not self.dataset_name or not isinstance(self.dataset_name, str):
            raise ConfigError(
                "No dataset is named. Pass --dataset_name FILE-OR-HUB-ID, or put it into the config file."
            )
        data = load_pool(
            self.dataset_name,
            self.dataset_train_split,
            self.dataset_config,
            self.dataset_revision,
            self.mapping or recorded,
        )
        _read_origins(Path(self.dataset_name).expanduser())
        return data


def dataset_title(name: str) -> str:
    """Return the name of a dataset for a title: without folders and endings, and for a glob that of its folder.

    >>> dataset_title("data/rows.jsonl.gz"), dataset_title("me/rows"), dataset_title("./shards/*.parquet")
    ('rows', 'rows', 'shards')
    """
    from hf_datasel.formats.file_readers import COMPRESSIONS, KINDS

    path = Path(name)
    if glob.has_magic(path.name) and path.parent.name:
        path = path.parent
    while path.suffix.lower() in (*KINDS, *COMPRESSIONS):
        path = path.with_suffix("")
    return path.name


def _read_origins(file: Path) -> None:
    """Read the record that `hf-datasel score` writes next to its file of how the columns were computed."""
    from hf_datasel.scoring.column_provenance import read_provenance

    origins = file.with_suffix(".origins.json")
    if file.suffix == ".parquet" and origins.is_file():
        read_provenance(origins)


def parse(
    argument_types: Iterable[type],
    argv: Sequence[str],
    command: str,
    description: str | None = None,
    required: Mapping[str, str] | None = None,
    first: Collection[str] = (),
) -> tuple[Any, ...]:
    """Fill dataclasses from flags and from `--config FILE.yaml`; flags take precedence.

    Args:
        argument_types: The dataclasses.
        argv: Flags and their values.
        command: Name of the command and its positional arguments, for the help text.
        description: Description of the command, for the help text.
        required: Keys the command needs, with the message for each. If the arguments are invalid and one of these
            keys is missing, its message is raised, since the missing key is the likely cause.
        first: Keys that the help text shows first, as a group of their own.

    Returns:
        An instance of each dataclass.

    Raises:
        ConfigError: If a key or flag is unknown, a key occurs twice in the file, the file cannot be read, a value is
            invalid, or the file does what needs `--trust_config`.
    """
    name = command.split()[0]
    parser = TrlParser(
        tuple(argument_types),
        prog=f"hf-datasel {name}",
        usage=f"hf-datasel {command} [--config FILE.yaml] [--KEY VALUE ...]",
        allow_abbrev=False,
        description=description,
        epilog=examples_text(name),
        formatter_class=_HelpFormatter,
    )
    _show_first(parser, first)
    keys = sorted({action.dest for action in parser._actions} - {"help"})
    parser.add_argument(*TRUST_FLAGS, action="store_true", default=argparse.SUPPRESS, help=_TRUST_HELP)
    flags = parser._option_string_actions
    arguments = [argument for argument in argv if argument not in TRUST_FLAGS]
    for argument in arguments:
        name = argument.split("=", 1)[0]
        if name in TRUST_FLAGS:
            raise ConfigError(f"{name} takes no value. Pass {name} if you trust the file.")
        if name.startswith("--") and name not in flags and name != _CONFIG_FLAG:
            raise ConfigError(
                f"Unknown flag {name}.{suggested_key(name, [flag for flag in flags if flag.startswith('--')])}"
            )
    arguments, content, file = _read_file(arguments, keys)
    _check_mappings(arguments, flags)
    _check_booleans(content, parser)
    _check_choices(content, parser)
    names = [argument.split("=", 1)[0] for argument in arguments]
    keys_of_flags = {flags[name].dest for name in names if name in flags}
    if not any(argument in TRUST_FLAGS for argument in argv):
        check_trusted({key: value for key, value in content.items() if key not in keys_of_flags}, file)
    keys_set = keys_of_flags | set(content)
    parser.error = _raise_config_error  # argparse would print the usage with all keys and exit
    parser._check_value = _check_choice  # argparse lists the choices, and suggests none
    try:
        set_variables(content.pop("env", None) or {}, file)
        parser.set_defaults_with_config(**content)
        return tuple(parser.parse_args_into_dataclasses(args=arguments))
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        missing = [message for key, message in (required or {}).items() if key not in keys_set]
        raise ConfigError(_parser_message(error, missing)) from error


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Formatter that shows each flag once, defaults other than None, and the examples as they are."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        twins = {name.replace("_", "-") for name in action.option_strings if "_" in name}
        shown = copy.copy(action)
        shown.option_strings = [name for name in action.option_strings if name not in twins]
        return super()._format_action_invocation(shown)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(EXAMPLES_TITLE) else super()._fill_text(text, width, indent)


def _show_first(parser: argparse.ArgumentParser, keys: Collection[str]) -> None:
    """Move the flags of some keys into a group of their own at the beginning of the help text."""
    if not keys:
        return
    group = parser.add_argument_group("selection, and what every run needs")
    others = parser._optionals
    others.title = "other options, those of trl sft"
    group._group_actions = [action for action in others._group_actions if action.dest in keys]
    others._group_actions = [action for action in others._group_actions if action.dest not in keys]
    parser._action_groups.sort(key=lambda each: each is not group)


def _parser_message(error: Exception, missing: Sequence[str]) -> str:
    """Return the message for an error of TRL's or transformers' parser, given those for missing required keys."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.doc!r} is no valid JSON: {error}."
    unused = "Some specified arguments are not used by the HfArgumentParser"
    if missing:
        return missing[0]
    files = any(os.path.exists(name) for name in re.findall(r"'([^']+)'", str(error)))
    quotes = " Put a glob into quotes, so that the shell does not expand it." if files else ""
    return f"{str(error).replace(unused, 'Unknown arguments')}{quotes}"


def _raise_config_error(message: str) -> NoReturn:
    raise ConfigError(f"{message}.")


def _read_file(arguments: list[str], keys: list[str]) -> tuple[list[str], dict[str, Any], str]:
    """Return the arguments without `--config FILE`, the content of that file, and its name."""
    split: list[str] = []
    for argument in arguments:
        split += argument.split("=", 1) if argument.startswith(f"{_CONFIG_FLAG}=") else [argument]
    if _CONFIG_FLAG not in split:
        return split, {}, ""
    index = split.index(_CONFIG_FLAG)
    file, others = split[index + 1 : index + 2], split[:index] + split[index + 2 :]
    if not file:
        raise ConfigError("--config needs a file.")
    if _CONFIG_FLAG in others:
        raise ConfigError("--config occurs twice. Put all keys into one file.")
    return others, read_config(Path(file[0]), keys), file[0]


def _check_mappings(arguments: Sequence[str], flags: Iterable[str]) -> None:
    """Check the values of flags that take a mapping here, since the parser's error does not name the flag."""
    mappings = {flag for flag in flags if flag.endswith(("_kwargs", "-kwargs")) or flag == "--columns"}
    for index, argument in enumerate(arguments):
        flag, equals_sign, value = argument.partition("=")
        if flag in mappings:
            as_dict(value if equals_sign else next(iter(arguments[index + 1 : index + 2]), None), flag)


def _check_booleans(content: Mapping[str, Any], parser: TrlParser) -> None:
    """Raise `ConfigError` if a key of a file that is true or false has a number, a list or a mapping."""
    booleans = (action.dest for action in parser._actions if getattr(action.type, "__name__", "") == "string_to_bool")
    for key in booleans:
        if not isinstance(content.get(key), bool | str | None):
            raise ConfigError(f"{key} has to be true or false, and is {content[key]!r}.")


def _check_choices(content: Mapping[str, Any], parser: TrlParser) -> None:
    """Raise `ConfigError` if a key of a file has a value that its flag does not take: argparse checks flags only."""
    for action in parser._actions:
        value = content.get(action.dest)
        if action.choices is not None and value is not None:
            check_option(f"{action.dest}={value!r}", value, action.choices)


def _check_choice(action: argparse.Action, value: Any) -> None:
    if action.choices is not None:
        check_option(f"{action.option_strings[0]} {value}", value, action.choices)


def as_dict(value: Any, key: str) -> dict[str, Any]:
    """Return a mapping from YAML, or from the JSON text of a flag; empty for None.

    Raises:
        ConfigError: If the value is neither.
    """
    if value is None:
        return {}
    example = f"such as {key} '{{\"NAME\": VALUE}}'" if key.startswith("-") else "such as '{\"NAME\": VALUE}'"
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (json.JSONDecodeError, RecursionError) as error:
            shown = value if len(value) <= 200 else f"{value[:200]}..."
            raise ConfigError(
                f"{key} has to be JSON on the command line, {example}, and is {shown!r}: {error}."
            ) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{key} has to be a mapping of settings, {example}, and is {value!r}.")
    return value


def names_and_settings(values: Any, key: str) -> list[tuple[str, dict[str, Any]]]:
    """Return pairs of name and settings from a list whose items are a name, or a mapping of one name to settings.

    Args:
        values: Such as `["random", {"top": {"by": "ifd"}}]`; mappings may be JSON text.
        key: Name of the flag or key, for messages.

    Raises:
        ConfigError: If the value is not such a list.
    """
    if not isinstance(values, list):
        raise ConfigError(f"{key} has to be a list of names, and is {values!r}.")
    pairs = []
    for item in values:
        if isinstance(item, str) and item.lstrip().startswith("{"):
            item = as_dict(item, key)
        if isinstance(item, str):
            check_no_commas(item, key)
            item = {item: {}}
        if not isinstance(item, dict) or len(item) != 1:
            raise ConfigError(f"{key} contains {item!r}: it has to be a name, or a name and its settings.")
        ((name, settings),) = item.items()
        pairs.append((str(name), as_dict(settings, f"{key}[{name!r}]")))
    return pairs


def selector_and_settings(value: Any, kwargs: Any) -> tuple[str, dict[str, Any]]:
    """Return name and settings of a selector, which are in `selector_kwargs` or with the name: `{top: {by: ifd}}`.

    Args:
        value: Value of `selector`, which may be JSON text.
        kwargs: Value of `selector_kwargs`.

    Raises:
        ConfigError: One of them is no name or mapping, or there are settings in both.
    """
    settings = as_dict(kwargs, "selector_kwargs")
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        return value, settings
    ((name, own),) = names_and_settings([value], "selector")
    if own and settings:
        raise ConfigError(f"selector={value!r} has settings, and so has selector_kwargs. Remove one of the two.")
    return name, own or settings


def check_no_commas(name: str, key: str) -> None:
    """Raise `ConfigError` if several names are written as one, separated by commas."""
    if "," in name:
        names = [part.strip() for part in name.split(",") if part.strip()]
        raise ConfigError(
            f"{key}: {name!r} is one name with commas in it. On the command line names are separated by spaces, "
            f"--{key} {' '.join(names)}, and in a config file they are a list, [{', '.join(names)}]."
        )


def record_columns(selections: Iterable[Selection], mapping: Mapping[str, str] | None) -> None:
    """Record in selections that the rows are read with a mapping of columns that they were not made with.

    Args:
        selections: The selections.
        mapping: `DatasetArguments.mapping`.
    """
    for selection in selections:
        if mapping:
            selection.provenance["dataset"]["columns"] = dict(mapping)


def allow_local_imports(allowed: bool) -> None:
    """Let imports find modules in the current folder, which a console script does not do by itself.

    The folder is searched last, so that no file in it hides an installed package.

    Args:
        allowed: Whether to do so.
    """
    folder = os.getcwd()
    if allowed and folder not in sys.path:
        sys.path.append(folder)


class _StderrHandler(logging.Handler):
    """Handler that looks up `sys.stderr` for each record, because notebooks replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(printable(self.format(record)), file=sys.stderr)


def log_to_stderr() -> None:
    """Log warnings and errors of hf_datasel to stderr, as "LEVEL: message"."""
    logger = logging.getLogger("hf_datasel")
    if not logger.handlers:
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
