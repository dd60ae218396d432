# Sourced by the scripts beside it, after scripts/setup.sh: an armhf root with meshlb built in it. What is there is not made again.

ROOT=$PWD/build/armhf
PLUGIN=$PWD/build/count.so
HERE=benchmarks/armv7
PACKAGES=python3,python3-dev,gcc,libc6-dev,haproxy,nginx-light,libnginx-mod-stream,iproute2,strace
EMULATED="agent_static as_direct balance changes check command datagrams few_descriptors health hold hurried limits listen
    many_backends policies properties queue refusals release socket_options statistics streams"
MIRROR=${MESHLB_MIRROR:-http://deb.debian.org/debian}
# Not uvloop, which has no wheel for 32-bit ARM; all others have one, or are pure.
WHEELS=(aiohttp click docker prometheus-client pytest pytest-benchmark pytest-timeout hypothesis Cython==3.3.1 setuptools)

armv7_packages() {
    command -v mmdebstrap >/dev/null || echo mmdebstrap
    command -v arch-test >/dev/null || echo arch-test
    command -v qemu-arm >/dev/null || echo qemu-user     # linked dynamically: only that one loads plugins
    command -v qemu-arm-static >/dev/null || echo qemu-user-static
    command -v gcc >/dev/null || echo gcc libc6-dev
}

make_ready() {
    need_root "it makes a Debian root with mmdebstrap and has the kernel run ARM programs by qemu"
    ensure_packages armv7_packages
    ensure_venv test,check
    register_arm
    make_root
    build_extension
    [ "$PLUGIN" -nt $HERE/count.c ] || gcc -O2 -Wall -Wextra -shared -fPIC -o "$PLUGIN" $HERE/count.c
}

# The package registers qemu where systemd runs; elsewhere we do.
register_arm() {
    local formats=/proc/sys/fs/binfmt_misc
    [ -e $formats/register ] || mount -t binfmt_misc binfmt_misc $formats \
        || die "cannot mount binfmt_misc: this kernel runs no programs of other machines"
    [ -e $formats/qemu-arm ] || cat < /usr/lib/binfmt.d/qemu-arm.conf > $formats/register
    [ "$(head -n 1 $formats/qemu-arm)" = enabled ] || die "binfmt_misc has qemu-arm disabled: echo 1 > $formats/qemu-arm"
}

make_root() {
    local stamp="$ROOT.made" now="$PACKAGES ${WHEELS[*]}"
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$now" ] && return 0
    say "making a Debian 12 armhf root in $ROOT (three minutes)"
    mkdir -p build
    rm -rf --one-file-system "$ROOT" "$stamp"
    mmdebstrap --quiet --mode=root --variant=minbase --architectures=armhf --include=$PACKAGES \
        --aptopt='Acquire::Check-Valid-Until "false"' bookworm "$ROOT" "$MIRROR"
    "$VENV/bin/pip" install --quiet --disable-pip-version-check --target "$ROOT/opt/site" --only-binary=:all: \
        --platform manylinux_2_31_armv7l --platform manylinux_2_17_armv7l --platform manylinux2014_armv7l \
        --python-version 3.11 --implementation cp "${WHEELS[@]}"
    echo "$now" > "$stamp"
}

# in_root COMMAND...: in the root, with /proc and /dev of this machine, in a mount namespace that ends with the command
in_root() {
    unshare --mount sh -euc 'root=$1; shift
        mount --bind /proc "$root/proc"
        mount --rbind /dev "$root/dev"
        cd "$root/opt/meshlb"
        exec chroot "$root" /usr/bin/env --chdir=/opt/meshlb PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C.UTF-8 \
            PYTHONPATH=/opt/meshlb:/opt/site PYTHONDONTWRITEBYTECODE=1 "$@"' sh "$ROOT" "$@"
}

# The source as it is in the work tree, built in the root by the root's own compiler.
build_extension() {
    local there="$ROOT/opt/meshlb" stamp="$ROOT.built" now
    mkdir -p "$there"
    git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- --ignore-failed-read -cf - 2>/dev/null \
        | tar -xf - -C "$there"
    now=$(cat setup.py meshlb/_*.p[xy][dx] | sha256sum)
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$now" ] && [ "$stamp" -nt "$ROOT.made" ] && return 0
    say "building the extension in the root (two minutes)"
    in_root python3 setup.py --quiet build_ext --inplace --parallel 2
    echo "$now" > "$stamp"
}

# Without arguments: those of the plane's tests that user-mode emulation can run; README.md says which cannot, and why.
run_tests() {
    local name
    say "the plane's tests on armv7"
    [ $# != 0 ] || for name in $EMULATED; do set -- "$@" "tests/plane/test_$name.py"; done
    in_root python3 -m pytest -q -p no:cacheprovider --timeout=300 "$@"
}

count() {
    say "counting on armv7"
    "$VENV/bin/python" $HERE/count.py "$ROOT" "$PLUGIN" $HERE/results.json
}
