"""Config files of somebody else: what they do needs permission, and odd ones are refused in one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from hf_datasel.cli import main
from hf_datasel.selectors import list_selectors

SELECT = "dataset_name: rows.jsonl\noutput_dir: out\noverwrite: true\nselection_size: 2\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the current folder, with a file of rows whose column has an escape sequence in its name."""
    rows = [{"instruction": f"Say {n}.", "output": "word " * (n + 1), "n\x1b[31m": float(n)} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def select(content: str | bytes, *flags: str) -> int:
    Path("some.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    return main(["select", "--config", "some.yaml", *flags])


# -- permission -------------------------------------------------------------------------------------------------------
def test_variables_need_permission(folder, capsys, monkeypatch):
    monkeypatch.setenv("SOME_VARIABLE", "mine")
    content = f"{SELECT}selector: random\nenv: {{SOME_VARIABLE: theirs}}\n"
    assert select(content) == 2
    message = (
        "some.yaml sets the environment variable SOME_VARIABLE (env). If you trust the file, permit it with --trust_"
    )
    assert message in capsys.readouterr().err
    assert os.environ["SOME_VARIABLE"] == "mine"
    assert not Path("out").exists()
    assert select(content, "--trust_config") == 0
    assert os.environ["SOME_VARIABLE"] == "theirs"


def test_effects_are_listed(folder, capsys):
    judge = {"score": "judge", "model": "m", "base_url": "http://localhost:1/v1"}
    keys = {"selector": "top", "selector_kwargs": {"by": judge}, "allow_imports": True}
    assert select(SELECT + yaml.safe_dump(keys)) == 2
    assert (
        "some.yaml sends rows, and the token in OPENAI_API_KEY if there is one, to http://localhost:1 (base_url), and "
        "imports classes outside hf_datasel (allow_imports). If"
    ) in capsys.readouterr().err


def test_a_file_cannot_permit_itself(folder, capsys):
    assert select(f"{SELECT}selector: random\nenv: {{A: b}}\ntrust_config: true\n") == 2
    assert "unknown key 'trust_config'" in capsys.readouterr().err


def test_what_a_flag_sets_needs_no_permission(folder):
    content = f"{SELECT}selector: random\nallow_imports: true\n"
    assert select(content) == 2
    assert select(content, "--allow_imports") == 0
    assert select(content, "--allow-imports", "false") == 0


@pytest.mark.parametrize("command", ["score", "select", "train", "explain", "compare", "report", "push"])
def test_every_command_asks(folder, capsys, command):
    Path("some.yaml").write_text("dataset_name: rows.jsonl\nenv: {A: b}\n")
    row = ["1"] if command == "explain" else []
    assert main([command, *row, "--config", "some.yaml"]) == 2
    assert f"hf-datasel {command}: error: some.yaml sets the environment variable A" in capsys.readouterr().err


def test_every_spelling_of_the_flag_asks(folder, capsys):
    Path("some.yaml").write_text(f"{SELECT}selector: random\nenv: {{SOME_VARIABLE: theirs}}\n")
    assert main(["select", "--config=some.yaml"]) == 2
    assert "some.yaml sets the environment variable SOME_VARIABLE (env)" in capsys.readouterr().err
    assert "SOME_VARIABLE" not in os.environ


@pytest.mark.parametrize("flag", ["--trust_config=true", "--trust-config=false"])
def test_the_permission_has_no_value(folder, capsys, flag):
    assert select(f"{SELECT}selector: random\nenv: {{A: b}}\n", flag) == 2
    assert "takes no value" in capsys.readouterr().err


def test_variables_have_to_be_a_mapping(folder, capsys):
    assert select(f"{SELECT}selector: random\nenv: [A]\n", "--trust_config") == 2
    assert "some.yaml: env has to be a mapping of variables" in capsys.readouterr().err


def test_the_file_is_read_once(folder):
    """A pipe, such as that of `--config <(command)`, can be read only once; and what was checked is what is used."""
    read, write = os.pipe()
    os.write(write, f"{SELECT}selector: random\n".encode())
    os.close(write)
    try:
        assert main(["select", "--config", f"/dev/fd/{read}"]) == 0
    finally:
        os.close(read)


def test_two_files_are_refused(folder, capsys):
    Path("other.yaml").write_text("seed: 1\n")
    assert select(f"{SELECT}selector: random\n", "--config", "other.yaml") == 2
    assert "--config occurs twice. Put all keys into one file." in capsys.readouterr().err


# -- odd files --------------------------------------------------------------------------------------------------------
def bomb(start: str, level: str) -> str:
    """A file of less than a kilobyte with billions of values."""
    levels = [f"l0: &l0 {start}"]
    levels += [f"l{n}: &l{n} {level % ', '.join([f'*l{n - 1}'] * 9)}" for n in range(1, 10)]
    return "\n".join(levels) + "\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(bomb("[a]", "[%s]"), "values when its aliases are replaced; it may have 100,000.", id="aliases"),
        pytest.param(bomb("{a: 1}", "{<<: [%s]}"), "values when its aliases are replaced", id="merges"),
        ("selector_kwargs: &kwargs {by: *kwargs}\n", "line 5: the value contains itself by an alias."),
        pytest.param(f"selector_kwargs: {'[' * 3000 + ']' * 3000}\n", "is nested too deeply.", id="nested"),
        pytest.param(f"selector_kwargs: '{'[' * 30000}'\n", "selector_kwargs has to be JSON", id="nested JSON"),
        ("seed: 2001-99-99\n", "has a value that cannot be read: month must be in 1..12"),
        pytest.param(f"seed: {'9' * 5000}\n", "has a value that cannot be read: Exceeds the limit", id="digits"),
        ("selector: !!python/object/apply:os.getcwd []\n", "could not determine a constructor for the tag"),
        ("selector: top\0\n", "is no valid YAML: unacceptable character"),
        ("save_subset: 7\n", "save_subset has to be true or false, and is 7."),
        ("selector: iterit\nselector_kwargs: {quality: 5}\n", "IterIT(quality=5): it has to be the name of a column."),
        ("selector: top\nselector_kwargs: {5: 3, by: ifd}\n", "top has no setting 5."),
        ("columns: {prompt: 5}\n", "has to map names to the names of the dataset's columns"),
        ("output_dir: [a]\n", "duplicate key 'output_dir'"),
        pytest.param((SELECT + "selector: random\n").encode("utf-16"), "is not UTF-8 text (byte 0).", id="UTF-16"),
        (b"# caf\xe9\n", "is not UTF-8 text (byte 5). Save it as UTF-8."),
    ],
)
def test_odd_files(folder, capsys, content, message):
    assert select(content if isinstance(content, bytes) else SELECT + content) == 2
    output = capsys.readouterr().err
    assert message in output
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize("value", ["[a]", '"a\\0b"', "{a: b}", "5"])
def test_odd_output_folder(folder, capsys, value):
    assert select(f"dataset_name: rows.jsonl\nselector: random\nselection_size: 2\noutput_dir: {value}\n") == 2
    assert "cannot be created or written to" in capsys.readouterr().err


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["rows.jsonl", "random", "ifd", "n\x1b[31m", "{", '{"top": {"by": "ifd"}}', "1e5", "0.1"]),
)  # fmt: skip
NESTED = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD, inner, max_size=3), max_leaves=5
)
KEYS = ["columns", "dataset_name", "dataset_train_split", "output_dir", "save_subset", "seed", "selection_ratio",
        "selection_size", "selection_tokens", "selector", "selector_kwargs", "model_name_or_path"]  # fmt: skip
