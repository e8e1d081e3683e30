#!/bin/bash
# pg_upgrade.sh [PG_CONFIG]: pg_upgrade to another major version of PostgreSQL
# with work in flight: it goes on by itself. "make test-upgrade" is this script.
#
# The new server is the one of PG_CONFIG, else PostgreSQL 17 of Debian 13,
# whose packages are unpacked, not installed, below .work/upgrade and given
# their own C library; the old one is that of the tests (test/lib/cluster.sh).
# Prints what is checked; exits with 0 if all is well. It takes a minute, and
# another one for the packages the first time.
set -euo pipefail
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
NEW_MAJOR=17 NEW_SUITE=trixie
PRIVATE=$PWD/.work/upgrade
export TASKER_CLUSTER=upgrade-old
CLUSTER=test/lib/cluster.sh
failed=0

die() { echo "pg_upgrade.sh: $*" >&2; exit 1; }

# check WHAT CMD...: passes if the command does
check() {
	local what=$1
	shift
	if "$@" >"$TMP/out" 2>&1; then
		echo "ok     $what"
	else
		echo "not ok $what"
		sed 's/^/       | /' "$TMP/out"
		failed=1
	fi
}

# is WHAT WANTED GOT
is() { check "$1" bash -c '[ "$1" = "$0" ] || { echo "wanted: $0"; echo "got:    $1"; exit 1; }' "$2" "$3"; }

# ---- the new server ----------------------------------------------------------

