/*
 * dequeue.c
 *	  Taking steps for a claim: off the queues, or straight from the completion
 *	  that has just released them, and giving them leases.
 *
 * A worker that completes steps and claims the next ones in one call mostly gets
 * what its own completions released. Those children never pass through the queue:
 * the completion holds them back (release.c), and what of them comes before the
 * queue's head goes from pending to in_progress with one change. So a step of an
 * external worker costs two row versions and two rows of history.
 *
 * Called by claims.c, inside a section.
 */
#include "claims.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "guard.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"

/* By how much more of several queues is looked at, twice at most. */
#define PEEK_FURTHER	8

/* The first row of a queue that there is from $2, $3, $4 on, of one owner's tasks unless $5 is null. */
static TaskerQuery head_of_lane = {
	.sql = "SELECT q.rank, q.task_id, q.step_id FROM tasker.ready_queue q "
	"WHERE q.lane = $1 AND (q.rank, q.task_id, q.step_id) >= ($2, $3, $4) "
	"AND ($5 IS NULL OR (SELECT t.owner FROM tasker.tasks t WHERE t.task_id = q.task_id) = $5) "
	"ORDER BY q.rank, q.task_id, q.step_id LIMIT 1",
	.args = {INT4OID, INT4OID, INT8OID, INT4OID, INT4OID},
	.columns = {INT4OID, INT8OID, INT4OID},
};

/*
 * $3 is the owner whose steps may be taken, null for everybody's; only what is of
 * rank $4, from $5, $6 on and before $7, $8, is. So the scan of the index ends
 * there: with a comparison of whole rows as its end it would go on to the end of
 * the queue.
 */
static TaskerQuery take = {
	.sql = "WITH c AS (SELECT q.ctid AS place, q.lane, q.rank, q.task_id, q.step_id, s.step_no, s.attempts, s.state::text AS state, s.checkpoint "
	"FROM tasker.ready_queue q "
	"JOIN tasker.workflow_steps s ON s.task_id = q.task_id AND s.step_id = q.step_id "
	"JOIN tasker.tasks t ON t.task_id = q.task_id "
	"WHERE q.lane = $1 AND q.rank = $4 AND (q.task_id, q.step_id) >= ($5, $6) "
	"AND q.task_id <= $7 AND (q.task_id < $7 OR q.step_id < $8) "
	"AND ((s.state = 'enqueued' AND t.state IN ('pending', 'in_progress') AND ($3 IS NULL OR t.owner = $3)) "
	"OR s.state IN ('complete', 'cancelled', 'skipped', 'resolved_manually')) "
	"ORDER BY q.rank, q.task_id, q.step_id LIMIT $2 FOR NO KEY UPDATE OF q, s SKIP LOCKED), "
	"d AS (DELETE FROM tasker.ready_queue WHERE ctid = ANY (ARRAY(SELECT c.place FROM c))) "
	"SELECT c.task_id, c.step_id, c.step_no, c.attempts, c.state, c.checkpoint, c.lane, c.rank FROM c",
	.args = {INT4OID, INT4OID, INT4OID, INT4OID, INT8OID, INT4OID, INT8OID, INT4OID},
	.columns = {INT8OID, INT4OID, INT4OID, INT4OID, TEXTOID, JSONBOID, INT4OID, INT4OID},
};

/*
 * From several queues, each from its $8, $9, $10 on: the first $7 of each are looked
 * at without a lock, and of all of them in order, as far as they come before
 * $4, $5, $6, the first $2 that nobody holds are taken.
 */
