"""Secrets into a command: from a variable or standard input, never from the command line, which others can read."""

import sys

from potluck.cli.failure import USAGE, Failure
from potluck.cli.session import Session
from potluck.model.secret import Secret


def read_secret(session: Session, variable: str | None, from_stdin: bool) -> Secret | None:
    """The key that `--key-env` or `--key-stdin` names; None when neither was given. Raises Failure."""
    if variable and from_stdin:
        raise Failure("--key-env and --key-stdin were both given: choose one", USAGE)
    if variable:
        text = session.env.get(variable, "").strip()
        if not text:
            looks_like_key = not variable.replace("_", "").isalnum() or any(letter.islower() for letter in variable)
            if looks_like_key:
                # what was typed may be the key itself: it is not repeated
                raise Failure("--key-env takes the name of a variable, not the key: --key-env OPENAI_API_KEY", USAGE)
            raise Failure(f"environment variable {variable} is not set: export {variable}=…", USAGE)
        return Secret(text)
    if from_stdin:
        if sys.stdin.isatty():
            import getpass

            text = getpass.getpass("key: ").strip()
        else:
            text = sys.stdin.read().strip()
        if not text:
            raise Failure("no key came on standard input", USAGE)
        return Secret(text)
    return None
