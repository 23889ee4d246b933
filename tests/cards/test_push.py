import io
import json
import re

import numpy as np
import pyarrow as pa
import pytest
import yaml
from datasets import load_dataset
from markdown_it import MarkdownIt

from hf_datasel import Selection, select
from hf_datasel.cards import push_selections
from hf_datasel.cards.figures import png
from hf_datasel.errors import DatasetMismatchError, FormatError, PublishError, SelectionError
from hf_datasel.hub.card_yaml import split_card
from hf_datasel.selectors import Longest, Random, Top

from .conftest import CARD, parquet

REPO = "tester/selected"


@pytest.fixture
def selection(parent):
    return select(parent, Longest(), size=6)


def card(hub, repo=REPO):
    return hub.files(repo)["README.md"].decode()


def sent(hub):
    """List the requests that could change anything."""
    return [seen for seen in hub.requests if seen.method not in ("GET", "HEAD") and "/validate-yaml" not in seen.path]


def rounds(dataset, count, size=5):
    """Make selections as a run of several rounds leaves them."""
    selections = [select(dataset, Random(), size=size, seed=seed) for seed in range(count)]
    for index, item in enumerate(selections):
        item.provenance |= {"round": index, "seed": 0}
    return selections


# -- what is there afterwards ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("local_hub", ["lfs", "xet"], indirect=True)
def test_round_trip(hub, parent, selection):
    before = len(hub.commits("tester/parent"))
    commit = selection.push_to_hub(REPO)
    assert commit.oid == hub.commits(REPO)[-1].oid
    assert len(hub.commits(REPO)) == 2  # the Hub's own, and ours
    assert len(hub.commits("tester/parent")) == before
    published, applied = load_dataset(REPO, split="train"), selection.apply(parent)
    assert published.features == applied.features
    assert published[:] == applied[:]
    again = Selection.from_hub(REPO)
    assert again == selection
    assert again.apply(load_dataset("tester/parent", split="train"))[:] == published[:]


def test_files(hub, selection, monkeypatch):
    monkeypatch.setattr("hf_datasel.cards.repository_files.png", png)
    selection.push_to_hub(REPO)
    files = hub.files(REPO)
    plots = {path for path in files if path.startswith("plots/")}
    assert set(files) - plots == {
        "README.md",
        "recipe.yaml",
        "data/default/train-00000-of-00001.parquet",
        "scores/default/train-00000-of-00001.parquet",
        "selections/default/selection.json",
        "selections/default/indices.npy",
    }
    assert plots >= {"plots/lengths-dark.png", "plots/lengths-light.png"}
    assert all(files[path].startswith(b"\x89PNG") for path in plots)
    shown = set(re.findall(r'resolve/main/(plots/[^"]+)"', card(hub)))
    assert shown == plots
    assert yaml.safe_load(files["recipe.yaml"])["selector"] == "longest"
    assert json.loads(files["selections/default/selection.json"])["versions"]["hf-datasel"]


def test_published_scores_contain_no_text(hub, parent, selection):
    selection.push_to_hub(REPO)
    scores = load_dataset(REPO, "scores", split="train")
    assert scores.column_names == ["row", "row_id", "response_words", "length_reason"]
    assert scores["row"][:] == list(range(24))
    assert scores["response_words"][:] == [len(output.split()) for output in parent["output"]]
    assert select(
        parent.add_column("words", scores["response_words"][:]), Top(by="words"), size=6
    ).indices.tolist() == (selection.indices.tolist())
    others = {path: item for path, item in hub.files(REPO).items() if not path.startswith("data/")}
    assert b"tin roof all night" in others.pop("README.md")  # of a selected row
    assert b"tin roof all night" not in b"".join(others.values())


def test_card_has_text_of_selected_rows_alone(hub, parent, selection):
    selection.push_to_hub(REPO)
    shown = [row for row, output in enumerate(parent["output"]) if len(output) > 20 and output[:150] in card(hub)]
    assert shown and set(shown) <= set(selection.indices.tolist())
    rows = re.findall(r"row (\d+)<br>", card(hub))
    assert [int(row) for row in rows] == [int(row) for row in [*selection.indices[:3], *selection.indices[-2:]]]


