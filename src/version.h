/*
 * version.h
 *	  Whether the library and the extension's objects fit together.
 */
#ifndef TASKER_VERSION_H
#define TASKER_VERSION_H

#include "tasker.h"

extern void tasker_version_init(void);
extern bool library_fits(int elevel);
extern void extension_changed(void);

#endif							/* TASKER_VERSION_H */
