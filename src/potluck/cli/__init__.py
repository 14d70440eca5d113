"""The command line: `potluck`.

In here: `app` (the tree of commands, loaded one by one, and how errors end), `session` (global options: which gateway,
which token, how to print), `gateway` (the admin API's client, standard library only), `output` (tables and JSON) and
`commands/`, one module per noun.
Never: logic that the admin API lacks; a secret in the output of `list` or `show`; Rich, SQL or the serving rooms
imported for a command that does not need them.
Start with `app.py`. Exit status: 0 done, 1 failed, 2 usage, 3 could not connect.
"""

import os
import signal
import sys


def main() -> int:
    """Entry point of the `potluck` script; returns the exit status."""
    if sys.argv[1:] == ["--version"]:
        # shells and health checks ask for this often: 3 ms instead of 60
        from potluck import __version__

        try:
            sys.stdout.write(f"potluck {__version__}\n")
            sys.stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter complains once more at its end
            if isinstance(error, BrokenPipeError):
                return 0
            sys.stderr.write(f"potluck: the output cannot be written: {error.strerror}\n")
            return 1
        return 0
    heeds = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else whoever started us wants none of it
    if heeds:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # nothing has begun: Ctrl-C is no error to be traced
    from potluck.cli.app import run

    if heeds:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run(sys.argv[1:])
