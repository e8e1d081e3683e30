/*
 * lifecycle.c
 *	  Getting out of the way: DROP DATABASE, ALTER DATABASE … RENAME or SET
 *	  TABLESPACE and CREATE DATABASE … TEMPLATE want a database without sessions.
 *
 * With tasker preloaded, the session that gives such a command first has the
 * database's scheduler and executors leave, and lets them come back after it.
 * An executor in the middle of a long step is ended, which rolls the step
 * back; it is run again later.
 *
 * DROP EXTENSION and ALTER EXTENSION … UPDATE are given the same way out, since
 * they lock the tables in another order than those who work on them. The
 * processes come back when the transaction ends, and stay if the extension does.
 *
 * And what COMMIT PREPARED or ROLLBACK PREPARED makes ready or lets go of, in
 * which nothing runs of what ends other transactions, is told of here.
 */
#include "process.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "guard.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/syscache.h"

#include <signal.h>

/* The database whose extension this transaction drops or updates. */
static Oid	changed_in = InvalidOid;

/* How long processes may take to leave: by themselves, and after a signal. */
#define LEAVE_MS	1000
#define END_MS		5000
#define POLL_MS		10

static ProcessUtility_hook_type previous_hook = NULL;

static char *
option_text(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, name) == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return NULL;
}

/* Which CREATE DATABASE copies. */
static char *
template_of(CreatedbStmt *command)
{
	char	   *name = option_text(command->options, "template");

	return name != NULL ? name : "template1";
}

/* The database that the command wants for itself, or NULL. */
static char *
database_wanted(Node *command)
{
	switch (nodeTag(command))
	{
		case T_DropdbStmt:
			return castNode(DropdbStmt, command)->dbname;
		case T_RenameStmt:
			return castNode(RenameStmt, command)->renameType == OBJECT_DATABASE ?
				castNode(RenameStmt, command)->subname : NULL;
		case T_CreatedbStmt:
			return template_of(castNode(CreatedbStmt, command));
		case T_AlterDatabaseStmt:
			return option_text(castNode(AlterDatabaseStmt, command)->options, "tablespace") != NULL ?
				castNode(AlterDatabaseStmt, command)->dbname : NULL;
		default:
			return NULL;
	}
}

/* Does the command drop or update the extension of this database? */
static bool
changes_extension(Node *command)
{
	ListCell   *cell;

	if (IsA(command, AlterExtensionStmt))
		return strcmp(castNode(AlterExtensionStmt, command)->extname, "tasker") == 0;
	if (!IsA(command, DropStmt) || castNode(DropStmt, command)->removeType != OBJECT_EXTENSION)
		return false;
	foreach(cell, castNode(DropStmt, command)->objects)
		if (strcmp(strVal(lfirst(cell)), "tasker") == 0)
		return OidIsValid(get_extension_oid("tasker", true));
	return false;
}

/* Does the command end a transaction that is prepared? */
static bool
ends_prepared(Node *command)
{
	TransactionStmtKind kind;

	if (!IsA(command, TransactionStmt))
		return false;
	kind = castNode(TransactionStmt, command)->kind;
	return kind == TRANS_STMT_COMMIT_PREPARED || kind == TRANS_STMT_ROLLBACK_PREPARED;
}

/* Without the rights for it the command will fail, and nobody need leave. */
static bool
may_have(Oid database)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	result = has_privs_of_role(GetUserId(), ((Form_pg_database) GETSTRUCT(tuple))->datdba);
	ReleaseSysCache(tuple);
	return result;
}

/* Tell the database's processes to leave; returns how many there are still. */
static int
tell_to_leave(Oid database, bool end)
{
	TaskerShared *shared = tasker_shared();
	SchedulerSlot *scheduler;
	int			n = 0;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	scheduler = scheduler_slot(database);
	if (scheduler != NULL)
	{
		scheduler->aside = true;
		n += scheduler->pid != 0;
		if (scheduler->latch != NULL)
			SetLatch(scheduler->latch);
	}
	for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
	{
		ExecutorSlot *slot = &shared->executors[i];

		if (slot->state == EXECUTOR_FREE || slot->database != database)
			continue;
		n++;
		slot->stop = true;
		if (slot->latch != NULL)
			SetLatch(slot->latch);
		if (end && slot->pid != 0)
			kill(slot->pid, SIGTERM);
	}
	LWLockRelease(&shared->lock);
	return n;
}

/* Wait until the processes have left; whoever does not, the command will name. */
static void
have_them_leave(Oid database)
{
	bool		ended = false;

	for (int waited = 0; waited < END_MS; waited += POLL_MS)
	{
		bool		end = waited >= LEAVE_MS && !ended;

		if (tell_to_leave(database, end) == 0)
			return;
		ended |= end;
		(void) WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, POLL_MS, PG_WAIT_EXTENSION);
		CHECK_FOR_INTERRUPTS();
	}
}

/* The command is over: the database's scheduler may come back, if it is there. */
static void
let_them_back(Oid database, bool exists)
{
	TaskerShared *shared = tasker_shared();
	SchedulerSlot *scheduler;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	scheduler = scheduler_slot(database);
	if (scheduler != NULL)
	{
		scheduler->aside = false;
		if (!exists)
			scheduler->database = InvalidOid;
	}
	if (shared->launcher_latch != NULL)
		SetLatch(shared->launcher_latch);
	LWLockRelease(&shared->lock);
	if (!exists)
		guard_forget_database(database);
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (!OidIsValid(changed_in) || event == XACT_EVENT_PRE_COMMIT ||
		event == XACT_EVENT_PRE_PREPARE)
		return;
	let_them_back(changed_in, true);
	changed_in = InvalidOid;
}

static void
run_previous(PROCESS_UTILITY_PARAMETERS)
{
	if (previous_hook)
		previous_hook(PROCESS_UTILITY_ARGUMENTS);
	else
		standard_ProcessUtility(PROCESS_UTILITY_ARGUMENTS);
}

static void
process_utility(PROCESS_UTILITY_PARAMETERS)
{
	char	   *name = database_wanted(pstmt->utilityStmt);
	Oid			database = InvalidOid;

	if (changes_extension(pstmt->utilityStmt) && superuser())
	{
		changed_in = MyDatabaseId;
		have_them_leave(MyDatabaseId);
	}
	if (name != NULL)
		database = get_database_oid(name, true);
	if (!OidIsValid(database) || !may_have(database))
	{
		run_previous(PROCESS_UTILITY_ARGUMENTS);
		if (ends_prepared(pstmt->utilityStmt) && OidIsValid(get_extension_oid("tasker", true)))
			wake_all_at_commit();
		return;
	}
	PG_TRY();
	{
		have_them_leave(database);
		run_previous(PROCESS_UTILITY_ARGUMENTS);
	}
	PG_CATCH();
	{
		let_them_back(database, true);
		PG_RE_THROW();
	}
	PG_END_TRY();
	let_them_back(database, SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(database)));
}

/* Called when the library is preloaded. */
void
lifecycle_init(void)
{
	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	RegisterXactCallback(xact_callback, NULL);
}
