/* The scan for processors with AVX-512. */
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif
#include <stdint.h>

#include "simd_avx512.h"

#define LEVEL(name) name##_avx512
#define LEVEL_NAME "avx512"

static int LEVEL(usable)(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

#include "body.h"

#ifdef __clang__
#pragma clang attribute pop
#endif
#else /* another processor: nothing here */
#include "scan.h"

static int no(void) { return 0; }
const scan_level scan_avx512 = {"avx512", no, 0, 0, 0, 0};
#endif