def test_metadata(hub, selection):
    selection.push_to_hub(REPO)
    metadata = split_card(card(hub))[0]
    assert {key: metadata[key] for key in metadata if key not in ("configs", "tags")} == {
        "pretty_name": "selected",
        "license": "cc-by-nc-4.0",
        "language": ["en"],
        "task_categories": ["text-generation"],
        "size_categories": ["n<1K"],
        "source_datasets": ["tester/parent"],
    }
    assert [item["config_name"] for item in metadata["configs"]] == ["default", "scores"]


def test_card_reproduces_the_selection(hub, parent, selection):
    selection.push_to_hub(REPO)
    text, revision = card(hub), hub.commits("tester/parent")[-1].oid
    assert f"--dataset_revision {revision}" in text
    assert "**6 of the 24 rows of [tester/parent]" in text
    program = re.search(r"```python\n(from datasets import load_dataset\nfrom hf_datasel.*?)```", text, re.DOTALL)[1]
    names = {}
    exec(program, names)
    assert names["rows"][:] == selection.apply(parent)[:]


def test_rows_with_other_column_names(hub, pool_rows):
    foreign = pool_rows.rename_columns({"instruction": "task", "output": "gold"})
    hub.commit("tester/foreign", {"README.md": CARD, "data/train-00000-of-00001.parquet": parquet(foreign)})
    rows = load_dataset("tester/foreign", split="train")
    columns = {"instruction": "task", "output": "gold"}
    selection = select(rows, Longest(), size=6, columns=columns)
    assert selection.indices.tolist() == select(pool_rows, Longest(), size=6).indices.tolist()
    selection.push_to_hub(REPO)
    published = load_dataset(REPO, split="train")
    assert (
        published.column_names[:3] == foreign.column_names[:3]
        and published["gold"][:] == selection.apply(rows)["gold"][:]
    )
    assert Selection.from_hub(REPO).apply(rows)[:] == published[:]
    assert yaml.safe_load(hub.files(REPO)["recipe.yaml"])["columns"] == columns
    assert "6 of the 24 rows of [tester/foreign]" in card(hub), "not a modified copy"
    assert """--columns '{"instruction": "task", "output": "gold"}'""" in card(hub)


def test_card_of_a_filtered_pool(hub, parent):
    select(parent.select(range(20)), Longest(), size=5).push_to_hub(REPO)
    assert "The pool is not the parent dataset as it is on the Hub" in card(hub)
    assert split_card(card(hub))[0]["source_datasets"] == ["tester/parent"]


def test_rounds_are_configurations(hub, parent):
    selections = rounds(parent, 3)
    push_selections(selections, REPO, parent)
    for index, item in enumerate(selections):
        assert load_dataset(REPO, f"round-{index}", split="train")[:] == item.apply(parent)[:]
        assert Selection.from_hub(REPO, config_name=f"round-{index}") == item
    assert load_dataset(REPO, split="train")[:] == selections[-1].apply(parent)[:]
    assert Selection.from_hub(REPO) == selections[-1]
    assert list(load_dataset(REPO, "scores")) == ["round_0", "round_1", "round_2"]


def test_rounds_with_different_scores(hub, parent):
    selections = rounds(parent, 2)
    scored = select(parent, Longest(), size=5)
    selections[1].table = scored.table
    push_selections(selections, REPO, parent)
    assert load_dataset(REPO, "scores", split="round_0")["response_words"][:] == [None] * 24
    assert [Selection.from_hub(REPO, config_name=f"round-{index}") for index in (0, 1)] == selections


def test_unscored_rows_stay_null(hub, parent):
    selection = select(parent, Longest(), size=5)
    values = selection.table.column("response_words").to_pylist()
    column = selection.table.column("response_words").take(pa.array([None if row == 3 else row for row in range(24)]))
    selection.table = selection.table.set_column(1, "response_words", column)
    selection.push_to_hub(REPO)
    assert load_dataset(REPO, "scores", split="train")["response_words"][:] == [*values[:3], None, *values[4:]]


