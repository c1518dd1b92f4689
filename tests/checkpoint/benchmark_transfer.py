"""Measure the transfer against that of huggingface_hub, and `verify` against sha256sum. Run by hand; asserts nothing.

python -m tests.checkpoint.benchmark_transfer transfer MEGABYTES FOLDER
python -m tests.checkpoint.benchmark_transfer verify CHECKPOINT
"""

import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

from huggingface_hub import hf_hub_download

from gptoss_cli.checkpoint.connection import Timeout
from gptoss_cli.checkpoint.hub import Hub
from gptoss_cli.checkpoint.manifest import CheckpointFile, Digest
from gptoss_cli.checkpoint.transfer import RetryPolicy, TransferContext, fetch_file
from gptoss_cli.checkpoint.verify import find_wrong_files
from tests.checkpoint.hub_server import HubServer

_FILE, _REPOSITORY = "model.safetensors", "some/model"
_ROUNDS = 3


class _Silent:
    """Progress that is not shown."""

    def begin(self, name: str, done_bytes: int, total_bytes: int) -> None: ...
    def advance(self, name: str, count_bytes: int) -> None: ...
    def end(self, name: str) -> None: ...


def _serve(megabytes: int, addresses: "Queue[str]", done: Event) -> None:
    noise = random.Random(0)
    data = b"".join(noise.randbytes(1 << 20) for _ in range(megabytes))
    with HubServer({_FILE: data}, repository=_REPOSITORY) as hub:
        addresses.put(hub.address)
        done.wait()


def _transfer(megabytes: int, folder: Path) -> None:
    addresses: Queue[str] = multiprocessing.Queue()
    done = multiprocessing.Event()
    server = multiprocessing.Process(target=_serve, args=(megabytes, addresses, done))
    server.start()
    os.environ["HF_ENDPOINT"] = addresses.get()
    for number in range(_ROUNDS):
        _report("ours, with digest", megabytes << 20, _ours, folder / f"ours-{number}")
        _report("hf_hub_download", megabytes << 20, _theirs, folder / f"theirs-{number}")
    done.set()
    server.join()


def _ours(folder: Path) -> None:
    hub = Hub(listing=Timeout(), transfer=Timeout(), notice=print)
    manifest = hub.listing(_REPOSITORY, None)
    folder.mkdir(parents=True)
    context = TransferContext(hub, manifest, RetryPolicy(), _Silent(), threading.Event())
    fetch_file(context, manifest.files[0], folder=folder, target=folder / _FILE)


def _theirs(folder: Path) -> None:
    hf_hub_download(_REPOSITORY, _FILE, local_dir=folder, token=False, endpoint=os.environ["HF_ENDPOINT"])


def _verify(folder: Path) -> None:
    total = sum(path.stat().st_size for path in folder.iterdir())
    for _ in range(_ROUNDS):
        _report("verify", total, _read_all, folder)
        _report("sha256sum", total, _sum_all, folder)


def _read_all(folder: Path) -> None:
    files = [CheckpointFile(path.name, path.stat().st_size, Digest("sha256", "")) for path in folder.iterdir()]
    find_wrong_files(folder, files, _Silent(), threading.Event())


def _sum_all(folder: Path) -> None:
    largest_first = sorted(folder.iterdir(), key=lambda path: -path.stat().st_size)
    command = ["xargs", "-0", "-n", "1", "-P", str(os.cpu_count()), "sha256sum"]
    listed = "\0".join(map(str, largest_first)).encode()
    subprocess.run(command, input=listed, check=True, capture_output=True)


def _report(name: str, total_bytes: int, work: Callable[[Path], None], folder: Path) -> None:
    began = time.perf_counter()
    work(folder)
    seconds = time.perf_counter() - began
    print(f"{name:20} {seconds:7.2f} s  {total_bytes / seconds / 1e6:8.0f} MB/s", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "transfer":
        _transfer(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        _verify(Path(sys.argv[2]))
