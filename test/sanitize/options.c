/*
 * options.c
 *	  Linked into builds for a sanitizer. The runtime looks for its options
 *	  when it first has something to say; by then the server has written its
 *	  titles over the place where they were.
 */
#include <stdlib.h>

extern const char *__ubsan_default_options(void) __attribute__((visibility("default")));

const char *
__ubsan_default_options(void)
{
	const char *options = getenv("UBSAN_OPTIONS");

	return options != NULL ? options : "";
}