def test_sharded_data(hub, parent, selection, monkeypatch):
    monkeypatch.setattr("hf_datasel.cards.repository_files._SHARD", 400)
    selection.push_to_hub(REPO)
    assert len([path for path in hub.files(REPO) if path.startswith("data/default/")]) > 1
    assert load_dataset(REPO, split="train")[:] == selection.apply(parent)[:]


def test_push_to_a_branch(hub, parent, selection):
    selection.push_to_hub(REPO, revision="second")
    assert "README.md" not in hub.files(REPO)
    assert Selection.from_hub(REPO, revision="second") == selection
    assert load_dataset(REPO, split="train", revision="second")[:] == selection.apply(parent)[:]
    assert "/resolve/second/plots/" in hub.files(REPO, revision="second")["README.md"].decode()


def test_push_of_a_loaded_selection_needs_the_dataset(hub, parent, selection, tmp_path):
    selection.save(tmp_path)
    loaded = Selection.load(tmp_path)
    with pytest.raises(PublishError, match="does not contain the dataset that it was made from"):
        loaded.push_to_hub(REPO)
    with pytest.raises(DatasetMismatchError, match="24 of 24 rows differ"):
        loaded.push_to_hub(REPO, parent.select(range(23, -1, -1)).map(lambda row: {"output": row["output"] + "!"}))
    assert not sent(hub)
    loaded.push_to_hub(REPO, parent)
    assert Selection.from_hub(REPO) == selection


def test_local_paths_are_not_published(hub, parent, tiny_model_dir):
    from hf_datasel.selectors import Superfiltering

    select(parent, Superfiltering(), size=4, model=str(tiny_model_dir)).push_to_hub(REPO)
    content = b"".join(hub.files(REPO).values())
    assert str(tiny_model_dir).encode() not in content
    assert tiny_model_dir.name.encode() in content


def test_parent_name_with_capitals(hub, pool_rows):
    hub.commit("tester/Open-Orca-300K", {"README.md": CARD, "data/train-00000-of-00001.parquet": parquet(pool_rows)})
    rows = load_dataset("tester/Open-Orca-300K", split="train")
    select(rows, Longest(), size=5).push_to_hub(REPO)
    metadata = split_card(card(hub))[0]
    assert (metadata["source_datasets"], metadata["license"]) == (["tester/Open-Orca-300K"], "cc-by-nc-4.0")


def test_relative_license_link(hub, pool_rows):
    text = CARD.replace(b"license: cc-by-nc-4.0", b"license: other\nlicense_name: Our Own\nlicense_link: LICENSE")
    hub.commit("tester/parent", {"README.md": text})
    select(load_dataset("tester/parent", split="train"), Longest(), size=5).push_to_hub(REPO)
    metadata, commit = split_card(card(hub))[0], hub.commits("tester/parent")[-1].oid
    assert metadata["license_link"] == f"{hub.url}/datasets/tester/parent/blob/{commit}/LICENSE"
    assert (metadata["license"], metadata["license_name"]) == ("other", "Our Own")


def test_card_of_a_changed_pool(hub, parent):
    changed = parent.map(lambda row: {"output": row["output"].upper()})
    select(changed, Longest(), size=5).push_to_hub(REPO)
    assert "of the 24 rows of a modified copy of [tester/parent]" in card(hub)
    more = parent.map(lambda row: {"note": 1})
    select(more, Longest(), size=5).push_to_hub("tester/more")
    assert "of the 24 rows of [tester/parent]" in card(hub, "tester/more")


def test_chunked_table_gives_the_same_file(hub, parent, tmp_path):
    selection = select(parent, Longest(), size=6)
    selection.push_to_hub(REPO)
    pieces = [selection.table.slice(index, 5) for index in range(0, 24, 5)]
    selection.table = pa.concat_tables(pieces)
    assert selection.table.column("row_id").num_chunks == 5
    selection.push_to_hub(REPO)
    assert len(hub.commits(REPO)) == 2


