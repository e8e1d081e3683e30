/*
 * version.h
 *	  Whether the library and the extension's objects fit together.
 */
#ifndef TASKER_VERSION_H
#define TASKER_VERSION_H

#include "tasker.h"

extern void tasker_version_init(void);
extern bool library_fits(int elevel);
extern char *library_misfit(void);
extern const char *const library_misfit_hint;
extern void extension_changed(void);

#endif							/* TASKER_VERSION_H */
