"""What a server refuses to start with."""

import pytest

from jogak.errors import UserError
from jogak.serving.server import names_of
from jogak.serving.settings import Settings, is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.3.2.1"])
def test_the_loopback_needs_no_key(host):
    assert is_loopback(host)
    assert "localhost" in (Settings(host=host).names or ())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_others_are_served_with_a_key_or_when_that_is_meant(host):
    with pytest.raises(UserError, match="JOGAK_API_KEY or --api-key-file"):
        Settings(host=host)
    assert Settings(host=host, api_key="k").names is None
    assert Settings(host=host, insecure=True).api_key is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"rows": 0}, "rows must be a whole number at least 1, got 0"),
        ({"queue": -1}, "queue must be a whole number at least 0, got -1"),
        ({"port": 70000}, "port must be a whole number from 0 to 65535, got 70000"),
        ({"timeout": float("nan")}, "timeout must be more than 0"),
        ({"api_key": " "}, "the API key must be ASCII"),
        ({"api_key": "열쇠"}, "the API key must be ASCII"),
    ],
)
def test_what_does_not_fit_is_named(given, told):
    with pytest.raises(UserError, match=told):
        Settings(**given)


def test_models_have_names(tmp_path):
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    run = str(tmp_path / "runs" / "demo")
    assert names_of([run, "owner/small", f"other={run}"]) == {"demo": run, "small": "owner/small", "other": run}
    with pytest.raises(UserError, match=r"two models are called 'demo'.*NAME="):
        names_of([run, f"demo={run}"])