@pytest.mark.parametrize("name", ["row", "row_id"])
def test_columns_with_reserved_names(hub, parent, name):
    rows = parent.add_column(name, [float(index) for index in range(24)])
    if name == "row_id":
        with pytest.raises(SelectionError, match="a column called 'row_id'"):
            select(rows, Top(by=name), size=5)
        return
    selection = select(rows, Top(by=name), size=5)
    selection.push_to_hub(REPO, rows)
    assert Selection.from_hub(REPO) == selection
    assert load_dataset(REPO, "scores", split="train")["row"][:] == list(range(24))


# -- pushing again ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("local_hub", ["lfs", "xet"], indirect=True)
def test_unchanged_push_uploads_nothing(hub, selection):
    first = selection.push_to_hub(REPO)
    hub.requests.clear()
    again = selection.push_to_hub(REPO)
    assert again.oid == first.oid
    assert {seen.path for seen in sent(hub)} <= {"/api/repos/create"}
    assert len(hub.commits(REPO)) == 2


def test_manual_changes_are_preserved(hub, parent, selection):
    selection.push_to_hub(REPO)
    written = card(hub).replace("pretty_name: selected", "pretty_name: My rows")
    written = written.replace(
        "<!-- hf_datasel: default: begin", "# Words of mine\n\n---\n\n<!-- hf_datasel: default: begin"
    )
    hub.commit(REPO, {"README.md": (written + "\nAnd {{ some }} more.\n").encode()})
    select(parent, Longest(), size=3).push_to_hub(REPO)
    text = card(hub)
    assert split_card(text)[0]["pretty_name"] == "My rows"
    assert "# Words of mine\n\n---\n\n<!--" in text
    assert text.rstrip().endswith("And {{ some }} more.")
    assert "**3 of the 24 rows" in text
    assert "**6 of the 24 rows" not in text


def test_files_of_an_earlier_push_are_removed(hub, parent, selection):
    push_selections(rounds(parent, 3), REPO, parent)
    hub.commit(REPO, {"data/notes/mine.txt": b"mine", "plots/mine.svg": b"<svg/>"})
    selection.push_to_hub(REPO)
    assert not [path for path in hub.files(REPO) if "round-" in path]
    assert {"data/notes/mine.txt", "plots/mine.svg"} <= set(hub.files(REPO))
    assert {item["config_name"] for item in split_card(card(hub))[0]["configs"]} == {"default", "scores"}
    assert Selection.from_hub(REPO) == selection


def test_second_selection_in_a_repository(hub, parent, selection):
    other = select(parent, Random(), size=4)
    selection.push_to_hub(REPO)
    other.push_to_hub(REPO, config_name="random-4")
    assert Selection.from_hub(REPO) == selection
    assert Selection.from_hub(REPO, config_name="random-4") == other
    assert load_dataset(REPO, split="train")[:] == selection.apply(parent)[:]
    assert load_dataset(REPO, "random-4", split="train")[:] == other.apply(parent)[:]
    assert load_dataset(REPO, "random-4-scores", split="train").num_rows == 24
    assert card(hub).count("begin -->") == 2
    assert Selection.from_hub(REPO, config_name="default") == selection
    selection.push_to_hub(REPO)
    assert len(hub.commits(REPO)) == 3


def test_licences_of_two_parents(hub, parent, selection, pool_rows):
    text = CARD.replace(b"cc-by-nc-4.0", b"mit").replace(b"language: en", b"language: code")
    hub.commit("tester/code", {"README.md": text, "data/train-00000-of-00001.parquet": parquet(pool_rows)})
    other = select(load_dataset("tester/code", split="train"), Random(), size=4)
    selection.push_to_hub(REPO)
    other.push_to_hub(REPO, config_name="code")
    metadata = split_card(card(hub))[0]
    assert metadata["license"] == ["cc-by-nc-4.0", "mit"]
    assert metadata["source_datasets"] == ["tester/parent", "tester/code"]
    select(pool_rows, Longest(), size=3).push_to_hub(REPO, private=False)
    metadata = split_card(card(hub))[0]
    assert (metadata["license"], metadata["source_datasets"]) == ("mit", ["tester/code"])


