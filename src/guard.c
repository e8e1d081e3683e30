/*
 * guard.c
 *	  Whether this database is the one whose tasks are to run, or a copy of it: a
 *	  dump that was restored, a template's copy, a base backup, a clone. A copy is
 *	  disarmed: nothing of it runs or is handed out until tasker.adopt().
 *
 * The rule is a list of lines, of which the first that applies decides. It
 * compares tasker.here, which is in the files but in no dump, and tasker.origin,
 * which is in both, with where they are found. A restart, a crash, a rename,
 * the promotion of a streaming standby and pg_upgrade go on by themselves.
 *
 * The scheduler applies it at its start and, but for what the data directory
 * tells, in each turn; whoever else wants to run or hand out something asks
 * here too. That a database is armed all sessions know then (guard_known.c);
 * that it is not is found out anew each time.
 */
#include "guard.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "changed_rows.h"
#include "commands/dbcommands.h"
#include "commands/trigger.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "shared.h"

/* What the rule goes by. */
typedef struct GuardFacts
{
	bool		has_row;		/* of tasker.here, from which is what follows */
	char		token[GUARD_TOKEN_LENGTH + 1];
	bool		armed;
	const char *reason;
	TimestampTz since;
	Oid			database;
	uint64		system;
	bool		same_catalog;	/* the catalogs are those in which it was
								 * written */
	bool		same_row;		/* it is as it was written, not a copy of a
								 * row */

	bool		foreign_origin; /* there is a token of another database */
	bool		has_tasks;		/* known only without a row */
	bool		known;			/* since the server's start it was found armed */
} GuardFacts;

typedef struct GuardLine
{
	bool		(*applies) (const GuardFacts *facts);
	GuardState	state;
	const char *reason;			/* NULL: that of the row */
	bool		moves;			/* the row and the marker are to say where it
								 * is now */
} GuardLine;

/* xmin of the row that describes the table's first column was given by CREATE TABLE. */
#define CATALOG_XID \
	"(SELECT a.xmin FROM pg_catalog.pg_attribute a " \
	"WHERE a.attrelid = 'tasker.here'::pg_catalog.regclass AND a.attnum = 1)"

static TaskerQuery read_facts = {
	.sql = "SELECT h.token::text, h.armed, h.reason, h.since, h.database_oid, h.system_identifier, "
	"h.catalog_xid = " CATALOG_XID ", h.row_xid = h.xmin, "
	"EXISTS (SELECT FROM tasker.origin o WHERE o.token IS DISTINCT FROM h.token), "
	"h.token IS NULL AND EXISTS (SELECT FROM tasker.tasks) "
	"FROM (VALUES (true)) AS one (the_row) LEFT JOIN tasker.here h ON h.the_row = one.the_row",
	.columns = {TEXTOID, BOOLOID, TEXTOID, TIMESTAMPTZOID, OIDOID, INT8OID,
	BOOLOID, BOOLOID, BOOLOID, BOOLOID},
};

/* A row that came from elsewhere does not become one that was written here. */
static TaskerQuery disarm_row = {
	.sql = "UPDATE tasker.here SET armed = false, reason = $2, since = $3, "
	"row_xid = CASE WHEN row_xid = xmin THEN $4 ELSE row_xid END "
	"WHERE armed AND token = $1::uuid",
	.args = {TEXTOID, TEXTOID, TIMESTAMPTZOID, XIDOID},
};

static TaskerQuery move_row = {
	.sql = "UPDATE tasker.here SET system_identifier = $2, catalog_xid = " CATALOG_XID ", row_xid = $3 "
	"WHERE token = $1::uuid",
	.args = {TEXTOID, INT8OID, XIDOID},
};

#define INSERT_ROW \
	"INSERT INTO tasker.here AS h " \
	"(token, since, database_oid, system_identifier, row_xid, catalog_xid, armed, reason) " \
	"SELECT pg_catalog.gen_random_uuid(), $1, $2, $3, $4, " CATALOG_XID ", "

static TaskerQuery insert_row = {
	.sql = INSERT_ROW "true, NULL ON CONFLICT (the_row) DO NOTHING RETURNING h.token::text",
	.args = {TIMESTAMPTZOID, OIDOID, INT8OID, XIDOID},
	.columns = {TEXTOID},
};

