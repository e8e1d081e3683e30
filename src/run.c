/*
 * run.c
 *	  CALL tasker.run(): what the scheduler and an executor do, in the caller's
 *	  own session and as the caller, until nothing is left to do now. For servers
 *	  without background workers, for cron, for tests.
 */
#include "tasker.h"

#include "access/xact.h"
#include "batch.h"
#include "clock.h"
#include "definition_cache.h"
#include "engine.h"
#include "guard.h"
#include "handler.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "recorder.h"
#include "retention.h"
#include "storage/ipc.h"
#include "tcop/pquery.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define TIMERS_AT_ONCE	1000

/* The caller's lane. */
static int
own_lane(void)
{
	TaskerSection section;
	int			owner;

	tasker_enter(&section);
	owner = owner_id_for(tasker_caller());
	tasker_leave(&section);
	return -owner;
}

/* The CALL's own snapshot goes with the first commit: SPI sees to it. */
static void
commit(void)
{
	SPI_commit();
	SPI_start_transaction();
}

/*
 * The batch's error is the step's, if nothing more careful is left to try.
 * Returns how many steps came to an end by that.
 */
static int
rollback_and_blame(BatchRunner *runner, ErrorData *error)
{
	FlushErrorState();
	tasker_abandon();
	recorder_clear();
	(void) handler_timed_out();
	/* SPI accounts for the portal's snapshot, not for those the error left */
	while (ActiveSnapshotSet() &&
		   (ActivePortal == NULL || GetActiveSnapshot() != ActivePortal->portalSnapshot))
		PopActiveSnapshot();
	SPI_rollback();
	SPI_start_transaction();
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);
	if (batch_failed(runner, error))
	{
		if (runner->last_task == 0)
			ReThrowError(error);
		refuse_steps(runner->lane, runner->last_task, runner->last_step, error);
		commit();
		return 1;
	}
	return 0;
}

/*
 * One batch, one transaction. Returns whether there was anything to do, and
 * in *steps how many steps came to an end.
 */
static bool
one_batch(BatchRunner *runner, MemoryContext context, int *steps)
{
	volatile bool worked = true;
	volatile int ended = 0;

	PG_TRY();
	{
		BatchResult result = run_batch(runner);

		commit();
		recorder_clear();
		batch_succeeded(runner, &result);
		runner->mode = BATCH_PROTECTED; /* the session is the caller's: no
										 * surprises */
		worked = result.taken > 0;
		ended = result.ended;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		ended = rollback_and_blame(runner, error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	*steps = ended;
	return worked;
}

static void
leave(int code, Datum arg)
{
	recorder_close(false);
}

/* Have the session record what it runs, and see what others left unfinished. */
static void
begin_running(void)
{
	static bool at_exit = false;

	if (!at_exit)
		before_shmem_exit(leave, (Datum) 0);
	at_exit = true;
	recorder_open();
	(void) definition_cache_check();
	(void) record_cut_offs();
	commit();
}

/* Refuse a procedure's call where it may not commit; the message says that it does. */
void
check_nonatomic(FunctionCallInfo fcinfo, const char *message)
{
	bool		atomic = !(fcinfo->context && IsA(fcinfo->context, CallContext)) ||
	((CallContext *) fcinfo->context)->atomic;

	if (atomic || XactIsoLevel != XACT_READ_COMMITTED)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("%s", message),
				 atomic ? errdetail("It was called inside a transaction block or a function.") :
				 errdetail("The isolation level is not READ COMMITTED."),
				 errhint("CALL it by itself, with the default isolation level.")));
}

static void
check_call(FunctionCallInfo fcinfo)
{
	check_nonatomic(fcinfo, "tasker.run() commits after each batch of steps");
	if (access_level(GetUserId()) < ACCESS_SUBMITTER)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ACCESS),
				 errmsg("permission denied to run steps"),
				 errdetail("Role \"%s\" does not have level submitter.", GetUserNameFromId(GetUserId(), false)),
				 errhint("A superuser can give it: SELECT tasker.grant_access('…', 'submitter').")));
	guard_require_enabled();
}

/* What is found out about a copy is to stay, so it is committed first. */
static void
check_guard(void)
{
	GuardStatus status;

	if (guard_is_armed())
		return;
	status = guard_check();
	commit();
	guard_refuse(&status);
}

PG_FUNCTION_INFO_V1(tasker_run_procedure);

/* run(max_duration interval, max_steps int) */
Datum
tasker_run_procedure(PG_FUNCTION_ARGS)
{
	MemoryContext context = CurrentMemoryContext;
	TimestampTz begun = GetCurrentTimestamp();
	double		seconds = time_limit_argument(fcinfo, 0);
	int64		steps = PG_ARGISNULL(1) ? PG_INT64_MAX : PG_GETARG_INT32(1);
	BatchRunner runner;

	check_call(fcinfo);
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	check_guard();
	begin_running();
	batch_runner_init(&runner, own_lane());
	runner.mode = BATCH_PROTECTED;
	while (steps > 0)
	{
		bool		worked;
		int			ended;

		CHECK_FOR_INTERRUPTS();
		check_guard();
		worked = tick(due_from_ever, tasker_now(), TIMERS_AT_ONCE) > 0;
		commit();
		if (expire_due(tasker_now()))
			worked = true;
		commit();
		(void) definition_cache_check();
		runner.claim = (int) Min(runner.claim, steps);
		if (one_batch(&runner, context, &ended))
			worked = true;
		steps -= ended;
		if (!worked ||
			(seconds >= 0 && (double) (GetCurrentTimestamp() - begun) / USECS_PER_SEC >= seconds))
			break;
	}
	SPI_finish();
	PG_RETURN_VOID();
}
