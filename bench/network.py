"""
The network of pods: what it adds to a start, how many pods a bridge carries, how fast they talk. Everything is done in network namespaces of its own: one
that plays the host for husk, one in which the same is made by hand, and a namespace outside of each. The machine's own network is left alone.
"""

import collections
import contextlib
import json
import os
import select
import statistics
import subprocess
import time

from measures import CpuMeter, Series, field
from sides import ONE, Failed, TemporaryText, manifest, run

# What husk's own cost is divided by: a bridge and a table made by hand. bench/link.h names them, too.
BRIDGE, TABLE, PORT, HOST_PORT = "bare0", "bare", 5000, 20000
OUTSIDE, HOST = "192.0.2.1", "192.0.2.2"
GATEWAYS = "10.200.0.1/16", "fdba::1/64"

BY_HAND = f"""
table inet {TABLE} {{
    map ports4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
    map ports6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
    chain ports {{
        dnat ip to meta l4proto . th dport map @ports4
        dnat ip6 to meta l4proto . th dport map @ports6
    }}
    chain prerouting {{ type nat hook prerouting priority dstnat; fib daddr type local jump ports; }}
    chain output {{ type nat hook output priority -100; fib daddr type local jump ports; }}
    chain postrouting {{
        type nat hook postrouting priority srcnat
        ip saddr 10.200.0.0/16 ip daddr != 10.200.0.0/16 masquerade
        ip6 saddr fdba::/64 ip6 daddr != fdba::/64 masquerade
    }}
}}
"""

Crowd = collections.namedtuple("Crowd", "pods up asked from_host from_pod from_outside deleted left collected")
# One measure of the start: what it was without and with the network, in microseconds, round by round.
Added = collections.namedtuple("Added", "without with_it")


class Namespace:
    """A network namespace, which goes with this object. `prefix` runs a command in it."""

    def __init__(self):
        command = ["unshare", "--net", "sh", "-c", "echo ready; exec cat"]
        self.holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.holder.stdout.readline() != "ready\n":
            raise Failed("a network namespace: unshare has failed")
        self.pid = self.holder.pid
        self.prefix = inside(self.pid)
        self.sh("ip link set lo up")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.holder.communicate("")

    def run(self, *command):
        return run([*self.prefix, *command])

    def sh(self, script):
        return self.run("sh", "-ec", script)


def inside(pid):
    return ["nsenter", f"--net=/proc/{pid}/ns/net", "--"]


class World:
    """A namespace that plays the host, and one outside of it that knows no way to its pods."""

    def __init__(self):
        with contextlib.ExitStack() as stack:
            self.host, self.outside = (stack.enter_context(Namespace()) for _ in range(2))
            self.outside.sh(
                f"ip link add out0 type veth peer name up0 netns {self.host.pid};"
                f"ip addr add {OUTSIDE}/24 dev out0; ip link set out0 up"
            )
            self.host.sh(f"ip addr add {HOST}/24 dev up0; ip link set up0 up; ip route add default via {OUTSIDE}")
            self.stack = stack.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.close()


def by_hand(world):
    """The bridge and the table that the bare program's pods are linked to."""
    world.host.sh(
        f"ip link add {BRIDGE} address 0a:58:00:00:00:01 type bridge mcast_snooping 0; ip link set {BRIDGE} up;"
        f"ip addr add {GATEWAYS[0]} dev {BRIDGE}; ip addr add {GATEWAYS[1]} dev {BRIDGE} nodad;"
        "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding;"
        f"nft -f - <<'END'\n{BY_HAND}\nEND"
    )


class Start:
    """A way to start a pod, in a namespace that plays the host."""

    def __init__(self, name, prefix, start, remove):
        self.name, self.prefix, self._start, self._remove = name, prefix, start, remove

    def start(self, _shape):
        return self._start

    def remove(self, _shape):
        return self._remove


def pod(name, command, stamp=None, ports=()):
    """A manifest with ports of the host, as (the host's, the pod's)."""
    made = manifest(name, ONE, command, stamp)
    made["spec"]["containers"][0]["ports"] = [{"hostPort": of_host, "containerPort": of_pod} for of_host, of_pod in ports]
    return made


