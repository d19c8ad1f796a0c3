/* The backward pass of one task: recompute a chunk, then sweep back over it. */

#define MAX_CHAINS (SWEEP_STATES * SWEEP_BLOCKS)
#ifndef SKEW
#define SKEW 128
#endif

/*
 * Where the tiles of one group of channels lie behind `buffers.tiles`, so that all are reached from one address: BLOCKS
 * tiles of each kind, GRAD_X the gradient of dt * u. Then what one state needs for a pair of blocks: MAX_CHAINS tiles of
 * DECAY and STATE, with one row more in front, and SWEEP_STATES tiles of the terms of dB and dC, lanes apart.
 */
#define APART (BLOCKS * TILE + SKEW)
enum {
    DT = 0,
    U = APART,
    DTU = 2 * APART,
    SLOPE = 3 * APART,
    GRAD_Y = 4 * APART,
    GRAD_X = 5 * APART,
    GRAD_DT = 6 * APART,
    DECAY = 7 * APART,
    STATE = DECAY + MAX_CHAINS * TILE + SKEW,
    SUM_B = STATE + MAX_CHAINS * (TILE + W) + SKEW,
    SUM_C = SUM_B + SWEEP_STATES * TILE + SKEW,
    ALL_TILES = SUM_C + SWEEP_STATES * TILE
};

typedef struct {
    float *tiles;
    float *grad_B, *grad_C;                /* (states, SCAN_CHUNK) */
    float *grad_A, *grad_skip, *grad_bias; /* (states, padded), (padded), (padded) */
} buffers;

static size_t backward_floats(size_t states, size_t padded) {
    return ALL_TILES + 2 * states * SCAN_CHUNK + states * padded + 2 * padded;
}

static void place_buffers(buffers *b, float *scratch, size_t states, size_t padded) {
    b->tiles = scratch, scratch += ALL_TILES;
    b->grad_B = scratch, scratch += states * SCAN_CHUNK;
    b->grad_C = scratch, scratch += states * SCAN_CHUNK;
    b->grad_A = scratch, scratch += states * padded;
    b->grad_skip = scratch, scratch += padded;
    b->grad_bias = scratch;
}

/* Where the values of one state begin in w's matrices and in the saved states; from state to state: padded, row. */
typedef struct {
    const float *A, *start;
    float *carry, *grad_A;
    ptrdiff_t padded, row;
} state_rows;

/*
 * `count` states of `width` adjacent blocks (first one: block) over one chunk. carry is the gradient of the state after
 * the chunk on entry, before it on exit. The sums over blocks begin at block 0.
 */
INLINE void sweep(int count, int width, int bounded, ptrdiff_t steps, ptrdiff_t states, ptrdiff_t block,
                  const buffers *t, const state_rows *r, const float *B, const float *C, stream ahead) {
    vf a[MAX_CHAINS], h[MAX_CHAINS], g[MAX_CHAINS], ga[MAX_CHAINS]; /* of state n and block j at n * width + j */
    float *all = t->tiles, *decay = all + DECAY, *state = all + STATE, *terms_B = all + SUM_B, *terms_C = all + SUM_C;
    float *own = all + block * TILE, *gx = own + GRAD_X, *gdt = own + GRAD_DT;
    const float *dt = own + DT, *dtu = own + DTU, *gy = own + GRAD_Y;
    const ptrdiff_t chains = count * width;
    UNROLL
    for (int q = 0; q < chains; q++) {
        ptrdiff_t place = q / width * r->padded + q % width * W;
        a[q] = v_load(r->A + place);
        h[q] = r->start ? v_load(r->start + q / width * r->row + q % width * W) : v_set(0.0f);
        g[q] = v_load(r->carry + place);
        ga[q] = v_load(r->grad_A + place);
        v_store(state + q * W, h[q]);
    }
    for (ptrdiff_t i = 0; i < steps; i++) {
        UNROLL
        for (int q = 0; q < chains; q++) {
            ptrdiff_t place = q % width * TILE + i * W;
            vf e = decay_of(v_mul(v_load(dt + place), a[q]), bounded);
            h[q] = v_fma(e, h[q], v_mul(v_load(dtu + place), v_set(B[i * states + q / width])));
            v_store(decay + (i * chains + q) * W, e);
            v_store(state + ((i + 1) * chains + q) * W, h[q]);
        }
        fetch_step(&ahead, (int)i);
    }
    for (ptrdiff_t i = steps - 1; i >= 0; i--) {
        vf sum_B[MAX_CHAINS], sum_C[MAX_CHAINS];
        UNROLL
        for (int n = 0; n < count; n++) {
            sum_B[n] = block ? v_load(terms_B + n * TILE + i * W) : v_set(0.0f);
            sum_C[n] = block ? v_load(terms_C + n * TILE + i * W) : v_set(0.0f);
        }
        UNROLL
        for (int j = 0; j < width; j++) {
            ptrdiff_t place = j * TILE + i * W;
            vf y = v_load(gy + place), x = v_load(dtu + place), d = v_load(dt + place);
            vf to_x = v_load(gx + place), to_dt = v_load(gdt + place);
            UNROLL
            for (int n = 0; n < count; n++) {
                int q = n * width + j;
                vf before = v_load(state + (i * chains + q) * W);
                g[q] = v_fma(y, v_set(C[i * states + n]), g[q]); /* gradient of the state after step i */
                sum_C[n] = v_fma(y, h[q], sum_C[n]);
                sum_B[n] = v_fma(g[q], x, sum_B[n]);
                to_x = v_fma(g[q], v_set(B[i * states + n]), to_x);
                g[q] = v_mul(g[q], v_load(decay + (i * chains + q) * W));
                vf gm = v_mul(g[q], before); /* gradient of dt * A */
                ga[q] = v_fma(gm, d, ga[q]);
                to_dt = v_fma(gm, a[q], to_dt);
                h[q] = before;
            }
            v_store(gx + place, to_x);
            v_store(gdt + place, to_dt);
        }
        UNROLL
        for (int n = 0; n < count; n++) {
            v_store(terms_B + n * TILE + i * W, sum_B[n]);
            v_store(terms_C + n * TILE + i * W, sum_C[n]);
        }
    }
    UNROLL
    for (int q = 0; q < chains; q++) {
        ptrdiff_t place = q / width * r->padded + q % width * W;
        v_store(r->carry + place, g[q]);
        v_store(r->grad_A + place, ga[q]);
    }
}

