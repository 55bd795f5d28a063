"""The options of remote write: an error is one line that names the option and the value."""

from __future__ import annotations

from typing import Any

import pytest

from orchestratord.config.loader import load
from orchestratord.config.settings import SettingsError

URL = "http://store:9090/api/v1/write"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            {"remote-write": "http://h:9090"},
            "--remote-write: 'http://h:9090' must have the path of a remote-write receiver, .*/api/v1/write",
        ),
        ({"remote-write": "http://h/"}, "--remote-write: 'http://h/' must have the path of a remote-write receiver"),
        (
            {"remote-write": "h:9090/api/v1/write"},
            "--remote-write: 'h:9090/api/v1/write' must begin with http:// or https://",
        ),
        ({"remote-write": "ftp://h/w"}, "--remote-write: 'ftp://h/w' must begin with http:// or https://"),
        ({"remote-write": "http://u:p@h/w"}, "must not hold credentials"),
        ({"remote-write": "http://h/w#f"}, "must not have a fragment"),
        ({"external-label": ["cluster"]}, "--external-label: 'cluster' must be name=value, such as cluster=blue"),
        ({"external-label": ["9a=b"]}, "'9a=b' must be name=value, .*: a name of letters, digits and _, and a value"),
        ({"external-label": ["a="]}, "--external-label: 'a=' must be name=value"),
        ({"external-label": ["node_id=x"]}, "'node_id=x' must not be node_id, which every series already has"),
        ({"external-label": ["__name__=x"]}, "'__name__=x' must have a name that does not begin with __"),
        ({"external-label": ["a=b", "a=c"]}, "--external-label: 'a' is given twice"),
        ({"remote_write_http.headers": ["X"]}, "remote_write_http.headers: 'X' must be 'Name: value'"),
        (
            {"remote_write_http.headers": ["Content-Encoding: br"]},
            "'Content-Encoding' is set by the remote-write protocol",
        ),
        ({"prometheus": ["embedded"]}, "--prometheus: 'embedded' cannot be used with --remote-write: give the URL"),
        ({"all-in-one": True}, "--all-in-one: cannot be used with --remote-write"),
        (
            {"latest-from-memory": "always"},
            "--latest-from-memory: 'always' cannot be used with --remote-write: .* knows only",
        ),
        ({"latest-from-memory": "fallback"}, "--latest-from-memory: 'fallback' cannot be used with --remote-write"),
        (
            {"remote_write_http.credentials_file": "/t", "remote_write_http.basic_auth_file": "/b"},
            "remote_write_http.credentials_file: '/t' cannot be used with remote_write_http.basic_auth_file",
        ),
        (
            {"remote_write_http.credentials_file": "/t", "remote_write_http.headers": ["authorization: x"]},
            "remote_write_http.credentials_file: '/t' cannot be used with an Authorization in remote_write_http.",
        ),
        (
            {"remote_write_http.ca_file": "/c"},
            "remote_write_http.ca_file: '/c' needs an https:// URL in --remote-write",
        ),
        (
            {"remote_write_http.key_file": "/k"},
            "remote_write_http.key_file: '/k' needs remote_write_http.cert_file as well",
        ),
        (
            {"remote_write_http.batch_delay": "3"},
            "remote_write_http.batch_delay: '3' must be a number of seconds from 0.01 to 0.5",
        ),
        ({"spool-max-bytes": "1G"}, "--spool-max-bytes: '1G' must be a whole number from 1048576"),
        ({"expose-nodes": "maybe"}, "--expose-nodes: 'maybe' must be one of auto, always, never"),
    ],
)
def test_what_is_wrong_is_named(flags: dict[str, Any], said: str) -> None:
    """Each error stops the start."""
    with pytest.raises(SettingsError, match=said) as raised:
        load({"remote-write": URL, **flags}, {})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("remote_write_http.headers", ["X-Scope-OrgID: blue"], "X-Scope-OrgID"),
        ("external-label", ["cluster=blue"], "cluster"),
        ("remote_write_http.credentials_file", "/t", "/t"),
        ("remote_write_http.basic_auth_file", "/b", "/b"),
    ],
)
def test_what_is_for_a_store_needs_one(option: str, value: Any, named: str) -> None:
    """A user who sets such an option expects delivery."""
    with pytest.raises(SettingsError, match=f"{option}: '{named}' needs --remote-write"):
        load({option: value}, {})


def test_a_receiver_may_be_told_more_in_its_query() -> None:
    """The URL is used as it is; to a base URL a path is added."""
    url = "http://h:8428/api/v1/write?extra_label=a=b"
    assert load({"remote-write": url}, {}).remote_write == url
