"""Verifiers: texts, mathematics, and functions of users."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from hf_datasel.errors import ConfigError
from hf_datasel.evaluation import Normalization
from hf_datasel.scoring.verifiers import UnjudgedError, get_verifier


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"So $\boxed{1}$, or \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{a_{1}} and {b}", "a_{1}"),
        (r"cut: \boxed{1 + {2", r"cut: \boxed{1 + {2"),
        ("no box", "no box"),
    ],
)
def test_last_box(text, expected):
    assert Normalization(boxed=True)(text) == expected


def test_exact_match():
    numbers = get_verifier("exact_match", {"last_number": True})
    answers = ["It is 1,000.", "<think>7</think> 1000", "<think>1000", "1000 or 7", ""]
    assert [numbers.verify(answer, "#### 1000", {}) for answer in answers] == [1, 1, 0, 0, 0]
    assert [numbers.check(reference) for reference in ("7", "seven", "")] == ["", *["no_number_in_reference"] * 2]
    texts = get_verifier("exact_match", {"ignore_case": True, "boxed": True})
    assert texts.verify(r"Thus \boxed{Red}", "red", {}) == 1
    assert texts.check(" ") == "empty_reference"
    exact = get_verifier("exact_match")
    answers = {"42": 42.0, "10000000000000000": 1e16, "0.5": 0.5, "42.0": "42.0", "-7": -7}
    assert [exact.verify(answer, reference, {}) for answer, reference in answers.items()] == [1] * 5
    assert [exact.verify(answer, 42.0, {}) for answer in ("42.0", "43")] == [0, 0]


def test_math_verify():
    pytest.importorskip("math_verify")
    maths = get_verifier("math_verify")
    assert maths.identity.startswith("math-verify ")
    cases = [
        (r"So $x = \frac{1}{2}$", "0.5", 1),
        (r"The answer is \boxed{\frac{2}{4}}", r"\frac{1}{2}", 1),
        ("so 42", "6 * 7 = 42\n#### 42", 1),
        ("<think>$42$", "42", 0),
        (r"$\frac{1}{3}$", r"$\frac{1}{2}$", 0),
        ("", "42", 0),
    ]
    assert [maths.verify(answer, reference, {}) for answer, reference, _ in cases] == [right for _, _, right in cases]
    with pytest.raises(UnjudgedError, match="finds no mathematics in '\\$\\$'"):
        maths.verify("42", "$$", {})


def test_math_verify_is_not_installed(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "math_verify" else find(name))
    with pytest.raises(ConfigError, match=r'needs the package math-verify, .* pip install "hf-datasel\[math\]"'):
        _ = get_verifier("math_verify").identity


@pytest.fixture
def functions(tmp_path, monkeypatch):
    """Give a function that writes the module `odd_checks`."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text):
        sys.modules.pop("odd_checks", None)
        (tmp_path / "odd_checks.py").write_text(text)

    yield write
    sys.modules.pop("odd_checks", None)


def test_source_of_a_function_is_its_identity(functions):
    functions("def same(answer, reference, row):\n    return answer == reference\n")
    first = get_verifier("odd_checks:same")
    assert first.verify("a", "a", {}) == 1
    before = first.identity
    functions("x = 1\n\ndef same(answer, reference, row):\n    return answer == reference\n")
    assert get_verifier("odd_checks:same").identity == before
    functions("def same(answer, reference, row):\n    return answer != reference # changed\n")
    assert get_verifier("odd_checks:same").identity != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("odd_checks:sam", r"odd_checks.py has no 'sam'\. Did you mean 'same'"),
        ("no_such_checks:same", "cannot be imported: No module named 'no_such_checks'"),
        ("odd_checks:two", r"is called with \(answer, reference, row\), and its signature is \(answer, reference\)"),
        ("odd_checks:len", "is not a function written in Python, but a builtin"),
    ],
)
def test_functions_that_cannot_be_called(functions, name, message):
    functions(
        "def same(answer, reference, row):\n    return 1\n\ndef two(answer, reference):\n    return 1\n\nlen = len\n"
    )
    with pytest.raises(ConfigError, match=message):
        _ = get_verifier(name).identity


@pytest.mark.parametrize("value", ["2", "-0.1", "None", "'yes'", "float('nan')"])
def test_results_that_are_no_share(functions, value):
    functions(f"def odd(answer, reference, row):\n    return {value}\n")
    with pytest.raises(UnjudgedError, match="odd_checks:odd returned"):
        get_verifier("odd_checks:odd").verify("", "", {})
