/*
 * The selective scan in C: what the Python side hands over, and what the compiled instruction sets share.
 *
 * Cells of u, delta, B, C and y lie in raster order; set k visits cell orders[k][t] at time t. Every tensor has its own
 * strides, in elements, so that one code path serves (N, K, E, L) and channel-last memory.
 */
#ifndef SCAN_H
#define SCAN_H

#include <stddef.h>
#include <stdint.h>

#define SCAN_CHUNK 32 /* time steps between two saved states */
#define SCAN_GROUP 32 /* channels of the smallest piece of work; saved states are padded to it */
#define SCAN_PIECES 8 /* parts of the channels are to give so many pieces of work, batch and sets included */
#define SCAN_PARTS 4   /* at most so many parts */
#define STREAM_FLOATS (1 << 20) /* elements from which on gradients are written past the caches */

/*
 * Fields of scan_args, each one int64: sizes, flags, addresses, strides. The same list is the module's FIELDS, by which
 * Python packs them. shared: u has one set, read by all. merged: y is summed over the sets, mean: then divided by K.
 * Addresses may be 0 for skip, bias, orders, last, starts, grad_last.
 */
#define SCAN_STRIDES(X, name) X(name) X(name##_n) X(name##_k) X(name##_c) X(name##_t)
#define SCAN_FIELDS(X)                                                                                        \
    X(batch) X(sets) X(channels) X(length) X(states)                                                          \
    X(shared) X(merged) X(mean) X(softplus) X(backward) X(threads) X(level)                                   \
    SCAN_STRIDES(X, u) SCAN_STRIDES(X, delta) SCAN_STRIDES(X, B) SCAN_STRIDES(X, C) SCAN_STRIDES(X, y)        \
    X(A) X(skip) X(bias) X(orders) X(last) X(starts)                                                          \
    SCAN_STRIDES(X, grad_y) SCAN_STRIDES(X, grad_u) SCAN_STRIDES(X, grad_delta)                               \
    SCAN_STRIDES(X, grad_B) SCAN_STRIDES(X, grad_C)                                                           \
    X(grad_A) X(grad_skip) X(grad_bias) X(grad_last)

typedef struct {
#define X(name) int64_t name;
    SCAN_FIELDS(X)
#undef X
} scan_args;

/* A tensor (N, K, channel or state, L) of floats. */
typedef struct {
    float *data;
    ptrdiff_t n, k, c, t;
} view;

#define FLOATS(address) ((float *)(intptr_t)(address))
#define VIEW(args, name) \
    ((view){FLOATS((args)->name), (args)->name##_n, (args)->name##_k, (args)->name##_c, (args)->name##_t})

/* One piece of work: a batch element, sets k0..k1 one after another, channels c0..c1. */
typedef struct {
    const scan_args *args;
    const int32_t *cells; /* (K, L) visiting orders, or (1, L) 0..L-1 */
    int64_t n, k0, k1, c0, c1;
    int add;             /* whether grad_B and grad_C are added to what is there */
    view grad_B, grad_C; /* the results themselves, or slabs that are added to them afterwards */
    float *grad_A, *grad_skip, *grad_bias; /* this batch element's (K, E, S), (K, E), (K, E) */
    float *scratch;
} scan_task;

/* One instruction set. */
typedef struct {
    const char *name;
    int (*usable)(void);
    size_t (*scratch_floats)(const scan_args *args, int64_t channels);
    void (*forward)(const scan_task *task);
    void (*backward)(const scan_task *task);
    double (*exponentials)(int64_t rounds);
} scan_level;

extern const scan_level scan_avx512, scan_avx2, scan_base;

/* 0: done; 1: out of memory; 2: a row of orders is no permutation of 0..L-1. */
int scan_run(const scan_args *args, const scan_level *level);

#endif
