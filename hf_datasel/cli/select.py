"""`hf-datasel select`"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_datasel.cli.arguments import (
    DatasetArguments,
    as_dict,
    bars_on_terminals,
    import_from_here,
    output_folder,
    parse,
    show_progress_messages,
)
from hf_datasel.cli.log_filters import no_bars
from hf_datasel.errors import ConfigError, Interrupted, reason_counts

__all__ = ["SelectArguments", "run"]


@dataclass
class SelectArguments:
    """Which rows, by which method, and where the selection goes."""

    selector: str = field(default="iterit", metadata={"help": "Name of a selector; `hf-datasel list` shows them."})
    selector_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Settings of the selector, such as {"quality": "ifd"}.'}
    )
    selection_size: int | None = field(default=None, metadata={"help": "Rows to choose."})
    selection_ratio: float | None = field(
        default=None, metadata={"help": "Share of all rows to choose; 0.05 if nothing else is said."}
    )
    selection_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Choose as many rows as have at most so many tokens together, counted with the model's tokenizer, "
            "or in the column num_tokens where no model is named."
        },
    )
    seed: int = field(default=0, metadata={"help": "Of everything random."})
    model_name_or_path: str | None = field(default=None, metadata={"help": "Model for scores that are not there yet."})
    scoring_tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Upper bound on the padded tokens of a scoring batch; by default 1,024 on a CPU, else 16,384."
        },
    )
    output_dir: str = field(default="outputs/select", metadata={"help": "Folder for the selection."})
    save_subset: bool = field(default=False, metadata={"help": "Also write the chosen rows as subset.parquet."})
    allow_imports: bool = field(
        default=False,
        metadata={"help": "Permit a selector outside hf_datasel, as module:Class, also of the current folder."},
    )


def run(argv: Sequence[str]) -> None:
    """Choose rows, save the selection, and print what was chosen and what was left out."""
    dataset_arguments, arguments = parse((DatasetArguments, SelectArguments), argv, "select")
    show_progress_messages()
    import_from_here(arguments.allow_imports)
    from hf_datasel.selection import select
    from hf_datasel.selection.select_rows import check_trains_once
    from hf_datasel.selectors import available, by_name

    budgets = ("selection_size", "selection_ratio", "selection_tokens")
    given = [name for name in budgets if getattr(arguments, name) is not None]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} say the same thing twice. Pass one of them.")
    settings = as_dict(arguments.selector_kwargs, "selector_kwargs")
    if (kind := available().get(str(arguments.selector))) is not None:
        check_trains_once(kind, settings.get("rounds", getattr(kind, "rounds", None)))
    selector = by_name(arguments.selector, settings, arguments.allow_imports)
    folder = output_folder(arguments.output_dir)
    try:
        with bars_on_terminals():
            dataset = dataset_arguments.load()
            selection = select(
                dataset,
                selector,
                arguments.selection_size,
                arguments.selection_ratio,
                arguments.seed,
                arguments.model_name_or_path,
                tokens_per_batch=arguments.scoring_tokens_per_batch,
                tokens=arguments.selection_tokens,
            )
    except Interrupted as stop:
        if len(stop.chosen):
            stop.selection.save(folder)
            print(f"Interrupted: the {len(stop.chosen):,} rows chosen by then are in {folder}.")
        raise
    selection.save(folder)
    left_out = {**selection.provenance["not_eligible"], **selection.provenance["left_out"]}
    print(f"{selector}: {len(selection.indices):,} of {len(dataset):,} rows.")
    if "tokens" in selection.provenance:
        counts = selection.provenance["tokens"]
        print(f"They have {counts['chosen']:,} tokens, of {counts['budget']:,} at most.")
    if left_out:
        print(f"Left out: {reason_counts(left_out)}.")
    unverified = selection.provenance["columns_unverified"]
    if unverified:
        print(f"Columns taken as they are: {', '.join(unverified)}.")
    (folder / "subset.parquet").unlink(missing_ok=True)  # of another choice
    if arguments.save_subset:
        with no_bars():
            selection.apply(dataset).to_parquet(folder / "subset.parquet")
    print(f"Written to {arguments.output_dir}.")
