import csv
import logging
import subprocess
import sys
import time
from itertools import count

import numpy as np
import pytest
import torch
from anomalib.engine import Engine
from PIL import Image

from anoclip_anomalib import AnoClip, Inspector, TestTimeAdaptation
from anoclip_anomalib.cli.main import main
from anoclip_anomalib.data import FolderImages
from tests.inspection.conftest import part


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("with_good", [False, True])
def test_results_are_those_of_anoclip_predict_to_the_last_digit(photos, good, make, weight_file, tmp_path, with_good):
    words = ["predict", "--model", "AnoClip", "--model.backbone", "tiny", "--model.pretrained", weight_file("tiny")]
    words += ["--model.class_name", "bottle", "--data", str(photos), "--default_root_dir", str(tmp_path)]
    words += ["--model.visualizer", "false", "--trainer.accelerator", "cpu"]
    assert main([*words, *(["--model.normal_images", str(good)] if with_good else [])]) == 0
    table = next(tmp_path.rglob("predictions.csv"))
    with table.open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    inspector = make(good=good if with_good else None)
    assert len(rows) == len(files(photos)) == 7
    for path in files(photos):
        result = inspector(path)
        assert repr(result.score) == rows[str(path)]["score"]
        if with_good:
            assert repr(result.threshold) == rows[str(path)]["threshold"]
            assert result.is_defect == bool(int(rows[str(path)]["label"]))
            assert result.heatmap.shape == result.photograph.shape[:2]


def test_a_stream_has_the_results_of_single_photographs_in_their_order(photos, good, make):
    inspector = make(good=good, batch_size=3)
    streamed = list(inspector.stream(files(photos)))
    assert [result.path for result in streamed] == files(photos)
    for result, path in zip(streamed, files(photos), strict=True):
        alone = inspector(path)
        assert result.score == pytest.approx(alone.score, rel=1e-5)
        assert np.allclose(result.anomaly_map, alone.anomaly_map, rtol=1e-4)
        assert result.verdict == alone.verdict


def test_a_list_gives_a_list_whose_pictures_share_their_contrast(photos, make):
    results = make()([str(path) for path in files(photos)])
    assert len({result.contrast for result in results}) == 1
    assert results[0].contrast is not None
    low, high = results[0].contrast
    values = np.concatenate([result.anomaly_map.ravel() for result in results])
    assert low == pytest.approx(np.quantile(values, 0.5), rel=0.05)
    assert values.min() < low < high <= values.max()


def test_results_of_a_list_hold_no_pixels_and_read_them_again(tmp_path, make):
    Image.fromarray(part(1)).save(tmp_path / "a.png")
    result, other = make()([tmp_path / "a.png", part(2)])
    assert result.heatmap.shape == (70, 90)
    assert np.array_equal(result.photograph, part(1))
    assert np.array_equal(other.photograph, part(2))
    (tmp_path / "a.png").unlink()
    assert result.heatmap.shape == (70, 90)
    with pytest.raises(OSError, match="a.png"):
        _ = result.photograph


