/*
 * guard_known.c
 *	  That a database is armed is known to all sessions, by a word in shared
 *	  memory: a call looks at that and needs no query.
 *
 * Called by guard.c; executors look at it between their batches.
 */
#include "guard.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "shared.h"

/* This transaction changed what the rule goes by. */
static bool changed = false;

/* The database's slot, or NULL if there is no more room for one. */
static GuardSlot *
guard_slot(void)
{
	static GuardSlot *slot = NULL;
	TaskerShared *shared = tasker_shared();

	if (slot != NULL)
		return slot;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < TASKER_MAX_DATABASES && slot == NULL; i++)
		if (shared->guards[i].database == MyDatabaseId)
			slot = &shared->guards[i];
	for (int i = 0; i < TASKER_MAX_DATABASES && slot == NULL; i++)
		if (!OidIsValid(shared->guards[i].database))
		{
			slot = &shared->guards[i];
			slot->database = MyDatabaseId;
		}
	LWLockRelease(&shared->lock);
	return slot;
}

/* The database is gone. */
void
guard_forget_database(Oid database)
{
	TaskerShared *shared = tasker_shared();

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < TASKER_MAX_DATABASES; i++)
		if (shared->guards[i].database == database)
		{
			shared->guards[i].database = InvalidOid;
			shared->guards[i].logged = false;
			pg_atomic_write_u32(&shared->guards[i].word, 0);
		}
	LWLockRelease(&shared->lock);
}

/*
 * A word is odd while the database is known to be armed. Each time that it
 * turns even it is a new one, so that whoever looked before does not make it
 * odd afterwards.
 */
static void
forget(void)
{
	GuardSlot  *slot = guard_slot();
	uint32		word;

	if (slot == NULL)
		return;
	word = pg_atomic_read_u32(&slot->word);
	while (!pg_atomic_compare_exchange_u32(&slot->word, &word, (word | 1) + 1))
		;
}

/* The word as it is, for who is going to look. */
uint32
guard_word(void)
{
	GuardSlot  *slot = guard_slot();

	return slot == NULL ? 0 : pg_atomic_read_u32(&slot->word);
}

/* Remember what was found; the word is as it was before the look. */
void
guard_remember(uint32 word, GuardState state)
{
	GuardSlot  *slot = guard_slot();

	if (state != GUARD_ARMED)
	{
		if (word & 1)
			forget();
	}
	else if (slot != NULL && !changed && !RecoveryInProgress())
	{
		(void) pg_atomic_compare_exchange_u32(&slot->word, &word, word | 1);
		slot->logged = false;
	}
}

/* Is the database known to be armed? No query, no lock. */
bool
guard_is_armed(void)
{
	return !changed && (guard_word() & 1) != 0;
}

/* Is it not known any more? For who was started because it was. */
bool
guard_was_revoked(void)
{
	GuardSlot  *slot = guard_slot();

	return slot != NULL && (pg_atomic_read_u32(&slot->word) & 1) == 0;
}

/* Was it logged that it is disarmed, since it was last armed? From now on it was. */
bool
guard_was_logged(void)
{
	GuardSlot  *slot = guard_slot();
	bool		logged = slot == NULL || slot->logged;

	if (slot != NULL)
		slot->logged = true;
	return logged;
}

/* This transaction changes what the rule goes by: when it ends, all look anew. */
void
guard_changed(void)
{
	changed = true;
}

/*
 * Before the commit, so that nobody who sees the change goes by what was known
 * before it; and after it, for those who looked in between.
 */
static void
xact_callback(XactEvent event, void *arg)
{
	if (!changed)
		return;
	forget();
	if (event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_PRE_PREPARE)
		changed = false;
}

/* After tasker_shared_init: its callback, which wakes others, is called after this one. */
void
guard_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
}
