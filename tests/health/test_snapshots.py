"""Taking snapshots: at once, within limits, whatever happens; and keeping them."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_ops.clusters.client import ClusterClient
from nexus_ops.clusters.errors import MissingContext
from nexus_ops.errors import PermanentError
from nexus_ops.health.edge import ends_at
from nexus_ops.health.history import SnapshotKey, from_parquet, judge_freshness, load, newest, save, to_parquet
from nexus_ops.health.model import STATES, Finding, Result, Snapshot
from nexus_ops.health.probes import PROBES
from nexus_ops.health.report import numbers, problems, table, what_next
from nexus_ops.health.take import Connect, Probe, take, take_all
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology, default_path

NAME = "staging-us-west-2"
NOW = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
Answer = Callable[[httpx2.Request], httpx2.Response]


def refuse(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused", request=request)


def connection(tmp_path: Path, answer: Answer, name: str = NAME) -> Connect:
    """A way to a cluster whose network answers so."""

    def connect() -> RolloutContext:
        http = httpx2.Client(base_url="http://cluster", transport=httpx2.MockTransport(answer))
        topology, store = Topology.load(default_path()), ObjectStore.open(tmp_path.as_uri())
        client = ClusterClient(http, name, patience=0.2)
        return RolloutContext(topology, topology.cluster(name), client, store, ReleaseStore(store))

    return connect


def fine(context: RolloutContext) -> Finding:
    return Finding("healthy", "fine", numbers={"pods": 3.0})


@pytest.fixture
def stuck() -> Iterator[Callable[[RolloutContext], Finding]]:
    """A probe that does not come back before the test is over."""
    let_go = threading.Event()

    def look(context: RolloutContext) -> Finding:
        let_go.wait()
        return Finding("healthy", "too late")

    yield look
    let_go.set()


def test_a_probe_that_does_not_come_back_is_given_up_and_the_others_are_told(
    tmp_path: Path, stuck: Callable[[RolloutContext], Finding]
) -> None:
    probes = (Probe("a", True, 5, fine), Probe("b", False, 0.3, stuck), Probe("c", True, 0.3, stuck, silence="failed"))
    begun = time.monotonic()
    snapshot = take(NAME, connection(tmp_path, refuse), probes)
    assert time.monotonic() - begun < 4
    assert [result.state for result in snapshot.results] == ["healthy", "unknown", "failed"]
    assert snapshot.result("b").why == "no answer within 0.3 s"
    assert snapshot.state == "failed"


def test_a_frozen_cluster_comes_last_and_delays_no_other(
    tmp_path: Path, stuck: Callable[[RolloutContext], Finding]
) -> None:
    def look(context: RolloutContext) -> Finding:
        return stuck(context) if context.cluster.name == "production-us-west-2" else fine(context)

    names = ("production-us-west-2", NAME, "production-us-east-1")
    connects = {name: connection(tmp_path, refuse, name) for name in names}
    taken: list[tuple[str, str, float]] = []
    begun = time.monotonic()
    for snapshot in take_all(connects, [Probe("a", True, 4.0, look)]):
        taken.append((snapshot.cluster, snapshot.state, time.monotonic() - begun))
    assert [state for _, state, _ in taken] == ["healthy", "healthy", "unknown"]
    assert taken[-1][0] == "production-us-west-2"
    assert taken[1][2] < 3.5 < taken[2][2]


def test_a_probe_that_breaks_takes_no_other_with_it(tmp_path: Path) -> None:
    def broken(context: RolloutContext) -> Finding:
        raise KeyError("items")

    snapshot = take(NAME, connection(tmp_path, refuse), (Probe("a", True, 5, broken), Probe("b", True, 5, fine)))
    assert [result.state for result in snapshot.results] == ["unknown", "healthy"]
    assert "KeyError" in snapshot.result("a").why


def test_an_unreachable_cluster_is_a_snapshot_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    snapshot = take(NAME, connection(tmp_path, refuse), PROBES)
    assert snapshot.state == "failed"
    assert snapshot.result("API server").state == "failed"
    assert "ConnectError" in snapshot.result("API server").why
    others = [result for result in snapshot.results if result.probe != "API server"]
    assert {result.state for result in others} == {"unknown"}
    assert snapshot.result("nodes").why == "could not look: the API server does not answer"


def test_a_cluster_without_a_way_to_it_is_unknown_and_says_what_is_missing() -> None:
    def connect() -> RolloutContext:
        raise MissingContext("there is no kubeconfig.", todo="Set KUBECONFIG.")

    snapshot = take(NAME, connect, PROBES)
    assert snapshot.state == "unknown"
    assert {(result.why, result.todo) for result in snapshot.results} == {
        ("could not look: there is no kubeconfig", "Set KUBECONFIG.")
    }


def test_a_refusal_is_unknown_and_is_no_empty_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not being allowed to list nodes must not read as 'there are none'."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))

    def forbid(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/version":
            return httpx2.Response(200, json={"gitVersion": "v1.32.0"})
        return httpx2.Response(403, json={"reason": "Forbidden", "message": "no"})

    snapshot = take(NAME, connection(tmp_path, forbid), PROBES)
    assert snapshot.result("API server").state == "healthy"
    assert {result.state for result in snapshot.results if result.probe != "API server"} == {"unknown"}


def test_a_certificate_is_read_from_the_server_that_shows_it_even_when_it_has_ended(tmp_path: Path) -> None:
    import socket

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    end = datetime(2026, 1, 2, tzinfo=UTC)
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = builder.not_valid_before(end - timedelta(days=9)).not_valid_after(end).sign(key, hashes.SHA256())
    pem = tmp_path / "tls.pem"
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(*plain))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(pem)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with serving.wrap_socket(connection, server_side=True):
                pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert ends_at("127.0.0.1", listener.getsockname()[1], "api.nexus-ai.com") == end
        thread.join(5)


words = st.text(st.characters(codec="utf-8"), max_size=20)
reals = st.floats(allow_nan=False)
results = st.builds(
    Result,
    words,
    st.booleans(),
    st.sampled_from(STATES),
    words,
    words,
    reals,
    st.dictionaries(words, reals, max_size=3),
)
moments = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
snapshots = st.builds(
    Snapshot,
    st.sampled_from([NAME, "production-us-west-2"]),
    moments,
    st.lists(results, min_size=1, max_size=4, unique_by=lambda result: result.probe).map(tuple),
)


@settings(max_examples=50, deadline=None)
@given(snapshots)
def test_a_snapshot_is_the_same_after_json_and_after_parquet(snapshot: Snapshot) -> None:
    assert Snapshot.from_json(snapshot.to_json()) == snapshot
    assert from_parquet(to_parquet(snapshot)) == snapshot


@settings(max_examples=50, deadline=None)
@given(moments)
def test_a_snapshots_key_can_be_read_back(taken: datetime) -> None:
    key = SnapshotKey(NAME, taken)
    assert SnapshotKey.parse(str(key)) == key


def result(probe: str, state: str, *, critical: bool = True, todo: str = "") -> Result:
    assert state in STATES
    return Result(probe, critical, state, f"{probe} | why", todo, 0.5, {"count": 2})


def test_the_newest_snapshot_is_found_over_midnight_and_a_foreign_file_is_an_error(tmp_path: Path) -> None:
    store = ObjectStore.open(tmp_path.as_uri())
    assert newest(store, NAME, NOW) is None
    for minutes in (60, 10, 20):
        save(store, Snapshot(NAME, NOW - timedelta(minutes=minutes), (result("a", "healthy"),)))
    save(store, Snapshot("production-us-west-2", NOW, (result("a", "healthy"),)))
    found = newest(store, NAME, NOW)
    assert found is not None
    assert load(store, found).taken == NOW - timedelta(minutes=10)
    assert newest(store, NAME, NOW + timedelta(hours=13)) == found
    assert newest(store, NAME, NOW + timedelta(days=2)) is None
    store.put(f"health/{NAME}/2026-11-24/zzz.parquet", b"")
    with pytest.raises(PermanentError, match="no snapshot's key"):
        newest(store, NAME, NOW)


@pytest.mark.parametrize(("minutes", "fresh"), [(0, True), (15, True), (15.1, False), (None, False)])
def test_a_snapshot_is_stale_after_fifteen_minutes(minutes: float | None, fresh: bool) -> None:
    taken = None if minutes is None else NOW - timedelta(minutes=minutes)
    assert judge_freshness(taken, NOW).fresh is fresh


def test_the_overall_word_is_the_worst_critical_one_and_the_report_leads_to_it() -> None:
    rows = (
        result("a", "degraded"),
        result("b", "failed", critical=False, todo="mend b"),
        result("c", "unknown", todo="see c"),
    )
    snapshot = Snapshot(NAME, NOW, rows)
    assert snapshot.state == "unknown"
    assert problems(snapshot) == ["c unknown: c | why"]
    assert what_next(snapshot) == "c: see c"
    assert "| b | 🔴 failed | b \\| why | mend b |" in table(snapshot).splitlines()
    assert "| **c** | ⚪ unknown | c \\| why | see c |" in table(snapshot).splitlines()
    assert (numbers(snapshot)["score"], numbers(snapshot)["b/count"]) == (1, 2)
    assert what_next(Snapshot(NAME, NOW, (result("a", "healthy"),))) == "Nothing: all is well."
