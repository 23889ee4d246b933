"""Embeddings from an endpoint: which texts are sent, the results of rows, and later runs."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, List, Value

from hf_datasel import score, select
from hf_datasel.errors import ConfigError, FormatError, ScoreError
from hf_datasel.formats import Pool
from hf_datasel.scores import Embedding, Length, Loss
from hf_datasel.scoring import vector_files
from hf_datasel.selection import explain
from hf_datasel.selectors import KCenter
from hf_datasel.testing import contract
from tests.scores.endpoint_server import CUT, Reply, serving

SECRET = "sk-do-not-show-0123456789"
WIDTH = 6


def raw(text, width=WIDTH):
    """Return the server's vector of a text, always the same one."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).normal(size=width).astype(np.float32)


def unit(text, width=WIDTH):
    vector = raw(text, width)
    return vector / np.linalg.norm(vector)


def vectors(texts, width=WIDTH):
    data = [{"index": index, "embedding": raw(text, width).tolist()} for index, text in enumerate(texts)]
    return Reply({"data": data[::-1], "usage": {"prompt_tokens": 5, "total_tokens": 5}})


def refusing(*refused):
    long = Reply({"error": {"message": "maximum context length is 9"}}, 400)
    return lambda texts: long if set(texts) & set(refused) else vectors(texts)


@pytest.fixture
def server():
    with serving(SECRET) as result:
        result.reply = vectors
        yield result


@pytest.fixture(scope="module")
def rows(pool_rows):
    return pool_rows.select(range(8))


def remote(server, **settings):
    return Embedding("m", base_url=server.url, **settings)


def asked(server):
    """Count the requests for each text."""
    return Counter(text for item in server.asked for text in item)


@contract(
    Embedding("to be named", base_url="http://localhost:1/v1"),
    Embedding(
        "to be named",
        base_url="http://localhost:1/v1",
        part="response",
        normalize=False,
        dimensions=WIDTH,
        concurrency=2,
        column_prefix="v_",
    ),
)
def test_contract(check, score, rows, tiny_model_dir, server):
    # The checks load the model that the score names.
    check(replace(score, model=str(tiny_model_dir), base_url=server.url), rows, tiny_model_dir)


# -- what is asked and what comes back --------------------------------------------------------------------------------
@pytest.mark.parametrize("part", ["prompt", "response", "both"])
@pytest.mark.parametrize("normalize", [True, False])
def test_vectors(server, pool_rows, part, normalize):
    result = score(pool_rows, [remote(server, part=part, normalize=normalize)])
    texts = Pool(pool_rows).texts(part)
    expected = [unit(text) if normalize else raw(text) for text in texts]
    np.testing.assert_allclose(result["embedding"], expected, atol=1e-6)
    assert result.features["embedding"] == List(Value("float32"))
    assert set(result["embedding_reason"]) == {""}
    assert server.paths == {"/v1/embeddings"}
    assert server.tokens == {f"Bearer {SECRET}"}
    assert all(body["model"] == "m" and "dimensions" not in body for body in server.bodies)


def test_order_of_many_requests(server):
    texts = [f"text {index}" for index in range(200)]
    number, meeting = itertools.count(), threading.Barrier(3)

    def reply(texts):
        if 1 <= next(number) <= 3:  # after the request for the dimensions: as many as are concurrent
            meeting.wait(timeout=60)
        return replace(vectors(texts), seconds=0.05 if "text 0" in texts else 0.0)

    server.reply = reply
    result = score(Dataset.from_dict({"text": texts}), [remote(server, concurrency=3)])
    np.testing.assert_allclose(result["embedding"], [unit(text) for text in texts], atol=1e-6)
    assert [len(item) for item in server.asked[:1]] == [1]  # the request for the dimensions
    assert sorted(len(item) for item in server.asked[1:]) == [8, *[32] * 6]
    assert server.most == 3


def test_dimensions(server, rows):
    server.reply = lambda texts: vectors(texts, 3)
    result = score(rows, [remote(server, dimensions=3)])
    np.testing.assert_allclose(result["embedding"], [unit(text, 3) for text in Pool(rows).texts("both")], atol=1e-6)
    assert [len(item) for item in server.asked] == [len(rows)]
    assert server.bodies[0]["dimensions"] == 3
    with pytest.raises(ScoreError, match=r"gives vectors of 3 numbers, and dimensions=4 was requested\. Omit it"):
        score(rows, [remote(server, dimensions=4)])