static TaskerQuery replace_row = {
	.sql = INSERT_ROW "true, NULL ON CONFLICT (the_row) DO UPDATE SET token = EXCLUDED.token, armed = true, reason = NULL, "
	"since = EXCLUDED.since, database_oid = EXCLUDED.database_oid, "
	"system_identifier = EXCLUDED.system_identifier, catalog_xid = EXCLUDED.catalog_xid, "
	"row_xid = EXCLUDED.row_xid RETURNING h.token::text",
	.args = {TIMESTAMPTZOID, OIDOID, INT8OID, XIDOID},
	.columns = {TEXTOID},
};

/*
 * Rows of tasks came from elsewhere. A row also where there was none: it meets
 * that of a session which takes the database for a new one at the same time.
 * True if it was armed.
 */
static TaskerQuery disarm_by_rows = {
	.sql = INSERT_ROW "false, $5 WHERE EXISTS (SELECT FROM tasker.tasks) "
	"ON CONFLICT (the_row) DO UPDATE SET armed = false, reason = $6, since = EXCLUDED.since, "
	"row_xid = EXCLUDED.row_xid WHERE h.armed RETURNING h.reason = $6",
	.args = {TIMESTAMPTZOID, OIDOID, INT8OID, XIDOID, TEXTOID, TEXTOID},
	.columns = {BOOLOID},
};

static TaskerQuery forget_origins = {
	.sql = "DELETE FROM tasker.origin",
};

static TaskerQuery insert_origin = {
	.sql = "INSERT INTO tasker.origin (token, armed_at) VALUES ($1::uuid, $2)",
	.args = {TEXTOID, TIMESTAMPTZOID},
};

/* ------------------------------------------------------------------ the rule */

#define RESTORED	"it was restored from a dump or filled by replication"
#define ROWS_CAME	"rows were inserted into tasker.tasks by other ways than its functions"

static bool
is_new(const GuardFacts *facts)
{
	return !facts->has_row && !facts->foreign_origin && !facts->has_tasks;
}

static bool
has_no_row(const GuardFacts *facts)
{
	return !facts->has_row;
}

static bool
was_disarmed(const GuardFacts *facts)
{
	return !facts->armed;
}

static bool
has_foreign_origin(const GuardFacts *facts)
{
	return facts->foreign_origin;
}

static bool
is_other_database(const GuardFacts *facts)
{
	return facts->database != MyDatabaseId;
}

static bool
is_known(const GuardFacts *facts)
{
	return facts->known;
}

/* New catalogs around old files: nothing else makes that. */
static bool
was_upgraded(const GuardFacts *facts)
{
	return facts->system != GetSystemIdentifier() && facts->same_row && !facts->same_catalog;
}

static bool
is_other_system(const GuardFacts *facts)
{
	return facts->system != GetSystemIdentifier();
}

static bool
has_marker(const GuardFacts *facts)
{
	return marker_is_there(facts->token);
}

static bool
was_promoted(const GuardFacts *facts)
{
	return standby_has_streamed() || standby_is_marked();
}

static bool
is_anything(const GuardFacts *facts)
{
	return true;
}

static const GuardLine rule[] = {
	{is_new, GUARD_NEW, "nothing was defined in it yet"},
	{has_no_row, GUARD_DISARMED, RESTORED},
	{was_disarmed, GUARD_DISARMED, NULL},
	{has_foreign_origin, GUARD_DISARMED, "a dump of another database was loaded into it"},
	{is_other_database, GUARD_DISARMED, "it is a copy of another database, its template"},
	{is_known, GUARD_ARMED, "it was armed here"},
	{was_upgraded, GUARD_ARMED, "pg_upgrade brought it here", true},
	{is_other_system, GUARD_DISARMED, "its server's system identifier was changed, or its rows were copied"},
	{has_marker, GUARD_ARMED, "it was armed here"},
	{was_promoted, GUARD_ARMED, "its server was promoted from a streaming standby", true},
	{is_anything, GUARD_DISARMED, "its server's files are a copy: of a base backup, from an archive, or of a clone"},
};

/* ------------------------------------------------------------------- looking */

static void
read_row(GuardFacts *facts, MemoryContext context)
{
	bool		isnull;
	Datum		reason = tasker_value(0, 3, &isnull);

	strlcpy(facts->token, TextDatumGetCString(tasker_value_notnull(0, 1)), sizeof(facts->token));
	facts->armed = DatumGetBool(tasker_value_notnull(0, 2));
	facts->reason = isnull ? "it was disarmed by hand" :
		MemoryContextStrdup(context, TextDatumGetCString(reason));
	facts->since = DatumGetTimestampTz(tasker_value_notnull(0, 4));
	facts->database = DatumGetObjectId(tasker_value_notnull(0, 5));
	facts->system = (uint64) DatumGetInt64(tasker_value_notnull(0, 6));
	facts->same_catalog = DatumGetBool(tasker_value_notnull(0, 7));
	facts->same_row = DatumGetBool(tasker_value_notnull(0, 8));
}

