from openmaas.fleet.restarts import CRASH_LOOP, Restarts


def test_the_delay_doubles_up_to_ten_seconds() -> None:
    restarts = Restarts(attempts=None)
    delays = []
    for _ in range(9):
        restarts.started()
        delays.append(restarts.delay)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_progress_begins_anew() -> None:
    restarts = Restarts()
    for _ in range(CRASH_LOOP - 1):
        restarts.started()
    restarts.progressed()
    restarts.started()
    assert (restarts.delay, restarts.exhausted, restarts.starts) == (0.1, False, CRASH_LOOP)


def test_five_starts_to_no_use_are_a_crash_loop() -> None:
    restarts = Restarts()
    for _ in range(CRASH_LOOP):
        assert not restarts.exhausted
        restarts.started()
    assert restarts.exhausted


def test_a_child_that_gave_up_is_not_started_again_and_does_not_loop() -> None:
    restarts = Restarts(attempts=None)
    restarts.started()
    restarts.give_up()
    assert restarts.exhausted
    assert not restarts.looping
