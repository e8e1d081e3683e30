#!/bin/bash
# packages.sh [demo|test]: installs what is missing, on Debian and its like.
# packages.sh client CHECK PACKAGES: the packages, unless the command CHECK succeeds.
#
# It looks for the things themselves, not for packages: where everything is
# there already, it asks nobody and changes nothing. If a server has to be
# installed, postgresql-common is first told not to create a cluster for it.
set -euo pipefail
need=${1:-test} check=${2:-} packages=${3:-}

# The newest server with programs, whether or not one can build for it.
server=$(ls -d /usr/lib/postgresql/*/bin/postgres 2>/dev/null | sort -t/ -k5,5nr | head -1 || true)
major=$(cut -d/ -f5 <<<"$server")
bin=${server%/postgres}
if [ -n "${PG_CONFIG:-}" ]; then
	command -v "$PG_CONFIG" >/dev/null || { echo "PG_CONFIG=$PG_CONFIG: no such program" >&2; exit 1; }
	bin=$("$PG_CONFIG" --bindir)
	major=$("$PG_CONFIG" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
fi

want=()
missing() {
	want=()
	if [ "$need" = client ]; then
		# shellcheck disable=SC2206
		bash -c "$check" >/dev/null 2>&1 || want=($packages)
		return
	fi
	[ -x "$bin/postgres" ] || want+=("postgresql-$major")
	# pg_config and PGXS come with the client; the headers are what it lacks
	[ -x "$bin/pg_config" ] && [ -f "$("$bin/pg_config" --pgxs)" ] &&
		[ -f "$("$bin/pg_config" --includedir-server)/postgres.h" ] || want+=("postgresql-server-dev-$major")
	command -v make >/dev/null && command -v gcc >/dev/null || want+=(build-essential)
	command -v perl >/dev/null || want+=(perl)
	if [ "$need" = test ]; then
		[ -f "$(dirname "$("$bin/pg_config" --pgxs 2>/dev/null || echo /none/none)")/../test/regress/pg_regress" ] ||
			want+=("postgresql-client-$major")
		[ -f "$("$bin/pg_config" --sharedir 2>/dev/null)/extension/pgtap.control" ] || want+=("postgresql-$major-pgtap")
		perl -MIPC::Run -MTest::More -MTAP::Parser -e 1 2>/dev/null || want+=(libipc-run-perl perl)
		# only the suite format needs it
		case " ${SUITE:-format} " in
			*" format "*)
				command -v pg_bsd_indent >/dev/null || want+=(pg-bsd-indent)
				/usr/bin/python3 -c 'import pglast' 2>/dev/null || want+=(python3-pglast)
				;;
		esac
		command -v python3 >/dev/null || want+=(python3)
		command -v spin >/dev/null || want+=(spin)
	fi
}

[ -n "$major" ] || major=NN
missing
[ ${#want[@]} -gt 0 ] || exit 0

root=()
if [ "$(id -u)" != 0 ]; then
	if sudo -n true 2>/dev/null || { [ -t 0 ] && command -v sudo >/dev/null; }; then
		root=(sudo)
	else
		echo "missing: ${want[*]}" >&2
		echo "Install them (NN: the server's major version), or run this as root, or with sudo." >&2
		exit 1
	fi
fi
command -v apt-get >/dev/null || { echo "missing, and there is no apt-get: ${want[*]}" >&2; exit 1; }

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
	"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -q "$@" </dev/null >"$log" 2>&1 ||
		{ cat "$log" >&2; echo "apt-get $* failed" >&2; exit 1; }
}

echo "packages: apt-get update"
apt update
if [ "$major" = NN ]; then
	# The distribution's own version.
	major=$(apt-cache depends postgresql 2>/dev/null | sed -nE 's/.*Depends: postgresql-([0-9]+)$/\1/p' | head -1)
	[ -n "$major" ] || { echo "apt knows no package postgresql" >&2; exit 1; }
	bin=/usr/lib/postgresql/$major/bin
	missing
fi
case " ${want[*]} " in
	*" postgresql-$major "*)
		"${root[@]}" mkdir -p /etc/postgresql-common/createcluster.d
		echo 'create_main_cluster = false' |
			"${root[@]}" tee /etc/postgresql-common/createcluster.d/no-main-cluster.conf >/dev/null
		;;
esac
echo "packages: installing ${want[*]}"
apt install --no-install-recommends "${want[@]}"
case " ${want[*]} " in
	*" pgbouncer "*)
		# The tests start their own; none shall run on this machine because they were run.
		"${root[@]}" invoke-rc.d pgbouncer stop >/dev/null 2>&1 || true
		"${root[@]}" update-rc.d pgbouncer disable >/dev/null 2>&1 || true
		;;
esac
missing
[ ${#want[@]} -eq 0 ] || { echo "still missing after the installation: ${want[*]}" >&2; exit 1; }
