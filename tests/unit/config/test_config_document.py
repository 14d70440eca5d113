"""`potluck.toml`: what is read, what is refused, and that all of it is said at once."""

import msgspec
import pytest

from potluck.config import ConfigError
from potluck.config.document import PriceEntry, base_url_fault
from potluck.config.forms import Name, in_words
from potluck.config.reading import load, parse, read, read_text, variables
from potluck.model.resources import Timeouts
from potluck.model.secret import Secret

DIALECTS = "openai, anthropic, gemini, azure-openai"

WHOLE = """
# a comment with [brackets] and "quotes"
[[providers]]
name = "openai"
dialect = "openai"
base_url = "https://api.openai.com/v1"
credentials = [{ name = "main", key = "${OPENAI_API_KEY}", weight = 1 }]

[[providers]]
name = "lab-vllm"
dialect = "openai"
base_url = "http://10.0.0.7:8000/v1"
own = true
on_hangup = "drain"
timeouts = { connect_s = 2, idle_s = 12.5 }

[[models]]
name = "small"
targets = [
  { target = "openai/gpt-4o-mini" },
  { target = "lab-vllm/org/qwen2.5-7b", price = { input = 0.02, output = 0.05 } },   # USD per million tokens
]
placement = "any"

[[projects]]
name = "web"
data_class = "private"

[[keys]]
name = "web-backend"
project = "web"
models = ["small", "gpt-4o-mini"]
own_device_priority = "off"
expires_at = 2030-01-31T00:00:00Z
"""


def problems_of(text: str, **env: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, env, source="p.toml")
    return str(caught.value).splitlines()


def test_a_whole_document_is_read() -> None:
    """Every section of this version arrives in its struct, with environment variables filled in."""
    document = parse(WHOLE, {"OPENAI_API_KEY": "sk-test-1"})
    openai, lab = document.providers
    assert openai.credentials[0].key == Secret("sk-test-1")
    assert lab.own is True
    assert lab.on_hangup == "drain"
    assert lab.timeouts.to_timeouts() == Timeouts(connect_s=2, idle_s=12.5)
    first, second = document.models[0].targets
    assert (first.provider, first.upstream_model, first.price) == ("openai", "gpt-4o-mini", None)
    assert (second.provider, second.upstream_model) == ("lab-vllm", "org/qwen2.5-7b")
    assert document.projects[0].data_class == "private"
    assert document.keys[0].models == ("small", "gpt-4o-mini")
    assert document.keys[0].expires_at_ms == 1_896_048_000_000


def test_an_empty_document_is_valid() -> None:
    """A file that says nothing changes nothing and is no error."""
    assert parse("", {}).providers == ()


def test_prices_become_exact_integers() -> None:
    """USD per million tokens turn into nano-USD without a rounding error, and back."""
    entry = PriceEntry(input=0.02, output=0.05, cached_input=0.000000001, per_request=0.1)
    price = entry.to_price("file:1", "operator")
    assert (price.input, price.output, price.cached_input, price.per_request) == (
        20_000_000,
        50_000_000,
        1,
        100_000_000,
    )
    assert PriceEntry.from_price(price) == entry


def test_every_problem_is_reported_with_line_and_path() -> None:
    """Mistakes in many places come out together, each with the line it stands on, in the order of the file."""
    text = """[[providers]]
name = "a b"
dialect = "opena"
base_ulr = "http://h/v1"
own = "yes"

[[models]]
name = "m"
targets = [
  { target = "x/y", price = { input = -1, output = 1 } },
  { target = "nope" },
]
[[keyz]]
"""
    assert problems_of(text) == [
        "p.toml:1: providers[0]: 'base_url' is missing",
        "p.toml:2: providers[0].name: is 'a b'; allowed: letters, digits, . _ - (at most 64, a letter or digit first)",
        f"p.toml:3: providers[0].dialect: must be one of {DIALECTS}, not 'opena'; did you mean 'openai'?",
        "p.toml:4: providers[0].base_ulr: unknown member; did you mean 'base_url'?",
        "p.toml:5: providers[0].own: must be true or false, not a text",
        "p.toml:10: models[0].targets[0].price.input: is -1; allowed: at least 0 and at most 1000000",
        "p.toml:11: models[0].targets[1].target: 'nope' names no provider: write provider/upstream-model",
        "p.toml:13: keyz: unknown member; did you mean 'keys'?",
    ]


