"""Responses under all chat templates of TRL and others, for all shapes of conversations, against an oracle.

The oracle knows nothing of how the product finds responses. Where TRL has a training template that renders the same
text, it is the mask of `{% generation %}`. Elsewhere each message is rendered with other texts: what changes has to
lie within its turn, and outside of all other turns.
"""

from __future__ import annotations

import copy
import json
import re
from collections import defaultdict
from pathlib import Path

import pytest
import trl
from transformers import AddedToken

from hf_datasel.errors import ScoreError
from hf_datasel.formats.messages import with_text_arguments
from hf_datasel.tokens.prior import prior_prefix
from hf_datasel.tokens.tool_calls import call_rendering, conversion_options
from hf_datasel.tokens.turns import RENDERING_ERRORS, Conversation

FOLDER = Path(trl.__file__).parent / "chat_templates"

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML = (  # as many older models have it: the generation prompt is written inside the loop
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']}}"
    "{% if (loop.last and add_generation_prompt) or not loop.last %}{{ '<|im_end|>' + '\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
    "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}"
    "{{- bos_token }}{%- for message in loop_messages %}{%- if message['role'] == 'user' %}"
    "{%- if tools is not none and loop.last %}{{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}"
    "{%- endif %}{%- if loop.last and system_message is defined %}"
    "{{- '[INST] ' + system_message + '\n\n' + message['content'] + '[/INST]' }}{%- else %}"
    "{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}{%- elif message.tool_calls is defined %}"
    "{{- '[TOOL_CALLS] [' }}{%- for call in message.tool_calls %}"
    "{{- call.function | tojson }}{%- if not loop.last %}{{- ', ' }}{%- else %}{{- ']' + eos_token }}{%- endif %}"
    "{%- endfor %}{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content'] | trim + eos_token }}"
    "{%- elif message['role'] == 'tool' %}{{- '[TOOL_RESULTS] ' + message['content'] + '[/TOOL_RESULTS]' }}"
    "{%- else %}{{- raise_exception('Only user, assistant and tool roles are supported') }}{%- endif %}{%- endfor %}"
)
BY_POSITION = (  # a loop over positions, and a macro that writes a message
    "{% macro written(message) %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endmacro %}"
    "{% for index in range(messages | length) %}{% set message = messages[index] %}"
    "{% set before = messages[index - 1] %}{{ written(message) }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COPIES = (  # messages are copied before they are written
    "{% set chat = namespace(messages=[]) %}{% for message in messages %}"
    "{% set chat.messages = chat.messages + [{'role': message.role, 'text': message.content}] %}{% endfor %}"
    "{% for message in chat.messages %}<|im_start|>{{ message.role }}\n{{ message.text }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
EXCLUSIONS = ("_training", "_vl", "idefics", "llava", "smolvlm")
TEMPLATES = {
    path.stem: path.read_text()
    for path in sorted(FOLDER.glob("*.jinja"))
    if not any(part in path.stem for part in EXCLUSIONS)
} | {"smollm2": SMOLLM2, "chatml": CHATML, "mistral": MISTRAL, "by_position": BY_POSITION, "copies": COPIES}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tell the weather.",
            "parameters": {
                "type": "object",
                "properties": {"town": {"type": "string", "description": "A town."}},
                "required": ["town"],
            },
        },
    }
]


def user(text):
    return {"role": "user", "content": text}


def bot(text, thoughts=None, calls=()):
    message = {"role": "assistant", "content": text}
    if thoughts:
        message["reasoning_content"] = thoughts
    if calls:
        message["tool_calls"] = [
            {"type": "function", "id": "call00001", "function": {"name": name, "arguments": arguments}}
            for name, arguments in calls
        ]
    return message


def result(text, name="get_weather"):
    return {"role": "tool", "name": name, "tool_call_id": "call00001", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}
