-- For handlers: what to raise, and the rule by which failed steps are retried.
CREATE FUNCTION tasker.backoff_delay(
	attempts int,
	kind text DEFAULT 'exponential',
	base interval DEFAULT '1 second',
	factor float8 DEFAULT 2,
	cap interval DEFAULT '5 minutes',
	jitter float8 DEFAULT 0.1,
	delays interval[] DEFAULT NULL,
	random float8 DEFAULT pg_catalog.random()
) RETURNS interval
	AS 'MODULE_PATHNAME', 'tasker_backoff_delay' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION tasker.backoff_delay(int, text, interval, float8, interval, float8, interval[], float8) IS
'How long a step waits after so many failed attempts: exponential min(cap, base * factor ^ attempts), linear min(cap, base * attempts), fixed base, list the delay of that number or the last; each times 1 - jitter + 2 * jitter * random, random from 0 to 1. The exponential rule and its defaults are those of Tasker Core.
Errors: TK204 unknown kind, a delay that is no interval. Example: SELECT tasker.backoff_delay(3, jitter => 0);  -- 00:00:08';

CREATE FUNCTION tasker.do_not_retry(message text, detail text DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RAISE EXCEPTION USING ERRCODE = 'TK410', MESSAGE = COALESCE(message, 'the step failed for good'),
		DETAIL = COALESCE(detail, '');
END $$;
COMMENT ON FUNCTION tasker.do_not_retry(text, text) IS
'For a handler: fails the step for good, whatever attempts are left. Raises TK410, which a handler may raise itself. Example: PERFORM tasker.do_not_retry(''card declined'');';

CREATE FUNCTION tasker.retry_after(delay interval, message text DEFAULT 'not now') RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RAISE EXCEPTION USING ERRCODE = 'TK411', MESSAGE = COALESCE(message, 'not now'),
		DETAIL = COALESCE(delay::text, ''), HINT = 'The handler asked for another attempt after that time.';
END $$;
COMMENT ON FUNCTION tasker.retry_after(interval, text) IS
'For a handler: fails the attempt and has the next one, if any is left, begin after the delay instead of after the backoff; a year at most. Raises TK411 with the delay in DETAIL, which a handler may raise itself. Example: PERFORM tasker.retry_after(''30 seconds'', ''rate limited'');';
