/*
 * retention.c
 *	  Removing tasks that ended longer ago than tasker.retention, some at a time.
 *
 * A task has ended when it is complete, cancelled or resolved_manually. One in
 * error needs a person and stays, however old. Whatever belongs to a task goes
 * with it in one transaction: steps, edges, results, hints, its idempotency key,
 * which from then on stands for nothing. Its history goes with its leaf
 * (history_ring.c); no view shows it meanwhile.
 *
 * No index tells when tasks ended: one on tasks.completed_at would cost every
 * end of a task its place on its page. The history does, since the end of each
 * task is a row in it and rows come in the order of time: so the oldest leaf is
 * walked from where the last piece stopped to the first end that is too young.
 * A piece reads a few blocks, however many tasks there are, in whatever order
 * they ended, and however many old ones are still open.
 *
 * A leaf is walked once its turn to be written to is over, which takes 3/8 of
 * the age, or less if that was lowered.
 *
 * Nothing here waits for a lock. A task of which somebody holds a step, a key
 * or a hint locked, and one that the archive function (archive.c) refuses, is
 * put into overdue_tasks and tried again.
 *
 * Lock order: hints, keys, steps by id, tasks, as everywhere; the ring before.
 * Called by retention_pace.c, for whoever wants tasks removed.
 */
#include "retention.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "archive.h"
#include "catalog/pg_type.h"
#include "engine.h"
#include "history_ring.h"
#include "input.h"
#include "miscadmin.h"
#include "storage/itemptr.h"
#include "utils/memutils.h"
#include "utils/regproc.h"

/* The most that a piece removes, and the most that it reads for that. */
#define PIECE_TASKS		500
#define PIECE_STEPS		2000
#define PIECE_BLOCKS	50

/* With an archive function each task takes a subtransaction, and may take its time. */
#define ARCHIVED_TASKS	50
#define ARCHIVED_MS		50

/* Names the function that refused a task no more often than this. */
#define WARN_EVERY_MS	60000

/* When a task that could not go is tried again: 10 s to an hour later. */
static const Backoff try_again = {BACKOFF_EXPONENTIAL, 5, 2, SECS_PER_HOUR, 0};

/* A task that ended long enough ago. */
typedef struct EndedTask
{
	int64		task_id;
	TimestampTz ended_at;
	int			tries;			/* to remove it, that failed */
	HistoryPosition found_at;	/* all zero: in overdue_tasks */
	bool		can_go;
	Jsonb	   *error;			/* of the archive function */
} EndedTask;

/* A piece of the work: what one transaction does. */
typedef struct Piece
{
	TimestampTz now;
	TimestampTz before;			/* what ended until then is to go */
	Oid			archive;
	int			max_tasks;
	EndedTask  *tasks;
	int			length;
	int			steps;
	HistoryPosition position;	/* up to where the ends are found */
	BlockNumber blocks;			/* of the leaf that it is in */
	bool		walked;			/* it has moved */
	bool		ended;			/* no other end is old enough now */
	TimestampTz due;			/* when the next one is; DT_NOEND: unknown */
	TimestampTz reached;		/* the last one */
} Piece;

static TaskerQuery overdue = {
	.sql = "SELECT o.task_id, o.ended_at, o.tries, COALESCE(n.step_count, 0) FROM tasker.overdue_tasks o "
	"LEFT JOIN tasker.tasks t ON t.task_id = o.task_id "
	"LEFT JOIN tasker.named_tasks n ON n.named_task_id = t.named_task_id "
	"WHERE o.next_try_at <= $1 AND o.ended_at <= $2 ORDER BY o.next_try_at LIMIT $3",
	.args = {TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID},
	.columns = {INT8OID, TIMESTAMPTZOID, INT4OID, INT4OID},
};

static TaskerQuery next_overdue = {
	.sql = "SELECT o.next_try_at FROM tasker.overdue_tasks o WHERE o.ended_at <= $1 "
	"ORDER BY o.next_try_at LIMIT 1",
	.args = {TIMESTAMPTZOID},
	.columns = {TIMESTAMPTZOID},
};

