#!/bin/sh
# Install the servers that the integration tests speak to, where that is possible; say what is left out where not.
# The tests start copies of their own on loopback: the packages' services are neither started nor enabled.
set -u

has_rabbitmq() { command -v rabbitmq-server >/dev/null || [ -x /usr/sbin/rabbitmq-server ]; }
has_postgresql() { ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null; }
has_prometheus() { command -v prometheus >/dev/null && command -v promtool >/dev/null; }

missing() {
    has_rabbitmq || echo rabbitmq-server
    has_postgresql || echo postgresql
    has_prometheus || echo prometheus
}

leave_out() {
    # $*: why. The tests that need a missing server skip themselves, or fail when FEEDBUS_REQUIRE_SERVERS=1.
    echo "left out: the tests that need" $(missing) "($*)"
    [ "${FEEDBUS_REQUIRE_SERVERS:-0}" != 1 ] && exit 0
    echo "error: FEEDBUS_REQUIRE_SERVERS=1 expects every server to be installed" >&2
    exit 1
}

wanted=$(missing)
[ -z "$wanted" ] && exit 0
command -v apt-get >/dev/null || leave_out "not Debian: install them yourself to run these tests"
[ "$(id -u)" = 0 ] || leave_out "not root; to run them:" sudo apt-get install $wanted

log=$(mktemp)
policy=/usr/sbin/policy-rc.d
placed=""
tidy() {
    rm -f "$log"
    [ -z "$placed" ] || rm -f "$policy"
}
trap tidy EXIT
trap 'exit 130' INT TERM

# 101 tells every package that its service must not be started.
if [ ! -e "$policy" ]; then
    placed=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
fi

echo "installing for the tests:" $wanted
export DEBIAN_FRONTEND=noninteractive
apt="apt-get -q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2"
$apt update >"$log" 2>&1 || true # an old list may do; if not, the install says so
# shellcheck disable=SC2086 -- words, wanted as such
$apt install -y --no-install-recommends $wanted >>"$log" 2>&1 || tail -n 5 "$log" >&2

if [ -d /run/systemd/system ]; then
    for unit in $wanted; do
        systemctl disable --quiet --now "$unit" 2>/dev/null || true
    done
fi

[ -z "$(missing)" ] || leave_out "apt-get could not install them"
