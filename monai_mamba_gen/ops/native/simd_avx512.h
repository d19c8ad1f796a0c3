/* Sixteen lanes: AVX-512 F, DQ. */
#include <immintrin.h>

typedef __m512 vf;
#define W 16
#define EXP2_BOUND 0.0f /* v_exp2 needs none */
#define MULTI_STATES 4 /* states advanced together */
#define SWEEP_STATES 2
#define SWEEP_BLOCKS 2
#define STREAMS 1 /* a vector is a cache line */

static inline vf v_set(float x) { return _mm512_set1_ps(x); }
static inline vf v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
/* Past the caches; p is aligned. Other threads see it after v_stream_end. */
static inline void v_stream(float *p, vf x) { _mm512_stream_ps(p, x); }
static inline void v_stream_end(void) { _mm_sfence(); }
static inline vf v_load_part(const float *p, int n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
static inline void v_store_part(float *p, vf x, int n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), x); }
static inline vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); } /* b where either is NaN */
static inline vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
/* Whether a <= b in every lane; no where there is NaN. */
static inline int v_all_le(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ) == 0xffff; }
/* a where x >= 0, else b */
static inline vf v_select(vf x, vf a, vf b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ), b, a);
}

static inline vf v_reciprocal(vf x) {
    vf r = _mm512_rcp14_ps(x);
    return v_mul(r, _mm512_fnmadd_ps(x, r, v_set(2.0f)));
}

/* 2^m = 2^r p(f): r is m rounded, |f| <= 1/2; relative error of p 3e-9, none at f = 0. */
static inline vf v_exp2(vf m) {
    vf r = _mm512_roundscale_ps(m, 0), f = v_sub(m, r), p = v_set(0.00015321153f);
    p = v_fma(p, f, v_set(0.0013390161f));
    p = v_fma(p, f, v_set(0.009618526f));
    p = v_fma(p, f, v_set(0.05550362f));
    p = v_fma(p, f, v_set(0.24022648f));
    p = v_fma(p, f, v_set(0.693147181f));
    p = v_fma(p, f, v_set(1.0f));
    return _mm512_scalef_ps(p, r);
}

static inline vf v_exp2_bounded(vf m) { return v_exp2(m); }

/* Transpose sixteen rows in place. */
static inline void v_transpose(vf *r) {
    vf s[16];
    for (int i = 0; i < 16; i += 4) {
        vf a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
        vf c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
        s[i] = _mm512_shuffle_ps(a, c, 0x44);
        s[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
        s[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
        s[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
    for (int i = 0; i < 4; i++) {
        vf a = _mm512_shuffle_f32x4(s[i], s[i + 4], 0x88), b = _mm512_shuffle_f32x4(s[i], s[i + 4], 0xdd);
        vf c = _mm512_shuffle_f32x4(s[i + 8], s[i + 12], 0x88), d = _mm512_shuffle_f32x4(s[i + 8], s[i + 12], 0xdd);
        r[i] = _mm512_shuffle_f32x4(a, c, 0x88);
        r[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
        r[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

static inline vf v_fold(vf a, vf b, const int blocks) {
    return blocks ? v_add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd))
                  : v_add(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}

/* Lane i of the result is the sum of the lanes of r[i]; a tree of fifteen additions. */
static inline vf v_sum_lanes(const vf *r) {
    vf a[8], b[4];
    for (int i = 0; i < 8; i++) a[i] = v_fold(r[2 * i], r[2 * i + 1], 0);
    for (int i = 0; i < 4; i++) b[i] = v_fold(a[2 * i], a[2 * i + 1], 0);
    vf c = v_fold(v_fold(b[0], b[1], 1), v_fold(b[2], b[3], 1), 1); /* block q, lane i: row 4q + i */
    return c;
}
