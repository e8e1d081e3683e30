/*
 * definition.c
 *	  define_task, set_default_version and drop_named_task: versions of
 *	  workflows, who may change them, and how they are stored.
 *
 * A name belongs to the role that defined its first version. What changes the
 * versions of a name does so one after the other, under a lock on the name;
 * making tasks of them does not wait for that lock.
 */
#include "definition.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"

/* What names a version of a workflow, and the same for queries. */
typedef struct VersionName
{
	char	   *namespace;
	char	   *name;
	char	   *version;
	Datum		values[3];
} VersionName;

static TaskerQuery find_version = {
	.sql = "SELECT t.named_task_id, t.is_default, t.namespace_id "
	"FROM tasker.task_namespaces n JOIN tasker.named_tasks t ON t.namespace_id = n.namespace_id "
	"WHERE n.name = $1 AND t.name = $2 AND t.version = $3",
	.args = {TEXTOID, TEXTOID, TEXTOID},
	.columns = {INT4OID, BOOLOID, INT4OID},
};

static TaskerQuery same_definition = {
	.sql = "SELECT definition = $2 FROM tasker.named_tasks WHERE named_task_id = $1",
	.args = {INT4OID, JSONBOID},
	.columns = {BOOLOID},
};

static TaskerQuery find_name_owner = {
	.sql = "SELECT o.role_oid, o.role_name "
	"FROM tasker.task_namespaces n JOIN tasker.named_tasks t ON t.namespace_id = n.namespace_id "
	"JOIN tasker.owners o ON o.owner_id = t.owner "
	"WHERE n.name = $1 AND t.name = $2 ORDER BY t.named_task_id LIMIT 1",
	.args = {TEXTOID, TEXTOID},
	.columns = {OIDOID, NAMEOID},
};

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

static TaskerQuery make_default = {
	.sql = "UPDATE tasker.named_tasks SET is_default = true WHERE named_task_id = $1",
	.args = {INT4OID},
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
	"backoff_cap, backoff_jitter, backoff_delays, timeout, lease, priority) "
	"SELECT $1, s.no::int, s.name, s.description, s.kind, s.handler, q.queue_id, s.parents, s.retryable, "
	"s.max_attempts, s.backoff, s.base, s.factor, s.cap, s.jitter, "
	"CASE WHEN s.last >= s.first THEN $17[s.first:s.last] END, s.timeout, s.lease, s.priority "
	"FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), "
	"pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), "
	"pg_catalog.unnest($9), pg_catalog.unnest($10), pg_catalog.unnest($11), pg_catalog.unnest($12), "
	"pg_catalog.unnest($13), pg_catalog.unnest($14), pg_catalog.unnest($15), pg_catalog.unnest($16), "
	"pg_catalog.unnest($18), pg_catalog.unnest($19)) WITH ORDINALITY "
	"AS s (name, description, kind, handler, parents, retryable, max_attempts, backoff, base, factor, "
	"cap, jitter, first, last, timeout, lease, priority, no) "
	"LEFT JOIN tasker.queues q ON s.kind = 'queue' AND q.name = s.handler",
	.args = {INT4OID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, INT4ARRAYOID,
		BOOLARRAYOID, INT4ARRAYOID, TEXTARRAYOID, INTERVALARRAYOID, FLOAT8ARRAYOID,
		INTERVALARRAYOID, FLOAT8ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INTERVALARRAYOID,
	INTERVALARRAYOID, INTERVALARRAYOID, INT4ARRAYOID},
};

static TaskerQuery add_edges = {
	.sql = "INSERT INTO tasker.named_step_edges (named_task_id, from_step_no, to_step_no) "
	"SELECT $1, e.from_step_no, e.to_step_no "
	"FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) AS e (from_step_no, to_step_no)",
	.args = {INT4OID, INT4ARRAYOID, INT4ARRAYOID},
};

static TaskerQuery has_tasks = {
	.sql = "SELECT EXISTS (SELECT FROM tasker.tasks WHERE named_task_id = $1)",
	.args = {INT4OID},
	.columns = {BOOLOID},
};

