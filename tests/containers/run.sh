#!/usr/bin/env bash
# The checkout's docker-compose.yml, for real: builds the images, starts a federation of three sites, tries its doors, ends
# its SuperLink, trains three rounds, and compares the model with the simulation's, bit for bit.
#   make test-containers        with docker compose, or else podman-compose
# TORCH_INDEX, PIP_INDEX_URL, PIP_FIND_LINKS: where the images' packages come from, as in the Dockerfiles.
# Images stay, tagged `test`, so that the next time is quicker; everything else is removed again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

fedha=${FEDHA:-.venv/bin/fedha}
python=${PYTHON:-.venv/bin/python}
export FEDHA_SERVER_IMAGE=fedha-server:test FEDHA_CLIENT_IMAGE=fedha-client:test FEDHA_PROXY_IMAGE=fedha-proxy:test

if docker compose version >/dev/null 2>&1; then
    engine=docker compose=(docker compose)
elif command -v podman-compose >/dev/null; then
    engine=podman compose=(podman-compose)
else
    echo "needs docker compose or podman-compose" >&2
    exit 2
fi

work=$(mktemp -d)
project=fedhatest$$
say() { echo "== $*"; }
fail() {
    echo "FAILED: $*" >&2
    exit 1
}
compose() { (cd "$work" && "${compose[@]}" --project-name "$project" --env-file deployment/.env "$@"); }
container() { # the container of a service
    $engine ps --all --quiet --filter "label=com.docker.compose.project=$project" \
        --filter "label=com.docker.compose.service=$1" | head -n 1
}
inside() { # a command in a service's container
    local service=$1
    shift
    $engine exec --interactive "$(container "$service")" "$@"
}
logs() { $engine logs "$(container "$1")" 2>&1; }
cleanup() {
    local status=$?
    if [ "$status" -ne 0 ] && [ -n "$(container superlink)" ]; then
        for service in superlink serverapp proxy registrar north-node north-app south-node west-node; do
            say "last words of $service"
            logs "$service" | tail -n 25 || true
        done
    fi
    say "removing what was started"
    compose --profile operator down --timeout 20 >/dev/null 2>&1 || true
    rm -rf "$work"
    exit "$status"
}
trap cleanup EXIT
eventually() { # a command that must succeed within a number of seconds
    local seconds=$1
    shift
    local deadline=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || fail "not within $seconds s: $*"
        sleep 1
    done
}
expect() { # that probe.py prints exactly these lines in a service's container
    local service=$1 wanted=$2 found
    local places=()
    mapfile -t places < <(sed 's/: [a-z0-9]*$//' <<<"$wanted")
    found=$(inside "$service" python - "${places[@]}" <tests/containers/probe.py)
    [ "$found" = "$wanted" ] || fail "$service reaches:
$found
and not:
$wanted"
}

say "building with $engine"
arguments=()
for name in TORCH_INDEX PIP_INDEX_URL PIP_FIND_LINKS; do
    [ -z "${!name+set}" ] || arguments+=(--build-arg "$name=${!name}")
done
$engine build --quiet ${arguments[@]+"${arguments[@]}"} --file server/Dockerfile --tag $FEDHA_SERVER_IMAGE .
$engine build --quiet ${arguments[@]+"${arguments[@]}"} --file clients/Dockerfile --tag $FEDHA_CLIENT_IMAGE .
$engine build --quiet --file server/proxy/Dockerfile --tag $FEDHA_PROXY_IMAGE .

say "starting three sites and their server"
cp -r docker-compose.yml configs "$work"
chmod -R a+rX "$work/configs"
"$fedha" deploy init "$work/deployment"
compose up --detach --no-build

say "every service is healthy, every node is known and online"
eventually 120 inside superlink python -m fedha.deploy.healthy https://localhost:8000/health
eventually 120 inside proxy python /opt/proxy/healthy.py https://localhost:8443/health
eventually 120 inside serverapp python -m fedha.deploy.healthy https://superlink:8000/health
joined() { logs "$1-node" | grep -q "SuperNode ID"; }
for site in north south west; do
    eventually 180 joined "$site"
    inside "$site-node" python -m fedha.deploy.healthy --connected=/tmp/connected https://localhost:9094/health https://proxy:8443/health
    inside "$site-app" python -m fedha.deploy.healthy "https://$site-node:9094/health"
