"""The agent: shares a machine's engines with a gateway that it dials, when and as far as their owner wants.

In here: `agent` puts it together: `dialing` (links), `jobs` (requests), `offers` (what the engines serve), `telling`
(CAPS and LOAD), `standing` and `rules` (whether it serves), `machine` (who is there, what is busy, giving it back),
`commands` (what a gateway may order), `page` and `report` (what its owner sees), `process` (one per home). Before it
runs: `home` (files), `identity` (key), `enrolment`, `settings`, `service` (starting with the machine).
Never: a database, a web framework, a port that is open to others; a host, port, path or model that the owner's engines
do not offer. Third-party only what `requirements/node.txt` lists.
Start with `agent.py`.
"""
