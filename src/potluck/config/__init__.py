"""Configuration: the process's settings, and the declarative document `potluck.toml`.

In here: `settings` (one typed tree, from command line, environment and defaults), `document` (what a file may say, as
structs), `reading` (text → `Document`, every problem of the file reported at once with its line) and `writing`
(`Document` → text, for `config export`).
Never: the store, the network, or what is done with a document; `admin` applies it.
Start with `document.py`; then `settings.py`.
"""

from potluck.config.errors import ConfigError, Problem

__all__ = ["ConfigError", "Problem"]
