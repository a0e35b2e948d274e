"""Redis-protocol servers of the tests' own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import redis

from producer.embedded import answers, redis_command
from producer.processes import Process, free_port
from producer.redis_url import open_client


class Server:
    """One with AOF, which comes back with what it had written."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis.from_url(self.url)
        #: Processes of it that there have been.
        self.lives = 0
        self._folder = folder
        self._environment = environment
        self._options = options
        self.start()

    def start(self) -> None:
        self.lives += 1
        command = [*redis_command(self._folder, self.port), *self._options]
        self.process = Process("redis", command, self._folder / "redis.log", self._environment)
        self.process.wait_until(lambda: answers(self.url), timeout_s=30)

    def kill(self) -> None:
        self.process.kill()

    def stop(self) -> None:
        self.process.stop(grace_s=10)

    def close(self) -> None:
        self.client.close()
        self.stop()


class Watched:
    """Two servers, a master and its replica, and three Sentinels that promote the replica when the master is gone.

    Stands where a `Server` does: `port` is that of the master, and `lives` counts the masters that there have been.
    """

    def __init__(self, folder: Path) -> None:
        self.lives = 1
        self.master = Server(folder / "a")
        self.replica = Server(folder / "b", None, "--replicaof", "127.0.0.1", str(self.master.port))
        self.sentinels = [self._sentinel(folder / f"sentinel-{number}", free_port()) for number in range(3)]
        addresses = ",".join(f"127.0.0.1:{port}" for _, port in self.sentinels)
        self.url = f"redis+sentinel://{addresses}/mymaster/0"
        self.client = open_client(self.url)
        self._wait_until(self._is_whole)

    def _sentinel(self, folder: Path, port: int) -> tuple[Process, int]:
        folder.mkdir()
        configuration = folder / "sentinel.conf"
        configuration.write_text(
            f"bind 127.0.0.1\nport {port}\ndir {folder}\n"
            f"sentinel monitor mymaster 127.0.0.1 {self.master.port} 2\n"
            "sentinel down-after-milliseconds mymaster 1000\n"
            "sentinel failover-timeout mymaster 5000\n"
        )
        binary = redis_command(folder, port)[0]
        return Process("sentinel", [binary, str(configuration), "--sentinel"], folder / "sentinel.log"), port

    def _is_whole(self) -> bool:
        """Whether the replica has caught up, and every Sentinel knows it and the other two."""
        try:
            if self.replica.client.info("replication").get("master_link_status") != "up":
                return False
        except redis.exceptions.ConnectionError:  # Sentinels cut off the clients of one that they make a replica.
            return False
        states = [self._as_seen_by(port) for _, port in self.sentinels]
        return all(state and (state["num-slaves"], state["num-other-sentinels"]) == (1, 2) for state in states)

    def _as_seen_by(self, sentinel: int) -> dict[str, object]:
        with redis.Redis(port=sentinel) as client:
            try:
                return dict(client.sentinel_master("mymaster"))
            except redis.exceptions.ConnectionError:
                return {}

    def _wait_until(self, ready: Callable[[], bool]) -> None:
        self.sentinels[0][0].wait_until(ready, timeout_s=60)

    @property
    def port(self) -> int:
        return self.master.port

    def lose_a_sentinel(self) -> None:
        """Kill the one that clients ask first; the other two can still agree."""
        process, _ = self.sentinels.pop(0)
        process.kill()

    def cut_off_the_replica(self) -> None:
        """From now on the master's writes do not reach it."""
        self.master.client.execute_command("ACL", "SETUSER", "default", "-psync", "-sync")
        self.master.client.execute_command("CLIENT", "KILL", "TYPE", "replica")

    def kill(self) -> None:
        """Kill the master; returns once the Sentinels have promoted the replica."""
        self._change_roles()
        self.replica.kill()
        self._await_promotion()

    def stop(self) -> None:
        """The same with SIGTERM."""
        self._change_roles()
        self.replica.stop()
        self._await_promotion()

    def hand_over(self) -> None:
        """Have the Sentinels promote the replica of a master that is well, and waits until it has caught up."""
        self._fail_over("COORDINATED")

    def depose(self) -> None:
        """The same without a word to the master, which takes writes until the Sentinels find it, seconds later."""
        self._fail_over()

    def _fail_over(self, *how: str) -> None:
        self._change_roles()
        with redis.Redis(port=self.sentinels[0][1]) as client:
            client.execute_command("SENTINEL", "FAILOVER", "mymaster", *how)
        self._await_promotion()

    def _change_roles(self) -> None:
        self.master, self.replica, self.lives = self.replica, self.master, self.lives + 1

    def _await_promotion(self) -> None:
        self._wait_until(lambda: all(self._as_seen_by(port).get("port") == self.port for _, port in self.sentinels))

    def start(self) -> None:
        """Bring the former master back, if it has ended; returns once it follows the new one."""
        if self.replica.process.popen.poll() is not None:
            self.replica.start()
        self._wait_until(self._is_whole)

    def close(self) -> None:
        self.client.close()
        for sentinel, _ in self.sentinels:
            sentinel.stop(grace_s=10)
        for server in (self.replica, self.master):
            server.close()
