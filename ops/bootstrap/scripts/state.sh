# state.sh: the processes of a host, a line each on standard input:
#   NAME SUPERVISOR HANDLE CONFIGURATION PROGRAM ADDRESS PORT PATH
# Prints a line each: NAME STATE PID SECONDS READY OUTDATED, with `-` for what is not known.
# STATE is running, stopped, or systemd's word for another one.
ticks=$(getconf CLK_TCK)

# Whether a file was written after the start of a process.
is_newer() {
    local file=$1 supervisor=$2 handle=$3 start
    if [ "$supervisor" = none ]; then
        [ "$file" -nt "$handle" ]
        return
    fi
    start=$(systemctl show --property ExecMainStartTimestamp --value "$handle")
    [ "$(stat --format %Y "$file" 2>/dev/null || echo 0)" -gt "$(date --date "$start" +%s)" ]
}

while read -r name supervisor handle configuration program address port path; do
    if ! pid=$(running "$supervisor" "$handle") || ! found=$(look_at "$pid"); then
        state=stopped
        if [ "$supervisor" = systemd ]; then
            state=$(systemctl show --property ActiveState --value "$handle")
            if [ "$state" = inactive ]; then state=stopped; fi
        fi
        echo "$name $state - - no -"
        continue
    fi
    read -r up _ </proc/uptime
    age=$((${up%.*} - ${found#* } / ticks))
    ready=no
    if is_ready "$address" "$port" "$path"; then ready=yes; fi
    # Another build is installed, or the configuration changed after the start.
    outdated=no
    if [ "$(readlink "/proc/$pid/exe")" != "$(readlink --canonicalize "$program")" ] ||
        is_newer "$configuration" "$supervisor" "$handle"; then
        outdated=yes
    fi
    echo "$name running $pid $age $ready $outdated"
done
