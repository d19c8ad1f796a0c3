/* Eight lanes: AVX2 and FMA. */
#include <immintrin.h>

typedef __m256 vf;
#define W 8
#define EXP2_BOUND 126.0f
#define MULTI_STATES 4
#define SWEEP_STATES 1
#define SWEEP_BLOCKS 2
#define STREAMS 0 /* a vector is less than a cache line */

static inline vf v_set(float x) { return _mm256_set1_ps(x); }
static inline vf v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
static inline __m256i v_first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline void v_stream(float *p, vf x) { v_store(p, x); }
static inline void v_stream_end(void) {}
static inline vf v_load_part(const float *p, int n) { return _mm256_maskload_ps(p, v_first(n)); }
static inline void v_store_part(float *p, vf x, int n) { _mm256_maskstore_ps(p, v_first(n), x); }
static inline vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); } /* b where either is NaN */
static inline vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
/* Whether a <= b in every lane; no where there is NaN. */
static inline int v_all_le(vf a, vf b) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LE_OQ)) == 0xff;
}
/* a where x >= 0, else b */
static inline vf v_select(vf x, vf a, vf b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GE_OQ));
}

static inline vf v_reciprocal(vf x) { return v_div(v_set(1.0f), x); }

/* 2^m = 2^r p(f): r is m rounded, |f| <= 1/2; relative error of p 3e-9, none at f = 0.; for |m| <= EXP2_BOUND. */
static inline vf v_exp2_bounded(vf m) {
    const vf magic = v_set(12582912.0f); /* 1.5 * 2^23: its last place is worth 1 */
    vf t = v_add(m, magic), f = v_sub(m, v_sub(t, magic)), p = v_set(0.00015321153f);
    p = v_fma(p, f, v_set(0.0013390161f));
    p = v_fma(p, f, v_set(0.009618526f));
    p = v_fma(p, f, v_set(0.05550362f));
    p = v_fma(p, f, v_set(0.24022648f));
    p = v_fma(p, f, v_set(0.693147181f));
    p = v_fma(p, f, v_set(1.0f));
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
}

/* For every m: beyond the bound the exponent would overflow into the sign. */
static inline vf v_exp2(vf m) { return v_exp2_bounded(v_min(v_set(127.0f), v_max(v_set(-126.0f), m))); }

/* Transpose eight rows in place. */
static inline void v_transpose(vf *r) {
    vf s[8];
    for (int i = 0; i < 8; i += 4) {
        vf a = _mm256_unpacklo_ps(r[i], r[i + 1]), b = _mm256_unpackhi_ps(r[i], r[i + 1]);
        vf c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
        s[i] = _mm256_shuffle_ps(a, c, 0x44);
        s[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
        s[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        s[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(s[i], s[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(s[i], s[i + 4], 0x31);
    }
}

/* Lane i of the result is the sum of the lanes of r[i]. */
static inline vf v_sum_lanes(const vf *r) {
    vf a = _mm256_hadd_ps(_mm256_hadd_ps(r[0], r[1]), _mm256_hadd_ps(r[2], r[3]));
    vf b = _mm256_hadd_ps(_mm256_hadd_ps(r[4], r[5]), _mm256_hadd_ps(r[6], r[7]));
    return v_add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