/* Add the lanes of the terms of dB or dC of one state to its row. */
INLINE void add_lanes(const float *terms, float *row, int steps) {
    for (int i = 0; i < steps; i += W) {
        vf r[W];
        for (int j = 0; j < W; j++) r[j] = v_load(terms + (i + j) * W);
        v_store(row + i, v_add(v_load(row + i), v_sum_lanes(r)));
    }
}

static int load_group(const set_up *w, const span *s, const buffers *t, const view *delta, const view *u,
                       const view *grad_y, int c, int blocks) {
    const scan_args *a = w->args;
    int bounded = 1;
    for (int b = 0; b < blocks; b++) {
        int first = c + b * W, lanes = smaller(W, w->channels - first);
        float *gy = t->tiles + GRAD_Y + b * TILE;
        float *own = t->tiles + b * TILE;
        bounded &= load_inputs(w, delta, u, s, first, lanes, own + DT, own + U, own + DTU, own + SLOPE);
        load_tile(gy, at(grad_y, w->n, a->merged ? 0 : w->k, w->c0 + first), grad_y->c, grad_y->t, s, lanes);
        if (a->mean) {
            vf share = v_set(1.0f / (float)a->sets);
            for (int i = 0; i < s->steps; i++) v_store(gy + i * W, v_mul(share, v_load(gy + i * W)));
        }
        memset(t->tiles + GRAD_X + b * TILE, 0, sizeof(float) * TILE);
        memset(t->tiles + GRAD_DT + b * TILE, 0, sizeof(float) * TILE);
    }
    return bounded;
}

/* Note what the group after (chunk s, channel c) will touch; next: the chunk to come. */
static void fetch_group(fetches *f, const set_up *w, const span *s, const span *next, const tensors *v, int c) {
    const scan_args *a = w->args;
    int64_t k = w->k, k_u = a->shared ? 0 : k, k_y = a->merged ? 0 : k;
    c += SCAN_GROUP;
    f->s = c < w->channels ? *s : *next;
    f->count = 0;
    if (c >= w->channels) {
        c = 0;
        fetch_matrix(f, at(&v->B, w->n, k, 0), v->B.c, v->B.t, w->states);
        fetch_matrix(f, at(&v->C, w->n, k, 0), v->C.c, v->C.t, w->states);
    }
    for (int first = c; first < w->channels && first < c + SCAN_GROUP; first += W) {
        int64_t channel = w->c0 + first;
        fetch_tile(f, at(&v->delta, w->n, k, channel), v->delta.c, v->delta.t);
        fetch_tile(f, at(&v->u, w->n, k_u, channel), v->u.c, v->u.t);
        fetch_tile(f, at(&v->grad_y, w->n, k_y, channel), v->grad_y.c, v->grad_y.t);
        if (v->how_delta != STREAM) fetch_tile(f, at(&v->grad_delta, w->n, k, channel), v->grad_delta.c, v->grad_delta.t);
        if (v->how_u != STREAM) fetch_tile(f, at(&v->grad_u, w->n, k_u, channel), v->grad_u.c, v->grad_u.t);
    }
}

