/*
 * take.c
 *	  Taking steps off the queues for a claim, in the order of their rank and age.
 *
 * Where each queue may have rows is known (lanes.c). As long as the first place
 * that there is comes before those of the other queues, it is taken from alone;
 * where they overlap, as their ends do, from all of them together.
 *
 * Called by dequeue.c, inside a section.
 */
#include "claims.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"

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
 * $4, $5, $6, the first $2 that nobody holds are taken. But for $11 nothing is
 * that comes after all that was looked at of a queue which may have more.
 */
static TaskerQuery take_merged = {
	.sql = "WITH c AS MATERIALIZED (SELECT k.* FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($8), "
	"pg_catalog.unnest($9), pg_catalog.unnest($10)) AS l (lane, rank, task_id, step_id) CROSS JOIN LATERAL ("
	"SELECT q.lane, q.rank, q.task_id, q.step_id, "
	"pg_catalog.row_number() OVER (ORDER BY q.rank, q.task_id, q.step_id) AS nth "
	"FROM tasker.ready_queue q "
	"JOIN tasker.workflow_steps s ON s.task_id = q.task_id AND s.step_id = q.step_id "
	"JOIN tasker.tasks t ON t.task_id = q.task_id "
	"WHERE q.lane = l.lane AND (q.rank, q.task_id, q.step_id) >= (l.rank, l.task_id, l.step_id) "
	"AND ((s.state = 'enqueued' AND t.state IN ('pending', 'in_progress') "
	"AND ($3 IS NULL OR t.owner = $3)) "
	"OR s.state IN ('complete', 'cancelled', 'skipped', 'resolved_manually')) "
	"ORDER BY q.rank, q.task_id, q.step_id LIMIT $7) AS k), "
	"h AS (SELECT c.rank, c.task_id, c.step_id FROM c WHERE c.nth = $7 ORDER BY c.rank, c.task_id, c.step_id LIMIT 1), "
	"f AS MATERIALIZED (SELECT q.ctid AS place, q.lane, q.rank, q.task_id, q.step_id, s.step_no, s.attempts, "
	"s.state::text AS state, s.checkpoint "
	"FROM c JOIN tasker.ready_queue q "
	"ON q.lane = c.lane AND q.rank = c.rank AND q.task_id = c.task_id AND q.step_id = c.step_id "
	"JOIN tasker.workflow_steps s ON s.task_id = c.task_id AND s.step_id = c.step_id "
	"WHERE s.state IN ('enqueued', 'complete', 'cancelled', 'skipped', 'resolved_manually') "
	"AND (c.rank, c.task_id, c.step_id) < ($4, $5, $6) "
	"AND ($11 OR COALESCE((c.rank, c.task_id, c.step_id) <= (SELECT h.rank, h.task_id, h.step_id FROM h), true)) "
	"ORDER BY q.rank, q.task_id, q.step_id LIMIT $2 FOR NO KEY UPDATE OF q, s SKIP LOCKED), "
	"d AS (DELETE FROM tasker.ready_queue WHERE ctid = ANY (ARRAY(SELECT f.place FROM f))) "
	"SELECT f.task_id, f.step_id, f.step_no, f.attempts, f.state, f.checkpoint, f.lane, f.rank FROM f",
	.args = {INT4ARRAYOID, INT4OID, INT4OID, INT4OID, INT8OID, INT4OID, INT4OID,
	INT4ARRAYOID, INT8ARRAYOID, INT4ARRAYOID, BOOLOID},
	.columns = {INT8OID, INT4OID, INT4OID, INT4OID, TEXTOID, JSONBOID, INT4OID, INT4OID},
};

/* ------------------------------------------------------------------ the rows */

