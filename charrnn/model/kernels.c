/* Forward and backward through time of one layer, and the loss: the loops of the `compiled` engine, see compiled.py.

   What bptt.py does with a dozen tensor operations a step is done here in one pass. The hidden units are dealt out to the
   threads in panels of UNITS neighbours, one vector wide. A thread takes H_{t-1} W_hh for the G gates of a panel, while
   the sums are still in registers and cache goes on to the gates and the states, and waits for the others once a step.
   Backward it is the same with the gates' gradients and W_hh transposed. W_hh is laid out panel by panel once a window,
   by the thread that will read it.

   T steps, B lanes, H units, G gates, K = G H. Arrays are row-major, named as in bptt.py: H_TBH is T + 1 states from the
   one before the first step on. What a product reads, H_TBH and dsums_TBK, has room at the end of its rows, see
   `row_of`. No order of summation depends on the number of threads. */

#include <math.h>

#include "vectors.h"

#define SOON 6 /* lanes: rows that a panel reads and writes a little of each lie too far apart to be foreseen */

/* ---- forward */

INLINE void forward_of(const int cell, const int G, int64_t T, int64_t B, int64_t H, const int64_t *ids,
                       const real *table, const real *w_hh, const real *b_n, vector *packed, real *H_TBH, real *C_BH,
                       vector *kept) {
  Share mine = share_of_this_thread(H);
  int64_t stride = row_of(H), panels = panels_of(H);
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
          if (b + SOON < lanes)
            for (int g = 0; g < G; g++)
              __builtin_prefetch(table + (ids ? ids[at + SOON] : at + SOON) * G * H + g * H + p * UNITS);
          for (int g = 0; g < G; g++)
            sums[b * G + g] = load(cell == GRU && g == 2 ? b_n + p * UNITS : row + g * H, units);
        }
        product(G, lanes, H, before + first * stride, stride, packed + p * H * G, sums);
        for (int64_t b = 0; b < lanes; b++) {
          int64_t at = t * B + first + b, in_row = (first + b) * stride + p * UNITS;
          const real *row = table + (ids ? ids[at] : at) * G * H + p * UNITS;
          real *cell_state = cell == LSTM ? C_BH + (first + b) * H + p * UNITS : 0;
          vector c = cell == LSTM ? load(cell_state, units) : all(0), keep[MOST_KEPT];
          vector n_from_inputs = cell == GRU ? load(row + 2 * H, units) : all(0);
          vector h = next_state(cell, sums + b * G, n_from_inputs, load(before + in_row, UNITS), &c, keep);
          store(after + in_row, h, UNITS);
          if (cell == LSTM) store(cell_state, c, units);
          if (kept)
            for (int k = 0; k < kept_by(cell); k++)
              kept[((t * panels + p) * B + first + b) * kept_by(cell) + k] = keep[k];
        }
      }
    wait_for_the_others();
  }
}

/* The states after T steps, into H_TBH behind the first and in the place of C_BH, and what the backward pass needs: kept
   (T, panels, B, kept_by(cell)), in the order in which it is read again. Without kept, nothing for a backward pass.

   ids: (T, B), rows of the table of sums from inputs (V, K); none: row after row of it, (T, B, K). It holds the biases,
   of a GRU's n that of W_xh alone; the other is b_n. packed: room for H K numbers, H rounded up to whole vectors, on a
   vector's boundary. */
void forward(int cell, int threads, int64_t T, int64_t B, int64_t H, const int64_t *ids, const real *table,
             const real *w_hh, const real *b_n, vector *packed, real *H_TBH, real *C_BH, vector *kept) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
#endif
  FOR_THE_CELL(forward_of, T, B, H, ids, table, w_hh, b_n, packed, H_TBH, C_BH, kept)
}

/* ---- backward */

