"""The heartbeat: what counts as late, as stuck, and as neither."""

from jaxserve.engine.heartbeat import FACTOR, GRACE_S, PERIOD_S, Heartbeat


class Clock:
    """Seconds that pass only when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def run_step(heartbeat: Heartbeat, clock: Clock, seconds: float, num_tokens: int = 1) -> None:
    heartbeat.begin()
    heartbeat.expect(num_tokens)
    clock.now += seconds
    heartbeat.end()


def beating(timeout_s: float = 120.0) -> tuple[Heartbeat, Clock]:
    clock = Clock()
    return Heartbeat(timeout_s, clock), clock


def test_an_idle_engine_is_never_late():
    heartbeat, clock = beating()
    run_step(heartbeat, clock, 0.1)
    heartbeat.rest()
    clock.now += 10_000
    assert not heartbeat.is_late and not heartbeat.is_stuck


def test_a_step_is_late_after_two_of_the_longest_and_a_second():
    heartbeat, clock = beating()
    for seconds in (0.1, 0.5, 0.2):
        run_step(heartbeat, clock, seconds)
    heartbeat.begin()
    heartbeat.expect(1)
    clock.now += FACTOR * 0.5 + GRACE_S - 0.01
    assert not heartbeat.is_late
    clock.now += 0.02
    assert heartbeat.is_late and not heartbeat.is_stuck


def test_a_step_that_has_ended_is_late_no_more():
    heartbeat, clock = beating()
    run_step(heartbeat, clock, 0.1)
    heartbeat.begin()
    heartbeat.expect(1)
    clock.now += 5
    assert heartbeat.is_late
    heartbeat.end()
    heartbeat.begin()
    assert not heartbeat.is_late


def test_the_first_step_may_take_until_the_timeout():
    heartbeat, clock = beating(timeout_s=60)
    heartbeat.begin()
    heartbeat.expect(1)
    clock.now += 59
    assert not heartbeat.is_late
    clock.now += 2
    assert heartbeat.is_late and heartbeat.is_stuck


def test_a_long_prompt_may_take_as_much_longer_as_it_has_more_tokens():
    heartbeat, clock = beating()
    for _ in range(5):
        run_step(heartbeat, clock, 0.04, num_tokens=2)  # 0.01 s a token, of this step and the one before it
    heartbeat.begin()
    heartbeat.expect(998)
    clock.now += 10
    assert not heartbeat.is_late
    heartbeat.end()
    heartbeat.begin()
    heartbeat.expect(2)  # it waits for the long one
    clock.now += 10
    assert not heartbeat.is_late


def test_a_long_step_is_forgotten_after_two_periods():
    heartbeat, clock = beating()
    run_step(heartbeat, clock, 30)
    for _ in range(3):
        run_step(heartbeat, clock, PERIOD_S / 300)
        heartbeat.rest()
        clock.now += PERIOD_S + 1
    heartbeat.begin()
    heartbeat.expect(1)
    clock.now += 4
    assert heartbeat.is_late


def test_no_step_may_take_longer_than_the_timeout():
    heartbeat, clock = beating(timeout_s=10)
    run_step(heartbeat, clock, 9)
    heartbeat.begin()
    heartbeat.expect(1)
    clock.now += 10.1
    assert heartbeat.is_late and heartbeat.is_stuck
