/*
 * adopt.c
 *	  tasker.adopt(): a copy becomes the database that runs its tasks.
 *
 * What may be wrong in a copy is put right first: roles have other oids,
 * sequences stand still (replication does not move them), triggers are not
 * ALWAYS any more (pg_restore --disable-triggers), workers hold leases who do
 * not know this database. Then it is armed (guard.c).
 *
 * One function for each of these, in a list; each adds a row to the result.
 */
#include "tasker.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "engine.h"
#include "guard.h"
#include "shared.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

/* What the call is about. */
typedef struct Adoption
{
	GuardStatus status;			/* before it */
	bool		keep_leases;
	TimestampTz now;
} Adoption;

/* Does the work and returns how many were changed; *detail may say more. */
typedef int64 (*AdoptionStep) (const Adoption *adoption, char **detail);

/*
 * An owner gets the role of its name. With $1 false only owners without any,
 * which an earlier call left; with true also those whose oid, of the server
 * where the rows come from, is not that of the role of this name here. Of several
 * owners of one name, the role of each but the last was dropped.
 */
static TaskerQuery map_owners = {
	.sql = "UPDATE tasker.owners o SET role_oid = c.new_oid FROM ("
	"SELECT x.owner_id, CASE WHEN x.last AND NOT x.mapped THEN x.oid END AS new_oid FROM ("
	"SELECT w.owner_id, w.role_oid, r.oid, "
	"w.owner_id = pg_catalog.max(w.owner_id) OVER (PARTITION BY w.role_name) AS last, "
	"COALESCE(pg_catalog.bool_or(w.role_oid = r.oid) OVER (PARTITION BY w.role_name), false) AS mapped "
	"FROM tasker.owners w LEFT JOIN pg_catalog.pg_roles r ON r.rolname = w.role_name) AS x "
	"WHERE (x.role_oid IS NULL OR $1) AND x.role_oid IS DISTINCT FROM x.oid) AS c "
	"WHERE o.owner_id = c.owner_id AND o.role_oid IS DISTINCT FROM c.new_oid",
	.args = {BOOLOID},
};

static TaskerQuery missing_roles = {
	.sql = "SELECT pg_catalog.string_agg(DISTINCT pg_catalog.quote_ident(o.role_name), ', ') FROM tasker.owners o "
	"WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = o.role_oid OR r.rolname = o.role_name)",
	.columns = {TEXTOID},
};

/* Each returns a row if the sequence was behind. $1: the high bits of this node's ids. */
static TaskerQuery move_sequences[] = {
	{
		/* an idempotency key may outlive its task */
		.sql = "SELECT pg_catalog.setval('tasker.task_id_seq', m.id) FROM (SELECT GREATEST("
		"(SELECT pg_catalog.max(t.task_id) FROM tasker.tasks t "
		"WHERE t.task_id >= $1 AND t.task_id < $1 + (1::bigint << 48)), "
		"(SELECT pg_catalog.max(k.task_id) FROM tasker.idempotency_keys k "
		"WHERE k.task_id >= $1 AND k.task_id < $1 + (1::bigint << 48))) - $1 AS id) AS m, tasker.task_id_seq q "
		"WHERE m.id > q.last_value OR (m.id = q.last_value AND NOT q.is_called)",
		.args = {INT8OID},
		.columns = {INT8OID},
	},
	{
		.sql = "SELECT pg_catalog.setval('tasker.owners_owner_id_seq', m.id) "
		"FROM (SELECT pg_catalog.max(o.owner_id) AS id FROM tasker.owners o) AS m, tasker.owners_owner_id_seq q "
		"WHERE m.id > q.last_value OR (m.id = q.last_value AND NOT q.is_called)",
		.columns = {INT8OID},
	},
	{
		.sql = "SELECT pg_catalog.setval('tasker.task_namespaces_namespace_id_seq', m.id) "
		"FROM (SELECT pg_catalog.max(n.namespace_id) AS id FROM tasker.task_namespaces n) AS m, "
		"tasker.task_namespaces_namespace_id_seq q "
		"WHERE m.id > q.last_value OR (m.id = q.last_value AND NOT q.is_called)",
		.columns = {INT8OID},
	},
	{
		.sql = "SELECT pg_catalog.setval('tasker.queues_queue_id_seq', m.id) "
		"FROM (SELECT pg_catalog.max(u.queue_id) AS id FROM tasker.queues u) AS m, tasker.queues_queue_id_seq q "
		"WHERE m.id > q.last_value OR (m.id = q.last_value AND NOT q.is_called)",
		.columns = {INT8OID},
	},
	{
		.sql = "SELECT pg_catalog.setval('tasker.named_tasks_named_task_id_seq', m.id) "
		"FROM (SELECT pg_catalog.max(n.named_task_id) AS id FROM tasker.named_tasks n) AS m, "
		"tasker.named_tasks_named_task_id_seq q "
		"WHERE m.id > q.last_value OR (m.id = q.last_value AND NOT q.is_called)",
		.columns = {INT8OID},
	},
};

