/*
 * limits.c
 *	  Limits of what callers hand in that are not the business of one part alone:
 *	  how deep a document is nested, how long a remark is, how many tasks a role
 *	  has open.
 *
 * Passing one is an error that names the setting, never a truncation.
 */
#include "tasker.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "shared.h"

/* A level of nesting takes at least so many bytes: a header and an entry. */
#define BYTES_PER_LEVEL		8

static int
nesting(Jsonb *document)
{
	JsonbIterator *iterator = JsonbIteratorInit(&document->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	int			depth = 0;
	int			deepest = 0;

	while ((token = JsonbIteratorNext(&iterator, &value, false)) != WJB_DONE)
	{
		if (token == WJB_BEGIN_ARRAY || token == WJB_BEGIN_OBJECT)
			depth++;
		else if (token == WJB_END_ARRAY || token == WJB_END_OBJECT)
			depth--;
		deepest = Max(deepest, depth);
	}
	return deepest;
}

/*
 * Refuse a document that is nested deeper than the server could copy where it
 * is needed later, with less stack left: a claim, say, that it would make fail
 * for all the other steps in it.
 */
void
check_nesting(Jsonb *document, const char *what, int sqlstate)
{
	int			depth;

	if (VARSIZE(document) / BYTES_PER_LEVEL <= (Size) tasker_max_nesting)
		return;
	depth = nesting(document);
	if (depth > tasker_max_nesting)
		ereport(ERROR,
				(errcode(sqlstate),
				 errmsg("%s nested too deeply", what),
				 errdetail("There are %d levels, the limit is %d.", depth, tasker_max_nesting),
				 errhint("Make it flatter, or have a superuser raise tasker.max_nesting.")));
}

/* Refuse a context, or tags, that a task may not have. */
void
check_task_document(Jsonb *document, const char *what)
{
	if (VARSIZE(document) > (Size) tasker_max_context_size * 1024)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_TOO_LARGE),
				 errmsg("%s too large", what),
				 errdetail("There are %zu bytes, the limit is %d kB.", (Size) VARSIZE(document), tasker_max_context_size),
				 errhint("Keep large data in a table and its key here, or raise tasker.max_context_size.")));
	check_nesting(document, what, ERRCODE_TASKER_TOO_LARGE);
}

/* Refuse a text that is longer than a remark. */
void
check_remark(text *remark, const char *what, int limit)
{
	int			length = VARSIZE_ANY_EXHDR(remark);

	if (length > limit)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_TOO_LARGE),
				 errmsg("%s is too long", what),
				 errdetail("It has %d bytes, the limit is %d.", length, limit),
				 errhint("Keep long texts in a table of your own.")));
}

/* ------------------------------------------------------------ open tasks */

/*
 * An exact count would cost an index on the tasks' state, or a row that all
 * submitters of a role wait for. So shared memory has a number that is never
 * too small: what was counted last and what was created since, whatever of that
 * is over or was rolled back. Only when it reaches the limit the tasks are
 * counted again; that reads all of them, and so takes place seldom enough to
 * cost one part in COUNT_SELDOM of the time. Too small it can only be by what
 * transactions create that are under way while it is counted.
 */
#define COUNT_SELDOM	20

static TaskerQuery count_open = {
	.sql = "SELECT pg_catalog.count(*) FROM tasker.tasks "
	"WHERE owner = $1 AND state IN ('pending', 'in_progress', 'paused')",
	.args = {INT4OID},
	.columns = {INT8OID},
	.latest = true,
};

/* The owner's entry, or NULL. The caller holds the lock. */
static OpenTasks *
find_entry(int owner)
{
	for (int i = 0; i < TASKER_MAX_COUNTED; i++)
	{
		OpenTasks  *entry = &tasker_shared()->open_tasks[i];

		if (entry->database == MyDatabaseId && entry->owner == owner)
			return entry;
	}
	return NULL;
}

/* A new entry, in place of the one that was counted first: whoever misses that counts. */
static OpenTasks *
make_entry(int owner)
{
	OpenTasks  *entry = &tasker_shared()->open_tasks[0];

	for (int i = 1; i < TASKER_MAX_COUNTED; i++)
		if (tasker_shared()->open_tasks[i].counted_at < entry->counted_at)
			entry = &tasker_shared()->open_tasks[i];
	memset(entry, 0, sizeof(OpenTasks));
	entry->database = MyDatabaseId;
	entry->owner = owner;
	return entry;
}

/*
 * Add n tasks to the owner's, if there is room. Otherwise *count says whether
 * to count, and *created what was created until now.
 */
static bool
reserve(int owner, int n, bool *count, int64 *created)
{
	LWLock	   *lock = &tasker_shared()->lock;
	OpenTasks  *entry;
	bool		fits;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_entry(owner);
	fits = entry != NULL && entry->at_most + n <= tasker_max_open_tasks;
	if (fits)
	{
		entry->at_most += n;
		entry->created += n;
	}
	*count = entry == NULL ||
		GetCurrentTimestamp() >= entry->counted_at + COUNT_SELDOM * entry->took;
	*created = entry == NULL ? 0 : entry->created;
	LWLockRelease(lock);
	return fits;
}

/* Count the owner's open tasks, of which so many had been created before. */
static void
count_tasks(int owner, int64 created)
{
	LWLock	   *lock = &tasker_shared()->lock;
	TimestampTz begun = GetCurrentTimestamp();
	Datum		values[1] = {Int32GetDatum(owner)};
	OpenTasks  *entry;
	int64		n;

	tasker_run(&count_open, values, NULL);
	n = DatumGetInt64(tasker_value_notnull(0, 1));
	LWLockAcquire(lock, LW_EXCLUSIVE);
	entry = find_entry(owner);
	if (entry == NULL)
	{
		entry = make_entry(owner);
		created = 0;
	}
	entry->at_most = n + Max(entry->created - created, 0);
	entry->counted_at = GetCurrentTimestamp();
	entry->took = entry->counted_at - begun;
	LWLockRelease(lock);
}

/* Refuse n more tasks of the owner if it has too many open. Inside a section. */
void
check_open_tasks(int owner, int n)
{
	bool		count;
	int64		created;

	if (tasker_max_open_tasks == 0 || reserve(owner, n, &count, &created))
		return;
	if (count)
	{
		count_tasks(owner, created);
		if (reserve(owner, n, &count, &created))
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_TOO_MANY_TASKS),
			 errmsg("role \"%s\" has too many open tasks", GetUserNameFromId(tasker_caller(), false)),
			 errdetail("With %d more there would be more than tasker.max_open_tasks, which is %d.",
					   n, tasker_max_open_tasks),
			 errhint("Wait until some are over, cancel some, or have a superuser raise the setting.")));
}
