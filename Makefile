# tasker: workflow orchestration inside PostgreSQL.
#
#   make, make install, make installcheck   as for any extension (PG_CONFIG=… chooses the server)
#   make demo                               a throwaway cluster runs a workflow and shows it
#   make test                               everything that CI runs
#   make conformance                        the clients' tests in their long form, a quarter of an hour
#   make test-upgrade                       pg_upgrade to the next major version, with work in flight
#   make test-matrix                        the suites against every major of PostgreSQL that Debian has, as root
#   make bench, make bench-full             tasker, its peers and the floor, side by side (bench/README.md)
#   make sanitize                           the suites on a build for a sanitizer (test/README.md)
#   make chaos                              faults at random for ten minutes and more, see docs/delivery.md

MODULE_big = tasker
EXTENSION = tasker
EXTVERSION = 0.1
# The versions of the extension in a database that this library works with.
WORKS_WITH = $(EXTVERSION)
# Install scripts of releases as they were, and changes of tables from each to the
# next, from which scripts are made that update each release to this version.
# See docs/releasing.md.
DATA = $(filter-out $(wildcard sql/upgrade/tasker--*--*.sql),$(wildcard sql/upgrade/tasker--*.sql))
UPGRADES = $(patsubst sql/upgrade/%.sql,%--$(EXTVERSION).sql,$(DATA))
DATA_built = tasker--$(EXTVERSION).sql $(UPGRADES)
PGFILEDESC = "tasker - workflow orchestration inside PostgreSQL"

OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))

# The install script: one file per topic, joined in this order.
SQL_PARTS = schema states tables owners triggers definition creation readiness \
	handlers operators claims queues explain retention processes guard views doctor access
SQL_FILES = $(SQL_PARTS:%=sql/%.sql)

REGRESS_OPTS = --inputdir=test --load-extension=tasker
REGRESS = $(sort $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql)))
ISOLATION_OPTS = --inputdir=test --load-extension=tasker
ISOLATION = $(sort $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec)))

EXTRA_CLEAN = $(DATA_built)

PG_CPPFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers
ifdef WERROR
PG_CPPFLAGS += -Werror
endif
# A test build has a clock that tests can set and fault points (src/fault.h).
ifdef TASKER_TEST
PG_CPPFLAGS += -DTASKER_TEST -DUSE_ASSERT_CHECKING
# One for a sanitizer ends the process that does what C does not define. The
# server's own flags define what signed integers do at their ends.
ifneq ($(filter undefined address,$(SANITIZE)),)
COPT = -fno-wrapv -fno-sanitize-recover=all -fsanitize=undefined,float-cast-overflow,float-divide-by-zero
OBJS += test/sanitize/options.o
ifeq ($(SANITIZE),address)
COPT += -fsanitize=address
OBJS += test/sanitize/palloc.o
endif
endif
endif

PG_CONFIG ?= pg_config
# The goals that bring a server along must work before there is one.
ifneq ($(filter-out test test-upgrade chaos fuzz sanitize conformance test-matrix demo demo-stop bench bench-full,$(or $(MAKECMDGOALS),all)),)
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
endif

tasker--$(EXTVERSION).sql: Makefile $(SQL_FILES)
	@{ printf '%s\n' '\echo Use "CREATE EXTENSION tasker" to load this file. \quit'; cat $(SQL_FILES); } > $@

$(UPGRADES): tasker--%--$(EXTVERSION).sql: Makefile $(SQL_FILES) $(wildcard sql/upgrade/*)
	@sql/upgrade/build.sh $* $(EXTVERSION) $(SQL_FILES) > $@ || { rm -f $@; exit 1; }

src/version.o src/version.bc: override CPPFLAGS += -DTASKER_VERSION='"$(EXTVERSION)"' -DTASKER_WORKS_WITH='"$(WORKS_WITH)"'
src/version.o src/version.bc: Makefile

# Every object depends on the headers: the tree is small, a stale object is not.
$(OBJS): $(wildcard src/*.h)

# Everything that CI runs: SUITE=… TESTS=… KEEP=1, see test/README.md.
test:
	@test/run

# pg_upgrade to another major version of Debian's, with work in flight.
test-upgrade:
	@test/upgrade/pg_upgrade.sh

# Workers of all clients, their servers and poolers are killed, again and again.
conformance:
	@SUITE=clients CONFORMANCE=long TEST_TIMEOUT=3600 test/run

# PostgreSQL 13, 15, 17 and 18, each in a root directory of its own.
test-matrix:
	@test/matrix/run

# Random input for everything that can be called, for some minutes: SEED=…, FUZZ=times as much as the test.
fuzz:
	@seed=$(or $(SEED),$$(date +%s)); echo "SEED=$$seed"; \
	SUITE=property TESTS=fuzz TASKER_SEED=$$seed FUZZ=$(or $(FUZZ),50) TEST_TIMEOUT=7200 test/run

# The suites on a build for a sanitizer: SANITIZE=undefined, address or assert, SUITE=…, TESTS=….
sanitize:
	@SANITIZE=$(or $(SANITIZE),undefined) test/run

# Suite chaos in its long form: DURATION=seconds of faults, SEED=….
chaos:
	@SUITE=chaos DURATION=$(or $(DURATION),600) TEST_TIMEOUT=$$(($(or $(DURATION),600) * 3 + 900)) test/run

# A throwaway cluster that runs a workflow and shows it.
demo:
	@examples/demo.sh

demo-stop:
	@examples/demo.sh stop

# A throwaway cluster in which everything is measured; the report is in .work/benchmark.
bench:
	@bench/bench.sh --budget 280

bench-full:
	@bench/bench.sh --full

# PostgreSQL's own layout (pg_bsd_indent).
format:
	@PG_CONFIG=$(PG_CONFIG) test/lib/indent.sh src/*.[ch]

check-format:
	@PG_CONFIG=$(PG_CONFIG) test/lib/indent.sh --check src/*.[ch]

.PHONY: test test-upgrade chaos fuzz sanitize conformance test-matrix demo demo-stop bench bench-full format check-format
