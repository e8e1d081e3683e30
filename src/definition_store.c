/*
 * definition_store.c
 *	  Writing a checked definition into named_tasks, named_steps,
 *	  named_step_edges, queues and task_namespaces: one statement each, however
 *	  many steps there are.
 *
 * Called by definition.c.
 */
#include "definition.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"

static TaskerQuery find_namespace = {
	.sql = "SELECT namespace_id FROM tasker.task_namespaces WHERE name = $1",
	.args = {TEXTOID},
	.columns = {INT4OID},
};

static TaskerQuery add_namespace = {
	.sql = "INSERT INTO tasker.task_namespaces (name) VALUES ($1) ON CONFLICT DO NOTHING",
	.args = {TEXTOID},
};

static TaskerQuery clear_default = {
	.sql = "UPDATE tasker.named_tasks SET is_default = false "
	"WHERE namespace_id = $1 AND name = $2 AND is_default",
	.args = {INT4OID, TEXTOID},
};

static TaskerQuery add_version = {
	.sql = "INSERT INTO tasker.named_tasks (namespace_id, name, version, description, definition, "
	"is_default, step_count, edge_count, runs_in_database, owner) "
	"VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) "
	"ON CONFLICT (namespace_id, name, version) DO NOTHING RETURNING named_task_id",
	.args = {INT4OID, TEXTOID, TEXTOID, TEXTOID, JSONBOID,
	BOOLOID, INT4OID, INT4OID, BOOLOID, INT4OID},
	.columns = {INT4OID},
};

/* In the order of the names, so that two transactions do not deadlock. */
static TaskerQuery add_queues = {
	.sql = "INSERT INTO tasker.queues (name) "
	"SELECT DISTINCT q.name FROM pg_catalog.unnest($1) AS q (name) "
	"WHERE NOT EXISTS (SELECT FROM tasker.queues x WHERE x.name = q.name) "
	"ORDER BY q.name ON CONFLICT DO NOTHING",
	.args = {TEXTARRAYOID},
};

/* Arrays in the order of the numbers; delays are slices of one array. */
static TaskerQuery add_steps = {
	.sql = "INSERT INTO tasker.named_steps (named_task_id, step_no, name, description, handler_kind, "
	"handler, queue_id, parents, retryable, max_attempts, backoff, backoff_base, backoff_factor, "
	"backoff_cap, backoff_jitter, backoff_delays, timeout, lease, priority, handler_owner) "
	"SELECT $1, s.no::int, s.name, s.description, s.kind, s.handler, q.queue_id, s.parents, s.retryable, "
	"s.max_attempts, s.backoff, s.base, s.factor, s.cap, s.jitter, "
	"CASE WHEN s.last >= s.first THEN $17[s.first:s.last] END, s.timeout, s.lease, s.priority, s.function_owner "
	"FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), "
	"pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), "
	"pg_catalog.unnest($9), pg_catalog.unnest($10), pg_catalog.unnest($11), pg_catalog.unnest($12), "
	"pg_catalog.unnest($13), pg_catalog.unnest($14), pg_catalog.unnest($15), pg_catalog.unnest($16), "
	"pg_catalog.unnest($18), pg_catalog.unnest($19), pg_catalog.unnest($20)) WITH ORDINALITY "
	"AS s (name, description, kind, handler, parents, retryable, max_attempts, backoff, base, factor, "
	"cap, jitter, first, last, timeout, lease, priority, function_owner, no) "
	"LEFT JOIN tasker.queues q ON s.kind = 'queue' AND q.name = s.handler",
	.args = {INT4OID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, INT4ARRAYOID,
		BOOLARRAYOID, INT4ARRAYOID, TEXTARRAYOID, INTERVALARRAYOID, FLOAT8ARRAYOID,
		INTERVALARRAYOID, FLOAT8ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INTERVALARRAYOID,
	INTERVALARRAYOID, INTERVALARRAYOID, INT4ARRAYOID, INT4ARRAYOID},
};

