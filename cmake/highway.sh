#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# highway.sh PREFIX: puts Highway >= 1.2 into PREFIX, from the source package of the Debian release
# after this machine's. Called by the launcher where CMake finds no such Highway (Debian 12 has
# 1.0.3: no AVX3_ZEN4 and no AVX3_SPR, so bf16 dots would be emulated).
#
# The source comes through the machine's own apt configuration, mirrors and proxies included, with
# lists and caches of its own: nothing outside PREFIX's folder is written.
set -eu

prefix=$1
suite=trixie
work=$prefix.work

rm -rf "$work"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/sources" "$work/src"

# The machine's Debian archive, as sources of $suite: from the first deb822 file or the first .list
# line whose suite is a release of Debian, leaving out security and updates.
deb822() {
  awk '
    function flush() {
      if (uris != "" && uris !~ /security/ && suites ~ release && types ~ /deb/) {
        print "Types: deb-src\nURIs: " uris "\nSuites: " suite "\nComponents: main"
        if (signed != "") print "Signed-By: " signed
        done = 1
      }
      types = uris = suites = signed = ""
    }
    done { exit }
    /^#/ { next }
    /^[ \t]*$/ { flush(); next }
    tolower($1) == "types:" { types = $0 }
    tolower($1) == "uris:" { uris = $2 }
    tolower($1) == "suites:" { suites = $0 }
    tolower($1) == "signed-by:" { signed = $2 }
    END { if (!done) flush() }
  ' suite="$suite" release="$release" "$1"
}
one_line() {
  awk '
    $1 != "deb" { next }
    /security/ { next }
    {
      options = ""; at = 2
      if ($2 ~ /^\[/) {
        while (at <= NF && $at !~ /\]$/) options = options $(at++) " "
        options = options $(at++) " "
      }
      if ($(at + 1) !~ release) next
      signed = options
      if (sub(/.*signed-by=/, "", signed)) sub(/[\] ].*/, "", signed); else signed = ""
      print "Types: deb-src\nURIs: " $at "\nSuites: " suite "\nComponents: main"
      if (signed != "") print "Signed-By: " signed
      exit
    }
  ' suite="$suite" release="$release" "$1"
}

release='(buster|bullseye|bookworm|trixie|forky|sid|stable|testing|unstable)'
found=$work/sources/debian.sources
: >"$found"
for file in "${ATTNBENCH_APT_ETC:-/etc/apt}"/sources.list.d/*.sources; do
  [ -s "$found" ] || { [ -r "$file" ] && deb822 "$file" >"$found"; } || :
done
for file in "${ATTNBENCH_APT_ETC:-/etc/apt}"/sources.list \
            "${ATTNBENCH_APT_ETC:-/etc/apt}"/sources.list.d/*.list; do
  [ -s "$found" ] || { [ -r "$file" ] && one_line "$file" >"$found"; } || :
done
if [ ! -s "$found" ]; then
  echo "highway.sh: apt on this machine knows no Debian archive to take Highway's source from" >&2
  exit 3
fi
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
grep -q '^Signed-By:' "$found" || [ ! -r $keyring ] || echo "Signed-By: $keyring" >>"$found"
if [ "${2:-}" = --sources-only ]; then  # for the tests
  cat "$found"
  rm -rf "$work"
  exit 0
fi

apt() {
  apt-get -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$work/sources" \
          -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" \
          -o APT::Sandbox::User="$(id -un)" "$@"
}
apt -qq update
(cd "$work/src" && apt -qq source --download-only highway)
cd "$work/src"
tar xf highway_*.orig.tar.*
cmake -S highway-*/ -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DHWY_ENABLE_CONTRIB=OFF -DHWY_ENABLE_TESTS=OFF -DHWY_ENABLE_EXAMPLES=OFF \
  -DBUILD_SHARED_LIBS=OFF -DCMAKE_POSITION_INDEPENDENT_CODE=ON \
  -DCMAKE_INSTALL_PREFIX="$work/installed" -DCMAKE_INSTALL_LIBDIR=lib
cmake --build "$work/build"
cmake --install "$work/build"
# Only a whole prefix ever stands under its own name.
rm -rf "$prefix"
mv "$work/installed" "$prefix"
cd / && rm -rf "$work"
