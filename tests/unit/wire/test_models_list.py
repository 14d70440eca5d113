"""The answer of `GET /v1/models`."""

import json

from potluck.wire.dialects.openai_models import encode_model_list


def test_list_of_entries() -> None:
    """Entries are listed in OpenAI's shape, none or several."""
    assert json.loads(encode_model_list([])) == {"object": "list", "data": []}
    cards = [b'{"id":"a","object":"model"}', b'{"id":"b","object":"model"}']
    assert json.loads(encode_model_list(cards))["data"] == [json.loads(card) for card in cards]
