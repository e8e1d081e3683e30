/*
 * handler.c
 *	  Calling a step's handler: a function or a statement, as the session's own
 *	  role, with the settings the session had before, within its timeout.
 *
 * Called by attempt.c outside of any section: what runs here is the user's. The
 * limit of time is archive.c's as well.
 */
#include "handler.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

/* Counts changes of functions, schemas and roles: what was looked up is stale. */
static uint64 generation = 1;

static TimeoutId step_timeout;
static bool step_timeout_registered = false;
static volatile sig_atomic_t timed_out = false;

static void
catalog_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	generation++;
}

void
handler_init(void)
{
	CacheRegisterSyscacheCallback(PROCOID, catalog_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, catalog_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, catalog_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, catalog_changed, (Datum) 0);
}

/* The session's own limit, beside the step's: its role's statement_timeout. */
static int	session_limit = 0;

void
handler_limit(int ms)
{
	session_limit = ms;
}

/* How long the step may run, in ms; 0 for ever. */
int
handler_timeout(const StepDef *step)
{
	if (step->timeout_ms == 0 || session_limit == 0)
		return Max(step->timeout_ms, session_limit);
	return Min(step->timeout_ms, session_limit);
}

/* The step's time is over: as if its statement was cancelled. */
static void
time_is_over(void)
{
	timed_out = true;
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

/* What follows may take so long, in ms; 0 for ever. */
void
begin_timeout(int ms)
{
	timed_out = false;
	if (ms == 0)
		return;
	if (!step_timeout_registered)
	{
		step_timeout = RegisterTimeout(USER_TIMEOUT, time_is_over);
		step_timeout_registered = true;
	}
	enable_timeout_after(step_timeout, ms);
}

/* It returned; a timeout that came too late is forgotten. */
void
end_timeout(int ms)
{
	if (ms == 0)
		return;
	disable_timeout(step_timeout, false);
	if (timed_out)
		QueryCancelPending = false;
	timed_out = false;
}

/*
 * After an error: was it the step's timeout? Disarms it. What the error left
 * in the functions' state is not used again.
 */
bool
handler_timed_out(void)
{
	bool		result = timed_out;

	if (step_timeout_registered)
		disable_timeout(step_timeout, false);
	timed_out = false;
	generation++;
	return result;
}

/* ------------------------------------------------- another role's session */

/*
 * CALL tasker.run() may be made in the session of a role that did SET ROLE to
 * the steps' owner, or SET SESSION AUTHORIZATION. What runs then must not get
 * back to the role that logged in.
 */
bool
handler_is_guest(void)
{
	return MyProc->roleId != GetUserId();
}

static TaskerQuery held_cursors = {
	.sql = "SELECT c.name FROM pg_catalog.pg_cursors c WHERE c.is_holdable",
	.columns = {TEXTOID},
};

/* From here on the server refuses to change the role. Ends with the subtransaction. */
void
handler_confine(void)
{
	Oid			role;
	int			context;

	GetUserIdAndSecContext(&role, &context);
	SetUserIdAndSecContext(role, context | SECURITY_LOCAL_USERID_CHANGE);
}

/*
 * The handler and what it deferred are through. A cursor WITH HOLD would run
 * its query at the commit, unconfined.
 */
void
handler_release(void)
{
	TaskerSection section;
	Oid			role;
	int			context;
	uint64		n;

	PushActiveSnapshot(GetTransactionSnapshot());
	tasker_enter(&section);
	n = tasker_run(&held_cursors, NULL, NULL);
	for (uint64 row = 0; row < n; row++)
	{
		char	   *name = TextDatumGetCString(tasker_value_notnull(row, 1));
		Portal		portal = SPI_cursor_find(name);

		if (portal != NULL && portal->createSubid != InvalidSubTransactionId)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("a step can not leave cursor \"%s\" WITH HOLD in another role's session", name),
					 errdetail("The session is that of role \"%s\".", GetUserNameFromId(MyProc->roleId, false)),
					 errhint("Close the cursor, or CALL tasker.run() in a session of the steps' owner.")));
	}
	tasker_leave(&section);
	PopActiveSnapshot();
	GetUserIdAndSecContext(&role, &context);
	SetUserIdAndSecContext(role, context & ~SECURITY_LOCAL_USERID_CHANGE);
}

/* ------------------------------------------------------------ calling */

/*
 * The function is found by its name, and runs as the submitter. So it must be
 * the code of whoever's it was when the step was defined, or else of somebody
 * whom the submitter trusts as it does a definer (creation.c): itself, a role
 * that it is a member of, an admin. By name as well as by oid, since a restore
 * gives a role another oid, and a renamed one is still the same.
 */
static void
check_function_owner(StepDef *step)
{
	Oid			owner = step->handler->owner;
	char	   *name;

	if (step->owner_name == NULL)
		return;
	name = GetUserNameFromId(owner, true);
	if (name == NULL || strcmp(name, step->owner_name) == 0 ||
		(owner == step->owner && !OidIsValid(get_role_oid(step->owner_name, true))) ||
		has_privs_of_role(GetUserId(), owner) || access_level(owner) >= ACCESS_ADMIN)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_HANDLER_GONE),
			 errmsg("function %s(jsonb) is not the one that step \"%s\" was defined with",
					step->handler->text, step->name),
			 errdetail("It belongs to role \"%s\"; when the step was defined it belonged to role \"%s\".",
					   name, step->owner_name),
			 errhint("ALTER FUNCTION … OWNER TO the former, or define the workflow anew under another version.")));
}

