"""Turns: fair between clients, bounded, and given up by who leaves."""

import threading

import pytest

from pipeline.serve.generation_queue import GenerationQueue, QueueFull


@pytest.fixture
def queue():
    """A queue whose worker is held until `go` is set, so that what is submitted stays in order."""
    made = GenerationQueue(8)
    made.go, begun = threading.Event(), threading.Event()
    made.first = made.submit("holder", lambda stop: (begun.set(), made.go.wait(10)))
    assert begun.wait(10)
    yield made
    made.go.set()
    made.close()


def finish(queue):
    """Lets everything run, and waits for it."""
    done = threading.Event()
    queue.submit("last", lambda stop: done.set())
    queue.go.set()
    assert done.wait(10)


def test_clients_take_turns_however_much_one_asks_for(queue):
    ran = []
    for name in ("a1", "a2", "a3", "b1", "c1", "b2"):
        queue.submit(name[0], lambda stop, name=name: ran.append(name))
    finish(queue)
    assert ran == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_the_position_told_is_the_number_of_turns_before(queue):
    ran, tickets = [], {}
    for name in ("a1", "a2", "b1", "a3", "c1"):
        tickets[name] = queue.submit(name[0], lambda stop, name=name: ran.append(name))
    told = {name: queue.position(ticket) for name, ticket in tickets.items()}
    finish(queue)
    # One more for the turn that was running.
    assert told == {name: ran.index(name) + 1 for name in ran}
    assert queue.position(tickets["a1"]) == 0


def test_a_full_queue_says_when_to_come_back(queue):
    for n in range(8):
        queue.submit(f"c{n}", lambda stop: None)
    with pytest.raises(QueueFull) as full:
        queue.submit("late", lambda stop: None)
    assert full.value.retry_after == 8


def test_one_client_holds_at_most_half_of_the_queue(queue):
    for _ in range(4):
        queue.submit("greedy", lambda stop: None)
    with pytest.raises(QueueFull):
        queue.submit("greedy", lambda stop: None)
    queue.submit("modest", lambda stop: None)


def test_who_leaves_before_their_turn_never_gets_it(queue):
    ran = []
    gone = queue.submit("a", lambda stop: ran.append("gone"))
    queue.submit("a", lambda stop: ran.append("kept"))
    queue.cancel(gone)
    queue.cancel(gone)
    finish(queue)
    assert ran == ["kept"] and gone.stop.is_set()


def test_work_that_fails_does_not_end_the_queue(queue):
    def fail(stop):
        raise RuntimeError

    queue.submit("a", fail)
    finish(queue)


def test_closing_stops_what_runs_and_takes_no_more():
    queue, begun, stopped = GenerationQueue(4), threading.Event(), []
    queue.submit("a", lambda stop: (begun.set(), stopped.append(stop.wait(10))))
    assert begun.wait(10)
    queue.close()
    assert stopped == [True]
    with pytest.raises(QueueFull):
        queue.submit("a", lambda stop: None)