static TaskerQuery weak_triggers = {
	.sql = "SELECT t.tgrelid, t.tgname FROM pg_catalog.pg_trigger t "
	"JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid "
	"WHERE p.pronamespace = 'tasker'::pg_catalog.regnamespace AND NOT t.tgisinternal AND t.tgenabled <> 'A' "
	"ORDER BY t.tgrelid, t.tgname",
	.columns = {OIDOID, NAMEOID},
};

/* Nobody holds them any more, and the scheduler finds that they ran out. */
static TaskerQuery end_leases = {
	.sql = "UPDATE tasker.workflow_steps SET lease = NULL, lease_expires_at = LEAST(lease_expires_at, $1) "
	"WHERE state = 'in_progress' AND lease IS NOT NULL",
	.args = {TIMESTAMPTZOID},
};

static TaskerQuery hint_ready = {
	.sql = "INSERT INTO tasker.ready_queue (lane, rank, task_id, step_id) "
	"SELECT s.lane, -s.priority, s.task_id, s.step_id FROM tasker.workflow_steps s "
	"JOIN tasker.tasks t ON t.task_id = s.task_id "
	"WHERE s.state = 'enqueued' AND t.state IN ('pending', 'in_progress', 'error') ON CONFLICT DO NOTHING",
};

static TaskerQuery hint_timers = {
	.sql = "INSERT INTO tasker.timers (due_at, task_id, step_id) "
	"SELECT d.due_at, d.task_id, d.step_id FROM (SELECT s.task_id, s.step_id, s.next_attempt_at AS due_at "
	"FROM tasker.workflow_steps s WHERE s.state IN ('waiting', 'waiting_for_retry') "
	"UNION ALL SELECT t.task_id, 0, $1 FROM tasker.tasks t "
	"WHERE t.blocked AND t.state IN ('pending', 'in_progress')) AS d "
	"WHERE d.due_at IS NOT NULL ON CONFLICT DO NOTHING",
	.args = {TIMESTAMPTZOID},
};

static TaskerQuery hint_leases = {
	.sql = "INSERT INTO tasker.leases (expires_at, row_id, task_ids, step_ids) "
	"SELECT s.lease_expires_at, pg_catalog.gen_random_uuid(), "
	"pg_catalog.array_agg(s.task_id ORDER BY s.task_id, s.step_id), "
	"pg_catalog.array_agg(s.step_id ORDER BY s.task_id, s.step_id) "
	"FROM tasker.workflow_steps s WHERE s.state = 'in_progress' AND s.lease_expires_at IS NOT NULL "
	"GROUP BY s.lease_expires_at",
};

