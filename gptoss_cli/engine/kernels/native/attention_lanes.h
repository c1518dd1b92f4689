/* The attention kernels over vectors of LANES floats, for all instruction sets. The file that includes this
   defines FUNCTION and INLINE, the types Vector and Integers, the operations on them, LANES, which is at least
   ATTENTION_ROWS, and BLOCK_ROWS: the number of rows whose sums, two vectors each, are kept in registers.

   Scores: a lane is a key, so that nothing is added across lanes, and a vector of keys is loaded once for BLOCK_ROWS
   rows. Values: a lane is a dimension. Two bf16 fill a 32-bit lane; a shift and a mask make two vectors of them, of
   the even dimensions and of the odd ones. The sums of a chunk are put in order at its end. */

/* LANES keys from `first` on. Those past the last are copies of it, since nothing may be read past the end. */
INLINE void transpose_some(float *to, const KeyChunk *chunk, int64_t first, const int is_bf16) {
    int64_t words = is_bf16 ? chunk->head_dim / 2 : chunk->head_dim;
    const uint8_t *rows[LANES];
    for (int64_t i = 0; i < LANES; i++) {
        int64_t key = first + i < chunk->count ? first + i : chunk->count - 1;
        rows[i] = chunk->keys + key * chunk->stride;
    }
    for (int64_t word = 0; word < words; word += LANES) {
        Integers lanes[LANES];
        for (int i = 0; i < LANES; i++) lanes[i] = load_words(rows[i] + 4 * word, words - word);
        transpose(lanes);
        for (int i = 0; i < LANES && word + i < words; i++) {
            if (is_bf16) {
                store(to + 2 * (word + i) * ATTENTION_KEYS, evens_of(lanes[i]));
                store(to + (2 * (word + i) + 1) * ATTENTION_KEYS, odds_of(lanes[i]));
            } else {
                store(to + (word + i) * ATTENTION_KEYS, floats_of(lanes[i]));
            }
        }
    }
}

FUNCTION static void transpose_keys(float *to, const KeyChunk *chunk) {
    for (int64_t i = 0; i < chunk->count; i += LANES) {
        if (chunk->is_bf16) transpose_some(to + i, chunk, i, 1);
        else transpose_some(to + i, chunk, i, 0);
    }
}

/* Scores of one or two vectors of keys, from key `first` of the chunk on, and BLOCK_ROWS rows. If `is_ahead`, as many
   keys are prefetched meanwhile, a cache line or two a step: prefetches all at once would wait for memory. */
INLINE void multiply_keys(float (*scores)[ATTENTION_KEYS], const float *queries, const float *keys,
                          const KeyChunk *chunk, int64_t first, int is_ahead, const int vectors) {
    const int width = vectors * LANES;
    int64_t row_bytes = chunk->head_dim * (chunk->is_bf16 ? 2 : 4);
    int64_t steps = is_ahead ? (row_bytes + LINE - 1) / LINE * width : 0;
    int64_t key_step = chunk->ahead_is_contiguous ? LINE : chunk->stride;
    int64_t line_step = chunk->ahead_is_contiguous ? width * LINE : LINE;
    const char *ahead = is_ahead ? (const char *)chunk->ahead_keys : NULL;
    if (is_ahead) ahead += first * (chunk->ahead_is_contiguous ? row_bytes : chunk->stride);
    Vector sums[BLOCK_ROWS][2];
    for (int r = 0; r < BLOCK_ROWS; r++) sums[r][0] = sums[r][1] = zeros();
    for (int64_t j = 0; j < chunk->head_dim; j++, queries += ATTENTION_ROWS, keys += ATTENTION_KEYS) {
        for (int64_t step = j; step < steps; step += chunk->head_dim)
            prefetch_now(ahead + step % width * key_step + step / width * line_step);
        Vector low = load_floats(keys), high = vectors > 1 ? load_floats(keys + LANES) : zeros();
        for (int r = 0; r < BLOCK_ROWS; r++) {
            Vector query = broadcast(queries[r]);
            sums[r][0] = multiply_add(query, low, sums[r][0]);
            if (vectors > 1) sums[r][1] = multiply_add(query, high, sums[r][1]);
        }
    }
    for (int r = 0; r < BLOCK_ROWS; r++) {
        store(scores[r], sums[r][0]);
        if (vectors > 1) store(scores[r] + LANES, sums[r][1]);
    }
}

/* The largest of row r so far, with the scores of this chunk; scores that it does not see become -infinity. */
INLINE float largest_score(const QueryRows *rows, float *scores, int r, int64_t start, int64_t end) {
    for (int64_t i = start; i < rows->from[r]; i++) scores[i] = -INFINITY;
    for (int64_t i = rows->to[r]; i < end; i++) scores[i] = -INFINITY;
    Vector most = load_floats(scores + start);
    for (int64_t i = start + LANES; i < end; i += LANES) most = larger(most, load_floats(scores + i));
    float largest = largest_lane(most);
    return largest > rows->largest[r] ? largest : rows->largest[r];
}

