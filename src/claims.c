/*
 * claims.c
 *	  The protocol of external workers, first half: claiming steps from queues,
 *	  and waiting for some. What a worker does with them is completion.c's.
 *
 * Each call is one statement. A role of level worker serves every owner's
 * steps, any other its own.
 */
#include "claims.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "engine.h"
#include "guard.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "shared.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

#define MAX_CLAIM		10000
#define MAX_LEASE		(30.0 * SECS_PER_DAY)
/* Longer the snapshot of the calling statement would hold back vacuum. */
#define MAX_WAIT_MS		1000
#define LOOK_AGAIN_MS	100
/* By how much more of several queues is looked at, twice at most. */
#define PEEK_FURTHER	8

/* $3 is the owner whose steps may be taken, null for everybody's. */
static TaskerQuery take = {
	.sql = "WITH c AS MATERIALIZED (SELECT k.* FROM pg_catalog.unnest($1) AS l (lane) CROSS JOIN LATERAL ("
	"SELECT q.lane, q.rank, q.task_id, q.step_id, s.step_no, s.attempts, s.state::text AS state, s.checkpoint "
	"FROM tasker.ready_queue q "
	"JOIN tasker.workflow_steps s ON s.task_id = q.task_id AND s.step_id = q.step_id "
	"JOIN tasker.tasks t ON t.task_id = q.task_id "
	"WHERE q.lane = l.lane AND ((s.state = 'enqueued' AND t.state IN ('pending', 'in_progress') "
	"AND ($3 IS NULL OR t.owner = $3)) "
	"OR s.state IN ('complete', 'cancelled', 'skipped', 'resolved_manually')) "
	"ORDER BY q.rank, q.task_id, q.step_id LIMIT $2 FOR NO KEY UPDATE OF q, s SKIP LOCKED) AS k), "
	"f AS MATERIALIZED (SELECT * FROM c ORDER BY rank, task_id, step_id LIMIT $2), "
	"d AS (DELETE FROM tasker.ready_queue q USING f "
	"WHERE q.lane = f.lane AND q.rank = f.rank AND q.task_id = f.task_id AND q.step_id = f.step_id) "
	"SELECT f.task_id, f.step_id, f.step_no, f.attempts, f.state, f.checkpoint, u.name "
	"FROM f LEFT JOIN tasker.queues u ON u.queue_id = f.lane ORDER BY f.rank, f.task_id, f.step_id",
	.args = {INT4ARRAYOID, INT4OID, INT4OID},
	.columns = {INT8OID, INT4OID, INT4OID, INT4OID, TEXTOID, JSONBOID, TEXTOID},
};

/*
 * The same from several queues: the first $4 of each are looked at without a
 * lock, and of all of them in order the first $2 that nobody holds are taken.
 */
static TaskerQuery take_merged = {
	.sql = "WITH c AS MATERIALIZED (SELECT k.* FROM pg_catalog.unnest($1) AS l (lane) CROSS JOIN LATERAL ("
	"SELECT q.lane, q.rank, q.task_id, q.step_id "
	"FROM tasker.ready_queue q "
	"JOIN tasker.workflow_steps s ON s.task_id = q.task_id AND s.step_id = q.step_id "
	"JOIN tasker.tasks t ON t.task_id = q.task_id "
	"WHERE q.lane = l.lane AND ((s.state = 'enqueued' AND t.state IN ('pending', 'in_progress') "
	"AND ($3 IS NULL OR t.owner = $3)) "
	"OR s.state IN ('complete', 'cancelled', 'skipped', 'resolved_manually')) "
	"ORDER BY q.rank, q.task_id, q.step_id LIMIT $4) AS k), "
	"f AS MATERIALIZED (SELECT q.lane, q.rank, q.task_id, q.step_id, s.step_no, s.attempts, "
	"s.state::text AS state, s.checkpoint "
	"FROM c JOIN tasker.ready_queue q "
	"ON q.lane = c.lane AND q.rank = c.rank AND q.task_id = c.task_id AND q.step_id = c.step_id "
	"JOIN tasker.workflow_steps s ON s.task_id = c.task_id AND s.step_id = c.step_id "
	"WHERE s.state IN ('enqueued', 'complete', 'cancelled', 'skipped', 'resolved_manually') "
	"ORDER BY q.rank, q.task_id, q.step_id LIMIT $2 FOR NO KEY UPDATE OF q, s SKIP LOCKED), "
	"d AS (DELETE FROM tasker.ready_queue q USING f "
	"WHERE q.lane = f.lane AND q.rank = f.rank AND q.task_id = f.task_id AND q.step_id = f.step_id) "
	"SELECT f.task_id, f.step_id, f.step_no, f.attempts, f.state, f.checkpoint, u.name "
	"FROM f LEFT JOIN tasker.queues u ON u.queue_id = f.lane ORDER BY f.rank, f.task_id, f.step_id",
	.args = {INT4ARRAYOID, INT4OID, INT4OID, INT4OID},
	.columns = {INT8OID, INT4OID, INT4OID, INT4OID, TEXTOID, JSONBOID, TEXTOID},
};

