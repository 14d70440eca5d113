"""`config export`: what is written reads back the same, and holds no secret."""

import tomllib

from potluck.config.document import (
    CredentialEntry,
    Document,
    KeyEntry,
    ModelEntry,
    ModelPriceEntry,
    PriceEntry,
    ProjectEntry,
    ProviderEntry,
    TargetEntry,
    TimeoutsEntry,
)
from potluck.config.reading import parse
from potluck.config.writing import credential_variable, dump, key_variable
from potluck.model.secret import Secret

DOCUMENT = Document(
    providers=(
        ProviderEntry(
            name="lab-1",
            base_url="http://h:1/v1",
            own=True,
            timeouts=TimeoutsEntry(idle_s=2.5),
            credentials=(
                CredentialEntry(key=Secret("secret-one")),
                CredentialEntry(name="spare", key=Secret("secret-two"), weight=3),
            ),
        ),
    ),
    models=(
        ModelEntry(name='odd"name\\', targets=(TargetEntry(target="lab-1/a"),), placement="own"),
        ModelEntry(
            name="m",
            targets=(
                TargetEntry(target="lab-1/a", price=PriceEntry(input=0.00001, output=3), context_tokens=8192),
                TargetEntry(target="lab-1/b/c", capabilities=("embeddings",)),
            ),
        ),
    ),
    prices=(
        ModelPriceEntry(model="lab-1/a", input=0.15, output=0.6, cached_input=0.0, per_request=0.000000001),
        ModelPriceEntry(model="m", input=0, output=0),
    ),
    projects=(ProjectEntry(name="web", data_class="private"),),
    keys=(KeyEntry(name="k", tags=("a${b}", "tab\tnewline\n\x7f"), key=Secret("plk-secret")), KeyEntry(name="bare")),
)


def test_what_is_written_reads_back_the_same() -> None:
    """Export, then check: the document is the same once the named variables hold the secrets."""
    env = {
        "LAB_1_API_KEY": "secret-one",
        "LAB_1_SPARE_API_KEY": "secret-two",
        "POTLUCK_KEY_K": "plk-secret",
    }
    assert parse(dump(DOCUMENT), env) == DOCUMENT


def test_no_secret_is_written() -> None:
    """Secrets are replaced by the variables that they are to come from."""
    text = dump(DOCUMENT)
    assert "secret" not in text
    assert 'key = "${LAB_1_API_KEY}"' in text


def test_defaults_are_left_out() -> None:
    """An object that says only its name is two lines."""
    assert dump(Document(keys=(KeyEntry(name="bare"),))) == '[[keys]]\nname = "bare"\n'


def test_small_prices_have_no_exponent() -> None:
    """0.00001 is written as people write it."""
    assert "input = 0.00001," in dump(DOCUMENT)
    assert tomllib.loads(dump(DOCUMENT))["models"][1]["targets"][0]["price"]["input"] == 0.00001


def test_variable_names_are_valid() -> None:
    """Whatever a provider is called, its variable can be exported by a shell."""
    assert credential_variable("9-lives.ai", "main") == "_9_LIVES_AI_API_KEY"
    assert key_variable("web-backend") == "POTLUCK_KEY_WEB_BACKEND"


def test_a_price_says_first_what_it_is_for() -> None:
    """A section's objects begin with the member that tells them apart."""
    text = dump(Document(prices=DOCUMENT.prices[1:]))
    assert text == '[[prices]]\nmodel = "m"\ninput = 0\noutput = 0\n'
