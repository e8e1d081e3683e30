/*
 * definition.c
 *	  define_task, set_default_version and drop_named_task: versions of
 *	  workflows, and who may change them.
 *
 * A name belongs to the role that defined its first version. What changes the
 * versions of a name does so one after the other, under a lock on the name;
 * making tasks of them does not wait for that lock.
 */
#include "definition.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "guard.h"
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
	.sql = "SELECT COALESCE(o.role_oid, 0::oid), o.role_name "
	"FROM tasker.task_namespaces n JOIN tasker.named_tasks t ON t.namespace_id = n.namespace_id "
	"JOIN tasker.owners o ON o.owner_id = t.owner "
	"WHERE n.name = $1 AND t.name = $2 ORDER BY t.named_task_id LIMIT 1",
	.args = {TEXTOID, TEXTOID},
	.columns = {OIDOID, NAMEOID},
};

static TaskerQuery make_default = {
	.sql = "UPDATE tasker.named_tasks SET is_default = true WHERE named_task_id = $1",
	.args = {INT4OID},
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
				 errhint("An administrator can run SELECT tasker.grant_access(%s, 'submitter').",
						 quote_literal_cstr(GetUserNameFromId(caller, false)))));
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
 * The id of the version if it is there with this definition, or 0. One with
 * another definition is refused, but only under the lock on the name: it may
 * be about to be dropped. Inside a section.
 */
static int
find_same(VersionName *v, Datum document, bool locked)
{
	Datum		values[2] = {0, document};

	check_name_owner(v);
	if (tasker_run(&find_version, v->values, NULL) == 0)
		return 0;
	values[0] = tasker_value_notnull(0, 1);
	if (tasker_run(&same_definition, values, NULL) == 1 &&
		DatumGetBool(tasker_value_notnull(0, 1)))
		return DatumGetInt32(values[0]);
	if (!locked)
		return 0;
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_VERSION_EXISTS),
			 errmsg("version \"%s\" of named task \"%s\" exists with another definition",
					clipped_name(v->version), clipped_name(v->name)),
			 errdetail("A definition does not change: tasks of namespace \"%s\" may be running by it.",
					   clipped_name(v->namespace)),
			 errhint("Give the new definition another version.")));
}

/* The id of the version, which is stored unless it is there already. */
static int
store(VersionName *v, const Definition *definition, Datum document, bool is_default)
{
	TaskerSection section;
	int			id;

	tasker_enter(&section);
	guard_arm_if_new();
	(void) owner_id_for(tasker_caller());	/* in a copy it may refuse */
	lock_name(v);
	while ((id = find_same(v, document, true)) == 0)
	{
		id = definition_store(v->values, definition, document, is_default);
		if (id != 0)
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
	id = find_same(&v, JsonbPGetDatum(document), false);
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
	Datum		id;

	check_submitter();
	tasker_enter(&section);
	find_for_change(&v);
	if (!DatumGetBool(tasker_value_notnull(0, 2)))
	{
		id = tasker_value_notnull(0, 1);
		clear_default_version(DatumGetInt32(tasker_value_notnull(0, 3)), v.values[1]);
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
