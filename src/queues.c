/*
 * queues.c
 *	  Queues of external workers as such: made on purpose, paused, resumed,
 *	  drained; the workers that say they serve them; and telling those who LISTEN
 *	  that there is work.
 *
 * Called from SQL, and by the scheduler (notify_queues, watch_queues).
 */
#include "queues.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "clock.h"
#include "engine.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "results.h"
#include "shared.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

/* How often a drain looks whether it is over. */
#define DRAIN_POLL_MS	20

static TaskerQuery add_queue = {
	.sql = "INSERT INTO tasker.queues (name, description, notify) VALUES ($1, $2, COALESCE($3, false)) "
	"ON CONFLICT DO NOTHING",
	.args = {TEXTOID, TEXTOID, BOOLOID},
};

static TaskerQuery change_queue = {
	.sql = "UPDATE tasker.queues SET description = COALESCE($2, description), notify = COALESCE($3, notify) "
	"WHERE name = $1",
	.args = {TEXTOID, TEXTOID, BOOLOID},
};

static TaskerQuery pause_queue = {
	.sql = "UPDATE tasker.queues SET paused_at = $2, paused_by = $3, pause_reason = $4 "
	"WHERE name = $1 AND paused_at IS NULL",
	.args = {TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID},
};

static TaskerQuery resume_queue = {
	.sql = "UPDATE tasker.queues SET paused_at = NULL, paused_by = NULL, pause_reason = NULL "
	"WHERE name = $1 AND paused_at IS NOT NULL RETURNING queue_id",
	.args = {TEXTOID},
	.columns = {INT4OID},
};

static TaskerQuery find_queue = {
	.sql = "SELECT queue_id FROM tasker.queues WHERE name = $1",
	.args = {TEXTOID},
	.columns = {INT4OID},
};

static TaskerQuery count_in_flight = {
	.sql = "SELECT pg_catalog.count(*)::int FROM (SELECT DISTINCT u.task_id, u.step_id "
	"FROM tasker.leases l CROSS JOIN LATERAL "
	"ROWS FROM (pg_catalog.unnest(l.task_ids), pg_catalog.unnest(l.step_ids)) AS u (task_id, step_id)) AS c "
	"JOIN tasker.workflow_steps s ON s.task_id = c.task_id AND s.step_id = c.step_id "
	"WHERE s.state = 'in_progress' AND s.lane = $1",
	.args = {INT4OID},
	.columns = {INT4OID},
};

static TaskerQuery register_worker = {
	.sql = "INSERT INTO tasker.workers AS w (role_name, worker, queues, metadata, registered_at, last_seen_at) "
	"VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT (role_name, worker) DO UPDATE "
	"SET queues = EXCLUDED.queues, metadata = EXCLUDED.metadata, last_seen_at = EXCLUDED.last_seen_at",
	.args = {NAMEOID, TEXTOID, TEXTARRAYOID, JSONBOID, TIMESTAMPTZOID},
};

static TaskerQuery forget_workers = {
	.sql = "DELETE FROM tasker.workers WHERE ctid = ANY (ARRAY(SELECT ctid FROM tasker.workers "
	"WHERE last_seen_at < $1 - '1 day'::interval FOR UPDATE SKIP LOCKED))",
	.args = {TIMESTAMPTZOID},
};

static TaskerQuery listened_to = {
	.sql = "SELECT queue_id FROM tasker.queues WHERE notify",
	.columns = {INT4OID},
};

static TaskerQuery send_notifies = {
	.sql = "SELECT pg_catalog.pg_notify('tasker_queue', name) IS NULL FROM tasker.queues "
	"WHERE notify AND queue_id = ANY ($1)",
	.args = {INT4ARRAYOID},
	.columns = {BOOLOID},
};

/* ------------------------------------------------------------------ helpers */

/* The queue's name, which a call must give. */
static Datum
queue_argument(FunctionCallInfo fcinfo, int arg)
{
	int			length;

	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("the name of a queue must not be null"),
				 errdetail("It is null."),
				 errhint("tasker.queue_status lists the queues.")));
	length = VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(arg));
	if (length < 1 || length > TASKER_MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("the name of a queue has from 1 to %d bytes", TASKER_MAX_NAME),
				 errdetail("It has %d.", length),
				 errhint("Any text will do.")));
	return PG_GETARG_DATUM(arg);
}

/* Refuse a caller below the level; what it wanted is part of the message. */
static void
check_level(AccessLevel level, const char *what)
{
	if (access_level(tasker_caller()) >= level)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_ACCESS),
			 errmsg("permission denied to %s a queue", what),
			 errdetail("Role \"%s\" does not have level %s.", GetUserNameFromId(tasker_caller(), false),
					   level == ACCESS_SUBMITTER ? "submitter" : "operator"),
			 errhint("A superuser can give it: SELECT tasker.grant_access('…', '%s').",
					 level == ACCESS_SUBMITTER ? "submitter" : "operator")));
}

