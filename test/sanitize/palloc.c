/*
 * palloc.c
 *	  Linked into builds for the address sanitizer, PostgreSQL 13 to 15: each
 *	  palloc is a malloc of its own, so that what is read or written beyond its
 *	  end, or after pfree or the reset of its context, is seen.
 *
 *	  It replaces the methods of all AllocSet contexts, the present ones too,
 *	  in the table of the server. Contexts do not know how large they are.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#if PG_VERSION_NUM < 160000

#define MAGIC	UINT64CONST(0xfeedfacecafebeef)

/* Its last two fields are in the places of those of an AllocSet's chunk. */
typedef struct Chunk
{
	struct Chunk *next;
	struct Chunk *prev;
	uint64		magic;			/* there: its size */
	MemoryContext context;
} Chunk;

/*
 * A context begins so. Its list of free chunks of the smallest size, for which
 * it has no more use, becomes that of ours.
 */
typedef struct Context
{
	MemoryContextData header;
	void	   *blocks;
	Chunk	   *chunks;
} Context;

static void install(void) __attribute__((constructor));

static MemoryContextMethods original;

static void
add(MemoryContext context, Chunk *chunk)
{
	Context    *c = (Context *) context;

	chunk->magic = MAGIC;
	chunk->context = context;
	chunk->prev = NULL;
	chunk->next = c->chunks;
	if (chunk->next != NULL)
		chunk->next->prev = chunk;
	c->chunks = chunk;
}

static void
take_out(Chunk *chunk)
{
	if (chunk->next != NULL)
		chunk->next->prev = chunk->prev;
	if (chunk->prev != NULL)
		chunk->prev->next = chunk->next;
	else
		((Context *) chunk->context)->chunks = chunk->next;
}

/* The chunk of a pointer; NULL for one that was there before us. */
static Chunk *
chunk_of(void *pointer)
{
	return ((uint64 *) pointer)[-2] == MAGIC ? (Chunk *) pointer - 1 : NULL;
}

static void *
checked_alloc(MemoryContext context, Size size)
{
	Chunk	   *chunk = malloc(sizeof(Chunk) + size);

	if (chunk == NULL)
		return NULL;
	add(context, chunk);
	return chunk + 1;
}

static void
checked_free(MemoryContext context, void *pointer)
{
	Chunk	   *chunk = chunk_of(pointer);

	if (chunk == NULL)
		return;					/* until its context is reset */
	take_out(chunk);
	free(chunk);
}

static Size
checked_chunk_space(MemoryContext context, void *pointer)
{
	Chunk	   *chunk = chunk_of(pointer);

	return chunk != NULL ? malloc_usable_size(chunk) : original.get_chunk_space(context, pointer);
}

/* Always to another place: the old one is not to be used any more. */
static void *
checked_realloc(MemoryContext context, void *pointer, Size size)
{
	Size		head = chunk_of(pointer) != NULL ? sizeof(Chunk) : sizeof(Chunk) - offsetof(Chunk, magic);
	Size		had = checked_chunk_space(context, pointer) - head;
	void	   *result = checked_alloc(context, size);

	if (result == NULL)
		return NULL;
	memcpy(result, pointer, Min(had, size));
	checked_free(context, pointer);
	return result;
}

static void
free_all(MemoryContext context)
{
	Context    *c = (Context *) context;

	while (c->chunks != NULL)
	{
		Chunk	   *chunk = c->chunks;

		c->chunks = chunk->next;
		free(chunk);
	}
}

static void
checked_reset(MemoryContext context)
{
	free_all(context);
	original.reset(context);
}

static void
checked_delete(MemoryContext context)
{
	free_all(context);
	original.delete_context(context);
}

static void
no_stats(MemoryContext context, MemoryStatsPrintFunc printfunc, void *passthru,
		 MemoryContextCounters *totals, bool print_to_stderr)
{
}

/* What the context and those below it have of free chunks is forgotten. */
static void
take_over(MemoryContext context)
{
	if (IsA(context, AllocSetContext))
		((Context *) context)->chunks = NULL;
	for (MemoryContext child = context->firstchild; child != NULL; child = child->nextchild)
		take_over(child);
}

/* When the library is loaded: TopMemoryContext is there then. */
static void
install(void)
{
	MemoryContextMethods *methods = unconstify(MemoryContextMethods *, TopMemoryContext->methods);
	Size		page = sysconf(_SC_PAGESIZE);
	char	   *start = (char *) TYPEALIGN_DOWN(page, methods);

	original = *methods;
	if (mprotect(start, (char *) (methods + 1) - start, PROT_READ | PROT_WRITE) != 0)
		elog(FATAL, "could not replace palloc: %m");
	methods->alloc = checked_alloc;
	methods->free_p = checked_free;
	methods->realloc = checked_realloc;
	methods->reset = checked_reset;
	methods->delete_context = checked_delete;
	methods->get_chunk_space = checked_chunk_space;
	methods->stats = no_stats;
	take_over(TopMemoryContext);
}

#endif
