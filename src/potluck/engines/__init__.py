"""Local inference engines: the built-in model's supervisor and its installation; what else serves on this machine.

In here: the child process that runs llama.cpp's server (`llama_child`), its supervisor (`builtin`), the upstream that
waits for it and mends its answers (`local_upstream`, `mend`, `answers`), the model file (`local_model`, `fetch`).
The engines that already run here: who answers (`fingerprints`), what it serves (`inventory`, `weights`), how busy it is
(`load_signals`): dialogues without I/O (`questions`), played over HTTP (`asking`) once (`discover`) or for good
(`watch`). The agent imports those: they need the standard library and msgspec only.
Never: routing, prices, keys of callers; a decision about which target serves a request; an engine of the owner's
started, restarted, loaded or unloaded by a question.
Start with `builtin.py` (life of the child) and `local_upstream.py` (life of one call to it), or with `discover.py`.
"""
