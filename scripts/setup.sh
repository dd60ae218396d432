# Sourced by the scripts beside it: gets a machine ready for them. What is there already is not done again.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${MESHLB_VENV:-$PWD/.venv}
export PATH="$VENV/bin:$PATH"

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# command -> Debian package; the lab needs the first lines, the build the others
lab_packages() {
    command -v dockerd >/dev/null || echo docker.io
    command -v docker >/dev/null || { apt-cache show docker-cli >/dev/null 2>&1 && echo docker-cli; }
    command -v iptables >/dev/null || echo iptables
    command -v ip >/dev/null || echo iproute2
    command -v nft >/dev/null || echo nftables
    command -v curl >/dev/null || echo curl
    command -v openssl >/dev/null || echo openssl # the tests' own certificate authority
    grep -qs 'BusyBox' /bin/busybox && ! ldd /bin/busybox >/dev/null 2>&1 || echo busybox-static
}

build_packages() {
    command -v gcc >/dev/null || echo gcc libc6-dev
    command -v strace >/dev/null || echo strace # the tests count system calls with it
    command -v tmux >/dev/null || echo tmux # what a terminal shows they look at in one
    python_is_good python3 || echo python3 python3-venv python3-dev
}

python_is_good() {
    "$1" - 2>/dev/null <<'PY'
import ensurepip, os, sys, sysconfig, venv
sys.exit(not (sys.version_info >= (3, 11) and os.path.exists(sysconfig.get_path("include") + "/Python.h")))
PY
}

# Installs the packages that are missing; refuses, with the line to run, for anyone but root.
ensure_packages() {
    local missing
    missing=$("$@" | tr ' ' '\n' | sort -u | tr '\n' ' ')
    [ -n "${missing// /}" ] || return 0
    command -v apt-get >/dev/null || die "install these with your system's package manager: $missing"
    [ "$(id -u)" = 0 ] || die "run me as root (sudo $0); I would install: $missing"
    say "installing $missing"
    apt-get update -qq
    without_starting env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

# Runs a command that installs packages, and keeps the servers in them from starting: neither a dockerd that is not the
# lab's nor an nginx on port 80 is what was asked for. See invoke-rc.d(8).
without_starting() (
    policy=/usr/sbin/policy-rc.d
    [ ! -e $policy ] || exec "$@"
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    "$@"
)

# What the page is looked at with. Ubuntu has it as a snap alone: there the page's tests are skipped.
page_packages() {
    command -v chromium >/dev/null || [ -z "$(apt-cache policy chromium 2>/dev/null)" ] || echo chromium
}

# axe-core, beside Python's programs.
ensure_axe() {
    local place="$VENV/share/axe-core" folder
    [ ! -e "$place/axe.min.js" ] || return 0
    command -v npm >/dev/null || { say "no npm: the tests with axe-core are skipped"; return 0; }
    say "fetching axe-core"
    folder=$(mktemp -d)
    (cd "$folder" && npm pack --silent axe-core@4.10.3 && tar xzf axe-core-*.tgz) >"$folder/log" 2>&1 \
        || { cat "$folder/log" >&2; die "cannot fetch axe-core"; }
    mkdir -p "$place"
    mv "$folder"/package/axe.min.js "$folder"/package/LICENSE "$place/"
    rm -r "$folder"
}

# Prometheus and promtool, unpacked beside Python's programs: its package would start a server on this machine.
ensure_prometheus() {
    command -v promtool >/dev/null && command -v prometheus >/dev/null && return 0
    command -v apt-get >/dev/null || { say "no promtool: install Prometheus for the tests that need it"; return 0; }
    say "fetching prometheus"
    local folder
    folder=$(mktemp -d)
    (cd "$folder" && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } \
        && dpkg-deb -x prometheus_*.deb .) 2>"$folder/log" || { cat "$folder/log" >&2; die "cannot fetch prometheus"; }
    mv "$folder"/usr/bin/prom* "$VENV/bin/"
    rm -r "$folder"
}

# The virtual environment with meshlb built in place, made again only when what it is made from has changed.
ensure_venv() {
    local extras=$1 python=python3 stamp="$VENV/.meshlb-$1" now
    python_is_good "$python" || python=/usr/bin/python3
    now=$(cat pyproject.toml setup.py meshlb/_*.p[xy][dx] | sha256sum)
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$now" ] && "$VENV/bin/python" -c 'import meshlb._fastpath' && return 0
    say "building meshlb in $VENV"
    [ -x "$VENV/bin/pip" ] || "$python" -m venv "$VENV"
    "$VENV/bin/pip" install --quiet --disable-pip-version-check --editable ".[$extras]"
    echo "$now" > "$stamp"
}

# All that the tests need. The lab's are skipped, with the reason, where no Swarm can run; elsewhere they must.
ensure_tests() {
    ensure_packages lab_packages
    ensure_packages build_packages
    ensure_packages page_packages
    ensure_venv test,check
    ensure_prometheus
    ensure_axe
    export MESHLB_PICTURES=${MESHLB_PICTURES:-$PWD/build/pictures} # of the page, for people
    if command -v chromium >/dev/null && [ -e "$VENV/share/axe-core/axe.min.js" ]; then
        export MESHLB_REQUIRE_PAGE=1
    fi
    local reason
    reason=$(lab_why_not)
    if [ -n "$reason" ]; then
        say "the tests on a real Swarm are skipped: $reason"
    else
        export MESHLB_REQUIRE_LAB=1
    fi
}

need_root() {
    [ "$(id -u)" = 0 ] || die "needs root: $1. Run it as: sudo $0"
}

# Why no Swarm can run on this machine; empty when it can.
lab_why_not() {
    "$VENV/bin/python" -c 'from meshlb.lab import why_not; print(why_not())'
}
