"""The score card's table of cases, its reading of answers, its configurations and its form."""

import json
import tomllib
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.config import reading
from potluck.conformance import display
from potluck.conformance.__main__ import main
from potluck.conformance.answers import chat_events
from potluck.conformance.asking import Gateway
from potluck.conformance.cases import CASES, DEADLINE_S, TEXT
from potluck.conformance.faults import FAULTS
from potluck.conformance.gateways import GATEWAYS, generic, litellm, potluck
from potluck.conformance.judging import LET_GO_S
from potluck.conformance.observation import Answer, Piece, Seen
from potluck.conformance.score import PORTS, RUN_S, WIDTH, Card, chosen, judge

SSE = (("content-type", "text/event-stream; charset=utf-8"),)
STREAM = b"".join(chat_events("m", ("Füße", " 🍲", " 食べ物"), usage=True))


def cut(data: bytes, cuts: list[int]) -> tuple[Piece, ...]:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return tuple(Piece(float(n), data[start:end]) for n, (start, end) in enumerate(pairwise(edges)))


# reading


@given(
    cuts=st.lists(st.integers(0, 2000), max_size=40),
    line_end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    noise=st.sampled_from([b"", b": ping\n\n", b"event: message\nid: 4\n", b"retry: 5\n\n"]),
)
def test_a_stream_reads_the_same_however_it_is_cut(cuts: list[int], line_end: bytes, noise: bytes):
    """Pieces, line ends and fields beside the data change nothing of what was said."""
    body = STREAM.replace(b"data: ", noise + b"data: ").replace(b"\n", line_end)
    answer = Answer(status=200, headers=SSE, pieces=cut(body, cuts))
    assert (answer.text, answer.finish, answer.dones, answer.after_done) == ("Füße 🍲 食べ物", "stop", 1, 0)
    assert [usage["prompt_tokens"] for usage in answer.usages] == [11]
    assert len(answer.comments_s) == (STREAM.count(b"data: ") if noise.startswith(b":") else 0)


