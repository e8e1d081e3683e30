/*
 * claims.c
 *	  The protocol of external workers: claim steps from queues, and complete,
 *	  fail, extend or give back what was claimed, by the lease that came with it.
 *
 * Each call is one statement. Only the holder of a step's current lease can do
 * anything about it; for anybody else the call changes nothing and is refused
 * with TK420. A role of level worker serves every owner's steps, any other its
 * own.
 */
#include "batch_state.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "engine.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "results.h"
#include "shared.h"
#include "utils/array.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

#define MAX_CLAIM		10000
#define MAX_LEASE		(30.0 * SECS_PER_DAY)
/* Longer the snapshot of the calling statement would hold back vacuum. */
#define MAX_WAIT_MS		1000
#define LOOK_AGAIN_MS	100

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

/* $5 is the owner again; $6 the time. */
static TaskerQuery complete = {
	.sql = "UPDATE tasker.workflow_steps s SET state = 'complete', results = c.results, completed_at = $6, "
	"lease = NULL, lease_expires_at = NULL "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4)) "
	"AS c (task_id, step_id, lease, results) "
	"WHERE s.task_id = c.task_id AND s.step_id = c.step_id AND s.state = 'in_progress' AND s.lease = c.lease "
	"AND ($5 IS NULL OR EXISTS (SELECT FROM tasker.tasks t WHERE t.task_id = s.task_id AND t.owner = $5)) "
	"RETURNING s.task_id, s.step_id, c.lease",
	.args = {INT8ARRAYOID, INT4ARRAYOID, UUIDARRAYOID, JSONBARRAYOID, INT4OID, TIMESTAMPTZOID},
	.columns = {INT8OID, INT4OID, UUIDOID},
};

/* The step, locked, if the lease is its and the caller may use it. */
static TaskerQuery held_step = {
	.sql = "SELECT s.step_no, t.named_task_id, s.attempts, s.last_attempted_at, s.lease_expires_at "
	"FROM tasker.workflow_steps s JOIN tasker.tasks t ON t.task_id = s.task_id "
	"WHERE s.task_id = $1 AND s.step_id = $2 AND s.state = 'in_progress' AND s.lease = $3 "
	"AND ($4 IS NULL OR t.owner = $4) FOR NO KEY UPDATE OF s",
	.args = {INT8OID, INT4OID, UUIDOID, INT4OID},
	.columns = {INT4OID, INT4OID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID},
};

static TaskerQuery end_attempt = {
	.sql = "UPDATE tasker.workflow_steps SET state = $3, attempts = $4, next_attempt_at = $5, "
	"last_error = COALESCE($6, last_error), lease = NULL, lease_expires_at = NULL "
	"WHERE task_id = $1 AND step_id = $2",
	.args = {INT8OID, INT4OID, TEXTOID, INT4OID, TIMESTAMPTZOID, JSONBOID},
};

static TaskerQuery extend_lease = {
	.sql = "UPDATE tasker.workflow_steps SET lease_expires_at = $3, checkpoint = COALESCE($4, checkpoint) "
	"WHERE task_id = $1 AND step_id = $2",
	.args = {INT8OID, INT4OID, TIMESTAMPTZOID, JSONBOID},
};

/* What a claim asks for. */
typedef struct Claim
{
	Datum		queues;			/* text[] */
	text	   *worker;
	int			limit;
	double		lease;			/* seconds; below 0: each step's own */
	long		wait_ms;
} Claim;

/* A step that a call is about, as it is held. */
typedef struct HeldStep
{
	int64		task_id;
	int			step_id;
	StepDef    *def;
	int			attempts;
	TimestampTz started_at;
	TimestampTz lease_ends;
} HeldStep;

/* ------------------------------------------------------------------ arguments */

static double
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

static void
need(FunctionCallInfo fcinfo, int n, const char *call)
{
	for (int i = 0; i < n; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
					 errmsg("an argument of %s is null", call),
					 errdetail("It is argument %d.", i + 1),
					 errhint("Pass what claim_steps returned.")));
}