def test_rounds_with_config_name(hub, parent):
    selections = rounds(parent, 2)
    push_selections(selections, REPO, parent, config_name="run")
    assert Selection.from_hub(REPO, config_name="run") == selections[-1]
    assert Selection.from_hub(REPO, config_name="run-round-0") == selections[0]


# -- what is refused, before anything is sent ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("repo", "more", "message"),
    [
        (REPO, {"token": "hf_wrong"}, "The Hub rejects this token"),
        (REPO, {"token": "READ"}, "This token has only read permission"),
        ("lap/selected", {}, "tester cannot publish under 'lap'.*Did you mean 'lab'"),
        ("tester/no such name", {}, "is not a valid repository name"),
        ("tester/parent", {}, "is the parent dataset itself"),
        (REPO, {"config_name": "scores"}, "config_name='scores' has to consist of"),
        (REPO, {"config_name": "a/b"}, "config_name='a/b' has to consist of"),
    ],
)
def test_invalid_pushes_are_refused(hub, selection, repo, more, message):
    more = {key: hub.read_token if value == "READ" else value for key, value in more.items()}
    with pytest.raises(PublishError, match=message):
        selection.push_to_hub(repo, **more)
    assert not sent(hub)


@pytest.mark.parametrize(("private", "gated", "word"), [(True, False, "private"), (False, "auto", "gated")])
def test_rows_of_a_private_parent_do_not_become_public(hub, selection, private, gated, word):
    hub.repo("tester/parent").private, hub.repo("tester/parent").gated = private, gated
    with pytest.raises(PublishError, match=f"'tester/parent' is {word}, but .* would show its rows. .*private=True"):
        selection.push_to_hub(REPO)
    assert not sent(hub)
    selection.push_to_hub(REPO, private=True)
    assert hub.repo(REPO).private
    selection.push_to_hub(REPO)  # it is there, and private


def test_mixture_with_a_private_parent(hub, parent, pool_rows):
    from datasets import concatenate_datasets

    hub.commit("tester/secret", {"data/train-00000-of-00001.parquet": parquet(pool_rows)})
    mixture = concatenate_datasets([parent, load_dataset("tester/secret", split="train")])
    hub.repo("tester/secret").private = True
    selection = select(mixture, Longest(), size=6)
    with pytest.raises(PublishError, match="'tester/secret' is private"):
        selection.push_to_hub(REPO)
    selection.push_to_hub(REPO, private=True)
    assert split_card(card(hub))[0]["source_datasets"] == ["tester/parent", "tester/secret"]
    assert "24 rows of a mixture of" not in card(hub)
    assert "48 rows of a mixture of [tester/parent]" in card(hub)


def test_rows_of_unknown_origin_are_private_by_default(hub, pool_rows, caplog):
    selection = select(pool_rows, Longest(), size=6)
    selection.push_to_hub(REPO)
    assert hub.repo(REPO).private
    assert f"The origin of the rows is unknown, so it cannot be checked whether the rows may be public: {REPO} is" in (
        caplog.text
    )
    selection.push_to_hub("tester/public", private=False)
    assert not hub.repo("tester/public").private
    before = len(hub.commits("tester/public"))
    with pytest.raises(PublishError, match=r"'tester/public' is public. .* private=False if the rows may be public"):
        selection.push_to_hub("tester/public")
    assert len(hub.commits("tester/public")) == before


def test_partly_unknown_rows_are_private_by_default(hub, parent, pool_rows):
    from datasets import Dataset, concatenate_datasets

    memory = Dataset.from_list(pool_rows.to_list())
    mixture = concatenate_datasets([parent, memory])
    for name, rows in {"mixed": mixture, "mapped": mixture.map(lambda row: {"output": row["output"] + "!"})}.items():
        select(rows, Longest(), size=6).push_to_hub(f"tester/{name}")
        assert hub.repo(f"tester/{name}").private, name
        assert "tester/parent" in split_card(card(hub, f"tester/{name}"))[0]["source_datasets"]


def test_parent_with_rewritten_history(hub, parent, selection):
    del hub.repos["dataset", "tester/parent"]
    hub.commit("tester/parent", {"README.md": CARD})
    selection.push_to_hub(REPO)
    assert split_card(card(hub))[0]["license"] == "cc-by-nc-4.0"


