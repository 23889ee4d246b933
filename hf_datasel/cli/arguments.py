"""Flags and YAML keys, as TRL's own commands read them, with a suggestion for a misspelt one."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml
from trl import TrlParser

from hf_datasel.errors import ConfigError, SelectionError, did_you_mean

if TYPE_CHECKING:
    from hf_datasel.selection import Selection

__all__ = [
    "DatasetArguments",
    "as_dict",
    "bars_on_terminals",
    "check_no_commas",
    "import_from_here",
    "load_selection",
    "output_folder",
    "parse",
    "show_progress_messages",
]


@dataclass
class DatasetArguments:
    """Which dataset, under the names that TRL's scripts use."""

    dataset_name: str | None = field(default=None, metadata={"help": "File, folder or Hub id of the dataset."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to use."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a Hub dataset."})

    def load(self) -> Any:
        """The dataset.

        Raises:
            ConfigError: none is named.
        """
        from hf_datasel.formats import load_pool

        if not self.dataset_name or not isinstance(self.dataset_name, str):
            raise ConfigError(
                "No dataset is named. Pass --dataset_name FILE-OR-HUB-ID, or put it into the config file."
            )
        data = load_pool(self.dataset_name, self.dataset_train_split, self.dataset_config, self.dataset_revision)
        _read_origins(Path(self.dataset_name).expanduser())
        return data


def _read_origins(file: Path) -> None:
    """What `hf-datasel score` wrote beside its file, which says how the columns were computed."""
    from hf_datasel.scoring.column_provenance import read_origins

    beside = file.with_suffix(".origins.json")
    if file.suffix == ".parquet" and beside.is_file():
        read_origins(beside)


def parse(
    kinds: Iterable[type],
    argv: Sequence[str],
    command: str,
    about: str | None = None,
    needed: Mapping[str, str] | None = None,
) -> tuple[Any, ...]:
    """The dataclasses filled from `--config FILE.yaml` and flags, which take precedence.

    Args:
        kinds: the dataclasses.
        argv: flags and their values.
        command: and what stands between it and the flags, for the help.
        about: what stands there, for the help.
        needed: keys without which a command does nothing, and what to say where one is missing and the others do not
            fit together either.

    Raises:
        ConfigError: an unknown key or flag (with the nearest known one), a key that stands in the file twice, a file
            that cannot be read, or a value that a key cannot have.
    """
    parser = TrlParser(tuple(kinds), prog=f"hf-datasel {command}", allow_abbrev=False, description=about)
    flags = parser._option_string_actions
    known = sorted({action.dest for action in parser._actions} - {"help"})
    arguments = list(argv)
    for argument in arguments:
        name = argument.split("=", 1)[0]
        if name.startswith("--") and name not in flags and name != "--config":
            raise ConfigError(
                f"Unknown flag {name}.{did_you_mean(name, [each for each in flags if each.startswith('--')])}"
            )
    arguments, in_file = _check_file(arguments, known)
    _check_mappings(arguments, flags)
    given = {flags[name].dest for each in arguments if (name := each.split("=", 1)[0]) in flags} | in_file
    parser.error = _refuse  # argparse would print every key there is
    try:
        return tuple(parser.parse_args_and_config(arguments))
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        missing = [said for key, said in (needed or {}).items() if key not in given]
        raise ConfigError(_in_our_words(error, missing)) from error


def _in_our_words(error: Exception, missing: Sequence[str]) -> str:
    """What to say of an error of TRL or transformers, of which a key that is missing is the likelier cause."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.doc!r} is no valid JSON: {error}."
    unused = "Some specified arguments are not used by the HfArgumentParser"
    return missing[0] if missing else str(error).replace(unused, "Unknown arguments")


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"{message}.")


def output_folder(path: str) -> Path:
    """The folder for results, made before any work is done.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / "probe.tmp").touch()
        (Path(path) / "probe.tmp").unlink()
    except OSError as error:
        raise ConfigError(f"output_dir={path!r} cannot be made or written to: {error.strerror}.") from error
    return Path(path)


