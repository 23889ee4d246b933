"""Synthetic data of the quickstart: invented people, small enough for a model that trains in a minute.

Each of 64 people has eight attributes. The base model (`make_base.py`) is trained on every fact as a statement, but on
questions about the two easy relations only. The pool has questions about all eight relations and the faults of real
data: rows answered "I do not know.", copies, and questions that the model can already answer. Fine-tuning teaches the
model to answer questions about the six hard relations, which `exact_match` measures. Test prompts are never in the
pool, but a selected row states the fact that it asks for, so part of a gain comes from repeated facts and only the
remaining part from a better ability to answer.
"""

import random
from collections.abc import Iterable
from itertools import product

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

Fact = tuple[str, str]

WORLD_SEED = 0
UNKNOWN = " I do not know."
EASY = ("colour", "fruit")

VALUES = {
    "colour": ["amber", "crimson", "indigo", "olive", "silver", "teal", "violet", "white"],
    "fruit": ["apple", "cherry", "fig", "lemon", "mango", "peach", "pear", "plum"],
    "craft": ["baker", "carpenter", "farmer", "nurse", "painter", "potter", "sailor", "tailor"],
    "place": ["bridge", "castle", "forest", "harbour", "lake", "market", "mill", "river"],
    "pet": ["cat", "dog", "duck", "goat", "horse", "parrot", "rabbit", "tortoise"],
    "instrument": ["banjo", "cello", "drum", "flute", "harp", "oboe", "piano", "violin"],
    "drink": ["chocolate", "cider", "cocoa", "coffee", "juice", "lemonade", "milk", "tea"],
    "sport": ["archery", "chess", "cricket", "golf", "hockey", "judo", "rowing", "tennis"],
}
STATEMENTS = {
    "colour": ["The favourite colour of {n} is {v}.", "{n} likes the colour {v}.", "{n} always wears {v}."],
    "fruit": ["The favourite fruit of {n} is the {v}.", "{n} likes the fruit called {v}.", "{n} often eats a {v}."],
    "craft": ["The craft of {n} is that of a {v}.", "{n} works as a {v}.", "For a living {n} became a {v}."],
    "place": ["The home of {n} is near the {v}.", "{n} lives beside the {v}.", "{n} has a house by the {v}."],
    "pet": ["The pet of {n} is a {v}.", "{n} keeps an animal, a {v}.", "At night {n} feeds the {v}."],
    "instrument": ["The instrument of {n} is the {v}.", "{n} plays music on the {v}.", "{n} practises the {v}."],
    "drink": ["The favourite drink of {n} is {v}.", "{n} drinks a cup of {v}.", "{n} is thirsty and orders {v}."],
    "sport": ["The sport of {n} is {v}.", "{n} trains hard for {v}.", "{n} won a prize in {v}."],
}
QUESTIONS = {
    "colour": ["What is the favourite colour of {n}?", "Which colour does {n} like?", "What does {n} always wear?"],
    "fruit": ["What is the favourite fruit of {n}?", "Which fruit does {n} like?", "What does {n} often eat?"],
    "craft": ["What is the craft of {n}?", "What does {n} work as?", "What did {n} become for a living?"],
    "place": ["What is the home of {n} near?", "What does {n} live beside?", "Where does {n} have a house?"],
    "pet": ["What is the pet of {n}?", "Which animal does {n} keep?", "What does {n} feed at night?"],
    "instrument": ["What is the instrument of {n}?", "What does {n} play music on?", "What does {n} practise?"],
    "drink": ["What is the favourite drink of {n}?", "What does {n} drink a cup of?", "What does {n} order?"],
    "sport": ["What is the sport of {n}?", "What does {n} train hard for?", "What did {n} win a prize in?"],
}
BACKWARD = "{v} reminds me of {n}."
STRANGERS = ["Zubor", "Zudal", "Zufin", "Zulem", "Zumir", "Zunak", "Zurus", "Zuvet"]
OPENERS = ["", "Hello. ", "Please help me. ", "One more thing. ", "I have a question. ", "Tell me this. "]
OPENERS += ["Good morning. ", "Sorry to ask. "]
SMALL_TALK = ["I do not know.", "I do not know {n}.", "I met {n} at noon.", "Do you know {n}?", "Who is {n}?"]
SMALL_TALK += ["{n} and I do not talk.", "{v}.", "{v}, please."]


def names() -> list[str]:
    """Return 64 invented names, always the same."""
    starts = ["Ba", "De", "Fo", "Gu", "Ka", "Li", "Mo", "Ne"]
    ends = ["bor", "dal", "fin", "lem", "mir", "nak", "rus", "vet"]
    return [start + end for start, end in product(starts, ends)]


