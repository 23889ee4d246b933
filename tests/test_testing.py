"""Everything in the package has a contract test, and the contract finds what is broken."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import random
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch

import hf_datasel.scores
import hf_datasel.selectors
from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import Length
from hf_datasel.scoring.base import Score
from hf_datasel.selectors import Random, Top
from hf_datasel.testing import contract, scores, selectors

TESTS = Path(__file__).parent


# -- nothing without a contract test ---------------------------------------------------------------------------------
def concrete(package, kind):
    """Give (module, class) of every public class of a package that can be used, not only inherited from."""
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for _, cls in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
            defined_here = cls.__module__ == info.name and issubclass(cls, kind)
            if defined_here and not inspect.isabstract(cls) and not cls.__name__.startswith("_"):
                yield info.name, cls.__name__


def under_contract(folder):
    """Give the names of the classes that decorators `@contract(...)` in the tests of a folder make objects of."""
    classes = set()
    for path in (TESTS / folder).rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for call in getattr(node, "decorator_list", []):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "contract":
                    classes |= {item.func.id for item in call.args if isinstance(item, ast.Call)}
    return classes


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *concrete(hf_datasel.scores, Score),
        *concrete(hf_datasel.selectors, Selector),
    ],
)
def test_has_a_contract_test(module, name):
    folder = module.split(".")[1]
    assert name in under_contract(folder), (
        f"{module} defines {name}: begin a test in tests/{folder} with @contract(...)"
    )


def test_walk_finds_classes():
    classes = {name for _, name in concrete(hf_datasel.selectors, Selector)}
    assert classes >= {"All", "GraphFilter", "IterIT", "Longest", "Random", "Superfiltering", "Top"}
    assert {name for _, name in concrete(hf_datasel.scores, Score)} >= {"IFD", "Length", "Loss"}


# -- broken scores are found -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Words(Score):
    """Words of the response, with the reason where there is none: keeps the contract."""

    scale: float = 1.0

    def columns(self):
        return {"words": pa.float32(), "words_reason": pa.string()}

    def numbers(self, rows):
        return [None if row.reason else self.scale * len(row.response.split()) for row in rows.pool.rows(rows.indices)]

    def compute(self, rows, runner):
        numbers = self.numbers(rows)
        reasons = ["empty_response" if number is None else "" for number in numbers]
        return {"words": pa.array(numbers, pa.float32()), "words_reason": pa.array(reasons, pa.string())}


class OneMoreColumn(Words):
    def compute(self, rows, runner):
        return {**super().compute(rows, runner), "more": pa.nulls(len(rows), pa.int32())}


class OtherType(Words):
    def columns(self):
        return {**super().columns(), "words": pa.int32()}


class Infinite(Words):
    def numbers(self, rows):
        return [None if number is None else float("inf") for number in super().numbers(rows)]


class NullReason(Words):
    def compute(self, rows, runner):
        columns = super().compute(rows, runner)
        return {**columns, "words_reason": pa.array([r or None for r in columns["words_reason"].to_pylist()])}


class NoReason(Words):
    def compute(self, rows, runner):
        return {**super().compute(rows, runner), "words_reason": pa.array([""] * len(rows))}


class ShareOfBatch(Words):
    def numbers(self, rows):
        return [None if number is None else number / len(rows) for number in super().numbers(rows)]


class Position(Words):
    def numbers(self, rows):
        return [None if value is None else row for row, value in enumerate(super().numbers(rows))]


class Noisy(Words):
    noise: ClassVar[random.Random] = random.Random(0)

    def numbers(self, rows):
        return [None if number is None else self.noise.random() for number in super().numbers(rows)]


class ForgetsSetting(Words):
    def spec(self):
        return {"score": "ForgetsSetting"}


class PicklesWithoutSettings(Words):
    def __reduce__(self):
        return type(self), ()


class DrawsFromTorch(Words):
    def numbers(self, rows):
        torch.rand(1)
        return super().numbers(rows)


class DrawsFromPython(Words):
    def numbers(self, rows):
        random.random()
        return super().numbers(rows)


class PhonesHome(Words):
    def numbers(self, rows):
        try:
            socket.create_connection(("192.0.2.1", 80), timeout=0.1)
        except OSError:
            pass
        return super().numbers(rows)


@pytest.fixture(scope="module")
def rows(pool_rows):
    return pool_rows.select(range(8)).add_column("ifd", [0.4, 0.9, 0.2, 0.9, 0.5, 0.1, 0.7, 0.3])


@contract(Words(), Words(scale=0.5, column_prefix="half_"))
def test_valid_score_passes(check, score, rows):
    check(score, rows)


@pytest.mark.parametrize(
    ("check", "score", "message"),
    [
        ("columns", OneMoreColumn(), "gives columns"),
        ("columns", OtherType(), "declared are"),
        ("values", Infinite(), "words is inf"),
        ("values", NullReason(), "words_reason is None"),
        ("values", NoReason(), "no reason why"),
        ("batch_size", ShareOfBatch(), "in batches of 1"),
        ("order", Position(), "in another order"),
        ("one_row", ShareOfBatch(), "in a dataset of one row"),
        ("repeatable", Noisy(), "the second time"),
        ("round_trips", ForgetsSetting(), r"lacks the settings \['column_prefix', 'scale'\]"),
        ("round_trips", PicklesWithoutSettings(scale=2.0), "the pickle of"),
        ("global_state", DrawsFromTorch(), "global random state of torch"),
        ("global_state", DrawsFromPython(), "global random state of Python"),
        ("no_network", PhonesHome(), "the network is used: 192.0.2.1"),
    ],
)
def test_broken_score_fails(check, score, message, rows):
    with pytest.raises(AssertionError, match=message):
        scores.CHECKS[check](score, rows, None)


# -- broken selectors are found --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class First(Selector):
    """The first eligible rows: keeps the contract."""

    skip: int = 0

    def select(self, context):
        return np.flatnonzero(context.eligible)[: context.budget]


class Twice(First):
    def select(self, context):
        return np.repeat(np.flatnonzero(context.eligible), 2)[: context.budget]


class TooMany(First):
    def select(self, context):
        return np.flatnonzero(context.eligible)


class OneShort(First):
    def select(self, context):
        return super().select(context)[: max(context.budget - 1, 1)]


class Outside(First):
    def select(self, context):
        return np.arange(min(context.budget, len(context.pool)))


class Mask(First):
    def select(self, context):
        return context.eligible


class Tampers(First):
    def select(self, context):
        context.eligible[:] = True
        return super().select(context)


class TakesNulls(First):
    def select(self, context):
        ifd = np.nan_to_num(context.column("ifd"), nan=9.0)
        ifd[~context.eligible] = -1
        return np.argsort(-ifd, kind="stable")[: min(context.budget, int(context.eligible.sum()))]


class NeedsNoColumn(First):
    def select(self, context):
        try:
            context.column("ifd")
        except ValueError:
            pass
        return super().select(context)


class OwnNoise(First):
    noise: ClassVar[np.random.Generator] = np.random.default_rng(0)

    def select(self, context):
        return self.noise.permutation(np.flatnonzero(context.eligible))[: context.budget]


class GlobalNoise(First):
    def select(self, context):
        return np.random.permutation(np.flatnonzero(context.eligible))[: context.budget]


class IncompleteSpec(First):
    def spec(self):
        return {**super().spec(), "skip": 0}


class NeedsTwo(First):
    def select(self, context):
        return np.array([np.flatnonzero(context.eligible)[1]])


class SelectorPhonesHome(First):
    def select(self, context):
        try:
            socket.getaddrinfo("example.invalid", 80)
        except OSError:
            pass
        return super().select(context)


@dataclass(frozen=True)
class Growing(First):
    """As many rows in each of three rounds: keeps the contract."""

    def plan(self, total_budget, num_epochs, pool_size):
        if total_budget < 3:
            raise ConfigError(f"three rounds need three rows, and not {total_budget}")
        return tuple(RoundPlan(number * total_budget // 3, 1.0) for number in (1, 2, 3))

    def select(self, context):
        rows = np.setdiff1d(np.flatnonzero(context.eligible), context.selected)
        return np.concatenate([context.selected, rows[: context.budget - len(context.selected)]])


class RepeatsInTheSecond(Growing):
    def select(self, context):
        return np.flatnonzero(context.eligible)[: context.budget] if context.index != 1 else context.selected.repeat(2)


class TooManyInTheSecond(Growing):
    def select(self, context):
        return super().select(context) if context.index != 1 else np.flatnonzero(context.eligible)


class ForgetsTheLast(Growing):
    def select(self, context):
        return super().select(context)[: -1 if context.index == 2 else None]


class ReadsByType(Growing):
    """What was kept is a plain int until it has been in a file."""

    def select(self, context):
        rows = super().select(context)
        kept_rows = context.state.get("kept")
        context.state["kept"] = 1
        return rows[::-1] if isinstance(kept_rows, np.ndarray) else rows


class NeedsACheckpoint(Growing):
    def plan(self, total_budget, num_epochs, pool_size):
        return RoundPlan(2, checkpoints=True), RoundPlan(total_budget, restart=True)

    def select(self, context):
        if context.index:
            raise AssertionError("nobody has written a checkpoint")
        return np.flatnonzero(context.eligible)[: context.budget]


class OrderByBudget(First):
    nested = True

    def select(self, context):
        return super().select(context)[::-1]


@contract(First(), First(skip=2), Growing(), NeedsACheckpoint())
def test_valid_selector_passes(check, selector, rows):
    check(selector, rows)


@pytest.mark.parametrize(
    ("check", "selector", "message"),
    [
        ("selection", Twice(), "rows are selected twice"),
        ("selection", TooMany(), "rows are selected for a budget of"),
        ("selection", Mask(), "not row numbers but bool"),
        ("selection", Outside(), "not eligible"),
        ("selection", Tampers(), "context.eligible is changed"),
        ("eligible", Outside(), "not eligible"),
        ("budget", OneShort(), "gives 3 of 7 rows"),
        ("nested", OrderByBudget(), r"a budget of 1 gives \[0\], and a larger one begins with \[\d+\]"),
        ("nulls", TakesNulls(), "has no ifd"),
        ("missing_column", NeedsNoColumn(), "the column 'ifd' is missing, and no error is raised"),
        ("selection", RepeatsInTheSecond(), "rows are selected twice"),
        ("selection", TooManyInTheSecond(), "rows are selected for a budget of"),
        ("budget", ForgetsTheLast(), "a budget of 3 gives 2 of 7 rows"),
        ("state", ReadsByType(), "if each round starts from a checkpoint"),
        ("seeded", OwnNoise(), "by a copy"),
        ("global_state", GlobalNoise(), "global random state of numpy"),
        ("round_trips", IncompleteSpec(skip=3), "get_selector of the spec"),
        ("no_network", SelectorPhonesHome(), "the network is used: example.invalid"),
    ],
)
def test_broken_selector_fails(check, selector, message, rows):
    with pytest.raises(AssertionError, match=message):
        selectors.CHECKS[check](selector, rows, None)


@pytest.mark.parametrize("check", ["one_row", "empty"])
def test_selector_that_crashes_without_rows_fails(check, rows):
    with pytest.raises(IndexError, match="out of bounds"):
        selectors.CHECKS[check](NeedsTwo(), rows, None)


def test_too_few_rows_for_any_plan(rows):
    with pytest.raises(AssertionError, match="makes no plan for 2 rows, so pass more: three rounds need three rows"):
        selectors.CHECKS["seeded"](Growing(), rows.select([0, 1]), None)


# -- exceptions, and the decorator -----------------------------------------------------------------------------------
class Declared(ForgetsSetting):
    contract_exceptions: ClassVar[dict[str, str]] = {"round_trips": "Its record is kept by the judge that it asks."}


@contract(Declared())
def test_declared_exception_is_skipped(check, score, rows):
    check(score, rows)


def test_declared_exception_in_test_id():
    names = [case.id for case in contract(Declared()).args[1]]
    assert "Declared()-round_trips (excepted)" in names
    assert "Declared()-values" in names


@pytest.mark.parametrize(
    ("exceptions", "message"),
    [({"no_netwerk": "An API."}, "Did you mean 'no_network'"), ({"no_network": " "}, "has to be a reason")],
)
def test_invalid_exception(exceptions, message):
    odd = type("Odd", (Declared,), {"contract_exceptions": exceptions})
    with pytest.raises(ConfigError, match=message):
        contract(odd())


@pytest.mark.parametrize("objects", [(), (Random(), Length()), (Random,)])
def test_mixed_objects_are_refused(objects):
    with pytest.raises(ConfigError, match="scores alone, or selectors alone"):
        contract(*objects)


def test_parameter_names():
    assert contract(Top(by="ifd"), Random()).args[0] == ("check", "selector")
    assert contract(Length()).args[0] == ("check", "score")


def test_selector_of_no_rows(rows):
    none = type("Never", (First,), {"select": lambda self, context: np.empty(0, dtype=np.int64)})
    with pytest.raises(AssertionError, match="none of the rows is ever selected"):
        selectors.CHECKS["budget"](none(), rows, None)
    with pytest.raises(SelectionError, match="None of the 8 rows can be selected"):
        hf_datasel.select(rows, none(), size=1)