static TaskerQuery find_lanes = {
	.sql = "SELECT queue_id FROM tasker.queues WHERE name = ANY ($1)",
	.args = {TEXTARRAYOID},
	.columns = {INT4OID},
};

static TaskerQuery begin_attempts = {
	.sql = "UPDATE tasker.workflow_steps s SET state = 'in_progress', attempts = s.attempts + 1, lease = c.lease, "
	"lease_expires_at = c.expires, claimed_by = $5, last_attempted_at = $6, next_attempt_at = NULL "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4)) "
	"AS c (task_id, step_id, lease, expires) "
	"WHERE s.task_id = c.task_id AND s.step_id = c.step_id AND s.state = 'enqueued'",
	.args = {INT8ARRAYOID, INT4ARRAYOID, UUIDARRAYOID, TIMESTAMPTZARRAYOID, TEXTOID, TIMESTAMPTZOID},
};

static TaskerQuery new_leases = {
	.sql = "SELECT pg_catalog.gen_random_uuid() FROM pg_catalog.generate_series(1, $1)",
	.args = {INT4OID},
	.columns = {UUIDOID},
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
	claim->limit = PG_GETARG_INT32(arg + 2);
	if (claim->limit < 1 || claim->limit > MAX_CLAIM)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("a claim is for 1 to %d steps", MAX_CLAIM),
				 errdetail("It is for %d.", claim->limit),
				 errhint("Claim as many as the worker can do within their leases.")));
	claim->lease = seconds_argument(fcinfo, arg + 3, "a lease", -1);
	if (claim->lease == 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("a lease must not be empty"),
				 errdetail("It is 0 seconds."),
				 errhint("Leave it out for the usual one.")));
	claim->wait_ms = (long) Min(seconds_argument(fcinfo, arg + 4, "a wait", 0) * 1000.0, MAX_WAIT_MS);
}

/* Whose steps the caller may have: an owner, or everybody's. */
char
scope(Datum *owner)
{
	Oid			caller = tasker_caller();

	if (may_work_for_all(caller))
		return 'n';
	if (access_level(caller) < ACCESS_SUBMITTER)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ACCESS),
				 errmsg("permission denied to work for queues"),
				 errdetail("Role \"%s\" has neither level worker nor level submitter.",
						   GetUserNameFromId(caller, false)),
				 errhint("A superuser can give it: SELECT tasker.grant_access('…', 'worker').")));
	*owner = Int32GetDatum(owner_id_for(caller));
	return ' ';
}

/* ------------------------------------------------------------------- claiming */

/* When a lease that begins now ends: not after the step's timeout. */
TimestampTz
lease_end(const StepDef *def, double lease, TimestampTz started, TimestampTz now)
{
	TimestampTz end = now + (TimestampTz) rint((lease < 0 ? def->lease : lease) * USECS_PER_SEC);

	if (def->timeout_ms > 0)
		end = Min(end, started + (TimestampTz) def->timeout_ms * 1000);
	return end;
}

