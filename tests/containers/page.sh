#!/usr/bin/env bash
# docs/deploy.md, "Three sites in twelve commands", by the letter and for real: images, folders sent to other machines' users,
# a server whose port is published, three sites that are compose projects of their own, and a run.
#   make test-containers        with docker compose, or else podman-compose
# What stands in for the world: `ssh HOST` is a folder a host on this machine, and the server's name an address of ours.
# TORCH_INDEX, PIP_INDEX_URL, PIP_FIND_LINKS: as for run.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD

python=$(realpath -s "${PYTHON:-.venv/bin/python}")
if docker compose version >/dev/null 2>&1; then engine=docker; else engine=podman; fi
work=$(mktemp -d)
hosts=(fed.example.org charite mayo usz)
say() { printf '== %3d s: %s\n' "$SECONDS" "$*"; }
fail() {
    echo "FAILED: $*" >&2
    exit 1
}
untimed() { grep -v -E 'systemd|healthcheck' >&2 || true; } # as in run.sh
compose() { # in a host's folder
    local host=$1
    shift
    (cd "$work/$host/fedha" && if [ $engine = docker ]; then docker compose "$@"; else podman-compose "$@"; fi) 2> >(untimed)
}
cleanup() {
    local status=$?
    for host in charite mayo usz fed.example.org; do
        [ -d "$work/$host/fedha" ] || continue
        if [ "$status" -ne 0 ]; then
            say "last words on $host"
            for id in $($engine ps --all --quiet --filter "label=com.docker.compose.project=fedha-${host/fed.example.org/server}"); do
                $engine logs --tail 15 "$id" 2>&1 || true
            done
        fi
        compose "$host" --profile operator down --timeout 5 >/dev/null 2>&1 || true
    done
    rm -rf "$work"
    exit "$status"
}
trap cleanup EXIT

mkdir "$work/tools"
cat >"$work/tools/ssh" <<SSH
#!/bin/sh
host=\$1; shift
cd "$work/\$host" && exec sh -c "\$*"
SSH
# The engine gets what this machine's builds need, and another port where 8443 is taken.
cat >"$work/tools/$engine" <<ENGINE
#!/bin/bash
if [ "\$1" = build ]; then
    shift
    for name in TORCH_INDEX PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS; do
        [ -z "\${!name+set}" ] || set -- --build-arg "\$name=\${!name}" "\$@"
    done
    $([ $engine = podman ] && echo 'set -- --layers "$@"')
    set -- build "\$@"
fi
exec $(command -v $engine) "\$@"
ENGINE
chmod +x "$work"/tools/*
chmod 755 "$work"
export PATH="$work/tools:$(dirname "$python"):$PATH"
address=$(hostname -I | tr ' ' '\n' | grep -m 1 -E '^[0-9.]+$')
mkdir "$work/checkout"
cp -r .dockerignore LICENSE README.md clients configs constraints.txt docker-compose.yml fedha images pyproject.toml server "$work/checkout"
for host in "${hosts[@]}"; do mkdir "$work/$host"; done

mapfile -t page < <("$python" -m tests.deploy.page $engine)
first=$(printf '%s\n' "${page[@]}" | grep -n 'build -f server/Dockerfile -t' | head -n 1 | cut -d: -f1)
last=$(printf '%s\n' "${page[@]}" | grep -n 'run configs/deployment.yaml' | tail -n 1 | cut -d: -f1)
typed() { # a command in a folder
    say "$2"
    # Into a file: what containers are started with a pipe keep it open.
    (cd "$1" && bash -o pipefail -ec "$2") >"$work/said" 2>&1 || { untimed <"$work/said"; fail "$2"; }
    tail -n 12 "$work/said" | untimed
}
for line in "${page[@]:first-1:last-first+1}"; do
    place=${line%%$'\t'*} command=${line#*$'\t'}
    case $place in
    "in the checkout")
        typed "$work/checkout" "$command"
        case $command in *charite*'pack'* | *pack*charite*)
            for other in mayo usz; do typed "$work/checkout" "${command//charite/$other}"; done
            "$python" -m fedha export configs/deployment.yaml "$work/data"
            for host in charite mayo usz; do
                printf 'services:\n  %s-way:\n    extra_hosts: ["fed.example.org:%s"]\n' "$host" "$address" \
                    >"$work/$host/fedha/compose.override.yml"
            done
            places=("$work"/data/*/)
            cp "${places[0]}domain.npz" "$work/charite/fedha/data/"
            cp "${places[1]}domain.npz" "$work/mayo/fedha/data/"
            cp "${places[2]}domain.npz" "$work/usz/fedha/data/"
            for host in charite mayo usz; do
                owner=$(sed -n 's/^FEDHA_UID=//p' "$work/$host/fedha/.env")
                chown "$owner" "$work/$host/fedha/data/domain.npz"
            done
            ;;
        esac
        ;;
    "on the server, in fedha") typed "$work/fed.example.org/fedha" "$command" ;;
    "at each site, in fedha") for host in charite mayo usz; do typed "$work/$host/fedha" "$command"; done ;;
    *) fail "nobody knows where to type $command" ;;
    esac
done
[ -s "$work"/fed.example.org/fedha/runs/deployment/results.json ] || fail "no results"

say "a site's node reaches the server's door, and no other address"
node=$($engine ps --quiet --filter name=charite-node | head -n 1)
found=$($engine exec --interactive "$node" python - proxy:8443 "$address:8443" 1.1.1.1:443 <"$root/tests/containers/probe.py")
[ "$found" = "proxy:8443: open
$address:8443: closed
1.1.1.1:443: closed" ] || fail "it reaches: $found"
say "the page works by the letter"
