"""`hf-datasel compare`"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_datasel.cli.arguments import (
    DatasetArguments,
    as_dict,
    bars_on_terminals,
    check_no_commas,
    import_from_here,
    load_selection,
    output_folder,
    parse,
    show_progress_messages,
)
from hf_datasel.cli.pages import linked_plots, remove_old
from hf_datasel.errors import ConfigError, DataselError, SelectionError, did_you_mean
from hf_datasel.formats.digest import column_digest

if TYPE_CHECKING:
    from hf_datasel.analysis.comparison import Comparison, Failure
    from hf_datasel.rounds.selector import Selector
    from hf_datasel.selection import Selecting, Selection

__all__ = ["CompareArguments", "run"]

_MADE_FROM = "made_from.json"
_WIDE = 44  # letters of a name in the printed table


@dataclass
class CompareArguments:
    """Which selections or methods, and where what is found goes."""

    selections: list[str] | None = field(default=None, metadata={"help": "Folders of selections to compare; or"})
    methods: list[str] | None = field(
        default=None,
        metadata={
            "help": "names of selectors, which choose rows first; `hf-datasel list` shows them. In a config file each "
            "may carry its settings and a seed of its own, and a name may come twice: "
            "[random, {random: {seed: 1}}, {top: {by: ifd}}]."
        },
    )
    selection_size: int | None = field(default=None, metadata={"help": "Rows that each method chooses."})
    selection_ratio: float | None = field(
        default=None, metadata={"help": "Share of all rows that each method chooses; 0.05 if nothing else is said."}
    )
    selection_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Let each method choose as many rows as have at most so many tokens together, counted with the "
            "model's tokenizer, or in the column num_tokens where no model is named."
        },
    )
    seed: int = field(default=0, metadata={"help": "Of everything random."})
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Model for scores that are not there yet, whose tokenizer also counts tokens. What several "
            "methods need is computed once."
        },
    )
    scoring_tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Upper bound on the padded tokens of a scoring batch; by default 1,024 on a CPU, else 16,384."
        },
    )
    scores: list[str] | None = field(
        default=None, metadata={"help": "Columns of numbers of the dataset to show the distributions of too."}
    )
    clusters: str | None = field(
        default=None, metadata={"help": "Column of clusters or groups to cover; cluster_id where there is one."}
    )
    vectors: str | None = field(
        default=None, metadata={"help": "Column of vectors for near copies; embedding where there is one."}
    )
    title: str | None = field(default=None, metadata={"help": "Of the page."})
    output_dir: str = field(
        default="outputs/compare",
        metadata={
            "help": "Folder for compare.html, compare.md, compare.json, plots/ and, with methods, a folder for each "
            "selection; one that is there already and was made in the same way is used again."
        },
    )
    allow_imports: bool = field(
        default=False,
        metadata={"help": "Permit a selector outside hf_datasel, as module:Class, also of the current folder."},
    )


def run(argv: Sequence[str]) -> None:
    """Compare selections that are there, or what methods choose from one dataset; print a table, write a page."""
    dataset_arguments, arguments = parse((DatasetArguments, CompareArguments), argv, "compare")
    show_progress_messages()
    import_from_here(arguments.allow_imports)
    from hf_datasel.analysis.comparison import compare
    from hf_datasel.cards.comparison import write_comparison

    methods = _Method.all(arguments)
    saved = _saved(arguments) if arguments.selections else {}
    folder = output_folder(arguments.output_dir)
    with bars_on_terminals():
        dataset = dataset_arguments.load() if dataset_arguments.dataset_name or methods else None
        if methods and dataset is not None:
            _check_columns(dataset.column_names, arguments)
        found, failed = _choose(dataset, methods, arguments, folder) if methods else (saved, [])
        if not found:
            why = " ".join(f"{each['name']}: {each['error']}" for each in failed)
            raise SelectionError(f"None of the methods made a selection. {why}")
        comparison = compare(
            found,
            None if methods else dataset,  # these know theirs, and need not be checked against it
            scores=arguments.scores or (),
            clusters=arguments.clusters,
            vectors=arguments.vectors,
            model=arguments.model_name_or_path,
        )
    comparison["failed"] = failed
    title = arguments.title or _title(comparison, dataset_arguments.dataset_name)
    before = linked_plots(folder / "compare.md")
    remove_old(before, write_comparison(comparison, folder, str(title)))
    _print(comparison)
    if dataset is None:
        print("Without --dataset_name there are no response lengths and no near copies in it.")
    print(f"Written to {folder}: compare.html (all in one file), compare.md, compare.json and images in plots/.")
    if failed:
        names = ", ".join(each["name"] for each in failed)
        raise SelectionError(f"{len(failed)} of {len(methods)} methods made no selection: {names}. See above.")


def _check_columns(present: Sequence[str], arguments: CompareArguments) -> None:
    """Refuse misspelt columns before anything is chosen. A score may still write one that is not there."""
    from hf_datasel.scores import writer_of

    for name in (*(arguments.scores or ()), *filter(None, (arguments.clusters, arguments.vectors))):
        if name not in present and writer_of(name) is None:
            raise ConfigError(f"There is no column {name!r} in the dataset.{did_you_mean(name, present)}")


def _title(comparison: Comparison, dataset_name: str | None) -> str:
    file = Path(dataset_name).stem if dataset_name else f"{comparison['dataset']['rows']:,} rows"
    count = len(comparison["selections"])
    return f"{count} selection{'' if count == 1 else 's'} from {comparison['dataset'].get('name') or file}"


# -- what is compared ------------------------------------------------------------------------------------------------
def _saved(arguments: CompareArguments) -> dict[str, Selection]:
    from hf_datasel.analysis.naming import names_of

    if not isinstance(arguments.selections, list):
        raise ConfigError(f"selections has to be a list of folders, and is {arguments.selections!r}.")
    found = [load_selection(str(each)) for each in arguments.selections]
    return dict(zip(names_of([each.provenance for each in found]), found, strict=True))


@dataclass(frozen=True)
class _Method:
    """A selector with its seed, and the name it goes by."""

    name: str
    selector: Selector
    seed: int

    @classmethod
    def all(cls, arguments: CompareArguments) -> list[_Method]:
        """The methods of the command line or the config file; none where selections are compared."""
        if bool(arguments.methods) == bool(arguments.selections):
            said = "Both selections and methods are" if arguments.methods else "Neither selections nor methods are"
            raise ConfigError(f"{said} named: pass --selections FOLDER FOLDER, or --methods NAME NAME.")
        if not arguments.methods:
            return []
        from hf_datasel.analysis.naming import names_of
        from hf_datasel.selectors import by_name

        made, seeds = [], []
        for name, settings in _named(arguments.methods):
            own = _takes_seed(name)
            seed = settings.get("seed", arguments.seed) if not own else arguments.seed
            if type(seed) is not int or seed < 0:
                raise ConfigError(f"methods[{name!r}]: seed={seed!r} has to be an int of at least 0.")
            rest = settings if own else {key: value for key, value in settings.items() if key != "seed"}
            made.append(by_name(name, rest, arguments.allow_imports))
            seeds.append(seed)
        records = [{"selector": each.spec(), "seed": seed} for each, seed in zip(made, seeds, strict=True)]
        return [cls(*each) for each in zip(names_of(records), made, seeds, strict=True)]


def _takes_seed(name: str) -> bool:
    """Whether a seed is a setting of the selector itself; of somebody else's it may be."""
    from hf_datasel.selectors import available

    kind = available().get(name)
    return kind is None or "seed" in [each.name for each in fields(kind)]


