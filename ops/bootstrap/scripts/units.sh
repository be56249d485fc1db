# units.sh CHANGED(yes|no) UNIT…: systemd reads changed units, and starts them at each boot.
is_changed=$1
shift
if [ "$is_changed" = yes ]; then
    systemctl daemon-reload
fi
for unit in "$@"; do
    if ! systemctl is-enabled --quiet "$unit"; then
        systemctl enable --quiet "$unit"
        echo "changed: $unit starts at each boot"
    fi
done
