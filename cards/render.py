"""Render every card in this folder from its facts: `make cards`."""

from pathlib import Path

from hf_datasel.cards.report import read_facts, write_card

for path in sorted(Path(__file__).parent.glob("*/facts.json")):
    write_card(read_facts(path), path.parent)
    print(path.parent)