def _named(methods: Any) -> list[tuple[str, dict[str, Any]]]:
    """Names and settings, from a list of names and of mappings with one name each."""
    if not isinstance(methods, list):
        raise ConfigError(f"methods has to be a list of names, and is {methods!r}.")
    found = []
    for each in methods:
        if isinstance(each, str) and each.lstrip().startswith("{"):
            each = as_dict(each, "methods")
        if isinstance(each, str):
            check_no_commas(each, "methods")
            each = {each: {}}
        if not isinstance(each, dict) or len(each) != 1:
            raise ConfigError(f"methods holds {each!r}: it has to be a name, or a name and its settings.")
        ((name, settings),) = each.items()
        found.append((str(name), as_dict(settings, f"methods[{name!r}]")))
    return found


# -- choosing, or finding what was chosen before ---------------------------------------------------------------------
def _choose(
    dataset: Any, methods: Sequence[_Method], arguments: CompareArguments, folder: Path
) -> tuple[dict[str, Selection], list[Failure]]:
    from hf_datasel.selection import Selecting
    from hf_datasel.selection.provenance import without_paths

    asked = _asked(dataset, arguments)
    selecting = Selecting(dataset, arguments.model_name_or_path, tokens_per_batch=arguments.scoring_tokens_per_batch)
    before = _Before(folder, dataset, {**asked, "dataset": selecting.pool.id})
    found: dict[str, Selection] = {}
    failed: list[Failure] = []
    try:
        for each in methods:
            try:
                found[each.name] = before.find(each) or before.keep(each, _select(selecting, each, arguments))
            except DataselError as error:
                spec = without_paths(each.selector.spec())
                failed.append({"name": each.name, "selector": spec, "error": str(error)})
                print(f"{each.name}: no selection. {error}", file=sys.stderr)  # now, and not after an hour
                continue
            print(f"{each.name}: {len(found[each.name].indices):,} rows, in {before.places[each.name]}.")
    except KeyboardInterrupt:
        print(f"\nStopped. The same command goes on with what is in {folder}.", file=sys.stderr)
        raise
    places = before.places.values()
    if left := sorted(each.parent.name for each in folder.glob(f"*/{_MADE_FROM}") if each.parent not in places):
        print(f"Also in {folder}, of earlier comparisons and not part of this one: {', '.join(left)}.")
    return found, failed