/* Set the steps of the wave in progress, each with a lease of its own. */
static void
lease_steps(Batch *batch, const Claim *claim, Datum *leases, Datum *ends, TimestampTz now)
{
	DatumList	uuids,
				expires;
	Datum		values[6];
	int			n = batch->nwave;

	datum_list_init(&uuids, UUIDOID);
	datum_list_init(&expires, TIMESTAMPTZOID);
	values[0] = Int32GetDatum(n);
	tasker_run(&new_leases, values, NULL);
	for (int i = 0; i < n; i++)
	{
		pg_uuid_t  *lease = palloc(sizeof(pg_uuid_t));

		*lease = *DatumGetUUIDP(tasker_value_notnull(i, 1));
		leases[i] = UUIDPGetDatum(lease);
		ends[i] = TimestampTzGetDatum(lease_end(batch->wave[i]->def, claim->lease, now, now));
		datum_list_add(&uuids, leases[i]);
		datum_list_add(&expires, ends[i]);
	}
	step_arrays(batch->wave, n, values);
	values[2] = datum_list_array(&uuids);
	values[3] = datum_list_array(&expires);
	values[4] = PointerGetDatum(claim->worker);
	values[5] = TimestampTzGetDatum(now);
	if (tasker_run(&begin_attempts, values, NULL) != n)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("a step was changed while it was claimed"),
				 errdetail("It was locked, and yet is not as it was."),
				 errhint("Claim again.")));
}

/*
 * Take steps off the queues into the batch's wave, which has room for all that
 * the claim asks for. Rows of steps that somebody ended meanwhile go too, and
 * must not stand for steps: so it looks until there are enough or no more.
 */
static void
dequeue(Batch *batch, const Claim *claim, Jsonb **checkpoints, char **queues)
{
	Datum		values[4] = {claim->lanes, (Datum) 0, claim->owner, (Datum) 0};
	char		nulls[5] = {' ', ' ', claim->no_owner, ' ', '\0'};
	bool		merged = claim->nlanes > 1;
	int			peek = claim->limit;
	int			wanted,
				n;

	do
	{
		wanted = claim->limit - batch->nwave;
		values[1] = Int32GetDatum(wanted);
		values[3] = Int32GetDatum(peek);
		n = (int) tasker_run(merged ? &take_merged : &take, values, nulls);
		for (int row = 0; row < n; row++)
		{
			bool		found;
			bool		isnull;
			Datum		checkpoint = tasker_value(row, 6, &isnull);
			BatchStep  *step;

			if (step_state_from_text(tasker_value_notnull(row, 5)) != STEP_ENQUEUED)
				continue;
			step = batch_step(batch, DatumGetInt64(tasker_value_notnull(row, 1)),
							  DatumGetInt32(tasker_value_notnull(row, 2)), &found);
			if (found)
				continue;
			step->step_no = DatumGetInt32(tasker_value_notnull(row, 3));
			step->attempts = DatumGetInt32(tasker_value_notnull(row, 4));
			checkpoints[batch->nwave] = isnull ? NULL : DatumGetJsonbPCopy(checkpoint);
			queues[batch->nwave] = TextDatumGetCString(tasker_value_notnull(row, 7));
			batch->wave[batch->nwave++] = step;
		}
		CHECK_FOR_INTERRUPTS();
		/* others may hold all that was looked at: look further */
		if (n < wanted)
			peek *= PEEK_FURTHER;
	} while (batch->nwave < claim->limit &&
			 (n == wanted || (merged && peek <= claim->limit * PEEK_FURTHER * PEEK_FURTHER)));
}