@pytest.mark.parametrize(("scope", "fine"), [(["tester/other"], False), (["tester"], True), ([REPO], True)])
def test_fine_grained_token(hub, selection, scope, fine):
    token = hub.add_token("tester", role="fineGrained", scope=scope)
    if fine:
        selection.push_to_hub(REPO, token=token)
        return
    with pytest.raises(PublishError, match="This fine-grained token may not write"):
        selection.push_to_hub(REPO, token=token)
    assert not sent(hub)


def test_read_role_in_an_organisation(hub, selection):
    token = hub.add_token("tester", orgs={"press": "read"})
    with pytest.raises(PublishError, match="has only read access to the organisation 'press'"):
        selection.push_to_hub("press/selected", token=token)


@pytest.mark.parametrize(
    ("more", "message"),
    [({"token": False}, "publishing needs a token"), ({"repo_id": None}, "repo_id=None is not a valid")],
)
def test_invalid_arguments(hub, selection, more, message):
    with pytest.raises(PublishError, match=message):
        selection.push_to_hub(**{"repo_id": REPO, **more})


@pytest.mark.parametrize("token", [True, ""])
def test_token_of_the_login(hub, selection, token):
    selection.push_to_hub(REPO, token=token)
    assert Selection.from_hub(REPO, token=token) == selection


def test_not_a_dataset(hub, parent, selection):
    for wrong in (parent.to_iterable_dataset(), "tester/parent", {"train": parent}):
        with pytest.raises(FormatError, match=r"has to be a datasets\.Dataset"):
            selection.push_to_hub(REPO, wrong)


def test_rejected_metadata(hub, selection):
    hub.fail("validate-yaml", 400, times=None)
    with pytest.raises(PublishError, match=r"The Hub rejects the metadata of the card: .*Fault on purpose"):
        selection.push_to_hub(REPO)
    assert ("dataset", REPO) not in hub.repos


def test_inaccessible_parent(hub, selection, caplog):
    del hub.repos["dataset", "tester/parent"]
    with pytest.raises(PublishError, match="does not exist or cannot be accessed with this token"):
        selection.push_to_hub(REPO, private=False)
    selection.push_to_hub(REPO)
    assert hub.repo(REPO).private
    assert "cannot be accessed with this token, so it cannot be checked whether the rows may be public" in caplog.text


def test_public_repository_does_not_become_private(hub, selection):
    hub.create_repo(REPO)
    with pytest.raises(PublishError, match="is public already, and private=True does not change that"):
        selection.push_to_hub(REPO, private=True)
    assert not sent(hub)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.jsonl": b"{}"}, "holds another dataset"),
        (
            {
                "README.md": b"---\nconfigs:\n- config_name: default\n  data_files: mine/*.csv\n---\n",
                "mine/a.csv": b"a",
            },
            "has a configuration 'default' with other files",
        ),
        (
            {
                "README.md": b"---\nconfigs:\n- config_name: default\n  data_files: data/en/*\n---\n",
                "data/en/a.csv": b"a",
            },
            "has a configuration 'default' with other files",
        ),
        ({"data/en/train.parquet": b"PAR1"}, "holds another dataset"),
        (
            {
                "README.md": b"---\nconfigs:\n- config_name: m\n  data_files: m/*\n  default: true\n---\n",
                "m/a.csv": b"a",
            },
            "The configuration 'm' is the default of this repository already",
        ),
    ],
)
def test_another_dataset_is_not_overwritten(hub, selection, files, message):
    hub.commit(REPO, files)
    with pytest.raises(PublishError, match=message):
        selection.push_to_hub(REPO)
    assert hub.files(REPO) == files


def test_not_logged_in(hub, selection, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishError, match="Not logged in to the Hub"):
        selection.push_to_hub(REPO)


def test_namespace_defaults_to_the_account(hub, selection):
    selection.push_to_hub("selected")
    selection.push_to_hub("lab/selected")
    assert Selection.from_hub(REPO) == Selection.from_hub("lab/selected") == selection