@given(body=st.binary(max_size=300), stream=st.booleans())
def test_no_answer_is_too_strange_to_read(body: bytes, stream: bool):
    """Any bytes give a verdict on every line, never an exception."""
    answer = Answer(status=200, headers=SSE if stream else (), pieces=(Piece(0.1, body),))
    for case in CASES[:: len(CASES) // 12]:
        assert not judge(case, Seen(answer=answer, calls=("first",), stream=case.stream)).ok


@pytest.mark.parametrize(
    "body",
    [b"[]", b"{}", b'{"choices":{}}', b'{"choices":[7]}', b'{"choices":[{"delta":[1]}]}', b'{"error":"no","usage":1}'],
)
def test_odd_json_says_nothing(body: bytes):
    """JSON of another shape holds no text and no finish reason."""
    answer = Answer(status=200, pieces=(Piece(0.1, body),))
    assert (answer.text, answer.finish, answer.usages) == ("", "", [])


def test_words_have_the_time_of_their_last_byte():
    """An event counts as arrived when it is whole."""
    first, second = list(chat_events("m"))[1:3]
    pieces = (Piece(1.0, first + second[:9]), Piece(2.0, second[9:]))
    assert Answer(status=200, headers=SSE, pieces=pieces).words_s == [1.0, 2.0]


# the table


def test_names_are_unique_and_faults_exist():
    """Each line has a name of its own, and every target's behaviour stands in the catalogue."""
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({case.model for case in CASES}) == len(CASES)
    for target in (target for case in CASES for target in case.targets):
        assert target.model.partition(";")[0] in FAULTS


def test_no_two_cases_share_what_a_breaker_or_a_parked_key_hangs_on():
    """Every target is one case's own, and faults that cost a key stand under a provider of their own."""
    targets = [(target.place, target.model) for case in CASES for target in case.targets]
    assert len(set(targets)) == len(targets)
    for target in (target for case in CASES for target in case.targets):
        row = FAULTS[target.model.partition(";")[0]]
        assert target.apart == (row.plain is not None and row.plain.error_class.startswith("key_"))


def test_the_run_is_bounded():
    """All cases at their deadlines end within the run's bound, `WIDTH` at a time."""
    longest_s = [case.deadline_s + 2 * LET_GO_S * bool(case.hang_up) for case in chosen()]
    assert all(case.deadline_s == DEADLINE_S for case in chosen())
    assert sum(longest_s) / WIDTH + max(longest_s) <= RUN_S


def test_cases_are_chosen_by_part_pattern_and_section():
    """`--only` takes a part of a name, a pattern, or a section; slow ones only when asked for."""
    assert [case.name for case in chosen("stream-status-5*")] == [f"stream-status-{n}" for n in (500, 502, 503, 529)]
    assert {case.name for case in chosen("crlf")} == {"stream-crlf-lines"}
    assert {case.section for case in chosen("the caller hangs up")} == {"the caller hangs up"}
    assert len(chosen(slow=True)) == len(CASES) == len(chosen()) + 1
    assert chosen("nothing-like-it") == []


# configurations


def test_the_configuration_for_potluck_is_accepted_as_it_stands():
    """`potluck config check` would take it: every model with its targets in order."""
    text = potluck(CASES, "127.0.0.1", PORTS)
    document = reading.parse(text, {})
    assert [model.name for model in document.models] == [case.model for case in CASES]
    providers = {provider.name: provider for provider in document.providers}
    for case, model in zip(CASES, document.models, strict=True):
        for target, entry in zip(case.targets, model.targets, strict=True):
            assert entry.upstream_model == target.model
            provider = providers[entry.provider]
            port = dict(zip(("first", "second", "refused"), PORTS, strict=True))[target.place]
            assert provider.base_url == f"http://127.0.0.1:{port}/v1"
            assert provider.timeouts.first_byte_s == (40 if case.slow else 2)
    assert tomllib.loads(text)["providers"][0]["name"] == "first"


def test_the_configuration_for_litellm_has_every_target_and_fallback():
    """Its YAML names a group per target and the second as the fallback of the first."""
    yaml = pytest.importorskip("yaml")
    read = yaml.safe_load(litellm(CASES, "127.0.0.1", PORTS))
    groups = {group["model_name"]: group["litellm_params"] for group in read["model_list"]}
    fallbacks = {name: names for entry in read["router_settings"]["fallbacks"] for name, names in entry.items()}
    for case in CASES:
        names = [case.model, *fallbacks.get(case.model, [])]
        assert [groups[name]["model"] for name in names] == [f"openai/{target.model}" for target in case.targets]


def test_the_generic_configuration_has_a_row_per_target():
    """Five columns: public model, base URL, upstream model, key, seconds."""
    rows = [row.split("\t") for row in generic(CASES, "::1", (1, 2, 3)).splitlines()[1:]]
    assert len(rows) == sum(len(case.targets) for case in CASES)
    assert rows[0] == ["conf-plain-status-400", "http://[::1]:1/v1", "status-400;for=plain-status-400", "sk-first", "2"]


@pytest.mark.parametrize("name", GATEWAYS)
def test_config_is_printed(name: str, capsys: pytest.CaptureFixture[str]):
    """`config --for` prints what `--listen`, `--host` and `--only` say."""
    arguments = ["config", "--for", name, "--listen", "5001,5002", "--host", "10.1.2.3", "--only", "plain-refused"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "http://10.1.2.3:5003/v1" in text
    assert "http://10.1.2.3:5002/v1" in text
    assert "5001" not in text, "the case needs no faulty provider"


# addresses and arguments


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "tls"),
    [
        ("http://127.0.0.1:7171", "127.0.0.1", 7171, "/v1", False),
        ("http://gateway/v1/", "gateway", 80, "/v1", False),
        ("https://gateway.example/openai", "gateway.example", 443, "/openai/v1", True),
    ],
)
def test_a_url_may_have_its_v1_or_not(url: str, host: str, port: int, path: str, tls: bool):
    """The path of the API is found either way."""
    found = Gateway.at(url)
    assert (found.host, found.port, found.path, found.tls) == (host, port, path, tls)
    assert b"authorization" not in found.request("GET", "/models").lower()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--url", "127.0.0.1:7171", "--listen", "5001,5002"],
        ["--url", "http://127.0.0.1:1", "--only", "no-such-case"],
        ["--url", "http://127.0.0.1:1", "--listen", "5001"],
        ["--url", "http://127.0.0.1:1", "--listen", "5001,5001"],
        ["config"],
        ["config", "--for", "no-such-gateway"],
    ],
)
def test_misuse_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    """Wrong arguments are said on stderr and end with status 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err


# the form of the card


def card(*, failing: int = 1) -> Card:
    good = Answer(status=200, headers=SSE, pieces=(Piece(0.034, b"".join(chat_events("m"))),), took_s=0.034)
    seen = Seen(answer=good, calls=("first", "second"), stream=True)
    lines = [judge(case, seen) for case in chosen("stream-status-5*")]
    assert all(line.ok for line in lines), [line.evidence for line in lines]
    lines[:failing] = [msgspec.structs.replace(line, ok=False) for line in lines[:failing]]
    return Card(gateway="http://gateway", lines=tuple(lines))


def test_the_card_as_text_has_sub_scores_evidence_and_a_total():
    """A line per case and `3 of 4` at the end."""
    text = display.as_text(card())
    assert "stream, before the first word: 3 of 4\nFAIL  stream-status-500" in text
    assert "200 in 34 ms, last call to second, 2 upstream calls, 1 [DONE]\n" in text
    assert text.endswith("\n3 of 4\n")


def test_the_card_as_json_is_complete():
    """Total, sections and every line with its evidence."""
    read = json.loads(display.as_json(card()))
    assert (read["gateway"], read["passed"], read["total"]) == ("http://gateway", 3, 4)
    assert read["sections"] == [{"name": "stream, before the first word", "passed": 3, "total": 4}]
    assert set(read["lines"][0]) == {"name", "section", "does", "must", "ok", "evidence"}


def test_the_card_on_a_terminal_names_every_case(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """The table holds the same lines."""
    monkeypatch.setenv("COLUMNS", "200")
    display.on_terminal(card(failing=0))
    text = capsys.readouterr().out
    assert text.count("PASS") == 4
    assert "stream-status-529" in text
    assert text.rstrip().endswith("4 of 4")


def test_the_good_text_is_what_the_providers_say():
    """The card's text is the one of the canonical answers."""
    assert Answer(status=200, headers=SSE, pieces=(Piece(0.1, b"".join(chat_events("m"))),)).text == TEXT
