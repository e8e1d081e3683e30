/*
 * definition_cache.c
 *	  The definitions that this session has run steps of.
 *
 * Entries are never invalidated: a stored definition is immutable and its id
 * is not used again. Only when the extension itself was dropped, and maybe
 * created anew, does the cache begin from nothing.
 */
#include "definition_cache.h"

#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "common/hashfn.h"
#include "utils/array.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

static TaskerQuery load_task = {
	.sql = "SELECT n.name, s.name, n.version, n.step_count "
	"FROM tasker.named_tasks n JOIN tasker.task_namespaces s ON s.namespace_id = n.namespace_id "
	"WHERE n.named_task_id = $1",
	.args = {INT4OID},
	.columns = {TEXTOID, TEXTOID, TEXTOID, INT4OID},
};

static TaskerQuery load_steps = {
	.sql = "SELECT s.step_no, s.name, s.handler_kind, s.handler, s.retryable, s.max_attempts, s.parents, s.timeout, "
	"s.backoff, s.backoff_base, s.backoff_factor, s.backoff_cap, s.backoff_jitter, s.backoff_delays, s.lease, "
	"o.role_oid, o.role_name "
	"FROM tasker.named_steps s LEFT JOIN tasker.owners o ON o.owner_id = s.handler_owner "
	"WHERE s.named_task_id = $1",
	.args = {INT4OID},
	.columns = {INT4OID, TEXTOID, TEXTOID, TEXTOID, BOOLOID, INT4OID, INT4OID, INTERVALOID,
		TEXTOID, INTERVALOID, FLOAT8OID, INTERVALOID, FLOAT8OID, INTERVALARRAYOID, INTERVALOID,
	OIDOID, NAMEOID},
};

static HTAB *cache = NULL;
static HTAB *handlers = NULL;
static MemoryContext cache_context = NULL;
static Oid	cache_extension = InvalidOid;

/*
 * Whether the extension is there. Forgets everything if it is not the one of
 * the last call.
 */
bool
definition_cache_check(void)
{
	Oid			extension = get_extension_oid("tasker", true);

	if (extension != cache_extension && cache_context != NULL)
	{
		MemoryContextDelete(cache_context);
		cache_context = NULL;
		cache = NULL;
		handlers = NULL;
	}
	cache_extension = extension;
	return OidIsValid(extension);
}

