#!/bin/bash
# root.sh SUITE MAJOR DIR: makes DIR a root directory (for chroot) with
# PostgreSQL MAJOR and everything else that test/run needs, from the packages of
# Debian's SUITE. If it is there already, and made by this very script, that is all.
#
# apt gets a state of its own below DIR, the mirror and the proxies are those
# that the machine is set up with. Packages are unpacked, not installed: no
# maintainer script runs, and nothing of the machine changes.
set -euo pipefail
umask 022
suite=$1 major=$2 root=$3
self=${BASH_SOURCE[0]}
cmp -s "$self" "$root/.made-by" && exit

die() { echo "root.sh: $*" >&2; exit 1; }

PACKAGES="bash coreutils diffutils findutils gawk grep procps sed tar tzdata util-linux libc-bin
	gcc libc6-dev make perl python3 spin libipc-run-perl postgresql-$major postgresql-$major-pgtap"
# Without its dependencies: clang and LLVM are of no use here.
HEADERS=postgresql-server-dev-$major

# mirror LABEL: that of the machine, if it has one
mirror() {
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Label: $1" 'Component: main' | sed -n 1p
}
[ -n "$(mirror Debian)" ] || apt-get -q update >&2
debian=$(mirror Debian) security=$(mirror Debian-Security)
[ -n "$debian" ] || die "apt is set up with no mirror of Debian"

rm -rf "${root:?}"
apt=$root/apt
mkdir -p "$apt"/{lists,archives}/partial
: >"$apt/status"

# source_line URI SUITE: a line of sources.list
source_line() { echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $1 $2 main"; }

# A mirror may be a snapshot, whose lists are out of date by design.
apt_get() {
	DEBIAN_FRONTEND=noninteractive apt-get -q -y \
		-o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
		-o Dir::State="$apt" -o Dir::State::Lists="$apt/lists" -o Dir::State::status="$apt/status" \
		-o Dir::Cache="$apt" -o Dir::Cache::Archives="$apt/archives" \
		-o APT::Default-Release= -o APT::Install-Recommends=false -o APT::Sandbox::User=root \
		-o Acquire::Check-Valid-Until=false -o Acquire::Languages=none "$@" >&2
}
# shellcheck disable=SC2086
download() {
	apt_get update && apt_get --download-only install $PACKAGES && (cd "$apt/archives" && apt_get download "$HEADERS")
}
source_line "$debian" "$suite" >"$apt/sources.list"
[ -z "$security" ] || source_line "$security" "$suite-security" >>"$apt/sources.list"
if ! download; then
	# not every suite has security updates, not every mirror has them all
	rm -f "$apt/archives"/*.deb
	source_line "$debian" "$suite" >"$apt/sources.list"
	download || die "no $suite at $debian, or not all packages"
fi

# Suites of before and after the merge of /bin into /usr look alike.
for d in bin sbin lib lib64; do
	mkdir -p "$root/usr/$d"
	ln -s "usr/$d" "$root/$d"
done
find "$apt/archives" -name '*.deb' ! -name 'base-files_*' -print0 |
	xargs -0 -n1 -P"$(nproc)" sh -c 'dpkg-deb --fsys-tarfile "$1" | tar -x -C "$0" --keep-directory-symlink \
		--exclude="./usr/share/doc/*" --exclude="./usr/share/man/*" --exclude="./usr/share/locale/*" -f -' "$root"

# What the maintainer scripts would have done.
ln -sf bash "$root/usr/bin/sh"
ln -sf gawk "$root/usr/bin/awk"
mkdir -p "$root"/{dev,etc,proc,src,tmp}
chmod 1777 "$root/tmp"
echo 'root:x:0:0::/root:/bin/sh
nobody:x:65534:65534::/tmp:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:
nogroup:x:65534:' >"$root/etc/group"
echo '127.0.0.1 localhost' >"$root/etc/hosts"
chroot "$root" /sbin/ldconfig
rm -rf "$apt"
cp "$self" "$root/.made-by"
