# stop.sh SECONDS SUPERVISOR HANDLE: SIGTERM, and SIGKILL to what still runs after so long.
seconds=$1 supervisor=$2 handle=$3
if ! pid=$(running "$supervisor" "$handle"); then
    if [ "$supervisor" = systemd ]; then
        # It may be waiting for its next start after a failure.
        systemctl stop "$handle" 2>/dev/null || true
    else
        rm -f "$handle"
    fi
    echo "unchanged: does not run"
    exit
fi
if [ "$supervisor" = systemd ]; then
    systemctl stop "$handle"
    result=$(systemctl show --property Result --value "$handle")
    [ "$result" != timeout ] || echo "killed after its TimeoutStopSec"
    echo "changed: stopped"
    exit
fi
kill -TERM "$pid"
deadline=$((SECONDS + seconds))
while living "$handle" >/dev/null; do
    if [ "$SECONDS" -ge "$deadline" ]; then
        kill -KILL "$pid"
        while living "$handle" >/dev/null; do sleep "$PAUSE"; done
        rm -f "$handle"
        echo "changed: killed, because it still ran $seconds s after SIGTERM"
        exit
    fi
    sleep "$PAUSE"
done
rm -f "$handle"
echo "changed: stopped"
