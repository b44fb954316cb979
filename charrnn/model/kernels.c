/* Forward and backward through time of one layer: the loops of the `compiled` engine, see compiled.py.

   What bptt.py does with a dozen tensor operations a step is done here in one pass. The hidden units are dealt out to the
   threads in panels of UNITS neighbours, one vector wide. A thread takes H_{t-1} W_hh for the G gates of a panel, while
   the sums are still in registers and cache goes on to the gates and the states, and waits for the others once a step.
   Backward it is the same with the gates' gradients and W_hh transposed. W_hh is laid out panel by panel once a window,
   by the thread that will read it.

   T steps, B lanes, H units, G gates, K = G H. Arrays are row-major, named as in bptt.py: H_TBH is T + 1 states from the
   one before the first step on, and so is C_TBH. What a product reads, H_TBH and dsums_TBK, has room at the end of its
   rows, see `numbers_of_a_row`. No order of summation depends on the number of threads.

   Compiled with -DDOUBLE it has the same for float64. GNU C (vector types), so GCC or Clang. */

#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define SUMS 24 /* of 32 registers */
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define SUMS 10 /* of 16 */
#elif defined(__aarch64__)
#define VECTOR_BYTES 16
#define SUMS 24 /* of 32 */
#else
#define VECTOR_BYTES 16
#define SUMS 10
#endif

#ifdef DOUBLE
typedef double real;
typedef int64_t integer;
#define LARGEST_EXPONENT 708.0
#define TERMS 13
#define ROUNDING 6755399441055744.0 /* 1.5 * 2^52: added, it leaves the whole part in the low bits */
#define ROUNDING_BITS 0x4338000000000000
#define ONE_BITS 0x3ff0000000000000
#define MANTISSA 52
#define LN2_HIGH 6.93147180369123816490e-01 /* with zeros at its end, so that a multiple of it is exact */
#define LN2_LOW 1.90821492927058770002e-10
#else
typedef float real;
typedef int32_t integer;
#define LARGEST_EXPONENT 87.0f
#define TERMS 7
#define ROUNDING 12582912.0f
#define ROUNDING_BITS 0x4b400000
#define ONE_BITS 0x3f800000
#define MANTISSA 23
#define LN2_HIGH 0.693145752f
#define LN2_LOW 1.42860677e-6f
#endif

#define UNITS ((int)(VECTOR_BYTES / sizeof(real)))
typedef real vector __attribute__((vector_size(VECTOR_BYTES)));
typedef integer integers __attribute__((vector_size(VECTOR_BYTES)));

#define INLINE static inline __attribute__((always_inline))
#define MOST_ROWS 12
#define LANES 64         /* whose sums are held at once */
#define PANEL_BYTES 32768 /* of W_hh, read again for every few lanes: it has to stay in the nearest cache */

enum { RNN_TANH, RNN_RELU, GRU, LSTM };

/* ---- vectors */

INLINE vector all(real x) { return x - (vector){0}; }

INLINE vector choose(integers which, vector yes, vector no) {
  return (vector)(((integers)yes & which) | ((integers)no & ~which));
}

/* The first `units` of a panel; the last panel of H may have fewer than UNITS. */
INLINE vector load(const real *from, int64_t units) {
  vector v = {0};
  if (units == UNITS)
    memcpy(&v, from, sizeof v);
  else
    memcpy(&v, from, units * sizeof(real));
  return v;
}

INLINE void store(real *to, vector v, int64_t units) {
  if (units == UNITS)
    memcpy(to, &v, sizeof v);
  else
    memcpy(to, &v, units * sizeof(real));
}

/* exp(x) - 1, exact to rounding near 0 too: x = n ln 2 + r, and the series of exp(r) - 1. NaN stays NaN. */
INLINE vector exp_minus_1(vector x) {
  vector one = all(1), most = all(LARGEST_EXPONENT);
  x = choose(x > most, most, x);
  x = choose(x < -most, -most, x);
  vector rounded = x * all((real)1.44269504088896340736) + all(ROUNDING);
  vector n = rounded - all(ROUNDING);
  vector power = (vector)((((integers)rounded - ROUNDING_BITS) << MANTISSA) + ONE_BITS);
  vector r = x - n * all(LN2_HIGH) - n * all(LN2_LOW);
  vector series = one;
#pragma GCC unroll 16
  for (int term = TERMS; term > 1; term--) series = one + series * r * all((real)1 / term);
  return power * (series * r) + (power - one);
}

INLINE vector sigmoid(vector x) { return all(1) / (exp_minus_1(-x) + all(2)); }

INLINE vector hyperbolic_tangent(vector x) {
  vector e = exp_minus_1(x + x);
  return e / (e + all(2));
}

/* ---- products */

