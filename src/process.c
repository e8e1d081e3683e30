/*
 * process.c
 *	  What the scheduler and the executors have in common: becoming a session,
 *	  waiting, transactions.
 */
#include "process.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/*
 * Settings that a role or a database may have got by ALTER … SET and under
 * which tasker's own statements, or the steps, would not be what they are.
 */
static const TaskerSetting put_right[] = {
	{"role", "none"},
	{"default_transaction_read_only", "off"},
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_deferrable", "off"},
	{"session_replication_role", "origin"},
	{"row_security", "on"},
	{"idle_in_transaction_session_timeout", "0"},
	{"statement_timeout", "0"},
	{"lock_timeout", "0"},
	{"transaction_timeout", "0"},	/* 17 has it */
};

/*
 * Become a session of the role, InvalidOid for the bootstrap superuser.
 * Returns the statement_timeout that the session would have had, in ms: in a
 * background worker nothing enforces it.
 */
int
process_begin(Oid database, Oid role)
{
	int			statement_timeout;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	/* a reload that came before there was a handler for it was lost */
	ProcessConfigFile(PGC_SIGHUP);
	BackgroundWorkerInitializeConnectionByOid(database, role, 0);
	statement_timeout = StatementTimeout;

	StartTransactionCommand();
	for (int i = 0; i < lengthof(put_right); i++)
	{
		if (GetConfigOption(put_right[i].name, true, false) == NULL)
			continue;
		/* session_replication_role is a superuser's; so is whoever set it */
		if (strcmp(put_right[i].name, "session_replication_role") == 0)
			SetConfigOption(put_right[i].name, put_right[i].value, PGC_SUSET, PGC_S_OVERRIDE);
		else
			SetConfigOption(put_right[i].name, put_right[i].value, PGC_USERSET, PGC_S_OVERRIDE);
	}
	CommitTransactionCommand();
	return statement_timeout;
}

/* Read the configuration if it changed. */
static void
reload(void)
{
	if (!ConfigReloadPending)
		return;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
}

/* Between two turns: may end the process, but there is no query to cancel. */
void
process_check(void)
{
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
	reload();
}

/* Wait for the latch, at most so long. Returns whether it was set. */
bool
process_wait(long ms)
{
	int			events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
								   ms, PG_WAIT_EXTENSION);

	process_check();
	return (events & WL_LATCH_SET) != 0;
}

/* Wait a while whatever the latch says: something went wrong that may last. */
void
process_pause(long ms)
{
	for (long waited = 0; waited < ms; waited += 50)
	{
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 50, PG_WAIT_EXTENSION);
		process_check();
	}
}

void
process_begin_transaction(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
process_commit(void)
{
	if (ActiveSnapshotSet())
		PopActiveSnapshot();
	CommitTransactionCommand();
	/* without it autovacuum would never hear of what was written */
	pgstat_report_stat(false);
}

/* After an error that was copied or reported. */
void
process_abort(void)
{
	HOLD_INTERRUPTS();
	FlushErrorState();
	/* which may have left a subtransaction open */
	AbortOutOfAnyTransaction();
	QueryCancelPending = false;
	RESUME_INTERRUPTS();
	pgstat_report_stat(false);
}
