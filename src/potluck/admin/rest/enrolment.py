"""`/node/v1/…`: what machines ask without an admin's token: enrol, change their key, leave.

Rule: nothing secret is in an address or a log; a stranger has `TRIES_PER_MINUTE` per address prefix, 16 KiB a try, and
learns nothing from a refusal.
"""

import math
import time
from base64 import urlsafe_b64encode

import msgspec
from litestar import Response, Router, get, post
from litestar.datastructures import State
from litestar.exceptions import TooManyRequestsException
from litestar.handlers import BaseRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody

from potluck.admin.errors import OperationError
from potluck.admin.operations import enrolment
from potluck.admin.rest.auth import PUBLIC, AdminRequest, AnyConnection, FromGateway
from potluck.admin.rest.buckets import Buckets
from potluck.admin.rest.deps import Deps
from potluck.admin.rest.node_bodies import Enrol, Leave, RotateNodeKey
from potluck.admin.rest.problems import described
from potluck.config.origins import OriginError, claimed_origin
from potluck.model.node import NodePrice
from potluck.wire.link_messages import MINOR

MAX_BODY_BYTES = 16 * 1024
TRIES_PER_MINUTE = 10


class EnrolmentTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine signs (`challenge`, good for five minutes, and `origin`) and whom it is going to pin."""

    challenge: str
    origin: str
    gateway_key: str
    """Ed25519, base64url"""
    version: str
    minor: int
    """of the node link"""


class EnrolledNode(msgspec.Struct, frozen=True, kw_only=True):
    """What a new node has to remember. `max_price`: nano-USD per million tokens; null: as the docs say for its kind."""

    node: str
    name: str
    """made unique in its organisation"""
    key: str
    state: str
    organisation: str
    owner: str
    community: bool
    origin: str
    gateway_key: str
    max_price: NodePrice | None
    max_models: int | None


TOLD_AGAIN = ResponseSpec(EnrolledNode, description="The answer was lost: here it is again", generate_examples=False)


class RotatedKey(msgspec.Struct, frozen=True):
    key: str


def tries() -> Buckets:
    """What an application keeps of strangers' tries."""
    return Buckets(TRIES_PER_MINUTE)


def limit_tries(connection: AnyConnection, _: BaseRouteHandler) -> None:
    """The guard of what a stranger may try. Raises 429."""
    buckets: Buckets = connection.app.state.tries
    wait_s = buckets.take(connection.client.host if connection.client else "", time.monotonic())
    if wait_s:
        seconds = math.ceil(wait_s)
        raise TooManyRequestsException(
            f"too many tries from this network: try again in {seconds} s", headers={"retry-after": str(seconds)}
        )


@get("/enroll", opt=PUBLIC, responses=described(421))
async def enrolment_terms(request: AdminRequest, state: State) -> EnrolmentTerms:
    """What a machine needs to know before it enrols, rotates its key or leaves."""
    deps: Deps = state.deps
    return EnrolmentTerms(
        challenge=enrolment.new_challenge(deps.vault, time.time()),
        origin=dialled_origin(request, deps),
        gateway_key=_gateway_key(state),
        version=deps.version,
        minor=MINOR,
    )


@post(
    "/enroll",
    opt=PUBLIC,
    guards=[limit_tries],
    request_max_body_size=MAX_BODY_BYTES,
    responses={200: TOLD_AGAIN, **described(409, 413, 421, 429)},
)
async def enrol(
    request: AdminRequest, control: FromGateway, state: State, data: JSONBody[Enrol]
) -> Response[EnrolledNode]:
    """Enrol a machine by a join token. Its own public key is how it is known from now on.

    The same token and key once more: 200, with what was answered; nothing is spent.
    """
    deps: Deps = state.deps
    applicant = enrolment.Applicant(
        token=data.token,
        public_key=enrolment.public_key_of(data.public_key),
        name=data.name,
        challenge=data.challenge,
        proof=enrolment.proof_of(data.proof),
        origin=dialled_origin(request, deps),
        agent=data.agent,
        os=data.os,
        arch=data.arch,
    )
    enrolment.check_applicant(deps.vault, applicant, time.time())
    made = await control.do(enrolment.STRANGER, enrolment.enrol(applicant))
    row = made.row
    enrolled = EnrolledNode(
        node=row["id"],
        name=row["name"],
        key=row["key_id"],
        state=row["state"],
        organisation=made.organisation,
        owner=row["owner"],
        community=row["community"],
        origin=applicant.origin,
        gateway_key=_gateway_key(state),
        max_price=made.max_price,
        max_models=row["max_models"],
    )
    return Response(enrolled, status_code=200 if made.again else 201)


@post(
    "/rotate",
    opt=PUBLIC,
    status_code=200,
    guards=[limit_tries],
    request_max_body_size=MAX_BODY_BYTES,
    responses=described(409, 413, 421, 429),
)
async def rotate_node_key(
    request: AdminRequest, control: FromGateway, state: State, data: JSONBody[RotateNodeKey]
) -> RotatedKey:
    """Put a node's new key in force; the old one is good for 24 more hours."""
    said = _said(request, state.deps, data.node, data.key, data.challenge, data.proof_old, "proof_old")
    change = enrolment.rotate(
        said, enrolment.public_key_of(data.public_key), enrolment.proof_of(data.proof_new, "proof_new")
    )
    return RotatedKey(await control.do(enrolment.STRANGER, change))


@post(
    "/leave",
    opt=PUBLIC,
    status_code=204,
    guards=[limit_tries],
    request_max_body_size=MAX_BODY_BYTES,
    responses=described(413, 421, 429),
)
async def leave(request: AdminRequest, control: FromGateway, state: State, data: JSONBody[Leave]) -> None:
    """A node revokes itself: its links drop, its name is free."""
    said = _said(request, state.deps, data.node, data.key, data.challenge, data.proof, "proof")
    await control.do(enrolment.STRANGER, enrolment.leave(said))


def _said(
    request: AdminRequest, deps: Deps, node: str, key: str, challenge: str, proof: str, where: str
) -> enrolment.Signed:
    enrolment.check_challenge(deps.vault, challenge, time.time())
    return enrolment.Signed(
        node=node,
        key=key,
        challenge=challenge,
        proof=enrolment.proof_of(proof, where),
        origin=dialled_origin(request, deps),
    )


def dialled_origin(request: AdminRequest, deps: Deps) -> str:
    """Under which origin this gateway was dialled. Raises 421."""
    server = request.scope.get("server")
    try:
        return claimed_origin(
            request.headers.get("host", ""),
            tls=request.scope["scheme"] in ("https", "wss"),
            public_url=deps.public_url,
            own_names=deps.own_names,
            socket_address=server[0] if server else "",
        )
    except OriginError as error:
        raise OperationError(421, "wrong_origin", str(error)) from None


def _gateway_key(state: State) -> str:
    return urlsafe_b64encode(state.identity.public_key).rstrip(b"=").decode()


ROUTES = Router("/node/v1", route_handlers=[enrolment_terms, enrol, rotate_node_key, leave], tags=["for nodes"])
