"""What the house tests look at: the files under version control, and the modules of each room."""

import ast
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "src" / "potluck"


@cache
def tracked_files() -> tuple[Path, ...]:
    """Files known to git, and new ones that it does not ignore; deleted ones left out."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file())


def python_files(*under: str) -> list[Path]:
    """Python files below these folders of the tree."""
    folders = [ROOT / name for name in under]
    return [path for path in tracked_files() if path.suffix == ".py" and any(path.is_relative_to(f) for f in folders)]


def parse(path: Path) -> ast.Module:
    """The module's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def shown(path: Path) -> str:
    """The path as people name it."""
    return str(path.relative_to(ROOT))


def imported_names(module: ast.Module) -> set[str]:
    """Top-level names of everything that the module imports, at any depth."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names