static TaskerQuery other_versions = {
	.sql = "SELECT pg_catalog.count(*) FROM tasker.named_tasks "
	"WHERE namespace_id = $1 AND name = $2 AND named_task_id <> $3",
	.args = {INT4OID, TEXTOID, INT4OID},
	.columns = {INT8OID},
};

static TaskerQuery drop_edges = {
	.sql = "DELETE FROM tasker.named_step_edges WHERE named_task_id = $1",
	.args = {INT4OID},
};

static TaskerQuery drop_steps = {
	.sql = "DELETE FROM tasker.named_steps WHERE named_task_id = $1",
	.args = {INT4OID},
};

static TaskerQuery drop_version = {
	.sql = "DELETE FROM tasker.named_tasks WHERE named_task_id = $1",
	.args = {INT4OID},
};

/* ------------------------------------------------------------ arguments */

static char *
name_argument(FunctionCallInfo fcinfo, int n, const char *argument, const char *what)
{
	char	   *name;

	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("argument \"%s\" is null", argument),
				 errdetail("It is the name of a %s.", what),
				 errhint("Give a text of 1 to %d bytes, or leave the argument out if it has a default.",
						 TASKER_MAX_NAME)));
	name = text_to_cstring(PG_GETARG_TEXT_PP(n));
	check_name(name, strlen(name), what, NULL);
	return name;
}

static VersionName
version_arguments(FunctionCallInfo fcinfo, int name, int version, int namespace)
{
	VersionName result;

	result.name = name_argument(fcinfo, name, "name", "named task");
	result.version = name_argument(fcinfo, version, "version", "version");
	result.namespace = name_argument(fcinfo, namespace, "namespace", "namespace");
	result.values[0] = CStringGetTextDatum(result.namespace);
	result.values[1] = CStringGetTextDatum(result.name);
	result.values[2] = CStringGetTextDatum(result.version);
	return result;
}

/* ------------------------------------------------------------ access */

static void
check_submitter(void)
{
	Oid			caller = tasker_caller();

	if (access_level(caller) < ACCESS_SUBMITTER)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ACCESS),
				 errmsg("permission denied to define named tasks"),
				 errdetail("Role \"%s\" does not have level submitter.", GetUserNameFromId(caller, false)),
				 errhint("An administrator can run SELECT tasker.grant_access('%s', 'submitter').",
						 GetUserNameFromId(caller, false))));
}

/* Refuse the caller if the name is another role's. Inside a section. */
static void
check_name_owner(VersionName *v)
{
	Oid			caller = tasker_caller();
	Oid			role;
	char	   *recorded;
	char	   *current;

	if (tasker_run(&find_name_owner, v->values, NULL) == 0)
		return;
	role = DatumGetObjectId(tasker_value_notnull(0, 1));
	recorded = pstrdup(NameStr(*DatumGetName(tasker_value_notnull(0, 2))));
	current = GetUserNameFromId(role, true);
	if (current != NULL && strcmp(current, recorded) == 0 && has_privs_of_role(caller, role))
		return;
	if (access_level(caller) >= ACCESS_ADMIN)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_ACCESS),
			 errmsg("permission denied for named task \"%s\"", clipped_name(v->name)),
			 current == NULL || strcmp(current, recorded) != 0 ?
			 errdetail("Its name in namespace \"%s\" belongs to role \"%s\" (oid %u), which does not exist any more.",
					   clipped_name(v->namespace), recorded, role) :
			 errdetail("Its name in namespace \"%s\" belongs to role \"%s\", of which role \"%s\" is not a member.",
					   clipped_name(v->namespace), recorded, GetUserNameFromId(caller, false)),
			 errhint("Choose another name or namespace, or have its owner or an administrator do this.")));
}

/* ------------------------------------------------------------ locks */

static Oid
named_tasks_relation(void)
{
	return get_relname_relid("named_tasks", get_namespace_oid("tasker", false));
}

/* One transaction at a time changes the versions of a name. */
static void
lock_name(VersionName *v)
{
	uint32		hash = hash_combine(hash_bytes((unsigned char *) v->namespace, strlen(v->namespace)),
									hash_bytes((unsigned char *) v->name, strlen(v->name)));

	LockDatabaseObject(named_tasks_relation(), hash, 0, AccessExclusiveLock);
}

