#!/bin/bash
# run.sh: one task in four languages (invoice.sql), done by the server and three workers.
#
#   run.sh        in a throwaway cluster (see test/lib/cluster.sh), which is removed at the end
#   run.sh here   on the server that PGHOST and the like name, as a superuser, in a new database "polyglot"
#
# Prints the letter that was sent and who did which step.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
languages=("/usr/bin/python3 -c 'import psycopg' && ruby -rpg -e 1 && npm --version" "python3-psycopg ruby ruby-pg nodejs npm")

if [ "${1:-}" != here ]; then
	export TASKER_CLUSTER=polyglot
	cluster=test/lib/cluster.sh
	test/lib/packages.sh demo
	test/lib/packages.sh client "${languages[@]}"
	echo "Building tasker and starting a throwaway cluster ..."
	trap '$cluster destroy' EXIT
	$cluster start --release >/dev/null
	$cluster exec examples/polyglot/run.sh here
	exit
fi

# Node's driver is beside the client, unless it is there already.
[ -d clients/node/node_modules/pg ] ||
	npm ci --prefix clients/node --cache clients/node/node_modules/.cache --no-audit --no-fund --ignore-scripts --loglevel=error >/dev/null
psql -Xq -d postgres -c 'CREATE DATABASE polyglot'
export PGDATABASE=polyglot
psql -Xq -f examples/polyglot/invoice.sql

log=$(mktemp)
workers=()
finish() {
	trap - EXIT
	local worker status=0
	kill "${workers[@]}" 2>/dev/null || true
	for worker in "${workers[@]}"; do
		wait "$worker" || status=$?
	done
	[ "${1:-0}" = 0 ] && [ $status = 0 ] || { echo "What the workers said:"; cat "$log"; status=1; } >&2
	rm -f "$log"
	exit $status
}
trap 'finish 1' EXIT
for program in "/usr/bin/python3 compute.py" "node render.js" "ruby send.rb"; do
	PGUSER=clerk "${program% *}" "examples/polyglot/${program#* }" >>"$log" 2>&1 &
	workers+=($!)
done

ask() { psql -XAtq -U billing -v ON_ERROR_STOP=1 "$@"; }
task=$(ask -c "SELECT tasker.create_task('invoice', '{\"customer\": \"Ada\", \"email\": \"ada@example.com\",
	\"goods\": [{\"sku\": \"coffee\", \"quantity\": 2}, {\"sku\": \"tea\", \"quantity\": 1}]}')")
state=$(ask -c "SELECT tasker.task_wait($task, timeout => '1 min')")
printf '%s\n' "" "Task $task is $state." "" "$(ask -c 'SELECT message FROM billing.outbox')" ""
ask -P format=aligned -P tuples_only=off -P footer=off -P pager=off -c "
	SELECT name AS step, COALESCE(claimed_by, 'SQL') AS \"done by\", state, attempts,
		array_to_string(depends_on, ', ') AS after, results
	FROM tasker.step_status WHERE task_id = $task ORDER BY step_id"
[ "$state" = complete ]
finish
