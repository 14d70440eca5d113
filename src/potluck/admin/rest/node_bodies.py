"""What is sent about nodes: by admins, and by the machines themselves. Unknown members are refused.

Rule: a pattern ends in `$(?!\\n)`, since `$` alone lets a line feed through.
"""

from typing import Annotated

from msgspec import UNSET, Meta

from potluck.admin.operations.join_tokens import DEFAULT_LIFETIME_S, MAX_LIFETIME_S, MAX_USES, MIN_LIFETIME_S
from potluck.admin.operations.node_views import NodePriceEntry
from potluck.admin.rest.bodies import Body, Tags, Unset
from potluck.config.forms import ModelName, Name

_NODE_NAME = Meta(pattern=r"^[A-Za-z0-9._-]{1,63}$(?!\n)", description="letters, digits, . _ - (at most 63)")
_OWNER = Meta(
    pattern=r"^(project:[A-Za-z0-9][A-Za-z0-9._-]{0,63})?$(?!\n)",
    description="`project:NAME`, or empty for the whole organisation",
)
_TEXT = Meta(
    pattern=r"^[^\x00-\x1f\x7f-\x9f]{0,100}$(?!\n)", description="at most 100 characters, none that moves the cursor"
)
_ID = Meta(pattern=r"^[A-Za-z0-9_]{1,64}$(?!\n)", description="an id: letters, digits and _")
_KEY = Meta(pattern=r"^[A-Za-z0-9_-]{43}=?$(?!\n)", description="32 bytes in base64url")
_PROOF = Meta(pattern=r"^[A-Za-z0-9_-]{86}(==)?$(?!\n)", description="64 bytes in base64url")
_CHALLENGE = Meta(pattern=r"^[0-9a-f.]{1,100}$(?!\n)", description="what GET /node/v1/enroll gave")
_TOKEN = Meta(pattern=r"^[\x21-\x7e]{1,200}$(?!\n)", description="a join token")
PATTERNS = (_NODE_NAME, _OWNER, _TEXT, _ID, _KEY, _PROOF, _CHALLENGE, _TOKEN)
"""what they mean, for messages"""

NodeName = Annotated[str, _NODE_NAME]
Owner = Annotated[str, _OWNER]
Text = Annotated[str, _TEXT]
Id = Annotated[str, _ID]
PublicKey = Annotated[str, _KEY]
Proof = Annotated[str, _PROOF]
Challenge = Annotated[str, _CHALLENGE]
Lifetime = Annotated[int, Meta(ge=MIN_LIFETIME_S, le=MAX_LIFETIME_S, description="1 hour to 90 days")]


class MakeJoinToken(Body, frozen=True, kw_only=True):
    """Null for `uses`: without end. Null for `needs_approval`: own machines need none, the community's do."""

    name: Name | None = None
    uses: Annotated[int, Meta(ge=1, le=MAX_USES)] | None = 1
    lifetime_s: Lifetime = DEFAULT_LIFETIME_S
    needs_approval: bool | None = None
    ephemeral: bool = False
    """its nodes are forgotten an hour after they were last seen"""
    community: bool = False
    """its nodes are somebody else's machines: data class `open` only"""
    owner: Owner = ""
    tags: Tags = ()
    max_models: Annotated[int, Meta(ge=1, le=500)] | None = None
    max_price: NodePriceEntry | None = None


class ChangeNode(Body, frozen=True, kw_only=True):
    """`drained`: no new work there. `approved`: false takes its work away until it is approved again."""

    name: NodeName | Unset = UNSET
    tags: Tags | Unset = UNSET
    owner: Owner | Unset = UNSET
    drained: bool | Unset = UNSET
    approved: bool | Unset = UNSET


class PriceNode(Body, frozen=True, kw_only=True):
    """`model`: as the node names it. Null takes the price away: what the node announces counts again."""

    model: ModelName
    price: NodePriceEntry | None


class Enrol(Body, frozen=True, kw_only=True):
    """`proof`: the new key's signature over origin, challenge, public key and the token's SHA-256."""

    token: Annotated[str, _TOKEN]
    public_key: PublicKey
    name: NodeName
    challenge: Challenge
    proof: Proof
    agent: Text = ""
    os: Text = ""
    arch: Text = ""


class RotateNodeKey(Body, frozen=True, kw_only=True):
    """Both proofs are over origin, challenge, node and new public key: by the key in force, and by the new one."""

    node: Id
    key: Id
    challenge: Challenge
    public_key: PublicKey
    proof_old: Proof
    proof_new: Proof


class Leave(Body, frozen=True, kw_only=True):
    """`proof`: over origin, challenge and node."""

    node: Id
    key: Id
    challenge: Challenge
    proof: Proof
