import copy
import multiprocessing
import os
import sys
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from anoclip_anomalib.clip import LoadedClip, TextEncoder, embed_class, load_clip, text_encoder
from anoclip_anomalib.clip.text_encoder import default_cache_dir
from anoclip_anomalib.prompts import PromptBuilder
from tests.architectures import NEW_BLOCKS, TEXT_VARIANTS

NORMAL = ["a photo of a flawless bottle", "a bottle"]
ABNORMAL = ["a photo of a broken bottle with a crack from top to bottom", "x", "a damaged bottle for anomaly detection"]
LONG = "a very long sentence " * 40  # longer than the context of 77 tokens


@pytest.fixture
def encoder(tiny_clip, tmp_path) -> TextEncoder:
    return TextEncoder(tiny_clip(), cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    "name",
    ["tiny", "tiny-layerscale", "tiny-quickgelu", "tiny-heads", "tiny-custom-text", *NEW_BLOCKS, *TEXT_VARIANTS],
)
def test_embeddings_equal_encode_text(tiny_clip, tmp_path, name):
    clip = tiny_clip(name)
    sentences = [*NORMAL, *ABNORMAL, "", LONG]
    with torch.no_grad():
        expected = clip.model.encode_text(clip.tokenize(sentences))
    assert expected.std() > 0.1
    actual = TextEncoder(clip, cache_dir=tmp_path, batch_size=2).encode(sentences)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_the_authors_924_sentences_equal_encode_text(tiny_clip, encoder):
    prompts = PromptBuilder().sentences("metal_nut")
    sentences = prompts.normal_sentences + prompts.abnormal_sentences
    clip = tiny_clip()
    with torch.no_grad():
        expected = clip.model.encode_text(clip.tokenize(sentences))
    torch.testing.assert_close(encoder.encode(sentences), expected, atol=1e-5, rtol=0)


def test_a_sentence_is_independent_of_the_others(encoder):
    sentences = [*NORMAL, *ABNORMAL, LONG]
    together = encoder.encode(sentences)
    torch.testing.assert_close(encoder.encode(sentences[::-1]).flip(0), together, atol=1e-5, rtol=0)
    for sentence, embedding in zip(sentences, together, strict=True):
        torch.testing.assert_close(encoder.encode([sentence])[0], embedding, atol=1e-5, rtol=0)


def test_class_embeddings_average_before_or_after_normalisation(encoder):
    embeddings = encoder.encode([*NORMAL, *ABNORMAL])
    before = embed_class(encoder, NORMAL, ABNORMAL)
    after = embed_class(encoder, NORMAL, ABNORMAL, mean="after_norm")
    for index, part in enumerate((embeddings[:2], embeddings[2:])):
        torch.testing.assert_close(before.class_embeddings[index], F.normalize(part.mean(dim=0), dim=0))
        torch.testing.assert_close(after.class_embeddings[index], F.normalize(F.normalize(part, dim=1).mean(dim=0), dim=0))
    assert (before.class_embeddings - after.class_embeddings).abs().max() > 1e-3
    for text in (before, after):
        torch.testing.assert_close(text.class_embeddings.norm(dim=1), torch.ones(2))
        torch.testing.assert_close(text.prompt_bank, F.normalize(embeddings, dim=1))
    with pytest.raises(ValueError, match="'median'.*'before_norm' or 'after_norm'"):
        embed_class(encoder, NORMAL, ABNORMAL, mean="median")


# The cache


def files(encoder: TextEncoder) -> list[Path]:
    return sorted(encoder.cache_dir.iterdir()) if encoder.cache_dir.exists() else []


def test_warm_equals_cold_and_computes_nothing(encoder, monkeypatch):
    cold = encoder.encode(NORMAL)
    assert len(files(encoder)) == 1

    def fail(*_: object) -> None:
        msg = "the cache was not used"
        raise AssertionError(msg)

    monkeypatch.setattr(TextEncoder, "encode_uncached", fail)
    assert torch.equal(encoder.encode(NORMAL), cold)
    with pytest.raises(AssertionError, match="not used"):
        encoder.encode(ABNORMAL)


def test_other_sentences_weights_or_versions_have_other_files(encoder, tiny_clip, monkeypatch):
    encoder.encode(NORMAL)
    encoder.encode(NORMAL[::-1])
    encoder.encode([" ".join(NORMAL)])
    assert len(files(encoder)) == 3
    clip = tiny_clip()
    other_weights = LoadedClip(clip.model, clip.tokenize, clip.backbone, clip.pretrained, "0" * 64)
    TextEncoder(other_weights, cache_dir=encoder.cache_dir).encode(NORMAL)
    assert len(files(encoder)) == 4
    monkeypatch.setattr(text_encoder, "open_clip_version", "99.0")
    encoder.encode(NORMAL)
    assert len(files(encoder)) == 5


def test_what_changes_the_tower_has_its_own_files(encoder, tiny_clip):
    clip, folder = tiny_clip(), encoder.cache_dir
    plain = encoder.encode(NORMAL)
    raw = TextEncoder(clip, cache_dir=folder, project=False)
    assert raw.encode(NORMAL).shape == (2, 64)
    torch.testing.assert_close(raw.encode(NORMAL) @ clip.model.text_projection, plain)
    hooked = [
        TextEncoder(clip, cache_dir=folder, after_block=lambda _, x, scale=scale: x * scale, variant=f"scale {scale}")
        for scale in (0.5, 2.0)
    ]
    results = [plain, *(encoder.encode(NORMAL) for encoder in hooked)]
    assert len(files(encoder)) == 4
    assert all((a - b).abs().max() > 1e-2 for i, a in enumerate(results) for b in results[:i])
    before = TextEncoder(clip, cache_dir=folder, before_block=lambda _, x: 0 * x, variant="nothing")
    assert (before.encode(NORMAL) - plain).abs().max() > 1e-2
    for place in ("before_block", "after_block"):
        with pytest.raises(ValueError, match="need a variant"):
            TextEncoder(clip, **{place: lambda _, x: x})


