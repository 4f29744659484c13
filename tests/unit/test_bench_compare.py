"""Better, worse, the same or not to be told: what `compare` says of results made by hand."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncbatch.bench.compare_html import compare_page
from asyncbatch.bench.compare_text import summary
from asyncbatch.bench.comparing import Comparison, compare_results, distinct
from asyncbatch.bench.html import bench_page
from asyncbatch.bench.reading import read_result
from asyncbatch.bench.result import BenchResult, Point
from asyncbatch.cli.compare import execute
from asyncbatch.errors import ConfigError, InputError
from asyncbatch.observe.page import Figure, page_html

MakePoint = Callable[..., Point]
MakeResult = Callable[..., BenchResult]


@pytest.fixture
def compared(make_point: MakePoint, make_result: MakeResult) -> Callable[..., Comparison]:
    """The verdict on rows/s of one setting; `old` and `new` are (rows_per_s, spread)."""

    def run(
        old: tuple[float, float], new: tuple[float, float], *, min_effect: float = 0.02, p95_s: float = 0.2
    ) -> Comparison:
        results = distinct(
            make_result(make_point(rows_per_s=rate, spread=spread, p95_s=p95))
            for (rate, spread), p95 in ((old, 0.2), (new, p95_s))
        )
        (found,) = compare_results(results, min_effect=min_effect).candidates.values()
        return found[0]

    return run


def test_a_clear_gain_is_better_and_its_reverse_worse(compared: Callable[..., Comparison]) -> None:
    gain, loss = compared((1000, 0.02), (1200, 0.02)), compared((1200, 0.02), (1000, 0.02))
    assert (gain.verdict, loss.verdict) == ("better", "worse")
    assert gain.ratio == pytest.approx(1.2)
    assert gain.effect == pytest.approx(-(loss.effect or 0))


def test_a_longer_latency_is_worse(make_point: MakePoint, make_result: MakeResult) -> None:
    results = distinct([make_result(make_point(p95_s=0.2)), make_result(make_point(p95_s=0.3))])
    found = compare_results(results, min_effect=0.02)
    assert [each.verdict for each in found.candidates["churn (2)"]] == ["cannot tell", "worse"]
    assert found.regressed


def test_noise_larger_than_the_difference_cannot_be_told(compared: Callable[..., Comparison]) -> None:
    found = compared((1000, 0.3), (1100, 0.3))
    assert found.verdict == "cannot tell"
    assert "measure for longer" in found.why


def test_a_difference_below_the_least_effect_is_no_regression(compared: Callable[..., Comparison]) -> None:
    assert compared((1000, 0.001), (985, 0.001), min_effect=0.02).verdict == "same"
    assert compared((1000, 0.001), (985, 0.001), min_effect=0.01).verdict == "worse"


def test_equal_needs_as_much_evidence_as_worse(compared: Callable[..., Comparison]) -> None:
    assert compared((1000, 0.001), (1000, 0.001)).verdict == "same"
    assert compared((1000, 0.1), (1000, 0.1)).verdict == "cannot tell"


def test_without_intervals_nothing_is_told(compared: Callable[..., Comparison]) -> None:
    found = compared((1000, 0), (3000, 0))
    assert found.verdict == "cannot tell"
    assert found.ratio == 3


def test_of_twenty_comparisons_of_noise_few_families_find_a_difference(
    make_point: MakePoint, make_result: MakeResult
) -> None:
    """Holm's correction: without it two of three such families would."""
    rng = random.Random(5)
    error = 0.02
    spread = math.expm1(1.959964 * error)
    alarms = 0
    for _ in range(100):
        families = [
            make_result(
                *(
                    make_point(
                        at,
                        chunk_rows=100 + at,
                        rows_per_s=1000 * math.exp(rng.gauss(0, error)),
                        spread=spread,
                        p95_s=None,
                    )
                    for at in range(20)
                )
            )
            for _ in range(2)
        ]
        (found,) = compare_results(distinct(families), min_effect=0).candidates.values()
        alarms += any(each.verdict in ("better", "worse") for each in found)
    assert alarms <= 12  # 5 expected; the chance of more than 12 is below 0.2 %


def test_settings_are_compared_where_both_measured_them_else_the_best(
    make_point: MakePoint, make_result: MakeResult
) -> None:
    old = make_result(make_point(0), make_point(1, chunk_rows=200, rows_per_s=1500))
    same = make_result(make_point(0, chunk_rows=200, rows_per_s=1500), label="same")
    other = make_result(make_point(0, chunk_rows=999, rows_per_s=900), label="other")
    found = compare_results([old, same, other], min_effect=0.02)
    assert {each.setting for each in found.candidates["same"]} == {"200 rows x 4 in flight"}
    (setting,) = {each.setting for each in found.candidates["other"]}
    assert setting == "best (200 rows x 4 in flight; 999 rows x 4 in flight)"


