/*
 * creation.c
 *	  create_task and create_tasks: tasks with their steps and edges, in the
 *	  caller's transaction, a handful of statements for however many.
 *
 * What a call may ask for is creation_request.c's.
 */
#include "creation.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "guard.h"
#include "miscadmin.h"
#include "shared.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

/* A version of a named task, as far as creation needs it. */
typedef struct Template
{
	int			named_task_id;
	bool		runs_in_database;
} Template;

static TaskerQuery find_template = {
	.sql = "SELECT n.named_task_id, n.runs_in_database, n.owner, COALESCE(o.role_oid, 0::oid), o.role_name "
	"FROM tasker.task_namespaces s "
	"JOIN tasker.named_tasks n ON n.namespace_id = s.namespace_id "
	"JOIN tasker.owners o ON o.owner_id = n.owner "
	"WHERE s.name = $1 AND n.name = $2 AND (n.version = $3 OR ($3 IS NULL AND n.is_default))",
	.args = {TEXTOID, TEXTOID, TEXTOID},
	.columns = {INT4OID, BOOLOID, INT4OID, OIDOID, NAMEOID},
};

static TaskerQuery take_keys = {
	.sql = "INSERT INTO tasker.idempotency_keys (owner, key, task_id) "
	"SELECT $1, c.key, c.task_id "
	"FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) AS c (key, task_id) "
	"WHERE c.key IS NOT NULL ORDER BY c.key, c.task_id ON CONFLICT DO NOTHING",
	.args = {INT4OID, TEXTARRAYOID, INT8ARRAYOID},
};

/* Locked, or retention might remove a key together with its task just now. */
static TaskerQuery taken_keys = {
	.sql = "SELECT c.ord, i.task_id, i.key "
	"FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) WITH ORDINALITY AS c (key, task_id, ord) "
	"JOIN tasker.idempotency_keys i ON i.owner = $1 AND i.key = c.key "
	"WHERE i.task_id <> c.task_id ORDER BY i.key, c.ord FOR KEY SHARE OF i",
	.args = {INT4OID, TEXTARRAYOID, INT8ARRAYOID},
	.columns = {INT8OID, INT8OID, TEXTOID},
	.latest = true,
};

/* Keys whose task is not what is asked for now. */
static TaskerQuery different_tasks = {
	.sql = "SELECT c.key, c.task_id, t.task_id IS NULL "
	"FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4)) AS c (task_id, context, key) "
	"LEFT JOIN tasker.tasks t ON t.task_id = c.task_id "
	"WHERE t.task_id IS NULL OR t.named_task_id <> $1 OR t.context <> c.context LIMIT 1",
	.args = {INT4OID, INT8ARRAYOID, JSONBARRAYOID, TEXTARRAYOID},
	.columns = {TEXTOID, INT8OID, BOOLOID},
};

static TaskerQuery insert_tasks = {
	.sql = "INSERT INTO tasker.tasks (task_id, requested_at, start_at, named_task_id, owner, priority, state, context, "
	"correlation_id, tags, initiator, source_system, reason, traceparent) "
	"SELECT c.task_id, $3, $4, $5, $6, $7, 'pending', c.context, "
	"COALESCE($8, pg_catalog.gen_random_uuid()), $9, $10, $11, $12, $13 "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS c (task_id, context)",
	.args = {INT8ARRAYOID, JSONBARRAYOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, INT4OID, INT4OID,
	UUIDOID, JSONBOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID},
};

/* $5, when not null, is a start time still to come. */
static TaskerQuery insert_steps = {
	.sql = "INSERT INTO tasker.workflow_steps "
	"(task_id, next_attempt_at, step_id, step_no, lane, priority, pending_parents, state) "
	"SELECT c.task_id, CASE WHEN s.parents = 0 THEN $5 END, s.step_no, s.step_no, "
	"COALESCE(s.queue_id, -$3), $4 + s.priority, s.parents, "
	"CASE WHEN s.parents > 0 THEN 'pending' WHEN $5 IS NOT NULL THEN 'waiting' ELSE 'enqueued' END "
	"FROM pg_catalog.unnest($1) AS c (task_id) "
	"CROSS JOIN LATERAL (SELECT * FROM tasker.named_steps WHERE named_task_id = $2 ORDER BY step_no) AS s",
	.args = {INT8ARRAYOID, INT4OID, INT4OID, INT4OID, TIMESTAMPTZOID},
};