static TaskerQuery take_merged = {
	.sql = "WITH c AS MATERIALIZED (SELECT k.* FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($8), "
	"pg_catalog.unnest($9), pg_catalog.unnest($10)) AS l (lane, rank, task_id, step_id) CROSS JOIN LATERAL ("
	"SELECT q.lane, q.rank, q.task_id, q.step_id "
	"FROM tasker.ready_queue q "
	"JOIN tasker.workflow_steps s ON s.task_id = q.task_id AND s.step_id = q.step_id "
	"JOIN tasker.tasks t ON t.task_id = q.task_id "
	"WHERE q.lane = l.lane AND (q.rank, q.task_id, q.step_id) >= (l.rank, l.task_id, l.step_id) "
	"AND ((s.state = 'enqueued' AND t.state IN ('pending', 'in_progress') "
	"AND ($3 IS NULL OR t.owner = $3)) "
	"OR s.state IN ('complete', 'cancelled', 'skipped', 'resolved_manually')) "
	"ORDER BY q.rank, q.task_id, q.step_id LIMIT $7) AS k), "
	"f AS MATERIALIZED (SELECT q.ctid AS place, q.lane, q.rank, q.task_id, q.step_id, s.step_no, s.attempts, "
	"s.state::text AS state, s.checkpoint "
	"FROM c JOIN tasker.ready_queue q "
	"ON q.lane = c.lane AND q.rank = c.rank AND q.task_id = c.task_id AND q.step_id = c.step_id "
	"JOIN tasker.workflow_steps s ON s.task_id = c.task_id AND s.step_id = c.step_id "
	"WHERE s.state IN ('enqueued', 'complete', 'cancelled', 'skipped', 'resolved_manually') "
	"AND (c.rank, c.task_id, c.step_id) < ($4, $5, $6) "
	"ORDER BY q.rank, q.task_id, q.step_id LIMIT $2 FOR NO KEY UPDATE OF q, s SKIP LOCKED), "
	"d AS (DELETE FROM tasker.ready_queue WHERE ctid = ANY (ARRAY(SELECT f.place FROM f))) "
	"SELECT f.task_id, f.step_id, f.step_no, f.attempts, f.state, f.checkpoint, f.lane, f.rank FROM f",
	.args = {INT4ARRAYOID, INT4OID, INT4OID, INT4OID, INT8OID, INT4OID, INT4OID,
	INT4ARRAYOID, INT8ARRAYOID, INT4ARRAYOID},
	.columns = {INT8OID, INT4OID, INT4OID, INT4OID, TEXTOID, JSONBOID, INT4OID, INT4OID},
};

/* Children whose last parents were just satisfied, as far as the claim may have them. */
static TaskerQuery released_children = {
	.sql = "SELECT s.task_id, s.step_id, s.step_no, s.attempts, s.state::text, s.checkpoint, s.lane, -s.priority, "
	"s.pending_parents "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) AS c (task_id, step_id, satisfied) "
	"JOIN tasker.workflow_steps s ON s.task_id = c.task_id AND s.step_id = c.step_id "
	"JOIN tasker.tasks t ON t.task_id = s.task_id "
	"WHERE s.state = 'pending' AND s.pending_parents = c.satisfied AND s.lane = ANY ($4) "
	"AND s.next_attempt_at IS NULL AND t.state IN ('pending', 'in_progress') AND ($5 IS NULL OR t.owner = $5)",
	.args = {INT8ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4OID},
	.columns = {INT8OID, INT4OID, INT4OID, INT4OID, TEXTOID, JSONBOID, INT4OID, INT4OID, INT4OID},
};

static TaskerQuery lock_children = {
	.sql = "SELECT pg_catalog.count(*) FROM (SELECT s.step_id "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS c (task_id, step_id) "
	"JOIN tasker.workflow_steps s ON s.task_id = c.task_id AND s.step_id = c.step_id "
	"FOR NO KEY UPDATE OF s) AS locked",
	.args = {INT8ARRAYOID, INT4ARRAYOID},
	.columns = {INT8OID},
};

/* Each must be as it was found: one that was queued is locked, a child is not. */
static TaskerQuery begin_attempts = {
	.sql = "UPDATE tasker.workflow_steps s SET state = 'in_progress', pending_parents = 0, attempts = s.attempts + 1, "
	"lease = c.lease, lease_expires_at = c.expires, claimed_by = $7, last_attempted_at = $8, next_attempt_at = NULL "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), "
	"pg_catalog.unnest($5), pg_catalog.unnest($6)) AS c (task_id, step_id, from_state, pending, lease, expires) "
	"WHERE s.task_id = c.task_id AND s.step_id = c.step_id "
	"AND s.state = c.from_state AND s.pending_parents = c.pending "
	"RETURNING s.task_id, s.step_id",
	.args = {INT8ARRAYOID, INT4ARRAYOID, TEXTARRAYOID, INT4ARRAYOID, UUIDARRAYOID, TIMESTAMPTZARRAYOID,
	TEXTOID, TIMESTAMPTZOID},
	.columns = {INT8OID, INT4OID},
};

/* What a claim gets, in the making. */
typedef struct Claimed
{
	const Claim *claim;
	Batch	   *batch;
	ClaimedStep *items;
	int			n;
	int			space;
} Claimed;