def _check_file(arguments: list[str], known: list[str]) -> tuple[list[str], set[str]]:
    """Arguments with `--config=FILE` split in two, and the file's keys, after a look at them."""
    split = [part for each in arguments for part in (each.split("=", 1) if each.startswith("--config=") else [each])]
    if "--config" not in split:
        return split, set()
    at = split.index("--config") + 1
    if at == len(split):
        raise ConfigError("--config needs a file.")
    path = Path(split[at])
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        _check_twice(yaml.compose(text, Loader=yaml.SafeLoader), path)
    except OSError as error:
        raise ConfigError(f"Cannot read {str(path)!r}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        holds = {list: "a list", type(None): "nothing"}.get(type(content), repr(content))
        raise ConfigError(f"{path} has to hold keys and values, such as selector: random, and holds {holds}.")
    for key in content:
        if key not in known and key != "env":
            raise ConfigError(f"{path}: unknown key {key!r}.{did_you_mean(str(key), known)}")
    return split, set(content)


def _check_twice(node: yaml.Node | None, path: Path) -> None:
    """Refuse a key that stands in one mapping twice, of which YAML's reader takes the last."""
    if isinstance(node, yaml.MappingNode):
        lines: dict[Any, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in lines and isinstance(key, yaml.ScalarNode):
                raise ConfigError(
                    f"{path}, line {line}: the key {key.value!r} is there twice, first in line {lines[key.value]}. "
                    "Leave one of them out."
                )
            if isinstance(key, yaml.ScalarNode):
                lines[key.value] = line
            _check_twice(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _check_twice(each, path)


def _check_mappings(arguments: Sequence[str], flags: Iterable[str]) -> None:
    """Refuse flags for mappings of settings that hold none, while it is known which flag it is."""
    mappings = {flag for flag in flags if flag.endswith(("_kwargs", "-kwargs"))}
    for at, argument in enumerate(arguments):
        flag, joined, value = argument.partition("=")
        if flag in mappings:
            as_dict(value if joined else next(iter(arguments[at + 1 : at + 2]), None), flag)


def as_dict(value: Any, key: str) -> dict[str, Any]:
    """A mapping from YAML, or JSON text from a flag.

    Raises:
        ConfigError: it is neither.
    """
    if value is None:
        return {}
    form = f"such as {key} '{{\"NAME\": VALUE}}'" if key.startswith("-") else "such as '{\"NAME\": VALUE}'"
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"{key} has to be JSON on the command line, {form}, and is {value!r}: {error}."
            ) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{key} has to be a mapping of settings, {form}, and is {value!r}.")
    return value


def check_no_commas(name: str, key: str) -> None:
    """Refuse several names in one.

    Raises:
        ConfigError: says how they are written.
    """
    if "," in name:
        names = [each.strip() for each in name.split(",") if each.strip()]
        raise ConfigError(
            f"{key}: {name!r} is one name with commas in it. On the command line names are separated by spaces, "
            f"--{key} {' '.join(names)}, and in a config file they are a list, [{', '.join(names)}]."
        )


def load_selection(named: str | Path) -> Selection:
    """A selection, by its folder.

    Raises:
        SelectionError: there is none, or it cannot be read; of a run's folder it says which selections are in it.
    """
    from hf_datasel.selection import Selection

    path = Path(named).expanduser()
    inside = [place for place in (path, path / "selections") if not (path / "selection.json").is_file()]
    rounds = [file.parent for place in inside for file in place.glob("round-*/selection.json")]
    if rounds:
        last = max(rounds, key=lambda each: (len(each.name), each.name))
        count = f"{len(rounds):,} round{'' if len(rounds) == 1 else 's'}"
        raise SelectionError(f"{str(path)!r} is a run with {count}, and each is a selection of its own: name {last}.")
    return Selection.load(path)


def import_from_here(allowed: bool) -> None:
    """Where imports are permitted, let them find modules in the current folder, which a console script does not.

    It is looked at last, so that no file in it hides an installed package.
    """
    here = os.getcwd()
    if allowed and here not in sys.path:
        sys.path.append(here)


class _ToStderr(logging.Handler):
    """Lines on what `sys.stderr` is when they are written: a notebook may replace it between two commands."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def show_progress_messages() -> None:
    """Our own log lines on stderr, warnings and worse, without a prefix that says nothing."""
    logger = logging.getLogger("hf_datasel")
    if not logger.handlers:
        handler = _ToStderr()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


@contextmanager
def bars_on_terminals() -> Iterator[None]:
    """Progress bars of datasets and transformers where somebody looks at them, and none in a log file."""
    if sys.stderr.isatty():
        yield
        return
    import datasets
    from transformers.utils import logging as transformers_logging

    were_off = datasets.are_progress_bars_disabled(), not transformers_logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if not were_off[0]:
            datasets.enable_progress_bars()
        if not were_off[1]:
            transformers_logging.enable_progress_bar()
