#!/usr/bin/env bash
# The pod of examples/quickstart.yaml through CRI, a call of `husk cri METHOD` at a time; docs/cri-json.md tells what goes over the wire.
# Needs root, jq, and the image that scripts/quickstart leaves in the store.
#
#   examples/cri/quickstart.sh
set -euo pipefail
husk=${HUSK:-husk}
image=husk.example/busybox:1

# cri METHOD [JSON]: one request, one response.
cri() { "$husk" cri "$1" <<<"${2:-}"; }

# CRI has no volumes: a client makes a directory and mounts it.
dir=$(mktemp -d /tmp/husk-example.XXXXXX)
mkdir "$dir/site" "$dir/logs"
pod=
cleanup() {
    # Both are a success when there is nothing left to do; removing a sandbox removes its containers.
    if [ -n "$pod" ]; then
        cri StopPodSandbox "$(jq -n --arg id "$pod" '{podSandboxId: $id}')" >/dev/null
        cri RemovePodSandbox "$(jq -n --arg id "$pod" '{podSandboxId: $id}')" >/dev/null
    fi
    rm -rf "$dir"
}
trap cleanup EXIT

found=$(cri ImageStatus "$(jq -n --arg image "$image" '{image: {image: $image}}')" | jq -r '.image.id // empty')
[ -n "$found" ] || { echo "no image $image: run scripts/quickstart once" >&2; exit 1; }

sandbox=$(jq -n --arg uid "$(cat /proc/sys/kernel/random/uuid)" --arg logs "$dir/logs" '{
    metadata: {name: "quickstart", namespace: "quickstart", uid: $uid},
    hostname: "quickstart",
    logDirectory: $logs,
    labels: {app: "quickstart"},
    linux: {securityContext: {namespaceOptions: {pid: "CONTAINER"}}}
}')
pod=$(cri RunPodSandbox "$(jq -n --argjson config "$sandbox" '{config: $config}')" | jq -r .podSandboxId)
echo "pod sandbox $pod"

# create NAME SCRIPT READONLY [RESOURCES]: prints the container's id.
create() {
    jq -n --arg pod "$pod" --argjson sandbox "$sandbox" --arg name "$1" --arg image "$found" --arg script "$2" \
        --arg site "$dir/site" --argjson readonly "$3" --argjson resources "${4:-null}" '{
        podSandboxId: $pod,
        sandboxConfig: $sandbox,
        config: {
            metadata: {name: $name},
            image: {image: $image},
            command: ["sh", "-c", $script],
            mounts: [{containerPath: "/site", hostPath: $site, readonly: $readonly}],
            logPath: "\($name).log",
            linux: {resources: $resources, securityContext: {namespaceOptions: {pid: "CONTAINER"}}}
        }
    }' | "$husk" cri CreateContainer | jq -r .containerId
}
container() { jq -n --arg id "$1" '{containerId: $id}'; }
status() { cri ContainerStatus "$(container "$1")" | jq "$2" -r; }

# An init container is one that the client waits for.
page=$(create page 'echo "<h1>Hello from $(hostname), a pod on this host</h1>" >/site/index.html' false)
cri StartContainer "$(container "$page")" >/dev/null
until [ "$(status "$page" .status.state)" = CONTAINER_EXITED ]; do sleep 0.1; done
echo "page ended with $(status "$page" .status.exitCode), $(status "$page" .status.reason)"

server=$(create server 'trap "echo server: bye; exit 0" TERM; httpd -f -p 8080 -h /site & wait' true \
    '{"cpuPeriod": 100000, "cpuQuota": 50000, "memoryLimitInBytes": "33554432"}')
fetcher=$(create fetcher 'trap "exit 0" TERM; while :; do sleep 1000 & wait $!; done' true)
cri StartContainer "$(container "$server")" >/dev/null
cri StartContainer "$(container "$fetcher")" >/dev/null

# bytes are base64 in JSON.
cri ExecSync "$(jq -n --arg id "$fetcher" '{
    containerId: $id,
    cmd: ["sh", "-c", "until wget -qO- http://localhost:8080/; do sleep 0.1; done"],
    timeout: 20
}')" | jq -r .stdout | base64 -d

for id in "$server" "$fetcher"; do
    cri StopContainer "$(jq -n --arg id "$id" '{containerId: $id, timeout: 10}')" >/dev/null
done
echo "server ended with $(status "$server" .status.exitCode); its log:"
cat "$(status "$server" .status.logPath)"

for id in "$page" "$server" "$fetcher"; do
    cri RemoveContainer "$(container "$id")" >/dev/null
done