/* ------------------------------------------------------------------ the rows */

static void
add_claimed(Claimed *claimed, BatchStep *step, int rank, char *queue, Jsonb *checkpoint)
{
	if (claimed->n == claimed->space)
	{
		claimed->space = Max(claimed->space * 2, 64);
		claimed->items = claimed->items == NULL ? palloc(claimed->space * sizeof(ClaimedStep)) :
			repalloc_huge(claimed->items, claimed->space * sizeof(ClaimedStep));
	}
	claimed->items[claimed->n++] = (ClaimedStep)
	{
		.step = step,.rank = rank,.queue = queue,.checkpoint = checkpoint
	};
}

/* The name of one of the claim's queues. */
static char *
queue_name(const Claim *claim, int queue_id)
{
	int			i = 0;

	while (claim->lane[i].queue_id != queue_id)
		i++;
	return claim->lane[i].name;
}

/* Add the step of a row of take, take_merged or released_children, unless it is there. */
static BatchStep *
add_row(Claimed *claimed, uint64 row, StepState from)
{
	bool		found;
	bool		isnull;
	Datum		checkpoint = tasker_value(row, 6, &isnull);
	BatchStep  *step = batch_step(claimed->batch, DatumGetInt64(tasker_value_notnull(row, 1)),
								  DatumGetInt32(tasker_value_notnull(row, 2)), &found);

	if (found)
		return NULL;
	step->from = from;
	step->step_no = DatumGetInt32(tasker_value_notnull(row, 3));
	step->attempts = DatumGetInt32(tasker_value_notnull(row, 4));
	add_claimed(claimed, step, DatumGetInt32(tasker_value_notnull(row, 8)),
				queue_name(claimed->claim, DatumGetInt32(tasker_value_notnull(row, 7))),
				isnull ? NULL : DatumGetJsonbPCopy(checkpoint));
	return step;
}

/* ----------------------------------------------------------------- the queues */

static void
key_values(LaneKey key, Datum *values)
{
	values[0] = Int32GetDatum(key.rank);
	values[1] = Int64GetDatum(key.task_id);
	values[2] = Int32GetDatum(key.step_id);
}

/* Add the steps of n rows. Returns the last row's key, or the one given if there is none. */
static LaneKey
add_rows(Claimed *claimed, int n, LaneKey none)
{
	LaneKey		key = none;

	for (int row = 0; row < n; row++)
	{
		key = lane_key(DatumGetInt32(tasker_value_notnull(row, 8)), DatumGetInt64(tasker_value_notnull(row, 1)),
					   DatumGetInt32(tasker_value_notnull(row, 2)));
		note_rows_taken(DatumGetInt32(tasker_value_notnull(row, 7)), key, key);
		if (step_state_from_text(tasker_value_notnull(row, 5)) == STEP_ENQUEUED)
			(void) add_row(claimed, row, STEP_ENQUEUED);
	}
	return key;
}

/* The first row of the queue that the claim may have, from a place on; lane_end if there is none. */
static LaneKey
find_head(const Claim *claim, int lane, LaneKey from)
{
	Datum		values[5] = {Int32GetDatum(lane)};

	key_values(from, &values[1]);
	values[4] = claim->scope.owner;
	if (tasker_run(&head_of_lane, values, claim->scope.no_owner == 'n' ? "    n" : NULL) == 0)
		return lane_end;
	return lane_key(DatumGetInt32(tasker_value_notnull(0, 1)), DatumGetInt64(tasker_value_notnull(0, 2)),
					DatumGetInt32(tasker_value_notnull(0, 3)));
}

/*
 * Take steps of one rank, from a place in the queue to another, as many as are
 * wanted. Returns up to where all were taken that could be.
 */
static LaneKey
take_rank(Claimed *claimed, LaneKey from, LaneKey to)
{
	const Claim *claim = claimed->claim;
	int			wanted = claim->limit - claimed->n;
	bool		whole = to.rank > from.rank;
	Datum		values[8] = {Int32GetDatum(claim->lane[0].queue_id), Int32GetDatum(wanted), claim->scope.owner};
	char		nulls[9] = "        ";
	int			n;
	LaneKey		last;

	nulls[2] = claim->scope.no_owner;
	key_values(from, &values[3]);
	values[6] = Int64GetDatum(whole ? PG_INT64_MAX : to.task_id);
	values[7] = Int32GetDatum(whole ? PG_INT32_MAX : to.step_id);
	n = (int) tasker_run(&take, values, nulls);
	last = add_rows(claimed, n, to);
	if (n == wanted)
		return last;
	return whole ? lane_key(from.rank + 1, PG_INT64_MIN, PG_INT32_MIN) : to;
}

