/* Cutting a scan into pieces of work, running them on threads, and adding up what the pieces share. */
#include "scan.h"

#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#endif

enum { DONE = 0, NO_MEMORY = 1, BAD_ORDERS = 2 };

/*
 * How one call is cut. A piece has one batch element and either one set or, where sets add up in place, all; and either
 * one part of the channels or, where there are pieces enough for the threads, all parts one after another.
 */
typedef struct {
    int64_t sets;     /* pieces along the sets */
    int64_t parts;    /* parts of the channels */
    int64_t runs;     /* pieces along the channels: 1 or parts */
    int64_t channels; /* channels of a part but the last */
    int64_t pieces;
} plan;

/*
 * dB and dC are sums over the parts, so the parts depend on shapes alone. How they are dealt out may depend on the
 * threads: a part's sum is added to the result by the piece itself or by way of a slab, which gives the same bits.
 */
static plan make_plan(const scan_args *a) {
    int together = a->backward ? a->shared != 0 : a->merged != 0;
    int64_t groups = (a->channels + SCAN_GROUP - 1) / SCAN_GROUP;
    plan p = {.sets = together ? 1 : a->sets, .runs = 1};
    int64_t others = a->batch * p.sets, wanted = (SCAN_PIECES + others - 1) / others;
    if (wanted > SCAN_PARTS) wanted = SCAN_PARTS;
    int64_t each = (groups + wanted - 1) / wanted;
    p.parts = (groups + each - 1) / each;
    p.channels = each * SCAN_GROUP;
    if (others % a->threads) p.runs = p.parts;
    p.pieces = others * p.runs;
    return p;
}

/* Copy orders to 32 bits; each row must hold every cell once. */
static int copy_orders(const scan_args *a, int32_t *cells) {
    if (!a->orders) {
        for (int64_t t = 0; t < a->length; t++) cells[t] = (int32_t)t;
        return DONE;
    }
    const int64_t *orders = (const int64_t *)(intptr_t)a->orders;
    unsigned char *seen = malloc((size_t)a->length);
    if (!seen) return NO_MEMORY;
    int status = DONE;
    for (int64_t k = 0; k < a->sets && status == DONE; k++) {
        memset(seen, 0, (size_t)a->length);
        for (int64_t t = 0; t < a->length; t++) {
            int64_t cell = orders[k * a->length + t];
            if (cell < 0 || cell >= a->length || seen[cell]) {
                status = BAD_ORDERS;
                break;
            }
            seen[cell] = 1;
            cells[k * a->length + t] = (int32_t)cell;
        }
    }
    free(seen);
    return status;
}

/* Work of the backward pass that belongs to no single piece: one allocation, cut up. */
typedef struct {
    float *memory;
    float *A, *skip, *bias; /* (N, K, E, S), (N, K, E), (N, K, E) */
    float *B, *C;           /* (runs - 1, N, K, L, S) */
    int64_t per_batch_A, per_batch, per_part;
} partial;

static int make_partial(const scan_args *a, const plan *p, partial *q) {
    q->per_batch = a->sets * a->channels;
    q->per_batch_A = q->per_batch * a->states;
    q->per_part = a->batch * a->sets * a->length * a->states;
    size_t floats = (size_t)(a->batch * (q->per_batch_A + 2 * q->per_batch) + 2 * (p->runs - 1) * q->per_part);
    q->memory = malloc(sizeof(float) * (floats + 1));
    if (!q->memory) return NO_MEMORY;
    q->A = q->memory;
    q->skip = q->A + a->batch * q->per_batch_A;
    q->bias = q->skip + a->batch * q->per_batch;
    q->B = q->bias + a->batch * q->per_batch;
    q->C = q->B + (p->runs - 1) * q->per_part;
    return DONE;
}

static view part_view(const scan_args *a, const plan *p, const partial *q, const view *result, float *slabs,
                      int64_t part) {
    if (part == 0 || p->runs == 1) return *result;
    view v = {slabs + (part - 1) * q->per_part, a->sets * a->length * a->states, a->length * a->states, 1, a->states};
    return v;
}