/* sums (rows, wide) += x (rows, depth) times a panel (depth, wide), all of whose sums are in registers meanwhile. `next`
   will be read soon. */
INLINE void add_rows(const int rows, const int wide, int64_t depth, const real *x, int64_t stride, const vector *panel,
                     const vector *next, vector *sums) {
  vector held[MOST_ROWS][4];
#pragma GCC unroll 12
  for (int row = 0; row < rows; row++)
#pragma GCC unroll 4
    for (int v = 0; v < wide; v++) held[row][v] = sums[row * wide + v];
  for (int64_t k = 0; k < depth; k++) {
    __builtin_prefetch(next + k);
#pragma GCC unroll 12
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 4
      for (int v = 0; v < wide; v++) held[row][v] += all(x[row * stride + k]) * panel[k * wide + v];
  }
#pragma GCC unroll 12
  for (int row = 0; row < rows; row++)
#pragma GCC unroll 4
    for (int v = 0; v < wide; v++) sums[row * wide + v] = held[row][v];
}

INLINE void add_product(const int wide, int64_t lanes, int64_t depth, const real *x, int64_t stride,
                        const vector *panel, vector *sums) {
  const int most = SUMS / wide < MOST_ROWS ? SUMS / wide : MOST_ROWS;
  int64_t blocks = (lanes + most - 1) / most, deep = PANEL_BYTES / VECTOR_BYTES / wide;
  for (int64_t k = 0; k < depth; k += deep) {
    int64_t length = depth - k < deep ? depth - k : deep;
    for (int64_t i = 0; i < blocks; i++) {
      int64_t first = lanes * i / blocks, rows = lanes * (i + 1) / blocks - first;
      const real *from = x + first * stride + k;
      const vector *part = panel + k * wide, *next = part + (wide + i) * length;
      vector *to = sums + first * wide;
      switch (rows) {
#define CASE(n) \
  case n:       \
    if (n <= most) add_rows(n, wide, length, from, stride, part, next, to); \
    break;
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE
      }
    }
  }
}

/* One function a width, for each is long. */
#define PRODUCT(wide)                                                                                         \
  static __attribute__((noinline)) void add_product_##wide(int64_t lanes, int64_t depth, const real *x,      \
                                                           int64_t stride, const vector *panel, vector *sums) { \
    add_product(wide, lanes, depth, x, stride, panel, sums);                                                  \
  }
PRODUCT(1) PRODUCT(2) PRODUCT(3) PRODUCT(4)

INLINE void product(const int wide, int64_t lanes, int64_t depth, const real *x, int64_t stride, const vector *panel,
                    vector *sums) {
  if (wide == 1) add_product_1(lanes, depth, x, stride, panel, sums);
  if (wide == 2) add_product_2(lanes, depth, x, stride, panel, sums);
  if (wide == 3) add_product_3(lanes, depth, x, stride, panel, sums);
  if (wide == 4) add_product_4(lanes, depth, x, stride, panel, sums);
}

/* ---- which thread does what */

typedef struct {
  int64_t first, end; /* panels */
} Share;

static Share share_of_this_thread(int64_t H) {
  int64_t panels = (H + UNITS - 1) / UNITS, thread = 0, threads = 1;
#ifdef _OPENMP
  thread = omp_get_thread_num(), threads = omp_get_num_threads();
#endif
  return (Share){panels * thread / threads, panels * (thread + 1) / threads};
}

INLINE int64_t units_of(int64_t panel, int64_t H) { return H - panel * UNITS < UNITS ? H - panel * UNITS : UNITS; }

static void wait_for_the_others(void) {
#ifdef _OPENMP
#pragma omp barrier
#endif
}

/* How far apart rows lie of which a product reads the same column of several at once: whole vectors, and an odd multiple
   of 16, or rows of 1,024 numbers would all fall upon the same few places of the cache. */
int64_t numbers_of_a_row(int64_t length) { return (length + 31) / 32 * 32 + 16; }

/* A function of one cell, for which all that depends on the cell is settled when it is compiled. */
#define FOR_THE_CELL(function, ...)                              \
  switch (cell) {                                                \
    case RNN_TANH: function(RNN_TANH, 1, __VA_ARGS__); break;    \
    case RNN_RELU: function(RNN_RELU, 1, __VA_ARGS__); break;    \
    case GRU: function(GRU, 3, __VA_ARGS__); break;              \
    case LSTM: function(LSTM, 4, __VA_ARGS__); break;            \
  }

/* ---- forward */

