"""Is somebody using this machine? One small interface, one implementation for each system.

In here: `linux` (logind, Wayland, GNOME, X11, terminals), `windows`, `macos`; `reports`: a helper in the person's
session tells a service that cannot see the desktop; `sources`: what several sources say together.
Never: which keys, windows, programs or people; anything that hangs the agent (`read` may block: it is called in a
thread of its own); a guess. Who does not know says None.
"""

import sys
from typing import Protocol

from potluck.node.facts import Reading


class Presence(Protocol):
    """A way to see whether somebody is there."""

    def read(self) -> Reading:
        """What is known now. May block; may raise anything, which is not knowing."""


class Unseen:
    """A system that nobody taught us to read."""

    def __init__(self, platform: str) -> None:
        self._platform = platform

    def read(self) -> Reading:
        return Reading(source=f"{self._platform} is not known")


def presence_here(platform: str = sys.platform) -> Presence:
    """The one for this system."""
    if platform == "win32":
        from potluck.node.presence.windows import WindowsPresence

        return WindowsPresence.here()
    if platform == "darwin":
        from potluck.node.presence.macos import MacPresence

        return MacPresence.here()
    if platform == "linux":
        from potluck.node.presence.linux import LinuxPresence

        return LinuxPresence.here()
    return Unseen(platform)
