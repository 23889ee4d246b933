"""Which part of a rendered conversation each message produced, found with markers in the chat template.

Chat templates loop over the messages. The template is parsed, a marker is added at the beginning of each pass through
such a loop and after the loop, and the conversation is rendered once more: the markers then delimit what each message
produced, whatever the template makes of it. TRL's training templates do the same by hand with `{% generation %}`.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jinja2 import Template
    from transformers import PreTrainedTokenizerBase

__all__ = ["Segment", "message_segments"]

_START, _END = "\ue0f0", "\ue0f1"  # private use characters; a text with them is not searched
_MARKER = re.compile(f"{_START}(\\d+),(-?\\d*){_END}")
_INPUTS = "{{ {'messages': messages, 'tools': tools, 'documents': documents} | tojson }}"
"""Template that renders what chat templates receive, after transformers dropped nulls and renamed keys."""


class Segment(NamedTuple):
    """A part of a rendered conversation, produced by one message."""

    message: int
    start: int
    stop: int


def message_segments(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], kwargs: dict[str, Any]
) -> tuple[str, list[Segment]]:
    """Render a conversation, and find the part of the text that each message produced.

    Args:
        tokenizer: Tokenizer with a chat template.
        messages: The conversation.
        kwargs: Keyword arguments of `apply_chat_template`.

    Returns:
        The text, to be compared with that of `apply_chat_template`: a template may behave differently with markers.
        And the segments in the order of the text; several of one message if the template renders another in between.
    """
    inputs = json.loads(
        tokenizer.apply_chat_template(messages, tokenize=False, **{**kwargs, "chat_template": _INPUTS})
    )
    source = tokenizer.get_chat_template(kwargs.get("chat_template"), kwargs.get("tools"))
    names = {name: value for name, value in kwargs.items() if name not in ("chat_template", "tools", "documents")}
    markers = _Markers(inputs["messages"])
    marked = _marked_template(source).render(
        **{**tokenizer.special_tokens_map, "add_generation_prompt": False, **names},
        **inputs,
        _datasel_enter=markers.enter,
        _datasel_assign=markers.assign,
        _datasel_leave=markers.leave,
    )
    return _read(marked)


class _Markers:
    """Functions that a marked template calls, which return the markers to write.

    Args:
        messages: The messages as the template receives them, which are recognized by identity.
    """

    def __init__(self, messages: list[dict[str, Any]]):
        self.positions = {id(message): position for position, message in enumerate(messages)}
        self.current: dict[int, int] = {}  # loop -> message of this pass, or -1
        self.written: set[int] = set()  # loops with a marker

    def enter(self, loop: int, item: Any) -> str:
        """Begin a pass through a loop."""
        position = self.current[loop] = self.positions.get(id(item), -1)
        return self._write(loop, position) if position >= 0 or loop in self.written else ""

    def assign(self, loop: int, value: Any) -> str:
        """Note a variable that is set in a loop over something else than messages, such as their positions."""
        position = self.positions.get(id(value), -1)
        if position < 0 or self.current.get(loop, -1) >= 0:
            return ""
        self.current[loop] = position
        return self._write(loop, position)

    def leave(self, loop: int) -> str:
        """End a loop."""
        if loop not in self.written:
            return ""
        self.written.remove(loop)
        return f"{_START}{loop},{_END}"

    def _write(self, loop: int, position: int) -> str:
        self.written.add(loop)
        return f"{_START}{loop},{position}{_END}"


def _read(marked: str) -> tuple[str, list[Segment]]:
    """Remove the markers from a text, and return it with the segments of its messages."""
    first, *rest = _MARKER.split(marked)
    texts, length = [first], len(first)
    segments: list[Segment] = []
    loops: dict[int, int] = {}  # open loops, the innermost last -> message
    for loop, position, text in zip(map(int, rest[::3]), rest[1::3], rest[2::3], strict=True):
        if loop in loops:  # its next pass, or its end: loops inside have ended
            for inner in list(loops)[list(loops).index(loop) :]:
                del loops[inner]
        if position:
            loops[loop] = int(position)
        message = next((value for value in reversed(loops.values()) if value >= 0), -1)
        if text and segments and segments[-1].message == message and segments[-1].stop == length:
            segments[-1] = segments[-1]._replace(stop=length + len(text))
        elif text:
            segments.append(Segment(message, length, length + len(text)))
        texts.append(text)
        length += len(text)
    return "".join(texts), [segment for segment in segments if segment.message >= 0]


@lru_cache
def _marked_template(source: str) -> Template:
    """Compile a chat template with markers around what each pass through its loops produces."""
    from jinja2 import nodes
    from transformers.utils.chat_template_utils import _compile_jinja_template

    environment = _compile_jinja_template(source).environment
    tree = environment.parse(source)
    loops = {id(node): number for number, node in enumerate(tree.find_all(nodes.For))}

    def call(name: str, line: int, *arguments: Any) -> Any:
        return nodes.Output([nodes.Call(nodes.Name(name, "load"), list(arguments), [], None, None)]).set_lineno(line)

    def mark(statements: list[Any], around: int | None) -> list[Any]:
        """Return statements with markers, given the number of the loop around them."""
        marked = []
        for node in statements:
            loop = loops.get(id(node), around)
            for block in ("body", "elif_", "else_"):
                if isinstance(getattr(node, block, None), list):
                    setattr(node, block, mark(getattr(node, block), loop))
            marked.append(node)
            target = getattr(node, "target", None)
            name = nodes.Name(target.name, "load") if isinstance(target, nodes.Name) else nodes.Const(None)
            if isinstance(node, nodes.For):
                node.body.insert(0, call("_datasel_enter", node.lineno, nodes.Const(loop), name))
                marked.append(call("_datasel_leave", node.lineno, nodes.Const(loop)))
            elif isinstance(node, nodes.Assign) and around is not None:
                marked.append(call("_datasel_assign", node.lineno, nodes.Const(around), name))
        return marked

    tree.body = mark(tree.body, None)
    template: Template = environment.from_string(tree)
    return template
