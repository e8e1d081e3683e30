-- Order fulfilment: validate, then reserve the stock and charge the customer
-- side by side, then ship, then notify. The payment gateway times out twice;
-- the step is tried again until it answers.
--
--     psql -f examples/order_fulfilment.sql      as a superuser, in an empty database
--
-- Run as a superuser only for the first lines; everything else belongs to, and
-- runs as, the role shop.
\set ON_ERROR_STOP on
\set QUIET on
\pset pager off

CREATE EXTENSION IF NOT EXISTS tasker;
CREATE ROLE shop LOGIN;
\o /dev/null
SELECT tasker.grant_access('shop', 'submitter');
\o
CREATE SCHEMA shop AUTHORIZATION shop;

SET ROLE shop;

-- ---- the shop's own tables -------------------------------------------------

CREATE TABLE shop.orders (
	order_id	bigint PRIMARY KEY,
	customer	text NOT NULL,
	sku			text NOT NULL,
	quantity	int NOT NULL CHECK (quantity > 0),
	amount		numeric(10,2) NOT NULL
);
CREATE TABLE shop.stock (
	sku			text PRIMARY KEY,
	available	int NOT NULL CHECK (available >= 0)
);
CREATE TABLE shop.payments (
	order_id	bigint PRIMARY KEY REFERENCES shop.orders,
	amount		numeric(10,2) NOT NULL,
	reference	text NOT NULL UNIQUE,	-- what makes a second charge impossible
	attempt		int NOT NULL
);
CREATE TABLE shop.shipments (
	shipment_id	bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	order_id	bigint NOT NULL UNIQUE REFERENCES shop.orders
);
CREATE TABLE shop.outbox (
	message_id	bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	recipient	text NOT NULL,
	message		text NOT NULL
);

INSERT INTO shop.stock VALUES ('coffee', 10);
INSERT INTO shop.orders VALUES (42, 'ada@example.com', 'coffee', 2, 25.00);

-- ---- the steps -------------------------------------------------------------
-- A handler gets {"task": {"id", "context", ...}, "step": {"name", "attempt",
-- "idempotency_key", ...}, "parents": {name: what it returned}}. What it writes
-- commits together with its completion, or not at all.

