# await.sh SECONDS LIMIT SUPERVISOR HANDLE LOG ADDRESS PORT PATH: waits until a process is ready, for
# so many seconds: what is left of the LIMIT since it was started.
seconds=$1 limit=$2 supervisor=$3 handle=$4 log=$5
shift 5

# After so many failures, systemd starts it in vain.
readonly MOST_FAILURES=3

# Fails with the end of the process's output.
give_up() {
    fail "$1; the end of its output:
$(last_words "$supervisor" "$handle" "$log")"
}

# Ends the wait if the process has failed.
check() {
    local failures
    if [ "$supervisor" = none ]; then
        living "$handle" >/dev/null || give_up "it ended"
        return
    fi
    failures=$(systemctl show --property NRestarts --value "$handle")
    if [ "$failures" -ge "$MOST_FAILURES" ]; then
        give_up "it failed $failures times"
    fi
}

deadline=$((SECONDS + seconds))
until is_ready "$@"; do
    check
    [ "$SECONDS" -lt "$deadline" ] || give_up "it is not ready after $limit s"
    sleep "$PAUSE"
done