static TaskerQuery ends = {
	.sql = "SELECT h.ctid, h.task_id, h.created_at, n.step_count "
	"FROM tasker.task_transitions h "
	"LEFT JOIN tasker.tasks t ON t.task_id = h.task_id "
	"AND NOT EXISTS (SELECT FROM tasker.overdue_tasks o WHERE o.task_id = h.task_id) "
	"LEFT JOIN tasker.named_tasks n ON n.named_task_id = t.named_task_id "
	"WHERE h.slot = $1 AND h.ctid = ANY ($2) "
	"AND h.to_state IN ('complete', 'cancelled', 'resolved_manually') ORDER BY h.ctid",
	.args = {INT4OID, TIDARRAYOID},
	.columns = {TIDOID, INT8OID, TIMESTAMPTZOID, INT4OID},
};

/*
 * Hints that were never taken, since their steps were ended in another way than
 * by who took them. Those have completed_at, and are not looked at.
 */
#define NOT_TAKEN	"NOT (s.state = 'complete' AND s.completed_at IS NOT NULL)"

static TaskerQuery forget_hints = {
	.sql = "DELETE FROM tasker.ready_queue WHERE ctid = ANY (ARRAY(SELECT q.ctid "
	"FROM tasker.workflow_steps s JOIN tasker.ready_queue q "
	"ON q.lane = s.lane AND q.rank = -s.priority AND q.task_id = s.task_id AND q.step_id = s.step_id "
	"WHERE s.task_id = ANY ($1) AND " NOT_TAKEN " FOR UPDATE OF q SKIP LOCKED))",
	.args = {INT8ARRAYOID},
};

static TaskerQuery have_hints = {
	.sql = "SELECT s.task_id FROM tasker.workflow_steps s JOIN tasker.ready_queue q "
	"ON q.lane = s.lane AND q.rank = -s.priority AND q.task_id = s.task_id AND q.step_id = s.step_id "
	"WHERE s.task_id = ANY ($1) AND " NOT_TAKEN,
	.args = {INT8ARRAYOID},
	.columns = {INT8OID},
};

/* Those tasks all of which could be locked. */
static TaskerQuery lock_tasks = {
	.sql = "SELECT t.task_id FROM pg_catalog.unnest($1) AS c (task_id) "
	"CROSS JOIN LATERAL (SELECT "
	"(SELECT pg_catalog.count(*) FROM tasker.idempotency_keys i WHERE i.task_id = c.task_id) AS keys, "
	"(SELECT pg_catalog.count(*) FROM (SELECT FROM tasker.idempotency_keys i WHERE i.task_id = c.task_id "
	"FOR UPDATE SKIP LOCKED) AS l) AS keys_locked, "
	"(SELECT pg_catalog.count(*) FROM tasker.workflow_steps s WHERE s.task_id = c.task_id) AS steps, "
	"(SELECT pg_catalog.count(*) FROM (SELECT FROM tasker.workflow_steps s WHERE s.task_id = c.task_id "
	"ORDER BY s.step_id FOR UPDATE SKIP LOCKED) AS l) AS steps_locked OFFSET 0) AS n "
	"JOIN tasker.tasks t ON t.task_id = c.task_id "
	"WHERE n.keys = n.keys_locked AND n.steps = n.steps_locked "
	"AND t.state IN ('complete', 'cancelled', 'resolved_manually') "
	"FOR UPDATE OF t SKIP LOCKED",
	.args = {INT8ARRAYOID},
	.columns = {INT8OID},
};

/* All that there is of tasks; themselves come last. */
#define OF_TASKS(table) {.sql = "DELETE FROM tasker." table " WHERE task_id = ANY ($1)", .args = {INT8ARRAYOID}}

static TaskerQuery delete_tasks[] = {
	OF_TASKS("idempotency_keys"),
	OF_TASKS("workflow_steps"),
	OF_TASKS("workflow_step_edges"),
	OF_TASKS("workflow_step_results"),
	OF_TASKS("tasks"),
};

static TaskerQuery forget_overdue = {
	.sql = "DELETE FROM tasker.overdue_tasks o WHERE o.task_id = ANY ($1) "
	"AND NOT EXISTS (SELECT FROM tasker.tasks t WHERE t.task_id = o.task_id)",
	.args = {INT8ARRAYOID},
};