static TaskerQuery insert_edges = {
	.sql = "INSERT INTO tasker.workflow_step_edges (task_id, from_step_id, to_step_id) "
	"SELECT c.task_id, e.from_step_no, e.to_step_no "
	"FROM pg_catalog.unnest($1) AS c (task_id) "
	"CROSS JOIN LATERAL (SELECT * FROM tasker.named_step_edges WHERE named_task_id = $2 "
	"ORDER BY from_step_no, to_step_no) AS e",
	.args = {INT8ARRAYOID, INT4OID},
};

static TaskerQuery hint_roots = {
	.sql = "INSERT INTO tasker.ready_queue (lane, rank, task_id, step_id) "
	"SELECT COALESCE(s.queue_id, -$3), -($4 + s.priority), c.task_id, s.step_no "
	"FROM pg_catalog.unnest($1) AS c (task_id) "
	"CROSS JOIN LATERAL (SELECT * FROM tasker.named_steps WHERE named_task_id = $2 AND parents = 0) AS s "
	"RETURNING lane, rank, task_id, step_id",
	.args = {INT8ARRAYOID, INT4OID, INT4OID, INT4OID},
	.columns = {INT4OID, INT4OID, INT8OID, INT4OID},
};

static TaskerQuery time_roots = {
	.sql = "INSERT INTO tasker.timers (due_at, task_id, step_id) "
	"SELECT $3, c.task_id, s.step_no "
	"FROM pg_catalog.unnest($1) AS c (task_id) "
	"CROSS JOIN LATERAL (SELECT * FROM tasker.named_steps WHERE named_task_id = $2 AND parents = 0) AS s",
	.args = {INT8ARRAYOID, INT4OID, TIMESTAMPTZOID},
};

/* node << 48 | sequence: ids of several servers never meet. */
static int64
next_task_id(Oid sequence)
{
	return ((int64) tasker_node_id << 48) | nextval_internal(sequence, true);
}

static Oid
task_id_sequence(void)
{
	Oid			sequence = get_relname_relid("task_id_seq", get_namespace_oid("tasker", false));

	if (!OidIsValid(sequence))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_INTERNAL),
				 errmsg("sequence tasker.task_id_seq does not exist"),
				 errdetail("The extension's schema was changed by hand."),
				 errhint("Reinstall the extension.")));
	return sequence;
}

/*
 * Steps run as whoever submits them, so a definition must come from somebody
 * whom the submitter trusts: itself, a role it is a member of, or an admin.
 */
static void
check_definer(Request *request, Oid definer, Name definer_name)
{
	Oid			caller = tasker_caller();
	char	   *current = GetUserNameFromId(definer, true);
	bool		exists = current != NULL && strcmp(current, NameStr(*definer_name)) == 0;

	if (exists && (has_privs_of_role(caller, definer) || access_level(definer) >= ACCESS_ADMIN))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_ACCESS),
			 errmsg("named task \"%s\" was not defined for role \"%s\"",
					text_to_cstring(request->name), GetUserNameFromId(caller, false)),
			 errdetail("It was defined by role \"%s\", and its steps would run as \"%s\".",
					   NameStr(*definer_name), GetUserNameFromId(caller, false)),
			 errhint("Have it defined by an admin, or become a member of the role that defined it.")));
}

/* A step in the database needs a session of its submitter's. */
static void
check_submitter(void)
{
	Oid			caller = tasker_caller();
	HeapTuple	tuple;
	bool		may_login;

	if (superuser_arg(caller) && !tasker_allow_superuser_steps)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_SUBMITTER),
				 errmsg("steps do not run as a superuser"),
				 errdetail("Role \"%s\" is a superuser and the named task has steps that run in the database.",
						   GetUserNameFromId(caller, false)),
				 errhint("Create the task as an ordinary role, or set tasker.allow_superuser_steps.")));

	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(caller));
	may_login = HeapTupleIsValid(tuple) && ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	if (!may_login)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_SUBMITTER),
				 errmsg("role \"%s\" can not have a session", GetUserNameFromId(caller, false)),
				 errdetail("The named task has steps that run in the database, in a session of whoever submits it."),
				 errhint("Create the task as a role with LOGIN, or ALTER ROLE … LOGIN.")));
}