def test_in_open_loop_only_the_latency_is_compared(make_point: MakePoint, make_result: MakeResult) -> None:
    results = distinct([make_result(make_point(concurrency=None)), make_result(make_point(concurrency=None))])
    (found,) = compare_results(results, min_effect=0.02).candidates.values()
    assert [each.what for each in found] == ["p95 latency"]


def test_the_front_over_instance_types_is_fast_or_cheap(
    make_point: MakePoint, make_result: MakeResult
) -> None:
    def one(label: str, rate: float, dollars: float | None) -> BenchResult:
        return make_result(make_point(rows_per_s=rate, dollars_per_million_rows=dollars), label=label)

    found = compare_results(
        [one("slow and cheap", 500, 0.1), one("fast and dear", 900, 0.4), one("neither", 450, 0.3)],
        min_effect=0.02,
    )
    assert [(each.label, each.on_pareto_front) for each in found.ranking] == [
        ("fast and dear", True),
        ("slow and cheap", True),
        ("neither", False),
    ]


def test_what_makes_results_hard_to_compare_is_said(make_point: MakePoint, make_result: MakeResult) -> None:
    first = make_result(make_point())
    second = make_result(make_point(client_bound=True), label="b", partial=True, partial_reason="interrupted")
    warnings = compare_results([first, second], min_effect=0.02).warnings
    assert len(warnings) == 2
    assert warnings[0] == "b is partial: interrupted"


def test_exit_code_4_means_a_regression(
    tmp_path: Path, make_point: MakePoint, make_result: MakeResult, capsys: pytest.CaptureFixture[str]
) -> None:
    fast, slow = tmp_path / "fast.json", tmp_path / "slow.json"
    fast.write_text(make_result(make_point(rows_per_s=2000)).to_json())
    slow.write_text(make_result(make_point(rows_per_s=1000)).to_json())
    arguments = {"min_effect": "2%", "report": None}
    assert execute([str(fast), str(slow)], as_json=False, **arguments) == 4
    assert execute([str(slow), str(fast)], as_json=False, **arguments) == 0
    assert "1 better" in capsys.readouterr().out
    assert execute([str(fast), str(slow)], as_json=True, **arguments) == 4
    assert json.loads(capsys.readouterr().out)["regressed"] is True


def test_a_report_can_be_compared_like_the_json(
    tmp_path: Path, make_point: MakePoint, make_result: MakeResult
) -> None:
    result = make_result(make_point())
    page = tmp_path / "report.html"
    page.write_text(page_html(bench_page(result), script=""))
    assert read_result(str(page)) == result


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "<html></html>", '{"kind": "asyncbatch-bench", "schema_version": 99}']
)
def test_what_is_no_result_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"x\.json"):
        read_result(str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        read_result(str(tmp_path / "absent.json"))


def test_one_result_is_refused_and_so_is_a_bad_effect() -> None:
    with pytest.raises(ConfigError, match="two results"):
        execute(["one.json"], min_effect="2%", as_json=False, report=None)
    with pytest.raises(ConfigError, match="--min-effect"):
        execute(["one.json", "two.json"], min_effect="often", as_json=False, report=None)


def test_the_report_shows_the_comparisons_numbers(make_point: MakePoint, make_result: MakeResult) -> None:
    results = distinct(
        make_result(make_point(rows_per_s=rate, dollars_per_million_rows=dollars))
        for rate, dollars in ((1000.0, 0.2), (1300.0, 0.3))
    )
    found = compare_results(results, min_effect=0.02)
    page = compare_page(found, results)
    figures = {each.name: each for part in page.sections for each in part.shows if isinstance(each, Figure)}
    (better, untold) = figures["ratios0"].traces
    assert better["x"] == [found.candidates["churn (2)"][0].ratio]
    assert figures["pareto"].traces[0]["x"] == [0.3, 0.2]
    assert figures["pareto"].traces[0]["y"] == [1300.0, 1000.0]
    assert page.document["regressed"] is False
    assert untold["name"] in ("same", "cannot tell")


def test_the_text_says_what_decided(make_point: MakePoint, make_result: MakeResult) -> None:
    results = distinct(make_result(make_point(rows_per_s=rate)) for rate in (1000.0, 800.0))
    said = summary(compare_results(results, min_effect=0.02))
    assert "churn (2) against churn: 1 worse" in said
    assert "-20.0%" in said
    assert "<0.001" in said
