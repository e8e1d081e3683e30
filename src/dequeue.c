/*
 * dequeue.c
 *	  Taking steps for a claim: off the queues (take.c), or straight from the
 *	  completion that has just released them, and giving them leases.
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

#include "catalog/pg_type.h"
#include "guard.h"
#include "utils/fmgrprotos.h"

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
	int			room = 0;
	bool		queued;

	merge_step_refs(&claim->held.children);
	find_candidates(&candidates, claim);
	queued = candidates.n > 0 && any_queued(claim, claimed_key(&candidates.items[candidates.n - 1]));
	for (; room < candidates.n; room++)
	{
		claimed->limit = claim->limit - room;
		if (queued && claimed->n < claimed->limit)
			take_queued(claimed, claimed_key(&candidates.items[room]));
		if (claimed->n == claimed->limit)
			break;
	}
	claimed->limit = claim->limit;
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
	Claimed		claimed = {claim, batch, claim->limit};

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
