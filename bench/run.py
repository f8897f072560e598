"""Runs the benchmark; started by scripts/bench, which builds husk first. Python's standard library is all it needs."""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
BUILT = TOP / "target" / "bench"
PAGE = TOP / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures begin: written by scripts/bench --write -->", "<!-- figures end -->"
CFLAGS = ["-O2", "-Wall", "-Wextra", "-static"]
NO_LIBC = ["-nostdlib", "-nostartfiles", "-ffreestanding", "-fno-stack-protector", "-fno-asynchronous-unwind-tables"]


def compile_tools():
    BUILT.mkdir(parents=True, exist_ok=True)
    for name, flags in [("bare", []), ("measure", []), ("first", NO_LIBC)]:
        source = TOP / "bench" / f"{name}.c"
        subprocess.run(["gcc", *CFLAGS, *flags, "-o", BUILT / name, source], check=True)


def find_husk():
    """The newest release build, whatever target it was built for."""
    builds = [*TOP.glob("target/release/husk"), *TOP.glob("target/*/release/husk")]
    if not builds:
        sys.exit("bench: no release build of husk; run scripts/bench")
    return max(builds, key=lambda path: path.stat().st_mtime)


def cgroup_mounts():
    table = pathlib.Path("/proc/self/mounts").read_text().splitlines()
    return [pathlib.Path(line.split()[1]) for line in table if line.split()[2] in ("cgroup", "cgroup2")]


class Bare:
    """The bare program, with the directories and parent cgroups that it takes for granted."""

    name = "bare"

    def __init__(self, work):
        self.layer, self.scratch, self.stamp = work / "layer", work / "scratch", work / "stamp"
        for directory in ("proc", "dev", "sys", "stamp"):
            (self.layer / directory).mkdir(parents=True)
        self.scratch.mkdir()
        shutil.copy(BUILT / "first", self.layer / "first")

    def __enter__(self):
        for mount in cgroup_mounts():
            for inner in ("bare", "bare/runtime", "bare/besteffort"):
                directory = mount / inner
                directory.mkdir(exist_ok=True)
                for file in ("cpuset.cpus", "cpuset.mems"):
                    if (mount / file).exists():
                        (directory / file).write_text((mount / file).read_text())
        return self

    def __exit__(self, *_):
        for mount in cgroup_mounts():
            for inner in ("bare/besteffort", "bare/runtime", "bare"):
                (mount / inner).rmdir()

    def start(self):
        return [BUILT / "bare", self.layer, self.scratch, BUILT / "first", self.stamp]

    def remove(self):
        return []


class Husk:
    """husk on roots of its own: --root on the disk, --state on a tmpfs, as /run is one."""

    name = "husk"

    def __init__(self, work, state, binary):
        self.binary, self.work = binary, work
        self.roots = ["--root", str(work / "root"), "--state", str(state)]
        self.manifest = work / "pod.json"
        self.manifest.write_text(json.dumps(self.pod("bench", work / "stamp", ["/first", "/stamp/pipe"])))
        self.idle = work / "idle.json"
        self.idle.write_text(json.dumps(self.pod("idle", work / "stamp", ["/first"])))

    @staticmethod
    def pod(name, stamp, command):
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never",
                "volumes": [{"name": "stamp", "hostPath": {"path": str(stamp)}}],
                "containers": [
                    {
                        "name": "main",
                        "image": "husk.bench/first:1",
                        "command": command,
                        "volumeMounts": [{"name": "stamp", "mountPath": "/stamp"}],
                    }
                ],
            },
        }

    def call(self, *args, **more):
        return subprocess.run([self.binary, *self.roots, *args], check=True, text=True, **more)

    def __enter__(self):
        rootfs = self.work / "rootfs.tar"
        subprocess.run(["tar", "-C", self.work / "layer", "-cf", rootfs, "."], check=True)
        self.call("image", "import", str(rootfs), "husk.bench/first:1", stdout=subprocess.DEVNULL)
        # One pod stays all the time, so that the parent cgroups exist, as they do for the bare program.
        self.call("run", str(self.idle), stdout=subprocess.DEVNULL)
        return self

    def __exit__(self, *_):
        subprocess.run([self.binary, *self.roots, "delete", "pod", "idle", "--force"], check=False, stdout=subprocess.DEVNULL)
        subprocess.run([self.binary, *self.roots, "gc"], check=False, stdout=subprocess.DEVNULL)

    def start(self):
        return [self.binary, *self.roots, "run", self.manifest]

    def remove(self):
        return [self.binary, *self.roots, "delete", "pod", "bench"]


