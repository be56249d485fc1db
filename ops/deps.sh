#!/bin/sh
# Installs what building, testing or verifying TierKV needs, and only what is missing.
#
#   ops/deps.sh build    a C compiler, protoc with its includes, libclang, curl, python3
#   ops/deps.sh test     the same, the servers that tests and benches start, package lists,
#                        a browser, a library that sets a server's wall clock, and the Python
#                        and Node clients of tests/outside
#   ops/deps.sh verify   the same as build, and cargo-deny
#
# It knows Debian and its children, and works as root or through sudo. The Rust toolchain
# (https://rustup.rs) is yours to install. The servers are never started on their standard
# ports: a policy-rc.d refuses that while packages are set up, and what a machine already
# runs is left alone.
set -eu

CARGO_DENY_VERSION=0.20.2
POLICY=/usr/sbin/policy-rc.d

# etcd-client's build script always runs protoc, and needs the well-known types, which
# Debian ships apart from it (libprotobuf-dev). sqlite-plugin's reads SQLite's header
# through libclang.
BUILD_PACKAGES="build-essential protobuf-compiler libprotobuf-dev libclang-dev curl python3"
TEST_PACKAGES="etcd-server redis-server chromium chromium-driver python3-venv libfaketime"

# Whatever node and npm are on the PATH are taken: Debian's npm conflicts with the nodejs of
# others.
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

# Prints those of the named packages that are missing.
missing_of() {
    for package in "$@"; do
        is_installed "$package" || printf '%s ' "$package"
    done
}

# What was installed for tests only shall not come up at the next boot either.
disable_services() {
    [ -d /run/systemd/system ] || return 0
    for unit in "$@"; do
        as_root systemctl disable --quiet "$unit" 2>/dev/null || true
    done
}

# Whether apt knows the archive's packages; fresh images ship without their lists.
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

# Refuses the start of services while packages are set up. A policy that is there already
# is kept; it must say the same, else a server would come up on its standard port.
place_policy() {
    if [ -e "$POLICY" ]; then
        status=0
        "$POLICY" redis-server start >/dev/null 2>&1 || status=$?
        [ "$status" -eq 101 ] ||
            fail "$POLICY allows services to start; move it away while this runs"
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

# Makes the environments of the clients that tests run, beside what cargo builds. The list
# that one was made of is left in it: another list, another environment.
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

# The lock file has the checksums of all packages, and no script of theirs is run.
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

[ $# -eq 1 ] || fail "say what to prepare for: $0 build | test | verify"
case $1 in
build | test | verify) ;;
*) fail "unknown mode $1: use build, test or verify" ;;
esac

command -v cargo >/dev/null 2>&1 ||
    fail "cargo is not on the PATH: install a Rust toolchain from https://rustup.rs"
command -v dpkg-query >/dev/null 2>&1 ||
    fail "this is no Debian: install yourself: $BUILD_PACKAGES $TEST_PACKAGES"

install_missing "$BUILD_PACKAGES"
case $1 in
test)
    install_missing "$TEST_PACKAGES"
    # The end-to-end tests load the package index that apt keeps.
    has_package_lists || update_lists
    install_outside_clients
    ;;
verify)
    install_cargo_deny
    ;;
esac
say "everything that '$1' needs is there"
