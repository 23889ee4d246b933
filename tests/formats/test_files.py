"""Rows from files, folders and globs: every kind of file, text as it stands, splits, and messages."""

from __future__ import annotations

import bz2
import csv
import glob
import gzip
import importlib.util
import json
import lzma

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Json, List, Value

from hf_datasel import load_pool, select
from hf_datasel.errors import ColumnError, FormatError
from hf_datasel.formats import Pool
from hf_datasel.selectors import Top

ROWS = [
    {"prompt": "When did it open?", "completion": "2021-03-04"},
    {"prompt": "Which agent?", "completion": "007"},
    {"prompt": "Is there a remedy?", "completion": "None"},
    {"prompt": "Where is Windhoek?", "completion": "NA"},
    {"prompt": "Is water wet?", "completion": "true"},
]
TEXT = {"prompt": [row["prompt"] for row in ROWS], "completion": [row["completion"] for row in ROWS]}
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
CSV = "prompt,completion\n" + "".join(f"{row['prompt']},{row['completion']}\n" for row in ROWS)


def contents(data: Dataset) -> dict[str, list[str]]:
    return {name: list(data[name]) for name in data.column_names}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", LINES),
        ("ROWS.JSONL", LINES),
        ("rows.ndjson", LINES),
        ("rows.json", LINES),
        ("rows.jsonl", "\ufeff" + LINES.replace("\n", "\r\n\r\n")),
        ("rows.json", json.dumps(ROWS, indent=2)),
        ("rows.jsonl", json.dumps(ROWS)),
        ("rows.json", json.dumps({"data": ROWS})),
        ("rows.json", json.dumps({"version": "1.1", "examples": ROWS}, indent=1)),
        ("rows.json", json.dumps(TEXT)),
        ("rows.json", json.dumps({name: dict(enumerate(values)) for name, values in TEXT.items()})),
        ("rows.json", json.dumps({f"id-{number}": row for number, row in enumerate(ROWS)})),
        ("rows.csv", CSV),
        ("Rows.Csv", "\ufeff" + CSV.replace("\n", "\r\n")),
        ("rows.csv", CSV.replace(",", ";")),
        ("rows.tsv", CSV.replace(",", "\t")),
    ],
    ids=lambda value: value if value.lower().startswith("rows.") else value[:12],
)
def test_text_stays_text(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    data = load_pool(tmp_path / name)
    assert contents(data) == TEXT
    assert Pool(data).id == Pool(Dataset.from_dict(TEXT)).id
    assert not Pool(data).reasons.any()


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".GZ"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "arrow"])
def test_compressed_files(tmp_path, kind, ending):
    table = Dataset.from_dict(TEXT)
    plain = tmp_path / f"plain.{kind}"
    if kind == "parquet":
        table.to_parquet(plain)
    elif kind == "arrow":
        with pa.OSFile(str(plain), "wb") as sink, pa.ipc.new_stream(sink, table.data.schema) as writer:
            writer.write_table(table.data.table)
    else:
        plain.write_text({"jsonl": LINES, "csv": CSV}[kind])
    compress = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[ending.lower()]
    (tmp_path / f"rows.{kind}{ending}").write_bytes(compress(plain.read_bytes()))
    assert contents(load_pool(tmp_path / f"rows.{kind}{ending}")) == TEXT


@pytest.mark.skipif(importlib.util.find_spec("zstandard") is not None, reason="zstandard is installed")
def test_zstandard_is_named_where_it_is_missing(tmp_path):
    (tmp_path / "rows.jsonl.zst").write_bytes(b"x")
    with pytest.raises(FormatError, match=r"rows\.jsonl\.zst' is compressed with Zstandard.*pip install zstandard"):
        load_pool(tmp_path / "rows.jsonl.zst")


