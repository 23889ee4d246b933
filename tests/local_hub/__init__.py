"""A Hugging Face Hub on the loopback for tests: `LocalHub` is the server, `connected` points this process to it.

In process, with the real clients:

    with LocalHub() as hub, connected(hub, tmp_path):
        Dataset.from_dict({"a": [1]}).push_to_hub("tester/rows")

In a process of its own: `subprocess.run(command, env=hub.environment(tmp_path))`.
"""

from .client import connected
from .hub import LocalHub

__all__ = ["LocalHub", "connected"]