/* The five arguments of a claim, from the given one on. */
static void
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
static char
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
static TimestampTz
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
dequeue(Batch *batch, const Claim *claim, Datum lanes, Datum owner, char no_owner,
		Jsonb **checkpoints, char **queues)
{
	Datum		values[3] = {lanes, (Datum) 0, owner};
	char		nulls[4] = {' ', ' ', no_owner, '\0'};
	int			wanted,
				n;

	do
	{
		wanted = claim->limit - batch->nwave;
		values[1] = Int32GetDatum(wanted);
		n = (int) tasker_run(&take, values, nulls);
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
	} while (n == wanted && batch->nwave < claim->limit);
}

/* One look at the queues; the rows go to the function's result. Returns how many. */
static int
claim_once(FunctionCallInfo fcinfo, const Claim *claim, Datum lanes, Datum owner, char no_owner, int first)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Batch	   *batch = batch_begin(NULL);
	MemoryContext old_context = MemoryContextSwitchTo(batch->context);
	TimestampTz now = tasker_now();
	Datum	   *leases = palloc(claim->limit * sizeof(Datum));
	Datum	   *ends = palloc(claim->limit * sizeof(Datum));
	Jsonb	  **checkpoints = palloc(claim->limit * sizeof(Jsonb *));
	char	  **queues = palloc(claim->limit * sizeof(char *));
	int			n;

	batch->wave = palloc(claim->limit * sizeof(BatchStep *));
	dequeue(batch, claim, lanes, owner, no_owner, checkpoints, queues);
	load_inputs(batch);
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
static void
claim_and_wait(FunctionCallInfo fcinfo, const Claim *claim, int first)
{
	TimestampTz begun = GetCurrentTimestamp();
	TaskerSection section;
	DatumList	lanes;
	Datum		owner = (Datum) 0;
	char		no_owner;
	int			ids[TASKER_WAITER_LANES] = {0};
	Datum		queues[1] = {claim->queues};
	Datum		lane_array;
	uint64		n;

	tasker_enter(&section);
	no_owner = scope(&owner);
	n = tasker_run(&find_lanes, queues, NULL);
	datum_list_init(&lanes, INT4OID);
	for (uint64 row = 0; row < n; row++)
	{
		if (row < TASKER_WAITER_LANES)
			ids[row] = DatumGetInt32(tasker_value_notnull(row, 1));
		datum_list_add(&lanes, tasker_value_notnull(row, 1));
	}
	lane_array = datum_list_array(&lanes);
	PG_TRY();
	{
		bool		waits = claim->wait_ms > 0;
		bool		woken = waits && begin_waiting(ids, lanes.length);

		for (;;)
		{
			long		left;

			if (waits)
				ResetLatch(MyLatch);
			if (claim_once(fcinfo, claim, lane_array, owner, no_owner, first) > 0 || !waits)
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

/* ------------------------------------------------------------------ completing */

static void
refuse_lease(int64 task_id, int step_id)
{
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_STALE_LEASE),
			 errmsg("the lease is not that of step %d of task " INT64_FORMAT, step_id, task_id),
			 errdetail("It ran out, or the step was completed, cancelled or given back; nothing was changed."),
			 errhint("Drop the work: another attempt is under way, or none is wanted.")));
}

/* Steps to complete, in the order of their locks. */
typedef struct Completion
{
	StepRef		ref;
	Datum		lease;
	Jsonb	   *results;
	bool		done;
} Completion;

/* By step, then by lease: an old lease must not hide the present one. */
static int
compare_completions(const void *a, const void *b)
{
	const Completion *x = a;
	const Completion *y = b;
	int			by_step = step_ref_compare(&x->ref, &y->ref);

	return by_step != 0 ? by_step :
		memcmp(DatumGetUUIDP(x->lease), DatumGetUUIDP(y->lease), UUID_LEN);
}

