import cv2
import numpy as np
import pytest
import tifffile

from anoclip_anomalib.evaluation.map_files import MapWriter, to_uint16
from anoclip_anomalib.evaluation.output_names import safe_part


def test_tiff_is_exact_and_at_original_size(tmp_path):
    anomaly_map = 0.5 + 1e-4 * np.random.default_rng(0).normal(size=(40, 60)).astype(np.float32)
    written = MapWriter(tmp_path).write(anomaly_map, "data/crack/001.png", (40, 60))
    assert written.as_posix() == "crack/001.tiff"
    np.testing.assert_array_equal(tifffile.imread(tmp_path / written), anomaly_map)
    larger = MapWriter(tmp_path).write(anomaly_map, "data/crack/002.png", (123, 77))
    assert tifffile.imread(tmp_path / larger).shape == (123, 77)


def test_png_is_16_bit_and_keeps_ranks(tmp_path):
    anomaly_map = np.linspace(0.499, 0.501, 24 * 24, dtype=np.float32).reshape(24, 24)
    written = MapWriter(tmp_path, "png").write(anomaly_map, "a.jpg", (24, 24))
    image = cv2.imread(str(tmp_path / written), cv2.IMREAD_UNCHANGED)
    assert image.dtype == np.uint16
    assert (image.min(), image.max()) == (0, 65535)
    assert (np.diff(image.reshape(-1).astype(int)) > 0).all()
    assert not to_uint16(np.full((3, 3), 0.5)).any()
    assert to_uint16(np.array([[0.0, 0.9, 1.6, 65535.0]])).tolist() == [[0, 1, 2, 65535]]  # rounded, not cut


def test_equal_names_do_not_overwrite_each_other(tmp_path):
    writer = MapWriter(tmp_path)
    paths = ["x/good/1.png", "y/good/1.jpg", "x/GOOD/1.bmp", "x/good/1-2.png", "x/bad/1.png"]
    names = [writer.write(np.zeros((2, 2)), path, (2, 2)) for path in paths]
    assert len({name.as_posix().lower() for name in names}) == 5
    assert sum(1 for _ in tmp_path.rglob("*.tiff")) == 5


@pytest.mark.parametrize("path", ["../../etc/passwd.png", "/a/../b.png", "..", "x/..\\..\\y.png", "x/.hidden", "\0.png"])
def test_maps_never_leave_their_folder(tmp_path, path):
    folder = tmp_path / "maps"
    written = MapWriter(folder).write(np.zeros((2, 2)), path, (2, 2))
    assert (folder / written).resolve().is_relative_to(folder.resolve())
    assert len(written.parts) == 2
    assert safe_part(written.parts[0]) == written.parts[0]


def test_unknown_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not as"):
        MapWriter(tmp_path, "jpeg")
