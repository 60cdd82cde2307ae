// How work is cut into parts.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/memory.h"

namespace pc {

struct Range {
  int64_t begin, end;
};

// Part `index` of `count` of [0, size), in whole multiples of `step` but for the end; sizes differ by one step at the most.
inline Range part_of(int64_t size, int64_t step, int64_t index, int64_t count) {
  const int64_t steps = divide_up(size, step);
  const int64_t each = steps / count, more = steps % count;
  const int64_t begin = each * index + std::min(index, more), end = begin + each + (index < more ? 1 : 0);
  return {std::min(begin * step, size), std::min(end * step, size)};
}

// A matrix of m x n cut into nth blocks, tiles of mr x nr whole. Of the divisions of nth the one whose largest block is smallest; of equals the
// one with the most cuts in m, since a cut in n makes two parts pack the same rows.
struct Block {
  Range m, n;
};

inline Block block_of(int64_t m, int64_t n, int64_t mr, int64_t nr, int32_t ith, int32_t nth) {
  const int64_t m_tiles = divide_up(m, mr), n_tiles = divide_up(n, nr);
  int64_t best_cuts = 1, best_cost = INT64_MAX;
  for (int64_t cuts = nth; cuts >= 1; --cuts) {
    if (nth % cuts != 0) continue;
    const int64_t cost = divide_up(m_tiles, cuts) * divide_up(n_tiles, nth / cuts);
    if (cost < best_cost) {
      best_cost = cost;
      best_cuts = cuts;
    }
  }
  return {part_of(m, mr, ith % best_cuts, best_cuts), part_of(n, nr, ith / best_cuts, nth / best_cuts)};
}

// Rows [0, size) in tiles of at most `limit`, as even as can be: 8 rows of a tile of 6 are 4 + 4. Calls tile(first, rows).
template <class Tile> void for_tiles(int64_t size, int limit, Tile tile) {
  const int64_t tiles = divide_up(size, static_cast<int64_t>(limit));
  if (tiles == 0) return;
  const int64_t each = size / tiles, more = size % tiles;
  for (int64_t i = 0, first = 0; i < tiles; ++i) {
    const int rows = static_cast<int>(each + (i < more ? 1 : 0));
    tile(first, rows);
    first += rows;
  }
}

inline pc_status check_part(int32_t ith, int32_t nth) {
  PC_CHECK(nth >= 1 && ith >= 0 && ith < nth, PC_ERROR_VALUE, "ith is %d of nth %d, wanted 0 <= ith < nth", ith, nth);
  return PC_OK;
}

}  // namespace pc
