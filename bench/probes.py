"""What probes cost: memory of a supervisor that has some, and processor time of each. Pods have no network but their own loopback."""

import collections
import contextlib
import json
import pathlib
import time

from measures import CpuMeter, Series, field, run_time
from network import inside
from sides import IMAGE, run

PORT = 8080
HOST = {"host": "127.0.0.1", "port": PORT}
HANDLERS = {
    "httpGet": {"httpGet": HOST},
    "tcpSocket": {"tcpSocket": HOST},
    "exec": {"exec": {"command": ["/true"]}},
}
# Probes a second of one pod, by kind: what has a container's process for each is not asked for a hundred.
RATES = {"httpGet": 100, "tcpSocket": 100, "exec": 10}

# Per probe in microseconds: of the supervisor, keeper and pause; of the whole pod, the server and what is executed included; and of a bare program that makes
# the same connection. `share` is the first as a part of one processor, at so many probes a second.
Cost = collections.namedtuple("Cost", "rate made own whole bare share")


def pod(name, servers, probed):
    """A pod of `servers` containers with a web server each, of which the first is probed by all, and others that only are there."""
    containers = [{"name": f"c{n}", "image": IMAGE, "command": ["/idle"], **probes} for n, probes in enumerate(probed)]
    for n in range(servers):
        containers[n]["command"] = ["/web", "serve", str(PORT + n)]
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": containers}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


class Probes:
    """All figures about probes. A side that is not husk has none."""

    def __init__(self, bench, husk):
        self.bench, self.husk = bench, husk
        self.memory, self.costs = {}, {}

    @contextlib.contextmanager
    def running(self, made):
        """Runs a pod until it is ready, and deletes it: its helpers by name."""
        path = self.husk.manifests / "probes.json"
        path.write_text(json.dumps(made))
        name = made["metadata"]["name"]
        known = set(self.husk.helpers())
        run([*self.husk.run_pod, path])
        try:
            run([*self.husk.base, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s"])
            yield {self.named(pid): pid for pid in self.husk.helpers() if pid not in known}
        finally:
            run([*self.husk.base, "delete", "pod", name, "--force"])

    @staticmethod
    def named(pid):
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return "supervisor" if b"supervisor" in words else pathlib.Path(f"/proc/{pid}/comm").read_text().strip()

    def measure(self, quick, say):
        seconds = 4 if quick else 30
        say("probes: memory")
        kinds = [("startupProbe", HANDLERS["exec"]), ("livenessProbe", HANDLERS["tcpSocket"]), ("readinessProbe", HANDLERS["httpGet"])]
        three = {kind: {**handler, "periodSeconds": 1} for kind, handler in kinds}
        for said, probed in (("no probe", {}), ("a startup, a liveness and a readiness probe each", three)):
            with self.running(pod("remembers", 1, [probed] * 3)) as helpers:
                time.sleep(seconds)
                anonymous = {name: field(pid, "status", "RssAnon") for name, pid in helpers.items()}
                self.memory[said] = anonymous["supervisor"], sum(anonymous.values())
        for kind, rate in RATES.items():
            say(f"probes: {rate} of {kind} a second")
            # A container has a liveness and a readiness probe, each once a second.
            both = {f"{probe}Probe": {**HANDLERS[kind], "periodSeconds": 1, "timeoutSeconds": 10} for probe in ("liveness", "readiness")}
            with self.running(pod("probed", 1, [both] * (rate // 2))) as helpers, CpuMeter(self.husk) as meter:
                time.sleep(2)
                whole, own, begun = meter.read(), run_time(helpers.values()), time.monotonic()
                time.sleep(seconds)
                whole, own, took = meter.read() - whole, run_time(helpers.values()) - own, time.monotonic() - begun
                made = rate * took
                bare = self.bare(kind, helpers["pause"], 200 if quick else 2000)
                self.costs[kind] = Cost(rate, made, own / made, whole / made, bare, own / took / 1e6)

    def bare(self, kind, pause, count):
        words = {"httpGet": "http", "tcpSocket": "tcp"}.get(kind)
        if not words:
            return None
        tries = [float(run([*inside(pause), self.bench.built / "web", words, PORT, count])) for _ in range(5)]
        return Series(tries).median