static int64
adopt_owners(const Adoption *adoption, char **detail)
{
	Datum		values[1] = {BoolGetDatum(adoption->status.state == GUARD_DISARMED && adoption->status.by_rows)};
	int64		n = (int64) tasker_run(&map_owners, values, NULL);
	Datum		missing;
	bool		isnull;

	tasker_run(&missing_roles, NULL, NULL);
	missing = tasker_value(0, 1, &isnull);
	if (!isnull)
		*detail = psprintf("missing roles: %s", TextDatumGetCString(missing));
	return n;
}

static int64
adopt_sequences(const Adoption *adoption, char **detail)
{
	Datum		values[1] = {Int64GetDatum((int64) tasker_node_id << 48)};
	int64		n = 0;

	for (int i = 0; i < lengthof(move_sequences); i++)
		n += (int64) tasker_run(&move_sequences[i], values, NULL);
	return n;
}

static int64
adopt_triggers(const Adoption *adoption, char **detail)
{
	int			n = (int) tasker_run(&weak_triggers, NULL, NULL);
	Oid		   *tables = palloc(Max(n, 1) * sizeof(Oid));
	NameData   *names = palloc(Max(n, 1) * sizeof(NameData));

	for (int i = 0; i < n; i++)
	{
		tables[i] = DatumGetObjectId(tasker_value_notnull(i, 1));
		names[i] = *DatumGetName(tasker_value_notnull(i, 2));
	}
	for (int i = 0; i < n; i++)
	{
		Relation	relation = table_open(tables[i], ShareRowExclusiveLock);

		tasker_trigger_always(relation, NameStr(names[i]));
		table_close(relation, NoLock);
	}
	CommandCounterIncrement();
	return n;
}

static int64
adopt_leases(const Adoption *adoption, char **detail)
{
	Datum		values[1] = {TimestampTzGetDatum(adoption->now)};

	if (adoption->status.state != GUARD_DISARMED || adoption->keep_leases)
		return 0;
	return (int64) tasker_run(&end_leases, values, NULL);
}

static int64
adopt_hints(const Adoption *adoption, char **detail)
{
	Datum		values[1] = {TimestampTzGetDatum(adoption->now)};

	if (adoption->status.state != GUARD_DISARMED)
		return 0;
	wake_all_at_commit();
	return (int64) (tasker_run(&hint_ready, NULL, NULL) + tasker_run(&hint_timers, values, NULL) +
					tasker_run(&hint_leases, NULL, NULL));
}

static int64
adopt_database(const Adoption *adoption, char **detail)
{
	*detail = psprintf("was %s: %s", guard_state_name(adoption->status.state), adoption->status.reason);
	if (adoption->status.state == GUARD_ARMED)
		return 0;
	guard_arm();
	return 1;
}

/* In this order: the leases' ends are among the hints. */
static const struct
{
	const char *action;
	AdoptionStep run;
}			adoption_steps[] = {
	{"map owners to roles", adopt_owners},
	{"move sequences", adopt_sequences},
	{"enable triggers", adopt_triggers},
	{"end leases", adopt_leases},
	{"make hints", adopt_hints},
	{"arm", adopt_database},
};

PG_FUNCTION_INFO_V1(tasker_adopt);

/* adopt(keep_leases boolean) */
Datum
tasker_adopt(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Adoption	adoption = {.keep_leases = !PG_ARGISNULL(0) && PG_GETARG_BOOL(0),.now = tasker_now()};
	TaskerSection section;

	check_admin("adopt a database for");
	tasker_begin_srf(fcinfo);
	adoption.status = guard_look();
	tasker_enter(&section);
	for (int i = 0; i < lengthof(adoption_steps); i++)
	{
		char	   *detail = NULL;
		Datum		values[3];
		bool		nulls[3] = {false};

		values[1] = Int64GetDatum(adoption_steps[i].run(&adoption, &detail));
		values[0] = CStringGetTextDatum(adoption_steps[i].action);
		nulls[2] = detail == NULL;
		values[2] = detail == NULL ? (Datum) 0 : CStringGetTextDatum(detail);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	tasker_leave(&section);
	return (Datum) 0;
}