/*
 * Take steps of one queue, from a place in it to another, as many as are wanted.
 * Returns up to where all were taken that could be: it may be after the end.
 */
static LaneKey
take_range(Claimed *claimed, LaneKey from, LaneKey to)
{
	while (claimed->n < claimed->claim->limit && lane_key_compare(&from, &to) < 0)
	{
		if (from.rank != to.rank)
			from = find_head(claimed->claim, claimed->claim->lane[0].queue_id, from);
		if (lane_key_compare(&from, &to) < 0)
			from = take_rank(claimed, from, to);
		CHECK_FOR_INTERRUPTS();
	}
	return from;
}

/*
 * Take steps of one queue that come before the bound. Where the queue may have rows
 * is known, and found out for the next one.
 */
static void
take_from_one(Claimed *claimed, LaneKey bound)
{
	const Claim *claim = claimed->claim;
	LaneLook	look = look_at_lane(claim->lane[0].queue_id, DatumGetInt32(claim->scope.owner));
	LaneKey		until = bound;
	int			i = 0;

	for (; i < look.rows.n && claimed->n < claim->limit; i++)
	{
		LaneRange	range = look.rows.range[i];

		if (lane_key_compare(&range.from, &bound) >= 0)
			break;
		until = take_range(claimed, range.from, lane_key_compare(&bound, &range.to) < 0 ? bound : range.to);
	}
	if (claimed->n < claim->limit && lane_key_compare(&until, &bound) < 0)
		until = bound;
	if (i > 0 && !IsolationUsesXactSnapshot())	/* it does not see the latest */
		lane_looked_at(&look, until);
}

/*
 * Where the rows of each of the claim's queues begin, as arrays of ranks, tasks and
 * steps. Returns whether one of them comes before the bound.
 */
static bool
find_heads(const Claim *claim, LaneKey bound, Datum *arrays)
{
	static const Oid types[3] = {INT4OID, INT8OID, INT4OID};
	DatumList	columns[3];
	bool		any = false;

	for (int c = 0; c < 3; c++)
		datum_list_init(&columns[c], types[c]);
	for (int i = 0; i < claim->nlanes; i++)
	{
		LaneLook	look = look_at_lane(claim->lane[i].queue_id, DatumGetInt32(claim->scope.owner));
		LaneKey		head = first_of_lane_ranges(&look.rows);
		Datum		values[3];

		if (lane_key_compare(&head, &bound) < 0)
		{
			head = find_head(claim, look.lane, head);
			if (!IsolationUsesXactSnapshot())
				lane_looked_at(&look, head);
			any |= lane_key_compare(&head, &bound) < 0;
		}
		key_values(head, values);
		for (int c = 0; c < 3; c++)
			datum_list_add(&columns[c], values[c]);
	}
	for (int c = 0; c < 3; c++)
		arrays[c] = datum_list_array(&columns[c]);
	return any;
}

/*
 * The same of several queues, of each of which the first ones are looked at, and
 * more if others hold all of them.
 */
static void
take_from_many(Claimed *claimed, LaneKey bound)
{
	const Claim *claim = claimed->claim;
	Datum		values[10] = {claim->lanes, (Datum) 0, claim->scope.owner};
	char		nulls[11] = "          ";
	int			peek = claim->limit;
	int			wanted,
				n;

	if (!find_heads(claim, bound, &values[7]))
		return;
	nulls[2] = claim->scope.no_owner;
	key_values(bound, &values[3]);
	do
	{
		wanted = claim->limit - claimed->n;
		values[1] = Int32GetDatum(wanted);
		values[6] = Int32GetDatum(peek);
		n = (int) tasker_run(&take_merged, values, nulls);
		(void) add_rows(claimed, n, bound);
		CHECK_FOR_INTERRUPTS();
		if (n < wanted)
			peek *= PEEK_FURTHER;
	} while (claimed->n < claim->limit &&
			 (n == wanted || peek <= claim->limit * PEEK_FURTHER * PEEK_FURTHER));
}

