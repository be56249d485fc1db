# Read before every script of this folder; all of them run on the host, by bash.
# The last line that a script prints says what it did.
set -euo pipefail
export PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
export LC_ALL=C

# How often a state is asked for while it is waited for.
readonly PAUSE=0.1

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# Prints the state and the start of a process: `Z 123`, with the start in ticks since the boot.
# Fails if there is none. The command's name, in parentheses, may have spaces and parentheses.
look_at() {
    local text fields
    { text=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
    text=${text##*) }
    read -r -a fields <<<"$text"
    printf '%s %s\n' "${fields[0]}" "${fields[19]}"
}

# Prints the process id of a file if the process that wrote it is alive. The start and the boot in
# the file tell that process from a later one with its id; a zombie has ended.
living() {
    local pid start boot found
    [ -f "$1" ] || return 1
    read -r pid start boot <"$1" || return 1
    [ "$boot" = "$(</proc/sys/kernel/random/boot_id)" ] || return 1
    found=$(look_at "$pid") || return 1
    [ "${found% *}" != Z ] && [ "${found#* }" = "$start" ] || return 1
    printf '%s\n' "$pid"
}

# Prints the process id of a process by its supervisor; fails if it does not run.
running() {
    local supervisor=$1 handle=$2 pid
    if [ "$supervisor" = none ]; then
        living "$handle"
        return
    fi
    pid=$(systemctl show --property MainPID --value "$handle")
    [ "$pid" != 0 ] || return 1
    printf '%s\n' "$pid"
}

# Whether a health check answers with the status 200.
is_ready() {
    local answer
    # shellcheck disable=SC2016 # The inner shell expands these.
    answer=$(timeout 3 bash -c '
        exec 3<>"/dev/tcp/$0/$1" || exit 1
        printf "GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n" "$2" >&3
        head -n 1 <&3' "$@" </dev/null 2>/dev/null) || return 1
    [[ $answer == HTTP/1.?" 200"* ]]
}

# The end of a process's output.
last_words() {
    if [ "$1" = none ]; then
        tail -n 8 "$3" 2>/dev/null || true
    else
        journalctl --unit "$2" --lines 8 --no-pager --output cat 2>/dev/null || true
    fi
}
