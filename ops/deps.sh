#!/bin/sh
# Installs what building, testing or verifying TierKV needs, and only what is missing.
#
#   ops/deps.sh build    a C compiler, protoc with its includes, libclang, curl, python3
#   ops/deps.sh cluster  the same, and etcd, which "make cluster" starts on free ports
#   ops/deps.sh test     the same, the servers that tests and benches start, package lists,
#                        a browser, a library that sets a server's wall clock, the tool that
#                        cuts their network lines, the one that verifies units, and the Python
#                        and Node clients of tests/outside
#   ops/deps.sh verify   the same as build, and cargo-deny
#
# It supports Debian and its derivatives, and runs as root or through sudo. Install the Rust
# toolchain (https://rustup.rs) yourself. The servers are never started on their standard
# ports: a policy-rc.d prevents that while packages are set up. Services that already run are
# not changed.
set -eu

CARGO_DENY_VERSION=0.20.2
POLICY=/usr/sbin/policy-rc.d

# The build script of etcd-client always runs protoc, and needs the well-known types, which
# are in a separate package (libprotobuf-dev). The one of sqlite-plugin reads SQLite's header
# with libclang.
BUILD_PACKAGES="build-essential protobuf-compiler libprotobuf-dev libclang-dev curl python3"
CLUSTER_PACKAGES="etcd-server"
TEST_PACKAGES="etcd-server redis-server chromium chromium-driver python3-venv libfaketime iproute2 systemd"

# If node and npm are on the PATH, they are used: Debian's npm conflicts with other packages of
# nodejs.
if ! command -v node >/dev/null 2>&1 || ! command -v npm >/dev/null 2>&1; then
    TEST_PACKAGES="$TEST_PACKAGES nodejs npm"
fi

say() {
    printf 'deps: %s\n' "$*"
}

fail() {
    printf 'deps: %s\n' "$*" >&2
    exit 1
}

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        fail "root is needed to install packages: run as root, or install sudo"
    fi
}

is_installed() {
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Prints the missing ones of the named packages.
missing_of() {
    for package in "$@"; do
        is_installed "$package" || printf '%s ' "$package"
    done
}

# Services that were installed for tests must not start at the next boot either.
disable_services() {
    [ -d /run/systemd/system ] || return 0
    for unit in "$@"; do
        as_root systemctl disable --quiet "$unit" 2>/dev/null || true
    done
}

# Whether apt has package lists; fresh images ship without them.
has_package_lists() {
    [ -n "$(apt-cache search --names-only '^redis-server$' 2>/dev/null)" ]
}

our_policy=no

remove_policy() {
    if [ "$our_policy" = yes ]; then
        as_root rm -f "$POLICY"
        our_policy=no
    fi
}

# Prevents the start of services while packages are set up. An existing policy is kept; it
# must do the same, otherwise a server would start on its standard port.
place_policy() {
    if [ -e "$POLICY" ]; then
        status=0
        "$POLICY" redis-server start >/dev/null 2>&1 || status=$?
        [ "$status" -eq 101 ] ||
            fail "$POLICY allows services to start; move it away and try again"
        return
    fi
    trap remove_policy EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    our_policy=yes
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY" >/dev/null
    as_root chmod 755 "$POLICY"
}

update_lists() {
    say "updating the package lists"
    as_root apt-get update --quiet=2
}

install_missing() {
    # Unquoted on purpose: the list is split into package names.
    # shellcheck disable=SC2086
    missing=$(missing_of $1)
    if [ -z "$missing" ]; then
        return
    fi
    say "installing $missing"
    place_policy
    update_lists
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --quiet=2 --no-install-recommends $missing
    remove_policy
    for package in $missing; do
        case $package in
        etcd-server) disable_services etcd.service etcd2.service ;;
        redis-server) disable_services redis-server.service ;;
        esac
    done
}

# Creates the environments of the clients that tests run, in cargo's target folder. Each keeps
# a copy of the list it was made from, and is created again when the list changes.
install_outside_clients() {
    top=$(cd "$(dirname "$0")/.." && pwd)
    install_python_clients "$top/tests/outside/requirements.txt" \
        "${CARGO_TARGET_DIR:-$top/target}/outside-venv"
    install_node_clients "$top/tests/outside/node" \
        "${CARGO_TARGET_DIR:-$top/target}/outside-node"
}

install_python_clients() {
    requirements=$1
    environment=$2
    if cmp -s "$requirements" "$environment/installed.txt"; then
        return
    fi
    say "installing the Python clients of tests/outside"
    mkdir -p "$(dirname "$environment")"
    python3 -m venv --clear "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check \
        --requirement "$requirements"
    cp "$requirements" "$environment/installed.txt"
}

# The lock file has the checksums of all packages; install scripts are disabled.
install_node_clients() {
    lists=$1
    environment=$2
    if cmp -s "$lists/package-lock.json" "$environment/installed.json"; then
        return
    fi
    say "installing the Node clients of tests/outside"
    rm -rf "$environment"
    mkdir -p "$environment"
    cp "$lists/package.json" "$lists/package-lock.json" "$lists/.npmrc" "$environment"
    (cd "$environment" && npm ci --silent)
    cp "$lists/package-lock.json" "$environment/installed.json"
}

install_cargo_deny() {
    if cargo deny --version >/dev/null 2>&1; then
        return
    fi
    say "installing cargo-deny $CARGO_DENY_VERSION (some minutes)"
    cargo install --locked "cargo-deny@$CARGO_DENY_VERSION"
}

[ $# -eq 1 ] || fail "usage: $0 build | cluster | test | verify"
case $1 in
build | cluster | test | verify) ;;
*) fail "unknown mode $1: use build, cluster, test or verify" ;;
esac

command -v cargo >/dev/null 2>&1 ||
    fail "cargo is not on the PATH: install a Rust toolchain from https://rustup.rs"
command -v dpkg-query >/dev/null 2>&1 ||
    fail "dpkg-query not found (not Debian?): install these yourself: $BUILD_PACKAGES $TEST_PACKAGES"

install_missing "$BUILD_PACKAGES"
case $1 in
cluster)
    install_missing "$CLUSTER_PACKAGES"
    ;;
test)
    install_missing "$TEST_PACKAGES"
    # The end-to-end tests load apt's package index.
    has_package_lists || update_lists
    install_outside_clients
    ;;
verify)
    install_cargo_deny
    ;;
esac
say "everything for '$1' is installed"