/*
 * Take steps off the queues that come before the bound. Rows of steps that
 * somebody ended meanwhile go too, and must not stand for steps: so it looks
 * until there are enough or no more.
 */
static void
take_queued(Claimed *claimed, LaneKey bound)
{
	if (claimed->claim->nlanes == 1)
		take_from_one(claimed, bound);
	else if (claimed->claim->nlanes > 1)
		take_from_many(claimed, bound);
}

/* Where in a queue the step would be. */
static LaneKey
claimed_key(const ClaimedStep *item)
{
	return lane_key(item->rank, item->step->key.task_id, item->step->key.step_id);
}

/* In the order of a queue: by rank, then by task and step, the older one first. */
static int
compare_claimed(const void *a, const void *b)
{
	LaneKey		x = claimed_key(a);
	LaneKey		y = claimed_key(b);

	return lane_key_compare(&x, &y);
}

/* --------------------------------------------------- children just released */

/* Those of the children that the claim may have, in the order of a queue. */
static void
find_candidates(Claimed *candidates, const Claim *claim)
{
	Datum		values[5];
	uint64		n;

	step_refs_arrays(&claim->held.children, values);
	values[3] = claim->lanes;
	values[4] = claim->scope.owner;
	n = tasker_run(&released_children, values, claim->scope.no_owner == 'n' ? "    n" : NULL);
	for (uint64 row = 0; row < n; row++)
	{
		BatchStep  *step = add_row(candidates, row, STEP_PENDING);

		step->pending = DatumGetInt32(tasker_value_notnull(row, 9));
	}
	if (candidates->n > 0)
		qsort(candidates->items, candidates->n, sizeof(ClaimedStep), compare_claimed);
}

/* Release the children that were not taken, as if nobody had held them back. */
static void
release_rest(Claim *claim, const ClaimedStep *taken, int ntaken)
{
	StepRefs	rest = {0};
	StepRefs	gone = {0};

	for (int i = 0; i < ntaken; i++)
		step_refs_add(&gone, taken[i].step->key.task_id, taken[i].step->key.step_id);
	if (ntaken > 0)
		qsort(gone.items, gone.length, sizeof(StepRef), step_ref_compare);
	for (int i = 0; i < claim->held.children.length; i++)
	{
		StepRef    *child = &claim->held.children.items[i];

		if (ntaken == 0 || bsearch(child, gone.items, ntaken, sizeof(StepRef), step_ref_compare) == NULL)
			step_refs_add_counted(&rest, child->task_id, child->step_id, child->count);
	}
	if (rest.length > 0 && ntaken > 0)
	{
		/* they are changed in two statements: lock all of them in order first */
		Datum		values[3];

		step_refs_arrays(&claim->held.children, values);
		tasker_run(&lock_children, values, NULL);
	}
	release_held_back(&rest, &claim->held.tasks);
}

/*
 * Take the children that the completion before this claim released and what in
 * the queues comes before them; release the other children.
 */
static void
take_released(Claimed *claimed, Claim *claim)
{
	Claimed		candidates = {claim, claimed->batch};
	int			room;

	merge_step_refs(&claim->held.children);
	find_candidates(&candidates, claim);
	if (candidates.n > 0)
		take_queued(claimed, claimed_key(&candidates.items[Min(candidates.n, claim->limit) - 1]));
	room = Min(candidates.n, claim->limit - claimed->n);
	for (int i = 0; i < room; i++)
		add_claimed(claimed, candidates.items[i].step, candidates.items[i].rank,
					candidates.items[i].queue, candidates.items[i].checkpoint);
	release_rest(claim, candidates.items, room);
	claim->held.children.length = 0;
}

/* --------------------------------------------------------------------- leases */

/* Forget what is not in progress now: children that somebody changed meanwhile. */
static void
drop_changed(Claimed *claimed, Claim *claim, uint64 begun)
{
	StepRefs	taken = {0};
	StepRefs	changed = {0};
	int			kept = 0;

	for (uint64 row = 0; row < begun; row++)
		step_refs_add(&taken, DatumGetInt64(tasker_value_notnull(row, 1)),
					  DatumGetInt32(tasker_value_notnull(row, 2)));
	if (begun > 0)
		qsort(taken.items, taken.length, sizeof(StepRef), step_ref_compare);
	for (int i = 0; i < claimed->n; i++)
	{
		BatchStep  *step = claimed->items[i].step;
		StepRef		ref = {step->key.task_id, step->key.step_id, step->pending};

		if (begun > 0 && bsearch(&ref, taken.items, taken.length, sizeof(StepRef), step_ref_compare) != NULL)
			claimed->items[kept++] = claimed->items[i];
		else if (step->from == STEP_PENDING)
			step_refs_add_counted(&changed, ref.task_id, ref.step_id, ref.count);
		else
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("a step was changed while it was claimed"),
					 errdetail("It was locked, and yet is not as it was."),
					 errhint("Claim again.")));
	}
	claimed->n = kept;
	release_held_back(&changed, &claim->held.tasks);
}

