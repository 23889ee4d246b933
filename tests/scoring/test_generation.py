"""Answers of a causal LM: batches, sampling, end tokens, prompts and the store."""

from __future__ import annotations

import sys
import threading
from contextlib import closing

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, RwkvConfig, RwkvForCausalLM

from hf_datasel.errors import ConfigError, ModelError
from hf_datasel.formats import Pool, canonical_rows
from hf_datasel.scoring.continuous_batching import ContinuousBatcher
from hf_datasel.scoring.generation import Decoding, Generator, Prompts
from hf_datasel.scoring.models import Loading
from hf_datasel.scoring.runner import ModelRunner
from hf_datasel.scoring.store.store import ScoreStore
from hf_datasel.testing.guards import unchanged_modes, unchanged_random_state
from hf_datasel.tokens import TokenRows, TokenSettings
from hf_datasel.tokens.sequences import RaggedArray

NEW = 12


def token_rows(data, tokenizer, **settings):
    return TokenRows(Pool(data), tokenizer, TokenSettings(**settings))


@pytest.fixture
def asked(pool_rows, tokenizer):
    return Prompts.from_rows(token_rows(pool_rows, tokenizer)).prompt_ids


def written(model, tokenizer, asked, decoding=None, tokens_per_batch=None, **more):
    runner = ModelRunner(model, tokens_per_batch, progress=False, **more)
    answers = Generator(runner, tokenizer, decoding or Decoding(NEW)).answers(asked)
    return [answers[position].tolist() for position in range(len(answers))]


def own_answer(model, tokenizer, ids, ends, new=NEW):
    """Return the answer of `generate` to one prompt, without its end token."""
    with torch.no_grad():
        result = model.generate(
            torch.tensor([ids.tolist()]), max_new_tokens=new, do_sample=False, eos_token_id=ends, pad_token_id=0
        )[0, len(ids) :].tolist()
    over = [position for position, token in enumerate(result) if token in ends]
    return result[: over[0]] if over else result


def ends_of(tokenizer):
    return [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]


# -- against the model's own ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tokens_per_batch", [1, 300, 100_000])
@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_equal_single_generation(model, tokenizer, asked, tokens_per_batch, side):
    tokenizer.padding_side = side
    result = written(model, tokenizer, asked, tokens_per_batch=tokens_per_batch)
    expected = [own_answer(model, tokenizer, asked[position], ends_of(tokenizer)) for position in range(len(asked))]
    assert result == expected
    assert len({tuple(item) for item in result}) > len(result) // 2


def test_learned_positions(tokenizer, asked):
    sizes = {"n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)).eval()
    result = written(model, tokenizer, asked)
    ends = [*ends_of(tokenizer), model.generation_config.eos_token_id]
    assert result == [own_answer(model, tokenizer, asked[position], ends) for position in range(len(asked))]
    room = Generator(ModelRunner(model), tokenizer, Decoding(NEW)).max_prompt_length
    assert room == 128 - NEW


def test_model_that_reads_padding(tokenizer, asked, caplog):
    sizes = {"hidden_size": 32, "attention_hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = RwkvForCausalLM(RwkvConfig(vocab_size=len(tokenizer), **sizes)).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    result = written(model, tokenizer, asked)
    ends = [*ends_of(tokenizer), model.generation_config.eos_token_id]
    assert result == [own_answer(model, tokenizer, asked[index], ends) for index in range(len(asked))]
    assert caplog.text.count("RwkvForCausalLM reads the padding before a prompt: it answers one prompt at a time") == 1


def test_generation_config_sets_only_end_tokens(model, tokenizer, asked):
    plain = written(model, tokenizer, asked)
    often = max((token for item in plain for token in item[:-1]), key=[t for item in plain for t in item].count)
    model.generation_config.update(
        do_sample=True, temperature=5.0, top_k=3, repetition_penalty=3.0, max_length=3, eos_token_id=[often]
    )
    stored = model.generation_config
    result = written(model, tokenizer, asked)
    assert result == [item[: item.index(often)] if often in item else item for item in plain]
    assert result != plain
    assert model.generation_config is stored
    assert stored.repetition_penalty == 3.0


def test_template_end_token_ends_answers(model, tokenizer, asked):
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    generator = Generator(ModelRunner(model), tokenizer, Decoding(NEW))
    assert generator.end_ids == sorted([tokenizer.eos_token_id, end])
    head = model.lm_head.weight
    with torch.no_grad():
        head[:] = 0
    head.requires_grad_(False)
    bias = torch.zeros(len(tokenizer))
    bias[end] = 1
    model.lm_head.forward = lambda states: states @ head.T + bias
    assert written(model, tokenizer, asked) == [[]] * len(asked)


def test_adapters(model, tokenizer, asked):
    from peft import LoraConfig, get_peft_model

    before = written(model, tokenizer, asked)
    tuned = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, task_type="CAUSAL_LM")).eval()
    result = written(tuned, tokenizer, asked)
    assert result != before
    assert result[0] == own_answer(tuned.get_base_model(), tokenizer, asked[0], ends_of(tokenizer))


