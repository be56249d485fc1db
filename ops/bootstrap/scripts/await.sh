# await.sh SECONDS SUPERVISOR HANDLE LOG ADDRESS PORT PATH: waits until a process is ready.
seconds=$1 supervisor=$2 handle=$3 log=$4
shift 4
deadline=$((SECONDS + seconds))
until is_ready "$@"; do
    if [ "$supervisor" = none ] && ! living "$handle" >/dev/null; then
        fail "it ended; the end of its output:
$(last_words "$supervisor" "$handle" "$log")"
    fi
    if [ "$SECONDS" -ge "$deadline" ]; then
        fail "it is not ready after $seconds s; the end of its output:
$(last_words "$supervisor" "$handle" "$log")"
    fi
    sleep "$PAUSE"
done
