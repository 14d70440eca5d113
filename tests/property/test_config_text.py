"""`potluck.toml` under any input: reading ends with a document or with its problems, writing and reading agree."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from potluck.config import ConfigError
from potluck.config.document import (
    CredentialEntry,
    Document,
    KeyEntry,
    ModelEntry,
    PriceEntry,
    ProviderEntry,
    TargetEntry,
    TimeoutsEntry,
)
from potluck.config.positions import positions
from potluck.config.reading import parse
from potluck.config.writing import credential_variable, dump, key_variable
from potluck.model.secret import Secret

PIECES = """ " ' \\ [ ] [[ ]] { } = , . # a b1 1 providers models name targets base_url ${A} ${ $${ true 1.5 é nan """
TOKENS = st.sampled_from([*PIECES.split(), '"""', "'''", "\n", "\r\n", " "])
BARE = st.sampled_from(["a", "b-1", "_", '"q.k"', "'l'"])
KEYS_OF = st.lists(BARE, min_size=1, max_size=3).map(" . ".join)
SCALARS = st.sampled_from(
    ["1", "true", "-1.5e3", "2030-01-01T00:00:00Z", '"s # ]"', "'l \\'", '"e\\"}"', '"""m\nl""""', "'''\nx'''"]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[ " + ", # ]\n".join(items) + "\n]"),
        st.lists(inner, max_size=2).map(
            lambda items: "{ " + ", ".join(f"k{n} = {item}" for n, item in enumerate(items)) + " }"
        ),
    ),
    max_leaves=6,
)
LINES_OF = st.one_of(
    st.builds("{} = {} # c".format, KEYS_OF, VALUES),
    st.builds("[{}]".format, KEYS_OF),
    st.builds("[[{}]]".format, KEYS_OF),
    st.just("# [[no]]"),
    st.just(""),
)
"""most combinations are valid TOML, if they name nothing twice"""
TEXTS = st.one_of(st.lists(TOKENS, max_size=40).map("".join), st.text(max_size=60))

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
MODEL_NAMES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=12)
USD = st.one_of(st.integers(0, 10**6).map(float), st.integers(0, 10**9).map(lambda n: n / 10**6))
PRICES = st.builds(PriceEntry, input=USD, output=USD, cached_input=st.none() | USD, per_request=USD)
TARGETS = st.builds(
    TargetEntry,
    target=st.tuples(NAMES, MODEL_NAMES).map("/".join).filter(lambda text: not text.startswith("node:")),
    price=st.none() | PRICES,
    context_tokens=st.none() | st.integers(1, 10**7),
)
CREDENTIALS = st.builds(CredentialEntry, name=NAMES, key=st.just(Secret("sk-1")), weight=st.integers(1, 1000))
PROVIDERS = st.builds(
    ProviderEntry,
    name=NAMES,
    base_url=st.just("https://h/v1"),
    own=st.booleans(),
    timeouts=st.builds(TimeoutsEntry, idle_s=st.integers(1, 86_400_000).map(lambda ms: ms / 1000)),
    credentials=st.lists(CREDENTIALS, max_size=3, unique_by=lambda entry: entry.name).map(tuple),
)
KEYS = st.builds(
    KeyEntry,
    name=NAMES,
    key=st.none() | st.just(Secret("sk-1")),
    tags=st.lists(st.text(max_size=8), max_size=3).map(tuple),
    models=st.lists(MODEL_NAMES, max_size=3).map(tuple),
)
MODELS = st.builds(
    ModelEntry,
    name=MODEL_NAMES,
    targets=st.lists(TARGETS, min_size=1, max_size=3, unique_by=lambda entry: entry.target).map(tuple),
)


def unique(entries: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(entries, max_size=3, unique_by=lambda entry: entry.name).map(tuple)  # type: ignore[attr-defined]


DOCUMENTS = st.builds(Document, providers=unique(PROVIDERS), models=unique(MODELS), keys=unique(KEYS))


@given(TEXTS)
def test_any_text_is_a_document_or_has_problems(text: str) -> None:
    """Reading ends for every text, and raises nothing but a ConfigError with at least one problem."""
    try:
        parse(text, {"A": "value"})
    except ConfigError as error:
        assert error.problems


@given(TEXTS)
def test_positions_are_lines_of_the_text(text: str) -> None:
    """For every valid text each member has a line inside it."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = positions(text)
    count = text.count("\n") + 1
    assert all(1 <= line <= count for line in lines.values())

    def walk(value: object, at: tuple[str | int, ...]) -> None:
        if at:
            assert at in lines, (at, text)
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for name, member in items:
            walk(member, (*at, name))

    walk(tree, ())


@given(DOCUMENTS)
def test_what_is_written_is_what_was_meant(document: Document) -> None:
    """Every document survives being written and read again, to the last digit of a price."""
    variables = [credential_variable(each.name, key.name) for each in document.providers for key in each.credentials]
    variables += [key_variable(each.name) for each in document.keys]
    assert parse(dump(document), dict.fromkeys(variables, "sk-1")) == document
