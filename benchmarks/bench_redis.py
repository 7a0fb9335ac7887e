"""A backup of a Redis beside its own command line: `python -m benchmarks redis`; NEXUS_BENCH_KEYS is how many keys (4,000,000)."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measure import leave_out, run, say
from nexus_ops.backups import redis_backup
from nexus_ops.backups.bundles import Packing
from nexus_ops.backups.catalogue import Catalogue
from nexus_ops.backups.encryption import Identity, write_identity
from nexus_ops.backups.manifest import Place
from nexus_ops.backups.redis_restore import slot_of
from nexus_ops.backups.redis_scratch import scratch_redis
from nexus_ops.backups.redis_topology import SLOTS
from nexus_ops.backups.redis_wire import Address, Connection
from nexus_ops.errors import PermanentError
from nexus_ops.sandbox.processes import free_port
from nexus_ops.storage import ObjectStore

PLACE = Place("production-us-west-2", "redis")
FILL = """
for n = tonumber(ARGV[1]), tonumber(ARGV[2]) do
    if n % 4 == 0 then
        redis.call('HSET', 'position:' .. ARGV[3] .. n, 'pair', 'SEI/USDC', 'amount', n * 1.25, 'order', redis.sha1hex(n))
    else
        redis.call('SET', 'quote:' .. ARGV[3] .. n, redis.sha1hex(n) .. redis.sha1hex(-n))
    end
end
"""
AT_ONCE = 50_000
MASTERS = 3


def bench() -> None:
    """Into a local folder: one server, and a cluster as it is by default."""
    keys = int(os.environ.get("NEXUS_BENCH_KEYS", "4000000"))
    folder = Path(tempfile.mkdtemp(prefix="nexus-bench-"))
    try:
        write_identity(folder / "identity.txt")
        # By default a server waits for five seconds whether more replicas come, with either way: of one server that measures nothing.
        with scratch_redis(folder / "server", settings={"repl-diskless-sync-delay": 0}) as address:
            _fill(address, keys, "")
            _compare([address], folder, f"back up a Redis, {keys / 1e6:.1f} million keys", "redis-cli --rdb | zstd -1")
        with ExitStack() as servers:
            buses = [free_port() for _ in range(MASTERS)]
            masters = _form(
                [
                    servers.enter_context(
                        scratch_redis(folder / f"{bus}", settings={"cluster-enabled": "yes", "cluster-port": bus})
                    )
                    for bus in buses
                ],
                buses,
            )
            for number, master in enumerate(masters):
                _fill(master, keys // MASTERS, _tag_of(number))
            what = f"back up a cluster, {MASTERS} masters with as many keys in all"
            _compare(masters, folder, what, "redis-cli --rdb | zstd -1, one by one")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _compare(servers: Sequence[Address], folder: Path, what: str, beside: str) -> None:
    environment = {
        **os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "REDISCLI_AUTH": servers[0].password,
        "NEXUS_BENCH_REDIS": str(servers[0]),
    }  # fmt: skip
    ours = run([sys.executable, "-m", "benchmarks.bench_redis"], environment, folder)
    program = shutil.which("redis-cli") or shutil.which("valkey-cli")
    if program is None or shutil.which("zstd") is None:
        leave_out(what, "redis-cli or zstd is not installed")
        return
    commands = [f"{program} -h {one.host} -p {one.port} --rdb - | zstd -q -1 > {one.port}.zst" for one in servers]
    theirs = run(" && ".join(commands), environment, folder)
    say(what, ours.seconds, "s", beside, theirs.seconds)
    say("the same, memory", ours.peak, "MB", "goal", 150)


def _fill(address: Address, keys: int, tag: str) -> None:
    with Connection.open(address) as connection:
        for first in range(1, keys + 1, AT_ONCE):
            connection.call("EVAL", FILL, 0, first, min(keys, first + AT_ONCE - 1), tag)


def _form(masters: Sequence[Address], buses: Sequence[int]) -> list[Address]:
    """A cluster without replicas, and with one password."""
    for number, master in enumerate(masters):
        with Connection.open(master) as connection:
            connection.call("CLUSTER", "ADDSLOTSRANGE", *_slots_of(number))
            connection.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            connection.call("CLUSTER", "MEET", masters[0].host, masters[0].port, buses[0])
            connection.call("CONFIG", "SET", "requirepass", masters[0].password)
    found = [replace(master, password=masters[0].password) for master in masters]
    deadline = time.monotonic() + 60
    for master in found:
        with Connection.open(master) as connection:
            while "cluster_state:ok" not in connection.text("CLUSTER", "INFO"):
                if time.monotonic() > deadline:
                    raise PermanentError("the cluster of the benchmark does not form.", target=str(master))
                time.sleep(0.1)
    return found


def _slots_of(number: int) -> tuple[int, int]:
    return number * SLOTS // MASTERS, (number + 1) * SLOTS // MASTERS - 1


def _tag_of(number: int) -> str:
    """A part of a key's name that puts it on this master."""
    first, last = _slots_of(number)
    return next(tag for count in range(SLOTS) if first <= slot_of((tag := f"{{{count}}}").encode()) <= last)


def take() -> None:
    """Our own way, in this process."""
    host, _, port = os.environ["NEXUS_BENCH_REDIS"].partition(":")
    address = Address(host, int(port), password=os.environ["REDISCLI_AUTH"])
    catalogue = Catalogue(ObjectStore.open(Path("store").absolute().as_uri()), PLACE)
    packing = Packing(Identity.load("identity.txt").public_keys)
    redis_backup.back_up(address, catalogue, packing, clock=lambda: datetime.now(UTC))


if __name__ == "__main__":
    take()