INLINE void backward_of(const int cell, const int G, int64_t T, int64_t B, int64_t H, const int64_t *ids,
                        const real *w_hh, vector *packed, const real *H_TBH, const vector *kept, const real *dH_TBH,
                        real *dH, real *dC, real *dsums_TBK, real *dn_TBH, real *dtable) {
  Share mine = share_of_this_thread(H);
  int64_t K = G * H, stride = row_of(H), stride_K = row_of(K), panels = panels_of(H);
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
        const vector *keep = kept ? kept + ((t * panels + p) * B + b) * kept_by(cell) : 0;
        vector dh = load(dH + lane, units), rest = all(0), dsums[4], dn = all(0);
        if (b + SOON < B)
          for (int g = 0; g < G; g++)
            __builtin_prefetch(dsums_BK + (b + SOON) * stride_K + g * H + p * UNITS, 1);
        if (t > 0) __builtin_prefetch(dH_TBH + unit - B * H);
        if (t == T - 1) dh += load(dH_TBH + unit, units);
        if (cell == RNN_TANH) {
          vector h = load(after + in_row, UNITS);
          dsums[0] = dh * (one - h * h);
        }
        if (cell == RNN_RELU) dsums[0] = choose(load(after + in_row, UNITS) > all(0), dh, all(0));
        if (cell == GRU) {
          vector r = keep[0], z = keep[1], n = keep[2], n_from_h = keep[3];
          dn = dh * (one - z) * (one - n * n);
          dsums[0] = dn * n_from_h * r * (one - r);
          dsums[1] = dh * (load(before + in_row, UNITS) - n) * z * (one - z);
          dsums[2] = dn * r;
          rest = dh * z;
          store(dn_TBH + unit, dn, units);
        }
        if (cell == LSTM) {
          vector i = keep[0], f = keep[1], g = keep[2], o = keep[3], c_before = keep[4], tanh_c = keep[5];
          vector dc = load(dC + lane, units) + dh * o * (one - tanh_c * tanh_c);
          dsums[0] = dc * g * i * (one - i);
          dsums[1] = dc * c_before * f * (one - f);
          dsums[2] = dc * i * (one - g * g);
          dsums[3] = dh * tanh_c * o * (one - o);
          store(dC + lane, dc * f, units);
        }
        store(dH + lane, rest, units);
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
   zeros before: the table's, if there are ids. packed: as for `forward`. Of an RNN nothing was kept. */
void backward(int cell, int threads, int64_t T, int64_t B, int64_t H, const int64_t *ids, const real *w_hh,
              vector *packed, const real *H_TBH, const vector *kept, const real *dH_TBH, real *dH, real *dC,
              real *dsums_TBK, real *dn_TBH, real *dtable) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
#endif
  FOR_THE_CELL(backward_of, T, B, H, ids, w_hh, packed, H_TBH, kept, dH_TBH, dH, dC, dsums_TBK, dn_TBH, dtable)
}

/* ---- loss */

static real largest_of(const real *row, int64_t length) {
  real largest = row[0];
  int64_t at = 0;
  if (length >= UNITS) {
    vector most = load(row, UNITS);
    for (at = UNITS; at + UNITS <= length; at += UNITS) {
      vector next = load(row + at, UNITS);
      most = choose(next > most, next, most);
    }
    for (int u = 0; u < UNITS; u++)
      if (most[u] > largest) largest = most[u];
  }
  for (; at < length; at++)
    if (row[at] > largest) largest = row[at];
  return largest;
}

/* The nats of each row's target by its V logits, -log softmax(O)[target], and in the logits' place, if it is wanted, their
   gradient: the softmax minus 1 at the target. A row whose target is `ignored` comes to 0 and zeros.

   Returns how many targets are neither an id nor ignored, which are taken for ignored. */
int64_t cross_entropy(int threads, int64_t N, int64_t V, const int64_t *targets, int64_t ignored, int with_gradient,
                      real *logits, double *nats) {
  int64_t strange = 0;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : strange)
#endif
  for (int64_t n = 0; n < N; n++) {
    real *row = logits + n * V;
    int64_t target = targets[n];
    if (target < 0 || target >= V) {
      strange += target != ignored;
      memset(row, 0, V * sizeof(real));
      nats[n] = 0;
      continue;
    }
    real largest = largest_of(row, V), of_target = row[target];
    vector sums = all(0);
    double sum = 0;
    for (int64_t v = 0; v < V; v += UNITS) {
      int64_t units = V - v < UNITS ? V - v : UNITS;
      vector weights = exponential(load(row + v, units) - all(largest), 0);
      store(row + v, weights, units);
      if (units == UNITS) sums += weights;
      else
        for (int64_t u = 0; u < units; u++) sum += weights[u];
    }
    for (int u = 0; u < UNITS; u++) sum += sums[u];
    nats[n] = log(sum) + largest - of_target;
    if (!with_gradient) continue;
    vector share = all((real)(1 / sum));
    for (int64_t v = 0; v < V; v += UNITS) {
      int64_t units = V - v < UNITS ? V - v : UNITS;
      store(row + v, load(row + v, units) * share, units);
    }
    row[target] -= 1;
  }
  return strange;
}

/* For the caller to make room by. */
int64_t numbers_of_a_row(int64_t length) { return row_of(length); }

/* Whether several threads can share the work. */
int has_threads(void) {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}

int64_t vectors_kept(int cell) { return kept_by(cell); }

int64_t units_of_a_vector(void) { return UNITS; }
