/* The scan for every other processor. */
#include <stdint.h>

#include "simd_base.h"

#define LEVEL(name) name##_base
#define LEVEL_NAME "base"

static int LEVEL(usable)(void) { return 1; }

#include "body.h"