/* Lives as long as the entries do. */
MemoryContext
definition_cache_context(void)
{
	HASHCTL		ctl;

	if (cache_context != NULL)
		return cache_context;
	cache_context = AllocSetContextCreate(TopMemoryContext, "tasker definitions", ALLOCSET_DEFAULT_SIZES);
	ctl.keysize = sizeof(int);
	ctl.entrysize = sizeof(TaskDef);
	ctl.hcxt = cache_context;
	cache = hash_create("tasker definitions", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.keysize = sizeof(uint32);
	ctl.entrysize = sizeof(Handler);
	handlers = hash_create("tasker handlers", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return cache_context;
}

static char *
column_text(uint64 row, int column)
{
	return TextDatumGetCString(tasker_value_notnull(row, column));
}

static double
column_seconds(uint64 row, int column)
{
	return interval_seconds(DatumGetIntervalP(tasker_value_notnull(row, column)));
}

static void
read_backoff(uint64 row, Backoff *backoff)
{
	bool		isnull;
	Datum		delays = tasker_value(row, 14, &isnull);
	Datum	   *elements;
	bool	   *nulls;

	backoff->kind = backoff_kind_from_text(tasker_value_notnull(row, 9));
	backoff->base = column_seconds(row, 10);
	backoff->factor = DatumGetFloat8(tasker_value_notnull(row, 11));
	backoff->cap = column_seconds(row, 12);
	backoff->jitter = DatumGetFloat8(tasker_value_notnull(row, 13));
	backoff->ndelays = 0;
	if (isnull)
		return;
	deconstruct_array(DatumGetArrayTypeP(delays), INTERVALOID, sizeof(Interval), false,
					  TYPALIGN_DOUBLE, &elements, &nulls, &backoff->ndelays);
	backoff->delays = palloc(Max(backoff->ndelays, 1) * sizeof(double));
	for (int i = 0; i < backoff->ndelays; i++)
		backoff->delays[i] = interval_seconds(DatumGetIntervalP(elements[i]));
}

static HandlerKind
handler_kind(const char *name)
{
	return strcmp(name, "function") == 0 ? HANDLER_FUNCTION :
		strcmp(name, "sql") == 0 ? HANDLER_SQL : HANDLER_QUEUE;
}

/* The entry of a handler, whose text is in the cache's memory context. */
static Handler *
find_handler(HandlerKind kind, char *text)
{
	uint32		hash = DatumGetUInt32(hash_any((unsigned char *) text, strlen(text))) + kind;
	bool		found;
	Handler    *handler = hash_search(handlers, &hash, HASH_ENTER, &found);

	if (found && handler->kind == kind && strcmp(handler->text, text) == 0)
	{
		pfree(text);
		return handler;
	}
	if (found)
		handler = palloc(sizeof(Handler));	/* two texts of one hash do not
											 * share */
	memset(handler, 0, sizeof(Handler));
	handler->hash = hash;
	handler->kind = kind;
	handler->text = text;

	handler->mean_ms = -1;
	return handler;
}

static void
read_step(uint64 row, StepDef *step)
{
	bool		isnull;
	bool		no_owner;
	Datum		timeout = tasker_value(row, 8, &isnull);
	Datum		owner = tasker_value(row, 16, &no_owner);

	step->name = column_text(row, 2);
	step->handler = find_handler(handler_kind(column_text(row, 3)), column_text(row, 4));
	step->retryable = DatumGetBool(tasker_value_notnull(row, 5));
	step->max_attempts = DatumGetInt32(tasker_value_notnull(row, 6));
	step->parents = DatumGetInt32(tasker_value_notnull(row, 7));
	if (!isnull)
		step->timeout_ms = (int) Min(Max(interval_seconds(DatumGetIntervalP(timeout)) * 1000.0, 1.0),
									 (double) INT_MAX);
	step->lease = column_seconds(row, 15);
	read_backoff(row, &step->backoff);
	if (!no_owner)
	{
		step->owner = DatumGetObjectId(owner);
		step->owner_name = pstrdup(NameStr(*DatumGetName(tasker_value_notnull(row, 17))));
	}
}

/* The definition of that id. Inside a section. */
TaskDef *
task_def(int named_task_id)
{
	MemoryContext old_context = MemoryContextSwitchTo(definition_cache_context());
	Datum		values[1] = {Int32GetDatum(named_task_id)};
	TaskDef    *task = hash_search(cache, &named_task_id, HASH_FIND, NULL);
	TaskDef		fresh = {named_task_id};
	uint64		n;

	if (task == NULL)
	{
		if (tasker_run(&load_task, values, NULL) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_TASKER_UNKNOWN_NAMED_TASK),
					 errmsg("named task %d does not exist", named_task_id),
					 errdetail("It was deleted although there are tasks of it."),
					 errhint("Cancel its tasks.")));
		fresh.name = column_text(0, 1);
		fresh.namespace = column_text(0, 2);
		fresh.version = column_text(0, 3);
		fresh.nsteps = DatumGetInt32(tasker_value_notnull(0, 4));
		fresh.steps = palloc0(Max(fresh.nsteps, 1) * sizeof(StepDef));
		n = tasker_run(&load_steps, values, NULL);
		for (uint64 row = 0; row < n; row++)
			read_step(row, step_def(&fresh, DatumGetInt32(tasker_value_notnull(row, 1))));
		task = hash_search(cache, &named_task_id, HASH_ENTER, NULL);
		*task = fresh;
	}
	MemoryContextSwitchTo(old_context);
	return task;
}

StepDef *
step_def(TaskDef *task, int step_no)
{
	if (step_no < 1 || step_no > task->nsteps)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_UNKNOWN_STEP),
				 errmsg("named task \"%s\" has no step %d", task->name, step_no),
				 errdetail("It has %d steps.", task->nsteps),
				 errhint("Its rows were changed by hand.")));
	return &task->steps[step_no - 1];
}
