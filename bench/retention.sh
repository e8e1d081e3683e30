#!/bin/bash
# retention.sh: what retention does to the size of the tables and to the rate,
# in a throwaway cluster of its own (test/lib/cluster.sh): release build, fsync on.
# Some ten minutes.
#
#   bench/retention.sh        STEPS="1000000 3000000" BEHIND=1000000 RUNS=3
#   CONF="k=v k=v"            more settings
#   SQL="ALTER TABLE ..."     is run before, to compare
#
# Sizes: chains of ten no-op steps are run, 50000 steps at a time, and after each
# time tasks that ended four times ago are removed: some 200000 steps are kept.
# Autovacuum looks every second, as if all this took longer. Shown are the MB of
# tables with their indexes after so many steps.
#
# Rate: steps/s of 1000 chains of ten, the median of RUNS runs, with nothing
# there, with so many finished tasks of one step, and while these are removed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export TASKER_CLUSTER=${TASKER_CLUSTER:-bench}
STEPS=${STEPS:-1000000 3000000} BEHIND=${BEHIND:-1000000} RUNS=${RUNS:-3}
BATCH=5000 KEPT=${KEPT:-4}
cluster=test/lib/cluster.sh

conf=(--conf max_wal_size=4GB --conf autovacuum_naptime=1s --conf track_commit_timestamp=on)
for c in ${CONF:-}; do conf+=(--conf "$c"); done
$cluster destroy
$cluster start --release --durable "${conf[@]}" >/dev/null
[ -n "${KEEP:-}" ] || trap '$cluster destroy' EXIT

admin() { $cluster psql -qAtX -v ON_ERROR_STOP=1 -d bench "$@"; }
user() { $cluster psql -qAtX -v ON_ERROR_STOP=1 -U bench -d bench "$@"; }

# fresh: the database anew
fresh() {
	$cluster psql -qX -c 'SET client_min_messages = warning' -c 'DROP DATABASE IF EXISTS bench WITH (FORCE)' -c 'CREATE DATABASE bench'
	admin >/dev/null <<-'SQL'
		DO $$ BEGIN CREATE ROLE bench LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
		CREATE EXTENSION tasker;
		SELECT tasker.grant_access('bench', 'submitter');
		CREATE SCHEMA bench AUTHORIZATION bench;
	SQL
	user >/dev/null <<-'SQL'
		CREATE FUNCTION bench.noop(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		SELECT tasker.define_task('one', '{"steps": [{"name": "s", "function": "bench.noop"}]}');
		SELECT tasker.define_task('chain', jsonb_build_object('steps', jsonb_agg(jsonb_build_object(
			'name', 's' || i, 'function', 'bench.noop',
			'depends_on', CASE WHEN i > 1 THEN jsonb_build_array('s' || i - 1) ELSE '[]' END)))) FROM generate_series(1, 10) AS i;
	SQL
	[ -z "${SQL:-}" ] || admin -c "$SQL" >/dev/null
}

# run NAME N: N tasks from creation to their end; prints the last id
run() {
	local last
	last=$(user -c "SELECT max(id) FROM tasker.create_tasks('$1', array_fill('{}'::jsonb, ARRAY[$2])) AS id")
	user -c "SELECT tasker.task_wait(id, '10 min') FROM generate_series($last - $2 + 1, $last) AS id" >/dev/null
	echo "$last"
}

# rate: steps per second of 1000 chains
rate() {
	local last i
	for ((i = 0; i <= RUNS; i++)); do
		last=$(run chain 1000)
		# the first run only warms up
		[ "$i" = 0 ] || admin -c "SELECT round(count(*) / extract(epoch FROM max(pg_xact_commit_timestamp(xmin)) - min(last_attempted_at)))
			FROM tasker.workflow_steps WHERE task_id > $last - 1000"
	done | sort -n | sed -n "$(((RUNS + 1) / 2))p"
}

sizes() {
	admin -F ' ' -c "SELECT CASE WHEN c.relname LIKE '%transitions%' THEN 'history' ELSE c.relname END,
			round(sum(pg_table_size(c.oid)) / 1e6, 1), round(sum(pg_indexes_size(c.oid)) / 1e6, 1)
		FROM pg_class c WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind = 'r'
		AND (c.relname IN ('tasks', 'workflow_steps', 'workflow_step_edges', 'ready_queue', 'timers') OR c.relname LIKE '%transitions%')
		GROUP BY 1 UNION ALL
		SELECT 'all', round(sum(pg_table_size(c.oid)) / 1e6, 1), round(sum(pg_indexes_size(c.oid)) / 1e6, 1)
		FROM pg_class c WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind = 'r' ORDER BY 1"
}

fresh
ends=() done=0
for steps in $STEPS; do
	while [ "$done" -lt "$steps" ]; do
		run chain $BATCH >/dev/null
		done=$((done + BATCH * 10))
		ends+=("$(admin -c 'SELECT clock_timestamp()')")
		if [ ${#ends[@]} -gt $KEPT ]; then
			admin -c "DO \$\$
				DECLARE
					n int := 1;
				BEGIN
					WHILE n > 0 LOOP
						n := tasker.expire(clock_timestamp() - '${ends[-KEPT - 1]}'::timestamptz, 500);
						COMMIT;
					END LOOP;
				END \$\$"
		fi
	done
	echo
	printf '%-24s %8s %8s\n' "MB after $done steps" tables indexes
	sizes | while read -r name table index; do printf '%-24s %8s %8s\n' "$name" "$table" "$index"; done
done

[ "$BEHIND" -gt 0 ] || exit 0
fresh
echo
printf '%-42s %8s\n' '1000 x chain of 10' steps/s
printf '%-42s %8s\n' 'nothing there' "$(rate)"
for ((i = 0; i < BEHIND; i += 20000)); do run one 20000 >/dev/null; done
printf '%-42s %8s\n' "$BEHIND finished tasks behind" "$(rate)"
$cluster psql -qX -c "ALTER SYSTEM SET tasker.retention = '0'" -c 'SELECT pg_reload_conf()' >/dev/null
printf '%-42s %8s\n' 'while they are removed' "$(rate)"
printf '%-42s %8s\n' 'tasks that are left of them' "$(admin -c "SELECT count(*) FROM tasker.tasks WHERE task_id < 4000 + $BEHIND")"