def test_duplicate_texts_are_sent_once(server, rows):
    twice = Dataset.from_dict({name: rows[name][:] * 2 for name in rows.column_names})
    result = score(twice, [remote(server, dimensions=WIDTH)])["embedding"][:]
    assert set(asked(server).values()) == {1}
    assert result[:8] == result[8:]


def test_tokens_per_batch_is_ignored(server, pool_rows):
    score(pool_rows, [remote(server, dimensions=WIDTH)], scoring_tokens_per_batch=1)
    assert len(server.asked) == 1


def test_texts_per_request(server, pool_rows, monkeypatch):
    full = score(pool_rows, [remote(server)])["embedding"][:]
    monkeypatch.setattr("hf_datasel.scoring.endpoint.embeddings._TEXTS_PER_REQUEST", 5)
    assert score(pool_rows, [remote(server)])["embedding"][:] == full


def test_map(server, rows):
    result = rows.map(remote(server), batched=True, batch_size=3, load_from_cache_file=False)
    assert result.features["embedding"] == List(Value("float32"))
    np.testing.assert_allclose(result["embedding"], score(rows, [remote(server)])["embedding"], atol=1e-6)


def test_no_model_is_loaded(server, rows, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a model or a tokenizer is loaded")

    for name in ("models.model_identity", "base.model_identity", "engine.load_tokenizer", "models.load_model"):
        monkeypatch.setattr(f"hf_datasel.scoring.{name}", refuse)
    one = remote(server)
    result = score(rows, [one, Length()])
    assert result["embedding_reason"][:] == [""] * len(rows)
    assert one.spec()["resolved_model"] is None
    assert pickle.loads(pickle.dumps(one)) == one


def test_with_scores_of_a_loaded_model(server, model, tokenizer, rows):
    alone = score(rows, [Loss()], model=model, processing_class=tokenizer)["loss"][:]
    result = score(rows, [remote(server), Loss()], model=model, processing_class=tokenizer)
    assert result["loss"][:] == alone
    assert len(result["embedding"][0]) == WIDTH
    assert torch.isfinite(torch.tensor(result["embedding"][:])).all()


# -- rows without a vector --------------------------------------------------------------------------------------------
def test_rows_without_text(server):
    data = Dataset.from_dict({"prompt": ["Is it slow?", "a", " ", None], "completion": ["Yes.", " ", "No.", "x"]})
    result = score(data, [remote(server, part="prompt")], on_summary=str)
    assert [value is None for value in result["embedding"]] == [False, True, True, True]
    assert result["embedding_reason"][:3] == ["", "empty_response", "empty_text"]
    assert set(asked(server)) == {"Is it slow?"}
    server.asked.clear()
    none = score(data.select([1, 2]), [remote(server, part="prompt")], on_summary=str)
    assert none["embedding"][:] == [None, None]
    assert server.asked == []


def test_text_format(server):
    with pytest.raises(FormatError, match=r"have no response to embed. Embedding\(part='both'\)"):
        score(Dataset.from_dict({"text": ["a"]}), [remote(server, part="response")])


@pytest.mark.parametrize("dimensions", [None, WIDTH])
def test_refused_texts_are_null(server, dimensions):
    texts = ["a", "too long 1", "bb", "too long 2", "cc", "dd"]
    server.reply = refusing("too long 1", "too long 2")
    result = score(Dataset.from_dict({"text": texts}), [remote(server, dimensions=dimensions)], on_summary=str)
    assert result["embedding_reason"][:] == ["", "refused", "", "refused", "", ""]
    for text, vector in zip(texts, result["embedding"], strict=True):
        if "long" in text:
            assert vector is None
        else:
            np.testing.assert_allclose(vector, unit(text), atol=1e-6)


@pytest.mark.parametrize("dimensions", [None, WIDTH])
def test_no_text_has_a_vector(server, dimensions):
    server.reply = refusing("a", "bb")
    data = Dataset.from_dict({"text": ["bb", " ", "a"]})
    result = score(data, [remote(server, dimensions=dimensions)], on_summary=str)
    assert result["embedding"][:] == [None] * 3
    assert result["embedding_reason"][:] == ["refused", "empty_text", "refused"]


def test_zero_vectors(server, rows):
    server.reply = lambda texts: Reply(
        {"data": [{"index": index, "embedding": [0.0] * 3} for index in range(len(texts))]}
    )
    assert score(rows, [remote(server)])["embedding"][0] == [0.0] * 3


def test_no_space_on_disk(server, rows, monkeypatch):
    monkeypatch.setattr(vector_files, "MAX_BYTES_IN_MEMORY", 0)
    monkeypatch.setattr(vector_files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=8 * WIDTH * 8 - 1))
    with pytest.raises(ScoreError, match=r"The vectors need 0\.0 GB in '.*': 0\.0 GB are free"):
        score(rows, [remote(server)])
    assert len(server.asked) == 1


