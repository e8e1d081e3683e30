/*
 * definition_check.c
 *	  The handlers of a definition: functions are looked up, SQL is parsed and
 *	  analysed.
 *
 * Called by define_task outside any section: names in the SQL are resolved
 * with the caller's rights and the caller's search_path.
 */
#include "definition.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

/* ------------------------------------------------------------ functions */

/* The qualified name of a handler that the search path finds, or NULL. */
static char *
find_on_path(const char *name)
{
	Oid			argument = JSONBOID;
	List	   *path = fetch_search_path(true);
	ListCell   *cell;

	foreach(cell, path)
		if (SearchSysCacheExists3(PROCNAMEARGSNSP, CStringGetDatum(name),
								  PointerGetDatum(buildoidvector(&argument, 1)),
								  ObjectIdGetDatum(lfirst_oid(cell))))
		return quote_qualified_identifier(get_namespace_name(lfirst_oid(cell)), name);
	return NULL;
}

/* "shop.charge", quoted as needed, from what the definition says */
static char *
qualified_name(const JsonPlace *place, const char *handler)
{
	Refusal		refusal = {
		.place = place,
		.sqlstate = ERRCODE_TASKER_NO_FUNCTION,
		.message = "\"function\" is not the name of a function",
		.hint = "Write it as schema.function, without arguments, quoted as in SQL where needed.",
	};
	List	   *names;
	char	   *found;

	refusal_begin(&refusal);
	names = textToQualifiedNameList(cstring_to_text(handler));
	refusal_end(&refusal);
	if (list_length(names) == 2)
		return quote_qualified_identifier(strVal(linitial(names)), strVal(lsecond(names)));

	found = list_length(names) == 1 ? find_on_path(strVal(linitial(names))) : NULL;
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_NO_FUNCTION),
			 list_length(names) == 1 ? errmsg("function \"%s\" has no schema", clipped_name(handler)) :
			 errmsg("function \"%s\" has too many parts in its name", clipped_name(handler)),
			 errdetail("At %s there is a name that may not mean the same in another session.", place_text(place)),
			 found != NULL ? errhint("Write \"%s\".", found) : errhint("Write it as schema.function.")));
}

static void
check_function(const JsonPlace *place, StepDefinition *step)
{
	StringInfoData where;

	step->handler = qualified_name(place, step->handler);
	initStringInfo(&where);
	appendStringInfo(&where, "It is named at %s.", place_text(place));
	step->function_owner =
		tasker_function_owner(tasker_handler_function(step->handler, tasker_caller(), where.data));
}

/* ------------------------------------------------------------ SQL */

/* What no session of tasker's could run inside a step's transaction, or NULL. */
static const char *
forbidden(const Node *statement)
{
	if (statement == NULL)
		return NULL;
	switch (nodeTag(statement))
	{
		case T_TransactionStmt:
			return "transaction control";
		case T_CopyStmt:
			return ((const CopyStmt *) statement)->filename == NULL ? "COPY from or to the client" : NULL;
		case T_VacuumStmt:
			return ((const VacuumStmt *) statement)->is_vacuumcmd ? "VACUUM" : NULL;
		case T_AlterSystemStmt:
			return "ALTER SYSTEM";
		case T_CreatedbStmt:
		case T_DropdbStmt:
			return "creating or dropping a database";
		case T_CreateTableSpaceStmt:
		case T_DropTableSpaceStmt:
			return "creating or dropping a tablespace";
		default:
			return NULL;
	}
}

static void
refuse_sql(const JsonPlace *place, const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_BAD_SQL),
			 errmsg("the \"sql\" of a step %s", message),
			 errdetail("It is at %s.", place_text(place)),
			 errhint("%s", hint)));
}

static void
check_statement(const JsonPlace *place, CachedPlanSource *source, bool last)
{
	const char *reason = source->raw_parse_tree == NULL ? NULL : forbidden(source->raw_parse_tree->stmt);
	TupleDesc	desc = source->resultDesc;

	if (reason != NULL)
		refuse_sql(place, psprintf("uses %s", reason),
				   "A step runs inside a transaction that commits together with its result; leave the statement out.");
	if (!last || desc == NULL)
		return;
	if (desc->natts != 1)
		refuse_sql(place, psprintf("returns %d columns", desc->natts),
				   "Return one column of type jsonb, as by SELECT jsonb_build_object('total', t.total) FROM ..., or nothing.");
	if (TupleDescAttr(desc, 0)->atttypid != JSONBOID &&
		TupleDescAttr(desc, 0)->atttypid != VOIDOID)
		refuse_sql(place, psprintf("returns type %s",
								   format_type_be(TupleDescAttr(desc, 0)->atttypid)),
				   "Return one column of type jsonb, as by SELECT to_jsonb(x), or nothing.");
}

/* Parse and analyse the text as the executor will; nothing of it runs. */
static void
check_sql(const JsonPlace *place, const StepDefinition *step)
{
	Refusal		refusal = {
		.place = place,
		.sqlstate = ERRCODE_TASKER_BAD_SQL,
		.message = "the \"sql\" of a step is not sound",
		.hint = "Try it with PREPARE name(jsonb) AS ...; $1 is the step's input, and what it uses must exist already.",
	};
	Oid			argument = JSONBOID;
	SPIPlanPtr	plan;
	List	   *sources;
	int			n = 0;
	ListCell   *cell;

	SPI_connect();
	refusal_begin(&refusal);
	plan = SPI_prepare(step->handler, 1, &argument);
	refusal_end(&refusal);
	if (plan == NULL)
		refuse_sql(place, psprintf("can not be prepared: %s", SPI_result_code_string(SPI_result)),
				   "Try it with PREPARE name(jsonb) AS ....");

	sources = SPI_plan_get_plan_sources(plan);
	if (sources == NIL)
		refuse_sql(place, "holds no statement", "Give a statement, such as SELECT $1.");
	foreach(cell, sources)
		check_statement(place, (CachedPlanSource *) lfirst(cell), ++n == list_length(sources));
	SPI_freeplan(plan);
	SPI_finish();
}

/* Refuse a definition whose handlers could not run as things are now. */
void
definition_check_handlers(Definition *definition)
{
	JsonPlace	steps = {.key = "steps"};

	Assert(!tasker_inside());
	for (int i = 0; i < definition->nsteps; i++)
	{
		StepDefinition *step = &definition->steps[i];
		JsonPlace	here = {.parent = &steps,.index = i,.step = step->name};
		JsonPlace	key = {.parent = &here};

		CHECK_FOR_INTERRUPTS();
		switch (step->kind)
		{
			case HANDLER_FUNCTION:
				key.key = "function";
				check_function(&key, step);
				break;
			case HANDLER_SQL:
				key.key = "sql";
				check_sql(&key, step);
				break;
			case HANDLER_QUEUE:
				break;
		}
	}
}
