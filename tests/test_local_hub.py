"""The local Hub keeps its word to the real clients: what they push they get back, and what must fail does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value, load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    DatasetCard,
    HfApi,
    HfFileSystem,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.local_hub import LocalHub, connected

both = pytest.mark.parametrize("local_hub", ["lfs", "xet"], indirect=True)
COMMIT = r"POST .*/commit/"
SHARD = "data/train-00000-of-00001.parquet"


def rows(count: int = 20) -> Dataset:
    features = Features(
        {
            "messages": List({"role": Value("string"), "content": Value("large_string")}),
            "ifd": Value("float32"),
            "ifd_reason": ClassLabel(names=["empty_response", "prompt_fills_window"]),
        }
    )
    columns = {
        "messages": [[{"role": "user", "content": f"Say {i}."}] * (i % 3) for i in range(count)],
        "ifd": [None if i % 4 == 0 else i / 3 for i in range(count)],
        "ifd_reason": [i % 2 if i % 4 == 0 else None for i in range(count)],
    }
    return Dataset.from_dict(columns, features=features)


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)


def commit(files: dict[str, bytes], **options: Any) -> str:
    operations = [add(path, content) for path, content in files.items()]
    options = {"repo_id": "tester/rows", "repo_type": "dataset", "commit_message": "Add", **options}
    return HfApi().create_commit(operations=operations, **options).oid


# -- datasets --------------------------------------------------------------------------------------------------------
@both
def test_dataset_roundtrip(local_hub, request):
    rows().push_to_hub("tester/rows")
    back = load_dataset("tester/rows", split="train")
    assert back.features == rows().features
    assert back.to_dict() == rows().to_dict()
    assert set(local_hub.files("tester/rows")) == {"README.md", SHARD}
    over_xet = any("xet-read-token" in seen.path for seen in local_hub.requests)
    assert (over_xet, len(local_hub.uploads())) == ((True, 0) if "xet" in request.node.name else (False, 1))


@both
def test_streaming(local_hub):
    rows().push_to_hub("tester/rows", max_shard_size=500)
    assert sum(path.endswith(".parquet") for path in local_hub.files("tester/rows")) > 1
    stream = load_dataset("tester/rows", split="train", streaming=True)
    assert stream.features == rows().features
    assert list(stream.take(3)) == list(rows().select(range(3)))


def test_a_second_push_replaces_the_first_in_the_same_process(local_hub):
    rows(20).push_to_hub("tester/rows", max_shard_size=500)
    rows(8).push_to_hub("tester/rows")
    assert load_dataset("tester/rows", split="train").num_rows == 8
    assert set(local_hub.files("tester/rows")) == {"README.md", SHARD}


def test_card_roundtrip(local_hub):
    rows(4).push_to_hub("tester/rows")
    card = DatasetCard.load("tester/rows")
    card.text = "\n# Rows\n"
    card.data.license = "apache-2.0"
    card.push_to_hub("tester/rows")
    assert DatasetCard.load("tester/rows").data.license == "apache-2.0"
    assert local_hub.files("tester/rows")["README.md"].endswith(b"# Rows\n")
    assert load_dataset("tester/rows", split="train").num_rows == 4


# -- models ----------------------------------------------------------------------------------------------------------
@both
def test_model_roundtrip(local_hub, tmp_path):
    source = tmp_path / "model"
    (source / "checkpoint-1").mkdir(parents=True)
    content = {"config.json": b"{}", "model.safetensors": os.urandom(300_000), "checkpoint-1/model.bin": b"0" * 99_999}
    for path, data in content.items():
        (source / path).write_bytes(data)
    api = HfApi()
    api.create_repo("tester/model")
    api.upload_folder(repo_id="tester/model", folder_path=source)
    assert local_hub.files("tester/model", "model") == content
    folder = Path(snapshot_download("tester/model", ignore_patterns=".gitattributes"))
    assert {path: (folder / path).read_bytes() for path in content} == content

    api.upload_folder(repo_id="tester/model", folder_path=source)
    assert len(local_hub.commits("tester/model", "model")) == 2  # the Hub's own and one: nothing has changed since


# -- rights ----------------------------------------------------------------------------------------------------------
def test_whoami(local_hub):
    assert HfApi().whoami()["orgs"][0]["name"] == "lab"
    assert HfApi(token=local_hub.read_token).whoami()["auth"]["accessToken"]["role"] == "read"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(token="hf_bad").whoami()


def test_a_private_dataset_is_hidden_from_others(local_hub):
    rows(4).push_to_hub("tester/rows", private=True)
    assert HfApi().dataset_info("tester/rows").private
    for token, status in ((False, 401), (local_hub.other_token, 404)):
        with pytest.raises(RepositoryNotFoundError, match=f"{status} Client Error"):
            HfApi().dataset_info("tester/rows", token=token)
        with pytest.raises(DatasetNotFoundError, match="doesn't exist on the Hub or cannot be accessed"):
            load_dataset("tester/rows", token=token)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        HfApi().dataset_info("tester/rows", token="hf_bad")
    assert load_dataset("tester/rows", split="train", token=local_hub.read_token).num_rows == 4


@pytest.mark.parametrize("token", ["read_token", "other_token"])
def test_token_without_permission_writes_nothing(local_hub, token):
    local_hub.commit("tester/rows", {"a.txt": b"a"})
    with pytest.raises(HfHubHTTPError, match="403 Forbidden"):
        rows(4).push_to_hub("tester/rows", token=getattr(local_hub, token))
    assert local_hub.files("tester/rows") == {"a.txt": b"a"}
    assert local_hub.uploads() == []


@both
def test_a_read_token_does_not_reach_the_storage(local_hub):
    local_hub.commit("tester/rows", {"a.txt": b"a"})
    with pytest.raises(HfHubHTTPError, match="403 Forbidden"):
        HfApi(token=local_hub.read_token).preupload_lfs_files("tester/rows", [add(SHARD, b"x")], repo_type="dataset")


def test_the_storage_refuses_a_token_of_the_hub(local_hub):
    local_hub.commit("tester/rows", {"a.bin": b"a"})
    url = f"{local_hub.url}/datasets/tester/rows/resolve/main/a.bin"
    signed = httpx2.get(url).headers["Location"]
    assert httpx2.get(signed).content == b"a"
    assert httpx2.get(signed, headers={"Authorization": f"Bearer {local_hub.token}"}).status_code == 400


def test_a_repository_is_created_once(local_hub):
    url = HfApi().create_repo("lab/model", private=True)
    assert url == f"{local_hub.url}/lab/model"
    with pytest.raises(HfHubHTTPError, match="409"):
        HfApi().create_repo("lab/model")
    assert HfApi().create_repo("lab/model", exist_ok=True).repo_id == "lab/model"
    HfApi().delete_repo("lab/model")
    with pytest.raises(RepositoryNotFoundError, match="404"):
        HfApi().model_info("lab/model")


def test_a_fine_grained_token_writes_in_its_scope(local_hub):
    api = HfApi(token=local_hub.add_token("tester", role="fineGrained", scope=["tester/rows"]))
    api.create_repo("tester/rows", repo_type="dataset", private=True)
    assert api.dataset_info("tester/rows").private
    with pytest.raises(HfHubHTTPError, match="403 Forbidden"):
        api.create_repo("tester/other", repo_type="dataset")


def test_gated_content_needs_a_grant(local_hub):
    local_hub.create_repo("lab/rows", gated="auto")
    local_hub.commit("lab/rows", {"a.txt": b"a"})
    where = {"repo_id": "lab/rows", "filename": "a.txt", "repo_type": "dataset", "token": local_hub.other_token}
    assert HfApi(token=local_hub.other_token).dataset_info("lab/rows").gated == "auto"
    with pytest.raises(GatedRepoError, match="403 Client Error"):
        hf_hub_download(**where)
    local_hub.granted.add("stranger")
    assert Path(hf_hub_download(**where)).read_text() == "a"


# -- history ---------------------------------------------------------------------------------------------------------
def test_branches_tags_and_commits_name_a_revision(local_hub):
    rows(4).push_to_hub("tester/rows")
    api = HfApi()
    api.create_tag("tester/rows", tag="v1", repo_type="dataset")
    rows(6).push_to_hub("tester/rows", revision="more/rows")
    refs = api.list_repo_refs("tester/rows", repo_type="dataset")
    assert [ref.name for ref in (*refs.branches, *refs.tags)] == ["main", "more/rows", "v1"]
    sha = refs.branches[1].target_commit
    counts = {name: load_dataset("tester/rows", split="train", revision=name).num_rows for name in ("v1", sha)}
    assert counts == {"v1": 4, sha: 6}
    assert load_dataset("tester/rows", split="train", revision="more/rows").num_rows == 6
    history = api.list_repo_commits("tester/rows", repo_type="dataset", revision="more/rows")
    assert [entry.title for entry in history] == ["Upload dataset", "Upload dataset", "initial commit"]
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch("tester/rows", branch="more/rows", repo_type="dataset")
    api.delete_tag("tester/rows", tag="v1", repo_type="dataset")
    with pytest.raises(RevisionNotFoundError, match="404"):
        api.dataset_info("tester/rows", revision="v1")


def test_files_are_listed_copied_and_deleted(local_hub):
    first = local_hub.commit("tester/rows", {"a/b/c.txt": b"c", "a/d.bin": b"d" * 100, "e.txt": b"e"})
    api, where = HfApi(), {"repo_id": "tester/rows", "repo_type": "dataset"}
    assert {entry.path for entry in api.list_repo_tree(**where)} == {".gitattributes", "a", "e.txt"}
    assert {entry.path for entry in api.list_repo_tree(path_in_repo="a", **where)} == {"a/b", "a/d.bin"}
    large, folder = api.get_paths_info(paths=["a/d.bin", "a/b", "none"], expand=True, **where)
    assert (large.lfs.size, large.last_commit.oid, folder.path) == (100, first, "a/b")
    operations = [CommitOperationCopy("a/d.bin", "f.bin"), CommitOperationDelete("a/"), CommitOperationDelete("e.txt")]
    api.create_commit(operations=operations, commit_message="Move", **where)
    assert local_hub.files("tester/rows") == {"f.bin": b"d" * 100}
    with pytest.raises(EntryNotFoundError, match="404"):
        api.create_commit(operations=[CommitOperationDelete("e.txt")], commit_message="Again", **where)
    assert local_hub.files("tester/rows", revision=first).keys() == {"a/b/c.txt", "a/d.bin", "e.txt"}


def test_the_last_commit_of_a_path_is_the_one_that_changed_it(local_hub):
    first = local_hub.commit("tester/rows", {"a/b.txt": b"b", "a/c.txt": b"c"})
    second = local_hub.commit("tester/rows", {"a/c.txt": b"d"})
    local_hub.commit("tester/rows", {"e.txt": b"e"})
    entries = HfApi().get_paths_info("tester/rows", ["a/b.txt", "a/c.txt", "a"], expand=True, repo_type="dataset")
    assert [entry.last_commit.oid for entry in entries] == [first, second, second]


def test_git_oid(local_hub):
    local_hub.commit("tester/rows", {"a.txt": b"hello\n"})
    (info,) = HfApi().get_paths_info("tester/rows", "a.txt", repo_type="dataset")
    assert info.blob_id == "ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.mark.parametrize("name", ["a.txt", "a.bin"])
def test_range_requests(local_hub, name):
    local_hub.commit("tester/rows", {name: bytes(range(256))})
    with HfFileSystem().open(f"datasets/tester/rows/{name}", block_size=16) as file:
        file.seek(200)
        assert file.read(4) == bytes([200, 201, 202, 203])
        file.seek(250)
        assert file.read() == bytes(range(250, 256))


# -- several at once -------------------------------------------------------------------------------------------------
def test_a_stale_parent_is_refused(local_hub):
    first = local_hub.commit("tester/rows", {"a.txt": b"a"})
    commit({"b.txt": b"b"}, parent_commit=first)
    with pytest.raises(HfHubHTTPError, match="412"):
        commit({"c.txt": b"c"}, parent_commit=first)
    assert local_hub.files("tester/rows").keys() == {"a.txt", "b.txt"}


def test_a_commit_in_between_makes_the_parent_of_a_push_stale(local_hub):
    local_hub.commit("tester/rows", {"a.txt": b"a"})
    local_hub.before(COMMIT, lambda: commit({"b.txt": b"b"}))
    with pytest.raises(HfHubHTTPError, match="412") as caught:
        rows(4).push_to_hub("tester/rows")
    assert caught.value.response.status_code == 412
    assert local_hub.files("tester/rows").keys() == {"a.txt", "b.txt"}
    rows(4).push_to_hub("tester/rows")
    assert len(local_hub.uploads()) == 1  # the first push had stored the shard already


@both
def test_concurrent_clients(local_hub):
    head = local_hub.commit("tester/rows", {"a.txt": b"a"})
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(commit, {f"{i}.bin": b"%d" % i * 9}) for i in range(6)]
        assert len({job.result() for job in jobs}) == 6
        contenders = [
            pool.submit(commit, {f"{i}.txt": b"x"}, parent_commit=job.result()) for i, job in enumerate(jobs)
        ]
        assert [type(job.exception()) for job in contenders].count(HfHubHTTPError) == 5
    line = local_hub.commits("tester/rows")
    assert (line[1].oid, len(line)) == (head, 9)
    assert local_hub.files("tester/rows")["5.bin"] == b"5" * 9


# -- faults ----------------------------------------------------------------------------------------------------------
def test_a_rerun_after_503_sends_no_content_twice(local_hub):
    local_hub.fail(COMMIT, 503)
    with pytest.raises(HfHubHTTPError, match="503"):
        rows().push_to_hub("tester/rows")
    assert local_hub.files("tester/rows") == {}
    rows().push_to_hub("tester/rows")
    assert load_dataset("tester/rows", split="train").num_rows == 20
    assert [seen.received for seen in local_hub.uploads()] == [len(local_hub.files("tester/rows")[SHARD])]


def test_upload_is_retried(local_hub):
    local_hub.fail("PUT ", 503, times=2)
    rows().push_to_hub("tester/rows")
    assert [seen.status for seen in local_hub.uploads()] == [503, 503, 200]


def test_a_cut_upload_leaves_the_repository_as_it_was(local_hub):
    rows(4).push_to_hub("tester/rows")
    before, done = local_hub.files("tester/rows"), len(local_hub.uploads())
    local_hub.cut("PUT ", after=700, times=None)
    with pytest.raises(RuntimeError, match=f"Error while uploading '{SHARD}'"):
        rows(8).push_to_hub("tester/rows")
    assert {(seen.received, seen.status) for seen in local_hub.uploads()[done:]} == {(700, 0)}
    assert local_hub.files("tester/rows") == before
    local_hub.clear_faults()
    rows(8).push_to_hub("tester/rows")
    assert load_dataset("tester/rows", split="train").num_rows == 8


def test_a_cut_commit_leaves_the_repository_as_it_was(local_hub):
    local_hub.commit("tester/rows", {"a.txt": b"a"})
    local_hub.cut(COMMIT, after=10)
    with pytest.raises(httpx2.TransportError, match=r"reset|pipe|disconnected"):
        commit({"b.txt": b"b" * 1_000_000})
    assert local_hub.files("tester/rows") == {"a.txt": b"a"}


def test_a_slow_hub_meets_the_time_limit_of_a_client(local_hub):
    local_hub.create_repo("tester/rows")
    local_hub.delay = 0.3
    with pytest.raises(httpx2.ReadTimeout, match="timed out"):
        HfApi().dataset_info("tester/rows", timeout=0.05)


def test_error_details(local_hub):
    local_hub.fail("whoami", 429, message="Slow down", retry_after=7)
    with pytest.raises(HfHubHTTPError, match="rate limit") as caught:
        HfApi().whoami()
    assert caught.value.response.headers["Retry-After"] == "7"


def test_unknown_route(local_hub):
    with pytest.raises(HfHubHTTPError, match="does not know GET /api/spaces/templates"):
        HfApi().list_space_templates()


# -- the process and others ------------------------------------------------------------------------------------------
def test_the_process_is_offline_again_afterwards(tmp_path):
    import datasets.config
    import huggingface_hub.constants

    def state() -> list[dict[str, Any]]:
        return [dict(os.environ), dict(vars(datasets.config)), dict(vars(huggingface_hub.constants))]

    before = state()
    with LocalHub() as hub, connected(hub, tmp_path, token=None):
        assert huggingface_hub.constants.HF_HUB_OFFLINE is False
        hub.commit("tester/rows", {"a.txt": b"a"})
        assert hf_hub_download("tester/rows", "a.txt", repo_type="dataset").startswith(str(tmp_path))
        assert {seen.authorized for seen in hub.requests} == {False}
    assert state() == before
    with pytest.raises(OfflineModeIsEnabled, match=r"https://huggingface\.co"):
        HfApi().whoami(token="hf_bad")


def test_worker_processes_reach_the_hub(local_hub):
    rows().push_to_hub("tester/rows", num_proc=2)
    assert load_dataset("tester/rows", split="train", num_proc=2).to_dict() == rows().to_dict()
    assert len(local_hub.uploads()) == 2


def test_separate_process_over_xet(tmp_path):
    program = (
        "from datasets import load_dataset\n"
        "rows = load_dataset('tester/rows', split='train')\n"
        "rows.select([0, 1]).push_to_hub('tester/two')"
    )
    with LocalHub() as hub, connected(hub, tmp_path / "here", xet=True):
        rows().push_to_hub("tester/rows")
        subprocess.run([sys.executable, "-c", program], env=hub.environment(tmp_path / "there"), check=True)
        assert load_dataset("tester/two", split="train").to_dict() == rows().select([0, 1]).to_dict()
        assert hub.uploads() == []


def test_close_does_not_wait(tmp_path):
    hub = LocalHub()
    with connected(hub, tmp_path):
        HfApi().whoami()
        start = time.monotonic()
        hub.close()
    assert time.monotonic() - start < 1