/* Complete what may be; the others' done stays false. Inside a section. */
static void
complete_all(Completion *items, int n)
{
	DatumList	tasks,
				steps,
				leases,
				results;
	Datum		values[6];
	char		nulls[7] = "      ";
	uint64		rows;

	qsort(items, n, sizeof(Completion), compare_completions);
	datum_list_init(&tasks, INT8OID);
	datum_list_init(&steps, INT4OID);
	datum_list_init(&leases, UUIDOID);
	datum_list_init(&results, JSONBOID);
	for (int i = 0; i < n; i++)
	{
		Jsonb	   *result = items[i].results;

		if (i > 0 && compare_completions(&items[i - 1], &items[i]) == 0)
			continue;			/* named twice: the first one counts */
		datum_list_add(&tasks, Int64GetDatum(items[i].ref.task_id));
		datum_list_add(&steps, Int32GetDatum(items[i].ref.step_id));
		datum_list_add(&leases, items[i].lease);
		if (result == NULL || results_live_apart(result))
			datum_list_add_null(&results);
		else
			datum_list_add(&results, JsonbPGetDatum(result));
	}
	nulls[4] = scope(&values[4]);
	values[0] = datum_list_array(&tasks);
	values[1] = datum_list_array(&steps);
	values[2] = datum_list_array(&leases);
	values[3] = datum_list_array(&results);
	values[5] = TimestampTzGetDatum(tasker_now());
	rows = tasker_run(&complete, values, nulls);
	for (uint64 row = 0; row < rows; row++)
	{
		Completion	key = {{DatumGetInt64(tasker_value_notnull(row, 1)),
		DatumGetInt32(tasker_value_notnull(row, 2)), 0}, tasker_value_notnull(row, 3)};
		Completion *item = bsearch(&key, items, n, sizeof(Completion), compare_completions);

		while (item > items && compare_completions(item - 1, item) == 0)
			item--;
		item->done = true;
	}
	for (int i = 0; i < n; i++)
		if (items[i].done && items[i].results != NULL && results_live_apart(items[i].results))
			store_results_apart(items[i].ref.task_id, items[i].ref.step_id, items[i].results);
}

static void
array_elements(FunctionCallInfo fcinfo, int arg, Oid type, int length, bool byval, char align,
			   Datum **elements, bool **nulls, int *n)
{
	if (ARR_NDIM(PG_GETARG_ARRAYTYPE_P(arg)) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("an array of complete_steps has more than one dimension"),
				 errdetail("It is argument %d.", arg + 1),
				 errhint("Pass one element a step.")));
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(arg), type, length, byval, align, elements, nulls, n);
}

/* The first four arguments of complete_steps. */
static Completion *
read_completions(FunctionCallInfo fcinfo, int *n)
{
	Datum	   *elements[4];
	bool	   *nulls[4];
	int			lengths[4];
	Completion *items;

	need(fcinfo, 4, "complete_steps");
	array_elements(fcinfo, 0, INT8OID, 8, true, TYPALIGN_DOUBLE, &elements[0], &nulls[0], &lengths[0]);
	array_elements(fcinfo, 1, INT4OID, 4, true, TYPALIGN_INT, &elements[1], &nulls[1], &lengths[1]);
	array_elements(fcinfo, 2, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR, &elements[2], &nulls[2], &lengths[2]);
	array_elements(fcinfo, 3, JSONBOID, -1, false, TYPALIGN_INT, &elements[3], &nulls[3], &lengths[3]);
	if (lengths[0] != lengths[1] || lengths[0] != lengths[2] || lengths[0] != lengths[3])
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("the arrays of complete_steps must have the same length"),
				 errdetail("They have %d, %d, %d and %d elements.", lengths[0], lengths[1], lengths[2], lengths[3]),
				 errhint("Use null for a step without results.")));
	*n = lengths[0];
	items = palloc0(Max(*n, 1) * sizeof(Completion));
	for (int i = 0; i < *n; i++)
	{
		if (nulls[0][i] || nulls[1][i] || nulls[2][i])
			ereport(ERROR,
					(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
					 errmsg("an id or a lease of complete_steps is null"),
					 errdetail("It is in element %d.", i + 1),
					 errhint("Pass what claim_steps returned.")));
		items[i].ref.task_id = DatumGetInt64(elements[0][i]);
		items[i].ref.step_id = DatumGetInt32(elements[1][i]);
		items[i].lease = elements[2][i];
		if (!nulls[3][i])
		{
			items[i].results = DatumGetJsonbP(elements[3][i]);
			check_results_size(items[i].results);
		}
	}
	return items;
}

