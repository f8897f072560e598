#!/usr/bin/env python3
"""The pod of examples/quickstart.yaml through one dialogue with `husk cri`; docs/cri-json.md tells what goes over the wire.

Needs root and the image that scripts/quickstart leaves in the store. Nothing but the standard library.

    examples/cri/quickstart.py
"""

import base64
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import uuid

IMAGE = "husk.example/busybox:1"


class Failed(Exception):
    """An answer that is an error; `code` is gRPC's name for it."""

    def __init__(self, method, error):
        super().__init__(f"{method}: {error['data']['code']}: {error['message']}")
        self.code = error["data"]["code"]


class Cri:
    """A dialogue. One request at a time is enough here, though husk would take many."""

    def __init__(self):
        command = [os.environ.get("HUSK", "husk"), "cri"]
        self.husk = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ids = itertools.count(1)
        self.events = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.husk.stdin.close()
        self.husk.wait()

    def _read(self):
        line = self.husk.stdout.readline()
        if not line:
            raise EOFError("husk cri has ended")
        return json.loads(line)

    def call(self, method, **params):
        """Asks and waits for the answer; events that come before it are kept."""
        number = next(self.ids)
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        self.husk.stdin.write(json.dumps(request) + "\n")
        self.husk.stdin.flush()
        while True:
            message = self._read()
            if message.get("id") == number:
                if "error" in message:
                    raise Failed(method, message["error"])
                return message["result"]
            self.events.append(message)

    def wait_for(self, container, kind):
        """Waits for an event of a container."""
        while True:
            event = self.events.pop(0) if self.events else self._read()
            if event["method"] == "ContainerEventsEnded":
                raise EOFError(event["params"]["message"])
            params = event["params"]
            if (params["containerId"], params["containerEventType"]) == (container, kind):
                return


def drive(cri, directory):
    """Runs the pod, and leaves nothing of it."""
    image = cri.call("ImageStatus", image={"image": IMAGE}).get("image")
    if image is None:
        sys.exit(f"no image {IMAGE}: run scripts/quickstart once")
    # CRI has no volumes: a client makes a directory and mounts it.
    site, logs = directory / "site", directory / "logs"
    site.mkdir()
    logs.mkdir()
    own_pids = {"securityContext": {"namespaceOptions": {"pid": "CONTAINER"}}}
    config = {
        "metadata": {"name": "quickstart", "namespace": "quickstart", "uid": str(uuid.uuid4())},
        "hostname": "quickstart",
        "logDirectory": str(logs),
        "labels": {"app": "quickstart"},
        "linux": own_pids,
    }
    cri.call("GetContainerEvents")
    pod = cri.call("RunPodSandbox", config=config)["podSandboxId"]
    print("pod sandbox", pod)
    try:
        containers(cri, pod, config, image["id"], site, own_pids)
    finally:
        cri.call("StopPodSandbox", podSandboxId=pod)
        cri.call("RemovePodSandbox", podSandboxId=pod)


def containers(cri, pod, sandbox, image, site, own_pids):
    """What runs in the pod."""

    def create(name, script, readonly=True, resources=None):
        config = {
            "metadata": {"name": name},
            "image": {"image": image},
            "command": ["sh", "-c", script],
            "mounts": [{"containerPath": "/site", "hostPath": str(site), "readonly": readonly}],
            "logPath": f"{name}.log",
            "linux": {**own_pids, "resources": resources},
        }
        return cri.call("CreateContainer", podSandboxId=pod, config=config, sandboxConfig=sandbox)["containerId"]

    def status(container):
        return cri.call("ContainerStatus", containerId=container)["status"]

    # An init container is one that the client waits for.
    page = create("page", 'echo "<h1>Hello from $(hostname), a pod on this host</h1>" >/site/index.html', readonly=False)
    cri.call("StartContainer", containerId=page)
    cri.wait_for(page, "CONTAINER_STOPPED_EVENT")
    ended = status(page)
    print("page ended with", ended["exitCode"], ended["reason"])

    limits = {"cpuPeriod": 100000, "cpuQuota": 50000, "memoryLimitInBytes": 32 << 20}
    server = create("server", 'trap "echo server: bye; exit 0" TERM; httpd -f -p 8080 -h /site & wait', resources=limits)
    fetcher = create("fetcher", 'trap "exit 0" TERM; while :; do sleep 1000 & wait $!; done')
    for container in (server, fetcher):
        cri.call("StartContainer", containerId=container)

    fetch = ["sh", "-c", "until wget -qO- http://localhost:8080/; do sleep 0.1; done"]
    answer = cri.call("ExecSync", containerId=fetcher, cmd=fetch, timeout=20)
    # bytes are base64 in JSON.
    print(base64.b64decode(answer["stdout"]).decode(), end="")

    for container in (server, fetcher):
        cri.call("StopContainer", containerId=container, timeout=10)
    ended = status(server)
    print("server ended with", ended["exitCode"], "and its log is:")
    print(pathlib.Path(ended["logPath"]).read_text(encoding="utf-8"), end="")

    for container in (page, server, fetcher):
        cri.call("RemoveContainer", containerId=container)


def main():
    with tempfile.TemporaryDirectory(prefix="husk-example.") as directory, Cri() as cri:
        drive(cri, pathlib.Path(directory))


if __name__ == "__main__":
    main()
