/* SwiGLU over vectors of LANES floats. Included after attention_lanes.h, with the same operations and four more:
   smaller, divide, deinterleave, and select_negative(x, a, b), which is a where x is negative, else b. */

/* gate * sigmoid(1.702 gate) * (up + 1), with gate at most `limit` and up within it. NaN stays NaN. */
INLINE Vector swiglu_of(Vector gate, Vector up, float limit) {
    gate = smaller(broadcast(limit), gate);
    up = larger(broadcast(-limit), smaller(broadcast(limit), up));
    Vector x = multiply_add(gate, broadcast(1.702f), zeros()), negative = subtract(zeros(), x);
    /* e^-|x| cannot overflow. sigmoid(x) is 1 / (1 + e^-x), and as well e^x / (1 + e^x). */
    Vector e = exponential(select_negative(x, x, negative)), one = broadcast(1);
    Vector sigmoid = divide(select_negative(x, e, one), add(one, e));
    return multiply_add(multiply_add(up, gate, gate), sigmoid, zeros());
}

/* hidden [n] of n pairs of gate and up. */
FUNCTION static void swiglu(float *hidden, const float *pairs, int64_t n, float limit) {
    float last[2 * LANES] = {0};
    Vector gate, up;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        deinterleave(&gate, &up, pairs + 2 * i);
        store(hidden + i, swiglu_of(gate, up, limit));
    }
    if (i == n) return;
    memcpy(last, pairs + 2 * i, (size_t)(2 * (n - i)) * sizeof *pairs);
    deinterleave(&gate, &up, last);
    store(last, swiglu_of(gate, up, limit));
    memcpy(hidden + i, last, (size_t)(n - i) * sizeof *hidden);
}
