"""What is read from sources is what the imported classes say."""

import inspect
import subprocess
import sys
from argparse import ArgumentError
from importlib import import_module
from typing import Literal

import open_clip
import pytest
from anomalib.data import AnomalibDataModule
from anomalib.models import AnomalibModule
from jsonargparse import ArgumentParser

import anoclip_anomalib
from anoclip_anomalib.cli import known_names
from anoclip_anomalib.cli.known_names import Option, backbones, known
from anoclip_anomalib.comparison.suite import catalogue


def derived(base: type) -> set[type]:
    return {one for child in base.__subclasses__() for one in (child, *derived(child))}


@pytest.mark.parametrize(("kind", "base"), [("model", AnomalibModule), ("data", AnomalibDataModule)])
def test_the_names_are_those_of_the_imported_classes(kind, base):
    for name in anoclip_anomalib.registry.PUBLIC:
        getattr(anoclip_anomalib, name)
    packages = ("anomalib.models.", "anomalib.data.", "anoclip_anomalib.")
    real = {one for one in derived(base) if one.__module__.startswith(packages) and not inspect.isabstract(one)}
    real = {one for one in real if ".base." not in one.__module__}
    # Other tests may have loaded classes of ours that have no public name, such as repaired baselines.
    own = {one for one in real if one.__module__.startswith("anoclip_anomalib.")}
    assert {one.__name__ for one in real - own} < set(known(kind))
    assert set(known(kind)) == {one.__name__ for one in real - own} | (set(known(kind)) & {one.__name__ for one in own})
    public = {name for name, entry in anoclip_anomalib.registry.PUBLIC.items() if entry.kind == kind}
    assert set(known(kind)) & {one.__name__ for one in own} == public


@pytest.mark.parametrize("kind", ["model", "data"])
def test_options_are_those_of_the_constructors(kind):
    for name, one in known(kind).items():
        real = inspect.signature(catalogue.find_class(kind, name)).parameters
        passed_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in real.values())
        assert one.takes_more == passed_on, name
        listed = {key for key, parameter in real.items() if parameter.kind is not parameter.VAR_KEYWORD}
        assert set(one.options) == listed, name
        required = {key for key in listed if real[key].default is inspect.Parameter.empty}
        assert {key for key, option in one.options.items() if option.default is None} == required, name


def test_categories_are_those_of_the_data_sets():
    for name, one in known("data").items():
        assert one.categories == catalogue.constant_categories(catalogue.find_class("data", name)), name
    assert known("data")["MVTecAD"].categories[0] == "bottle"
    assert len(known("data")["GeneratedParts"].categories) == 5


def test_what_a_data_set_does_with_its_folder():
    assert [name for name, one in known("data").items() if one.draws_itself] == ["GeneratedParts"]
    assert known("data")["MVTecAD"].looks_for_category
    assert not known("data")["Folder"].looks_for_category


def test_encoders_are_those_of_open_clip():
    assert set(backbones()) == {"demo", *open_clip.list_models()}  # those that this process has added among them
    script = (
        "import sys; from anoclip_anomalib.cli.known_names import backbones; read = set(backbones());"
        "assert 'open_clip' not in sys.modules; import open_clip; assert read == {'demo', *open_clip.list_models()}"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_text_types_and_defaults_of_an_option():
    options = known("model")["AnoClip"].options
    assert options["class_name"].text.startswith("The product. None takes the datamodule's category")
    assert options["class_name"].kind == "str | None"
    assert options["tiling"].kind == "{none,square}"
    assert options["views"].kind == "{1,22}"
    real = inspect.signature(anoclip_anomalib.AnoClip).parameters
    assert all(repr(real[name].default) == option.default for name, option in options.items())
    assert all(option.text for one in known("model").values() if one.ours for option in one.options.values())
    assert known("model")["AnoClip"].summary.startswith("AnoCLIP: zero-shot anomaly detection")


def test_a_package_that_is_not_there_is_named():
    with pytest.raises(ModuleNotFoundError, match="no_such_package is not installed"):
        known_names.package_folder("no_such_package")


@pytest.mark.parametrize("command", ["test", "validate", "fit", "train", "predict", "export"])
def test_options_of_a_command_are_those_of_anomalibs_parser(command):
    from anoclip_anomalib.cli.anomalib_cli import AnoclipCLI
    from anoclip_anomalib.cli.early_checks import own_options

    cli = AnoclipCLI.__new__(AnoclipCLI)
    cli.parser, cli.subcommand_parsers, cli.subcommand_method_arguments = cli.init_parser(), {}, {}
    cli.add_subcommands()
    real = {action.dest.partition(".")[0] for action in cli.subcommand_parsers[command]._actions}
    assert set(own_options(command)) - {"ov_kwargs"} == real - {"ov_kwargs"}  # of OpenVINO, which need not be there


def test_arguments_of_the_trainer():
    trainer = import_module("lightning.pytorch").Trainer
    found = known_names.arguments_of("lightning.pytorch.trainer.trainer", "Trainer")
    assert list(found) == list(inspect.signature(trainer).parameters)


MAYBE = int | tuple[int, int] | None
TYPES = [int, float, bool, int | None, float | None, MAYBE, Literal["none", "square"], Literal[1, 22], str]
TEXTS = (
    "3 -1 1_000 0x10 2.5 .5 1e-3 1e3 inf true False yes no on 0 1 22 null None ~ square none sqare '3' [1,2] (1,2) [1] [a,b]"
)
TEXTS = (*TEXTS.split(), "[1,2,3]", "[1, 2]", "{a: 1}", "", "a: b: c")


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_no_value_is_refused_that_the_real_parser_takes(kind):
    choices = getattr(kind, "__args__", ()) if str(kind).startswith("typing.Literal") else ()
    shown = "{" + ",".join(map(str, choices)) + "}" if choices else kind.__name__ if isinstance(kind, type) else str(kind)
    option, parser = Option("x", shown, None, ""), ArgumentParser(exit_on_error=False)
    parser.add_argument("--x", type=kind)
    for text in TEXTS:
        try:
            parser.parse_args([f"--x={text}"])
        except ArgumentError:
            continue
        assert option.takes(text), text
    assert str in (kind,) or not option.takes("sqare")
    assert not choices or not option.takes(str(choices[-1])[:-1])
    assert option.takes("true") == (kind in (bool, str))
