"""What the agents would write, so that there is something to back up: portfolios and trades in PostgreSQL, quotes and books in Valkey.

It grows slowly while the sandbox runs. A process of its own, for all clusters; the DSNs come from the environment, as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from typing import Any

import psycopg
import redis

SCHEMA = """
CREATE TABLE IF NOT EXISTS portfolios (id int PRIMARY KEY, owner text NOT NULL, opened timestamptz NOT NULL, settings jsonb NOT NULL);
CREATE TABLE IF NOT EXISTS trades (
  id bigserial PRIMARY KEY, at timestamptz NOT NULL, portfolio int NOT NULL REFERENCES portfolios, pair text NOT NULL,
  side text NOT NULL, price numeric(20, 8) NOT NULL, amount numeric(20, 8) NOT NULL, venue text NOT NULL);
CREATE INDEX IF NOT EXISTS trades_of_portfolio ON trades (portfolio, at);
CREATE TABLE IF NOT EXISTS positions (portfolio int REFERENCES portfolios, pair text, amount numeric(28, 8) NOT NULL, PRIMARY KEY (portfolio, pair));
"""
PAIRS = ("SEI/USDC", "ETH/USDC", "BTC/USDC", "ATOM/USDC", "SOL/USDC")
VENUES = ("astroport", "dragonswap", "vortex")
PORTFOLIOS, FIRST_TRADES = 50, 2000
DATABASES = "NEXUS_SANDBOX_DATABASES"
SECONDS = 1.0
EACH = 5
"""Trades of a tick."""


def trades(chance: random.Random, count: int) -> list[tuple[Any, ...]]:
    """Trades of nobody, at prices of nowhere."""
    return [
        (
            chance.randrange(PORTFOLIOS),
            chance.choice(PAIRS),
            chance.choice(("buy", "sell")),
            round(chance.lognormvariate(3, 1), 8),
            round(chance.lognormvariate(0, 1), 8),
            chance.choice(VENUES),
        )
        for _ in range(count)
    ]


def open_books(link: psycopg.Connection[Any], chance: random.Random) -> None:
    """The tables, and what is in them at the beginning; a second start finds the first."""
    with link.transaction():
        if link.execute("SELECT to_regclass('portfolios')").fetchone() != (None,):
            return  # also where a table has been lost since: nobody but a restore brings it back
        link.execute(SCHEMA)
        with link.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO portfolios VALUES (%s, %s, now(), %s)",
                [(n, f"owner {n}", json.dumps({"risk": chance.random()})) for n in range(PORTFOLIOS)],
            )
    trade(link, trades(chance, FIRST_TRADES))


def trade(link: psycopg.Connection[Any], made: list[tuple[Any, ...]]) -> None:
    """Trades, and the positions that they lead to, in one transaction."""
    with link.transaction(), link.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO trades (at, portfolio, pair, side, price, amount, venue) VALUES (now(), %s, %s, %s, %s, %s, %s)",
            made,
        )
        cursor.executemany(
            "INSERT INTO positions VALUES (%s, %s, %s) ON CONFLICT (portfolio, pair) DO UPDATE SET amount = positions.amount + excluded.amount",
            [(portfolio, pair, amount if side == "buy" else -amount) for portfolio, pair, side, _, amount, _ in made],
        )


def quote(client: redis.Redis, made: list[tuple[Any, ...]]) -> None:
    """What the trades leave in Valkey: the last prices, a book of each pair, a stream, and sessions that expire."""
    pipe = client.pipeline(transaction=False)
    for portfolio, pair, side, price, amount, venue in made:
        pipe.hset(f"quote:{pair}", mapping={"price": str(price), "venue": venue})
        pipe.zadd(f"book:{pair}", {f"{side}:{portfolio}:{amount}": float(price)})
        pipe.zremrangebyrank(f"book:{pair}", 0, -1001)
        pipe.xadd("fills", {"portfolio": portfolio, "pair": pair, "price": str(price)}, maxlen=10_000, approximate=True)
        pipe.set(f"session:{portfolio}", venue, ex=3600)
    pipe.execute()


def keep_trading(postgresql: str, valkey: str, done: threading.Event) -> None:
    """Trade until the end; a database that is away, or was replaced under us, is waited for."""
    chance = random.Random()
    while not done.is_set():
        try:
            with (
                psycopg.connect(postgresql, autocommit=True, connect_timeout=5) as link,
                redis.Redis.from_url(valkey) as client,
            ):
                open_books(link, chance)
                quote(client, trades(chance, FIRST_TRADES // 10))
                while not done.wait(SECONDS):
                    made = trades(chance, EACH)
                    trade(link, made)
                    quote(client, made)
        except (psycopg.Error, redis.RedisError):
            done.wait(SECONDS)


def main() -> None:
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    pairs: list[tuple[str, str]] = json.loads(os.environ[DATABASES])
    threads = [threading.Thread(target=keep_trading, args=(*pair, done)) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
