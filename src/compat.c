/*
 * compat.c
 *	  What differs between PostgreSQL 13 and 18 and takes more than a macro.
 */
#include "postgres.h"

#include "compat.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

/* Shared memory is asked for while libraries are preloaded; since 15 in a hook. */
#if PG_VERSION_NUM >= 150000
static shmem_request_hook_type previous_shmem_request_hook = NULL;
static Size shmem_size = 0;

static void
shmem_request(void)
{
	if (previous_shmem_request_hook)
		previous_shmem_request_hook();
	RequestAddinShmemSpace(shmem_size);
}

void
tasker_request_shmem(Size size)
{
	shmem_size = size;
	previous_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
}
#else
void
tasker_request_shmem(Size size)
{
	RequestAddinShmemSpace(size);
}
#endif

#if PG_VERSION_NUM < 150000
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