@pytest.fixture
def shards(tmp_path, monkeypatch):
    folder = tmp_path / "run" / "shards"
    folder.mkdir(parents=True)
    Dataset.from_list(ROWS[:3]).to_parquet(folder / "train-00000-of-00002.parquet")
    Dataset.from_list(ROWS[3:]).to_parquet(folder / "train-00001-of-00002.parquet")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Rows")
    (folder / ".hidden.jsonl").write_text("no rows")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "{0}",
        "./run/shards",
        "run/shards",
        "run/shards/",
        "~/run/shards",
        "run/shards/*.parquet",
        "~/run/*/train-*",
        "{0}/**",
    ],
)
def test_folders_and_globs(shards, name):
    assert contents(load_pool(name.format(shards))) == TEXT
    assert len(load_pool(name.format(shards), split="train[:2]")) == 2


def test_name_of_a_file_with_brackets(tmp_path):
    (tmp_path / "rows [1].jsonl").write_text(LINES)
    Dataset.from_list(ROWS).to_parquet(tmp_path / "rows [1].parquet")
    assert (
        contents(load_pool(tmp_path / "rows [1].jsonl")) == contents(load_pool(tmp_path / "rows [1].parquet")) == TEXT
    )


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        ({"train.jsonl": 5, "test.jsonl": 2}, {"train": 5, "test": 2}),
        ({"my-Train-set.jsonl": 5, "my_dev_set.jsonl": 1}, {"train": 5, "validation": 1}),
        ({"train/a.jsonl": 2, "train/b.jsonl": 3, "eval/a.jsonl": 1}, {"train": 5, "test": 1}),
        ({"data/extra-00000-of-00001.jsonl": 2, "data/train-00000-of-00001.jsonl": 3}, {"train": 3, "extra": 2}),
        ({"a.jsonl": 2, "b/c.jsonl": 3}, {"train": 5}),
    ],
)
def test_splits_of_a_folder_as_in_load_dataset(tmp_path, files, splits):
    for name, size in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(f"{json.dumps(row)}\n" for row in ROWS[:size]))
    from datasets import load_dataset

    assert {split: len(load_pool(tmp_path, split)) for split in splits} == splits
    if "my-Train-set.jsonl" not in files:
        assert {name: len(rows) for name, rows in load_dataset(str(tmp_path)).items()} == splits
    with pytest.raises(
        FormatError, match=rf"no split 'other'\. It has {', '.join(map(repr, splits))}\. Pass one"
    ) as error:
        load_pool(tmp_path, "other")
    assert "--dataset_train_split train" in error.value.cli_message


def test_files_of_no_split_are_named(tmp_path, caplog):
    for name in ("train.jsonl", "notes.jsonl"):
        (tmp_path / name).write_text(LINES)
    assert len(load_pool(tmp_path)) == 5
    assert "notes.jsonl" in caplog.text


def test_configurations_of_a_card(tmp_path):
    (tmp_path / "first.jsonl").write_text(LINES)
    (tmp_path / "second.csv").write_text(CSV + "a,b\n")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files: first.jsonl\n"
        "- config_name: two\n  data_files:\n  - split: dev\n    path: second.csv\n---\n# Rows"
    )
    assert contents(load_pool(tmp_path, config="one")) == TEXT
    assert len(load_pool(tmp_path, "dev", config="two")) == 6
    with pytest.raises(
        FormatError, match=r"has the configurations 'one', 'two', and not None\. Pass one of them, as config="
    ):
        load_pool(tmp_path)


def test_folder_of_several_kinds(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINES)
    (tmp_path / "b.csv").write_text(CSV)
    with pytest.raises(FormatError, match=r"files of several kinds \(1 json, 1 csv\)"):
        load_pool(tmp_path)
    assert contents(load_pool(tmp_path / "*.csv")) == TEXT


