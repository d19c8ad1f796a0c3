/*
 * Between strided tensors and tiles: SCAN_CHUNK x W floats, one row a time step, one lane a channel. Lanes beyond the
 * last channel are read as zero and never written.
 */

/* A chunk of a visiting order: the cells of its steps. */
typedef struct {
    const int32_t *cell;
    int steps;
    int consecutive; /* cells are cell[0], cell[0] + 1, ... */
} span;

static inline int smaller(int a, int b) { return a < b ? a : b; }

#define FETCH_STATES 32 /* states whose rows of B and C are fetched */
#define FETCHES (5 * BLOCKS + 2 * FETCH_STATES / W)

/*
 * Tiles to come, fetched while something else is computed: a tile's cache lines lie scattered, and the processor cannot
 * guess them.
 */
typedef struct {
    const float *base[FETCHES]; /* the first channel at cell 0 */
    ptrdiff_t c[FETCHES], t[FETCHES];
    int count;
    span s;
} fetches;

/* SCAN_CHUNK lines of a tile being fetched, one at every step. */
typedef struct {
    const float *base;
    const int32_t *cell; /* rows, where channels lie side by side; NULL: pairs of lines of every channel */
    ptrdiff_t stride;
    int lines;
} stream;

static inline void fetch_tile(fetches *f, const float *base, ptrdiff_t c, ptrdiff_t t) {
    f->base[f->count] = base;
    f->c[f->count] = c;
    f->t[f->count++] = t;
}

/* Rows of B or C. */
static inline void fetch_matrix(fetches *f, const float *base, ptrdiff_t n, ptrdiff_t t, int states) {
    for (int first = 0; first < states && first < FETCH_STATES; first += W) fetch_tile(f, base + first * n, n, t);
}

/* Stream q: chunk q % chunks of tile q / chunks. */
INLINE stream tile_stream(const fetches *f, int q, int chunks) {
    int p = q / chunks, first = q % chunks * SCAN_CHUNK, left = f->s.steps - first;
    if (left <= 0) return (stream){NULL, NULL, 0, 0};
    if (f->c[p] == 1) return (stream){f->base[p], f->s.cell + first, f->t[p], smaller(left, SCAN_CHUNK)};
    if (f->t[p] == 1 && f->s.consecutive) return (stream){f->base[p] + f->s.cell[first], NULL, f->c[p], 2 * W};
    return (stream){NULL, NULL, 0, 0};
}

INLINE void fetch_step(const stream *r, int i) {
    if (i >= r->lines) return;
    __builtin_prefetch(r->cell ? r->base + r->cell[i] * r->stride : r->base + (i >> 1) * r->stride + (i & 1) * 16);
}

/* Begin to fetch what falls to part `part` of `parts`: all streams but the last at once, that one step by step. */
INLINE stream fetch_part(const fetches *f, int part, int parts, int chunks) {
    int streams = f->count * chunks, low = streams * part / parts, high = streams * (part + 1) / parts;
    if (low == high) return (stream){NULL, NULL, 0, 0};
    for (; low + 1 < high; low++) {
        stream r = tile_stream(f, low, chunks);
        for (int i = 0; i < r.lines; i++) fetch_step(&r, i);
    }
    return tile_stream(f, low, chunks);
}

/* base: the first channel of the tile at cell 0. */
static inline void load_tile(float *tile, const float *base, ptrdiff_t c, ptrdiff_t t, const span *s, int lanes) {
    if (c == 1 && lanes == W) {
        for (int i = 0; i < s->steps; i++) v_store(tile + i * W, v_load(base + s->cell[i] * t));
    } else if (c == 1) {
        for (int i = 0; i < s->steps; i++) v_store(tile + i * W, v_load_part(base + s->cell[i] * t, lanes));
    } else if (t == 1 && s->consecutive) {
        const float *first = base + s->cell[0];
        for (int i = 0; i < s->steps; i += W) {
            int rows = smaller(W, s->steps - i);
            vf r[W];
            if (lanes == W && rows == W)
                for (int j = 0; j < W; j++) r[j] = v_load(first + j * c + i);
            else
                for (int j = 0; j < W; j++) r[j] = j < lanes ? v_load_part(first + j * c + i, rows) : v_set(0.0f);
            v_transpose(r);
            for (int j = 0; j < W; j++) v_store(tile + (i + j) * W, r[j]); /* rows beyond the last are never read */
        }
    } else {
        for (int i = 0; i < s->steps; i++)
            for (int j = 0; j < W; j++) tile[i * W + j] = j < lanes ? base[j * c + s->cell[i] * t] : 0.0f;
    }
}

