"""Settings from flags, environment, file and defaults."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from orchestratord.config.options import OPTIONS
from orchestratord.config.settings import Settings, SettingsError, load
from orchestratord.nodes.families import BUILT_IN
from orchestratord.security.gate import Role

ROOT = Path(__file__).parents[2]


def test_the_defaults_are_the_contracts() -> None:
    """What CONTRACT.md's table says."""
    settings = load({}, {"HOME": "/home/me"})
    assert settings.listen == ("tcp:5000",)
    assert settings.prometheus == ("http://127.0.0.1:9090",)
    assert settings.prometheus_header == ()
    assert settings.stale_after == 60
    assert settings.expire_every == 5
    assert settings.query_timeout == 10
    assert settings.max_nodes == 150_000
    assert settings.max_report_bytes == 1_048_576
    assert settings.data_dir == Path("/home/me/.local/state/orchestratord")
    assert not settings.all_in_one
    assert not settings.embedded
    assert settings.families is BUILT_IN


def test_snapshots_are_off_or_not_too_often() -> None:
    """0 is off; a disk is not to be kept busy all the time."""
    assert load({}, {}).snapshot_every == 10
    assert load({"snapshot-every": "0"}, {}).snapshot_every == 0
    with pytest.raises(SettingsError, match=r"--snapshot-every: '0.01' must be 0, or a number of seconds from 0.1"):
        load({"snapshot-every": "0.01"}, {})


def test_the_data_dir_follows_the_xdg_specification() -> None:
    """A relative path there is passed over, as the specification has it."""
    assert load({}, {"XDG_STATE_HOME": "/state"}).data_dir == Path("/state/orchestratord")
    assert load({}, {"XDG_STATE_HOME": "state", "HOME": "/h"}).data_dir == Path("/h/.local/state/orchestratord")


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    """Each where the one before it is silent."""
    file = tmp_path / "o.toml"
    file.write_text('stale-after = 10\nmax_nodes = 20\nlisten = ["tcp:1", "tcp:2"]\nmax-batch = 7\n')
    environ = {"ORCHESTRATOR_STALE_AFTER": "30", "ORCHESTRATOR_MAX_NODES": "40", "ORCHESTRATOR_CONFIG": str(file)}
    settings = load({"stale-after": "50"}, environ)
    assert settings.stale_after == 50
    assert settings.max_nodes == 40
    assert settings.listen == ("tcp:1", "tcp:2")
    assert settings.max_batch == 7
    assert settings.expire_every == 5
    assert load({"config": str(file)}, {}).stale_after == 10


def test_repeatable_options_in_the_environment() -> None:
    """Separated by blanks; headers, which have blanks in them, by lines; empty is not given."""
    settings = load(
        {},
        {
            "ORCHESTRATOR_LISTEN": "tcp:1 tcp:2",
            "ORCHESTRATOR_PROMETHEUS": "http://a:9090/, https://b/prometheus/",
            "ORCHESTRATOR_PROMETHEUS_HTTP_HEADERS": "X-Scope-OrgID: team a\nX-B: 2",
            "ORCHESTRATOR_STALE_AFTER": "",
        },
    )
    assert settings.listen == ("tcp:1", "tcp:2")
    assert settings.prometheus == ("http://a:9090", "https://b/prometheus")
    assert settings.prometheus_header == (("X-Scope-OrgID", "team a"), ("X-B", "2"))
    assert settings.stale_after == 60


def test_token_files_by_role(tmp_path: Path) -> None:
    """Flags, environment and file; a path may have an equals sign, and the same role several files."""
    expected = ((Role.REPORT, Path("/a=b")), (Role.REPORT, Path("/c")), (Role.ADMIN, Path("/d")))
    given = ["report=/a=b", "report=/c", "admin=/d"]
    file = tmp_path / "o.toml"
    file.write_text(f"token-file = {given}")
    assert load({"token-file": given}, {}).token_file == expected
    assert load({}, {"ORCHESTRATOR_TOKEN_FILE": "report=/a=b report=/c\nadmin=/d"}).token_file == expected
    assert load({"config": str(file)}, {}).token_file == expected


