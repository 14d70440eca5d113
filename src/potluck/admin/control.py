"""Runs operations: the store's transaction, then the snapshot, so that a change is in force when its answer is sent."""

from collections.abc import Callable
from typing import TypeVar

from potluck.admin.operations.work import Actor, Idempotency, Operation, Work, perform
from potluck.identity.vault import Vault
from potluck.snapshot import SnapshotStore
from potluck.store import Store

T = TypeVar("T")


class Control:
    """What the admin API needs of the gateway's insides. Lives on the event loop."""

    def __init__(self, store: Store, vault: Vault, snapshots: SnapshotStore) -> None:
        self.store = store
        self.vault = vault
        self.snapshots = snapshots

    async def do(self, actor: Actor, operation: Operation[T], idempotency: Idempotency | None = None) -> T:
        """Run an operation and put it in force. Raises what it raises, and Replayed for a repeated request.

        Raises SnapshotError when what is now stored cannot be compiled; the gateway then goes on with what it had.
        """
        result, change = await self.store.write(perform(self.vault, actor, operation, idempotency))
        await self.snapshots.refresh(change)
        return result

    async def see(self, actor: Actor, look: Callable[[Work], T]) -> T:
        """Run something that only reads."""
        return await self.store.read(lambda connection: look(Work(connection, self.vault, actor)))
