/* What the kernels share: vectors of numbers, products of panels, cells, and the threads' shares.

   Compiled with -DDOUBLE it is the same for float64. GNU C (vector types), so GCC or Clang. */

#ifndef VECTORS_H
#define VECTORS_H

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
#define LANES 64 /* whose sums are held at once */
#define PANEL_BYTES 32768 /* read again for every few lanes: it has to stay in the nearest cache */

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

/* exp(x) - `less`, which is 1 or 0, exact to rounding where x is near 0 and where it is far below: x = n ln 2 + r, and the
   series of exp(r) - 1. NaN stays NaN. */
INLINE vector exponential(vector x, const int less) {
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
  return power * (series * r) + (less ? power - one : power);
}

INLINE vector sigmoid(vector x) { return all(1) / (exponential(-x, 1) + all(2)); }

INLINE vector hyperbolic_tangent(vector x) {
  vector e = exponential(x + x, 1);
  return e / (e + all(2));
}

/* ---- products */

#define NAMED(function) function
#define NUMBER real
#define VECTOR vector
#define MULTIPLY_ADD(sum, x, panel) (sum) += all(x) * (panel)
#include "products.h"

/* ---- cells */

/* What the gradient of a step needs beside its hidden states: a GRU's r, z, n and n's sum from H; an LSTM's i, f, g, o,
   its cell state before and the tanh of that after. */
#define MOST_KEPT 6

INLINE int kept_by(const int cell) { return cell == LSTM ? 6 : cell == GRU ? 4 : 0; }

/* The hidden state that the gates' sums lead to, by the equations of cells.py, with what is to be kept in `kept`.

   sums: of a GRU's n the part from H alone; n_from_inputs is the other. h, c: the states before; c is then the state
   after. */
INLINE vector next_state(const int cell, const vector *sums, vector n_from_inputs, vector h, vector *c,
                         vector *kept) {
  if (cell == RNN_TANH) return hyperbolic_tangent(sums[0]);
  if (cell == RNN_RELU) return choose(sums[0] < all(0), all(0), sums[0]);
  if (cell == GRU) {
    vector r = kept[0] = sigmoid(sums[0]), z = kept[1] = sigmoid(sums[1]);
    vector n = kept[2] = hyperbolic_tangent(n_from_inputs + r * sums[2]);
    kept[3] = sums[2];
    return n + z * (h - n);
  }
  vector i = kept[0] = sigmoid(sums[0]), f = kept[1] = sigmoid(sums[1]);
  vector g = kept[2] = hyperbolic_tangent(sums[2]), o = kept[3] = sigmoid(sums[3]);
  kept[4] = *c;
  *c = f * *c + i * g;
  vector tanh_c = kept[5] = hyperbolic_tangent(*c);
  return o * tanh_c;
}

/* ---- which thread does what */

typedef struct {
  int64_t first, end; /* panels */
} Share;

INLINE int64_t this_thread(void) {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

INLINE int64_t panels_of(int64_t H) { return (H + UNITS - 1) / UNITS; }

static Share share_of_this_thread(int64_t H) {
  int64_t panels = panels_of(H), thread = this_thread(), threads = 1;
#ifdef _OPENMP
  threads = omp_get_num_threads();
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
INLINE int64_t row_of(int64_t length) { return (length + 31) / 32 * 32 + 16; }

/* A function of one cell, for which all that depends on the cell is settled when it is compiled. */
#define FOR_THE_CELL(function, ...)                              \
  switch (cell) {                                                \
    case RNN_TANH: function(RNN_TANH, 1, __VA_ARGS__); break;    \
    case RNN_RELU: function(RNN_RELU, 1, __VA_ARGS__); break;    \
    case GRU: function(GRU, 3, __VA_ARGS__); break;              \
    case LSTM: function(LSTM, 4, __VA_ARGS__); break;            \
  }

#endif
