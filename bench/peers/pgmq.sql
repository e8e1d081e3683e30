-- The parts of pgmq 1.5 that pgflow calls, with pgmq's own tables, indexes and row
-- changes, written for this benchmark: pgmq is in neither Debian nor npm. And a
-- stub of Supabase's realtime.send, which there writes one more row an event:
-- here it writes none, to pgflow's advantage.
CREATE SCHEMA pgmq;
CREATE TYPE pgmq.message_record AS (
	msg_id bigint, read_ct int, enqueued_at timestamptz, vt timestamptz, message jsonb, headers jsonb);
CREATE TYPE pgmq.queue_record AS (queue_name varchar, is_partitioned boolean, is_unlogged boolean, created_at timestamptz);
CREATE TABLE pgmq.meta (
	queue_name varchar UNIQUE NOT NULL, is_partitioned boolean NOT NULL, is_unlogged boolean NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now());

CREATE FUNCTION pgmq.format_table_name(queue_name text, prefix text) RETURNS text LANGUAGE plpgsql AS
	'BEGIN RETURN lower(prefix || ''_'' || queue_name); END';

CREATE FUNCTION pgmq.list_queues() RETURNS SETOF pgmq.queue_record LANGUAGE sql AS
	'SELECT queue_name, is_partitioned, is_unlogged, created_at FROM pgmq.meta';

CREATE FUNCTION pgmq.create(queue_name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	q text := pgmq.format_table_name(queue_name, 'q');
	a text := pgmq.format_table_name(queue_name, 'a');
BEGIN
	EXECUTE format('CREATE TABLE pgmq.%I (msg_id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, read_ct int DEFAULT 0 NOT NULL,
		enqueued_at timestamptz DEFAULT now() NOT NULL, vt timestamptz NOT NULL, message jsonb, headers jsonb)', q);
	EXECUTE format('CREATE TABLE pgmq.%I (msg_id bigint PRIMARY KEY, read_ct int DEFAULT 0 NOT NULL,
		enqueued_at timestamptz DEFAULT now() NOT NULL, archived_at timestamptz DEFAULT now() NOT NULL,
		vt timestamptz NOT NULL, message jsonb, headers jsonb)', a);
	EXECUTE format('CREATE INDEX %I ON pgmq.%I (vt ASC)', q || '_vt_idx', q);
	EXECUTE format('CREATE INDEX %I ON pgmq.%I (archived_at)', 'archived_at_idx_' || queue_name, a);
	INSERT INTO pgmq.meta VALUES (queue_name, false, false);
END $$;

CREATE FUNCTION pgmq.send(queue_name text, msg jsonb, delay int DEFAULT 0) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format('INSERT INTO pgmq.%I (vt, message) VALUES ($2, $1) RETURNING msg_id',
		pgmq.format_table_name(queue_name, 'q')) USING msg, clock_timestamp() + make_interval(secs => delay);
END $$;

CREATE FUNCTION pgmq.send_batch(queue_name text, msgs jsonb[], delay int DEFAULT 0) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format('INSERT INTO pgmq.%I (vt, message) SELECT $2, unnest($1) RETURNING msg_id',
		pgmq.format_table_name(queue_name, 'q')) USING msgs, clock_timestamp() + make_interval(secs => delay);
END $$;

CREATE FUNCTION pgmq.read(queue_name text, vt int, qty int) RETURNS SETOF pgmq.message_record LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format('WITH cte AS (SELECT msg_id FROM pgmq.%1$I WHERE vt <= clock_timestamp()
			ORDER BY msg_id ASC LIMIT $1 FOR UPDATE SKIP LOCKED)
		UPDATE pgmq.%1$I m SET vt = clock_timestamp() + make_interval(secs => $2), read_ct = read_ct + 1
		FROM cte WHERE m.msg_id = cte.msg_id
		RETURNING m.msg_id, m.read_ct, m.enqueued_at, m.vt, m.message, m.headers',
		pgmq.format_table_name(queue_name, 'q')) USING qty, vt;
END $$;

CREATE FUNCTION pgmq.set_vt(queue_name text, msg_id bigint, vt int) RETURNS SETOF pgmq.message_record LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format('UPDATE pgmq.%I SET vt = clock_timestamp() + make_interval(secs => $1) WHERE msg_id = $2
		RETURNING msg_id, read_ct, enqueued_at, vt, message, headers',
		pgmq.format_table_name(queue_name, 'q')) USING vt, msg_id;
END $$;

CREATE FUNCTION pgmq.archive(queue_name text, msg_ids bigint[]) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format('WITH archived AS (DELETE FROM pgmq.%I WHERE msg_id = ANY ($1)
			RETURNING msg_id, vt, read_ct, enqueued_at, message, headers)
		INSERT INTO pgmq.%I (msg_id, vt, read_ct, enqueued_at, message, headers) SELECT * FROM archived RETURNING msg_id',
		pgmq.format_table_name(queue_name, 'q'), pgmq.format_table_name(queue_name, 'a')) USING msg_ids;
END $$;

CREATE FUNCTION pgmq.archive(queue_name text, msg_id bigint) RETURNS boolean LANGUAGE plpgsql AS
	'BEGIN RETURN EXISTS (SELECT FROM pgmq.archive(queue_name, ARRAY[msg_id])); END';

CREATE SCHEMA realtime;
CREATE FUNCTION realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true) RETURNS void
	LANGUAGE sql AS '';