static TaskerQuery add_edges = {
	.sql = "INSERT INTO tasker.named_step_edges (named_task_id, from_step_no, to_step_no) "
	"SELECT $1, e.from_step_no, e.to_step_no "
	"FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) AS e (from_step_no, to_step_no)",
	.args = {INT4OID, INT4ARRAYOID, INT4ARRAYOID},
};

static int
namespace_id_for(Datum name)
{
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (tasker_run(&find_namespace, &name, NULL) == 1)
			return DatumGetInt32(tasker_value_notnull(0, 1));
		tasker_run(&add_namespace, &name, NULL);
	}
}

/* No version of the name is the default one any more. */
void
clear_default_version(int namespace_id, Datum name)
{
	Datum		values[2] = {Int32GetDatum(namespace_id), name};

	tasker_run(&clear_default, values, NULL);
}

/* 0 if the version is there already */
static int
store_version(const Datum *name, const Definition *definition, Datum document, bool is_default)
{
	Datum		values[10];
	char		nulls[11] = "          ";

	values[0] = Int32GetDatum(namespace_id_for(name[0]));
	values[1] = name[1];
	values[2] = name[2];
	values[3] = (Datum) 0;
	if (definition->description != NULL)
		values[3] = CStringGetTextDatum(definition->description);
	else
		nulls[3] = 'n';
	values[4] = document;
	values[5] = BoolGetDatum(is_default);
	values[6] = Int32GetDatum(definition->nsteps);
	values[7] = Int32GetDatum(definition->nedges);
	values[8] = BoolGetDatum(definition->runs_in_database);
	values[9] = Int32GetDatum(owner_id_for(tasker_caller()));

	if (is_default)
		clear_default_version(DatumGetInt32(values[0]), name[1]);
	if (tasker_run(&add_version, values, nulls) == 0)
		return 0;
	return DatumGetInt32(tasker_value_notnull(0, 1));
}

static void
store_queues(const Definition *definition)
{
	DatumList	names;
	Datum		values[1];

	datum_list_init(&names, TEXTOID);
	for (int i = 0; i < definition->nsteps; i++)
		if (definition->steps[i].kind == HANDLER_QUEUE)
			datum_list_add(&names, CStringGetTextDatum(definition->steps[i].handler));
	if (names.length == 0)
		return;
	values[0] = datum_list_array(&names);
	tasker_run(&add_queues, values, NULL);
}

/* The parameters of add_steps, counted from 0. */
enum
{
	P_ID, P_NAME, P_DESCRIPTION, P_KIND, P_HANDLER, P_PARENTS, P_RETRYABLE, P_MAX_ATTEMPTS,
	P_BACKOFF, P_BASE, P_FACTOR, P_CAP, P_JITTER, P_FIRST, P_LAST, P_TIMEOUT, P_DELAYS,
	P_LEASE, P_PRIORITY, P_FUNCTION_OWNER, PARAMETERS
};

static const Oid element_types[PARAMETERS] = {
	[P_NAME] = TEXTOID,[P_DESCRIPTION] = TEXTOID,[P_KIND] = TEXTOID,[P_HANDLER] = TEXTOID,
	[P_PARENTS] = INT4OID,[P_RETRYABLE] = BOOLOID,[P_MAX_ATTEMPTS] = INT4OID,
	[P_BACKOFF] = TEXTOID,[P_BASE] = INTERVALOID,[P_FACTOR] = FLOAT8OID,[P_CAP] = INTERVALOID,
	[P_JITTER] = FLOAT8OID,[P_FIRST] = INT4OID,[P_LAST] = INT4OID,[P_TIMEOUT] = INTERVALOID,
	[P_DELAYS] = INTERVALOID,[P_LEASE] = INTERVALOID,[P_PRIORITY] = INT4OID,
	[P_FUNCTION_OWNER] = INT4OID,
};

static void
list_text(DatumList *list, const char *text)
{
	if (text == NULL)
		datum_list_add_null(list);
	else
		datum_list_add(list, CStringGetTextDatum(text));
}