class Crun:
    """For comparison: one container of an established runtime, without a pod around it."""

    name = "crun"

    def __init__(self, work):
        self.bundle, self.stamp = work / "bundle", work / "stamp"
        self.layer = work / "layer"

    def __enter__(self):
        self.bundle.mkdir()
        subprocess.run(["crun", "spec"], cwd=self.bundle, check=True)
        path = self.bundle / "config.json"
        spec = json.loads(path.read_text())
        spec["process"].update(terminal=False, args=["/first", "/stamp/pipe"])
        spec["root"] = {"path": str(self.layer), "readonly": True}
        spec["mounts"].append({"destination": "/stamp", "type": "bind", "source": str(self.stamp), "options": ["rbind", "rw"]})
        path.write_text(json.dumps(spec))
        return self

    def __exit__(self, *_):
        subprocess.run(["crun", "delete", "--force", "husk-bench"], check=False, stderr=subprocess.DEVNULL)

    def start(self):
        return ["crun", "run", "--detach", "--bundle", self.bundle, "husk-bench"]

    def remove(self):
        return ["crun", "delete", "--force", "husk-bench"]


def once(side, stamp):
    command = [BUILT / "measure", stamp / "pipe", *side.start(), "--", *side.remove()]
    result = subprocess.run(list(map(str, command)), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if result.returncode:
        raise RuntimeError(f"{side.name}: {result.stderr}{result.stdout}")
    return list(map(float, result.stdout.splitlines()[-1].split()))


def series(sides, stamp, rounds, rest):
    """`rounds` measurements of each side, interleaved; seconds of rest before each."""
    for side in sides:
        once(side, stamp)
    figures = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            time.sleep(rest)
            figures[side.name].append(once(side, stamp))
    return figures


def summary(figures, column):
    values = sorted(row[column] for row in figures)
    return statistics.median(values), values[0], values[min(len(values) - 1, int(len(values) * 0.9))]


def row(title, figures, column):
    bare, husk = summary(figures["bare"], column), summary(figures["husk"], column)
    cells = [f"{value / 1000:.2f}" for value in (*bare, *husk)]
    return f"| {title} | {' | '.join(cells)} | {husk[0] / bare[0]:.2f} | {husk[1] / bare[1]:.2f} |"


def field(pid, file, name):
    for line in pathlib.Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    return 0


def parent(pid):
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def idle_processes(state):
    """pids of keeper, supervisor and pause of the one pod that runs."""
    status = json.loads(next((state / "pods").glob("*/status.json")).read_text())
    pause = status["sandbox"]["pid"]
    keeper = parent(pause)
    supervisor = next(
        int(path.name)
        for path in pathlib.Path("/proc").glob("[0-9]*")
        if (path / "stat").exists() and parent(path.name) == keeper and b"supervisor" in (path / "cmdline").read_bytes()
    )
    return {"keeper": keeper, "supervisor": supervisor, "pause": pause}


def memory(state):
    page = os.sysconf("SC_PAGE_SIZE") // 1024
    lines = ["| process | RssAnon KiB | PSS KiB | RSS KiB | pages | file bytes |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for name, pid in idle_processes(state).items():
        rss = field(pid, "status", "VmRSS")
        size = os.stat(f"/proc/{pid}/exe").st_size
        lines.append(
            f"| {name} | {field(pid, 'status', 'RssAnon')} | {field(pid, 'smaps_rollup', 'Pss')} | {rss} | {rss // page} | {size} |"
        )
    return lines


def machine():
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    total = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal")) // (1 << 20)
    mounts = cgroup_mounts()
    v2 = sum(1 for line in open("/proc/self/mounts") if line.split()[2] == "cgroup2")
    kind = "cgroup v2" if len(mounts) == v2 else f"cgroup v1, {len(mounts) - v2} hierarchies" + (" and an empty v2 beside them" if v2 else "")
    return f"{model}, {os.cpu_count()} processors, {total} GiB, Linux {platform.release()}, {kind}"


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench", description="measures husk against a bare program")
    parser.add_argument("--rounds", type=int, default=60, help="measurements of each kind (default 60)")
    parser.add_argument("--crun", action="store_true", help="measure one container of crun as well, which must be installed")
    parser.add_argument("--write", action="store_true", help="write the figures into docs/benchmarks.md")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("bench: needs root")
    compile_tools()
    # Ended from outside, it still takes away what it made.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended by SIGTERM"))
    work = pathlib.Path(tempfile.mkdtemp(prefix="husk-bench-", dir="/var/tmp"))
    state = pathlib.Path(tempfile.mkdtemp(prefix="husk-bench-", dir="/dev/shm"))
    load = os.getloadavg()[0]
    try:
        (work / "stamp").mkdir()
        os.mkfifo(work / "stamp" / "pipe", 0o666)
        with contextlib.ExitStack() as stack:
            bare = stack.enter_context(Bare(work))
            husk = stack.enter_context(Husk(work, state, find_husk()))
            sides = [bare, husk]
            if options.crun:
                crun = stack.enter_context(Crun(work))
                try:
                    once(crun, work / "stamp")
                    sides.append(crun)
                except RuntimeError as error:
                    print(f"bench: without crun: {error}", file=sys.stderr)
            cold = series(sides, work / "stamp", options.rounds, 0.15)
            warm = series(sides, work / "stamp", options.rounds, 0.0)
            idle = memory(state)
            binary = husk.binary.stat().st_size
    except RuntimeError as error:
        sys.exit(f"bench: {error}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(state, ignore_errors=True)

    spread = max(summary(figures["bare"], 0)[2] / summary(figures["bare"], 0)[0] for figures in (cold, warm))
    quiet = "" if spread < 1.5 else f" The machine was not quiet: the bare program's 90th percentile is {spread:.1f} x its median."
    lines = [
        f"{datetime.date.today()}, {machine()}. Load before the run: {load:.2f}. {options.rounds} rounds each, both sides in turn.{quiet}",
        "",
        "Milliseconds: median, minimum, 90th percentile; then husk as a multiple of bare, medians and minima.",
        "",
        "| | bare | min | p90 | husk | min | p90 | ratio | ratio of minima |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        row("start to first instruction, after 150 ms of rest", cold, 0),
        row("start to first instruction, back to back", warm, 0),
        row("removal, after 150 ms of rest", cold, 2),
        row("removal, back to back", warm, 2),
        "",
        f"`husk run` itself returns after {summary(cold['husk'], 1)[0] / 1000:.2f} ms (median, after rest). "
        f"The husk executable has {binary / (1 << 20):.2f} MiB.",
        "",
        "One idle pod with one container:",
        "",
        *idle,
    ]
    if "crun" in cold:
        version = subprocess.run(["crun", "--version"], text=True, stdout=subprocess.PIPE, check=True).stdout.splitlines()[0]
        times = [summary(figures["crun"], column)[0] / 1000 for column in (0, 2) for figures in (cold, warm)]
        lines += ["", f"For comparison, {version}, one container without a pod: {times[0]:.1f} ms to the first instruction after rest,"
                  f" {times[1]:.1f} ms back to back; removal {times[2]:.1f} and {times[3]:.1f} ms."]
    text = "\n".join(lines)
    print(text)
    if options.write:
        page = PAGE.read_text()
        head, rest = page.split(BEGIN)
        tail = rest.split(END)[1]
        PAGE.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}")


main()