/* Strings are made in the caller's memory context. */
static void
read_guard_facts(GuardFacts *facts)
{
	MemoryContext context = CurrentMemoryContext;
	TaskerSection section;
	bool		isnull;

	memset(facts, 0, sizeof(GuardFacts));
	tasker_enter(&section);
	tasker_run(&read_facts, NULL, NULL);
	(void) tasker_value(0, 1, &isnull);
	facts->has_row = !isnull;
	if (facts->has_row)
		read_row(facts, context);
	facts->foreign_origin = DatumGetBool(tasker_value_notnull(0, 9));
	facts->has_tasks = DatumGetBool(tasker_value_notnull(0, 10));
	facts->known = guard_is_armed();
	tasker_leave(&section);
}

/* The first line of the rule that applies. */
static const GuardLine *
apply_rule(const GuardFacts *facts)
{
	const GuardLine *line = rule;

	while (!line->applies(facts))
		line++;
	return line;
}

const char *
guard_state_name(GuardState state)
{
	static const char *const names[] = {
		[GUARD_NEW] = "new",
		[GUARD_ARMED] = "armed",
		[GUARD_DISARMED] = "disarmed",
	};

	return names[state];
}

static GuardStatus
status_of(const GuardFacts *facts, const GuardLine *line)
{
	GuardStatus status = {
		.state = line->state,
		.reason = line->reason != NULL ? line->reason : facts->reason,
		.since = facts->since,
		.by_rows = !facts->has_row || !facts->same_row || facts->foreign_origin,
	};

	return status;
}

/* What the rule says now. Writes nothing; works on a standby. */
GuardStatus
guard_look(void)
{
	GuardFacts	facts;

	read_guard_facts(&facts);
	return status_of(&facts, apply_rule(&facts));
}

/* Have the row say that the database is disarmed. */
static void
disarm(const char *token, const char *reason)
{
	TaskerSection section;
	Datum		values[4];

	tasker_enter(&section);
	values[0] = CStringGetTextDatum(token);
	values[1] = CStringGetTextDatum(reason);
	values[2] = TimestampTzGetDatum(tasker_now());
	values[3] = TransactionIdGetDatum(GetCurrentTransactionId());
	tasker_run(&disarm_row, values, NULL);
	tasker_leave(&section);
}

/* The database is not where its row says, and rightly so. */
static void
move(const char *token)
{
	TaskerSection section;
	Datum		values[3];

	tasker_enter(&section);
	values[0] = CStringGetTextDatum(token);
	values[1] = Int64GetDatum((int64) GetSystemIdentifier());
	values[2] = TransactionIdGetDatum(GetCurrentTransactionId());
	tasker_run(&move_row, values, NULL);
	tasker_leave(&section);
	marker_write(token);
}

/* Once, until it was armed in between. */
static void
log_disarmed(const GuardStatus *status)
{
	if (guard_was_logged())
		return;
	ereport(LOG,
			(errcode(ERRCODE_TASKER_DISARMED),
			 errmsg("tasker runs nothing in database \"%s\"", get_database_name(MyDatabaseId)),
			 errdetail("The database is disarmed, because %s.", status->reason),
			 errhint("If it is to run its tasks and the original is not, SELECT tasker.adopt().")));
}

/*
 * Apply the rule, write down what follows from it, and remember it. That a
 * copy is one is written at once: later it may be harder to tell.
 */
GuardStatus
guard_check(void)
{
	uint32		word = guard_word();
	GuardFacts	facts;
	const GuardLine *line;
	GuardStatus status;

	read_guard_facts(&facts);
	line = apply_rule(&facts);
	status = status_of(&facts, line);
	if (!RecoveryInProgress() && !XactReadOnly)
	{
		if (status.state == GUARD_DISARMED && facts.has_row && facts.armed)
			disarm(facts.token, status.reason);
		if (line->moves)
			move(facts.token);
	}
	guard_remember(word, status.state);
	if (status.state == GUARD_DISARMED)
		log_disarmed(&status);
	return status;
}

/* ------------------------------------------------------------------- refusing */

