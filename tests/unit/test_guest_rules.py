"""What the guest is made of: the base latency, the search for the level, and what is under way."""

import random

import pytest

from asyncbatch.control.base_latency import NORMAL, BaseLatency
from asyncbatch.control.guest_size import SizeSearch
from asyncbatch.control.quest import Quest
from asyncbatch.control.sent import Sent

ALLOWED = 0.055


def made(**options: float) -> Quest:
    return Quest(**{"low": 0.1, "high": 500.0, "normal": NORMAL, "allowed": ALLOWED, **options})


def searched(sought: float, *, seed: int, observations: int, quest: Quest, slope: float = 0.3) -> float:
    """The level after so many observations of an endpoint where `sought` is the level looked for."""
    rng = random.Random(seed)
    level = 1.0
    for _ in range(observations):
        share = NORMAL + (ALLOWED - NORMAL) * level / sought * 2.718 ** (slope * (level - sought))
        quest.observe(level, rng.random() < min(0.95, share))
        level = min(quest.quantile(0.4), 1.5 * level)
    return level


class TestBaseLatency:
    @pytest.mark.parametrize("known", [60, 300])
    def test_of_latencies_at_rest_one_in_forty_is_longer(self, known: int) -> None:
        rng = random.Random(1)
        beyond = tried = 0
        for _ in range(300):
            base = BaseLatency()
            for _ in range(known):
                base.add(rng.lognormvariate(0, 0.2))
            for _ in range(30):
                tried += 1
                beyond += base.exceeded_by(rng.lognormvariate(0, 0.2))
        assert beyond / tried == pytest.approx(NORMAL, abs=0.006)

    def test_latencies_that_are_all_alike_are_no_delay(self) -> None:
        base = BaseLatency()
        for _ in range(100):
            base.add(1.0)
        assert not base.exceeded_by(1.004)
        assert base.exceeded_by(1.01)

    def test_it_follows_the_day(self) -> None:
        base = BaseLatency()
        for _ in range(800):
            base.add(1.0)
        assert (base.limit_s, base.mean_s, base.settled) == (1.0, 1.0, True)
        for _ in range(800):
            base.add(3.0)
        assert (base.limit_s, base.mean_s, len(base)) == (3.0, 3.0, 800)

    def test_while_nothing_is_known_nothing_is_longer(self) -> None:
        assert not BaseLatency().exceeded_by(1e9)
        assert (BaseLatency().mean_s, BaseLatency().settled) == (0.0, False)


class TestQuest:
    @pytest.mark.parametrize("sought", [0.4, 2.5, 12.0, 45.0])
    def test_it_finds_the_level(self, sought: float) -> None:
        found = [searched(sought, seed=seed, observations=1_500, quest=made()) for seed in range(6)]
        assert 0.6 * sought < sorted(found)[2] < 1.4 * sought
        assert max(found) < 2 * sought

    @pytest.mark.parametrize("slope", [0.1, 1.0])
    def test_the_endpoint_need_not_be_as_the_model_says(self, slope: float) -> None:
        found = searched(6.0, seed=1, observations=1_500, quest=made(), slope=slope)
        assert 3.0 < found < 9.0

    def test_it_follows_an_endpoint_that_changes(self) -> None:
        quest = made()
        before = searched(12.0, seed=1, observations=800, quest=quest)
        after = searched(2.0, seed=2, observations=200, quest=quest)
        assert after < 0.5 * before
        assert searched(12.0, seed=3, observations=1_500, quest=quest) > 1.5 * after

    def test_a_few_that_wait_in_one_queue_do_not_undo_what_was_learned(self) -> None:
        quest = made()
        before = searched(4.0, seed=1, observations=1_000, quest=quest)
        for _ in range(5):
            quest.observe(before, True)
        assert quest.quantile(0.4) > 0.4 * before

    def test_more_is_found_where_less_certainty_is_asked_for(self) -> None:
        quest = made()
        searched(4.0, seed=1, observations=100, quest=quest)
        levels = [quest.quantile(probability) for probability in (0.1, 0.4, 0.9)]
        assert levels == sorted(levels)
        assert levels[0] < 0.8 * levels[2]

    def test_lower_halves_what_is_thought_and_leaves_probabilities(self) -> None:
        quest = made()
        searched(4.0, seed=1, observations=500, quest=quest)
        before = quest.quantile(0.4)
        quest.lower(0.5)
        assert quest.quantile(0.4) == pytest.approx(before / 2, rel=0.08)
        for _ in range(200):
            quest.lower(0.5)
        assert 0.09 < quest.quantile(0.4) < 0.12
        quest.observe(0.1, False)
        assert 0.09 < quest.quantile(0.4) < 0.2

    def test_doubt_opens_the_search_again(self) -> None:
        doubted, sure = made(), made()
        for quest in (doubted, sure):
            for _ in range(200):
                quest.observe(1.0, True)
            assert quest.quantile(0.4) < 0.2
        doubted.doubt(0.5)
        assert doubted.quantile(0.4) < 0.3
        for quest in (doubted, sure):
            for _ in range(60):
                quest.observe(0.2, False)
        assert sure.quantile(0.4) < 0.3
        assert doubted.quantile(0.4) > 1.0

    def test_it_stays_between_the_bounds(self) -> None:
        quest = made(low=2.0, high=4.0)
        for _ in range(300):
            quest.observe(4.0, True)
        assert 1.9 < quest.quantile(0.4) < 2.2
        for _ in range(3_000):
            quest.observe(1_000.0, False)
        assert 3.8 < quest.quantile(0.4) < 4.5

    @pytest.mark.parametrize("allowed", [NORMAL, 1.0])
    def test_a_share_that_cannot_be_told_apart_is_refused(self, allowed: float) -> None:
        with pytest.raises(ValueError, match="allowed"):
            made(allowed=allowed)


