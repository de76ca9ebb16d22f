"""``anoclip prompts NAME``: every sentence that will be used for a class."""

import argparse
from collections.abc import Mapping

import yaml

from anoclip_anomalib.cli.parser import Parser, refused
from anoclip_anomalib.prompts import PromptBuilder, PromptSet

HELP = "Show every sentence that is used for a class."


def main(argv: list[str]) -> int:
    """Print the sentences of a class, their number and, with a backbone, each state's cosines.

    Args:
        argv: The words after ``anoclip prompts``.

    Returns:
        0, or 2 if the settings or the backbone cannot be used.
    """
    arguments = _parser().parse_args(argv)
    try:
        settings = _settings(arguments) | ({"knowledge": True} if arguments.knowledge else {})
        prompt_set = PromptBuilder.from_settings(settings).sentences(arguments.class_name)
        rows = _cosines(prompt_set, arguments) if arguments.backbone else None
    except (ValueError, OSError, RuntimeError, yaml.YAMLError) as error:
        return refused(f"anoclip prompts: error: {error}")
    if not (arguments.states_only and rows):
        normal, abnormal = prompt_set.normal_sentences, prompt_set.abnormal_sentences
        lines = (*prompt_set.normal, *prompt_set.abnormal) if arguments.states_only else (*normal, *abnormal)
        print(*lines, "", sep="\n")
    kind = "texture" if prompt_set.texture else "object"
    good = f"{len(prompt_set.normal_sentences)} normal sentences from {len(prompt_set.normal)} states"
    bad = f"{len(prompt_set.abnormal_sentences)} abnormal from {len(prompt_set.abnormal)}"
    print(f"{prompt_set.class_name} ({kind}): {good}, {bad}")
    if rows:
        _print_cosines(rows)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="anoclip prompts", description=HELP)
    parser.add_argument("class_name", help="the product, such as cookie or metal_nut")
    config = "YAML file with prompt settings: at its top level, under `prompts`, or where `anoclip test` has them"
    parser.add_argument("--config", metavar="FILE", help=config)
    setting = "one prompt setting with its value in YAML, such as normal_states='[\"good {}\"]' or texture=true"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=setting)
    known = "with what is commonly wrong with the product (setting knowledge=true)"
    parser.add_argument("--knowledge", action="store_true", help=known)
    parser.add_argument("--states-only", action="store_true", help="print the states in place of their sentences")
    cosine = "also print each state's cosine with the class's two embeddings (demo, ViT-..., ...)"
    parser.add_argument("--backbone", help=cosine)
    parser.add_argument("--pretrained", default="laion400m_e32", help="weights of the backbone (default: %(default)s)")
    parser.add_argument("--text-mean", default="before_norm", choices=["before_norm", "after_norm"])
    return parser


def _settings(arguments: argparse.Namespace) -> dict:
    settings: dict = {}
    if arguments.config:
        with open(arguments.config, encoding="utf-8") as file:
            settings.update(_find_prompts(yaml.safe_load(file) or {}))
    for item in arguments.set:
        name, separator, value = item.partition("=")
        if not separator:
            raise ValueError(f"--set {item!r} has no '=': write NAME=VALUE, such as texture=true")
        try:
            settings[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            hint = "sentences with {} need quotes, as in templates='[\"a {}\"]'"
            raise ValueError(f"--set {item!r} is not valid YAML; {hint}") from error
    return settings


def _find_prompts(config: object) -> Mapping:
    """The prompt settings in a configuration of ours or of anomalib's command line."""
    if not isinstance(config, Mapping):
        raise ValueError(f"The configuration must be a YAML mapping, got {type(config).__name__}")
    for path in (("model", "init_args", "prompts"), ("model", "prompts"), ("prompts",)):
        value: object = config
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping):
            return value
    return {} if "model" in config else config


def _cosines(prompt_set: PromptSet, arguments: argparse.Namespace) -> list[tuple[str, str, float, float]]:
    """(polarity, state, cosine with the normal embedding, with the anomalous one) for every state."""
    from anoclip_anomalib.clip import TextEncoder, embed_class, load_clip

    encoder = TextEncoder(load_clip(arguments.backbone, arguments.pretrained))
    text = embed_class(encoder, prompt_set.normal_sentences, prompt_set.abnormal_sentences, mean=arguments.text_mean)
    cosines = text.prompt_bank @ text.class_embeddings.T
    both = {"normal": prompt_set.normal, "abnormal": prompt_set.abnormal}
    states = [(polarity, state, len(own)) for polarity, all_own in both.items() for state, own in all_own.items()]
    means = (part.mean(dim=0).tolist() for part in cosines.split([count for _, _, count in states]))
    return [(polarity, state, *mean) for (polarity, state, _), mean in zip(states, means, strict=True)]


def _print_cosines(rows: list[tuple[str, str, float, float]]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    numbers = (Column(name, justify="right") for name in ("normal", "anomalous", "difference"))
    table = Table("polarity", "state", *numbers, title="Mean cosine of each state's sentences with the class embeddings")
    for polarity, state, normal, abnormal in rows:
        table.add_row(polarity, state, f"{normal:.4f}", f"{abnormal:.4f}", f"{abnormal - normal:+.4f}")
    Console().print(table)