# -- what goes wrong on the way --------------------------------------------------------------------------------------
@pytest.mark.parametrize(("status", "path"), [(503, "commit"), (429, "commit"), (500, "preupload"), (502, "whoami")])
def test_temporary_error_is_retried(hub, selection, status, path):
    hub.fail(f"/{path}", status, times=2)
    selection.push_to_hub(REPO)
    assert Selection.from_hub(REPO) == selection


def test_temporary_error_keeps_the_licence(hub, selection, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "another"))
    hub.fail("(HEAD|GET) .*tester/parent/resolve/.*/README.md", 503, times=8)
    selection.push_to_hub(REPO)
    assert split_card(card(hub))[0]["license"] == "cc-by-nc-4.0"


def test_internal_error_is_not_retried(hub, selection, monkeypatch):
    calls = []

    def broken(*_):
        calls.append(1)
        raise NotImplementedError("mine")

    monkeypatch.setattr("hf_datasel.cards.push._card", broken)
    with pytest.raises(NotImplementedError, match="mine"):
        selection.push_to_hub(REPO)
    assert len(calls) == 1


def test_permanent_error(hub, selection):
    hub.fail("POST .*/commit/", 503, times=None)
    with pytest.raises(PublishError, match=r"failed in 6 attempts .*The repository is unchanged") as caught:
        selection.push_to_hub(REPO)
    assert hub.token not in str(caught.getrepr())
    assert len(hub.commits(REPO)) == 1
    hub.clear_faults()
    before = len(hub.uploads())
    selection.push_to_hub(REPO)
    assert len(hub.uploads()) == before
    assert Selection.from_hub(REPO) == selection


def test_a_cut_upload_leaves_the_repository_as_it_was(hub, parent, selection):
    selection.push_to_hub(REPO)
    files = hub.files(REPO)
    hub.cut("PUT ", after=100, times=None)
    with pytest.raises(PublishError, match="failed in 6 attempts"):
        select(parent, Random(), size=7).push_to_hub(REPO)
    assert hub.files(REPO) == files
    hub.clear_faults()
    select(parent, Random(), size=7).push_to_hub(REPO)
    assert Selection.from_hub(REPO).indices.size == 7


def test_concurrent_commit_is_preserved(hub, selection):
    selection.push_to_hub(REPO)
    mine = card(hub) + "\nWritten meanwhile.\n"
    hub.before("POST .*/commit/", lambda: hub.commit(REPO, {"README.md": mine.encode(), "notes.md": b"mine"}))
    other = select(selection.dataset, Longest(), size=4)
    other.push_to_hub(REPO)
    assert card(hub).rstrip().endswith("Written meanwhile.")
    assert "**4 of the 24 rows" in card(hub)
    assert hub.files(REPO)["notes.md"] == b"mine"
    assert Selection.from_hub(REPO) == other


def test_concurrent_pushes(hub, parent):
    from concurrent.futures import ThreadPoolExecutor

    selections = {f"size-{size}": select(parent, Longest(), size=size) for size in (3, 4, 5)}
    with ThreadPoolExecutor(3) as threads:
        pushes = [threads.submit(item.push_to_hub, REPO, config_name=name) for name, item in selections.items()]
        assert len({push.result().oid for push in pushes}) == 3
    for name, item in selections.items():
        assert Selection.from_hub(REPO, config_name=name) == item
        assert load_dataset(REPO, name, split="train")[:] == item.apply(parent)[:]


def test_token_is_not_leaked(hub, parent, selection, caplog, capfd):
    caplog.set_level("DEBUG")
    selection.push_to_hub(REPO, token=hub.token)
    assert hub.token.encode() not in b"".join(hub.files(REPO).values())
    out = capfd.readouterr()
    assert hub.token not in caplog.text + out.out + out.err + repr(selection)
    selection.provenance["selector"]["note"] = f"Bearer {hub.token}"
    with pytest.raises(PublishError, match=r"selection.json \(the access token\)") as caught:
        selection.push_to_hub(REPO)
    assert hub.token not in str(caught.value)


