"""The arrows between the modules, and what an import may pull in."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import producer
from producer.settings import describe

ROOT = Path(__file__).parents[1]

#: Each layer of the producer may import the ones below it, never one above.
LAYERS = [
    {"errors", "escaping", "page_ranges", "redis_url", "bulk_messages", "retry_after"},
    {"addresses", "job", "settings", "cpus", "backoff", "room", "limits", "scripts", "records"},
    {"formats"},
    {
        "exporting",
        "media",
        "blobs",
        "caching",
        "documents",
        "s3",
        "outcomes",
        "fetching",
        "idempotency",
        "admission",
        "ledger",
        "queue",
        "logs",
        "processes",
        "cards",
    },
    {"following", "outbox", "plan", "results", "sources", "pages", "listing", "timeline", "retries", "batches"},
    {"producer", "workers", "dead", "webhooks", "tenants", "api_keys"},
    {"embedded", "progress", "printing"},
    {"client"},
    {"gateway", "cli", "dead_commands", "webhook_commands", "key_commands", "tenant_commands"},
]
#: Runtimes that are heavy or not everywhere: each is imported in one module, inside a function.
HEAVY = {
    "paddle": "worker/predictors/paddle.py",
    "onnxruntime": "worker/predictors/onnx.py",
    "cupy": "worker/kernels.py",
    "cupyx": "worker/kernels.py",
    "boto3": "producer/s3.py",
    "botocore": "producer/s3.py",
    "onnx": "worker/predictors/graph.py",
    "nvidia": "worker/jpegs.py",
    "pynvml": "producer/cards.py",
    "paddlex": "worker/official.py",
}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Each imported module, and whether it is imported with the file itself."""
    tree = ast.parse(path.read_text())
    top = set(tree.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node in top
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node in top) for alias in node.names)


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def layer(module: str) -> int | None:
    name = module.split(".")[1] if module.startswith("producer.") else None
    return next((number for number, names in enumerate(LAYERS) if name in names), None)


def test_the_producer_never_imports_the_worker() -> None:
    for path in modules("producer"):
        assert not [name for name, _ in imports(path) if name.split(".")[0] == "worker"], path


def test_imports_run_one_way() -> None:
    for path in modules("producer"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        own = layer(module)
        if path.name == "__init__.py" and path.parent.name == "producer":
            continue
        assert own is not None, f"{module} has no layer: give it one"
        for name, _ in imports(path):
            assert (layer(name) or 0) <= own, f"{module} imports {name}, which lies above it"


@pytest.mark.parametrize("runtime", HEAVY)
def test_a_runtime_is_imported_in_one_module_when_it_is_used(runtime: str) -> None:
    for path in [*modules("producer"), *modules("worker")]:
        for name, at_top in imports(path):
            if name.split(".")[0] == runtime:
                assert str(path.relative_to(ROOT)) == HEAVY[runtime]
                assert not at_top


def test_importing_the_producer_stays_light() -> None:
    heavy = {"numpy", "cv2", "paddle", "onnxruntime", "PIL", "pypdfium2", "fastapi", "httpx", "boto3"}
    code = f"import producer, sys; print(sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.strip() == "[]"


def test_the_public_names() -> None:
    assert producer.__all__ == sorted(producer.__all__)
    assert {"Producer", "JobHandle", "ReadOptions", "Settings"} <= set(producer.__all__)
    assert all(hasattr(producer, name) for name in producer.__all__)


def test_the_readme_shows_every_setting() -> None:
    readme = (ROOT / "README.md").read_text()
    shown = re.search(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", readme, re.DOTALL)
    assert shown is not None
    assert shown[1].strip() == describe(), "run: ocrpool settings --markdown, and paste it into the README"


def test_celery_uses_the_settings_module() -> None:
    from worker.app import app

    assert app.conf.worker_pool == "threads"
    assert app.conf.task_acks_late
    assert app.conf.accept_content == ["json"]
    assert {"ocrpool.prepare", "ocrpool.read_span"} <= set(app.tasks)
