import pytest

from anoclip_anomalib.comparison.load_suite import load_suite
from anoclip_anomalib.comparison.yaml_lines import SuiteError
from tests.evaluation.scorer import write_category

from .suites import small_suite, write_suite

BAD = """\
name: bad
modles: []
models:
  - name: a
    class_path: PatchCoreX
  - name: b
    class_path: Padim
    init_args: {layerz: [layer1]}
  - name: b
    class_path: Padim
    init_args: {n_features: many}
  - class_path: anomalib.data.MVTecAD
  - name: c
    class_path: Padim
    callbacks:
      - class_path: NoSuchCallback
    trainer: {max_epoch: 1}
    gpus: -1
data:
  - class_path: MVTecADD
  - name: gone
    class_path: MVTecAD
    init_args: {root: /does/not/exist}
  - name: plates
    class_path: MVTecAD
    init_args: {root: ROOT}
    categories: [plate, bowl]
seeds: [0, -1, x]
protocol:
  resolution: high
  threshold: {kind: best}
  timed_images: few
"""


def faults_of(path, **options):
    with pytest.raises(SuiteError) as caught:
        load_suite(path, **options)
    return caught.value.faults


def test_all_faults_at_once_each_with_its_line(tmp_path):
    write_category(tmp_path / "data", "plate", images=1, size=16)
    path = tmp_path / "bad.yaml"
    path.write_text(BAD.replace("ROOT", str(tmp_path / "data")))
    faults = faults_of(path)
    expected = {
        2: 'no option "modles"',
        5: 'unknown model "PatchCoreX"; did you mean Patchcore',
        8: 'Padim has no argument "layerz" (it has: layers',
        11: "Padim: ",
        9: 'the name "b" is used twice',
        12: '"anomalib.data.MVTecAD" is no AnomalibModule',
        16: 'unknown callback "NoSuchCallback"',
        17: 'Trainer has no argument "max_epoch" (it has: max_epochs',
        18: "gpus must be a number",
        20: 'unknown data "MVTecADD"; did you mean MVTecAD',
        23: 'data root /does/not/exist of "gone" does not exist; set init_args.root, or pass --root gone=FOLDER',
        27: 'unknown category "bowl" (there are: plate)',
        28: "a seed is a whole number of at least 0, got -1",
        30: 'resolution must be "model" or "original"',
        31: 'unknown threshold rule "best"',
        32: "timed_images must be a whole number",
    }
    for line, message in expected.items():
        assert any(fault.startswith(f"{path}:{line}: ") and message in fault for fault in faults), (line, message, faults)
    lines = [int(fault.split(":")[1]) for fault in faults]
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [a\n", "expected ',' or ']'"),
        ("name: x\nname: y\n", '"name" is given twice'),
        ("- a\n", "a suite is a mapping"),
        ("", "a suite needs a name"),
        ("name: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("name: x\nmodels: 3\ndata: []\n", '"models" must be a list'),
        ("name: x\n1: 2\n", "keys must be words"),
        ("name: x\nmodels: [{name: y}]\n", "needs a class_path"),
        ("name: x\ndata: [{class_path: Folder, categories: all}]\n", "Folder has no categories"),
        ("name: x\ndata: [{class_path: MVTecAD, init_args: {category: a}}]\n", "name categories under"),
        ("name: x\ndata: [{class_path: MVTecAD, generate: {size: 3}}]\n", "generate is no option any more"),
        ("name: x\nmodels: [no.such.module.Model]\n", "cannot be imported"),
    ],
)
def test_single_faults(tmp_path, text, message):
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    assert any(message in fault for fault in faults_of(path)), faults_of(path)


def test_missing_file(tmp_path):
    assert "cannot be read" in faults_of(tmp_path / "none.yaml")[0]


def test_short_names_defaults_and_all_categories(tmp_path):
    suite = small_suite(tmp_path, models="\n  - AnoClip\n  - WinClip\n", categories=("one", "two"))
    assert [model.name for model in suite.models] == ["AnoClip", "WinClip"]
    assert suite.models[0].spec.class_path.startswith("anoclip_anomalib.")
    assert suite.data[0].categories == ("one", "two")
    assert suite.seeds == (0,)
    assert suite.protocol.threshold.kind == "mean_std"


def test_anomalibs_categories_are_known_where_they_exist(tmp_path):
    path = write_suite(tmp_path, categories=("bottle",))
    assert len(load_suite(path).data[0].categories) == 15


def test_root_from_the_command_line(tmp_path):
    path = write_suite(tmp_path)
    path.write_text(path.read_text().replace(str(tmp_path / "data"), "/nowhere"))
    assert "does not exist" in faults_of(path)[0]
    suite = load_suite(path, roots={"plates": str(tmp_path / "data")})
    assert suite.data[0].spec.init_args["root"] == str(tmp_path / "data")
    assert any('"plate"' in fault for fault in faults_of(path, roots={"plate": "x"}))


def test_suites_in_configs_are_right_apart_from_missing_data():
    from .suites import ROOT

    files = sorted((ROOT / "configs" / "suites").glob("*.yaml"))
    assert {file.stem for file in files} >= {"demo", "mvtec", "visa", "mvtec_ad2", "side_by_side"}
    for file in files:
        suite = load_suite(file, check_data=False)
        assert suite.name
        assert all(data.categories or "Folder" in data.spec.class_path for data in suite.data)
