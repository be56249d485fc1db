# prepare.sh USER SUPERVISOR ETCD(yes|no): what must be there before files are placed.
user=$1 supervisor=$2 etcd=$3

for program in base64 flock id install mktemp setsid sha256sum timeout; do
    command -v "$program" >/dev/null || fail "$program is missing: is this a Debian?"
done
if [ "$(id -u)" != 0 ]; then
    fail "root is needed to install: run this as root, or let ssh's user use sudo without a password"
fi
if [ "$supervisor" = systemd ] && [ ! -d /run/systemd/system ]; then
    fail "systemd does not run here; set supervisor = \"none\" for this host"
fi
if ! id "$user" >/dev/null 2>&1; then
    useradd --system --user-group --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin "$user" || fail "the user $user can't be created"
    echo "changed: created the user $user"
fi
if [ "$etcd" = no ] || [ -x /usr/bin/etcd ]; then
    exit
fi
command -v apt-get >/dev/null ||
    fail "etcd is missing and apt-get, too: install etcd 3.4 or newer as /usr/bin/etcd"
# Debian's unit would start a member of its own on the standard ports.
policy=/usr/sbin/policy-rc.d
is_ours=no
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    is_ours=yes
fi
{
    apt-get update --quiet=2
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends etcd-server
} >&2 || fail "the Debian package etcd-server can't be installed, see above"
if [ "$is_ours" = yes ]; then
    rm -f "$policy"
fi
if [ -d /run/systemd/system ]; then
    systemctl disable --now --quiet etcd.service || true
fi
echo "changed: installed the Debian package etcd-server"
