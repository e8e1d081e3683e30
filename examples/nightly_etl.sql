-- A nightly load: open a batch, copy three sources side by side (fan-out), join
-- them into facts (fan-in), sum up by region and by product side by side,
-- publish. Every step is plain SQL. What a step writes commits together with
-- its completion, so a load that stops half-way goes on where it stopped, and
-- loads nothing twice.
--
--     psql -f examples/nightly_etl.sql       as a superuser, in an empty database
\set ON_ERROR_STOP on
\set QUIET on
\pset footer off

CREATE EXTENSION IF NOT EXISTS tasker;
CREATE ROLE etl LOGIN;
SELECT tasker.grant_access('etl', 'submitter') \g /dev/null
CREATE SCHEMA etl AUTHORIZATION etl;
SET ROLE etl;

-- ---- the sources, and where they go ----------------------------------------

CREATE TABLE etl.src_orders (id int, day date, customer int, product int, quantity int);
CREATE TABLE etl.src_customers (id int, region text);
CREATE TABLE etl.src_products (id int, name text, price numeric(8,2));
INSERT INTO etl.src_orders SELECT g, date '2030-01-01' + g % 2, g % 50, g % 7, 1 + g % 3 FROM generate_series(1, 1000) g;
INSERT INTO etl.src_customers SELECT g, (ARRAY['north', 'south', 'west'])[1 + g % 3] FROM generate_series(0, 49) g;
INSERT INTO etl.src_products SELECT g, 'product ' || g, 1.5 * (g + 1) FROM generate_series(0, 6) g;

CREATE TABLE etl.batches (day date PRIMARY KEY, opened timestamptz NOT NULL, published timestamptz);
CREATE TABLE etl.orders (LIKE etl.src_orders);
CREATE TABLE etl.customers (LIKE etl.src_customers);
CREATE TABLE etl.products (LIKE etl.src_products);
CREATE TABLE etl.facts (day date, order_id int, region text, product text, amount numeric(10,2));
CREATE TABLE etl.by_region (day date, region text, amount numeric(12,2));
CREATE TABLE etl.by_product (day date, product text, amount numeric(12,2));

-- ---- the workflow ----------------------------------------------------------
-- A step's statements see $1, its input; the last one may return a result. The
-- three functions only write the definition's JSON, which may also be given as
-- it is (examples/order_fulfilment.sql).

SELECT tasker.define_task('nightly_etl', tasker.workflow(description => 'Orders into the warehouse', steps => ARRAY[
	tasker.step('open', sql => $$
		INSERT INTO etl.batches VALUES (($1 #>> '{task,context,day}')::date, now())$$),

	tasker.step('orders', depends_on => '{open}', sql => $$
		WITH copied AS (INSERT INTO etl.orders SELECT * FROM etl.src_orders
						WHERE day = ($1 #>> '{task,context,day}')::date RETURNING 1)
		SELECT jsonb_build_object('rows', count(*)) FROM copied$$),
	tasker.step('customers', depends_on => '{open}', sql => $$
		WITH copied AS (INSERT INTO etl.customers SELECT * FROM etl.src_customers RETURNING 1)
		SELECT jsonb_build_object('rows', count(*)) FROM copied$$),
	tasker.step('products', depends_on => '{open}', sql => $$
		WITH copied AS (INSERT INTO etl.products SELECT * FROM etl.src_products RETURNING 1)
		SELECT jsonb_build_object('rows', count(*)) FROM copied$$),

	tasker.step('facts', depends_on => '{orders,customers,products}', timeout => '10 min', sql => $$
		WITH loaded AS (
			INSERT INTO etl.facts
			SELECT o.day, o.id, c.region, p.name, o.quantity * p.price
			FROM etl.orders o JOIN etl.customers c ON c.id = o.customer JOIN etl.products p ON p.id = o.product
			WHERE o.day = ($1 #>> '{task,context,day}')::date RETURNING 1)
		SELECT jsonb_build_object('rows', count(*), 'lost', ($1 #>> '{parents,orders,rows}')::int - count(*)) FROM loaded$$),

	tasker.step('by_region', depends_on => '{facts}', sql => $$
		INSERT INTO etl.by_region SELECT day, region, sum(amount) FROM etl.facts
		WHERE day = ($1 #>> '{task,context,day}')::date GROUP BY day, region$$),
	tasker.step('by_product', depends_on => '{facts}', sql => $$
		INSERT INTO etl.by_product SELECT day, product, sum(amount) FROM etl.facts
		WHERE day = ($1 #>> '{task,context,day}')::date GROUP BY day, product$$),

	tasker.step('publish', depends_on => '{by_region,by_product}', sql => $$
		UPDATE etl.batches SET published = now() WHERE day = ($1 #>> '{task,context,day}')::date$$)
])) \g /dev/null

-- ---- run it ----------------------------------------------------------------
-- The day is also the idempotency key: whoever asks again gets the same task.

SELECT tasker.create_task('nightly_etl', '{"day": "2030-01-01"}', idempotency_key => '2030-01-01') AS task_id \gset
SELECT tasker.create_task('nightly_etl', '{"day": "2030-01-01"}', idempotency_key => '2030-01-01') AS again \gset
SELECT tasker.task_wait(:task_id, timeout => '30 s') AS task_state, :task_id = :again AS same_task;

SELECT name AS step, state, depends_on, results FROM tasker.step_status WHERE task_id = :task_id ORDER BY step_id;
SELECT region, amount FROM etl.by_region ORDER BY region;

RESET ROLE;
