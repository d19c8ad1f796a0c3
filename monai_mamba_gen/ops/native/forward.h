/* The forward pass of one task. */

/* Advance `count` states of one block over the chunk and add their part of y. */
INLINE void advance(int count, int bounded, ptrdiff_t steps, ptrdiff_t states, ptrdiff_t row, const float *A, float *h,
                    const float *B, const float *C, const float *dt, const float *dtu, float *y, stream ahead) {
    vf a[MULTI_STATES], s[MULTI_STATES];
    UNROLL
    for (int j = 0; j < count; j++) {
        a[j] = v_load(A + j * row);
        s[j] = v_load(h + j * row);
    }
    for (ptrdiff_t i = 0; i < steps; i++, B += states, C += states) {
        vf d = v_load(dt + i * W), x = v_load(dtu + i * W), sum = v_load(y + i * W);
        UNROLL
        for (int j = 0; j < count; j++) {
            s[j] = v_fma(decay_of(v_mul(d, a[j]), bounded), s[j], v_mul(x, v_set(B[j])));
            sum = v_fma(s[j], v_set(C[j]), sum);
        }
        v_store(y + i * W, sum);
        fetch_step(&ahead, (int)i);
    }
    UNROLL
    for (int j = 0; j < count; j++) v_store(h + j * row, s[j]);
}

/* Advance all states of a block over one chunk, the tiles pointing at its first step. */
INLINE void forward_chunk(const set_up *w, int bounded, int steps, int c, const float *B, const float *C,
                          const float *dt, const float *dtu, float *y, const fetches *f, int half) {
    int n = 0, groups = w->states / MULTI_STATES + w->states % MULTI_STATES, part = half * groups;
    for (; n + MULTI_STATES <= w->states; n += MULTI_STATES) {
        stream ahead = fetch_part(f, part++, FORWARD_CHUNKS * groups, FORWARD_CHUNKS);
        advance(MULTI_STATES, bounded, steps, w->states, w->padded, w->A + n * w->padded + c, w->h + n * w->padded + c, B + n,
                C + n, dt, dtu, y, ahead);
    }
    for (; n < w->states; n++) {
        stream ahead = fetch_part(f, part++, FORWARD_CHUNKS * groups, FORWARD_CHUNKS);
        advance(1, bounded, steps, w->states, w->padded, w->A + n * w->padded + c, w->h + n * w->padded + c, B + n, C + n, dt,
                dtu, y, ahead);
    }
}

/* Keep the states of one block at the start of a chunk. */
static void save_states(const set_up *w, int64_t chunk, int c) {
    ptrdiff_t row;
    float *place = saved_state(w->args, w->n, w->k, chunk, &row) + w->c0 + c;
    for (int n = 0; n < w->states; n++) v_store(place + n * row, v_load(w->h + n * w->padded + c));
}

static void forward_block(const set_up *w, const span *s, int64_t chunk, const view *delta, const view *u,
                          const view *y, int c, int add, float *tiles, const fetches *f) {
    const scan_args *a = w->args;
    float *dt = tiles, *dtu = dt + FORWARD_CHUNKS * TILE, *out = dtu + FORWARD_CHUNKS * TILE;
    int lanes = smaller(W, w->channels - c);
    int bounded = load_inputs(w, delta, u, s, c, lanes, dt, out, dtu, NULL);
    for (int half = 0, i = 0; i < s->steps; half++, i += SCAN_CHUNK) {
        if (a->starts && chunk + half) save_states(w, chunk + half, c);
        int steps = smaller(SCAN_CHUNK, s->steps - i);
        const float *B = w->B + i * w->states, *C = w->C + i * w->states;
        if (bounded) forward_chunk(w, 1, steps, c, B, C, dt + i * W, dtu + i * W, out + i * W, f, half);
        else forward_chunk(w, 0, steps, c, B, C, dt + i * W, dtu + i * W, out + i * W, f, half);
    }
    if (a->mean) {
        vf share = v_set(1.0f / (float)a->sets);
        for (int i = 0; i < s->steps; i++) v_store(out + i * W, v_mul(share, v_load(out + i * W)));
    }
    store_tile(out, at(y, w->n, a->merged ? 0 : w->k, w->c0 + c), y->c, y->t, s, lanes, add ? ADD : WRITE);
}

/* Note what the block after (chunk s, channel c) will touch; next: the chunk to come. */
static void fetch_after(fetches *f, const set_up *w, const span *s, const span *next, const view *delta, const view *u,
                        const view *y, int c) {
    const scan_args *a = w->args;
    c += W;
    f->s = c < w->channels ? *s : *next;
    f->count = 0;
    if (c >= w->channels) c = 0;
    fetch_tile(f, at(delta, w->n, w->k, w->c0 + c), delta->c, delta->t);
    fetch_tile(f, at(u, w->n, a->shared ? 0 : w->k, w->c0 + c), u->c, u->t);
    fetch_tile(f, at(y, w->n, a->merged ? 0 : w->k, w->c0 + c), y->c, y->t);
}

static void LEVEL(forward)(const scan_task *task) {
    const scan_args *a = task->args;
    const view u = VIEW(a, u), delta = VIEW(a, delta), B = VIEW(a, B), C = VIEW(a, C), y = VIEW(a, y);
    int64_t chunks = (a->length + SCAN_CHUNK - 1) / SCAN_CHUNK;
    set_up w;
    fetches f;
    float *tiles = begin_task(&w, task);
    for (int64_t k = task->k0; k < task->k1; k++) {
        prepare_set(&w, task, k);
        for (int64_t chunk = 0; chunk < chunks; chunk += FORWARD_CHUNKS) {
            span s = chunk_span(task, k, chunk, FORWARD_CHUNKS);
            span next = chunk_span(task, k, chunk + FORWARD_CHUNKS, FORWARD_CHUNKS);
            load_matrix(w.B, at(&B, w.n, k, 0), B.c, B.t, &s, w.states);
            load_matrix(w.C, at(&C, w.n, k, 0), C.c, C.t, &s, w.states);
            int c = 0;
            for (; c < w.channels; c += W) {
                fetch_after(&f, &w, &s, &next, &delta, &u, &y, c);
                forward_block(&w, &s, chunk, &delta, &u, &y, c, a->merged && k > task->k0, tiles, &f);
            }
            for (; a->starts && c < w.padded; c += W) /* zeros, for no value may be left to chance */
                for (int half = 0; half * SCAN_CHUNK < s.steps; half++)
                    if (chunk + half) save_states(&w, chunk + half, c);
        }
        if (a->last) {
            float *last = FLOATS(a->last) + ((w.n * a->sets + k) * a->channels + w.c0) * w.states;
            for (int c = 0; c < w.channels; c++)
                for (int n = 0; n < w.states; n++) last[c * w.states + n] = w.h[n * w.padded + c];
        }
    }
}