BERN, ROME = ("get_weather", {"town": "Bern"}), ("get_weather", {"town": "Rome"})
NOON = ("get_time", {"zone": "CET", "exact": True, "digits": [4, 2]})
SHAPES = {
    "one turn": [user("Is it wet?"), bot("Yes, wet.")],
    "turns": [user("Hi"), bot("Hello there."), user("Two lamps?"), bot("A pair."), user("Bye"), bot("Bye bye.")],
    "same turns": [user("Hi"), bot("Hi"), user("Hi"), bot("Hi")],
    "white space": [user("Hi"), bot(" Yes.\n\nVery. "), user("Oh"), bot("\nIndeed.\n")],
    "system": [SYSTEM, user("Is it wet?"), bot("Yes, wet."), user("And now?"), bot("Dry.")],
    "call": [user("Is Bern wet?"), bot("", calls=[BERN]), result("rain"), bot("It rains.")],
    "call, null": [user("Is Bern wet?"), bot(None, calls=[BERN]), result("rain"), bot("It rains.")],
    "call, text": [user("Is Bern wet?"), bot("I look.", calls=[BERN]), result("rain"), bot("It rains.")],
    "call last": [user("Is Bern wet?"), bot("", calls=[BERN])],
    "calls in parallel": [
        user("Bern or Rome?"), bot("", calls=[BERN, ROME]), result("rain"), result("sun"), bot("Rome."),
    ],
    "calls in turn": [
        user("Is Bern wet?"), bot("", calls=[BERN]), result("rain"), bot("", calls=[NOON]), result("noon", "get_time"),
        bot("Rain at noon."),
    ],
    "call, later user": [
        user("Is Bern wet?"), bot("", calls=[BERN]), result("rain"), bot("It rains."), user("Thanks"), bot("Welcome."),
    ],
    "thoughts": [user("Is it wet?"), bot("Yes, wet.", "It rained.")],
    "thoughts, later user": [user("Is it wet?"), bot("Wet.", "It rained."), user("And now?"), bot("Dry.", "The sun.")],
    "thoughts in text": [
        user("Is it wet?"), bot("<think>\nIt rained.\n</think>\n\nYes, wet."), user("And now?"),
        bot("<think>\nThe sun.\n</think>\n\nDry."),
    ],
    "thoughts, call": [
        user("Is Bern wet?"), bot("", "I look.", [BERN]), result("rain"), bot("It rains.", "So rain."),
    ],
    "thoughts, call, later user": [
        user("Is Bern wet?"), bot("", "I look.", [BERN]), result("rain"), bot("It rains.", "So rain."), user("Thanks"),
        bot("Welcome.", "Be kind."),
    ],
    "last turn by user": [user("Hi"), bot("Hello there."), user("Bye")],
    "greeting": [bot("Good day."), user("Hi"), bot("Hello there.")],
    "two in a row": [user("Hi"), bot("Hello there."), bot("How are you?"), user("Well"), bot("Good.")],
}  # fmt: skip
TEXT_ARGUMENTS = ("deepseekv3",)
"""Templates that need the arguments of calls as text."""
ROWS = {name: {"messages": messages} for name, messages in SHAPES.items()}
ROWS |= {
    f"{name}, tools": {"messages": SHAPES[name], "tools": TOOLS}
    for name in ("one turn", "call", "calls in turn", "thoughts, call, later user")
}
ROWS |= {
    f"{name}, no thinking": {"messages": SHAPES[name], "chat_template_kwargs": {"enable_thinking": False}}
    for name in ("one turn", "turns", "call, later user", "thoughts, later user")
}
ROWS |= {
    f"{name}, split": {"prompt": SHAPES[name][:size], "completion": SHAPES[name][size:]}
    for name, size in (("one turn", 1), ("turns", 3), ("call", 1), ("thoughts, call, later user", 2))
}


@pytest.fixture(scope="module")
def markers(tiny_model_dir):
    """A tokenizer whose special tokens are the markers of all templates."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    names = {name for text in TEMPLATES.values() for name in re.findall(r"<[|｜][^<>'\"{}\s]+>|<[a-z_]+[|｜]>", text)}
    names |= {"<start_of_turn>", "<end_of_turn>", "<think>", "</think>", "[INST]", "[/INST]", "[TOOL_CALLS]"}
    names |= {"<|assistant|>", "<|user|>", "<|end|>", "<tool_call>", "</tool_call>", "<|im_start|>", "<|im_end|>"}
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in sorted(names)])
    return tokenizer


def render(tokenizer, messages, **kwargs):
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **kwargs)
    except RENDERING_ERRORS:
        return None


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def shared(first, second):
    return next(
        (index for index, (one, other) in enumerate(zip(first, second, strict=False)) if one != other),
        min(len(first), len(second)),
    )


# -- the oracle -------------------------------------------------------------------------------------------------------
def mask_of_training_template(tokenizer, name, messages, **kwargs):
    """Mask of the assistant tokens by TRL's training template; None if it renders another text, or there is none."""
    path = FOLDER / f"{name}_training.jinja"
    own = "generation %}" in TEMPLATES[name] or "generation -%}" in TEMPLATES[name]
    if not path.is_file() and not own:
        return None
    template = TEMPLATES[name] if own else path.read_text()
    text = render(tokenizer, messages, **{**kwargs, "chat_template": template})
    if text is None or text != render(tokenizer, messages, **kwargs):
        return None
    return tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True, **{**kwargs, "chat_template": template}
    )["assistant_masks"]