/* From the gradients of dt * u and dt * A to those of u and delta, in place of grad_x and grad_dt. */
static void finish_group(const set_up *w, const span *s, const buffers *t, const tensors *v, int c, int blocks) {
    const view *grad_delta = &v->grad_delta, *grad_u = &v->grad_u;
    const scan_args *a = w->args;
    for (int b = 0; b < blocks; b++) {
        int first = c + b * W, lanes = smaller(W, w->channels - first);
        vf skip = w->skip ? v_load_part(w->skip + first, lanes) : v_set(0.0f);
        vf grad_skip = v_load(t->grad_skip + first), grad_bias = v_load(t->grad_bias + first);
        for (int i = 0; i < s->steps; i++) {
            int place = b * TILE + i * W;
            vf x = v_load(t->tiles + U + place), gy = v_load(t->tiles + GRAD_Y + place), gx = v_load(t->tiles + GRAD_X + place);
            vf g = v_fma(gx, x, v_load(t->tiles + GRAD_DT + place));
            if (a->softplus) g = v_mul(g, v_load(t->tiles + SLOPE + place));
            grad_bias = v_add(grad_bias, g);
            grad_skip = v_fma(gy, x, grad_skip);
            v_store(t->tiles + GRAD_DT + place, g);
            v_store(t->tiles + GRAD_X + place, v_fma(v_mul(gx, v_set(LN2)), v_load(t->tiles + DT + place), v_mul(skip, gy)));
        }
        v_store(t->grad_skip + first, grad_skip);
        v_store(t->grad_bias + first, grad_bias);
        store_tile(t->tiles + GRAD_DT + b * TILE, at(grad_delta, w->n, w->k, w->c0 + first), grad_delta->c, grad_delta->t, s,
                   lanes, v->how_delta);
        store_tile(t->tiles + GRAD_X + b * TILE, at(grad_u, w->n, a->shared ? 0 : w->k, w->c0 + first), grad_u->c, grad_u->t, s,
                   lanes, v->how_u);
    }
}

/* `count` states, from n on, over all blocks of a group. */
INLINE void sweep_states(int count, int bounded, int n, const set_up *w, const span *s, const buffers *t, const float *start,
                         const float *next_start, ptrdiff_t row, int c, int blocks, fetches *f) {
    int groups = w->states / SWEEP_STATES + w->states % SWEEP_STATES, part = n / SWEEP_STATES + n % SWEEP_STATES;
    int sweeps = blocks / SWEEP_BLOCKS + blocks % SWEEP_BLOCKS;
    part *= sweeps;
    for (int b = 0; b < blocks;) {
        stream ahead = fetch_part(f, part++, groups * sweeps, 1);
        int width = blocks - b >= SWEEP_BLOCKS ? SWEEP_BLOCKS : 1;
        ptrdiff_t place = (ptrdiff_t)n * w->padded + c + b * W;
        state_rows r = {w->A + place, start ? start + n * row + c + b * W : NULL, w->h + place, t->grad_A + place,
                        w->padded, row};
        if (width == SWEEP_BLOCKS) sweep(count, SWEEP_BLOCKS, bounded, s->steps, w->states, b, t, &r, w->B + n, w->C + n, ahead);
        else sweep(count, 1, bounded, s->steps, w->states, b, t, &r, w->B + n, w->C + n, ahead);
        b += width;
    }
    UNROLL
    for (int j = 0; j < count && next_start; j++)
        for (int i = 0; i < SCAN_GROUP; i += 16) __builtin_prefetch(next_start + (n + j) * row + i);
    for (int j = 0; j < count; j++) {
        add_lanes(t->tiles + SUM_B + j * TILE, t->grad_B + (n + j) * SCAN_CHUNK, s->steps);
        add_lanes(t->tiles + SUM_C + j * TILE, t->grad_C + (n + j) * SCAN_CHUNK, s->steps);
    }
}

INLINE void sweep_group(int bounded, const set_up *w, const span *s, const buffers *t, const float *start, const float *next_start,
                        ptrdiff_t row, int c, int blocks, fetches *f) {
    int n = 0;
    for (; n + SWEEP_STATES <= w->states; n += SWEEP_STATES)
        sweep_states(SWEEP_STATES, bounded, n, w, s, t, start, next_start, row, c, blocks, f);
    for (; n < w->states; n++) sweep_states(1, bounded, n, w, s, t, start, next_start, row, c, blocks, f);
}