class Network:
    """The figures. What was not measured is empty."""

    def __init__(self, bench, bare, husk):
        self.bench, self.bare, self.husk = bench, bare, husk
        self.added, self.spans, self.cpu, self.crowd, self.rates, self.memory = {}, {}, {}, None, {}, {}

    def write(self, name, made):
        path = self.bench.work / f"network-{name}.json"
        path.write_text(json.dumps(made))
        return path

    def measure(self, options, say):
        with World() as own, World() as hand:
            by_hand(hand)
            for rest in (0.15, 0.0):
                say(f"what the network adds to a start, {rest * 1000:.0f} ms of rest")
                self.starts(own, hand, options.rounds, rest)
            say("the network's calls alone")
            self.calls(own, hand, options.rounds)
            say("CPU time that the network adds")
            self.cpu_times(own, hand, max(3, options.rounds // 2))
            say("throughput")
            self.throughput(own, hand, options)
            for ports in (None, 0, 1, 16):
                say(f"memory, {'no network' if ports is None else f'{ports} host ports'}")
                self.memories(own, ports, options.pods[0] if options.quick else 10)
            pods = options.pods[-1]
            say(f"{pods} pods on one bridge")
            self.many(own, pods)

    def starts(self, own, hand, rounds, rest):
        """Each round makes every kind of pod once, so that what the machine does meanwhile is in all of them."""
        kinds = self.kinds(own, hand)
        times = {key: [] for key in kinds}
        for number in range(rounds + 1):
            for key, start in kinds.items():
                time.sleep(rest)
                once = self.bench.once(start, ONE)
                # The first one makes the bridge.
                if number:
                    times[key].append(once.first)
        for kind in ("bridge", "port"):
            for side in ("husk", "bare"):
                self.added[kind, rest, side] = Added(times[side, "none"], times[side, kind])

    def kinds(self, own, hand):
        """(side, kind of network) -> how such a pod is started."""
        stamp = ["/first", "/stamp/pipe"]
        plain = self.write("plain", pod("bench", stamp, self.bench.stamp))
        ported = self.write("ported", pod("bench", stamp, self.bench.stamp, [(HOST_PORT, PORT)]))
        kinds = {}
        for kind, mode, file, letters in (("none", "none", plain, "-"), ("bridge", "bridge", plain, "n"), ("port", "bridge", ported, "p")):
            remove = [*self.husk.base, "delete", "pod", "bench"]
            kinds["husk", kind] = Start("husk", own.host.prefix, [*self.husk.base, "run", "--network", mode, file], remove)
            kinds["bare", kind] = Start("bare", hand.host.prefix, self.bare.command(1, letters), [])
        return kinds

    def calls(self, own, hand, rounds):
        """What the calls take by themselves: bare's by its own clock, husk's by its timeline."""
        found = collections.defaultdict(list)
        for number in range(rounds + 1):
            for (side, kind), start in self.kinds(own, hand).items():
                if kind == "none":
                    continue
                took = self.span_of_husk(start) if side == "husk" else self.span_of_bare(start)
                if number:
                    found[kind, side].append(took)
        self.spans = {key: Series(each) for key, each in found.items()}

    def span_of_husk(self, start):
        self.drained(lambda: run([*start.prefix, *start.start(ONE)]))
        shown = json.loads(run([*start.prefix, *self.husk.base, "timeline", "bench", "-o", "json"]))
        run([*start.prefix, *start.remove(ONE)])
        steps = [step for play in (shown if isinstance(shown, list) else [shown]) for step in play["steps"]]
        return sum(step["tookUs"] for step in steps if step["kind"] == "network")

    def span_of_bare(self, start):
        command = list(map(str, [*start.prefix, *start.start(ONE)]))
        command[-1] += "t"
        def told():
            bare = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            took = float(bare.stderr.readline())
            return bare, took
        bare, took = self.drained(told)
        bare.communicate("")
        return took

    def drained(self, start):
        """Starts a pod whose workload finds a reader for its moment; waits for it."""
        with open(os.open(self.bench.stamp / "pipe", os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as pipe:
            result = start()
            select.select([pipe], [], [], 10)
            # As in bench/measure.c: a signal before the workload waits for it would be lost.
            time.sleep(0.05)
            return result

    def cpu_times(self, own, hand, rounds):
        """Milliseconds of one start and removal, by the kernel's accounting."""
        kinds = self.kinds(own, hand)
        keeper = self.write("keeps", pod("keeps", ["/idle"]))
        own.host.run(*self.husk.base, "run", "--network", "none", keeper)
        try:
            for (side, kind), start in kinds.items():
                with CpuMeter(self.husk if side == "husk" else self.bare) as meter:
                    self.bench.once(start, ONE, meter.before)
                    time.sleep(0.5)
                    before = meter.read()
                    own_time = sum(self.bench.once(start, ONE, meter.before).own_cpu for _ in range(rounds))
                    time.sleep(0.5)
                    self.cpu[side, kind] = (meter.read() - before - own_time) / rounds / 1000
        finally:
            own.host.run(*self.husk.base, "delete", "pod", "keeps", "--force")

    def throughput(self, own, hand, options):
        """Bytes per second. Both ends run outside of any cgroup and filter of a pod, in the pods' namespaces: what is compared is the network."""
        seconds, rounds = (0.3, 1) if options.quick else (2, 5)
        talk = self.bench.built / "talk"
        with contextlib.ExitStack() as stack:
            pods = {}
            for side, world in (("husk", own), ("bare", hand)):
                pids, addresses = (self.two_pods if side == "husk" else self.two_bare)(stack, world)
                pods[side] = world, pids, addresses
                serve(stack, [*inside(pids[0]), talk, "serve", PORT])
            rates = collections.defaultdict(list)
            for _ in range(rounds):
                for side, (world, pids, addresses) in pods.items():
                    for what, prefix, to, port in (
                        ("pod to pod, IPv4", inside(pids[1]), addresses[0], PORT),
                        ("pod to pod, IPv6", inside(pids[1]), addresses[1], PORT),
                        ("host to pod", world.host.prefix, addresses[0], PORT),
                        ("outside to a port of the host", world.outside.prefix, HOST, HOST_PORT),
                        ("pod to a port of the host", inside(pids[1]), HOST, HOST_PORT),
                    ):
                        rates[what, side].append(float(run([*prefix, talk, "send", to, port, seconds])))
            self.rates = {key: Series(found) for key, found in rates.items()}

    def two_pods(self, stack, world):
        files = [self.write(f"talk{n}", pod(f"talk{n}", ["/idle"], ports=[(HOST_PORT, PORT)] if n == 0 else ())) for n in range(2)]
        stack.callback(lambda: world.host.run(*self.husk.base, "delete", "pod", "talk0", "talk1", "--force"))
        for file in files:
            world.host.run(*self.husk.base, "run", "--network", "bridge", file)
        found = self.status(world)
        return [found[f"talk{n}"].pid for n in range(2)], found["talk0"].ips

    def status(self, world):
        """name -> (pid of pause, addresses) of the pods with addresses."""
        Pod = collections.namedtuple("Pod", "pid ips")
        listed = json.loads(world.host.run(*self.husk.base, "get", "pods", "-o", "json"))
        ips = {one["metadata"]["uid"]: (one["metadata"]["name"], [ip["ip"] for ip in one["status"].get("podIPs", [])]) for one in listed["items"]}
        found = {}
        for path in (self.husk.state / "pods").glob("*/status.json"):
            name, of_pod = ips.get(path.parent.name, ("", []))
            if of_pod:
                found[name] = Pod(json.loads(path.read_text())["sandbox"]["pid"], of_pod)
        return found

    def two_bare(self, stack, world):
        """Pods of namespaces alone, linked by hand; the first one has a port of the host."""
        made = [stack.enter_context(Namespace()) for _ in range(2)]
        for number, namespace in enumerate(made, 2):
            world.host.sh(f"ip link add hand{number} master {BRIDGE} up type veth peer name eth0 netns {namespace.pid}")
            namespace.sh(
                f"ip link set eth0 up; ip addr add 10.200.0.{number}/16 dev eth0; ip addr add fdba::{number}/64 dev eth0 nodad;"
                "ip route add default via 10.200.0.1; ip route add default via fdba::1"
            )
        world.host.sh(f"bridge link set dev hand2 hairpin on; nft add element inet {TABLE} ports4 '{{ tcp . {HOST_PORT} : 10.200.0.2 . {PORT} }}'")
        return [namespace.pid for namespace in made], ["10.200.0.2", "fdba::2"]

    def start_all(self, world, files, mode):
        """Starts pods two at a time; seconds."""
        command = ["xargs", "-P", "2", "-n", "1", *self.husk.base, "run", "--network", mode]
        before = time.monotonic()
        with open(os.devnull, "w") as null, TemporaryText() as errors:
            command = list(map(str, [*world.host.prefix, *command]))
            done = subprocess.run(command, input="\n".join(map(str, files)), stdout=null, stderr=errors.file, text=True)
            if done.returncode:
                raise Failed(f"husk: {errors.read().strip()}")
        return time.monotonic() - before

    def remove_all(self, world, names):
        before = time.monotonic()
        world.host.run(*self.husk.base, "delete", *(f"pod/{name}" for name in names), "--force")
        return time.monotonic() - before

    def memories(self, world, ports, pods):
        """KiB of supervisor, keeper and pause of a pod with so many ports of the host; `None`: without any network."""
        first = HOST_PORT + 1
        names = [f"memory{n}" for n in range(pods)]
        files = []
        for number, name in enumerate(names):
            of_pod = [(first + (ports or 0) * number + n, PORT + n) for n in range(ports or 0)]
            files.append(self.write(name, pod(name, ["/idle"], ports=of_pod)))
        known = set(self.husk.helpers())
        try:
            self.start_all(world, files, "none" if ports is None else "bridge")
            time.sleep(1)
            helpers = [pid for pid in self.husk.helpers() if pid not in known]
            self.memory[ports] = sum(field(pid, "status", "RssAnon") for pid in helpers) / pods
        finally:
            self.remove_all(world, names)

    def many(self, world, pods):
        """Pods that say their names, each with a port of the host."""
        names = [f"crowd{n}" for n in range(pods)]
        files = [self.write(name, pod(name, ["/talk", "serve", str(PORT)], ports=[(HOST_PORT + 1 + n, PORT)])) for n, name in enumerate(names)]
        talk = self.bench.built / "talk"
        try:
            up = self.start_all(world, files, "bridge")
            found = self.status(world)
            asked = [(ip, name) for name in names for ip in found[name].ips]
            right = lambda said: sum(name == who for (_, name), who in zip(asked, said.split("\n"), strict=False))
            ask = [talk, "ask", PORT, *(ip for ip, _ in asked)]
            from_host, from_pod = right(world.host.run(*ask)), right(run([*inside(found[names[0]].pid), *ask]))
            ports = world.outside.run("sh", "-ec", f"for i in $(seq {pods}); do {talk} ask $(({HOST_PORT} + i)) {HOST}; done").split()
            from_outside = sum(said == name for said, name in zip(ports, names, strict=False))
        finally:
            deleted = self.remove_all(world, names)
        left = self.left(world)
        world.host.run(*self.husk.base, "gc")
        self.crowd = Crowd(pods, up, len(asked), from_host, from_pod, from_outside, deleted, left, self.left(world))

    def left(self, world):
        """What is there besides the namespace's own: links, addresses that are leased, elements of maps, and then bridges and tables."""
        links = json.loads(world.host.run("ip", "-j", "-d", "link"))
        kinds = [link.get("linkinfo", {}).get("info_kind") for link in links if link["ifname"] != "up0"]
        rules = json.loads(world.host.run("nft", "-j", "list", "ruleset"))["nftables"]
        elements = sum(len(entry["map"].get("elem", [])) for entry in rules if "map" in entry)
        leases = len(list((self.bench.work / "root" / "network" / "leases").glob("*")))
        return {
            "links": kinds.count("veth"), "leases": leases, "elements": elements,
            "bridges": kinds.count("bridge"), "tables": sum("table" in entry for entry in rules),
        }


def serve(stack, command):
    """Runs a server until the stack unwinds."""
    server = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL)
    stack.callback(lambda: (server.kill(), server.wait()))


def difference(added):
    """What it adds: the median of the rounds' differences, and the difference of the minima, in microseconds."""
    each = [after - before for before, after in zip(added.without, added.with_it, strict=True)]
    return statistics.median(each), min(added.with_it) - min(added.without)
