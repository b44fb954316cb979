/* Products of several rows with a panel, for one kind of number a time this is included: NUMBER, a VECTOR of sums, and
   MULTIPLY_ADD(sum, x, a panel's vector). NAMED gives the functions a name of that kind. */

/* sums (rows, wide) += x (rows, depth) times a panel (depth, wide), all of whose sums are in registers meanwhile. `next`
   will be read soon. */
INLINE void NAMED(add_rows)(const int rows, const int wide, int64_t depth, const NUMBER *x, int64_t stride,
                            const VECTOR *panel, const VECTOR *next, VECTOR *sums) {
  VECTOR held[MOST_ROWS][4];
#pragma GCC unroll 12
  for (int row = 0; row < rows; row++)
#pragma GCC unroll 4
    for (int v = 0; v < wide; v++) held[row][v] = sums[row * wide + v];
  for (int64_t k = 0; k < depth; k++) {
    __builtin_prefetch(next + k);
#pragma GCC unroll 12
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 4
      for (int v = 0; v < wide; v++) MULTIPLY_ADD(held[row][v], x[row * stride + k], panel[k * wide + v]);
  }
#pragma GCC unroll 12
  for (int row = 0; row < rows; row++)
#pragma GCC unroll 4
    for (int v = 0; v < wide; v++) sums[row * wide + v] = held[row][v];
}

INLINE void NAMED(add_product)(const int wide, int64_t lanes, int64_t depth, const NUMBER *x, int64_t stride,
                               const VECTOR *panel, VECTOR *sums) {
  const int most = SUMS / wide < MOST_ROWS ? SUMS / wide : MOST_ROWS;
  int64_t blocks = (lanes + most - 1) / most, deep = PANEL_BYTES / VECTOR_BYTES / wide;
  for (int64_t k = 0; k < depth; k += deep) {
    int64_t length = depth - k < deep ? depth - k : deep;
    for (int64_t i = 0; i < blocks; i++) {
      int64_t first = lanes * i / blocks, rows = lanes * (i + 1) / blocks - first;
      const NUMBER *from = x + first * stride + k;
      const VECTOR *part = panel + k * wide, *next = part + (wide + i) * length;
      VECTOR *to = sums + first * wide;
      switch (rows) {
#define CASE(n) \
  case n:       \
    if (n <= most) NAMED(add_rows)(n, wide, length, from, stride, part, next, to); \
    break;
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE
      }
    }
  }
}

/* One function a width, for each is long. */
#define PRODUCT(wide)                                                                                             \
  static __attribute__((noinline)) void NAMED(add_product_##wide)(int64_t lanes, int64_t depth, const NUMBER *x,  \
                                                                  int64_t stride, const VECTOR *panel,            \
                                                                  VECTOR *sums) {                                 \
    NAMED(add_product)(wide, lanes, depth, x, stride, panel, sums);                                               \
  }
PRODUCT(1) PRODUCT(2) PRODUCT(3) PRODUCT(4)
#undef PRODUCT

INLINE void NAMED(product)(const int wide, int64_t lanes, int64_t depth, const NUMBER *x, int64_t stride,
                           const VECTOR *panel, VECTOR *sums) {
  if (wide == 1) NAMED(add_product_1)(lanes, depth, x, stride, panel, sums);
  if (wide == 2) NAMED(add_product_2)(lanes, depth, x, stride, panel, sums);
  if (wide == 3) NAMED(add_product_3)(lanes, depth, x, stride, panel, sums);
  if (wide == 4) NAMED(add_product_4)(lanes, depth, x, stride, panel, sums);
}

#undef NAMED
#undef NUMBER
#undef VECTOR
#undef MULTIPLY_ADD
