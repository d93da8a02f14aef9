"""Random numbers that are functions of seed and index."""

from __future__ import annotations

from libertai_engine.sampling.uniform import splitmix64, uniform


def test_numbers_are_those_of_the_published_generator() -> None:
    """The well-known first outputs of SplitMix64 started at 1234567."""
    assert [splitmix64(1234567, index) for index in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_numbers_lie_in_the_unit_interval_and_spread_evenly() -> None:
    """Over the indices of a seed and over seeds at one index, ten bins each near a tenth."""
    for numbers in (
        [uniform(5, index) for index in range(10_000)],
        [uniform(seed, 0) for seed in range(10_000)],
    ):
        assert all(0 <= number < 1 for number in numbers)
        bins = [sum(int(number * 10) == place for number in numbers) for place in range(10)]
        assert all(900 < count < 1100 for count in bins)


def test_streams_share_no_numbers() -> None:
    """Another stream of a seed is another generator, as good as the first."""
    one = [uniform(1, index, stream=0) for index in range(1000)]
    other = [uniform(1, index, stream=1) for index in range(1000)]
    assert one == [uniform(1, index) for index in range(1000)]
    assert not set(one) & set(other)
    assert abs(sum(a < b for a, b in zip(one, other, strict=True)) - 500) < 60


def test_neighbouring_seeds_share_no_numbers() -> None:
    """No stream is a shifted copy of another."""
    one = {uniform(1, index) for index in range(1000)}
    other = {uniform(2, index) for index in range(1000)}
    assert not one & other
