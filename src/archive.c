/*
 * archive.c
 *	  A task's whole document, and the function, if there is one, that is given
 *	  it before retention removes the task.
 *
 * A superuser chooses the function. It runs as its own owner, never as who
 * happens to call it, in the transaction that removes the task, with only
 * pg_catalog in its search_path, within a few seconds. It runs as a
 * security-restricted operation, like the functions of an index: what it could
 * leave for later to run with more rights, a deferred trigger above all, is
 * refused. An error rolls back what it did and is the caller's to keep.
 *
 * Called by retention.c.
 */
#include "archive.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "definition.h"
#include "handler.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

/* The longest that the function may take for a task, in ms: the scheduler waits for it. */
#define ARCHIVE_LIMIT_MS	5000

static TaskerQuery forget_function = {
	.sql = "DELETE FROM tasker.archive",
};

static TaskerQuery set_function = {
	.sql = "INSERT INTO tasker.archive (function, function_owner) VALUES ($1, $2)",
	.args = {TEXTOID, NAMEOID},
};

static TaskerQuery read_function = {
	.sql = "SELECT function, function_owner FROM tasker.archive",
	.columns = {TEXTOID, NAMEOID},
};

static TaskerQuery whole_document = {
	.sql = "SELECT pg_catalog.jsonb_build_object("
	"'task', pg_catalog.to_jsonb(t) - 'named_task_id' - 'owner' - 'blocked' || pg_catalog.jsonb_build_object("
	"'name', n.name, 'namespace', s.name, 'version', n.version, 'owner', o.role_name, "
	"'idempotency_key', (SELECT i.key FROM tasker.idempotency_keys i WHERE i.task_id = t.task_id)), "
	"'steps', (SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(w) - 'task_id' - 'step_no' - 'lane' - 'lease' "
	"|| pg_catalog.jsonb_build_object('name', d.name, 'handler_kind', d.handler_kind, 'handler', d.handler, "
	"'results', COALESCE(w.results, (SELECT r.results FROM tasker.workflow_step_results r "
	"WHERE r.task_id = w.task_id AND r.step_id = w.step_id))) ORDER BY w.step_id), '[]') "
	"FROM tasker.workflow_steps w "
	"LEFT JOIN tasker.named_steps d ON d.named_task_id = t.named_task_id AND d.step_no = w.step_no "
	"WHERE w.task_id = t.task_id), "
	"'edges', (SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(e.from_step_id, e.to_step_id) "
	"ORDER BY e.from_step_id, e.to_step_id), '[]') FROM tasker.workflow_step_edges e WHERE e.task_id = t.task_id), "
	"'history', (SELECT COALESCE(pg_catalog.jsonb_agg(h.line ORDER BY h.created_at, h.step_id, h.attempt), '[]') FROM ("
	"SELECT k.created_at, 0 AS step_id, 0 AS attempt, pg_catalog.to_jsonb(k) - 'slot' - 'task_id' AS line "
	"FROM tasker.task_transitions k WHERE k.task_id = t.task_id UNION ALL "
	"SELECT k.created_at, k.step_id, k.attempt, pg_catalog.to_jsonb(k) - 'slot' - 'task_id' "
	"FROM tasker.workflow_step_transitions k WHERE k.task_id = t.task_id) AS h)) "
	"FROM tasker.tasks t "
	"JOIN tasker.named_tasks n ON n.named_task_id = t.named_task_id "
	"JOIN tasker.task_namespaces s ON s.namespace_id = n.namespace_id "
	"LEFT JOIN tasker.owners o ON o.owner_id = t.owner "
	"WHERE t.task_id = $1",
	.args = {INT8OID},
	.columns = {JSONBOID},
	.read_only = true,
};

/*
 * The task's document, by the active snapshot, in the caller's memory context;
 * NULL if there is no such task.
 */
static Jsonb *
document_of(int64 task_id)
{
	MemoryContext context = CurrentMemoryContext;
	TaskerSection section;
	Datum		values[1] = {Int64GetDatum(task_id)};
	Jsonb	   *document = NULL;

	tasker_enter(&section);
	/* the history is found by BRIN */
	(void) set_config_option("enable_bitmapscan", "on", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (tasker_run(&whole_document, values, NULL) == 1)
	{
		MemoryContextSwitchTo(context); /* the section's own ends with it */
		document = DatumGetJsonbPCopy(tasker_value_notnull(0, 1));
	}
	tasker_leave(&section);
	return document;
}

static Oid
owner_of_function(Oid function)
{
	Oid			owner = tasker_function_owner(function);

	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_NO_FUNCTION),
				 errmsg("the archive function does not exist any more"),
				 errdetail("It was dropped a moment ago."),
				 errhint("Choose another one with tasker.set_archive.")));
	return owner;
}