def test_a_stream_reads_no_more_than_a_batch_ahead(make):
    read = []

    def endless():
        for index in count():
            read.append(index)
            yield part(index % 5)

    stream = make(batch_size=4).stream(endless())
    assert not read
    for index in range(9):
        assert next(stream).score > 0
        assert len(read) == (index // 4 + 1) * 4


def test_photographs_of_many_sizes_and_forms_keep_their_order(make):
    forms = [part(0), Image.fromarray(part(1, (33, 44))), part(2, (50, 40)).astype(np.float32) / 255]
    inspector = make(tiling="square", image_size=64)  # where sizes differ after preprocessing too
    results = inspector(forms)
    assert [result.photograph.shape[:2] for result in results] == [(70, 90), (33, 44), (50, 40)]
    assert [result.score for result in results] == pytest.approx([inspector(form).score for form in forms], rel=1e-5)


def test_what_cannot_be_inspected_is_a_fault_or_an_error_after_the_others(tmp_path, make):
    Image.fromarray(part(1)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    given = [tmp_path / "a.png", tmp_path / "b.png", np.full((5, 5, 3), 300.0), tmp_path / "gone.png", part(3)]
    results = list(make().stream(given, faults=True))
    assert [bool(result.fault) for result in results] == [False, True, True, True, False]
    assert "b.png" in results[1].fault
    assert "Divide" in results[2].fault
    assert np.isnan(results[1].score)
    assert results[1].is_defect is None
    stream = make().stream(given)
    assert next(stream).path == tmp_path / "a.png"
    with pytest.raises(OSError, match="b.png"):
        next(stream)


def test_a_score_that_is_not_finite_is_a_fault(make):
    inspector = make()
    inspector.module.model.text_embeddings.fill_(float("nan"))
    result = next(inspector.stream([part(0)], faults=True))
    assert "not finite" in result.fault
    assert result.as_dict()["score"] is None
    with pytest.raises(ValueError, match="not finite"):
        inspector(part(0))


def test_single_things_cannot_be_streamed(make, photos):
    for photo in (photos / "grey.png", part(0), 7):
        with pytest.raises(TypeError, match="single"):
            next(make().stream(photo))


# Decisions


def test_without_good_images_there_is_no_verdict(make):
    inspector = make()
    result = inspector(part(0, blot=True))
    assert inspector.decision is None
    assert (result.is_defect, result.threshold, result.pixel_threshold, result.regions) == (None, None, None, ())
    assert result.verdict == ""


def test_good_images_give_thresholds_and_say_what_they_promise(make, good):
    inspector = make(good=good)
    decision = inspector.decision
    assert decision.expected_false_alarm_rate == pytest.approx(1 / 7)
    assert "6 normal images" in decision.rule
    assert "14.3%" in decision.rule
    assert decision.image_threshold == max(image.score for image in decision.good)
    assert [image.path for image in decision.good] == [str(path) for path in files(good)]
    results = inspector([part(50), part(51, blot=True)])
    assert [result.is_defect for result in results] == [False, True]
    (left, top, right, bottom), area, peak = results[1].regions[0]
    assert left <= 45 < right
    assert top <= 35 < bottom
    assert area > 50
    assert peak == results[1].heatmap.max()
    assert results[0].regions == ()
    assert inspector.contrast == results[0].contrast


def test_good_images_may_be_photographs_of_any_form(make, good):
    arrays = [np.asarray(Image.open(path)) for path in files(good)]
    decision = make(good=arrays).decision
    assert decision.image_threshold == make(good=str(good)).decision.image_threshold
    assert {image.path for image in decision.good} == {None}


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_share_of_false_alarms_can_be_chosen(make, good, share):
    decision = make(good=good, false_alarms=share).decision
    scores = sorted(image.score for image in decision.good)
    assert decision.image_threshold == scores[int(np.ceil(7 * (1 - share))) - 1]
    assert decision.expected_false_alarm_rate <= share


def test_a_threshold_of_ones_own(make, good):
    for images in (None, good):
        inspector = make(threshold=-1.0, good=images)
        result = inspector(part(1))
        assert (result.threshold, result.is_defect) == (-1.0, True)
        assert result.regions
        assert inspector.decision.expected_false_alarm_rate is None
        assert "given" in inspector.decision.rule
    natural = make(threshold="natural")
    assert (natural.decision.image_threshold, natural.decision.pixel_threshold) == (0.5, 0.5)
    assert "natural" in natural.decision.rule
    # With a memory of normal images the model is undecided where these are.
    assert make(threshold="natural", good=good).decision == make(good=good).decision


def test_one_good_image_promises_little(make, good, caplog):
    decision = make(good=[good / "0.png"]).decision
    assert decision.expected_false_alarm_rate == 0.5
    assert len(decision.good) == 1
    assert "One normal image" in caplog.text


@pytest.mark.parametrize("model", ["AaClip", "CentreDistance", "LocalContrast"])
def test_models_without_a_memory_take_thresholds_from_scores_of_the_good(model, good):
    inspector = Inspector("bottle", good, model=model, **({"image_size": 64} if model == "AaClip" else {}))
    scores = [Inspector.__call__(inspector, path).score for path in files(good)]
    assert inspector.decision.image_threshold == pytest.approx(max(scores))
    result = inspector(part(51, blot=True))
    assert result.heatmap.shape == (70, 90)
    if model != "CentreDistance":  # which gives every image the same score
        assert result.is_defect
        assert result.regions
    low, high = inspector.contrast
    assert low < inspector.decision.pixel_threshold < high


# Products, adaptation, several of them


def test_another_product_takes_less_than_a_millisecond_when_it_is_known(make, good, photos):
    inspector = make(good=good)
    before = inspector(photos / "grey.png")
    inspector.use("cable")
    assert inspector.decision is None, "good images belong to a product"
    cable = inspector(photos / "grey.png")
    assert cable.score == make("cable")(photos / "grey.png").score
    took = []
    for _ in range(20):
        start = time.perf_counter()
        inspector.use("bottle")
        took.append(time.perf_counter() - start)
        inspector.use("cable")
    assert sorted(took)[10] < 1e-3
    assert inspector.use("bottle").decision.as_dict() == make(good=good).decision.as_dict()
    after = inspector(photos / "grey.png")
    assert (after.score, after.threshold) == (before.score, before.threshold)
    assert inspector.use("cable", good=[part(7), part(8)]).decision.expected_false_alarm_rate == pytest.approx(1 / 3)
    assert inspector.use("bottle").decision.expected_false_alarm_rate == pytest.approx(1 / 7)


def test_a_product_holds_all_that_the_model_knows_of_it(make, good):
    inspector = make(good=good)
    before = {name: value.clone() for name, value in inspector.module.model.state_dict().items()}
    inspector.use("cable").adapt(steps=1)
    assert inspector.module.model.adapter is not None
    assert len(inspector.module.model.reference) == 0
    inspector.adapt(on=False).use("bottle")
    after = inspector.module.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert inspector.module.model.class_name == inspector.product == "bottle"
    assert inspector.module.model.adapter is None


def test_a_batch_is_about_the_product_that_it_was_scored_for(make, good):
    inspector = make(good=good, batch_size=3)
    stream = inspector.stream([part(1)] * 4)
    thresholds = [next(stream).threshold]
    inspector.use("cable")
    thresholds += [result.threshold for result in stream]
    assert thresholds[0] is not None
    assert thresholds == [thresholds[0]] * 3 + [None]


def test_what_fails_leaves_everything_as_it_was(make, good, photos, tmp_path):
    (tmp_path / "a.png").write_text("no image")
    inspector = make(good=good)
    before = inspector(photos / "grey.png")
    for attempt in (
        lambda: inspector.use("cable", good=tmp_path),
        lambda: inspector.use("bottle", good=tmp_path),
        lambda: inspector.use("cable", good=tmp_path / "nowhere"),
        lambda: inspector.use(""),
        lambda: inspector.adapt(steps=-1),
    ):
        with pytest.raises(ValueError):
            attempt()
        after = inspector(photos / "grey.png")
        assert (after.score, after.threshold, inspector.product) == (before.score, before.threshold, "bottle")


def test_adaptation_is_that_of_the_callback(make, weight_file, photos, tmp_path):
    model = AnoClip("tiny", weight_file("tiny"), "bottle", visualizer=False, post_processor=False)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False, callbacks=[TestTimeAdaptation(steps=2)])
    batches = engine.predict(model, dataset=FolderImages(photos))
    inspector = make().adapt(steps=2)
    plain = make()
    for batch in batches:
        adapted = inspector(batch.image_path[0])
        assert np.array_equal(adapted.anomaly_map, batch.anomaly_map[0].squeeze().numpy())
        assert not np.array_equal(adapted.anomaly_map, plain(batch.image_path[0]).anomaly_map)
    assert inspector.describe()["adaptation"] is True
    inspector.adapt(on=False)
    path = batches[0].image_path[0]
    assert np.array_equal(inspector(path).anomaly_map, plain(path).anomaly_map)


def test_adaptation_is_also_that_of_the_good_images(make, good):
    inspector = make(good=good, text_weight=1.0)
    before = inspector.decision
    assert inspector.adapt(steps=2, lr=0.1).decision.pixel_threshold != before.pixel_threshold
    assert inspector.adapt(on=False).decision is before


def test_adaptation_is_refused_where_it_has_no_place(make):
    with pytest.raises(TypeError, match="needs an AnoClip model"):
        Inspector(model="CentreDistance").adapt()
    with pytest.raises(ValueError, match="reset_optimizer"):
        make().adapt(reset_optimizer=False)
    with pytest.raises(ValueError, match="steps"):
        make().adapt(steps=-1)


def test_inspectors_do_not_touch_each_other_nor_the_process(make, good, photos, tmp_path, weight_file):
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    first = make(good=good)
    second = make("cable", image_size=128)
    before = [inspector(photos / "grey.png").score for inspector in (first, second)]
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False, callbacks=[TestTimeAdaptation(steps=1)])
    engine.predict(AnoClip("tiny", weight_file("tiny"), "cable", visualizer=False), dataset=FolderImages(photos))
    assert [inspector(photos / "grey.png").score for inspector in (second, first)] == before[::-1]
    assert make(good=good)(photos / "grey.png").score == before[0]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_encoder_may_run_in_half_precision(make, good, precision):
    full, half = (make(good=good, **kind)(part(60, blot=True)) for kind in ({}, {"precision": precision}))
    assert half.anomaly_map.dtype == np.float32
    assert half.score == pytest.approx(full.score, rel=0.1)
    assert half.score != full.score