def test_columns_of_several_files(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({**ROWS[1], "loss": 2}) + "\n" + json.dumps({**ROWS[2], "loss": 0.5}))
    (tmp_path / "c.csv").write_text("prompt,completion\na,b\n")
    (tmp_path / "d.csv").write_text("completion,prompt,loss\nb,a,2\nd,c,0.5\n")
    assert contents(load_pool(tmp_path / "*.jsonl"))["loss"] == [None, 2.0, 0.5]
    columns = contents(load_pool(tmp_path / "*.csv"))
    assert columns == {"prompt": ["a", "a", "c"], "completion": ["b", "b", "d"], "loss": [None, 2.0, 0.5]}


def test_numbers_beside_the_text_of_a_csv_file(tmp_path):
    (tmp_path / "rows.csv").write_text(
        "prompt,output,ifd,rank,code,day,seen,empty\n"
        '"One, two?",12,0.5,3,007,2021-03-04,true,\n'
        "Three?,13,,2,12,2021-03-05,false,\n"
        '"Four\nlines?",,1e-3,-1,5,2021-03-06,true,\n'
    )
    data = load_pool(tmp_path / "rows.csv", columns={"completion": "output"})
    assert data.features["ifd"] == Value("float64") and data.features["rank"] == Value("int64")
    assert list(data["ifd"]) == [0.5, None, 0.001]
    assert list(data["output"]) == ["12", "13", ""]
    assert list(data["prompt"]) == ["One, two?", "Three?", "Four\nlines?"]
    assert list(data["code"]) == ["007", "12", "5"]
    assert list(data["day"]) == ["2021-03-04", "2021-03-05", "2021-03-06"]
    assert list(data["seen"]) == ["true", "false", "true"]
    assert list(data["empty"]) == ["", "", ""]


def test_scores_of_a_csv_file_are_selected_by(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt,completion,ifd,note\na,1,0.2,x\nb,2,,y\nc,3,0.7,z\n")
    data = load_pool(tmp_path / "rows.csv")
    assert select(data, Top(by="ifd"), size=2).indices.tolist() == [2, 0]
    with pytest.raises(ColumnError, match="note"):
        select(data, Top(by="note"), size=1)


def test_mapped_columns_of_a_csv_file_are_text(tmp_path):
    (tmp_path / "rows.csv").write_text("sum,result\n1+1,2\n2+2,4\n")
    assert list(load_pool(tmp_path / "rows.csv")["result"]) == [2, 4]
    assert list(load_pool(tmp_path / "rows.csv", columns={"prompt": "sum", "completion": "result"})["result"]) == [
        "2",
        "4",
    ]


def test_values_of_mixed_types(tmp_path):
    messages = [{"role": "user", "content": "2024-01-01"}, {"role": "assistant", "content": "A day."}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"n": 5}}}]}
    rows = [
        {"messages": messages, "meta": 5, "n": 1},
        {"messages": [messages[0], call], "meta": "five", "n": 2.5},
        {"messages": messages, "meta": "5", "n": None},
        {"messages": messages, "meta": {"a": [1, "b"]}},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_pool(tmp_path / "rows.jsonl")
    assert data.features["meta"] == Json() and data.features["messages"] == List(Json())
    assert list(data["meta"]) == [5, "five", "5", {"a": [1, "b"]}]
    assert list(data["n"]) == [1.0, 2.5, None, None]
    assert [row["messages"] for row in data] == [row["messages"] for row in rows]


def test_plain_messages_have_plain_features(tmp_path):
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    data = load_pool(tmp_path / "rows.jsonl")
    assert data.features["messages"] == List({"role": Value("string"), "content": Value("string")})
    (tmp_path / "row.json").write_text(json.dumps(row, indent=2))
    assert load_pool(tmp_path / "row.json")[:] == data[:] == {"messages": [row["messages"]]}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_messages_as_json_text(tmp_path, kind):
    messages = [{"role": "user", "content": "One, two?"}, {"role": "assistant", "content": "Three."}]
    rows = [{"messages": json.dumps(messages), "tools": ""}]
    if kind == "csv":
        with (tmp_path / "rows.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["messages", "tools"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]))
    pool = Pool(load_pool(tmp_path / f"rows.{kind}"))
    assert pool.reasons.tolist() == [""]
    assert pool.id == Pool(Dataset.from_list([{"messages": messages}])).id


CHAT = [{"from": "human", "value": "Is it wet?"}, {"from": "gpt", "value": "It rains."}]


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("rows.json", [CHAT, CHAT], 2),
        ("rows.jsonl", f"{json.dumps(CHAT)}\n{json.dumps(CHAT)}\n", 2),
        ("rows.jsonl", f"{json.dumps(CHAT)}\n", 1),
        ("rows.json", CHAT, 1),
    ],
    ids=["lists", "lines", "line", "list"],
)
def test_lists_of_messages_are_rows(tmp_path, name, content, rows):
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    data = load_pool(tmp_path / name)
    assert data.to_list() == [{"messages": CHAT}] * rows


