"""What a machine downloads to become a node: two scripts, two requirement lists, the wheel.

Rule: the scripts here are whole but for the places in `@AT_SIGNS@`, which are filled in when they are served: where
from, which wheel, and the SHA-256 of all that they will download. Both lists are what `make lock` writes:
`node-requirements.txt` for the agent, `node-local-requirements.txt` for the built-in model's engine.

Start with `kit`.
"""

from potluck.admin.installers.kit import LISTS, InstallerError, Kit, Piece, Script

__all__ = ["LISTS", "InstallerError", "Kit", "Piece", "Script"]
