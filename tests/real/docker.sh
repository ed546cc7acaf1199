#!/usr/bin/env bash
# A Docker engine for the tests on a bare Debian: no systemd, no registry; as root.
#
#   docker.sh up           install what is missing, start the engine
#   docker.sh base-image   make the image that the tests build on, from Debian's packages
#   docker.sh down         stop the engine that `up` started
#
# An engine that runs already is used and left alone: CALGRID_ENGINE_STATE, a folder, remembers what
# was started. Nothing here is for production.
set -euo pipefail

STATE=${CALGRID_ENGINE_STATE:-/var/tmp/calgrid-docker}
BASE_IMAGE=${BASE_IMAGE:-calgrid-base:test}
RELEASE=bookworm  # of the base image; its Python is 3.11

tell() { echo "docker.sh: $*" >&2; }
fail() { tell "$@"; exit 1; }

apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 "$@" >/dev/null; }

mirror() {  # where this machine's own packages come from
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' |
        awk '$3 == "main" && $2 !~ /-/ { print $1; exit }'
}

running() {  # a killed daemon that nobody has waited for is not
    local state
    state=$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null) && [ "$state" != Z ]
}

install_engine() {
    # The release after bookworm has the first docker.io with BuildKit; it needs no newer libc.
    # Its index is read into a folder of its own, so that this machine's sources stay as they are.
    local own
    own=$(mktemp -d)
    mkdir -p "$own"/lists/partial "$own"/archives/partial "$own"/packages
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) trixie main" \
        >"$own/sources.list"
    local there=(-o "Dir::Etc::SourceList=$own/sources.list" -o Dir::Etc::SourceParts=-
        -o "Dir::State::Lists=$own/lists" -o "Dir::Cache::Archives=$own/archives"
        -o APT::Sandbox::User=root)
    apt update
    if apt "${there[@]}" update &&
        (cd "$own/packages" && apt "${there[@]}" download docker.io docker-cli docker-buildx); then
        apt install --yes --no-install-recommends iptables "$own"/packages/*.deb
    else
        tell "trixie cannot be had; taking this release's engine, which has no BuildKit client"
        apt install --yes --no-install-recommends iptables docker.io
    fi
    rm -r "$own"
}

up() {
    if docker info >/dev/null 2>&1; then
        tell "an engine is running already"
        return
    fi
    [ "$(id -u)" = 0 ] || fail "starting an engine needs root"
    command -v dockerd >/dev/null || { tell "installing the engine"; install_engine; }
    mkdir -p "$STATE"
    if [ -f /run/docker.pid ] && ! running "$(cat /run/docker.pid)"; then rm /run/docker.pid; fi
    # packets of a container must fit through this machine's way out
    local device mtu=1500
    device=$(ip route show default | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1)
    if [ -n "$device" ]; then mtu=$(cat "/sys/class/net/$device/mtu"); fi
    setsid dockerd --mtu "$mtu" >"$STATE/log" 2>&1 </dev/null &
    echo $! >"$STATE/pid"
    for _ in $(seq 150); do
        if docker info >/dev/null 2>&1; then
            tell "started, $(docker info --format '{{.ServerVersion}} with {{.Driver}}')"
            return
        fi
        running "$(cat "$STATE/pid")" || break
        sleep 0.2
    done
    tail -n 20 "$STATE/log" >&2
    fail "the engine does not start"
}

down() {
    [ -f "$STATE/pid" ] || return 0
    local pid
    pid=$(cat "$STATE/pid")
    if running "$pid" && grep -q dockerd "/proc/$pid/cmdline"; then
        kill "$pid"
        for _ in $(seq 300); do
            running "$pid" || break
            sleep 0.1
        done
        running "$pid" && fail "the engine $pid does not stop"
    fi
    rm -f "$STATE/pid"
    tell "stopped"
}

# Looks like the official slim images: `python` and `pip` in /usr/local, packages in its
# site-packages. It trusts the certificates that this machine's administrator added, so that pip
# works inside as it does here: an image for this machine only.
base_image() {
    docker image inspect "$BASE_IMAGE" >/dev/null 2>&1 && return
    local root packages=ca-certificates,netbase,tzdata,python3,python3-distutils,python3-venv
    command -v mmdebstrap >/dev/null || { apt update; apt install --yes mmdebstrap; }
    tell "making $BASE_IMAGE"
    root=$(mktemp -d /var/tmp/calgrid-root.XXXXXX)
    # shellcheck disable=SC2064
    trap "rm -rf --one-file-system '$root'" EXIT
    mmdebstrap --quiet --variant=minbase --include="$packages,usr-is-merged" \
        --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr "$RELEASE" "$root" "$(mirror)"
    for certificate in /usr/local/share/ca-certificates/*.crt; do
        [ -e "$certificate" ] && cp "$certificate" "$root/usr/local/share/ca-certificates/"
    done
    chroot "$root" update-ca-certificates >/dev/null 2>&1
    chroot "$root" python3 -m venv /usr/local
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/usr/share/{man,doc,locale}/*
    tar --directory "$root" --numeric-owner --exclude='./dev/*' --create . | docker import \
        --change 'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8' \
        --change 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt' - "$BASE_IMAGE" >/dev/null
}

case ${1:-} in
up) up ;;
down) down ;;
base-image) base_image ;;
*) fail "say: up, base-image or down" ;;
esac