static void add_parts(const scan_args *a, const plan *p, const partial *q, const view *result, const float *slabs) {
    if (p->runs == 1) return;
#pragma omp parallel for num_threads((int)a->threads) if (a->threads > 1)
    for (int64_t row = 0; row < a->batch * a->sets * a->length; row++) {
        int64_t t = row % a->length, k = row / a->length % a->sets, n = row / a->length / a->sets;
        float *out = result->data + n * result->n + k * result->k + t * result->t;
        for (int64_t part = 0; part + 1 < p->runs; part++)
            for (int64_t s = 0; s < a->states; s++)
                out[s * result->c] += slabs[part * q->per_part + row * a->states + s];
    }
}

static void add_batch(const scan_args *a, const float *each, int64_t count, int64_t result) {
    float *out = FLOATS(result);
    if (!out) return;
    for (int64_t i = 0; i < count; i++) {
        double sum = 0.0; /* so that it hardly matters how a batch is spread over processes */
        for (int64_t n = 0; n < a->batch; n++) sum += each[n * count + i];
        out[i] = (float)sum;
    }
}

/* Part `part` of the channels of piece i. */
static scan_task piece(const scan_args *a, const plan *p, const partial *q, const int32_t *cells, int64_t i,
                       int64_t part) {
    int64_t set = i / p->runs % p->sets, n = i / p->runs / p->sets;
    scan_task task = {.args = a, .cells = cells, .n = n};
    task.k0 = p->sets == 1 ? 0 : set;
    task.k1 = p->sets == 1 ? a->sets : set + 1;
    task.c0 = part * p->channels;
    task.c1 = task.c0 + p->channels < a->channels ? task.c0 + p->channels : a->channels;
    if (a->backward) {
        view B = VIEW(a, grad_B), C = VIEW(a, grad_C);
        task.grad_B = part_view(a, p, q, &B, q->B, part);
        task.grad_C = part_view(a, p, q, &C, q->C, part);
        task.add = p->runs == 1 && part > 0;
        task.grad_A = q->A + n * q->per_batch_A;
        task.grad_skip = a->grad_skip ? q->skip + n * q->per_batch : NULL;
        task.grad_bias = a->grad_bias ? q->bias + n * q->per_batch : NULL;
    }
    return task;
}

static void run_piece(const scan_args *a, const scan_level *level, const plan *p, const partial *q,
                      const int32_t *cells, int64_t i, float *scratch) {
    int64_t first = i % p->runs, last = p->runs == 1 ? p->parts : first + 1;
    for (int64_t part = first; part < last; part++) {
        scan_task task = piece(a, p, q, cells, i, part);
        task.scratch = scratch;
        if (a->backward) level->backward(&task);
        else level->forward(&task);
    }
}

/* Scratch memory of all threads, each one's on cache lines of its own. */
static float *make_scratch(const scan_args *a, const scan_level *level, const plan *p, int threads, size_t *each) {
    size_t bytes = (sizeof(float) * level->scratch_floats(a, p->channels) + 4095) / 4096 * 4096;
    void *memory = NULL;
    *each = bytes / sizeof(float);
    return posix_memalign(&memory, 4096, bytes * (size_t)threads) ? NULL : memory;
}

int scan_run(const scan_args *a, const scan_level *level) {
    plan p = make_plan(a);
    partial q = {0};
    int threads = a->threads < p.pieces ? (int)a->threads : (int)p.pieces;
    size_t each;
    int32_t *cells = malloc(sizeof(int32_t) * (size_t)(a->orders ? a->sets * a->length : a->length));
    float *scratch = make_scratch(a, level, &p, threads, &each);
    int status = cells && scratch ? copy_orders(a, cells) : NO_MEMORY;
    if (status == DONE && a->backward) status = make_partial(a, &p, &q);
    if (status == DONE) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
        for (int64_t i = 0; i < p.pieces; i++)
            run_piece(a, level, &p, &q, cells, i, scratch + (size_t)omp_get_thread_num() * each);
        if (a->backward) {
            view B = VIEW(a, grad_B), C = VIEW(a, grad_C);
            add_parts(a, &p, &q, &B, q.B);
            add_parts(a, &p, &q, &C, q.C);
            add_batch(a, q.A, q.per_batch_A, a->grad_A);
            add_batch(a, q.skip, q.per_batch, a->grad_skip);
            add_batch(a, q.bias, q.per_batch, a->grad_bias);
        }
    }
    free(q.memory);
    free(scratch);
    free(cells);
    return status;
}
