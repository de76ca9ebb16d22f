"""What a run depends on: checked before torch is imported, kept for --resume."""

import os
import subprocess
import sys

import pytest

from anoclip_anomalib.inspection.settings import DEFAULTS, photos_of, settings_of


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name in ("photos/a.png", "photos/b.jpg", "good/g.png", "good/h.png", "other/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "w.safetensors").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_and_python_have_the_same_defaults(capsys):
    from inspect import signature

    from anoclip_anomalib import Inspector
    from anoclip_anomalib.cli.main import main

    given = signature(Inspector).parameters
    shared = {"false_alarms", "threshold", "model", "good", "product", "adapters"} & DEFAULTS.keys()
    assert {name: DEFAULTS[name] for name in shared} == {name: given[name].default for name in shared}
    assert DEFAULTS["false_alarms"] == 0.1  # one in ten
    with pytest.raises(SystemExit):
        main(["inspect", "--help"])
    assert "may be called defects (default: 0.1)" in " ".join(capsys.readouterr().out.split())


def test_what_is_not_given_has_its_default_and_places_are_absolute(place):
    settings = settings_of({"photos": ["photos"], "good": "good", "weights": "w.safetensors", "json": True})
    expected = {
        "photos": ["photos"], "base": str(place), "good": str(place / "good"), "weights": str(place / "w.safetensors"),
    }  # fmt: skip
    assert settings == DEFAULTS | expected | {"model": "AnoClip"}


@pytest.mark.parametrize(
    ("given", "model"),
    [
        ({"product": "bottle", "image_size": 128, "threshold": "natural"}, "AaClip"),
        ({"good": "good"}, "AnoClip"),
        ({"backbone": "demo"}, "AnoClip"),
        ({"weights": "openai"}, "AnoClip"),
        ({"adapters": "demo"}, "AaClip"),
        ({"adapt": True}, "AnoClip"),
        ({"set": {"tiling": "square"}}, "AnoClip"),
        ({"good": "good", "adapters": "w.safetensors"}, "AaClip"),
        ({"model": "LocalContrast"}, "LocalContrast"),
    ],
)
def test_the_model_of_a_run_is_settled_when_it_begins_and_stays(place, given, model):
    settings = settings_of({"photos": ["photos"]} | given)
    assert settings["model"] == model
    assert settings_of({"photos": ["photos"]} | given, settings)["model"] == model


def test_a_run_of_before_goes_on_with_its_model(place):
    before = settings_of({"photos": ["photos"], "model": "AnoClip"})
    assert settings_of({}, before)["model"] == "AnoClip"


def test_tags_of_weights_are_no_files(place):
    assert settings_of({"photos": ["photos"], "weights": "openai", "adapters": "demo"})["weights"] == "openai"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "Which photographs"),
        ({"photos": ["photos"], "model": "AnoCIip"}, "did you mean AnoClip"),
        ({"photos": ["photos"], "good": "goood"}, "--good: no such file or folder: goood; did you mean .*/good"),
        ({"photos": ["photos"], "weights": "v.safetensors"}, "--weights: no such .* did you mean .*/w.safetensors"),
        ({"photos": ["photos"], "good": "s3://bucket/good"}, "must be on this machine"),
        ({"photos": ["photos"], "good": "good/g.png"}, "good/g.png is no folder"),
        ({"photos": ["photos"], "set": {"image_size": 64}}, "--set image_size=... has an option of its own: --image-size"),
        ({"photos": ["photos"], "adapters": "nowhere/x"}, "--adapters: no such"),
        ({"photos": ["photos"], "threshold": "nautral"}, "did you mean natural"),
    ],
)
def test_what_cannot_be_used_is_answered_with_what_could(place, given, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        settings_of(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"photos": ["empty"]}, "No photographs to inspect in empty: photographs end in"),
        ({"photos": ["photos"], "good": "empty"}, "--good .*/empty has no photographs"),
        ({"photos": ["good"], "good": "good"}, "left out were 2 of the good ones"),
        ({"photos": ["fotos"]}, "did you mean .*/photos"),
    ],
)
def test_no_photographs(place, given, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        photos_of(settings_of(given))


def test_a_part_of_the_good_ones_that_cannot_be_read_is_no_smaller_reference(place, monkeypatch):
    (place / "good" / "closed").mkdir()
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("closed"):  # the user of the tests may be root, whom no permission stops
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(ValueError, match="--good .*good cannot be used: Cannot read folder .*closed: Permission denied"):
        photos_of(settings_of({"photos": ["photos"], "good": "good"}))
    from anoclip_anomalib.zeroshot.normal_images import images_of_folder

    with pytest.raises(ValueError, match="good='good' cannot be used: Cannot read folder .*closed"):
        images_of_folder("good", "good")


def test_good_ones_among_the_photographs_are_left_out(place):
    photos, total = photos_of(settings_of({"photos": ["."], "good": "good"}))
    assert [photo.path for photo in photos] == ["./other/c.png", "./photos/a.png", "./photos/b.jpg"]
    assert total == 3
    assert sum(photos.left_out.values()) == 3  # and the weights


def test_a_run_goes_on_with_its_own_settings(place):
    before = settings_of({"photos": ["photos"], "product": "cookie", "threshold": "0.5"})
    os.chdir("/")
    assert settings_of({}, before) == before
    assert settings_of({"product": "cookie", "threshold": 0.5, "photos": [str(place / "photos")]}, before) == before
    photos, total = photos_of(before)
    assert total == 2
    assert [photo.path for photo in photos] == ["photos/a.png", "photos/b.jpg"]
    with pytest.raises(ValueError, match="--product bottle, which was cookie; --batch-size 3, which was not given"):
        settings_of({"product": "bottle", "batch_size": 3}, before)
    with pytest.raises(ValueError, match="other photographs than photos"):
        settings_of({"photos": [str(place / "good")]}, before)


def test_torch_is_not_needed(place):
    code = (
        "import sys; from anoclip_anomalib.inspection.settings import *\n"
        "photos_of(settings_of({'photos': ['photos'], 'good': 'good', 'backbone': 'ViT-B-16', 'threshold': '0.5'}))\n"
        "assert not {'torch', 'scipy', 'anomalib', 'open_clip'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
