"""The agent: shares a machine's engines with a gateway that it dials, when and as far as their owner wants.

Never: a database, a web framework, a port that is open to others. Third-party only what `requirements/node.txt` lists.
"""
