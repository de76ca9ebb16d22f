import random

import pytest

from anoclip_anomalib.comparison.suite.load_suite import load_suite
from anoclip_anomalib.comparison.suite.yaml_lines import SuiteError
from tests.comparison.suites import small_suite, write_suite
from tests.evaluation.scorer import write_category

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
        28: "seeds must be a whole number of at least 0 and below 2^32, got -1",
        30: 'resolution must be "model" or "original"',
        31: 'Unknown threshold rule "best"',
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


BOMB = "name: x\na0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
MERGES = "name: x\na0: &a0 {k: v}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "more than 50000 values, aliases included"),
        (MERGES, "more than 50000 values, aliases included"),
        ("name: &a [*a]\n", "nested deeper than 50 levels"),
        ("name: &a {<<: *a}\n", "nested deeper than 50 levels"),
        ("name: " + "{a: " * 2000 + "1" + "}" * 2000, "nested deeper than 50 levels"),
        ("name: !!set {a, b}\n", "could not determine a constructor"),
        ("name: 2026-99-99\n", "month must be in 1..12"),
        ("name: ../../etc\n", "name must be a name for a folder: 1 to 100 characters without slashes"),
        ("name: .hidden\n", "name must be a name for a folder"),
        ("name: x\nseeds: [1, 1]\n", "seeds=[1, 1] must be a list of different numbers"),
        ("name: x\ndata: [{class_path: MVTecAD, name: a/b}]\n", "name must be a name for a folder"),
        ("name: x\ndata: [{class_path: GeneratedParts, init_args: {train_good: .nan}}]\n", "train_good"),
        ("name: x\ndata: [{class_path: MVTecAD, categories: [../x]}]\n", "categories must be the name"),
        ("name: x\ndata: [{class_path: MVTecAD, categories: [1]}]\n", "(quote numbers), got 1"),
        ("name: x\nprotocol: {threshold: {kind: fixed, values: 3}}\n", "unexpected keyword argument 'values'"),
        ("name: x\nmodels: [{class_path: Padim, gpus: .inf}]\n", "gpus must be a number of at least 0, got inf"),
        ("name: x\nmodels: [{class_path: Padim, cpus: true}]\n", "cpus must be a whole number of at least 0, got True"),
        ("name: x\nmodels: [{class_path: Padim, init_args: [1]}]\n", "init_args must be a mapping"),
        ("name: x\nmodels: [{class_path: Padim, spec: {}}]\n", 'has no option "spec"'),
        ("name: x\nmodels: [.Padim]\n", 'model ".Padim" cannot be imported'),
        ("name: x\nmodels: [{class_path: Padim, callbacks: [{class: x}]}]\n", 'a callback has no option "class" (it has'),
    ],
)  # fmt: skip
def test_suites_that_would_do_harm_or_surprise(tmp_path, text, message):
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    assert any(message in fault for fault in faults_of(path)), faults_of(path)


def test_merged_mappings_give_way_to_own_keys(tmp_path):
    path = write_suite(tmp_path)
    text = path.read_text()
    path.write_text(text.replace("gain: 0.1", "<<: {gain: 0.5}, gain: 0.1"))
    assert load_suite(path).models[1].spec.init_args == {"gain": 0.1}
    path.write_text(text.replace("gain: 0.1", "<<: [{gain: 0.5}, {gain: 0.7}]"))
    assert load_suite(path).models[1].spec.init_args == {"gain": 0.5}


def test_hundreds_of_mutated_suites_are_read_or_refused(tmp_path):
    draw, path = random.Random(0), write_suite(tmp_path)
    text = path.read_text()
    pieces = [*"[]{}:-'é\n\0", "&a ", "*a", "<<: ", "  ", "null", "1e999", ".nan", "!!set ", "../", "[" * 99]
    read = refused = 0
    for _ in range(300):
        changed = text
        for _ in range(draw.randint(1, 2)):
            place = draw.randrange(len(changed))
            change = draw.choice(["drop", "insert", "double"])
            end = place + draw.randint(1, 12)
            inside = {"drop": "", "insert": draw.choice(pieces) + changed[place:end], "double": 2 * changed[place:end]}[change]
            changed = changed[:place] + inside + changed[end:]
        path.write_text(changed)
        try:
            load_suite(path)
            read += 1
        except SuiteError as error:
            refused += all(fault.startswith(f"{path}:") for fault in error.faults)
    assert read > 5
    assert read + refused == 300


def test_own_categories_in_the_layout_of_mvtec(tmp_path):
    path = write_suite(tmp_path, categories=("bottle", "my part"))
    text = path.read_text().replace(
        "    class_path: MVTecAD", "    class_path: MVTecAD\n    categories: [bottle, my part, cable, gone]"
    )
    path.write_text(text)
    faults = faults_of(path)
    assert len(faults) == 1
    assert 'unknown category "gone"' in faults[0]
    assert "other layouts the class Folder" in faults[0]
    path.write_text(text.replace(", gone", ""))
    assert load_suite(path).data[0].categories == ("bottle", "my part", "cable")


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
    from tests.comparison.suites import ROOT

    files = sorted((ROOT / "configs" / "suites").glob("*.yaml"))
    assert {file.stem for file in files} >= {"demo", "mvtec", "visa", "mvtec_ad2", "side_by_side"}
    for file in files:
        suite = load_suite(file, check_data=False)
        assert suite.name
        assert all(data.categories or "Folder" in data.spec.class_path for data in suite.data)