# fetch_packages DIR: everything that the server and its headers need, unpacked
fetch_packages() {
	local dir=$1 apt=$1.apt mirror options
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' | sed -n 1p)
	[ -n "$mirror" ] || die "apt is set up with no mirror"
	mkdir -p "$apt"/{lists,archives}/partial "$dir"
	: >"$apt/status"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $NEW_SUITE main" >"$apt/sources.list"
	options=(-q -y -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/nonexistent
		-o Dir::Etc::PreferencesParts=/nonexistent -o Dir::State="$apt" -o Dir::State::Lists="$apt/lists"
		-o Dir::State::status="$apt/status" -o Dir::Cache="$apt" -o Dir::Cache::Archives="$apt/archives"
		-o APT::Install-Recommends=false -o APT::Sandbox::User= -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none)
	apt-get "${options[@]}" update
	apt-get "${options[@]}" --download-only install "postgresql-$NEW_MAJOR"
	# headers, without the compilers that the package asks for
	(cd "$apt/archives" && apt-get "${options[@]}" download "postgresql-server-dev-$NEW_MAJOR")
	for deb in "$apt"/archives/*.deb; do
		# in the new suite /lib is a link to usr/lib
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$dir" --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' \
			--exclude='./usr/share/locale/*' --exclude='./lib' --exclude='./lib64' --exclude='./bin' --exclude='./sbin'
	done
	rm -rf "$apt"
}

# own_libraries DIR: its programs run on this machine with their own C library
own_libraries() {
	local dir=$1 libraries program
	libraries=$(dirname "$(find "$dir/usr/lib" -path '*-linux-gnu*' -name libc.so.6 | head -1)")
	find "$dir/usr/lib/postgresql/$NEW_MAJOR/bin" "$dir/usr/lib/postgresql/$NEW_MAJOR/lib/pgxs" -type f -perm -u+x |
		while read -r program; do
			patchelf --print-interpreter "$program" >/dev/null 2>&1 || continue
			patchelf --set-interpreter "$(find "$libraries" -name 'ld-linux*.so.*' | head -1)" \
				--force-rpath --set-rpath "$libraries" "$program"
		done
	# its headers believe in a C library that has these, this machine's may not
	sed -i -E 's/^#define (HAVE_DECL_STRL(CPY|CAT)) 1/#define \1 0/' \
		"$dir/usr/include/postgresql/$NEW_MAJOR/server/pg_config.h"
}

# private_server: the pg_config of the unpacked server, made if it is not there
private_server() {
	local dir=$PRIVATE/postgresql-$NEW_MAJOR
	if [ ! -e "$dir/ready" ]; then
		rm -rf "$dir" "$dir.apt"
		test/lib/packages.sh client 'patchelf --version' patchelf >&2
		fetch_packages "$dir" >"$TMP/packages" 2>&1 || { tail -20 "$TMP/packages" >&2; exit 1; }
		own_libraries "$dir" >&2
		touch "$dir/ready"
	fi
	echo "$dir/usr/lib/postgresql/$NEW_MAJOR/bin/pg_config"
}

# ---- both clusters -----------------------------------------------------------

# new_sql SQL: in the new cluster
new_sql() { $CLUSTER exec "$NEW_BIN/psql" -XAtq -v ON_ERROR_STOP=1 -h "$TASKER_DIR/s" -p 5433 -U postgres -d work -c "$1"; }

cleanup() {
	trap - EXIT
	[ -z "${NEW_BIN:-}" ] || $CLUSTER exec "$NEW_BIN/pg_ctl" -D "$TASKER_DIR/new" -m immediate stop >/dev/null 2>&1 || true
	$CLUSTER destroy
	rm -rf "$TMP"
}

TMP=$(mktemp -d)
trap cleanup EXIT
test/lib/packages.sh test
NEW_CONFIG=${1:-$(private_server)}
$CLUSTER destroy
$CLUSTER start --release >/dev/null
eval "$($CLUSTER env)"
NEW_BIN=$("$NEW_CONFIG" --bindir)
echo "from $("$PG_CONFIG" --version) to $("$NEW_CONFIG" --version)"

$CLUSTER exec rm -rf "$TASKER_DIR/build-new"
$CLUSTER exec cp -r "$TASKER_SRC" "$TASKER_DIR/build-new"
check "it builds" $CLUSTER exec bash -c 'cd ../build-new && make -s clean with_llvm=no && make -s -j2 WERROR=1 with_llvm=no PG_CONFIG="$0"' "$NEW_CONFIG"
[ $failed = 0 ] || exit 1
# into a tree of the caller's
make -s -C "$TASKER_DIR/build-new" install with_llvm=no PG_CONFIG="$NEW_CONFIG" >"$TMP/out" 2>&1 || die "$(cat "$TMP/out")"

$CLUSTER psql -q -v ON_ERROR_STOP=1 -d postgres <<'SQL'
CREATE ROLE app LOGIN;
CREATE DATABASE work;
\c work
CREATE EXTENSION tasker;
SELECT tasker.grant_access('app', 'submitter') \g /dev/null
CREATE SCHEMA app AUTHORIZATION app;
SET ROLE app;
CREATE TABLE app.effects (task_id bigint, step text);
CREATE FUNCTION app.effect(input jsonb) RETURNS jsonb LANGUAGE sql AS $$
	INSERT INTO app.effects VALUES ((input #>> '{task,id}')::bigint, input #>> '{step,name}') RETURNING to_jsonb(step)
$$;
SELECT tasker.define_task('flow', '{"steps": [{"name": "a", "function": "app.effect"},
	{"name": "ext", "queue": "q", "depends_on": ["a"], "lease": "1 h"}, {"name": "b", "function": "app.effect", "depends_on": ["ext"]}]}') \g /dev/null
SELECT tasker.create_task('flow') AS t \gset
SELECT tasker.create_task('flow', idempotency_key => 'k') \g /dev/null
RESET ROLE;
DO $$
BEGIN
	WHILE (SELECT count(*) FROM tasker.workflow_steps WHERE step_id = 2 AND state = 'enqueued') < 2 LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
SELECT lease FROM tasker.claim_steps('{q}', 'worker') \g /dev/null
SELECT tasker.stop() \g /dev/null
SET ROLE app;
SELECT tasker.create_task('flow', start_at => now() + '1 s') \g /dev/null
RESET ROLE;
SQL
# A patch of Debian's 15.20 stores this with each column, which no other server takes.
for db in postgres template1 work; do
	$CLUSTER psql -q -d $db -c "UPDATE pg_attribute SET attoptions = NULLIF(ARRAY(SELECT o FROM unnest(attoptions) o WHERE o NOT LIKE 'pg\_attver=%'), '{}')
		WHERE attoptions::text LIKE '%pg\_attver%'"
done
before=$($CLUSTER psql -Atq -d work -c 'SELECT task_id, step_id, state, attempts, lease FROM tasker.workflow_steps ORDER BY 1, 2')
$CLUSTER stop

$CLUSTER exec "$NEW_BIN/initdb" -D "$TASKER_DIR/new" -U postgres -A trust -N --locale=C.UTF-8 -E UTF8 >"$TMP/out" 2>&1 || die "$(cat "$TMP/out")"
printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$TASKER_DIR/s'" 'port = 5433' \
	"shared_preload_libraries = 'tasker'" 'max_worker_processes = 32' |
	$CLUSTER exec tee -a "$TASKER_DIR/new/postgresql.conf" >/dev/null
check "pg_upgrade" $CLUSTER exec bash -c 'cd "$TASKER_DIR" && "$0/pg_upgrade" -b "$1" -B "$0" -d data -D new -s "$TASKER_DIR/s" -U postgres ||
	{ cat new/pg_upgrade_output.d/*/log/*; exit 1; }' "$NEW_BIN" "${PG_CONFIG%/*}"
[ $failed = 0 ] || exit 1
printf '%s\n' 'tasker.enabled = off' | $CLUSTER exec tee -a "$TASKER_DIR/new/postgresql.conf" >/dev/null
check "the new server starts" $CLUSTER exec "$NEW_BIN/pg_ctl" -D "$TASKER_DIR/new" -l "$TASKER_DIR/new.log" -w start
is "everything is there" "$before" "$(new_sql 'SELECT task_id, step_id, state, attempts, lease FROM tasker.workflow_steps ORDER BY 1, 2')"
is "by itself it is armed" 'armed' "$(new_sql 'SELECT state FROM tasker.guard()')"
new_sql 'ALTER SYSTEM RESET tasker.enabled' >/dev/null
$CLUSTER exec sed -i '/tasker.enabled/d' "$TASKER_DIR/new/postgresql.conf"
$CLUSTER exec "$NEW_BIN/pg_ctl" -D "$TASKER_DIR/new" reload >/dev/null
is "a worker completes what it had in hand" 1 \
	"$(new_sql 'SELECT count(tasker.complete_step(task_id, step_id, lease)) FROM tasker.workflow_steps WHERE lease IS NOT NULL')"
check "the work goes on" new_sql "DO \$\$
BEGIN
	FOR i IN 1 .. 1000 LOOP
		PERFORM tasker.complete_step(task_id, step_id, lease) FROM tasker.claim_steps('{q}', 'worker');
		COMMIT;
		EXIT WHEN NOT EXISTS (SELECT FROM tasker.tasks WHERE state <> 'complete');
		PERFORM pg_sleep(0.02);
	END LOOP;
	ASSERT NOT EXISTS (SELECT FROM tasker.tasks WHERE state <> 'complete');
END \$\$"
is "each step had its effect once" '6|6' "$(new_sql 'SELECT count(*), count(DISTINCT (task_id, step)) FROM app.effects')"
is "the idempotency key is known" 't' "$(new_sql "SET SESSION AUTHORIZATION app; SELECT tasker.create_task('flow', idempotency_key => 'k') = 2")"
is "ids go on" 't' "$(new_sql "SET SESSION AUTHORIZATION app; SELECT tasker.create_task('flow') > 3")"
is "restarted it is armed still" 'armed' "$($CLUSTER exec "$NEW_BIN/pg_ctl" -D "$TASKER_DIR/new" -l "$TASKER_DIR/new.log" -w restart >/dev/null
	new_sql 'SELECT state FROM tasker.guard()')"
exit $failed
