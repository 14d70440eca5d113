"""How a command ends when it does not end well."""

FAILED = 1
USAGE = 2
NO_CONNECTION = 3


class Failure(Exception):  # noqa: N818 — an end of a command, raised to where it is printed
    """Ends the command with one line on stderr: what, why, how to mend it. `status` is the exit status."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
