#!/bin/sh
# usage: unpack.sh FOLDER SUITE PACKAGE
# Unpack PACKAGE of another Debian suite, with the libraries that it needs, into FOLDER/PACKAGE-SUITE.
#
# Nothing is installed. The programs are rewritten to use their own suite's C library, so that they run beside this
# machine's. Root is not needed. What is there already is kept: remove the folder to get a newer version.
set -eu
umask 022

folder=$1 suite=$2 package=$3
target=$folder/$package-$suite
part=$target.part

# The mirror that this machine already uses for Debian itself.
mirror() { apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' | sed -n 's/^Debian|//p' | head -n 1; }

mkdir -p "$folder"
exec 9>"$folder/lock"
flock 9 # one at a time; who waited finds the other's result
[ ! -d "$target" ] || exit 0

from=$(mirror)
if [ -z "$from" ] && [ "$(id -u)" = 0 ]; then # the lists have not been fetched yet
    apt-get -q update >/dev/null
    from=$(mirror)
fi
[ -n "$from" ] || { echo "apt knows no mirror of Debian" >&2; exit 1; }

rm -rf "$part"
trap 'rm -rf "$part"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$part/.apt/lists/partial" "$part/.apt/archives/partial"
: >"$part/.apt/status" # as if nothing were installed: every library is fetched
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $from $suite main" >"$part/.apt/list"
apt() {
    apt-get -q -o Acquire::Retries=2 -o APT::Sandbox::User=root -o APT::Install-Recommends=false \
        -o Dir::State="$part/.apt" -o Dir::State::lists="$part/.apt/lists" -o Dir::State::status="$part/.apt/status" \
        -o Dir::Cache="$part/.apt" -o Dir::Etc::sourcelist="$part/.apt/list" -o Dir::Etc::sourceparts=- "$@"
}
apt update >/dev/null
# The libraries and the server: what belongs to a whole system (a shell, PAM, Perl, a compiler for queries) is left.
names=$(apt -s install "$package" patchelf | sed -n 's/^Inst \([^ :]*\).*/\1/p' |
    grep -E "^($package|postgresql-client-[0-9]+|patchelf|erlang-.*|zlib1g|lib.*)\$" | grep -Ev '^lib(llvm|perl|z3|pam-|c-l10n|c-bin)')
# shellcheck disable=SC2086 -- names, wanted as such
(cd "$part/.apt/archives" && apt download $names >/dev/null)
for each in "$part"/.apt/archives/*.deb; do
    dpkg-deb -x "$each" "$part"
done
rm -rf "$part/.apt"

libraries=$(dirname "$part"/usr/lib/*/libc.so.6)
own=$target/${libraries#"$part/"} # where they will be
loader=$(basename "$libraries"/ld-linux*.so.*)
patchelf() { "$libraries/$loader" --library-path "$libraries" "$part/usr/bin/patchelf" "$@"; }
find "$part/usr/lib" -type f -perm -100 \( -path '*/erlang/*' -o -path '*/postgresql/*' \) | while read -r each; do
    if patchelf --print-interpreter "$each" >/dev/null 2>&1; then
        # An rpath of the program itself also counts for the libraries that it loads later.
        patchelf --force-rpath --set-rpath "$own" --set-interpreter "$own/$loader" "$each"
    else # a script, or no program
        sed -i "s|ROOTDIR=/usr/lib/erlang|ROOTDIR=$target/usr/lib/erlang|" "$each"
    fi
done
mv "$part" "$target"
