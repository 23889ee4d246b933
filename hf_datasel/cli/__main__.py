"""Entry point of `python -m hf_datasel.cli`, for launchers that run a module."""

import sys

from hf_datasel.cli import main

sys.exit(main())