/* Scores from `start` to `end`, whole vectors, -> exp(score - largest), 0 where a row sees nothing; and by what its
   earlier sums have to be multiplied. */
INLINE void softmax(QueryRows *rows, float (*scores)[ATTENTION_KEYS], float *rescale, int64_t start, int64_t end) {
    float apart[LANES] = {0};
    for (int r = 0; r < ATTENTION_ROWS; r++) {
        if (rows->from[r] >= rows->to[r]) continue;
        float largest = largest_score(rows, scores[r], r, start, end);
        apart[r] = rows->largest[r] - largest;
        rows->largest[r] = largest;
    }
    store(rescale, exponential(load_floats(apart)));
    for (int r = 0; r < ATTENTION_ROWS; r++) {
        int is_empty = rows->from[r] >= rows->to[r];
        Vector total = zeros(), largest = broadcast(rows->largest[r]);
        for (int64_t i = start; i < end; i += LANES) {
            Vector e = is_empty ? zeros() : exponential(subtract(load_floats(scores[r] + i), largest));
            store(scores[r] + i, e);
            total = add(total, e);
        }
        rows->total[r] = rows->total[r] * rescale[r] + sum_lanes(total);
    }
}

/* sums = sums * rescale + probabilities . values, of 2 * LANES dimensions from `dim` on and BLOCK_ROWS rows. */
INLINE void add_values(float *sums, float (*probabilities)[ATTENTION_KEYS], const float *rescale, const KeyChunk *chunk,
                       SeenKeys seen, int64_t dim, int is_ahead, const int is_bf16) {
    int64_t left = chunk->head_dim - dim, padded = padded_dims(chunk->head_dim), size = is_bf16 ? 2 : 4;
    int64_t ahead_step = chunk->ahead_is_contiguous ? 2 * LANES * size : chunk->stride;
    const char *ahead = is_ahead ? (const char *)chunk->ahead_values : NULL;
    if (is_ahead) ahead += dim * size * (chunk->ahead_is_contiguous ? ATTENTION_KEYS : 1);
    const uint8_t *values = chunk->values + seen.start * chunk->stride + dim * size;
    Vector parts[BLOCK_ROWS][2];
    for (int r = 0; r < BLOCK_ROWS; r++) parts[r][0] = parts[r][1] = zeros();
    for (int64_t i = seen.start; i < seen.end; i++, values += chunk->stride) {
        if (is_ahead) prefetch_now(ahead + i * ahead_step);
        if (is_ahead && !is_bf16) prefetch_now(ahead + i * ahead_step + LINE);
        Integers words = load_words(values, is_bf16 ? left / 2 : left);
        Vector first = is_bf16 ? evens_of(words) : floats_of(words);
        Vector second = is_bf16 ? odds_of(words) : floats_of(load_words(values + 4 * LANES, left - LANES));
        for (int r = 0; r < BLOCK_ROWS; r++) {
            Vector probability = broadcast(probabilities[r][i]);
            parts[r][0] = multiply_add(probability, first, parts[r][0]);
            parts[r][1] = multiply_add(probability, second, parts[r][1]);
        }
    }
    for (int r = 0; r < BLOCK_ROWS; r++, sums += padded) {
        Vector first = parts[r][0], second = parts[r][1], factor = broadcast(rescale[r]);
        if (is_bf16) interleave(&first, &second);
        store(sums + dim, multiply_add(load_floats(sums + dim), factor, first));
        store(sums + dim + LANES, multiply_add(load_floats(sums + dim + LANES), factor, second));
    }
}

FUNCTION static void attend_chunk(QueryRows *rows, const float *keys, const KeyChunk *chunk) {
    float scores[ATTENTION_ROWS][ATTENTION_KEYS], rescale[LANES];
    SeenKeys seen = keys_seen_by_any(rows);
    int64_t start = seen.start / LANES * LANES, end = (seen.end + LANES - 1) / LANES * LANES;
    for (int64_t i = start; i < end; i += 2 * LANES)
        for (int r = 0; r < ATTENTION_ROWS; r += BLOCK_ROWS) {
            float(*to)[ATTENTION_KEYS] = (float(*)[ATTENTION_KEYS])(scores[r] + i);
            int is_ahead = chunk->ahead_keys && !r;
            if (i + LANES < end) multiply_keys(to, rows->queries + r, keys + i, chunk, i, is_ahead, 2);
            else multiply_keys(to, rows->queries + r, keys + i, chunk, i, is_ahead, 1);
        }
    softmax(rows, scores, rescale, start, end);
    for (int64_t dim = 0; dim < chunk->head_dim; dim += 2 * LANES)
        for (int r = 0; r < ATTENTION_ROWS; r += BLOCK_ROWS) {
            float *sums = rows->sums + r * padded_dims(chunk->head_dim);
            int is_ahead = chunk->ahead_values && !r;
            if (chunk->is_bf16) add_values(sums, scores + r, rescale + r, chunk, seen, dim, is_ahead, 1);
            else add_values(sums, scores + r, rescale + r, chunk, seen, dim, is_ahead, 0);
        }
}
