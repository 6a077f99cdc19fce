"""Answers on disk: what is whole counts, what is torn does not, what is committed goes away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salience.errors import ModelError, RunError
from salience.models.account import Account
from salience.models.journal import Journal, row_keys

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.standard_normal((6, 3, 4, 4)).astype(np.float32)
KEYS = row_keys(ROWS)
SCORES = RANDOM.standard_normal((6, 3)).astype(np.float32)
SCORES[5, 1] = np.nan
ANSWERS = dict(zip(KEYS, SCORES, strict=True))


def some(*rows: int) -> dict[bytes, np.ndarray]:
    return {KEYS[i]: SCORES[i] for i in rows}


def kept(journal: Journal) -> list[int]:
    found = journal.find(KEYS)
    for key, scores in found.items():
        np.testing.assert_array_equal(scores, ANSWERS[key])
    return [i for i, key in enumerate(KEYS) if key in found]


def test_keys_are_those_of_the_bytes() -> None:
    assert len(set(KEYS)) == 6
    assert all(len(key) == 16 for key in KEYS)
    assert row_keys(ROWS[[2, 2]].copy()) == [KEYS[2], KEYS[2]]
    nudged = ROWS[:1].copy()
    nudged[0, 0, 0, 0] = np.nextafter(nudged[0, 0, 0, 0], np.inf)
    assert row_keys(nudged) != KEYS[:1]


def test_answers_are_there_at_once_and_for_the_next_process(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "q", "model")
    assert not (tmp_path / "q").exists()
    assert kept(journal) == []
    journal.begin("one")
    journal.add(some(3, 0))
    journal.add(some(5))
    assert kept(journal) == [0, 3, 5]
    assert kept(Journal(tmp_path / "q", "model")) == [0, 3, 5]  # the first was never closed: its process was killed


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 300))
def test_a_torn_tail_does_not_count_and_is_written_over(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("torn")
    journal = Journal(folder, "model")
    journal.begin("one")
    journal.add(some(0, 1, 2, 3))
    journal.close()
    path = folder / "one.rows"
    content = path.read_bytes()
    cut = min(cut, len(content))
    path.write_bytes(content[: len(content) - cut])
    record = 16 + 4 * 3 + 4
    whole = 0 if cut > 4 * record else 4 - -(-cut // record)
    again = Journal(folder, "model")
    assert kept(again) == list(range(whole))
    again.begin("one")
    again.add(some(4, 5))
    again.close()
    assert kept(Journal(folder, "model")) == [*range(whole), 4, 5]


def test_a_record_with_a_wrong_sum_ends_what_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "model")
    journal.add(some(0, 1, 2))
    journal.close()
    path = tmp_path / "probes.rows"
    content = bytearray(path.read_bytes())
    content[-40] ^= 1  # in the second record
    path.write_bytes(content)
    assert kept(Journal(tmp_path, "model")) == [0]


def test_units_go_when_they_are_committed_and_probes_stay(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "model")
    journal.add(some(0))
    journal.begin("one")
    journal.add(some(1, 2))
    journal.begin("two")
    journal.add(some(3))
    journal.committed("one")
    assert kept(journal) == [0, 3]
    assert sorted(p.name for p in tmp_path.glob("*.rows")) == ["probes.rows", "two.rows"]
    journal.begin("three")  # a unit without a question has no file
    journal.committed("three")
    journal.finish()
    assert kept(journal) == [0]
    assert [p.name for p in tmp_path.glob("*.rows")] == ["probes.rows"]


def test_what_is_left_of_other_units_is_served_until_all_work_is_done(tmp_path: Path) -> None:
    killed = Journal(tmp_path, "model")
    killed.begin("old")
    killed.add(some(1, 2))
    again = Journal(tmp_path, "model")
    again.begin("new")  # other methods were asked for: the unit is another one
    again.add(some(4))
    assert kept(again) == [1, 2, 4]
    again.committed("new")
    assert kept(again) == [1, 2]
    again.finish()
    assert not list(tmp_path.glob("*.rows"))


def test_a_unit_that_is_begun_again_goes_on_in_its_own_file(tmp_path: Path) -> None:
    for rows in ((0, 1), (2,), (3,)):
        journal = Journal(tmp_path, "model")
        journal.begin("one")
        journal.add(some(*rows))
    assert [p.name for p in tmp_path.glob("*.rows")] == ["one.rows"]
    assert kept(Journal(tmp_path, "model")) == [0, 1, 2, 3]


def test_answers_of_another_model_are_not_served(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "model")
    journal.add(some(0, 1))
    other = Journal(tmp_path, "retrained")
    assert kept(other) == []
    other.add(some(2))
    assert kept(Journal(tmp_path, "retrained")) == [2]


def test_the_count_survives_and_a_broken_one_is_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "model")
    assert journal.sent() == 0
    for count in (5, 123456789, 7):
        journal.write_sent(count)
        assert Journal(tmp_path, "model").sent() == count
    (tmp_path / "sent").write_text("many")
    with pytest.raises(RunError, match="not a number of rows"):
        journal.sent()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be kept in .*what was kept before is not asked again"):
        Journal(tmp_path / "file" / "q", "model").add(some(0))


# ---------------------------------------------------------------------- the account


def test_the_limit_is_never_exceeded_and_nothing_is_counted_beyond_it() -> None:
    account = Account("far", limit=10)
    account.charge(6)
    with pytest.raises(
        ModelError, match=r"far was sent 6 rows and may be sent 10 \(max_queries\); 5 more .*same command"
    ):
        account.charge(5)
    assert account.sent == 6
    account.charge(4)
    assert account.sent == 10


def test_rows_are_counted_on_disk_before_they_go_out(tmp_path: Path) -> None:
    begun = []
    account = Account("far")
    with account.kept_in(tmp_path / "q", "model", lambda: begun.append(1)):
        assert begun == []
        account.charge(16)
        assert Journal(tmp_path / "q", "model").sent() == 16
        account.refund(16)
        account.charge(3)
    assert begun == [1]
    second = Account("far", limit=4)
    with second.kept_in(tmp_path / "q", "model", lambda: None):
        assert second.sent == 3
        with pytest.raises(ModelError, match="may be sent 4"):
            second.charge(2)


def test_without_a_run_nothing_is_kept(tmp_path: Path) -> None:
    account = Account("far")
    account.begin("one")
    account.add(some(0))
    account.committed("one")
    account.finish()
    assert account.find(KEYS) == {}
