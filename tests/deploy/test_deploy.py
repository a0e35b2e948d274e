"""The files of `deploy/` name only what exists: settings, commands, metrics, files, services."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import typer
import yaml
from prometheus_client import Metric

import worker.metrics
from producer.cli import app
from producer.gateway.app import create_app
from producer.gateway.metrics import Metrics
from producer.ledger import Ledger
from producer.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus/rules.yml"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
DOCKERFILES = sorted(path for path in DEPLOY.glob("Dockerfile.*") if path.suffix != ".dockerignore")
UNITS = sorted(DEPLOY.glob("systemd/*.service"))
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WORKERS = [name for name in SERVICES if name.startswith("worker")]
DRAIN_S: float = Settings.model_fields["drain_timeout_s"].default


def named(paths: Iterable[Path]) -> list[Any]:
    return [pytest.param(path, id=str(path.relative_to(DEPLOY))) for path in paths]


def run(*command: str | Path) -> str:
    """Run a checker and return what it says, or skip the test where it is not installed."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


@pytest.mark.parametrize("path", named(path for path in FILES if path.suffix in (".yaml", ".yml", ".json")))
def test_every_structured_file_parses(path: Path) -> None:
    assert yaml.safe_load(path.read_text())
    if path.suffix == ".json":
        assert json.loads(path.read_text())


@pytest.mark.parametrize("path", named(path for path in FILES if path.suffix != ".lock"))
def test_every_variable_is_a_setting(path: Path) -> None:
    known = {f"OCRPOOL_{name.upper()}" for name in Settings.model_fields}

    assert set(re.findall(r"OCRPOOL_[A-Z0-9_]+", path.read_text())) <= known


def commands() -> Iterator[list[str]]:
    """The argument lists of every process that a file starts."""
    for path in DOCKERFILES:
        yield from (json.loads(line) for line in re.findall(r"^CMD (\[.*\])$", path.read_text(), re.MULTILINE))
    for path in UNITS:
        yield from (line.split() for line in re.findall(r"^ExecStart=(.*)$", path.read_text(), re.MULTILINE))
    yield from (service["command"] for service in SERVICES.values() if "command" in service)


def test_every_command_of_ours_exists() -> None:
    group = typer.main.get_command(app)
    known: set[str] = set(getattr(group, "commands", {}))

    ours = {arguments[1] for arguments in commands() if Path(arguments[0]).name == "ocrpool"}

    assert ours == {"gateway", "pool", "worker"}
    assert ours <= known


# Metrics


def queries() -> dict[str, str]:
    """Every PromQL expression, by the panel or alert that it belongs to."""
    found: dict[str, str] = {}
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        found |= {rule["alert"]: rule["expr"] for rule in group["rules"]}
    for path in DEPLOY.glob("grafana/dashboards/*.json"):
        for panel in json.loads(path.read_text())["panels"]:
            found |= {f"{panel['title']} {target['refId']}": target["expr"] for target in panel.get("targets", [])}
    return found


def series(families: Iterable[Metric]) -> Iterator[str]:
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    for family in families:
        yield from (family.name + suffix for suffix in suffixes.get(family.type, [""]))


def test_every_query_asks_for_series_that_are_served(ledger: Ledger) -> None:
    gateway = Metrics()
    gateway.watch_pool(ledger)
    assert worker.metrics.PAGES  # registers a worker's metrics
    served = {*series(gateway.registry.collect()), *series(prometheus_client.REGISTRY.collect())}

    for title, expression in queries().items():
        wanted = set(re.findall(r"\b(?:ocrpool|process)_[a-z_]+", expression))
        assert wanted, title
        assert wanted <= served, title


def test_every_query_is_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(queries().values())
    ]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))

    run("promtool", "check", "rules", file)


def test_prometheus_takes_its_configuration() -> None:
    run("promtool", "check", "config", DEPLOY / "prometheus/prometheus.yml")


def test_alerts_fire_on_trouble_and_only_then() -> None:
    run("promtool", "test", "rules", Path(__file__).with_name("rules_test.yaml"))


def test_prometheus_scrapes_services_where_they_serve() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    port = SERVICES["gateway"]["environment"]["OCRPOOL_GATEWAY_PORT"]

    (gateways,) = jobs["ocrpool-gateway"]["dns_sd_configs"]
    assert (gateways["names"], str(gateways["port"])) == (["gateway"], port)
    (workers,) = jobs["ocrpool-worker"]["http_sd_configs"]
    assert workers["url"] == f"http://gateway:{port}{create_app(Settings()).url_path_for('metrics_of_workers')}"
    # The list names a worker that listens on every address by its host, which is its container's name.
    assert {SERVICES[name]["environment"]["OCRPOOL_WORKER_METRICS_HOST"] for name in WORKERS} == {"0.0.0.0"}


