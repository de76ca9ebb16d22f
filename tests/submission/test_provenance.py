import subprocess

import pytest
import torch

from anoclip_anomalib.files import plain as as_json
from anoclip_anomalib.submission.provenance import open_work_folder, provenance_path, read_json, write_json, write_provenance
from anoclip_anomalib.versions import commit, machine, versions, weights_digest


def test_lies_beside_the_submission(tmp_path):
    for name in ("my_method", "my_method.tar.gz", "my_method.zip"):
        assert provenance_path(tmp_path / name) == tmp_path / "my_method.provenance.json"
    assert provenance_path(tmp_path / "v1.2") == tmp_path / "v1.2.provenance.json"


def test_content(tmp_path):
    archive = tmp_path / "x.zip"
    archive.write_bytes(b"abc")
    content = read_json(write_provenance(archive, {"settings": {"a": (1, 2), "b": float("nan")}}, archive))
    assert content["settings"] == {"a": [1, 2], "b": None}
    assert content["archive"]["sha256"].startswith("ba7816bf")
    assert content["versions"]["torch"] == versions()["torch"]
    assert content["machine"]["processor"] == machine()["processor"] != ""
    assert content["created"].endswith("+00:00")


def test_commit_of_a_checkout(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t", *arguments], check=True)

    assert commit(tmp_path) is None
    git("init", "-q")
    assert commit(tmp_path) is None  # nothing of it is in the repository
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "a")
    clean = commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "a").write_text("2")
    assert commit(tmp_path) == f"{clean}-dirty"


def test_digest_follows_the_weights():
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert weights_digest(one) != weights_digest(other)
    other.load_state_dict(one.state_dict())
    assert weights_digest(one) == weights_digest(other)
    assert weights_digest(one.bfloat16()) != weights_digest(other)
    one.weights_digest = "own"
    assert weights_digest(one) == "own"


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"x\.json is no valid JSON"):
        read_json(tmp_path / "x.json")
    write_json(tmp_path / "x.json", {"ü": [1.5]})
    assert read_json(tmp_path / "x.json") == as_json({"ü": (1.5,)})


def test_json_is_utf8_whatever_the_locale(tmp_path, monkeypatch):
    monkeypatch.setattr("io.text_encoding", lambda encoding, *_: encoding or "ascii")
    write_json(tmp_path / "a.json", {"model": "Prüfung \u2013 Nüsse"})
    assert "Prüfung – Nüsse" in (tmp_path / "a.json").read_bytes().decode("utf-8")
    assert read_json(tmp_path / "a.json") == {"model": "Prüfung – Nüsse"}
    (tmp_path / "b.json").write_bytes(b'{"model": "Pr\xfcfung"}')
    with pytest.raises(ValueError, match=r"b\.json is no valid JSON"):
        read_json(tmp_path / "b.json")


def test_work_goes_on_with_the_same_settings_only(tmp_path):
    work, target = tmp_path / "work", tmp_path / "target"
    open_work_folder(work, {"a": (1, 2), "b": None}, target)
    open_work_folder(work, {"a": [1, 2], "b": None}, target)
    with pytest.raises(FileExistsError, match="begun with another b"):
        open_work_folder(work, {"a": [1, 2], "b": 1}, target)
    with pytest.raises(FileExistsError, match="begun with another b, c"):
        open_work_folder(work, {"a": [1, 2], "c": 1, "b": 2}, target)
    target.mkdir()
    with pytest.raises(FileExistsError, match="was not begun by this command"):
        open_work_folder(tmp_path / "other", {}, target)
