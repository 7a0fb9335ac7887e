"""Where users come in: a Gateway or an AWS load balancer, with TLS and without."""

import json
from typing import Any

import pytest
from platform_chart import Object, changed, objects_of, of_kind, one, render, values_of

from nexus_ops.releases.gates import check_policy, check_schema

ALB = "alb.ingress.kubernetes.io"
ARN = "arn:aws:acm:us-west-2:123456789012:certificate/11111111-2222-3333-4444-555555555555"


def with_load_balancer(**tls: Any) -> list[Object]:
    values = changed(values_of("shared"), "router", "alb")
    return render(changed(values, "networking.tls", tls or {"enabled": True, "certificateArn": ARN}))


def test_the_host_is_the_one_of_the_environment() -> None:
    route = one(objects_of("shared", "staging"), "HTTPRoute", "nexus-api")
    assert route["spec"]["hostnames"] == ["api.staging.nexus-ai.com"]


def test_without_tls_the_gateway_serves_plain_http_and_redirects_nothing() -> None:
    objects = render(changed(values_of("shared"), "networking.tls.enabled", False))
    (listener,) = one(objects, "Gateway", "nexus-gateway")["spec"]["listeners"]
    assert (listener["protocol"], listener["port"]) == ("HTTP", 80)
    assert one(objects, "HTTPRoute", "nexus-api")["spec"]["parentRefs"] == [{"name": "nexus-gateway"}]
    assert list(of_kind(objects, "HTTPRoute")) == ["nexus-api"]


def test_the_gateway_terminates_tls_with_a_secret_by_reference_and_redirects_plain_http() -> None:
    plain, secure = one(objects_of("shared"), "Gateway", "nexus-gateway")["spec"]["listeners"]
    assert plain["protocol"] == "HTTP"
    assert (secure["port"], secure["hostname"]) == (443, "api.nexus-ai.com")
    assert secure["tls"] == {"mode": "Terminate", "certificateRefs": [{"kind": "Secret", "name": "nexus-tls"}]}
    redirect = one(objects_of("shared"), "HTTPRoute", "nexus-https")
    assert redirect["spec"]["parentRefs"] == [{"name": "nexus-gateway", "sectionName": "http"}]
    (rule,) = redirect["spec"]["rules"]
    assert rule["filters"] == [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}]
    assert "nexus.ai/routed" not in redirect["metadata"]["labels"], "it has no weight for a rollout to own"


def test_a_certificate_may_be_asked_of_an_issuer() -> None:
    assert "annotations" not in one(objects_of("shared"), "Gateway", "nexus-gateway")["metadata"]
    gateway = one(render(changed(values_of("shared"), "networking.tls.issuer", "acme")), "Gateway", "nexus-gateway")
    assert gateway["metadata"]["annotations"] == {"cert-manager.io/cluster-issuer": "acme"}


@pytest.mark.parametrize("router", ["gateway-api", "service-selector"])
def test_an_ingress_is_there_only_for_a_load_balancer(router: str) -> None:
    objects = render(changed(values_of("shared"), "router", router))
    assert not of_kind(objects, "Ingress")
    assert of_kind(objects, "Gateway")


def test_a_load_balancer_takes_the_place_of_the_gateway_and_moves_no_traffic_by_itself() -> None:
    objects = with_load_balancer()
    assert not {"Gateway", "HTTPRoute"} & {obj["kind"] for obj in objects}
    assert check_schema(objects).problems == check_policy(objects).problems == ()
    ingress = one(objects, "Ingress", "nexus-api")
    assert ingress["metadata"]["labels"]["nexus.ai/routed"] == "true"
    action = json.loads(ingress["metadata"]["annotations"][f"{ALB}/actions.nexus-api"])
    assert action == {
        "type": "forward",
        "forwardConfig": {
            "targetGroups": [
                {"serviceName": f"agent-orchestrator-{colour}", "servicePort": "80", "weight": 0}
                for colour in ("blue", "green")
            ]
        },
    }
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert rule["host"] == "api.nexus-ai.com"
    assert path["backend"] == {"service": {"name": "nexus-api", "port": {"name": "use-annotation"}}}
    assert {
        name for name, obj in of_kind(objects, "Service").items() if "nexus.ai/routed" in obj["metadata"]["labels"]
    } == {"nexus-load-balancer"}


def test_the_class_of_an_ingress_is_a_field_and_its_certificate_is_acm_s() -> None:
    """Class as annotation and as field are refused together; the controller reads no TLS Secret."""
    ingress = one(with_load_balancer(), "Ingress", "nexus-api")
    annotations = ingress["metadata"]["annotations"]
    assert ingress["spec"]["ingressClassName"] == "alb"
    assert "kubernetes.io/ingress.class" not in annotations
    assert "tls" not in ingress["spec"]
    assert annotations[f"{ALB}/certificate-arn"] == ARN
    assert annotations[f"{ALB}/ssl-redirect"] == "443"
    assert json.loads(annotations[f"{ALB}/listen-ports"]) == [{"HTTP": 80}, {"HTTPS": 443}]
    assert (annotations[f"{ALB}/scheme"], annotations[f"{ALB}/target-type"]) == ("internet-facing", "ip")


def test_a_load_balancer_without_tls_listens_on_port_80_alone() -> None:
    annotations = one(with_load_balancer(enabled=False), "Ingress", "nexus-api")["metadata"]["annotations"]
    assert json.loads(annotations[f"{ALB}/listen-ports"]) == [{"HTTP": 80}]
    assert not {f"{ALB}/ssl-redirect", f"{ALB}/certificate-arn"} & set(annotations)
