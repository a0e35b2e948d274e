"""The producer's surface over HTTP: for backends that reach a gateway and neither its Redis nor its blob store.

What a call asks of the gateway, how its answers are read and when it is asked anew is written once, as steps
(`steps.py`, `calls.py`), which `Client` takes in the calling thread and `AsyncClient` on its event loop.
"""

from producer.client.awaiting import AsyncClient, AsyncJob
from producer.client.blocking import Client, ClientJob
from producer.client.mapping import Outcome

__all__ = ["AsyncClient", "AsyncJob", "Client", "ClientJob", "Outcome"]
