"""The one error of the store: says what, why, and how to mend it; safe to print."""


class StoreError(Exception):
    """The store cannot be used as asked. The text is complete for a person; it never holds a secret."""
