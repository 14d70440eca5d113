"""Giving the machine an identity: a key that a gateway may have taken up is never lost, whatever happens meanwhile.

Rules of this file
- A new key is on the disk (`key.next`) before the gateway is told of it, and so is proof that there is room for what
  follows. Another try after a lost answer, a full disk or Ctrl-C takes the same key: the gateway then gives the same
  answer, and spends nothing.
- One at a time changes who this machine is.
"""

from hashlib import sha256

from potluck.model.secret import Secret
from potluck.node.enrolment import EnrolmentError, Gateway
from potluck.node.home import ENROLMENT_LOCK, NEXT_KEY, Enrolled, Home, HomeError, KeyFile
from potluck.node.identity import Identity, fresh_key, from_text, to_text

BUSY = "another command is changing who this machine is: wait until it is done"


def identity_of(key: KeyFile) -> Identity:
    """Raises HomeError."""
    try:
        return Identity(from_text(key.private, 32))
    except ValueError:
        raise HomeError("the node's key is damaged: potluck node join URL --force makes a new one") from None


def join(home: Home, gateway: Gateway, token: Secret, name: str, *, force: bool = False) -> tuple[Enrolled, str]:
    """Enrol: what was kept, and the state. Raises HomeError, EnrolmentError."""
    home.prepare()
    with home.alone(ENROLMENT_LOCK, BUSY):
        if not force and home.enrolled() is not None:
            raise HomeError(f"this machine has joined already ({home.path}): potluck node leave, or --force")
        coming = _coming(home, sha256(f"{gateway.origin}\n{token.reveal()}".encode()).hexdigest())
        try:
            enrolled, key_id, state = gateway.enroll(token, identity_of(coming), name)
        except EnrolmentError as error:
            if error.status == 409:  # the node of that key is revoked: only another one can join
                home.remove(NEXT_KEY)
            raise
        try:
            home.write(NEXT_KEY, KeyFile(key_id, coming.private, enrolled.node, coming.purpose))
            home.write("node.json", enrolled)
            home.write("key", KeyFile(key_id, coming.private, enrolled.node))
        except HomeError as error:
            raise HomeError(f"{error}; mend that and join again with the same token: it is good for this") from None
        home.remove(NEXT_KEY, "state.json")
        return enrolled, state


def rotate(home: Home) -> str:
    """Give the machine a new key; its id. Raises HomeError, EnrolmentError."""
    with home.alone(ENROLMENT_LOCK, BUSY):
        enrolled = home.enrolled()
        if enrolled is None:
            raise HomeError(f"this machine has not joined a gateway: potluck node join URL (nothing in {home.path})")
        key = home.key()
        old = identity_of(key)
        if not is_pending(home):
            home.remove(NEXT_KEY)
        gateway = Gateway(enrolled.url, insecure=enrolled.insecure, ca_file=enrolled.ca_file)
        coming = _coming(home, _for_rotation(enrolled))
        key_id = gateway.rotate(enrolled, key.id, old, identity_of(coming))
        try:
            home.write("key", KeyFile(key_id, coming.private, enrolled.node))
        except HomeError as error:
            raise HomeError(f"{error}; the gateway has the new key: mend that and rotate again within a day") from None
        home.remove(NEXT_KEY)
        return key_id


def is_pending(home: Home) -> bool:
    """A change of the key has begun and its end was not heard. Raises HomeError."""
    enrolled = home.enrolled()
    coming = home.coming_key(_for_rotation(enrolled)) if enrolled is not None else None
    return coming is not None and coming.private != home.key().private


def _for_rotation(enrolled: Enrolled) -> str:
    return f"rotate {enrolled.node}"


def _coming(home: Home, purpose: str) -> KeyFile:
    """The key of the try before, else a new one; on the disk, with room for the rest."""
    found = home.coming_key(purpose)
    if found is None:
        found = KeyFile("", to_text(fresh_key()), purpose=purpose)
        home.write(NEXT_KEY, found)
    home.try_out()
    return found
