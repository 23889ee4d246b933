"""Where the responses are, what stands before them in the prior, and the published prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trl
from datasets import Dataset
from transformers import AutoTokenizer

from hf_datasel.errors import ModelError, ScoreError
from hf_datasel.formats import Pool, convert_pool
from hf_datasel.tokens import PreparedDataset, TokenRows, TokenSettings, prepare_dataset
from hf_datasel.tokens.prior import prior_prefix

END = "<|im_end|>\n"


def chat(*contents, system=None):
    """User and assistant in turn, after a system turn."""
    first = [{"role": "system", "content": system}] if system else []
    return first + [
        {"role": "assistant" if index % 2 else "user", "content": content} for index, content in enumerate(contents)
    ]


@pytest.fixture
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


@pytest.fixture
def text_tokenizer(tiny_text_model_dir):
    return AutoTokenizer.from_pretrained(tiny_text_model_dir)


def with_spans(columns, tokenizer, end_token=True, **settings):
    """Rows as text: what each marked stretch decodes to."""
    pool, cut = Pool(Dataset.from_dict(columns)), TokenSettings(**settings)
    rows = prepare_dataset(convert_pool(pool, tokenizer.chat_template is not None), tokenizer, cut)
    data = PreparedDataset(rows, tokenizer, cut).with_spans(end_token)
    return [
        [tokenizer.decode(row["input_ids"][start:stop]) for start, stop in np.reshape(row["spans"], (-1, 2))]
        for row in data
    ]


def reasons_of(columns, tokenizer, **settings):
    rows = TokenRows(Pool(Dataset.from_dict(columns)), tokenizer, TokenSettings(**settings))
    return rows.training().reasons.tolist()


def test_messages_spans(tokenizer):
    rows = [
        chat("Hi", "Hello!", "Two lamps?", "A pair.", "Bye", "Bye bye."),
        chat("assistant", "assistant", system="assistant"),
        chat("Is it slow?", " Yes.\n\nVery. "),
    ]
    assert with_spans({"messages": rows}, tokenizer) == [
        [f"Hello!{END}", f"A pair.{END}", f"Bye bye.{END}"],
        [f"assistant{END}"],
        [f" Yes.\n\nVery. {END}"],
    ]


@pytest.mark.parametrize("more", [{}, {"completion_only_loss": False}])
def test_prompt_completion_spans(tokenizer, more):
    rows = chat("Hi", "Hello!", "Two lamps?", "A pair.")
    assert with_spans({"prompt": [rows[:3]], "completion": [rows[3:]]}, tokenizer, **more) == [[f"A pair.{END}"]]
    several = with_spans({"prompt": [rows[:1]], "completion": [rows[1:]]}, tokenizer, **more)
    assert several == [[f"Hello!{END}", f"A pair.{END}"]]


@pytest.mark.parametrize("more", [{}, {"completion_only_loss": False}])
def test_text_spans(text_tokenizer, more):
    columns = {"prompt": ["Hi?\n", "Name a fruit.\n"], "completion": ["Hello.", "A quince."]}
    assert with_spans(columns, text_tokenizer, **more) == [["Hello.</s>"], ["A quince.</s>"]]
    assert with_spans(columns, text_tokenizer, end_token=False, **more) == [["Hello."], ["A quince."]]


def test_spans_without_end_tokens(tokenizer):
    rows = chat("Hi", "Hello!", "Two lamps?", "A pair.")
    assert with_spans({"messages": [rows]}, tokenizer, end_token=False) == [["Hello!", "A pair."]]


def lengths(row, tokenizer):
    """Tokens of a conversation after each of its turns."""
    return [
        len(tokenizer.apply_chat_template(row[: index + 1], return_dict=True)["input_ids"])
        for index in range(len(row))
    ]


def test_spans_after_truncation(tokenizer):
    row = chat("Hi", "Hello!", "Two lamps?", "A pair of lamps.")
    _, first_answer, second_question, full = lengths(row, tokenizer)
    [[first, second]] = with_spans({"messages": [row]}, tokenizer, max_length=full - 5)
    assert first == f"Hello!{END}"
    assert second
    assert "A pair of lamps.".startswith(second)
    for max_length in (first_answer, second_question):
        assert with_spans({"messages": [row]}, tokenizer, max_length=max_length) == [[f"Hello!{END}"]]


def test_spans_after_left_truncation(tokenizer):
    row = chat("A long question", "Hello!", "Two lamps?", "A pair of lamps.")
    _, first_answer, _, full = lengths(row, tokenizer)
    cut = {"truncation_mode": "keep_end"}
    [[first, second]] = with_spans({"messages": [row]}, tokenizer, max_length=full - first_answer + 3, **cut)
    assert first == f"!{END}"
    assert second == f"A pair of lamps.{END}"
    [[last]] = with_spans({"messages": [row]}, tokenizer, max_length=4, **cut)
    assert f"A pair of lamps.{END}".endswith(last)


def test_truncated_response_has_reason(tokenizer):
    columns = {"messages": [chat("Is it slow? " * 10, "Yes."), chat("Hi", "Hello!")]}
    assert with_spans(columns, tokenizer, max_length=48) == [[], [f"Hello!{END}"]]
    assert reasons_of(columns, tokenizer, max_length=48) == ["prompt_fills_window", ""]


def test_tool_turns_are_not_responses(tokenizer):
    row = [
        {"role": "user", "content": "Time?"},
        {"role": "assistant", "content": "now()"},
        {"role": "tool", "content": "12:04"},
        {"role": "assistant", "content": "Four past noon."},
    ]
    assert with_spans({"messages": [row]}, tokenizer) == [[f"now(){END}", f"Four past noon.{END}"]]


RENDERED = "<|im_start|>{{ message['role'] }}\n{{ text }}<|im_end|>\n{% endfor %}"
GENERATE = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
FORGETS_THOUGHTS = (  # as reasoning models do: thoughts of earlier turns are dropped
    "{% for message in messages %}{% set text = message['content'] %}"
    "{% if '</think>' in text and not loop.last %}{% set text = text.split('</think>')[-1] %}{% endif %}"
    + RENDERED
    + GENERATE
)
MARKS_LAST_QUESTION = (  # something is said in a user turn only while it is the last one
    "{% for message in messages %}{% set text = message['content'] %}"
    "{% if loop.last and message['role'] == 'user' %}{% set text = text + ' Answer now.' %}{% endif %}"
    + RENDERED
    + GENERATE
)
SYSTEM_IN_LAST_QUESTION = (  # as Mistral's does: the system text moves to the last user turn
    "{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% set users = messages | selectattr('role', 'equalto', 'user') | list %}"
    "{% for message in messages if message['role'] != 'system' %}{% set text = message['content'] %}"
    "{% if message['role'] == 'user' and message['content'] == users[-1]['content'] %}"
    "{% set text = system + text %}{% endif %}" + RENDERED + GENERATE
)


def test_template_dropping_earlier_thoughts(tokenizer):
    tokenizer.chat_template = FORGETS_THOUGHTS
    columns = {
        "messages": [
            chat("Hi", "<think>Well</think>Hello!", "Two lamps?", "A pair."),
            chat("Hi", "<think>Well</think>Hello!"),
            chat("Hi", "Hello!", "Two lamps?", "<think>Well</think>A pair."),
        ]
    }
    assert with_spans(columns, tokenizer) == [
        [f"Hello!{END}", f"A pair.{END}"],
        [f"<think>Well</think>Hello!{END}"],
        [f"Hello!{END}", f"<think>Well</think>A pair.{END}"],
    ]
    assert reasons_of(columns, tokenizer) == ["", "", ""]


def families():
    """Chat templates of published models, as TRL ships them, that render plain conversations."""
    folder = Path(trl.__file__).parent / "chat_templates"
    exclusions = ("training", "vl", "idefics", "llava", "diffusion")
    return sorted(path.name for path in folder.glob("*.jinja") if not any(part in path.name for part in exclusions))


@pytest.mark.parametrize("name", families())
def test_published_templates(tokenizer, name):
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / name).read_text()
    tokenizer.add_tokens(["<|end|>", "<|return|>"], special_tokens=True)
    row = chat("Is the kettle hot?", "Yes, very.", "And the pan?", "The pan is cold.", "Thanks", "Welcome, friend.")
    [stretches] = with_spans({"messages": [row]}, tokenizer, max_length=None)
    assert len(stretches) == 3
    for answer, stretch in zip(("Yes, very.", "The pan is cold.", "Welcome, friend."), stretches, strict=True):
        assert answer in stretch
        assert not any(question in stretch for question in ("kettle hot", "And the pan", "Thanks"))


@pytest.mark.parametrize("template", [MARKS_LAST_QUESTION, SYSTEM_IN_LAST_QUESTION])
def test_template_changing_earlier_questions(tokenizer, template):
    tokenizer.chat_template = template
    rows = [
        chat("Hi", "Hello!", "Two lamps?", "A pair.", system="Be brief."),
        chat("Hi", "Hello!", system="Be brief."),
    ]
    for row, spans in zip(rows, with_spans({"messages": rows}, tokenizer), strict=True):
        answers = [turn["content"] + END for turn in row if turn["role"] == "assistant"]
        assert spans in ([], answers)


def test_template_moving_system_text(tokenizer):
    tokenizer.chat_template = SYSTEM_IN_LAST_QUESTION
    rows = [chat("Hi", "Hello!", system="Be brief.")]
    assert with_spans({"messages": rows}, tokenizer) == [[f"Hello!{END}"]]


def test_prior_per_turn(tokenizer):
    row = chat("Hi", "Hello!", "Two lamps?", "A pair.")
    tokens = TokenRows(Pool(Dataset.from_dict({"messages": [row]})), tokenizer).training()
    assert (len(tokens.conditional), len(tokens.prior)) == (1, 2)
    assert tokens.prior.owner.tolist() == [0, 0]
    priors = tokens.prior.fetch(np.array([0, 1]))
    before = "<s><|im_start|>assistant\n"
    assert [tokenizer.decode(sequence.ids) for sequence in priors] == [f"{before}Hello!{END}", f"{before}A pair.{END}"]
    assert [tokenizer.decode(sequence.ids[sequence.scored]) for sequence in priors] == [
        f"Hello!{END}",
        f"A pair.{END}",
    ]
    [full] = tokens.conditional.fetch(np.array([0]))
    scored = np.concatenate([sequence.ids[sequence.scored] for sequence in priors])
    assert full.ids[full.scored].tolist() == scored.tolist()


@pytest.mark.parametrize("context", ["generation-prompt", "bos", "none"])
@pytest.mark.parametrize("end_token", [True, False])
@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
def test_conditional_and_prior_score_same_tokens(tokenizer, context, end_token, mode):
    rows = [chat("Hi", "Hello!", "Two lamps?", "A pair of lamps."), chat("Name a fruit that is red.", "A cherry.")]
    settings = TokenSettings(max_length=46, truncation_mode=mode)
    tokens = TokenRows(Pool(Dataset.from_dict({"messages": rows})), tokenizer, settings).training(context, end_token)
    for row in range(2):
        terms = []
        for term in (tokens.conditional, tokens.prior):
            sequences = term.fetch(np.flatnonzero(term.owner == row))
            terms.append(np.concatenate([sequence.ids[sequence.scored] for sequence in sequences]).tolist())
        assert terms[0] == terms[1] != []


def test_indices(tokenizer, pool_rows):
    pool = Pool(pool_rows)
    rows = TokenRows(pool, tokenizer, indices=np.array([5, 2]))
    everything = TokenRows(pool, tokenizer)
    prepared = PreparedDataset(everything.prepared, tokenizer, TokenSettings())
    with_prepared = TokenRows(pool, tokenizer, prepared=prepared, indices=np.array([5, 2]))
    expected = [everything.training().conditional.fetch(np.array([index]))[0].ids.tolist() for index in (5, 2)]
    for token_rows in (rows, with_prepared):
        conditional = token_rows.training().conditional
        fetched = conditional.fetch(np.argsort(conditional.owner))
        assert [sequence.ids.tolist() for sequence in fetched] == expected
        assert token_rows.training().reasons.tolist() == ["", ""]


def test_unusable_rows_have_reasons(tokenizer):
    columns = {"prompt": ["a", "b"], "completion": ["", None]}
    assert reasons_of(columns, tokenizer) == ["empty_response", "empty_response"]
    columns = {"prompt": ["a long question " * 9, "b"], "completion": ["c", None]}
    assert reasons_of(columns, tokenizer, max_length=8) == ["prompt_fills_window", "empty_response"]


# -- what stands before the response in the prior ---------------------------------------------------------------------
def test_prior_prefix(tokenizer):
    prompt = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    assert prior_prefix(tokenizer, True, "generation-prompt").tolist() == [tokenizer.bos_token_id, *prompt]
    assert prior_prefix(tokenizer, False, "generation-prompt").tolist() == [tokenizer.bos_token_id]
    assert prior_prefix(tokenizer, True, "bos").tolist() == [tokenizer.bos_token_id]
    assert prior_prefix(tokenizer, True, "none").tolist() == []


def test_prior_prefix_without_bos(tokenizer):
    tokenizer.bos_token = None
    assert prior_prefix(tokenizer, True, "bos").tolist() == [tokenizer.eos_token_id]
    tokenizer.eos_token = None
    with pytest.raises(ScoreError, match=r"neither a BOS nor an EOS.*prior_context='none'"):
        prior_prefix(tokenizer, True, "bos")


def test_prior_prefix_without_fixed_generation_prompt(tokenizer):
    tokenizer.chat_template = "{{ 'ask' if add_generation_prompt else 'train' }}" + tokenizer.chat_template
    with pytest.raises(ScoreError, match=r"renders a question differently.*prior_context='bos'"):
        prior_prefix(tokenizer, True, "generation-prompt")


# -- published prompts ------------------------------------------------------------------------------------------------
def preset(tokenizer, convention, max_length=512, **columns):
    return TokenRows(Pool(Dataset.from_dict(columns)), tokenizer).preset(convention, max_length)


def texts(tokenizer, sequences):
    """(what stands before the scored tokens, the scored tokens) of the first row."""
    [part] = sequences.fetch(np.array([0]))
    return tokenizer.decode(part.ids[: part.scored[0]]), tokenizer.decode(part.ids[part.scored])


ROW = {"instruction": ["Add."], "input": ["4 and 9"], "output": ["13 it is"]}


def test_superfiltering_prompts(tokenizer):
    tokens = preset(tokenizer, "superfiltering", **ROW)
    assert texts(tokenizer, tokens.conditional) == ("<s>Add.\n4 and 9\n", "13 it is")
    assert texts(tokenizer, tokens.prior) == ("<s>", "13 it is")


def test_superfiltering_without_bos(text_tokenizer):
    tokens = preset(text_tokenizer, "superfiltering", instruction=["a", "a"], output=["b", "A cherry is red."])
    assert tokens.reasons.tolist() == ["no_response_token", ""]
    before, scored = texts(text_tokenizer, tokens.prior)
    assert before + scored == "A cherry is red."
    assert len(text_tokenizer(before)["input_ids"]) == 1


def test_cherry_prompts(tokenizer):
    tokens = preset(tokenizer, "cherry", **ROW)
    before, scored = texts(tokenizer, tokens.conditional)
    assert before.startswith("<s>Below is an instruction that describes a task, paired with an input")
    assert before.endswith("### Instruction:\nAdd.\n\n### Input:\n4 and 9\n\n### Response:")
    assert scored == "13 it is"
    assert texts(tokenizer, tokens.prior) == ("<s>### Response:", "13 it is")


def test_iterit_prompts(tokenizer):
    tokens = preset(tokenizer, "iterit", **ROW)
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    user = "<|im_start|>user\nAdd.\nInput: 4 and 9<|im_end|>\n"
    assert texts(tokenizer, tokens.conditional) == (f"{system}{user}<|im_start|>assistant\n", f"13 it is{END}")
    empty = "<|im_start|>system\n<|im_end|>\n<|im_start|>assistant\n"
    assert texts(tokenizer, tokens.prior) == (empty, f"13 it is{END}")


@pytest.mark.parametrize("convention", ["iterit", "superfiltering", "cherry"])
def test_presets_require_single_turn(tokenizer, convention):
    rows = [chat("Hi", "Hello!", "Two lamps?", "A pair."), chat("Hi", "Hello!"), chat("Hi", "")]
    tokens = preset(tokenizer, convention, messages=rows)
    assert tokens.reasons.tolist() == ["not_single_turn", "", "empty_response"]
    assert tokens.conditional.owner.tolist() == [1]


@pytest.mark.parametrize("convention", ["iterit", "superfiltering", "cherry"])
def test_prompt_fills_window(tokenizer, convention):
    tokens = preset(tokenizer, convention, 200, instruction=["a long question " * 90, "Hi"], output=["b", "Hello!"])
    assert tokens.reasons.tolist() == ["prompt_fills_window", ""]


def test_iterit_requires_chat_template(text_tokenizer):
    with pytest.raises(ModelError, match=r"convention='iterit' renders rows with a chat template.*has none"):
        preset(text_tokenizer, "iterit", **ROW)


def test_iterit_requires_system_role(tokenizer):
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    )
    with pytest.raises(ModelError, match=r"cannot render the prompts of convention='iterit'.*no system role"):
        preset(tokenizer, "iterit", **ROW)