static Template
look_up_template(Request *request)
{
	Template	result;
	Datum		values[3] = {PointerGetDatum(request->namespace), PointerGetDatum(request->name),
	PointerGetDatum(request->version)};
	const char *nulls = request->version == NULL ? "  n" : NULL;
	NameData	definer_name;
	Oid			definer;

	/* found, locked against being dropped, and found again */
	if (tasker_run(&find_template, values, nulls) == 1)
		lock_named_task(DatumGetInt32(tasker_value_notnull(0, 1)), AccessShareLock);
	if (tasker_run(&find_template, values, nulls) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_UNKNOWN_NAMED_TASK),
				 errmsg("named task \"%s\" does not exist", text_to_cstring(request->name)),
				 request->version == NULL ?
				 errdetail("Namespace \"%s\" has no default version of it.",
						   text_to_cstring(request->namespace)) :
				 errdetail("Namespace \"%s\" has no version \"%s\" of it.",
						   text_to_cstring(request->namespace), text_to_cstring(request->version)),
				 errhint("Define it with tasker.define_task; tasker.named_tasks lists what there is.")));
	result.named_task_id = DatumGetInt32(tasker_value_notnull(0, 1));
	result.runs_in_database = DatumGetBool(tasker_value_notnull(0, 2));
	definer = DatumGetObjectId(tasker_value_notnull(0, 4));
	definer_name = *DatumGetName(tasker_value_notnull(0, 5));
	check_definer(request, definer, &definer_name);
	if (result.runs_in_database)
		check_submitter();
	return result;
}

/*
 * Take the keys. ids[i] becomes the task that a key stood for already, and
 * existing[i] true. A key that is neither free nor taken was just given up.
 */
static void
resolve_keys(Request *request, int owner, int64 *ids, bool *existing)
{
	DatumList	list;
	Datum		values[3];
	int			wanted = 0;
	uint64		taken = 0;
	uint64		n;

	if (request->keys.length == 0)
		return;
	datum_list_init(&list, INT8OID);
	for (int i = 0; i < request->n; i++)
	{
		datum_list_add(&list, Int64GetDatum(ids[i]));
		wanted += request->keys.nulls[i] ? 0 : 1;
	}
	values[0] = Int32GetDatum(owner);
	values[1] = datum_list_array(&request->keys);
	values[2] = datum_list_array(&list);
	do
	{
		CHECK_FOR_INTERRUPTS();
		taken += tasker_run(&take_keys, values, NULL);
		n = tasker_run(&taken_keys, values, NULL);
	} while (taken + n < wanted);
	for (uint64 row = 0; row < n; row++)
	{
		int			i = (int) DatumGetInt64(tasker_value_notnull(row, 1)) - 1;

		ids[i] = DatumGetInt64(tasker_value_notnull(row, 2));
		existing[i] = true;
	}
}

/* A key that stands for something else than is asked for is refused. */
static void
check_existing(Request *request, const Template *template, const int64 *ids, const bool *existing)
{
	DatumList	tasks,
				contexts,
				keys;
	Datum		values[4];

	datum_list_init(&tasks, INT8OID);
	datum_list_init(&contexts, JSONBOID);
	datum_list_init(&keys, TEXTOID);
	for (int i = 0; i < request->n; i++)
		if (existing[i])
		{
			datum_list_add(&tasks, Int64GetDatum(ids[i]));
			datum_list_add(&contexts, request->contexts.values[i]);
			datum_list_add(&keys, request->keys.values[i]);
		}
	if (tasks.length == 0)
		return;
	values[0] = Int32GetDatum(template->named_task_id);
	values[1] = datum_list_array(&tasks);
	values[2] = datum_list_array(&contexts);
	values[3] = datum_list_array(&keys);
	if (tasker_run(&different_tasks, values, NULL) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_IDEMPOTENCY),
				 errmsg("idempotency key \"%s\" stands for another task",
						TextDatumGetCString(tasker_value_notnull(0, 1))),
				 DatumGetBool(tasker_value_notnull(0, 3)) ?
				 errdetail("Task " INT64_FORMAT " was created with it and is gone.",
						   DatumGetInt64(tasker_value_notnull(0, 2))) :
				 errdetail("Task " INT64_FORMAT " was created with it, for another named task or with another context.",
						   DatumGetInt64(tasker_value_notnull(0, 2))),
				 errhint("Use another key, or the same name, version and context as the first time.")));
}

