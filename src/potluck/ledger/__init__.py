"""The ledger: what every request leaves behind, from the hot path to the reports.

    exchange → spool (files in HOME/spool) → importer (a child process) → usage.db → reports

In here: the spool's writer on the loop (`spool`), its files (`files`), the replay of dead processes' spools at start
(`replay`), the child that moves lines to the database (`importer`) and its supervisor (`importer_process`), the
questions asked of the database (`reports`).
Never: HTTP, routing, names of keys and projects (the admin API resolves ids), SQLAlchemy (plain `sqlite3` only).

The promise: a settlement line is written before the caller's last byte, so no delivered answer is ever without its
record; an intent line is written before an upstream's first byte, so no call that may be billed is forgotten. The first
settlement of a request id wins, everywhere, which makes every step repeatable.

Start with `spool.py`.
"""