def test_lists_of_rows_with_a_role_are_no_messages(tmp_path):
    rows = [{"message_id": 1, "role": "user", "content": "Hi"}, {"message_id": 2, "role": "assistant", "content": "a"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert load_pool(tmp_path / "rows.json").column_names == ["message_id", "role", "content"]


def test_types_of_later_rows_count(tmp_path):
    rows = [{"text": "a", "late": None, "n": 1}] * 2_500 + [{"text": "2024-01-01", "late": ["x"], "n": "one"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_pool(tmp_path / "rows.jsonl")
    assert len(data) == 2_501 and data[2_500] == rows[-1] and data[0] == rows[0]


def test_changed_file_is_read_again(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(LINES)
    first = load_pool(file)
    assert load_pool(file)._fingerprint == first._fingerprint
    file.write_text(LINES + '{"prompt": "a", "completion": "b"}')
    assert len(load_pool(file)) == len(first) + 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", LINES + '{"prompt": "a" "b"}\n', r"rows\.jsonl', line 6, column 16: no valid JSON"),
        ("rows.jsonl", LINES + "[1]\n", r"rows\.jsonl', line 6 holds a list; every line has to be an object"),
        ("rows.json", '[\n{"text": "a"},\n{"text": }\n]', r"rows\.json', line 3, column 10: no valid JSON"),
        ("rows.json", '[{"text": "a"}, 3]', r"rows\.json': row 1 is a number; every row has to be an object"),
        ("rows.json", "3", r"rows\.json' holds a number; it has to hold rows"),
        ("rows.json", json.dumps({"a": ROWS, "b": ROWS}), r"several lists of rows: 'a' with 5, 'b' with 5"),
        ("rows.json", '{"prompt": ["a"], "completion": []}', r"different lengths: \{'prompt': 1, 'completion': 0\}"),
        ("rows.jsonl", LINES.encode() + b'{"text": "\xff"}', r"rows\.jsonl', line 6: the text is not UTF-8"),
        ("rows.jsonl", '{"text": "\\ud800"}', r"rows\.jsonl', rows 0 to 0, 'text': a text is not valid Unicode"),
        ("rows.csv", CSV + "a,b,c\n", r"rows\.csv': row #7: Expected 2 columns, got 3"),
        ("rows.csv", CSV.encode() + b"a,\xff\n", r"rows\.csv': the text is not UTF-8.*Save it as UTF-8"),
        ("rows.csv", "a,a\n1,2\n", r"rows\.csv': the header has the column 'a' twice"),
        ("rows.csv", "prompt,completion\n", r"rows\.csv.*has no rows|there are no rows"),
        ("rows.json", "[]", "there are no rows"),
        ("rows.json", "{not json", r"Cannot load .*rows\.json"),
        ("rows.parquet", "no parquet", r"Cannot load .*rows\.parquet"),
        ("rows.jsonl", "", r"rows\.jsonl' is empty: it has no rows"),
        ("rows.xlsx", "a", r"Cannot read .*rows\.xlsx': the ending has to be one of \.json, \.jsonl"),
        ("rows.gz", "a", r"Cannot read .*rows\.gz': the ending"),
    ],
)
def test_unreadable_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FormatError, match=message):
        load_pool(tmp_path / name)


def test_folder_without_rows(tmp_path):
    (tmp_path / "notes.txt").write_text("a")
    with pytest.raises(FormatError, match=r"has no file of rows \(it has notes\.txt\)"):
        load_pool(tmp_path)
    with pytest.raises(FormatError, match=r"No file of rows matches .*\*\.jsonl'"):
        load_pool(tmp_path / "*.jsonl")


@pytest.mark.parametrize(
    "name", ["no/such/folder/rows.json", "typo.json", "./rows", "a/b/c", "rows.jsonl.gz", "me/rows.TXT", "rows.zip"]
)
def test_missing_path_makes_no_request(name):
    with pytest.raises(FormatError, match=rf"There is no file or folder '{name}' in the current folder '/.*'\."):
        load_pool(name)


def test_similar_file_is_suggested(tmp_path):
    (tmp_path / "rows.jsonl").write_text(LINES)
    with pytest.raises(FormatError, match=r"Did you mean 'rows\.jsonl'"):
        load_pool(tmp_path / "row.jsonl")


def test_unavailable_dataset():
    message = r"Cannot load 'nobody/no-such-dataset' .*\. There is no file or folder 'nobody/no-such-dataset' in the"
    with pytest.raises(FormatError, match=message):
        load_pool("nobody/no-such-dataset")


def test_splits_saved_to_disk(tmp_path):
    data = Dataset.from_list(ROWS)
    DatasetDict({"first": data, "test": data.select([0])}).save_to_disk(tmp_path / "splits")
    assert len(load_pool(tmp_path / "splits", split="first[:2]+test")) == 3
    assert contents(load_pool(tmp_path / "splits", split="first")) == TEXT
    with pytest.raises(FormatError, match=r"has no split 'train'\. It has 'first', 'test'\. Pass one of them"):
        load_pool(tmp_path / "splits")
    with pytest.raises(FormatError, match=r"has no split 'frist'\. Did you mean 'first'\?"):
        load_pool(tmp_path / "splits", split="frist")
    data.save_to_disk(tmp_path / "one")
    assert len(load_pool(tmp_path / "one", split="train[3:]")) == 2
    with pytest.raises(FormatError, match="has no split 'test'"):
        load_pool(tmp_path / "one", split="test")
    assert contents(load_pool(glob.glob(str(tmp_path / "one" / "*.arrow"))[0])) == TEXT


def test_numbers_of_one_row_do_not_change_those_of_another(tmp_path):
    def row(number):
        call = {"type": "function", "function": {"name": "wait", "arguments": {"hours": number, "at": [1, number]}}}
        turns = [{"role": "user", "content": "Wait."}, {"role": "assistant", "content": "", "tool_calls": [call]}]
        return {"messages": turns, "vector": [1, number], "gap": number}

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in (1, 2.5)))
    (tmp_path / "alone.jsonl").write_text(json.dumps(row(1)) + "\n")
    rows, alone = load_pool(tmp_path / "rows.jsonl"), load_pool(tmp_path / "alone.jsonl")
    [arguments] = [turn["tool_calls"][0]["function"]["arguments"] for turn in next(Pool(rows).rows()).messages[1:]]
    assert json.dumps(arguments) == '{"hours": 1, "at": [1, 1]}'
    assert Pool(rows).row_ids[0].tobytes() == Pool(alone).row_ids[0].tobytes()
    assert [list(rows["vector"]), list(rows["gap"])] == [[[1.0, 1.0], [1.0, 2.5]], [1.0, 2.5]]
