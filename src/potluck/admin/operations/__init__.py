"""What can be done to the stored configuration: one function per deed, each inside one transaction.

An operation takes a `Work` (the transaction, who acts, what was touched) and plain values, validates, writes, and notes
it in the audit log. It returns a view: what the admin API shows. Never: HTTP, the event loop, the current snapshot.
Start with `work.py`; `errors.py` has the one exception that they raise.
"""