def test_a_saved_pool_makes_mutual_scoring_one_by_one(weight_file, photos, tmp_path, make):
    with pytest.raises(ValueError, match="pool=FILE"):
        make(model="MutualClip")
    pool = tmp_path / "pool.safetensors"
    words = ["pool", "build", str(photos), "--out", str(pool), "--backbone", "tiny", "--pretrained", weight_file("tiny")]
    assert main(words) == 0
    inspector = make(model="MutualClip", pool=str(pool), good=photos / "line1")
    result = inspector(photos / "line1/001.png")
    assert np.isfinite(result.score)
    assert result.threshold == pytest.approx(result.score), "good images are no part of its scores"
    assert inspector.describe()["category_data"].endswith("images of a saved pool")


def test_what_a_result_came_from(make, good):
    facts = make(good=good).describe()
    assert facts["model"] == "AnoClip"
    assert (facts["backbone"], facts["product"], facts["device"]) == ("tiny", "bottle", "cpu")
    assert facts["image_size"] == [64, 64]
    assert len(facts["weights_digest"]) == 64
    assert "torch" in facts["versions"]
    assert facts["category_data"] == "its name and 6 normal images"


# What is said, and what is refused


def test_photographs_among_the_good_ones_are_named(make, good, tmp_path, caplog):
    (tmp_path / "copy.png").write_bytes((good / "3.png").read_bytes())
    make(good=good)([tmp_path / "copy.png", part(1)])
    assert "copy.png" in caplog.text
    assert "1 of 1" in caplog.text