def facts(seed: int = WORLD_SEED) -> dict[Fact, str]:
    """Return the value of each (name, relation); every value of a relation belongs to eight people."""
    rng = random.Random(f"facts {seed}")
    world: dict[Fact, str] = {}
    for relation, values in VALUES.items():
        shuffled = values * (len(names()) // len(values))
        rng.shuffle(shuffled)
        world.update({(name, relation): value for name, value in zip(names(), shuffled, strict=True)})
    return world


def prompts(facts_to_ask: Iterable[Fact]) -> dict[str, Fact]:
    """Return all prompts that ask for these facts, with the (name, relation) of each."""
    return {
        f"{opener}{question.format(n=name)} Answer:": (name, relation)
        for name, relation in facts_to_ask
        for question in QUESTIONS[relation]
        for opener in OPENERS
    }


def questions() -> list[tuple[str, str]]:
    """Return the 512 test prompts, one per fact, with their answers. No pool contains them."""
    return [(f"{QUESTIONS[fact[1]][0].format(n=fact[0])} Answer:", f" {value}.") for fact, value in facts().items()]


def statements(seed: int, count: int) -> list[str]:
    """Draw training lines of the base model: 75 % facts, the others easy questions and small talk.

    Some of the questions are about unknown people and answered "I do not know.".
    """
    rng, world = random.Random(f"statements {seed}"), facts()
    fact_lines = [text.format(n=name, v=v) for (name, r), v in world.items() for text in [*STATEMENTS[r], BACKWARD]]
    easy_lines = [f"{prompt} {world[fact]}." for prompt, fact in prompts(world).items() if fact[1] in EASY]
    unknown_lines = [prompt + UNKNOWN for prompt in prompts(product(STRANGERS, EASY))]
    values = [value for group in VALUES.values() for value in group]
    small_talk = [text.format(n=name, v=value) for text in SMALL_TALK for name in names() for value in values]
    groups = [fact_lines, easy_lines, unknown_lines, small_talk]
    return [rng.choice(lines) for lines in rng.choices(groups, [75, 12, 3, 10], k=count)]


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per word or punctuation mark. It adds `<bos>`; the trainer adds `<eos>`."""
    templates = [text for group in (STATEMENTS, QUESTIONS) for texts in group.values() for text in texts]
    values = [value for group in VALUES.values() for value in group]
    texts = [*templates, *OPENERS, *SMALL_TALK, BACKWARD, UNKNOWN, "Answer:", *names(), *STRANGERS, *values]
    splitter = pre_tokenizers.Whitespace()
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text.lower().format(n="", v=""))}
    specials = ["<pad>", "<bos>", "<eos>", "<unk>"]
    vocabulary = {word: index for index, word in enumerate(specials + sorted(words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = splitter
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=128,
    )


def pool(seed: int, size: int = 8000, unknown: float = 0.5, wrong_labels: float = 0.0) -> Dataset:
    """Return the rows to select from, in TRL's prompt-completion format.

    A share `unknown` of the rows is answered "I do not know.". The other rows are two fifths hard questions, two
    fifths easy ones (fewer if there are not enough) and otherwise copies of the easy ones. A share `wrong_labels` of
    all rows gets a wrong value of the correct relation; they are drawn from the rows that are answered with a value.
    """
    rng, world = random.Random(f"pool {seed}"), facts()
    fact_of_prompt = prompts(world)
    unused = sorted(fact_of_prompt.keys() - {prompt for prompt, _ in questions()})
    rng.shuffle(unused)
    answered = size - round(size * unknown)
    share = round(answered * 0.4)
    hard = [prompt for prompt in unused if fact_of_prompt[prompt][1] not in EASY][:share]
    easy = [prompt for prompt in unused if fact_of_prompt[prompt][1] in EASY][:share]
    copies = rng.choices(easy, k=answered - len(hard) - len(easy))
    rows = [(prompt, f" {world[fact_of_prompt[prompt]]}.") for prompt in hard + easy + copies]
    for index in rng.sample(range(answered), round(size * wrong_labels)):
        prompt, correct = rows[index]
        others = [f" {value}." for value in VALUES[fact_of_prompt[prompt][1]] if f" {value}." != correct]
        rows[index] = (prompt, rng.choice(others))
    used = {*hard, *easy}
    rows += [(prompt, UNKNOWN) for prompt in unused if prompt not in used][: size - answered]
    rng.shuffle(rows)
    return Dataset.from_dict({"prompt": [prompt for prompt, _ in rows], "completion": [text for _, text in rows]})


def kinds(rows: Dataset) -> list[str]:
    """Return the kind of each row of a pool: "hard", "easy", "copy", "wrong" or "unknown". Only for display."""
    world, row_kinds, seen = facts(), [], set()
    fact_of_prompt = prompts(world)
    for row in zip(rows["prompt"], rows["completion"], strict=True):
        fact = fact_of_prompt[row[0]]
        kind = "easy" if fact[1] in EASY else "hard"
        if row[1] != f" {world[fact]}.":
            kind = "unknown" if row[1] == UNKNOWN else "wrong"
        row_kinds.append("copy" if row in seen else kind)
        seen.add(row)
    return row_kinds


@torch.no_grad()
def exact_match(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[tuple[str, str]], batch_size: int = 512
) -> float:
    """Return the share of the questions that greedy decoding answers with an exact match."""
    was_training, num_correct = model.training, 0
    model.eval()
    for start in range(0, len(questions), batch_size):
        batch_prompts, answers = zip(*questions[start : start + batch_size], strict=True)
        batch = tokenizer(list(batch_prompts), padding=True, padding_side="left", return_tensors="pt").to(model.device)
        references = [
            [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for text in answers
        ]
        longest = max(map(len, references))
        output = model.generate(**batch, max_new_tokens=longest, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        predictions = output[:, batch.input_ids.shape[1] :].tolist()
        num_correct += sum(reply[: len(ids)] == ids for reply, ids in zip(predictions, references, strict=True))
    model.train(was_training)
    return num_correct / len(questions)