static TaskerQuery keep_overdue = {
	.sql = "INSERT INTO tasker.overdue_tasks (task_id, ended_at, tries, next_try_at, error) "
	"SELECT c.task_id, c.ended_at, c.tries, c.next_try_at, c.error "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), "
	"pg_catalog.unnest($4), pg_catalog.unnest($5)) AS c (task_id, ended_at, tries, next_try_at, error) "
	"JOIN tasker.tasks t ON t.task_id = c.task_id ORDER BY c.task_id "
	"ON CONFLICT (task_id) DO UPDATE SET tries = EXCLUDED.tries, next_try_at = EXCLUDED.next_try_at, "
	"error = EXCLUDED.error",
	.args = {INT8ARRAYOID, TIMESTAMPTZARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID, JSONBARRAYOID},
};

/* ------------------------------------------------------------ what is to go */

static bool
is_full(const Piece *piece)
{
	return piece->length >= piece->max_tasks || piece->steps >= PIECE_STEPS;
}

/* Those that could not go before; half of the piece is left for others. */
static void
find_overdue(Piece *piece)
{
	Datum		values[3] = {TimestampTzGetDatum(piece->now), TimestampTzGetDatum(piece->before),
	Int32GetDatum((piece->max_tasks + 1) / 2)};
	int			n = (int) tasker_run(&overdue, values, NULL);

	for (int i = 0; i < n; i++)
	{
		EndedTask  *task = &piece->tasks[piece->length++];

		task->task_id = DatumGetInt64(tasker_value_notnull(i, 1));
		task->ended_at = DatumGetTimestampTz(tasker_value_notnull(i, 2));
		task->tries = DatumGetInt32(tasker_value_notnull(i, 3));
		piece->steps += DatumGetInt32(tasker_value_notnull(i, 4));
	}
}

/* The ends of tasks in the rest of a block of the leaf. */
static void
find_in_block(Piece *piece, int slot)
{
	Datum		values[2] = {Int32GetDatum(slot), walk_tids(&piece->position, 1)};
	int			n = (int) tasker_run(&ends, values, NULL);

	for (int i = 0; i < n && !is_full(piece); i++)
	{
		ItemPointer tid = (ItemPointer) DatumGetPointer(tasker_value_notnull(i, 1));
		TimestampTz ended_at = DatumGetTimestampTz(tasker_value_notnull(i, 3));
		bool		gone;
		int			steps = DatumGetInt32(tasker_value(i, 4, &gone));

		if (ended_at > piece->before)
		{
			piece->ended = true;
			piece->due = ended_at + (piece->now - piece->before);
			return;
		}
		piece->position.line = ItemPointerGetOffsetNumber(tid);
		piece->reached = ended_at;
		if (!gone)
		{
			EndedTask  *task = &piece->tasks[piece->length++];

			task->task_id = DatumGetInt64(tasker_value_notnull(i, 2));
			task->ended_at = ended_at;
			task->found_at = piece->position;
			piece->steps += steps;
		}
	}
	if (!is_full(piece))
	{
		piece->position.block++;
		piece->position.line = 0;
	}
}

/* Go to where the search stopped in the leaf. Returns false if there is nothing to search now. */
static bool
open_leaf(Piece *piece, HistoryRing *ring)
{
	Oid			filenode;

	piece->ended = true;
	if (ring->expiring == ring->slot)
		return false;
	if (!ring_writers_left(ring->expiring))
	{
		piece->due = piece->now + RING_RETRY;
		return false;
	}
	piece->ended = false;
	piece->blocks = ring_leaf_blocks(HISTORY_OF_TASKS, ring->expiring, &filenode);
	walk_begin(WALK_ENDS, filenode, &piece->position);
	return true;
}

/* Those whose ends come next in the history. */
static void
find_ended(Piece *piece, HistoryRing *ring)
{
	HistoryPosition begun;

	if (!open_leaf(piece, ring))
		return;
	begun = piece->position;
	for (int read = 0; read < PIECE_BLOCKS && !piece->ended && !is_full(piece); read++)
	{
		CHECK_FOR_INTERRUPTS();
		if (piece->position.block < piece->blocks)
			find_in_block(piece, ring->expiring);
		else if (!ring_expire_next(ring))
			piece->ended = true;
		else if (!open_leaf(piece, ring))
			return;
	}
	piece->walked = piece->position.filenode != begun.filenode ||
		piece->position.block != begun.block || piece->position.line != begun.line;
}

/* ------------------------------------------------------------ what can go */

