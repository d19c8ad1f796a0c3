/*
 * The scan for one instruction set. The including file has chosen the target and included the vector type; LEVEL(name)
 * gives the names that must differ between instruction sets.
 *
 * Lanes are channels. A chunk of SCAN_CHUNK steps is worked off block by block (W channels), state by state, and only
 * then step by step, so that the state of one n stays in a register and nothing is summed across lanes in the forward
 * pass. The backward pass has the state at the start of each chunk, recomputes the chunk, and sweeps back over it.
 */
#include <stdlib.h>
#include <string.h>

#include "scan.h"

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif
#define BLOCKS (SCAN_GROUP / W)     /* blocks of a group of channels */
#define TILE (SCAN_CHUNK * W)       /* floats of a tile */
#define FORWARD_CHUNKS 2            /* chunks that the forward pass works off together */
#define LOG2E 1.44269504f
#define LN2 0.693147181f

#include "tiles.h"

/* log(1 + e^x) and, where wanted, its derivative; to rounding for every x. */
INLINE vf softplus(vf x, vf *derivative) {
    vf size = v_min(v_set(150.0f), v_max(v_sub(v_set(0.0f), x), x));
    vf e = v_exp2(v_mul(size, v_set(-LOG2E))); /* e^-|x| */
    vf e2 = v_mul(e, e), e4 = v_mul(e2, e2);
    /* log(1 + e) / e on 0..1; relative error 5e-8 */
    vf low = v_fma(e2, v_fma(e, v_set(-0.249110952f), v_set(0.3332855701f)), v_fma(e, v_set(-0.5f), v_set(1.0f)));
    vf high = v_fma(e2, v_fma(e, v_set(-0.032722208f), v_set(0.0837018936f)), v_fma(e, v_set(-0.141531780f), v_set(0.1935186535f)));
    vf p = v_fma(e4, v_fma(e4, v_set(0.0060060173f), high), low);
    if (derivative) *derivative = v_mul(v_select(x, v_set(1.0f), e), v_reciprocal(v_add(v_set(1.0f), e)));
    return v_fma(e, p, v_max(v_set(0.0f), x));
}

/* What both passes set up for the set k of a task. */
typedef struct {
    const scan_args *args;
    int64_t n, k, c0;
    int states, channels, padded; /* of this task; padded to whole groups */
    const float *skip, *bias;     /* of the first channel, or NULL */
    float *A;                     /* (states, padded) */
    float *h;                     /* (states, padded): state, or in the backward pass its gradient */
    float *limit;                 /* (padded): steps up to which v_exp2_bounded serves every state */
    float *B, *C;                 /* (steps of the span, states) */
} set_up;

static void prepare_set(set_up *w, const scan_task *task, int64_t k) {
    const scan_args *a = task->args;
    int64_t channel = k * a->channels + task->c0;
    const float *A = FLOATS(a->A) + channel * a->states;
    w->k = k;
    w->skip = a->skip ? FLOATS(a->skip) + channel : NULL;
    w->bias = a->bias ? FLOATS(a->bias) + channel : NULL;
    memset(w->A, 0, sizeof(float) * (size_t)w->states * (size_t)w->padded);
    memset(w->h, 0, sizeof(float) * (size_t)w->states * (size_t)w->padded);
    for (int c = 0; c < w->channels; c++)
        for (int s = 0; s < w->states; s++) w->A[s * w->padded + c] = A[c * w->states + s];
    for (int c = 0; c < w->padded; c++) {
        float largest = 1e-30f;
        for (int s = 0; s < w->states; s++) {
            float value = w->A[s * w->padded + c], size = value < 0.0f ? -value : value;
            if (!(size <= largest)) largest = size; /* NaN too, which no step is below */
        }
        w->limit[c] = EXP2_BOUND / largest;
    }
}

static float *begin_task(set_up *w, const scan_task *task) {
    const scan_args *a = task->args;
    float *scratch = task->scratch;
    w->args = a;
    w->n = task->n;
    w->c0 = task->c0;
    w->states = (int)a->states;
    w->channels = (int)(task->c1 - task->c0);
    w->padded = (w->channels + SCAN_GROUP - 1) / SCAN_GROUP * SCAN_GROUP;
    size_t matrix = (size_t)w->states * (size_t)w->padded, rows = (size_t)w->states * FORWARD_CHUNKS * SCAN_CHUNK;
    w->A = scratch;
    w->h = w->A + matrix;
    w->limit = w->h + matrix;
    w->B = w->limit + w->padded;
    w->C = w->B + rows;
    return w->C + rows;
}

/* The cells of some chunks; none for a chunk that does not exist. */
static span chunk_span(const scan_task *task, int64_t k, int64_t chunk, int chunks) {
    const scan_args *a = task->args;
    int64_t first = chunk * SCAN_CHUNK, left = chunk < 0 ? 0 : a->length - first, most = chunks * SCAN_CHUNK;
    if (left <= 0) return (span){NULL, 0, !a->orders};
    return (span){task->cells + (a->orders ? k * a->length : 0) + first, (int)(left < most ? left : most), !a->orders};
}

