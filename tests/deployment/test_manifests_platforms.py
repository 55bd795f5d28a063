"""What is uncommented in an overlay for a platform: OpenShift, and TLS with a certificate from a Secret."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
import yaml

from orchestratord.config.loader import load
from orchestratord.config.options import OPTIONS
from tests.deployment.test_manifests_overlays import (
    LAST_THREE,
    OPERATOR,
    OPERATORS_KINDS,
    PRODUCTION,
    SCALE_OUT,
    orchestrator,
    pods,
)
from tests.deployment.test_manifests_tokens import with_components
from tests.integration.document import blocks, document

OVERLAYS = (PRODUCTION, OPERATOR, SCALE_OUT)

Objects = dict[str, dict[str, Any]]


def with_component(folder: str, name: str) -> Objects:
    """Return what an overlay creates with the component's line uncommented."""
    return with_components(folder, (f"../../{name}",), begun=True)


@pytest.mark.parametrize("name", ["openshift", "tls"])
@pytest.mark.parametrize("folder", OVERLAYS)
def test_schemas(folder: str, name: str) -> None:
    """The last three Kubernetes accept every object."""
    for version in LAST_THREE:
        for item in with_component(folder, name).values():
            if item["kind"] not in OPERATORS_KINDS:
                kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("folder", OVERLAYS)
def test_openshift_chooses_the_user(folder: str) -> None:
    """No pod asks for a user or a group, which `restricted-v2` would refuse; that none is root stays said."""
    for pod in pods(with_component(folder, "openshift")).values():
        context = pod["securityContext"]
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & context.keys()
        assert context["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert not {"runAsUser", "runAsGroup"} & container["securityContext"].keys()


@pytest.mark.parametrize("folder", OVERLAYS)
def test_tls_is_served_beside_the_clear_port(folder: str) -> None:
    """Both listeners, the Secret's files, probes over TLS, and a way in by the service and the policy."""
    objects = with_component(folder, "tls")
    pod = orchestrator(objects)
    (container,) = pod["containers"]
    options = {argument.removeprefix("--").partition("=")[0] for argument in container["args"] if "=" in argument}
    environ = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    listening = [word.partition("=")[2] for word in container["args"] if word.startswith("--listen=")]
    assert listening == ["tcp:5000", "tls:tcp:5443"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "tls"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "tls"]
    files = {f"{mount['mountPath']}/{item['path']}" for item in volume["secret"]["items"]}
    assert files == {environ["ORCHESTRATOR_TLS_CERT_FILE"], environ["ORCHESTRATOR_TLS_KEY_FILE"]}
    assert load({"listen": listening}, {name: value for name, value in environ.items() if "_TLS_" in name})
    assert options <= {option.name for option in OPTIONS}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 5000, "https": 5443}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["scheme"] == "HTTPS"
        assert container[probe]["httpGet"]["port"] == "https"
    service = {port["name"]: port for port in objects["Service/orchestrator-service"]["spec"]["ports"]}
    assert (service["https"]["port"], service["https"]["targetPort"]) == (5443, "https")
    assert {"port": "https", "protocol": "TCP"} in objects["NetworkPolicy/orchestrator"]["spec"]["ingress"][0]["ports"]


def test_the_operators_prometheus_scrapes_over_tls() -> None:
    """It checks the certificate, by an authority in the same Secret and a name that the document's certificate has."""
    (endpoint,) = with_component(OPERATOR, "tls")["ServiceMonitor/orchestrator"]["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["scheme"]) == ("https", "https")
    certificate = the_certificate()
    assert endpoint["tlsConfig"]["ca"]["secret"] == {"name": certificate["spec"]["secretName"], "key": "ca.crt"}
    assert endpoint["tlsConfig"]["serverName"] in certificate["spec"]["dnsNames"]


def test_the_documents_certificate_is_for_the_service() -> None:
    """docs/TLS.md: every name under which a client in the cluster asks for the service; the Secret that is mounted."""
    objects = with_component(PRODUCTION, "tls")
    certificate = the_certificate()
    service = objects["Service/orchestrator-service"]["metadata"]
    name, space = service["name"], service["namespace"]
    assert certificate["spec"]["dnsNames"] == [
        name,
        f"{name}.{space}",
        f"{name}.{space}.svc",
        f"{name}.{space}.svc.cluster.local",
    ]
    (volume,) = [volume for volume in orchestrator(objects)["volumes"] if volume["name"] == "tls"]
    assert volume["secret"]["secretName"] == certificate["spec"]["secretName"]


def the_certificate() -> dict[str, Any]:
    """Return the Certificate that docs/TLS.md shows."""
    (text,) = blocks(document("TLS.md"), "yaml")
    found: dict[str, Any] = yaml.safe_load(text)
    assert found["kind"] == "Certificate"
    return found