@pytest.mark.parametrize("section", ["limits", "budgets", "cache", "notifications"])
def test_sections_that_would_not_be_carried_out_are_refused(section: str) -> None:
    """A limit that does not bind is worse than none: sections of later versions are named and refused."""
    (problem,) = problems_of(f'[[{section}]]\nname = "x"\n')
    assert problem.startswith(f"p.toml:1: {section}: ")
    assert problem.endswith(f"are not in this version of Potluck yet: remove [[{section}]]")


def test_targets_on_nodes_say_where_and_how_much() -> None:
    """A node's name or a pattern, with weight and tier; what is each node's own to say is refused with the reason."""
    text = '[[models]]\nname = "m"\ntargets = [{ target = "node:lab-*/q:7b", weight = 3, priority = 1 }]\n'
    (entry,) = parse(text, {}).models[0].targets
    assert (entry.node, entry.upstream_model, entry.weight, entry.priority) == ("lab-*", "q:7b", 3, 1)
    for wrong, said in (
        ("node:/q", "names no node"),
        ("node:lab-1", "names no node"),
        ("node:lab 1/q", "printable ASCII without spaces"),
        ("node:l@b/q", "names no node"),
        ('node:lab/q", slots = 3, capabilities = ["chat"] #', "serves what each node says"),
        ('node:lab/q", price = { input = 1, output = 1 } #', "costs what each node does"),
    ):
        target = wrong.replace(" #", "") if wrong.endswith("#") else f'{wrong}"'
        (problem,) = problems_of(f'[[models]]\nname = "m"\ntargets = [{{ target = "{target} }}]\n')
        assert said in problem


def test_a_key_says_what_it_does_about_its_own_devices() -> None:
    """`off`, `own_first` or `own_only`."""
    (key,) = parse('[[keys]]\nname = "k"\nown_device_priority = "own_only"\n', {}).keys
    assert key.own_device_priority == "own_only"
    (problem,) = problems_of('[[keys]]\nname = "k"\nown_device_priority = "mine"\n')
    assert "must be one of off, own_first, own_only" in problem


def test_missing_variables_are_named_with_their_place() -> None:
    """An unset or empty variable is an error that names it; what other secrets hold is never shown."""
    text = """[[providers]]
name = "a"
base_url = "http://h/v1"
credentials = [{ key = "${FIRST}" }, { name = "b", key = "${SECOND}" }, { name = "c", key = "sk-literal secret" }]
"""
    found = problems_of(text, SECOND="")
    assert found[0] == (
        "p.toml:4: providers[0].credentials[0].key: environment variable FIRST is not set: export FIRST=…"
    )
    assert "environment variable SECOND is empty" in found[1]
    assert "holds a space" in found[2]
    assert "literal" not in "".join(found)


def test_a_dollar_brace_can_be_written() -> None:
    """`$${` gives a plain `${`, and an unfinished `${` is refused."""
    text = '[[keys]]\nname = "k"\ntags = ["a$${B}", "c"]\n'
    assert parse(text, {}).keys[0].tags == ("a${B}", "c")
    assert "no ${VARIABLE}" in problems_of('[[keys]]\nname = "k"\ntags = ["${oops"]\n')[0]


def test_variables_of_a_document_are_listed() -> None:
    """Names of the variables a file needs, without reading any of them; escaped ones do not count."""
    assert variables(WHOLE) == ("OPENAI_API_KEY",)
    assert variables('a = ["${B}", { c = "x${A}y$${D}" }]') == ("A", "B")
    assert variables("not toml [") == ()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('[[providers]]\nname = "a"\nbase_url = "http://h"\n' * 2, "two of them are named 'a'"),
        ('[[models]]\nname = "m"\ntargets = []\n', "at least one target"),
        ('[[models]]\nname = "m"\ntargets = [{ target = "a/b" }, { target = "a/b" }]\n', "stands here twice"),
        ('[[models]]\nname = "m m"\ntargets = [{ target = "a/b" }]\n', "printable ASCII"),
        ('[[keys]]\nname = "k"\nexpires_at = 2030-01-01T00:00:00\n', "no time zone"),
        ('[[keys]]\nname = "k"\nkey = ""\n', "not empty"),
        ('[[keys]]\nname = "k"\nmodels = "m"\n', "must be an array, not a text"),
        ("providers = 3\n", "must be an array, not a whole number"),
        ("providers = [3]\n", "must be a table, not a whole number"),
        ('[[providers]]\nname = "a"\nbase_url = "http://h"\ntimeouts = { idle_s = 0 }\n', "more than 0"),
        ('[[providers]]\nname = "a"\nbase_url = "http://h"\ntimeouts = { idle_s = nan }\n', "more than 0"),
        ('[[providers]]\nname = "a"\nbase_url = "http://h"\nmax_connections = true\n', "a whole number, not true"),
    ],
)
def test_what_cannot_be_is_refused(text: str, part: str) -> None:
    """Wrong types, doubled names and impossible values are refused with a reason."""
    assert any(part in problem for problem in problems_of(text)), problems_of(text)


