"""Turns: fair between clients, bounded, and given up by who leaves."""

import threading
import time

import pytest

from pipeline.batch import Delta
from pipeline.serve.generation_queue import GenerationQueue, QueueFull


class Rows:
    """A batch of answers that say nothing and end when they are told to."""

    def __init__(self):
        self.running, self.ending, self.count, self.fails = set(), threading.Event(), 0, None

    def open(self):
        self.running = set()
        return self

    def join(self):
        self.count += 1
        self.running.add(self.count)
        return self.count

    def step(self):
        if self.fails is not None:
            raise self.fails
        if not self.ending.wait(0.005):
            return []
        ended, self.running = sorted(self.running), set()
        return [(number, Delta("", finish="stop")) for number in ended]

    def leave(self, number):
        self.running.discard(number)
        return Delta("", finish="stopped")


class Answer:
    """Notes in `ran` when its turn comes, and how it ended."""

    def __init__(self, name, ran, error=None):
        self.name, self.ran, self.error = name, ran, error
        self.over = threading.Event()
        self.finish = None

    def begin(self, batch):
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        self.ran.append(self.name)
        return batch.join()

    def hear(self, delta):
        self.finish = delta.finish
        self.over.set()

    def failed(self, error):
        self.finish = error
        self.over.set()


@pytest.fixture
def made():
    """make(rows): a queue of 8 places and its batch, with `rows` answers in it that go on until `queue.rows.ending` is set."""
    queues = []

    def make(rows=1, *, held=None):
        batch = Rows()
        queue = GenerationQueue(batch.open, 8, rows=rows)
        queue.rows, queue.ran = batch, []
        queues.append(queue)
        for n in range(rows if held is None else held):
            queue.submit(f"holder{n}", Answer("holder", []))
        while queue.running < (rows if held is None else held):
            time.sleep(0.001)
        return queue

    yield make
    for queue in queues:
        queue.rows.ending.set()
        queue.close()


@pytest.fixture
def queue(made):
    """A queue that draws one answer at a time and is at one, so that what is submitted stays in order."""
    return made(1)


def submit(queue, name, **more):
    work = Answer(name, queue.ran, **more)
    return queue.submit(name[0], work)


def finish(queue):
    """Lets everything run, and waits for it."""
    last = Answer("z", [])
    queue.submit("z", last)
    queue.rows.ending.set()
    assert last.over.wait(10)
    while queue.running:
        time.sleep(0.001)


def test_clients_take_turns_however_much_one_asks_for(queue):
    for name in ("a1", "a2", "a3", "b1", "c1", "b2"):
        submit(queue, name)
    finish(queue)
    assert queue.ran == ["a1", "b1", "c1", "a2", "b2", "a3"]


@pytest.mark.parametrize("rows", [1, 3])
def test_the_position_told_is_the_number_of_turns_before(made, rows):
    queue = made(rows)
    tickets = {name: submit(queue, name) for name in ("a1", "a2", "b1", "a3", "c1")}
    told = {name: queue.position(ticket) for name, ticket in tickets.items()}
    finish(queue)
    # One more: of those that ran, one must end first.
    assert told == {name: queue.ran.index(name) + 1 for name in queue.ran}
    assert queue.position(tickets["a1"]) == 0


def test_whoever_finds_a_row_free_does_not_wait_and_no_more_than_the_rows_run(made):
    queue = made(3, held=1)
    tickets = [submit(queue, name) for name in ("a1", "b1", "c1", "d1")]
    while queue.running < 3:
        time.sleep(0.001)
    # Rounds of the loop in which a fourth could wrongly get in.
    time.sleep(0.05)
    assert queue.ran == ["a1", "b1"] and queue.running == 3
    assert [queue.position(t) for t in tickets] == [0, 0, 1, 2]


def test_one_that_is_stopped_leaves_the_others_running(made):
    queue = made(2, held=0)
    stays, goes = Answer("a", queue.ran), Answer("b", queue.ran)
    queue.submit("a", stays)
    ticket = queue.submit("b", goes)
    while queue.running < 2:
        time.sleep(0.001)
    assert not queue.cancel(ticket)
    assert goes.over.wait(10) and goes.finish == "stopped" and stays.finish is None
    queue.rows.ending.set()
    assert stays.over.wait(10) and stays.finish == "stop"


def test_a_full_queue_says_when_to_come_back(queue):
    for n in range(8):
        submit(queue, f"{n}")
    with pytest.raises(QueueFull) as full:
        submit(queue, "late")
    # Half of eight answers of 2 seconds, the guess before any was drawn.
    assert full.value.retry_after == 8


def test_one_client_holds_at_most_half_of_the_queue(queue):
    for _ in range(4):
        submit(queue, "greedy")
    with pytest.raises(QueueFull):
        submit(queue, "greedy")
    submit(queue, "modest")


def test_who_leaves_before_their_turn_never_gets_it(queue):
    gone = submit(queue, "a gone")
    submit(queue, "a kept")
    assert queue.cancel(gone)
    assert not queue.cancel(gone)
    finish(queue)
    assert queue.ran == ["a kept"] and gone.stop.is_set()


def test_work_that_fails_does_not_end_the_queue(queue):
    submit(queue, "a", error=RuntimeError())
    finish(queue)


def test_a_batch_that_breaks_is_told_to_all_in_it_and_the_next_one_is_new(made):
    queue = made(2, held=0)
    broken, after = Answer("a", queue.ran), Answer("b", queue.ran)
    queue.rows.fails = RuntimeError("x")
    queue.submit("a", broken)
    assert broken.over.wait(10) and broken.finish is queue.rows.fails
    queue.rows.fails = None
    queue.submit("b", after)
    queue.rows.ending.set()
    assert after.over.wait(10) and after.finish == "stop"


def test_a_row_for_which_there_is_no_memory_waits_and_fewer_run_from_then_on(made):
    queue = made(4, held=2)
    late = Answer("a", queue.ran, error=MemoryError())
    ticket = queue.submit("a", late)
    while late.error is not None or queue.position(ticket) != 1:
        time.sleep(0.001)
    submit(queue, "b")
    assert queue.position(ticket) == 1 and not late.over.is_set()
    queue.rows.ending.set()
    assert late.over.wait(10) and late.finish == "stop"


def test_without_memory_for_a_single_row_the_answer_fails(made):
    queue = made(4, held=0)
    alone = Answer("a", queue.ran, error=MemoryError())
    queue.submit("a", alone)
    assert alone.over.wait(10) and isinstance(alone.finish, MemoryError)


def test_closing_stops_what_runs_and_takes_no_more(made):
    queue = made(2, held=0)
    answers = [Answer(name, queue.ran) for name in "ab"]
    for answer in answers:
        queue.submit(answer.name, answer)
    while queue.running < 2:
        time.sleep(0.001)
    queue.close()
    assert [answer.finish for answer in answers] == ["stopped", "stopped"]
    with pytest.raises(QueueFull):
        submit(queue, "a")
