/* The scan for processors with AVX2 and FMA. */
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#include <stdint.h>

#include "simd_avx2.h"

#define LEVEL(name) name##_avx2
#define LEVEL_NAME "avx2"

static int LEVEL(usable)(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

#include "body.h"

#ifdef __clang__
#pragma clang attribute pop
#endif
#else /* another processor: nothing here */
#include "scan.h"

static int no(void) { return 0; }
const scan_level scan_avx2 = {"avx2", no, 0, 0, 0, 0};
#endif