void
lock_named_task(int named_task_id, LOCKMODE mode)
{
	LockDatabaseObject(named_tasks_relation(), (Oid) named_task_id, 1, mode);
}

/* ------------------------------------------------------------ storing */

/*
 * The id of the version if it is there with this definition, or 0; one with
 * another definition is refused. Inside a section.
 */
static int
find_same(VersionName *v, Datum document)
{
	Datum		values[2] = {0, document};

	check_name_owner(v);
	if (tasker_run(&find_version, v->values, NULL) == 0)
		return 0;
	values[0] = tasker_value_notnull(0, 1);
	if (tasker_run(&same_definition, values, NULL) == 1 &&
		DatumGetBool(tasker_value_notnull(0, 1)))
		return DatumGetInt32(values[0]);
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_VERSION_EXISTS),
			 errmsg("version \"%s\" of named task \"%s\" exists with another definition",
					clipped_name(v->version), clipped_name(v->name)),
			 errdetail("A definition does not change: tasks of namespace \"%s\" may be running by it.",
					   clipped_name(v->namespace)),
			 errhint("Give the new definition another version.")));
}

static int
namespace_id_for(VersionName *v)
{
	for (;;)
	{
		if (tasker_run(&find_namespace, v->values, NULL) == 1)
			return DatumGetInt32(tasker_value_notnull(0, 1));
		tasker_run(&add_namespace, v->values, NULL);
	}
}

/* 0 if the version came into being meanwhile */
static int
store_version(VersionName *v, const Definition *definition, Datum document, bool is_default)
{
	Datum		values[10];
	char		nulls[11] = "          ";

	values[0] = Int32GetDatum(namespace_id_for(v));
	values[1] = v->values[1];
	values[2] = v->values[2];
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
		tasker_run(&clear_default, values, NULL);
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
	P_LEASE, P_PRIORITY, PARAMETERS
};

static const Oid element_types[PARAMETERS] = {
	[P_NAME] = TEXTOID,[P_DESCRIPTION] = TEXTOID,[P_KIND] = TEXTOID,[P_HANDLER] = TEXTOID,
	[P_PARENTS] = INT4OID,[P_RETRYABLE] = BOOLOID,[P_MAX_ATTEMPTS] = INT4OID,
	[P_BACKOFF] = TEXTOID,[P_BASE] = INTERVALOID,[P_FACTOR] = FLOAT8OID,[P_CAP] = INTERVALOID,
	[P_JITTER] = FLOAT8OID,[P_FIRST] = INT4OID,[P_LAST] = INT4OID,[P_TIMEOUT] = INTERVALOID,
	[P_DELAYS] = INTERVALOID,[P_LEASE] = INTERVALOID,[P_PRIORITY] = INT4OID,
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

/* The id of the version, which is stored unless it is there already. */
static int
store(VersionName *v, const Definition *definition, Datum document, bool is_default)
{
	TaskerSection section;
	int			id;

	tasker_enter(&section);
	lock_name(v);
	while ((id = find_same(v, document)) == 0)
	{
		id = store_version(v, definition, document, is_default);
		if (id == 0)
			continue;
		store_queues(definition);
		store_steps(id, definition);
		store_edges(id, definition);
		break;
	}
	tasker_leave(&section);
	return id;
}

/* ------------------------------------------------------------ SQL functions */

PG_FUNCTION_INFO_V1(tasker_define_task);
PG_FUNCTION_INFO_V1(tasker_set_default_version);
PG_FUNCTION_INFO_V1(tasker_drop_named_task);

static void
check_document(FunctionCallInfo fcinfo, int n)
{
	Size		size;

	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_TYPE),
				 errmsg("the definition is null"),
				 errdetail("Argument \"definition\" is the SQL null."),
				 errhint("Give a JSON object with the key \"steps\", or what tasker.workflow() returns.")));
	size = VARSIZE(PG_GETARG_JSONB_P(n));
	if (size > (Size) tasker_max_definition_size * 1024)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_TOO_LARGE),
				 errmsg("the definition is too large"),
				 errdetail("It takes %zu bytes, and tasker.max_definition_size is %d kB.", size,
						   tasker_max_definition_size),
				 errhint("Split the workflow, or have a superuser raise tasker.max_definition_size.")));
}

