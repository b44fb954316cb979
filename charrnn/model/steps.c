/* One character further in B lanes, through all layers and the readout: the inner loop of sampling, see
   compiled_stepper.py.

   Panels and the threads' shares of them are as in kernels.c, but the weights are laid out once, and a thread goes
   through every layer, after which it waits for the others, and the readout before Python is told. States are kept twice
   and written in turns, for while one thread writes a layer's another still reads them. No sum depends on the number of
   lanes or of threads: a text is the same alone and in a batch.

   Quantized, hidden states are kept beside as codes of 8 bits, and W_xh and W_hh are int8 with a scale for each row:
   products of four whole numbers at a time, for which the CPU must have an instruction. */

#include <math.h>

#include "vectors.h"

/* __builtin_convertvector came with GCC 9. */
#if !defined(DOUBLE) && (defined(__clang__) || __GNUC__ >= 9) && \
    (defined(__AVX512VNNI__) || (defined(__AVXVNNI__) && !defined(__AVX512F__)))
#define HAS_INT8 1
#include <immintrin.h>
#if VECTOR_BYTES == 64
#define DOT4(sum, codes, weights) _mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(codes), (__m512i)(weights))
#else
#define DOT4(sum, codes, weights) _mm256_dpbusd_avx_epi32((__m256i)(sum), (__m256i)(codes), (__m256i)(weights))
#endif
#define NAMED(function) function##_quantized
#define NUMBER int32_t /* four codes of a lane */
#define VECTOR integers /* four weights for each unit, or the units' sums */
#define MULTIPLY_ADD(sum, x, panel) (sum) = (integers)DOT4(sum, (x) - (integers){0}, panel)
#include "products.h"
#else
#define HAS_INT8 0
#endif

/* As in products.py: of 8-bit codes, the steps from 0 to 1, and the code of 0. */
#define STATE_LEVELS 127
#define ZERO_POINT 128

typedef struct {
  const void *panels;     /* (panels, depth, G) vectors; quantized, of four depths each */
  const vector *scales;   /* quantized: (panels, G), what a sum of whole numbers is times */
  const integers *offsets; /* quantized: (panels, G), where it begins, so that codes of 0 come to nothing */
} Matrix;

typedef struct {
  Matrix w_xh, w_hh; /* w_xh: none in layer 1 */
  const real *added; /* (K,) biases, of a GRU's n b_xh alone; in layer 1 (V, K) with each character's row of W_xh */
  const real *b_n;   /* (H,), a GRU's b_hh of n */
  real *C_BH;        /* an LSTM's */
} Layer;

typedef struct {
  int64_t cell, quantized, lanes, hidden, depth, vocabulary;
  const Layer *layers;
  const vector *readout;   /* (panels of V, H) */
  const real *readout_bias;
  real *states;            /* (2, L, B, row_of(H)) */
  int32_t *codes;          /* (2, L, B, row_of(H / 4)), quantized */
  real *logits;            /* (B, V) */
  int64_t latest;          /* of the two times */
} Network;

/* (B, row_of(H)): one layer's hidden states of one of the two times; and their codes. */
INLINE real *states_of(const Network *n, int64_t which, int64_t layer) {
  return n->states + (which * n->depth + layer) * n->lanes * row_of(n->hidden);
}

INLINE int32_t *codes_of(const Network *n, int64_t which, int64_t layer) {
  return n->codes + (which * n->depth + layer) * n->lanes * row_of((n->hidden + 3) / 4);
}

/* sums (lanes, G) += what a layer's states, of lanes from `first` on, give a panel. */
INLINE void add_states(const int G, const int quantized, const Network *n, int64_t which, int64_t layer, Matrix matrix,
                       int64_t panel, int64_t first, int64_t lanes, vector *sums) {
  if (!quantized) {
    int64_t H = n->hidden, stride = row_of(H);
    const vector *panels = matrix.panels;
    product(G, lanes, H, states_of(n, which, layer) + first * stride, stride, panels + panel * H * G, sums);
  }
#if HAS_INT8
  else {
    int64_t fours = (n->hidden + 3) / 4, stride = row_of(fours);
    const integers *panels = matrix.panels, *offsets = matrix.offsets + panel * G;
    integers whole[LANES * 4];
    for (int64_t b = 0; b < lanes; b++)
      for (int g = 0; g < G; g++) whole[b * G + g] = offsets[g];
    const int32_t *codes = codes_of(n, which, layer) + first * stride;
    product_quantized(G, lanes, fours, codes, stride, panels + panel * fours * G, whole);
    for (int64_t b = 0; b < lanes; b++)
      for (int g = 0; g < G; g++)
        sums[b * G + g] += __builtin_convertvector(whole[b * G + g], vector) * matrix.scales[panel * G + g];
  }
#endif
}

#if HAS_INT8
INLINE void store_codes(int32_t *to, vector h) {
  typedef uint8_t bytes __attribute__((vector_size(VECTOR_BYTES / 4)));
  vector steps = h * all(STATE_LEVELS) + all(ZERO_POINT + 0.5f);
  bytes codes = __builtin_convertvector(__builtin_convertvector(steps, integers), bytes);
  memcpy(to, &codes, sizeof codes);
}
#endif