def _select(selecting: Selecting, method: _Method, arguments: CompareArguments) -> Selection:
    size, ratio, tokens = arguments.selection_size, arguments.selection_ratio, arguments.selection_tokens
    return selecting.select(method.selector, size, ratio, method.seed, tokens=tokens)


def _asked(dataset: Any, arguments: CompareArguments) -> dict[str, Any]:
    """The budget, and with which model: what is the same for all methods."""
    from hf_datasel.scoring.models import model_identity
    from hf_datasel.selection import wanted_rows

    size, ratio, tokens = arguments.selection_size, arguments.selection_ratio, arguments.selection_tokens
    if tokens is not None and (size is not None or ratio is not None):
        raise ConfigError("selection_tokens beside selection_size or selection_ratio. Pass one of them.")
    names = ("selection_size", "selection_ratio")
    budget = {"rows": wanted_rows(len(dataset), size, ratio, names)} if tokens is None else {"tokens": tokens}
    model = arguments.model_name_or_path
    return {**budget, "model": None if model is None else model_identity(model)}


class _Before:
    """The selections in a folder, each beside a record of all that it was made from."""

    def __init__(self, folder: Path, dataset: Any, asked: Mapping[str, Any]):
        self.folder, self.dataset = folder, dataset
        self.common = asked
        self.places: dict[str, Path] = {}
        self._methods: dict[str, dict[str, Any]] = {}
        self._digests: dict[str, str] = {}

    def find(self, method: _Method) -> Selection | None:
        """A selection that the method would make again."""
        from hf_datasel.selection import Selection

        # Now, and not once rows are chosen: weights may be overwritten meanwhile.
        self._methods[method.name] = {"selector": method.selector.spec(), "meaning": _meaning(method.selector)}
        for path in sorted(self.folder.glob(f"*/{_MADE_FROM}")):
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                if record == self._record(method, record["columns"]):
                    found = Selection.load(path.parent)
                    found.dataset = self.dataset  # its id is in the record
                    self.places[method.name] = path.parent
                    return found
            except (OSError, ValueError, KeyError, TypeError):  # half written, or not ours: made again
                continue
        return None

    def keep(self, method: _Method, selection: Selection) -> Selection:
        """Save a selection that was looked for before, and then what it was made from."""
        place = self._free_place(method.name)
        (place / _MADE_FROM).unlink(missing_ok=True)
        selection.save(place)
        about = selection.provenance
        columns = [*about["columns_unverified"], *about["columns_known"]]
        columns += ["num_tokens"] if "tokens" in self.common else []  # which a budget of tokens may be counted in
        record = json.dumps(self._record(method, columns), indent=1)
        (place / _MADE_FROM).write_text(record, encoding="utf-8")
        self.places[method.name] = place
        return selection

    def _record(self, method: _Method, columns: Sequence[str]) -> Any:
        from hf_datasel import __version__

        digests = {name: self._digest(name) for name in sorted({*columns})}
        record = {**self._methods[method.name], "seed": method.seed, **self.common}
        return json.loads(json.dumps({**record, "columns": digests, "version": __version__}, default=str))

    def _digest(self, name: str) -> str:
        """Of a column's values: the dataset's id is that of its rows alone."""
        if name not in self._digests:
            self._digests[name] = column_digest(self.dataset, name) if name in self.dataset.column_names else ""
        return self._digests[name]

    def _free_place(self, name: str) -> Path:
        """A folder called like the method, that none of the selections compared here is in."""
        stem = re.sub(r"[^a-z0-9=.]+", "-", name.lower()).strip("-.")[:80] or "method"
        taken, at = set(self.places.values()), 1
        while (place := self.folder / (stem if at == 1 else f"{stem}-{at}")) in taken or place.name == "plots":
            at += 1
        return place


