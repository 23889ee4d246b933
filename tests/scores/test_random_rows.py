"""Random rows: every one has a number or a reason, alone as among others, and in any order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, assume, given, settings, strategies as st

from hf_datasel import score
from hf_datasel.errors import DataselError
from hf_datasel.formats import canonical_rows
from hf_datasel.formats.messages import ROLES
from hf_datasel.scores import IFD, Compressibility, Embedding, Length, Loss, SelectIT
from tests.scores.awkward import REASONS

MODELS = 12
"""Examples that run a model."""
SCORES = {
    "ifd": IFD(max_length=64),
    "none": IFD(max_length=64, prior_context="none", end_token=False),
    "loss": Loss(max_length=64),
    "pair": Loss(max_length=64, over="pair", reduction="sum"),
    "words": Length(),
    "tokens": Length("tokens"),
    "compressed": Compressibility(),
    "vector": Embedding(max_length=64, as_trained=True, part="response"),
    "rating": SelectIT(level="token", prompts=("Good? 1 to {ratings}.",), max_length=128),
}


def examples(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )


# -- what rows may hold -----------------------------------------------------------------------------------------------
PIECES = st.sampled_from(
    ["<|im_end|>", "<|im_start|>", "</s>", "<s>", "<pad>", "assistant\n", "{prompt}", "{response}", "%s", "\\1"]
    + ["\n", "\t", "  ", "\u200b", "\x00", "\r\n", "\u202e", "\ufeff", "👩‍👩‍👧", "1", "Rating: ", "a word "]
)
STRETCH = st.builds(str.__mul__, st.text(max_size=4), st.integers(0, 60))
"""Anything that a dataset holds, over and over."""
TEXTS = st.lists(PIECES | st.text(max_size=6) | STRETCH, max_size=5).map("".join)
MAYBE = st.one_of(TEXTS, TEXTS, TEXTS, st.none())
PAIRS = st.tuples(MAYBE, MAYBE)
ROLE = st.sampled_from(["user", "assistant", "user", "assistant", "system", "tool", "wizard"])
ORDERLY = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3).map(
    lambda turns: [item for question, answer in turns for item in (("user", question), ("assistant", answer))]
)
CHATS = st.one_of(ORDERLY, ORDERLY, st.lists(st.tuples(ROLE, MAYBE), max_size=5), st.none())


def of_pairs(rows):
    return Dataset.from_dict(
        {"prompt": [row[0] for row in rows], "completion": [row[1] for row in rows]},
    )


def of_chats(rows):
    messages = [None if turns is None else [{"role": role, "content": text} for role, text in turns] for turns in rows]
    return Dataset.from_dict({"messages": messages})


# -- scores -----------------------------------------------------------------------------------------------------------
def scored(data: Dataset, folder: str) -> list[dict]:
    """The new columns of each row, each behind the name of its score."""
    created = [replace(item, column_prefix=f"{name}_") for name, item in SCORES.items()]
    created[list(SCORES).index("tokens")] = Length("tokens", folder, column_prefix="tokens_")
    result = score(data, created, model=folder, on_summary=str)
    return list(result.remove_columns(data.column_names))


def require_number_or_reason(row: dict) -> None:
    for name, item in SCORES.items():
        values = {column: row[f"{name}_{column}"] for column in item.columns()}
        why = next(value for column, value in values.items() if column.endswith("_reason"))
        numbers = [value for column, value in values.items() if not column.endswith("_reason")]
        assert isinstance(why, str)
        if why:
            assert why in REASONS
            assert numbers == [None] * len(numbers)
        else:
            assert all(value is not None and np.isfinite(value).all() for value in numbers)


def require_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if value is None or isinstance(value, str):
            assert other[name] == value, name
        else:
            np.testing.assert_allclose(other[name], value, rtol=1e-5, atol=2e-6, err_msg=name)


def require_invariants(make, rows, order, alone, folder):
    result = scored(make(rows), folder)
    for row in result:
        require_number_or_reason(row)
    for position, row in zip(order, scored(make([rows[index] for index in order]), folder), strict=True):
        require_same(result[position], row)
    require_same(result[alone], scored(make([rows[alone]]), folder)[0])


def with_order(rows):
    """Rows, an order of them, and one of them."""
    return st.lists(rows, min_size=1, max_size=5).flatmap(
        lambda drawn: st.tuples(st.just(drawn), st.permutations(range(len(drawn))), st.integers(0, len(drawn) - 1))
    )


@examples(MODELS)
@pytest.mark.slow
@given(drawn=with_order(PAIRS))
def test_pairs(tiny_model_dir, drawn):
    require_invariants(of_pairs, *drawn, str(tiny_model_dir))


@examples(MODELS)
@pytest.mark.slow
@given(drawn=with_order(PAIRS))
def test_pairs_without_a_chat_template(tiny_text_model_dir, drawn):
    require_invariants(of_pairs, *drawn, str(tiny_text_model_dir))


@pytest.mark.slow
@examples(MODELS)
@given(drawn=with_order(CHATS))
def test_chats(tiny_model_dir, drawn):
    require_invariants(of_chats, *drawn, str(tiny_model_dir))


# -- columns of any kind ----------------------------------------------------------------------------------------------
SURROGATES = st.text(st.characters(), max_size=8) | st.text(st.characters(categories=["Cs"]), max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | SURROGATES | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(sorted(ROLES)) | VALUES,
            "from": st.sampled_from(sorted(ROLES)) | VALUES,
            "content": SURROGATES
            | VALUES
            | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": VALUES})),
            "value": VALUES,
            "tool_calls": VALUES,
        },
    ),
    max_size=4,
)
ANYTHING = VALUES | MESSAGES
COLUMNS = [
    ("prompt", "completion"), ("messages",), ("prompt", "chosen"), ("conversations", "chosen"), ("conversations",),
    ("instruction", "output"), ("instruction", "input", "output"), ("text",),
]  # fmt: skip


@examples(150)
@given(names=st.sampled_from(COLUMNS), data=st.data())
def test_random_values(names, data):
    batch = {name: data.draw(st.lists(ANYTHING, min_size=2, max_size=2), label=name) for name in names}
    rows = canonical_rows(batch)
    for row in rows:
        assert row.reason in {"", *REASONS}
        assert isinstance(row.text("both"), str)
        assert len(row.digest()) == 32
    again = canonical_rows({name: values[::-1] for name, values in batch.items()})
    assert [row.digest() for row in again[::-1]] == [row.digest() for row in rows]


@examples(40)
@given(names=st.sampled_from(COLUMNS), data=st.data())
def test_random_datasets_score_or_raise(names, data):
    columns = {name: data.draw(st.lists(ANYTHING, min_size=1, max_size=3), label=name) for name in names}
    length = min(map(len, columns.values()))
    try:
        rows = Dataset.from_dict({name: values[:length] for name, values in columns.items()})
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, TypeError, UnicodeError):
        assume(False)  # values that no Dataset can hold
    try:
        result = score(rows, [Length(), Compressibility()], on_summary=str)
    except DataselError as error:
        assert str(error)[0].isupper() and str(error).endswith(".")
        return
    for row in result:
        assert (row["response_words"] is None) == bool(row["length_reason"])
        assert (row["compressibility"] is None) == bool(row["compressibility_reason"])


@pytest.mark.parametrize("role", [["user"], {"name": "user"}, 3, None])
def test_role_is_not_text(role):
    rows = canonical_rows({"messages": [[{"role": role, "content": "Hi"}, {"role": "assistant", "content": "Yes."}]]})
    assert [row.reason for row in rows] == ["unknown_role"]
