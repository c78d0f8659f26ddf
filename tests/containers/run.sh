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
say() { printf '== %3d s: %s\n' "$SECONDS" "$*"; }
fail() {
    echo "FAILED: $*" >&2
    exit 1
}
# Where systemd does not run, podman says for each container that it cannot time health checks; they are run below.
untimed() { grep -v -E 'systemd|unable to get systemd connection|healthcheck' >&2 || true; }
compose() {
    (cd "$work" && "${compose[@]}" --project-name "$project" --env-file deployment/.env "$@") 2> >(untimed)
}
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
    compose --profile operator down --timeout 5 >/dev/null 2>&1 || true
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
for name in TORCH_INDEX PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS; do
    [ -z "${!name+set}" ] || arguments+=(--build-arg "$name=${!name}")
done
if [ "$engine" = podman ]; then arguments+=(--layers); fi
build() { # an image, with a line for each step as it is done
    say "image $2"
    $engine build ${arguments[@]+"${arguments[@]}"} --file "$1/Dockerfile" --tag "$2" . 2>&1 |
        sed -u -n -E 's/^(\[[0-9]+\/[0-9]+\] )?(STEP [^:]*: [A-Z]+ .{0,60}).*/   \2/p; s/^(#[0-9]+ \[.{0,80}).*/   \1/p; /^(Error|ERROR)/p'
}
build server $FEDHA_SERVER_IMAGE
build clients $FEDHA_CLIENT_IMAGE
build server/proxy $FEDHA_PROXY_IMAGE

say "starting three sites and their server"
cp -r docker-compose.yml configs "$work"
chmod -R a+rX "$work/configs"
"$fedha" deploy init "$work/deployment"
compose up --detach --no-build

say "every service is healthy, every node is known and online"
eventually 400 inside superlink python -m fedha.deploy.healthy https://localhost:8000/health
eventually 400 inside proxy python /opt/proxy/healthy.py https://localhost:8443/health
eventually 400 inside serverapp python -m fedha.deploy.healthy https://superlink:8000/health
joined() { logs "$1-node" | grep -q "SuperNode ID"; }
for site in north south west; do
    eventually 400 joined "$site"
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
holds() { # that a service's container has these paths, and after a `!` not these
    inside "$1" python -c '
import os, sys
here, gone = " ".join(sys.argv[1:]).split(" ! ")
assert all(os.path.getsize(path) for path in here.split()) and not any(map(os.path.exists, gone.split()))' "${@:2}"
}
holds north-node /run/secrets/client.key ! /data || fail "the node's container has data, or no key"
holds north-app /data/domain.npz ! /run/secrets/client.key || fail "the app has no data, or a key"
inside north-app python -c '
import os
assert os.environ["FLWR_TELEMETRY_ENABLED"] + os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "01"' || fail "Flower would call home"

say "no image has a shell, a package manager or an interpreter but Python; each says what is in it"
for image in $FEDHA_SERVER_IMAGE $FEDHA_CLIENT_IMAGE $FEDHA_PROXY_IMAGE; do
    $engine run --rm -i --network none --tmpfs /tmp $image python - <<'PYTHON' || fail "$image is not lean"
import json, os
unwanted = {"sh", "bash", "dash", "busybox", "perl", "apt", "apt-get", "dpkg", "pip", "pip3", "uv", "gcc", "curl", "wget"}
found = [
    os.path.join(folder, name)
    for top in ("/usr", "/opt/fedha", "/bin", "/sbin", "/etc")
    for folder, folders, names in os.walk(top)
    for name in names
    if name in unwanted or name.endswith((".h", ".a"))
]
assert not found, found
bill = json.load(open("/sbom.cdx.json"))
known = {component["name"] for component in bill["components"]}
assert bill["bomFormat"] == "CycloneDX" and "python" in known and any(name.startswith("libc6") for name in known), known
PYTHON
done

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
    timeout 150 $engine run --rm --network "${project}_sites" --volume "$work/stranger:/stranger:ro" $FEDHA_CLIENT_IMAGE \
        flower-supernode --superlink proxy:8443 --isolation process --max-retries 1 \
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
eventually 400 again

say "three rounds, sent by the operator"
begun=$SECONDS
compose --profile operator run --rm -T operator run configs/deployment.yaml --out /runs/real
say "they took $((SECONDS - begun)) s"

say "a run that the sites did not agree to is refused by key"
said=$(compose --profile operator run --rm -T operator run configs/deployment.yaml training.rounds=4 --out /runs/other 2>&1) && fail "it was answered: $said"
grep -q "the server asks with training.rounds 4, and agreed was 3" <<<"$said" || fail "it was not refused by key: $said"

say "another app of the operator's is refused by every site, and no line of it runs there"
"$python" - "$work/curious" <<'PYTHON'
import pathlib, sys
from tests.deploy.operators import source
place = pathlib.Path(sys.argv[1])
place.mkdir()
for name, content in source(pathlib.Path("/tmp/mark")).items():
    (place / name).write_bytes(content)
PYTHON
chmod -R a+rX "$work/curious"
said=$($engine run --rm -i --network "${project}_control" --tmpfs /tmp:mode=1777 --volume "$work/curious:/curious:ro" \
    --volume "$work/stranger/ca.crt:/ca.crt:ro" $FEDHA_SERVER_IMAGE python - 2>&1 <<'PYTHON'
import pathlib, subprocess
home = pathlib.Path("/tmp/flwr")
home.mkdir()
(home / "config.toml").write_text('[superlink]\ndefault = "fed"\n[superlink.fed]\naddress = "superlink:8000"\nroot-certificates = "/ca.crt"\n')
subprocess.run(["flwr", "run", "/curious", "fed", "--stream"], timeout=300)
PYTHON
)
[ "$(grep -o "this site takes no code from the server: it runs its own fedha" <<<"$said" | wc -l)" = 3 ] || fail "it was not refused: $said"
for site in north south west; do
    grep -q "fedha: refused, and no line of it ran: .*'operator/curious' '6.6.6'" <<<"$(logs "$site-app")" || fail "$site's log does not say so"
    inside "$site-app" python -c 'import os; assert not [one for one in os.listdir("/tmp") if "mark" in one]' || fail "it ran at $site"
done
inside serverapp python -c 'import os; assert os.path.exists("/tmp/mark-server")' || fail "it did not even run on the server"

say "the same in a simulation, with the same image"
$engine run --rm --volume "$work/configs:/work/configs:ro" --tmpfs /work/runs:mode=1777 $FEDHA_SERVER_IMAGE \
    python -c '
import subprocess, sys
subprocess.run(["fedha", "run", "configs/deployment.yaml", "--engine", "inline", "--out", "/tmp/inline"], check=True, stdout=sys.stderr)
sys.stdout.buffer.write(open("/tmp/inline/model.safetensors", "rb").read())' \
    >"$work/inline.safetensors"
cmp "$work/inline.safetensors" "$work/deployment/server/runs/real/model.safetensors" || fail "the models differ"
say "the models are equal, bit for bit"
