"""Settings of the process: where they come from, what is refused, and that each is described."""

import sys
from pathlib import Path

import msgspec
import pytest

from potluck.config import ConfigError
from potluck.config.settings import LimitSettings, default_home, describe, load_settings, misspelt_variables
from potluck.model.secret import Secret

HOME = {"HOME": "/home/someone"}


def problems_of(options: dict[str, object], **env: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_settings(options, HOME | env)
    return str(caught.value).splitlines()


def test_the_command_line_wins_over_the_environment_over_the_default() -> None:
    """Three sources, one order."""
    assert load_settings({}, HOME).port == 7171
    assert load_settings({}, HOME | {"POTLUCK_PORT": "8000"}).port == 8000
    assert load_settings({"port": "9000"}, HOME | {"POTLUCK_PORT": "8000"}).port == 9000


def test_values_of_every_kind_are_read_from_the_environment() -> None:
    """Sizes with units, booleans, lists, paths, choices and secrets arrive in their types."""
    settings = load_settings(
        {},
        HOME
        | {
            "POTLUCK_MAX_BODY_BYTES": "1MiB",
            "POTLUCK_NO_LOCAL_MODEL": "yes",
            "POTLUCK_TRUSTED_PROXIES": "10.1.2.3/8, ::1",
            "POTLUCK_HOME": "~/p",
            "POTLUCK_LOG_LEVEL": "DEBUG",
            "POTLUCK_MASTER_KEY": "k" * 44,
            "POTLUCK_DRAIN_S": "0.5",
            "POTLUCK_PUBLIC_URL": "https://p.example.org/",
            "POTLUCK_LOG_FORMAT": "",
        },
    )
    assert settings.limits.max_body_bytes == 1 << 20
    assert settings.no_local_model is True
    assert settings.trusted_proxies == ("10.0.0.0/8", "::1/128")
    assert settings.home == Path("~/p").expanduser()
    assert (settings.log.level, settings.log.format, settings.drain_s) == ("debug", None, 0.5)
    assert settings.master_key == Secret("k" * 44)
    assert settings.url == "https://p.example.org"


def test_printing_settings_shows_no_secret() -> None:
    """Settings may be logged: their secrets are stars."""
    assert "sesame" not in repr(load_settings({}, HOME | {"POTLUCK_MASTER_KEY": "open sesame"}))


@pytest.mark.parametrize(
    ("options", "env", "start"),
    [
        ({"workers": 2}, {}, "--workers: more than one worker has not landed in this version"),
        ({}, {"POTLUCK_DATABASE_URL": "postgresql://u:pw@h/d"}, "POTLUCK_DATABASE_URL: PostgreSQL has not landed"),
        ({}, {"POTLUCK_VALKEY_URL": "redis://h"}, "POTLUCK_VALKEY_URL: Valkey has not landed"),
    ],
)
def test_scale_out_is_refused_until_it_lands(options: dict[str, object], env: dict[str, str], start: str) -> None:
    """Asking for what is not there is one clear line, without the secret it may hold."""
    (problem,) = problems_of(options, **env)
    assert problem.startswith(start)
    assert "pw" not in problem


@pytest.mark.parametrize(
    ("options", "env", "part"),
    [
        ({"port": "x"}, {}, "--port: 'x' is not a whole number"),
        ({"port": 70000}, {}, "at most 65535"),
        ({}, {"POTLUCK_PORT": "-1"}, "POTLUCK_PORT: -1 is out of range"),
        ({"tls_cert": __file__}, {}, "give --tls-key as well"),
        ({"config": "/nonexistent.toml"}, {}, "--config: cannot read /nonexistent.toml: no such file"),
        ({"trusted_proxies": "10.0.0.0/99"}, {}, "is no network"),
        ({"public_url": "p.example.org"}, {}, "write https://potluck.example.org"),
        ({"public_url": "https://h/path"}, {}, "an address without a path"),
        ({}, {"POTLUCK_LOG_LEVEL": "loud"}, "'loud' is not one of debug, info, warning, error"),
        ({}, {"POTLUCK_MAX_BODY_BYTES": "big"}, "is not a number of bytes"),
        ({}, {"POTLUCK_MAX_BODY_BYTES": "1GiB"}, "POTLUCK_BUFFERED_BODIES_BYTES"),
        ({}, {"POTLUCK_DRAIN_S": "nan"}, "out of range"),
        ({}, {"POTLUCK_NO_LOCAL_MODEL": "maybe"}, "neither true nor false"),
        ({}, {"POTLUCK_BOOTSTRAP_API_KEY": "plk-short"}, "does not have the shape plk-"),
        ({}, {"POTLUCK_BOOTSTRAP_ADMIN_TOKEN": "plk-" + "a" * 46}, "does not have the shape pla-"),
    ],
)
def test_bad_settings_name_where_they_came_from(options: dict[str, object], env: dict[str, str], part: str) -> None:
    """The error names the option or variable, the value (unless secret) and what is allowed."""
    assert any(part in problem for problem in problems_of(options, **env)), problems_of(options, **env)


def test_all_bad_settings_come_at_once() -> None:
    """Two mistakes are two lines of one error."""
    assert len(problems_of({"port": "x"}, POTLUCK_DRAIN_S="y")) == 2


def test_the_home_directory_follows_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG on Linux, Application Support on macOS, and an explicit XDG_DATA_HOME wins."""
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_home(HOME) == Path("/home/someone/.local/share/potluck")
    assert default_home(HOME | {"XDG_DATA_HOME": "/data"}) == Path("/data/potluck")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_home(HOME) == Path("/home/someone/Library/Application Support/Potluck")


def test_local_address_reaches_a_gateway_bound_to_everything() -> None:
    """0.0.0.0 is no address to call; IPv6 gets its brackets."""
    assert load_settings({"host": "0.0.0.0"}, HOME).url == "http://127.0.0.1:7171"
    assert load_settings({"host": "::"}, HOME).local_url == "http://[::1]:7171"


def test_every_setting_is_described_and_has_its_own_variable() -> None:
    """Each leaf has help and a variable that no other uses; the contract's variables are all there."""
    settings = describe()
    variables = [setting.env for setting in settings]
    assert len(set(variables)) == len(variables)
    assert all(setting.help and setting.env.startswith("POTLUCK_") for setting in settings)
    contract = [
        "HOME",
        "HOST",
        "PORT",
        "CONFIG",
        "DATABASE_URL",
        "VALKEY_URL",
        "PUBLIC_URL",
        "MASTER_KEY",
        "LOG_LEVEL",
        "LOG_FORMAT",
    ]
    assert {f"POTLUCK_{name}" for name in contract} <= set(variables)


def test_limits_carry_the_data_planes_names_and_defaults() -> None:
    """Every limit is one that the data plane has, with the same default: none is read and forgotten."""
    from potluck.proxy.limits import PlaneLimits

    ours, theirs = msgspec.structs.asdict(LimitSettings()), msgspec.structs.asdict(PlaneLimits())
    assert ours == {name: theirs[name] for name in ours}


def test_misspelt_variables_are_recognised() -> None:
    """A typing mistake in a variable's name is found; variables of other programs and of a document are left alone."""
    env = {"POTLUCK_LOGLEVEL": "debug", "POTLUCK_PORT": "1", "POTLUCK_KEY_WEB": "x", "POTLUCK_URL": "u", "PATH": "/"}
    assert misspelt_variables(env) == {"POTLUCK_LOGLEVEL": "POTLUCK_LOG_LEVEL"}
    assert misspelt_variables({"POTLUCK_MODEL_CACHE": "/m", "POTLUCK_HOMES": "/"}) == {"POTLUCK_HOMES": "POTLUCK_HOME"}
