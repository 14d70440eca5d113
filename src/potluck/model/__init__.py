"""Nouns: frozen structs, ids, money and units that every room shares.

In here: what things are. A provider, a credential, a target, a key, a price, a usage record, the compiled snapshot.
Never: behaviour beyond arithmetic on the struct itself; no I/O, no clock, no randomness except in `ids`.
Start with `snapshot.py` (what the data plane reads) and `usage.py` (what a request leaves behind).
"""