def test_where_keys_may_be() -> None:
    """A file, an https URL, or one of this very machine."""
    for given in ("/keys.json", "https://issuer.test/keys", "http://127.0.0.1:8080/keys", "http://localhost/keys"):
        flags = {"oidc.jwks": given, "oidc.issuer": "i", "oidc.audience": "a"}
        assert load(flags, {}).report_oidc_jwks == given


def test_prometheus_url_is_accepted_and_the_own_name_goes_first() -> None:
    """PROMETHEUS_URL is what older deployments set."""
    assert load({}, {"PROMETHEUS_URL": "http://old:9090"}).prometheus == ("http://old:9090",)
    both = {"PROMETHEUS_URL": "http://old:9090", "ORCHESTRATOR_PROMETHEUS": "http://new:9090"}
    assert load({}, both).prometheus == ("http://new:9090",)


def test_what_kubernetes_puts_into_the_environment_is_passed_over() -> None:
    """A service of our name makes variables that look like options and are none."""
    environ = {
        "HOME": "/h",
        "ORCHESTRATOR_SERVICE_SERVICE_HOST": "10.0.0.1",
        "ORCHESTRATOR_PORT": "tcp://10.0.0.1:5000",
        "ORCHESTRATOR_SERVICE_PORT_5000_TCP": "tcp://10.0.0.1:5000",
    }
    assert load({}, environ) == load({}, {"HOME": "/h"})


