"""Processes agree before they work; threads stand for them, as each has its own connection."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from freqfusion.engine.launch import Finding, Meeting, Place
from freqfusion.engine.launch.processes import _free_port

FINE = Finding(0, "", "cpu")


def fail(sentence):
    raise AssertionError(f"nothing is to be told, not even {sentence!r}")


def together(count, local_size, work):
    """What ``work`` gives for each of the places, whose processes all go on until the end."""
    url = f"tcp://127.0.0.1:{_free_port()}"
    kept = []

    def one(rank):
        meeting = Meeting(Place(rank, count, rank % local_size, local_size, url))
        kept.append(meeting)
        return work(meeting)

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(one, rank) for rank in range(count)]]


def test_one_may_speak():
    assert sorted(together(3, 3, lambda meeting: meeting.claim())) == [False, False, True]


def test_nobody_speaks_when_the_store_has_gone():
    class Gone:
        def add(self, *_):
            raise RuntimeError("connection reset")

    meeting = Meeting(Place(0, 1, 0, 1, f"tcp://127.0.0.1:{_free_port()}"))
    meeting.store = Gone()
    assert not meeting.claim()


def test_first_process_of_each_machine_checks_and_all_hear_of_it():
    """The sentence has been told when the first process returns."""
    checked, told, known = [], [], []

    def tell(sentence):
        time.sleep(0.1)
        told.append(sentence)

    def work(meeting):
        def check():
            checked.append(meeting.place.rank)
            time.sleep(0.05)
            return FINE if meeting.place.machine == 0 else Finding(2, "no data here", "")

        finding = meeting.agree(check, tell)
        known.append(len(told))
        return finding

    assert together(4, 2, work) == [Finding(2, "no data here", "")] * 4
    assert sorted(checked) == [0, 2]
    assert told == ["no data here"]
    assert known == [1, 1, 1, 1]


def test_nothing_to_tell():
    assert together(2, 2, lambda meeting: meeting.agree(lambda: FINE, fail)) == [FINE] * 2


def test_machines_must_be_alike():
    def work(meeting):
        device = ("cuda", "cpu")[meeting.place.machine]
        return meeting.agree(lambda: Finding(0, "", device), str)

    for finding in together(2, 1, work):
        assert finding.code == 2
        assert finding.sentence.startswith("some machines run on cpu and others on cuda: set MODEL")


def test_defect_of_one_ends_the_others():
    def work(meeting):
        def check():
            raise TypeError("a defect")

        if meeting.place.rank == 0:
            with pytest.raises(TypeError):
                meeting.agree(check, fail)
            time.sleep(0.2)  # the trace
            return None
        return meeting.agree(check, fail)

    assert together(2, 2, work) == [None, Finding(1, "", "")]
