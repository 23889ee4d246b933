"""The command line: `hf-datasel list | score | select | train | report | push | env`, one command a module."""

from hf_datasel.cli.main import main

__all__ = ["main"]
