"""The Celery settings, read from the `OCRPOOL_*` variables. `celery -A worker.app worker` uses them as they stand."""

from producer.cards import in_flight
from producer.queue import broker_settings
from producer.settings import Settings

_settings = Settings()
globals().update(broker_settings(_settings))

# Threads block on batches; prefork would give each process a model of its own, and forking after CUDA breaks it.
worker_pool = "threads"
# A worker whose models run on a card sets its own, once it knows.
worker_concurrency = in_flight(_settings, on_card=False).spans
worker_prefetch_multiplier = 1
worker_consumer = "worker.consumer:StrictConsumer"
# A message is acknowledged once its pages are in the ledger; a late one is met by a lease or a fence.
task_acks_late = True
worker_cancel_long_running_tasks_on_connection_loss = False
# A server that becomes a replica answers those who wait at it with an error of the channel, not of the connection.
broker_channel_error_retry = True
# Leases and batch deadlines bound the work: the threads pool honours no time limits.
worker_soft_shutdown_timeout = 0
worker_disable_rate_limits = True
worker_send_task_events = False
task_send_sent_event = False
worker_hijack_root_logger = False
worker_redirect_stdouts = False