def test_another_activation_has_its_own_files(encoder, weight_file):
    plain = encoder.encode(NORMAL)
    quick = TextEncoder(load_clip("tiny", weight_file(), activation="quick_gelu"), cache_dir=encoder.cache_dir)
    assert (quick.encode(NORMAL) - plain).abs().max() > 1e-4
    assert len(files(encoder)) == 2


def test_two_activations_of_one_digest_have_their_own_files(encoder, tiny_clip):
    """As OpenAI's weights have by their tag and as a file."""
    clip = tiny_clip()
    other = copy.deepcopy(clip.model)
    for block in other.transformer.resblocks:
        block.mlp.gelu = QuickGELU()
    quick = replace(clip, model=other)
    assert (quick.digest, clip.architecture) == (clip.digest, quick.architecture.replace(", QuickGELU", ""))
    plain = encoder.encode(NORMAL)
    found = TextEncoder(quick, cache_dir=encoder.cache_dir).encode(NORMAL)
    assert (found - plain).abs().max() > 1e-4
    assert len(files(encoder)) == 2


def test_what_autocast_was_around_is_not_kept(encoder, tiny_clip, tmp_path):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = TextEncoder(tiny_clip(), cache_dir=tmp_path / "other").encode(NORMAL)
    assert torch.equal(inside, encoder.encode(NORMAL))


@pytest.mark.parametrize("choices", [{"after_block": lambda _, x: x, "variant": "x"}, {"project": False}])
def test_a_tower_that_cannot_be_walked_takes_no_hooks(tiny_clip, choices):
    with pytest.raises(ValueError, match="tiny-text-class-token is not CLIP's causal transformer"):
        TextEncoder(tiny_clip("tiny-text-class-token"), **choices)


@pytest.mark.parametrize(
    "damage", ["halves swapped", "zeros", "half precision", "wrong width", "of other sentences", "no digest"]
)
def test_content_that_was_not_written_for_its_key_is_rebuilt(encoder, damage, caplog):
    expected = encoder.encode(NORMAL)
    (path,) = files(encoder)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    if damage == "of other sentences":
        encoder.encode(NORMAL[::-1])
        (other,) = set(files(encoder)) - {path}
        path.write_bytes(other.read_bytes())
    else:
        content = {
            "halves swapped": expected.flip(0),
            "zeros": torch.zeros_like(expected),
            "half precision": expected.half(),
            "wrong width": expected[:, :-1],
            "no digest": expected,
        }[damage]
        save_file({"embeddings": content.contiguous()}, path, metadata=None if damage == "no digest" else metadata)
    assert torch.equal(encoder.encode(NORMAL), expected)
    assert f"{path} does not hold what was written there and will be rebuilt" in caplog.text
    caplog.clear()
    assert torch.equal(encoder.encode(NORMAL), expected)
    assert not caplog.text  # it was written anew


@pytest.mark.parametrize("damage", ["truncated", "empty", "html", "other count", "nan", "other key"])
def test_a_damaged_file_is_rebuilt(encoder, damage, caplog):
    expected = encoder.encode(NORMAL)
    (path,) = files(encoder)
    good = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(good[:-20])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "html":
        path.write_text("<html>" * 100)
    elif damage == "other count":
        save_file({"embeddings": expected[:1].clone()}, path)
    elif damage == "nan":
        save_file({"embeddings": expected * float("nan")}, path)
    else:
        save_file({"tensor": expected}, path)
    assert torch.equal(encoder.encode(NORMAL), expected)
    assert "rebuilt" in caplog.text
    assert str(path) in caplog.text
    assert torch.equal(load_file(path)["embeddings"], expected)


def test_a_folder_that_cannot_be_written_costs_only_time(tiny_clip, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    encoder = TextEncoder(tiny_clip(), cache_dir=tmp_path / "cache")
    assert encoder.encode(NORMAL).shape == (2, 32)
    assert "could not be cached" in caplog.text


def test_the_default_folder_is_in_the_users_cache(home):
    assert default_cache_dir() == home / ".cache/anoclip_anomalib/text"


def _encode_in_another_process(folder: str, file: str, start, results) -> None:  # noqa: ANN001
    from tests.architectures import ARCHITECTURES

    assert "tiny" in ARCHITECTURES
    open_clip.add_model_config(Path(file).parent)
    torch.set_num_threads(1)
    encoder = TextEncoder(load_clip("tiny", file), cache_dir=folder)
    start.wait()
    for _ in range(5):
        results.put(encoder.encode(NORMAL + ABNORMAL).tolist())


@pytest.mark.skipif(sys.platform == "win32", reason="uses fork")
def test_several_processes_share_the_folder(tiny_clip, weight_file, tmp_path):
    file, count = weight_file(), 3
    load_clip("tiny", file)
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(count), context.Queue()
    processes = [
        context.Process(target=_encode_in_another_process, args=(str(tmp_path), file, start, results)) for _ in range(count)
    ]
    for process in processes:
        process.start()
    answers = [torch.tensor(results.get(timeout=60)) for _ in range(5 * count)]
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert len(os.listdir(tmp_path)) == 1  # one whole file, nothing temporary left