/* How a result is written: over what is there, added to it, or past the caches, where a vector is an aligned line. */
enum { WRITE, ADD, STREAM };

INLINE void put(float *place, vf x, int how) {
    if (how == STREAM) v_stream(place, x);
    else v_store(place, how == ADD ? v_add(v_load(place), x) : x);
}

INLINE void put_part(float *place, vf x, int how, int lanes) {
    v_store_part(place, how == ADD ? v_add(v_load_part(place, lanes), x) : x, lanes);
}

static inline void store_tile(const float *tile, float *base, ptrdiff_t c, ptrdiff_t t, const span *s, int lanes,
                              int how) {
    if (c == 1 && lanes == W) {
        for (int i = 0; i < s->steps; i++) put(base + s->cell[i] * t, v_load(tile + i * W), how);
    } else if (c == 1) {
        for (int i = 0; i < s->steps; i++) put_part(base + s->cell[i] * t, v_load(tile + i * W), how, lanes);
    } else if (t == 1 && s->consecutive && how != ADD) {
        float *first = base + s->cell[0];
        for (int i = 0; i < s->steps; i += W) {
            int rows = smaller(W, s->steps - i);
            vf r[W];
            for (int j = 0; j < W; j++) r[j] = v_load(tile + (i + j) * W);
            v_transpose(r);
            if (lanes == W && rows == W)
                for (int j = 0; j < W; j++) put(first + j * c + i, r[j], how);
            else
                for (int j = 0; j < lanes; j++) v_store_part(first + j * c + i, r[j], rows);
        }
    } else {
        for (int i = 0; i < s->steps; i++)
            for (int j = 0; j < lanes; j++) {
                float *place = base + j * c + s->cell[i] * t;
                *place = (how == ADD ? *place : 0.0f) + tile[i * W + j];
            }
    }
}

/* Rows of B or C at the cells of the span: matrix[i * states + n]. */
static inline void load_matrix(float *matrix, const float *base, ptrdiff_t n, ptrdiff_t t, const span *s, int states) {
    if (n == 1) {
        for (int i = 0; i < s->steps; i++)
            memcpy(matrix + i * states, base + s->cell[i] * t, sizeof(float) * (size_t)states);
        return;
    }
    for (int first = 0; first < states; first += W) {
        float tile[FORWARD_CHUNKS * TILE];
        int lanes = smaller(W, states - first);
        load_tile(tile, base + first * n, n, t, s, lanes);
        for (int i = 0; i < s->steps; i++) {
            if (lanes == W) v_store(matrix + i * states + first, v_load(tile + i * W));
            else v_store_part(matrix + i * states + first, v_load(tile + i * W), lanes);
        }
    }
}

/* The reverse, from matrix[n * SCAN_CHUNK + i]. */
static inline void store_matrix(const float *matrix, float *base, ptrdiff_t n, ptrdiff_t t, const span *s, int states,
                                int how) {
    if (n == 1) {
        for (int first = 0; first < states; first += W)
            for (int i = 0; i < s->steps; i += W) {
                int lanes = smaller(W, states - first), rows = smaller(W, s->steps - i);
                vf r[W];
                for (int j = 0; j < W; j++)
                    r[j] = j < lanes ? v_load(matrix + (first + j) * SCAN_CHUNK + i) : v_set(0.0f);
                v_transpose(r);
                for (int j = 0; j < rows; j++) put_part(base + s->cell[i + j] * t + first, r[j], how, lanes);
            }
    } else if (t == 1 && s->consecutive) {
        for (int j = 0; j < states; j++)
            for (int i = 0; i < s->steps; i += W) {
                float *place = base + s->cell[0] + j * n + i;
                vf x = v_load(matrix + j * SCAN_CHUNK + i);
                if (s->steps - i >= W) put(place, x, how);
                else put_part(place, x, how, s->steps - i);
            }
    } else {
        for (int j = 0; j < states; j++)
            for (int i = 0; i < s->steps; i++) {
                float *place = base + s->cell[i] * t + j * n;
                *place = (how == ADD ? *place : 0.0f) + matrix[j * SCAN_CHUNK + i];
            }
    }
}
