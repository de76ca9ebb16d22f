"""What every test gets: no network, no writing into the user's home folder, and tiny CLIPs instead of downloads."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.architectures import ARCHITECTURES

ROOT = Path(__file__).parents[1]
_HOME = tempfile.TemporaryDirectory(prefix="anoclip-tests-")
# Before any library reads them, and inherited by the processes that tests start.
os.environ.update(
    {
        "HOME": _HOME.name,
        "XDG_CACHE_HOME": f"{_HOME.name}/.cache",
        "XDG_CONFIG_HOME": f"{_HOME.name}/.config",
        "MPLCONFIGDIR": f"{_HOME.name}/matplotlib",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",  # the hub library would try for most of a minute
        "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime >= 1.29 reports to its makers and leaves files, unless CI is set
    }
)
_LOCAL = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", None, "")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--open-clip-224",
        metavar="FOLDER",
        default=None,
        help="open_clip 2.24 from `pip install --target FOLDER --no-deps open_clip_torch==2.24.0`, to compare results "
        "(default: .cache/openclip224 beside pyproject.toml, if it is there)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than about ten seconds")


class NetworkBlockedError(AssertionError):
    """A test tried to reach the network."""


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Refuse connections and name look-ups that leave this machine."""
    with pytest.MonkeyPatch.context() as patch:

        def refuse(address: object) -> None:
            host = address[0] if isinstance(address, tuple) else None
            if host not in _LOCAL:
                msg = f"A test tried to connect to {address!r}"
                raise NetworkBlockedError(msg)

        for name in ("connect", "connect_ex"):
            original = getattr(socket.socket, name)

            def guarded(self: socket.socket, address: object, original: Callable = original) -> object:
                refuse(address)
                return original(self, address)

            patch.setattr(socket.socket, name, guarded)
        getaddrinfo = socket.getaddrinfo

        def look_up(host: object, *args: object, **kwargs: object) -> object:
            if host not in (*_LOCAL, socket.gethostname()):
                # What a machine without a connection says, so that libraries take their offline path.
                msg = f"blocked in tests: {host}"
                raise socket.gaierror(socket.EAI_NONAME, msg)
            return getaddrinfo(host, *args, **kwargs)

        patch.setattr(socket, "getaddrinfo", look_up)
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny tensors are slower with more threads, and results do not then depend on the machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def open_clip_224(request: pytest.FixtureRequest) -> str:
    """The folder of the oldest supported open_clip, to put before the installed one on PYTHONPATH."""
    folder = Path(request.config.getoption("--open-clip-224") or ROOT / ".cache" / "openclip224")
    if not (folder / "open_clip").is_dir():
        pytest.skip(f"open_clip 2.24 is not at {folder}: pip install --target FOLDER --no-deps open_clip_torch==2.24.0")
    return str(folder)


@pytest.fixture
def in_browser(tmp_path: Path) -> Callable[[Path], str]:
    """A page -> its document after its scripts have run. Skips where there is no browser."""
    if shutil.which("chromium") is None:
        pytest.skip("no chromium: apt-get install chromium")
    # Chromium writes beside its profile, too.
    home = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    flags += ["--virtual-time-budget=2000", "--dump-dom"]

    def show(page: Path) -> str:
        command = ["chromium", *flags, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=home, check=False).stdout

    return show


@pytest.fixture(scope="session")
def home() -> Path:
    """The home folder of the tests: a temporary one."""
    return Path(_HOME.name)


@pytest.fixture(scope="session", autouse=True)
def _text_cache(home: Path) -> Iterator[Path]:
    """The user's cache folder, also where XDG_CACHE_HOME has no say."""
    import platformdirs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platformdirs, "user_cache_dir", lambda name, *_, **__: str(home / ".cache" / name))
        yield home / ".cache"


@pytest.fixture(scope="session")
def architectures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny architectures as JSON files, made known to open_clip."""
    import json

    import open_clip

    folder = tmp_path_factory.mktemp("architectures")
    for name, config in ARCHITECTURES.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return folder


@pytest.fixture(scope="session")
def weight_file(architectures: Path) -> Callable[[str], str]:
    """Architecture name -> path of a weight file for it."""
    from tests.architectures import write_weights

    def make(name: str = "tiny") -> str:
        path = architectures / f"{name}.safetensors"
        if not path.exists():
            write_weights(name, path)
        return str(path)

    return make


@pytest.fixture(scope="session")
def tiny_clip(weight_file: Callable[[str], str]) -> Callable:
    """Architecture name -> LoadedClip with weights in which no bias is 0 and no scale is 1."""
    from anoclip_anomalib.clip import load_clip

    loaded: dict = {}

    def load(name: str = "tiny"):  # noqa: ANN202
        if name not in loaded:
            loaded[name] = load_clip(name, weight_file(name))
        return loaded[name]

    return load


@pytest.fixture(scope="session")
def facts(tiny_clip: Callable) -> Callable:
    """Changes -> the header of learned weights for the tiny CLIP."""
    from anoclip_anomalib.zeroshot.learned_weights import TrainingFacts

    def make(**changes: object) -> TrainingFacts:
        clip = tiny_clip()
        own = {"backbone": clip.backbone, "pretrained": clip.pretrained, "backbone_digest": clip.digest, "image_size": 64}
        return TrainingFacts(**{"method": "aaclip", **own, "source": "VisA", "split": "test", **changes})

    return make


@pytest.fixture
def anoclip_model(weight_file: Callable[[str], str]) -> Callable:
    """Arguments -> AnoClipModel with the tiny architecture and a class."""
    from anoclip_anomalib import AnoClipModel

    def make(backbone: str = "tiny", **arguments: object):  # noqa: ANN202
        return AnoClipModel(**{"backbone": backbone, "pretrained": weight_file(backbone), "class_name": "bottle", **arguments})

    return make


@pytest.fixture
def anoclip(weight_file: Callable[[str], str]) -> Callable:
    """Arguments -> AnoClip with the tiny architecture; anomalib's visualizer is off unless asked for."""
    from anoclip_anomalib import AnoClip

    def make(backbone: str = "tiny", **arguments: object):  # noqa: ANN202
        return AnoClip(**{"backbone": backbone, "pretrained": weight_file(backbone), "visualizer": False, **arguments})

    return make
