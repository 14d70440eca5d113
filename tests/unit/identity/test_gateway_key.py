"""The gateway's own key pair: made from the master key, and from nothing else."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from potluck.identity.gateway_key import GatewayIdentity, verify
from potluck.identity.vault import Vault


def test_the_key_pair_hangs_on_the_master_key() -> None:
    """The same master key gives the same gateway, another one another."""
    first, again, other = (GatewayIdentity(Vault(bytes([byte]) * 32)) for byte in (1, 1, 2))
    assert first.public_key == again.public_key != other.public_key
    assert len(first.public_key) == 32
    assert verify(first.public_key, b"message", again.sign(b"message"))
    assert not verify(other.public_key, b"message", first.sign(b"message"))


def test_the_private_half_is_derived_and_not_shown() -> None:
    """It is neither the master key nor anything else that the vault uses, and printing shows the public half only."""
    vault = Vault(bytes(32))
    identity = GatewayIdentity(vault)
    for seed in (bytes(32), vault.pepper):
        assert Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw() != identity.public_key
    assert repr(identity) == f"GatewayIdentity({identity.public_key.hex()})"
    assert vault.identity_seed.hex() not in repr(identity) + repr(vault)


def test_what_is_no_signature_is_false() -> None:
    """Other messages, cut or empty bytes, things that are no key: False, and nothing raised."""
    identity = GatewayIdentity(Vault(bytes(32)))
    signature = identity.sign(b"message")
    assert len(signature) == 64
    for key, message, proof in (
        (identity.public_key, b"messagf", signature),
        (identity.public_key, b"message", signature[:-1]),
        (identity.public_key, b"message", b""),
        (identity.public_key, b"message", bytes(64)),
        (b"", b"message", signature),
        (bytes(33), b"message", signature),
        (bytes(range(32)), b"message", signature),
    ):
        assert not verify(key, message, proof)
