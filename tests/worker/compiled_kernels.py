"""kernels.cu compiled for the CPU: the same source, called for each pixel."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

from worker.kernels import SOURCE

COMPILER = shutil.which("g++")
#: CUDA's words in C++, and a loop over the pixels in place of threads.
FOR_CPU = """
#include <algorithm>
#include <cmath>
using std::max; using std::min;
#define __global__
#define __device__
struct Place { int x, y, z; };
static Place blockIdx, threadIdx, blockDim = {1, 1, 1};
#include "%s"
#define FOR_EACH_PIXEL(kernel, Item) \
    extern "C" void kernel##_all(const Item *items, int count, float *tensor, int size, int height, int width) { \
        for (blockIdx.z = 0; blockIdx.z < size; blockIdx.z++) \
            for (blockIdx.y = 0; blockIdx.y < height; blockIdx.y++) \
                for (blockIdx.x = 0; blockIdx.x < width; blockIdx.x++) kernel(items, count, tensor, height, width); \
    }
FOR_EACH_PIXEL(shrink, Shrunk)
FOR_EACH_PIXEL(cut, Cut)
"""


def compiled(folder: Path) -> ctypes.CDLL:
    """The pixel kernels as `shrink_all` and `cut_all`, which take the batch's size beside their arguments."""
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    source.write_text(FOR_CPU.replace("%s", str(SOURCE)))
    command = [str(COMPILER), "-O1", "-ffp-contract=off", "-shared", "-fPIC", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))