/*
 * The function that is to be called, InvalidOid for none. Inside a section. It
 * gets every role's tasks: so one of its name that somebody else has made since
 * is not the one that was chosen.
 */
Oid
archive_function(void)
{
	const char *chosen;
	const char *owner_then;
	const char *owner_now;
	Oid			function;

	if (tasker_run(&read_function, NULL, NULL) == 0)
		return InvalidOid;
	chosen = TextDatumGetCString(tasker_value_notnull(0, 1));
	owner_then = NameStr(*DatumGetName(tasker_value_notnull(0, 2)));
	function = tasker_handler_function(chosen, BOOTSTRAP_SUPERUSERID,
									   "tasker.set_archive chose it; until it is there no task is removed.");
	owner_now = GetUserNameFromId(owner_of_function(function), false);
	if (strcmp(owner_now, owner_then) != 0 && !superuser_arg(owner_of_function(function)))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_HANDLER_GONE),
				 errmsg("archive function %s(jsonb) is not the one that was chosen", chosen),
				 errdetail("It belongs to role \"%s\"; when it was chosen it belonged to role \"%s\". Until it does, no task is removed.",
						   owner_now, owner_then),
				 errhint("ALTER FUNCTION … OWNER TO the former, or choose again with tasker.set_archive.")));
	return function;
}

/* As the function's owner, in the current subtransaction, which puts back the user after an error. */
static void
call_function(Oid function, Jsonb *document)
{
	LOCAL_FCINFO(call, 1);
	int			guc_level = NewGUCNestLevel();
	FmgrInfo	flinfo;
	Oid			userid;
	int			sec_context;

	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(owner_of_function(function),
						   sec_context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	begin_timeout(ARCHIVE_LIMIT_MS);
	/* it may return null, as an SQL function that returns void does */
	fmgr_info(function, &flinfo);
	InitFunctionCallInfoData(*call, &flinfo, 1, InvalidOid, NULL, NULL);
	call->args[0].value = JsonbPGetDatum(document);
	call->args[0].isnull = false;
	(void) FunctionCallInvoke(call);
	CommandCounterIncrement();
	end_timeout(ARCHIVE_LIMIT_MS);
	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(userid, sec_context);
}

static void
say_limit(ErrorData *error)
{
	error->sqlerrcode = ERRCODE_TASKER_STEP_TIMEOUT;
	error->message = "the archive function took too long";
	error->detail = psprintf("It may take %d ms for a task.", ARCHIVE_LIMIT_MS);
	error->hint = "Have it write the document into a table, and do the rest from there.";
}

/*
 * Give the function the task's document, in a subtransaction. Returns NULL or
 * its error, in the caller's memory context. Outside of any section.
 */
ErrorData *
archive_task(Oid function, int64 task_id)
{
	MemoryContext old_context = CurrentMemoryContext;
	ResourceOwner old_owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		Jsonb	   *document;

		PushActiveSnapshot(GetTransactionSnapshot());
		/* in the subtransaction's memory */
		document = document_of(task_id);
		if (document != NULL)
			call_function(function, document);
		PopActiveSnapshot();
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		bool		over_time = handler_timed_out();

		MemoryContextSwitchTo(old_context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED && !over_time)
			ReThrowError(error);
		if (over_time)
			say_limit(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old_context);
	CurrentResourceOwner = old_owner;
	return error;
}

PG_FUNCTION_INFO_V1(tasker_task_document);
PG_FUNCTION_INFO_V1(tasker_set_archive);

/* task_document(task_id bigint): all there is of a task */
Datum
tasker_task_document(PG_FUNCTION_ARGS)
{
	int64		task_id = PG_GETARG_INT64(0);
	TaskerSection section;

	tasker_enter(&section);
	check_may_see(task_id);
	tasker_leave(&section);
	PG_RETURN_JSONB_P(document_of(task_id));
}

/* set_archive(function text): null for none */
Datum
tasker_set_archive(PG_FUNCTION_ARGS)
{
	TaskerSection section;
	Datum		values[2] = {PG_ARGISNULL(0) ? (Datum) 0 : PG_GETARG_DATUM(0)};

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ACCESS),
				 errmsg("permission denied to choose the archive function"),
				 errdetail("It gets every role's tasks, and runs as its own owner."),
				 errhint("A superuser can do it.")));
	if (!PG_ARGISNULL(0))
	{
		Oid			function = tasker_handler_function(text_to_cstring(PG_GETARG_TEXT_PP(0)), GetUserId(),
													   "It is to be the archive function.");

		values[1] = DirectFunctionCall1(namein, CStringGetDatum(GetUserNameFromId(owner_of_function(function), false)));
	}
	tasker_enter(&section);
	tasker_run(&forget_function, NULL, NULL);
	if (!PG_ARGISNULL(0))
		tasker_run(&set_function, values, NULL);
	tasker_leave(&section);
	PG_RETURN_VOID();
}