INLINE void forward_of(const int cell, const int G, int64_t T, int64_t B, int64_t H, const int64_t *ids,
                       const real *table, const real *w_hh, const real *b_n, vector *packed, real *H_TBH, real *C_TBH,
                       real *gates, real *hidden_n) {
  Share mine = share_of_this_thread(H);
  int64_t stride = numbers_of_a_row(H);
  for (int64_t p = mine.first; p < mine.end; p++) {
    int64_t units = units_of(p, H);
    real *to = (real *)(packed + p * H * G);
    for (int64_t g = 0; g < G; g++)
      for (int64_t u = 0; u < UNITS; u++)
        for (int64_t k = 0; k < H; k++)
          to[(k * G + g) * UNITS + u] = u < units ? w_hh[(g * H + p * UNITS + u) * H + k] : 0;
  }
  vector sums[LANES * 4];
  for (int64_t t = 0; t < T; t++) {
    const real *before = H_TBH + t * B * stride;
    real *after = H_TBH + (t + 1) * B * stride;
    for (int64_t p = mine.first; p < mine.end; p++)
      for (int64_t first = 0; first < B; first += LANES) {
        int64_t lanes = B - first < LANES ? B - first : LANES, units = units_of(p, H);
        for (int64_t b = 0; b < lanes; b++) {
          int64_t at = t * B + first + b;
          const real *row = table + (ids ? ids[at] : at) * G * H + p * UNITS;
          for (int g = 0; g < G; g++)
            sums[b * G + g] = load(cell == GRU && g == 2 ? b_n + p * UNITS : row + g * H, units);
        }
        product(G, lanes, H, before + first * stride, stride, packed + p * H * G, sums);
        for (int64_t b = 0; b < lanes; b++) {
          int64_t at = t * B + first + b, unit = at * H + p * UNITS;
          vector *s = sums + b * G, h;
          real *gate = gates ? gates + at * G * H + p * UNITS : 0;
          if (cell == RNN_TANH) h = hyperbolic_tangent(s[0]);
          if (cell == RNN_RELU) h = choose(s[0] < all(0), all(0), s[0]);
          if (cell == GRU) {
            const real *row = table + (ids ? ids[at] : at) * G * H + p * UNITS;
            vector r = sigmoid(s[0]), z = sigmoid(s[1]);
            vector n = hyperbolic_tangent(load(row + 2 * H, units) + r * s[2]);
            h = n + z * (load(before + (first + b) * stride + p * UNITS, UNITS) - n);
            if (gate) {
              store(gate, r, units), store(gate + H, z, units), store(gate + 2 * H, n, units);
              store(hidden_n + unit, s[2], units);
            }
          }
          if (cell == LSTM) {
            vector i = sigmoid(s[0]), f = sigmoid(s[1]), g = hyperbolic_tangent(s[2]), o = sigmoid(s[3]);
            vector c = f * load(C_TBH + unit, units) + i * g;
            h = o * hyperbolic_tangent(c);
            store(C_TBH + B * H + unit, c, units);
            if (gate) {
              store(gate, i, units), store(gate + H, f, units);
              store(gate + 2 * H, g, units), store(gate + 3 * H, o, units);
            }
          }
          store(after + (first + b) * stride + p * UNITS, h, UNITS);
        }
      }
    wait_for_the_others();
  }
}

/* The states after T steps, into H_TBH and C_TBH behind the first, and what the backward pass needs: the gates' values
   (T, B, K) and, of a GRU, hidden_n (T, B, H), N's sum from H. Without gates, nothing for a backward pass.

   ids: (T, B), rows of the table of sums from inputs (V, K); none: row after row of it, (T, B, K). It holds the biases,
   of a GRU's n that of W_xh alone; the other is b_n. packed: room for H K numbers, H rounded up to whole vectors, on a
   vector's boundary. */
void forward(int cell, int threads, int64_t T, int64_t B, int64_t H, const int64_t *ids, const real *table,
             const real *w_hh, const real *b_n, vector *packed, real *H_TBH, real *C_TBH, real *gates,
             real *hidden_n) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
#endif
  FOR_THE_CELL(forward_of, T, B, H, ids, table, w_hh, b_n, packed, H_TBH, C_TBH, gates, hidden_n)
}

/* ---- backward */

