import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from anoclip_anomalib.clip.state_dict import WeightFileError, read_state_dict, state_dict_digest

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(2.5), "c": torch.ones(4, dtype=torch.bfloat16)}


def write(path: Path, content: object) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


class _Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin"])
def test_every_format_gives_the_same_tensors_and_digest(tmp_path, suffix):
    state = read_state_dict(write(tmp_path / f"weights{suffix}", STATE))
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)
    assert state_dict_digest(state) == state_dict_digest(STATE)


def test_a_training_checkpoint_is_unwrapped(tmp_path):
    content = {"epoch": 3, "name": "run", "state_dict": {f"module.{name}": value for name, value in STATE.items()}}
    assert state_dict_digest(read_state_dict(write(tmp_path / "epoch_3.pt", content))) == state_dict_digest(STATE)


def test_the_digest_depends_on_names_shapes_types_and_values_but_not_on_order():
    digest = state_dict_digest(STATE)
    assert state_dict_digest(dict(reversed(STATE.items()))) == digest
    others = [
        {**STATE, "a": STATE["a"] + 1e-6},
        {**STATE, "a": STATE["a"].T},
        {**STATE, "a": STATE["a"].double()},
        {("d" if name == "a" else name): value for name, value in STATE.items()},
    ]
    assert len({digest, *map(state_dict_digest, others)}) == 5
    assert len(digest) == 64
    assert state_dict_digest({"a": torch.zeros(2)}) != state_dict_digest({"b": torch.zeros(2)})
    # The same bytes under another shape or type.
    zeros = [torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(2, 3, dtype=torch.int32), torch.zeros(2, 6, dtype=torch.half)]
    zeros += [torch.zeros(2, 3, dtype=torch.bfloat16), torch.zeros(2, 3, dtype=torch.half)]
    assert len({state_dict_digest({"a": tensor}) for tensor in zeros}) == len(zeros)


@pytest.mark.parametrize("suffix", [".pt", ".bin"])
@pytest.mark.parametrize("nested", [False, True])
def test_pickled_code_is_refused_and_not_run(tmp_path, suffix, nested):
    trace = tmp_path / "code_was_run"
    malicious = {**STATE, "x": _Touch(trace)} if nested else _Touch(trace)
    path = write(tmp_path / f"weights{suffix}", malicious)
    torch.load(path, weights_only=False)
    assert trace.exists()  # the attack works where it is let in
    trace.unlink()
    with pytest.raises(WeightFileError, match=rf"{path.name} holds pickled Python objects.*refused.*safetensors"):
        read_state_dict(path)
    assert not trace.exists()


def test_a_plain_pickle_is_refused_and_not_run(tmp_path):
    trace, path = tmp_path / "code_was_run", tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps({"x": _Touch(trace)}))
    with pytest.raises(WeightFileError, match=r"weights\.pt"):
        read_state_dict(path)
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path, suffix, share):
    path = write(tmp_path / f"weights{suffix}", {"a": torch.zeros(1000)})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightFileError, match=rf"weights\{suffix} is damaged or truncated"):
        read_state_dict(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_something_else_is_named(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_text("<html>404: not found, says the proxy</html>" * 20)
    with pytest.raises(WeightFileError, match="damaged or truncated"):
        read_state_dict(path)


@pytest.mark.parametrize("content", [{}, [torch.zeros(2)], {"a": 3}, torch.zeros(2)])
def test_a_file_without_a_state_dictionary_is_refused(tmp_path, content):
    with pytest.raises(WeightFileError, match="does not hold a state dictionary"):
        read_state_dict(write(tmp_path / "weights.pt", content))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (3, torch.zeros(2), "under 3 is a name that is no text"),
        ("x", torch.eye(3).to_sparse(), "under 'x' is a tensor that is sparse"),
        ("x", torch.eye(3).to_sparse_csr(), "under 'x' is a tensor that is sparse"),
        ("x", torch.empty(2, device="meta"), "under 'x' is a tensor that is .*without values"),
        ("x", "text", "under 'x' is a value of type str"),
    ],
)
def test_an_entry_that_is_no_dense_tensor_with_a_name_is_named(tmp_path, name, value, said):
    path = write(tmp_path / "weights.pt", {**STATE, name: value})
    with pytest.raises(WeightFileError, match=rf"weights\.pt does not hold a state dictionary .*{said}"):
        read_state_dict(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_value_that_is_not_finite_is_refused_with_its_name(tmp_path, suffix, value, dtype):
    tensor = torch.ones(3, 4, dtype=dtype)
    tensor[1, 2] = value
    path = write(tmp_path / f"weights{suffix}", {**STATE, "visual.proj": tensor})
    with pytest.raises(WeightFileError, match=rf"weights\{suffix} has NaN or infinite values in 'visual\.proj'"):
        read_state_dict(path)
    read_state_dict(write(path, {**STATE, "large": torch.full((100,), 3e38)}))  # large, and still numbers


def test_a_torchscript_archive_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    with pytest.raises(WeightFileError, match="TorchScript archive.*tag"):
        read_state_dict(path)


def test_a_missing_file_and_an_unknown_suffix(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt"):
        read_state_dict(tmp_path / "nothing.pt")
    (tmp_path / "weights.npz").touch()
    with pytest.raises(WeightFileError, match=r"'\.npz'; supported: \.safetensors, \.pt"):
        read_state_dict(tmp_path / "weights.npz")


def test_the_first_of_several_entries_is_unwrapped(tmp_path):
    path = write(tmp_path / "x.pth", {"second": {"a": torch.ones(2)}, "epoch": 3})
    assert read_state_dict(path, entry=("first", "second")).keys() == {"a"}
    with pytest.raises(WeightFileError, match="'second'"):
        read_state_dict(path, entry=("first",))