CREATE FUNCTION shop.order_of(input jsonb) RETURNS shop.orders
LANGUAGE sql STABLE STRICT AS $$
	SELECT o FROM shop.orders o WHERE o.order_id = (input #>> '{task,context,order_id}')::bigint
$$;

CREATE FUNCTION shop.validate(input jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
	o shop.orders := shop.order_of(input);
BEGIN
	IF o.order_id IS NULL THEN
		RAISE EXCEPTION 'there is no order %', input #> '{task,context,order_id}';
	END IF;
	RETURN jsonb_build_object('amount', o.amount);
END $$;

CREATE FUNCTION shop.reserve(input jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
	o shop.orders := shop.order_of(input);
	remaining int;
BEGIN
	-- The table's CHECK refuses what is not there.
	UPDATE shop.stock SET available = available - o.quantity WHERE sku = o.sku
		RETURNING available INTO STRICT remaining;
	RETURN jsonb_build_object('sku', o.sku, 'reserved', o.quantity, 'remaining', remaining);
END $$;

CREATE FUNCTION shop.charge(input jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
	o shop.orders := shop.order_of(input);
	attempt int := (input #>> '{step,attempt}')::int;
	key text := input #>> '{step,idempotency_key}';
BEGIN
	INSERT INTO shop.payments VALUES (o.order_id, o.amount, key, attempt);
	-- A gateway that answers the third time only. The row above is rolled back
	-- with each failed attempt, so exactly one payment remains.
	IF attempt < 3 THEN
		RAISE EXCEPTION 'payment gateway timeout (attempt %)', attempt
			USING ERRCODE = 'connection_failure';
	END IF;
	RETURN jsonb_build_object('charged', o.amount, 'attempt', attempt);
END $$;

CREATE FUNCTION shop.ship(input jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
	o shop.orders := shop.order_of(input);
	shipment bigint;
BEGIN
	INSERT INTO shop.shipments (order_id) VALUES (o.order_id) RETURNING shipment_id INTO shipment;
	RETURN jsonb_build_object('shipment', shipment, 'paid', input #> '{parents,charge,charged}');
END $$;

CREATE FUNCTION shop.notify(input jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
	o shop.orders := shop.order_of(input);
BEGIN
	INSERT INTO shop.outbox (recipient, message)
		VALUES (o.customer, format('Order %s left the house as shipment %s.',
								   o.order_id, input #>> '{parents,ship,shipment}'));
	RETURN jsonb_build_object('notified', o.customer);
END $$;

-- ---- the workflow ----------------------------------------------------------

\o /dev/null
SELECT tasker.define_task('order_fulfilment', '{
	"description": "From an order to a parcel",
	"steps": [
		{"name": "validate", "function": "shop.validate"},
		{"name": "reserve",  "function": "shop.reserve", "depends_on": ["validate"]},
		{"name": "charge",   "function": "shop.charge",  "depends_on": ["validate"],
		 "retry": {"max_attempts": 5, "base": "200 ms"}},
		{"name": "ship",     "function": "shop.ship",    "depends_on": ["reserve", "charge"]},
		{"name": "notify",   "function": "shop.notify",  "depends_on": ["ship"]}
	]
}');
\o

-- ---- run it ----------------------------------------------------------------

SELECT tasker.create_task('order_fulfilment', context => '{"order_id": 42}') AS task_id \gset
SELECT tasker.task_wait(:task_id, timeout => '30 s') AS task_state \gset

\pset footer off
\echo
\echo 'Task' :task_id 'of order_fulfilment is' :task_state
\echo
\echo 'The steps (level: the longest way from a step without parents):'
WITH RECURSIVE levels AS (
	SELECT s.step_id, 0 AS level
	FROM tasker.step_status s
	WHERE s.task_id = :task_id
		AND NOT EXISTS (SELECT FROM tasker.workflow_step_edges e
						WHERE e.task_id = s.task_id AND e.to_step_id = s.step_id)
	UNION
	SELECT e.to_step_id, l.level + 1
	FROM levels l
	JOIN tasker.workflow_step_edges e ON e.task_id = :task_id AND e.from_step_id = l.step_id
)
SELECT max(l.level) AS level, s.name AS step, s.state, s.attempts,
	coalesce((SELECT string_agg(p.name, ', ' ORDER BY p.step_id)
			  FROM tasker.workflow_step_edges e
			  JOIN tasker.step_status p ON p.task_id = e.task_id AND p.step_id = e.from_step_id
			  WHERE e.task_id = :task_id AND e.to_step_id = s.step_id), '') AS after,
	s.results
FROM levels l
JOIN tasker.step_status s ON s.task_id = :task_id AND s.step_id = l.step_id
GROUP BY s.step_id, s.name, s.state, s.attempts, s.results
ORDER BY 1, s.step_id;

\echo 'Its history:'
SELECT to_char(h.created_at, 'HH24:MI:SS.MS') AS at, coalesce(s.name, '(the task)') AS step,
	h.from_state AS "from", h.to_state AS "to", h.attempt, coalesce(h.metadata ->> 'message', '') AS error
FROM (SELECT task_id, NULL::int AS step_id, created_at, from_state, to_state, NULL::int AS attempt, metadata
	  FROM tasker.task_transitions
	  UNION ALL
	  SELECT task_id, step_id, created_at, from_state, to_state, attempt, metadata
	  FROM tasker.workflow_step_transitions) h
LEFT JOIN tasker.step_status s ON s.task_id = h.task_id AND s.step_id = h.step_id
WHERE h.task_id = :task_id
ORDER BY h.created_at, h.step_id, h.attempt;

\echo 'What is in the shop''s tables: one payment, although the gateway was called three times.'
SELECT p.order_id, p.amount, p.attempt AS "paid at attempt", h.shipment_id AS shipment,
	s.available AS "stock left", b.message
FROM shop.payments p
JOIN shop.shipments h USING (order_id)
JOIN shop.orders o USING (order_id)
JOIN shop.stock s USING (sku)
CROSS JOIN shop.outbox b;

RESET ROLE;
-- For a script that runs this: did it end well?
SELECT 1 / (:'task_state' = 'complete')::int AS ok \gset