/* -------------------------------------------------------- one step that is held */

/* Lock the step that the first three arguments name, or refuse the call. */
static HeldStep
hold_step(FunctionCallInfo fcinfo)
{
	HeldStep	held = {PG_GETARG_INT64(0), PG_GETARG_INT32(1)};
	Datum		values[4] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2), (Datum) 0};
	char		nulls[5] = "    ";
	int			step_no;
	int			named_task_id;

	nulls[3] = scope(&values[3]);
	if (tasker_run(&held_step, values, nulls) == 0)
		refuse_lease(held.task_id, held.step_id);
	step_no = DatumGetInt32(tasker_value_notnull(0, 1));
	named_task_id = DatumGetInt32(tasker_value_notnull(0, 2));
	held.attempts = DatumGetInt32(tasker_value_notnull(0, 3));
	held.started_at = DatumGetTimestampTz(tasker_value_notnull(0, 4));
	held.lease_ends = DatumGetTimestampTz(tasker_value_notnull(0, 5));
	(void) definition_cache_check();
	held.def = step_def(task_def(named_task_id), step_no);
	return held;
}

/* The held step goes to a state, with so many attempts made; time 0 is none. */
static void
let_go(const HeldStep *held, StepState state, int attempts, TimestampTz next, Datum error)
{
	Datum		values[6] = {Int64GetDatum(held->task_id), Int32GetDatum(held->step_id),
		CStringGetTextDatum(step_state_name(state)), Int32GetDatum(attempts),
	TimestampTzGetDatum(next), error};
	char		nulls[7] = "      ";

	nulls[4] = next == 0 ? 'n' : ' ';
	nulls[5] = error == (Datum) 0 ? 'n' : ' ';
	tasker_run(&end_attempt, values, nulls);
}

PG_FUNCTION_INFO_V1(tasker_claim_steps);
PG_FUNCTION_INFO_V1(tasker_complete_step);
PG_FUNCTION_INFO_V1(tasker_complete_steps);
PG_FUNCTION_INFO_V1(tasker_fail_step);
PG_FUNCTION_INFO_V1(tasker_heartbeat);
PG_FUNCTION_INFO_V1(tasker_release_step);

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

/* complete_step(task_id, step_id, lease, results) */
Datum
tasker_complete_step(PG_FUNCTION_ARGS)
{
	TaskerSection section;
	Completion	item = {{0}};

	need(fcinfo, 3, "complete_step");
	item.ref.task_id = PG_GETARG_INT64(0);
	item.ref.step_id = PG_GETARG_INT32(1);
	item.lease = PG_GETARG_DATUM(2);
	item.results = PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3);
	if (item.results != NULL)
		check_results_size(item.results);
	tasker_enter(&section);
	complete_all(&item, 1);
	if (!item.done)
		refuse_lease(item.ref.task_id, item.ref.step_id);
	tasker_leave(&section);
	PG_RETURN_VOID();
}

/* complete_steps(task_ids, step_ids, leases, results, queues, worker, max_steps, lease, wait) */
Datum
tasker_complete_steps(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		claims = !PG_ARGISNULL(6) && PG_GETARG_INT32(6) != 0;
	TaskerSection section;
	Completion *items;
	Claim		claim;
	int			n;

	items = read_completions(fcinfo, &n);
	if (claims)
		read_claim(fcinfo, 4, &claim);
	tasker_begin_srf(fcinfo);
	tasker_enter(&section);
	complete_all(items, n);
	for (int i = 0; i < n; i++)
	{
		Datum		row[12] = {CStringGetTextDatum("refused"), Int64GetDatum(items[i].ref.task_id),
		Int32GetDatum(items[i].ref.step_id)};
		bool		isnull[12] = {false, false, false, true, true, true, true, true, true, true, true, true};

		if (!items[i].done)
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row, isnull);
	}
	tasker_leave(&section);
	if (claims)
		claim_and_wait(fcinfo, &claim, 0);
	return (Datum) 0;
}

