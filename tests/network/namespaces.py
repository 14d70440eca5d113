"""Network namespaces as a small internet: a gateway that has an address, and machines behind NAT that have none.

    host ──veth── gateway 10.N.0.1 ──bridge── router (NAT) 10.N.1.X ──veth── machine 192.168.7.2

Nothing can open a connection to a machine; each can be cut off and come back. Needs root, `ip` and `nft`. Names and
addresses carry the process's number, so that several tests can have an internet each; all of it ends with the block.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


def skip_without_namespaces() -> None:
    """Skip the test where no namespace can be made, with one line that says what is missing."""
    missing = [tool for tool in ("ip", "nft") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"network namespaces need {' and '.join(missing)}: apt-get install iproute2 nftables")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")


class Machine:
    """One machine behind a router of its own."""

    def __init__(self, net: "Internet", number: int) -> None:
        self.namespace = f"{net.name}m{number}"
        self._router = f"{net.name}r{number}"
        self._uplink = f"{net.name}u{number}"
        self._address = f"{net.prefix}.1.{number}"
        run("ip", "netns", "add", self.namespace)
        run("ip", "netns", "add", self._router)
        net.spaces += [self.namespace, self._router]
        run("ip", "link", "add", "lan", "netns", self.namespace, "type", "veth", "peer", "lan", "netns", self._router)
        run(
            "ip",
            "link",
            "add",
            "wan",
            "netns",
            self._router,
            "type",
            "veth",
            "peer",
            self._uplink,
            "netns",
            net.gateway,
        )
        at(self.namespace, "ip", "addr", "add", "192.168.7.2/24", "dev", "lan")
        for device in ("lo", "lan"):
            at(self.namespace, "ip", "link", "set", device, "up")
        at(self.namespace, "ip", "route", "add", "default", "via", "192.168.7.1")
        at(self._router, "ip", "addr", "add", "192.168.7.1/24", "dev", "lan")
        at(self._router, "ip", "addr", "add", f"{self._address}/16", "dev", "wan")
        for device in ("lo", "lan", "wan"):
            at(self._router, "ip", "link", "set", device, "up")
        at(self._router, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        at(self._router, "nft", "add table ip nat; add chain ip nat out { type nat hook postrouting priority 100; }")
        at(self._router, "nft", "add rule ip nat out oif wan masquerade")
        at(net.gateway, "ip", "link", "set", self._uplink, "master", "hall", "up")

    @property
    def inside(self) -> tuple[str, ...]:
        """Before a command: run it on this machine."""
        return ("ip", "netns", "exec", self.namespace)

    def cut(self) -> None:
        """Packets to and from the internet vanish; nobody is told."""
        at(
            self._router,
            "nft",
            "add table ip cut; add chain ip cut off { type filter hook forward priority 0; policy drop; }",
        )

    def mend(self) -> None:
        """They pass again."""
        at(self._router, "nft", "delete table ip cut")


class Internet:
    """A gateway's namespace, and machines around it."""

    def __init__(self) -> None:
        taken = subprocess.run(["ip", "-4", "addr"], check=True, capture_output=True, text=True).stdout
        first = os.getpid() % 200
        numbers = [
            number % 200 + 20 for number in range(first, first + 200) if f"inet 10.{number % 200 + 20}." not in taken
        ]
        self.name = f"pl{os.getpid() % 100000}"
        self.prefix = f"10.{numbers[0]}"
        self.gateway = f"{self.name}g"
        self.spaces = [self.gateway]
        self._host_device = f"{self.name}h"
        self.address = f"{self.prefix}.0.1"
        """of the gateway, as machines and the test itself call it"""
        run("ip", "netns", "add", self.gateway)
        at(self.gateway, "ip", "link", "add", "hall", "type", "bridge")
        at(self.gateway, "ip", "addr", "add", f"{self.address}/16", "dev", "hall")
        for device in ("lo", "hall"):
            at(self.gateway, "ip", "link", "set", device, "up")
        run("ip", "link", "add", self._host_device, "type", "veth", "peer", "host", "netns", self.gateway)
        at(self.gateway, "ip", "link", "set", "host", "master", "hall", "up")
        run("ip", "addr", "add", f"{self.prefix}.0.2/16", "dev", self._host_device)
        run("ip", "link", "set", self._host_device, "up")

    @property
    def inside(self) -> tuple[str, ...]:
        """Before a command: run it where the gateway runs."""
        return ("ip", "netns", "exec", self.gateway)

    def machine(self, number: int) -> Machine:
        """One more machine, from 1."""
        return Machine(self, number)

    def close(self) -> None:
        for space in self.spaces:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self._host_device], check=False, capture_output=True)


@contextmanager
def internet() -> Iterator[Internet]:
    """An internet for as long as the block lasts."""
    skip_without_namespaces()
    net = Internet()
    try:
        yield net
    finally:
        net.close()


def at(namespace: str, *command: str) -> None:
    """Run a command in a namespace. Raises RuntimeError with what it said."""
    run("ip", "netns", "exec", namespace, *command)


def run(*command: str) -> None:
    """Run a command. Raises RuntimeError with what it said."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
