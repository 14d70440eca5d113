"""Rows → the compiled, immutable `Snapshot` that the data plane reads.

In here: `rows` (what is read from the store), `prices` (which price a target has), `parts`, `providers`, `nodes` and
`compiling` (rows → compiled keys, targets, models, probes, as generators that can be run in slices), `cards` (entries
of `GET /v1/models`), `source` (the current snapshot and its swap), `changes` (what a write touched).
Never: state of requests (counters, breakers, in-flight), a wait for the database on the path of a request, a half-made
snapshot: what cannot be compiled is refused whole, and the one before it stays.
Start with `source.py`.
"""

from potluck.snapshot.changes import EVERYTHING, Change
from potluck.snapshot.source import SnapshotError, SnapshotStore

__all__ = ["EVERYTHING", "Change", "SnapshotError", "SnapshotStore"]