/* The worker's error, with when it was and which attempt. */
static Datum
failure_document(FunctionCallInfo fcinfo, int attempts, TimestampTz now)
{
	Jsonb	   *error;
	ErrorData	said = {0};

	error = PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3);
	if (error != NULL && !JB_ROOT_IS_OBJECT(error))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("the error of a step must be a JSON object"),
				 errdetail("It is %s.", JB_ROOT_IS_SCALAR(error) ? "a scalar" : "an array"),
				 errhint("For example: {\"message\": \"…\", \"detail\": \"…\"}.")));
	if (error != NULL)
		check_results_size(error);
	said.sqlerrcode = ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;
	said.message = "the worker gave no message";
	return error == NULL ? JsonbPGetDatum(error_document(&said, attempts, now)) :
		DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(error_document(&said, attempts, now)),
							JsonbPGetDatum(error));
}

/* fail_step(task_id, step_id, lease, error, retryable, retry_after) */
Datum
tasker_fail_step(PG_FUNCTION_ARGS)
{
	TimestampTz now = tasker_now();
	TimestampTz next = 0;
	TaskerSection section;
	HeldStep	held;
	StepState	state;
	bool		retryable = PG_ARGISNULL(4) || PG_GETARG_BOOL(4);
	double		delay;

	need(fcinfo, 3, "fail_step");
	delay = seconds_argument(fcinfo, 5, "retry_after", -1);
	tasker_enter(&section);
	held = hold_step(fcinfo);
	state = after_failure(held.def, held.attempts, !retryable, delay, now, &next);
	let_go(&held, state, held.attempts, next, failure_document(fcinfo, held.attempts, now));
	tasker_leave(&section);
	PG_RETURN_TEXT_P(cstring_to_text(step_state_name(state)));
}

/* heartbeat(task_id, step_id, lease, extend, checkpoint) */
Datum
tasker_heartbeat(PG_FUNCTION_ARGS)
{
	TimestampTz now = tasker_now();
	TimestampTz end;
	TaskerSection section;
	HeldStep	held;
	double		extend;
	Datum		values[4];

	need(fcinfo, 3, "heartbeat");
	extend = seconds_argument(fcinfo, 3, "a lease", -1);
	if (!PG_ARGISNULL(4))
		check_results_size(PG_GETARG_JSONB_P(4));
	tasker_enter(&section);
	held = hold_step(fcinfo);
	/* never sooner: the worker was promised so long, and the timer is set */
	end = Max(held.lease_ends, lease_end(held.def, extend, held.started_at, now));
	values[0] = Int64GetDatum(held.task_id);
	values[1] = Int32GetDatum(held.step_id);
	values[2] = TimestampTzGetDatum(end);
	values[3] = PG_ARGISNULL(4) ? (Datum) 0 : PG_GETARG_DATUM(4);
	tasker_run(&extend_lease, values, PG_ARGISNULL(4) ? "   n" : NULL);
	tasker_leave(&section);
	PG_RETURN_TIMESTAMPTZ(end);
}

/* release_step(task_id, step_id, lease, delay) */
Datum
tasker_release_step(PG_FUNCTION_ARGS)
{
	TaskerSection section;
	HeldStep	held;
	double		delay;

	need(fcinfo, 3, "release_step");
	delay = seconds_argument(fcinfo, 3, "a delay", 0);
	tasker_enter(&section);
	held = hold_step(fcinfo);
	if (delay > 0)
		let_go(&held, STEP_WAITING_FOR_RETRY, held.attempts - 1,
			   tasker_now() + (TimestampTz) rint(delay * USECS_PER_SEC), (Datum) 0);
	else
		let_go(&held, STEP_ENQUEUED, held.attempts - 1, 0, (Datum) 0);
	tasker_leave(&section);
	PG_RETURN_VOID();
}