/* Set the steps in progress, each with a lease of its own. */
static void
lease_steps(Claimed *claimed, Claim *claim, TimestampTz now)
{
	static const Oid types[6] = {INT8OID, INT4OID, TEXTOID, INT4OID, UUIDOID, TIMESTAMPTZOID};
	DatumList	columns[6];
	Datum		values[8];
	uint64		n;

	for (int c = 0; c < 6; c++)
		datum_list_init(&columns[c], types[c]);
	for (int i = 0; i < claimed->n; i++)
	{
		ClaimedStep *item = &claimed->items[i];

		item->lease = DirectFunctionCall1(gen_random_uuid, (Datum) 0);
		item->end = lease_end(item->step->def, claim->lease, now, now);
		datum_list_add(&columns[0], Int64GetDatum(item->step->key.task_id));
		datum_list_add(&columns[1], Int32GetDatum(item->step->key.step_id));
		datum_list_add(&columns[2], CStringGetTextDatum(step_state_name(item->step->from)));
		datum_list_add(&columns[3], Int32GetDatum(item->step->pending));
		datum_list_add(&columns[4], item->lease);
		datum_list_add(&columns[5], TimestampTzGetDatum(item->end));
	}
	for (int c = 0; c < 6; c++)
		values[c] = datum_list_array(&columns[c]);
	values[6] = PointerGetDatum(claim->worker);
	values[7] = TimestampTzGetDatum(now);
	n = tasker_run(&begin_attempts, values, NULL);
	if (n != claimed->n)
		drop_changed(claimed, claim, n);
}

/*
 * Steps whose input is too large to be handed out must not stand in the way of
 * the others: they are left in the batch's wave, to fail, but for a child just
 * released, which the next claim from the queue refuses.
 */
static void
drop_oversized(Claimed *claimed, Claim *claim)
{
	Batch	   *batch = claimed->batch;
	StepRefs	children = {0};
	int			kept = 0;

	batch->nwave = 0;
	for (int i = 0; i < claimed->n; i++)
	{
		BatchStep  *step = claimed->items[i].step;

		if (!input_too_large(step))
			claimed->items[kept++] = claimed->items[i];
		else if (step->from == STEP_PENDING)
			step_refs_add_counted(&children, step->key.task_id, step->key.step_id, step->pending);
		else
			batch->wave[batch->nwave++] = step;
	}
	claimed->n = kept;
	release_held_back(&children, &claim->held.tasks);
}

/*
 * Take steps, as many as the claim asks for, and lease them. They have all that
 * their handlers are to be given; *now is when they began. In the batch's memory
 * context. Tasks are locked after all steps, also those of the completion before
 * this claim.
 */
ClaimedStep *
dequeue(Batch *batch, Claim *claim, TimestampTz *now, int *n)
{
	Claimed		claimed = {claim, batch};

	hold_back(&claim->held);
	if (claim->held.children.length > 0)
		take_released(&claimed, claim);
	if (claimed.n < claim->limit)
		take_queued(&claimed, lane_end);
	guard_require_armed();		/* now: who saw the rows sees what came with
								 * them */
	if (claimed.n > 0)
	{
		qsort(claimed.items, claimed.n, sizeof(ClaimedStep), compare_claimed);
		batch->nwave = claimed.n;
		batch->wave = palloc(claimed.n * sizeof(BatchStep *));
		for (int i = 0; i < claimed.n; i++)
			batch->wave[i] = claimed.items[i].step;
		load_inputs(batch);
		drop_oversized(&claimed, claim);
	}
	/* not before a parent ended that let go of a step just now */
	*now = tasker_now();
	if (claimed.n > 0)
		lease_steps(&claimed, claim, *now);
	refuse_steps_of_wave(batch);
	finish_held_back();
	*n = claimed.n;
	return claimed.items;
}
