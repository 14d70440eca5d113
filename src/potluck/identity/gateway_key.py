"""The gateway's own Ed25519 key pair: nodes pin its public half when they enrol, and take no other gateway afterwards.

Rule: it is derived from the master key, never stored: a backup that has the master key restores the pinned gateway, and
one that has not cannot pretend to be it.
"""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from potluck.identity.vault import Vault

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64


class GatewayIdentity:
    """Signs in the gateway's name. Printing it shows nothing."""

    __slots__ = ("_private_key", "public_key")

    def __init__(self, vault: Vault) -> None:
        self._private_key = Ed25519PrivateKey.from_private_bytes(vault.identity_seed)
        self.public_key = self._private_key.public_key().public_bytes_raw()
        """32 bytes"""

    def __repr__(self) -> str:
        return f"GatewayIdentity({self.public_key.hex()})"

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes. Raises nothing."""
        return self._private_key.sign(message)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether that key signed it. False for bytes that are no key or no signature; raises nothing."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
