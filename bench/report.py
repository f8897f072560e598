"""Turns figures into the text between the markers of docs/benchmarks.md."""

import datetime
import os
import pathlib
import platform

from measures import Series
from network import difference
from sides import ONE, SHAPES, cgroup_mounts


def table(head, rows):
    """A Markdown table; the first column of text is on the left, the rest on the right."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


def machine():
    models = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    total = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal")) // (1 << 20)
    v2 = sum(1 for line in open("/proc/self/mounts") if line.split()[2] == "cgroup2")
    v1 = len(cgroup_mounts()) - v2
    kind = f"cgroup v1, {v1} hierarchies" + (" and a v2 beside them" if v2 else "") if v1 else "cgroup v2"
    model = models[0] if models else platform.machine()
    return f"{model}, {os.cpu_count()} processors, {total} GiB, Linux {platform.release()}, {kind}"


def named(shape):
    many = "1 container" if shape.containers == 1 else f"{shape.containers} containers"
    return f"{many}, {'shared' if shape.shared else 'private'} PIDs"


def rested(rest):
    return f"after {rest * 1000:.0f} ms of rest" if rest else "back to back"


def ratio(mine, other):
    return f"{mine / other:.2f}" if other > 0 else "–"


# What the network is that a pod is given, as bench/network.py calls it.
NETWORKS = {"bridge": "link, addresses and routes", "port": "the same and a port of the host"}


class Report:
    """All figures of one run. What was not measured is empty and has no rows."""

    def __init__(self, sides, absent):
        self.sides, self.absent, self.failures = sides, absent, {}
        self.starts, self.execs, self.cpu, self.populations, self.network, self.probes = {}, {}, {}, {}, None, None
        self.before = os.getloadavg()[0]
        self.first_cpu, self.first_idle = self.processor()

    @staticmethod
    def processor():
        ticks = list(map(int, open("/proc/stat").readline().split()[1:9]))
        return sum(ticks), ticks[3] + ticks[4]

    def series(self, name, shape, rest, pick):
        times = self.starts.get((shape, rest), {}).get(name)
        return Series([pick(row) / 1000 for row in times]) if times else None

    def row(self, title, found):
        """One measure, a cell a side: median (minimum, 90th percentile), then husk's median and minimum as multiples of the side's."""
        cells = []
        mine = found.get("husk")
        for name in self.names():
            series = found.get(name)
            if not series:
                cells.append("–")
                continue
            text = f"{series.median:.2f} ({series.least:.2f}, {series.p90:.2f})"
            if mine and name != "husk":
                text += f" **{ratio(mine.median, series.median)}**, {ratio(mine.least, series.least)}"
            cells.append(text)
        return [title, *cells]

    def names(self):
        return ["husk", *(side.name for side in self.sides if side.name != "husk")]

    def time_rows(self):
        picks = [
            ("up", lambda row: row.first),
            ("removal", lambda row: row.removed),
            ("stop", lambda row: row.ended),
            ("removal beyond the stop", lambda row: row.removed - row.ended),
        ]
        for shape in SHAPES:
            for rest in (0.15, 0.0):
                for what, pick in picks:
                    found = {name: self.series(name, shape, rest, pick) for name in self.names()}
                    if any(found.values()):
                        yield self.row(f"{what}, {named(shape)}, {rested(rest)}", found)
        if self.execs:
            yield self.row("`exec true`", {name: scaled(series) for name, series in self.execs.items()})
        for pods in sorted({pods for _, pods in self.populations}):
            lists = {name: scaled(found.list) for (name, number), found in self.populations.items() if number == pods}
            if any(lists.values()):
                yield self.row(f"`get pods` with {pods}", lists)

    def pod_rows(self):
        for (name, pods), found in sorted(self.populations.items(), key=lambda item: (item[0][1], self.names().index(item[0][0]))):
            if pods == 1:
                continue
            memory = found.memory
            figures = [memory.rss_anon, memory.pss, memory.kernel, memory.available]
            cells = [str(pods), name, f"{found.up:.2f}", f"{memory.helpers:.1f}", *(f"{value:.0f}" for value in figures)]
            if found.idle:
                cells += [f"{found.idle.cpu:.1f}", str(found.idle.wakeups)]
            else:
                cells += ["–", "–"]
            yield cells

    def targets(self):
        """Rows (target, figure, met?) for what was measured."""
        def compared(other, rest=0.0):
            mine = self.series("husk", ONE, rest, lambda row: row.first)
            theirs = self.series(other, ONE, rest, lambda row: row.first)
            return (mine.median, theirs.median) if mine and theirs else None

        def verdict(target, figure, met):
            return [target, figure, "yes" if met else "**no**"]

        if pair := compared("bare"):
            mine, bare = pair
            more = f", {mine - 1.3 * bare:.2f} ms too much" if mine > 1.3 * bare else ""
            yield verdict("pod up, back to back: at most 1.3 × bare", f"{mine / bare:.2f} ×{more}", mine <= 1.3 * bare)
        if cold := self.series("husk", ONE, 0.15, lambda row: row.first):
            yield verdict("pod up, after rest: at most 5 ms", f"{cold.median:.2f} ms", cold.median <= 5)
        for other, said, times in (("podman", "podman", 10), ("crun", "`crun run` alone", 2)):
            if pair := compared(other):
                mine, theirs = pair
                yield verdict(f"pod up: at least {times} × faster than {said}", f"{theirs / mine:.1f} ×", theirs >= times * mine)
            elif other in self.absent and self.starts:
                yield [f"pod up: at least {times} × faster than {said}", f"no figure: {other} does not run here", "–"]
        for rest in (0.15, 0.0):
            if beyond := self.series("husk", ONE, rest, lambda row: row.removed - row.ended):
                met = beyond.median <= 2
                yield verdict(f"removal {rested(rest)}: at most 2 ms beyond the container's own exit", f"{beyond.median:.2f} ms", met)
        largest = max((pods for name, pods in self.populations if name == "husk"), default=0)
        if found := self.populations.get(("husk", largest)):
            if largest == 200:
                yield verdict("200 pods up, two at a time: at most 2 s", f"{found.up:.2f} s", found.up <= 2)
            anonymous = found.memory.rss_anon
            yield verdict("supervisor, keeper and pause of a pod: at most 300 KiB RssAnon", f"{anonymous:.0f} KiB", anonymous <= 300)
            if found.idle:
                said = f"no wake-up of {largest} idle pods in a minute"
                woken = f"{found.idle.wakeups} in {found.idle.seconds} s"
                yield [said, woken, "**no**" if found.idle.wakeups else "yes" if found.idle.seconds >= 60 else "watched too briefly"]

    def network_targets(self):
        network = self.network

        def verdict(target, figure, met):
            return [target, figure, "yes" if met else "**no**"]

        for kind, said in NETWORKS.items():
            mine, theirs = (network.added.get((kind, 0.0, side)) for side in ("husk", "bare"))
            if mine and theirs:
                mine, theirs = difference(mine)[0], difference(theirs)[0]
                figure = f"{ratio(mine, theirs)} ×, {mine / 1000:.2f} ms"
                yield verdict(f"{said}, back to back: add at most 2 × what the bare calls add", figure, mine <= 2 * theirs)
        if crowd := network.crowd:
            well = crowd.from_host == crowd.from_pod == crowd.asked and crowd.from_outside == crowd.pods
            yield verdict(f"{crowd.pods} pods on one bridge: all answer by their names", "all" if well else "not all", well)
            left = {**crowd.left, "bridges": 0, "tables": 0}, crowd.collected
            clean = not any(any(counts.values()) for counts in left)
            said = "their deletion leaves no link, lease or element, and gc no bridge and no table"
            yield verdict(said, "nothing is left" if clean else str(left), clean)

    def network_text(self):
        network = self.network
        head = ["milliseconds that it adds to a start", "husk", "bare", "husk / bare", "of the minima"]
        rows = []
        for kind, said in NETWORKS.items():
            for rest in (0.15, 0.0):
                pair = [network.added.get((kind, rest, side)) for side in ("husk", "bare")]
                if all(pair):
                    (mine, my_least), (theirs, their_least) = map(difference, pair)
                    row = [f"{mine / 1000:.2f} ({my_least / 1000:.2f})", f"{theirs / 1000:.2f} ({their_least / 1000:.2f})"]
                    rows.append([f"{said}, {rested(rest)}", *row, f"**{ratio(mine, theirs)}**", ratio(my_least, their_least)])
        yield from table(head, rows)
        rows = []
        for kind, said in NETWORKS.items():
            pair = [network.spans.get((kind, side)) for side in ("husk", "bare")]
            if all(pair):
                cells = [f"{series.median / 1000:.2f} ({series.least / 1000:.2f}, {series.p90 / 1000:.2f})" for series in pair]
                rows.append([said, *cells, f"**{ratio(*(series.median for series in pair))}**", ratio(*(series.least for series in pair))])
        if rows:
            yield from ["", *table(["milliseconds of the calls alone", "husk", "bare", "husk / bare", "of the minima"], rows)]
        if network.cpu:
            adds = {(kind, side): network.cpu[side, kind] - network.cpu[side, "none"] for kind in NETWORKS for side in ("husk", "bare")}
            rows = [["nothing", *(f"{network.cpu[side, 'none']:.2f}" for side in ("husk", "bare")), ""]]
            for kind, said in NETWORKS.items():
                mine, theirs = adds[kind, "husk"], adds[kind, "bare"]
                rows.append([said, f"+ {mine:.2f}", f"+ {theirs:.2f}", f"**{ratio(mine, theirs)}**"])
            yield from ["", *table(["CPU ms of a start and removal with", "husk", "bare", "husk / bare"], rows)]
        if crowd := network.crowd:
            head = ["pods on one bridge", "s to start", "answer to the host", "to a pod", "ports to the outside", "s to delete", "left then", "after gc"]
            left = [", ".join(f"{count} {what}" for what, count in found.items() if count) or "nothing" for found in (crowd.left, crowd.collected)]
            of_all = [f"{n} of {crowd.asked}" for n in (crowd.from_host, crowd.from_pod)]
            row = [str(crowd.pods), f"{crowd.up:.2f}", *of_all, f"{crowd.from_outside} of {crowd.pods}", f"{crowd.deleted:.2f}", *left]
            yield from ["", *table(head, [row])]
        rows = []
        for what in dict.fromkeys(what for what, _ in network.rates):
            mine, theirs = (network.rates[what, side] for side in ("husk", "bare"))
            row = [f"{series.median * 8 / 1e9:.1f} ({series.least * 8 / 1e9:.1f}, {series.values[-1] * 8 / 1e9:.1f})" for series in (mine, theirs)]
            rows.append([what, *row, f"**{ratio(mine.median, theirs.median)}**", ratio(mine.values[-1], theirs.values[-1])])
        if rows:
            yield from ["", *table(["Gbit/s", "husk", "by hand", "husk / by hand", "of the maxima"], rows)]
        named = {None: "no network", 0: "bridge", 1: "bridge, 1 port of the host"}
        if network.memory:
            rows = [[named.get(ports, f"bridge, {ports} ports of the host"), f"{kib:.0f}"] for ports, kib in network.memory.items()]
            yield from ["", *table(["supervisor, keeper and pause of a pod", "RssAnon KiB"], rows)]

    def probe_targets(self):
        probes = self.probes

        def verdict(target, figure, met):
            return [target, figure, "yes" if met else "**no**"]

        for said, (supervisor, _) in probes.memory.items():
            if said != "no probe":
                target = f"supervisor of 3 containers with {said}: at most 300 KiB RssAnon"
                yield verdict(target, f"{supervisor} KiB", supervisor <= 300)
        for kind in ("httpGet", "tcpSocket"):
            if cost := probes.costs.get(kind):
                target = f"{cost.rate} `{kind}` probes a second: less than 2 % of one processor"
                yield verdict(target, f"{cost.share * 100:.1f} %", cost.share < 0.02)

    def probe_text(self):
        probes = self.probes
        rows = [[said, *map(str, found)] for said, found in probes.memory.items()]
        yield from table(["3 containers with", "supervisor, RssAnon KiB", "with keeper and pause"], rows)
        rows = []
        for kind, cost in probes.costs.items():
            bare = [f"{cost.bare:.0f}", f"**{ratio(cost.own, cost.bare)}**"] if cost.bare else ["–", "–"]
            rows.append([f"`{kind}`, {cost.rate} a second", f"{cost.own:.0f}", f"{cost.whole:.0f}", *bare, f"{cost.share * 100:.1f} %"])
        head = ["CPU us a probe", "husk", "with what answers", "bare", "husk / bare", "husk, of one processor"]
        yield from ["", *table(head, rows)]

    def text(self, options, husk):
        total, idle = (now - then for now, then in zip(self.processor(), (self.first_cpu, self.first_idle), strict=True))
        # What others did is not told apart from what was measured here, so the load before the run is given and the spread of bare.
        spreads = [self.series("bare", ONE, rest, lambda row: row.first) for rest in (0.15, 0.0)]
        spread = max((found.p90 / found.median for found in spreads if found), default=1)
        quiet = "" if spread < 1.5 else f" **The machine was not quiet**: the bare program's 90th percentile is {spread:.1f} × its median."
        lines = [
            f"{datetime.date.today()}: {machine()}. `scripts/bench {options}`.",
            f"Load before the run: {self.before:.2f}; the processors were idle {100 * idle / max(1, total):.0f} % of it.{quiet}",
            "",
            f"* {husk.version}, {husk.binary.stat().st_size / (1 << 20):.2f} MiB",
            *(f"* {side.notes}" for side in self.sides if side.notes),
            *(f"* {name}: no figures: {why}" for name, why in self.absent.items()),
            *(f"* {what}: failed at least once: {why}" for what, why in self.failures.items()),
        ]
        targets = list(self.targets())
        if self.network:
            targets += self.network_targets()
        if self.probes:
            targets += self.probe_targets()
        if targets:
            lines += ["", *table(["target", "measured", "met?"], targets)]
        times = list(self.time_rows())
        if times:
            head = ["milliseconds", *self.names()]
            lines += ["", *table(head, times)]
        returned = self.series("husk", ONE, 0.0, lambda row: row.returned)
        if returned:
            lines += ["", f"`husk run` itself returns after {returned.median:.2f} ms (median, back to back)."]
        if self.cpu:
            mine = self.cpu.get("husk")
            rows = [[name, f"{self.cpu[name]:.2f}", ratio(mine, self.cpu[name]) if mine and name != "husk" else ""]
                    for name in self.names() if name in self.cpu]
            lines += ["", *table(["CPU time of one start and removal", "ms", "husk / this"], rows)]
        pods = list(self.pod_rows())
        if pods:
            watched = max((found.idle.seconds for found in self.populations.values() if found.idle), default=0)
            head = ["idle pods", "", "s to start", "helpers", "RssAnon KiB", "PSS KiB", "kernel KiB", "MemAvailable KiB",
                    f"CPU ms in {watched} s" if watched else "CPU", f"wake-ups in {watched} s" if watched else "wake-ups"]
            lines += ["", *table(head, pods)]
        if self.network:
            lines += ["", *self.network_text()]
        if self.probes:
            lines += ["", *self.probe_text()]
        return "\n".join(lines)


def scaled(series):
    return Series([value / 1000 for value in series.values]) if series else None


def write(page, begin, end, text):
    """Puts the text between the two markers of a page."""
    page = pathlib.Path(page)
    head, rest = page.read_text().split(begin)
    page.write_text(f"{head}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}")