/* The id of the queue of that name. Inside a section. */
static int
queue_id_of(Datum name)
{
	if (tasker_run(&find_queue, &name, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_UNKNOWN_QUEUE),
				 errmsg("queue \"%s\" does not exist", TextDatumGetCString(name)),
				 errdetail("No definition has named it and nobody has made it."),
				 errhint("tasker.queue_status lists the queues.")));
	return DatumGetInt32(tasker_value_notnull(0, 1));
}

/* Pause the queue; false if it was paused before. Inside a section. */
static bool
pause_named(Datum name, Datum reason, bool no_reason)
{
	Datum		values[4] = {name, TimestampTzGetDatum(tasker_now()),
	CStringGetTextDatum(GetUserNameFromId(tasker_caller(), false)), reason};

	check_level(ACCESS_OPERATOR, "pause");
	if (!no_reason)
		check_remark(DatumGetTextPP(reason), "the reason", TASKER_MAX_REMARK);
	(void) queue_id_of(name);	/* it is there */
	return tasker_run(&pause_queue, values, no_reason ? "   n" : NULL) == 1;
}

/* ---------------------------------------------------------------- the calls */

PG_FUNCTION_INFO_V1(tasker_create_queue);
PG_FUNCTION_INFO_V1(tasker_pause_queue);
PG_FUNCTION_INFO_V1(tasker_resume_queue);
PG_FUNCTION_INFO_V1(tasker_drain_queue);
PG_FUNCTION_INFO_V1(tasker_queue_claimed_at);
PG_FUNCTION_INFO_V1(tasker_register_worker);

/* create_queue(queue, description, notify): whether it was made */
Datum
tasker_create_queue(PG_FUNCTION_ARGS)
{
	Datum		values[3] = {queue_argument(fcinfo, 0)};
	char		nulls[4] = "   ";
	TaskerSection section;
	bool		made;

	if (!PG_ARGISNULL(1))
		check_remark(PG_GETARG_TEXT_PP(1), "the description of a queue", TASKER_MAX_REMARK);
	for (int i = 1; i < 3; i++)
	{
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
		values[i] = PG_ARGISNULL(i) ? (Datum) 0 : PG_GETARG_DATUM(i);
	}
	tasker_enter(&section);
	check_level(ACCESS_SUBMITTER, "create");
	made = tasker_run(&add_queue, values, nulls) == 1;
	if (!made && (nulls[1] == ' ' || nulls[2] == ' '))
	{
		check_level(ACCESS_OPERATOR, "change");
		tasker_run(&change_queue, values, nulls);
	}
	if (nulls[2] == ' ')
		reload_queues_at_commit();
	tasker_leave(&section);
	PG_RETURN_BOOL(made);
}

/* pause_queue(queue, reason): false if it was paused before */
Datum
tasker_pause_queue(PG_FUNCTION_ARGS)
{
	Datum		name = queue_argument(fcinfo, 0);
	TaskerSection section;
	bool		changed;

	tasker_enter(&section);
	changed = pause_named(name, PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1), PG_ARGISNULL(1));
	tasker_leave(&section);
	PG_RETURN_BOOL(changed);
}

/* resume_queue(queue): false if it was not paused */
Datum
tasker_resume_queue(PG_FUNCTION_ARGS)
{
	Datum		name = queue_argument(fcinfo, 0);
	TaskerSection section;
	bool		changed;

	tasker_enter(&section);
	check_level(ACCESS_OPERATOR, "resume");
	(void) queue_id_of(name);
	changed = tasker_run(&resume_queue, &name, NULL) == 1;
	if (changed)
		wake_whole_lane_at_commit(DatumGetInt32(tasker_value_notnull(0, 1)));
	tasker_leave(&section);
	PG_RETURN_BOOL(changed);
}

/* queue_claimed_at(queue_id): when it was last asked for steps */
Datum
tasker_queue_claimed_at(PG_FUNCTION_ARGS)
{
	TimestampTz at = queue_served_at(PG_GETARG_INT32(0));

	if (at == 0)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(at);
}