def test_a_product_that_no_prompt_knows_is_said_once(make, caplog):
    caplog.set_level(logging.INFO)
    inspector = make("left-handed flange")
    inspector.use("carpet").use("left-handed flange")
    assert caplog.text.count("Nothing is known about 'left-handed flange'") == 1
    assert "carpet" not in caplog.text
    make(None)
    assert "the sentences say 'object'" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"model": "AnoClop"}, ValueError, "did you mean AnoClip"),
        ({"model": "xyz"}, ValueError, "there are AaClip"),
        ({"product": " "}, ValueError, "product=' '"),
        ({"product": 3}, ValueError, "product=3"),
        ({"threshold": "high"}, ValueError, "threshold='high'"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"false_alarms": 0}, ValueError, "false_alarms=0"),
        ({"false_alarms": 1.5}, ValueError, "false_alarms=1.5"),
        ({"good": "nowhere"}, ValueError, "good='nowhere' is no folder"),
        ({"good": []}, ValueError, "no photographs"),
        ({"good": [np.full((4, 4, 3), 300.0)]}, ValueError, "A good image cannot be used"),
        ({"backbone": "tinny"}, ValueError, "tinny"),
        ({"weights": "nowhere.safetensors"}, FileNotFoundError, "nowhere.safetensors"),
        ({"image_size": 65}, ValueError, "65"),
        ({"imagesize": 64}, ValueError, "did you mean image_size"),
        ({"model": "AnoClip", "adapters": "a.safetensors"}, ValueError, "no setting 'adapters'"),
        ({"adapters": "a.safetensors"}, FileNotFoundError, "a.safetensors"),
        ({"model": "CentreDistance", "weights": None}, ValueError, "CentreDistance has no setting 'backbone'"),
        ({"device": "abacus"}, ValueError, "device='abacus'"),
        ({"good": 7}, ValueError, "good=int"),
        ({"backbone": None}, ValueError, "Name its architecture"),
    ],
)
def test_bad_arguments_are_one_clear_error(make, arguments, error, said):
    with pytest.raises(error, match=said):
        make(**arguments)


def test_an_empty_folder_of_good_ones_is_named(make, tmp_path):
    with pytest.raises(ValueError, match="No images in good="):
        make(good=tmp_path)


def test_a_good_file_that_is_no_image_is_named(make, tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match="a.png"):
        make(good=tmp_path)


def test_where_nothing_is_said_the_bundled_adapters_inspect_at_their_size():
    facts = Inspector("bottle").describe()
    assert (facts["model"], facts["backbone"], facts["image_size"]) == ("AaClip", "demo", [192, 192])
    assert facts["weights_digest"] == Inspector("bottle", model="AaClip", adapters="demo").describe()["weights_digest"]


def test_good_photographs_an_encoder_or_settings_bring_the_model_that_takes_them(make, photos):
    assert Inspector("bottle", good=photos, image_size=64).model == "AnoClip"
    assert make().model == "AnoClip"
    assert Inspector("bottle", backbone="demo").describe()["image_size"] == [192, 192]  # better than its own 128
    tiled = Inspector("bottle", tiling="square")
    assert (tiled.model, tiled.describe()["tiling"]) == ("AnoClip", "square")


def test_the_name_is_had_without_torch_and_a_misspelt_model_too():
    code = (
        "import sys; from anoclip_anomalib import Inspector\n"
        "try: Inspector(model='AnoClop')\n"
        "except ValueError as error: print(error)\n"
        "print('torch' in sys.modules, 'anomalib' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "Unknown model 'AnoClop'; did you mean AnoClip?\nFalse False\n"
