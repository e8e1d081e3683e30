/*
 * compat.c
 *	  What later versions of PostgreSQL have and earlier ones do not.
 */
#include "postgres.h"

#include "compat.h"

#if PG_VERSION_NUM < 150000

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

/* Have the function's rows put into a tuplestore, as the caller expects them. */
void
tasker_begin_srf(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext old_context;

	if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo) ||
		!(rsinfo->allowedModes & SFRM_Materialize) || rsinfo->expectedDesc == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set"),
				 errdetail("The function returns a set of rows."),
				 errhint("Call it in FROM.")));
	old_context = MemoryContextSwitchTo(rsinfo->econtext->ecxt_per_query_memory);
	rsinfo->returnMode = SFRM_Materialize;
	rsinfo->setDesc = CreateTupleDescCopy(rsinfo->expectedDesc);
	rsinfo->setResult = tuplestore_begin_heap((rsinfo->allowedModes & SFRM_Materialize_Random) != 0,
											  false, work_mem);
	MemoryContextSwitchTo(old_context);
}

#endif
