/*
 * query.c
 *	  Running tasker's own statements: as the owner of the extension, under
 *	  pinned settings, with plans that are kept.
 *
 * Every statement of tasker runs inside a section: tasker_enter … tasker_leave.
 * A section pins search_path, so that operators and functions written without
 * a schema are pg_catalog's whatever the session has set, and the planner's
 * settings, so that a kept plan is the one that was meant: joins in the order in
 * which they are written, by index probes driven by the ids that a call was
 * given. What the statistics say on the day it does not see (estimates.c).
 *
 * An error leaves a section by the abort of its transaction or
 * subtransaction, which puts back the user and the settings.
 */
#include "tasker.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "shared.h"
#include "utils/array.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
#include "version.h"

#define MAX_SECTIONS	32

/* The subtransaction level of each open section, and who the caller was. */
static int	section_level[MAX_SECTIONS];
static Oid	section_caller[MAX_SECTIONS];
static int	sections = 0;

/* How many outermost sections this session has begun. */
static uint64 section_number = 0;

/* What a section pins. The planner's part makes joins follow the ids. */
static const TaskerSetting pinned[] = {
	{"search_path", "pg_catalog, pg_temp"},
	{"plan_cache_mode", "force_generic_plan"},
	{"enable_hashjoin", "off"},
	{"enable_mergejoin", "off"},
	{"enable_material", "off"},
	{"enable_seqscan", "off"},
	{"enable_bitmapscan", "off"},
	{"enable_sort", "off"},
	{"join_collapse_limit", "1"},
	{"jit", "off"},
};

/* The role that owns schema tasker, hence every table in it. */
static Oid
tasker_owner(void)
{
	Oid			namespace_id = get_namespace_oid("tasker", false);
	HeapTuple	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(namespace_id));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_INTERNAL),
				 errmsg("schema \"tasker\" is being dropped"),
				 errdetail("DROP EXTENSION is under way."),
				 errhint("Repeat it when the extension is there again.")));
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * The first lock of a transaction that runs statements of tasker: an update of
 * the extension, which wants every table for itself, waits for this one while it
 * holds no other, so the two do not meet in a deadlock (sql/upgrade/head.sql).
 * After the wait nothing that was known of the extension need be true.
 */
static void
lock_first(void)
{
	Oid			tasks = get_relname_relid("tasks", get_namespace_oid("tasker", false));

	if (OidIsValid(tasks))
		LockRelationOid(tasks, AccessShareLock);
	(void) library_fits(ERROR);
}

/*
 * Begin to run statements as the extension's owner, with SPI connected. An
 * inner section costs next to nothing.
 */
void
tasker_enter(TaskerSection *section)
{
	if (sections >= MAX_SECTIONS)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_INTERNAL),
				 errmsg("tasker is nested too deeply"),
				 errdetail("More than %d of its calls are under way within one another.", MAX_SECTIONS),
				 errhint("Look for a handler or a function that calls itself through tasker.")));

	SPI_connect();
	GetUserIdAndSecContext(&section->userid, &section->sec_context);
	section->guc_level = 0;
	if (sections == 0)
	{
		lock_first();
		section_number++;
		section->guc_level = NewGUCNestLevel();
		for (int i = 0; i < lengthof(pinned); i++)
			(void) set_config_option(pinned[i].name, pinned[i].value,
									 PGC_USERSET, PGC_S_SESSION,
									 GUC_ACTION_SAVE, true, 0, false);
		SetUserIdAndSecContext(tasker_owner(),
							   section->sec_context | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_NOFORCE_RLS);
	}
	section_caller[sections] = section->userid;
	section_level[sections++] = GetCurrentTransactionNestLevel();
}

/* End the section. Results of its queries are gone, but for what was copied. */
void
tasker_leave(TaskerSection *section)
{
	Assert(sections > 0);
	sections--;
	SetUserIdAndSecContext(section->userid, section->sec_context);
	if (section->guc_level > 0)
		AtEOXact_GUC(true, section->guc_level);
	SPI_finish();
}

/*
 * After an error that was caught without a subtransaction, before the
 * transaction is rolled back: leave every section there is.
 */
void
tasker_abandon(void)
{
	while (sections > 0)
	{
		sections--;
		SPI_finish();
	}
}

/* Whether the statement that is running is one of tasker's own. */
bool
tasker_inside(void)
{
	return sections > 0;
}

/* Tells one outermost section, with all that is in it, from another. */
uint64
tasker_section_number(void)
{
	return section_number;
}

/* The role on whose behalf tasker is working. */
Oid
tasker_caller(void)
{
	return sections > 0 ? section_caller[0] : GetUserId();
}

/* An aborted subtransaction takes the sections begun in it along. */
static void
subxact_callback(SubXactEvent event, SubTransactionId my_subid,
				 SubTransactionId parent_subid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		while (sections > 0 &&
			   section_level[sections - 1] >= GetCurrentTransactionNestLevel())
			sections--;
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PARALLEL_ABORT)
		sections = 0;
}

