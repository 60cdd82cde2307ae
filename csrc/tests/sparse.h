// A sparse matrix made of a dense one, and one call with the memory that it needs.
#pragma once

#include "gemm.h"

namespace test {

// Blocks of r x c of a dense [n, k]; those of zeros are not stored.
template <class T> struct Sparse {
  int64_t n, k, r, c;
  std::vector<T> dense, data;
  std::vector<int32_t> indices, indptr;
  std::vector<float> scale;

  Sparse(int64_t rows, int64_t columns, int64_t block_n, int64_t block_k, std::vector<T> values)
      : n(rows), k(columns), r(block_n), c(block_k), dense(std::move(values)), indptr(1, 0), scale(static_cast<size_t>(rows), 1.0f) {
    for (int64_t i = 0; i < n; i += r) {
      for (int64_t j = 0; j < k; j += c) {
        std::vector<T> block(static_cast<size_t>(r * c), T(0));
        bool any = false;
        for (int64_t a = 0; a < r && i + a < n; ++a)
          for (int64_t b = 0; b < c && j + b < k; ++b) any |= (block[static_cast<size_t>(a * c + b)] = at(i + a, j + b)) != T(0);
        if (!any) continue;
        data.insert(data.end(), block.begin(), block.end());
        indices.push_back(static_cast<int32_t>(j / c));
      }
      indptr.push_back(static_cast<int32_t>(indices.size()));
    }
  }

  // Random, `zeros` of the blocks in a hundred zero.
  static Sparse random(int64_t n, int64_t k, int64_t r, int64_t c, int zeros, Random& random) {
    std::vector<T> dense(static_cast<size_t>(n * k), T(0));
    for (int64_t i = 0; i < n; i += r)
      for (int64_t j = 0; j < k; j += c) {
        if (random.integer(0, 99) < zeros) continue;
        for (int64_t a = i; a < std::min(i + r, n); ++a)
          for (int64_t b = j; b < std::min(j + c, k); ++b)
            dense[static_cast<size_t>(a * k + b)] = sizeof(T) == 4 ? static_cast<T>(random.real(-1, 1)) : static_cast<T>(random.integer(-128, 127));
      }
    return Sparse(n, k, r, c, std::move(dense));
  }

  T at(int64_t i, int64_t j) const { return dense[static_cast<size_t>(i * k + j)]; }

  pc_sparse_matrix matrix() const {
    pc_sparse_matrix w{};
    w.size = sizeof w;
    w.type = sizeof(T) == 4 ? PC_F32 : PC_S8;
    w.n = n;
    w.k = k;
    w.block_n = r;
    w.block_k = c;
    w.blocks = static_cast<int64_t>(indices.size());
    w.data = data.data();
    w.indices = indices.data();
    w.indptr = indptr.data();
    w.scale = sizeof(T) == 4 ? nullptr : scale.data();
    return w;
  }
};

inline Aligned pack_sparse(const pc_sparse_matrix& w) {
  size_t bytes = 0;
  CHECK_OK(pc_spmm_pack_size(&w, &bytes));
  Aligned packed(bytes);
  CHECK_OK(pc_spmm_pack(&w, packed.data(), bytes));
  return packed;
}

inline pc_status run_sparse(const pc_spmm_desc& d, Aligned& packed, const void* x, void* y, int32_t nth = 1) {
  size_t bytes = 0;
  const pc_status status = pc_spmm_workspace_size(&d, packed.data(), packed.bytes(), nth, &bytes);
  if (status != PC_OK) return status;
  Aligned workspace(bytes);
  for (int32_t ith = nth; ith-- > 0;) {
    const pc_status part = pc_spmm_run(&d, packed.data(), packed.bytes(), x, y, workspace.data(), bytes, ith, nth);
    if (part != PC_OK) return part;
  }
  return PC_OK;
}

template <class T> pc_spmm_desc sparse_desc(const Sparse<T>& w, int64_t m) {
  pc_spmm_desc d{};
  d.size = sizeof d;
  d.m = m;
  d.n = w.n;
  d.k = w.k;
  d.x_type = sizeof(T) == 4 ? PC_F32 : PC_U8;
  d.y_type = sizeof(T) == 4 ? PC_F32 : PC_S32;
  return d;
}

}  // namespace test