static int
compare_tasks(const void *a, const void *b)
{
	const EndedTask *x = *(EndedTask *const *) a;
	const EndedTask *y = *(EndedTask *const *) b;

	return x->task_id < y->task_id ? -1 : x->task_id > y->task_id;
}

/* The tasks in the order of their ids, which is that of locks. */
static EndedTask **
by_id(Piece *piece)
{
	EndedTask **sorted = palloc(Max(piece->length, 1) * sizeof(EndedTask *));

	for (int i = 0; i < piece->length; i++)
		sorted[i] = &piece->tasks[i];
	qsort(sorted, piece->length, sizeof(EndedTask *), compare_tasks);
	return sorted;
}

/* Their ids: all, or those that can go. */
static Datum
ids_of(EndedTask **sorted, int n, bool all)
{
	DatumList	ids;

	datum_list_init(&ids, INT8OID);
	for (int i = 0; i < n; i++)
		if (all || sorted[i]->can_go)
			datum_list_add(&ids, Int64GetDatum(sorted[i]->task_id));
	return datum_list_array(&ids);
}

/* Set can_go of the tasks that the last statement returned. */
static void
set_can_go(EndedTask **sorted, int n, uint64 rows, bool can_go)
{
	for (uint64 row = 0; row < rows; row++)
	{
		EndedTask	key = {DatumGetInt64(tasker_value_notnull(row, 1))};
		EndedTask  *key_pointer = &key;
		EndedTask **found = bsearch(&key_pointer, sorted, n, sizeof(EndedTask *), compare_tasks);

		(*found)->can_go = can_go;
	}
}

/* Lock what can be locked; what can not, can not go. */
static void
lock_found(Piece *piece)
{
	int			n = piece->length;
	EndedTask **sorted = by_id(piece);
	Datum		ids = ids_of(sorted, n, true);

	bool		hints = tasker_run(&have_hints, &ids, NULL) > 0;

	if (hints)
		tasker_run(&forget_hints, &ids, NULL);
	set_can_go(sorted, n, tasker_run(&lock_tasks, &ids, NULL), true);
	if (hints)
		set_can_go(sorted, n, tasker_run(&have_hints, &ids, NULL), false);
}

/* Leave the tasks from the given one on to the next piece. */
static void
cut(Piece *piece, int length)
{
	for (int i = length; i < piece->length; i++)
		if (piece->tasks[i].found_at.line > 0)
		{
			piece->position = piece->tasks[i].found_at;
			piece->position.line--;
			break;
		}
	piece->length = length;
	piece->ended = false;
}

/* Say which function does not do its work, once in a while. */
static void
warn_of_refusal(const Piece *piece, int64 task_id, const ErrorData *error)
{
	static TimestampTz warned = 0;

	if (!TimestampDifferenceExceeds(warned, GetCurrentTimestamp(), WARN_EVERY_MS))
		return;
	warned = GetCurrentTimestamp();
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("task " INT64_FORMAT " was not archived: %s", task_id, error->message),
			 errdetail("Function %s failed; the task stays, and is tried again.",
					   format_procedure_qualified(piece->archive)),
			 errhint("tasker.overdue_tasks lists the tasks that can not go, and why.")));
}

/*
 * Give the archive function the tasks that can go, for some time. Outside of
 * any section.
 */
static void
archive_found(Piece *piece)
{
	TimestampTz begun = GetCurrentTimestamp();

	for (int i = 0; i < piece->length; i++)
	{
		EndedTask  *task = &piece->tasks[i];
		ErrorData  *error;

		CHECK_FOR_INTERRUPTS();
		if (!task->can_go)
			continue;
		if (i > 0 && TimestampDifferenceExceeds(begun, GetCurrentTimestamp(), ARCHIVED_MS))
		{
			cut(piece, i);
			return;
		}
		error = archive_task(piece->archive, task->task_id);
		if (error == NULL)
			continue;
		task->can_go = false;
		task->error = error_document(error, task->tries + 1, piece->now);
		warn_of_refusal(piece, task->task_id, error);
	}
}

/* ------------------------------------------------------------ what goes */