def header_ids(tokenizer, messages, index, **kwargs):
    """Tokens of the generation prompt before a turn, with each prompt that ends like it."""
    before = messages[:index] or [user("Hello")]
    prompt = render(tokenizer, before, add_generation_prompt=True, **kwargs) or ""
    without = render(tokenizer, before, **kwargs) or ""
    ids, others = encode(tokenizer, prompt), encode(tokenizer, without)
    return ids[shared(ids, others) :]


def with_other_words(message):
    """The message with each letter and digit replaced, so that nothing of it is left, in the same shape."""

    def other(value):
        if isinstance(value, str):
            return re.sub(r"(?<![<\w/])[A-Za-z]+(?![\w>])", lambda match: "Q" * len(match[0]), value)
        if isinstance(value, bool):
            return not value
        if isinstance(value, list):
            return [other(item) for item in value]
        if isinstance(value, dict):
            return {key: other(item) for key, item in value.items()}
        return value + 1 if isinstance(value, int) else value

    def other_arguments(value):
        return json.dumps(other(json.loads(value))) if isinstance(value, str) else other(value)

    keys = ("content", "reasoning_content")
    changed = {key: other(value) if key in keys and value else value for key, value in message.items()}
    if "tool_calls" in message:  # not the name: results may repeat it
        changed["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": other_arguments(call["function"]["arguments"])}}
            for call in message["tool_calls"]
        ]
    return changed


def changed_tokens(tokenizer, messages, index, **kwargs):
    """First and last token of a turn that differ when its words do; None if nothing does."""
    ids = encode(tokenizer, render(tokenizer, messages, **kwargs))
    others = [*messages[:index], with_other_words(messages[index]), *messages[index + 1 :]]
    other = encode(tokenizer, render(tokenizer, others, **kwargs) or "")
    if ids == other or not other:
        return None
    start, after = shared(ids, other), shared(ids[::-1], other[::-1])
    return start, max(len(ids) - after, start)


# -- the walk ---------------------------------------------------------------------------------------------------------
def check(tokenizer, name, row):
    """Compare the spans of a row with the oracle, and return what was compared: a key of the table."""
    kwargs = {"tools": row.get("tools"), **row.get("chat_template_kwargs", {})}
    messages = row.get("messages") or row["prompt"] + row["completion"]
    text = render(tokenizer, messages, **kwargs)
    if text is None:
        return "error"
    conversation = Conversation(tokenizer, row, None)
    rendered = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **kwargs)
    assert conversation.ids == rendered["input_ids"]
    turns = conversation.turn_spans()
    if turns is None:
        return "not found"
    first = 0 if "messages" in row else len(row["prompt"])
    assert list(turns) == [index for index in range(first, len(messages)) if messages[index]["role"] == "assistant"]
    flat = [position for spans in turns.values() for span in spans for position in span]
    assert flat == sorted(flat), "turns overlap"
    mask = mask_of_training_template(tokenizer, name, messages, **kwargs) if first == 0 else None
    if mask is not None:
        compare_with_mask(tokenizer, messages, conversation.ids, turns, mask, **kwargs)
        return "mask"
    compare_with_renderings(tokenizer, messages, conversation.ids, turns, **kwargs)
    return "diff"


def compare_with_mask(tokenizer, messages, ids, turns, mask, **kwargs):
    """What a turn has beyond TRL's mask is a final token; what it lacks is (a part of) the generation prompt."""
    marked = {position for position, bit in enumerate(mask) if bit}
    ours = {position for spans in turns.values() for start, stop in spans for position in range(start, stop)}
    assert all(position >= len(ids) - 2 for position in ours - marked)  # after the last turn: EOS, a newline
    ends = {
        stop for spans in turns.values() for _, stop in spans if tokenizer.decode(ids[stop : stop + 1]) == "<|user|>"
    }
    for position in marked - ours - ends:  # GLM ends a turn with the header of the next. TRL trains on the others too
        index = next((index for index, spans in turns.items() if spans and spans[0][0] > position), None)
        assert index is not None, "the end of a turn is missing"
        missing = ids[position : turns[index][0][0]]
        given = encode(tokenizer, render(tokenizer, messages[:index], add_generation_prompt=True, **kwargs) or "")
        header = header_ids(tokenizer, messages, index, **kwargs)
        assert shared(given, ids) >= position + len(missing) or "".join(map(chr, missing)) in "".join(map(chr, header))


