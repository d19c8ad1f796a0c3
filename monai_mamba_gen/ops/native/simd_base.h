/* Four lanes on any processor, in the vector extensions of GCC and Clang: SSE2, NEON and others. */
#include <string.h>

typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
#define W 4
#define EXP2_BOUND 126.0f
#define MULTI_STATES 2
#define SWEEP_STATES 1
#define SWEEP_BLOCKS 2
#define STREAMS 0 /* a vector is less than a cache line */

static inline vf v_set(float x) { return (vf){x, x, x, x}; }
static inline vf v_load(const float *p) {
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}
static inline void v_store(float *p, vf x) { memcpy(p, &x, sizeof x); }
static inline void v_stream(float *p, vf x) { v_store(p, x); }
static inline void v_stream_end(void) {}
static inline vf v_load_part(const float *p, int n) {
    vf x = v_set(0.0f);
    for (int i = 0; i < n; i++) x[i] = p[i];
    return x;
}
static inline void v_store_part(float *p, vf x, int n) {
    for (int i = 0; i < n; i++) p[i] = x[i];
}
static inline vf v_add(vf a, vf b) { return a + b; }
static inline vf v_sub(vf a, vf b) { return a - b; }
static inline vf v_mul(vf a, vf b) { return a * b; }
static inline vf v_div(vf a, vf b) { return a / b; }
static inline vf v_fma(vf a, vf b, vf c) { return a * b + c; }
static inline vf v_choose(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
#ifdef __SSE2__
#include <emmintrin.h>
static inline vf v_max(vf a, vf b) { return (vf)_mm_max_ps((__m128)a, (__m128)b); }
static inline vf v_min(vf a, vf b) { return (vf)_mm_min_ps((__m128)a, (__m128)b); }
#else
static inline vf v_max(vf a, vf b) { return v_choose(a > b, a, b); } /* b where either is NaN */
static inline vf v_min(vf a, vf b) { return v_choose(a < b, a, b); }
#endif
/* Whether a <= b in every lane; no where there is NaN. */
static inline int v_all_le(vf a, vf b) {
    vi ok = a <= b;
    return (ok[0] & ok[1] & ok[2] & ok[3]) != 0;
}
/* a where x >= 0, else b */
static inline vf v_select(vf x, vf a, vf b) { return v_choose(x >= v_set(0.0f), a, b); }

static inline vf v_reciprocal(vf x) { return v_div(v_set(1.0f), x); }

/* 2^m = 2^i * p(f), i = m rounded, |f| <= 1/2; for |m| <= EXP2_BOUND. */
static inline vf v_exp2_bounded(vf m) {
    const vf magic = v_set(12582912.0f); /* 1.5 * 2^23: its last place is worth 1 */
    vf t = v_add(m, magic), f = v_sub(m, v_sub(t, magic)), g = v_mul(f, f);
    vf high = v_fma(v_fma(v_set(0.00015321153f), f, v_set(0.0013390161f)), g,
                    v_fma(v_set(0.009618526f), f, v_set(0.05550362f)));
    vf p = v_fma(v_fma(v_fma(high, f, v_set(0.24022648f)), f, v_set(0.693147181f)), f, v_set(1.0f));
    return (vf)((vi)p + ((vi)t << 23));
}

/* For every m: beyond the bound the exponent would overflow into the sign. */
static inline vf v_exp2(vf m) { return v_exp2_bounded(v_min(v_set(127.0f), v_max(v_set(-126.0f), m))); }

#ifdef __clang__
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (vi){i, j, k, l})
#endif

/* Transpose four rows in place. */
static inline void v_transpose(vf *r) {
    vf a = SHUFFLE(r[0], r[1], 0, 4, 1, 5), b = SHUFFLE(r[0], r[1], 2, 6, 3, 7);
    vf c = SHUFFLE(r[2], r[3], 0, 4, 1, 5), d = SHUFFLE(r[2], r[3], 2, 6, 3, 7);
    r[0] = SHUFFLE(a, c, 0, 1, 4, 5);
    r[1] = SHUFFLE(a, c, 2, 3, 6, 7);
    r[2] = SHUFFLE(b, d, 0, 1, 4, 5);
    r[3] = SHUFFLE(b, d, 2, 3, 6, 7);
}

/* Lane i of the result is the sum of the lanes of r[i]. */
static inline vf v_sum_lanes(const vf *r) {
    vf s[4] = {r[0], r[1], r[2], r[3]};
    v_transpose(s);
    return (s[0] + s[1]) + (s[2] + s[3]);
}
