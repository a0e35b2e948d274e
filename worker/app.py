"""The Celery app of the workers: `celery -A worker.app worker`. Boot, readiness and drain of one process."""

from __future__ import annotations

from typing import Any

from celery import Celery, Task, signals

from producer.job import Lane
from producer.logs import configure_logs
from producer.queue import PREPARE_TASK, READ_SPAN_TASK, broker_settings, queue_prefix
from producer.settings import Settings
from worker import channel


def _refuse(message: bytes, queue: str, reason: str) -> None:
    if _station is not None:
        _station.refuse(message, queue, reason)


channel.install(_refuse)
app = Celery("ocrpool")
app.config_from_object("celeryconfig")

_station: Any = None


class GuardedTask(Task):  # type: ignore[misc]  # Celery's classes are untyped
    """A task whose every error is an ordinary one: the threads pool leaks a slot for ever on the other kinds."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except (MemoryError, SystemExit, KeyboardInterrupt) as error:
            raise RuntimeError(f"{type(error).__name__} in a task thread") from error


def _lane(task: Any) -> Lane | None:
    """Where the task's message came from; None if that was no lane."""
    queue = str((task.request.delivery_info or {}).get("routing_key"))
    return next((lane for lane in Lane if queue == queue_prefix(_station.settings) + lane), None)


@app.task(name=PREPARE_TASK, base=GuardedTask, bind=True)  # type: ignore[untyped-decorator]
def prepare(self: Any, message: object = None, *_: object, **__: object) -> None:
    from worker import tasks

    tasks.prepare(_station, message, _lane(self))


@app.task(name=READ_SPAN_TASK, base=GuardedTask, bind=True)  # type: ignore[untyped-decorator]
def read_span(self: Any, message: object = None, *_: object, **__: object) -> None:
    from worker import tasks

    tasks.read_span(_station, message, _lane(self))


# The threads pool never sends worker_process_init, and tasks still run during worker_shutting_down.


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _boot(sender: Any, **_: Any) -> None:
    global _station  # noqa: PLW0603 - Celery calls tasks and signals as plain functions
    from worker.station import Station

    settings = Settings()
    configure_logs(settings)
    if app.conf.broker_url != broker_settings(settings)["broker_url"]:
        raise SystemExit("The worker cannot start: a celeryconfig.py of another project was found before ocrpool's.")
    try:
        _station = Station(settings, queues=tuple(app.amqp.queues.consume_from))
        # Before the threads of the tasks are made; by now it is known what the models run on.
        if not sender.options.get("concurrency"):
            sender.concurrency = _station.in_flight.spans
        _station.start()
    except Exception as error:
        # Celery swallows a handler's exceptions, and a worker without models must not take work.
        raise SystemExit(f"The worker cannot start: {error}") from error


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _ready(**_: Any) -> None:
    _station.ready()


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _draining(**_: Any) -> None:
    _station.draining()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _stop(**_: Any) -> None:
    _station.stop()
