/*
 * unusable.h
 *	  Why a role can have no session in which its steps run.
 */
#ifndef TASKER_UNUSABLE_H
#define TASKER_UNUSABLE_H

#include "tasker.h"

typedef struct Unusable Unusable;

extern const Unusable *role_unusable(Oid role);
extern const Unusable *owner_unusable(Oid role, const char *name);
extern char *unusable_message(const Unusable *why, Oid role, const char *name);
extern char *unusable_cure(const Unusable *why, Oid role, const char *name);
extern ErrorData *unusable_error(const Unusable *why, Oid role, const char *name);

#endif							/* TASKER_UNUSABLE_H */