INLINE void step_of(const int cell, const int G, const int quantized, const Network *n, int64_t before,
                    const int64_t *ids) {
  int64_t B = n->lanes, H = n->hidden, stride = row_of(H), after = 1 - before;
  Share mine = share_of_this_thread(H);
  vector sums[LANES * 4], n_from_inputs[LANES];
  for (int64_t l = 0; l < n->depth; l++) {
    const Layer *layer = n->layers + l;
    for (int64_t p = mine.first; p < mine.end; p++)
      for (int64_t first = 0; first < B; first += LANES) {
        int64_t lanes = B - first < LANES ? B - first : LANES, units = units_of(p, H);
        for (int64_t b = 0; b < lanes; b++) {
          const real *row = layer->added + (l ? 0 : ids[first + b] * G * H) + p * UNITS;
          for (int g = 0; g < G; g++) sums[b * G + g] = load(row + g * H, units);
        }
        if (l) add_states(G, quantized, n, after, l - 1, layer->w_xh, p, first, lanes, sums);
        if (cell == GRU)
          for (int64_t b = 0; b < lanes; b++) {
            n_from_inputs[b] = sums[b * G + 2];
            sums[b * G + 2] = load(layer->b_n + p * UNITS, units);
          }
        add_states(G, quantized, n, before, l, layer->w_hh, p, first, lanes, sums);
        for (int64_t b = 0; b < lanes; b++) {
          int64_t in_row = (first + b) * stride + p * UNITS;
          real *cell_state = cell == LSTM ? layer->C_BH + (first + b) * H + p * UNITS : 0;
          vector h = load(states_of(n, before, l) + in_row, UNITS), c = cell == LSTM ? load(cell_state, units) : all(0);
          vector kept[MOST_KEPT];
          h = next_state(cell, sums + b * G, n_from_inputs[b], h, &c, kept);
          if (cell == LSTM) store(cell_state, c, units);
          store(states_of(n, after, l) + in_row, h, UNITS);
#if HAS_INT8
          if (quantized)
            store_codes(codes_of(n, after, l) + (first + b) * row_of((H + 3) / 4) + p * UNITS / 4, h);
#endif
        }
      }
    wait_for_the_others();
  }
}

static void read_out(const Network *n, int64_t which) {
  int64_t H = n->hidden, V = n->vocabulary, stride = row_of(H);
  const real *states = states_of(n, which, n->depth - 1);
  Share mine = share_of_this_thread(V);
  vector sums[LANES];
  for (int64_t p = mine.first; p < mine.end; p++)
    for (int64_t first = 0; first < n->lanes; first += LANES) {
      int64_t lanes = n->lanes - first < LANES ? n->lanes - first : LANES, units = units_of(p, V);
      for (int64_t b = 0; b < lanes; b++) sums[b] = load(n->readout_bias + p * UNITS, units);
      product(1, lanes, H, states + first * stride, stride, n->readout + p * H, sums);
      for (int64_t b = 0; b < lanes; b++) store(n->logits + (first + b) * V + p * UNITS, sums[b], units);
    }
}

/* Takes part, as one of the threads. */
static void step_together(const Network *n, int64_t before, const int64_t *ids) {
  int cell = (int)n->cell;
#if HAS_INT8
  if (n->quantized) FOR_THE_CELL(step_of, 1, n, before, ids)
#endif
  if (!n->quantized) FOR_THE_CELL(step_of, 0, n, before, ids)
  read_out(n, 1 - before);
}

/* The character whose part of the cumulated probabilities a number from 0 to 1 falls into, as choosing.py has it for
   logits that are numbers; temperature 0: the most probable. Never `excluded`, if there is another. */
static int64_t chosen(const real *logits, int64_t V, int64_t excluded, double temperature, double uniform,
                      double *cumulated) {
  int64_t largest = excluded == 0 && V > 1;
  for (int64_t v = largest + 1; v < V; v++)
    if (v != excluded && logits[v] > logits[largest]) largest = v;
  if (temperature == 0) return largest;
  double sum = 0;
  for (int64_t v = 0; v < V; v++) {
    if (v != excluded) sum += exp(((double)logits[v] - logits[largest]) / temperature);
    cumulated[v] = sum;
  }
  for (int64_t v = 0; v < V; v++)
    if (cumulated[v] > uniform * sum) return v;
  return largest;
}

/* Read an id in each lane and write the logits of what follows; without ids, those of what follows now. */
void step(Network *n, int threads, const int64_t *ids) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
#endif
  {
    if (ids) step_together(n, n->latest, ids);
    else read_out(n, n->latest);
  }
  if (ids) n->latest = 1 - n->latest;
}

/* Draw a character in each lane by the logits as they are, read it, and so on for T of them.

   uniforms (T, B), ids (T, B). excluded: an id never to be drawn, or -1. room: (threads, V). */
void draw(Network *n, int threads, int64_t T, const double *uniforms, double temperature, int64_t excluded,
          double *room, int64_t *ids) {
  int64_t B = n->lanes, V = n->vocabulary;
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
#endif
  for (int64_t t = 0; t < T; t++) {
#ifdef _OPENMP
#pragma omp for schedule(static)
#endif
    for (int64_t b = 0; b < B; b++)
      ids[t * B + b] =
          chosen(n->logits + b * V, V, excluded, temperature, uniforms[t * B + b], room + this_thread() * V);
    step_together(n, (n->latest + t) % 2, ids + t * B);
    wait_for_the_others();
  }
  n->latest = (n->latest + T) % 2;
}

/* Whether `step` goes with int8 weights here. */
int has_int8(void) { return HAS_INT8; }
