# tasker: workflow orchestration inside PostgreSQL.
#
#   make, make install, make installcheck   as for any extension (PG_CONFIG=… chooses the server)
#   make demo                               a throwaway cluster runs a workflow and shows it
#   make test                               everything that CI runs

MODULE_big = tasker
EXTENSION = tasker
EXTVERSION = 0.1
DATA_built = tasker--$(EXTVERSION).sql
PGFILEDESC = "tasker - workflow orchestration inside PostgreSQL"

OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))

# The install script: one file per topic, joined in this order.
SQL_PARTS = schema states tables owners triggers definition creation readiness \
	handlers operators processes views access
SQL_FILES = $(SQL_PARTS:%=sql/%.sql)

REGRESS_OPTS = --inputdir=test --outputdir=.work/regress --load-extension=tasker
REGRESS = $(sort $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql)))

EXTRA_CLEAN = tasker--$(EXTVERSION).sql .work test/expected

PG_CPPFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers
ifdef WERROR
PG_CPPFLAGS += -Werror
endif
# A test build has a clock that tests can set and fault points (src/fault.h).
ifdef TASKER_TEST
PG_CPPFLAGS += -DTASKER_TEST -DUSE_ASSERT_CHECKING
endif

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

tasker--$(EXTVERSION).sql: Makefile $(SQL_FILES)
	@{ printf '%s\n' '\echo Use "CREATE EXTENSION tasker" to load this file. \quit'; cat $(SQL_FILES); } > $@

# Every object depends on the headers: the tree is small, a stale object is not.
$(OBJS): $(wildcard src/*.h)