INLINE void backward_of(const int cell, const int G, int64_t T, int64_t B, int64_t H, const int64_t *ids,
                        const real *w_hh, vector *packed, const real *H_TBH, const real *C_TBH, const real *gates,
                        const real *hidden_n, const real *dH_TBH, real *dH, real *dC, real *dsums_TBK, real *dn_TBH,
                        real *dtable) {
  Share mine = share_of_this_thread(H);
  int64_t K = G * H, stride = numbers_of_a_row(H), stride_K = numbers_of_a_row(K);
  for (int64_t p = mine.first; p < mine.end; p += 2) {
    int wide = p + 1 < mine.end ? 2 : 1;
    for (int64_t k = 0; k < K; k++)
      for (int v = 0; v < wide; v++)
        packed[p * K + k * wide + v] = load(w_hh + k * H + (p + v) * UNITS, units_of(p + v, H));
  }
  vector sums[LANES * 2], one = all(1);
  for (int64_t t = T - 1; t >= 0; t--) {
    const real *before = H_TBH + t * B * stride, *after = H_TBH + (t + 1) * B * stride;
    real *dsums_BK = dsums_TBK + t * B * stride_K;
    for (int64_t p = mine.first; p < mine.end; p++)
      for (int64_t b = 0; b < B; b++) {
        int64_t at = t * B + b, unit = at * H + p * UNITS, lane = b * H + p * UNITS, units = units_of(p, H);
        int64_t in_row = b * stride + p * UNITS;
        const real *gate = gates ? gates + at * K + p * UNITS : 0;
        vector dh = load(dH + lane, units), kept = all(0), dsums[4], dn = all(0);
        if (t == T - 1) dh += load(dH_TBH + unit, units);
        if (cell == RNN_TANH) {
          vector h = load(after + in_row, UNITS);
          dsums[0] = dh * (one - h * h);
        }
        if (cell == RNN_RELU) dsums[0] = choose(load(after + in_row, UNITS) > all(0), dh, all(0));
        if (cell == GRU) {
          vector r = load(gate, units), z = load(gate + H, units), n = load(gate + 2 * H, units);
          dn = dh * (one - z) * (one - n * n);
          dsums[0] = dn * load(hidden_n + unit, units) * r * (one - r);
          dsums[1] = dh * (load(before + in_row, UNITS) - n) * z * (one - z);
          dsums[2] = dn * r;
          kept = dh * z;
          store(dn_TBH + unit, dn, units);
        }
        if (cell == LSTM) {
          vector i = load(gate, units), f = load(gate + H, units), g = load(gate + 2 * H, units);
          vector o = load(gate + 3 * H, units), tanh_c = hyperbolic_tangent(load(C_TBH + B * H + unit, units));
          vector dc = load(dC + lane, units) + dh * o * (one - tanh_c * tanh_c);
          dsums[0] = dc * g * i * (one - i);
          dsums[1] = dc * load(C_TBH + unit, units) * f * (one - f);
          dsums[2] = dc * i * (one - g * g);
          dsums[3] = dh * tanh_c * o * (one - o);
          store(dC + lane, dc * f, units);
        }
        store(dH + lane, kept, units);
        for (int g = 0; g < G; g++) {
          store(dsums_BK + b * stride_K + g * H + p * UNITS, dsums[g], units);
          if (dtable) {
            real *row = dtable + ids[at] * K + g * H + p * UNITS;
            store(row, load(row, units) + (cell == GRU && g == 2 ? dn : dsums[g]), units);
          }
        }
      }
    wait_for_the_others();
    for (int64_t p = mine.first; p < mine.end; p += 2) {
      int wide = p + 1 < mine.end ? 2 : 1;
      for (int64_t first = 0; first < B; first += LANES) {
        int64_t lanes = B - first < LANES ? B - first : LANES;
        for (int64_t b = 0; b < lanes; b++)
          for (int v = 0; v < wide; v++) {
            int64_t units = units_of(p + v, H), unit = (first + b) * H + (p + v) * UNITS;
            sums[b * wide + v] = load(dH + unit, units);
            if (t > 0) sums[b * wide + v] += load(dH_TBH + (t - 1) * B * H + unit, units);
          }
        product(wide, lanes, K, dsums_BK + first * stride_K, stride_K, packed + p * K, sums);
        for (int64_t b = 0; b < lanes; b++)
          for (int v = 0; v < wide; v++)
            store(dH + (first + b) * H + (p + v) * UNITS, sums[b * wide + v], units_of(p + v, H));
      }
    }
  }
}

/* The gradients of the sums from H into dsums_TBK. Those of the sums from inputs are the same, but of a GRU's n they go
   into dn_TBH.

   dH_TBH: the outputs' gradients. dH, dC (B, H): those of the last states, and afterwards of the first. dtable (V, K),
   zeros before: the table's, if there are ids. packed: as for `forward`. An RNN has no gates. */
void backward(int cell, int threads, int64_t T, int64_t B, int64_t H, const int64_t *ids, const real *w_hh,
              vector *packed, const real *H_TBH, const real *C_TBH, const real *gates, const real *hidden_n,
              const real *dH_TBH, real *dH, real *dC, real *dsums_TBK, real *dn_TBH, real *dtable) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
#endif
  FOR_THE_CELL(backward_of, T, B, H, ids, w_hh, packed, H_TBH, C_TBH, gates, hidden_n, dH_TBH, dH, dC, dsums_TBK,
               dn_TBH, dtable)
}

/* For the caller to make room by. */
int64_t units_of_a_vector(void) { return UNITS; }