/* Insert the tasks with everything that belongs to them. */
static void
insert_all(Request *request, const Template *template, int owner, DatumList *ids, DatumList *contexts)
{
	TimestampTz now = tasker_now();
	bool		later = request->start_at > now;
	Datum		id_array = datum_list_array(ids);
	Datum		values[7 + COMMON];
	char		nulls[8 + COMMON] = "             ";

	values[0] = id_array;
	values[1] = datum_list_array(contexts);
	values[2] = TimestampTzGetDatum(now);
	values[3] = TimestampTzGetDatum(request->start_at);
	nulls[3] = request->start_at == 0 ? 'n' : ' ';
	values[4] = Int32GetDatum(template->named_task_id);
	values[5] = Int32GetDatum(owner);
	values[6] = Int32GetDatum(request->priority);
	for (int i = 0; i < COMMON; i++)
	{
		values[7 + i] = request->common[i];
		nulls[7 + i] = request->common_null[i] ? 'n' : ' ';
	}
	tasker_run(&insert_tasks, values, nulls);

	values[1] = Int32GetDatum(template->named_task_id);
	values[2] = Int32GetDatum(owner);
	values[3] = Int32GetDatum(request->priority);
	values[4] = TimestampTzGetDatum(request->start_at);
	tasker_run(&insert_steps, values, later ? NULL : "    n");
	tasker_run(&insert_edges, values, NULL);
	if (later)
	{
		values[2] = TimestampTzGetDatum(request->start_at);
		tasker_run(&time_roots, values, NULL);
		wake_timer_at_commit(request->start_at);
	}
	else
		wake_lanes_of_rows(tasker_run(&hint_roots, values, NULL));
}

/* Create what is asked for. Returns the ids, in the order of the contexts. */
static int64 *
create(Request *request)
{
	int64	   *ids = palloc(Max(request->n, 1) * sizeof(int64));
	bool	   *existing = palloc0(Max(request->n, 1) * sizeof(bool));
	TaskerSection section;
	Template	template;
	DatumList	new_ids,
				new_contexts;
	Oid			sequence;
	int			owner;

	tasker_enter(&section);
	check_request(request);
	guard_arm_if_new();
	owner = owner_id_for(tasker_caller());
	template = look_up_template(request);
	sequence = task_id_sequence();
	for (int i = 0; i < request->n; i++)
		ids[i] = next_task_id(sequence);
	resolve_keys(request, owner, ids, existing);

	datum_list_init(&new_ids, INT8OID);
	datum_list_init(&new_contexts, JSONBOID);
	for (int i = 0; i < request->n; i++)
		if (!existing[i])
		{
			datum_list_add(&new_ids, Int64GetDatum(ids[i]));
			datum_list_add(&new_contexts, request->contexts.values[i]);
		}
	check_open_tasks(owner, new_ids.length);
	if (new_ids.length > 0)
		insert_all(request, &template, owner, &new_ids, &new_contexts);
	check_existing(request, &template, ids, existing);
	tasker_leave(&section);
	return ids;
}

PG_FUNCTION_INFO_V1(tasker_create_task);
PG_FUNCTION_INFO_V1(tasker_create_tasks);
PG_FUNCTION_INFO_V1(tasker_next_task_id);

/* create_task(name, context, namespace, version, priority, start_at, idempotency_key,
 *			   tags, initiator, source_system, reason, correlation_id, traceparent) */
Datum
tasker_create_task(PG_FUNCTION_ARGS)
{
	Request		request;

	read_request(fcinfo, &request);
	PG_RETURN_INT64(create(&request)[0]);
}

/* create_tasks(…): the same with arrays of contexts and of keys */
Datum
tasker_create_tasks(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Request		request;
	int64	   *ids;

	read_requests(fcinfo, &request);
	ids = create(&request);

	tasker_begin_srf(fcinfo);
	for (int i = 0; i < request.n; i++)
	{
		Datum		values[1] = {Int64GetDatum(ids[i])};
		bool		nulls[1] = {false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* next_task_id(): an id that no other task has or will have */
Datum
tasker_next_task_id(PG_FUNCTION_ARGS)
{
	TaskerSection section;
	int64		id;

	tasker_enter(&section);
	id = next_task_id(task_id_sequence());
	tasker_leave(&section);
	PG_RETURN_INT64(id);
}