/* register_worker(worker, queues, metadata) */
Datum
tasker_register_worker(PG_FUNCTION_ARGS)
{
	TaskerSection section;
	Datum		values[5];

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2) ||
		VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(0)) == 0 || VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(0)) > TASKER_MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("a worker registers with its name, its queues and what it says of itself"),
				 errdetail("One of them is null, or the name does not have from 1 to %d bytes.", TASKER_MAX_NAME),
				 errhint("For example: register_worker('worker-1', '{payments}').")));
	check_document_size(PG_GETARG_JSONB_P(2), "the metadata of a worker is");
	check_remark((text *) PG_GETARG_ARRAYTYPE_P(1), "the list of a worker's queues", TASKER_MAX_REMARK);
	tasker_enter(&section);
	(void) caller_scope();
	values[0] = DirectFunctionCall1(namein, CStringGetDatum(GetUserNameFromId(tasker_caller(), false)));
	values[1] = PG_GETARG_DATUM(0);
	values[2] = PG_GETARG_DATUM(1);
	values[3] = PG_GETARG_DATUM(2);
	values[4] = TimestampTzGetDatum(tasker_now());
	tasker_run(&register_worker, values, NULL);
	tasker_run(&forget_workers, &values[4], NULL);
	tasker_leave(&section);
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------ draining */

/* How many steps of the queue are claimed, as committed by now. */
static int
in_flight(int queue_id)
{
	Datum		values[1] = {Int32GetDatum(queue_id)};
	TaskerSection section;
	int			n;

	tasker_enter(&section);
	tasker_run(&count_in_flight, values, NULL);
	n = DatumGetInt32(tasker_value_notnull(0, 1));
	tasker_leave(&section);
	return n;
}

/* Pause the queue and commit that; its id. */
static int
pause_for_good(FunctionCallInfo fcinfo)
{
	Datum		name = queue_argument(fcinfo, 0);
	TaskerSection section;
	int			queue_id;

	tasker_enter(&section);
	(void) pause_named(name, PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2), PG_ARGISNULL(2));
	queue_id = queue_id_of(name);
	tasker_leave(&section);
	SPI_commit();
	SPI_start_transaction();
	return queue_id;
}

/*
 * The transactions that have looked at the queues and have not ended: some may
 * not have seen the pause, and be claiming. A claim locks the table before it
 * takes the snapshot it reads it with, so those are all.
 */
static VirtualTransactionId *
who_may_be_claiming(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, get_relname_relid("queues", get_namespace_oid("tasker", false)));
	return GetLockConflicts(&tag, AccessExclusiveLock, NULL);
}

/* Forget those that have ended; whether any is left. */
static bool
some_still_there(VirtualTransactionId *list)
{
	int			left = 0;

	for (int i = 0; VirtualTransactionIdIsValid(list[i]); i++)
		if (!VirtualXactLock(list[i], false))
			list[left++] = list[i];
	SetInvalidVirtualTransactionId(list[left]);
	return left > 0;
}

/* drain_queue(queue, timeout, reason, in_flight): pause it and wait until nothing is in flight */
Datum
tasker_drain_queue(PG_FUNCTION_ARGS)
{
	MemoryContext context = CurrentMemoryContext;
	TimestampTz begun = GetCurrentTimestamp();
	double		seconds = time_limit_argument(fcinfo, 1);
	VirtualTransactionId *claiming;
	TupleDesc	desc;
	Datum		result[1];
	bool		nulls[1] = {false};
	int			queue_id;
	int			n;

	check_nonatomic(fcinfo, "tasker.drain_queue() commits that the queue is paused, and waits");
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	queue_id = pause_for_good(fcinfo);
	MemoryContextSwitchTo(context);
	claiming = who_may_be_claiming();
	for (;;)
	{
		bool		some = some_still_there(claiming);

		n = in_flight(queue_id);
		if ((!some && n == 0) ||
			(seconds >= 0 && (double) (GetCurrentTimestamp() - begun) / USECS_PER_SEC >= seconds))
			break;
		SPI_commit();			/* not to wait with a snapshot */
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, DRAIN_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		SPI_start_transaction();
	}
	SPI_finish();
	MemoryContextSwitchTo(context);
	result[0] = Int32GetDatum(n);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, result, nulls)));
}

/* ---------------------------------------------------------------- notifying */

/* Find out anew for which queues somebody wants to be told. For the scheduler. */
void
watch_queues(void)
{
	TaskerSection section;
	DatumList	list;
	uint64		n;

	tasker_enter(&section);
	n = tasker_run(&listened_to, NULL, NULL);
	datum_list_init(&list, INT4OID);
	for (uint64 row = 0; row < n; row++)
		datum_list_add(&list, tasker_value_notnull(row, 1));
	set_watched_queues(list.values, list.length);
	tasker_leave(&section);
}

/* Tell who listens of the queues that got steps since the last time. */
void
notify_queues(void)
{
	TaskerSection section;
	DatumList	list;
	Datum		values[1];
	int			queue_id;

	datum_list_init(&list, INT4OID);
	while ((queue_id = next_queue_to_notify()) != 0)
		datum_list_add(&list, Int32GetDatum(queue_id));
	if (list.length == 0)
		return;
	tasker_enter(&section);
	values[0] = datum_list_array(&list);
	tasker_run(&send_notifies, values, NULL);
	tasker_leave(&section);
}
