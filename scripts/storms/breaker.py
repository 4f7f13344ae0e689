"""Does to the running parts what a fault says, and puts them right again."""

import json
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from redis.exceptions import RedisError

from scripts.local_servers import KafkaBroker, LocalServer, ServerError
from scripts.storms.account import Broken, Kill, Pause, Records
from scripts.storms.fleet import Fleet, StormOver
from scripts.storms.provider import CUT, HANG, INVALID, OK
from scripts.storms.redis_part import RedisPart
from scripts.storms.schedule import Fault, FaultKind
from scripts.storms.slow_clients import HEALTH_SECONDS, SlowClients, ask_health

WEB, PROVIDER = "web", "provider"
GRACE_SECONDS = 60.0  # What a process may take to end after SIGTERM: its calls, and a delivery, are bounded.
SERVER_SECONDS = 60.0  # What the start of a server may take.
ORPHAN_SECONDS = 5.0  # What the children of a killed main process may take to notice.
PAUSE_SECONDS = 3.0  # Between two faults on one part, however late the first one ended.
HEALTH_PAUSE_SECONDS = 0.2  # Between two looks at /healthz while clients are slow.
TROUBLED_SHARE = 0.4  # Of the provider's calls while it is in trouble.

MODES = {
    FaultKind.PROVIDER_429: "429",
    FaultKind.PROVIDER_500: "500",
    FaultKind.PROVIDER_HANG: HANG,
    FaultKind.PROVIDER_CUT: CUT,
    FaultKind.PROVIDER_INVALID: INVALID,
}


@dataclass
class Parts:
    """What can be broken."""

    fleet: Fleet
    redis: RedisPart
    kafka: KafkaBroker
    workers: list[str]
    web_port: int
    provider_port: int
    latency_ms: float

    def behave(self, mode: str = OK, share: float = 1.0) -> None:
        """Tell the provider how to answer from now on."""
        told = json.dumps({"mode": mode, "share": share, "latency_ms": self.latency_ms}).encode()
        address = f"http://127.0.0.1:{self.provider_port}/behaviour"
        request = urllib.request.Request(address, told, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=5).read()  # noqa: S310 Loopback.


