/*
 * results.c
 *	  The results of steps: how large they, and other documents of steps and
 *	  workers, may be; small ones live in the step's row, larger ones apart, so
 *	  that updates of steps stay on their page (HOT).
 */
#include "results.h"

#include "catalog/pg_type.h"

/* From here on a result would cost more in the row than in a row of its own. */
#define LARGEST_IN_ROW	256

static TaskerQuery store_apart = {
	.sql = "INSERT INTO tasker.workflow_step_results (task_id, step_id, results) VALUES ($1, $2, $3) "
	"ON CONFLICT (task_id, step_id) DO UPDATE SET results = EXCLUDED.results",
	.args = {INT8OID, INT4OID, JSONBOID},
};

/*
 * Refuse a document that a step, or a worker, may not have. What it is called
 * ends in its verb: "the checkpoint of a step is".
 */
void
check_document_size(Jsonb *document, const char *what)
{
	if (VARSIZE(document) > (Size) tasker_max_result_size * 1024)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_RESULT_TOO_LARGE),
				 errmsg("%s too large", what),
				 errdetail("There are %zu bytes, the limit is %d kB.",
						   (Size) VARSIZE(document), tasker_max_result_size),
				 errhint("Keep large data in a table and its key here, or raise tasker.max_result_size.")));
	check_nesting(document, what, ERRCODE_TASKER_RESULT_TOO_LARGE);
}

void
check_results_size(Jsonb *results)
{
	check_document_size(results, "the results of a step are");
}

bool
results_live_apart(Jsonb *results)
{
	return VARSIZE(results) > LARGEST_IN_ROW;
}

/* Inside a section. */
void
store_results_apart(int64 task_id, int step_id, Jsonb *results)
{
	Datum		values[3] = {Int64GetDatum(task_id), Int32GetDatum(step_id), JsonbPGetDatum(results)};

	tasker_run(&store_apart, values, NULL);
}
