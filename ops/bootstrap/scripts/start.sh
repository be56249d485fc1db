# start.sh SUPERVISOR HANDLE LOG USER LEVELS LOCK DATA COMMAND…
# HANDLE is a unit, or the file for the process id; DATA is its data folder, or `-`.
supervisor=$1 handle=$2 log=$3 user=$4 levels=$5 lock=$6 data=$7
shift 7
[ -x "$1" ] || fail "$1 is missing: run \`tierkv-ops install\` first"
# It is not made here: an empty folder in the place of a disk that is not mounted looks like a loss.
[ "$data" = - ] || [ -d "$data" ] ||
    fail "$data is missing: mount its disk; if that is lost or new, run \`tierkv-ops install\`"
# The process runs the build of now, also when another one is installed later.
program=$(readlink --canonicalize-existing "$1")
shift
set -- "$program" "$@"
if pid=$(running "$supervisor" "$handle"); then
    echo "unchanged: runs already, pid $pid"
    exit
fi
if [ "$supervisor" = systemd ]; then
    systemctl reset-failed "$handle" 2>/dev/null || true
    systemctl start --no-block "$handle"
    echo "changed: started"
    exit
fi
# It is gone after a boot of the machine.
(umask 022 && mkdir --parents "${handle%/*}")
# One start at a time; the process itself does not keep the lock.
exec 9>"$lock"
flock --wait 60 9 || fail "another start holds $lock for a minute now"
if pid=$(living "$handle"); then
    echo "unchanged: runs already, pid $pid"
    exit
fi
if [ "$user" != "$(id -un)" ]; then
    set -- setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups --no-new-privs -- "$@"
fi
cd /
umask 077
# A session of its own: no signal of this terminal reaches it.
env --ignore-environment "PATH=$PATH" "TIERKV_LOG=$levels" setsid "$@" \
    </dev/null >>"$log" 2>&1 9>&- &
pid=$!
disown "$pid"
found=$(look_at "$pid") || fail "it ended at once; the end of $log: $(last_words none - "$log")"
umask 022
echo "$pid ${found#* } $(</proc/sys/kernel/random/boot_id)" >"$handle.new"
mv --force "$handle.new" "$handle"
echo "changed: started, pid $pid"
