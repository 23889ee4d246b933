"""So that `python -m hf_datasel.cli` works, for launchers that want a module."""

import sys

from hf_datasel.cli import main

sys.exit(main())
