"""The answer of `GET /v1/models`. Its entries are made when the snapshot is compiled."""

from collections.abc import Iterable


def encode_model_list(cards: Iterable[bytes]) -> bytes:
    """The whole body, from the entries as JSON bytes."""
    return b'{"object":"list","data":[' + b",".join(cards) + b"]}"
