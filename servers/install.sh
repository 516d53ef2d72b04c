#!/bin/sh
# usage: install.sh [all]
# Install the servers that the integration tests speak to, where that is possible; say what is left out where not.
# The tests start copies of their own on loopback: the packages' services are neither started nor enabled.
#
# The distribution's own packages are installed. Newer versions of RabbitMQ and PostgreSQL, from Debian's other suites,
# are unpacked beside them (see unpack.sh): the newest RabbitMQ and PostgreSQL 17; with `all` also RabbitMQ of trixie.
set -u

here=$(dirname "$0")
left_out=""

leave_out() {
    # $1: what, $2: why. The tests that need it skip themselves, or fail when FEEDBUS_REQUIRE_SERVERS=1.
    left_out="$left_out $1"
    echo "left out: the tests that need $1 ($2)"
}

# 1. The distribution's own packages.

has_rabbitmq() { command -v rabbitmq-server >/dev/null || [ -x /usr/sbin/rabbitmq-server ]; }
has_postgresql() { ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null; }
has_pgbouncer() { command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ]; }
has_systemd() { command -v systemd-analyze >/dev/null; } # it checks units; nothing is started by it
has_prometheus() { command -v prometheus >/dev/null && command -v promtool >/dev/null; }

missing() {
    has_rabbitmq || echo rabbitmq-server
    has_postgresql || echo postgresql
    has_prometheus || echo prometheus
    command -v openssl >/dev/null || echo openssl
    has_pgbouncer || echo pgbouncer
    has_systemd || echo systemd
}

log=$(mktemp)
policy=/usr/sbin/policy-rc.d
placed=""
tidy() {
    rm -f "$log"
    [ -z "$placed" ] || rm -f "$policy"
}
trap tidy EXIT
trap 'exit 130' INT TERM

install_packages() {
    # 101 informs every package that its service must not be started.
    if [ ! -e "$policy" ]; then
        placed=yes
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
    fi
    echo "installing for the tests:" $1
    export DEBIAN_FRONTEND=noninteractive
    apt="apt-get -q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2"
    $apt update >"$log" 2>&1 || true # an old list may do; if not, the install says so
    # shellcheck disable=SC2086 -- words, wanted as such
    $apt install -y --no-install-recommends $1 >>"$log" 2>&1 || tail -n 5 "$log" >&2
    if [ -d /run/systemd/system ]; then
        for unit in $1; do
            systemctl disable --quiet --now "$unit" 2>/dev/null || true
        done
    fi
}

wanted=$(missing)
if [ -n "$wanted" ]; then
    if ! command -v apt-get >/dev/null; then
        leave_out "$(echo $wanted)" "not Debian: install them yourself to run these tests"
    elif [ "$(id -u)" != 0 ]; then
        leave_out "$(echo $wanted)" "not root; to run them: sudo apt-get install $(echo $wanted)"
    else
        install_packages "$wanted"
        [ -z "$(missing)" ] || leave_out "$(echo $(missing))" "apt-get could not install them"
    fi
fi

# 2. Newer versions beside them. servers/versions.py looks in the same folders.

shared=/var/cache/feedbus-test-servers
own=${XDG_CACHE_HOME:-$HOME/.cache}/feedbus-test-servers

unpacked() {
    # $1: the package, $2: the suite
    for folder in "$shared" "$own"; do
        [ ! -d "$folder/$1-$2" ] || return 0
    done
    what="$1 of Debian $2"
    if ! grep -qs '^ID=debian$' /etc/os-release; then
        leave_out "$what" "not Debian"
        return
    fi
    folder=$own
    [ "$(id -u)" != 0 ] || folder=$shared # PostgreSQL does not run as root, and must be able to read it
    echo "unpacking for the tests: $what"
    sh "$here/unpack.sh" "$folder" "$2" "$1" 2>"$log" || leave_out "$what" "$(head -n 1 "$log")"
}

unpacked rabbitmq-server sid
unpacked postgresql-17 trixie
[ "${1:-}" != all ] || unpacked rabbitmq-server trixie

if [ -n "$left_out" ] && [ "${FEEDBUS_REQUIRE_SERVERS:-0}" = 1 ]; then
    echo "error: FEEDBUS_REQUIRE_SERVERS=1 expects every server to be installed" >&2
    exit 1
fi