/* One look at the queues; the rows go to the function's result. Returns how many. */
static int
claim_once(FunctionCallInfo fcinfo, const Claim *claim, int first)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Batch	   *batch = batch_begin(NULL);
	MemoryContext old_context = MemoryContextSwitchTo(batch->context);
	Datum	   *leases = palloc(claim->limit * sizeof(Datum));
	Datum	   *ends = palloc(claim->limit * sizeof(Datum));
	Jsonb	  **checkpoints = palloc(claim->limit * sizeof(Jsonb *));
	char	  **queues = palloc(claim->limit * sizeof(char *));
	TimestampTz now;
	int			n;

	batch->wave = palloc(claim->limit * sizeof(BatchStep *));
	dequeue(batch, claim, checkpoints, queues);
	guard_require_armed();		/* now: who saw the rows sees what came with
								 * them */
	load_inputs(batch);
	now = tasker_now();			/* not before a parent ended that let go of a
								 * step just now */
	if (batch->nwave > 0)
		lease_steps(batch, claim, leases, ends, now);

	for (int i = 0; i < batch->nwave; i++)
	{
		BatchStep  *step = batch->wave[i];
		Datum		row[12];
		bool		isnull[12] = {false};
		char	   *key = psprintf(INT64_FORMAT ":%d", step->key.task_id, step->key.step_id);

		row[0] = CStringGetTextDatum("claimed");
		row[1] = Int64GetDatum(step->key.task_id);
		row[2] = Int32GetDatum(step->key.step_id);
		row[3] = leases[i];
		row[4] = CStringGetTextDatum(step->def->name);
		row[5] = CStringGetTextDatum(queues[i]);
		row[6] = Int32GetDatum(step->attempts + 1);
		row[7] = Int32GetDatum(step->def->max_attempts);
		row[8] = JsonbPGetDatum(step_input(step->task, step->def, step->key.step_id, step->attempts + 1,
										   step->parent_names, step->parent_results, step->nparents));
		row[9] = CStringGetTextDatum(key);
		row[10] = ends[i];
		row[11] = JsonbPGetDatum(checkpoints[i]);
		isnull[11] = checkpoints[i] == NULL;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row + first, isnull + first);
	}
	n = batch->nwave;
	MemoryContextSwitchTo(old_context);
	MemoryContextDelete(batch->context);
	return n;
}

/*
 * Claim, and wait for work if there is none. first is the first column that the
 * function returns: 0 with the outcome, 1 without.
 */
void
claim_and_wait(FunctionCallInfo fcinfo, Claim *claim, int first)
{
	TimestampTz begun = GetCurrentTimestamp();
	TaskerSection section;
	DatumList	lanes;
	int			ids[TASKER_WAITER_LANES] = {0};
	Datum		queues[1] = {claim->queues};
	uint64		n;

	guard_require_enabled();
	tasker_enter(&section);
	claim->owner = (Datum) 0;
	claim->no_owner = scope(&claim->owner);
	n = tasker_run(&find_lanes, queues, NULL);
	datum_list_init(&lanes, INT4OID);
	for (uint64 row = 0; row < n; row++)
	{
		if (row < TASKER_WAITER_LANES)
			ids[row] = DatumGetInt32(tasker_value_notnull(row, 1));
		datum_list_add(&lanes, tasker_value_notnull(row, 1));
	}
	claim->lanes = datum_list_array(&lanes);
	claim->nlanes = lanes.length;
	PG_TRY();
	{
		bool		waits = claim->wait_ms > 0;
		bool		woken = waits && begin_waiting(ids, lanes.length);

		for (;;)
		{
			long		left;

			if (waits)
				ResetLatch(MyLatch);
			if (claim_once(fcinfo, claim, first) > 0 || !waits)
				break;
			left = claim->wait_ms - (long) ((GetCurrentTimestamp() - begun) / 1000);
			if (left <= 0)
				break;
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 woken ? left : Min(left, LOOK_AGAIN_MS), PG_WAIT_EXTENSION);
			CHECK_FOR_INTERRUPTS();
		}
	}
	PG_CATCH();
	{
		end_waiting();
		PG_RE_THROW();
	}
	PG_END_TRY();
	end_waiting();
	tasker_leave(&section);
}

PG_FUNCTION_INFO_V1(tasker_claim_steps);

/* claim_steps(queues, worker, max_steps, lease, wait) */
Datum
tasker_claim_steps(PG_FUNCTION_ARGS)
{
	Claim		claim;

	read_claim(fcinfo, 0, &claim);
	tasker_begin_srf(fcinfo);
	claim_and_wait(fcinfo, &claim, 1);
	return (Datum) 0;
}
