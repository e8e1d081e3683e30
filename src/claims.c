/*
 * claims.c
 *	  The protocol of external workers, first half: claiming steps from queues,
 *	  and waiting for some. dequeue.c takes them; what a worker does with them is
 *	  completion.c's.
 *
 * Each call is one statement. A role of level worker serves every owner's
 * steps, any other its own.
 */
#include "claims.h"

#include "catalog/pg_type.h"
#include "engine.h"
#include "guard.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "shared.h"

#define MAX_LEASE		(30.0 * SECS_PER_DAY)
/* Longer the snapshot of the calling statement would hold back vacuum. */
#define MAX_WAIT_MS		1000
#define LOOK_AGAIN_MS	100

static TaskerQuery find_lanes = {
	.sql = "SELECT queue_id, paused_at IS NOT NULL, name FROM tasker.queues WHERE name = ANY ($1)",
	.args = {TEXTARRAYOID},
	.columns = {INT4OID, BOOLOID, TEXTOID},
};

/* ------------------------------------------------------------------ arguments */

double
seconds_argument(FunctionCallInfo fcinfo, int arg, const char *what, double missing)
{
	double		seconds;

	if (PG_ARGISNULL(arg))
		return missing;
	seconds = interval_seconds(PG_GETARG_INTERVAL_P(arg));
	if (seconds < 0 || seconds > MAX_LEASE)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("%s must be from 0 to 30 days", what),
				 errdetail("It is %g seconds.", seconds),
				 errhint("Leave it out for the usual one.")));
	return seconds;
}

/* The five arguments of a claim, from the given one on. */
void
read_claim(FunctionCallInfo fcinfo, int arg, Claim *claim)
{
	if (PG_ARGISNULL(arg) || PG_ARGISNULL(arg + 1) || PG_ARGISNULL(arg + 2))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("a claim needs queues, a worker and a number of steps"),
				 errdetail("%s null.", PG_ARGISNULL(arg) ? "The queues are" :
						   PG_ARGISNULL(arg + 1) ? "The worker is" : "The number is"),
				 errhint("For example: claim_steps('{payments}', 'worker-1', 10).")));
	claim->queues = PG_GETARG_DATUM(arg);
	claim->worker = PG_GETARG_TEXT_PP(arg + 1);
	check_remark(claim->worker, "the name of the worker", TASKER_MAX_NAME);
	if (VARSIZE_ANY_EXHDR(claim->worker) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("the name of a worker must not be empty"),
				 errdetail("It has no characters."),
				 errhint("Any text will do that tells workers apart, such as host and process.")));
	claim->limit = PG_GETARG_INT32(arg + 2);
	if (claim->limit < 1 || claim->limit > tasker_max_claim)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("a claim is for 1 to %d steps", tasker_max_claim),
				 errdetail("It is for %d.", claim->limit),
				 errhint("Claim as many as the worker can do within their leases, or have a superuser raise tasker.max_claim.")));
	claim->lease = seconds_argument(fcinfo, arg + 3, "a lease", -1);
	if (claim->lease == 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("a lease must not be empty"),
				 errdetail("It is 0 seconds."),
				 errhint("Leave it out for the usual one.")));
	held_back_init(&claim->held);
	claim->wait_ms = (long) Min(seconds_argument(fcinfo, arg + 4, "a wait", 0) * 1000.0, MAX_WAIT_MS);
}

/* Whose steps the caller may have. Inside a section. */
Scope
caller_scope(void)
{
	Scope		scope = {(Datum) 0, 'n'};
	Oid			caller = tasker_caller();

	if (may_work_for_all(caller))
		return scope;
	if (access_level(caller) < ACCESS_SUBMITTER)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ACCESS),
				 errmsg("permission denied to work for queues"),
				 errdetail("Role \"%s\" has neither level worker nor level submitter.",
						   GetUserNameFromId(caller, false)),
				 errhint("A superuser can give it: SELECT tasker.grant_access('…', 'worker').")));
	scope.owner = Int32GetDatum(owner_id_for(caller));
	scope.no_owner = ' ';
	return scope;
}

/* ------------------------------------------------------------------- claiming */

