/*
 * task_steps.c
 *	  What happens to the steps when something happens to their tasks: cancelled,
 *	  retried, paused, resumed. Inside a section.
 *
 * Called by operators.c, and by the trigger on tasks for whoever changes a
 * task's state by a plain UPDATE.
 */
#include "engine.h"

#include "catalog/pg_type.h"
#include "shared.h"

static TaskerQuery cancel_all = {
	.sql = "UPDATE tasker.workflow_steps SET state = 'cancelled', lease = NULL, lease_expires_at = NULL "
	"WHERE task_id = ANY ($1) "
	"AND state NOT IN ('complete', 'skipped', 'cancelled', 'resolved_manually')",
	.args = {INT8ARRAYOID},
};

static TaskerQuery retry_all = {
	.sql = "UPDATE tasker.workflow_steps SET state = 'enqueued', attempts = 0, next_attempt_at = NULL "
	"WHERE task_id = ANY ($1) AND state = 'error'",
	.args = {INT8ARRAYOID},
};

/* Rows that a claim has taken are its business: its steps go on. */
static TaskerQuery delete_hints = {
	.sql = "DELETE FROM tasker.ready_queue WHERE ctid = ANY (ARRAY(SELECT q.ctid "
	"FROM tasker.workflow_steps s JOIN tasker.ready_queue q "
	"ON q.lane = s.lane AND q.rank = -s.priority AND q.task_id = s.task_id AND q.step_id = s.step_id "
	"WHERE s.task_id = ANY ($1) AND s.state = 'enqueued' FOR UPDATE OF q SKIP LOCKED))",
	.args = {INT8ARRAYOID},
};

/*
 * A hint that is there, be it one that a claim is just deleting, is not
 * inserted again: that would wait for the claim's transaction.
 */
static TaskerQuery insert_missing_hints = {
	.sql = "INSERT INTO tasker.ready_queue (lane, rank, task_id, step_id) "
	"SELECT s.lane, -s.priority, s.task_id, s.step_id "
	"FROM tasker.workflow_steps s "
	"WHERE s.task_id = ANY ($1) AND s.state = 'enqueued' "
	"AND NOT EXISTS (SELECT FROM tasker.ready_queue q WHERE q.lane = s.lane AND q.rank = -s.priority "
	"AND q.task_id = s.task_id AND q.step_id = s.step_id) "
	"ON CONFLICT DO NOTHING",
	.args = {INT8ARRAYOID},
};

static TaskerQuery rows_of = {
	.sql = "SELECT s.lane, -s.priority, s.task_id, s.step_id FROM tasker.workflow_steps s "
	"WHERE s.task_id = ANY ($1) AND s.state = 'enqueued'",
	.args = {INT8ARRAYOID},
	.columns = {INT4OID, INT4OID, INT8OID, INT4OID},
};

/* Cancel whatever of the tasks has not ended. */
void
cancel_steps(Datum task_ids)
{
	tasker_run(&cancel_all, &task_ids, NULL);
}

/* Give every failed step of the tasks its attempts back. */
void
retry_failed_steps(Datum task_ids)
{
	tasker_run(&retry_all, &task_ids, NULL);
}

/* Nothing more of the tasks is to be taken. */
void
remove_hints(Datum task_ids)
{
	tasker_run(&delete_hints, &task_ids, NULL);
}

/* Rows of ready_queue, as the last query's lane, rank, task_id and step_id, can be taken. */
void
wake_lanes_of_rows(uint64 n)
{
	for (uint64 row = 0; row < n; row++)
		wake_lane_at_commit(DatumGetInt32(tasker_value_notnull(row, 1)),
							lane_key(DatumGetInt32(tasker_value_notnull(row, 2)),
									 DatumGetInt64(tasker_value_notnull(row, 3)),
									 DatumGetInt32(tasker_value_notnull(row, 4))));
}

/* What of the tasks is ready can be taken. */
void
enqueue_hints(Datum task_ids)
{
	tasker_run(&insert_missing_hints, &task_ids, NULL);
	wake_lanes_of_rows(tasker_run(&rows_of, &task_ids, NULL));
}