/* Find the function, unless nothing has changed since it was found. */
static void
look_up_function(StepDef *step)
{
	Handler    *handler = step->handler;
	uint64		now = generation;
	Oid			function;

	if (handler->checked == now && handler->checked_for == GetUserId())
		return;
	function = tasker_handler_function(handler->text, GetUserId(),
									   psprintf("It is the handler of step \"%s\".", step->name));
	handler->returns_void = get_func_rettype(function) == VOIDOID;
	handler->owner = tasker_function_owner(function);
	fmgr_info_cxt(function, &handler->function, definition_cache_context());
	handler->checked = now;
	handler->checked_for = GetUserId();
}

static Jsonb *
call_function(StepDef *step, Jsonb *input, MemoryContext result_context)
{
	LOCAL_FCINFO(call, 1);
	Jsonb	   *result = NULL;
	Datum		value;

	look_up_function(step);
	check_function_owner(step);
	InitFunctionCallInfoData(*call, &step->handler->function, 1, InvalidOid, NULL, NULL);
	call->args[0].value = JsonbPGetDatum(input);
	call->args[0].isnull = false;
	value = FunctionCallInvoke(call);
	if (!call->isnull && !step->handler->returns_void)
	{
		MemoryContext old_context = MemoryContextSwitchTo(result_context);

		result = DatumGetJsonbPCopy(value);
		MemoryContextSwitchTo(old_context);
	}
	return result;
}

/* The one value that a statement gave, if it gave one. */
static Jsonb *
statement_result(StepDef *step, MemoryContext result_context)
{
	bool		isnull;
	Datum		value;
	Jsonb	   *result;
	MemoryContext old_context;

	if (SPI_tuptable == NULL || SPI_tuptable->tupdesc == NULL || SPI_processed == 0)
		return NULL;
	if (SPI_tuptable->tupdesc->natts == 1 && SPI_gettypeid(SPI_tuptable->tupdesc, 1) == VOIDOID)
		return NULL;
	if (SPI_processed > 1 || SPI_tuptable->tupdesc->natts != 1 ||
		SPI_gettypeid(SPI_tuptable->tupdesc, 1) != JSONBOID)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_RESULT),
				 errmsg("the statement of step \"%s\" must give one jsonb or nothing", step->name),
				 errdetail("It gave " UINT64_FORMAT " rows of %d columns, the first of type %s.",
						   (uint64) SPI_processed, SPI_tuptable->tupdesc->natts,
						   SPI_tuptable->tupdesc->natts > 0 ?
						   format_type_be(SPI_gettypeid(SPI_tuptable->tupdesc, 1)) : "none"),
				 errhint("Select one expression of type jsonb, for example jsonb_build_object(…).")));
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (isnull)
		return NULL;
	old_context = MemoryContextSwitchTo(result_context);
	result = DatumGetJsonbPCopy(value);
	MemoryContextSwitchTo(old_context);
	return result;
}

static Jsonb *
call_statement(StepDef *step, Jsonb *input, MemoryContext result_context)
{
	Oid			types[1] = {JSONBOID};
	Datum		values[1] = {JsonbPGetDatum(input)};
	Jsonb	   *result;
	int			rc;

	SPI_connect();
	if (step->handler->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(step->handler->text, 1, types);

		if (plan == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_TASKER_BAD_SQL),
					 errmsg("could not prepare the statement of step \"%s\"", step->name),
					 errdetail("%s", SPI_result_code_string(SPI_result)),
					 errhint("COPY and transaction control can not be a step.")));
		SPI_keepplan(plan);
		step->handler->plan = plan;
	}
	rc = SPI_execute_plan(step->handler->plan, values, NULL, false, 0);
	if (rc < 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_SQL),
				 errmsg("could not run the statement of step \"%s\"", step->name),
				 errdetail("%s", SPI_result_code_string(rc)),
				 errhint("COPY and transaction control can not be a step.")));
	result = statement_result(step, result_context);
	SPI_finish();
	return result;
}

/*
 * Run the handler in the current (sub)transaction. Returns its results in the
 * given context, or NULL; any error is the attempt's. Settings that it changed
 * are put back.
 */
Jsonb *
call_handler(StepDef *step, Jsonb *input, MemoryContext result_context)
{
	int			guc_level = NewGUCNestLevel();
	Jsonb	   *result;

	begin_timeout(handler_timeout(step));
	PushActiveSnapshot(GetTransactionSnapshot());
	result = step->handler->kind == HANDLER_FUNCTION ?
		call_function(step, input, result_context) :
		call_statement(step, input, result_context);
	PopActiveSnapshot();
	CommandCounterIncrement();
	end_timeout(handler_timeout(step));
	AtEOXact_GUC(false, guc_level);
	return result;
}
