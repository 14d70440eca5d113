"""Which file the built-in model is, where it lies, and what is missing: all that the running gateway needs to know.

Kept apart from `local_model`, whose imports (archives, package metadata) cost start-up time.
"""

import importlib.util
import sys
from pathlib import Path

MODEL_NAME = "smollm2-135m"
"""the public name under which it serves"""
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL_BYTES = 98_362_432
INSTALL_COMMAND = "potluck local-model install"
ENGINE = "xllamacpp==2026.10.11549"
"""of the extra `local`, which cannot be asked for by this project's name: an index may know another under it"""
LIBRARY_HINT = "it needs libraries of the system; on Debian and Ubuntu: apt install libgomp1 libstdc++6"
ENGINE_COMMAND = f"{sys.executable} -m pip install {ENGINE}"


def model_path(home: Path) -> Path:
    """Where the file is, or would be."""
    return home / "models" / MODEL_FILE


def size_bytes(home: Path) -> int:
    """The size of what is there; 0 for nothing."""
    try:
        return model_path(home).stat().st_size
    except OSError:
        return 0


def has_engine() -> bool:
    """The package with the engine is installed; it is not loaded."""
    return importlib.util.find_spec("xllamacpp") is not None


def problem(home: Path) -> str:
    """Why the model cannot be served, with the command that mends it; empty when nothing is missing.

    Cheap: the file is not read through. Raises nothing.
    """
    size = size_bytes(home)
    if not size:
        return f"the built-in model is not installed: {INSTALL_COMMAND}"
    if size != MODEL_BYTES:
        return f"the built-in model's file has {size} bytes instead of {MODEL_BYTES}: {INSTALL_COMMAND}"
    if not has_engine():
        return f"the engine of the built-in model is not installed: {ENGINE_COMMAND}"
    return ""
