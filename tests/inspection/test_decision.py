import numpy as np
import pytest

from anoclip_anomalib.inspection.decision import Decision, GoodImage, check_threshold, ranks, robust_z


def test_the_verdict_decides_what_is_marked():
    decision = Decision(2.0, 5.0, "rule")
    cold, hot = np.linspace(0, 1, 200).reshape(10, 20), np.linspace(0, 6, 200).reshape(10, 20)
    assert decision.marked_above(2.0, hot) is None, "a photograph that is called good shows no outline, however hot it is"
    assert decision.marked_above(2.1, hot) == 5.0
    dot = np.zeros((100, 100))
    dot[:3, :3], dot[50:60, 50:60] = 6, np.linspace(3, 4.9, 100).reshape(10, 10)
    assert decision.marked_above(2.1, dot) < 4.9, "nor with one that nobody sees"
    dot[0, 3] = 6  # a thousandth
    assert decision.marked_above(2.1, dot) == 5.0
    marked = decision.marked_above(2.1, cold)
    assert 0 < (cold > marked).mean() <= 0.01, "a defect is never without an outline"
    assert 0 < (hot > Decision(2.0, None, "given").marked_above(2.1, hot)).mean() <= 0.01


def test_a_defect_of_equal_values_is_marked_as_a_whole():
    flat = np.ones((8, 8), np.float32)
    assert (flat > Decision(2.0, 5.0, "rule").marked_above(2.1, flat)).all()


def test_the_highest_hundredth_of_a_large_map_is_judged_by_a_part_of_it():
    heatmap = np.random.default_rng(0).random((2000, 3000), dtype=np.float32)
    assert (heatmap > Decision(2.0, 5.0, "rule").marked_above(2.1, heatmap)).mean() == pytest.approx(0.01, rel=0.05)


def test_a_score_at_the_threshold_is_good():
    decision = Decision(2.0, None, "rule", 0.1, (GoodImage("a.png", 1.5), GoodImage(None, 1.0)))
    assert [decision.is_defect(score) for score in (1.9, 2.0, 2.1)] == [False, False, True]
    assert decision.as_dict()["good"] == [{"path": "a.png", "score": 1.5}, {"path": None, "score": 1.0}]
    assert decision.as_dict()["expected_false_alarm_rate"] == 0.1


def test_z_is_in_robust_standard_deviations():
    normal = np.random.default_rng(0).normal(10, 3, 20_000)
    assert np.allclose(robust_z(normal), (normal - 10) / 3, atol=0.1)
    z = robust_z([1, 2, 3, 4, 1000])
    assert z[2] == 0
    assert z[3] == pytest.approx(1 / 1.4826, rel=1e-4), "one far away does not change the unit"
    assert np.allclose(robust_z(np.arange(9) * -2.5 + 7), -robust_z(np.arange(9)))


def test_z_of_equal_and_of_no_scores():
    assert robust_z([3, 3, 3]).tolist() == [0, 0, 0]
    assert robust_z([]).tolist() == []
    z = robust_z([3, 3, 3, 3, 8])
    assert z[:4].tolist() == [0, 0, 0, 0]
    assert 0 < z[4] < np.inf


def test_ranks_begin_with_the_highest_score():
    assert ranks([0.1, 0.9, 0.5, 0.9]).tolist() == [4, 1, 3, 1]


@pytest.mark.parametrize(
    ("given", "wanted"), [("auto", "auto"), ("natural", "natural"), (2, 2.0), ("2.5", 2.5), (-1e-3, -1e-3)]
)
def test_a_threshold_is_a_word_or_a_number(given, wanted):
    assert check_threshold(given) == wanted


@pytest.mark.parametrize(
    ("given", "said"), [("natral", "did you mean natural"), ("nan", "number"), (None, "number"), (True, "number")]
)
def test_another_threshold_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        check_threshold(given)


def test_where_most_scores_are_equal_the_unit_is_the_mean_deviation_of_a_normal_distribution():
    assert robust_z([3, 3, 3, 3, 8])[4] == pytest.approx(5 / np.sqrt(np.pi / 2))  # they are 1 away on average