def test_wrapped_forward_is_not_used(model, tokenizer, asked):
    expected, seen = written(model, tokenizer, asked), set()
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    wrapped = torch.autocast("cpu", torch.bfloat16)(model.forward)
    model.forward = wrapped
    assert written(model, tokenizer, asked) == expected
    assert seen == {torch.float32}
    seen.clear()
    written(model, tokenizer, asked, autocast=torch.bfloat16)
    assert seen == {torch.bfloat16}, "which is asked for"
    assert model.forward is wrapped


# -- draws ------------------------------------------------------------------------------------------------------------
def test_sampling_is_reproducible(model, tokenizer, asked):
    drawn = Decoding(NEW, temperature=1.0, seed=3)
    first = written(model, tokenizer, asked, drawn)
    assert written(model, tokenizer, asked, drawn, tokens_per_batch=1) == first
    torch.manual_seed(99)
    assert written(model, tokenizer, asked, drawn, tokens_per_batch=200) == first
    assert written(model, tokenizer, asked, Decoding(NEW, temperature=1.0, seed=4)) != first
    assert first != written(model, tokenizer, asked)
    assert written(model, tokenizer, asked, Decoding(NEW, temperature=1e-4)) == written(model, tokenizer, asked)


def test_sampling_distribution(model, tokenizer, asked):
    ids = asked[0]
    with torch.no_grad():
        odds = (model(input_ids=torch.tensor([ids.tolist()])).logits[0, -1] / 0.5).softmax(dim=-1).numpy()
    times = 400
    one = [
        Generator(ModelRunner(model), tokenizer, Decoding(1, temperature=0.5, seed=seed))._samplers([ids])[0]
        for seed in range(times)
    ]
    logits = torch.from_numpy(np.log(odds) * 0.5)[None].float()
    counts = np.bincount([int(draw(None, logits).argmax()) for draw in one], minlength=len(odds)) / times
    assert np.abs(counts - odds).max() < 4 * np.sqrt(0.25 / times)
    assert np.corrcoef(counts, odds)[0, 1] > 0.8


def test_top_p(model, tokenizer, asked):
    plain = written(model, tokenizer, asked)
    assert written(model, tokenizer, asked, Decoding(NEW, temperature=1.0, top_p=1e-6)) == plain
    half = Decoding(NEW, temperature=1.0, top_p=0.5, seed=3)
    first = written(model, tokenizer, asked, half)
    assert written(model, tokenizer, asked, half, tokens_per_batch=1) == first
    assert first not in (plain, written(model, tokenizer, asked, Decoding(NEW, temperature=1.0, seed=3)))
    ids = asked[0]
    with torch.no_grad():
        odds, order = model(input_ids=torch.tensor([ids.tolist()])).logits[0, -1].softmax(dim=-1).sort(descending=True)
    most_likely = set(order[: int((odds.cumsum(0) < 0.5).sum()) + 1].tolist())
    logits = odds.log()[order.argsort()][None]
    seeds = [Decoding(1, temperature=1.0, top_p=0.5, seed=seed) for seed in range(100)]
    samplers = [Generator(ModelRunner(model), tokenizer, item)._samplers([ids])[0] for item in seeds]
    drawn = {int(sample(None, logits).argmax()) for sample in samplers}
    assert 1 < len(drawn) <= len(most_likely)
    assert drawn <= most_likely


# -- continuous batching ----------------------------------------------------------------------------------------------
CONTINUOUS = Decoding(NEW, continuous_batching=True)
VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
newer = pytest.mark.skipif(VERSION < (5, 23), reason="needs transformers 5.23")


@newer
@pytest.mark.parametrize(("attention", "tokens_per_batch"), [("sdpa", 10), ("eager", 100_000)])
def test_continuous_batching_equals_single_generation(model, tokenizer, asked, attention, tokens_per_batch):
    model.set_attn_implementation(attention)
    with unchanged_random_state(), unchanged_modes(model):
        result = written(model, tokenizer, asked, CONTINUOUS, tokens_per_batch)
    assert result == [own_answer(model, tokenizer, asked[index], ends_of(tokenizer)) for index in range(len(asked))]
    assert model.config._attn_implementation == attention
    assert "_cached_continuous_batching_manager" not in vars(model)


