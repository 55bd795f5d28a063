"""Checks of settings against each other: what no option can check alone. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestratord.config.options import OPTIONS
from orchestratord.config.settings import SettingsError
from orchestratord.config.values import EMBEDDED
from orchestratord.security.gate import Role
from orchestratord.security.tls import TLS_PREFIX

if TYPE_CHECKING:
    from orchestratord.config.settings import Settings

_BY_NAME = {option.name: option for option in OPTIONS}


def check_together(settings: Settings) -> None:
    """Raise SettingsError, with the option and its value, if a setting contradicts another or lacks one it needs."""
    for one, all_of_them in (
        ("limits.max_answer_bytes", "limits.max_answers_bytes"),
        ("max-report-bytes", "limits.max_arriving_bytes"),
    ):
        least, given = (getattr(settings, _BY_NAME[name].attribute) for name in (one, all_of_them))
        if given < least:
            raise SettingsError(f"{all_of_them}: {given!r} must be at least {_BY_NAME[one].shown}, which is {least}")
    if EMBEDDED in settings.prometheus:
        if not settings.embedded:
            raise SettingsError(f"--prometheus: {EMBEDDED!r} must be the only value")
        if not any(listen.startswith("tcp:") for listen in settings.listen):
            raise SettingsError(
                f"--listen: {' '.join(settings.listen)!r} has no tcp: endpoint for the embedded Prometheus to scrape"
                + (" (a tls: endpoint does not count)" if _with_tls(settings.listen) else "")
            )
    _check_tls(settings)
    _check_access(settings, "prometheus", settings.prometheus)
    _check_access(settings, "remote-write", () if settings.remote_write is None else (settings.remote_write,))
    _check_remote_write(settings)
    _check_oidc(settings)


def _with_tls(listeners: tuple[str, ...]) -> list[str]:
    return [listen for listen in listeners if listen.startswith(TLS_PREFIX)]


def _check_tls(settings: Settings) -> None:
    served = _with_tls(settings.listeners)
    certificate = _given(settings, "tls.cert_file", "tls.key_file")
    if served and not certificate:
        option = "--listen" if served[0] in settings.listen else "--admin-listen"
        raise SettingsError(f"{option}: {served[0]!r} needs tls.cert_file and tls.key_file")
    for option, path in {**certificate, **_given(settings, "tls.client_ca_file")}.items():
        if not served:
            raise SettingsError(f"{option}: {path!r} needs a listener with TLS, such as --listen tls:tcp:5443")
    _check_pair(settings, "tls.cert_file", "tls.key_file")


def _check_access(settings: Settings, prefix: str, urls: tuple[str, ...]) -> None:
    """Check the options that say how to reach the servers of `--PREFIX`, which have these URLs."""
    table = f"{prefix.replace('-', '_')}_http"
    _check_pair(settings, f"{table}.cert_file", f"{table}.key_file")
    for option, path in _given(settings, f"{table}.ca_file", f"{table}.cert_file").items():
        if not any(url.startswith("https:") for url in urls):
            raise SettingsError(f"{option}: {path!r} needs an https:// URL in --{prefix}")
    headers = getattr(settings, _BY_NAME[f"{table}.headers"].attribute)
    credentials = _given(settings, f"{table}.credentials_file", f"{table}.basic_auth_file")
    for option, path in credentials.items():
        if len(credentials) > 1:
            raise SettingsError(f"{option}: {path!r} cannot be used with {table}.basic_auth_file")
        if EMBEDDED in urls:
            raise SettingsError(
                f"{option}: {path!r} cannot be used with --prometheus {EMBEDDED}, which takes no credentials"
            )
        if any(name.lower() == "authorization" for name, _ in headers):
            raise SettingsError(f"{option}: {path!r} cannot be used with an Authorization in {table}.headers")


def _check_remote_write(settings: Settings) -> None:
    if settings.remote_write is None:
        _check_no_remote_write(settings)
        return
    names = [name for name, _ in settings.external_label]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"--external-label: {name!r} is given twice")
    for name, _ in settings.remote_write_header:
        if name.lower() in {"content-encoding", "x-prometheus-remote-write-version"}:
            raise SettingsError(f"remote_write_http.headers: {name!r} is set by the remote-write protocol")
    if settings.embedded:
        if settings.all_in_one:
            raise SettingsError("--all-in-one: cannot be used with --remote-write: it starts a Prometheus of its own")
        raise SettingsError(
            f"--prometheus: {EMBEDDED!r} cannot be used with --remote-write: give the URL of the store that gets the"
            " reports"
        )
    if settings.latest_from_memory != "never":
        raise SettingsError(
            f"--latest-from-memory: {settings.latest_from_memory!r} cannot be used with --remote-write: this process"
            " knows only the nodes that report to it; the store knows the nodes of all replicas"
        )


def _check_no_remote_write(settings: Settings) -> None:
    given = _given(settings, "remote_write_http.credentials_file", "remote_write_http.basic_auth_file")
    for name, values in (
        ("remote_write_http.headers", settings.remote_write_header),
        ("external-label", settings.external_label),
    ):
        if values:
            given[_BY_NAME[name].shown] = values[0][0]
    for option, value in given.items():
        raise SettingsError(f"{option}: {value!r} needs --remote-write")


def _given(settings: Settings, *names: str) -> dict[str, str]:
    """Return the paths that are set, by the names of their options."""
    paths = {name: getattr(settings, _BY_NAME[name].attribute) for name in names}
    return {_BY_NAME[name].shown: str(path) for name, path in paths.items() if path is not None}


def _check_pair(settings: Settings, *names: str) -> None:
    given = _given(settings, *names)
    if len(given) == 1:
        (option, path), missing = *given.items(), {_BY_NAME[name].shown for name in names} - given.keys()
        raise SettingsError(f"{option}: {path!r} needs {missing.pop()} as well")


def _check_oidc(settings: Settings) -> None:
    jwks = settings.report_oidc_jwks
    needed = {"jwks": jwks, "issuer": settings.report_oidc_issuer, "audience": settings.report_oidc_audience}
    missing = [name for name, value in needed.items() if value is None]
    if missing and len(missing) < len(needed):
        given = next(name for name, value in needed.items() if value is not None)
        raise SettingsError(f"oidc.{given}: {needed[given]!r} needs oidc.{missing[0]} as well")
    for name, path in (("ca_file", settings.report_oidc_ca), ("credentials_file", settings.report_oidc_token_file)):
        if path is not None and "://" not in (jwks or ""):
            raise SettingsError(f"oidc.{name}: {str(path)!r} needs an oidc.jwks that is a URL")
    if jwks is not None and settings.all_in_one and Role.REPORT not in dict(settings.token_file):
        raise SettingsError(
            f"oidc.jwks: {jwks!r} would refuse the profiler of --all-in-one; add --token-file report=PATH"
        )