class TestSizeSearch:
    @staticmethod
    def found(
        search: SizeSearch, call_s: float, row_s: float, *, most: int = 65_536, noise: float = 0.1
    ) -> int:
        rng = random.Random(1)
        for _ in range(1_000):
            seconds = (call_s + row_s * search.trying) * rng.lognormvariate(0, noise)
            if search.observe(seconds, most=most):
                return search.rows
        raise AssertionError("it never ends")

    def test_a_chunk_takes_at_most_twice_as_long_as_one_row(self) -> None:
        search = SizeSearch(low=1, longest_s=None)
        rows = self.found(search, 0.05, 0.001)
        assert 16 <= rows <= 52
        assert search.longest_s == pytest.approx(2 * 0.051, rel=0.15)
        assert search.chunk_s == pytest.approx(0.05 + 0.001 * rows, rel=0.15)

    def test_a_bound_of_the_user_holds(self) -> None:
        assert 0.05 + 0.001 * self.found(SizeSearch(low=1, longest_s=0.06), 0.05, 0.001) <= 0.062

    def test_twice_the_rows_must_be_worth_the_time(self) -> None:
        assert (
            self.found(SizeSearch(low=1, longest_s=100.0), 0.02, 0.003, noise=0.02) == 8
        )  # 16: 1.55 times as long

    def test_noise_alone_does_not_end_it(self) -> None:
        assert self.found(SizeSearch(low=1, longest_s=None), 0.3, 0.001, noise=0.3) >= 32

    def test_no_chunk_is_larger_than_allowed_nor_smaller(self) -> None:
        assert self.found(SizeSearch(low=1, longest_s=None), 0.05, 1e-6, most=12) == 12
        assert self.found(SizeSearch(low=4, longest_s=0.001), 0.05, 0.01) == 4


class TestSent:
    def test_a_request_is_known_by_when_it_was_sent(self) -> None:
        sent = Sent(expire_s=100)
        sent.add(1.0, single=False, level=2.0)
        sent.add(2.0, single=True, level=3.0)
        assert (len(sent), sent.chunks, sent.chunks_seen) == (2, 1, 1)
        first = sent.pop(1.0)
        assert first is not None
        assert (first.single, first.level, sent.chunks) == (False, 2.0, 0)
        second = sent.pop(2.5)  # the request began a little after it was granted
        assert second is not None
        assert (second.single, second.level) == (True, 3.0)
        assert sent.pop(3.0) is None

    def test_what_never_ends_expires(self) -> None:
        sent = Sent(expire_s=10)
        sent.add(0.0, single=False, level=1.0)
        sent.expire(9.0)
        assert len(sent) == 1
        sent.expire(11.0)
        assert (len(sent), sent.chunks) == (0, 0)