def test_syntax_errors_carry_their_line() -> None:
    """Text that is not TOML is reported with the line of the parser."""
    (problem,) = problems_of("[[providers]]\nname = \n")
    assert problem.startswith("p.toml:2: not TOML: ")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h",
        "h/v1",
        "http://",
        "http://u:p@h/v1",
        "http://h/v1?a=b",
        "http://h:99999",
        "http://h/a b",
        "http://[::1",
    ],
)
def test_addresses_that_would_not_work_are_refused(url: str) -> None:
    """A provider's address is http(s), with a host, without credentials, query or odd characters."""
    assert base_url_fault(url)
    assert not base_url_fault("https://[::1]:8000/v1")


def test_unreadable_files_are_one_line(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A file that is not there, or not text, is an error with the path and the reason."""
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "none.toml", {})
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_text(tmp_path / "b.toml")


def test_patterns_are_said_in_words() -> None:
    """A validation message shows what is allowed instead of a regular expression; others are left as they are."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert("a b", Name)
    assert (
        in_words(f"name: {caught.value}")
        == "name: allowed: letters, digits, . _ - (at most 64, a letter or digit first)"
    )
    assert in_words("name: Expected `str`, got `int`") == "name: Expected `str`, got `int`"


def test_every_repeated_name_is_reported_where_it_stands_again() -> None:
    """Each repetition has its own line, also beside other faults of the same object."""
    key = '[[keys]]\nname = "a"\n'
    price = '[[prices]]\nmodel = "m"\ninput = 1\noutput = 2\n'
    assert problems_of(key * 2 + key + "tags = 5\n" + price * 2) == [
        "p.toml:4: keys[1].name: two of them are named 'a': give each its own name",
        "p.toml:6: keys[2].name: two of them are named 'a': give each its own name",
        "p.toml:7: keys[2].tags: must be an array, not a whole number",
        "p.toml:13: prices[1].model: two of them are named 'm': keep one",
    ]


def test_prices_are_read_strictly() -> None:
    """A price names its model and both directions, and has no member beside those of a price."""
    (price,) = parse('[[prices]]\nmodel = "lab/a"\ninput = 0.1\noutput = 2\n', {}).prices
    assert (price.model, price.price) == ("lab/a", PriceEntry(input=0.1, output=2))
    assert problems_of('[[prices]]\nmodel = "a b"\ninput = -1\noutptu = 2\n') == [
        "p.toml:1: prices[0]: 'output' is missing",
        "p.toml:2: prices[0].model: is 'a b'; allowed: printable ASCII without spaces, at most 200 characters",
        "p.toml:3: prices[0].input: is -1; allowed: at least 0 and at most 1000000",
        "p.toml:4: prices[0].outptu: unknown member; did you mean 'output'?",
    ]


def test_a_faulty_text_is_read_as_far_as_it_goes() -> None:
    """What is sound beside a fault is there, with its place; a secret is not among the plain values."""
    text = '[[keys]]\nname = "a"\nkey = "sec"\n[[keys]]\nname = "b"\ntags = 5\n'
    draft = read(text, {})
    assert draft.document is None
    assert set(draft.entries) == {("keys", 0)}
    assert draft.names("keys") == {("keys", 0, "name"): "a", ("keys", 1, "name"): "b"}
    assert "sec" not in str(draft.values)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Expected `int` <= 2592000", "must be a whole number, at most 2592000"),
        ("Expected `float` > 0.0", "must be a number, more than 0"),
        ("Expected `str` of length >= 1", "must have at least 1 character"),
        ("Expected `array` of length <= 50", "must have at most 50 items"),
        ("Expected `int | null`, got `str`", "must be a whole number or null, not a text"),
        ("Object missing required field `name`", "'name' is missing"),
        ("Object contains unknown field `nmae`", "unknown member 'nmae'"),
        ("Invalid enum value 'x'", "Invalid enum value 'x'"),
    ],
)
def test_validation_messages_in_words(message: str, words: str) -> None:
    """People read no signatures of types."""
    assert in_words(message) == words