def _meaning(value: Any) -> Any:
    """What a setting stands for now, as far as its name does not say it: weights, files, and code of somebody else."""
    from hf_datasel.rounds.ifd_selector import IFDSelector
    from hf_datasel.rounds.selector import RowFilter, Selector
    from hf_datasel.scoring.base import Score
    from hf_datasel.selectors import Ranked

    if isinstance(value, Mapping):
        return {str(key): _meaning(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_meaning(each) for each in value]
    if isinstance(value, Selector | RowFilter):
        parts = {each.name: getattr(value, each.name) for each in fields(value)}
        parts |= {"source": value.source} if isinstance(value, IFDSelector) else {}
        parts |= {"ranks_by": value.ranks_by} if isinstance(value, Ranked) else {}
        return {"code": _code_of(value), **{name: _meaning(each) for name, each in parts.items()}}
    if isinstance(value, Score):
        try:
            _, (_, _, identity) = value.__reduce__()  # some scores resolve a name there and not in their spec
            return {"code": _code_of(value), "identity": identity, **value.spec()}
        except DataselError:  # it cannot be computed, so that it is not part of any choice
            return None
    return None


def _code_of(value: object) -> dict[str, str]:
    """A digest of each file outside this package and Python's own that the class of a setting comes from."""
    homes = {kind.__module__ for kind in type(value).__mro__}
    outside = sorted(each for each in homes if each.partition(".")[0] not in {"hf_datasel", *sys.stdlib_module_names})
    files = {each: getattr(sys.modules.get(each), "__file__", None) for each in outside}
    return {
        each: hashlib.blake2b(Path(file).read_bytes(), digest_size=16).hexdigest()
        for each, file in files.items()
        if file is not None
    }


# -- what is printed -------------------------------------------------------------------------------------------------
def _print(comparison: Comparison) -> None:
    from hf_datasel.cards.comparison import chance_said, matrix, notes, overview

    print("\n" + _columns(*overview(comparison)))
    for each in comparison["failed"]:
        print(f"{each['name']}: no selection. {each['error']}")
    print(" ".join(notes(comparison)))
    if len(comparison["selections"]) > 1:
        print("\nJaccard (rows in both / rows in either)\n" + _columns(*matrix(comparison)))
        print(chance_said(comparison))


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells below each other: names on the left, numbers on the right."""
    lines = [[cells[0] if len(cells[0]) <= _WIDE else f"{cells[0][: _WIDE - 1]}…", *cells[1:]] for cells in rows]
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    return "\n".join(
        "  ".join([each[0].ljust(widths[0]), *map(str.rjust, each[1:], widths[1:])]).rstrip()
        for each in (head, *lines)
    )