WITH_TARGET = ("bm25", "less", "most_similar", "rds_plus")
NAMES = st.sampled_from([name for name in list_selectors() if name not in WITH_TARGET])
SETTINGS = st.dictionaries(
    st.sampled_from(["by", "quality", "k", "clusters", "vectors", "model", "decay", "groups", "then", "filters"]),
    NESTED,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(odd=st.dictionaries(st.sampled_from(KEYS), NESTED, max_size=3), selector=NAMES, kwargs=SETTINGS)
def test_any_content_is_a_selection_or_one_sentence(folder, capsys, odd, selector, kwargs):
    rows = {"dataset_name": "rows.jsonl", "output_dir": "out", "overwrite": True, "selection_size": 2}
    keys = {**rows, "selector": selector, "selector_kwargs": kwargs, **odd}
    code = select(yaml.safe_dump(keys, allow_unicode=True).encode("utf-8", "surrogatepass"))
    output = capsys.readouterr()
    assert code in (0, 2)
    assert "\x1b" not in output.out + output.err
    if code == 2:
        assert "Traceback" not in output.err


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.text(alphabet="[]{}:,-&*<>|!?'\"\n ab#%@", max_size=60))
def test_any_bytes_are_refused_in_one_sentence(folder, capsys, content):
    assert select(content if isinstance(content, bytes) else content.encode()) == 2
    assert capsys.readouterr().err.startswith("hf-datasel select: error: ")


# -- output -----------------------------------------------------------------------------------------------------------
def test_escape_sequences_of_columns_do_not_reach_the_terminal(folder, capsys):
    assert select(SELECT + 'selector: top\nselector_kwargs: {by: "n\\e[31m"}\n') == 0
    output = capsys.readouterr()
    assert "\x1b" not in output.out + output.err
    assert "n\\x1b[31m" in output.out
    assert select(SELECT + 'selector: top\nselector_kwargs: {by: "\\e[31m"}\n') == 2
    output = capsys.readouterr()
    assert "\x1b" not in output.out + output.err
    assert "Did you mean 'n\\x1b[31m'?" in output.err
