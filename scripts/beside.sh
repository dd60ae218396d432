# Sourced by the scripts that run parts beside each other: `beside NAME COMMAND ...` for each, then `finish`. Every line
# of a part bears its name, so that `grep '^lab '` shows one of them alone.

declare -A PART_OF=() # by process id
TOLD=$(mktemp -d) # what each part has printed
TOLD_AGAIN=100    # lines of a part that has failed; the others' hide them
INTERRUPTED=""

# Starts a part, as the leader of a process group: an interrupt reaches all of it, and only once. We may have been
# started with SIGINT ignored; a part is not.
beside() {
    local name=$1
    shift
    [ -z "$INTERRUPTED" ] || return 0
    say "$name: $*"
    set -m
    {
        trap '' INT TERM HUP # what follows the part's end is told, however that came about
        code=0
        env --default-signal=INT,TERM,HUP "$@" 2>&1 </dev/null | sed -u "s/^/$name | /" | tee "$TOLD/$name" || code=$?
        say "$name: $([ $code = 0 ] && echo passed || echo "FAILED with exit status $code"), after $SECONDS s"
        exit $code
    } &
    set +m
    PART_OF[$!]=$name
    [ -z "$INTERRUPTED" ] || missed $!
}

# An interrupt that came while the part began, which hears none before its command runs.
missed() {
    sleep 1
    kill -INT -- "-$1" 2>/dev/null || true
}

# The tests, but for those that measure. The ones on a real Swarm wait more than they compute: the rest takes what they
# leave of the processors.
beside_tests() {
    beside mesh "$VENV/bin/python" -m pytest tests/lab -m "agents and not alone"
    beside lab "$VENV/bin/python" -m pytest tests/lab -m "not agents and not alone"
    beside rest nice -n 5 "$VENV/bin/python" -m pytest --ignore tests/lab -m "not alone"
}

# Waits for all parts, and fails when one of them has.
finish() {
    local pid failed=""
    for pid in "${!PART_OF[@]}"; do
        ended_well "$pid" || failed+=" ${PART_OF[$pid]}"
    done
    PART_OF=()
    [ -n "$INTERRUPTED" ] || tell_again $failed
    rm -rf "$TOLD"
    [ -z "$INTERRUPTED" ] || exit 130
    [ -z "$failed" ] || die "FAILED:$failed"
}

tell_again() {
    local name
    for name in "$@"; do
        say "$name: its last $TOLD_AGAIN lines again"
        tail -n "$TOLD_AGAIN" "$TOLD/$name"
    done
}

# A signal ends `wait`, but not the part: that takes its lab down.
ended_well() {
    local code=0
    wait "$1" || code=$?
    while kill -0 "$1" 2>/dev/null; do
        code=0
        wait "$1" || code=$?
    done
    return $code
}

# SIGINT whatever has come: it is what pytest takes a lab down for.
interrupt() {
    INTERRUPTED=1
    local pid
    for pid in "${!PART_OF[@]}"; do kill -INT -- "-$pid" 2>/dev/null || true; done
}
trap interrupt INT TERM HUP