/* The gradients of this set's parameters, lanes back in (channels, states). */
static void finish_set(const set_up *w, const scan_task *task, const buffers *t) {
    int64_t channel = w->k * w->args->channels + w->c0;
    for (int c = 0; c < w->channels; c++) {
        for (int n = 0; n < w->states; n++)
            task->grad_A[(channel + c) * w->states + n] = t->grad_A[n * w->padded + c] * LN2;
        if (task->grad_skip) task->grad_skip[channel + c] = t->grad_skip[c];
        if (task->grad_bias) task->grad_bias[channel + c] = t->grad_bias[c];
    }
}

static void begin_set(const set_up *w, const buffers *t) {
    memset(t->grad_A, 0, sizeof(float) * (size_t)w->states * (size_t)w->padded);
    memset(t->grad_skip, 0, sizeof(float) * (size_t)w->padded);
    memset(t->grad_bias, 0, sizeof(float) * (size_t)w->padded);
    if (!w->args->grad_last) return;
    const float *last = FLOATS(w->args->grad_last) + ((w->n * w->args->sets + w->k) * w->args->channels + w->c0) * w->states;
    for (int c = 0; c < w->channels; c++)
        for (int n = 0; n < w->states; n++) w->h[n * w->padded + c] = last[c * w->states + n];
}

static void LEVEL(backward)(const scan_task *task) {
    const scan_args *a = task->args;
    tensors v = {VIEW(a, delta), VIEW(a, u), VIEW(a, grad_y), VIEW(a, grad_delta), VIEW(a, grad_u), VIEW(a, B), VIEW(a, C)};
    int64_t chunks = (a->length + SCAN_CHUNK - 1) / SCAN_CHUNK;
    set_up w;
    buffers t;
    fetches f;
    float *scratch = begin_task(&w, task);
    place_buffers(&t, scratch, (size_t)a->states, (size_t)w.padded);
    memset(t.tiles + SUM_B, 0, sizeof(float) * SWEEP_STATES * TILE); /* rows beyond a short chunk are summed, and dropped */
    memset(t.tiles + SUM_C, 0, sizeof(float) * SWEEP_STATES * TILE);
    for (int64_t k = task->k0; k < task->k1; k++) {
        prepare_set(&w, task, k);
        begin_set(&w, &t);
        v.how_delta = stream_or_write(a, &v.grad_delta);
        v.how_u = !a->shared ? stream_or_write(a, &v.grad_u) : k > task->k0 ? ADD : WRITE;
        for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
            span s = chunk_span(task, k, chunk, 1), before = chunk_span(task, k, chunk - 1, 1);
            ptrdiff_t row = 0;
            const float *start = chunk ? saved_state(a, w.n, k, chunk, &row) + w.c0 : NULL;
            const float *earlier = chunk > 1 ? saved_state(a, w.n, k, chunk - 1, &row) + w.c0 : NULL;
            load_matrix(w.B, at(&v.B, w.n, k, 0), v.B.c, v.B.t, &s, w.states);
            load_matrix(w.C, at(&v.C, w.n, k, 0), v.C.c, v.C.t, &s, w.states);
            memset(t.grad_B, 0, 2 * sizeof(float) * (size_t)w.states * SCAN_CHUNK);
            for (int c = 0; c < w.channels; c += SCAN_GROUP) {
                int blocks = smaller(BLOCKS, (w.channels - c + W - 1) / W);
                int bounded = load_group(&w, &s, &t, &v.delta, &v.u, &v.grad_y, c, blocks);
                fetch_group(&f, &w, &s, &before, &v, c);
                const float *next = c + SCAN_GROUP < w.channels ? start ? start + c + SCAN_GROUP : NULL : earlier;
                if (bounded) sweep_group(1, &w, &s, &t, start, next, row, c, blocks, &f);
                else sweep_group(0, &w, &s, &t, start, next, row, c, blocks, &f);
                finish_group(&w, &s, &t, &v, c, blocks);
            }
            store_matrix(t.grad_B, task->grad_B.data + w.n * task->grad_B.n + k * task->grad_B.k, task->grad_B.c,
                         task->grad_B.t, &s, w.states, task->add ? ADD : WRITE);
            store_matrix(t.grad_C, task->grad_C.data + w.n * task->grad_C.n + k * task->grad_C.k, task->grad_C.c,
                         task->grad_C.t, &s, w.states, task->add ? ADD : WRITE);
        }
        finish_set(&w, task, &t);
    }
    v_stream_end();
}
