"""What a load notes of its requests, and what is read from it while it goes on."""

import numpy as np
import pytest

from asyncbatch.bench.records import Records


def test_what_was_noted_is_what_is_read() -> None:
    records = Records()
    records.add(
        intended_s=1.0,
        sent_s=1.5,
        finished_s=4.0,
        rows=10,
        body_bytes=2**40,
        wire=(2.0, 2.5, 3.0),
        received_s=3.5,
    )
    records.add(intended_s=5.0, sent_s=5.5, finished_s=6.0, rows=7, body_bytes=3, outcome="timeout: connect")
    assert len(records) == 2
    names = ("intended", "sent", "began", "written", "replied", "received", "finished")
    assert [records.time(name)[0] for name in names] == [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    assert [records.time(name)[1] for name in ("intended", "sent", "finished")] == [5.0, 5.5, 6.0]
    assert all(np.isnan(records.time(name)[1]) for name in ("began", "written", "replied", "received"))
    assert (records.rows.tolist(), records.body_bytes.tolist()) == ([10, 7], [2**40, 3])
    assert [records.outcome_names[code] for code in records.outcomes] == ["success", "timeout: connect"]


@pytest.mark.parametrize("before", [0, 5])
def test_it_grows_while_columns_read_before_are_held(before: int) -> None:
    records = Records()
    for number in range(before):
        records.add(intended_s=number, sent_s=number, finished_s=number, rows=1, body_bytes=1)
    held = records.time("sent"), records.rows
    for _ in range(1_000):
        records.add(intended_s=9.0, sent_s=9.0, finished_s=9.0, rows=2, body_bytes=1)
    assert len(held[0]) == len(held[1]) == before
    assert (len(records), records.rows.sum()) == (before + 1_000, before + 2_000)