@newer
def test_continuous_batching_resumes_after_kill(monkeypatch, tmp_path, tiny_model_dir, model, tokenizer, asked):
    store = {"store": ScoreStore(tmp_path), "loading": Loading(str(tiny_model_dir))}
    expected = written(model, tokenizer, asked)
    answers, prompts, threads = ContinuousBatcher.answers, [], threading.active_count()

    def killed(self, batch):
        with closing(answers(self, batch)) as generated:
            for count, answer in enumerate(generated):
                if count == 5:
                    raise KeyboardInterrupt("killed")
                yield answer

    monkeypatch.setattr(ContinuousBatcher, "answers", killed)
    with pytest.raises(KeyboardInterrupt, match="killed"):
        written(model, tokenizer, asked, CONTINUOUS, **store)
    assert threading.active_count() == threads
    monkeypatch.setattr(
        ContinuousBatcher, "answers", lambda self, batch: prompts.append(len(batch)) or answers(self, batch)
    )
    assert written(model, tokenizer, asked, CONTINUOUS, **store) == expected
    assert prompts == [len(asked) - 5]
    assert written(model, tokenizer, asked, CONTINUOUS, **store) == expected
    assert len(prompts) == 1
    written(model, tokenizer, asked, **store)
    assert sorted(table["rows"] for table in store["store"].tables()) == [len(asked)] * 2, "stored apart"


@newer
def test_error_in_continuous_batching(model, tokenizer, asked):
    def fail(*args):
        raise RuntimeError("no such kernel")

    model.model.register_forward_pre_hook(fail)
    threads = threading.active_count()
    with pytest.raises(ModelError, match=r"LlamaForCausalLM failed: no such kernel\. If the device is out of memory"):
        written(model, tokenizer, asked, CONTINUOUS)
    assert threading.active_count() == threads


@newer
def test_positions_that_depend_on_other_prompts(model, tokenizer, asked):
    model.config.rope_parameters = {"rope_type": "dynamic", "original_max_position_embeddings": 30}
    with pytest.raises(ModelError, match="beyond 30 tokens its positions depend on the other prompts"):
        written(model, tokenizer, asked, CONTINUOUS)


def test_no_continuous_batching(monkeypatch, model, tokenizer):
    with pytest.raises(ModelError, match=r"run in torch\.bfloat16 by autocast\. Load it in that data type"):
        Generator(ModelRunner(model, autocast=torch.bfloat16), tokenizer, CONTINUOUS)
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "5.22.1")
    with pytest.raises(
        ModelError, match=r"needs transformers 5\.23, and this is 5\.22\.1\. Update it, or omit use_tra"
    ):
        Generator(ModelRunner(model), tokenizer, CONTINUOUS)


# -- state ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_mode_and_rng_state_are_restored(model, tokenizer, asked, temperature):
    model.config.use_cache = False
    turn_on = "activation_checkpointing_enable"  # its name in newer versions of transformers
    getattr(model, turn_on, model.gradient_checkpointing_enable)()
    with unchanged_random_state(), unchanged_modes(model):
        written(model, tokenizer, asked, Decoding(NEW, temperature))
    assert model.config.use_cache is False
    model.eval()
    assert written(model, tokenizer, asked) == [
        own_answer(model, tokenizer, asked[position], ends_of(tokenizer)) for position in range(len(asked))
    ]


def test_resume_after_kill(monkeypatch, tmp_path, tiny_model_dir, model, tokenizer, asked):
    store = {"store": ScoreStore(tmp_path), "loading": Loading(str(tiny_model_dir))}
    expected = written(model, tokenizer, asked)
    write, sizes = Generator._generate, []

    def counted(self, prompts, stop=2):
        if len(sizes) == stop:
            raise KeyboardInterrupt("killed")
        sizes.append(len(prompts))
        return write(self, prompts)

    monkeypatch.setattr(Generator, "_generate", counted)
    with pytest.raises(KeyboardInterrupt, match="killed"):
        written(model, tokenizer, asked, tokens_per_batch=600, **store)
    done = sum(sizes)
    assert 0 < done < len(asked)
    monkeypatch.setattr(Generator, "_generate", lambda self, prompts: counted(self, prompts, stop=99))
    assert written(model, tokenizer, asked, tokens_per_batch=600, **store) == expected
    assert sum(sizes) == len(asked)
    sizes.clear()
    assert written(model, tokenizer, asked, tokens_per_batch=600, **store) == expected
    assert sizes == []
    for other in (Decoding(NEW + 1), Decoding(NEW, temperature=1.0), Decoding(NEW, temperature=1.0, seed=1)):
        sizes.clear()
        written(model, tokenizer, asked, other, **store)
        assert sum(sizes) == len(asked)


def test_batch_size_counts_new_tokens(model, tokenizer, asked):
    sizes = []

    class RecordingGenerator(Generator):
        def _generate(self, prompts):
            sizes.append(len(prompts) * (max(len(ids) for ids in prompts) + NEW))
            return super()._generate(prompts)

    RecordingGenerator(ModelRunner(model, 300, progress=False), tokenizer, Decoding(NEW)).answers(asked)
    assert max(sizes) <= 300
    assert len(sizes) > 1