done
[ "$(logs registrar | grep -c 'registered as node')" = 3 ] || fail "the registrar said: $(logs registrar)"
[ "$($engine inspect --format '{{.State.ExitCode}}' "$(container registrar)")" = 0 ] || fail "the registrar failed"

say "no container has a right, a user or a file system that it should not have"
for service in superlink serverapp proxy north-node north-app; do
    inside "$service" python - <<'PYTHON' || fail "$service is not as it should be"
import os
status = dict(line.split(":\t") for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
assert os.getuid() != 0 and os.getgid() != 0, "it runs as root"
assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0, "it has capabilities"
assert status["NoNewPrivs"] == "1", "it may gain rights"
for place in ("/usr/x", "/data/x", "/run/secrets/x", "/etc/x"):
    try:
        open(place, "w")
    except OSError:
        continue
    raise AssertionError(f"{place} can be written")
open("/tmp/x", "w").close()
PYTHON
done
inside north-node sh -c 'test ! -e /data && test -s /run/secrets/client.key' || fail "the node's container has data, or no key"
inside north-app sh -c 'test -s /data/domain.npz && test ! -e /run/secrets/client.key' || fail "the app has no data, or a key"
inside north-app sh -c 'test "$FLWR_TELEMETRY_ENABLED$FLWR_DISABLE_UPDATE_CHECK" = 01' || fail "Flower would call home"

say "from a site, control cannot be reached"
superlink=$($engine inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$(container superlink)")
expect north-node "superlink:8000: closed
$superlink:8000: closed
proxy:8443: open
https://proxy:8443/v1/fleet/pull-messages: 401
https://proxy:8443/v1/fleet/register-node: 404
https://proxy:8443/v1/control/start-run: 404
https://proxy:8443/v1/control/list-nodes: 404
https://proxy:8443/v1/runtime/acquire-task: 404
https://proxy:8443/docs: 404"
expect north-app "north-node:9094: open
south-node:9094: closed
superlink:8000: closed
$superlink:8000: closed
proxy:8443: closed
1.1.1.1:443: closed"

say "an unregistered key is refused, and so is a server without the federation's certificate"
mkdir "$work/stranger"
"$python" -c "
import sys
from fedha.deploy.certificates import make_identity
sys.stdout.buffer.write(make_identity('stranger').private)" >"$work/stranger/key"
cp "$work/deployment/ca/ca.crt" "$work/stranger"
chmod 755 "$work/stranger"
chmod 644 "$work/stranger"/* # the image's user reads them; no secret of the federation is among them
stranger() {
    $engine run --rm --network "${project}_sites" --volume "$work/stranger:/stranger:ro" $FEDHA_CLIENT_IMAGE \
        timeout 120 flower-supernode --superlink proxy:8443 --isolation process --max-retries 1 \
        --auth-supernode-private-key /stranger/key "$@" 2>&1
}
if said=$(stranger --root-certificates /stranger/ca.crt); then fail "a stranger joined: $said"; fi
grep -q "code: 2004" <<<"$said" || fail "the stranger was not refused by its key: $said"
if said=$(stranger); then fail "a node without the authority's certificate joined: $said"; fi
grep -q "CERTIFICATE_VERIFY_FAILED" <<<"$said" || fail "the server's certificate was not refused: $said"

say "a SuperLink that ends comes back, and the sites find it again"
started() { $engine inspect --format '{{.State.StartedAt}}' "$(container superlink)"; }
before=$(started)
inside superlink python -c 'import os; os.kill(1, 15)'
again() { [ "$(started)" != "$before" ] && inside north-node python -m fedha.deploy.healthy https://proxy:8443/health; }
eventually 120 again

say "three rounds, sent by the operator"
begun=$SECONDS
compose --profile operator run --rm -T operator run configs/deployment.yaml --out /runs/real
say "they took $((SECONDS - begun)) s"

say "the same in a simulation, with the same image"
$engine run --rm --volume "$work/configs:/work/configs:ro" --tmpfs /work/runs:mode=1777 $FEDHA_SERVER_IMAGE \
    sh -c 'fedha run configs/deployment.yaml --engine inline --out /tmp/inline >&2 && cat /tmp/inline/model.safetensors' \
    >"$work/inline.safetensors"
cmp "$work/inline.safetensors" "$work/deployment/server/runs/real/model.safetensors" || fail "the models differ"
say "the models are equal, bit for bit"
