import pytest
from anomalib import LearningType
from anomalib.data import MVTecAD
from anomalib.metrics import AUROC, Evaluator

from anoclip_anomalib.running.collect import Collect, ShowImages
from anoclip_anomalib.running.engine import build_engine, learns, strip, undisturbed
from tests.evaluation.scorer import Brightness, write_category
from tests.submission.fake_model import Brightness as Quiet
from tests.submission.fake_model import LearnedBrightness


class Steps:
    def __init__(self):
        self.seen = []

    def start(self, text, total):
        self.seen.append([text, total, 0])

    def advance(self, count=1):
        self.seen[-1][2] += count


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = write_category(tmp_path_factory.mktemp("data"), images=5, size=32)
    return MVTecAD(root=root, category="plate", num_workers=0, eval_batch_size=4, train_batch_size=2)


def test_who_learns():
    assert not learns(Quiet())
    assert learns(LearnedBrightness())


def test_what_has_its_few_images_already_is_not_fitted():
    class Few(LearnedBrightness):
        learning_type = LearningType.FEW_SHOT

    assert not learns(Few())


def test_strip_leaves_what_is_wanted():
    model = Brightness(evaluator=Evaluator(test_metrics=[AUROC(fields=["pred_score", "gt_label"])]), visualizer=False)
    strip(model, keep={"evaluator"})
    assert model.post_processor is None
    assert model.evaluator is not None
    strip(model)
    assert model.evaluator is None


def test_every_batch_is_told(data, tmp_path, capsys):
    model, steps = LearnedBrightness(), Steps()
    strip(model)
    with undisturbed():
        engine = build_engine(tmp_path, [ShowImages(steps)], {"num_sanity_val_steps": 0, "limit_val_batches": 0})
        engine.fit(model, datamodule=data)
        engine.test(model, datamodule=data, verbose=False)
    assert [step for step in steps.seen if step[0] == "testing"] == [["testing", 10, 10]]
    assert steps.seen[0][0] == "training, epoch 1"
    assert steps.seen[0][1] == 5
    assert engine.trainer.loggers == []
    assert capsys.readouterr().out == ""


def test_collect_hands_on_raw_scores_and_maps_once_for_each_image(data, tmp_path):
    model, found, counted = Quiet(), {}, []
    keep = Collect(lambda path, score, scores: found.__setitem__(path, (score, scores)), maps=True, advance=counted.append)
    with undisturbed():
        engine = build_engine(tmp_path, [keep], {"limit_val_batches": 0}, keeps_nothing=False)
        engine.predict(model, datamodule=data, return_predictions=False)
    assert sorted(found) == sorted(map(str, data.test_data.samples["image_path"]))
    assert counted == [4, 4, 2]
    for score, scores in found.values():
        assert scores.shape == (16, 16)
        assert abs(score - 0.5) <= 0.01  # raw: a PostProcessor would have stretched it to 0..1
        assert score == pytest.approx(scores.max())


def test_zero_shot_runs_keep_nothing(data, tmp_path):
    model = Quiet()
    strip(model)
    with undisturbed():
        build_engine(tmp_path / "run", [], {"enable_checkpointing": True}, keeps_nothing=True).test(
            model, datamodule=data, verbose=False
        )
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_bar_of_lightnings_own_is_never_drawn_but_a_summary_if_asked_for(data, tmp_path):
    model = Quiet()
    strip(model)
    asked = {"enable_progress_bar": True, "enable_model_summary": True, "limit_test_batches": 0}
    engine = build_engine(tmp_path, [], asked)
    with undisturbed():
        engine.test(model, datamodule=data, verbose=False)
    names = {type(callback).__name__ for callback in engine.trainer.callbacks}
    assert engine.trainer.progress_bar_callback is None
    assert any("ModelSummary" in name for name in names)


@pytest.mark.parametrize(("limit", "total"), [(3, 3), (50, 10), (None, 10)])
def test_a_limited_prediction_is_told_as_what_will_be_done(tmp_path, data, limit, total):
    model, steps = Quiet(), Steps()
    strip(model)
    limits = {"limit_val_batches": 0} | ({} if limit is None else {"limit_predict_batches": limit})
    single = MVTecAD(root=data.root, category="plate", num_workers=0, eval_batch_size=1)
    with undisturbed():
        build_engine(tmp_path, [ShowImages(steps)], limits).predict(model, datamodule=single, return_predictions=False)
    assert steps.seen == [["one by one", total, total]]