static void
list_step(DatumList *lists, const StepDefinition *step)
{
	static const char *const kinds[] = {
		[HANDLER_FUNCTION] = "function",[HANDLER_SQL] = "sql",[HANDLER_QUEUE] = "queue",
	};
	const StepPolicy *policy = &step->policy;

	list_text(&lists[P_NAME], step->name);
	list_text(&lists[P_DESCRIPTION], step->description);
	list_text(&lists[P_KIND], kinds[step->kind]);
	list_text(&lists[P_HANDLER], step->handler);
	datum_list_add(&lists[P_PARENTS], Int32GetDatum(step->ndepends));
	datum_list_add(&lists[P_RETRYABLE], BoolGetDatum(policy->retryable));
	datum_list_add(&lists[P_MAX_ATTEMPTS], Int32GetDatum(policy->max_attempts));
	list_text(&lists[P_BACKOFF], backoff_kind_name(policy->backoff));
	datum_list_add(&lists[P_BASE], IntervalPGetDatum(&policy->base));
	datum_list_add(&lists[P_FACTOR], Float8GetDatum(policy->factor));
	datum_list_add(&lists[P_CAP], IntervalPGetDatum(&policy->cap));
	datum_list_add(&lists[P_JITTER], Float8GetDatum(policy->jitter));
	datum_list_add(&lists[P_FIRST], Int32GetDatum(lists[P_DELAYS].length + 1));
	for (int i = 0; i < policy->ndelays; i++)
		datum_list_add(&lists[P_DELAYS], IntervalPGetDatum(&policy->delays[i]));
	datum_list_add(&lists[P_LAST], Int32GetDatum(lists[P_DELAYS].length));
	if (policy->has_timeout)
		datum_list_add(&lists[P_TIMEOUT], IntervalPGetDatum(&policy->timeout));
	else
		datum_list_add_null(&lists[P_TIMEOUT]);
	datum_list_add(&lists[P_LEASE], IntervalPGetDatum(&policy->lease));
	datum_list_add(&lists[P_PRIORITY], Int32GetDatum(policy->priority));
	if (step->kind == HANDLER_FUNCTION)
		datum_list_add(&lists[P_FUNCTION_OWNER], Int32GetDatum(owner_id_for(step->function_owner)));
	else
		datum_list_add_null(&lists[P_FUNCTION_OWNER]);
}

static void
store_steps(int named_task_id, const Definition *definition)
{
	DatumList	lists[PARAMETERS];
	Datum		values[PARAMETERS];

	for (int i = P_ID + 1; i < PARAMETERS; i++)
		datum_list_init(&lists[i], element_types[i]);
	for (int i = 0; i < definition->nsteps; i++)
	{
		CHECK_FOR_INTERRUPTS();
		list_step(lists, &definition->steps[definition->order[i]]);
	}
	values[P_ID] = Int32GetDatum(named_task_id);
	for (int i = P_ID + 1; i < PARAMETERS; i++)
		values[i] = datum_list_array(&lists[i]);
	tasker_run(&add_steps, values, NULL);
}

static void
store_edges(int named_task_id, const Definition *definition)
{
	DatumList	from;
	DatumList	to;
	Datum		values[3];

	datum_list_init(&from, INT4OID);
	datum_list_init(&to, INT4OID);
	for (int i = 0; i < definition->nsteps; i++)
	{
		const StepDefinition *step = &definition->steps[definition->order[i]];

		for (int p = 0; p < step->ndepends; p++)
		{
			datum_list_add(&from, Int32GetDatum(definition->steps[step->parents[p]].step_no));
			datum_list_add(&to, Int32GetDatum(step->step_no));
		}
	}
	values[0] = Int32GetDatum(named_task_id);
	values[1] = datum_list_array(&from);
	values[2] = datum_list_array(&to);
	tasker_run(&add_edges, values, NULL);
}

/*
 * Store the definition under (namespace, name, version), the three texts in
 * "name". Returns its id, or 0 if that version is there already. Inside a
 * section, with the name locked.
 */
int
definition_store(const Datum *name, const Definition *definition, Datum document, bool is_default)
{
	int			id = store_version(name, definition, document, is_default);

	if (id != 0)
	{
		store_queues(definition);
		store_steps(id, definition);
		store_edges(id, definition);
	}
	return id;
}
