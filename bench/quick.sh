#!/bin/bash
# quick.sh: a handful of numbers in about a minute, from a throwaway cluster of
# its own (test/lib/cluster.sh): release build, fsync and synchronous_commit on.
#
#   bench/quick.sh            TASKS=1000 FANS=10 RUNS=3 LATENCY=200
#   KEEP=1 bench/quick.sh     leaves the cluster (TASKER_CLUSTER=bench test/lib/cluster.sh psql)
#   CONF="k=v k=v"            more settings
#   SQL="ALTER TABLE ..."     is run before, to compare
#
# What is measured, with a no-op handler in PL/pgSQL and the background workers
# that the settings allow (2 for a role, by default):
#   steps/s   from the start of the first step to the commit of the last, of tasks
#             that one create_tasks made; the median of RUNS runs
#   per step  WAL bytes and row versions between start and end of the workers,
#             of tasks that were created before; all tables of tasker. No
#             checkpoint and no vacuum comes between.
#   latency   from the timestamp of create_task's commit to the start of the
#             step, one task at a time, with an idle executor. The commit's own
#             flush to disk is in it; the second line is without.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export TASKER_CLUSTER=${TASKER_CLUSTER:-bench}
TASKS=${TASKS:-1000} FANS=${FANS:-10} RUNS=${RUNS:-3} LATENCY=${LATENCY:-200}
cluster=test/lib/cluster.sh

conf=(--conf autovacuum=off --conf max_wal_size=8GB --conf checkpoint_timeout=1h --conf track_commit_timestamp=on)
for c in ${CONF:-}; do conf+=(--conf "$c"); done
$cluster destroy
$cluster start --release --durable "${conf[@]}" >/dev/null
[ -n "${KEEP:-}" ] || trap '$cluster destroy' EXIT

admin() { $cluster psql -qAtX -v ON_ERROR_STOP=1 -d bench "$@"; }
user() { PGOPTIONS="${OPTIONS:-}" $cluster psql -qAtX -v ON_ERROR_STOP=1 -U bench -d bench "$@"; }

$cluster psql -qX -c 'CREATE DATABASE bench' -c 'CREATE ROLE bench LOGIN'
admin >/dev/null <<-'SQL'
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
	SELECT tasker.define_task('fan', jsonb_build_object('steps', jsonb_agg(jsonb_build_object(
		'name', 's' || i, 'function', 'bench.noop',
		'depends_on', CASE i WHEN 0 THEN '[]' WHEN 1001 THEN (SELECT jsonb_agg('s' || j) FROM generate_series(1, 1000) AS j)
			ELSE '["s0"]' END)))) FROM generate_series(0, 1001) AS i;
	CREATE TABLE bench.created (task_id bigint);
	CREATE FUNCTION bench.create_one() RETURNS bigint LANGUAGE sql AS
		$$INSERT INTO bench.created VALUES (tasker.create_task('one')) RETURNING task_id$$;
SQL

[ -z "${SQL:-}" ] || admin -c "$SQL" >/dev/null

# create NAME N: N tasks in one transaction; the first and the last id
create() {
	user -F ' ' -c "SELECT min(id), max(id) FROM tasker.create_tasks('$1',
		(SELECT array_agg('{}'::jsonb) FROM generate_series(1, $2))) AS id"
}

# wait_complete FIRST LAST
wait_complete() {
	user -c "SELECT tasker.task_wait(id, '5 min') FROM generate_series($1::bigint, $2) AS id" >/dev/null
	[ "$(admin -c "SELECT count(*) FROM tasker.tasks WHERE task_id BETWEEN $1 AND $2 AND state <> 'complete'")" = 0 ] ||
		{ echo "some tasks did not complete" >&2; exit 1; }
}

# throughput NAME N: steps per second
throughput() {
	local first last i
	for ((i = 0; i <= RUNS; i++)); do
		read -r first last < <(create "$1" "$2")
		wait_complete "$first" "$last"
		# the first run only warms up
		[ "$i" = 0 ] || admin -c "SELECT round(count(*) / extract(epoch FROM max(pg_xact_commit_timestamp(xmin)) - min(last_attempted_at)))
			FROM tasker.workflow_steps WHERE task_id BETWEEN $first AND $last"
	done | sort -n | sed -n "$(((RUNS + 1) / 2))p"
}

stop_workers() {
	admin -c 'SELECT tasker.stop()' >/dev/null
	while [ "$(admin -c "SELECT count(*) FROM pg_stat_activity WHERE datname = 'bench' AND backend_type LIKE 'tasker %'")" != 0 ]; do
		sleep 0.1
	done
}

# What has been written so far. The workers have left, so their counts are in.
counters() {
	admin -F ' ' -c "SELECT pg_current_wal_insert_lsn() - '0/0', sum(n_tup_ins), sum(n_tup_upd), sum(n_tup_hot_upd), sum(n_tup_del)
		FROM pg_stat_all_tables WHERE schemaname = 'tasker'"
}

# writes NAME N STEPS: WAL bytes, inserted, updated, of these HOT, deleted rows, per step
writes() {
	local first last before after
	stop_workers
	read -r first last < <(create "$1" "$2")
	before=$(counters)
	admin -c 'SELECT tasker.start()' >/dev/null
	wait_complete "$first" "$last"
	stop_workers
	after=$(counters)
	admin -c 'SELECT tasker.start()' >/dev/null
	awk -v n=$(($2 * $3)) '{ printf "%8.0f %8.2f %8.2f %8.2f %8.2f\n", ($6-$1)/n, ($7-$2)/n, ($8-$3)/n, ($9-$4)/n, ($10-$5)/n }' \
		<<<"$before $after"
}

# latency: p50 and p99 in ms; one task more than counts, to begin with a warm executor
latency() {
	user -c 'TRUNCATE bench.created'
	user >/dev/null <<-SQL
		SELECT unnest(ARRAY['SELECT bench.create_one()',
			'SELECT tasker.task_wait((SELECT max(task_id) FROM bench.created), ''10 s'')'])
		FROM generate_series(1, $LATENCY + 1) \gexec
	SQL
	admin -F ' ' -c "SELECT round((1000 * percentile_cont(0.5) WITHIN GROUP (ORDER BY l))::numeric, 2),
			round((1000 * percentile_cont(0.99) WITHIN GROUP (ORDER BY l))::numeric, 2)
		FROM (SELECT extract(epoch FROM s.last_attempted_at - pg_xact_commit_timestamp(c.xmin)) AS l
			FROM bench.created c JOIN tasker.workflow_steps s USING (task_id) ORDER BY task_id DESC LIMIT $LATENCY) AS x"
}

echo "tasker $(sed -n "s/^default_version = '\(.*\)'/\1/p" tasker.control), $(admin -c 'SHOW server_version' | cut -d' ' -f1), $(nproc) processors, fsync on"
echo
printf '%-24s %8s %8s %8s %8s %8s %8s\n' workload steps/s WAL/step inserts updates HOT deletes
for load in "chain $TASKS 10" "fan $FANS 1002"; do
	read -r name n steps <<<"$load"
	rate=$(throughput "$name" "$n")
	printf '%-24s %8s %s\n' "$n x $([ "$name" = fan ] && echo '1-1000-1' || echo 'chain of 10')" "$rate" "$(writes "$name" "$n" "$steps")"
done
echo
printf '%-42s %8s %8s\n' "commit to start of the step, ms" p50 p99
printf '%-42s %8s %8s\n' "$LATENCY tasks" $(latency)
printf '%-42s %8s %8s\n' "$LATENCY tasks, synchronous_commit off" $(OPTIONS='-c synchronous_commit=off' latency)
