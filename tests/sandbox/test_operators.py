"""The stand-in for the data layer's operators: what it says stands on whether the real server answers."""

import socket
from typing import Any

from nexus_ops.health.backing import judge_postgres, judge_redis
from nexus_ops.sandbox.controllers.data_layer import PostgresOperator, RedisOperator
from nexus_ops.sandbox.kube.store import Store
from nexus_ops.sandbox.processes import answers


def test_a_server_that_answers_is_ready_in_all_its_instances_and_one_that_does_not_in_none() -> None:
    postgres: dict[str, Any] = {"metadata": {"name": "pg"}, "spec": {"instances": 3}}
    redis: dict[str, Any] = {"metadata": {"name": "redis"}, "spec": {"clusterSize": 3}}
    store = Store()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert answers(port)
        cluster = {**postgres, "status": PostgresOperator(store, port).status(postgres, answers(port))}
        assert judge_postgres(cluster)[0] == ("healthy", "pg has 3 of 3 instances ready")
        ready = {**redis, "status": RedisOperator(store, port).status(redis, answers(port))}
        assert judge_redis(ready)[0] == ("healthy", "redis has 3 of 3 leaders and 3 of 3 followers ready")
    assert not answers(port)
    gone = {**cluster, "status": PostgresOperator(store, port).status(cluster, answers(port))}
    assert judge_postgres(gone)[0][0] == "failed"
    assert gone["status"]["conditions"][0]["lastTransitionTime"]
    assert judge_redis({**redis, "status": RedisOperator(store, port).status(redis, answers(port))})[0][0] == "failed"
