"""Publishing selections: the facts, the card and the report made from them, and the Hub."""

from hf_datasel.publish.pull import pull_selection
from hf_datasel.publish.push import push_selections

__all__ = ["pull_selection", "push_selections"]