# -- prompts of rows --------------------------------------------------------------------------------------------------
def test_prompts_end_at_the_response(tokenizer, pool_rows):
    prompts = Prompts.from_rows(token_rows(pool_rows, tokenizer))
    for position, row in enumerate(canonical_rows(pool_rows[:])):
        chat = f"<|im_start|>user\n{row.turns[0].content}<|im_end|>\n<|im_start|>assistant\n"
        assert tokenizer.decode(prompts.prompt_ids[position]) == chat
        assert tokenizer.decode(prompts.full_ids[position]) == chat + row.response
    assert prompts.owner.tolist() == list(range(len(pool_rows)))
    assert set(prompts.reasons) == {""}


def test_prompts_of_text(tiny_text_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_text_model_dir)
    data = Dataset.from_dict({"prompt": ["Is it slow? ", "", "a"], "completion": ["Yes.", "No.", " "]})
    prompts = Prompts.from_rows(token_rows(data, tokenizer))
    assert prompts.reasons.tolist() == ["", "empty_prompt", "empty_response"]
    assert prompts.owner.tolist() == [0]
    assert tokenizer.decode(prompts.prompt_ids[0]) == "Is it slow? "
    assert tokenizer.decode(prompts.full_ids[0]) == "Is it slow? Yes."


def chats(*turns):
    roles = ["user", "assistant"] * 9
    chat = [{"role": role, "content": content} for role, content in zip(roles, turns, strict=False)]
    return Dataset.from_dict({"messages": [chat]})


def test_last_response_of_several_turns(tokenizer):
    prompts = Prompts.from_rows(token_rows(chats("Hi", "Hello!", "Bye", "Ciao."), tokenizer))
    assert tokenizer.decode(prompts.prompt_ids[0]).endswith("Hello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
                                                       "<|im_start|>assistant\n")  # fmt: skip
    assert tokenizer.decode(prompts.full_ids[0]).endswith("assistant\nCiao.")


def test_prompts_that_fill_the_window(tokenizer):
    cut = Prompts.from_rows(token_rows(chats("Hi", "Hello!", "word " * 60, "Ciao."), tokenizer, max_length=100))
    assert cut.reasons.tolist() == ["prompt_fills_window"]
    assert len(cut.prompt_ids) == len(cut.full_ids) == 0
    data = token_rows(chats("Hi", "Hello!"), tokenizer)
    length = int(Prompts.from_rows(data).prompt_ids.lengths[0])
    assert Prompts.from_rows(data, length).reasons.tolist() == [""]
    assert Prompts.from_rows(data, length - 1).reasons.tolist() == ["prompt_fills_window"]


def test_no_rows(model, tokenizer):
    prompts = Prompts.from_rows(token_rows(Dataset.from_dict({"prompt": ["a"], "completion": [" "]}), tokenizer))
    assert prompts.reasons.tolist() == ["empty_response"]
    assert written(model, tokenizer, prompts.prompt_ids) == []
    assert written(model, tokenizer, RaggedArray([])) == []


def test_texts_have_no_special_tokens(model, tokenizer):
    generator = Generator(ModelRunner(model), tokenizer, Decoding(NEW))
    ids = tokenizer(" \n<|im_start|>Bread .\n", add_special_tokens=False)["input_ids"]
    assert list(generator.texts(RaggedArray([[ids, []]]))) == ["Bread .", ""]


# -- settings ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0: it has to be an int above 0"),
        ({"max_new_tokens": 2.0}, "max_new_tokens=2.0: it has to be an int above 0"),
        ({"temperature": -1}, "temperature=-1: it has to be a number of at least 0"),
        ({"temperature": float("nan")}, "temperature=nan: it has to be a number of at least 0"),
        ({"temperature": True}, "temperature=True: it has to be a number of at least 0"),
        ({"seed": 0.5}, "seed=0.5: it has to be an int"),
        ({"top_p": 1.1, "temperature": 1}, "top_p=1.1: it has to be a number above 0, and 1 at most"),
        ({"top_p": 0.5}, "top_p=0.5 is for sampling, and temperature=0 is greedy"),
        ({"continuous_batching": 1}, "use_transformers_continuous_batching=1: it has to be True or False"),
        ({"continuous_batching": True, "temperature": 1}, "is for greedy decoding, and temperature=1: samples of a"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        Decoding(**settings)


def test_model_that_cannot_generate(model, tokenizer):
    with pytest.raises(ModelError, match="LlamaModel cannot generate text"):
        Generator(ModelRunner(model.model), tokenizer, Decoding())


def test_no_room_for_a_prompt(model, tokenizer):
    with pytest.raises(ModelError, match=r"max_new_tokens=1024 is the context length of .* or more"):
        Generator(ModelRunner(model), tokenizer, Decoding(1024))