def test_all_in_one_brings_its_own_prometheus() -> None:
    """And refuses another one, rather than start one that nobody asks."""
    assert load({"all-in-one": True}, {}).embedded
    assert load({}, {"ORCHESTRATOR_ALL_IN_ONE": "yes"}).embedded
    assert load({"all-in-one": True, "prometheus": ["embedded"]}, {}).embedded
    with pytest.raises(SettingsError, match="--prometheus: 'http://p' does not go with --all-in-one"):
        load({"all-in-one": True, "prometheus": ["http://p"]}, {})


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"stale-after": "abc"}, "--stale-after: 'abc' must be a number of seconds from 0.1 to 86400"),
        ({"stale-after": "0"}, "--stale-after: '0' must be"),
        ({"stale-after": "nan"}, "--stale-after: 'nan' must be"),
        ({"max-nodes": "1.5"}, "--max-nodes: '1.5' must be a whole number from 1 to 10000000"),
        ({"max-nodes": "1e999"}, "--max-nodes: '1e999' must be"),
        (
            {"limits.max_answers_bytes": "1024"},
            "limits.max_answers_bytes: 1024 must be limits.max_answer_bytes at least, which is 67108864",
        ),
        ({"limits.max_arriving_bytes": "9999"}, "limits.max_arriving_bytes: 9999 must be --max-report-bytes at least"),
        ({"listen": ["tcp:5000", "nonsense"]}, "--listen: 'nonsense' must be a Twisted endpoint description"),
        ({"listen": ["tcp:http"]}, "--listen: 'tcp:http' must be a Twisted endpoint description"),
        (
            {"prometheus": ["localhost:9090"]},
            "--prometheus: 'localhost:9090' must begin with http:// or https://; it is",
        ),
        ({"prometheus": ["http://"]}, "--prometheus: 'http://' must have a host"),
        ({"prometheus": ["http://h:99999"]}, "--prometheus: 'http://h:99999' must have a port from 1 to 65535"),
        ({"prometheus": ["http://h?x=1"]}, "--prometheus: 'http://h?x=1' must be a base URL, without a query"),
        ({"prometheus": ["http://u:p@h"]}, "must not hold credentials: there are options for them"),
        ({"prometheus": ["http://h", "embedded"]}, "--prometheus: 'embedded' must be the only one"),
        ({"prometheus": ["embedded"], "listen": ["unix:/x"]}, "--listen: 'unix:/x' has no tcp: endpoint"),
        ({"listen": ["tls:tcp:http"]}, "--listen: 'tls:tcp:http' must be a Twisted endpoint description"),
        ({"listen": ["tls:nonsense"]}, "--listen: 'tls:nonsense' must be a Twisted endpoint description"),
        ({"listen": ["tls:ssl:1:privateKey=x"]}, "--listen: 'tls:ssl:1:privateKey=x' must not have TLS twice"),
        ({"listen": ["tls:tcp:1"]}, "--listen: 'tls:tcp:1' needs tls.cert_file and tls.key_file"),
        ({"admin-listen": ["tls:tcp:1"]}, "--admin-listen: 'tls:tcp:1' needs tls.cert_file and tls.key_file"),
        ({"tls.cert_file": "/c"}, "tls.cert_file: '/c' is for a listener such as --listen tls:tcp:5443"),
        ({"tls.client_ca_file": "/c"}, "tls.client_ca_file: '/c' is for a listener such as"),
        ({"listen": ["tls:tcp:1"], "tls.client_ca_file": "/c"}, "--listen: 'tls:tcp:1' needs tls.cert_file and"),
        ({"listen": ["tls:tcp:1"], "tls.cert_file": "/c"}, "tls.cert_file: '/c' needs tls.key_file as well"),
        ({"listen": ["tls:tcp:1"], "tls.key_file": "/k"}, "tls.key_file: '/k' needs tls.cert_file as well"),
        (
            {"prometheus": ["https://h"], "prometheus_http.key_file": "/k"},
            "prometheus_http.key_file: '/k' needs prometheus_http.cert_file",
        ),
        (
            {"prometheus_http.ca_file": "/c"},
            "prometheus_http.ca_file: '/c' is for an https:// URL of --prometheus, and there is none",
        ),
        (
            {"prometheus_http.credentials_file": "/t", "prometheus_http.basic_auth_file": "/b"},
            "prometheus_http.credentials_file: '/t' does not go with prometheus_http.basic_auth_file",
        ),
        (
            {"prometheus_http.credentials_file": "/t", "prometheus_http.headers": ["authorization: Bearer x"]},
            "prometheus_http.credentials_file: '/t' does not go with an Authorization in prometheus_http.headers",
        ),
        (
            {"prometheus_http.basic_auth_file": "/b", "prometheus": ["embedded"]},
            "prometheus_http.basic_auth_file: '/b' does not go with --prometheus embedded",
        ),
        (
            {"prometheus": ["embedded"], "listen": ["tls:tcp:1"], "tls.cert_file": "/c", "tls.key_file": "/k"},
            "--listen: 'tls:tcp:1' has no tcp: endpoint for the embedded Prometheus to scrape (one with tls: before it",
        ),
        ({"prometheus_http.headers": ["no colon"]}, "prometheus_http.headers: 'no colon' must be 'Name: value'"),
        ({"prometheus_http.headers": ["A: b\r\nC: d"]}, "must be 'Name: value' in printable ASCII"),
        ({"prometheus_http.headers": ["Host: x"]}, "must not be Host"),
        ({"prometheus-retention": "forever"}, "--prometheus-retention: 'forever' must be a duration"),
        ({"token-file": ["/x"]}, "--token-file: '/x' must be ROLE=PATH, with one of the roles report, query"),
        ({"token-file": ["root=/x"]}, "--token-file: 'root=/x' must be ROLE=PATH"),
        ({"token-file": ["query="]}, "--token-file: 'query=' must be ROLE=PATH"),
        ({"oidc.jwks": "/keys"}, "oidc.jwks: '/keys' needs oidc.issuer as well"),
        ({"oidc.audience": "a"}, "oidc.audience: 'a' needs oidc.jwks as well"),
        ({"oidc.jwks": "http://issuer/keys"}, "anybody on the way could let anybody in"),
        (
            {"oidc.jwks": "ftp://issuer/keys"},
            "oidc.jwks: 'ftp://issuer/keys' must begin with http:// or",
        ),
        ({"oidc.jwks": "https://u:p@issuer/keys"}, "must not hold credentials"),
        ({"oidc.jwks": "https://:1"}, "must have a host; it is a file, or an https URL"),
        ({"oidc.ca_file": "/ca"}, "oidc.ca_file: '/ca' is for an oidc.jwks that is a URL"),
        ({"oidc.credentials_file": "/t"}, "oidc.credentials_file: '/t' is for an oidc.jwks that is"),
        (
            {"oidc.jwks": "/k", "oidc.issuer": "i", "oidc.audience": "a", "all-in-one": True},
            "oidc.jwks: '/k' shuts out the profiler of --all-in-one",
        ),
        ({"data-dir": " "}, "--data-dir: ' ' must be a text that is not empty"),
        ({"config": "/does/not/exist"}, "--config: '/does/not/exist' cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_flag_is_one_line_with_its_name_and_value(flags: dict[str, Any], said: str) -> None:
    """So that its user finds it."""
    with pytest.raises(SettingsError) as raised:
        load(flags, {})
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_tls_settings_that_go_together() -> None:
    """A listener with its files, whichever kind of endpoint; an https upstream with its own."""
    files = {"tls.cert_file": "/c", "tls.key_file": "/k", "tls.client_ca_file": "/a"}
    settings = load({"listen": ["tcp:1", "tls:unix:/run/x.sock"], "admin-listen": ["tls:tcp:2"], **files}, {})
    assert settings.tls_certificate == Path("/c")
    assert settings.listeners == ("tcp:1", "tls:unix:/run/x.sock", "tls:tcp:2")
    assert load({"admin-listen": ["tls:tcp:2"], **files}, {}).tls_client_ca == Path("/a")
    upstream = {"prometheus_http.ca_file": "/c", "prometheus_http.cert_file": "/d", "prometheus_http.key_file": "/k"}
    settings = load({"prometheus": ["http://a", "https://b"], "prometheus_http.credentials_file": "/t", **upstream}, {})
    assert settings.prometheus_token_file == Path("/t")


def test_a_wrong_variable_is_named_as_such() -> None:
    """Not as the flag that nobody gave."""
    with pytest.raises(SettingsError, match="^ORCHESTRATOR_MAX_NODES: 'many' must be a whole number"):
        load({}, {"ORCHESTRATOR_MAX_NODES": "many"})
    with pytest.raises(SettingsError, match="^PROMETHEUS_URL: 'x' must be"):
        load({}, {"PROMETHEUS_URL": "x"})
    with pytest.raises(SettingsError, match="^ORCHESTRATOR_ACCESS_LOG: 'maybe' must be true or false"):
        load({}, {"ORCHESTRATOR_ACCESS_LOG": "maybe"})


def test_keys_of_tables(tmp_path: Path) -> None:
    """From the file, and from variables with the table's name in them, which override the file."""
    file = tmp_path / "o.toml"
    file.write_text('[limits]\nquery_queue = 3\nspool_sync = 2\n[prometheus_http]\nheaders = ["A: 1", "B: 2"]\n')
    environ = {"ORCHESTRATOR_LIMITS_QUERY_QUEUE": "4", "ORCHESTRATOR_REMOTE_WRITE_HTTP_TIMEOUT": "7"}
    settings = load({"config": str(file)}, environ)
    assert settings.query_queue == 4
    assert settings.spool_sync == 2
    assert settings.prometheus_header == (("A", "1"), ("B", "2"))
    assert settings.remote_write_timeout == 7


def test_an_old_name_is_refused_with_the_new_one(tmp_path: Path) -> None:
    """As a variable and as a key; tests/test_tap.py has the flags."""
    said = "is now the key query_queue of the table .limits. in the --config file, or ORCHESTRATOR_LIMITS_QUERY_QUEUE"
    with pytest.raises(SettingsError, match=f"^ORCHESTRATOR_LIMITS_QUERY_QUEUE {said}"):
        load({}, {"ORCHESTRATOR_LIMITS_QUERY_QUEUE": "4"})
    file = tmp_path / "o.toml"
    file.write_text("query-queue = 3")
    with pytest.raises(SettingsError, match=f"'query-queue' {said}"):
        load({"config": str(file)}, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("limits = 1", "'limits' must be a table, [limits]"),
        ("[limits]\nmax_nodes = 1", "'limits.max_nodes' is not a setting"),
        ("[limits]\nquery_queue = -1", "limits.query_queue: -1 must be a whole number from 0"),
        ("stale-afer = 1", "'stale-afer' is not a setting; did you mean stale-after?"),
        ("stale_aftr = 1", "'stale_aftr' is not a setting; did you mean stale-after?"),
        ("zzz = 1", "'zzz' is not a setting"),
        ("stale-after = 'x'", "stale-after: 'x' must be a number"),
        ("stale-after = true", "stale-after: True must be a number"),
        ("all-in-one = 1", "all-in-one: 1 must be true or false"),
        ("listen = []", "listen: must hold at least one value"),
        ("listen = 5000", "listen: 5000 must be a text"),
        ("x = ", "is not TOML"),
        ("families = 1", "families: must be an array of tables"),
        ("[[families]]\nname = 'x'", "families[0]: 'help' is missing"),
        ("[[families]]\nname = 'x'\nhelp = 'X.'\nlabels = 'y'", "families[0]: 'labels' is no key of a family"),
        ("[[families]]\nname = 1\nhelp = 'X.'", "families[0].name: 1 is of the wrong type"),
        ("[[families]]\nname = 'x'\nhelp = 'X.'\nminimum = true", "families[0].minimum: True is of the wrong type"),
        ("[[families]]\nname = '9'\nhelp = 'X.'", "families[0]: '9' is not a Prometheus metric name"),
        ("[[families]]\nname = 'page_faults'\nhelp = 'X.'", "'page_faults' is there twice"),
    ],
)
def test_a_wrong_file_is_one_line_with_its_name_and_key(tmp_path: Path, text: str, said: str) -> None:
    """Every key is checked, those that are none too."""
    file = tmp_path / "o.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as raised:
        load({"config": str(file)}, {})
    assert said in str(raised.value)
    assert str(file) in str(raised.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    """It is an error, not a crash."""
    file = tmp_path / "o.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="is not UTF-8"):
        load({"config": str(file)}, {})


def test_families_of_the_file_follow_the_built_in_ones(tmp_path: Path) -> None:
    """With their kind, unit and minimum."""
    file = tmp_path / "o.toml"
    file.write_text(
        "[[families]]\nname = 'tcp_retransmits_total'\nhelp = 'Sent again.'\nkind = 'counter'\n"
        "[[families]]\nname = 'temperature_celsius'\nhelp = 'How warm.'\nunit = 'celsius'\nminimum = -273.15\n"
    )
    families = load({"config": str(file)}, {}).families
    assert families.names[8:] == ("tcp_retransmits_total", "temperature_celsius")
    assert [family.minimum for family in families][8:] == [0, -273.15]


def test_the_sample_file_holds_every_option_with_its_default() -> None:
    """etc/orchestrator.toml loads, changes nothing, and leaves no key out."""
    path = ROOT / "etc" / "orchestrator.toml"
    sample, plain = load({"config": str(path)}, {"HOME": "/h"}), load({}, {"HOME": "/h"})
    for field in dataclasses.fields(Settings):
        if field.name not in {"families", "data_dir"}:
            assert getattr(sample, field.name) == getattr(plain, field.name), field.name
    text = path.read_text()
    for option in OPTIONS:
        _, _, key = option.name.rpartition(".")
        assert f"\n{key} = " in text or f"\n# {key} = " in text, option.name


def test_the_readme_names_every_option() -> None:
    """With its default."""
    text = (ROOT / "README.md").read_text()
    for option in OPTIONS:
        assert f"`{option.shown}`" in text, option.name