/* One look at the queues; the rows go to the function's result. Returns how many. */
static int
claim_once(FunctionCallInfo fcinfo, Claim *claim, int first)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Batch	   *batch = batch_begin(NULL);
	MemoryContext old_context = MemoryContextSwitchTo(batch->context);
	TimestampTz now;
	int			n;
	ClaimedStep *claimed = dequeue(batch, claim, &now, &n);

	for (int i = 0; i < n; i++)
	{
		BatchStep  *step = claimed[i].step;
		Datum		row[CLAIM_COLUMNS];
		bool		isnull[CLAIM_COLUMNS] = {false};
		char	   *key = psprintf(INT64_FORMAT ":%d", step->key.task_id, step->key.step_id);

		row[0] = CStringGetTextDatum("claimed");
		row[1] = Int64GetDatum(step->key.task_id);
		row[2] = Int32GetDatum(step->key.step_id);
		row[3] = claimed[i].lease;
		row[4] = CStringGetTextDatum(step->def->name);
		row[5] = CStringGetTextDatum(claimed[i].queue);
		row[6] = Int32GetDatum(step->attempts + 1);
		row[7] = Int32GetDatum(step->def->max_attempts);
		row[8] = JsonbPGetDatum(step_input(step->task, step->def, step->key.step_id, step->attempts + 1,
										   step->parent_names, step->parent_results, step->nparents));
		row[9] = CStringGetTextDatum(key);
		row[10] = TimestampTzGetDatum(claimed[i].end);
		row[11] = JsonbPGetDatum(claimed[i].checkpoint);
		isnull[11] = claimed[i].checkpoint == NULL;
		row[12] = TimestampTzGetDatum(now + (TimestampTz) step->def->timeout_ms * 1000);
		isnull[12] = step->def->timeout_ms == 0;
		row[13] = CStringGetTextDatum(step_traceparent(step->task));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row + first, isnull + first);
	}
	MemoryContextSwitchTo(old_context);
	MemoryContextDelete(batch->context);
	return n;
}

/* Which queues there are of those that the claim names, and which are not paused. */
static void
look_up_queues(Claim *claim)
{
	DatumList	lanes;
	uint64		n = tasker_run(&find_lanes, &claim->queues, NULL);

	datum_list_init(&lanes, INT4OID);
	claim->nqueues = (int) n;
	claim->lane = palloc(Max(n, 1) * sizeof(ClaimLane));
	for (uint64 row = 0; row < n; row++)
	{
		Datum		queue_id = tasker_value_notnull(row, 1);

		if (row < TASKER_WAITER_LANES)
			claim->queue_ids[row] = DatumGetInt32(queue_id);
		if (!DatumGetBool(tasker_value_notnull(row, 2)))
		{
			claim->lane[lanes.length].queue_id = DatumGetInt32(queue_id);
			claim->lane[lanes.length].name = TextDatumGetCString(tasker_value_notnull(row, 3));
			datum_list_add(&lanes, queue_id);
		}
		queue_served(DatumGetInt32(queue_id));
	}
	claim->lanes = datum_list_array(&lanes);
	claim->nlanes = lanes.length;
}

/* Claim until there is something, or the time is over. */
static void
claim_or_wait(FunctionCallInfo fcinfo, Claim *claim, int first)
{
	TimestampTz begun = GetCurrentTimestamp();
	bool		woken = begin_waiting(claim->queue_ids, claim->nqueues);

	for (;;)
	{
		long		left;

		ResetLatch(MyLatch);
		if (claim_once(fcinfo, claim, first) > 0)
			break;
		left = claim->wait_ms - (long) ((GetCurrentTimestamp() - begun) / 1000);
		if (left <= 0)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 woken ? left : Min(left, LOOK_AGAIN_MS), PG_WAIT_EXTENSION);
		CHECK_FOR_INTERRUPTS();
		look_up_queues(claim);
	}
}

/*
 * Claim, and wait for work if there is none. The claim's scope is set. first is the first column that the
 * function returns: 0 with the outcome, 1 without.
 */
void
claim_and_wait(FunctionCallInfo fcinfo, Claim *claim, int first)
{
	guard_require_enabled();
	look_up_queues(claim);
	if (claim->wait_ms == 0)
		(void) claim_once(fcinfo, claim, first);
	else
	{
		PG_TRY();
		{
			claim_or_wait(fcinfo, claim, first);
		}
		PG_CATCH();
		{
			end_waiting();
			PG_RE_THROW();
		}
		PG_END_TRY();
		end_waiting();
	}
}

PG_FUNCTION_INFO_V1(tasker_claim_steps);

/* claim_steps(queues, worker, max_steps, lease, wait) */
Datum
tasker_claim_steps(PG_FUNCTION_ARGS)
{
	TaskerSection section;
	Claim		claim;

	read_claim(fcinfo, 0, &claim);
	tasker_begin_srf(fcinfo);
	tasker_enter(&section);
	claim.scope = caller_scope();
	claim_and_wait(fcinfo, &claim, 1);
	tasker_leave(&section);
	return (Datum) 0;
}
