"""Command line `hf-datasel`, with one module per command."""

from hf_datasel.cli.main import main

__all__ = ["main"]
