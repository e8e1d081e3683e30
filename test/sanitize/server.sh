#!/bin/bash
# server.sh: a PostgreSQL with assertions, which Debian has not, made of Debian's
# source; prints the name of its pg_config. Called by test/run for SANITIZE=assert.
#
# It is in .work/assert, and made once for each major version: that of $PG_CONFIG, or the
# newest one that the machine has, from which it gets pgTAP too. It can do no more
# than the tests need: no readline, no compression, no ICU, no TLS.
set -euo pipefail
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
die() { echo "server.sh: $*" >&2; exit 1; }

config=${PG_CONFIG:-$(ls /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -t/ -k5,5n | tail -n 1)}
[ -n "$config" ] || die "there is no PostgreSQL here; set PG_CONFIG"
major=$("$config" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
dir=$PWD/.work/assert/$major
if [ -f "$dir/.made" ]; then
	echo "$dir/usr/bin/pg_config"
	exit
fi

# get_source: the original source, by an apt with a state of its own
get_source() {
	local mirror suite
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' 'Component: main' | sed -n 1p)
	suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
	[ -n "$mirror" ] || die "apt is set up with no mirror of Debian"
	mkdir -p lists/partial cache/archives/partial
	echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >sources.list
	local apt=(apt-get -q -o Dir::Etc::SourceList="$PWD/sources.list" -o Dir::Etc::SourceParts=/dev/null
		-o Dir::State::Lists="$PWD/lists" -o Dir::Cache="$PWD/cache" -o APT::Sandbox::User=root
		-o Acquire::Check-Valid-Until=false -o Acquire::Languages=none)
	"${apt[@]}" update && "${apt[@]}" source --download-only "postgresql-$major"
	mkdir source
	tar -x -f postgresql-*.orig.tar.* -C source --strip-components=1
}

build() {
	cd source
	./configure --prefix="$dir/usr" --enable-cassert --enable-debug --enable-tap-tests --without-readline \
		--without-zlib ${without_icu:+--without-icu} CFLAGS=-O1
	make -s -j"$(nproc)"
	make -s install
}

rm -rf "$dir"
mkdir -p "$dir"
cd "$dir"
[ "$major" -lt 16 ] || without_icu=yes
(get_source && build) >log 2>&1 || { tail -n 20 log >&2; die "no server, see $dir/log"; }
cp "$("$config" --sharedir)"/extension/pgtap* usr/share/postgresql/extension/
rm -rf source lists cache postgresql-*
touch .made
echo "$dir/usr/bin/pg_config"
