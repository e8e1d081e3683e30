/*
 * clock.c
 *	  The time. Nothing else in src/ reads the system's clock to decide
 *	  anything, so that in a test build tasker.clock, a timestamp, stands for it.
 */
#include "tasker.h"

#include "clock.h"

#ifdef TASKER_TEST
static char *test_clock = NULL;
#endif

/* Now: the moment of the call, not of the transaction's begin. */
TimestampTz
tasker_now(void)
{
#ifdef TASKER_TEST
	if (test_clock != NULL && test_clock[0] != '\0')
		return DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in,
													   CStringGetDatum(test_clock),
													   ObjectIdGetDatum(InvalidOid),
													   Int32GetDatum(-1)));
#endif
	return GetCurrentTimestamp();
}

void
tasker_clock_init(void)
{
#ifdef TASKER_TEST
	DefineCustomStringVariable("tasker.clock",
							   "The time that tasker goes by, for tests.",
							   "Empty: the system's clock.",
							   &test_clock, "",
							   PGC_USERSET, 0, NULL, NULL, NULL);
#endif
}

PG_FUNCTION_INFO_V1(tasker_sql_now);

/* tasker.now(): what the views and functions in SQL go by */
Datum
tasker_sql_now(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(tasker_now());
}