def compare_with_renderings(tokenizer, messages, ids, turns, **kwargs):
    """Each turn has all tokens that depend on its words, begins with its header's end, and has no others' words."""
    for index, spans in turns.items():
        changed = changed_tokens(tokenizer, messages, index, **kwargs)
        if changed is None:
            continue
        start, stop = changed
        assert spans, "a turn that is rendered has no span"
        assert spans[0][0] <= start, "the beginning of a turn is missing"
        assert spans[-1][1] >= stop, "the end of a turn is missing"
        header = header_ids(tokenizer, messages, index, **kwargs)
        before = ids[max(spans[0][0] - len(header), 0) : spans[0][0]]
        if not any(before[-size:] == header[:size] for size in range(1, len(header) + 1)):
            assert not header or messages[index - 1]["role"] in ("assistant", "tool")
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or index not in turns:
            other = changed_tokens(tokenizer, messages, index, **kwargs)
            if other is not None and message["role"] != "system":
                inside = [
                    span for spans in turns.values() for span in spans if span[0] < other[1] and other[0] < span[1]
                ]
                assert not inside, "a turn has words of another"


@pytest.mark.parametrize("name", TEMPLATES)
def test_responses_under_every_template(markers, name, record_property):
    markers.chat_template = TEMPLATES[name]
    options = conversion_options(markers)
    assert options == {"chat_template": True, "text_arguments": name in TEXT_ARGUMENTS}
    rows = ROWS
    if options["text_arguments"]:
        rows = {
            shape: {key: with_text_arguments(value) if key in CHATS else value for key, value in row.items()}
            for shape, row in ROWS.items()
        }
    table = {shape: check(markers, name, row) for shape, row in rows.items()}
    if name in TEXT_ARGUMENTS:
        assert "error" not in (table["call"], table["calls in parallel"], table["call, later user"])
    record_property("table", json.dumps(table))
    counts = defaultdict(list)
    for shape, how in table.items():
        counts[how].append(shape)
    assert len(counts["mask"]) + len(counts["diff"]) >= 5
    if name == "copies":  # earlier turns are rendered alike with and without later ones, so that prefixes show them
        counts["not found"] = [shape for shape in counts["not found"] if shape != "greeting"]
    assert not counts["not found"]


CHATS = ("messages", "prompt", "completion")
BOS = {"smollm2": "<|im_start|>", "chatml": "<|im_start|>"}
"""BOS of published models with these templates, where it is the first token of the generation prompt."""


@pytest.mark.parametrize("name", TEMPLATES)
def test_prior_begins_as_conversations_do(markers, name):
    markers.chat_template = TEMPLATES[name]
    tokenizer = copy.deepcopy(markers)
    for bos in {"<s>", BOS.get(name, "<s>")}:
        tokenizer.bos_token = bos
        try:
            prefix = prior_prefix(tokenizer, True, "generation-prompt").tolist()
        except (ScoreError, *RENDERING_ERRORS):
            continue
        assert prefix[:1] == [tokenizer.bos_token_id]
        assert len(prefix) < 2 or prefix[0] != prefix[1]
        prompt = header_ids(tokenizer, [user("Hello")], 1)
        assert prefix in (prompt, [tokenizer.bos_token_id, *prompt])


def test_tool_calls_that_are_not_rendered(markers):
    markers.chat_template = SMOLLM2
    row = {"messages": SHAPES["call, text"]}
    conversation = Conversation(markers, row, None)
    assert conversation.unrendered_calls(conversation.turn_spans()) == {1}
    markers.chat_template = TEMPLATES["qwen3"]
    conversation = Conversation(markers, row, None)
    assert conversation.unrendered_calls(conversation.turn_spans()) == set()


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_that_render_calls(markers, name):
    """What one call shows agrees with what the calls of whole conversations show."""
    markers.chat_template = TEMPLATES[name]
    found = set()
    for shape in ("call", "call, text", "call last", "calls in turn"):
        messages = with_text_arguments(SHAPES[shape]) if name in TEXT_ARGUMENTS else SHAPES[shape]
        if render(markers, messages, tools=TOOLS) is not None:
            conversation = Conversation(markers, {"messages": messages, "tools": TOOLS}, None)
            found |= {not conversation.unrendered_calls([1])}
    assert found <= {call_rendering(markers).renders_calls}