def test_vectors_on_disk(server, pool_rows, monkeypatch):
    expected = score(pool_rows, [remote(server)])["embedding"][:]
    monkeypatch.setattr(vector_files, "MAX_BYTES_IN_MEMORY", 0)
    assert score(pool_rows, [remote(server)])["embedding"][:] == expected


# -- runs that go on --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dimensions", [None, WIDTH])
def test_second_run_sends_nothing(server, pool_rows, tmp_path, dimensions):
    one = remote(server, dimensions=dimensions)
    first = score(pool_rows, [one], store=tmp_path)["embedding"][:]
    server.asked.clear()
    again = score(pool_rows.select(range(10)), [replace(one, concurrency=2, normalize=True)], store=tmp_path)
    assert again["embedding"][:] == first[:10]
    assert server.asked == []


def test_other_models_and_dimensions_are_not_cached(server, rows, tmp_path):
    score(rows, [remote(server)], store=tmp_path)
    for settings in ({"dimensions": WIDTH}, {"model": "other"}):
        server.asked.clear()
        score(rows, [replace(remote(server), **settings)], store=tmp_path)
        assert set(asked(server)) == set(Pool(rows).texts("both"))


def test_second_run_sends_missing_texts(server, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_datasel.scoring.endpoint.embeddings._TEXTS_PER_REQUEST", 2)
    texts = ["a", "bb", "too long", "dd", "broken", "ff"]
    plain = refusing("too long")
    server.reply = lambda texts: CUT if "broken" in texts else plain(texts)
    data = Dataset.from_dict({"text": texts})
    first = score(data, [remote(server, concurrency=1)], store=tmp_path, on_summary=str)
    assert first["embedding_reason"][:] == ["", "", "refused", "", "no_answer", "no_answer"]
    server.asked.clear()
    server.reply = plain
    second = score(data, [remote(server, concurrency=1)], store=tmp_path, on_summary=str)
    assert set(asked(server)) == {"broken", "ff"}
    assert second["embedding_reason"][:] == ["", "", "refused", "", "", ""]
    assert second["embedding"][:4] == first["embedding"][:4]


def test_answers_before_a_failure_are_stored(server, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_datasel.scoring.endpoint.embeddings._TEXTS_PER_REQUEST", 2)
    data = Dataset.from_dict({"text": [f"text {index}" for index in range(8)]})
    left = [*range(3)]  # the dimensions, and two requests
    server.reply = lambda texts: vectors(texts) if left and left.pop() >= 0 else Reply({"error": "expired"}, 401)
    with pytest.raises(ScoreError, match=r"answers 401 to 'm' \(expired\)"):
        score(data, [remote(server, concurrency=1)], store=tmp_path)
    server.asked.clear()
    server.reply = vectors
    result = score(data, [remote(server)], store=tmp_path)
    assert sorted(asked(server)) == [f"text {index}" for index in range(4, 8)]
    assert set(result["embedding_reason"]) == {""}


def test_changed_dimensions(server, tmp_path):
    score(Dataset.from_dict({"text": ["a"]}), [remote(server)], store=tmp_path)
    server.reply = lambda texts: vectors(texts, 3)
    with pytest.raises(ScoreError, match=r"gives vectors of 3 numbers, and earlier ones have 6"):
        score(Dataset.from_dict({"text": ["b"]}), [remote(server)], store=tmp_path)


# -- several processes ------------------------------------------------------------------------------------------------
_SCRIPT = """
import json, sys
from accelerate import PartialState
from datasets import Dataset, disable_progress_bars
from hf_datasel import score, select
from hf_datasel.scores import Embedding
from hf_datasel.scoring import Processes
from hf_datasel.scoring.endpoint import embeddings
disable_progress_bars()
embeddings._TEXTS_PER_REQUEST = 5
folder, url = sys.argv[1:3]
one = Embedding("m", base_url=url)
found = [
    score(Dataset.from_dict({"text": texts}), [one], on_summary=str)
    for texts in ([f"text {at}" for at in range(23)] + ["too long"], ["too long"])
]
with open(f"{folder}/{Processes.current().process_index}.json", "w") as file:
    json.dump([each[name][:] for each in found for name in ("embedding", "embedding_reason")], file)
PartialState().destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes(server, tmp_path):
    server.reply = refusing("too long")
    (tmp_path / "script.py").write_text(_SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [*launcher, str(tmp_path / "script.py"), str(tmp_path), server.url],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    np.testing.assert_allclose(first[0][:23], [unit(f"text {index}") for index in range(23)], atol=1e-6)
    assert (first[0][23], first[1]) == (None, [""] * 23 + ["refused"])
    assert first[2:] == [[None], ["refused"]]
    assert asked(server)["text 7"] == 1


# -- faults -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dimensions", [None, WIDTH])
def test_wrong_token(server, pool_rows, caplog, dimensions):
    caplog.set_level(logging.DEBUG)
    server.reply = lambda texts: Reply({"error": {"message": f"Incorrect API key: {SECRET}"}}, 401)
    one = remote(server, dimensions=dimensions)
    with pytest.raises(
        ScoreError, match=r"answers 401 to 'm' \(Incorrect API key: \*\*\*\)\. Check the token"
    ) as error:
        score(pool_rows, [one])
    assert len(server.asked) == 1
    assert SECRET not in "".join([caplog.text, repr(error), repr(one), str(one.spec()), str(pickle.dumps(one))])


def test_temporary_errors_are_retried(server, rows):
    server.faults = [Reply({}, 429), CUT, Reply({"data": []}), Reply({"data": [{"embedding": None}]})]
    result = score(rows, [remote(server)])
    np.testing.assert_allclose(result["embedding"], [unit(text) for text in Pool(rows).texts("both")], atol=1e-6)


def test_first_text_without_answer(server, tmp_path):
    server.faults = [CUT] * 6
    data = Dataset.from_dict({"text": ["a", "bb"]})
    result = score(data, [remote(server)], store=tmp_path, on_summary=str)
    np.testing.assert_allclose(result["embedding"], [unit("a"), unit("bb")], atol=1e-6)


# -- settings ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": None}, "model=None has to be the name of a model"),
        ({"base_url": "ftp://host"}, "base_url='ftp://host' has to be like"),
        ({"concurrency": 0}, "concurrency=0 has to be an int from 1 to 100"),
        ({"api_key_env": "sk-secret"}, "has to be the name of an environment variable"),
        ({"dimensions": 0}, r"Embedding\(dimensions=0\): it has to be an int above 0, or None"),
        ({"dimensions": True}, r"Embedding\(dimensions=True\): it has to be an int above 0"),
        ({"as_trained": True}, r"as_trained=True\): the server decides how its model is loaded and run\. Omit as_tr"),
        ({"pooling": "last"}, r"Embedding\(base_url=\.\.\., pooling='last'\): the server decides"),
        ({"model_init_kwargs": {}}, r"model_init_kwargs=\{\}\): the server decides"),
        ({"dtype": "bfloat16"}, r"dtype='bfloat16'\): the server decides"),
        ({"revision": "main"}, r"revision='main'\): the server decides"),
        ({"max_length": 99}, r"max_length=99\): the server decides"),
        ({"base_url": None, "dimensions": 3}, r"Embedding\(dimensions=3\) is for an endpoint: it needs base_url"),
        ({"base_url": None, "concurrency": 3}, r"Embedding\(concurrency=3\) is for an endpoint"),
        ({"base_url": None, "api_key_env": "MY_KEY"}, r"Embedding\(api_key_env='MY_KEY'\) is for an endpoint"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        Embedding(**{"model": "m", "base_url": "http://localhost/v1", **settings})


def test_explanation_asks_before_rows_are_sent(server, pool_rows, monkeypatch):
    monkeypatch.setenv("ENDPOINT_KEY", SECRET)
    rows = pool_rows.select(range(8))
    vectors_of_server = Embedding("m", base_url=server.url, api_key_env="ENDPOINT_KEY")
    selection = select(rows, KCenter(vectors=vectors_of_server), size=3)
    requests = len(server.asked)
    decided = " ".join(explain(selection, rows, 2)["decided"])
    host = server.url.removesuffix("/v1")
    assert f"Computing Embedding again sends rows and the token in ENDPOINT_KEY to {host} (base_url)." in decided
    assert "Permit it with allow_imports if you trust the selection." in decided
    assert len(server.asked) == requests
    assert "Computing Embedding again" not in " ".join(explain(selection, rows, 2, allow_imports=True)["decided"])
    assert len(server.asked) > requests
