"""What others' users complain of, as canaries in a model world."""

from datetime import timedelta

import pytest
from rollout_world import SIZES, canary, go_on, run, running, until


def test_complaint_old_pods_scaled_down_while_the_balancer_still_sends_to_them() -> None:
    made = until(canary(), "cleanup-blue-environment")
    made.edge = 50  # the balancer was set back behind our back
    go_on(made, 60)
    assert running(made, "blue")["orchestrator"] == SIZES["orchestrator"]


def test_complaint_a_weight_asserted_but_never_observed() -> None:
    made = until(canary(), "canary-10")
    while made.record.weight != 10:
        go_on(made, 1)
    made.visible = False
    go_on(made, 50)
    assert made.record.stage
    assert (made.record.observed, made.record.stage.until, made.edge) == (None, None, 10), "no bake has begun"
    go_on(made, 20)
    assert "traffic does not follow" in made.record.reason
    assert made.record.blames is None


def test_complaint_the_autoscaler_fights_the_rollout() -> None:
    """Floors of the size that serves would scale a worker's share up again, in both colours, for ever."""
    made = until(canary(bake_seconds=30), "canary-50")
    go_on(made, 20)
    assert made.floors == {("hunter", "green"): 2, ("hunter", "blue"): 2}
    assert (running(made, "green")["hunter"], running(made, "blue")["hunter"]) == (2, 2)
    made.verdict = "fail"
    assert running(run(made), "blue") == SIZES


def test_complaint_config_not_rolled_back() -> None:
    """What both colours share goes back with the rest, and not before users are served again."""
    made = until(canary(), "canary-25")
    made.verdict = "fail"
    steps = [made.step().step for _ in range(2)]
    while not made.record.restored:
        steps.append(made.step().step)
        made.let_pods_move(9)
        made.now += timedelta(seconds=1)
    assert steps.index("weight") < steps.index("restore")
    assert run(made).record.phase == "rolled-back"


@pytest.mark.parametrize("stage", ["canary-10", "switch-traffic", "monitor-health", "cleanup-blue-environment"])
def test_complaint_abort_ignored_after_promote_full(stage: str) -> None:
    made = until(canary(), "canary-10")
    made.promotion = made.wish()
    until(made, stage)
    made.aborted = True
    run(made)
    assert (made.record.phase, made.edge, running(made, "blue")) == ("rolled-back", 0, SIZES)


def test_complaint_a_breach_ignored_while_waiting_for_traffic() -> None:
    made = until(canary(), "canary-10")
    while made.record.weight != 10:
        go_on(made, 1)
    made.visible, made.verdict = False, "fail"
    assert made.step().step == "roll-back"


def test_complaint_a_failed_promotion_takes_the_app_down() -> None:
    """A candidate whose pods die when it has all traffic: the stable copy is still whole, and gets the traffic back."""
    made = until(canary(), "monitor-health")
    made.healthy = False
    go_on(made, 3)
    assert running(made, "blue")["orchestrator"] == SIZES["orchestrator"]
    made.verdict = "fail"
    assert [made.step().step for _ in range(2)] == ["roll-back", "weight"]


def test_complaint_a_quiet_service_rolled_back_for_lack_of_data() -> None:
    made = until(canary(), "canary-5")
    made.verdict = "insufficient"
    for _ in range(15):
        go_on(made, 1)
        assert made.record.phase == "running"


@pytest.mark.parametrize("crash", ["before", "after", "between"])
def test_complaint_the_controller_killed_in_mid_rollout(crash: str) -> None:
    """Every third step of the whole canary is cut short, by a driver that is then replaced."""
    made = canary()
    for number in range(900):
        if number % 3 == 0:
            made.step(crash)
            made.take_over()
        else:
            made.step()
        made.let_pods_move(1)
        made.now += timedelta(seconds=1)
        if made.record.finished:
            break
    assert (made.record.phase, made.edge, running(made, "green")) == ("done", 100, SIZES)