/* Refuse to run or hand out anything if the database is disarmed. */
void
guard_refuse(const GuardStatus *status)
{
	if (status->state == GUARD_DISARMED)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_DISARMED),
				 errmsg("this database is disarmed: nothing of it runs or is handed out"),
				 errdetail("It is so because %s.", status->reason),
				 errhint("If it is to run its tasks and the original is not, SELECT tasker.adopt().")));
}

void
guard_require_armed(void)
{
	GuardStatus status;

	if (guard_is_armed())
		return;
	status = guard_check();
	guard_refuse(&status);
}

/* The hard switch, for copies that nothing tells from the original. */
void
guard_require_enabled(void)
{
	if (!tasker_enabled)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_DISABLED),
				 errmsg("tasker is switched off on this server"),
				 errdetail("tasker.enabled is off."),
				 errhint("ALTER SYSTEM SET tasker.enabled = on, and reload.")));
}

/* -------------------------------------------------------------------- arming */

/* The parameters of INSERT_ROW. */
static void
row_values(Datum *values, TransactionId xid)
{
	values[0] = TimestampTzGetDatum(tasker_now());
	values[1] = ObjectIdGetDatum(MyDatabaseId);
	values[2] = Int64GetDatum((int64) GetSystemIdentifier());
	values[3] = TransactionIdGetDatum(xid);
}

/* Write where the database is, by the query, under a new token; returns whether it did. */
static bool
arm(TaskerQuery *query)
{
	TaskerSection section;
	Datum		values[4];
	char		token[GUARD_TOKEN_LENGTH + 1];
	bool		armed;

	tasker_enter(&section);
	row_values(values, GetCurrentTransactionId());
	armed = tasker_run(query, values, NULL) > 0;
	if (armed)
	{
		strlcpy(token, TextDatumGetCString(tasker_value_notnull(0, 1)), sizeof(token));
		tasker_run(&forget_origins, NULL, NULL);
		values[1] = values[0];
		values[0] = CStringGetTextDatum(token);
		tasker_run(&insert_origin, values, NULL);
		marker_write(token);
		guard_changed();
	}
	tasker_leave(&section);
	return armed;
}

/* A copy becomes the one that runs; it may not even have a scheduler yet. */
void
guard_arm(void)
{
	(void) arm(&replace_row);
	wake_launcher_at_commit();
}

/*
 * A definition or a task is made: if it is the first one, the database is the
 * original. Of two that are the first, the second waits for the other's end.
 */
void
guard_arm_if_new(void)
{
	if (!guard_is_armed() && guard_check().state == GUARD_NEW && arm(&insert_row))
		wake_timer_at_commit(tasker_now());
}

PG_FUNCTION_INFO_V1(tasker_guard);
PG_FUNCTION_INFO_V1(tasker_tasks_arrive);

/* guard(): state, reason, since */
Datum
tasker_guard(PG_FUNCTION_ARGS)
{
	GuardStatus status = guard_look();
	TupleDesc	desc;
	Datum		values[3];
	bool		nulls[3] = {false, false, status.since == 0};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "tasker.guard() returns a row");
	values[0] = CStringGetTextDatum(guard_state_name(status.state));
	values[1] = CStringGetTextDatum(status.reason);
	values[2] = TimestampTzGetDatum(status.since);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/*
 * The trigger after each INSERT and COPY into tasks: if it is not the API's,
 * the rows are another database's, and its tasks must not run here as well.
 */
Datum
tasker_tasks_arrive(PG_FUNCTION_ARGS)
{
	TaskerSection section;
	Datum		values[6];
	bool		was_armed;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("tasks_arrive is a trigger function"),
				 errdetail("It was called in another way."),
				 errhint("It is for tasker's own table.")));
	check_trigger_table(fcinfo, "tasks");
	if (tasker_inside())
		return PointerGetDatum(NULL);
	tasker_enter(&section);
	row_values(values, InvalidTransactionId);
	values[4] = CStringGetTextDatum(RESTORED);
	values[5] = CStringGetTextDatum(ROWS_CAME);
	guard_changed();
	was_armed = tasker_run(&disarm_by_rows, values, NULL) > 0 && DatumGetBool(tasker_value_notnull(0, 1));
	tasker_leave(&section);
	if (was_armed)
		ereport(WARNING,
				(errcode(ERRCODE_TASKER_DISARMED),
				 errmsg("tasker runs nothing in this database any more"),
				 errdetail("Rows are inserted into tasker.tasks that may be those of another database."),
				 errhint("If this database is to run them, SELECT tasker.adopt() when all are there.")));
	return PointerGetDatum(NULL);
}