static inline float *at(const view *v, int64_t n, int64_t k, int64_t c) {
    return v->data + n * v->n + k * v->k + c * v->c;
}

/* Saved states of set (n, k) at the start of a chunk (the first chunk starts at zero): (states, all channels padded). */
static inline float *saved_state(const scan_args *a, int64_t n, int64_t k, int64_t chunk, ptrdiff_t *row) {
    int64_t chunks = (a->length + SCAN_CHUNK - 1) / SCAN_CHUNK;
    *row = (a->channels + SCAN_GROUP - 1) / SCAN_GROUP * SCAN_GROUP;
    return FLOATS(a->starts) + (((n * a->sets + k) * (chunks - 1)) + chunk - 1) * a->states * *row;
}

/*
 * delta and u of one block -> tiles of the step size, of u and of step size times u. The tile of step sizes is times
 * log2 e, for exp2: the factor's rounding then differs from step to step, where in A it would add up. slope: the derivative of the step
 * size, in the backward pass. In the forward pass the tile of u receives skip * u. Whether v_exp2_bounded serves is returned.
 */
INLINE int load_inputs(const set_up *w, const view *delta, const view *u, const span *s, int c, int lanes, float *dt,
                        float *x, float *dtu, float *slope) {
    const scan_args *a = w->args;
    load_tile(dt, at(delta, w->n, w->k, w->c0 + c), delta->c, delta->t, s, lanes);
    load_tile(x, at(u, w->n, a->shared ? 0 : w->k, w->c0 + c), u->c, u->t, s, lanes);
    vf bias = w->bias ? v_load_part(w->bias + c, lanes) : v_set(0.0f);
    vf skip = w->skip ? v_load_part(w->skip + c, lanes) : v_set(0.0f);
    vf limit = v_load(w->limit + c);
    int bounded = 1;
    for (int i = 0; i < s->steps; i++) {
        vf d = v_add(v_load(dt + i * W), bias), v = v_load(x + i * W), g;
        if (a->softplus) {
            d = softplus(d, slope ? &g : NULL);
            if (slope) v_store(slope + i * W, g);
        }
        vf scaled = v_mul(d, v_set(LOG2E));
        v_store(dt + i * W, scaled);
        if (EXP2_BOUND > 0.0f && !v_all_le(v_max(scaled, v_sub(v_set(0.0f), scaled)), limit)) bounded = 0;
        v_store(dtu + i * W, v_mul(d, v));
        if (!slope) v_store(x + i * W, v_mul(skip, v));
    }
    return bounded;
}

/* An exponential, with or without the limits that only extreme steps need. */
INLINE vf decay_of(vf m, int bounded) { return bounded ? v_exp2_bounded(m) : v_exp2(m); }

/*
 * Past the caches go results that are big, for they would only drive other things out; every full tile of them must be
 * whole cache lines.
 */
static int stream_or_write(const scan_args *a, const view *v) {
    int lines = v->c == 1 ? v->t % 16 == 0 : v->t == 1 && !a->orders && v->c % 16 == 0;
    int aligned = (uintptr_t)v->data % 64 == 0 && v->n % 16 == 0 && v->k % 16 == 0;
    int big = a->batch * a->sets * a->channels * a->length >= STREAM_FLOATS;
    return STREAMS && lines && aligned && big ? STREAM : WRITE;
}

/* The tensors of a pass, those with a row for every channel, and how the results are written. */
typedef struct {
    view delta, u, grad_y, grad_delta, grad_u, B, C;
    int how_delta, how_u;
} tensors;

#include "forward.h"

#include "backward.h"

static size_t LEVEL(scratch_floats)(const scan_args *a, int64_t channels) {
    size_t padded = (size_t)((channels + SCAN_GROUP - 1) / SCAN_GROUP * SCAN_GROUP), states = (size_t)a->states;
    size_t common = 2 * states * padded + padded + 2 * states * FORWARD_CHUNKS * SCAN_CHUNK;
    return common + (a->backward ? backward_floats(states, padded) : 3 * FORWARD_CHUNKS * TILE) + 16;
}

/* Exponentials of 2048 floats in the first-level cache, `rounds` times; the sum keeps the compiler from dropping them. */
static double LEVEL(exponentials)(int64_t rounds) {
    float x[2048] __attribute__((aligned(64))), sum[W];
    vf total = v_set(0.0f);
    for (int i = 0; i < 2048; i++) x[i] = -0.01f * (float)i;
    for (int64_t round = 0; round < rounds; round++) {
        vf parts[4] = {total, total, total, total};
        for (int i = 0; i < 2048; i += 4 * W)
            for (int j = 0; j < 4; j++) parts[j] = v_add(parts[j], v_exp2(v_load(x + i + j * W)));
        total = v_mul(v_set(1e-6f), v_add(v_add(parts[0], parts[1]), v_add(parts[2], parts[3])));
        __asm__ volatile("" : : "r"(x) : "memory");
    }
    v_store(sum, total);
    return sum[0];
}

const scan_level LEVEL(scan) = {LEVEL_NAME,           LEVEL(usable),   LEVEL(scratch_floats),
                                LEVEL(forward),       LEVEL(backward), LEVEL(exponentials)};