# Compose


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_names_only_what_exists(name: str) -> None:
    service = SERVICES[name]
    if "build" in service:
        context = DEPLOY / service["build"]["context"]
        assert context.resolve() == ROOT
        assert (context / service["build"]["dockerfile"]).is_file()
    for source in (volume.split(":")[0] for volume in service.get("volumes", [])):
        assert (DEPLOY / source).is_dir() if source.startswith(".") else source in COMPOSE["volumes"]
    assert set(service.get("depends_on", [])) <= set(SERVICES)


def test_nothing_is_published_beyond_loopback() -> None:
    for service in SERVICES.values():
        for port in service.get("ports", []):
            assert re.match(r"(\$\{GATEWAY_ADDRESS:-)?127\.0\.0\.1:", port)


def test_gateway_and_workers_share_redis_and_blobs() -> None:
    shared = [SERVICES[name] for name in ("gateway", *WORKERS)]

    assert all("blobs:/blobs" in service["volumes"] for service in shared)
    assert {service["environment"]["OCRPOOL_BLOB_URL"] for service in shared} == {"file:///blobs"}
    assert {service["environment"]["OCRPOOL_REDIS_URL"] for service in shared} == {"redis://redis:6379/0"}


def test_redis_keeps_what_it_was_given() -> None:
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))

    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert "--maxmemory" in options
    assert "redis:/data" in SERVICES["redis"]["volumes"]


def test_one_pool_has_every_card() -> None:
    (gpu,) = (service for service in SERVICES.values() if "gpu" in service.get("profiles", []))
    (cards,) = gpu["deploy"]["resources"]["reservations"]["devices"]

    assert cards == {"driver": "nvidia", "capabilities": ["gpu"], "count": "all"}
    assert gpu["command"] == ["ocrpool", "pool"]


def test_a_worker_has_longer_to_stop_than_it_takes_to_drain() -> None:
    for name in WORKERS:
        drain_s = float(SERVICES[name]["environment"]["OCRPOOL_DRAIN_TIMEOUT_S"])
        assert float(SERVICES[name]["stop_grace_period"].removesuffix("s")) > drain_s
    unit = (DEPLOY / "systemd/ocrpool-pool.service").read_text()
    found = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert found is not None
    assert float(found[1]) > DRAIN_S


# Images


@pytest.mark.parametrize("path", named(DOCKERFILES))
def test_an_image_copies_only_what_exists_and_is_not_ignored(path: Path) -> None:
    ignore = path.with_name(f"{path.name}.dockerignore").read_text().splitlines()
    kept = [line.removeprefix("!") for line in ignore if line.startswith("!")]
    copies = re.findall(r"^COPY (?!--from)(.*) \S+$", path.read_text(), re.MULTILINE)
    assert ignore[0] == "*"
    assert copies

    for source in " ".join(copies).split():
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in kept), source


@pytest.mark.parametrize("path", named(DOCKERFILES))
def test_an_image_runs_as_a_user_and_passes_signals_on(path: Path) -> None:
    last_stage = path.read_text().split("\nFROM ")[-1]

    assert re.search(r"^USER ocrpool$", last_stage, re.MULTILINE)
    assert 'ENTRYPOINT ["tini", "--"]' in last_stage
    assert "HEALTHCHECK" in last_stage


def pins(lock: Path) -> set[tuple[str, str]]:
    return set(re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", named(sorted(DEPLOY.glob("*.lock"))))
def test_an_image_has_the_versions_that_were_tested(path: Path) -> None:
    tested = pins(ROOT / "requirements.lock")
    names = {name for name, _ in tested}

    assert pins(path)
    assert {pin for pin in pins(path) if pin[0] in names} <= tested
    # Both bring files of their own for what the image has already: another OpenCV, another Paddle.
    assert not {"opencv-python", "opencv-contrib-python", "paddlepaddle"} & {name for name, _ in pins(path)}


# systemd


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    ocrpool = shutil.which("ocrpool", path=str(ROOT / ".venv/bin")) or shutil.which("true")
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/ocrpool/bin/ocrpool", str(ocrpool)))

    said = run("systemd-analyze", "verify", "--recursive-errors=no", "--man=no", *sorted(tmp_path.iterdir()))

    assert str(tmp_path) not in said, said  # an unknown key is only a warning


def test_draining_the_workers_spares_their_decoders() -> None:
    unit = (DEPLOY / "systemd/ocrpool-pool.service").read_text()

    assert {"KillSignal=SIGTERM", "KillMode=mixed", "Restart=always"} <= set(unit.splitlines())