@dataclass
class Breaker:
    """One fault after another on each part, faults on different parts side by side."""

    parts: Parts
    records: Records
    report: Callable[[str], None]
    stopped: threading.Event = field(default_factory=threading.Event)
    broken_parts: set[str] = field(default_factory=set)
    _threads: list[threading.Thread] = field(default_factory=list)
    _back: dict[str, float] = field(default_factory=dict)
    _one_each: dict[str, threading.Lock] = field(default_factory=dict)

    def start(self, faults: list[Fault]) -> None:
        begin = time.monotonic()
        for fault in faults:
            self._one_each.setdefault(fault.kind.part, threading.Lock())
            thread = threading.Thread(target=self._wait_and_break, args=(fault, begin), daemon=True)
            thread.start()
            self._threads.append(thread)

    @property
    def is_done(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Begin no further fault; what is broken now is put right at once, or stays broken for the stop of all."""
        self.stopped.set()
        for thread in self._threads:
            thread.join(SERVER_SECONDS)

    def _wait_and_break(self, fault: Fault, begin: float) -> None:
        if self.stopped.wait(max(0.0, begin + fault.at - time.monotonic())):
            return
        # A fault may last longer than planned; the next one on the same part waits for its end, and a little.
        with self._one_each[fault.kind.part]:
            back = self._back.get(fault.kind.part, 0.0)
            if not self.stopped.wait(max(0.0, back + PAUSE_SECONDS - time.monotonic())):
                self._break(fault)
                self._back[fault.kind.part] = time.monotonic()

    def _break(self, fault: Fault) -> None:
        name = self._name(fault)
        began, failed, note = time.monotonic(), False, ""
        self.report(f"{name} begins")
        self.broken_parts.add(fault.kind.part)
        try:
            note = self._act(fault)
        except StormOver:
            return
        except (ServerError, RedisError, OSError) as error:
            failed, note = True, f"{type(error).__name__}: {error}"
        finally:
            self.broken_parts.discard(fault.kind.part)
        self.records.broken.append(Broken(fault, name, began, time.monotonic(), note, failed))
        self.report(f"{name} is over{', ' + note if note else ''}")

    def _name(self, fault: Fault) -> str:
        return f"{fault.kind} {self._worker(fault)}" if fault.kind.part == "worker" else str(fault.kind)

    def _worker(self, fault: Fault) -> str:
        return self.parts.workers[fault.target]

    def _act(self, fault: Fault) -> str:
        match fault.kind.part:
            case "worker" if fault.kind is FaultKind.WORKER_PAUSE:
                return self._pause(fault, self._worker(fault))
            case "web" if fault.kind is FaultKind.WEB_SLOW_CLIENTS:
                return self._be_slow(fault)
            case "worker" | "web":
                return self._on_process(fault, self._worker(fault) if fault.kind.part == "worker" else WEB)
            case "kafka":
                return self._on_server(fault, self.parts.kafka)
            case "redis":
                return self._on_redis(fault)
            case _:
                return self._on_provider(fault)

    def _on_process(self, fault: Fault, name: str) -> str:
        fleet = self.parts.fleet
        with fleet.handling(name):
            match fault.kind.value.partition("-")[2]:
                case "child-kill":
                    return self._kill_child(fault, name)
                case "rollout":
                    return self._roll(name)
                case "kill":
                    self._note_kill(name)
                    fleet.kill_all_of(name)
                case _:
                    self._note_kill(name)
                    fleet.kill_main_of(name)
            self.stopped.wait(fault.seconds)
            left = self._end_orphans(name)
            fleet.start(name)
        return left

    def _pause(self, fault: Fault, name: str) -> str:
        fleet, at = self.parts.fleet, time.monotonic()
        with fleet.handling(name):
            fleet.signal(name, signal.SIGSTOP)
            self.stopped.wait(fault.seconds)
            fleet.signal(name, signal.SIGCONT)
        self.records.pauses.append(Pause(name, at, time.monotonic()))
        return ""

    def _be_slow(self, fault: Fault) -> str:
        port, until, slowest = self.parts.web_port, time.monotonic() + fault.seconds, 0.0
        with SlowClients(port):
            while time.monotonic() < until and not self.stopped.wait(HEALTH_PAUSE_SECONDS):
                took = ask_health(port)
                slowest = max(slowest, HEALTH_SECONDS if took is None else took)
                if took is None:
                    self.records.silences.append(time.monotonic())
        return f"/healthz took {slowest:.2f} s at most"

    def _note_kill(self, name: str) -> None:
        self.records.kills.append(Kill(name, time.monotonic()))

    def _kill_child(self, fault: Fault, name: str) -> str:
        self._note_kill(name)
        killed = self.parts.fleet.kill_child_of(name, Random(fault.number).randrange(100))  # noqa: S311 Repeatable.
        return "" if killed else "it had no child"

    def _end_orphans(self, name: str) -> str:
        """Wait for the children of a main process that is gone; the port, or the name, is still theirs."""
        fleet, begin = self.parts.fleet, time.monotonic()
        while fleet.is_left_over(name):
            if time.monotonic() - begin > ORPHAN_SECONDS:
                fleet.kill_all_of(name)
                return f"its orphans still lived after {ORPHAN_SECONDS:.0f} s"
            time.sleep(0.02)
        return ""

    def _roll(self, name: str) -> str:
        begin = time.monotonic()
        code = self.parts.fleet.terminate(name, GRACE_SECONDS, self.stopped)
        took = time.monotonic() - begin
        if code is None:
            self._note_kill(name)
        self.parts.fleet.start(name)
        if code is None:
            return f"it had not ended {GRACE_SECONDS:.0f} s after SIGTERM and was killed"
        return f"it ended in {took:.1f} s" + ("" if code == 0 else f" with exit code {code}")

    def _on_server(self, fault: Fault, server: LocalServer) -> str:
        match fault.kind.value.partition("-")[2]:
            case "freeze":
                server.freeze()
                self.stopped.wait(fault.seconds)
                server.thaw()
                return ""
            case "restart":
                server.stop()
            case _:
                server.kill()
        self.stopped.wait(fault.seconds)
        if not self.stopped.is_set():
            server.start()
        return ""

    def _on_redis(self, fault: Fault) -> str:
        redis, note = self.parts.redis, ""
        match fault.kind:
            case FaultKind.REDIS_CUT:
                redis.cut("normal", "pubsub")
            case FaultKind.REDIS_CUT_PUBSUB:
                redis.cut("pubsub")
            case FaultKind.REDIS_READONLY:
                with redis.read_only():
                    self.stopped.wait(fault.seconds)
            case FaultKind.REDIS_DISK_FULL:
                with redis.full_disk():
                    self.stopped.wait(fault.seconds)
            case FaultKind.REDIS_FAILOVER:
                note = f"promoted after {redis.fail_over():.1f} s"
                self.stopped.wait(fault.seconds)
            case _:
                self._on_server(fault, redis.primary)
        if not self.stopped.is_set():
            redis.settle()
        return note

    def _on_provider(self, fault: Fault) -> str:
        self.parts.behave(MODES[fault.kind], TROUBLED_SHARE)
        self.stopped.wait(fault.seconds)
        self.parts.behave()
        return ""