/*
 * define_task(name text, definition jsonb, namespace text, version text,
 *			   make_default boolean)
 */
Datum
tasker_define_task(PG_FUNCTION_ARGS)
{
	VersionName v = version_arguments(fcinfo, 0, 3, 2);
	TaskerSection section;
	Definition *definition;
	Jsonb	   *document;
	int			id;

	if (tasker_inside())
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_INTERNAL),
				 errmsg("define_task is called from a statement of tasker's own"),
				 errdetail("The definition could not be checked with the caller's rights."),
				 errhint("Call it from a statement of your own.")));
	check_submitter();
	check_document(fcinfo, 1);
	document = PG_GETARG_JSONB_P(1);

	tasker_enter(&section);
	id = find_same(&v, JsonbPGetDatum(document));
	tasker_leave(&section);
	if (id != 0)
		PG_RETURN_INT32(id);

	definition = definition_parse(document);
	definition_sort(definition);
	definition_check_handlers(definition);
	PG_RETURN_INT32(store(&v, definition, JsonbPGetDatum(document),
						  PG_ARGISNULL(4) || PG_GETARG_BOOL(4)));
}

/*
 * Find a version that the caller may change, and lock its name against other
 * changes. Inside a section; the result can be read from its query.
 */
static void
find_for_change(VersionName *v)
{
	lock_name(v);
	check_name_owner(v);
	if (tasker_run(&find_version, v->values, NULL) == 1)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_UNKNOWN_NAMED_TASK),
			 errmsg("version \"%s\" of named task \"%s\" does not exist",
					clipped_name(v->version), clipped_name(v->name)),
			 errdetail("There is none in namespace \"%s\".", clipped_name(v->namespace)),
			 errhint("tasker.named_tasks lists the versions of every named task.")));
}

/* set_default_version(name text, version text, namespace text) */
Datum
tasker_set_default_version(PG_FUNCTION_ARGS)
{
	VersionName v = version_arguments(fcinfo, 0, 1, 2);
	TaskerSection section;
	Datum		values[2];
	Datum		id;

	check_submitter();
	tasker_enter(&section);
	find_for_change(&v);
	if (!DatumGetBool(tasker_value_notnull(0, 2)))
	{
		id = tasker_value_notnull(0, 1);
		values[0] = tasker_value_notnull(0, 3);
		values[1] = v.values[1];
		tasker_run(&clear_default, values, NULL);
		tasker_run(&make_default, &id, NULL);
	}
	tasker_leave(&section);
	PG_RETURN_VOID();
}

static void
refuse_drop(VersionName *v, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_IN_USE),
			 errmsg("version \"%s\" of named task \"%s\" can not be dropped",
					clipped_name(v->version), clipped_name(v->name)),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

/* drop_named_task(name text, version text, namespace text) */
Datum
tasker_drop_named_task(PG_FUNCTION_ARGS)
{
	VersionName v = version_arguments(fcinfo, 0, 1, 2);
	TaskerSection section;
	Datum		values[3];
	bool		is_default;

	check_submitter();
	tasker_enter(&section);
	find_for_change(&v);
	is_default = DatumGetBool(tasker_value_notnull(0, 2));
	values[2] = tasker_value_notnull(0, 1);
	values[0] = tasker_value_notnull(0, 3);
	values[1] = v.values[1];
	if (is_default && tasker_run(&other_versions, values, NULL) == 1 &&
		DatumGetInt64(tasker_value_notnull(0, 1)) > 0)
		refuse_drop(&v, "It is the default version, and there are others.",
					"Choose another one with tasker.set_default_version first.");

	/* from here on nobody makes a task of it */
	lock_named_task(DatumGetInt32(values[2]), AccessExclusiveLock);
	tasker_run(&has_tasks, &values[2], NULL);
	if (DatumGetBool(tasker_value_notnull(0, 1)))
		refuse_drop(&v, "There are tasks of it.",
					"Tasks keep their definition; make another version the default instead.");
	tasker_run(&drop_edges, &values[2], NULL);
	tasker_run(&drop_steps, &values[2], NULL);
	tasker_run(&drop_version, &values[2], NULL);
	tasker_leave(&section);
	PG_RETURN_VOID();
}