void
tasker_query_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}

static int
list_length_of(const Oid *types)
{
	int			n = 0;

	while (OidIsValid(types[n]))
		n++;
	return n;
}

/* A kept plan is replanned when a table changes: never read a changed type. */
static void
check_columns(const TaskerQuery *query)
{
	int			n = list_length_of(query->columns);
	TupleDesc	desc;

	if (n == 0)
		return;
	desc = SPI_tuptable->tupdesc;
	if (desc->natts != n)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_INTERNAL),
				 errmsg("a statement of tasker returned %d columns instead of %d", desc->natts, n),
				 errdetail("The statement is: %s", query->sql),
				 errhint("The extension's objects do not fit its library: reinstall it, or ALTER EXTENSION tasker UPDATE.")));
	for (int i = 0; i < n; i++)
		if (SPI_gettypeid(desc, i + 1) != query->columns[i])
			ereport(ERROR,
					(errcode(ERRCODE_TASKER_INTERNAL),
					 errmsg("column %d of a statement of tasker is of type %s instead of %s", i + 1,
							format_type_be(SPI_gettypeid(desc, i + 1)),
							format_type_be(query->columns[i])),
					 errdetail("The statement is: %s", query->sql),
					 errhint("The extension's objects do not fit its library: reinstall it, or ALTER EXTENSION tasker UPDATE.")));
}

/*
 * Run a statement inside a section. Its rows are read by tasker_value until
 * the next statement runs. Returns the number of rows. The memory context
 * stays what it was.
 */
uint64
tasker_run(TaskerQuery *query, Datum *values, const char *nulls)
{
	MemoryContext context = CurrentMemoryContext;
	int			rc;

	Assert(tasker_inside());
	if (query->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(query->sql, list_length_of(query->args), query->args);

		if (plan == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_TASKER_INTERNAL),
					 errmsg("could not prepare a statement of tasker: %s",
							SPI_result_code_string(SPI_result)),
					 errdetail("The statement is: %s", query->sql),
					 errhint("The extension's objects do not fit its library: reinstall it, or ALTER EXTENSION tasker UPDATE.")));
		SPI_keepplan(plan);
		query->plan = plan;
	}

	if (query->latest && IsolationUsesXactSnapshot())
		rc = SPI_execute_snapshot(query->plan, values, nulls, GetLatestSnapshot(), InvalidSnapshot,
								  false, false, 0);
	else
		rc = SPI_execute_plan(query->plan, values, nulls, query->read_only, 0);
	if (rc < 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_INTERNAL),
				 errmsg("could not run a statement of tasker: %s", SPI_result_code_string(rc)),
				 errdetail("The statement is: %s", query->sql),
				 errhint("The extension's objects do not fit its library: reinstall it, or ALTER EXTENSION tasker UPDATE.")));
	check_columns(query);
	MemoryContextSwitchTo(context);
	return SPI_processed;
}

/* A value of the last statement's result, columns counted from 1. */
Datum
tasker_value(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

Datum
tasker_value_notnull(uint64 row, int column)
{
	bool		isnull;
	Datum		value = tasker_value(row, column, &isnull);

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_INTERNAL),
				 errmsg("column %d of a statement of tasker is null", column),
				 errdetail("It never is in rows that tasker wrote."),
				 errhint("Look for rows that were written by hand.")));
	return value;
}

/* Arrays for queries. They live in the memory context they were begun in. */

void
datum_list_init(DatumList *list, Oid type)
{
	list->type = type;
	list->length = 0;
	list->space = 16;
	list->values = palloc(list->space * sizeof(Datum));
	list->nulls = palloc(list->space * sizeof(bool));
	list->has_nulls = false;
}

static void
datum_list_grow(DatumList *list)
{
	if (list->length < list->space)
		return;
	list->space *= 2;
	list->values = repalloc_huge(list->values, list->space * sizeof(Datum));
	list->nulls = repalloc_huge(list->nulls, list->space * sizeof(bool));
}

void
datum_list_add(DatumList *list, Datum value)
{
	datum_list_grow(list);
	list->values[list->length] = value;
	list->nulls[list->length++] = false;
}

void
datum_list_add_null(DatumList *list)
{
	datum_list_grow(list);
	list->values[list->length] = (Datum) 0;
	list->nulls[list->length++] = true;
	list->has_nulls = true;
}

Datum
datum_list_array(DatumList *list)
{
	int16		typlen;
	bool		typbyval;
	char		typalign;
	int			dims[1] = {list->length};
	int			lbs[1] = {1};

	get_typlenbyvalalign(list->type, &typlen, &typbyval, &typalign);
	if (list->length == 0)
		return PointerGetDatum(construct_empty_array(list->type));
	return PointerGetDatum(construct_md_array(list->values,
											  list->has_nulls ? list->nulls : NULL,
											  1, dims, lbs, list->type,
											  typlen, typbyval, typalign));
}
