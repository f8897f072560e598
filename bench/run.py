"""Runs the benchmark; started by scripts/bench, which builds husk first. Python's standard library is all it needs."""

import argparse
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

import measures
import network
import probes
import report
import sides
from measures import say

TOP = pathlib.Path(__file__).resolve().parent.parent
BUILT = TOP / "target" / "bench"
PAGE = TOP / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures begin: written by scripts/bench --write -->", "<!-- figures end -->"
CFLAGS = ["-O2", "-Wall", "-Wextra", "-static"]
NO_LIBC = ["-nostdlib", "-nostartfiles", "-ffreestanding", "-fno-stack-protector", "-fno-asynchronous-unwind-tables"]
PARTS = ["start", "exec", "list", "cpu", "pods", "idle", "network", "probes"]
PEERS = {"crun": sides.Crun, "runc": sides.Runc, "podman": sides.Podman}


def compile_tools():
    BUILT.mkdir(parents=True, exist_ok=True)
    programs = [("bare", "bare", []), ("measure", "measure", []), ("talk", "talk", []), ("web", "web", []), ("first", "first", NO_LIBC), ("true", "first", [*NO_LIBC, "-DTRUE"])]
    for name, source, flags in programs:
        subprocess.run(["gcc", *CFLAGS, *flags, "-o", BUILT / name, TOP / "bench" / f"{source}.c"], check=True)


def find_husk(options):
    """The build that is asked for, or the newest release build, whatever target it was built for."""
    if options.binary:
        return options.binary.resolve()
    builds = [*TOP.glob("target/release/husk"), *TOP.glob("target/*/release/husk")]
    if not builds:
        sys.exit("bench: no release build of husk; run scripts/bench")
    return max(builds, key=lambda path: path.stat().st_mtime)


def some_of(known):
    def parse(text):
        names = [name for name in text.split(",") if name and name != "none"]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
        return names

    return parse


def parse_options():
    parser = argparse.ArgumentParser(prog="scripts/bench", description="measures husk, a bare program and other runtimes in one run")
    parser.add_argument("--rounds", type=int, help="measurements of each kind (default 60; podman has a third of them)")
    parser.add_argument("--only", type=some_of(PARTS), default=PARTS, metavar="PARTS", help=f"parts, of {','.join(PARTS)} (default all)")
    parser.add_argument("--peers", type=some_of(PEERS), default=list(PEERS), metavar="NAMES",
                        help=f"runtimes beside the bare program, of {','.join(PEERS)} or none (default all)")
    parser.add_argument("--pods", type=lambda text: sorted(map(int, text.split(","))), metavar="NUMBERS",
                        help="how many idle pods (default 1,50,200)")
    parser.add_argument("--binary", type=pathlib.Path, metavar="FILE", help="another build of husk than the release build")
    parser.add_argument("--quick", action="store_true", help="few rounds, few pods, short waits: does it work? No figures to believe")
    parser.add_argument("--write", action="store_true", help="write the figures into docs/benchmarks.md")
    options = parser.parse_args()
    if options.quick and options.write:
        parser.error("--quick has no figures that are worth writing")
    options.rounds = options.rounds or (3 if options.quick else 60)
    options.pods = options.pods or ([1, 2, 6] if options.quick else [1, 50, 200])
    options.watch = 3 if options.quick else 60
    if options.rounds < 1 or options.pods[0] < 1:
        parser.error("numbers begin with 1")
    return options


def enter(stack, options, bench, absent):
    """The sides that run here, bare and husk always; a peer that does not is told in `absent`."""
    everyone = [stack.enter_context(sides.Bare(bench)), stack.enter_context(sides.Husk(bench, find_husk(options)))]
    for name in options.peers:
        if not shutil.which(name):
            absent[name] = "not installed"
            continue
        try:
            everyone.append(stack.enter_context(PEERS[name](bench)))
        except sides.Failed as failed:
            absent[name] = str(failed)
            say(f"without {name}: {failed}")
    return everyone


def measure(options, bench, everyone, figures):
    def attempt(side, what, call):
        """A peer that fails in the middle loses this figure, which is said; husk or bare failing ends the run."""
        try:
            return call()
        except sides.Failed as failed:
            if side.name not in PEERS:
                raise
            figures.failures[f"{side.name}, {what}"] = failed.first()
            say(f"{what}: {side.name}: {failed}")
            side.remove_many()
            return None

    if "start" in options.only:
        for shape in sides.SHAPES:
            for rest in (0.15, 0.0):
                what = f"up and removal, {report.named(shape)}, {report.rested(rest)}"
                say(what)
                figures.starts[shape, rest] = measures.starts(
                    bench, everyone, shape, options.rounds, rest, lambda side, call, what=what: attempt(side, what, call)
                )
    for side in everyone:
        if {"exec", "cpu"} & set(options.only):
            say(f"exec and CPU time: {side.name}")
        if "exec" in options.only and (found := attempt(side, "exec", lambda: measures.execs(bench, side, options.rounds))):
            figures.execs[side.name] = found
        if "cpu" in options.only and (found := attempt(side, "CPU time", lambda: measures.cpu(bench, side, options.rounds))):
            figures.cpu[side.name] = found
    if {"list", "pods", "idle"} & set(options.only):
        for side in everyone:
            for pods in options.pods:
                # One pod is there for the list alone, and only the largest number is watched.
                rounds = options.rounds if "list" in options.only else 0
                if pods == 1 and not (rounds and side.lists):
                    continue
                say(f"{pods} pods: {side.name}")
                watch = options.watch if "idle" in options.only and pods == options.pods[-1] else 0
                made = attempt(side, f"{pods} pods", lambda: measures.Population(bench, side, pods, rounds, watch))
                if made:
                    figures.populations[side.name, pods] = made
    if "network" in options.only:
        figures.network = network.Network(bench, *everyone[:2])
        figures.network.measure(options, say)
    if "probes" in options.only:
        figures.probes = probes.Probes(bench, everyone[1])
        figures.probes.measure(options.quick, say)


def main():
    options = parse_options()
    if os.geteuid():
        sys.exit("bench: needs root")
    compile_tools()
    # Ended from outside, it still takes away what it made.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended by SIGTERM"))
    work = pathlib.Path(tempfile.mkdtemp(prefix="husk-bench-", dir="/var/tmp"))
    state = pathlib.Path(tempfile.mkdtemp(prefix="husk-bench-", dir="/dev/shm"))
    absent = {}
    try:
        bench = measures.Bench(BUILT, work, state, max(options.pods))
        with contextlib.ExitStack() as stack:
            everyone = enter(stack, options, bench, absent)
            figures = report.Report(everyone, absent)
            measure(options, bench, everyone, figures)
            text = figures.text(" ".join(sys.argv[1:]), everyone[1])
    except sides.Failed as failed:
        sys.exit(f"bench: {failed}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(state, ignore_errors=True)
    print(text)
    if options.write:
        report.write(PAGE, BEGIN, END, text)


main()
