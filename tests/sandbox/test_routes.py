"""HTTPRoutes with several rules, matches and hosts, through a real Envoy: who answers, and what the status says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from nexus_ops.sandbox import supervisor

CLUSTER, NAMESPACE = "staging-us-west-2", "nexus-agents"
ROUTES = f"apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}/httproutes"
Object = dict[str, Any]
Urls = dict[str, str]


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Urls]:
    """A cluster with the Services one, two and three, each led by hand to an answerer that is there anyway."""
    home = tmp_path_factory.mktemp("sandbox")
    found = supervisor.start(home, [CLUSTER], ("gateway",)).clusters[CLUSTER]
    for name, target in (("one", "sei"), ("two", "admin"), ("three", "api")):
        meta = {"name": name, "namespace": NAMESPACE}
        port = int(found[target].rsplit(":", 1)[1])
        subsets = [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": port}]}]
        for plural, body in (("services", {"spec": {"ports": [{"port": 80}]}}), ("endpoints", {"subsets": subsets})):
            answer = httpx.post(
                f"{found['api']}/api/v1/namespaces/{NAMESPACE}/{plural}", json={"metadata": meta, **body}
            )
            assert answer.status_code == 201, answer.text
    yield found
    supervisor.stop(home)


def to(service: str, *matches: Object, **more: Any) -> Object:
    return {"matches": list(matches), "backendRefs": [{"name": service, "port": 80}], **more}


def path(value: str, kind: str = "PathPrefix", **more: Any) -> Object:
    return {"path": {"type": kind, "value": value}, **more}


def apply(urls: Urls, name: str, hosts: list[str], *rules: Object) -> Object:
    """Apply a route, wait until its status is of this generation, and return its conditions by type."""
    spec = {"parentRefs": [{"name": "g"}], "hostnames": hosts, "rules": list(rules)}
    body = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name}, "spec": spec}
    url = f"{urls['api']}/{ROUTES}/{name}"
    answer = httpx.patch(
        f"{url}?fieldManager=test&force=true", json=body, headers={"Content-Type": "application/apply-patch+yaml"}
    )
    assert answer.status_code in (200, 201), answer.text
    generation = answer.json()["metadata"]["generation"]

    def conditions() -> Object | None:
        for parent in httpx.get(url).json().get("status", {}).get("parents", []):
            if all(c["observedGeneration"] == generation for c in parent["conditions"]):
                return {c["type"]: c for c in parent["conditions"]}
        return None

    return until(conditions)


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
    return value


def answered_by(urls: Urls, where: str, method: str = "GET", **headers: str) -> str:
    """Which Service Envoy chose, by its own counters."""

    def served() -> dict[str, int]:
        query = {"filter": r"^cluster\.nexus-agents/.*\.upstream_rq_total$"}
        lines = httpx.get(f"{urls['envoy']}/stats", params=query).text.splitlines()
        return {line.split("/")[1]: int(line.rsplit(" ", 1)[1]) for line in lines}

    before = served()
    host, _, rest = where.partition("/")
    answer = httpx.request(method, f"{urls['edge']}/{rest}", headers={"Host": host, **headers})
    after = served()
    found = [name for name in after if after[name] > before.get(name, 0)]
    return found[0] if found else str(answer.status_code)


def test_the_most_specific_match_wins_wherever_it_stands(urls: Urls) -> None:
    """The Gateway API orders by the match, not by the rule's place, and across the routes of one host."""
    host = "order.test"
    apply(urls, "a", [host],
          to("one", path("/")),
          to("two", path("/shop")),
          to("three", path("/shop/cart", "Exact")))  # fmt: skip
    apply(urls, "b", [host],
          to("one", path("/shop/car")),
          to("three", path("/shop", method="POST")),
          to("three", path("/shop", headers=[{"name": "X-Try", "value": "yes"}])),
          to("one", path("/v[0-9]+/.*", "RegularExpression")))  # fmt: skip
    wanted = {
        "/": "one", "/shop": "two", "/shop/": "two", "/shop/x": "two", "/shopping": "one", "/shop/cart": "three",
        "/shop/cart/x": "two", "/shop/car": "one", "/shop/car/1": "one", "/v2/shop": "one",
    }  # fmt: skip
    assert {place: answered_by(urls, host + place) for place in wanted} == wanted
    assert answered_by(urls, f"{host}/shop", "POST") == "three"
    assert answered_by(urls, f"{host}/shop", **{"x-try": "yes"}) == "three"
    assert answered_by(urls, f"{host}/shop", **{"x-try": "no"}) == "two"
    assert answered_by(urls, f"{host}:8080/shop/cart") == "three", "a port in the Host header is no other host"


def test_a_path_that_no_rule_matches_is_404(urls: Urls) -> None:
    apply(urls, "narrow", ["narrow.test"], to("one", path("/only")))
    assert answered_by(urls, "narrow.test/only") == "one"
    assert answered_by(urls, "narrow.test/else") == "404"


def test_a_host_of_its_own_comes_before_a_wildcard_which_serves_the_rest(urls: Urls) -> None:
    apply(urls, "wild", ["*.wild.test"], to("one", path("/")))
    apply(urls, "tame", ["tame.wild.test"], to("two", path("/tame")))
    found = {
        place: answered_by(urls, place) for place in ("x.wild.test/tame", "tame.wild.test/tame", "tame.wild.test/x")
    }
    assert found == {"x.wild.test/tame": "one", "tame.wild.test/tame": "two", "tame.wild.test/x": "one"}


def test_what_envoy_refuses_says_why_and_goes_on_as_before(urls: Urls) -> None:
    """One bad regular expression must neither be accepted in silence nor hold up the other routes."""
    assert apply(urls, "bad", ["bad.test"], to("one", path("/")))["Accepted"]["status"] == "True"
    said = apply(urls, "bad", ["bad.test"], to("two", path("/(", "RegularExpression")))["Accepted"]
    assert (said["status"], said["reason"]) == ("False", "UnsupportedValue")
    assert "missing )" in said["message"]
    assert answered_by(urls, "bad.test/") == "one"
    assert apply(urls, "good", ["good.test"], to("two", path("/")))["Accepted"]["status"] == "True"
    assert answered_by(urls, "good.test/") == "two"
    assert apply(urls, "bad", ["bad.test"], to("two", path("/")))["Accepted"]["status"] == "True"
    assert answered_by(urls, "bad.test/") == "two"


def test_what_is_not_supported_is_said_by_name(urls: Urls) -> None:
    mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "two", "port": 80}}}
    said = apply(urls, "mirror", ["mirror.test"], to("one", path("/"), filters=[mirror]))["Accepted"]
    assert (said["status"], said["message"]) == ("False", "rules[0].filters is not supported")
    assert answered_by(urls, "mirror.test/") == "404"


def test_the_share_of_a_backend_that_is_not_there_is_500(urls: Urls) -> None:
    """Its requests must not go to the others in silence: nobody would see that half of the platform is missing."""
    rule = {"backendRefs": [{"name": "one", "port": 80, "weight": 1}, {"name": "none", "port": 80, "weight": 1}]}
    said = apply(urls, "half", ["half.test"], rule)["ResolvedRefs"]
    assert (said["status"], said["reason"], said["message"]) == ("False", "BackendNotFound", "none:80")
    assert {answered_by(urls, "half.test/") for _ in range(60)} == {"one", "500"}
