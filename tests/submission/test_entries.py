import os
import tarfile

import pytest

from anoclip_anomalib.submission.entries import pack_folder

from .ad2_files import write_submission


def test_same_content_gives_the_same_bytes(tmp_path):
    archives = []
    for place, time in (("a", 1_000_000_000), ("b", 1_500_000_000)):
        folder = write_submission(tmp_path / place / "my_method", {"can": 2})
        for path in folder.rglob("*"):
            os.utime(path, (time, time))
        archives.append(pack_folder(folder))
    assert archives[0].read_bytes() == archives[1].read_bytes()


def test_folder_lies_on_top_and_content_is_unchanged(tmp_path):
    folder = write_submission(tmp_path / "my_method", {"can": 3})
    archive = pack_folder(folder)
    assert archive == tmp_path / "my_method.tar.gz"
    with tarfile.open(archive) as members:
        names = members.getnames()
        assert names[0] == "my_method"
        assert all(name == "my_method" or name.startswith("my_method/") for name in names)
        for member in members:
            if member.isfile():
                assert members.extractfile(member).read() == (tmp_path / member.name).read_bytes()
            assert (member.uid, member.gid, member.mtime) == (0, 0, 0)
    assert sum(1 for path in folder.rglob("*")) + 1 == len(names)


def test_interrupted_packing_leaves_the_old_archive(tmp_path):
    folder = write_submission(tmp_path / "my_method", {"can": 2})
    archive = pack_folder(folder)
    before = archive.read_bytes()

    def stop(path):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_folder(folder, progress=stop)
    assert archive.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my_method", "my_method.tar.gz"]


def test_links_and_wrong_names_are_refused(tmp_path):
    folder = write_submission(tmp_path / "my_method", {"can": 1})
    with pytest.raises(ValueError, match=r"must be called 'my_method.tar.gz'"):
        pack_folder(folder, tmp_path / "other.tar.gz")
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="link or special file"):
        pack_folder(folder)
    with pytest.raises(NotADirectoryError):
        pack_folder(tmp_path / "nowhere")
    assert not (tmp_path / "my_method.tar.gz").exists()


def test_everybody_may_read_what_is_unpacked(tmp_path):
    (tmp_path / "mine" / "inner").mkdir(parents=True)
    (tmp_path / "mine" / "inner" / "one.txt").write_text("1")
    (tmp_path / "mine" / "inner" / "one.txt").chmod(0o600)
    with tarfile.open(pack_folder(tmp_path / "mine")) as archive:
        assert {one.name: one.mode for one in archive} == {"mine": 0o755, "mine/inner": 0o755, "mine/inner/one.txt": 0o644}
