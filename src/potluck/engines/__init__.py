"""Local inference engines: the built-in model's supervisor and its installation; what else serves on this machine.

In here: the child process that runs llama.cpp's server (`llama_child`), its supervisor (`builtin`), the upstream that
waits for it and mends its answers (`local_upstream`, `mend`, `answers`), the model file (`local_model`, `fetch`), and
the search for engines that already run here (`discover`).
Never: routing, prices, keys of callers; a decision about which target serves a request.
Start with `builtin.py` (life of the child) and `local_upstream.py` (life of one call to it).
"""
