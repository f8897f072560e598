"""The measurements. Each returns plain numbers; bench/report.py makes tables of them."""

import collections
import contextlib
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

from sides import ONE, Failed, cgroup_mounts, remove_cgroups

# Columns of one start and removal, all in microseconds.
Times = collections.namedtuple("Times", "first returned removed ended own_cpu")
Idle = collections.namedtuple("Idle", "cpu wakeups seconds")
Memory = collections.namedtuple("Memory", "rss_anon pss kernel available helpers")
GROUP = "bench-cpu"


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


class Series:
    """The figures of one kind of one side."""

    def __init__(self, values):
        self.values = sorted(values)

    @property
    def median(self):
        return statistics.median(self.values)

    @property
    def least(self):
        return self.values[0]

    @property
    def p90(self):
        return self.values[min(len(self.values) - 1, int(len(self.values) * 0.9))]


class Bench:
    """The places of one run and its measuring program."""

    def __init__(self, built, work, state, most):
        self.built, self.work, self.state, self.most = built, work, state, most
        self.layer, self.stamp, self.rootfs = work / "layer", work / "stamp", work / "rootfs.tar"
        for directory in ("proc", "dev", "sys", "stamp"):
            (self.layer / directory).mkdir(parents=True)
        for name, program in (("first", "first"), ("idle", "first"), ("true", "true"), ("talk", "talk"), ("web", "web")):
            (self.layer / name).write_bytes((built / program).read_bytes())
            (self.layer / name).chmod(0o755)
        self.stamp.mkdir()
        os.mkfifo(self.stamp / "pipe", 0o666)
        subprocess.run(["tar", "-C", self.layer, "-cf", self.rootfs, "."], check=True)

    def measured(self, side, arguments, before=()):
        command = [*before, *side.prefix, self.built / "measure", *arguments]
        with open(os.devnull) as null, open(self.work / "messages", "w+") as errors:
            done = subprocess.run(list(map(str, command)), text=True, stdin=null, stdout=subprocess.PIPE, stderr=errors)
            errors.seek(0)
            if done.returncode:
                raise Failed(errors.read().strip() or f"{side.name}: measure ended with {done.returncode}")
        return list(map(float, done.stdout.split()))

    def once(self, side, shape, before=()):
        arguments = [self.stamp / "pipe", shape.containers, *side.start(shape), "--", *side.remove(shape)]
        return Times(*self.measured(side, arguments, before))

    def command(self, side, command):
        return self.measured(side, ["-", 0, *command])[0]


def starts(bench, sides, shape, rounds, rest, attempt):
    """side -> list of Times; the sides in turn, `rest` seconds before each. `attempt` returns None for a peer that failed."""
    sides = [side for side in sides if side.supports(shape) and attempt(side, lambda: bench.once(side, shape))]
    figures = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            if number % side.every == 0:
                time.sleep(rest)
                if times := attempt(side, lambda: bench.once(side, shape)):
                    figures[side.name].append(times)
    return figures


def commands(bench, side, command, rounds):
    """Microseconds of a command that changes nothing, back to back."""
    bench.command(side, command)
    return Series([bench.command(side, command) for _ in range(max(1, rounds // side.every))])


class CpuMeter:
    """CPU time of a side's pods, and of the commands run with `before` in front, by the kernel's accounting of their cgroups."""

    def __init__(self, side):
        self.side = side
        mounts = cgroup_mounts()
        # The hierarchy that accounts CPU time: cpuacct, or v2, which always does.
        self.top = next((mount for mount in mounts if (mount / "cpuacct.usage").exists()), mounts[-1])

    def __enter__(self):
        (self.top / GROUP).mkdir(exist_ok=True)
        self.before = ["sh", "-c", f'echo $$ > {self.top / GROUP}/cgroup.procs && exec "$@"', "sh"]
        return self

    def __exit__(self, *_):
        remove_cgroups(GROUP)

    def read(self):
        return sum(self.usage(self.top / group) for group in (GROUP, self.side.group))

    @staticmethod
    def usage(group):
        """Microseconds; a group that does not exist yet has used nothing."""
        if not group.exists():
            return 0.0
        if (group / "cpuacct.usage").exists():
            return int((group / "cpuacct.usage").read_text()) / 1000
        return float(re.search(r"^usage_usec (\d+)", (group / "cpu.stat").read_text(), re.M)[1])


def cpu(bench, side, rounds):
    """Milliseconds of CPU time of one pod's start and removal."""
    rounds = max(1, rounds // side.every)
    # Something of the side's stays, so that its top group is not removed with its count.
    side.many(0, 1)
    try:
        with CpuMeter(side) as meter:
            bench.once(side, ONE, meter.before)
            time.sleep(0.5)
            start = meter.read()
            own = sum(bench.once(side, ONE, meter.before).own_cpu for _ in range(rounds))
            # What cleans up in the background has its time, too.
            time.sleep(0.5)
            return (meter.read() - start - own) / rounds / 1000
    finally:
        side.remove_many()


def meminfo():
    return {line.split(":")[0]: int(line.split()[1]) for line in open("/proc/meminfo")}


def kernel_memory():
    """KiB of what the kernel cannot give back, and of what is available."""
    now = meminfo()
    return sum(now[name] for name in ("SUnreclaim", "KernelStack", "PageTables", "Percpu")), now["MemAvailable"]


def field(pid, file, name):
    """One figure in KiB, or a count, of /proc; 0 for a process that is gone or that has no such line."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1])
    return 0


def switches(pids):
    names = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
    return {pid: sum(field(pid, "status", name) for name in names) for pid in pids}


def run_time(pids):
    """Microseconds on a processor, precise where ticks are not."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1000
    return total


def idle(pids, seconds):
    """CPU time in ms, and wake-ups, of processes over a while in which nobody looks at their pods."""
    before, cpu_before = switches(pids), run_time(pids)
    time.sleep(seconds)
    after = switches(pids)
    return Idle((run_time(pids) - cpu_before) / 1000, sum(after.values()) - sum(before.values()), seconds)


class Population:
    """What a number of idle pods costs a side."""

    def __init__(self, bench, side, pods, rounds, seconds):
        """Makes the pods, measures, removes them. `seconds` is how long they are watched, 0 for not at all."""
        self.pods, self.list, self.exec, self.idle = pods, None, None, None
        known = set(side.helpers())
        kernel, available = kernel_memory()
        try:
            self.up = side.many(0, pods)
            time.sleep(2)
            kernel_now, available_now = kernel_memory()
            helpers = [pid for pid in side.helpers() if pid not in known]
            self.memory = Memory(
                sum(field(pid, "status", "RssAnon") for pid in helpers) / pods,
                sum(field(pid, "smaps_rollup", "Pss") for pid in helpers) / pods,
                (kernel_now - kernel) / pods,
                (available - available_now) / pods,
                len(helpers) / pods,
            )
            if seconds:
                self.idle = idle(helpers, seconds)
            if side.lists and rounds:
                self.list = commands(bench, side, side.list(), rounds)
        finally:
            side.remove_many()
        time.sleep(1)


def execs(bench, side, rounds):
    side.many(0, 1)
    try:
        return commands(bench, side, side.exec(), rounds)
    finally:
        side.remove_many()
