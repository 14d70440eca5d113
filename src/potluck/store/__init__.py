"""The store: `potluck.db` (configuration, identity, audit) and `usage.db` (what requests left behind), both SQLite.

In here: tables once in SQLAlchemy Core (`tables`, `usage_tables`), Alembic migrations (`migrations/`), the opened
database with its one writer thread (`database`), the home directory's lock and files (`home`), backup and restore.
Never: HTTP, policy, a query on the path of a request. The serving process never imports Alembic: it compares revisions
with plain `sqlite3`, makes a new database from `schema.sql`, and leaves upgrades to a child process (`migrate`).

    store = potluck.store.open(home)             # -> Store; takes the home's lock, makes or upgrades both databases
    await store.write(lambda connection: ...)    # one transaction in the writer thread, BEGIN IMMEDIATE
    await store.read(lambda connection: ...)     # a reader connection, in a thread
    store.close()

Start with `database.py`. Revisions are four digits, files `NNNN_what.py`; after a change of tables write a migration
and run `python -m potluck.store.migrate schema --which main` to refresh `schema.sql` (a test compares them).
"""

from potluck.store.database import Store, open_store
from potluck.store.errors import StoreError

__all__ = ["Store", "StoreError", "open"]

open = open_store  # noqa: A001 — read as `store.open(home)`