# -- reading ---------------------------------------------------------------------------------------------------------
def test_unreadable_selections(hub, parent, selection):
    with pytest.raises(PublishError, match="There is no dataset 'tester/nothing'"):
        Selection.from_hub("tester/nothing")
    with pytest.raises(PublishError, match="'tester/parent' holds no selection"):
        Selection.from_hub("tester/parent")
    push_selections(rounds(parent, 2), REPO, parent)
    with pytest.raises(PublishError, match=r"has no selection 'rond-1'\. Did you mean 'round-1'"):
        Selection.from_hub(REPO, config_name="rond-1")
    with pytest.raises(PublishError, match="has no revision 'nope'"):
        Selection.from_hub(REPO, revision="nope")


def test_push_while_reading(hub, parent, selection):
    selection.push_to_hub(REPO)
    other = select(parent, Random(), size=9)
    hub.before("selections/default/indices", lambda: other.push_to_hub(REPO))
    assert Selection.from_hub(REPO) == selection
    assert Selection.from_hub(REPO) == other


def test_inconsistent_files(hub, selection):
    selection.push_to_hub(REPO)
    about = json.loads(hub.files(REPO)["selections/default/selection.json"])
    unsigned = {**about, "format_version": 2}  # as versions without digests wrote it
    del unsigned["sha256"]
    scores = "scores/default/train-00000-of-00001.parquet"
    files = {
        "format_version 99": {
            "selections/default/selection.json": json.dumps({**about, "format_version": 99}).encode()
        },
        "no record of a selection": {"selections/default/selection.json": b"[]"},
        "is no valid JSON": {"selections/default/selection.json": b"{"},
        "indices.npy is not what was written": {"selections/default/indices.npy": npy([3, 2, 1])},
        "the scores are not what was written": {scores: hub.files(REPO)[scores] + b" "},
        "selection.json is not as it was written": {
            "selections/default/selection.json": json.dumps({**about, "seed": 1}).encode()
        },
        "has row numbers beyond its pool": {
            "selections/default/selection.json": json.dumps(unsigned).encode(),
            "selections/default/indices.npy": npy([99]),
        },
        "indices.npy cannot be read .Object arrays": {
            "selections/default/selection.json": json.dumps(unsigned).encode(),
            "selections/default/indices.npy": npy([{}]),
        },
    }
    for message, content in files.items():
        before = hub.files(REPO)
        hub.commit(REPO, content)
        with pytest.raises(SelectionError, match=message):
            Selection.from_hub(REPO)
        hub.commit(REPO, before)


def npy(values):
    content = io.BytesIO()
    np.save(content, np.array(values))
    return content.getvalue()


def test_unrelated_selections(hub, parent):
    with pytest.raises(PublishError, match="different selectors or settings"):
        push_selections([select(parent, Random(), size=2), select(parent, Longest(), size=2)], REPO, parent)
    with pytest.raises(PublishError, match="no selection to show or publish"):
        push_selections([], REPO, parent)


# -- hostile rows ----------------------------------------------------------------------------------------------------
def test_hostile_text(hub, pool_rows):
    evil = [
        "---\nlicense: mit\n---", "{{ 7 * 7 }}{% for x in y %}", "<script>alert(1)</script>", "x" * 1_000_000,
        "<!-- hf_datasel: default: end -->", "\x00\u202e\ud7ff",
    ]  # fmt: skip
    rows = pool_rows.map(lambda row, index: {"output": evil[index % len(evil)] + str(index)}, with_indices=True)
    rows = rows.add_column("<script>{{x}}|---`", np.linspace(0.1, 0.9, 24))
    selection = select(rows, Top(by="<script>{{x}}|---`"), size=8)
    selection.push_to_hub(REPO, rows)
    text = card(hub)
    assert len(text) < 20_000
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text.split("---\n", 2)[2])
    html = [
        item.content for token in tokens for item in (token, *(token.children or [])) if item.type.startswith("html")
    ]
    assert html
    assert not [item for item in html if "<script" in item]
    assert split_card(text)[0].keys() == {"pretty_name", "task_categories", "size_categories", "tags", "configs"}
    assert load_dataset(REPO, split="train")[:] == selection.apply(rows)[:]
    selection.push_to_hub(REPO, rows)
    assert len(hub.commits(REPO)) == 2
