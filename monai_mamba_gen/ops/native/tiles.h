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

/*
 * Tiles to come, fetched while something else is computed: a tile's cache lines lie scattered, and the processor cannot
 * guess them. Each tile takes SCAN_CHUNK fetches: of its rows where channels lie side by side, else of its channels.
 */
typedef struct {
    const float *base[5 * BLOCKS]; /* the first channel at cell 0 */
    ptrdiff_t c[5 * BLOCKS], t[5 * BLOCKS];
    int count, low, high; /* the tiles low..high are being fetched */
    span s;
} fetches;

static inline void fetch_tile(fetches *f, const float *base, ptrdiff_t c, ptrdiff_t t) {
    f->base[f->count] = base;
    f->c[f->count] = c;
    f->t[f->count++] = t;
}

/* Fetch the tiles that fall to part `part` of `parts`. */
static inline void fetch_part(fetches *f, int part, int parts) {
    f->low = f->count * part / parts;
    f->high = f->s.steps ? f->count * (part + 1) / parts : f->low;
}

static inline void fetch_step(const fetches *f, int i) {
    for (int p = f->low; p < f->high; p++) {
        if (f->c[p] == 1) __builtin_prefetch(f->base[p] + f->s.cell[smaller(i, f->s.steps - 1)] * f->t[p]);
        else if (f->s.consecutive && i < 2 * W) __builtin_prefetch(f->base[p] + f->s.cell[0] + (i >> 1) * f->c[p] + (i & 1) * 16);
    }
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

/* Write a tile, or add it to what is there. */
static inline void store_tile(const float *tile, float *base, ptrdiff_t c, ptrdiff_t t, const span *s, int lanes,
                              int add) {
    if (c == 1 && lanes == W) {
        for (int i = 0; i < s->steps; i++) {
            float *row = base + s->cell[i] * t;
            vf x = v_load(tile + i * W);
            v_store(row, add ? v_add(v_load(row), x) : x);
        }
    } else if (c == 1) {
        for (int i = 0; i < s->steps; i++) {
            float *row = base + s->cell[i] * t;
            vf x = v_load(tile + i * W);
            v_store_part(row, add ? v_add(v_load_part(row, lanes), x) : x, lanes);
        }
    } else if (t == 1 && s->consecutive && !add) {
        float *first = base + s->cell[0];
        for (int i = 0; i < s->steps; i += W) {
            int rows = smaller(W, s->steps - i);
            vf r[W];
            for (int j = 0; j < W; j++) r[j] = v_load(tile + (i + j) * W);
            v_transpose(r);
            if (lanes == W && rows == W)
                for (int j = 0; j < W; j++) v_store(first + j * c + i, r[j]);
            else
                for (int j = 0; j < lanes; j++) v_store_part(first + j * c + i, r[j], rows);
        }
    } else {
        for (int i = 0; i < s->steps; i++)
            for (int j = 0; j < lanes; j++) {
                float *place = base + j * c + s->cell[i] * t;
                *place = (add ? *place : 0.0f) + tile[i * W + j];
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
        float tile[TILE];
        int lanes = smaller(W, states - first);
        load_tile(tile, base + first * n, n, t, s, lanes);
        for (int i = 0; i < s->steps; i++) {
            if (lanes == W) v_store(matrix + i * states + first, v_load(tile + i * W));
            else v_store_part(matrix + i * states + first, v_load(tile + i * W), lanes);
        }
    }
}

/* The reverse, from matrix[n * SCAN_CHUNK + i]. */
static inline void store_matrix(const float *matrix, float *base, ptrdiff_t n, ptrdiff_t t, const span *s, int states) {
    if (t == 1 && s->consecutive) {
        for (int j = 0; j < states; j++)
            memcpy(base + j * n + s->cell[0], matrix + j * SCAN_CHUNK, sizeof(float) * (size_t)s->steps);
        return;
    }
    for (int i = 0; i < s->steps; i++)
        for (int j = 0; j < states; j++) base[s->cell[i] * t + j * n] = matrix[j * SCAN_CHUNK + i];
}
