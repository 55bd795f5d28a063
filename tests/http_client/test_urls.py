"""URLs that requests of ours go to: which are taken, and what is said of the others."""

from __future__ import annotations

import pytest

from orchestratord.config.loader import load
from orchestratord.config.settings import SettingsError
from orchestratord.http_client.urls import WrongUrl, http_url
from orchestratord.profiler.agent import ProfilerSettings

GOOD = (
    "http://127.0.0.1:9090",
    "http://[::1]:9090",
    "http://[::1]",
    "http://[2001:db8::8a2e:370:7334]:80/prometheus",
    "http://[::ffff:127.0.0.1]:9090",
    "http://my_prometheus:9090",
    "http://_srv.a_b-c.example.",
    "https://prometheus.monitoring.svc.cluster.local",
    "http://1host.2x:65535",
    "http://xn--bcher-kva.example",
    "HTTP://Prometheus:1",
    f"http://{'.'.join(['a' * 63] * 3)}.{'a' * 61}",
)
BAD = (
    ("prometheus:9090", "must begin with http:// or https://"),
    ("http:prometheus", "must begin with http:// or https://"),
    ("unix:///run/x", "must begin with http:// or https://"),
    ("http://", "must have a host"),
    ("http://:9090", "must have a host"),
    ("http://h:", "must have a port from 1 to 65535, not ''"),
    ("http://h:0", "must have a port"),
    ("http://h:65536", "must have a port"),
    ("http://h:-1", "must have a port"),
    ("http://h:9_0", "must have a port"),
    ("http://h:x", "must have a port"),
    ("http://[::1]:0", "must have a port"),
    ("http://::1:9090", "must have an IPv6 address in brackets"),
    ("http://[::1", "must have an IPv6 address, and nothing else"),
    ("http://[::1]x", "must have an IPv6 address"),
    ("http://[x]", "must have an IPv6 address, and nothing else"),
    ("http://[127.0.0.1]", "must have an IPv6 address, and nothing else"),
    ("http://[fe80::1%eth0]:9090", "must not have a zone (%)"),
    ("http://[fe80::1%25eth0]:9090", "must not have a zone (%)"),
    ("http://u:p@h", "must not hold credentials"),
    ("http://@h", "must not hold credentials"),
    ("http://h/#f", "must not have a fragment"),
    ("http://h/#", "must not have a fragment"),
    ("http://h /", "must not hold blanks"),
    ("http://h\t/", "must not hold blanks"),
    ("http://b\u00fccher", "characters that are not ASCII"),
    ("http://a..b", "without empty parts between its dots"),
    ("http://.a", "without empty parts between its dots"),
    ("http://a..", "without empty parts between its dots"),
    (f"http://{'a' * 64}", "have at most 63 characters"),
    (f"http://{'.'.join(['a' * 63] * 4)}", "a host of at most 253 characters; this one has 255"),
    ("http://a%20b", "letters, digits, '-', '_' and '.'"),
    ("http://a,b", "letters, digits, '-', '_' and '.'"),
    ("http://a\\b", "letters, digits, '-', '_' and '.'"),
    ("http://256.1.1.1", "must have a host that is a name or an address"),
    ("http://1.2.3", "must have a host that is a name or an address"),
    ("http://a.0x7f", "must have a host that is a name or an address"),
)


@pytest.mark.parametrize("url", GOOD)
def test_what_may_work_is_taken(url: str) -> None:
    """By every option that takes a URL; the scheme in lower case, which others compare it in."""
    assert http_url(url).geturl() == url.replace("HTTP:", "http:")
    assert load({"prometheus": [url]}, {}).prometheus == (url.replace("HTTP:", "http:").rstrip("/"),)
    assert ProfilerSettings(orchestrator=url, node_id="n1").report_url.endswith("/update_metrics")


@pytest.mark.parametrize(("url", "said"), BAD)
def test_what_can_never_work_is_refused(url: str, said: str) -> None:
    """At the start, with the option and the value."""
    with pytest.raises(WrongUrl) as wrong:
        http_url(url)
    assert said in str(wrong.value)
    for option in ("prometheus", "remote-write", "oidc.jwks"):
        if option == "oidc.jwks" and "://" not in url:
            continue  # a path
        given = [url] if option == "prometheus" else url
        with pytest.raises(SettingsError, match=f"^(--)?{option}: "):
            load({option: given}, {})
    with pytest.raises(ValueError, match="^orchestrator ") as raised:
        ProfilerSettings(orchestrator=url, node_id="n1")
    assert said in str(raised.value)
