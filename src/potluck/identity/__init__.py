"""Who may do what, and secrets at rest.

In here: `keys` (making and hashing API keys, admin tokens, join tokens), `vault` (the master key, what is derived from
it, sealing of provider credentials), `gateway_key` (the key pair that nodes pin).
Never: HTTP, SQL statements, a secret in a message, a log line or a `repr`.
Start with `vault.py`: everything secret hangs on its one key.
"""
