"""A backup of a Redis beside its own command line: `python -m benchmarks redis`; NEXUS_BENCH_KEYS is how many keys (4,000,000)."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measure import leave_out, run, say
from nexus_ops.backups import redis_backup
from nexus_ops.backups.bundles import Packing
from nexus_ops.backups.catalogue import Catalogue
from nexus_ops.backups.encryption import Identity, write_identity
from nexus_ops.backups.manifest import Place
from nexus_ops.backups.redis_scratch import scratch_redis
from nexus_ops.backups.redis_wire import Address, Connection
from nexus_ops.storage import ObjectStore

PLACE = Place("production-us-west-2", "redis")
FILL = """
for n = tonumber(ARGV[1]), tonumber(ARGV[2]) do
    if n % 4 == 0 then
        redis.call('HSET', 'position:' .. n, 'pair', 'SEI/USDC', 'amount', n * 1.25, 'order', redis.sha1hex(n))
    else
        redis.call('SET', 'quote:' .. n, redis.sha1hex(n) .. redis.sha1hex(-n))
    end
end
"""
AT_ONCE = 50_000


def bench() -> None:
    """Both into a local folder."""
    keys = int(os.environ.get("NEXUS_BENCH_KEYS", "4000000"))
    folder = Path(tempfile.mkdtemp(prefix="nexus-bench-"))
    try:
        write_identity(folder / "identity.txt")
        with scratch_redis(folder / "server") as address:
            with Connection.open(address) as connection:
                for first in range(1, keys + 1, AT_ONCE):
                    connection.call("EVAL", FILL, 0, first, min(keys, first + AT_ONCE - 1))
                # By default a server waits for five seconds whether more replicas come, with either way: that measures nothing.
                connection.call("CONFIG", "SET", "repl-diskless-sync-delay", "0")
            environment = {
                **os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "REDISCLI_AUTH": address.password,
                "NEXUS_BENCH_REDIS": f"{address.host}:{address.port}",
            }  # fmt: skip
            ours = run([sys.executable, "-m", "benchmarks.bench_redis"], environment, folder)
            program = shutil.which("redis-cli") or shutil.which("valkey-cli")
            if program is None or shutil.which("zstd") is None:
                leave_out("back up a Redis", "redis-cli or zstd is not installed")
                return
            theirs = run(
                f"{program} -h {address.host} -p {address.port} --rdb - | zstd -q -1 > dump.rdb.zst",
                environment,
                folder,
            )
        say(
            f"back up a Redis, {keys / 1e6:.1f} million keys",
            ours.seconds,
            "s",
            "redis-cli --rdb | zstd -1",
            theirs.seconds,
        )
        say("the same, memory", ours.peak, "MB", "goal", 150)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def take() -> None:
    """Our own way, in this process."""
    host, _, port = os.environ["NEXUS_BENCH_REDIS"].partition(":")
    address = Address(host, int(port), password=os.environ["REDISCLI_AUTH"])
    catalogue = Catalogue(ObjectStore.open(Path("store").absolute().as_uri()), PLACE)
    packing = Packing(Identity.load("identity.txt").public_keys)
    redis_backup.back_up(address, catalogue, packing, clock=lambda: datetime.now(UTC))


if __name__ == "__main__":
    take()