/* Have the others tried again later. */
static void
keep_others(Piece *piece)
{
	DatumList	ids,
				ends_at,
				tries,
				next,
				errors;
	Datum		values[5];

	datum_list_init(&ids, INT8OID);
	datum_list_init(&ends_at, TIMESTAMPTZOID);
	datum_list_init(&tries, INT4OID);
	datum_list_init(&next, TIMESTAMPTZOID);
	datum_list_init(&errors, JSONBOID);
	for (int i = 0; i < piece->length; i++)
	{
		EndedTask  *task = &piece->tasks[i];
		double		delay = backoff_seconds(&try_again, task->tries + 1, 0.5);

		if (task->can_go)
			continue;
		datum_list_add(&ids, Int64GetDatum(task->task_id));
		datum_list_add(&ends_at, TimestampTzGetDatum(task->ended_at));
		datum_list_add(&tries, Int32GetDatum(task->tries + 1));
		datum_list_add(&next, TimestampTzGetDatum(piece->now + (TimestampTz) (delay * USECS_PER_SEC)));
		if (task->error == NULL)
			datum_list_add_null(&errors);
		else
			datum_list_add(&errors, JsonbPGetDatum(task->error));
	}
	if (ids.length == 0)
		return;
	values[0] = datum_list_array(&ids);
	values[1] = datum_list_array(&ends_at);
	values[2] = datum_list_array(&tries);
	values[3] = datum_list_array(&next);
	values[4] = datum_list_array(&errors);
	tasker_run(&keep_overdue, values, NULL);
}

/* Remove the tasks that can go, and note the others. Returns how many went. */
static int
remove_found(Piece *piece)
{
	EndedTask **sorted = by_id(piece);
	Datum		ids = ids_of(sorted, piece->length, false);
	Datum		all_ids = ids_of(sorted, piece->length, true);
	uint64		removed = 0;

	for (int i = 0; i < lengthof(delete_tasks); i++)
		removed = tasker_run(&delete_tasks[i], &ids, NULL);
	tasker_run(&forget_overdue, &all_ids, NULL);
	keep_others(piece);
	return (int) removed;
}

/* ------------------------------------------------------------ a piece */

/* Find, lock, archive, remove. Inside the section, which is left for the archive function. */
static int
do_piece(Piece *piece, HistoryRing *ring, TaskerSection *section)
{
	int			removed = 0;

	piece->archive = archive_function();
	if (OidIsValid(piece->archive))
		piece->max_tasks = Min(piece->max_tasks, ARCHIVED_TASKS);
	piece->tasks = palloc0(piece->max_tasks * sizeof(EndedTask));
	find_overdue(piece);
	find_ended(piece, ring);
	if (piece->length > 0)
	{
		lock_found(piece);
		if (OidIsValid(piece->archive))
		{
			tasker_leave(section);
			archive_found(piece);
			tasker_enter(section);
		}
		removed = remove_found(piece);
	}
	if (piece->walked)
		walk_save(WALK_ENDS, &piece->position);
	return removed;
}

/* When there is more to do, as far as one can tell. Has the ring turned. */
static TimestampTz
due_next(Piece *piece, HistoryRing *ring)
{
	Datum		values[1] = {TimestampTzGetDatum(piece->before)};
	TimestampTz due = piece->ended ? piece->due : piece->now;
	TimestampTz turn = ring_turn(ring, piece->now, piece->before);

	due = Min(due, turn);
	if (tasker_run(&next_overdue, values, NULL) > 0)
		due = Min(due, DatumGetTimestampTz(tasker_value_notnull(0, 1)));
	return due;
}

/*
 * Remove some of the tasks that ended before a time, at most so many. In a
 * transaction that the caller commits, outside of any section, READ COMMITTED:
 * an old snapshot would not see all that is to be moved.
 */
Expired
expire_some(TimestampTz now, TimestampTz before, int max_tasks)
{
	MemoryContext old_context = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(old_context, "tasker retention", ALLOCSET_DEFAULT_SIZES);
	Piece		piece = {.now = now,.before = before,.max_tasks = Min(max_tasks, PIECE_TASKS),.due = DT_NOEND};
	Expired		result = {0, now + RING_RETRY, 0};
	TaskerSection section;
	HistoryRing ring;

	MemoryContextSwitchTo(context);
	tasker_enter(&section);
	MemoryContextSwitchTo(context);
	if (ring_begin(&ring))
	{
		result.tasks = do_piece(&piece, &ring, &section);
		result.due = due_next(&piece, &ring);
		result.reached = piece.reached;
	}
	tasker_leave(&section);
	MemoryContextSwitchTo(old_context);
	MemoryContextDelete(context);
	return result;
}