void
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
BatchStep *
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
find_head(const Claim *claim, int queue_id, LaneKey from)
{
	Datum		values[5] = {Int32GetDatum(queue_id)};

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
take_rank(Claimed *claimed, int queue_id, LaneKey from, LaneKey to)
{
	const Claim *claim = claimed->claim;
	int			wanted = claimed->limit - claimed->n;
	bool		whole = to.rank > from.rank;
	Datum		values[8] = {Int32GetDatum(queue_id), Int32GetDatum(wanted), claim->scope.owner};
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
 * The same of all ranks. Rows of steps that somebody ended meanwhile go too, and
 * must not stand for steps: so it looks until there are enough or no more. What
 * it returns may be after the end.
 */
static LaneKey
take_range(Claimed *claimed, int queue_id, LaneKey from, LaneKey to)
{
	while (claimed->n < claimed->limit && lane_key_compare(&from, &to) < 0)
	{
		if (from.rank != to.rank)
			from = find_head(claimed->claim, queue_id, from);
		if (lane_key_compare(&from, &to) < 0)
			from = take_rank(claimed, queue_id, from, to);
		CHECK_FOR_INTERRUPTS();
	}
	return from;
}

/* ------------------------------------------------------------- several of them */

/* A queue, and how far it was looked at. */
typedef struct QueueLook
{
	LaneLook	look;
	int			next;			/* of its ranges, the first one that is left */
	bool		looked;
	LaneKey		until;			/* up to where all were taken that could be */
} QueueLook;

static bool
any_left(const QueueLook *queue, LaneKey bound)
{
	return queue->next < queue->look.rows.n &&
		lane_key_compare(&queue->look.rows.range[queue->next].from, &bound) < 0;
}

/* The queue whose rest comes first; NULL if there is none before the bound. *other is where the other ones' begin. */
static QueueLook *
first_queue(QueueLook *queues, int n, LaneKey bound, LaneKey *other)
{
	QueueLook  *first = NULL;
	LaneKey		first_from = lane_end;

	*other = lane_end;
	for (QueueLook *queue = queues; queue < queues + n; queue++)
	{
		LaneKey		from;

		if (!any_left(queue, bound))
			continue;
		from = queue->look.rows.range[queue->next].from;
		if (first == NULL || lane_key_compare(&from, &first_from) < 0)
		{
			*other = first_from;
			first = queue;
			first_from = from;
		}
		else if (lane_key_compare(&from, other) < 0)
			*other = from;
	}
	return first;
}

/* Where the rests of the queues begin, as arrays of ranks, tasks and steps. */
static void
find_heads(const Claim *claim, QueueLook *queues, LaneKey bound, Datum *arrays)
{
	static const Oid types[3] = {INT4OID, INT8OID, INT4OID};
	DatumList	columns[3];

	for (int c = 0; c < 3; c++)
		datum_list_init(&columns[c], types[c]);
	for (QueueLook *queue = queues; queue < queues + claim->nlanes; queue++)
	{
		LaneKey		head = lane_end;
		Datum		values[3];

		if (any_left(queue, bound))
		{
			head = find_head(claim, queue->look.lane, queue->look.rows.range[queue->next].from);
			queue->looked = true;
			queue->until = head;
		}
		key_values(head, values);
		for (int c = 0; c < 3; c++)
			datum_list_add(&columns[c], values[c]);
	}
	for (int c = 0; c < 3; c++)
		arrays[c] = datum_list_array(&columns[c]);
}

/* Of the queues' rests all was taken up to a place. */
static void
note_taken_until(QueueLook *queues, int n, LaneKey bound, LaneKey last)
{
	for (QueueLook *queue = queues; queue < queues + n; queue++)
		if (any_left(queue, bound) && lane_key_compare(&queue->until, &last) < 0)
			queue->until = last;
}

/*
 * Take steps of the queues' rests together: of each the first ones are looked at,
 * and more if others hold all of them.
 */
static void
take_together(Claimed *claimed, QueueLook *queues, LaneKey bound)
{
	const Claim *claim = claimed->claim;
	Datum		values[11] = {claim->lanes, (Datum) 0, claim->scope.owner};
	char		nulls[12] = "           ";
	LaneKey		last = whole_lane.from;
	int			peek = claimed->limit;
	bool		furthest;
	int			wanted,
				n;

	find_heads(claim, queues, bound, &values[7]);
	nulls[2] = claim->scope.no_owner;
	key_values(bound, &values[3]);
	do
	{
		wanted = claimed->limit - claimed->n;
		furthest = peek == claimed->limit * PEEK_FURTHER * PEEK_FURTHER;
		values[1] = Int32GetDatum(wanted);
		values[6] = Int32GetDatum(peek);
		values[10] = BoolGetDatum(furthest);
		n = (int) tasker_run(&take_merged, values, nulls);
		last = add_rows(claimed, n, last);
		if (!furthest)
			note_taken_until(queues, claim->nlanes, bound, last);
		CHECK_FOR_INTERRUPTS();
		if (n < wanted && !furthest)
			peek *= PEEK_FURTHER;
	} while (claimed->n < claimed->limit && (n == wanted || !furthest));
}

/* What was found out for the next claim; an old snapshot does not see the latest. */
static void
note_looks(QueueLook *queues, int n, LaneKey bound)
{
	if (IsolationUsesXactSnapshot())
		return;
	for (QueueLook *queue = queues; queue < queues + n; queue++)
	{
		if (!queue->looked)
			continue;
		if (queue->next == queue->look.rows.n && lane_key_compare(&queue->until, &bound) < 0)
			queue->until = bound;
		lane_looked_at(&queue->look, queue->until);
	}
}

/* May there be steps in the queues that come before the bound? */
bool
any_queued(const Claim *claim, LaneKey bound)
{
	for (int i = 0; i < claim->nlanes; i++)
		if (lane_may_begin_before(claim->lane[i].queue_id, DatumGetInt32(claim->scope.owner), bound))
			return true;
	return false;
}

/* Take steps off the queues that come before the bound, until there are as many as are wanted. */
void
take_queued(Claimed *claimed, LaneKey bound)
{
	const Claim *claim = claimed->claim;
	QueueLook  *queues = palloc0(Max(claim->nlanes, 1) * sizeof(QueueLook));
	QueueLook  *queue;
	LaneKey		other;

	for (int i = 0; i < claim->nlanes; i++)
		queues[i].look = look_at_lane(claim->lane[i].queue_id, DatumGetInt32(claim->scope.owner));
	while (claimed->n < claimed->limit &&
		   (queue = first_queue(queues, claim->nlanes, bound, &other)) != NULL)
	{
		LaneRange	range = queue->look.rows.range[queue->next];

		if (lane_key_compare(&bound, &range.to) < 0)
			range.to = bound;
		if (lane_key_compare(&other, &range.to) < 0)
		{
			take_together(claimed, queues, bound);
			break;
		}
		queue->until = take_range(claimed, queue->look.lane, range.from, range.to);
		queue->looked = true;
		if (claimed->n < claimed->limit)
			queue->next++;
	}
	note_looks(queues, claim->nlanes, bound);
	pfree(queues);				/* a call may ask for each of its children */
}
