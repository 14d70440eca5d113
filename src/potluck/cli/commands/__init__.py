"""One module per noun. Each holds a click group or command of that name, and imports the rest when it is called.

Conventions: objects are named by name or id; `list` and `show` print no secret; what a person reads goes through
`Session.output`, `--json` prints what the admin API answered.
"""
