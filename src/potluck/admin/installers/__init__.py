"""What a machine downloads to become a node: two scripts, the agent's requirement list, the wheel.

Rule: the scripts here are whole but for the places in `@AT_SIGNS@`, which are filled in when they are served: where
from, which wheel, and the SHA-256 of all that they will download. `node-requirements.txt` is what `make lock` writes.

Start with `kit`.
"""

from potluck.admin.installers.kit import REQUIREMENTS, InstallerError, Kit, Piece, Script

__all__ = ["REQUIREMENTS", "InstallerError", "Kit", "Piece", "Script"]
