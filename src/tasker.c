/*
 * tasker.c
 *	  The library's entry point.
 */
#include "tasker.h"

#include "clock.h"
#include "guard.h"
#include "handler.h"
#include "history_ring.h"
#include "process.h"
#include "version.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	tasker_clock_init();
	tasker_guc_init();
	tasker_query_init();
	estimates_init();
	tasker_version_init();
	tasker_shared_init();
	guard_init();
	handler_init();
	history_ring_init();
	launcher_init();
	lifecycle_init();
}
