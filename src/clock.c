/*
 * clock.c
 *	  The time. Nothing else in src/ reads the system's clock to decide
 *	  anything, so that in a test build tasker.clock, a timestamp, stands for it.
 */
#include "tasker.h"

#include "clock.h"
#include "engine.h"

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

/* Was it so many µs ago, or may it have been, since the clock was put back? */
bool
long_ago(TimestampTz then, TimestampTz now, int64 us)
{
	return then <= now - us || then >= now + us;
}

/* For how long the caller is ready to wait, in seconds; below 0 for ever. */
double
time_limit_argument(FunctionCallInfo fcinfo, int arg)
{
	double		seconds;

	if (PG_ARGISNULL(arg))
		return -1;
	seconds = interval_seconds(PG_GETARG_INTERVAL_P(arg));
	if (seconds < 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("a time limit must not be negative"),
				 errdetail("It is %g seconds.", seconds),
				 errhint("Leave it out to wait without a limit, or pass 0 not to wait.")));
	return seconds;
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
